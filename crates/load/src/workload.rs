//! What the client does: a value that `load` and `compare` share.

use std::io;

use serde::Serialize;

use super::send_times::Offer;

/// The maximum number of connections: the number of TCP ports.
pub const CONNECTIONS_MAX: usize = 65_535;
/// The maximum size of a message in bytes.
pub const SIZE_MAX: usize = 16 << 20;
/// The maximum number of outstanding messages of a connection.
pub const DEPTH_MAX: usize = 4096;
/// The longest line of a chat, with its end.
const LINE_MAX: usize = 16 << 10;
/// The highest rate of an open loop, in messages per second.
pub const RATE_MAX: f64 = 100e6;

/// The number of connections, and the load on each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadShape {
    /// The number of connections.
    pub connections: usize,
    /// The bytes of a message.
    pub size: usize,
    /// The maximum number of outstanding messages of a connection.
    pub depth: usize,
}

impl LoadShape {
    /// Returns the maximum number of outstanding bytes of a connection.
    pub fn window(&self) -> usize {
        self.size.saturating_mul(self.depth)
    }
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Sends messages and receives their replies.
    #[default]
    Echo,
    /// Connects, exchanges one message, closes, and connects again.
    Churn,
    /// Sends bytes to a server that discards them.
    Upload,
    /// Receives the bytes of a server that generates characters.
    Download,
    /// The first connection sends lines to a chat; all others receive each of them.
    Fanout,
}

impl Pattern {
    /// Returns whether a connection ends before the run does.
    pub(super) fn reconnects(self) -> bool {
        self.is_one_way() || self == Pattern::Churn
    }

    /// Returns the protocol that its servers must have; `None` if any will do whose replies can be
    /// verified.
    pub fn protocol(self) -> Option<&'static str> {
        match self {
            Pattern::Echo | Pattern::Churn => None,
            Pattern::Upload => Some("discard"),
            Pattern::Download => Some("chargen"),
            Pattern::Fanout => Some("chat"),
        }
    }

    /// Returns whether bytes go in one direction, without messages.
    pub fn is_one_way(self) -> bool {
        matches!(self, Pattern::Upload | Pattern::Download)
    }
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Workload {
    /// What each connection does.
    #[serde(rename = "workload")]
    pub pattern: Pattern,
    /// The number of connections, and the load on each of them. With an example of a protocol, the
    /// size is that of its request.
    #[serde(flatten)]
    pub shape: LoadShape,
    /// The largest message, if sizes are mixed: each is drawn from `size` to this, with all powers
    /// of two equally often.
    pub size_max: Option<usize>,
    /// Connections that are open beside those, and idle after their first message.
    pub idle_connections: usize,
    /// Connections beside those that send much and read slowly.
    pub slow_readers: usize,
    /// What an open loop offers; `None` for a closed loop.
    #[serde(flatten)]
    pub offer: Option<Offer>,
}

impl From<LoadShape> for Workload {
    /// Returns echo in a closed loop.
    fn from(shape: LoadShape) -> Workload {
        let pattern = Pattern::Echo;
        let (idle_connections, slow_readers) = (0, 0);
        Workload { pattern, shape, size_max: None, idle_connections, slow_readers, offer: None }
    }
}

impl Workload {
    /// Returns the number of all connections to a server.
    pub fn all_connections(&self) -> usize {
        self.shape.connections + self.idle_connections + self.slow_readers
    }

    /// Refuses numbers that are too small or too large.
    pub(super) fn check(&self) -> io::Result<()> {
        let LoadShape { connections, size, depth } = self.shape;
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        // A line has at least one character and its end; the longest is that of the chat.
        let is_fanout = self.pattern == Pattern::Fanout;
        let (least, size_max) = if is_fanout { (2, LINE_MAX) } else { (1, SIZE_MAX) };
        let most = self.size_max.unwrap_or(size);
        let limits = [
            ("connections", connections, least, CONNECTIONS_MAX),
            ("bytes per message", size, least, size_max),
            ("bytes per message", most, size, size_max),
            ("outstanding messages", depth, 1, DEPTH_MAX),
            ("connections in all", self.all_connections(), 1, CONNECTIONS_MAX),
        ];
        for (what, value, min, max) in limits {
            if !(min..=max).contains(&value) {
                return invalid(format!("{value} {what}: must be between {min} and {max}"));
            }
        }
        match self.offer {
            Some(Offer { rate, .. }) if !(rate > 0.0 && rate <= RATE_MAX) => {
                invalid(format!("{rate} messages per second: must be above 0, at most {RATE_MAX}"))
            }
            _ => Ok(()),
        }
    }

    /// Returns how many bytes of a connection an engine sends or receives at a time, at most. An
    /// open loop rarely has as many messages outstanding as it may.
    pub(super) fn buffer_len(&self) -> usize {
        /// The messages of an open loop for which there is space.
        const AT_ONCE: usize = 16;
        let LoadShape { size, depth, .. } = self.shape;
        let depth = if self.offer.is_some() { depth.min(AT_ONCE) } else { depth };
        self.size_max.unwrap_or(size).saturating_mul(depth)
    }
}
