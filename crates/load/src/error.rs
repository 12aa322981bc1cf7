//! The errors of a run. Each is displayed as one line, and each ends the run.

use std::io;
use std::time::Duration;

use super::byte_stream::Mismatch;
use proactor::address::Address;
use proactor_report::units;

/// The result of what may make a run void.
pub(super) type Result<T = (), E = LoadError> = std::result::Result<T, E>;

/// Why a run is void. Connections are numbered from 0; offsets count the bytes of a connection's
/// stream of replies.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A connection cannot be opened.
    #[error("cannot connect to {address} (connection {connection}): {error}")]
    Connect {
        /// The address of the server.
        address: Address,
        /// The number of the connection.
        connection: usize,
        /// The error of the system call.
        error: io::Error,
    },
    /// A received byte differs from the expected one.
    #[error("wrong reply on connection {connection}: {at}{}", hint(at.offset))]
    Wrong {
        /// The number of the connection.
        connection: usize,
        /// The first byte that differs.
        at: Mismatch,
    },
    /// More bytes were received than expected.
    #[error(
        "wrong reply on connection {connection}: {surplus} or more bytes after offset {offset} \
         that answer no message"
    )]
    Surplus {
        /// The number of the connection.
        connection: usize,
        /// How many bytes of replies were expected.
        offset: u64,
        /// How many bytes were received beyond that, at least.
        surplus: usize,
    },
    /// The server closed a connection that was in use.
    #[error(
        "the server closed connection {connection} after {offset} bytes of replies{}",
        missing(*outstanding)
    )]
    Ended {
        /// The number of the connection.
        connection: usize,
        /// How many bytes of replies had been received.
        offset: u64,
        /// How many bytes of replies are missing.
        outstanding: u64,
    },
    /// A system call on a connection failed.
    #[error("connection {connection} failed after {offset} bytes of replies: {error}")]
    Broken {
        /// The number of the connection.
        connection: usize,
        /// How many bytes of replies had been received.
        offset: u64,
        /// The error of the system call.
        error: io::Error,
    },
    /// A connection received no byte for too long.
    #[error(
        "connection {connection} has stalled: after {offset} bytes of replies, {outstanding} bytes \
         are missing and none arrived for {}{}",
        units::span(*timeout),
        hint(*offset)
    )]
    Stalled {
        /// The number of the connection.
        connection: usize,
        /// How many bytes of replies had been received.
        offset: u64,
        /// How many bytes of replies are missing.
        outstanding: u64,
        /// How long the connection waited.
        timeout: Duration,
    },
    /// A connection in one direction did not move, or was not closed, for too long.
    #[error(
        "connection {connection} has stalled: after {bytes} bytes nothing moved and the server did \
         not close it for {}",
        units::span(*timeout)
    )]
    NotMoving {
        /// The number of the connection.
        connection: usize,
        /// How many bytes were sent and received.
        bytes: u64,
        /// How long the connection waited.
        timeout: Duration,
    },
    /// The client itself failed.
    #[error("the load generator cannot {what}: {error}")]
    Client {
        /// The action that failed, as an infinitive.
        what: &'static str,
        /// The error of the system call.
        error: io::Error,
    },
}

impl LoadError {
    /// Returns true if a received byte was wrong. Nothing that the server did can be trusted then.
    pub fn is_wrong(&self) -> bool {
        matches!(self, LoadError::Wrong { .. } | LoadError::Surplus { .. })
    }

    /// Returns a function that makes an [`LoadError::Client`] of an error.
    pub fn client(what: &'static str) -> impl Fn(io::Error) -> LoadError {
        move |error| LoadError::Client { what, error }
    }
}

/// A likely cause if not even the first bytes of a connection came back.
fn hint(offset: u64) -> &'static str {
    /// A server with another protocol differs from an echo server within its first bytes.
    const FIRST: u64 = 64;
    if offset < FIRST { " (does it serve another protocol?)" } else { "" }
}

/// Names the bytes that a server still had to send; between two messages there are none.
fn missing(outstanding: u64) -> String {
    if outstanding > 0 { format!(": {outstanding} bytes are missing") } else { String::new() }
}
