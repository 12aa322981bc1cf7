//! What the parts of a page share with each other and with its script: limits, the bits of a mark,
//! and lists that keep only their last entries.

use std::collections::VecDeque;

use proactor_report::units;

use crate::event::Event;

/// The limit of iterations that are drawn.
pub(super) const ITERATIONS: usize = 40_000;
/// The limit of marks that are drawn on the rows of connections.
pub(super) const MARKS: usize = 250_000;
/// The number of parts of the overview.
pub(super) const PARTS: usize = 600;
/// The limit of threads or children that have a row.
pub(super) const THREADS: usize = 16;
/// The limit of calls that are drawn on those rows.
pub(super) const CALLS: usize = 250_000;

/// The event is abnormal. `page.js` has the same bits.
pub(super) const ABNORMAL: u64 = 1;
/// The mark has a duration.
pub(super) const SPAN: u64 = 2;
/// The mark is a send or the end of the connection.
pub(super) const OUTBOUND: u64 = 4;
/// The end was not recorded.
pub(super) const UNENDED: u64 = 8;
/// The mark has a result.
pub(super) const RESULT: u64 = 16;
/// The operation has several completions.
pub(super) const MULTISHOT: u64 = 32;
/// The send has no completion.
pub(super) const IMPLIED: u64 = 64;
/// The result is a number of bytes.
pub(super) const BYTES: u64 = 128;

/// The result of an event as a number, negative for an errno, and the bits that go with it.
pub(super) fn result(event: &Event) -> (i64, u64) {
    let abnormal = if event.is_abnormal() { ABNORMAL } else { 0 };
    let bytes = if event.op.is_some_and(|op| op.receives() || op.sends()) { BYTES } else { 0 };
    match event.result() {
        Some(Ok(n)) => (i64::from(n), RESULT | bytes | abnormal),
        Some(Err(errno)) => (-i64::from(errno.0), RESULT | abnormal),
        None => (0, abnormal),
    }
}

/// The last entries of a list, up to a limit.
#[derive(Debug)]
pub(super) struct Latest<T> {
    limit: usize,
    pub(super) entries: VecDeque<T>,
    left_out: u64,
}

impl<T> Latest<T> {
    /// An empty list with this limit.
    pub(super) fn new(limit: usize) -> Latest<T> {
        Latest { limit, entries: VecDeque::new(), left_out: 0 }
    }

    /// Adds an entry, and removes the first one if there are too many.
    pub(super) fn push(&mut self, entry: T) {
        self.entries.push_back(entry);
        if self.entries.len() > self.limit {
            self.entries.pop_front();
            self.left_out += 1;
        }
    }

    /// A sentence about the entries that were removed, if there are any.
    pub(super) fn left_out(&self, name: &str) -> Option<String> {
        let drawn = self.entries.len() as u64;
        (self.left_out > 0).then(|| {
            format!(
                "of {} {name} the last {} are drawn",
                units::count(self.left_out + drawn),
                units::count(drawn)
            )
        })
    }
}
