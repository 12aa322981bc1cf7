//! The memory of a recorder: a header and slots, mapped from a file or anonymous.
//!
//! A store to the shared pages of a file is in the page cache at once, so it survives the end of
//! the process, however it ends (mmap(2), `MAP_SHARED`). Two accesses would be a SIGBUS. A page
//! without a disk block when the disk is full: posix_fallocate(3) reserves the blocks. A page
//! beyond the end of a file that was truncated: a lock (fcntl(2), `F_OFD_SETLK`), held as long as
//! the file is mapped, keeps other recorders from truncating it. Other programs do not ask for the
//! lock, and some filesystems need new blocks to overwrite old ones: see [`crate::lost_file`]. A
//! reader tests the lock to learn whether the recorder still runs.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::format::{Clock, Frozen, HEADER, MAGIC, RECORD, Writers, at, pair};
use crate::lost_file;
use crate::record::Record;
use crate::sys;

/// A header and `capacity` slots, which one owner writes, or many writers.
///
/// # Protocol of one owner
/// The owner writes record *n* as follows. Readers are other processes, or this one by pread(2).
///
/// 1. Store the four words of slot *n* mod *capacity* (Relaxed).
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
/// # Protocol of many writers
/// Threads and forked processes write at once. Every access is atomic.
///
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
/// 4. **Skip, or take over.** The slot's word in `skipped` holds how many laps after that of its
///    last owner have skipped the slot, and the latest of them. The laps *between* are those after
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
///
/// [`MARGIN`]: crate::format::MARGIN
#[derive(Debug)]
pub(crate) struct ShmLog {
    /// A header and `capacity` slots: never empty, and aligned to a page. All access with `&ShmLog`
    /// is by atomics: `long`, `short`, `slot` and `take_over`; `put` and `owned_bytes` need
    /// `&mut ShmLog`.
    pages: MmapRaw,
    /// A power of two.
    capacity: u32,
    /// Open as long as it is mapped, and so its lock is held.
    file: File,
    many: Option<Box<Many>>,
}

/// What many writers share beside the file.
#[derive(Debug)]
struct Many {
    /// For each slot one word: in its upper half how many laps have skipped the slot, in its lower
    /// half the latest of them. Behind them one more: whether the loss of the file was reported.
    /// The memory is shared with forked children; no page of it is touched as long as no writer is
    /// late.
    skipped: MmapRaw,
    /// The process that has the file open: a forked child may have closed it.
    owner: u32,
    /// The name of the file, for children.
    name: String,
    /// Whether this process knows that the file is lost. A fork copies it.
    is_lost: AtomicBool,
}

impl ShmLog {
    /// Maps a file, after it has set its size to that of the log. Without a file it maps memory,
    /// which forked children share with their parent.
    ///
    /// # Errors
    /// The disk or the memory is full, the file cannot be mapped, or another recorder has it.
    ///
    /// # Panics
    /// If `capacity` is not a power of two.
    pub(crate) fn new(file: Option<&File>, capacity: u32, writers: Writers) -> io::Result<ShmLog> {
        assert!(capacity.is_power_of_two(), "a slot is found by a mask");
        let len = HEADER + capacity as usize * RECORD;
        let mapped = match file {
            Some(file) => allocate(file, len)?,
            None => memory_file(len)?,
        };
        let pages = MmapOptions::new().len(len).map_raw(&mapped)?;
        let words = (capacity as usize + 1) * size_of::<AtomicU64>();
        let many = match writers {
            Writers::One => None,
            _ => Some(Box::new(Many {
                skipped: MmapOptions::new().len(words).map_raw(&memory_file(words)?)?,
                owner: std::process::id(),
                name: sys::file_name(&mapped),
                is_lost: AtomicBool::new(false),
            })),
        };
        lost_file::register(pages.as_ptr(), len);
        let log = ShmLog { pages, capacity, file: mapped, many };
        if file.is_some() {
            log.populate(0, len);
        }
        Ok(log)
    }

    /// Makes these pages present and writable before a write needs them. The first write to a page
    /// of a file is a page fault even if the page is present: its filesystem must learn of it
    /// (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14). Returns false on older kernels, where the
    /// pages come one by one.
    fn populate(&self, from: usize, len: usize) -> bool {
        let result = self.pages.advise_range(Advice::PopulateWrite, from, len);
        if let Err(error) = &result {
            tracing::debug!("pages of the trace come one by one: {error}");
        }
        result.is_ok()
    }

    /// A number of eight bytes in the header.
    ///
    /// # Panics
    /// If `at` is not aligned, or not in the header.
    #[inline]
    pub(crate) fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER, "a number of the header");
        // SAFETY: the mapping begins at a page and with the header, and `at` is aligned and within
        // the header, asserted above. The reference borrows `self`, which keeps the mapping.
        unsafe { AtomicU64::from_ptr(self.pages.as_mut_ptr().add(at).cast()) }
    }

    /// A number of four bytes in the header.
    ///
    /// # Panics
    /// If `at` is not aligned, or not in the header.
    #[inline]
    pub(crate) fn short(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= HEADER, "a number of the header");
        // SAFETY: as in `long`.
        unsafe { AtomicU32::from_ptr(self.pages.as_mut_ptr().add(at).cast()) }
    }

    /// The slot of record number `n`.
    #[inline]
    fn slot(&self, n: u64) -> &[AtomicU64; 4] {
        let slot = (n as u32 & (self.capacity - 1)) as usize;
        // SAFETY: the mapping has `capacity` slots behind the header, each of four words and at a
        // multiple of 32 bytes; the mask keeps the index below `capacity`. The reference borrows
        // `self`, which keeps the mapping.
        unsafe { &*self.pages.as_mut_ptr().add(HEADER + slot * RECORD).cast() }
    }

    /// Compares the clock's ticks with nanoseconds once more: a longer time gives a better rate.
    #[cold]
    pub(crate) fn compare_clock(&self) {
        let (ticks, nanos) = sys::together(sys::cycles, sys::monotonic);
        // One right after the other: a reader that takes one of a pair and the other of the next
        // one has all times wrong.
        self.long(at::LAST_TICK).store(ticks, Ordering::Relaxed);
        self.long(at::LAST_NANOS).store(nanos, Ordering::Relaxed);
    }

    /// Leaves a file that no longer begins as a recording does: another program has emptied it and
    /// written into it since.
    #[cold]
    pub(crate) fn check_file(&self) {
        if self.long(0).load(Ordering::Relaxed).to_ne_bytes() != MAGIC {
            lost_file::replace(self.pages.as_ptr().addr());
        }
    }

    /// Whether recording has stopped.
    #[inline]
    pub(crate) fn is_frozen(&self) -> bool {
        self.short(at::FROZEN).load(Ordering::Relaxed) != 0
    }

    /// Stops recording. Returns false if it has stopped already.
    #[cold]
    pub(crate) fn freeze(&self, why: Frozen) -> bool {
        self.follow_loss();
        let frozen = self.short(at::FROZEN);
        let stops =
            frozen.compare_exchange(0, why as u32, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if stops {
            tracing::warn!("recording has stopped {why}; SIGUSR2 starts it again");
        }
        stops
    }

    /// Whether recording has stopped because the file was [lost](crate::lost_file).
    pub(crate) fn is_lost(&self) -> bool {
        self.short(at::FROZEN).load(Ordering::Relaxed) == Frozen::LostFile as u32
    }

    /// Leaves the file if another process has lost it: here a part of it may still be mapped.
    fn follow_loss(&self) {
        let lost = || self.skips(self.capacity as usize).load(Ordering::Relaxed) != 0;
        if self.many.is_some() && lost() {
            lost_file::replace(self.pages.as_ptr().addr());
        }
    }

    /// Reports the loss of the file, unless another writer has. What is left of the file says so
    /// too, for its readers.
    #[cold]
    pub(crate) fn report_loss(&self) {
        if self.many.as_ref().is_some_and(|many| many.is_lost.swap(true, Ordering::Relaxed)) {
            return;
        }
        let first = || self.skips(self.capacity as usize).swap(1, Ordering::Relaxed) == 0;
        let is_first = self.many.is_none() || first();
        let (name, why) = match &self.many {
            Some(many) if many.owner != std::process::id() => {
                (many.name.clone(), "it was cut short, or its filesystem is full".to_owned())
            }
            _ => (sys::file_name(&self.file), self.mark_loss()),
        };
        if is_first {
            tracing::warn!("recording into {name} has stopped: {why}");
        }
    }

    /// Finds out why the file was lost, and marks its header, if there is one.
    fn mark_loss(&self) -> String {
        let (mut magic, len) = ([0; 8], self.file.metadata().map_or(0, |file| file.len()));
        let is_recording = self.file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
        if is_recording && len >= HEADER as u64 {
            // A failure leaves a recording without the reason of its end.
            let _ = self.file.write_at(&(Frozen::LostFile as u32).to_ne_bytes(), at::FROZEN as u64);
        }
        match self.pages.len() as u64 {
            all if len < all => format!("it was cut short to {len} bytes"),
            _ if !is_recording => "another program has overwritten it".to_owned(),
            _ => "its filesystem is full".to_owned(),
        }
    }

    /// Goes on, if recording has stopped. Returns how many records were missed since then.
    #[cold]
    pub(crate) fn thaw(&self) -> Option<u64> {
        self.follow_loss();
        if self.is_lost() {
            tracing::warn!("recording cannot go on: its file is lost");
            return None;
        }
        if self.short(at::FROZEN).swap(0, Ordering::AcqRel) == 0 {
            return None;
        }
        tracing::warn!("recording goes on; SIGUSR2 stops it");
        let missed = self.long(at::MISSED).load(Ordering::Relaxed);
        Some(missed.saturating_sub(self.long(at::REPORTED).swap(missed, Ordering::Relaxed)))
    }

    /// Says that the recording has ended in order.
    pub(crate) fn end(&self, clock: Clock) {
        if clock == Clock::Tsc {
            self.compare_clock();
        }
        self.short(at::ENDED).store(1, Ordering::Release);
    }

    /// Writes record number `n` of one owner: step 1 of its protocol.
    #[inline]
    pub(crate) fn write_owned(&mut self, n: u64, record: Record) {
        for (place, word) in self.slot(n).iter().zip(record.words()) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Publishes the records of one owner below `n`: step 2 of its protocol.
    #[inline]
    pub(crate) fn publish(&mut self, n: u64) {
        self.long(at::HEAD).store(n, Ordering::Release);
    }

    /// Writes into the header.
    ///
    /// # Panics
    /// If it does not fit.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= HEADER, "the header ends at {HEADER}");
        // SAFETY: the range lies within the header, asserted above. `&mut self` excludes other
        // references into the mapping, and so `bytes` is not part of it.
        unsafe {
            let base = self.pages.as_mut_ptr().add(at);
            base.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Returns the header and all slots.
    pub(crate) fn owned_bytes(&mut self) -> &[u8] {
        // SAFETY: so many bytes are mapped and initialized (the kernel zeroes new pages). Nothing
        // writes to them while the slice exists: it borrows `self` mutably, and a log of one owner
        // is written by that owner only.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr(), self.pages.len()) }
    }

    /// Takes the next number: step 1 of the protocol. The caller makes one attempt to write it.
    #[inline]
    pub(crate) fn reserve(&self) -> u64 {
        self.long(at::HEAD).fetch_add(1, Ordering::Relaxed)
    }

    /// The block of a record: slots whose pages are made present together. Blocks are numbered on
    /// from lap to lap.
    #[inline]
    pub(crate) fn block(&self, number: u64) -> u32 {
        (number / BLOCK) as u32
    }

    /// Makes the pages of this record's block present and writable. Returns the first block after
    /// it, or none if the kernel cannot, so that it is not asked again. A forked process has the
    /// mapping without its pages, and otherwise has a page fault at the first write to each.
    #[cold]
    pub(crate) fn populate_block(&self, number: u64) -> u32 {
        let slot = (number & u64::from(self.capacity - 1)) & !(BLOCK - 1);
        // `from` begins a page of any size up to the header's: the header lies before slot 0.
        let from = slot as usize * RECORD;
        let to = (from + HEADER + BLOCK as usize * RECORD).min(self.pages.len());
        if self.populate(from, to - from) { self.block(number) + 1 } else { u32::MAX }
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
        let (capacity, own) = (u64::from(self.capacity), number as u32);
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
        if since != capacity && !self.take_over(number, since / capacity) {
            return None;
        }
        fence(Ordering::Release);
        Some(Claim { slot, number: own })
    }

    /// Step 4 of the protocol, where the record in the slot is `laps` laps older than `number`.
    /// Returns true if the caller owns the slot; otherwise its lap is counted as one that skipped.
    ///
    /// The count alone is not enough: a later lap may have skipped the slot first, and then stands
    /// in the count for one that has not looked. So the latest lap is kept as well, and only a lap
    /// later than all that are counted takes over.
    #[cold]
    fn take_over(&self, number: u64, laps: u64) -> bool {
        let skipped = self.skips((number as u32 & (self.capacity - 1)) as usize);
        let lap = (number / u64::from(self.capacity)) as u32;
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

    /// The word of a slot in [`Many::skipped`], or the one behind them.
    fn skips(&self, at: usize) -> &AtomicU64 {
        assert!(at <= self.capacity as usize, "a slot, or the word behind them");
        let skipped = self.many.as_ref().expect("a log of many writers").skipped.as_ptr();
        // SAFETY: `skipped` has a word for each slot and one more, and begins at a page; the index
        // is at most `capacity`. The reference borrows `self`, which keeps the mapping.
        unsafe { &*skipped.cast::<AtomicU64>().add(at) }
    }

    /// Returns the header and all slots, without the records that are being written.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pages.len());
        for at in (0..HEADER).step_by(8) {
            bytes.extend(self.long(at).load(Ordering::Acquire).to_ne_bytes());
        }
        for number in 0..self.capacity {
            let slot = self.slot(number.into());
            let before = slot[3].load(Ordering::Acquire);
            let words = [0, 1, 2].map(|at: usize| slot[at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let same = slot[3].load(Ordering::Relaxed) == before;
            let (head, (its, _)) = (self.long(at::HEAD).load(Ordering::Relaxed), last_word(before));
            let whole = same && (head as u32).wrapping_sub(its) <= self.capacity;
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(if whole { before } else { 0 }.to_ne_bytes());
        }
        bytes
    }
}

impl Drop for ShmLog {
    fn drop(&mut self) {
        // The pages are unmapped after this.
        lost_file::unregister(self.pages.as_ptr());
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
const BLOCK: u64 = 8192;

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

/// Returns a file in memory of this many zero bytes.
fn memory_file(len: usize) -> io::Result<File> {
    let file = sys::memory_file(c"proactor.trace")?;
    file.set_len(len as u64)?;
    Ok(file)
}

/// Locks a file that will be mapped, empties it and reserves this many bytes of the disk.
fn allocate(file: &File, len: usize) -> io::Result<File> {
    if !sys::lock(file.as_fd())? {
        let why = "another server records into this file";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    file.set_len(0)?;
    // SAFETY: the call has no pointer; `file` is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) } {
        0 => file.try_clone(),
        errno => {
            file.set_len(0)?;
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}
