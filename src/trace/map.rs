//! The memory of a recorder: pages shared with a file, or with nobody.
//!
//! What is written to a file's shared pages is the kernel's at once: it survives the end of the
//! process, however that came (mmap(2), `MAP_SHARED`; kernel-notes §50). The blocks are reserved before
//! (posix_fallocate(3)), for a write to a page that finds no room on the disk is a SIGBUS. So is
//! one to a file that somebody has cut short: so the file is locked (fcntl(2), `F_OFD_SETLK`) as
//! long as it is mapped, and no other recorder takes it. Who follows it sees by the lock whether
//! its recorder lives.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::format::{HEADER, RECORD, Record, Writers, at, part};
use crate::os;

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
                (libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd())
            }
            None if writers == Writers::One => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at zero unasked");
        Ok(Map { base, capacity, _file: own })
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
        // SAFETY: within the header and aligned to 8; an atomic store, for others may read the file.
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
/// A record's last word is written twice. First it is *claimed*: the word says [`UNFINISHED`] under
/// the record's number. Then the others are written, and then it says what the record is. So a slot
/// has one writer at a time, and a record is there exactly if its last word has its number and is
/// not unfinished. Whoever dies in between leaves a slot that nobody claims any more, and of each
/// lap one record fewer.
#[derive(Debug)]
pub(super) struct Common(Map);

// SAFETY: nothing but atomics is used of the mapping by `&self`.
unsafe impl Sync for Common {}

/// The kind of a record that is being written.
pub(super) const UNFINISHED: u8 = 0xff;

impl Common {
    /// Of a map that this alone has.
    pub(super) fn new(map: Map) -> Common {
        Common(map)
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
        unsafe { AtomicU64::from_ptr(self.0.base.as_ptr().add(at).cast()) }
    }

    /// A number of the header, of four bytes.
    ///
    /// # Panics
    /// If it is none.
    #[inline]
    pub(super) fn short(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= HEADER, "a number of the header");
        // SAFETY: as of `long`.
        unsafe { AtomicU32::from_ptr(self.0.base.as_ptr().add(at).cast()) }
    }

    /// Reserves the next number and writes the record there. It is not, if its slot has not been
    /// finished since, or was taken by one a lap later: then a reader finds it to be lost.
    #[inline]
    pub(super) fn write(&self, record: Record) {
        let number = self.long(at::HEAD).fetch_add(1, Ordering::Relaxed);
        if let Some(claim) = self.claim(number) {
            claim.finish(record);
        }
    }

    /// The right to write record `number`, if it is to be had.
    #[inline]
    pub(super) fn claim(&self, number: u64) -> Option<Claim<'_>> {
        let slot = self.slot(number);
        let turn = number as u32;
        let mine = Record { turn, what: UNFINISHED, ..Record::default() }.words()[3];
        let mut found = slot[3].load(Ordering::Relaxed);
        loop {
            let (its, what) = last_word(found);
            let later = its.wrapping_sub(turn).cast_signed() >= 0;
            if what == UNFINISHED || (what != 0 && later) {
                return None;
            }
            match slot[3].compare_exchange_weak(found, mine, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) => found = other,
            }
        }
        // Whoever sees one of the words that will be written sees the head beyond its number, and
        // that the record which was there is no more.
        fence(Ordering::Release);
        Some(Claim { slot, turn })
    }

    #[inline]
    fn slot(&self, number: u64) -> &[AtomicU64; 4] {
        let slot = (number & (self.0.capacity - 1)) as usize;
        // SAFETY: the mask keeps within the slots behind the header, each of four aligned words;
        // they live as long as `self`, and everybody uses them as atomics.
        unsafe { &*self.0.base.as_ptr().add(HEADER + slot * RECORD).cast::<[AtomicU64; 4]>() }
    }

    /// All of it, as the file has it, without what is being written meanwhile.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length(self.0.capacity));
        for at in (0..HEADER).step_by(8) {
            bytes.extend(self.long(at).load(Ordering::Acquire).to_ne_bytes());
        }
        for number in 0..self.0.capacity {
            let slot = self.slot(number);
            let before = slot[3].load(Ordering::Acquire);
            let words = [0, 1, 2].map(|at: usize| slot[at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let whole = slot[3].load(Ordering::Relaxed) == before;
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(if whole { before } else { 0 }.to_ne_bytes());
        }
        bytes
    }
}

/// A slot that is one's own until it is finished.
pub(super) struct Claim<'a> {
    slot: &'a [AtomicU64; 4],
    turn: u32,
}

impl Claim<'_> {
    /// Writes all of it.
    #[inline]
    pub(super) fn finish(self, record: Record) {
        let words = Record { turn: self.turn, ..record }.words();
        for (place, word) in self.slot.iter().zip(words).take(3) {
            place.store(word, Ordering::Relaxed);
        }
        self.slot[3].store(words[3], Ordering::Release);
    }
}

/// The number and the kind in a slot's last word.
fn last_word(word: u64) -> (u32, u8) {
    let mut bytes = [0; RECORD];
    bytes[24..].copy_from_slice(&word.to_ne_bytes());
    let Record { turn, what, .. } = Record::from_bytes(&bytes);
    (turn, what)
}

fn length(capacity: u64) -> usize {
    HEADER + capacity as usize * RECORD
}
