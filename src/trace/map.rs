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
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{HEADER, RECORD, Record, at, part};
use crate::os;

/// A header and `capacity` records. One owner writes; who reads the file looks at `head` first.
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
    /// Of a file, which gets this size; or, without one, of memory.
    ///
    /// # Errors
    /// There is no room for it; the file cannot be mapped; somebody else records into it.
    ///
    /// # Panics
    /// If `capacity` is not a power of two.
    pub(super) fn new(file: Option<&File>, capacity: u64) -> io::Result<Map> {
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
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
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

fn length(capacity: u64) -> usize {
    HEADER + capacity as usize * RECORD
}
