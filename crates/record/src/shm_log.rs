//! The memory of a recorder: a header and slots, mapped from a file or anonymous.
//!
//! A store to the shared pages of a file is in the page cache at once, so it survives the end of
//! the process, however it ends (mmap(2), `MAP_SHARED`). Two accesses would be a SIGBUS, and each
//! is prevented. A page without a disk block when the disk is full: posix_fallocate(3) reserves the
//! blocks. A page beyond the end of a file that was truncated: a lock (fcntl(2), `F_OFD_SETLK`),
//! held as long as the file is mapped, keeps other recorders from truncating it. A reader tests the
//! lock to learn whether the recorder still runs.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::format::{HEADER, RECORD, Writers, at, pair, part};
use crate::record::Record;
use crate::sys;

/// A header and `capacity` slots. One owner writes them with plain stores, or a [`SharedLog`] wraps
/// them and accesses them by atomics only.
///
/// # Protocol
/// The owner writes record *n* as follows. Readers are other processes, or this one by pread(2).
///
/// 1. Store the four words of slot *n* mod *capacity* (no ordering).
/// 2. At each begin and end of an iteration, and after at most [`MARGIN`] / 2 records, store
///    *n* + 1 into `head` (Release). All records below `head` are complete for a reader that loads
///    `head` (Acquire) before it reads them.
///
/// A reader trusts the records from `head` + `MARGIN` − *capacity* on, by a `head` that it loads
/// after reading them: between two publications the owner has overwritten only older slots.
///
/// What a crash leaves behind: after step 1, complete or not, a slot that no reader trusts, since
/// it is within the margin behind `head`; the records since the last step 2 are lost, at most
/// `MARGIN` / 2. After step 2, nothing to repair.
///
/// [`MARGIN`]: crate::format::MARGIN
#[derive(Debug)]
pub(crate) struct OwnedLog {
    base: NonNull<u8>,
    /// A power of two.
    capacity: u64,
    /// Keeps the file open, and so its lock held.
    _file: Option<File>,
}

// SAFETY: `OwnedLog` owns its mapping exclusively and holds no state of a thread.
unsafe impl Send for OwnedLog {}

impl OwnedLog {
    /// Maps a file, after it has set its size to that of the log. Without a file it maps memory;
    /// with many writers, forked children share this memory with their parent.
    ///
    /// # Errors
    /// The disk or the memory is full, the file cannot be mapped, or another recorder has it.
    ///
    /// # Panics
    /// If `capacity` is not a power of two.
    pub(crate) fn new(
        file: Option<&File>,
        capacity: u64,
        writers: Writers,
    ) -> io::Result<OwnedLog> {
        assert!(capacity.is_power_of_two(), "a slot is found by a mask");
        let len = length(capacity);
        let own = file.map(File::try_clone).transpose()?;
        let (flags, fd) = match file {
            Some(file) => {
                if !sys::lock(file.as_fd())? {
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
        let log = OwnedLog { base: map_pages(len, flags, fd)?, capacity, _file: own };
        if file.is_some() {
            log.populate(0..len);
        }
        Ok(log)
    }

    /// Makes these pages present and writable before a write needs them. The first write to a page
    /// of a file is a page fault even if the page is present: its filesystem must learn of it
    /// (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14). Returns false on older kernels, where the
    /// pages come one by one.
    fn populate(&self, part: Range<usize>) -> bool {
        assert!(part.end <= length(self.capacity), "pages of this mapping");
        // SAFETY: the range lies within the mapping, asserted above, and the call leaves its
        // contents as they are.
        let refused = unsafe {
            let base = self.base.as_ptr().add(part.start).cast();
            libc::madvise(base, part.len(), libc::MADV_POPULATE_WRITE) != 0
        };
        if refused {
            tracing::debug!("pages of the trace come one by one: {}", io::Error::last_os_error());
        }
        !refused
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Writes record number `n`: step 1 of the protocol.
    #[inline]
    pub(crate) fn write(&mut self, n: u64, record: Record) {
        let slot = (n & (self.capacity - 1)) as usize;
        // SAFETY: the mapping has `capacity` slots behind the header, each aligned to 32 bytes, and
        // the mask keeps the index below `capacity`. `&mut self` excludes other access within this
        // process.
        unsafe {
            self.base.as_ptr().add(HEADER + slot * RECORD).cast::<[u64; 4]>().write(record.words());
        }
    }

    /// Reads record number `n` again, which has been written.
    pub(crate) fn read(&self, n: u64) -> Record {
        let at = HEADER + (n & (self.capacity - 1)) as usize * RECORD;
        Record::from_bytes(&part(self.bytes(), at))
    }

    /// Publishes the records below `n`: step 2 of the protocol.
    #[inline]
    pub(crate) fn publish(&mut self, n: u64) {
        // SAFETY: `HEAD` is within the header and aligned to 8. The store is atomic, since other
        // processes may load it.
        let head = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at::HEAD).cast()) };
        head.store(n, Ordering::Release);
    }

    /// Writes into the header.
    ///
    /// # Panics
    /// If it does not fit.
    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= HEADER, "the header ends at {HEADER}");
        // SAFETY: the range lies within the mapping, asserted above; `bytes` is not part of it,
        // since `&mut self` excludes references into the mapping.
        unsafe { self.base.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Returns the header and all slots.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped and initialized (the kernel zeroes new pages). They do
        // not change while `self` is borrowed: methods of `OwnedLog` write with `&mut self` only,
        // and `SharedLog`, which writes with `&self`, owns its log and calls neither this nor
        // `read`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), length(self.capacity)) }
    }
}

impl Drop for OwnedLog {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this address with this length; all references into it borrow `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), length(self.capacity)) };
    }
}

/// A log into which many write at once: threads, and forked processes. Every access is atomic.
///
/// # Protocol
/// `head` (in the header) counts the record numbers that were given out. The last word of a slot
/// holds the number modulo 2³² and the kind of its record; kind 0 says that the slot was never
/// written. Number *n* belongs to slot *n* mod *capacity* and to lap *n* / *capacity*. A writer
/// makes one attempt to write its record *n*:
///
/// 1. **Reserve.** Take *n* = `head.fetch_add(1)` (Relaxed). No other writer has this number.
/// 2. **Look.** Load the slot's last word (Acquire), once. With the word come the other words of
///    that record, by the Release of step 6.
/// 3. **Compare** the number and the kind in the word.
///    - Number *n* − *capacity*, or kind 0 in lap 0: the writer owns the slot. Go on with step 5.
///    - Number *n*: the record is of 2³² records ago. Set the word to 0 by `compare_exchange`
///      (Relaxed), so that no reader takes it for record *n*. Go on with step 4, which skips.
///    - Another number, or kind 0 in a later lap: an earlier lap has not finished. Go on with
///      step 4.
/// 4. **Skip, or take over.** The slot's word in [`SkippedSlots`] holds how many laps have skipped
///    the slot since it was last owned, and the latest of them. The laps *between* are those after
///    the lap in the slot (if it was never written: from lap 0 on) and before this one. Update the
///    word atomically (AcqRel).
///    - The count is the number of laps between, and the latest of them is earlier than this lap:
///      set the count to 0. The writer owns the slot. Go on with step 5.
///    - Otherwise add one to the count. The slot stays as it is, and record *n* is lost.
/// 5. **Write.** Issue a Release fence, then store words 0 to 2 (Relaxed).
/// 6. **Finish.** Store the last word, with number *n* (Release).
///
/// *One writer at a time.* A slot has one number per lap, and each number makes one attempt. A
/// writer of lap *L* owns the slot in step 3 only if lap *L* − 1 has finished it, and in step 4
/// only if each lap since the finished one has skipped it. A lap that owns the slot, or has not
/// reached step 4 yet, is not counted, so the count is too small for a later lap to take over.
///
/// *Readers.* Record *n* is valid exactly if the last word has number *n* and a kind before and
/// after the other words are read. A reader that sees one of the words of step 5, and then issues
/// an Acquire fence, sees `head` > *n* by the fence of step 5, and so knows that the record of the
/// lap before is overwritten.
///
/// *What a crash leaves behind.*
/// - After step 1 or 2: record *n* is lost, and its lap is not counted in step 4. All later
///   laps find the count one short: the slot stays unused, and each of them loses one record.
/// - After step 3 or 4 as the owner, or in step 5: the same. The slot holds a mixture of two
///   records under the old number, which readers ignore: it is `capacity` or more behind `head`.
/// - After step 4 without ownership, or after step 6: nothing to repair. Record *n* is lost or
///   valid.
#[derive(Debug)]
pub(crate) struct SharedLog {
    log: OwnedLog,
    skipped: Box<SkippedSlots>,
}

// SAFETY: methods with `&self` access the mappings through atomics only.
unsafe impl Sync for SharedLog {}

impl SharedLog {
    /// Shares a log among many writers.
    ///
    /// # Errors
    /// The memory is full.
    pub(crate) fn new(log: OwnedLog) -> io::Result<SharedLog> {
        let skipped = Box::new(SkippedSlots::new(log.capacity)?);
        Ok(SharedLog { log, skipped })
    }

    /// A number of eight bytes in the header.
    ///
    /// # Panics
    /// If `at` is not aligned, or not in the header.
    #[inline]
    pub(crate) fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER, "a number of the header");
        // SAFETY: within the mapping and aligned, asserted above; the mapping exists as long as
        // `self`, and all accesses to the header after its writing are atomic.
        unsafe { AtomicU64::from_ptr(self.log.base.as_ptr().add(at).cast()) }
    }

    /// A number of four bytes in the header.
    ///
    /// # Panics
    /// If `at` is not aligned, or not in the header.
    #[inline]
    pub(crate) fn short(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= HEADER, "a number of the header");
        // SAFETY: as in `long`.
        unsafe { AtomicU32::from_ptr(self.log.base.as_ptr().add(at).cast()) }
    }

    /// Takes the next number: step 1 of the protocol. The caller makes one attempt to write it.
    #[inline]
    pub(crate) fn reserve(&self) -> u64 {
        self.long(at::HEAD).fetch_add(1, Ordering::Relaxed)
    }

    /// The window of a record: slots whose pages are made present together. Windows are numbered on
    /// from lap to lap.
    #[inline]
    pub(crate) fn window(&self, number: u64) -> u32 {
        (number / WINDOW) as u32
    }

    /// Makes the pages of this record's window present and writable; returns whether the kernel did
    /// so. A forked process has the mapping without its pages, and otherwise has a page fault at
    /// the first write to each.
    pub(crate) fn populate_window(&self, number: u64) -> bool {
        let slot = (number & (self.log.capacity - 1)) & !(WINDOW - 1);
        // `from` begins a page of any size up to the header's: the header lies before slot 0.
        let from = slot as usize * RECORD;
        let to = (from + HEADER + WINDOW as usize * RECORD).min(length(self.log.capacity));
        self.log.populate(from..to)
    }

    /// Writes record `number`, which was reserved: steps 2 to 6 of the protocol.
    #[inline]
    pub(crate) fn write(&self, number: u64, words: [u64; 4]) {
        if let Some(claim) = self.claim(number) {
            claim.finish(words);
        }
        prefetch(self.slot(number.wrapping_add(AHEAD)));
    }

    /// Steps 2 to 4, and the fence of step 5: the right to write record `number`, unless it is
    /// lost. The writer that reserved the number calls this once.
    #[inline]
    pub(crate) fn claim(&self, number: u64) -> Option<Claim<'_>> {
        let slot = self.slot(number);
        let (capacity, own) = (self.log.capacity, number as u32);
        let found = slot[3].load(Ordering::Acquire);
        let (its, kind) = last_word(found);
        let since = match kind {
            // Never written: as if by a lap before the first.
            0 => (number & !(capacity - 1)) + capacity,
            _ => u64::from(own.wrapping_sub(its)),
        };
        if since == 0 {
            let _ = slot[3].compare_exchange(found, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        if since != capacity && !self.skipped.take_over(number, since / capacity) {
            return None;
        }
        fence(Ordering::Release);
        Some(Claim { slot, number: own })
    }

    #[inline]
    fn slot(&self, number: u64) -> &[AtomicU64; 4] {
        let slot = (number & (self.log.capacity - 1)) as usize;
        // SAFETY: the mask keeps the index below `capacity`, and each slot is four aligned words;
        // `self` owns the mapping, and all accesses to slots are atomic.
        unsafe { &*self.log.base.as_ptr().add(HEADER + slot * RECORD).cast::<[AtomicU64; 4]>() }
    }

    /// Returns the header and all slots, without the records that are being written.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length(self.log.capacity));
        for at in (0..HEADER).step_by(8) {
            bytes.extend(self.long(at).load(Ordering::Acquire).to_ne_bytes());
        }
        for number in 0..self.log.capacity {
            let slot = self.slot(number);
            let before = slot[3].load(Ordering::Acquire);
            let words = [0, 1, 2].map(|at: usize| slot[at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let same = slot[3].load(Ordering::Relaxed) == before;
            let (head, (its, _)) = (self.long(at::HEAD).load(Ordering::Relaxed), last_word(before));
            let whole = same && u64::from((head as u32).wrapping_sub(its)) <= self.log.capacity;
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(if whole { before } else { 0 }.to_ne_bytes());
        }
        bytes
    }
}

/// For each slot, the laps that have skipped it since it was last owned: in the upper half of a
/// word how many, in the lower half the latest of them. The memory is shared with forked children
/// and not in the file; no page of it is touched as long as no writer is late.
#[derive(Debug)]
struct SkippedSlots {
    base: NonNull<AtomicU64>,
    capacity: u64,
}

// SAFETY: `SkippedSlots` owns its mapping exclusively and holds no state of a thread.
unsafe impl Send for SkippedSlots {}

impl SkippedSlots {
    fn new(capacity: u64) -> io::Result<SkippedSlots> {
        let len = SkippedSlots::length(capacity);
        let base = map_pages(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
        Ok(SkippedSlots { base: base.cast(), capacity })
    }

    fn length(capacity: u64) -> usize {
        capacity as usize * size_of::<AtomicU64>()
    }

    /// Step 4 of the protocol, where the record in the slot is `laps` laps older than `number`.
    /// Returns true if the caller owns the slot; otherwise its lap is counted as one that skipped.
    ///
    /// The count alone is not enough: a later lap may have skipped the slot first, and then stands
    /// in the count for one that has not looked. So the latest lap is kept as well, and only a lap
    /// later than all that are counted takes over.
    #[cold]
    fn take_over(&self, number: u64, laps: u64) -> bool {
        let slot = (number & (self.capacity - 1)) as usize;
        // SAFETY: the mask keeps the index within the mapping, which is aligned and exists as long
        // as `self`; all accesses to it are atomic.
        let skipped = unsafe { self.base.add(slot).as_ref() };
        let lap = (number / self.capacity) as u32;
        let mut is_over = false;
        let count_in = |word: u64| {
            let (count, latest) = (word >> 32, word as u32);
            let is_latest = count == 0 || lap.wrapping_sub(latest).cast_signed() > 0;
            is_over = is_latest && count + 1 == laps;
            let latest = u64::from(if is_latest { lap } else { latest });
            Some(if is_over { 0 } else { (count + 1) << 32 | latest })
        };
        let counted = skipped.fetch_update(Ordering::AcqRel, Ordering::Acquire, count_in);
        counted.is_ok() && is_over
    }
}

impl Drop for SkippedSlots {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this address with this length; all references into it borrow `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SkippedSlots::length(self.capacity)) };
    }
}

/// The right to write one record into a slot.
pub(crate) struct Claim<'a> {
    slot: &'a [AtomicU64; 4],
    number: u32,
}

impl Claim<'_> {
    /// Steps 5 and 6: writes the [words](Record::words) of a record whose iteration is zero.
    #[inline]
    pub(crate) fn finish(self, words: [u64; 4]) {
        for (place, word) in self.slot.iter().zip(words).take(3) {
            place.store(word, Ordering::Relaxed);
        }
        self.slot[3].store(words[3] | pair(self.number, 0), Ordering::Release);
    }
}

/// Records in the pages that a child makes present at once.
const WINDOW: u64 = 8192;

/// How many records ahead of the one that is written a slot is brought into the cache.
const AHEAD: u64 = 8;

/// The number and the kind in a slot's last word.
#[inline]
fn last_word(word: u64) -> (u32, u8) {
    let Record { iteration, kind, .. } = Record::from_words([0, 0, 0, word]);
    (iteration, kind)
}

/// Brings a slot that will soon be written into the cache. Between two records the server makes
/// a system call, in which the slot arrives, and which evicts lines that were not used of late.
#[inline]
fn prefetch(_slot: &[AtomicU64; 4]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and accesses no memory.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(_slot).cast());
    }
}

/// Maps new pages to read and write, at an address of the kernel's choice.
fn map_pages(len: usize, flags: i32, fd: i32) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory in use.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("the kernel maps nothing at zero unless it is asked"))
}

fn length(capacity: u64) -> usize {
    HEADER + capacity as usize * RECORD
}
