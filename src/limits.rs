//! What bounds a server, how it ends, and why a connection ends.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::network::Network;
use crate::os;
use crate::rate::Rate;

pub use crate::timeouts::Timeouts;

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
    /// If set, each connection begins with a header of the PROXY protocol, as a balancer sends it:
    /// the address in it is that of the peer, for the limits, the log and the protocols. Other
    /// connections are closed, and if networks are given, those that do not come from them.
    pub proxy_protocol: Option<Vec<Network>>,
    /// How long a drain may take.
    pub drain: Duration,
    /// Bytes of input that a protocol may leave untaken; beyond, its connection is aborted.
    pub max_input: usize,
    /// Bytes of user memory that the server may use in all. `None`: a quarter of that of the
    /// machine or of its cgroup, whichever is less.
    pub memory: Option<usize>,
    /// The part of it for what is queued and for untaken input; a model that is set up sets it.
    #[doc(hidden)]
    pub queues: usize,
    /// The time limits of each connection.
    pub timeouts: Timeouts,
    /// How long a TCP connection is idle before the kernel asks whether its peer is still there;
    /// `None` does not ask.
    pub keepalive: Option<Duration>,
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
            proxy_protocol: None,
            drain: Duration::from_secs(5),
            max_input: MAX_INPUT,
            memory: None,
            queues: QUEUES,
            timeouts: Timeouts::default(),
            keepalive: Some(Duration::from_secs(300)),
        }
    }
}

impl Limits {
    /// Limits what the kernel does for the connections of `listener`, which inherit it: it holds
    /// [`UNSENT_MAX`] bytes that are not sent, and notices that a peer has vanished. Bytes that are
    /// not acknowledged may wait no shorter than the server itself lets them wait.
    ///
    /// # Errors
    /// setsockopt(2).
    pub fn limit_kernel(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        os::limit_unsent(listener, UNSENT_MAX)?;
        let Some(idle) = self.keepalive else { return Ok(()) };
        let gives_up = self.timeouts.send.map(|send| 2 * send.max(idle));
        os::set_keepalive(listener, idle, gives_up)
    }
}

/// The bytes that the kernel holds of a TCP connection and has not sent, at most: what a peer does
/// not read is better left in the queue of the server, which is accounted for. More would not make
/// a fast peer faster, because the socket takes more as soon as half of it is sent.
pub const UNSENT_MAX: u32 = 128 << 10;

/// What may be queued in a server whose model was not set up.
const QUEUES: usize = 128 << 20;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CloseReason {
    /// Everything was sent, and both directions ended in order; or the server drains, and the peer
    /// has acknowledged everything.
    #[default]
    Finished,
    /// A call on its socket failed with this errno.
    Failed(i32),
    /// Others waited for it, and its peer acknowledged nothing for this time.
    Stalled(Duration),
    /// It was owed bytes, and its peer acknowledged nothing for this time.
    SendTimeout(Duration),
    /// Nothing was received and nothing sent for this time.
    Idle(Duration),
    /// Its peer sent nothing for this time after it was accepted.
    NoFirstByte(Duration),
    /// A message of its peer was incomplete for this time.
    Incomplete(Duration),
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
    /// It did not begin with a valid header of the PROXY protocol.
    ProxyHeader,
}

impl CloseReason {
    /// The reason for a call that failed.
    pub fn failed(error: &io::Error) -> CloseReason {
        CloseReason::Failed(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Returns true if the server gave the connection up because others waited for it.
    pub fn is_eviction(self) -> bool {
        matches!(self, CloseReason::Stalled(_) | CloseReason::QueueFull)
    }

    /// Returns true if a time limit of the connection is over.
    pub fn is_timeout(self) -> bool {
        use CloseReason::*;
        matches!(self, Stalled(_) | SendTimeout(_)) || self.ends_in_order()
    }

    /// Returns true for a time limit after which the connection ends in order.
    pub fn ends_in_order(self) -> bool {
        use CloseReason::*;
        matches!(self, Idle(_) | NoFirstByte(_) | Incomplete(_))
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CloseReason::*;
        let (text, time) = match *self {
            Failed(errno) => return io::Error::from_raw_os_error(errno).fmt(f),
            Stalled(time) => {
                ("evicted: others wait for it, and its peer acknowledged nothing", Some(time))
            }
            SendTimeout(time) => ("its peer acknowledged nothing of what is queued", Some(time)),
            Idle(time) => ("idle", Some(time)),
            NoFirstByte(time) => ("its peer sent nothing", Some(time)),
            Incomplete(time) => ("a message of its peer was incomplete", Some(time)),
            Finished => ("finished", None),
            QueueFull => ("evicted: too much is queued for it", None),
            LingerTimeout => ("the peer did not close in time", None),
            Cut => ("cut at the deadline of the drain", None),
            Kicked => ("closed by the operator", None),
            Handle => ("closed by a handle", None),
            Aborted => ("aborted by its protocol", None),
            Panicked => ("its protocol panicked", None),
            Refused => ("refused for want of resources", None),
            Silent => ("it never sent a byte, and the server is full", None),
            AddressLimit => ("its address has too many connections", None),
            AddressRate => ("its address connects too often", None),
            ProxyHeader => ("no valid PROXY header", None),
        };
        f.write_str(text)?;
        time.map_or(Ok(()), |time| write!(f, " for {time:?}"))
    }
}
