//! What a connection sends: bytes that follow from (seed, connection, offset) and from nothing
//! else.
//!
//! So nothing that was sent need be remembered to be verified, and a byte that is swapped, lost,
//! doubled, or another connection's is found where it stands: nowhere else does the stream go on
//! like that. The byte at offset *o* is that of a fixed table at *o* mod 512, mixed with a key of
//! its own for each block of 512: making it costs about as much as copying it.

use std::fmt;

/// Bytes per block: those that share a key.
const BLOCK: usize = 512;
const WORD: usize = size_of::<u64>();

/// Random words, the same in each block.
static TABLE: [u64; BLOCK / WORD] = {
    let mut table = [0; BLOCK / WORD];
    let mut at = 0;
    while at < table.len() {
        table[at] = mix(at as u64);
        at += 1;
    }
    table
};

/// The bytes of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    key: u64,
}

/// The first byte that is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Where in the connection's stream of replies.
    pub offset: u64,
    /// What was sent there.
    pub expected: u8,
    /// What came back.
    pub found: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { offset, expected, found } = self;
        write!(f, "byte {offset} came back as {found:#04x}, but was sent as {expected:#04x}")
    }
}

impl Pattern {
    /// That of this connection.
    pub(super) fn new(seed: u64, connection: usize) -> Pattern {
        Pattern { key: mix(mix(seed) ^ connection as u64) }
    }

    /// Writes what stands at `offset` and after.
    pub(super) fn fill(&self, offset: u64, out: &mut [u8]) {
        self.each_run(offset, out.len(), |run, range| {
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

    /// Compares `bytes` with what stands at `offset` and after.
    ///
    /// # Errors
    /// The first byte that differs.
    pub(super) fn check(&self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut same = true;
        self.each_run(offset, bytes.len(), |run, range| {
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
            .expect("the whole differs, hence one of its bytes")
    }

    /// The byte at `offset`: the definition, of which the rest is the fast way.
    fn byte(&self, offset: u64) -> u8 {
        let word = TABLE[offset as usize % BLOCK / WORD] ^ self.block_key(offset / BLOCK as u64);
        word.to_le_bytes()[offset as usize % WORD]
    }

    fn block_key(&self, block: u64) -> u64 {
        mix(self.key.wrapping_add(block))
    }

    /// Cuts a range of the stream at the borders of its blocks.
    fn each_run(&self, offset: u64, len: usize, mut with: impl FnMut(Run, std::ops::Range<usize>)) {
        let mut at = 0;
        while at < len {
            let within = ((offset + at as u64) % BLOCK as u64) as usize;
            let end = len.min(at + BLOCK - within);
            let key = self.block_key((offset + at as u64) / BLOCK as u64);
            with(Run { within, head: within.wrapping_neg() % WORD, key }, at..end);
            at = end;
        }
    }
}

/// Bytes of one block, from `within` it on; its words begin after `head` bytes.
#[derive(Clone, Copy)]
struct Run {
    within: usize,
    head: usize,
    key: u64,
}

impl Run {
    fn words(&self) -> &'static [u64] {
        &TABLE[(self.within + self.head) / WORD..]
    }

    fn byte(&self, at: usize) -> u8 {
        let at = self.within + at;
        (TABLE[at / WORD] ^ self.key).to_le_bytes()[at % WORD]
    }
}

/// A good mixer of 64 bits (splitmix64's).
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
    fn the_stream_is_the_same_however_it_is_cut() {
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
    fn a_changed_byte_is_found_where_it_stands() {
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
    fn a_lost_a_doubled_and_a_foreign_message_are_found() {
        let pattern = Pattern::new(7, 3);
        for message in [64u64, 512, 4096, 65536] {
            let len = message as usize;
            let at_fault = [
                stream(pattern, message, len),      // the first one was lost
                stream(Pattern::new(7, 4), 0, len), // another connection's
                stream(Pattern::new(8, 3), 0, len), // another run's
                stream(pattern, 0, len).into_iter().rev().collect(),
            ];
            for bytes in at_fault {
                let at = pattern.check(0, &bytes).expect_err("these are not its bytes").offset;
                assert!(at < 8, "found at {at} only");
            }
            let doubled = stream(pattern, 0, len);
            assert!(pattern.check(message, &doubled).is_err(), "the first one came twice");
        }
    }
}
