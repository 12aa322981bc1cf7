//! Upper: what comes goes back louder.

use super::{Outbox, Protocol};
use crate::buffer::Chunk;

/// Sends back every byte with ASCII letters in upper case, written over where they arrived.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upper;

impl Protocol for Upper {
    fn data(&mut self, mut chunk: Chunk, out: &mut Outbox<'_>) {
        chunk.make_mut().make_ascii_uppercase();
        out.reply(chunk);
    }

    fn broadcasts(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn ascii_letters_are_raised_and_all_else_is_left() {
        let said = converse(&mut Upper, ["straße 1".as_bytes()]);
        assert_eq!(said.replies, "STRAßE 1".as_bytes());
    }
}
