//! What every server counts, always: one addition each, no clock.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start. The names are the same in every I/O model; a counter that a model does
/// not use stays zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Iterations of the loop: each waits at most once.
    pub iterations: u64,
    /// System calls of the thread.
    pub calls: u64,
    /// Operations submitted to a ring.
    pub submitted: u64,
    /// Completions reaped from a ring, or reports of readiness.
    pub completed: u64,
    /// Enters after which completions waited outside a full completion queue.
    pub overflows: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Accepts that failed because descriptors or memory ran out.
    pub refused: u64,
    /// Receives that returned bytes.
    pub receives: u64,
    /// Bytes that were received.
    pub received_bytes: u64,
    /// Sends that took at least one byte.
    pub sends: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Receives that found no buffer.
    pub out_of_buffers: u64,
    /// Connections evicted because other connections waited for them.
    pub evicted: u64,
    /// Connections still open at the drain's deadline.
    pub cut: u64,
    /// Calls of a protocol that panicked; each costs its connection.
    pub panicked: u64,
}

impl Counters {
    /// The number of counters.
    pub const COUNT: usize = 16;

    /// Returns each counter with its name, in the order of declaration.
    pub fn named(mut self) -> [(&'static str, u64); Counters::COUNT] {
        self.each().map(|(name, counter)| (name, *counter))
    }

    /// Returns the counters with these names. Unknown names are ignored, and missing ones are zero.
    pub fn from_named<'n>(named: impl IntoIterator<Item = (&'n str, u64)>) -> Counters {
        let mut counters = Counters::default();
        for (name, value) in named {
            if let Some((_, counter)) =
                counters.each().into_iter().find(|(known, _)| *known == name)
            {
                *counter = value;
            }
        }
        counters
    }

    /// Publishes the counters to `live`.
    pub fn store(mut self, live: &LiveCounters) {
        for (live, (_, value)) in live.iter().zip(self.each()) {
            live.store(*value, Ordering::Relaxed);
        }
    }

    /// Returns what was published. The values are not of one instant.
    pub fn load(live: &LiveCounters) -> Counters {
        let mut counters = Counters::default();
        for (live, (_, value)) in live.iter().zip(counters.each()) {
            *value = live.load(Ordering::Relaxed);
        }
        counters
    }

    fn each(&mut self) -> [(&'static str, &mut u64); Counters::COUNT] {
        // Without `..`, so that a new counter cannot be forgotten here.
        let Counters {
            iterations,
            calls,
            submitted,
            completed,
            overflows,
            accepted,
            closed,
            refused,
            receives,
            received_bytes,
            sends,
            sent_bytes,
            out_of_buffers,
            evicted,
            cut,
            panicked,
        } = self;
        [
            ("iterations", iterations),
            ("calls", calls),
            ("submitted", submitted),
            ("completed", completed),
            ("overflows", overflows),
            ("accepted", accepted),
            ("closed", closed),
            ("refused", refused),
            ("receives", receives),
            ("received_bytes", received_bytes),
            ("sends", sends),
            ("sent_bytes", sent_bytes),
            ("out_of_buffers", out_of_buffers),
            ("evicted", evicted),
            ("cut", cut),
            ("panicked", panicked),
        ]
    }
}

/// Counters that one thread or process writes and any may read: on x86-64, plain stores and loads.
pub type LiveCounters = [AtomicU64; Counters::COUNT];

impl AddAssign for Counters {
    /// Adds each counter: the sum over the threads of one server.
    fn add_assign(&mut self, mut other: Counters) {
        for ((_, sum), (_, counter)) in self.each().into_iter().zip(other.each()) {
            *sum += *counter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let mut counters = Counters::default();
        (1..).zip(counters.each()).for_each(|(n, (_, counter))| *counter = n);
        assert_eq!(Counters::from_named(counters.named()), counters);
        let some = Counters::from_named([("cut", 2), ("no such counter", 3)]);
        assert_eq!(some, Counters { cut: 2, ..Counters::default() });
    }

    #[test]
    fn a_sum_adds_every_counter() {
        let (mut sum, mut one) = (Counters::default(), Counters::default());
        (1..).zip(one.each()).for_each(|(n, (_, counter))| *counter = n);
        sum += one;
        sum += one;
        assert!((1..).zip(sum.named()).all(|(n, (_, counter))| counter == 2 * n));
    }
}
