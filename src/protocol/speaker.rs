//! Who speaks line by line, and is heard by others: what chat and talk have in common.

use super::{Lines, Outbox, Piece, TOO_LONG};
use crate::buffer::Chunk;

/// Who hears what a peer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// The other peers of its listener.
    Others,
    /// The operator at the server's console.
    Operator,
}

impl Audience {
    fn hear(self, said: Vec<u8>, out: &mut Outbox<'_>) {
        match self {
            Audience::Others => out.broadcast(said),
            Audience::Operator => out.tell(said),
        }
    }
}

/// Passes whole lines on to its audience, each labelled with its number, as `[7] hello`, and tells
/// that it came and went, as `* 7 joined` and `* 7 left`. `quit`, on a line of its own, leaves.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    lines: Lines,
    me: u64,
    /// What stands before each of its lines.
    label: Box<[u8]>,
    /// True once it has told that it left: what it hears from then on is nothing.
    left: bool,
    audience: Audience,
}

impl Speaker {
    /// One who has not opened yet.
    pub(super) fn to(audience: Audience) -> Speaker {
        Speaker { lines: Lines::default(), me: 0, label: Box::default(), left: false, audience }
    }

    pub(super) fn open(&mut self, me: u64, out: &mut Outbox<'_>) {
        self.me = me;
        self.label = format!("[{me}] ").into_bytes().into();
        self.audience.hear(format!("* {me} joined\n").into_bytes(), out);
    }

    pub(super) fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(chunk, |piece| match piece {
            Piece::Lines(lines) => self.say(&lines, out),
            Piece::TooLong => out.reply(TOO_LONG),
        });
        self.lines = lines;
    }

    pub(super) fn end(&mut self, out: &mut Outbox<'_>) {
        if let Some(line) = self.lines.finish() {
            self.say(&line, out);
        }
        self.leave(out);
        out.finish();
    }

    pub(super) fn close(&mut self, out: &mut Outbox<'_>) {
        self.leave(out);
    }

    fn say(&mut self, lines: &[u8], out: &mut Outbox<'_>) {
        let (before, quits) = match find_quit(lines) {
            Some(at) => (&lines[..at], true),
            None => (lines, false),
        };
        if self.left {
            return;
        }
        if !before.is_empty() {
            self.audience.hear(labelled(&self.label, before), out);
        }
        if quits {
            self.leave(out);
            out.finish();
        }
    }

    fn leave(&mut self, out: &mut Outbox<'_>) {
        if !std::mem::replace(&mut self.left, true) {
            self.audience.hear(format!("* {} left\n", self.me).into_bytes(), out);
        }
    }
}

/// Where the line begins that says `quit`; a line may end as telnet ends them.
fn find_quit(lines: &[u8]) -> Option<usize> {
    let mut at = 0;
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        if line == b"quit\n" || line == b"quit\r\n" {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// Whole lines, each with `label` before it, in one allocation.
fn labelled(label: &[u8], lines: &[u8]) -> Vec<u8> {
    let count = lines.iter().filter(|&&byte| byte == b'\n').count();
    let mut labelled = Vec::with_capacity(lines.len() + count * label.len());
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        labelled.extend_from_slice(label);
        labelled.extend_from_slice(line);
    }
    labelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_lines_is_one_allocation_of_the_right_size() {
        let labelled = labelled(b"[12] ", b"a\n\nb\n");
        assert_eq!(labelled, b"[12] a\n[12] \n[12] b\n");
        assert_eq!(labelled.capacity(), labelled.len());
    }
}
