//! What bounds a server, and how it comes to its end: the same for every loop.

use std::time::Duration;

use crate::clock::Nanos;
use crate::connection::Context;

/// How long no connection is accepted after the kernel had no descriptor or memory for one, unless
/// one of ours closes before.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at a time. Who comes beyond waits, unserved, until one leaves.
    pub connections: usize,
    /// How long a drain may take.
    pub drain: Duration,
    /// Bytes of input that a protocol may leave untaken; beyond, its connection is aborted.
    pub max_input: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: 10_000, drain: Duration::from_secs(5), max_input: Context::MAX_INPUT }
    }
}

/// How a server came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and every connection was finished or, past the deadline, cut off.
    Drained,
    /// It was asked twice.
    AtOnce,
}

/// How far a server is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connections are accepted and served.
    Serving,
    /// Until when those who are left may take.
    Draining(Nanos),
    /// Past the deadline: who was left has been broken.
    Cutting,
}

impl Stage {
    /// When who is left will be broken.
    pub fn deadline(self) -> Option<Nanos> {
        match self {
            Stage::Draining(until) => Some(until),
            Stage::Serving | Stage::Cutting => None,
        }
    }

    /// How it is to end, who was asked to stop so many times since it last looked: the first time
    /// it drains, and who is asked again ends at once. `None` if nobody asked.
    pub fn asked(self, times: u64) -> Option<Ended> {
        match (times, self) {
            (0, _) => None,
            (1, Stage::Serving) => Some(Ended::Drained),
            _ => Some(Ended::AtOnce),
        }
    }
}
