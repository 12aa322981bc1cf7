//! A fast hash of addresses and numbers of the kernel, which come with each event.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with such keys.
pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

/// Multiplies each word by a constant, and folds both halves of the product into one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FoldHasher(u64);

/// An odd number without a pattern: the golden ratio.
const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        // One is added because zero would stay zero.
        let product = u128::from((self.0 ^ word).wrapping_add(1)) * FACTOR;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_i32(&mut self, word: i32) {
        self.write_u64(u64::from(word as u32));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn addresses_are_spread_over_high_and_low_bits() {
        let hash = |key: (u64, u64)| BuildHasherDefault::<FoldHasher>::default().hash_one(key);
        let addresses = (0..4096_u64).map(|n| (0xffff_8881_0000_0000 + n * 256, 0));
        let numbers = (0..4096_u64).map(|n| (0, n));
        for keys in [addresses.collect::<Vec<_>>(), numbers.collect()] {
            let low: HashSet<_> = keys.iter().map(|key| hash(*key) & 0xfff).collect();
            let high: HashSet<_> = keys.iter().map(|key| hash(*key) >> 57).collect();
            // At random, 63 % of the 4,096 values would be taken.
            assert!(low.len() > 2048 && high.len() > 120, "{} {}", low.len(), high.len());
        }
    }
}
