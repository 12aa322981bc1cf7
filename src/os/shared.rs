//! Memory that a process shares with the children it forks: counters, and nothing else.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Numbers that every process forked from now on sees and changes, at first zero. Mapped lazily,
/// unmapped on drop.
pub struct SharedNumbers {
    base: NonNull<AtomicU64>,
    count: usize,
}

impl SharedNumbers {
    /// Maps `count` numbers, all zero.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub fn map(count: usize) -> io::Result<SharedNumbers> {
        let len = SharedNumbers::bytes(count);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that
        // Rust knows of.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("a mapping is never at address zero");
        Ok(SharedNumbers { base, count })
    }

    fn bytes(count: usize) -> usize {
        count.max(1) * size_of::<AtomicU64>()
    }
}

// SAFETY: it is the sole owner of its mapping, which any thread may unmap.
unsafe impl Send for SharedNumbers {}
// SAFETY: of what is shared all is atomic: threads are no worse than the processes that share it.
unsafe impl Sync for SharedNumbers {}

impl Deref for SharedNumbers {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is that long and page-aligned, lives as long as `self`, and zero is a
        // valid number. Other processes change it too: therefore atomics, which are free of
        // addresses and so mean the same in each.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl Drop for SharedNumbers {
    fn drop(&mut self) {
        // SAFETY: `self` owns the mapping, and every borrow of it borrows `self`. In other
        // processes it stays.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SharedNumbers::bytes(self.count)) };
    }
}

impl fmt::Debug for SharedNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedNumbers({})", self.count)
    }
}
