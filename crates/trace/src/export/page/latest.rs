//! Lists that keep only their last entries.

use std::collections::VecDeque;

use proactor_report::units;

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
