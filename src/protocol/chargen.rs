//! Chargen: a pattern without end.

use super::{Input, Needs, Outbox, Protocol};
use crate::buffer::Chunk;

/// Sends the rotating pattern of RFC 864, as fast as the peer reads, until the peer ends: lines of
/// 72 printable characters, each beginning one character later than the one before. Its input is
/// dropped.
///
/// It has no state: each time it sends the pattern from its beginning to its end, a constant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chargen;

/// The printable characters of ASCII, space included.
const PRINTABLE: usize = 95;
/// A line and its end.
const LINE: usize = 72 + 2;
/// Each rotation once: then the first line comes again.
const PERIOD: usize = PRINTABLE * LINE;
/// What is sent at a time: whole periods, enough for a send of a useful size.
static PATTERN: [u8; 8 * PERIOD] = pattern();

const fn pattern() -> [u8; 8 * PERIOD] {
    let mut pattern = [0; 8 * PERIOD];
    let mut at = 0;
    while at < pattern.len() {
        let (line, column) = (at / LINE, at % LINE);
        pattern[at] = match column {
            72 => b'\r',
            73 => b'\n',
            _ => b' ' + ((line + column) % PRINTABLE) as u8,
        };
        at += 1;
    }
    pattern
}

impl Protocol for Chargen {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn allow_silence() -> bool {
        true
    }

    fn open(&mut self, out: &mut Outbox<'_>) {
        out.request_refill();
    }

    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        out.send(Chunk::from_static(&PATTERN));
        out.request_refill();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::super::{OutboxBuffer, Requests};
    use super::*;

    #[test]
    fn every_line_begins_one_character_later() {
        let mut out = OutboxBuffer::default();
        for _ in 0..2 {
            Chargen.refill(&mut out.outbox());
        }
        let sent = String::from_utf8(out.replies()).unwrap();
        let ring: String = (' '..='~').cycle().take(3 * PRINTABLE).collect();
        assert!(sent.ends_with("\r\n"));
        for (n, line) in sent.split_terminator("\r\n").enumerate() {
            assert_eq!(line, &ring[n % PRINTABLE..][..72]);
        }
        assert!(sent.starts_with(r##" !"#$%&'()*+,-./0123456789"##));
        assert!(!out.requests.has(Requests::FINISH) && out.context.messages.is_empty());
    }

    #[test]
    fn input_changes_nothing_and_the_peers_end_finishes() {
        let said = converse(&mut Chargen, [&b"stop\n"[..]]);
        assert_eq!((&said.replies[..], said.finished), (&b""[..], true));
    }
}
