//! Memory that a process shares with the children it forks: counters, and nothing else.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use crate::buffer::Pages;

/// Numbers that every process forked from now on sees and changes, at first zero. Mapped lazily,
/// unmapped on drop.
#[derive(Debug)]
pub struct SharedNumbers {
    pages: Pages,
    count: usize,
}

impl SharedNumbers {
    /// Maps `count` numbers, all zero.
    ///
    /// # Errors
    /// mmap(2), `ENOMEM` above all.
    pub fn map(count: usize) -> io::Result<SharedNumbers> {
        let pages = Pages::shared(count * size_of::<AtomicU64>())?;
        Ok(SharedNumbers { pages, count })
    }
}

// SAFETY: it is the sole owner of its mapping, which any thread may unmap.
unsafe impl Send for SharedNumbers {}
// SAFETY: of what is shared all is atomic: threads are no worse than the processes that share it.
unsafe impl Sync for SharedNumbers {}

impl Deref for SharedNumbers {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        let base = self.pages.base().cast::<AtomicU64>();
        // SAFETY: the mapping is that long and page-aligned, lives as long as `self`, and zero is a
        // valid number. Other processes change it too: therefore atomics, which are free of
        // addresses and so mean the same in each.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), self.count) }
    }
}
