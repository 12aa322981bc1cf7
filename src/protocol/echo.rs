//! Echo: every byte is sent back.

use super::{Input, Needs, Outbox, Protocol};

/// Sends back every byte (RFC 862). The receive buffer itself is sent: no byte is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Protocol for Echo {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn every_byte_is_sent_back_and_then_the_end() {
        let said = converse(&mut Echo, [&b"hel"[..], b"lo"]);
        assert_eq!((&said.replies[..], said.finished), (&b"hello"[..], true));
        assert!(said.messages.is_empty());
    }
}
