//! Echo: what comes goes back.

use super::{Outbox, Protocol};
use crate::buffer::Chunk;

/// Sends back every byte (RFC 862). The received chunk itself is the reply: no byte is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Protocol for Echo {
    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
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
    fn what_comes_goes_back_and_then_the_end() {
        let said = converse(&mut Echo, [&b"hel"[..], b"lo"]);
        assert_eq!((&said.replies[..], said.finished), (&b"hello"[..], true));
        assert!(said.messages.is_empty());
    }
}
