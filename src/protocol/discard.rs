//! Discard: all is heard, nothing is said.

use super::{Outbox, Protocol};
use crate::buffer::Chunk;

/// Throws away every byte (RFC 863), and ends when the peer does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Protocol for Discard {
    fn data(&mut self, _: Chunk, _: &mut Outbox<'_>) {}

    fn broadcasts(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn nothing_is_said_and_then_the_end() {
        let said = converse(&mut Discard, [&b"hel"[..], b"lo\n"]);
        assert_eq!((&said.replies[..], said.finished), (&b""[..], true));
        assert!(said.messages.is_empty());
    }
}
