//! Discard: everything is received, nothing is sent.

use super::{Input, Needs, Outbox, Protocol};

/// Drops every byte (RFC 863), and finishes when the peer does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Protocol for Discard {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn nothing_is_sent_and_then_the_end() {
        let said = converse(&mut Discard, [&b"hel"[..], b"lo\n"]);
        assert_eq!((&said.replies[..], said.finished), (&b""[..], true));
        assert!(said.messages.is_empty());
    }
}
