//! The interactive client: what is typed goes to the servers, what they say is printed.
//!
//! One loop over non-blocking sockets and standard input, by the crate's own [`Epoll`]. Each turn
//! compares what a connection wants (to hear, to be rid of what it owes, to end) with what is
//! watched of it. Memory is bounded: nothing more is read from the input while a connection owes
//! `OWED_MAX`, and what comes is written before more is received.
//!
//! **To one server bytes pass as they are.** To several, lines do: see `Router` for what is typed
//! and `Labelled` for what is printed.
//!
//! **Ends.** The input's end is passed on (a half-close), and what still comes is printed. A
//! server's end is the end of its connection once what was read for it is sent. Nothing more is read
//! for it from a terminal or a pipe, whose writer will find it broken; from a file, which has no
//! writer to notice, all of it is.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::Address;
use crate::buffer::{Chunk, SendQueue};
use crate::os::{self, Stop};
use crate::selector::{Epoll, Interest, Key, Poll, Ready, Selector, Trigger};

/// From so many bytes owed to one server on, nothing is read that would be owed too.
const OWED_MAX: usize = 256 << 10;
/// The most that is read at a time, from the input or a server.
const READ_MAX: usize = 64 << 10;
/// The longest line that is printed whole, if there are several servers.
const LINE_MAX: usize = 64 << 10;

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

/// Whether it only means that there is nothing at the moment.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
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

/// Where what is said comes from.
enum Speaker {
    /// A terminal, a pipe, a socket: watched.
    Stream(File, Option<Interest>),
    /// What cannot be watched, because it is always ready: a file, /dev/null.
    File(File),
    /// The first part is due when every connection is there, or has failed.
    Parts { parts: VecDeque<Vec<u8>>, pause: Duration, due: Instant },
    /// All has been said.
    Done,
}

impl Speaker {
    fn new(script: Script) -> io::Result<Speaker> {
        let file = match script {
            Script::Parts { parts, pause } => {
                return Ok(Speaker::Parts { parts, pause, due: Instant::now() });
            }
            Script::Typed(file) => file,
        };
        // The kernel alone knows what can be watched, and says so when it is tried.
        match Epoll::new(Trigger::Level)?.add(file.as_fd(), INPUT, Interest::READ) {
            Ok(()) => Ok(Speaker::Stream(file, None)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Speaker::File(file)),
            Err(error) => Err(error),
        }
    }

    fn is_file(&self) -> bool {
        matches!(self, Speaker::File(_))
    }

    fn is_done(&self) -> bool {
        matches!(self, Speaker::Done)
    }

    fn watch(&mut self, selector: &mut Epoll, interest: Interest) -> io::Result<()> {
        match self {
            Speaker::Stream(file, watched) => {
                watch(selector, file.as_fd(), INPUT, watched, interest)
            }
            _ => Ok(()),
        }
    }
}

/// One connection: begun, then open in both directions, then ended in one or the other.
struct Connection {
    socket: Socket,
    /// `None` exactly when the selector does not know it.
    watched: Option<Interest>,
    connected: bool,
    /// What was said and is not sent yet.
    owed: SendQueue,
    /// Whether our end was passed on.
    said_end: bool,
    /// Whether the server's end has come.
    heard_end: bool,
    /// Why nothing can be sent any more. What the server had sent before may still be there.
    broken: Option<io::Error>,
}

impl Connection {
    /// Begins to connect. A Unix socket connects at once, or waits until the server has accepted
    /// one of the many that wait: that cannot be watched.
    fn begin(address: &Address) -> io::Result<Connection> {
        let socket = match address {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_tcp_nodelay(true)?;
                socket.set_nonblocking(true)?;
                match socket.connect(&SockAddr::from(*address)) {
                    Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                        return Err(error);
                    }
                    _ => socket,
                }
            }
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect(&SockAddr::unix(path)?)?;
                socket.set_nonblocking(true)?;
                socket
            }
        };
        Ok(Connection {
            socket,
            watched: None,
            connected: false,
            owed: SendQueue::new(),
            said_end: false,
            heard_end: false,
            broken: None,
        })
    }

    /// Asks whether it is connected by now.
    fn check_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        self.connected = match self.socket.peer_addr() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotConnected => false,
            Err(error) => return Err(error),
        };
        Ok(self.connected)
    }

    /// Whether the server may be sent more; to `all`, even if it says nothing more itself.
    fn takes(&self, all: bool) -> bool {
        self.broken.is_none() && (all || !self.heard_end)
    }

    fn is_over(&self, all: bool) -> bool {
        self.heard_end && (self.broken.is_some() || self.owed.is_empty() && !all)
    }

    fn interest(&self) -> Interest {
        if !self.connected {
            return Interest::WRITE;
        }
        Interest { readable: !self.heard_end, writable: !self.owed.is_empty() }
    }

    /// Sends as much of what is owed as there is room for.
    fn send(&mut self) {
        while let Some(chunk) = self.owed.first() {
            match os::send(self.socket.as_fd(), chunk) {
                Ok(n) => self.owed.advance(n),
                Err(error) if is_nothing(&error) => return,
                Err(error) => {
                    self.owed.clear();
                    self.broken = Some(error);
                }
            }
        }
    }

    /// Passes our end on, behind all that is owed.
    fn finish(&mut self) {
        if self.connected && self.owed.is_empty() && !self.said_end {
            self.said_end = true;
            // It fails if the server has reset; receiving will say so.
            let _ = os::shutdown_write(self.socket.as_fd());
        }
    }
}

/// Whom a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    All,
    /// Counting from 0.
    One(usize),
}

/// Finds out of each line that is typed whom it is for, if there are several servers.
///
/// `@2 text` is `text` for the second; `@@text` is `@text` for all; anything else is for all as it
/// is. The first bytes decide, and the rest of the line is not held back.
#[derive(Debug)]
struct Router {
    /// What has come of a line, as long as it does not say yet whom it is for.
    undecided: Vec<u8>,
    /// Whom the rest of the line is for; `None` at the start of one.
    to: Option<To>,
}

/// No number of a server is longer.
const DIGITS_MAX: usize = 9;

impl Router {
    fn new() -> Router {
        Router { undecided: Vec::new(), to: None }
    }

    /// Hands on what is for somebody, in order.
    fn push(&mut self, bytes: &[u8], say: &mut impl FnMut(To, &[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            match self.to {
                Some(to) => say(to, piece),
                None => self.begin(piece, say),
            }
            if piece.ends_with(b"\n") {
                self.to = None;
            }
        }
    }

    /// Nothing more comes: what is undecided is a line.
    fn finish(&mut self, say: &mut impl FnMut(To, &[u8])) {
        let line = std::mem::take(&mut self.undecided);
        if !line.is_empty() {
            let (to, skipped) = decide(&line, true).expect("a whole line decides");
            say(to, &line[skipped..]);
        }
    }

    fn begin(&mut self, piece: &[u8], say: &mut impl FnMut(To, &[u8])) {
        self.undecided.extend_from_slice(piece);
        if let Some((to, skipped)) = decide(&self.undecided, false) {
            say(to, &self.undecided[skipped..]);
            self.undecided.clear();
            self.to = Some(to);
        }
    }
}

/// Whom a line is for by what has come of it, and how many bytes of it said so; `None` if more must
/// come first. A `whole` line always decides.
fn decide(line: &[u8], whole: bool) -> Option<(To, usize)> {
    let Some(rest) = line.strip_prefix(b"@") else { return Some((To::All, 0)) };
    if rest.first() == Some(&b'@') {
        return Some((To::All, 1));
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = match rest.get(digits) {
        Some(b' ') => 2,
        Some(b'\r' | b'\n') => 1,
        None if whole => 1,
        None if digits <= DIGITS_MAX => return None,
        _ => return Some((To::All, 0)),
    };
    let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
    Some(number.map_or((To::All, 0), |n: usize| (To::One(n.wrapping_sub(1)), digits + ends)))
}

/// Marks each line with who has said it: `[2] text`. A line is printed when it is whole.
#[derive(Debug)]
struct Labelled {
    label: String,
    /// The label and what has come of a line; empty if nothing has.
    unfinished: Vec<u8>,
}

impl Labelled {
    fn new(number: usize) -> Labelled {
        Labelled { label: format!("[{number}] "), unfinished: Vec::new() }
    }

    /// Answers the lines that `bytes` completes; one that is too long is cut.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.unfinished.is_empty() {
                self.unfinished.extend_from_slice(self.label.as_bytes());
            }
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                lines.append(&mut self.unfinished);
            } else if self.unfinished.len() > LINE_MAX {
                lines.append(&mut self.finish());
            }
        }
        lines
    }

    /// Answers what has come of a line as if it were whole.
    fn finish(&mut self) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.unfinished);
        if !line.is_empty() {
            line.push(b'\n');
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a router makes of these pieces, neighbours for the same joined.
    fn routed(pieces: &[&[u8]]) -> Vec<(To, String)> {
        let (mut router, mut said) = (Router::new(), Vec::<(To, String)>::new());
        let mut say = |to, bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            match said.last_mut() {
                Some((before, all)) if *before == to => all.push_str(&text),
                _ => said.push((to, text)),
            }
        };
        pieces.iter().for_each(|piece| router.push(piece, &mut say));
        router.finish(&mut say);
        said
    }

    #[test]
    fn a_line_goes_to_whom_it_is_for_however_it_is_cut() {
        let typed = b"all\n@2 two\n@@at\n@x\n@1\n@12 @3\n@7";
        let expected = [
            (To::All, "all\n"),
            (To::One(1), "two\n"),
            (To::All, "@at\n@x\n"),
            (To::One(0), "\n"),
            (To::One(11), "@3\n"),
            (To::One(6), ""),
        ];
        let expected = expected.map(|(to, text)| (to, text.to_owned()));
        assert_eq!(routed(&[typed]), expected);
        assert_eq!(routed(&typed.chunks(1).collect::<Vec<_>>()), expected);
        for cut in 0..typed.len() {
            let (head, tail) = typed.split_at(cut);
            assert_eq!(routed(&[head, tail]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_number_is_for_all_as_it_is() {
        for text in ["@", "@ x\n", "@2x\n", "@\n", "@99999999999999999999 x\n", " @2 x\n"] {
            assert_eq!(routed(&[text.as_bytes()]), [(To::All, text.to_owned())]);
        }
        assert_eq!(routed(&[b"@0 x"]), [(To::One(usize::MAX), "x".to_owned())]);
    }

    #[test]
    fn lines_are_labelled_when_they_are_whole() {
        let mut labelled = Labelled::new(2);
        assert_eq!(labelled.push(b"on"), b"");
        assert_eq!(labelled.push(b"e\n\ntw"), b"[2] one\n[2] \n");
        assert_eq!(labelled.finish(), b"[2] tw\n");
        assert_eq!(labelled.finish(), b"");
    }

    #[test]
    fn a_line_that_does_not_end_is_cut() {
        let mut labelled = Labelled::new(1);
        let line = labelled.push(&vec![b'x'; LINE_MAX]);
        assert!(line.starts_with(b"[1] x") && line.ends_with(b"x\n"));
        assert_eq!(labelled.finish(), b"");
    }
}
