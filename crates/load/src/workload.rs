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

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Workload {
    /// The number of connections, and the load on each of them. With an example of a protocol, the
    /// size is that of its request.
    #[serde(flatten)]
    pub shape: LoadShape,
    /// What an open loop offers; `None` for a closed loop.
    #[serde(flatten)]
    pub offer: Option<Offer>,
}

impl From<LoadShape> for Workload {
    /// Returns a closed loop.
    fn from(shape: LoadShape) -> Workload {
        Workload { shape, offer: None }
    }
}

impl Workload {
    /// Refuses numbers that are zero, or above their maximum.
    pub(super) fn check(&self) -> io::Result<()> {
        let LoadShape { connections, size, depth } = self.shape;
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let limits = [
            ("connections", connections, CONNECTIONS_MAX),
            ("bytes per message", size, SIZE_MAX),
            ("outstanding messages", depth, DEPTH_MAX),
        ];
        for (what, value, max) in limits {
            if value == 0 || value > max {
                return invalid(format!("{value} {what}: must be between 1 and {max}"));
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
        size.saturating_mul(if self.offer.is_some() { depth.min(AT_ONCE) } else { depth })
    }
}
