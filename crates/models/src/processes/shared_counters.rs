//! The counters of children, in memory that they share with their parent.

use std::io;

use proactor::counters::{Counters, LiveCounters};
use proactor::keys::{ConnId, ConnSlab};
use proactor::os::shared::SharedNumbers;

/// A slot for each running child, which has the id of the child's only client.
#[derive(Debug)]
pub(super) struct SharedCounters {
    /// A free slot is all zero. Each is of two cache lines, so that no two children write to the
    /// same one.
    numbers: SharedNumbers,
    slots: ConnSlab<()>,
}

impl SharedCounters {
    /// Allocates slots for so many children at a time.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub(super) fn new(children: usize) -> io::Result<SharedCounters> {
        let numbers = SharedNumbers::map(children * Counters::COUNT)?;
        Ok(SharedCounters { numbers, slots: ConnSlab::default() })
    }

    /// Returns the slot of another child.
    pub(super) fn open(&mut self) -> ConnId {
        self.slots.insert(())
    }

    /// Frees the slot of a child that has ended. Returns what it counted.
    pub(super) fn close(&mut self, client: ConnId) -> Counters {
        let counters = Counters::load(self.of(client));
        Counters::default().store(self.of(client));
        self.slots.remove(client);
        counters
    }

    /// What a child has counted: no other process writes here.
    ///
    /// # Panics
    /// If there are more children than slots.
    pub(super) fn of(&self, client: ConnId) -> &LiveCounters {
        &self.numbers.as_chunks().0[client.slot() as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_outlive_their_child_and_the_slot_is_reused() {
        let mut shared = SharedCounters::new(2).unwrap();
        let [one, other] = [shared.open(), shared.open()];
        let mut counted = Counters::default();
        (counted.iterations, counted.received_bytes, counted.evicted) = (1, 7, 1);
        counted.store(shared.of(one));
        assert_eq!(Counters::load(shared.of(other)), Counters::default());
        assert_eq!(shared.close(one), counted);
        let next = shared.open();
        assert_eq!(next.slot(), one.slot());
        assert_ne!(next, one, "the generation has changed");
        assert_eq!(Counters::load(shared.of(next)), Counters::default());
    }
}
