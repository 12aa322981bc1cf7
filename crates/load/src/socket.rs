//! Connects to a server.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use proactor::address::Address;

/// Connects, and disables Nagle's algorithm: no message waits for an acknowledgement. A Unix socket
/// is a `TcpStream` here too, since reading, writing and shutting down are the same system calls.
///
/// # Errors
/// Nothing listens at the address, or the server does not answer within `timeout`.
pub fn connect(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::from(address.connect(timeout)?);
    if let Address::Tcp(_) = address {
        stream.set_nodelay(true)?;
    }
    Ok(stream)
}
