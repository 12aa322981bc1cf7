//! Bytes on their way through the server: received into a buffer and sent from it.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::pool::{Fit, Lease, Size};
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
    memory: ChunkMemory,
    start: u32,
    end: u32,
}

#[derive(Clone)]
enum ChunkMemory {
    Pooled(Lease),
    Heap(Rc<HeapBytes>),
    Static(&'static [u8]),
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
    pub const EMPTY: Chunk = Chunk { memory: ChunkMemory::Static(&[]), start: 0, end: 0 };

    /// A view of constant bytes; nothing is copied.
    ///
    /// # Panics
    /// If there are 4 GiB or more.
    pub const fn from_static(bytes: &'static [u8]) -> Chunk {
        assert!(bytes.len() <= u32::MAX as usize, "a chunk is smaller than 4 GiB");
        Chunk { memory: ChunkMemory::Static(bytes), start: 0, end: bytes.len() as u32 }
    }

    /// The first `len` bytes of a leased buffer: what was received into it.
    ///
    /// # Panics
    /// If the buffer is not that long.
    pub fn received(lease: Lease, len: usize) -> Chunk {
        assert!(len <= lease.len(), "a receive stays inside its buffer");
        Chunk { memory: ChunkMemory::Pooled(lease), start: 0, end: len as u32 }
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Splits off and returns the first `at` bytes; nothing is copied.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn split_to(&mut self, at: usize) -> Chunk {
        assert!(at <= self.len(), "a split is inside the chunk");
        let mut head = self.clone();
        head.end = head.start + at as u32;
        self.start = head.end;
        head
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "an advance is inside the chunk");
        self.start += n as u32;
    }

    /// The bytes to write to: in place if no other chunk views this memory, else copied first, as
    /// [`Rc::make_mut`] does.
    pub fn make_mut(&mut self) -> &mut [u8] {
        if self.unshared().is_none() {
            *self = Chunk::from(self.to_vec());
        }
        let range = self.start as usize..self.end as usize;
        &mut self.unshared().expect("a copy is unshared")[range]
    }

    /// Returns the whole memory, if no other chunk views it and it is not constant.
    fn unshared(&mut self) -> Option<&mut [u8]> {
        match &mut self.memory {
            ChunkMemory::Pooled(lease) => lease.bytes_mut(),
            ChunkMemory::Heap(heap) => Rc::get_mut(heap).map(|heap| heap.bytes.as_mut_slice()),
            ChunkMemory::Static(_) => None,
        }
    }

    /// Appends a copy of `bytes` if this is heap memory that ends here and that no other chunk
    /// views. Returns true if it did. So many small chunks need not each pin a buffer.
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let ChunkMemory::Heap(heap) = &mut self.memory else { return false };
        let (start, end) = (self.start as usize, self.end as usize);
        let is_most = start <= end - start && end + bytes.len() <= u32::MAX as usize;
        let Some(heap) = Rc::get_mut(heap).filter(|heap| is_most && heap.bytes.len() == end) else {
            return false;
        };
        heap.bytes.extend_from_slice(bytes);
        heap.charge.set(heap.bytes.capacity());
        self.end = heap.bytes.len() as u32;
        true
    }

    /// Whether it holds a share of a pool's buffer.
    pub fn is_pooled(&self) -> bool {
        matches!(self.memory, ChunkMemory::Pooled(_))
    }

    /// Copies the bytes to the heap if this chunk alone holds a buffer of a size, up to `largest`,
    /// of which few are left. Returns true if it did.
    pub fn release_scarce(&mut self, largest: Size) -> bool {
        let ChunkMemory::Pooled(lease) = &self.memory else { return false };
        let releases = lease.size() <= largest && lease.is_scarce() && lease.is_only_share();
        if releases {
            *self = Chunk::from(self.to_vec());
        }
        releases
    }

    /// How a chunk as it was received fits its buffer; memory of no pool fits well.
    pub fn fit(&self) -> Fit {
        if let ChunkMemory::Pooled(lease) = &self.memory {
            lease.fit(self.len())
        } else {
            Fit::Good
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let range = self.start as usize..self.end as usize;
        match &self.memory {
            ChunkMemory::Pooled(lease) => &lease.bytes()[range],
            ChunkMemory::Heap(heap) => &heap.bytes[range],
            ChunkMemory::Static(bytes) => &bytes[range],
        }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        let end = u32::try_from(bytes.len()).expect("a chunk is smaller than 4 GiB");
        Chunk { memory: ChunkMemory::Heap(Rc::new(HeapBytes::new(bytes))), start: 0, end }
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
        lease.bytes_mut().unwrap()[..bytes.len()].copy_from_slice(bytes);
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
