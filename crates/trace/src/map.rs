//! The memory of a recorder: pages shared with a file, or with nobody.
//!
//! What is written to a file's shared pages is the kernel's at once: it survives the end of the
//! process, however that came (mmap(2), `MAP_SHARED`; kernel-notes §50). The blocks are reserved
//! before (posix_fallocate(3)), for a write to a page that finds no room on the disk is a SIGBUS.
//! So is one to a file that somebody has cut short: so the file is locked (fcntl(2), `F_OFD_SETLK`)
//! as long as it is mapped, and no other recorder takes it. Who follows it sees by the lock whether
//! its recorder lives.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::format::{HEADER, RECORD, Record, Writers, at, pair, part};
use proactor::os;

/// A header and `capacity` records. One owner writes; who reads the file looks at `head` first.
#[derive(Debug)]
pub(super) struct Map {
    base: NonNull<u8>,
    /// A power of two.
    capacity: u64,
    /// The file, whose lock is ours as long as it is open.
    _file: Option<File>,
}

// SAFETY: the mapping is this value's own, and is nobody's thread's in particular.
unsafe impl Send for Map {}

impl Map {
    /// Of a file, which gets this size; or, without one, of memory, which children share with
    /// their parent if there are many writers.
    ///
    /// # Errors
    /// There is no room for it; the file cannot be mapped; somebody else records into it.
    ///
    /// # Panics
    /// If `capacity` is not a power of two.
    pub(super) fn new(file: Option<&File>, capacity: u64, writers: Writers) -> io::Result<Map> {
        assert!(capacity.is_power_of_two(), "a slot is found by a mask");
        let len = length(capacity);
        let own = file.map(File::try_clone).transpose()?;
        let (flags, fd) = match file {
            Some(file) => {
                if !os::lock(file.as_fd())? {
                    let why = "another server records into this file";
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
                }
                file.set_len(0)?;
                // SAFETY: no memory is involved; `file` is open.
                match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) } {
                    0 => {}
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                }
                (libc::MAP_SHARED, file.as_raw_fd())
            }
            None if writers == Writers::One => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        let map = Map { base: map_pages(len, flags, fd)?, capacity, _file: own };
        if file.is_some() {
            map.populate(0..len);
        }
        Ok(map)
    }

    /// Makes these pages present, and so that they can be written to, before anybody waits for it.
    /// The first write to a page of a file is a page fault even if it is present: its file
    /// system is to hear of it (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14; on older ones it
    /// is one at a time, and the answer is false).
    fn populate(&self, part: Range<usize>) -> bool {
        assert!(part.end <= length(self.capacity), "pages of this mapping");
        // SAFETY: so many bytes are mapped there, asserted above, and their contents stay as they
        // are.
        let refused = unsafe {
            let base = self.base.as_ptr().add(part.start).cast();
            libc::madvise(base, part.len(), libc::MADV_POPULATE_WRITE) != 0
        };
        if refused {
            tracing::debug!("pages of the trace come one by one: {}", io::Error::last_os_error());
        }
        !refused
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Writes record number `n`.
    #[inline]
    pub(super) fn write(&mut self, n: u64, record: Record) {
        let slot = (n & (self.capacity - 1)) as usize;
        // SAFETY: the mapping has `capacity` slots behind the header, each aligned to 32 bytes, and
        // the mask keeps within them. Nobody in this process reads them but through `&self`.
        unsafe {
            self.base.as_ptr().add(HEADER + slot * RECORD).cast::<[u64; 4]>().write(record.words());
        }
    }

    /// Reads record number `n` again, which has been written.
    pub(super) fn read(&self, n: u64) -> Record {
        let at = HEADER + (n & (self.capacity - 1)) as usize * RECORD;
        Record::from_bytes(&part(self.bytes(), at))
    }

    /// Says that records below `n` are written.
    #[inline]
    pub(super) fn publish(&mut self, n: u64) {
        // SAFETY: within the header and aligned to 8; an atomic store, for others may read the
        // file.
        let head = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at::HEAD).cast()) };
        head.store(n, Ordering::Release);
    }

    /// Writes into the header.
    ///
    /// # Panics
    /// If it does not fit.
    pub(super) fn set(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= HEADER, "the header ends at {HEADER}");
        // SAFETY: within the mapping, asserted above; the source is no part of it.
        unsafe { self.base.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// All of it, as the file has it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped, the kernel has zeroed them, and nobody writes to them
        // while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), length(self.capacity)) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody has a pointer into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), length(self.capacity)) };
    }
}

/// A map to which many write: threads, and processes that were forked. All of it is atomic.
///
/// A slot goes from hand to hand. Each lap has one record for it, whose writer looks at the slot's
/// last word, once: if that is of the record of the lap before, whole, the slot is its own; it
/// writes the others, and then this one. Else the one before is late. Then the slot is left alone,
/// and so the record is lost, and that is [noted](Passed); thus who comes later can tell whether
/// the late one has come, and everybody else has gone. Whoever dies in the middle of a record
/// leaves a slot that is nobody's any more, and of each lap one record fewer.
#[derive(Debug)]
pub(super) struct Common {
    map: Map,
    passed: Box<Passed>,
}

// SAFETY: nothing but atomics is used of the mappings by `&self`.
unsafe impl Sync for Common {}

impl Common {
    /// Of a map that this alone has.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(map: Map) -> io::Result<Common> {
        let passed = Box::new(Passed::new(map.capacity)?);
        Ok(Common { map, passed })
    }

    /// A number of the header, of eight bytes.
    ///
    /// # Panics
    /// If it is none.
    #[inline]
    pub(super) fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER, "a number of the header");
        // SAFETY: within the mapping and aligned, asserted above; it lives as long as `self`, and
        // everybody uses it as an atomic.
        unsafe { AtomicU64::from_ptr(self.map.base.as_ptr().add(at).cast()) }
    }

    /// A number of the header, of four bytes.
    ///
    /// # Panics
    /// If it is none.
    #[inline]
    pub(super) fn short(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= HEADER, "a number of the header");
        // SAFETY: as of `long`.
        unsafe { AtomicU32::from_ptr(self.map.base.as_ptr().add(at).cast()) }
    }

    /// The next number. It is the caller's, who is to write a record there.
    #[inline]
    pub(super) fn reserve(&self) -> u64 {
        self.long(at::HEAD).fetch_add(1, Ordering::Relaxed)
    }

    /// Which part of the slots a record is in, of those that are fetched together: counted on, lap
    /// after lap.
    #[inline]
    pub(super) fn window(&self, number: u64) -> u32 {
        (number / WINDOW) as u32
    }

    /// Makes the pages present of which this record's slot is one, with those of its window, so
    /// that it can be written to; answers whether the kernel has done so. A process that was forked
    /// has none, and would else find them one by one, by a page fault for each.
    pub(super) fn fetch(&self, number: u64) -> bool {
        let slot = (number & (self.map.capacity - 1)) & !(WINDOW - 1);
        // From where a page begins, however large they are: the header's size before the first
        // slot.
        let from = slot as usize * RECORD;
        let to = (from + HEADER + WINDOW as usize * RECORD).min(length(self.map.capacity));
        self.map.populate(from..to)
    }

    /// Writes record `number`, which was reserved; not if the one of the lap before is late: then a
    /// reader finds it to be lost.
    #[inline]
    pub(super) fn write(&self, number: u64, words: [u64; 4]) {
        if let Some(claim) = self.claim(number) {
            claim.finish(words);
        }
        prefetch(self.slot(number.wrapping_add(AHEAD)));
    }

    /// The right to write record `number`, if it is to be had: by the one who has reserved it,
    /// once.
    #[inline]
    pub(super) fn claim(&self, number: u64) -> Option<Claim<'_>> {
        let slot = self.slot(number);
        let (capacity, turn) = (self.map.capacity, number as u32);
        // With what it says, the words before it are done with.
        let found = slot[3].load(Ordering::Acquire);
        let (its, what) = last_word(found);
        let since = match what {
            // It was never written: as if it had been in a lap before the first.
            0 => (number & !(capacity - 1)) + capacity,
            _ => u64::from(turn.wrapping_sub(its)),
        };
        if since == 0 {
            // Of 2^32 records ago: its slot is nobody's, and it is not to be taken for this one.
            let _ = slot[3].compare_exchange(found, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        if since != capacity && !self.passed.is_over(number, since / capacity) {
            return None;
        }
        // Whoever sees one of the words that will be written sees the head beyond its number, and
        // so that the record which was there is no more.
        fence(Ordering::Release);
        Some(Claim { slot, turn })
    }

    #[inline]
    fn slot(&self, number: u64) -> &[AtomicU64; 4] {
        let slot = (number & (self.map.capacity - 1)) as usize;
        // SAFETY: the mask keeps within the slots behind the header, each of four aligned words;
        // they live as long as `self`, and everybody uses them as atomics.
        unsafe { &*self.map.base.as_ptr().add(HEADER + slot * RECORD).cast::<[AtomicU64; 4]>() }
    }

    /// All of it, as the file has it, without what is written meanwhile.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length(self.map.capacity));
        for at in (0..HEADER).step_by(8) {
            bytes.extend(self.long(at).load(Ordering::Acquire).to_ne_bytes());
        }
        for number in 0..self.map.capacity {
            let slot = self.slot(number);
            let before = slot[3].load(Ordering::Acquire);
            let words = [0, 1, 2].map(|at: usize| slot[at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let same = slot[3].load(Ordering::Relaxed) == before;
            let (head, (its, _)) = (self.long(at::HEAD).load(Ordering::Relaxed), last_word(before));
            let whole = same && u64::from((head as u32).wrapping_sub(its)) <= self.map.capacity;
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(if whole { before } else { 0 }.to_ne_bytes());
        }
        bytes
    }
}

/// Of each slot, those who have left it alone since somebody had it: how many, and the latest lap
/// of them. Memory that children share with their parent, and of which nothing is touched as long
/// as nobody is late.
#[derive(Debug)]
struct Passed {
    base: NonNull<AtomicU64>,
    capacity: u64,
}

// SAFETY: as of `Map`.
unsafe impl Send for Passed {}

impl Passed {
    fn new(capacity: u64) -> io::Result<Passed> {
        let base = map_pages(Passed::length(capacity), libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
        Ok(Passed { base: base.cast(), capacity })
    }

    fn length(capacity: u64) -> usize {
        capacity as usize * size_of::<AtomicU64>()
    }

    /// Whether all laps since the one that is in the slot, which was `laps` ago, have left it
    /// alone; then it is the asker's. Else the asker is one more of them.
    ///
    /// It is not enough to count: one of a later lap may have come before. So the slot is taken
    /// only by one of whom all that are counted are earlier.
    #[cold]
    fn is_over(&self, number: u64, laps: u64) -> bool {
        let slot = (number & (self.capacity - 1)) as usize;
        // SAFETY: the mask keeps within the mapping, which is aligned and lives as long as `self`;
        // all who use it do so as atomics.
        let passed = unsafe { self.base.add(slot).as_ref() };
        let lap = (number / self.capacity) as u32;
        let mut over = false;
        let note = |word: u64| {
            let (count, latest) = (word >> 32, word as u32);
            let is_latest = count == 0 || lap.wrapping_sub(latest).cast_signed() > 0;
            over = is_latest && count + 1 == laps;
            let latest = u64::from(if is_latest { lap } else { latest });
            Some(if over { 0 } else { (count + 1) << 32 | latest })
        };
        let noted = passed.fetch_update(Ordering::AcqRel, Ordering::Acquire, note);
        noted.is_ok() && over
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody has a pointer into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), Passed::length(self.capacity)) };
    }
}

/// A slot that is one's own until it is finished.
pub(super) struct Claim<'a> {
    slot: &'a [AtomicU64; 4],
    turn: u32,
}

impl Claim<'_> {
    /// Writes all of it: [the words](Record::words) of a record whose turn is zero.
    #[inline]
    pub(super) fn finish(self, words: [u64; 4]) {
        for (place, word) in self.slot.iter().zip(words).take(3) {
            place.store(word, Ordering::Relaxed);
        }
        self.slot[3].store(words[3] | pair(self.turn, 0), Ordering::Release);
    }
}

/// How many records stand in the pages that a child fetches at once.
const WINDOW: u64 = 8192;

/// How many records ahead of one that is written the slots are brought into the cache.
const AHEAD: u64 = 8;

/// The number and the kind in a slot's last word.
#[inline]
fn last_word(word: u64) -> (u32, u8) {
    let Record { turn, what, .. } = Record::from_words([0, 0, 0, word]);
    (turn, what)
}

/// Brings a slot that will soon be written to into the cache: between two records there is time for
/// it, as a call into the kernel stands there, which has pushed out what was not used.
#[inline]
fn prefetch(_slot: &[AtomicU64; 4]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it is no access: the CPU may do so or not.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(_slot).cast());
    }
}

/// New pages to read and write, where the kernel likes.
fn map_pages(len: usize, flags: i32, fd: i32) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("the kernel maps nothing at zero unasked"))
}

fn length(capacity: u64) -> usize {
    HEADER + capacity as usize * RECORD
}
