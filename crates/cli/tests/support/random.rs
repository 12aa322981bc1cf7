//! Bytes and lengths that look random and are the same in every run, until `PROACTOR_SEED` says
//! otherwise.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A source of randomness. If its test fails, it says how to see the same again.
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
    /// Said when the test fails; none in a branch.
    seed: Option<u64>,
}

impl Random {
    /// The source of the current test: each test has its own.
    pub(crate) fn of_test() -> Random {
        let seed = match std::env::var("PROACTOR_SEED") {
            Ok(seed) => seed.parse().expect("PROACTOR_SEED is a number"),
            Err(_) => {
                let mut hasher = DefaultHasher::new();
                std::thread::current().name().hash(&mut hasher);
                hasher.finish()
            }
        };
        Random { state: seed, seed: Some(seed) }
    }

    /// Another source, for another thread.
    pub(crate) fn branch(&mut self) -> Random {
        Random { state: self.next(), seed: None }
    }

    /// Returns the next 64 bits (SplitMix64).
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 1 to `most`; small ones as often as large ones.
    pub(crate) fn length(&mut self, most: usize) -> usize {
        let bits = 1 + self.next() % u64::from(usize::BITS - most.leading_zeros());
        1 + (self.next() % (1 << bits)) as usize % most
    }

    /// Returns `count` random bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A line of up to `most` characters and its newline.
    pub(crate) fn line(&mut self, most: usize) -> Vec<u8> {
        let len = self.next() as usize % (most + 1);
        let mut line = self.bytes(len);
        line.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
        line.push(b'\n');
        line
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if let (Some(seed), true) = (self.seed, std::thread::panicking()) {
            eprintln!("the same again: PROACTOR_SEED={seed}");
        }
    }
}
