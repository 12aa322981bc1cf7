//! Memory that is given back to the kernel some time after a crowd of connections has left.
//!
//! The allocator keeps what is freed, and a buffer that was used once stays resident. Both are of
//! use while connections come and go; afterwards they only add to the size of the server.

use std::time::Duration;

use crate::clock::Nanos;
use crate::os;

/// How long after the first of many closes memory is given back.
const AFTER: Duration = Duration::from_secs(2);
/// So many connections fewer are a crowd that has left; and so many bytes fewer that were queued.
const CONNECTIONS: usize = 64;
const BYTES: usize = 1 << 20;

/// When memory is given back.
#[derive(Debug, Default)]
pub struct Trim {
    /// The most connections, and the most bytes that they held, since memory was last given back.
    most: [usize; 2],
    wanted: bool,
    due: Option<Nanos>,
    /// False in a loop that does not run on its own: nothing is given back.
    enabled: bool,
}

impl Trim {
    /// Gives memory back from now on.
    pub fn enable(&mut self) {
        self.enabled = true;
    }

    /// A connection is about to be closed, one of so many, which hold so many bytes; it received in
    /// `bulk`.
    pub fn closes(&mut self, connections: usize, held: usize, bulk: bool) {
        self.most = [self.most[0].max(connections), self.most[1].max(held)];
        let fewer = self.most[0] - connections >= CONNECTIONS || self.most[1] - held >= BYTES;
        self.wanted |= self.enabled && (fewer || bulk);
    }

    /// Returns true if [`run`](Trim::run) must be called.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Returns when memory is given back, if it will be.
    pub fn next_timer(&self) -> Option<Nanos> {
        self.due
    }

    /// Gives free memory of the heap back if it is time. Returns true if it did: what else is kept
    /// for later use goes too.
    #[cold]
    pub fn run(&mut self, now: Nanos) -> bool {
        let due = *self.due.get_or_insert(now + AFTER);
        let is_due = due <= now;
        if is_due {
            *self = Trim { enabled: true, ..Trim::default() };
            os::trim_heap();
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_after_a_crowd_or_bulk_and_not_after_each_close() {
        let at = |seconds| Nanos(0) + Duration::from_secs(seconds);
        let mut trim = Trim::default();
        trim.closes(1, 0, true);
        assert!(!trim.is_wanted());
        trim.enable();
        trim.closes(10, 5000, false);
        assert!(!trim.is_wanted() && trim.next_timer().is_none());
        (100..200).rev().for_each(|connections| trim.closes(connections, 0, false));
        assert!(trim.is_wanted() && !trim.run(at(10)));
        assert_eq!(trim.next_timer(), Some(at(12)));
        assert!(!trim.run(at(11)) && trim.run(at(12)));
        assert!(!trim.is_wanted() && trim.next_timer().is_none());
        trim.closes(1, 0, true);
        assert!(trim.is_wanted());
    }
}
