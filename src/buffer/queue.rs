//! What one peer is owed, oldest first.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::{Chunk, Size};
use crate::memory;

/// Chunks owed to a peer. [`advance`](SendQueue::advance) crosses chunk borders.
///
/// The first chunk has a place of its own, so a peer that is owed one chunk at a time (every
/// request-reply protocol) never allocates.
///
/// A ring *takes* a chunk that it sends alone. The chunk is owed until it was sent; one that was
/// not sent as a whole is put back first.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// `None` exactly when nothing but what is taken is owed. Never an empty chunk.
    first: Option<Chunk>,
    /// What follows. No chunk in it is empty. Its slots are charged.
    rest: VecDeque<Chunk>,
    /// The sum of all lengths, with that of what is taken.
    bytes: usize,
    /// How many chunks, and what is taken, are shares of pooled buffers; and of what is taken,
    /// [`TAKEN`] or [`TAKEN_LEASE`].
    leases: u32,
    /// How many announcements were dropped because too much is owed.
    pub missed: u32,
}

/// This bit, if a chunk that is no share of a pooled buffer is taken.
const TAKEN: u32 = 1 << 30;
/// This bit, if a share of a pooled buffer is taken.
const TAKEN_LEASE: u32 = 1 << 31;

/// From this many chunks on, small ones are copied together: a slow reader of many small lines
/// would otherwise pin a whole buffer with each.
const COALESCE_FROM: usize = 8;
/// The largest chunk that is copied.
const COALESCE_BYTES: usize = 512;
/// Where the copying into one heap chunk ends and the next begins.
const COALESCE_INTO: usize = 16 << 10;
/// An empty queue keeps no more slots than these.
const SLOTS_KEPT: usize = 16;
/// Chunks in one vectored send.
const VECTOR: usize = 16;
/// Bytes that a connection sends in an iteration; on a ring, but for the last chunk.
pub const SEND_MAX: usize = 512 << 10;

impl SendQueue {
    /// Owes `chunk` after all else; an empty one is nothing.
    pub fn push(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        if self.first.is_none() {
            self.leases += u32::from(chunk.is_pooled());
            self.first = Some(chunk);
        } else {
            self.push_behind(chunk);
        }
    }

    #[inline(never)]
    fn push_behind(&mut self, chunk: Chunk) {
        if self.rest.len() >= COALESCE_FROM && chunk.len() <= COALESCE_BYTES {
            self.push_copied(&chunk);
        } else {
            self.leases += u32::from(chunk.is_pooled());
            self.push_slot(chunk);
        }
    }

    fn push_slot(&mut self, chunk: Chunk) {
        let before = self.slots();
        self.rest.push_back(chunk);
        self.charge_slots(before);
    }

    /// Charges what the slots have grown by.
    fn charge_slots(&self, before: usize) {
        if self.slots() != before {
            memory::resized(before, self.slots());
        }
    }

    /// Returns the bytes of the slots.
    fn slots(&self) -> usize {
        self.rest.capacity() * size_of::<Chunk>()
    }

    fn push_copied(&mut self, bytes: &[u8]) {
        let last = self.rest.back_mut().expect("long enough to coalesce");
        if last.len() + bytes.len() > COALESCE_INTO || !last.try_extend(bytes) {
            let mut copy = Vec::with_capacity(4 * COALESCE_BYTES);
            copy.extend_from_slice(bytes);
            self.push_slot(Chunk::from(copy));
        }
    }

    /// Says that `n` bytes were sent, if that is all that is owed. Returns whether it is.
    #[inline(always)] // Once for each message.
    pub fn end(&mut self, n: usize) -> bool {
        let is_all = n == self.bytes && self.rest.is_empty();
        if is_all {
            (self.bytes, self.leases) = (0, 0);
            // Else it is taken.
            if let Some(chunk) = self.first.take() {
                chunk.release();
            }
        }
        is_all
    }

    /// Says that what is taken, `n` bytes, was sent: else it is put back first. Returns whether
    /// anything is taken.
    pub fn end_taken(&mut self, n: usize) -> bool {
        let was_taken = self.end_taking();
        if was_taken {
            self.bytes -= n;
        }
        was_taken
    }

    /// Takes the only chunk, for a ring to send and to hold meanwhile.
    pub fn take_only(&mut self) -> Option<Chunk> {
        debug_assert!(self.leases < TAKEN, "one send is in flight");
        if !self.rest.is_empty() {
            return None;
        }
        let chunk = self.first.take()?;
        self.leases |= if chunk.is_pooled() { TAKEN_LEASE } else { TAKEN };
        Some(chunk)
    }

    /// Nothing is taken any more. Returns whether something was.
    fn end_taking(&mut self) -> bool {
        let taken = self.leases & (TAKEN | TAKEN_LEASE);
        self.leases = (self.leases & !taken) - (taken >> 31);
        taken != 0
    }

    /// Puts back what was taken, and not sent or only in part.
    pub fn put_back(&mut self, chunk: Chunk) {
        let leases = u32::from(chunk.is_pooled());
        if !self.end_taking() {
            return; // The queue was cleared meanwhile.
        }
        self.leases += leases;
        if let Some(second) = self.first.replace(chunk) {
            let before = self.slots();
            self.rest.push_front(second);
            self.charge_slots(before);
        }
    }

    /// Says that the first `n` bytes were sent, of which none are taken.
    ///
    /// # Panics
    /// If fewer are owed: a kernel does not send what it was not given.
    #[inline(never)]
    pub fn advance(&mut self, mut n: usize) {
        assert!(n <= self.bytes, "no more is sent than is owed");
        self.bytes -= n;
        while n > 0 {
            let first = self.first.as_mut().expect("bytes are owed");
            if n < first.len() {
                first.advance(n);
                break;
            }
            n -= first.len();
            self.leases -= u32::from(first.is_pooled());
            self.first = self.rest.pop_front();
        }
        if self.rest.is_empty() && self.rest.capacity() > SLOTS_KEPT {
            memory::resized(self.slots(), 0);
            self.rest = VecDeque::new();
        }
    }

    /// Copies to the heap what alone holds buffers of a size, up to `largest`, of which few are
    /// left, so that others can receive into them. A chunk that is being sent stays where it is.
    pub fn release_scarce(&mut self, largest: Size) {
        for chunk in self.first.iter_mut().chain(&mut self.rest) {
            self.leases -= u32::from(chunk.release_scarce(largest));
        }
    }

    /// The chunks, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.first.iter().chain(&self.rest)
    }

    /// The chunks of one vectored send, oldest first.
    pub fn vectored(&self) -> impl Iterator<Item = &Chunk> {
        let mut bytes = 0;
        self.iter().take(VECTOR).take_while(move |chunk| {
            let before = bytes;
            bytes += chunk.len();
            before < SEND_MAX
        })
    }

    /// Returns the oldest chunk.
    pub fn first(&self) -> Option<&Chunk> {
        self.first.as_ref()
    }

    /// Gives the oldest bytes, up to `most` of them, to `send`, which sends them by one call: those
    /// of several chunks as so many parts. Returns its result, and how many bytes it was
    /// given. Where one chunk is all, it is one part, and no list is made. Of an empty queue
    /// there is no part.
    pub fn offer<T>(&self, most: usize, send: impl FnOnce(&[IoSlice<'_>]) -> T) -> (T, usize) {
        match self.only_part(most) {
            Some(part) => (send(&[IoSlice::new(part)]), part.len()),
            None => self.offer_several(most, send),
        }
    }

    /// Returns what is owed, if that is one chunk, and no more than `most` bytes.
    pub fn only_part(&self, most: usize) -> Option<&[u8]> {
        self.first.as_deref().filter(|first| self.rest.is_empty() && first.len() <= most)
    }

    /// [`offer`](SendQueue::offer), unless there is an [`only_part`](SendQueue::only_part).
    #[inline(never)]
    pub fn offer_several<T>(
        &self,
        most: usize,
        send: impl FnOnce(&[IoSlice<'_>]) -> T,
    ) -> (T, usize) {
        let mut parts = [IoSlice::new(&[]); VECTOR];
        let (count, bytes) = self.gather(&mut parts, most);
        (send(&parts[..count]), bytes)
    }

    /// Fills `parts` with the oldest bytes, up to `most` of them; returns how many parts that are
    /// and how many bytes.
    fn gather<'q>(&'q self, parts: &mut [IoSlice<'q>], most: usize) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (part, chunk) in parts.iter_mut().zip(self.iter()) {
            if bytes == most {
                break;
            }
            let chunk = &chunk[..chunk.len().min(most - bytes)];
            *part = IoSlice::new(chunk);
            count += 1;
            bytes += chunk.len();
        }
        (count, bytes)
    }

    /// Returns the number of chunks.
    pub fn chunks(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Returns true if so much is queued that it may be more than the share of a connection, or
    /// more buffers than `leases`.
    pub fn is_long(&self, leases: usize) -> bool {
        self.bytes >= memory::SHARE_MIN || self.leases() > leases
    }

    /// Returns the number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many chunks are shares of pooled buffers.
    pub fn leases(&self) -> usize {
        (self.leases & !(TAKEN | TAKEN_LEASE)) as usize
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Owes nothing any more.
    pub fn clear(&mut self) {
        *self = SendQueue::default();
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        if self.rest.capacity() > 0 {
            memory::resized(self.slots(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BufferClass, Pool, Size};
    use super::*;

    fn content(queue: &SendQueue) -> Vec<u8> {
        queue.iter().flat_map(|chunk| chunk.to_vec()).collect()
    }

    /// Calls `check` with every way to cut `bytes` into non-empty parts.
    fn every_split(bytes: &[u8], mut check: impl FnMut(&[&[u8]])) {
        for cuts in 0u32..1 << (bytes.len() - 1) {
            let (mut parts, mut start) = (Vec::new(), 0);
            for at in 1..=bytes.len() {
                if at == bytes.len() || cuts & 1 << (at - 1) != 0 {
                    parts.push(&bytes[start..at]);
                    start = at;
                }
            }
            check(&parts);
        }
    }

    #[test]
    fn what_is_taken_is_owed_until_it_is_sent_or_put_back() {
        let mut queue = SendQueue::default();
        queue.push(Chunk::from("first"));
        let first = queue.take_only().unwrap();
        assert!(!queue.is_empty() && queue.first().is_none());
        queue.push(Chunk::from("second"));
        assert_eq!((queue.bytes(), content(&queue)), (11, b"second".to_vec()));
        queue.put_back(first);
        assert_eq!(content(&queue), b"firstsecond");
        assert!(queue.take_only().is_none(), "there are two");
        queue.advance(7);
        assert_eq!(queue.take_only().as_deref(), Some(&b"cond"[..]));
        queue.push(Chunk::from("third"));
        assert!(queue.end_taken(4) && !queue.end_taken(4));
        assert_eq!((queue.bytes(), content(&queue)), (5, b"third".to_vec()));
        let third = queue.take_only().unwrap();
        queue.clear();
        queue.put_back(third);
        assert!(queue.is_empty() && queue.first().is_none());
    }

    #[test]
    fn a_vectored_send_is_given_the_oldest_bytes_and_no_more_than_asked() {
        let mut queue = SendQueue::default();
        ["ab", "cd", "ef"].into_iter().for_each(|text| queue.push(Chunk::from(text)));
        let cases = [(9, 3, "abcdef", 3), (3, 3, "abc", 2), (4, 3, "abcd", 2), (9, 2, "abcd", 2)];
        for (most, space, expected, count) in cases {
            let mut parts = [IoSlice::new(&[]); 3];
            let found = queue.gather(&mut parts[..space], most);
            assert_eq!(found, (count, expected.len()));
            let bytes: Vec<u8> = parts[..count].iter().flat_map(|part| part.to_vec()).collect();
            assert_eq!(bytes, expected.as_bytes());
        }
    }

    #[test]
    fn what_is_offered_is_one_part_if_one_chunk_is_all_and_else_as_many_as_a_call_takes() {
        let offered = |queue: &SendQueue, most| {
            let (parts, bytes) = queue
                .offer(most, |parts| parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>());
            assert_eq!(bytes, parts.iter().map(Vec::len).sum::<usize>());
            parts
        };
        let mut queue = SendQueue::default();
        assert!(offered(&queue, 9).is_empty());
        queue.push(Chunk::from("abc"));
        assert_eq!(offered(&queue, usize::MAX), [b"abc"]);
        assert_eq!(offered(&queue, 2), [b"ab"]);
        queue.push(Chunk::from("de"));
        assert_eq!(offered(&queue, 3), [b"abc"]);
        assert_eq!(offered(&queue, 4), [&b"abc"[..], b"d"]);
        (0..VECTOR).for_each(|_| queue.push(Chunk::from(vec![b'x'; COALESCE_BYTES + 1])));
        assert_eq!(offered(&queue, usize::MAX).len(), VECTOR);
    }

    #[test]
    fn every_split_in_comes_out_whole_by_every_split_out() {
        let text = b"proactor";
        every_split(text, |parts_in| {
            every_split(text, |parts_out| {
                let mut queue = SendQueue::default();
                parts_in.iter().for_each(|part| queue.push(Chunk::from(part.to_vec())));
                let mut sent = Vec::new();
                for part in parts_out {
                    sent.extend_from_slice(&content(&queue)[..part.len()]);
                    queue.advance(part.len());
                    assert_eq!(queue.bytes(), text.len() - sent.len());
                    assert!(queue.iter().all(|chunk| !chunk.is_empty()));
                }
                assert_eq!((&sent[..], queue.is_empty(), queue.chunks()), (&text[..], true, 0));
            });
        });
    }

    #[test]
    fn an_empty_chunk_is_nothing() {
        let mut queue = SendQueue::default();
        queue.push(Chunk::from(""));
        assert!(queue.is_empty());
    }

    #[test]
    fn leases_count_the_pooled_chunks() {
        let pool = Pool::new(&[BufferClass { bytes: 64, count: 4 }]).unwrap();
        let mut queue = SendQueue::default();
        for _ in 0..2 {
            queue.push(Chunk::received(pool.lease(Size(0)).unwrap(), 10));
            queue.push(Chunk::from("constant"));
        }
        assert_eq!(queue.leases(), 2);
        queue.advance(11);
        assert_eq!((queue.leases(), pool.idle(Size(0))), (1, 3));
        queue.clear();
        assert_eq!((queue.leases(), queue.bytes()), (0, 0));
        assert!(pool.is_whole());
    }

    #[test]
    fn many_small_chunks_do_not_each_pin_a_buffer() {
        let pool = Pool::new(&[BufferClass { bytes: 64, count: 100 }]).unwrap();
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        for i in 0..100u8 {
            let mut lease = pool.lease(Size(0)).unwrap();
            lease.bytes_mut()[..3].copy_from_slice(&[i; 3]);
            queue.push(Chunk::received(lease, 3));
            expected.extend_from_slice(&[i; 3]);
        }
        assert_eq!(content(&queue), expected);
        assert!(queue.leases() <= COALESCE_FROM + 1, "{} buffers pinned", queue.leases());
    }
}
