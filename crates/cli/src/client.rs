//! The interactive client: sends its input to the servers, prints their replies.
//!
//! Blocking calls in threads: one reads the input, and two per connection receive and send. The
//! calling thread only handles their events. Memory is bounded: a connection has at most
//! `QUEUED` blocks to send, and received bytes are printed before the next receive.
//!
//! **One server** receives the bytes unchanged. **Several servers** receive lines: see `lines.rs`.
//!
//! **Ends.** The end of the input becomes a half-close; further replies are printed. When a server
//! closes, its connection ends after the bytes read for it are sent. A terminal or a pipe is then
//! not read any more for it, and the writer sees a broken pipe; a file has no writer, so all of it
//! is read and sent.

mod lines;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use lines::{Labelled, Router, To};
use socket2::{Domain, SockAddr, Socket, Type};

use proactor::address::Address;
use proactor::os::{self, ShutdownSignal};

/// The failures of the client itself.
const NO_INPUT: &str = "cannot read standard input";
const NO_OUTPUT: &str = "cannot write to standard output";
const NO_SIGNAL: &str = "cannot wait for signals";

/// Maximum bytes of one read, from the input or from a server.
const READ_MAX: usize = 64 << 10;
/// Maximum blocks that wait to be sent on a connection.
const QUEUED: usize = 4;

/// The bytes to send.
#[derive(Debug)]
pub enum Script {
    /// Everything read from this file, until its end.
    Input(File),
    /// Each part goes to every server, followed by a pause.
    Parts {
        /// The parts, in order.
        parts: VecDeque<Vec<u8>>,
        /// The pause after each part.
        pause: Duration,
    },
}

/// An event to report to the user. Connections are numbered from 0.
#[derive(Debug)]
pub enum Event {
    /// A connection is established.
    Connected(usize),
    /// The server closed the connection.
    Closed(usize),
    /// A connection failed to be established.
    Refused(usize, io::Error),
    /// A connection broke.
    Broken(usize, io::Error),
    /// A line was not sent: its server, for example `@3`, does not exist or has closed.
    NoServer(String),
}

/// What a thread sends to the calling thread.
enum Notice {
    Event(Event),
    /// The whole client ends, because of a failure or of the signal to stop.
    End(anyhow::Result<()>),
}

/// Connects to all servers at once, and runs until every connection is closed or `stop` is set.
///
/// # Errors
/// The client itself fails. The failure of one connection is reported, and ends no other.
pub fn run(
    addresses: &[Address],
    script: Script,
    output: File,
    stop: &ShutdownSignal,
    report: &mut dyn FnMut(Event),
) -> anyhow::Result<()> {
    let (notices, received) = channel();
    let several = addresses.len() > 1;
    let labels = (1..=addresses.len()).filter(|_| several).map(Labelled::new).collect();
    let output = Arc::new(Mutex::new(LabelledOutput { file: output, labels }));
    let waits = stop.as_fd().try_clone_to_owned().context(NO_SIGNAL)?;
    let to = notices.clone();
    thread::spawn(move || {
        drop(to.send(Notice::End(await_ready(&waits, libc::POLLIN).context(NO_SIGNAL))))
    });
    let sends_all = is_sent_whole(&script).context(NO_INPUT)?;
    let mut queues = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let (queue, blocks) = sync_channel(QUEUED);
        queues.push(Some(queue.clone()));
        let connection = ServerConnection {
            at,
            sends_all,
            queue,
            output: output.clone(),
            notices: notices.clone(),
        };
        let address = address.clone();
        thread::spawn(move || connection.run(&address, blocks));
    }
    let (resolved, all_resolved) = channel();
    let input = InputReader { queues, router: several.then(Router::new), output, notices };
    thread::spawn(move || input.run(script, &all_resolved));

    let (mut connecting, mut open) = (addresses.len(), addresses.len());
    while open > 0 {
        match received.recv().expect("the thread that waits for the signal has not ended") {
            Notice::End(result) => return result,
            Notice::Event(event) => {
                let (established, ended) = match event {
                    Event::Connected(_) => (1, 0),
                    Event::Refused(..) => (1, 1),
                    Event::Closed(_) | Event::Broken(..) => (0, 1),
                    Event::NoServer(_) => (0, 0),
                };
                (connecting, open) = (connecting - established, open - ended);
                report(event);
                if established > 0 && connecting == 0 {
                    let _ = resolved.send(());
                }
            }
        }
    }
    Ok(())
}

/// Returns true if the script is sent even after a server has closed its side: a regular file has
/// no writer that could notice. So has /dev/null; a script of parts has its own end.
fn is_sent_whole(script: &Script) -> io::Result<bool> {
    match script {
        Script::Input(file) => file.metadata().map(|file| file.is_file()),
        Script::Parts { .. } => Ok(false),
    }
}

/// Reads the script and queues it for the connections.
struct InputReader {
    /// The queue of each connection; `None` after its end.
    queues: Vec<Option<SyncSender<SendBlock>>>,
    /// Finds the server of each line; `None` with one server.
    router: Option<Router>,
    output: Arc<Mutex<LabelledOutput>>,
    notices: Sender<Notice>,
}

/// What a connection sends: bytes, or its half-close.
enum SendBlock {
    Bytes(Arc<[u8]>),
    End,
}

impl InputReader {
    /// Queues the whole script. `all_resolved` gets a message when no connection is connecting.
    fn run(mut self, script: Script, all_resolved: &Receiver<()>) {
        if let Err(error) = self.queue_all(script, all_resolved) {
            let _ = self.notices.send(Notice::End(Err(error)));
        }
        self.queues.into_iter().flatten().for_each(|queue| drop(queue.send(SendBlock::End)));
    }

    fn queue_all(&mut self, script: Script, all_resolved: &Receiver<()>) -> anyhow::Result<()> {
        let (parts, pause) = match script {
            Script::Input(file) => return self.read(file).context(NO_INPUT),
            Script::Parts { parts, pause } => (parts, pause),
        };
        let _ = all_resolved.recv();
        for part in parts {
            self.queue(To::All, &part);
            // Nothing is waited for: the pause is what the user asked for.
            thread::sleep(pause);
            // The bytes received in the pause are the reply, even without a newline.
            lock(&self.output).print_unfinished().context(NO_OUTPUT)?;
        }
        Ok(())
    }

    /// Reads the input while a connection takes it.
    fn read(&mut self, mut file: File) -> io::Result<()> {
        let mut buffer = vec![0; READ_MAX];
        let mut router = self.router.take();
        while self.queues.iter().any(Option::is_some) {
            let length = match file.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    await_ready(&file, libc::POLLIN)?;
                    continue;
                }
                result => result?,
            };
            match (&mut router, length) {
                (Some(router), 0) => router.finish(&mut |to, bytes| self.queue(to, bytes)),
                (Some(router), _) => {
                    router.push(&buffer[..length], &mut |to, bytes| self.queue(to, bytes));
                }
                (None, _) => self.queue(To::All, &buffer[..length]),
            }
            if length == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Queues bytes for their servers. Waits while a queue is full.
    fn queue(&mut self, to: To, bytes: &[u8]) {
        let block: Arc<[u8]> = bytes.into();
        let send = |queue: &mut Option<SyncSender<SendBlock>>| {
            let sent =
                queue.as_ref().is_some_and(|it| it.send(SendBlock::Bytes(block.clone())).is_ok());
            if !sent {
                *queue = None;
            }
            sent
        };
        match to {
            To::All => self.queues.iter_mut().for_each(|queue| {
                send(queue);
            }),
            To::One(at) => {
                if !self.queues.get_mut(at).is_some_and(send) {
                    let server = format!("@{}", at.wrapping_add(1));
                    let _ = self.notices.send(Notice::Event(Event::NoServer(server)));
                }
            }
        }
    }
}

/// A connection to a server, before it is established.
struct ServerConnection {
    at: usize,
    /// Whether everything queued is sent even after the server has closed its side.
    sends_all: bool,
    /// Ends the sender when the server has closed its side.
    queue: SyncSender<SendBlock>,
    output: Arc<Mutex<LabelledOutput>>,
    notices: Sender<Notice>,
}

impl ServerConnection {
    /// Connects, sends and receives until the end, and reports it.
    fn run(self, address: &Address, blocks: Receiver<SendBlock>) {
        let notices = self.notices.clone();
        let notice = match self.exchange(address, blocks).context(NO_OUTPUT) {
            Ok(event) => Notice::Event(event),
            Err(error) => Notice::End(Err(error)),
        };
        let _ = notices.send(notice);
    }

    /// Returns the last event of the connection, or the error of the output.
    fn exchange(self, address: &Address, blocks: Receiver<SendBlock>) -> io::Result<Event> {
        let ServerConnection { at, sends_all, queue, output, notices } = self;
        let [receiver, sender] = match connect(address) {
            Ok(ends) => ends,
            Err(error) => return Ok(Event::Refused(at, error)),
        };
        let _ = notices.send(Notice::Event(Event::Connected(at)));
        let sender = thread::spawn(move || send(sender, &blocks));
        let received = receive(receiver, |bytes| lock(&output).print(at, bytes))?;
        if received.is_ok() && !sends_all {
            let _ = queue.send(SendBlock::End);
        }
        drop(queue);
        let sent = match received {
            // The error of the sender is known only if it has ended.
            Ok(()) => sender.join().expect("the sender does not panic"),
            Err(_) => Ok(()),
        };
        lock(&output).finish(at)?;
        Ok(match received.and(sent) {
            Ok(()) => Event::Closed(at),
            Err(error) => Event::Broken(at, error),
        })
    }
}

fn lock(output: &Mutex<LabelledOutput>) -> MutexGuard<'_, LabelledOutput> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(address: &Address) -> io::Result<[Socket; 2]> {
    let (domain, to) = match address {
        Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect(&to)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok([socket.try_clone()?, socket])
}

/// Receives until the end of the stream. The outer error is that of `print`.
fn receive(
    socket: Socket,
    mut print: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<io::Result<()>> {
    let mut buffer = vec![0; READ_MAX];
    loop {
        match (&socket).read(&mut buffer) {
            Ok(0) => return Ok(Ok(())),
            Ok(length) => print(&buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Sends what is queued, then shuts the sending side down.
fn send(socket: Socket, blocks: &Receiver<SendBlock>) -> io::Result<()> {
    while let Ok(SendBlock::Bytes(bytes)) = blocks.recv() {
        (&socket).write_all(&bytes)?;
    }
    // It fails after a reset, which the receiver reports.
    let _ = socket.shutdown(Shutdown::Write);
    Ok(())
}

/// The output, shared by all connections.
struct LabelledOutput {
    file: File,
    /// Adds the number of the server to its lines; empty with one server.
    labels: Vec<Labelled>,
}

impl LabelledOutput {
    fn print(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        match self.labels.get_mut(at) {
            Some(labels) => {
                let lines = labels.push(bytes);
                self.write(&lines)
            }
            None => self.write(bytes),
        }
    }

    /// Prints the last line of a server, which has no end.
    fn finish(&mut self, at: usize) -> io::Result<()> {
        let line = self.labels.get_mut(at).map(Labelled::finish).unwrap_or_default();
        self.write(&line)
    }

    fn print_unfinished(&mut self) -> io::Result<()> {
        (0..self.labels.len()).try_for_each(|at| self.finish(at))
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process has made the terminal non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    await_ready(&self.file, libc::POLLOUT)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until a descriptor is readable or writable.
fn await_ready(fd: &impl AsRawFd, events: libc::c_short) -> io::Result<()> {
    // Zero: a signal interrupted the call.
    while os::poll(&mut [libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }], None)? == 0 {}
    Ok(())
}
