//! The interactive client: sends its input to the servers, prints their replies.
//!
//! Blocking calls in threads: one reads the input, and two per connection receive and send. The
//! calling thread only waits for their ends. Memory is bounded: a connection has at most
//! `QUEUED` blocks to send, and received bytes are printed before the next receive.
//!
//! **One server** receives the bytes unchanged. **Several servers** receive lines: see `lines.rs`.
//!
//! **Ends.** The end of the input becomes a half-close; further replies are printed. When a server
//! closes, its connection ends after the bytes read for it are sent. A terminal or a pipe is then
//! not read any more for it, and the writer sees a broken pipe; a file has no writer, so all of it
//! is read and sent.

mod lines;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use lines::{Labelled, Router, To};

use crate::commands::output::{await_ready, note, print_error};
use proactor::address::Address;
use proactor::os::ShutdownSignal;

/// The failures of the client itself.
const NO_INPUT: &str = "cannot read standard input";
const NO_OUTPUT: &str = "cannot write to standard output";

/// Maximum bytes of one read, from the input or from a server.
const READ_MAX: usize = 64 << 10;
/// Maximum blocks that wait to be sent on a connection.
const QUEUED: usize = 4;
/// The timeout of a connect: the kernel gives up before.
const DAY: Duration = Duration::from_secs(86_400);

/// The bytes to send.
pub(crate) enum Script {
    /// Everything read from this file, until its end.
    Input(File),
    /// Each part goes to every server, followed by a pause.
    Parts(Vec<Vec<u8>>, Duration),
}

/// What a thread sends to the calling thread.
enum Notice {
    /// A connection has ended, or failed to be established; true if that is a failure.
    Ended(bool),
    /// The whole client ends, because of a failure or of the signal to stop.
    Stop(anyhow::Result<()>),
}

/// What a connection sends: bytes, or `None` for its half-close.
type Block = Option<Arc<[u8]>>;

/// Connects to all servers at once, and runs until every connection is closed or `stop` is set.
/// Connects and closes are reported on stderr if `verbose`. Returns false if a connection failed:
/// the failure is reported on stderr, and ends no other connection.
///
/// # Errors
/// The client itself fails.
pub(crate) fn run(
    addresses: &[Address],
    script: Script,
    output: File,
    stop: ShutdownSignal,
    verbose: bool,
) -> anyhow::Result<bool> {
    let (notices, received) = channel();
    let several = addresses.len() > 1;
    let labels = (1..=addresses.len()).filter(|_| several).map(Labelled::new).collect();
    let output = Arc::new(Mutex::new(ClientOutput { file: output, labels }));
    let to = notices.clone();
    thread::spawn(move || {
        let stopped = await_ready(&stop, libc::POLLIN, None).map(drop);
        to.send(Notice::Stop(stopped.context("cannot wait for signals")))
    });
    let sends_all = match &script {
        // A regular file has no writer that could notice the end of a server.
        Script::Input(file) => file.metadata().context(NO_INPUT)?.is_file(),
        Script::Parts(..) => false,
    };
    // It ends when every connection has dropped its end.
    let (connecting, all_resolved) = channel();
    let mut queues = Vec::new();
    for (at, address) in addresses.iter().cloned().enumerate() {
        let (queue, blocks) = sync_channel(QUEUED);
        queues.push(Some(queue.clone()));
        let connecting = connecting.clone();
        let connection = ServerConnection { at, sends_all, verbose, queue, output: output.clone() };
        let notices = notices.clone();
        thread::spawn(move || notices.send(connection.run(&address, blocks, connecting)));
    }
    drop(connecting);
    let input = InputReader { queues, router: Router::new(several), output };
    thread::spawn(move || {
        if let Err(error) = input.run(script, &all_resolved) {
            let _ = notices.send(Notice::Stop(Err(error)));
        }
    });

    let mut failed = false;
    for _ in addresses {
        match received.recv().expect("the thread that waits for the signal has not ended") {
            Notice::Ended(failure) => failed |= failure,
            Notice::Stop(result) => return result.map(|()| !failed),
        }
    }
    Ok(!failed)
}

/// Reads the script and queues it for the connections.
struct InputReader {
    /// The queue of each connection; `None` after its end.
    queues: Vec<Option<SyncSender<Block>>>,
    router: Router,
    output: Arc<Mutex<ClientOutput>>,
}

impl InputReader {
    /// Queues the whole script, and the half-closes. `all_resolved` ends when no connection is
    /// connecting.
    fn run(mut self, script: Script, all_resolved: &Receiver<()>) -> anyhow::Result<()> {
        let queued = match script {
            Script::Input(file) => self.read(file).context(NO_INPUT),
            Script::Parts(parts, pause) => {
                let _ = all_resolved.recv();
                self.queue_parts(&parts, pause).context(NO_OUTPUT)
            }
        };
        self.queues.iter().flatten().for_each(|queue| drop(queue.send(None)));
        queued
    }

    fn queue_parts(&mut self, parts: &[Vec<u8>], pause: Duration) -> io::Result<()> {
        for part in parts {
            self.queue(To::All, part);
            // Nothing is waited for: the pause is what the user asked for.
            thread::sleep(pause);
            // The bytes received in the pause are the reply, even without a newline.
            lock(&self.output).finish_all()?;
        }
        Ok(())
    }

    /// Reads the input while a connection takes it.
    fn read(&mut self, file: File) -> io::Result<()> {
        let mut buffer = vec![0; READ_MAX];
        while self.queues.iter().any(Option::is_some) {
            let length = retry(&file, libc::POLLIN, || (&file).read(&mut buffer))?;
            let routed = self.router.route(&buffer[..length]);
            routed.into_iter().for_each(|(to, bytes)| self.queue(to, &bytes));
            if length == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Queues bytes for their servers. Waits while a queue is full.
    fn queue(&mut self, to: To, bytes: &[u8]) {
        let block: Arc<[u8]> = bytes.into();
        let send = |queue: &mut Option<SyncSender<Block>>| {
            *queue = queue.take().filter(|queue| queue.send(Some(block.clone())).is_ok());
            queue.is_some()
        };
        match to {
            To::All => self.queues.iter_mut().map(send).for_each(|_sent| {}),
            To::One(at) if self.queues.get_mut(at).is_some_and(send) => {}
            To::One(at) => note!("no server @{}: line not sent", at.wrapping_add(1)),
        }
    }
}

/// A connection to a server, before it is established.
struct ServerConnection {
    at: usize,
    /// Whether everything queued is sent even after the server has closed its side.
    sends_all: bool,
    verbose: bool,
    /// Ends the sender when the server has closed its side.
    queue: SyncSender<Block>,
    output: Arc<Mutex<ClientOutput>>,
}

impl ServerConnection {
    /// Connects, sends and receives until the end, and reports it.
    fn run(self, address: &Address, blocks: Receiver<Block>, connecting: Sender<()>) -> Notice {
        let number = self.at + 1;
        let ends = proactor_load::connect(address, DAY).and_then(|end| Ok([end.try_clone()?, end]));
        let [receiver, sender] = match ends {
            Ok(ends) => ends,
            Err(error) => {
                print_error(&format!("cannot connect to {address}: {error}"));
                return Notice::Ended(true);
            }
        };
        if self.verbose {
            note!("connected to {address} ({number})");
        }
        drop(connecting);
        match self.exchange(receiver, sender, blocks).context(NO_OUTPUT) {
            Err(error) => return Notice::Stop(Err(error)),
            Ok(Err(error)) => {
                print_error(&format!("the connection to {address} broke: {error}"));
                return Notice::Ended(true);
            }
            Ok(Ok(())) if self.verbose => note!("{address} ({number}) closed the connection"),
            Ok(Ok(())) => {}
        }
        Notice::Ended(false)
    }

    /// Sends and receives until the end. The outer error is that of the output.
    fn exchange(
        &self,
        mut receiver: TcpStream,
        sender: TcpStream,
        blocks: Receiver<Block>,
    ) -> io::Result<io::Result<()>> {
        let sender = thread::spawn(move || send(sender, &blocks));
        let mut buffer = vec![0; READ_MAX];
        let received = loop {
            match receiver.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => lock(&self.output).print(self.at, &buffer[..length])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if received.is_ok() && !self.sends_all {
            let _ = self.queue.send(None);
        }
        // The error of the sender is known only if it has ended.
        let ended = received.and_then(|()| sender.join().expect("the sender does not panic"));
        lock(&self.output).finish(self.at)?;
        Ok(ended)
    }
}

/// Sends what is queued, then shuts the sending side down.
fn send(mut socket: TcpStream, blocks: &Receiver<Block>) -> io::Result<()> {
    while let Ok(Some(bytes)) = blocks.recv() {
        socket.write_all(&bytes)?;
    }
    // It fails after a reset, which the receiver reports.
    let _ = socket.shutdown(Shutdown::Write);
    Ok(())
}

/// The output, shared by all connections.
struct ClientOutput {
    file: File,
    /// Adds the number of the server to its lines; empty with one server.
    labels: Vec<Labelled>,
}

fn lock(output: &Mutex<ClientOutput>) -> MutexGuard<'_, ClientOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientOutput {
    fn print(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        match self.labels.get_mut(at).map(|labels| labels.push(bytes)) {
            Some(lines) => self.write(&lines),
            None => self.write(bytes),
        }
    }

    /// Prints the last line of a server, which has no end.
    fn finish(&mut self, at: usize) -> io::Result<()> {
        let line = self.labels.get_mut(at).map(Labelled::finish).unwrap_or_default();
        self.write(&line)
    }

    fn finish_all(&mut self) -> io::Result<()> {
        (0..self.labels.len()).try_for_each(|at| self.finish(at))
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let length = retry(&self.file, libc::POLLOUT, || (&self.file).write(bytes))?;
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

/// Makes a call until it does something. It waits: another process may have made the file
/// non-blocking.
fn retry<T>(
    file: &File,
    events: libc::c_short,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                await_ready(file, events, None)?;
            }
            result => return result,
        }
    }
}
