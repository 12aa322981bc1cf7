//! The readiness engine: polls an edge-triggered selector without waiting, and does what is
//! reported as ready.

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
    ended: bool,
}

impl EpollEngine {
    /// Opens an engine for so many connections, with a buffer of about `buffer` bytes.
    pub(super) fn open(connections: usize, buffer: usize) -> io::Result<EpollEngine> {
        let len = buffer.min(BUFFER_MAX);
        Ok(EpollEngine {
            selector: Epoll::new(Trigger::Edge)?,
            connections: Vec::with_capacity(connections),
            reports: Vec::with_capacity(1024),
            outgoing: MmapMut::map_anon(len)?,
            // One byte larger than the largest reply: a short receive has emptied the socket.
            incoming: MmapMut::map_anon(len + 1)?,
        })
    }

    /// Receives until the socket is empty or closed.
    fn receive(&mut self, ready: Ready, streams: &mut ReplyStreams) -> Result {
        let conn = ready.key.0 as usize;
        let connection = &mut self.connections[conn];
        let buffer = &mut self.incoming[..];
        while !connection.ended {
            match connection.socket.read(buffer) {
                Ok(0) => {
                    connection.ended = true;
                    streams.ended(conn)?;
                }
                Ok(len) => {
                    streams.received(conn, &buffer[..len], os::now())?;
                    if len < buffer.len() && !ready.hung_up {
                        break;
                    }
                }
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(streams.broken(conn, error)),
            }
        }
        Ok(())
    }
}

impl ClientEngine for EpollEngine {
    fn add(&mut self, socket: TcpStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let key = Key(self.connections.len() as u64);
        self.selector.add(socket.as_fd(), key, Interest::BOTH)?;
        self.connections.push(EpollConnection { socket, writable: true, ended: false });
        Ok(())
    }

    fn send(&mut self, conn: usize, streams: &mut ReplyStreams) -> Result {
        let connection = &mut self.connections[conn];
        while connection.writable {
            let len = streams.outgoing(conn, os::now()).min(self.outgoing.len());
            if len == 0 {
                break;
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
        Ok(())
    }

    fn poll(&mut self, streams: &mut ReplyStreams) -> Result<Polled> {
        self.selector
            .wait(&mut self.reports, Some(Duration::ZERO))
            .map_err(LoadError::client("poll its epoll instance"))?;
        let mut polled = Polled { any_event: !self.reports.is_empty(), receives: 0 };
        for at in 0..self.reports.len() {
            let ready = Ready::of(self.reports[at]);
            let conn = ready.key.0 as usize;
            if ready.readable {
                polled.receives += 1;
                self.receive(ready, streams)?;
            }
            self.connections[conn].writable |= ready.writable;
            self.send(conn, streams)?;
        }
        Ok(polled)
    }

    fn socket(&self, conn: usize) -> &TcpStream {
        &self.connections[conn].socket
    }
}
