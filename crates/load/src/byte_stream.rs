//! The bytes of a connection's stream in one direction: a function of the offset.
//!
//! Replies are therefore verified without a copy of what was sent, and a byte that is changed,
//! lost, duplicated, or of another connection is found at its offset. A stream repeats a message,
//! or is pseudo-random: the byte at offset *o* is then the byte *o* mod 512 of a fixed table, mixed
//! with a key for each block of 512 bytes. Generating it costs about as much as copying it.

use std::sync::Arc;

/// The number of bytes that share a key.
const BLOCK: usize = 512;
const WORD: usize = size_of::<u64>();

/// Where the words of a block are generated, to be copied or compared.
pub(super) type BlockBytes = [[u8; WORD]; BLOCK / WORD];
pub(super) const UNUSED: BlockBytes = [[0; WORD]; BLOCK / WORD];

/// Pseudo-random words, the same in every block.
static TABLE: [u64; BLOCK / WORD] = {
    let mut table = [0; BLOCK / WORD];
    let mut at = 0;
    while at < table.len() {
        table[at] = mix(at as u64);
        at += 1;
    }
    table
};

/// The first byte of a reply that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of the replies is {found:#04x}, but must be {expected:#04x}")]
pub struct Mismatch {
    /// The offset in the connection's stream of replies.
    pub offset: u64,
    /// The byte that must be there.
    pub expected: u8,
    /// The byte that was received.
    pub found: u8,
}

pub(super) type Checked = Result<(), Mismatch>;

/// A stream of bytes without end.
#[derive(Debug, Clone)]
pub(super) enum ByteStream {
    /// Pseudo-random bytes, with the key of the stream.
    Random(u64),
    /// This message again and again. It is not empty.
    Repeated(Arc<[u8]>),
    /// Numbered lines of text: the label, which may be empty, then `size` bytes with a newline at
    /// the end. The text of line *n* is a number of 16 digits, mixed of *n* and the key, again and
    /// again.
    Lines { label: Arc<[u8]>, key: u64, size: usize },
}

/// The rotating pattern of RFC 864: lines of 72 printable characters, each of which begins one
/// character later than the one before, until the first comes again.
pub(super) fn chargen() -> Arc<[u8]> {
    let printable: Vec<u8> = (b' '..=b'~').collect();
    let line = |first| {
        let text = printable.iter().cycle().skip(first).take(72);
        text.chain(b"\r\n").copied().collect::<Vec<u8>>()
    };
    (0..printable.len()).flat_map(line).collect()
}

impl ByteStream {
    /// Returns the pseudo-random stream of a connection.
    pub(super) fn random(seed: u64, connection: usize) -> ByteStream {
        ByteStream::Random(mix(mix(seed) ^ connection as u64))
    }

    /// Returns the lines that a member of a chat sends, or with a label those that others receive.
    pub(super) fn lines(label: &[u8], seed: u64, size: usize) -> ByteStream {
        ByteStream::Lines { label: label.into(), key: mix(seed), size }
    }

    /// Writes the bytes from offset `at` on.
    pub(super) fn fill(&self, block: &mut BlockBytes, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let piece = self.piece(block, at, out.len());
            let (head, rest) = out.split_at_mut(piece.len());
            head.copy_from_slice(piece);
            (at, out) = (at + piece.len() as u64, rest);
        }
    }

    /// Compares `bytes` with the stream from offset `at` on.
    ///
    /// # Errors
    /// The first byte that differs.
    pub(super) fn check(&self, block: &mut BlockBytes, mut at: u64, mut bytes: &[u8]) -> Checked {
        while !bytes.is_empty() {
            let piece = self.piece(block, at, bytes.len());
            let (head, rest) = bytes.split_at(piece.len());
            if head != piece {
                let pairs = (at..).zip(piece.iter().zip(head));
                let mut pairs =
                    pairs.map(|(offset, (&expected, &found))| Mismatch { offset, expected, found });
                return Err(pairs.find(|at| at.expected != at.found).expect("they differ"));
            }
            (at, bytes) = (at + piece.len() as u64, rest);
        }
        Ok(())
    }

    /// Returns `len` bytes from `offset` on, or fewer if the message or the block ends.
    fn piece<'a>(&'a self, block: &'a mut BlockBytes, offset: u64, len: usize) -> &'a [u8] {
        let rest = match self {
            ByteStream::Repeated(message) => &message[(offset % message.len() as u64) as usize..],
            ByteStream::Random(key) => {
                let key = mix(key.wrapping_add(offset / BLOCK as u64));
                let begin = offset as usize % BLOCK;
                let end = BLOCK.min(begin + len);
                let words = begin / WORD..end.div_ceil(WORD);
                for (word, table) in block[words.clone()].iter_mut().zip(&TABLE[words]) {
                    *word = (table ^ key).to_le_bytes();
                }
                &block.as_flattened()[begin..end]
            }
            ByteStream::Lines { label, key, size } => {
                let period = (label.len() + size) as u64;
                let (line, at) = (offset / period, (offset % period) as usize);
                match at.checked_sub(label.len()) {
                    None => &label[at..],
                    Some(at) if at == size - 1 => b"\n",
                    Some(at) => line_text(block, mix(key ^ line), at, (size - 1 - at).min(len)),
                }
            }
        };
        &rest[..len.min(rest.len())]
    }
}

/// Returns up to `len` bytes of the text of a line from offset `at` on: hexadecimal digits.
fn line_text(block: &mut BlockBytes, number: u64, at: usize, len: usize) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: usize| DIGITS[(number >> (4 * (15 - n))) as usize % 16];
    let halves: [[u8; WORD]; 2] = [0, 1].map(|half| std::array::from_fn(|n| digit(8 * half + n)));
    let begin = at % DIGITS.len();
    let end = BLOCK.min(begin + len);
    for (n, word) in block[..end.div_ceil(WORD)].iter_mut().enumerate() {
        *word = halves[n % 2];
    }
    &block.as_flattened()[begin..end]
}

/// The 64-bit mixing function of splitmix64.
const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `len` bytes of a stream, from `offset` on.
    fn part(stream: &ByteStream, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        stream.fill(&mut { UNUSED }, offset, &mut bytes);
        bytes
    }

    fn check(stream: &ByteStream, offset: u64, bytes: &[u8]) -> Checked {
        stream.check(&mut { UNUSED }, offset, bytes)
    }

    /// Returns the byte at `offset` of a pseudo-random stream. This is its definition.
    fn byte(stream: &ByteStream, offset: u64) -> u8 {
        let ByteStream::Random(key) = stream else { panic!("{stream:?} is not random") };
        let word = TABLE[offset as usize % BLOCK / WORD] ^ mix(key + offset / BLOCK as u64);
        word.to_le_bytes()[offset as usize % WORD]
    }

    #[test]
    fn the_stream_is_the_same_for_every_split() {
        let stream = ByteStream::random(7, 3);
        let defined: Vec<u8> = (0..1500).map(|offset| byte(&stream, offset)).collect();
        for start in (0..530).chain([1023, 1024, 1025]) {
            for len in [0, 1, 7, 8, 9, 64, 300] {
                let cut = part(&stream, start as u64, len);
                assert_eq!(cut, defined[start..start + len], "{len} bytes at {start}");
                assert_eq!(check(&stream, start as u64, &cut), Ok(()));
            }
        }
    }

    #[test]
    fn lines_are_numbered_text_and_the_same_for_every_split() {
        for (label, size) in [(&b""[..], 2), (b"[7] ", 40), (b"[7] ", 1000)] {
            let stream = ByteStream::lines(label, 7, size);
            let period = label.len() + size;
            let all = part(&stream, 0, 3 * period + 64);
            for line in all[..3 * period].chunks(period) {
                assert!(line.starts_with(label) && line.ends_with(b"\n"), "{line:?}");
                let text = &line[label.len()..period - 1];
                assert!(text.iter().all(u8::is_ascii_hexdigit), "{text:?}");
            }
            assert!(size < 17 || all[..period] != all[period..2 * period], "lines differ");
            for start in 0..period {
                for len in [1, 7, 64, period] {
                    let cut = part(&stream, start as u64, len);
                    assert_eq!(cut, all[start..start + len], "{len} bytes at {start}");
                    assert_eq!(check(&stream, start as u64, &cut), Ok(()));
                }
            }
        }
    }

    #[test]
    fn the_generated_characters_rotate() {
        let pattern = chargen();
        assert_eq!(pattern.len(), 95 * 74);
        assert!(pattern.starts_with(b" !\"#$%&'()*+,-./0123456789"));
        assert!(pattern[74..].starts_with(b"!\"#$") && pattern.ends_with(b"def\r\n"));
    }

    #[test]
    fn a_changed_byte_is_found_at_its_offset() {
        let stream = ByteStream::random(7, 3);
        for at in 0..600 {
            let mut bytes = part(&stream, 1000, 600);
            bytes[at] ^= 1;
            let found = check(&stream, 1000, &bytes).expect_err("one byte was changed");
            assert_eq!(found.offset, 1000 + at as u64);
            assert_eq!(found.expected ^ 1, found.found);
        }
    }

    #[test]
    fn a_lost_a_duplicated_and_a_foreign_message_are_found() {
        let stream = ByteStream::random(7, 3);
        for message in [64u64, 512, 4096, 65536] {
            let len = message as usize;
            let wrong = [
                part(&stream, message, len),             // the first message is missing
                part(&ByteStream::random(7, 4), 0, len), // another connection
                part(&ByteStream::random(8, 3), 0, len), // another seed
                part(&stream, 0, len).into_iter().rev().collect(),
            ];
            for bytes in wrong {
                let at = check(&stream, 0, &bytes).expect_err("these are not its bytes").offset;
                assert!(at < 8, "found at {at} only");
            }
            let doubled = part(&stream, 0, len);
            assert!(check(&stream, message, &doubled).is_err(), "the first message is duplicated");
        }
    }

    #[test]
    fn a_message_is_repeated_whatever_the_cut() {
        let whole = b"abcabcabcabc";
        let stream = ByteStream::Repeated(b"abc"[..].into());
        for begin in 0..6 {
            for len in 0..=6 {
                let out = part(&stream, begin as u64, len);
                assert_eq!(out, whole[begin..begin + len]);
                assert_eq!(check(&stream, begin as u64, &out), Ok(()));
            }
        }
    }

    #[test]
    fn the_first_byte_that_differs_is_named_by_its_offset() {
        let stream = ByteStream::Repeated(b"abc"[..].into());
        for at in 0..7 {
            let mut bytes = *b"abcabca";
            bytes[at] = b'-';
            let wrong = check(&stream, 3, &bytes).expect_err("one byte was changed");
            assert_eq!((wrong.offset, wrong.found), (3 + at as u64, b'-'));
            assert_eq!(wrong.expected, b"abc"[at % 3]);
        }
    }
}
