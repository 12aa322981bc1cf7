//! Memory that is mapped for buffers and for the rings of buffers.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

/// Zeroed, page-aligned memory, mapped lazily and unmapped on drop.
///
/// Page alignment is not a nicety: the kernel's copy into a buffer at an unlucky page offset (16,
/// where `malloc` puts large blocks) was measured 1.7 to 2.4 times slower.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Maps `len` bytes (at least one), rounded up to whole pages by the kernel.
    ///
    /// # Errors
    /// What `mmap(2)` says, `ENOMEM` above all.
    pub fn map(len: usize) -> io::Result<Pages> {
        Pages::map_as(len, libc::MAP_PRIVATE)
    }

    /// Maps memory that processes forked from now on share.
    ///
    /// # Errors
    /// As [`map`](Pages::map).
    pub(crate) fn shared(len: usize) -> io::Result<Pages> {
        Pages::map_as(len, libc::MAP_SHARED | libc::MAP_NORESERVE)
    }

    fn map_as(len: usize, kind: libc::c_int) -> io::Result<Pages> {
        let len = len.max(1);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, kind | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory that
        // Rust knows of.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("a mapping is never at address zero");
        Ok(Pages { base, len })
    }

    /// Returns the address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The bytes asked for.
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one byte")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Discards the whole pages of these bytes, in which nothing is stored: they are zero when they
    /// are used again.
    ///
    /// # Safety
    /// No reference to one of these bytes exists, and nothing writes to them meanwhile.
    pub(super) unsafe fn discard(&self, at: usize, len: usize) {
        const PAGE: usize = 4096;
        let (begin, end) = (at.next_multiple_of(PAGE), (at + len) / PAGE * PAGE);
        if begin < end && end <= self.len {
            // SAFETY: the range is inside the mapping, and the caller says that no reference sees
            // its bytes change.
            unsafe {
                libc::madvise(
                    self.base.add(begin).as_ptr().cast(),
                    end - begin,
                    libc::MADV_DONTNEED,
                )
            };
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what `mmap` answered and was asked; what handed out
        // pointers into the mapping holds it (a `Lease` its `Rc<Pool>`, a ring its `Rc<Pool>`).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
