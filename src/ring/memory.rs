//! The memory of operations in flight: held here until the kernel is done with it.
//!
//! The kernel is given addresses, not values. This file has a share of the chunks of a send in
//! flight, and of the buffer of a one-shot receive, from queueing the operation until its
//! completion is reaped; so the bytes stay in place, whatever happens to the connection. One
//! receive and one send are in flight per connection, so an entry for each slot of a connection is
//! enough.

use std::collections::VecDeque;
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
    /// Vectors not in use, kept so that sending allocates nothing.
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    spare: Vec<Box<Vector>>,
    /// Sends with `skip_success` whose result is not known yet, oldest first.
    implied_successes: VecDeque<ImpliedSuccess>,
    /// The buffer of the read in flight.
    pub(super) read: Option<Lease>,
}

#[derive(Default)]
struct Slot {
    /// The buffer of the one-shot receive in flight.
    recv: Option<Lease>,
    /// The bytes of the send in flight.
    send: Sending,
    /// The number of that submission, while it is one with `skip_success` that has not completed.
    skip_success: Option<u64>,
}

#[derive(Default)]
enum Sending {
    #[default]
    Nothing,
    One(#[expect(dead_code, reason = "held, not read")] Chunk),
    Many(Box<Vector>),
}

/// The arguments of a vectored send, at an address that does not change.
struct Vector {
    header: libc::msghdr,
    parts: [libc::iovec; VECTOR],
    chunks: Vec<Chunk>,
}

/// A send with `skip_success`. It never waits: when the enter that submits it returns, it has
/// either sent all its bytes, or failed or come short, which posts a completion.
struct ImpliedSuccess {
    conn: ConnId,
    len: u32,
    /// The number of the submission.
    at: u64,
}

/// Where the bytes of a send lie. Valid until [`InFlightMemory::sent`].
pub(super) enum Bytes {
    /// The bytes are in one buffer.
    One(*const u8, u32),
    /// The bytes are in several buffers.
    Many(*const libc::msghdr),
}

impl InFlightMemory {
    /// Holds the buffer of a one-shot receive.
    pub(super) fn recv(&mut self, conn: ConnId, lease: Lease) {
        self.slot(conn).recv = Some(lease);
    }

    /// Returns the buffer of a one-shot receive that has completed.
    pub(super) fn received(&mut self, conn: ConnId) -> Option<Lease> {
        self.slot(conn).recv.take()
    }

    /// Holds the first chunks of a queue, which must not be empty.
    pub(super) fn send(&mut self, conn: ConnId, queue: &SendQueue) -> Bytes {
        let first = queue.first().expect("a send has something to send");
        let (sending, bytes) = if queue.chunks() == 1 {
            let bytes = Bytes::One(first.as_ptr(), first.len() as u32);
            (Sending::One(first.clone()), bytes)
        } else {
            let mut vector = self.spare.pop().unwrap_or_else(Vector::new);
            vector.fill(queue);
            let bytes = Bytes::Many(&raw const vector.header);
            (Sending::Many(vector), bytes)
        };
        self.slot(conn).send = sending;
        bytes
    }

    /// Drops the share of the chunks that were being sent.
    pub(super) fn sent(&mut self, conn: ConnId) {
        let slot = self.slot(conn);
        slot.skip_success = None;
        if let Sending::Many(mut vector) = std::mem::take(&mut slot.send) {
            vector.chunks.clear();
            if self.spare.len() < SPARE {
                self.spare.push(vector);
            }
        }
    }

    /// Notes that the send in flight, submission number `at` of `len` bytes, has `skip_success`.
    pub(super) fn skips_success(&mut self, conn: ConnId, len: u32, at: u64) {
        self.slot(conn).skip_success = Some(at);
        self.implied_successes.push_back(ImpliedSuccess { conn, len, at });
    }

    /// Returns true if the result of a send with `skip_success` is not known.
    pub(super) fn has_unconfirmed(&self) -> bool {
        !self.implied_successes.is_empty()
    }

    /// Ends the next send with `skip_success` among the first `taken` submissions that has posted
    /// no completion, and so has sent all its bytes. Called when every completion has been reaped.
    pub(super) fn next_implied(&mut self, taken: u64) -> Option<(ConnId, usize)> {
        while self.implied_successes.front().is_some_and(|send| send.at < taken) {
            let ImpliedSuccess { conn, len, at } = self.implied_successes.pop_front()?;
            // A send that has completed may still be listed, if an overflow delayed this call; then
            // the number differs, because the connection has another send in flight.
            if self.slot(conn).skip_success == Some(at) {
                self.sent(conn);
                return Some((conn, len as usize));
            }
        }
        None
    }

    fn slot(&mut self, conn: ConnId) -> &mut Slot {
        let at = conn.slot() as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, Slot::default);
        }
        &mut self.slots[at]
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

    #[test]
    fn chunks_of_a_send_outlive_their_queue() {
        for chunks in [1, 3] {
            let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
            let (mut held, conn) = (InFlightMemory::default(), ConnId::new(5, 0));
            held.send(conn, &owed(&pool, chunks)); // The queue is dropped here.
            assert_eq!(pool.idle(Size(0)), 4 - chunks);
            held.sent(conn);
            assert!(pool.is_whole());
        }
    }

    #[test]
    fn a_vector_names_each_chunk_and_is_used_again() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let (mut held, conn) = (InFlightMemory::default(), ConnId::new(0, 0));
        let queue = owed(&pool, 3);
        let Bytes::Many(first) = held.send(conn, &queue) else { panic!("three pieces") };
        let Sending::Many(vector) = &held.slots[0].send else { panic!("held") };
        assert_eq!(vector.header.msg_iovlen, 3);
        for (part, chunk) in vector.parts.iter().zip(queue.iter()) {
            assert_eq!((part.iov_base.cast_const().cast(), part.iov_len), (chunk.as_ptr(), 600));
        }
        held.sent(conn);
        let Bytes::Many(again) = held.send(conn, &queue) else { panic!("three pieces") };
        assert_eq!(first, again, "no allocation");
    }

    #[test]
    fn success_is_implied_for_sends_that_were_taken_and_did_not_complete() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let mut held = InFlightMemory::default();
        let conns = [0, 1, 2].map(|slot| ConnId::new(slot, 0));
        for (at, conn) in conns.into_iter().enumerate() {
            held.send(conn, &owed(&pool, 1));
            held.skips_success(conn, 600, at as u64);
        }
        held.sent(conns[0]); // It completed: short, or refused.
        assert_eq!(held.next_implied(2), Some((conns[1], 600)));
        assert_eq!(held.next_implied(2), None, "the third was not taken");
        assert_eq!(held.next_implied(3), Some((conns[2], 600)));
        assert!(pool.is_whole());
    }

    #[test]
    fn a_send_that_completed_is_not_taken_for_the_next_one() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 4 }]).unwrap();
        let (mut held, conn) = (InFlightMemory::default(), ConnId::new(0, 0));
        held.send(conn, &owed(&pool, 1));
        held.skips_success(conn, 600, 0);
        // It comes short while completions wait outside the queue.
        held.sent(conn);
        held.send(conn, &owed(&pool, 2));
        held.skips_success(conn, 1200, 1);
        assert_eq!(held.next_implied(1), None, "the second was not taken");
        assert_eq!(held.next_implied(2), Some((conn, 1200)));
        assert_eq!(held.next_implied(2), None);
    }
}
