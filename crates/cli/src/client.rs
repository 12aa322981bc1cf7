//! The interactive client: what is typed goes to the servers, what they say is printed.
//!
//! One loop over non-blocking sockets and standard input, by the crate's own [`Epoll`]. Each turn
//! compares what a connection wants (to hear, to be rid of what it owes, to end) with what is
//! watched of it. Memory is bounded: nothing more is read from the input while a connection owes
//! `OWED_MAX`, and what comes is written before more is received.
//!
//! **To one server bytes pass as they are.** To several, lines do: see `lines.rs`.
//!
//! **Ends.** The input's end is passed on (a half-close), and what still comes is printed. A
//! server's end is the end of its connection once what was read for it is sent. Nothing more is
//! read for it from a terminal or a pipe, whose writer will find it broken; from a file, which has
//! no writer to notice, all of it is.

mod connection;
mod lines;
mod speaker;

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
use proactor::os::{self, Stop};
use proactor::selector::{Epoll, Interest, Key, Poll, Ready, Selector, Trigger};
use speaker::Speaker;

/// From so many bytes owed to one server on, nothing is read that would be owed too.
const OWED_MAX: usize = 256 << 10;
/// The most that is read at a time, from the input or a server.
const READ_MAX: usize = 64 << 10;

/// Connections are known by their place; these two by what is left.
const STOP: Key = Key(u64::MAX);
const INPUT: Key = Key(u64::MAX - 1);

/// What is said to the servers.
#[derive(Debug)]
pub enum Script {
    /// What is read, as long as there is more.
    Typed(File),
    /// Each part to every server, with a pause behind it.
    Parts {
        /// What to say.
        parts: VecDeque<Vec<u8>>,
        /// For how long to listen behind each.
        pause: Duration,
    },
}

/// What the user may want to know while it goes on. Connections count from 0.
#[derive(Debug)]
pub enum Event {
    /// A connection is there.
    Connected(usize),
    /// The server has ended it, and all is well.
    Ended(usize),
    /// A connection could not be made.
    Refused(usize, io::Error),
    /// A connection broke.
    Broken(usize, io::Error),
    /// A line was for nobody: there is no such connection, or not any more. It was not sent.
    Nobody(String),
}

/// Why the client itself could not go on.
#[derive(Debug)]
pub enum Failure {
    /// The input cannot be read.
    Input(io::Error),
    /// The output cannot be written; that nobody reads it any more is one such case.
    Output(io::Error),
    /// What is to be watched cannot be.
    Watch(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Input(_) => "cannot read standard input",
            Failure::Output(_) => "cannot write to standard output",
            Failure::Watch(_) => "cannot wait for the servers",
        })
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Input(error) | Failure::Output(error) | Failure::Watch(error) => Some(error),
        }
    }
}

/// Connects to all of them at once and goes on until every connection has ended or `stop` is asked.
///
/// The descriptors of input and output stay as they are: whether they block is a property of the
/// open file, which the shell shares.
///
/// # Errors
/// That of the client itself. What happens to a connection is told, and ends no other.
pub fn converse(
    addresses: &[Address],
    script: Script,
    output: File,
    stop: &Stop,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Failure> {
    let mut selector = Epoll::new(Trigger::Level).map_err(Failure::Watch)?;
    selector.add(stop.as_fd(), STOP, Interest::READ).map_err(Failure::Watch)?;
    let several = addresses.len() > 1;
    let mut client = Client {
        selector,
        connections: addresses.iter().map(|_| None).collect(),
        speaker: Speaker::new(script).map_err(Failure::Watch)?,
        router: several.then(Router::new),
        labels: (1..=addresses.len()).filter(|_| several).map(Labelled::new).collect(),
        output,
        stop,
        stopped: false,
        tell,
        buffer: vec![0; READ_MAX],
    };
    for (at, address) in addresses.iter().enumerate() {
        client.connect(at, address);
    }
    client.run()
}

struct Client<'a> {
    selector: Epoll,
    /// `None` where a connection is over.
    connections: Vec<Option<Connection>>,
    speaker: Speaker,
    /// Who is meant by what is read; `None` if there is one server only.
    router: Option<Router>,
    /// What marks what each has said; empty if there is one server only.
    labels: Vec<Labelled>,
    output: File,
    stop: &'a Stop,
    /// Whether `stop` was asked.
    stopped: bool,
    tell: &'a mut dyn FnMut(Event),
    buffer: Vec<u8>,
}

impl Client<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut ready = Vec::new();
        loop {
            self.resume()?;
            if self.stopped || self.connections.iter().all(Option::is_none) {
                return Ok(());
            }
            ready.clear();
            let timeout = self.timeout();
            self.selector.wait(&mut ready, timeout).map_err(Failure::Watch)?;
            for &report in &ready {
                match report.key {
                    STOP => self.stopped = true,
                    INPUT => self.read()?,
                    Key(at) => self.step(at as usize, report)?,
                }
            }
            if self.speaker.is_file() && self.wants_input() {
                self.read()?;
            }
            self.say_part()?;
        }
    }

    /// Begins to connect; what fails at once is told at once.
    fn connect(&mut self, at: usize, address: &Address) {
        match Connection::begin(address) {
            Ok(connection) => self.connections[at] = Some(connection),
            Err(error) => (self.tell)(Event::Refused(at, error)),
        }
    }

    /// Has everything watched for what it is wanted for, and lets go of those that are over.
    fn resume(&mut self) -> Result<(), Failure> {
        let more_is_said = self.speaker.is_file();
        for at in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[at] else { continue };
            if connection.is_over(more_is_said) {
                let broken = connection.broken.take();
                self.let_go(at, broken.map_or(Event::Ended(at), |error| Event::Broken(at, error)))?;
                continue;
            }
            if self.speaker.is_done() {
                connection.finish();
            }
            let interest = connection.interest();
            let fd = connection.socket.as_fd();
            watch(&mut self.selector, fd, Key(at as u64), &mut connection.watched, interest)
                .map_err(Failure::Watch)?;
        }
        let interest = Interest { readable: self.wants_input(), writable: false };
        self.speaker.watch(&mut self.selector, interest).map_err(Failure::Watch)
    }

    fn let_go(&mut self, at: usize, event: Event) -> Result<(), Failure> {
        let connection = self.connections[at].take().expect("a connection ends once");
        if connection.watched.is_some() {
            self.selector.remove(connection.socket.as_fd()).map_err(Failure::Watch)?;
        }
        self.print_unfinished(at)?;
        (self.tell)(event);
        Ok(())
    }

    /// Whether there is somebody to read for, and nobody owes too much.
    fn wants_input(&self) -> bool {
        let more_is_said = self.speaker.is_file();
        let mut takers =
            self.connections.iter().flatten().filter(|it| it.takes(more_is_said)).peekable();
        !self.speaker.is_done()
            && takers.peek().is_some()
            && takers.all(|connection| connection.owed.bytes() < OWED_MAX)
    }

    fn is_connecting(&self) -> bool {
        self.connections.iter().flatten().any(|connection| !connection.connected)
    }

    fn timeout(&self) -> Option<Duration> {
        match &self.speaker {
            // It is always ready, and cannot be watched.
            Speaker::File(_) => self.wants_input().then_some(Duration::ZERO),
            Speaker::Parts { due, .. } if !self.is_connecting() => {
                Some(due.saturating_duration_since(Instant::now()))
            }
            _ => None,
        }
    }

    /// Reads once, and owes what was read to whom it is for.
    fn read(&mut self) -> Result<(), Failure> {
        let (Speaker::Stream(file, _) | Speaker::File(file)) = &mut self.speaker else {
            return Ok(());
        };
        let mut owe = |to, bytes: &[u8]| owe(&mut self.connections, self.tell, to, bytes);
        match file.read(&mut self.buffer) {
            Ok(0) => {
                self.router.iter_mut().for_each(|router| router.finish(&mut owe));
                self.finish_speaking()?;
            }
            Ok(n) => match &mut self.router {
                Some(router) => router.push(&self.buffer[..n], &mut owe),
                None => owe(To::All, &self.buffer[..n]),
            },
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(Failure::Input(error)),
        }
        Ok(())
    }

    fn finish_speaking(&mut self) -> Result<(), Failure> {
        self.speaker.watch(&mut self.selector, Interest::NONE).map_err(Failure::Watch)?;
        self.speaker = Speaker::Done;
        Ok(())
    }

    /// Says the next part if it is time to.
    fn say_part(&mut self) -> Result<(), Failure> {
        let connecting = self.is_connecting();
        let Speaker::Parts { parts, pause, due } = &mut self.speaker else { return Ok(()) };
        let now = Instant::now();
        if connecting || now < *due {
            return Ok(());
        }
        *due = now + *pause;
        match parts.pop_front() {
            Some(part) => owe(&mut self.connections, self.tell, To::All, &part),
            None => self.speaker = Speaker::Done,
        }
        // What came in the pause is the answer to the part before it, with a line's end or without.
        (0..self.connections.len()).try_for_each(|at| self.print_unfinished(at))
    }

    /// Does what a connection is ready for.
    fn step(&mut self, at: usize, report: Ready) -> Result<(), Failure> {
        let Some(connection) = &mut self.connections[at] else { return Ok(()) };
        if !connection.connected {
            return match connection.check_connected() {
                Ok(true) => {
                    (self.tell)(Event::Connected(at));
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(error) => self.let_go(at, Event::Refused(at, error)),
            };
        }
        if report.writable {
            connection.send();
        }
        if !report.readable || connection.heard_end {
            return Ok(());
        }
        match os::recv(connection.socket.as_fd(), &mut self.buffer) {
            Ok(0) => connection.heard_end = true,
            Ok(n) => {
                let came = &self.buffer[..n];
                match self.labels.get_mut(at) {
                    Some(labels) => {
                        let lines = labels.push(came);
                        print(&mut self.output, self.stop, &mut self.stopped, &lines)?;
                    }
                    None => print(&mut self.output, self.stop, &mut self.stopped, came)?,
                }
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => return self.let_go(at, Event::Broken(at, error)),
        }
        Ok(())
    }

    fn print_unfinished(&mut self, at: usize) -> Result<(), Failure> {
        let Some(labels) = self.labels.get_mut(at) else { return Ok(()) };
        print(&mut self.output, self.stop, &mut self.stopped, &labels.finish())
    }
}

/// Owes `bytes` to whom they are for. Who has ended is owed nothing more.
fn owe(connections: &mut [Option<Connection>], tell: &mut dyn FnMut(Event), to: To, bytes: &[u8]) {
    let chunk = || Chunk::from(bytes.to_vec());
    match to {
        To::All => {
            let chunk = chunk();
            let takers = connections.iter_mut().flatten().filter(|it| it.broken.is_none());
            takers.for_each(|connection| connection.owed.push(chunk.clone()));
        }
        To::One(at) => match connections.get_mut(at).and_then(Option::as_mut) {
            Some(connection) if connection.broken.is_none() => connection.owed.push(chunk()),
            _ => tell(Event::Nobody(format!("@{}", at.wrapping_add(1)))),
        },
    }
}

/// Writes all of it, however long that takes, unless it is to stop.
fn print(
    output: &mut File,
    stop: &Stop,
    stopped: &mut bool,
    mut bytes: &[u8],
) -> Result<(), Failure> {
    while !bytes.is_empty() && !*stopped {
        match output.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            // A signal: perhaps the one that ends us, and whoever reads may never read again.
            Err(error) if error.kind() == ErrorKind::Interrupted => *stopped = stop.take() > 0,
            // A terminal that somebody else has made non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *stopped = wait_to_write(output, stop).map_err(Failure::Watch)?;
            }
            Err(error) => return Err(Failure::Output(error)),
        }
    }
    Ok(())
}

/// Waits until the output takes more; answers whether it is to stop instead.
fn wait_to_write(output: &File, stop: &Stop) -> io::Result<bool> {
    let (mut poll, mut ready) = (Poll::new(), Vec::new());
    poll.add(stop.as_fd(), STOP, Interest::READ)?;
    poll.add(output.as_fd(), INPUT, Interest::WRITE)?;
    poll.wait(&mut ready, None)?;
    Ok(ready.iter().any(|report| report.key == STOP))
}

/// Issues the difference between what is `watched` and what is wanted.
fn watch(
    selector: &mut Epoll,
    fd: BorrowedFd<'_>,
    key: Key,
    watched: &mut Option<Interest>,
    wanted: Interest,
) -> io::Result<()> {
    // Who wants nothing is not watched at all: a hang-up would be reported for ever.
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

/// Whether it only means that there is nothing at the moment.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
