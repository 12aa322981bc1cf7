//! A ring of provided buffers: the kernel picks one when there are data for it.
//!
//! The states of a buffer:
//!
//! 1. *idle* in the pool, it is *lent*: its address, length and id are written at the tail;
//! 2. the kernel takes the oldest one lent, fills it, and names it in a completion;
//! 3. it is *reclaimed*: a lease, and soon a chunk that is sent from where it lies;
//! 4. when the last share of it is dropped, it is idle again.
//!
//! Both sides know the ring by one number: the tail, which we publish by a release store and which
//! lies where the first entry has a reserved field (kernel-notes §1). How far the kernel has come
//! need not be known: a buffer that came back was taken.
//!
//! The kernel takes buffers first in, first out, so it walks through all that it was lent. Lending
//! it much more than it uses would walk through cold memory; what is lent is a *window* that
//! doubles whenever most of it was used up between two looks.
#![allow(unsafe_code)]

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buffer::{Pages, Pool, Size};

/// The most entries that the kernel takes.
const ENTRIES_MAX: usize = 1 << 15;
/// What is lent at first, in buffers and in bytes.
const WINDOW: usize = 64;
const WINDOW_BYTES: usize = 2 << 20;
/// What may be lent of each size, however many bytes that is: if many connections receive into
/// large buffers, each needs one.
pub const WIDEST: usize = 64;

/// One size of a pool, lent to a kernel through a ring that both map. Its buffer group's number is
/// the size's.
#[derive(Debug)]
pub(super) struct ProvidedRing {
    pages: Pages,
    size: Size,
    mask: u16,
    tail: u16,
    /// How many buffers may be lent at a time: at most `widest`.
    window: usize,
    widest: usize,
}

impl ProvidedRing {
    /// Registers a ring with space for every buffer of this size.
    ///
    /// # Errors
    /// `EINVAL`: this kernel has none. `ENOMEM`: it lacks memory.
    pub(super) fn register(
        ring: &IoUring,
        pool: &Rc<Pool>,
        size: Size,
    ) -> io::Result<ProvidedRing> {
        let entries = pool.shape(size).count.next_power_of_two().min(ENTRIES_MAX);
        let pages = Pages::map(entries * size_of::<BufRingEntry>())?;
        let (base, group) = (pages.base().as_ptr() as u64, u16::from(size.0));
        let submitter = ring.submitter();
        // SAFETY: `pages` is mapped, page-aligned and large enough for `entries`; it lives as long
        // as this value, which its ring unregisters before it is dropped, or never frees.
        unsafe { submitter.register_buf_ring_with_flags(base, entries as u16, group, 0) }?;
        // What is lent and used stays resident: no more than the receives in flight use up.
        let many = WINDOW_BYTES / pool.shape(size).bytes;
        let (widest, window) = (many.max(WIDEST).min(entries), WINDOW.min(many.max(8)));
        let (mask, window) = ((entries - 1) as u16, window.min(entries));
        Ok(ProvidedRing { pages, size, mask, tail: 0, window, widest })
    }

    /// Lends idle buffers, with one store for all of them. Returns how many.
    pub(super) fn lend(&mut self, pool: &Pool) -> u32 {
        let out = pool.lent(self.size);
        if out * 4 <= self.window {
            self.widen(out);
        }
        // The fields are not read again for each buffer.
        let (pages, mask, before) = (self.pages.base(), self.mask, self.tail);
        let mut tail = before;
        pool.lend(self.size, self.window, |id, base, len| {
            let at = usize::from(tail & mask);
            // SAFETY: `at` is below `entries`, so inside the mapping. The kernel reads only
            // entries between its head and the published tail; never are more than `entries`
            // buffers lent, so this one is outside. The first entry's reserved field, which is
            // the tail, is not touched by these setters.
            let entry = unsafe { &mut *pages.as_ptr().cast::<BufRingEntry>().add(at) };
            entry.set_addr(base.as_ptr() as u64);
            entry.set_len(len as u32);
            entry.set_bid(id.0 as u16);
            tail = tail.wrapping_add(1);
        });
        self.publish(tail);
        tail.wrapping_sub(before).into()
    }

    /// Most of what was lent has been used up: twice as much will be.
    #[cold]
    fn widen(&mut self, out: usize) {
        if self.tail != 0 || out > 0 {
            self.window = (self.window * 2).min(self.widest);
        }
    }

    fn publish(&mut self, tail: u16) {
        self.tail = tail;
        let entries = self.pages.base().as_ptr().cast::<BufRingEntry>();
        // SAFETY: `entries` is the base that was registered. The tail is two bytes, aligned, in
        // the mapping; the kernel only reads it, atomically; no other code of this process does.
        let shared = unsafe { &*BufRingEntry::tail(entries).cast::<AtomicU16>() };
        shared.store(tail, Ordering::Release);
    }

    /// Takes the ring away from the kernel. What is still lent stays out of the pool: the
    /// ring is closing.
    pub(super) fn unregister(&self, ring: &IoUring) {
        // A ring that is being closed forgets it anyway.
        let _ = ring.submitter().unregister_buf_ring(u16::from(self.size.0));
    }
}
