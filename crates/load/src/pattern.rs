//! The bytes that a connection sends: a function of seed, connection and offset.
//!
//! Replies are therefore verified without a copy of what was sent, and a byte that is changed,
//! lost, duplicated, or of another connection is found at its offset. The byte at offset *o* is the
//! byte *o* mod 512 of a fixed table, mixed with a key for each block of 512 bytes. Generating it
//! costs about as much as copying it.

/// The number of bytes that share a key.
const BLOCK: usize = 512;
const WORD: usize = size_of::<u64>();

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

/// The byte stream of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    key: u64,
}

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

impl Pattern {
    pub(super) fn new(seed: u64, connection: usize) -> Pattern {
        Pattern { key: mix(mix(seed) ^ connection as u64) }
    }

    /// Writes the bytes from `offset` on.
    pub(super) fn fill(&self, offset: u64, out: &mut [u8]) {
        self.each_block(offset, out.len(), |run, range| {
            let out = &mut out[range];
            let (head, body) = out.split_at_mut(run.head.min(out.len()));
            for (at, byte) in head.iter_mut().enumerate() {
                *byte = run.byte(at);
            }
            let (words, tail) = body.as_chunks_mut::<WORD>();
            for (word, table) in words.iter_mut().zip(run.words()) {
                *word = (table ^ run.key).to_le_bytes();
            }
            let done = run.head + words.len() * WORD;
            for (at, byte) in tail.iter_mut().enumerate() {
                *byte = run.byte(done + at);
            }
        });
    }

    /// Compares `bytes` with the stream from `offset` on.
    ///
    /// # Errors
    /// The first byte that differs.
    pub(super) fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut same = true;
        self.each_block(offset, bytes.len(), |run, range| {
            let bytes = &bytes[range];
            let (head, body) = bytes.split_at(run.head.min(bytes.len()));
            let (words, tail) = body.as_chunks::<WORD>();
            let mut differs = 0;
            for (at, &byte) in head.iter().enumerate() {
                differs |= u64::from(byte ^ run.byte(at));
            }
            for (word, table) in words.iter().zip(run.words()) {
                differs |= u64::from_le_bytes(*word) ^ table ^ run.key;
            }
            let done = run.head + words.len() * WORD;
            for (at, &byte) in tail.iter().enumerate() {
                differs |= u64::from(byte ^ run.byte(done + at));
            }
            same &= differs == 0;
        });
        if same { Ok(()) } else { Err(self.first_mismatch(offset, bytes)) }
    }

    #[cold]
    fn first_mismatch(&self, offset: u64, bytes: &[u8]) -> Mismatch {
        (offset..)
            .zip(bytes)
            .map(|(offset, &found)| Mismatch { offset, expected: self.byte(offset), found })
            .find(|at| at.expected != at.found)
            .expect("the whole range differs, so one byte does")
    }

    /// Returns the byte at `offset`. This is the definition; `fill` and `check` are its fast forms.
    fn byte(&self, offset: u64) -> u8 {
        let word = TABLE[offset as usize % BLOCK / WORD] ^ self.block_key(offset / BLOCK as u64);
        word.to_le_bytes()[offset as usize % WORD]
    }

    fn block_key(&self, block: u64) -> u64 {
        mix(self.key.wrapping_add(block))
    }

    /// Splits a range of the stream at block boundaries.
    fn each_block(
        &self,
        offset: u64,
        len: usize,
        mut with: impl FnMut(BlockRange, std::ops::Range<usize>),
    ) {
        let mut at = 0;
        while at < len {
            let within = ((offset + at as u64) % BLOCK as u64) as usize;
            let end = len.min(at + BLOCK - within);
            let key = self.block_key((offset + at as u64) / BLOCK as u64);
            with(BlockRange { within, head: within.wrapping_neg() % WORD, key }, at..end);
            at = end;
        }
    }
}

/// A range within one block, from offset `within` on. Its first aligned word begins after `head`
/// bytes.
#[derive(Clone, Copy)]
struct BlockRange {
    within: usize,
    head: usize,
    key: u64,
}

impl BlockRange {
    fn words(&self) -> &'static [u64] {
        &TABLE[(self.within + self.head) / WORD..]
    }

    fn byte(&self, at: usize) -> u8 {
        let at = self.within + at;
        (TABLE[at / WORD] ^ self.key).to_le_bytes()[at % WORD]
    }
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

    fn stream(pattern: Pattern, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        pattern.fill(offset, &mut bytes);
        bytes
    }

    #[test]
    fn the_stream_is_the_same_for_every_split() {
        let pattern = Pattern::new(7, 3);
        let defined: Vec<u8> = (0..1500).map(|offset| pattern.byte(offset)).collect();
        for start in (0..530).chain([1023, 1024, 1025]) {
            for len in [0, 1, 7, 8, 9, 64, 300] {
                let cut = stream(pattern, start as u64, len);
                assert_eq!(cut, defined[start..start + len], "{len} bytes at {start}");
                assert_eq!(pattern.check(start as u64, &cut), Ok(()));
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found_at_its_offset() {
        let pattern = Pattern::new(7, 3);
        for at in 0..600 {
            let mut bytes = stream(pattern, 1000, 600);
            bytes[at] ^= 1;
            let found = pattern.check(1000, &bytes).expect_err("one byte was changed");
            assert_eq!(found.offset, 1000 + at as u64);
            assert_eq!(found.expected ^ 1, found.found);
        }
    }

    #[test]
    fn a_lost_a_duplicated_and_a_foreign_message_are_found() {
        let pattern = Pattern::new(7, 3);
        for message in [64u64, 512, 4096, 65536] {
            let len = message as usize;
            let wrong = [
                stream(pattern, message, len),      // the first message is missing
                stream(Pattern::new(7, 4), 0, len), // another connection
                stream(Pattern::new(8, 3), 0, len), // another seed
                stream(pattern, 0, len).into_iter().rev().collect(),
            ];
            for bytes in wrong {
                let at = pattern.check(0, &bytes).expect_err("these are not its bytes").offset;
                assert!(at < 8, "found at {at} only");
            }
            let doubled = stream(pattern, 0, len);
            assert!(pattern.check(message, &doubled).is_err(), "the first message is duplicated");
        }
    }
}
