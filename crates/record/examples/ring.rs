//! An echo server on a ring of its own, which records what it does. It is no part of Proactor: any
//! program can embed the recorder, and all views read what it wrote.
//!
//! ```sh
//! cargo run -p proactor-record --example ring -- 127.0.0.1:7000 run.trace
//! proactor trace summary run.trace
//! ```
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use proactor_record::{About, Kind, Log, Record, Recorder, Settings, WaitMode, sys};

/// A ring with its recorder.
struct RecordedRing {
    ring: IoUring,
    log: Recorder,
    /// Submissions ever queued, and completions ever reaped.
    queued: u64,
    reaped: u64,
}

impl RecordedRing {
    /// Queues an operation of a connection, or of the listener.
    fn queue(&mut self, kind: Kind, slot: u32, (opcode, entry): (u8, Entry), fd: RawFd, len: u32) {
        let token = kind.token(0, slot);
        self.log.note(sys::monotonic, Record::submitted(token, opcode, fd, len, 0));
        // SAFETY: a connection keeps its buffer where it is until its operation has completed, and
        // `serve` returns only when no operation is in flight but an accept without pointers.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(token)) };
        pushed.expect("each connection has one operation in flight: they fit");
        self.queued += 1;
    }

    /// Submits what is queued, waits for a completion, and returns all: their tokens and results.
    fn enter(&mut self) -> io::Result<Vec<(u64, i32)>> {
        let pending = self.ring.submission().len() as u32;
        let begin = Record::enter_begin(self.queued, pending, WaitMode::Endless);
        self.log.begin_iteration(sys::monotonic, begin);
        let taken = self.ring.submit_and_wait(1)? as i32;
        let end = Record::enter_end(taken, self.reaped, 0, false);
        self.log.end_iteration(sys::monotonic, end);
        let mut completions = Vec::new();
        for (cqe, position) in self.ring.completion().zip(0..) {
            let (token, result) = (cqe.user_data(), cqe.result());
            let record = Record::completed(token, result, cqe.flags(), position);
            self.log.note(sys::monotonic, record);
            completions.push((token, result));
        }
        self.reaped += completions.len() as u64;
        Ok(completions)
    }
}

/// A connection: it receives, sends all that it received, and so on.
struct Connection {
    fd: RawFd,
    buffer: Box<[u8]>,
    /// What is yet to be sent of the buffer.
    from: usize,
    to: usize,
}

impl Connection {
    fn receive(&mut self, slot: u32, ring: &mut RecordedRing) {
        let (at, len) = (self.buffer.as_mut_ptr(), self.buffer.len() as u32);
        let entry = opcode::Recv::new(Fd(self.fd), at, len).build();
        ring.queue(Kind::Recv, slot, (opcode::Recv::CODE, entry), self.fd, len);
    }

    fn send(&mut self, slot: u32, ring: &mut RecordedRing) {
        let rest = &self.buffer[self.from..self.to];
        let len = rest.len() as u32;
        let entry = opcode::Send::new(Fd(self.fd), rest.as_ptr(), len).build();
        ring.queue(Kind::Send, slot, (opcode::Send::CODE, entry), self.fd, len);
    }

    fn close(&mut self, slot: u32, ring: &mut RecordedRing) {
        let entry = opcode::Close::new(Fd(self.fd)).build();
        ring.queue(Kind::Close, slot, (opcode::Close::CODE, entry), self.fd, 0);
    }
}

fn accept(listener: &TcpListener, ring: &mut RecordedRing) {
    let fd = listener.as_raw_fd();
    let entry = opcode::Accept::new(Fd(fd), ptr::null_mut(), ptr::null_mut()).build();
    ring.queue(Kind::Accept, 0, (opcode::Accept::CODE, entry), fd, 0);
}

/// Serves so many connections, and returns when all have ended.
pub(crate) fn serve(listener: &TcpListener, log: Recorder, number: u32) -> io::Result<()> {
    let mut ring = RecordedRing { ring: IoUring::new(256)?, log, queued: 0, reaped: 0 };
    let mut connections: HashMap<u32, Connection> = HashMap::new();
    let mut accepted = 0;
    accept(listener, &mut ring);
    while accepted < number || !connections.is_empty() {
        for (token, result) in ring.enter()? {
            let slot = token as u32;
            if Kind::of(token) == Some(Kind::Accept) {
                let buffer = vec![0; 4096].into();
                let mut connection = Connection { fd: result, buffer, from: 0, to: 0 };
                connection.receive(accepted, &mut ring);
                connections.insert(accepted, connection);
                accepted += 1;
                if accepted < number {
                    accept(listener, &mut ring);
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&slot) else { continue };
            match (Kind::of(token), result) {
                (Some(Kind::Close), _) => drop(connections.remove(&slot)),
                (Some(Kind::Recv), 1..) => {
                    (connection.from, connection.to) = (0, result as usize);
                    connection.send(slot, &mut ring);
                }
                (Some(Kind::Send), 1..) => {
                    connection.from += result as usize;
                    match connection.from == connection.to {
                        true => connection.receive(slot, &mut ring),
                        false => connection.send(slot, &mut ring),
                    }
                }
                // The peer has ended, or is gone.
                _ => connection.close(slot, &mut ring),
            }
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: ring ADDRESS FILE"));
    };
    let file = File::options().read(true).write(true).create(true).truncate(true).open(file)?;
    let about = About { model: "a ring of its own".to_owned(), ..About::default() };
    let log = Recorder::new(Some(&file), &Settings::default(), &about)?;
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    serve(&listener, log, u32::MAX)
}
