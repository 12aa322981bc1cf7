//! The socket of a client connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proactor::address::Address;

/// A connected TCP or Unix socket.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    /// Connects, and disables Nagle's algorithm: no message waits for an acknowledgement.
    pub(super) fn connect(address: &Address, timeout: Duration) -> io::Result<ClientSocket> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                Ok(ClientSocket::Tcp(stream))
            }
            Address::Unix(path) => UnixStream::connect(path).map(ClientSocket::Unix),
        }
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            ClientSocket::Tcp(stream) => stream.set_nonblocking(true),
            ClientSocket::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Tcp(stream) => (&*stream).read(buffer),
            ClientSocket::Unix(stream) => (&*stream).read(buffer),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientSocket::Tcp(stream) => (&*stream).write(bytes),
            ClientSocket::Unix(stream) => (&*stream).write(bytes),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            ClientSocket::Tcp(stream) => stream.shutdown(how),
            ClientSocket::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ClientSocket::Tcp(stream) => stream.as_fd(),
            ClientSocket::Unix(stream) => stream.as_fd(),
        }
    }
}
