//! Connections that have never sent a byte, oldest first: what a full server closes.
//!
//! A connection is queued when it opens, and not touched when it sends: an entry whose connection
//! has sent or is gone is dropped when it comes to the front, or when there are more of them than
//! connections. So a message costs nothing, and a connection a constant time.

use std::collections::VecDeque;

use crate::clock::Nanos;

/// Connections in the order in which they were opened; most of them silent.
#[derive(Debug)]
pub struct SilentQueue<K>(VecDeque<(Nanos, K)>);

impl<K: Copy> SilentQueue<K> {
    /// Adds a connection, which is opened now, to so many.
    pub fn push(
        &mut self,
        opened: Nanos,
        key: K,
        connections: usize,
        is_silent: impl Fn(K) -> bool,
    ) {
        if self.0.len() > 2 * connections + 64 {
            self.0.retain(|&(_, key)| is_silent(key));
        }
        self.0.push_back((opened, key));
    }

    /// Returns the oldest connection that is silent, and when it was opened.
    pub fn oldest(&mut self, is_silent: impl Fn(K) -> bool) -> Option<(Nanos, K)> {
        while let Some(&(opened, key)) = self.0.front() {
            if is_silent(key) {
                return Some((opened, key));
            }
            self.0.pop_front();
        }
        None
    }
}

impl<K> Default for SilentQueue<K> {
    fn default() -> SilentQueue<K> {
        SilentQueue(VecDeque::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_silent_comes_first() {
        let mut queue = SilentQueue::default();
        (0..10u64).for_each(|key| queue.push(Nanos(key), key, 10, |_| true));
        assert_eq!(queue.oldest(|key| key >= 3), Some((Nanos(3), 3)));
        assert_eq!(queue.oldest(|key| key % 5 == 0), Some((Nanos(5), 5)));
        assert_eq!(queue.oldest(|_| false), None);
    }

    #[test]
    fn the_queue_is_bounded_behind_a_silent_connection_that_stays() {
        let mut queue = SilentQueue::default();
        for key in 0..10_000u64 {
            queue.push(Nanos(key), key, 2, |key| key == 0);
            assert!(queue.0.len() <= 2 * 2 + 64 + 1);
        }
        assert_eq!(queue.oldest(|key| key == 0), Some((Nanos(0), 0)));
    }
}
