//! Connects to a server.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use proactor::address::Address;

/// Connects, and disables Nagle's algorithm: no message waits for an acknowledgement. A Unix socket
/// is a `TcpStream` here too, since reading, writing and shutting down are the same system calls.
///
/// # Errors
/// Nothing listens at the address, the server does not answer within `timeout`, or this client has
/// no port left, which the error says together with the remedy.
pub fn connect(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::from(address.connect(timeout).map_err(explain)?);
    if !matches!(address, Address::Unix(_)) {
        stream.set_nodelay(true)?;
    }
    Ok(stream)
}

/// Says what the client lacks.
fn explain(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::AddrNotAvailable {
        return error;
    }
    let remedy = "no port of this client is free for the address, or this machine cannot reach it: \
                  wait a minute until closed connections have left TIME_WAIT, or raise \
                  net.ipv4.ip_local_port_range";
    io::Error::new(error.kind(), format!("{error}: {remedy}"))
}
