//! Numbers packed for a page: columns of varints as Base64, which the script unpacks.

use std::collections::HashMap;

use super::protobuf::varint;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A column of numbers, in the order in which they are added.
#[derive(Debug, Default)]
pub(super) struct Column {
    bytes: Vec<u8>,
    last: u64,
}

impl Column {
    /// Adds a number without a change.
    pub(super) fn push(&mut self, value: u64) {
        varint(&mut self.bytes, value);
    }

    /// Adds the difference to the last number, which must not be greater.
    pub(super) fn push_after(&mut self, value: u64) {
        self.push(value.saturating_sub(self.last));
        self.last = self.last.max(value);
    }

    /// Adds a number that may be negative: 0, -1, 1, -2, 2, … are stored as 0, 1, 2, 3, 4, …
    pub(super) fn push_signed(&mut self, value: i64) {
        self.push((value << 1 ^ value >> 63) as u64);
    }

    /// Returns the column as Base64 (RFC 4648).
    pub(super) fn pack(&self) -> String {
        let mut text = String::with_capacity(self.bytes.len().div_ceil(3) * 4);
        for three in self.bytes.chunks(3) {
            let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for at in 0..4 {
                let six = (bits >> (18 - 6 * at) & 63) as usize;
                text.push(if at > three.len() { '=' } else { char::from(ALPHABET[six]) });
            }
        }
        text
    }
}

/// Packs a column of values.
pub(super) fn column<T>(
    values: impl IntoIterator<Item = T>,
    push: impl Fn(&mut Column, T),
) -> String {
    let mut column = Column::default();
    values.into_iter().for_each(|value| push(&mut column, value));
    column.pack()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> String {
        Column { bytes: bytes.to_vec(), last: 0 }.pack()
    }

    #[test]
    fn base64_is_as_in_the_standard() {
        let all = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let packed = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(all.map(|text| of(text.as_bytes())), packed);
    }

    #[test]
    fn differences_and_signed_numbers_are_small() {
        let mut column = Column::default();
        [1000, 1003, 1002, 1005].iter().for_each(|&at| column.push_after(at));
        [0, -1, 1, -105].iter().for_each(|&n| column.push_signed(n));
        assert_eq!(column.bytes, [0xe8, 7, 3, 0, 2, 0, 1, 2, 209, 1]);
    }
}
