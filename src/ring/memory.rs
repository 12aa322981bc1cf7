//! The memory of operations in flight: held here until the kernel is done with it.
//!
//! The kernel is given addresses, not values. This file has the chunk of a send in flight, or
//! shares of its chunks, and the buffer of a one-shot receive, from queueing the operation until
//! its completion is reaped; so the bytes stay in place, whatever happens to the connection. One
//! receive and one send are in flight per connection, so an entry for each slot of a connection is
//! enough.

use std::ptr;

use crate::buffer::{Chunk, Lease, SendQueue};
use crate::keys::ConnId;
use crate::os;

/// Chunks in one send.
pub const VECTOR: usize = 16;

/// Vectors that are kept when no send needs them; more are given back, since a crowd that has left
/// would leave a kilobyte for each connection.
const SPARE: usize = 256;

/// The memory of operations in flight, by the slot of the connection.
#[derive(Default)]
pub(super) struct InFlightMemory {
    slots: Vec<Slot>,
    /// The buffers of one-shot receives in flight, where the kernel does not pick them.
    receives: Vec<Option<Lease>>,
    /// Vectors not in use, kept so that sending allocates nothing.
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    spare: Vec<Box<Vector>>,
    /// Sends with `skip_success`, oldest first: emptied when the result of all is known.
    unconfirmed: Vec<Unconfirmed>,
    /// The position of the next one to confirm, and of the first whose result is not known.
    next: usize,
    known: usize,
    /// The buffer of the read in flight.
    pub(super) read: Option<Lease>,
}

#[derive(Default)]
struct Slot {
    /// The bytes of the send in flight.
    send: SendMemory,
    /// The number of the submission of that send, if it has `skip_success`.
    at: u64,
}

/// The bytes of a send in flight.
#[derive(Default)]
pub(super) enum SendMemory {
    #[default]
    Nothing,
    One(Chunk),
    Many(Box<Vector>),
}

/// The arguments of a vectored send, at an address that does not change.
pub(super) struct Vector {
    header: libc::msghdr,
    parts: [libc::iovec; VECTOR],
    chunks: Vec<Chunk>,
}

/// A send with `skip_success`. It never waits: when the enter that submits it returns, it has
/// either sent all its bytes, or failed or come short, which posts a completion.
#[derive(Clone, Copy)]
struct Unconfirmed {
    conn: ConnId,
    /// The number of the submission.
    at: u64,
}

/// Where the bytes of a send lie. Valid while its [`SendMemory`] is held.
pub(super) enum Bytes {
    /// The bytes are in one buffer.
    One(*const u8, u32),
    /// The bytes are in several buffers.
    Many(*const libc::msghdr),
}

impl InFlightMemory {
    /// Holds the buffer of a one-shot receive.
    pub(super) fn recv(&mut self, conn: ConnId, lease: Lease) {
        let at = conn.slot() as usize;
        if at >= self.receives.len() {
            self.receives.resize_with(at + 1, || None);
        }
        self.receives[at] = Some(lease);
    }

    /// Returns the buffer of a one-shot receive that has completed.
    pub(super) fn received(&mut self, conn: ConnId) -> Option<Lease> {
        self.receives.get_mut(conn.slot() as usize)?.take()
    }

    /// Holds the bytes of a send until it completes.
    pub(super) fn send(&mut self, conn: ConnId, bytes: SendMemory) {
        let slot = self.slot(conn);
        (slot.send, slot.at) = (bytes, u64::MAX);
    }

    /// Holds the bytes of a send with `skip_success`, submission number `at`, until its result is
    /// known.
    pub(super) fn send_unconfirmed(&mut self, conn: ConnId, bytes: SendMemory, at: u64) {
        let slot = self.slot(conn);
        (slot.send, slot.at) = (bytes, at);
        self.unconfirmed.push(Unconfirmed { conn, at });
    }

    /// Takes the only chunk of a queue, if it has one, and
    /// [holds](InFlightMemory::send_unconfirmed) it. Returns where it lies; `None` too if the
    /// connection has no slot yet. It is moved from one place to the other, and nothing may panic
    /// between.
    #[inline(always)] // Once for each message.
    pub(super) fn send_only(
        &mut self,
        conn: ConnId,
        queue: &mut SendQueue,
        at: u64,
    ) -> Option<(*const u8, u32)> {
        let slot = self.slots.get_mut(conn.slot() as usize)?;
        slot.at = at;
        let chunk = queue.take_only()?;
        let (base, len) = (chunk.as_ptr(), chunk.len() as u32);
        let before = std::mem::replace(&mut slot.send, SendMemory::One(chunk));
        debug_assert!(matches!(before, SendMemory::Nothing), "one send is in flight");
        std::mem::forget(before); // There is nothing to drop, and the compiler need not ask.
        self.unconfirmed.push(Unconfirmed { conn, at });
        Some((base, len))
    }

    /// Returns the bytes of a send that takes the first chunks of a queue, which must not be empty.
    pub(super) fn take(&mut self, queue: &mut SendQueue) -> (Bytes, SendMemory) {
        match queue.take_only() {
            Some(chunk) => {
                let bytes = Bytes::One(chunk.as_ptr(), chunk.len() as u32);
                (bytes, SendMemory::One(chunk))
            }
            None => self.share(queue),
        }
    }

    #[cold]
    fn share(&mut self, queue: &SendQueue) -> (Bytes, SendMemory) {
        let mut vector = self.spare.pop().unwrap_or_else(Vector::new);
        vector.fill(queue);
        (Bytes::Many(&raw const vector.header), SendMemory::Many(vector))
    }

    /// A send has completed.
    pub(super) fn sent(&mut self, conn: ConnId) {
        let slot = self.slot(conn);
        slot.at = u64::MAX; // Its success is not implied.
        if matches!(slot.send, SendMemory::Many(_)) {
            let held = std::mem::take(&mut slot.send);
            self.keep(held);
        }
    }

    /// Returns the chunk that a send has taken which has completed, if it has taken one.
    pub(super) fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        match std::mem::take(&mut self.slot(conn).send) {
            SendMemory::One(chunk) => Some(chunk),
            _ => None,
        }
    }

    /// Frees the shares of a vectored send, and keeps its vector. Returns how many bytes it had.
    #[cold]
    fn keep(&mut self, held: SendMemory) -> usize {
        let SendMemory::Many(mut vector) = held else { return 0 };
        let bytes = vector.chunks.drain(..).map(|chunk| chunk.len()).sum();
        if self.spare.len() < SPARE {
            self.spare.push(vector);
        }
        bytes
    }

    /// Returns true if the result of a send with `skip_success` is not known.
    pub(super) fn has_unconfirmed(&self) -> bool {
        self.next < self.unconfirmed.len()
    }

    /// The kernel has taken so many submissions: of the sends among them, the results are known
    /// when every completion has been reaped.
    #[inline]
    pub(super) fn taken(&mut self, submissions: u64) {
        let is_taken = |send: &Unconfirmed| send.at < submissions;
        self.known = match self.unconfirmed.last().is_none_or(is_taken) {
            true => self.unconfirmed.len(),
            false => self.unconfirmed.partition_point(is_taken),
        };
    }

    /// Ends the next send with `skip_success` that was [taken](InFlightMemory::taken) and has
    /// posted no completion, and so has sent all its bytes. Called when every completion has been
    /// reaped.
    #[inline]
    pub(super) fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        while self.next < self.known
            && let Some(&Unconfirmed { conn, at }) = self.unconfirmed.get(self.next)
        {
            self.next += 1;
            let slot = &mut self.slots[conn.slot() as usize];
            if slot.at != at {
                continue; // It has completed.
            }
            let len = match std::mem::take(&mut slot.send) {
                SendMemory::One(chunk) => {
                    let len = chunk.len();
                    chunk.release();
                    len
                }
                held => self.keep(held),
            };
            return Some((conn, len));
        }
        if !self.has_unconfirmed() {
            self.unconfirmed.clear();
            (self.next, self.known) = (0, 0);
        }
        None
    }

    #[inline(always)]
    fn slot(&mut self, conn: ConnId) -> &mut Slot {
        let at = conn.slot() as usize;
        if at >= self.slots.len() {
            self.add_slots(at + 1);
        }
        &mut self.slots[at]
    }

    #[cold]
    fn add_slots(&mut self, count: usize) {
        self.slots.resize_with(count, Slot::default);
    }
}

impl Vector {
    fn new() -> Box<Vector> {
        let part = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Box::new(Vector {
            header: os::empty_msghdr(),
            parts: [part; VECTOR],
            chunks: Vec::with_capacity(VECTOR),
        })
    }

    /// Takes shares of the first chunks. The header points into this box.
    fn fill(&mut self, queue: &SendQueue) {
        self.chunks.extend(queue.vectored().cloned());
        for (part, chunk) in self.parts.iter_mut().zip(&self.chunks) {
            part.iov_base = chunk.as_ptr().cast_mut().cast();
            part.iov_len = chunk.len();
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = self.chunks.len() as _; // its type differs between C libraries
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::buffer::{BufferClass, Pool, Size};

    fn owed(pool: &Rc<Pool>, chunks: usize) -> SendQueue {
        let mut queue = SendQueue::default();
        for _ in 0..chunks {
            queue.push(Chunk::received(pool.lease(Size(0)).unwrap(), 600));
        }
        queue
    }

    /// Begins a send of a queue of so many chunks, which is dropped, as submission number `at`.
    fn begin(held: &mut InFlightMemory, conn: ConnId, mut queue: SendQueue, at: Option<u64>) {
        let (_, bytes) = held.take(&mut queue);
        match at {
            Some(at) => held.send_unconfirmed(conn, bytes, at),
            None => held.send(conn, bytes),
        }
    }

    #[test]
    fn chunks_of_a_send_outlive_their_queue() {
        for (chunks, at) in [(1, None), (3, None), (1, Some(0)), (3, Some(0))] {
            let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
            let (mut held, conn) = (InFlightMemory::default(), ConnId::new(5, 0));
            begin(&mut held, conn, owed(&pool, chunks), at);
            assert_eq!(pool.idle(Size(0)), 4 - chunks);
            held.sent(conn);
            assert_eq!(held.take_back(conn).is_some(), chunks == 1, "a single chunk is taken");
            assert!(pool.is_whole());
        }
    }

    #[test]
    fn a_vector_names_each_chunk_and_is_used_again() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let (mut held, conn) = (InFlightMemory::default(), ConnId::new(0, 0));
        let mut queue = owed(&pool, 3);
        let (Bytes::Many(first), bytes) = held.take(&mut queue) else { panic!("three pieces") };
        let SendMemory::Many(vector) = &bytes else { panic!("held") };
        assert_eq!(vector.header.msg_iovlen, 3);
        for (part, chunk) in vector.parts.iter().zip(queue.iter()) {
            assert_eq!((part.iov_base.cast_const().cast(), part.iov_len), (chunk.as_ptr(), 600));
        }
        held.send(conn, bytes);
        held.sent(conn);
        let (Bytes::Many(again), _) = held.take(&mut queue) else { panic!("three pieces") };
        assert_eq!(first, again, "no allocation");
    }

    #[test]
    fn success_is_implied_for_sends_that_were_taken_and_did_not_complete() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let mut held = InFlightMemory::default();
        let conns = [0, 1, 2].map(|slot| ConnId::new(slot, 0));
        for (at, conn) in conns.into_iter().enumerate() {
            begin(&mut held, conn, owed(&pool, 1), Some(at as u64));
        }
        held.sent(conns[0]); // It completed: short, or refused.
        assert_eq!(held.take_back(conns[0]).unwrap().len(), 600);
        held.taken(2);
        assert_eq!(held.next_implied(), Some((conns[1], 600)));
        assert_eq!(held.next_implied(), None, "the third was not taken");
        held.taken(3);
        assert_eq!(held.next_implied(), Some((conns[2], 600)));
        assert!(pool.is_whole() && !held.has_unconfirmed());
    }

    #[test]
    fn a_send_that_completed_is_not_taken_for_the_next_one() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let (mut held, conn) = (InFlightMemory::default(), ConnId::new(0, 0));
        begin(&mut held, conn, owed(&pool, 1), Some(0));
        // It comes short while completions wait outside the queue.
        held.sent(conn);
        begin(&mut held, conn, owed(&pool, 2), Some(1));
        held.taken(1);
        assert_eq!(held.next_implied(), None, "the second was not taken");
        held.taken(2);
        assert_eq!(held.next_implied(), Some((conn, 1200)));
        assert_eq!(held.next_implied(), None);
    }
}
