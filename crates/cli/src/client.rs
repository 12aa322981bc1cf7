//! The interactive client: sends its input to the servers, prints their replies.
//!
//! One loop over non-blocking sockets and the input, on the core's [`Epoll`]. Each iteration
//! compares the interest of a connection (receive, send, close) with its registration. Memory is
//! bounded: the input is not read while a connection has `UNSENT_MAX` bytes to send, and received
//! bytes are written before the next receive.
//!
//! **One server** receives the bytes unchanged. **Several servers** receive lines: see `lines.rs`.
//!
//! **Ends.** The end of the input becomes a half-close; further replies are printed. When a server
//! closes, its connection ends after the bytes read for it are sent. A terminal or a pipe is then
//! not read any more for it, and the writer sees a broken pipe; a file has no writer, so all of it
//! is read and sent.

mod connection;
mod lines;
mod source;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use connection::Connection;
use lines::{Labelled, Router, To};
use proactor::address::Address;
use proactor::buffer::Chunk;
use proactor::os::{self, ShutdownSignal};
use proactor::selector::{Epoll, Interest, Key, Poll, Ready, Selector, Trigger};
use source::Source;

/// The input is not read while a connection has this many bytes to send.
const UNSENT_MAX: usize = 256 << 10;
/// Maximum bytes of one read, from the input or from a server.
const READ_MAX: usize = 64 << 10;

/// The key of a connection is its index; these two keys are never an index.
const STOP: Key = Key(u64::MAX);
const INPUT: Key = Key(u64::MAX - 1);

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

/// A failure of the client itself.
#[derive(Debug)]
pub enum Failure {
    /// The input cannot be read.
    Input(io::Error),
    /// The output cannot be written; a closed pipe is one case.
    Output(io::Error),
    /// Readiness cannot be awaited.
    Wait(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Input(_) => "cannot read standard input",
            Failure::Output(_) => "cannot write to standard output",
            Failure::Wait(_) => "cannot wait for the servers",
        })
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Input(error) | Failure::Output(error) | Failure::Wait(error) => Some(error),
        }
    }
}

/// Connects to all servers at once, and runs until every connection is closed or `stop` is set.
///
/// The descriptors of input and output keep their flags: O_NONBLOCK belongs to the open file, which
/// the shell shares.
///
/// # Errors
/// The client itself fails. The failure of one connection is reported, and ends no other.
pub fn run(
    addresses: &[Address],
    script: Script,
    output: File,
    stop: &ShutdownSignal,
    report: &mut dyn FnMut(Event),
) -> Result<(), Failure> {
    let mut selector = Epoll::new(Trigger::Level).map_err(Failure::Wait)?;
    selector.add(stop.as_fd(), STOP, Interest::READ).map_err(Failure::Wait)?;
    let several = addresses.len() > 1;
    let mut client = Client {
        selector,
        connections: addresses.iter().map(|_| None).collect(),
        source: Source::new(script).map_err(Failure::Wait)?,
        router: several.then(Router::new),
        labels: (1..=addresses.len()).filter(|_| several).map(Labelled::new).collect(),
        output,
        stop,
        stopped: false,
        report,
        buffer: vec![0; READ_MAX],
    };
    for (at, address) in addresses.iter().enumerate() {
        client.connect(at, address);
    }
    client.run()
}

struct Client<'a> {
    selector: Epoll,
    /// `None` for a closed connection.
    connections: Vec<Option<Connection>>,
    source: Source,
    /// Finds the server of each line; `None` with one server.
    router: Option<Router>,
    /// Adds the number of the server to its lines; empty with one server.
    labels: Vec<Labelled>,
    output: File,
    stop: &'a ShutdownSignal,
    /// Whether `stop` is set.
    stopped: bool,
    report: &'a mut dyn FnMut(Event),
    buffer: Vec<u8>,
}

impl Client<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut ready = Vec::new();
        loop {
            self.update()?;
            if self.stopped || self.connections.iter().all(Option::is_none) {
                return Ok(());
            }
            ready.clear();
            let timeout = self.timeout();
            self.selector.wait(&mut ready, timeout).map_err(Failure::Wait)?;
            for &report in &ready {
                match report.key {
                    STOP => self.stopped = true,
                    INPUT => self.read()?,
                    Key(at) => self.handle(at as usize, report)?,
                }
            }
            if self.source.is_file() && self.wants_input() {
                self.read()?;
            }
            self.send_part()?;
        }
    }

    /// Starts to connect. An immediate failure is reported.
    fn connect(&mut self, at: usize, address: &Address) {
        match Connection::start(address) {
            Ok(connection) => self.connections[at] = Some(connection),
            Err(error) => (self.report)(Event::Refused(at, error)),
        }
    }

    /// Updates every registration, and removes closed connections.
    fn update(&mut self) -> Result<(), Failure> {
        let is_file = self.source.is_file();
        for at in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[at] else { continue };
            if connection.is_over(is_file) {
                let broken = connection.broken.take();
                self.remove(
                    at,
                    broken.map_or(Event::Closed(at), |error| Event::Broken(at, error)),
                )?;
                continue;
            }
            if self.source.is_done() {
                connection.finish();
            }
            let interest = connection.interest();
            let fd = connection.socket.as_fd();
            watch(&mut self.selector, fd, Key(at as u64), &mut connection.watched, interest)
                .map_err(Failure::Wait)?;
        }
        let interest = Interest { readable: self.wants_input(), writable: false };
        self.source.watch(&mut self.selector, interest).map_err(Failure::Wait)
    }

    fn remove(&mut self, at: usize, event: Event) -> Result<(), Failure> {
        let connection = self.connections[at].take().expect("a connection ends once");
        if connection.watched.is_some() {
            self.selector.remove(connection.socket.as_fd()).map_err(Failure::Wait)?;
        }
        self.print_unfinished(at)?;
        (self.report)(event);
        Ok(())
    }

    /// Returns true if a server can take more input, and no connection has too much to send.
    fn wants_input(&self) -> bool {
        let is_file = self.source.is_file();
        let mut takers =
            self.connections.iter().flatten().filter(|it| it.takes(is_file)).peekable();
        !self.source.is_done()
            && takers.peek().is_some()
            && takers.all(|connection| connection.unsent.bytes() < UNSENT_MAX)
    }

    fn is_connecting(&self) -> bool {
        self.connections.iter().flatten().any(|connection| !connection.connected)
    }

    fn timeout(&self) -> Option<Duration> {
        match &self.source {
            // A regular file is always ready, and epoll refuses it.
            Source::File(_) => self.wants_input().then_some(Duration::ZERO),
            Source::Parts { due, .. } if !self.is_connecting() => {
                Some(due.saturating_duration_since(Instant::now()))
            }
            _ => None,
        }
    }

    /// Reads the input once, and queues the bytes for their servers.
    fn read(&mut self) -> Result<(), Failure> {
        let (Source::Stream(file, _) | Source::File(file)) = &mut self.source else {
            return Ok(());
        };
        let mut queue = |to, bytes: &[u8]| queue(&mut self.connections, self.report, to, bytes);
        match file.read(&mut self.buffer) {
            Ok(0) => {
                self.router.iter_mut().for_each(|router| router.finish(&mut queue));
                self.finish_input()?;
            }
            Ok(n) => match &mut self.router {
                Some(router) => router.push(&self.buffer[..n], &mut queue),
                None => queue(To::All, &self.buffer[..n]),
            },
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(Failure::Input(error)),
        }
        Ok(())
    }

    fn finish_input(&mut self) -> Result<(), Failure> {
        self.source.watch(&mut self.selector, Interest::NONE).map_err(Failure::Wait)?;
        self.source = Source::Done;
        Ok(())
    }

    /// Queues the next part when its time has come.
    fn send_part(&mut self) -> Result<(), Failure> {
        let connecting = self.is_connecting();
        let Source::Parts { parts, pause, due } = &mut self.source else { return Ok(()) };
        let now = Instant::now();
        if connecting || now < *due {
            return Ok(());
        }
        *due = now + *pause;
        match parts.pop_front() {
            Some(part) => queue(&mut self.connections, self.report, To::All, &part),
            None => self.source = Source::Done,
        }
        // Bytes received during the pause are the reply to the part before, even without a newline.
        (0..self.connections.len()).try_for_each(|at| self.print_unfinished(at))
    }

    /// Handles the readiness of a connection.
    fn handle(&mut self, at: usize, report: Ready) -> Result<(), Failure> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        if !connection.connected {
            return match connection.check_connected() {
                Ok(true) => {
                    (self.report)(Event::Connected(at));
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(error) => self.remove(at, Event::Refused(at, error)),
            };
        }
        if report.writable {
            connection.send();
        }
        if !report.readable || connection.peer_closed {
            return Ok(());
        }
        match os::recv(connection.socket.as_fd(), &mut self.buffer) {
            Ok(0) => connection.peer_closed = true,
            Ok(n) => {
                let received = &self.buffer[..n];
                match self.labels.get_mut(at) {
                    Some(labels) => {
                        let lines = labels.push(received);
                        print(&mut self.output, self.stop, &mut self.stopped, &lines)?;
                    }
                    None => print(&mut self.output, self.stop, &mut self.stopped, received)?,
                }
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => return self.remove(at, Event::Broken(at, error)),
        }
        Ok(())
    }

    fn print_unfinished(&mut self, at: usize) -> Result<(), Failure> {
        let Some(labels) = self.labels.get_mut(at) else { return Ok(()) };
        print(&mut self.output, self.stop, &mut self.stopped, &labels.finish())
    }
}

/// Queues `bytes` for their servers. A closed connection takes none.
fn queue(
    connections: &mut [Option<Connection>],
    report: &mut dyn FnMut(Event),
    to: To,
    bytes: &[u8],
) {
    let chunk = || Chunk::from(bytes.to_vec());
    match to {
        To::All => {
            let chunk = chunk();
            let takers = connections.iter_mut().flatten().filter(|it| it.broken.is_none());
            takers.for_each(|connection| connection.unsent.push(chunk.clone()));
        }
        To::One(at) => match connections.get_mut(at).and_then(Option::as_mut) {
            Some(connection) if connection.broken.is_none() => connection.unsent.push(chunk()),
            _ => report(Event::NoServer(format!("@{}", at.wrapping_add(1)))),
        },
    }
}

/// Writes all bytes, unless `stop` is set first.
fn print(
    output: &mut File,
    stop: &ShutdownSignal,
    stopped: &mut bool,
    mut bytes: &[u8],
) -> Result<(), Failure> {
    while !bytes.is_empty() && !*stopped {
        match output.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            // Perhaps the signal that stops us; the reader of the output may never read again.
            Err(error) if error.kind() == ErrorKind::Interrupted => *stopped = stop.take() > 0,
            // Another process has made the terminal non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *stopped = wait_to_write(output, stop).map_err(Failure::Wait)?;
            }
            Err(error) => return Err(Failure::Output(error)),
        }
    }
    Ok(())
}

/// Waits until the output is writable. Returns true if `stop` is set instead.
fn wait_to_write(output: &File, stop: &ShutdownSignal) -> io::Result<bool> {
    let (mut poll, mut ready) = (Poll::new(), Vec::new());
    poll.add(stop.as_fd(), STOP, Interest::READ)?;
    poll.add(output.as_fd(), INPUT, Interest::WRITE)?;
    poll.wait(&mut ready, None)?;
    Ok(ready.iter().any(|report| report.key == STOP))
}

/// Changes a registration from `watched` to `wanted`.
fn watch(
    selector: &mut Epoll,
    fd: BorrowedFd<'_>,
    key: Key,
    watched: &mut Option<Interest>,
    wanted: Interest,
) -> io::Result<()> {
    // Without interest there is no registration: epoll would report a hang-up without end.
    let wanted = Some(wanted).filter(|&interest| interest != Interest::NONE);
    match (*watched, wanted) {
        (before, now) if before == now => {}
        (None, Some(interest)) => selector.add(fd, key, interest)?,
        (Some(_), Some(interest)) => selector.modify(fd, key, interest)?,
        (_, None) => selector.remove(fd)?,
    }
    *watched = wanted;
    Ok(())
}

/// Returns true if the call can simply be tried again.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
