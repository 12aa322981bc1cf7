//! Upper: every byte is sent back, letters in upper case.

use super::{Input, Needs, Outbox, Protocol};

/// Sends back every byte with ASCII letters in upper case, changed in the receive buffer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upper;

impl Protocol for Upper {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let mut bytes = input.take_all();
        bytes.make_ascii_uppercase();
        out.send(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn ascii_letters_become_upper_case_and_the_rest_stays() {
        let said = converse(&mut Upper, ["straße 1".as_bytes()]);
        assert_eq!(said.replies, "STRAßE 1".as_bytes());
    }
}
