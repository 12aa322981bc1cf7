//! Lists that keep only their last entries.

use std::collections::VecDeque;

use serde_json::{Value, json};

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

    /// How many entries there are, and how many were removed.
    pub(super) fn counts(&self) -> Value {
        json!({ "drawn": self.entries.len(), "left_out": self.left_out })
    }
}
