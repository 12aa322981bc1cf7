//! Has another thread do the work for each line: a protocol must not block.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use proactor::{Builder, Input, Outbox, PeerHandle, Protocol, Server};

/// A line to work on, where its answer goes, and the connection to wake then.
struct Job {
    line: String,
    answers: Sender<String>,
    peer: PeerHandle,
}

struct Worker {
    jobs: Sender<Job>,
    answers: (Sender<String>, Receiver<String>),
    me: PeerHandle,
}

impl Protocol for Worker {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        if let Some(line) = input.line(1024) {
            let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let (answers, peer) = (self.answers.0.clone(), self.me.clone());
            match self.jobs.send(Job { line, answers, peer }) {
                Ok(()) => out.pause(), // Further lines wait in the socket.
                Err(_) => out.abort("the worker has ended"),
            }
        }
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        for answer in self.answers.1.try_iter() {
            out.send(answer);
            out.resume();
        }
    }
}

/// Does the jobs, one after another.
fn work(jobs: Receiver<Job>) {
    for Job { line, answers, peer } in jobs {
        let words = line.split_whitespace().count();
        // The connection may have closed meanwhile: then neither does anything.
        let _ = answers.send(format!("{words} words\n"));
        peer.wake();
    }
}

pub(crate) fn server(address: &str) -> Builder {
    let (jobs, taken) = mpsc::channel();
    thread::spawn(|| work(taken)); // It ends when the server and all connections have.
    Server::builder().listen(address, move |peer| Worker {
        jobs: jobs.clone(),
        answers: mpsc::channel(),
        me: peer.handle(),
    })
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7006").run()?;
    Ok(())
}
