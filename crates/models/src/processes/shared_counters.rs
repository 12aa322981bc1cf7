//! The counters of children, and the account of what all processes hold, in memory that they share
//! with their parent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proactor::counters::{Counters, LiveCounters};
use proactor::keys::{ConnId, ConnSlab};
use proactor::memory::HeldTotal;
use proactor::os::shared::SharedNumbers;

/// A slot for each running child, which has the id of the child's only client.
#[derive(Debug)]
pub(super) struct SharedCounters {
    /// A free slot is all zero. Each is of whole cache lines, so that no two children write to the
    /// same one.
    numbers: SharedNumbers,
    held: Arc<SharedNumbers>,
    slots: ConnSlab<()>,
}

/// What all processes of a server hold, as one of them adds to it.
#[derive(Debug)]
pub(super) struct HeldByAll {
    /// The sum of all; then what the parent holds of it, and each child, by its slot.
    numbers: Arc<SharedNumbers>,
    /// The number of this process.
    own: usize,
}

/// The numbers of a slot.
const SLOT: usize = Counters::COUNT.next_multiple_of(8);

/// Where the parent's number is. Those of the children follow.
const PARENT: usize = 1;

impl HeldTotal for HeldByAll {
    fn get(&self) -> usize {
        self.numbers[0].load(Ordering::Relaxed) as usize
    }

    /// A child may be killed between the two: then the sum is too large by what it added last, and
    /// never too small.
    fn add(&self, more: isize) {
        for at in if more > 0 { [0, self.own] } else { [self.own, 0] } {
            self.numbers[at].fetch_add(more as u64, Ordering::SeqCst); // Wraps around for less.
        }
    }
}

impl SharedCounters {
    /// Allocates slots for so many children at a time.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub(super) fn new(children: usize) -> io::Result<SharedCounters> {
        let numbers = SharedNumbers::map(children * SLOT)?;
        let held = Arc::new(SharedNumbers::map(PARENT + 1 + children)?);
        Ok(SharedCounters { numbers, held, slots: ConnSlab::default() })
    }

    /// Returns the account of what all processes hold, for the parent or for a child.
    pub(super) fn held(&self, child: Option<ConnId>) -> Arc<dyn HeldTotal> {
        let own = child.map_or(PARENT, |child| PARENT + 1 + child.slot() as usize);
        Arc::new(HeldByAll { numbers: Arc::clone(&self.held), own })
    }

    /// Returns the slot of another child.
    pub(super) fn open(&mut self) -> ConnId {
        self.slots.insert(())
    }

    /// Frees the slot of a child that has ended. Returns what it counted.
    pub(super) fn close(&mut self, client: ConnId) -> Counters {
        let counters = Counters::load(self.of(client));
        Counters::default().store(self.of(client));
        // What a child that was killed held is free.
        let left = self.held[PARENT + 1 + client.slot() as usize].swap(0, Ordering::SeqCst);
        self.held[0].fetch_sub(left, Ordering::SeqCst);
        self.slots.remove(client);
        counters
    }

    /// What a child has counted: no other process writes here.
    ///
    /// # Panics
    /// If there are more children than slots.
    pub(super) fn of(&self, client: ConnId) -> &LiveCounters {
        let slot = &self.numbers.as_chunks::<SLOT>().0[client.slot() as usize];
        slot.first_chunk().expect("a slot has space for every counter")
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

    #[test]
    fn what_a_killed_child_held_is_free_again() {
        let mut shared = SharedCounters::new(2).unwrap();
        let [parent, one, other] =
            [None, Some(shared.open()), Some(shared.open())].map(|it| (it, shared.held(it)));
        [(&parent, 5), (&one, 100), (&other, 30), (&other, -10)]
            .into_iter()
            .for_each(|((_, held), more)| held.add(more));
        assert_eq!(parent.1.get(), 125);
        shared.close(one.0.unwrap());
        assert_eq!(parent.1.get(), 25);
        other.1.add(-20); // It ends in order.
        shared.close(other.0.unwrap());
        assert_eq!(parent.1.get(), 5);
    }
}
