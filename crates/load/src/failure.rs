//! What can go wrong in a run: each one line, and each the end of it.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use super::pattern::Mismatch;
use proactor::address::Address;
use proactor_report::units;

/// Why a run is void. Connections count from 0, offsets are bytes of the connection's stream.
#[derive(Debug)]
pub enum Failure {
    /// A connection could not be opened.
    Connect {
        /// To where.
        address: Address,
        /// Which one.
        connection: usize,
        /// Why.
        error: io::Error,
    },
    /// A byte came back that is not the one that was sent.
    Wrong {
        /// On which connection.
        connection: usize,
        /// Where.
        at: Mismatch,
    },
    /// Bytes came that nobody had sent.
    Surplus {
        /// On which connection.
        connection: usize,
        /// After how many that had been sent.
        offset: u64,
        /// How many, at least.
        surplus: usize,
    },
    /// The server ended a connection that had not ended.
    Ended {
        /// Which one.
        connection: usize,
        /// After how many bytes of replies.
        offset: u64,
        /// How many bytes it still owed.
        owed: u64,
    },
    /// A connection broke.
    Broken {
        /// Which one.
        connection: usize,
        /// After how many bytes of replies.
        offset: u64,
        /// How.
        error: io::Error,
    },
    /// A connection was owed bytes, and none came.
    Stalled {
        /// Which one.
        connection: usize,
        /// After how many bytes of replies.
        offset: u64,
        /// How many bytes it is owed.
        owed: u64,
        /// For how long.
        patience: Duration,
    },
    /// The client itself failed.
    Client {
        /// What it was about to do.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl Failure {
    /// Whether bytes came that should not have: nothing that the server did can be trusted then.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Failure::Wrong { .. } | Failure::Surplus { .. })
    }

    /// The failure of the client itself, while it was about to do this.
    pub fn client(what: &'static str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure::Client { what, error }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect { address, connection, error } => {
                write!(f, "cannot connect to {address} (connection {connection}): {error}")
            }
            Failure::Wrong { connection, at } => {
                write!(f, "wrong reply on connection {connection}: {at}{}", hint(at.offset))
            }
            Failure::Surplus { connection, offset, surplus } => write!(
                f,
                "wrong reply on connection {connection}: {surplus} or more bytes after offset \
                 {offset} that were never sent"
            ),
            Failure::Ended { connection, offset, owed } => write!(
                f,
                "the server ended connection {connection} after {offset} bytes of replies and \
                 owes it {owed} more"
            ),
            Failure::Broken { connection, offset, error } => {
                write!(f, "connection {connection} broke after {offset} bytes of replies: {error}")
            }
            Failure::Stalled { connection, offset, owed, patience } => write!(
                f,
                "connection {connection} has stalled: after {offset} bytes of replies it is owed \
                 {owed} more, and none came for {}{}",
                units::span(*patience),
                hint(*offset)
            ),
            Failure::Client { what, error } => {
                write!(f, "the load generator cannot {what}: {error}")
            }
        }
    }
}

/// What it may be if not even the first bytes of a connection came back.
fn hint(offset: u64) -> &'static str {
    /// Who says something else than what was said to it does so at once.
    const FIRST: u64 = 64;
    if offset < FIRST { " (is it an echo server?)" } else { "" }
}

impl Error for Failure {}
