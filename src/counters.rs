//! What a server counts of itself, always: one addition each, no clock.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Counts since the start. The same names in every I/O model; what a model does not do stays zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Turns of the loop: each waits at most once.
    pub turns: u64,
    /// System calls, counted where they are made.
    pub calls: u64,
    /// Operations submitted to a ring.
    pub submitted: u64,
    /// Completions reaped from a ring, or reports of readiness.
    pub completed: u64,
    /// Times that completions had to wait outside a full completion queue.
    pub overflows: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed.
    pub closed: u64,
    /// Accepts that failed for want of a descriptor or of memory.
    pub refused: u64,
    /// Receives that brought bytes.
    pub receives: u64,
    /// The bytes they brought.
    pub received_bytes: u64,
    /// Sends that took bytes.
    pub sends: u64,
    /// The bytes they took.
    pub sent_bytes: u64,
    /// Receives that found no buffer.
    pub out_of_buffers: u64,
    /// Connections evicted because others waited for them.
    pub evicted: u64,
    /// Connections that the drain's deadline cut off.
    pub cut: u64,
}

impl Counters {
    /// Each with its name, in the order of their declaration.
    pub fn named(mut self) -> [(&'static str, u64); 15] {
        self.each().map(|(name, counter)| (name, *counter))
    }

    fn each(&mut self) -> [(&'static str, &mut u64); 15] {
        // Without `..`: a new one is not forgotten here.
        let Counters {
            turns,
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
        } = self;
        [
            ("turns", turns),
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
        ]
    }
}

impl AddAssign for Counters {
    /// Sums each of them: what the threads of one server have counted.
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
    fn every_counter_has_its_name() {
        let counters = Counters { turns: 1, cut: 2, ..Counters::default() };
        let all = serde_json::to_value(counters).unwrap();
        let all = all.as_object().unwrap();
        assert_eq!(all.len(), counters.named().len());
        assert!(counters.named().iter().all(|(name, value)| all[*name] == *value));
    }

    #[test]
    fn a_sum_is_one_of_every_counter() {
        let (mut sum, mut one) = (Counters::default(), Counters::default());
        (1..).zip(one.each()).for_each(|(n, (_, counter))| *counter = n);
        sum += one;
        sum += one;
        assert!((1..).zip(sum.named()).all(|(n, (_, counter))| counter == 2 * n));
    }
}
