//! Reply: the same reply to every line.

use std::sync::Arc;

use super::{Input, Needs, Outbox, Protocol};
use crate::buffer::Chunk;

/// Replies to each line with a fixed text and a newline; also to a last line without a newline.
///
/// A line may have any length: nothing of it is kept. Many replies at once share one block of
/// memory, so a peer that sends a buffer full of newlines occupies no more memory than that.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The text with its newline.
    answer: Arc<[u8]>,
    /// True while a line has begun and its newline has not arrived.
    begun: bool,
}

/// The longest block of replies.
const BLOCK: usize = 16 << 10;

impl Reply {
    /// The text by default.
    pub const DEFAULT: &'static str = "ok";

    /// Replies with `text` and a newline.
    pub fn new(text: &str) -> Reply {
        Reply { answer: format!("{text}\n").into_bytes().into(), begun: false }
    }

    fn answer(&self, lines: usize, out: &mut Outbox<'_>) {
        if lines == 0 {
            return;
        }
        let length = self.answer.len();
        let most = (BLOCK / length).max(1).min(lines);
        let mut block = Chunk::from(self.answer.repeat(most));
        for _ in 0..lines / most {
            out.send(block.clone());
        }
        out.send(block.split_to(lines % most * length));
    }
}

impl Protocol for Reply {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while !input.is_empty()
            && let allowance @ 1.. = out.allowance()
            && let Some(bytes) = input.take_most(allowance.div_ceil(self.answer.len()))
        {
            self.begun = bytes.last() != Some(&b'\n');
            self.answer(bytes.iter().filter(|&&byte| byte == b'\n').count(), out);
        }
    }

    fn end(&mut self, _: &mut Input<'_>, out: &mut Outbox<'_>) {
        self.answer(usize::from(self.begun), out);
        out.finish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{converse, cut, receive};
    use super::super::{OutboxBuffer, Untaken};
    use super::*;
    use crate::memory::SHARE_MAX;

    #[test]
    fn every_line_is_answered_and_the_last_without_its_newline_too() {
        let said = converse(&mut Reply::new("ok"), [&b"a\n\nb"[..], b"c\nd"]);
        assert_eq!((&said.replies[..], said.finished), (&b"ok\nok\nok\nok\n"[..], true));
        assert_eq!(converse(&mut Reply::new("ok"), [&b"a\n"[..]]).replies, b"ok\n");
        assert_eq!(converse(&mut Reply::new("ok"), []).replies, b"");
        assert_eq!(converse(&mut Reply::new(""), [&b"a"[..]]).replies, b"\n");
    }

    #[test]
    fn many_answers_share_their_memory_and_are_as_many_as_may_be_sent() {
        let (mut out, mut untaken) = (OutboxBuffer::default(), Untaken::default());
        let text = "x".repeat(255);
        let newlines = Chunk::from(vec![b'\n'; 256 << 10]);
        receive(&mut Reply::new(&text), newlines, &mut untaken, &mut out);
        assert_eq!((out.queue.bytes(), untaken.is_empty()), (SHARE_MAX, false));
        let places: std::collections::BTreeSet<_> = out.queue.iter().map(|c| c.as_ptr()).collect();
        assert_eq!(places.len(), 1);
    }

    proptest! {
        #[test]
        fn how_the_network_cut_the_bytes_changes_nothing(
            text in "[a\n]{0,40}",
            cuts in prop::collection::vec(0..40usize, 0..8),
        ) {
            let expected = "ok\n".repeat(text.lines().count());
            let said = converse(&mut Reply::new("ok"), cut(text.as_bytes(), &cuts));
            prop_assert_eq!(said.replies, expected.as_bytes());
        }
    }
}
