//! What children count, where their parent sees it: memory that they share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use proactor::counters::Counters;
use proactor::keys::{ConnId, Keys};
use proactor::os::shared::Shared;

/// Numbers of one child; two cache lines, so that no two children write to the same.
const WIDTH: usize = 16;

/// A page for each child that lives.
#[derive(Debug)]
pub(super) struct Ledger {
    /// A page that is nobody's is all zero.
    numbers: Shared,
    tenants: Keys<()>,
}

/// One child's page: the slot of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page(ConnId);

impl Page {
    /// Whose it is, the only one whom this child serves.
    pub(super) fn client(self) -> ConnId {
        self.0
    }
}

impl Ledger {
    /// For so many children at a time.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub(super) fn new(children: usize) -> io::Result<Ledger> {
        Ok(Ledger { numbers: Shared::map(children * WIDTH)?, tenants: Keys::new() })
    }

    /// A page for another child.
    ///
    /// # Panics
    /// If there are more children than were said.
    pub(super) fn open(&mut self) -> Page {
        let page = Page(self.tenants.insert(()));
        let end = (page.0.slot() as usize + 1) * WIDTH;
        assert!(end <= self.numbers.len(), "a page for every child");
        page
    }

    /// The child has ended, however: takes what it counted, and the page.
    pub(super) fn close(&mut self, page: Page) -> Counters {
        let counters = self.read(page);
        self.write(page, &Counters::default());
        self.tenants.remove(page.0);
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

    fn numbers(&self, Page(client): Page) -> &[AtomicU64] {
        let begin = client.slot() as usize * WIDTH;
        &self.numbers[begin..begin + WIDTH]
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
        assert_eq!(next.client().slot(), one.client().slot());
        assert_ne!(next, one, "it is another's now");
        assert_eq!(ledger.read(next), Counters::default());
    }
}
