//! What children count, where their parent sees it: memory that they share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::Counters;
use crate::os::shared::Shared;

/// Numbers of one child; two cache lines, so that no two children write to the same.
const WIDTH: usize = 16;

/// A page for each child that lives.
#[derive(Debug)]
pub(super) struct Ledger {
    numbers: Shared,
    /// Pages that were given back, and were set to zero.
    free: Vec<Page>,
    /// The first page that was never taken.
    fresh: usize,
}

/// One child's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page(usize);

impl Ledger {
    /// For so many children at a time.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub(super) fn new(children: usize) -> io::Result<Ledger> {
        Ok(Ledger { numbers: Shared::map(children * WIDTH)?, free: Vec::new(), fresh: 0 })
    }

    /// A page for another child.
    ///
    /// # Panics
    /// If there are more children than were said.
    pub(super) fn open(&mut self) -> Page {
        self.free.pop().unwrap_or_else(|| {
            assert!((self.fresh + 1) * WIDTH <= self.numbers.len(), "a page for every child");
            self.fresh += 1;
            Page(self.fresh - 1)
        })
    }

    /// The child has ended, however: takes what it counted, and the page.
    pub(super) fn close(&mut self, page: Page) -> Counters {
        let counters = self.read(page);
        self.write(page, &Counters::default());
        self.free.push(page);
        counters
    }

    /// What the child has counted.
    pub(super) fn read(&self, page: Page) -> Counters {
        let mut counters = Counters::default();
        let numbers = self.numbers(page);
        for (to, from) in columns(&mut counters).into_iter().zip(numbers) {
            *to = from.load(Ordering::Relaxed);
        }
        counters
    }

    /// In the child: this is what it has counted. A store for each number: nobody else writes here.
    pub(super) fn write(&self, page: Page, counters: &Counters) {
        let mut counters = *counters;
        for (from, to) in columns(&mut counters).into_iter().zip(self.numbers(page)) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    fn numbers(&self, Page(page): Page) -> &[AtomicU64] {
        &self.numbers[page * WIDTH..(page + 1) * WIDTH]
    }
}

/// What children count; the rest is the parent's to count.
fn columns(counters: &mut Counters) -> [&mut u64; 9] {
    let Counters {
        turns,
        calls,
        completed,
        receives,
        received_bytes,
        sends,
        sent_bytes,
        starved,
        evicted,
        ..
    } = counters;
    [turns, calls, completed, receives, received_bytes, sends, sent_bytes, starved, evicted]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_outlives_who_counted_it_and_the_page_is_taken_again() {
        let mut ledger = Ledger::new(2).unwrap();
        let [one, other] = [ledger.open(), ledger.open()];
        let counted = Counters { turns: 1, received_bytes: 7, evicted: 1, ..Counters::default() };
        ledger.write(one, &counted);
        assert_eq!(ledger.read(other), Counters::default());
        assert_eq!(ledger.close(one), counted);
        let next = ledger.open();
        assert_eq!((next, ledger.read(next)), (one, Counters::default()));
    }
}
