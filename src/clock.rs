//! Time as the loops know it: nanoseconds since some fixed moment.
//!
//! The state machines do not choose a clock: the engine passes them one
//! ([`Clock`](crate::os::Clock)), so that a test or a simulator can pass its own.

use std::ops::Add;
use std::time::Duration;

/// A moment, in nanoseconds of a monotonic clock whose zero means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Returns the earlier of two moments that may not be set.
pub fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

impl Add<Duration> for Nanos {
    type Output = Nanos;

    fn add(self, span: Duration) -> Nanos {
        Nanos(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
