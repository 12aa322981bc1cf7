//! Texts that an export writes once and refers to by number.

use std::collections::HashMap;

/// Texts that are written once and referred to by number.
#[derive(Debug, Default)]
pub(super) struct StringTable {
    all: Vec<String>,
    ids: HashMap<String, u32>,
}

impl StringTable {
    /// Returns the number of a text, and adds the text if it is new.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.all.len() as u32;
        self.all.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// All texts, in the order of their numbers.
    pub(super) fn all(&self) -> &[String] {
        &self.all
    }
}
