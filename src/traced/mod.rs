//! Decorators that record what passes a ring, a selector or the calls of a thread.
//!
//! [`Traced`] wraps a [`Ring`](crate::ring::Ring) or a [`Selector`](crate::selector::Selector) and
//! implements the same trait, so that the loops do not know of it. [`TracedCalls`] does the same
//! for [`Calls`](crate::calls::Calls). Whether a loop records is a type, not a branch: a
//! `Proactor<Uring, P>` has no instruction of this module. The decorators stand in the core so that
//! the compiler instantiates the recorded loops together with the others.

mod calls;
mod ring;
mod selector;

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;

use proactor_record::{Recorder, sys};

use crate::keys::Key;

pub use calls::TracedCalls;

/// A ring or a selector that is recorded. A selector may be recorded by one of many writers.
#[derive(Debug)]
pub struct Traced<T, L = Recorder> {
    inner: T,
    log: L,
    /// Submissions ever queued, and ever taken by the kernel.
    queued: u64,
    taken: u64,
    /// Completions ever reaped, and those since the last enter.
    reaped: u64,
    position: u16,
    /// For a selector: the key of each descriptor that it watches.
    watched: HashMap<RawFd, Key>,
}

impl<T, L> Traced<T, L> {
    /// Records what passes `inner`.
    pub fn new(inner: T, log: L) -> Traced<T, L> {
        let watched = HashMap::new();
        Traced { inner, log, queued: 0, taken: 0, reaped: 0, position: 0, watched }
    }

    /// Returns the ring or selector that is recorded.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns the ring or selector that is recorded.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// Returns the recorder of it.
    pub fn recorder(&mut self) -> &mut L {
        &mut self.log
    }
}

/// The clock of what has no clock of its own.
fn clock() -> u64 {
    sys::monotonic()
}

fn minus_errno(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(libc::EIO)
}
