//! Lines that go to others than their peer: what chat and talk have in common.

use crate::limits::CloseReason;
use crate::printable::without_controls;

use super::{Input, LINE_MAX, Needs, Outbox, Protocol, TOO_LONG, wrapped};

/// Passes whole lines on, to the operator or to the other peers of its listener, each labelled with
/// the number of its connection, as `[7] hello`. Announces the connection's begin and end, as
/// `* 7 joined` and `* 7 left`.
///
/// Lines are passed on whole, however they arrived; also a last line without a newline. Their bytes
/// need not be text; peers get them without control characters other than TAB, which could have an
/// effect on their terminals (the operator gets them, and the console escapes them). A line longer
/// than [`LINE_MAX`] is dropped, and the reply is a complaint. The line `quit` leaves.
#[derive(Debug, Clone)]
pub struct Speaker<const TO_OPERATOR: bool> {
    me: u64,
    /// What stands in front of each of its lines.
    label: Box<[u8]>,
    /// True once its end was announced: later input is ignored.
    left: bool,
}

impl<const TO_OPERATOR: bool> Protocol for Speaker<TO_OPERATOR> {
    fn needs() -> Needs {
        if TO_OPERATOR { Needs::NOTHING } else { Needs::BROADCAST }
    }

    fn allow_silence() -> bool {
        true
    }

    fn open(&mut self, out: &mut Outbox<'_>) {
        Self::announce(format!("* {} joined\n", self.me), out);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while !input.is_empty()
            && out.allowance() > 0
            && let Some(lines) = input.try_lines(LINE_MAX, LINE_MAX)
        {
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

    fn missed(&mut self, count: u32, out: &mut Outbox<'_>) {
        let others = if count == 1 { "other" } else { "others" };
        out.send(format!("* {count} {others} joined or left\n"));
    }

    fn close(&mut self, _: CloseReason, out: &mut Outbox<'_>) {
        self.leave(out);
    }
}

impl<const TO_OPERATOR: bool> Speaker<TO_OPERATOR> {
    /// The protocol of connection `me`.
    pub fn new(me: u64) -> Self {
        Speaker { me, label: format!("[{me}] ").into_bytes().into(), left: false }
    }

    fn send(lines: Vec<u8>, out: &mut Outbox<'_>) {
        if TO_OPERATOR { out.to_operator(lines) } else { out.broadcast(lines) }
    }

    fn announce(line: String, out: &mut Outbox<'_>) {
        if TO_OPERATOR { out.to_operator(line) } else { out.announce(line) }
    }

    /// Passes on the lines in front of the line `quit`, and leaves if there is one.
    fn pass_on(&mut self, lines: &[u8], out: &mut Outbox<'_>) {
        if self.left {
            return;
        }
        // A line may end in a carriage return, as telnet's.
        let before = lines
            .split_inclusive(|&byte| byte == b'\n')
            .take_while(|&line| line != b"quit\n" && line != b"quit\r\n")
            .map(<[u8]>::len)
            .sum();
        if before > 0 {
            let lines = &lines[..before];
            let lines = if TO_OPERATOR { lines.into() } else { without_controls(lines) };
            Self::send(wrapped(&self.label, &lines, b"\n"), out);
        }
        if before < lines.len() {
            self.leave(out);
            out.finish();
        }
    }

    fn leave(&mut self, out: &mut Outbox<'_>) {
        if !std::mem::replace(&mut self.left, true) {
            Self::announce(format!("* {} left\n", self.me), out);
        }
    }
}
