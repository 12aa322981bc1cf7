//! Chat: every line goes to everyone else.

use super::{LINE_MAX, Lines, Outbox, Piece, Protocol};
use crate::buffer::Chunk;

/// Passes each line on to every other peer of the same listener.
///
/// Lines are passed on whole, however they arrived; the last one too if the peer left without its
/// newline. A line longer than [`LINE_MAX`] is answered with a complaint and passed on to nobody.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    lines: Lines,
}

impl Protocol for Chat {
    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
        self.lines.feed(chunk, |piece| match piece {
            Piece::Lines(lines) => out.broadcast(lines),
            Piece::TooLong => {
                out.reply(format!("line too long: {LINE_MAX} bytes at most\n").into_bytes());
            }
        });
    }

    fn end(&mut self, out: &mut Outbox<'_>) {
        if let Some(line) = self.lines.finish() {
            out.broadcast(line);
        }
        out.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;

    #[test]
    fn lines_go_to_the_others_and_not_back() {
        let said = converse(&mut Chat::default(), [&b"hel"[..], b"lo\nyou\nthere"]);
        assert_eq!(said.posts.concat(), b"hello\nyou\nthere\n");
        assert_eq!((&said.replies[..], said.finished), (&b""[..], true));
    }

    #[test]
    fn a_line_too_long_is_answered_and_reaches_nobody() {
        let long = vec![b'x'; LINE_MAX + 1];
        let said = converse(&mut Chat::default(), [&long[..], b"xx\nshort\n"]);
        assert_eq!(said.replies, b"line too long: 16384 bytes at most\n");
        assert_eq!(said.posts.concat(), b"short\n");
    }
}
