//! Connects to a server.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proactor::address::Address;

/// Connects, and disables Nagle's algorithm: no message waits for an acknowledgement. A Unix socket
/// is a `TcpStream` here too, since reading, writing and shutting down are the same system calls.
///
/// # Errors
/// Nothing listens at the address, or a TCP server does not answer within `timeout`.
pub fn connect(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, timeout)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Address::Unix(path) => Ok(OwnedFd::from(UnixStream::connect(path)?).into()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
