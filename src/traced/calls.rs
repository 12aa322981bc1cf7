//! Calls that are recorded: those that a thread makes and may sleep in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use proactor_record::{Call, Record, WaitMode, Writer};

use super::{clock, minus_errno};
use crate::calls::{Calls, PlainCalls, SLEEPS};
use crate::keys::Key;

/// The calls of a thread or of a child process, in a lane of a trace.
#[derive(Debug, Clone)]
pub struct TracedCalls {
    log: Writer,
    /// Whether the sockets block, so that a call may sleep.
    sleeps: bool,
}

impl TracedCalls {
    /// Records the calls of the thread that started the recording, on sockets that block or, if no
    /// call `sleeps`, do not.
    pub fn new(log: Writer, sleeps: bool) -> TracedCalls {
        TracedCalls { log, sleeps }
    }

    /// Returns the writer of this lane.
    pub fn writer(&self) -> &Writer {
        &self.log
    }

    /// Records that the thread goes to sleep until a descriptor is ready, or the timeout ends.
    pub fn wait_begins(&self, timeout: Option<Duration>) {
        let nanos = timeout.map_or(0, |span| span.as_nanos() as u64);
        self.log.write(clock, Record::wait_begin(WaitMode::of(timeout), nanos));
    }

    /// Records that the thread is awake, and how many descriptors are ready. `None` if another
    /// component waited and the number is not known.
    pub fn wait_ends(&self, waited: Result<Option<usize>, &io::Error>) {
        let res = match waited {
            Ok(ready) => ready.map(|n| n as i32),
            Err(error) => Some(minus_errno(error)),
        };
        self.log.write(clock, Record::wait_end(res));
    }

    /// Records that a descriptor is ready, to read from or to write to.
    pub fn ready(&self, key: Key, readable: bool, writable: bool) {
        self.log.write(clock, Record::ready(key.0, readable, writable, false));
    }
}

impl Calls for TracedCalls {
    fn lane(&self, slot: u32) -> TracedCalls {
        TracedCalls { log: self.log.lane(slot), sleeps: self.sleeps }
    }

    /// Records the begin and the end of the call.
    fn made<T>(
        &self,
        (call, may_sleep): (Call, bool),
        (key, file): (Key, RawFd),
        len: usize,
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        let sleeps = may_sleep && self.sleeps;
        let len = i32::try_from(len).unwrap_or(i32::MAX) as u32;
        self.log.write(clock, Record::call_begin(call, sleeps, key.0, file, len));
        let result = make();
        let res = result.as_ref().map_or_else(minus_errno, res);
        self.log.write(clock, Record::call_end(call, sleeps, key.0, file, res));
        result
    }

    fn wait(&self, asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
        self.wait_begins(timeout);
        let waited = PlainCalls.wait(asked, timeout);
        self.wait_ends(waited.as_ref().map(|&ready| Some(ready)));
        waited
    }

    /// Only a wait is recorded: a free lock is taken without a record.
    fn lock<'a, T>(
        &self,
        key: Key,
        file: BorrowedFd<'_>,
        mutex: &'a Mutex<T>,
    ) -> MutexGuard<'a, T> {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        let whose = (key, file.as_raw_fd());
        let make = || Ok(mutex.lock().unwrap_or_else(PoisonError::into_inner));
        let made = self.made((Call::Lock, SLEEPS), whose, 0, make, |_| 0);
        made.expect("a lock is always acquired")
    }
}
