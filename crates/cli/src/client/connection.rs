//! One connection of the client.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use socket2::{Domain, SockAddr, Socket, Type};

use super::is_transient;
use proactor::address::Address;
use proactor::buffer::SendQueue;
use proactor::os;
use proactor::selector::Interest;

/// One connection: connecting, then open, then half-closed by either side.
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// The registration; `None` exactly if the socket is not registered.
    pub(super) watched: Option<Interest>,
    pub(super) connected: bool,
    /// The bytes to send.
    pub(super) unsent: SendQueue,
    /// Whether our side is shut down.
    shut_down: bool,
    /// Whether the server has closed its side.
    pub(super) peer_closed: bool,
    /// The error after which nothing can be sent. Received bytes may still be readable.
    pub(super) broken: Option<io::Error>,
}

impl Connection {
    /// Starts to connect. A Unix socket connects at once, or blocks while the backlog of the server
    /// is full: that cannot be awaited.
    pub(super) fn start(address: &Address) -> io::Result<Connection> {
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
            unsent: SendQueue::new(),
            shut_down: false,
            peer_closed: false,
            broken: None,
        })
    }

    /// Checks whether the connection is established.
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

    /// Returns true if the connection takes more input. Input from a file is taken even after the
    /// server has closed its side.
    pub(super) fn takes(&self, is_file: bool) -> bool {
        self.broken.is_none() && (is_file || !self.peer_closed)
    }

    pub(super) fn is_over(&self, is_file: bool) -> bool {
        self.peer_closed && (self.broken.is_some() || self.unsent.is_empty() && !is_file)
    }

    pub(super) fn interest(&self) -> Interest {
        if !self.connected {
            return Interest::WRITE;
        }
        Interest { readable: !self.peer_closed, writable: !self.unsent.is_empty() }
    }

    /// Sends as many bytes as the socket takes.
    pub(super) fn send(&mut self) {
        while let Some(chunk) = self.unsent.first() {
            match os::send(self.socket.as_fd(), chunk) {
                Ok(n) => self.unsent.advance(n),
                Err(error) if is_transient(&error) => return,
                Err(error) => {
                    self.unsent.clear();
                    self.broken = Some(error);
                }
            }
        }
    }

    /// Shuts our side down once everything is sent.
    pub(super) fn finish(&mut self) {
        if self.connected && self.unsent.is_empty() && !self.shut_down {
            self.shut_down = true;
            // It fails after a reset; the next receive reports that.
            let _ = os::shutdown_write(self.socket.as_fd());
        }
    }
}
