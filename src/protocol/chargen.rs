//! Chargen: a pattern without end.

use super::{Outbox, Protocol};
use crate::buffer::Chunk;

/// Sends the rotating pattern of RFC 864, as fast as the peer reads, until the peer ends: lines of
/// 72 printable characters, each beginning one character later than the one before. What it hears
/// is thrown away.
///
/// It has no state: what it says each time is the pattern from its beginning to its end, a
/// constant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chargen;

/// The printable characters of ASCII, space included.
const PRINTABLE: usize = 95;
/// A line and its end.
const LINE: usize = 72 + 2;
/// Each rotation once: then the first line comes again.
const PERIOD: usize = PRINTABLE * LINE;
/// What is said at a time: whole periods, as many as make a send worth its while.
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
    fn data(&mut self, _: Chunk, _: &mut Outbox<'_>) {}

    fn refills(&self) -> bool {
        true
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        out.reply(&PATTERN[..]);
    }

    fn broadcasts(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::converse;
    use super::*;
    use crate::buffer::SendQueue;

    #[test]
    fn every_line_begins_one_character_later() {
        let (mut queue, mut messages, mut finished) = (SendQueue::new(), Vec::new(), false);
        for _ in 0..2 {
            Chargen.refill(&mut Outbox::new(&mut queue, &mut messages, &mut finished));
        }
        let heard: Vec<u8> = queue.iter().flat_map(|chunk| chunk.to_vec()).collect();
        let heard = String::from_utf8(heard).unwrap();
        let ring: String = (' '..='~').cycle().take(3 * PRINTABLE).collect();
        assert!(heard.ends_with("\r\n"));
        for (n, line) in heard.split_terminator("\r\n").enumerate() {
            assert_eq!(line, &ring[n % PRINTABLE..][..72]);
        }
        assert!(heard.starts_with(r##" !"#$%&'()*+,-./0123456789"##));
        assert!(!finished && messages.is_empty());
    }

    #[test]
    fn what_it_hears_changes_nothing_and_the_end_is_the_end() {
        let said = converse(&mut Chargen, [&b"stop\n"[..]]);
        assert_eq!((&said.replies[..], said.finished), (&b""[..], true));
    }
}
