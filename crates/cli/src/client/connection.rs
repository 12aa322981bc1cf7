//! A connection of the client.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use socket2::{Domain, SockAddr, Socket, Type};

use super::is_nothing;
use proactor::address::Address;
use proactor::buffer::SendQueue;
use proactor::os;
use proactor::selector::Interest;

/// One connection: begun, then open in both directions, then ended in one or the other.
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// `None` exactly when the selector does not know it.
    pub(super) watched: Option<Interest>,
    pub(super) connected: bool,
    /// What was said and is not sent yet.
    pub(super) owed: SendQueue,
    /// Whether our end was passed on.
    said_end: bool,
    /// Whether the server's end has come.
    pub(super) heard_end: bool,
    /// Why nothing can be sent any more. What the server had sent before may still be there.
    pub(super) broken: Option<io::Error>,
}

impl Connection {
    /// Begins to connect. A Unix socket connects at once, or waits until the server has accepted
    /// one of the many that wait: that cannot be watched.
    pub(super) fn begin(address: &Address) -> io::Result<Connection> {
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
    pub(super) fn check_connected(&mut self) -> io::Result<bool> {
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
    pub(super) fn takes(&self, all: bool) -> bool {
        self.broken.is_none() && (all || !self.heard_end)
    }

    pub(super) fn is_over(&self, all: bool) -> bool {
        self.heard_end && (self.broken.is_some() || self.owed.is_empty() && !all)
    }

    pub(super) fn interest(&self) -> Interest {
        if !self.connected {
            return Interest::WRITE;
        }
        Interest { readable: !self.heard_end, writable: !self.owed.is_empty() }
    }

    /// Sends as much of what is owed as there is room for.
    pub(super) fn send(&mut self) {
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
    pub(super) fn finish(&mut self) {
        if self.connected && self.owed.is_empty() && !self.said_end {
            self.said_end = true;
            // It fails if the server has reset; receiving will say so.
            let _ = os::shutdown_write(self.socket.as_fd());
        }
    }
}
