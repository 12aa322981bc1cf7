//! Bytes on their way through the server: received into a buffer and sent from it.
//!
//! A chunk is an address, a length and an owner, so its bytes are found without a question where
//! they are. Two facts make that sound: the owner keeps them in place, since it is a share of a
//! leased buffer, a share of a vector on the heap, or nothing for constants; and they are written
//! only if the owner is found to be the only one.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use super::pool::{Lease, Share, Size};
use crate::memory::Charge;

/// A view of bytes that may be shared with other views. 32 bytes, cheap to clone.
///
/// A chunk that a socket was received into is passed on, split and queued without a copy; what a
/// protocol makes itself is a `Vec` or a constant. `Deref` gives the bytes.
///
/// ```
/// use proactor::buffer::Chunk;
/// let mut line = Chunk::from(b"one\ntwo\n".to_vec());
/// let first = line.split_to(4);
/// assert_eq!((&first[..], &line[..]), (&b"one\n"[..], &b"two\n"[..]));
/// ```
#[derive(Clone)]
pub struct Chunk {
    owner: ChunkOwner,
    base: NonNull<u8>,
    len: u32,
    /// How long the buffer is that it was received into.
    capacity: u32,
}

/// How well what was received fits the buffer it came in: what a connection learns its receive size
/// from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It fills the whole buffer: there was probably more.
    Tight(Size),
    /// This size is right.
    Good,
    /// The next smaller size would have held it.
    Loose(Size),
}

/// What keeps the bytes of a chunk in place.
#[derive(Clone)]
enum ChunkOwner {
    Pooled(Share),
    Heap(Rc<HeapBytes>),
    Static,
}

/// Bytes on the heap, which are charged once, however many chunks view them.
struct HeapBytes {
    bytes: Vec<u8>,
    charge: Charge,
}

impl HeapBytes {
    fn new(bytes: Vec<u8>) -> HeapBytes {
        let charge = Charge::new(bytes.capacity());
        HeapBytes { bytes, charge }
    }
}

impl Chunk {
    /// A chunk without bytes.
    pub const EMPTY: Chunk = Chunk::from_static(&[]);

    /// A view of constant bytes; nothing is copied.
    ///
    /// # Panics
    /// If there are 4 GiB or more.
    pub const fn from_static(bytes: &'static [u8]) -> Chunk {
        assert!(bytes.len() <= u32::MAX as usize, "a chunk is smaller than 4 GiB");
        // SAFETY: a reference is not null.
        let base = unsafe { NonNull::new_unchecked(bytes.as_ptr().cast_mut()) };
        Chunk { owner: ChunkOwner::Static, base, len: bytes.len() as u32, capacity: 0 }
    }

    /// The first `len` bytes of a leased buffer, or all: what was received into it.
    #[inline(always)] // As `Pool::lease`: without a panic, nothing of it need be in memory.
    pub fn received(lease: Lease, len: usize) -> Chunk {
        debug_assert!(len <= lease.len(), "a receive stays inside its buffer");
        let (capacity, len) = (lease.len() as u32, len.min(lease.len()) as u32);
        let (share, base) = lease.into_share();
        Chunk { owner: ChunkOwner::Pooled(share), base, len, capacity }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns true of [`EMPTY`](Chunk::EMPTY), which need not be dropped.
    pub fn is_nothing(&self) -> bool {
        matches!(self.owner, ChunkOwner::Static) && self.is_empty()
    }

    /// Splits off and returns the first `at` bytes; nothing is copied.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn split_to(&mut self, at: usize) -> Chunk {
        assert!(at <= self.len(), "a split is inside the chunk");
        let mut head = self.clone();
        head.len = at as u32;
        self.advance(at);
        head
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "an advance is inside the chunk");
        // SAFETY: at most one past the last of the bytes that lie at `base`.
        self.base = unsafe { self.base.add(n) };
        self.len -= n as u32;
    }

    /// The bytes to write to: in place if no other chunk views this memory, else copied first, as
    /// [`Rc::make_mut`] does.
    pub fn make_mut(&mut self) -> &mut [u8] {
        let is_only = match &mut self.owner {
            ChunkOwner::Pooled(share) => share.is_only(),
            ChunkOwner::Heap(heap) => Rc::get_mut(heap).is_some(),
            ChunkOwner::Static => false,
        };
        if !is_only {
            *self = Chunk::from(self.to_vec());
        }
        // SAFETY: the owner keeps so many initialised bytes at `base`, and is the only one that
        // does, so no other chunk views them; `self` is borrowed as long as the answer is.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len()) }
    }

    /// Appends a copy of `bytes` if this is heap memory that ends here and that no other chunk
    /// views. Returns true if it did. So many small chunks need not each pin a buffer.
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let (base, len) = (self.base, self.len());
        let ChunkOwner::Heap(heap) = &mut self.owner else { return false };
        let Some(heap) = Rc::get_mut(heap) else { return false };
        let start = base.as_ptr().addr() - heap.bytes.as_ptr().addr();
        let is_most = start <= len && heap.bytes.len() + bytes.len() <= u32::MAX as usize;
        if !is_most || start + len != heap.bytes.len() {
            return false;
        }
        heap.bytes.extend_from_slice(bytes);
        heap.charge.set(heap.bytes.capacity());
        self.len += bytes.len() as u32;
        // The vector may lie elsewhere now.
        self.base = NonNull::from(&mut heap.bytes[start..]).cast();
        true
    }

    /// Whether it holds a share of a pool's buffer.
    pub fn is_pooled(&self) -> bool {
        matches!(self.owner, ChunkOwner::Pooled(_))
    }

    /// Drops it: by fewer instructions than otherwise, if it holds a share of a pool's buffer.
    #[inline(always)]
    pub fn release(self) {
        match self.owner {
            ChunkOwner::Pooled(share) => share.release(),
            owner => owner.drop(),
        }
    }

    /// Copies the bytes to the heap if this chunk alone holds a buffer of a size, up to `largest`,
    /// of which few are left. Returns true if it did.
    pub fn release_scarce(&mut self, largest: Size) -> bool {
        let ChunkOwner::Pooled(share) = &self.owner else { return false };
        let releases = share.size() <= largest && share.is_scarce() && share.is_only();
        if releases {
            *self = Chunk::from(self.to_vec());
        }
        releases
    }

    /// How a chunk as it was received fits its buffer; memory of no pool fits well.
    pub fn fit(&self) -> Fit {
        match &self.owner {
            // The first case is that of most, and needs the fewest questions.
            ChunkOwner::Pooled(share) if share.is_smallest() && self.len != self.capacity => {
                Fit::Good
            }
            ChunkOwner::Pooled(share) if self.len == self.capacity => Fit::Tight(share.size()),
            ChunkOwner::Pooled(share) if share.would_fit_smaller(self.len()) => {
                Fit::Loose(share.size())
            }
            _ => Fit::Good,
        }
    }
}

impl ChunkOwner {
    #[cold]
    #[inline(never)]
    fn drop(self) {}
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the owner keeps so many initialised bytes at `base`, and nothing writes to them
        // but `make_mut`, which borrows the only chunk that views them.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len()) }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        let len = u32::try_from(bytes.len()).expect("a chunk is smaller than 4 GiB");
        let mut heap = HeapBytes::new(bytes);
        let base = NonNull::from(heap.bytes.as_mut_slice()).cast();
        Chunk { owner: ChunkOwner::Heap(Rc::new(heap)), base, len, capacity: 0 }
    }
}

impl From<&'static [u8]> for Chunk {
    fn from(bytes: &'static [u8]) -> Chunk {
        Chunk::from_static(bytes)
    }
}

impl From<&'static str> for Chunk {
    fn from(text: &'static str) -> Chunk {
        Chunk::from(text.as_bytes())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} B{})", self.len(), if self.is_pooled() { ", pooled" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BufferClass, Pool};
    use super::*;

    fn pooled(bytes: &[u8]) -> (Rc<Pool>, Chunk) {
        let pool =
            Pool::new(&[BufferClass { bytes: 64, count: 2 }, BufferClass { bytes: 256, count: 2 }])
                .unwrap();
        let mut lease = pool.lease(Size(0)).unwrap();
        lease.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let chunk = Chunk::received(lease, bytes.len());
        (pool, chunk)
    }

    #[test]
    fn a_chunk_is_four_words() {
        assert_eq!(size_of::<Chunk>(), 32);
        assert_eq!(size_of::<Option<Chunk>>(), 32);
    }

    #[test]
    fn the_parts_of_a_chunk_hold_its_buffer() {
        let (pool, mut chunk) = pooled(b"hello world");
        let head = chunk.split_to(5);
        assert_eq!((&head[..], &chunk[..]), (&b"hello"[..], &b" world"[..]));
        drop(chunk);
        assert_eq!(pool.idle(Size(0)), 1);
        drop(head);
        assert!(pool.is_whole());
    }

    #[test]
    fn writing_to_an_unshared_chunk_is_in_place() {
        let (_pool, mut chunk) = pooled(b"shout");
        let before = chunk.as_ptr();
        chunk.make_mut().make_ascii_uppercase();
        assert_eq!((&chunk[..], chunk.as_ptr()), (&b"SHOUT"[..], before));
    }

    #[test]
    fn writing_to_a_shared_chunk_leaves_the_other_as_it_was() {
        let (pool, mut chunk) = pooled(b"shout");
        let other = chunk.clone();
        chunk.make_mut().make_ascii_uppercase();
        assert_eq!((&chunk[..], &other[..]), (&b"SHOUT"[..], &b"shout"[..]));
        drop(other);
        assert!(pool.is_whole(), "the copy holds no buffer");
        let mut constant = Chunk::from("const");
        constant.make_mut()[0] = b'C';
        assert_eq!(&constant[..], b"Const");
    }

    #[test]
    fn only_heap_memory_without_other_views_is_extended() {
        let mut tail = Chunk::from(b"one".to_vec());
        assert!(tail.try_extend(b"two"));
        assert_eq!(&tail[..], b"onetwo");
        let in_flight = tail.clone();
        assert!(!tail.try_extend(b"three"));
        drop(in_flight);
        let _head = tail.split_to(2);
        assert!(!tail.try_extend(b"three"), "the head views it too");
        assert!(!Chunk::from("constant").try_extend(b"x"));
        assert!(!pooled(b"buffer").1.try_extend(b"x"));
    }

    #[test]
    fn the_fit_says_whether_another_size_would_do() {
        let pool =
            Pool::new(&[BufferClass { bytes: 64, count: 2 }, BufferClass { bytes: 256, count: 2 }])
                .unwrap();
        let fit = |size, len| Chunk::received(pool.lease(Size(size)).unwrap(), len).fit();
        assert_eq!(fit(0, 64), Fit::Tight(Size(0)));
        assert_eq!(fit(0, 10), Fit::Good);
        assert_eq!(fit(1, 64), Fit::Loose(Size(1)));
        assert_eq!(fit(1, 65), Fit::Good);
        assert_eq!(fit(1, 256), Fit::Tight(Size(1)));
        assert_eq!(Chunk::from("constant").fit(), Fit::Good);
    }
}
