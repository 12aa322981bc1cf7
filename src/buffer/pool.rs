//! A pool of buffers: one mapping, a few sizes, no I/O.
//!
//! Each buffer is in exactly one place: *idle* here, *lent* to a ring whose kernel picks from what
//! it was lent, or *leased*: to what receives into it, and then to the chunks that share it.
//! Dropping the last share makes it idle again. During a call that receives at once it is *vacant*
//! instead: what is leased is dropped by code that would need it in memory. Idle buffers are a
//! stack: the one that was used last, and is still in the cache, is used next. The mapping is lazy:
//! a buffer that was never used costs no memory.
//!
//! One word of each buffer says where it is: the next idle buffer of the stack, the size of one
//! that is lent, or the number of shares of one that is leased. A share knows its size, so no step
//! of a buffer's way searches for it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;

use super::pages::Pages;

/// Which buffer of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u32);

/// Which of a pool's sizes, smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u8);

/// A pool has no more sizes.
const SIZES_MAX: usize = 8;

/// The number of a size, for a share: a whole word, so that a copy needs no parts of words, of few
/// values, so that an enum around a share needs no further word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum SizeNumber {
    S0,
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
}

impl SizeNumber {
    fn of(size: Size) -> SizeNumber {
        use SizeNumber::*;
        match usize::from(size.0) % SIZES_MAX {
            0 => S0,
            1 => S1,
            2 => S2,
            3 => S3,
            4 => S4,
            5 => S5,
            6 => S6,
            _ => S7,
        }
    }
}

impl Size {
    /// The smallest of a pool's sizes.
    pub const SMALLEST: Size = Size(0);
    /// At least the largest of every pool's sizes.
    pub const LARGEST: Size = Size(u8::MAX);
}

/// So many buffers of so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferClass {
    /// Bytes in each buffer.
    pub bytes: usize,
    /// How many of them.
    pub count: usize,
}

/// Where the buffers of one size are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferStatus {
    /// Bytes in each of them.
    pub bytes: usize,
    /// How many are idle.
    pub idle: usize,
    /// How many are lent to a ring.
    pub lent: usize,
    /// How many hold bytes, or are received into.
    pub leased: usize,
}

/// Equal-sized buffers, in a few sizes, in one allocation.
pub struct Pool {
    pages: Pages,
    /// One for each number of a size, so that none needs a check; those that are not there are
    /// empty.
    classes: [Class; SIZES_MAX],
    /// How many sizes there are.
    sizes: u8,
    /// So many leases leave the reserve of each size.
    few: Cell<usize>,
    /// True if a ring is to lend more of some size.
    is_low: Cell<bool>,
    /// One per buffer: [`IDLE`] and the id of the next idle one, [`LENT`] and its size, or how many
    /// shares there are of it.
    states: Box<[Cell<u32>]>,
}

#[derive(Default)]
#[repr(align(64))] // A line of the cache, found by a shift.
struct Class {
    shape: BufferClass,
    /// Where the first of them lies.
    offset: usize,
    first: u32,
    /// The idle buffer that was used last, or [`NO_BUFFER`]; its state names the next one.
    top: Cell<u32>,
    idle: Cell<usize>,
    lent: Cell<usize>,
    /// When so many of them have come back, a ring is to lend more. Not as wide as `lent`: two that
    /// are counted down together would become a vector, which takes longer.
    until_low: Cell<u32>,
    /// With fewer unfilled buffers, the size is scarce.
    reserve: Cell<usize>,
}

impl Class {
    fn is_scarce(&self) -> bool {
        self.idle.get() + self.lent.get() < self.reserve.get()
    }
}

/// Returns how many leases leave the reserve of each size.
fn few(classes: &[Class]) -> usize {
    let leases = classes.iter().map(|class| class.shape.count.saturating_sub(class.reserve.get()));
    leases.min().unwrap_or(0)
}

/// This bit, and the id of the next idle buffer or [`NO_BUFFER`].
const IDLE: u32 = 1 << 31;
/// This bit, and the size: only a lent buffer has it without [`IDLE`].
const LENT: u32 = 1 << 30;
/// The bytes of idle buffers of a size that stay resident.
const KEPT: usize = 256 << 10;
/// The end of a stack of idle buffers.
const NO_BUFFER: u32 = IDLE - 1;

impl Pool {
    /// No pool has more bytes.
    pub const BYTES_MAX: usize = (1 << 31) - 1;

    /// A pool of these shapes, smallest first. Shapes with a count of zero are left out.
    ///
    /// # Errors
    /// The mapping was refused.
    ///
    /// # Panics
    /// If no shape is left, or more than eight, if sizes do not grow, if one is empty or not a
    /// multiple of 64, or if there are more than [`BYTES_MAX`](Pool::BYTES_MAX) bytes, or 2³⁰
    /// buffers: programmer errors; the command line checks first.
    pub fn new(shapes: &[BufferClass]) -> io::Result<Rc<Pool>> {
        let shapes: Vec<_> = shapes.iter().filter(|shape| shape.count > 0).collect();
        assert!(shapes.is_sorted_by(|one, next| one.bytes < next.bytes), "sizes grow: {shapes:?}");
        assert!(!shapes.is_empty(), "a pool has buffers");
        let mut classes: [Class; SIZES_MAX] = Default::default();
        assert!(shapes.len() <= classes.len(), "a pool has few sizes");
        let (mut offset, mut first) = (0usize, 0usize);
        for (shape, class) in shapes.iter().zip(&mut classes) {
            assert!(shape.bytes > 0 && shape.bytes % 64 == 0, "buffers start on cache lines");
            *class = Class {
                shape: **shape,
                offset,
                first: first as u32,
                top: Cell::new(first as u32),
                idle: Cell::new(shape.count),
                lent: Cell::new(0),
                until_low: Cell::new(0),
                reserve: Cell::new(shape.count / 4),
            };
            offset += shape.bytes * shape.count;
            first += shape.count;
        }
        assert!(offset <= Pool::BYTES_MAX && first < LENT as usize, "a pool is smaller than 2 GiB");
        // Each buffer lies on the next one of its size.
        let states: Box<[Cell<u32>]> = (1..=first as u32).map(|id| Cell::new(IDLE | id)).collect();
        for class in &classes[..shapes.len()] {
            states[class.first as usize + class.shape.count - 1].set(IDLE | NO_BUFFER);
        }
        let (pages, sizes) = (Pages::map(offset)?, shapes.len() as u8);
        let few = Cell::new(few(&classes[..shapes.len()]));
        Ok(Rc::new(Pool { pages, classes, sizes, few, is_low: Cell::new(true), states }))
    }

    /// A pool as [`new`](Pool::new) makes it, but with no more than `most` buffers of each size:
    /// for one connection.
    ///
    /// # Errors
    /// As [`new`](Pool::new).
    ///
    /// # Panics
    /// As [`new`](Pool::new); and if `most` is zero.
    pub fn few(shapes: &[BufferClass], most: usize) -> io::Result<Rc<Pool>> {
        let few = |shape: &BufferClass| BufferClass { count: shape.count.min(most), ..*shape };
        Pool::new(&shapes.iter().map(few).collect::<Vec<_>>())
    }

    /// How many sizes there are: `Size(0)` to `Size(sizes() - 1)`.
    pub fn sizes(&self) -> usize {
        self.sizes.into()
    }

    /// The bytes and the count of one size.
    pub fn shape(&self, size: Size) -> BufferClass {
        self.class(size).shape
    }

    /// The largest size that is there, at most `size`.
    pub fn clamp(&self, size: Size) -> Size {
        size.min(Size(self.sizes - 1))
    }

    /// Returns how many buffers of this size are idle.
    pub fn idle(&self, size: Size) -> usize {
        self.class(size).idle.get()
    }

    /// Returns how many buffers of this size are lent to a ring.
    pub fn lent(&self, size: Size) -> usize {
        self.class(size).lent.get()
    }

    /// Returns where the buffers of each size are.
    pub fn status(&self) -> Vec<BufferStatus> {
        let status = |class: &Class| {
            let (idle, lent) = (class.idle.get(), class.lent.get());
            let BufferClass { bytes, count } = class.shape;
            BufferStatus { bytes, idle, lent, leased: count - idle - lent }
        };
        self.classes().iter().map(status).collect()
    }

    /// Buffers of this size that a receive may yet fill: idle, or lent and not handed back.
    pub fn unfilled(&self, size: Size) -> usize {
        self.idle(size) + self.lent(size)
    }

    /// Buffers of any size that a receive may yet fill.
    pub fn unfilled_in_all(&self) -> usize {
        self.all_sizes().map(|size| self.unfilled(size)).sum()
    }

    /// Returns true if few buffers of this size are unfilled: then no connection keeps one beyond
    /// an iteration, so that each finds one to receive into.
    pub fn is_scarce(&self, size: Size) -> bool {
        self.class(size).is_scarce()
    }

    /// Returns true if any size is scarce.
    #[inline(always)] // Once for each iteration.
    pub fn has_scarce(self: &Rc<Self>) -> bool {
        // Each lease holds the pool: of so few, no size is scarce.
        Rc::strong_count(self) > self.few.get() && self.classes().iter().any(Class::is_scarce)
    }

    /// Makes a size scarce only once fewer than `reserve` of its buffers are unfilled.
    pub fn set_reserve(&self, size: Size, reserve: usize) {
        self.class(size).reserve.set(reserve);
        self.few.set(few(self.classes()));
    }

    /// Returns the size of which the most buffers are unfilled.
    pub fn most_plentiful(&self) -> Size {
        self.all_sizes().max_by_key(|&size| self.unfilled(size)).expect("there is a size")
    }

    /// The size to receive into where `size` would be right: that one or, if none of it is
    /// unfilled, the nearest smaller, else the nearest larger one of which any is.
    pub fn nearest(&self, size: Size) -> Size {
        let size = self.clamp(size);
        self.outwards_from(size).find(|&size| self.unfilled(size) > 0).unwrap_or(size)
    }

    fn classes(&self) -> &[Class] {
        &self.classes[..self.sizes()]
    }

    /// Returns the class of a size that is there.
    fn class(&self, size: Size) -> &Class {
        debug_assert!(size.0 < self.sizes, "a size of this pool");
        &self.classes[usize::from(size.0) % SIZES_MAX]
    }

    fn all_sizes(&self) -> impl Iterator<Item = Size> {
        (0..self.sizes).map(Size)
    }

    /// All sizes: this one, the smaller ones downwards, the larger ones upwards.
    fn outwards_from(&self, size: Size) -> impl Iterator<Item = Size> {
        let Size(at) = self.clamp(size);
        (0..=at).rev().chain(at + 1..self.sizes).map(Size)
    }

    /// Returns true if every buffer is idle.
    pub fn is_whole(&self) -> bool {
        self.states.iter().all(|state| state.get() & IDLE != 0)
    }

    /// A buffer to receive into, of this size, else of the nearest smaller, else of the nearest
    /// larger one that has any; none if all are taken.
    #[inline(always)] // Its result is large: in registers, if the caller takes it apart.
    pub fn lease(self: &Rc<Self>, size: Size) -> Option<Lease> {
        let size = self.clamp(size);
        match self.pop(size, 1) {
            Some(id) => Some(self.vacant_at(id, size).leased()),
            None => self.lease_another(size),
        }
    }

    #[cold]
    fn lease_another(self: &Rc<Self>, size: Size) -> Option<Lease> {
        self.outwards_from(size)
            .find_map(|size| Some(self.vacant_at(self.pop(size, 1)?, size).leased()))
    }

    /// A buffer of exactly this size, to receive into by one call.
    #[inline(always)] // As `lease`.
    pub fn vacant(self: &Rc<Self>, size: Size) -> Option<Vacant<'_>> {
        Some(self.vacant_at(self.pop(size, 1)?, size))
    }

    #[inline(always)]
    fn vacant_at(self: &Rc<Self>, id: BufferId, size: Size) -> Vacant<'_> {
        let (base, len) = self.location(id, self.class(size));
        Vacant { pool: self, id, size, base, len }
    }

    /// Returns true if a ring is to lend more: of some size an eighth has come back of what it
    /// lent, or what it was to lend was not idle. False from then on until that is so again.
    #[inline(always)] // Once for each iteration.
    pub fn take_low(&self) -> bool {
        self.is_low.get() && self.is_low.replace(false)
    }

    /// Marks idle buffers of exactly this size as lent to a ring, until so many are lent or none is
    /// idle. `each` is given the id of one, its first byte and how many there are.
    pub fn lend(
        &self,
        size: Size,
        target: usize,
        mut each: impl FnMut(BufferId, NonNull<u8>, usize),
    ) {
        let class = self.class(size);
        let lent = class.lent.get();
        let count = target.saturating_sub(lent).min(class.idle.get());
        class.idle.set(class.idle.get() - count);
        class.lent.set(lent + count);
        let low = target.saturating_sub((target / 8).max(1));
        class.until_low.set((lent + count).saturating_sub(low) as u32);
        self.is_low.set(self.is_low.get() || class.until_low.get() == 0);
        let (states, first) = (&*self.states, class.first);
        let (begin, bytes) = self.location(BufferId(first), class);
        for _ in 0..count {
            let id = class.top.get();
            class.top.set(states[id as usize].replace(LENT | u32::from(size.0)) & !IDLE);
            // SAFETY: as in `location`.
            let base = unsafe { begin.add((id - first) as usize * bytes) };
            each(BufferId(id), base, bytes);
        }
    }

    /// Takes back a lent buffer that the kernel has filled.
    ///
    /// Returns `None` if this buffer was not lent: an id from the kernel is checked like one from
    /// the network.
    ///
    /// # Safety
    /// The kernel must have handed this buffer back: it will not write to it again.
    #[inline(always)] // As `lease`.
    pub unsafe fn reclaim(self: &Rc<Self>, id: BufferId) -> Option<Lease> {
        let state = self.states.get(id.0 as usize)?;
        if state.get() & (IDLE | LENT) != LENT {
            return None;
        }
        let size = Size((state.get() & !LENT) as u8);
        state.set(1);
        let class = self.class(size);
        class.lent.set(class.lent.get() - 1);
        class.until_low.set(class.until_low.get().wrapping_sub(1));
        if class.until_low.get() == 0 {
            self.is_low.set(true);
        }
        Some(self.vacant_at(id, size).leased())
    }

    /// Gives the pages of idle buffers back to the kernel, but for those that are used next.
    pub fn trim(&self) {
        for class in self.classes() {
            let (mut idle, mut id) = (Vec::with_capacity(class.idle.get()), class.top.get());
            while id != NO_BUFFER {
                idle.push(id);
                id = self.states[id as usize].get() & !IDLE;
            }
            let cold = &mut idle[(KEPT / class.shape.bytes).min(class.idle.get())..];
            cold.sort_unstable();
            self.discard(class, cold);
        }
    }

    /// Gives the pages of all lent buffers back to the kernel. What they hold is lost.
    pub fn trim_lent(&self) {
        for class in self.classes() {
            let all = class.first..class.first + class.shape.count as u32;
            let is_lent = |id: &u32| self.states[*id as usize].get() & (IDLE | LENT) == LENT;
            self.discard(class, &all.filter(is_lent).collect::<Vec<_>>());
        }
    }

    /// Gives the pages of these buffers, in order, back to the kernel.
    fn discard(&self, class: &Class, ids: &[u32]) {
        for run in ids.chunk_by(|one, next| one + 1 == *next) {
            let at = class.offset + (run[0] - class.first) as usize * class.shape.bytes;
            // SAFETY: these buffers are idle or lent, so no lease or chunk has a reference to one;
            // a lent one whose kernel may fill it is not among them (`Ring::trim`).
            unsafe { self.pages.discard(at, run.len() * class.shape.bytes) };
        }
    }

    /// Takes the idle buffer of this size that was used last, and gives it this state.
    #[inline(always)] // This and the next two: once for each message.
    fn pop(&self, size: Size, state: u32) -> Option<BufferId> {
        let class = self.class(size);
        let id = class.top.get();
        if id == NO_BUFFER {
            return None;
        }
        class.top.set(self.state(BufferId(id)).replace(state) & !IDLE);
        class.idle.set(class.idle.get() - 1);
        Some(BufferId(id))
    }

    /// Returns the word of a buffer that was popped.
    #[inline(always)]
    fn state(&self, id: BufferId) -> &Cell<u32> {
        debug_assert!((id.0 as usize) < self.states.len(), "a buffer of this pool");
        // SAFETY: the stacks have no ids but those that `new` gave to the words; `push` returns
        // what `pop` took.
        unsafe { self.states.get_unchecked(id.0 as usize) }
    }

    /// Makes a buffer idle.
    #[inline(always)]
    fn push(&self, id: BufferId, class: &Class) {
        self.state(id).set(IDLE | class.top.replace(id.0));
        class.idle.set(class.idle.get() + 1);
    }

    /// Returns where a buffer of this class lies: its first byte and how many there are. Valid
    /// while the pool lives.
    #[inline(always)]
    fn location(&self, id: BufferId, class: &Class) -> (NonNull<u8>, usize) {
        let BufferClass { bytes, count } = class.shape;
        let at = id.0.wrapping_sub(class.first) as usize;
        debug_assert!(at < count, "a buffer of this size");
        let at = class.offset + at * bytes;
        // SAFETY: `at` is inside the mapping: the buffer is one of the `count` of its class, since
        // it was popped from the stack of that, to which `new` and `push` add no others; and `new`
        // laid the classes out one after the other.
        (unsafe { self.pages.base().add(at) }, bytes)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.all_sizes();
        f.debug_list().entries(sizes.map(|size| (self.shape(size), self.unfilled(size)))).finish()
    }
}

/// A buffer that one call receives into: then it becomes a chunk, or is given back. It has no drop
/// code, so one that is dropped is never idle again.
#[must_use]
#[derive(Debug)]
pub struct Vacant<'p> {
    pool: &'p Rc<Pool>,
    id: BufferId,
    size: Size,
    base: NonNull<u8>,
    len: usize,
}

impl Vacant<'_> {
    /// The bytes to receive into.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `Lease::bytes`; and the buffer was idle, so no reference to it exists.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Makes it idle again: nothing was received.
    pub fn give_back(self) {
        self.pool.push(self.id, self.pool.class(self.size));
    }

    /// Leases it: something was received.
    #[inline(always)]
    pub fn leased(self) -> Lease {
        let Vacant { pool, id, size, base, len } = self;
        let share = Share { pool: Rc::clone(pool), id, size: SizeNumber::of(size) };
        Lease { share, base, len: len as u32 }
    }
}

/// A buffer to receive into: it has no other share, so what holds the lease may write to it.
pub struct Lease {
    share: Share,
    base: NonNull<u8>,
    len: u32,
}

/// A share of a leased buffer: until the last is dropped, the buffer stays as it is. Cloning it is
/// another share.
pub(super) struct Share {
    pool: Rc<Pool>,
    id: BufferId,
    size: SizeNumber,
}

impl Lease {
    /// Its size among the pool's.
    pub fn size(&self) -> Size {
        self.share.size()
    }

    /// Where it lies: for a ring that holds the lease while the kernel writes.
    pub fn location(&self) -> (NonNull<u8>, usize) {
        (self.base, self.len())
    }

    /// Returns the number of its bytes.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one byte")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// All its bytes; what was not received into is old or zero.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer of a lease lies at `base`, is so long and is initialised, since its
        // mapping was zeroed. It is written only through `bytes_mut`, which borrows the lease, or
        // by the kernel while a ring holds the lease and does not read (`ring/uring.rs`).
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len()) }
    }

    /// The bytes to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and no other share of the buffer exists, so no other reference.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len()) }
    }

    /// Gives up the right to write. Returns the share and the first byte, of so many.
    pub(super) fn into_share(self) -> (Share, NonNull<u8>) {
        (self.share, self.base)
    }
}

impl Share {
    /// The size of the buffer among the pool's.
    pub(super) fn size(&self) -> Size {
        Size(self.size as u8)
    }

    pub(super) fn is_smallest(&self) -> bool {
        self.size == SizeNumber::S0
    }

    fn class(&self) -> &Class {
        &self.pool.classes[self.size as usize]
    }

    /// Drops it, without a call.
    #[inline(always)]
    pub(super) fn release(self) {
        let share = ManuallyDrop::new(self);
        share.give_back();
        // SAFETY: the share is not dropped, so its reference to the pool is read for the last time.
        drop(unsafe { ptr::read(&raw const share.pool) });
    }

    #[inline(always)]
    fn give_back(&self) {
        match self.state().get() {
            1 => self.pool.push(self.id, self.class()),
            shares => self.state().set(shares - 1),
        }
    }

    /// Returns true if the next smaller size holds so many bytes.
    pub(super) fn would_fit_smaller(&self, len: usize) -> bool {
        let smaller = (self.size as usize).checked_sub(1);
        smaller.is_some_and(|at| len <= self.pool.classes[at].shape.bytes)
    }

    /// Returns true if few buffers of its size are left.
    pub(super) fn is_scarce(&self) -> bool {
        self.pool.is_scarce(self.size())
    }

    /// Returns true if there is no other share of the buffer.
    pub(super) fn is_only(&self) -> bool {
        self.state().get() == 1
    }

    fn state(&self) -> &Cell<u32> {
        self.pool.state(self.id)
    }
}

impl Clone for Share {
    fn clone(&self) -> Share {
        self.state().set(self.state().get() + 1);
        Share { pool: Rc::clone(&self.pool), ..*self }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} of {} B)", self.share.id.0, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Rc<Pool> {
        Pool::new(&[BufferClass { bytes: 64, count: 2 }, BufferClass { bytes: 4096, count: 1 }])
            .unwrap()
    }

    #[test]
    fn the_last_share_makes_a_buffer_idle() {
        let pool = pool();
        let (share, _) = pool.lease(Size(0)).unwrap().into_share();
        let other = share.clone();
        drop(share);
        assert_eq!(pool.idle(Size(0)), 1);
        drop(other);
        assert_eq!(pool.idle(Size(0)), 2);
        assert!(pool.is_whole());
    }

    #[test]
    fn the_buffer_that_was_used_last_is_used_next() {
        let pool = pool();
        let (a, b) = (pool.lease(Size(0)).unwrap(), pool.lease(Size(0)).unwrap());
        let last = b.location();
        drop(a);
        drop(b);
        assert_eq!(pool.lease(Size(0)).unwrap().location(), last);
    }

    fn lend(pool: &Pool, size: Size, count: usize) -> Vec<BufferId> {
        let mut lent = Vec::new();
        pool.lend(size, count, |id, _, _| lent.push(id));
        lent
    }

    #[test]
    fn a_lease_of_an_exhausted_size_is_of_the_nearest_that_is_not() {
        let pool = pool();
        let large = pool.lease(Size(1)).unwrap();
        assert_eq!([64, 65].map(|len| large.share.would_fit_smaller(len)), [true, false]);
        let small = [pool.lease(Size(1)).unwrap(), pool.lease(Size(1)).unwrap()];
        assert_eq!(small[0].size(), Size(0));
        assert!(pool.lease(Size(1)).is_none());
        drop(large);
        assert_eq!((pool.nearest(Size(0)), pool.unfilled_in_all()), (Size(1), 1));
        assert_eq!(pool.lease(Size(0)).unwrap().size(), Size(1), "large is better than none");
        drop(small);
        assert_eq!([0, 1, 9].map(|size| pool.nearest(Size(size)).0), [0, 1, 1]);
        let lent = lend(&pool, Size(1), 1)[0];
        assert_eq!(
            (pool.nearest(Size(1)), pool.unfilled_in_all()),
            (Size(1), 3),
            "it may yet be filled"
        );
        // SAFETY: no kernel is involved.
        drop(unsafe { pool.reclaim(lent) });
    }

    #[test]
    fn lent_buffers_come_back_once() {
        let pool = pool();
        let id = lend(&pool, Size(0), 1)[0];
        assert_eq!((pool.idle(Size(0)), pool.lent(Size(0))), (1, 1));
        // SAFETY: no kernel is involved.
        let lease = unsafe { pool.reclaim(id) }.unwrap();
        // SAFETY: as above.
        assert!(unsafe { pool.reclaim(id) }.is_none(), "a buffer comes back once");
        // SAFETY: as above.
        assert!(unsafe { pool.reclaim(BufferId(99)) }.is_none(), "no such buffer");
        drop(lease);
        assert!(pool.is_whole());
    }

    #[test]
    fn the_pages_of_idle_buffers_are_given_back_and_those_in_use_stay() {
        let pool = Pool::new(&[BufferClass { bytes: 64 << 10, count: 16 }]).unwrap();
        let mut leases: Vec<_> = (0..16).map(|_| pool.lease(Size(0)).unwrap()).collect();
        leases.iter_mut().for_each(|lease| lease.bytes_mut().fill(7));
        let in_use = leases.remove(5);
        drop(leases);
        pool.trim();
        assert!(in_use.bytes().iter().all(|&byte| byte == 7));
        let leases: Vec<_> = (0..15).map(|_| pool.lease(Size(0)).unwrap()).collect();
        let kept = leases.iter().filter(|lease| lease.bytes() == [7; 64 << 10]).count();
        let zero = leases.iter().filter(|lease| lease.bytes() == [0; 64 << 10]).count();
        assert_eq!((kept, zero), (4, 11), "those that are used next stay resident");
    }

    #[test]
    fn the_pages_of_lent_buffers_are_given_back_if_they_are_empty() {
        let pool = Pool::new(&[BufferClass { bytes: 64 << 10, count: 4 }]).unwrap();
        let mut leases: Vec<_> = (0..4).map(|_| pool.lease(Size(0)).unwrap()).collect();
        leases.iter_mut().for_each(|lease| lease.bytes_mut().fill(7));
        leases.truncate(1);
        let lent = lend(&pool, Size(0), 2);
        pool.trim_lent();
        // SAFETY: there is no kernel that could write to them.
        let lent = lent.into_iter().map(|id| unsafe { pool.reclaim(id) }.expect("it was lent"));
        let lent: Vec<Lease> = lent.collect();
        assert!(lent.iter().flat_map(|it| it.bytes()).all(|&byte| byte == 0), "given back");
        assert!(leases[0].bytes().iter().all(|&byte| byte == 7), "this one is in use");
        assert!(pool.lease(Size(0)).unwrap().bytes().iter().all(|&byte| byte == 7), "idle");
    }

    #[test]
    fn buffers_do_not_overlap_and_lie_on_cache_lines() {
        let pool = pool();
        let leases = [Size(0), Size(0), Size(1)].map(|size| pool.lease(size).unwrap());
        let mut places = leases.each_ref().map(Lease::location);
        places.sort();
        for pair in places.windows(2) {
            assert!(pair[0].0.as_ptr() as usize + pair[0].1 <= pair[1].0.as_ptr() as usize);
        }
        assert!(places.iter().all(|(base, _)| (base.as_ptr() as usize).is_multiple_of(64)));
    }
}
