//! What bounds a server, how it ends, and why a connection ends.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::network::Network;
use crate::rate::Rate;

/// What bounds a server: the defaults, of which [`Builder::limits`](crate::Builder::limits) changes
/// some.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Connections served at a time. Further ones wait until one closes.
    pub connections: usize,
    /// At the limit of connections, the oldest that has never sent a byte is closed after this
    /// time; `None` closes none. One whose protocol
    /// [allows silence](crate::Protocol::allow_silence) is never closed.
    pub silent_timeout: Option<Duration>,
    /// Connections of one address at a time, of an IPv6 network of 64 bits; further ones are
    /// closed. Without limit if `None`. Peers of Unix sockets have no address.
    pub connections_per_address: Option<usize>,
    /// Connections accepted in a time, at all listeners together; further ones wait.
    pub accept_rate: Option<Rate>,
    /// Connections of one address in a time; further ones are closed.
    pub accept_rate_per_address: Option<Rate>,
    /// Networks whose addresses have no limit of their own.
    pub exempt: Vec<Network>,
    /// How long a drain may take.
    pub drain: Duration,
    /// Bytes of input that a protocol may leave untaken; beyond, its connection is aborted.
    pub max_input: usize,
    /// Bytes of user memory that the server may use in all; see `MemoryPlan`.
    pub memory: usize,
    /// The part of it for what is queued and for untaken input; a model that is set up sets it.
    #[doc(hidden)]
    pub queues: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            silent_timeout: Some(Duration::from_secs(60)),
            connections_per_address: None,
            accept_rate: None,
            accept_rate_per_address: None,
            exempt: Vec::new(),
            drain: Duration::from_secs(5),
            max_input: MAX_INPUT,
            memory: MEMORY,
            queues: MEMORY / 2,
        }
    }
}

/// The limit of user memory where none is given and the size of the machine is not known.
const MEMORY: usize = 256 << 20;

/// The limit of untaken input where none is given, in bytes.
pub const MAX_INPUT: usize = 1 << 20;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and every connection was finished or, past the deadline, cut.
    Drained,
    /// It was asked to stop twice.
    AtOnce,
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// Both directions ended in order, and everything was sent.
    Finished,
    /// A call on its socket failed with this errno.
    Failed(i32),
    /// Others waited for it, and it took nothing of what it was owed.
    Stalled,
    /// More was queued for it than a server keeps for one connection.
    QueueFull,
    /// The peer did not close in time after everything was sent to it.
    LingerTimeout,
    /// The deadline of the drain passed.
    Cut,
    /// The operator closed it.
    Kicked,
    /// A [`PeerHandle`](crate::PeerHandle) closed it.
    Handle,
    /// Its protocol aborted it, or left more input untaken than is permitted.
    Aborted,
    /// A call of its protocol panicked.
    Panicked,
    /// The server could not serve it: no descriptor, memory or thread was left.
    Refused,
    /// It had never sent a byte, and the server was at its limit of connections.
    Silent,
    /// Its address had too many connections.
    AddressLimit,
    /// Its address connected too often.
    AddressRate,
}

impl CloseReason {
    /// The reason for a call that failed.
    pub fn failed(error: &io::Error) -> CloseReason {
        CloseReason::Failed(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Returns true if the server gave the connection up because others waited for it.
    pub fn is_eviction(self) -> bool {
        matches!(self, CloseReason::Stalled | CloseReason::QueueFull)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::Finished => "finished",
            CloseReason::Failed(errno) => {
                return io::Error::from_raw_os_error(*errno).fmt(f);
            }
            CloseReason::Stalled => "evicted: others wait for it, and it reads nothing",
            CloseReason::QueueFull => "evicted: too much is queued for it",
            CloseReason::LingerTimeout => "the peer did not close in time",
            CloseReason::Cut => "cut at the deadline of the drain",
            CloseReason::Kicked => "closed by the operator",
            CloseReason::Handle => "closed by a handle",
            CloseReason::Aborted => "aborted by its protocol",
            CloseReason::Panicked => "its protocol panicked",
            CloseReason::Refused => "refused for want of resources",
            CloseReason::Silent => "it never sent a byte, and the server is full",
            CloseReason::AddressLimit => "its address has too many connections",
            CloseReason::AddressRate => "its address connects too often",
        })
    }
}
