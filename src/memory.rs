//! The account of what connections hold in user memory beside the pool's buffers, and how much one
//! of them may hold.
//!
//! What grows by what clients do *charges* itself where it is allocated: a chunk on the heap once,
//! however many queues share it, the slots of a queue, and input that is not taken. The sum is kept
//! for each thread. Threads and processes of one server add theirs up in batches.
//!
//! # The share of a connection
//!
//! As in a switch with dynamic thresholds, a connection may hold a fraction of what is *free*, so
//! its share becomes smaller as the memory fills, and the newcomer still finds some:
//!
//! | held | the connection |
//! |---|---|
//! | less than its share, a 64th of what is free | is received from |
//! | more | is congested: its peer must read before it is received from |
//! | more than is free, by what others send to it | is closed |

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest share: more is better left in the kernel's socket buffers, on both sides.
pub const SHARE_MAX: usize = 512 << 10;
/// The smallest share. This much of each connection is not part of the limit.
pub const SHARE_MIN: usize = 4 << 10;
/// A share is this part of what is free.
const SHARES: usize = 64;
/// What an allocation costs beside its bytes, at most.
const ALLOCATION: usize = 64;
/// Threads publish what they hold when it has changed by so much.
const BATCH: isize = 32 << 10;

thread_local! {
    /// The bytes that are charged in this thread.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of bytes that are charged in this thread.
pub fn held() -> usize {
    HELD.get()
}

/// An allocation that is charged until it is dropped, in the thread that made it.
#[derive(Debug, Default)]
pub struct Charge(usize);

impl Charge {
    /// Charges so many bytes, and the cost of their allocation.
    pub(crate) fn new(bytes: usize) -> Charge {
        let mut charge = Charge::default();
        charge.set(bytes);
        charge
    }

    /// The allocation has so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = if bytes == 0 { 0 } else { bytes + ALLOCATION };
        HELD.set(HELD.get().wrapping_sub(self.0).wrapping_add(bytes));
        self.0 = bytes;
    }
}

/// Charges what an allocation has grown by, whose owner knows its size.
pub(crate) fn resized(before: usize, after: usize) {
    HELD.set(HELD.get().wrapping_sub(before).wrapping_add(after));
}

impl Drop for Charge {
    fn drop(&mut self) {
        HELD.set(HELD.get().wrapping_sub(self.0));
    }
}

/// What several threads or processes hold together, in bytes.
pub trait HeldTotal: fmt::Debug {
    /// Returns the sum of all.
    fn get(&self) -> usize;

    /// One of them holds so many bytes more, or less.
    fn add(&self, more: isize);
}

impl HeldTotal for AtomicUsize {
    fn get(&self) -> usize {
        self.load(Ordering::Relaxed)
    }

    fn add(&self, more: isize) {
        self.fetch_add(more as usize, Ordering::Relaxed); // Wraps around for less.
    }
}

/// Bytes that one thread leaves for another: charged to what all threads hold, while they wait.
#[derive(Debug)]
pub struct SharedBytes {
    limit: usize,
    total: Arc<AtomicUsize>,
    bytes: Vec<u8>,
}

impl SharedBytes {
    /// None yet, in the account `total` with this limit.
    pub fn new(limit: usize, total: Arc<AtomicUsize>) -> SharedBytes {
        SharedBytes { limit, total, bytes: Vec::new() }
    }

    /// Adds `more`, unless that is more than others may queue for a connection. Returns whether it
    /// does.
    pub fn extend(&mut self, more: &[u8]) -> bool {
        let most = most(self.limit, self.total.load(Ordering::Relaxed)).min(SHARE_MAX);
        let fits = self.bytes.len() + more.len() <= most;
        if fits {
            self.bytes.extend_from_slice(more);
            self.total.fetch_add(more.len(), Ordering::Relaxed);
        }
        fits
    }

    /// Takes what is there.
    pub fn take(&mut self) -> Vec<u8> {
        self.total.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        self.take();
    }
}

/// Returns how much of this limit is free while so much is used. A quarter of it is kept for what
/// is on its way when the rest is full.
fn free(limit: usize, used: usize) -> usize {
    (limit - limit / 4).saturating_sub(used)
}

/// Returns how many bytes others may queue for a connection before it is closed.
fn most(limit: usize, used: usize) -> usize {
    if used >= limit { SHARE_MIN } else { free(limit, used).max(SHARE_MAX / 8) }
}

/// The limit of what the connections of a server may hold, and what they hold now.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    /// What was charged in this thread before; in several threads, before this one published last.
    base: Cell<usize>,
    /// What all threads and processes hold, if there are several, and what of it this one has
    /// published.
    shared: Option<(Arc<dyn HeldTotal>, Cell<usize>)>,
}

impl Memory {
    /// The account of a server with one thread.
    pub fn new(limit: usize) -> Memory {
        Memory { limit, base: Cell::new(held()), shared: None }
    }

    /// The account of one of several threads or processes, which share `total`.
    pub fn shared(limit: usize, total: Arc<dyn HeldTotal>) -> Memory {
        Memory { limit, base: Cell::new(held()), shared: Some((total, Cell::new(0))) }
    }

    /// Returns how many bytes are held.
    pub fn used(&self) -> usize {
        let more = held().wrapping_sub(self.base.get()) as isize;
        match &self.shared {
            None => more.max(0) as usize,
            Some((total, published)) => {
                if more.abs() >= BATCH {
                    self.base.set(held());
                    published.set(published.get().wrapping_add(more as usize));
                    total.add(more);
                }
                total.get()
            }
        }
    }

    /// Returns how much is free.
    pub fn free(&self) -> usize {
        free(self.limit, self.used())
    }

    /// Returns how many bytes a connection may be owed before it is congested.
    pub fn share(&self) -> usize {
        (self.free() / SHARES).clamp(SHARE_MIN, SHARE_MAX)
    }

    /// Returns true if a connection may have a buffer of so many bytes of its own: it is a small
    /// part of what is free.
    pub fn permits(&self, buffer: usize) -> bool {
        self.free() / SHARES >= buffer
    }

    /// Returns how many bytes others may queue for a connection before it is closed.
    pub fn most(&self) -> usize {
        most(self.limit, self.used())
    }
}

impl Drop for Memory {
    /// A thread or process ends, or serves another connection: what it publishes begins anew.
    fn drop(&mut self) {
        if let Some((total, published)) = &self.shared {
            total.add((published.get() as isize).wrapping_neg());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_becomes_smaller_as_the_memory_fills_and_is_never_nothing() {
        let memory = Memory::new(64 << 20);
        assert_eq!((memory.used(), memory.share()), (0, SHARE_MAX));
        let mut holds = Charge::new(46 << 20);
        assert_eq!(memory.free(), (2 << 20) - ALLOCATION);
        assert!((SHARE_MAX / 32..SHARE_MAX).contains(&memory.share()));
        assert_eq!(memory.most(), memory.free());
        holds.set(50 << 20);
        assert_eq!((memory.share(), memory.most()), (SHARE_MIN, SHARE_MAX / 8));
        holds.set(64 << 20);
        assert_eq!((memory.share(), memory.most()), (SHARE_MIN, SHARE_MIN));
        drop(holds);
        assert_eq!(memory.used(), 0);
    }

    /// However many connections fill their share again and again, the memory is never full.
    #[test]
    fn the_shares_of_all_connections_fit() {
        let memory = Memory::new(64 << 20);
        let mut connections: Vec<Charge> = (0..4000).map(|_| Charge::default()).collect();
        for _ in 0..10 {
            for connection in &mut connections {
                let share = memory.share();
                if share > SHARE_MIN && share > connection.0 {
                    connection.set(share);
                }
            }
        }
        assert!(memory.used() < 48 << 20, "{}", memory.used());
        assert!(memory.share() <= 2 * SHARE_MIN && connections[0].0 <= 2 * SHARE_MAX);
    }

    #[test]
    fn what_is_left_for_a_thread_is_bounded_by_the_memory_of_all() {
        let total = Arc::new(AtomicUsize::new(0));
        let [mut one, mut other] =
            [(); 2].map(|()| SharedBytes::new(SHARE_MAX, Arc::clone(&total)));
        assert!(one.extend(&[0; 300 << 10]) && !one.extend(&[0; 300 << 10]));
        total.fetch_add(SHARE_MAX, Ordering::Relaxed); // By others.
        assert!(!other.extend(&[0; SHARE_MIN + 1]) && other.extend(&[0; SHARE_MIN]));
        total.fetch_sub(SHARE_MAX, Ordering::Relaxed);
        assert_eq!((one.take().len(), total.load(Ordering::Relaxed)), (300 << 10, SHARE_MIN));
        drop(other);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_of_a_server_add_up_what_they_hold() {
        let total = Arc::new(AtomicUsize::new(0));
        let hold = |total: &Arc<AtomicUsize>| {
            let memory = Memory::shared(1 << 30, total.clone());
            (Charge::new(1 << 20), memory)
        };
        let (charge, memory) = hold(&total);
        assert_eq!(memory.used(), (1 << 20) + ALLOCATION);
        let other = Arc::clone(&total);
        let both = std::thread::spawn(move || {
            let (charge, memory) = hold(&other);
            let used = memory.used();
            drop((charge, memory));
            used
        });
        assert_eq!(both.join().unwrap(), 2 * ((1 << 20) + ALLOCATION));
        drop((charge, memory));
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
