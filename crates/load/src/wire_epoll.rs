//! The readiness wire: asks an edge-triggered epoll what may proceed, without ever waiting for the
//! answer, and does it.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use super::crowd::{Crowd, Shape};
use super::failure::Failure;
use super::socket::Socket;
use super::{Found, Wire};
use proactor::os;
use proactor::selector::{Epoll, Interest, Key, Ready, Selector, Trigger};

/// The most that one call sends or receives.
const BUFFER_MAX: usize = 256 << 10;
/// Where a buffer begins within its page matters to the kernel's copy: at offset 16, where `malloc`
/// puts large ones, it is about half as fast.
const PAGE: usize = 4096;

/// A wire over an edge-triggered selector.
#[derive(Debug)]
pub(super) struct ReadinessWire<S> {
    selector: S,
    lines: Vec<Line>,
    ready: Vec<Ready>,
    /// What a send is made in. The pattern is made anew for each, so nothing is kept.
    outgoing: Buffer,
    /// What a receive goes to.
    incoming: Buffer,
}

/// A connection's socket.
#[derive(Debug)]
struct Line {
    socket: Socket,
    /// False from when a send would have blocked until the selector says otherwise.
    writable: bool,
    ended: bool,
}

/// Opens a wire over epoll.
pub(super) fn open(shape: Shape) -> io::Result<ReadinessWire<Epoll>> {
    Epoll::new(Trigger::Edge).map(|epoll| ReadinessWire::new(epoll, shape))
}

impl<S: Selector> ReadinessWire<S> {
    fn new(selector: S, shape: Shape) -> ReadinessWire<S> {
        assert_eq!(
            selector.trigger(),
            Trigger::Edge,
            "interests are registered once and never modified"
        );
        let len = shape.window().min(BUFFER_MAX);
        ReadinessWire {
            selector,
            lines: Vec::with_capacity(shape.connections),
            ready: Vec::with_capacity(1024),
            outgoing: Buffer::new(len),
            // Room for one byte more than may come: a receive that is short has found them all.
            incoming: Buffer::new(len + 1),
        }
    }

    fn receive(&mut self, conn: usize, hung_up: bool, crowd: &mut Crowd) -> Result<(), Failure> {
        let line = &mut self.lines[conn];
        let room = self.incoming.bytes();
        while !line.ended {
            match line.socket.read(room) {
                Ok(0) => {
                    line.ended = true;
                    crowd.ended(conn)?;
                }
                Ok(len) => {
                    crowd.received(conn, &room[..len], os::now())?;
                    if len < room.len() && !hung_up {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(crowd.broken(conn, error)),
            }
        }
        Ok(())
    }
}

impl<S: Selector + std::fmt::Debug> Wire for ReadinessWire<S> {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn adopt(&mut self, socket: Socket) -> io::Result<()> {
        socket.set_nonblocking()?;
        let key = Key(self.lines.len() as u64);
        self.selector.add(socket.as_fd(), key, Interest::BOTH)?;
        self.lines.push(Line { socket, writable: true, ended: false });
        Ok(())
    }

    fn send(&mut self, conn: usize, crowd: &mut Crowd) -> Result<(), Failure> {
        let line = &mut self.lines[conn];
        while line.writable {
            let len = crowd.outgoing(conn, os::now());
            if len == 0 {
                break;
            }
            let room = self.outgoing.bytes();
            let bytes = &mut room[..len.min(BUFFER_MAX)];
            crowd.fill(conn, bytes);
            match line.socket.write(bytes) {
                Ok(sent) => {
                    crowd.sent(conn, sent);
                    line.writable = sent == bytes.len();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => line.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(crowd.broken(conn, error)),
            }
        }
        Ok(())
    }

    fn turn(&mut self, crowd: &mut Crowd) -> Result<Found, Failure> {
        self.ready.clear();
        self.selector
            .wait(&mut self.ready, Some(Duration::ZERO))
            .map_err(Failure::client("ask its epoll"))?;
        let mut found = Found { anything: !self.ready.is_empty(), receives: 0 };
        for at in 0..self.ready.len() {
            let Ready { key, readable, writable, hung_up } = self.ready[at];
            let conn = key.0 as usize;
            if readable {
                found.receives += 1;
                self.receive(conn, hung_up, crowd)?;
            }
            self.lines[conn].writable |= writable;
            self.send(conn, crowd)?;
        }
        Ok(found)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| line.socket.shutdown(Shutdown::Write))
    }
}

/// Bytes that begin where a page does.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new(len: usize) -> Buffer {
        let memory = vec![0; len + PAGE];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
