//! The counters of children, in memory that they share with their parent.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use proactor::counters::Counters;
use proactor::keys::{ConnId, ConnSlab};
use proactor::os::shared::SharedNumbers;

/// Numbers per child: two cache lines, so that no two children write to the same one.
const WIDTH: usize = 16;

/// A slot for each running child, which has the id of the child's only client.
#[derive(Debug)]
pub(super) struct SharedCounters {
    /// A free slot is all zero.
    numbers: SharedNumbers,
    slots: ConnSlab<()>,
}

impl SharedCounters {
    /// Allocates slots for so many children at a time.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub(super) fn new(children: usize) -> io::Result<SharedCounters> {
        Ok(SharedCounters {
            numbers: SharedNumbers::map(children * WIDTH)?,
            slots: ConnSlab::new(),
        })
    }

    /// Returns the slot of another child.
    ///
    /// # Panics
    /// If there are more children than slots.
    pub(super) fn open(&mut self) -> ConnId {
        let client = self.slots.insert(());
        let end = (client.slot() as usize + 1) * WIDTH;
        assert!(end <= self.numbers.len(), "a slot for every child");
        client
    }

    /// Frees the slot of a child that has ended. Returns what it counted.
    pub(super) fn close(&mut self, client: ConnId) -> Counters {
        let counters = self.read(client);
        self.write(client, &Counters::default());
        self.slots.remove(client);
        counters
    }

    /// Returns what the child has counted.
    pub(super) fn read(&self, client: ConnId) -> Counters {
        let mut counters = Counters::default();
        let numbers = self.numbers(client);
        for (to, from) in columns(&mut counters).into_iter().zip(numbers) {
            *to = from.load(Ordering::Relaxed);
        }
        counters
    }

    /// In the child: stores what it has counted, each number with one store. No other process
    /// writes here.
    pub(super) fn write(&self, client: ConnId, counters: &Counters) {
        let mut counters = *counters;
        for (from, to) in columns(&mut counters).into_iter().zip(self.numbers(client)) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    fn numbers(&self, client: ConnId) -> &[AtomicU64] {
        let begin = client.slot() as usize * WIDTH;
        &self.numbers[begin..begin + WIDTH]
    }
}

/// Returns the counters of children; the parent counts the others.
fn columns(counters: &mut Counters) -> [&mut u64; 9] {
    let Counters {
        iterations,
        calls,
        completed,
        receives,
        received_bytes,
        sends,
        sent_bytes,
        out_of_buffers,
        evicted,
        ..
    } = counters;
    [
        iterations,
        calls,
        completed,
        receives,
        received_bytes,
        sends,
        sent_bytes,
        out_of_buffers,
        evicted,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_outlive_their_child_and_the_slot_is_reused() {
        let mut shared = SharedCounters::new(2).unwrap();
        let [one, other] = [shared.open(), shared.open()];
        let counted =
            Counters { iterations: 1, received_bytes: 7, evicted: 1, ..Counters::default() };
        shared.write(one, &counted);
        assert_eq!(shared.read(other), Counters::default());
        assert_eq!(shared.close(one), counted);
        let next = shared.open();
        assert_eq!(next.slot(), one.slot());
        assert_ne!(next, one, "the generation has changed");
        assert_eq!(shared.read(next), Counters::default());
    }
}
