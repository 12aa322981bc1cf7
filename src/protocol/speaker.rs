//! Who speaks line by line, and is heard by others: what chat and talk have in common.

use std::marker::PhantomData;

use super::{Lines, Outbox, Piece, Protocol, TOO_LONG};
use crate::buffer::Chunk;

/// Who hears what a peer says.
pub trait Audience {
    /// Whether they are the other peers of its listener: see [`Protocol::broadcasts`].
    const OTHERS: bool;

    /// Says it to them.
    fn hear(said: Vec<u8>, out: &mut Outbox<'_>);
}

/// Passes whole lines on to its audience, each labelled with its number, as `[7] hello`, and tells
/// that it came and went, as `* 7 joined` and `* 7 left`.
///
/// Lines are passed on whole, however they arrived; the last one too if the peer left without its
/// newline. Their bytes need not be text. A line longer than [`LINE_MAX`](super::LINE_MAX) is
/// answered with a complaint and passed on to nobody. `quit`, on a line of its own, leaves.
#[derive(Debug, Clone)]
pub struct Speaker<A> {
    lines: Lines,
    me: u64,
    /// What stands before each of its lines.
    label: Box<[u8]>,
    /// True once it has told that it left: what it hears from then on is nothing.
    left: bool,
    audience: PhantomData<A>,
}

impl<A> Default for Speaker<A> {
    /// One who has not opened yet.
    fn default() -> Speaker<A> {
        Speaker {
            lines: Lines::default(),
            me: 0,
            label: Box::default(),
            left: false,
            audience: PhantomData,
        }
    }
}

impl<A: Audience> Protocol for Speaker<A> {
    fn open(&mut self, me: u64, out: &mut Outbox<'_>) {
        self.me = me;
        self.label = format!("[{me}] ").into_bytes().into();
        A::hear(format!("* {me} joined\n").into_bytes(), out);
    }

    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(chunk, |piece| match piece {
            Piece::Lines(lines) => self.say(&lines, out),
            Piece::TooLong => out.reply(TOO_LONG),
        });
        self.lines = lines;
    }

    fn end(&mut self, out: &mut Outbox<'_>) {
        if let Some(line) = self.lines.finish() {
            self.say(&line, out);
        }
        self.leave(out);
        out.finish();
    }

    fn broadcasts(&self) -> bool {
        A::OTHERS
    }

    fn close(&mut self, out: &mut Outbox<'_>) {
        self.leave(out);
    }
}

impl<A: Audience> Speaker<A> {
    fn say(&mut self, lines: &[u8], out: &mut Outbox<'_>) {
        let (before, quits) = match find_quit(lines) {
            Some(at) => (&lines[..at], true),
            None => (lines, false),
        };
        if self.left {
            return;
        }
        if !before.is_empty() {
            A::hear(labelled(&self.label, before), out);
        }
        if quits {
            self.leave(out);
            out.finish();
        }
    }

    fn leave(&mut self, out: &mut Outbox<'_>) {
        if !std::mem::replace(&mut self.left, true) {
            A::hear(format!("* {} left\n", self.me).into_bytes(), out);
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
