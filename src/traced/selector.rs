//! A selector that is recorded: its waits, what they report, and the calls that are made through
//! it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use proactor_record::{Call, Log, Record, WaitMode};

use super::{Traced, clock, minus_errno};
use crate::keys::{Key, KeyOwner};
use crate::selector::{Interest, Ready, ReadyEvent, Selector, Trigger};

impl<S: Selector, L: Log> Selector for Traced<S, L> {
    fn trigger(&self) -> Trigger {
        self.inner.trigger()
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.watched.insert(fd.as_raw_fd(), key);
        self.change(Call::Watch, fd, key, interest, |inner| inner.add(fd, key, interest))
    }

    fn add_shared(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.watched.insert(fd.as_raw_fd(), key);
        self.change(Call::Watch, fd, key, interest, |inner| inner.add_shared(fd, key, interest))
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.change(Call::Rewatch, fd, key, interest, |inner| inner.modify(fd, key, interest))
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let key = self.watched.remove(&fd.as_raw_fd()).unwrap_or(KeyOwner::Shutdown.into());
        self.change(Call::Unwatch, fd, key, Interest::NONE, |inner| inner.remove(fd))
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        let nanos = timeout.map_or(0, |span| span.as_nanos() as u64);
        self.log.begin_iteration(clock, Record::wait_begin(WaitMode::of(timeout), nanos));
        let waited = self.inner.wait(reports, timeout);
        let res = match &waited {
            Ok(()) => reports.len() as i32,
            Err(error) => minus_errno(error),
        };
        self.log.end_iteration(clock, Record::wait_end(Some(res)));
        for &report in &*reports {
            let Ready { key, readable, writable, hung_up } = Ready::of(report);
            self.log.note(clock, Record::ready(key.0, readable, writable, hung_up));
        }
        waited
    }

    fn longest_wait(&self) -> Option<Duration> {
        self.inner.longest_wait()
    }

    fn made<T>(
        &mut self,
        call: Call,
        whose: (Key, RawFd),
        len: usize,
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        record(&mut self.log, call, whose, len as u32, make, res)
    }
}

impl<S: Selector, L: Log> Traced<S, L> {
    /// Makes and records a change of what is watched.
    fn change(
        &mut self,
        call: Call,
        fd: BorrowedFd<'_>,
        key: Key,
        interest: Interest,
        make: impl FnOnce(&mut S) -> io::Result<()>,
    ) -> io::Result<()> {
        let bits = u32::from(interest.readable) | u32::from(interest.writable) << 1;
        let whose = (key, fd.as_raw_fd());
        record(&mut self.log, call, whose, bits, || make(&mut self.inner), |()| 0)
    }
}

/// Makes a call, and records its begin, with what it is `given`, and its end, with what `res` makes
/// of its result.
fn record<T>(
    log: &mut impl Log,
    call: Call,
    (key, file): (Key, RawFd),
    given: u32,
    make: impl FnOnce() -> io::Result<T>,
    res: impl FnOnce(&T) -> i32,
) -> io::Result<T> {
    log.note(clock, Record::call_begin(call, false, key.0, file, given));
    let result = make();
    let res = result.as_ref().map_or_else(minus_errno, res);
    log.note(clock, Record::call_end(call, false, key.0, file, res));
    result
}
