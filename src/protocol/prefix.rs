//! Prefix: every line is sent back between two texts.

use std::sync::Arc;

use super::{Input, LINE_MAX, Needs, Outbox, Protocol, TOO_LONG, wrapped};

/// Replies to each line with a text, the line, ` ===` and a newline, in one piece for all lines
/// that arrived together; also to a last line without a newline. The reply to a line longer than
/// [`LINE_MAX`] is a complaint.
#[derive(Debug, Clone)]
pub struct Prefix {
    text: Arc<str>,
}

const SUFFIX: &[u8] = b" ===\n";

impl Prefix {
    /// The text by default.
    pub const DEFAULT: &'static str = "your msg = ";

    /// Replies with `text`, the line, and ` ===`.
    pub fn new(text: &str) -> Prefix {
        Prefix { text: text.into() }
    }
}

impl Protocol for Prefix {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        // What an empty line becomes is the most that a byte can.
        let gain = self.text.len() + SUFFIX.len();
        while !input.is_empty()
            && let allowance @ 1.. = out.allowance()
            && let Some(lines) = input.try_lines(LINE_MAX, allowance / gain)
        {
            match lines {
                Ok(lines) => out.send(wrapped(self.text.as_bytes(), &lines, SUFFIX)),
                Err(_) => out.send(TOO_LONG),
            }
        }
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let last = input.take_all();
        if !last.is_empty() {
            out.send(wrapped(self.text.as_bytes(), &last, SUFFIX));
        }
        out.finish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{converse, cut};
    use super::*;

    fn answer(text: &str, say: &[u8]) -> String {
        let said = converse(&mut Prefix::new(text), [say]);
        assert!(said.finished && said.messages.is_empty());
        String::from_utf8(said.replies).unwrap()
    }

    #[test]
    fn every_line_comes_back_between_the_texts() {
        let replies = answer(Prefix::DEFAULT, b"hello\n\nlast");
        assert_eq!(replies, "your msg = hello ===\nyour msg =  ===\nyour msg = last ===\n");
        assert_eq!(answer("", b"hello\n"), "hello ===\n");
    }

    #[test]
    fn a_carriage_return_in_front_of_a_newline_belongs_to_the_newline() {
        let replies = answer("> ", b"hello\r\n\r\na\rb\r\r\nlast\r");
        assert_eq!(replies, "> hello ===\n>  ===\n> a\rb\r ===\n> last ===\n");
    }

    #[test]
    fn bytes_that_are_no_text_come_back_as_they_are() {
        let said = converse(&mut Prefix::new("> "), [&b"\xff\r\0\n"[..]]);
        assert_eq!(said.replies, b"> \xff\r\0 ===\n");
    }

    #[test]
    fn a_line_too_long_is_answered_with_a_complaint() {
        let long = [&vec![b'x'; LINE_MAX + 1][..], b"\nshort\n"].concat();
        assert_eq!(answer("> ", &long), "line too long: 16384 bytes at most\n> short ===\n");
    }

    proptest! {
        #[test]
        fn how_the_network_cut_the_bytes_changes_nothing(
            text in "[ab\n]{0,40}",
            cuts in prop::collection::vec(0..40usize, 0..8),
        ) {
            let expected: String = text.lines().map(|line| format!("> {line} ===\n")).collect();
            let said = converse(&mut Prefix::new("> "), cut(text.as_bytes(), &cuts));
            prop_assert_eq!(said.replies, expected.as_bytes());
        }
    }
}
