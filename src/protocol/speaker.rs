//! Lines that go to others than their peer: what chat and talk have in common.

use std::marker::PhantomData;

use crate::limits::CloseReason;

use super::{Input, LINE_MAX, Needs, Outbox, Protocol, TOO_LONG};

/// The receivers of what a peer sends.
pub trait Audience: 'static {
    /// What it takes to reach them.
    const NEEDS: Needs;

    /// Sends `lines` to them.
    fn send(lines: Vec<u8>, out: &mut Outbox<'_>);
}

/// Passes whole lines on to its audience, each labelled with the number of its connection, as
/// `[7] hello`, and announces the connection's begin and end, as `* 7 joined` and `* 7 left`.
///
/// Lines are passed on whole, however they arrived; also a last line without a newline. Their bytes
/// need not be text. A line longer than [`LINE_MAX`] is dropped, and the reply is a complaint. The
/// line `quit` leaves.
#[derive(Debug, Clone)]
pub struct Speaker<A> {
    me: u64,
    /// What stands in front of each of its lines.
    label: Box<[u8]>,
    /// True once its end was announced: later input is ignored.
    left: bool,
    audience: PhantomData<A>,
}

impl<A> Speaker<A> {
    /// The protocol of connection `me`.
    pub fn new(me: u64) -> Speaker<A> {
        let label = format!("[{me}] ").into_bytes().into();
        Speaker { me, label, left: false, audience: PhantomData }
    }
}

impl<A: Audience> Protocol for Speaker<A> {
    fn needs() -> Needs {
        A::NEEDS
    }

    fn open(&mut self, out: &mut Outbox<'_>) {
        A::send(format!("* {} joined\n", self.me).into_bytes(), out);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(lines) = input.try_lines(LINE_MAX) {
            match lines {
                Ok(lines) => self.pass_on(&lines, out),
                Err(_) => out.send(TOO_LONG),
            }
        }
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let last = input.take_all();
        if !last.is_empty() {
            self.pass_on(&[&last, &b"\n"[..]].concat(), out);
        }
        self.leave(out);
        out.finish();
    }

    fn close(&mut self, _: CloseReason, out: &mut Outbox<'_>) {
        self.leave(out);
    }
}

impl<A: Audience> Speaker<A> {
    fn pass_on(&mut self, lines: &[u8], out: &mut Outbox<'_>) {
        let (before, quits) = match find_quit(lines) {
            Some(at) => (&lines[..at], true),
            None => (lines, false),
        };
        if self.left {
            return;
        }
        if !before.is_empty() {
            A::send(labelled(&self.label, before), out);
        }
        if quits {
            self.leave(out);
            out.finish();
        }
    }

    fn leave(&mut self, out: &mut Outbox<'_>) {
        if !std::mem::replace(&mut self.left, true) {
            A::send(format!("* {} left\n", self.me).into_bytes(), out);
        }
    }
}

/// Returns where the first line `quit` begins; a line may end in a carriage return, as telnet's.
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

/// Returns whole lines with `label` in front of each, in one allocation.
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
