//! Why a server cannot be set up, or ended.

use std::convert::Infallible;
use std::fmt;
use std::io;

/// Why a server cannot be set up, or ended before it was asked to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an address.
    #[non_exhaustive]
    Address {
        /// The text that was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address cannot be listened on.
    #[non_exhaustive]
    Listen {
        /// The address, as a user writes it.
        address: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel, or a limit of this process, refuses the model; of several that were tried, all.
    #[non_exhaustive]
    Refused {
        /// The name of the model that was asked for, or `auto`.
        model: &'static str,
        /// The reason, for each model that was tried.
        reason: String,
    },
    /// The model cannot do what the server asks for.
    #[non_exhaustive]
    Unsupported {
        /// The name of the model.
        model: &'static str,
        /// What it cannot do.
        what: String,
    },
    /// The kernel refused what the server as a whole needs while it ran.
    Loop(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Address { reason, .. } => f.write_str(reason),
            Error::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Error::Refused { model, reason } => write!(f, "no server by {model}: {reason}"),
            Error::Unsupported { model, what } => write!(f, "{model} cannot serve this: {what}"),
            Error::Loop(error) => write!(f, "the server failed: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Listen { source: error, .. } | Error::Loop(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Error {
        match never {}
    }
}

/// Why bytes from another thread were not taken; it returns them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// Too much waits already: the peer reads slowly.
    Full(Vec<u8>),
    /// The connection is closed, or the server has ended or cannot be reached by this model.
    Closed(Vec<u8>),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "too much waits to be sent already",
            SendError::Closed(_) => "the connection or the server is closed",
        })
    }
}

impl std::error::Error for SendError {}
