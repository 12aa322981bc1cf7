//! What is done with blocking calls before the first slice: connections are opened, each idle one
//! exchanges a message, and the members of a chat learn how it labels the lines of the first.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::LoadOptions;
use super::byte_stream::UNUSED;
use super::error::{LoadError, Result};
use super::socket::connect;
use super::stream::ReplyStream;
use super::workload::{Pattern, Workload};
use proactor::address::Address;
use proactor::os;

/// Opens connection number `connection`.
pub(super) fn open(address: &Address, connection: usize, timeout: Duration) -> Result<TcpStream> {
    connect(address, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => LoadError::client("open all connections")(error),
        _ => LoadError::Connect { address: address.clone(), connection, error },
    })
}

/// Connections that are open, and idle after their first message.
#[derive(Debug)]
pub(super) struct IdleConnections(Vec<TcpStream>);

impl IdleConnections {
    /// Opens them. The server has accepted each: its first message was answered.
    ///
    /// # Errors
    /// A connection is refused, or its reply is wrong or late.
    pub(super) fn open(address: &Address, options: &LoadOptions) -> Result<IdleConnections> {
        let LoadOptions { ref workload, ref protocol, seed, timeout, .. } = *options;
        let first = workload.shape.connections;
        let one = Workload { size_max: None, ..*workload };
        let exchange = |connection| {
            let socket = open(address, connection, timeout)?;
            let stream = ReplyStream::new(&one, protocol, seed, connection, b"");
            let (mut request, mut reply) = (vec![0; one.shape.size], vec![0; stream.reply]);
            stream.sends.fill(&mut { UNUSED }, 0, &mut request);
            let exchanged = with_timeout(&socket, timeout, || {
                (&socket).write_all(&request)?;
                (&socket).read_exact(&mut reply)
            });
            exchanged.map_err(|error| LoadError::Broken { connection, offset: 0, error })?;
            let checked = stream.replies_with.check(&mut { UNUSED }, 0, &reply);
            checked.map_err(|at| LoadError::Wrong { connection, at })?;
            Ok(socket)
        };
        let opened = (first..first + workload.idle_connections).map(exchange);
        Ok(IdleConnections(opened.collect::<Result<_>>()?))
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &TcpStream> {
        self.0.iter()
    }

    /// Ends them: the server must have sent nothing more, and closes each.
    ///
    /// # Errors
    /// It sends a byte, has closed one before, or does not close one in time.
    pub(super) fn close(&mut self, timeout: Duration) -> io::Result<()> {
        for socket in self.0.drain(..) {
            socket.shutdown(Shutdown::Write)?;
            let rest = with_timeout(&socket, timeout, || (&socket).read(&mut [0]))?;
            if rest > 0 {
                return Err(io::Error::other("the server sent bytes to an idle connection"));
            }
        }
        Ok(())
    }
}

/// How long a member of a chat waits for a line before the first sends another.
const LINE_TIMEOUT: Duration = Duration::from_millis(20);

/// A member of a chat that waits for the lines of the first.
struct ChatMember<'a> {
    lines: BufReader<&'a TcpStream>,
    /// The part of a line that has arrived.
    line: Vec<u8>,
    label: Vec<u8>,
}

/// Waits until all members receive the lines of the first. Returns what the chat puts in front of
/// them.
///
/// # Errors
/// The server is no chat, or does not pass the lines on in time.
fn join_chat(members: &[TcpStream], timeout: Duration) -> io::Result<Vec<u8>> {
    let receiver =
        |member| ChatMember { lines: BufReader::new(member), line: Vec::new(), label: Vec::new() };
    let mut receivers: Vec<_> = members[1..].iter().map(receiver).collect();
    let (start, mut number, mut all_receive) = (os::now(), 0, false);
    while !all_receive {
        if os::now().since(start) > timeout {
            let text = "not all members received the lines of the first in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        number += 1;
        let hello = format!("hello {number}\n");
        (&members[0]).write_all(hello.as_bytes())?;
        all_receive = true;
        for receiver in &mut receivers {
            all_receive &= receiver.receives(hello.as_bytes())?;
        }
    }
    let mut labels: Vec<_> = receivers.into_iter().map(|receiver| receiver.label).collect();
    labels.dedup();
    match &mut labels[..] {
        [label] => Ok(std::mem::take(label)),
        _ => Err(io::Error::other("the chat labels one line differently for its members")),
    }
}

impl ChatMember<'_> {
    /// Receives until a line ends in `hello`. Returns false if it does not come for a while.
    fn receives(&mut self, hello: &[u8]) -> io::Result<bool> {
        with_timeout(self.lines.get_ref(), LINE_TIMEOUT, || {
            loop {
                match self.lines.read_until(b'\n', &mut self.line) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    received => received?,
                };
                let line = std::mem::take(&mut self.line);
                if let Some(label) = line.strip_suffix(hello) {
                    self.label = label.to_vec();
                    return Ok(true);
                }
                // Announcements of members, and earlier lines.
                if !line.starts_with(b"* ") && !line.windows(6).any(|part| part == b"hello ") {
                    return Err(no_chat(&line));
                }
            }
        })
    }
}

fn no_chat(line: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(line);
    io::Error::other(format!("it sent {text:?}, which no chat does (does it serve `chat`?)"))
}

/// Makes blocking calls on a socket, each of which waits for `timeout` at most.
fn with_timeout<T>(
    socket: &TcpStream,
    timeout: Duration,
    calls: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let set =
        |timeout| socket.set_read_timeout(timeout).and_then(|()| socket.set_write_timeout(timeout));
    set(Some(timeout))?;
    let result = calls().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    set(None)?;
    Ok(result)
}

/// Opens the connections that a workload keeps open, in the order of their numbers; and returns
/// what a chat puts in front of the lines of the first.
pub(super) fn open_all(
    address: &Address,
    options: &LoadOptions,
) -> Result<(Vec<TcpStream>, Vec<u8>)> {
    let LoadOptions { workload, timeout, .. } = *options;
    let open = |connection| open(address, connection, timeout);
    let all = 0..workload.shape.connections;
    if workload.pattern.reconnects() {
        return Ok((Vec::new(), Vec::new()));
    }
    if workload.pattern != Pattern::Fanout {
        return Ok((all.map(open).collect::<Result<_>>()?, Vec::new()));
    }
    let others = all.skip(1).map(open).collect::<Result<Vec<_>>>()?;
    let members: Vec<_> = std::iter::once(open(0)?).chain(others).collect();
    let label = join_chat(&members, timeout).map_err(LoadError::client("join the chat"))?;
    Ok((members, label))
}
