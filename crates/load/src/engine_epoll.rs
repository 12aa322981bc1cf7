//! The readiness engine: polls an edge-triggered selector without waiting, and does what is
//! reported as ready.

use std::collections::VecDeque;
use std::io::ErrorKind::WouldBlock;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use memmap2::MmapMut;

use super::error::{LoadError, Result};
use super::streams::ReplyStreams;
use super::{ClientEngine, Polled};
use proactor::os;
use proactor::selector::{Epoll, Interest, Key, Ready, ReadyEvent, Selector, Trigger};

/// The maximum number of bytes of one send or receive.
const BUFFER_MAX: usize = 256 << 10;

/// An engine over edge-triggered epoll: interests are registered once and never modified.
pub(super) struct EpollEngine {
    selector: Epoll,
    connections: Vec<EpollConnection>,
    reports: Vec<ReadyEvent>,
    /// Connections with something to do.
    work: VecDeque<usize>,
    /// Shared by all sends: the pattern is generated again for each of them. Mapped, to begin at a
    /// page: the kernel's copy is about half as fast at offset 16, where `malloc` places large
    /// allocations.
    outgoing: MmapMut,
    /// Shared by all receives.
    incoming: MmapMut,
}

struct EpollConnection {
    socket: TcpStream,
    /// False after a short send, until the selector reports that the socket is writable.
    writable: bool,
    /// True from a report that the socket is readable until it is empty.
    readable: bool,
    /// True once there is nothing behind what can be read, so that it is read to its end.
    hung_up: bool,
    ended: bool,
    /// True while it is in `work`.
    is_listed: bool,
}

/// The maximum number of calls for a connection before the next one has its share.
const CALLS_MAX: usize = 16;

impl EpollEngine {
    /// Opens an engine for so many connections, with a buffer of about `buffer` bytes.
    pub(super) fn open(connections: usize, buffer: usize) -> io::Result<EpollEngine> {
        let len = buffer.min(BUFFER_MAX);
        Ok(EpollEngine {
            selector: Epoll::new(Trigger::Edge)?,
            connections: Vec::with_capacity(connections),
            reports: Vec::with_capacity(1024),
            work: VecDeque::with_capacity(connections),
            outgoing: MmapMut::map_anon(len)?,
            // One byte larger than the largest reply: a short receive has emptied the socket.
            incoming: MmapMut::map_anon(len + 1)?,
        })
    }

    /// Receives until the socket is empty or closed, or enough has been received at a time.
    fn receive(&mut self, conn: usize, streams: &mut ReplyStreams) -> Result {
        let connection = &mut self.connections[conn];
        let buffer = &mut self.incoming[..];
        for _ in 0..CALLS_MAX {
            match connection.socket.read(buffer) {
                Ok(0) => {
                    (connection.ended, connection.readable) = (true, false);
                    return streams.ended(conn, os::now());
                }
                Ok(len) => {
                    streams.received(conn, &buffer[..len], os::now())?;
                    connection.readable = len == buffer.len() || connection.hung_up;
                }
                Err(error) if error.kind() == WouldBlock => connection.readable = false,
                Err(error) => return Err(streams.broken(conn, error)),
            }
            if !connection.readable {
                break;
            }
        }
        Ok(())
    }

    /// Lists a connection once as one with something to do.
    fn list(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.connections[conn].is_listed, true) {
            self.work.push_back(conn);
        }
    }
}

impl ClientEngine for EpollEngine {
    fn open(&mut self, conn: usize, socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.selector.add(socket.as_fd(), Key(conn as u64), Interest::BOTH)?;
        let connection = EpollConnection {
            socket,
            writable: true,
            readable: false,
            hung_up: false,
            ended: false,
            is_listed: false,
        };
        match self.connections.get_mut(conn) {
            Some(closed) => *closed = EpollConnection { is_listed: closed.is_listed, ..connection },
            None => self.connections.push(connection),
        }
        Ok(())
    }

    fn send(&mut self, conn: usize, streams: &mut ReplyStreams) -> Result {
        for _ in 0..CALLS_MAX {
            let connection = &mut self.connections[conn];
            if !connection.writable {
                return Ok(());
            }
            let len = streams.outgoing(conn, os::now()).min(self.outgoing.len());
            if len == 0 {
                return Ok(());
            }
            let bytes = &mut self.outgoing[..len];
            streams.fill(conn, bytes);
            match connection.socket.write(bytes) {
                Ok(sent) => {
                    streams.sent(conn, sent);
                    connection.writable = sent == bytes.len();
                }
                Err(error) if error.kind() == WouldBlock => connection.writable = false,
                Err(error) => return Err(streams.broken(conn, error)),
            }
        }
        self.list(conn);
        Ok(())
    }

    fn poll(&mut self, streams: &mut ReplyStreams) -> Result<Polled> {
        self.selector
            .wait(&mut self.reports, Some(Duration::ZERO))
            .map_err(LoadError::client("poll its epoll instance"))?;
        for at in 0..self.reports.len() {
            let ready = Ready::of(self.reports[at]);
            let conn = ready.key.0 as usize;
            let connection = &mut self.connections[conn];
            connection.readable |= ready.readable && !connection.ended;
            connection.hung_up |= ready.hung_up;
            connection.writable |= ready.writable;
            self.list(conn);
        }
        let mut polled = Polled { any_event: !self.work.is_empty(), receives: 0 };
        for _ in 0..self.work.len() {
            let Some(conn) = self.work.pop_front() else { break };
            self.connections[conn].is_listed = false;
            if self.connections[conn].readable {
                polled.receives += 1;
                self.receive(conn, streams)?;
            }
            self.send(conn, streams)?;
            if self.connections[conn].readable {
                self.list(conn);
            }
        }
        Ok(polled)
    }

    /// A send is over when its call returns.
    fn is_sending(&self, _: usize) -> bool {
        false
    }

    fn socket(&self, conn: usize) -> &TcpStream {
        &self.connections[conn].socket
    }
}
