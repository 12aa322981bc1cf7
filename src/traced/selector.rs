//! A selector that is recorded: its waits, what they report, and the calls that are made through
//! it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use proactor_record::{Call, Log, Record, WaitMode};

use super::{Traced, clock, minus_errno};
use crate::calls::SocketCalls;
use crate::keys::{Key, KeyOwner};
use crate::selector::{Interest, Ready, Selector, Trigger};

impl<S: Selector, L: Log> Selector for Traced<S, L> {
    fn trigger(&self) -> Trigger {
        self.inner.trigger()
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.watched.insert(fd.as_raw_fd(), key);
        self.call(Call::Watch, key, fd, bits(interest), |inner| inner.add(fd, key, interest))
    }

    fn add_shared(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.watched.insert(fd.as_raw_fd(), key);
        let watch = |inner: &mut S| inner.add_shared(fd, key, interest);
        self.call(Call::Watch, key, fd, bits(interest), watch)
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.call(Call::Rewatch, key, fd, bits(interest), |inner| inner.modify(fd, key, interest))
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let key = self.watched.remove(&fd.as_raw_fd()).unwrap_or(KeyOwner::Shutdown.into());
        self.call(Call::Unwatch, key, fd, 0, |inner| inner.remove(fd))
    }

    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let nanos = timeout.map_or(0, |span| span.as_nanos() as u64);
        self.log.begin_iteration(clock, Record::wait_begin(WaitMode::of(timeout), nanos));
        let before = ready.len();
        let waited = self.inner.wait(ready, timeout);
        let res = match &waited {
            Ok(()) => (ready.len() - before) as i32,
            Err(error) => minus_errno(error),
        };
        self.log.end_iteration(clock, Record::wait_end(Some(res)));
        for report in &ready[before..] {
            let Ready { key, readable, writable, hung_up, .. } = *report;
            self.log.note(clock, Record::ready(key.0, readable, writable, hung_up));
        }
        waited
    }

    fn longest_wait(&self) -> Option<Duration> {
        self.inner.longest_wait()
    }
}

impl<S: Selector + SocketCalls, L: Log> SocketCalls for Traced<S, L> {
    fn accept(&mut self, key: Key, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let whose = (key, fd.as_raw_fd());
        self.made(Call::Accept, whose, 0, |inner| inner.accept(key, fd), AsRawFd::as_raw_fd)
    }

    fn recv(&mut self, key: Key, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        self.count(Call::Recv, key, fd, buffer.len(), |inner| inner.recv(key, fd, buffer))
    }

    fn send(
        &mut self,
        key: Key,
        fd: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        let (call, len) = Call::send_of(parts);
        self.count(call, key, fd, len, |inner| inner.send(key, fd, parts))
    }

    fn shutdown(&mut self, key: Key, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Call::Shutdown, key, fd, 0, |inner| inner.shutdown(key, fd))
    }

    fn close(&mut self, key: Key, fd: OwnedFd) {
        let whose = (key, fd.as_raw_fd());
        let make = |inner: &mut S| {
            inner.close(key, fd);
            Ok(())
        };
        // `close` returns nothing, so its record has no result.
        let _ = self.made(Call::Close, whose, 0, make, |()| 0);
    }
}

impl<S: Selector, L: Log> Traced<S, L> {
    /// Makes a call, and records its begin, with what it is `given`, and its end, with what `res`
    /// makes of its result.
    fn made<T>(
        &mut self,
        call: Call,
        (key, file): (Key, RawFd),
        given: i32,
        make: impl FnOnce(&mut S) -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        self.log.note(clock, Record::call_begin(call, false, key.0, file, given as u32));
        let result = make(&mut self.inner);
        let res = result.as_ref().map_or_else(minus_errno, res);
        self.log.note(clock, Record::call_end(call, false, key.0, file, res));
        result
    }

    /// Makes and records a call without a result.
    fn call(
        &mut self,
        call: Call,
        key: Key,
        fd: BorrowedFd<'_>,
        given: i32,
        make: impl FnOnce(&mut S) -> io::Result<()>,
    ) -> io::Result<()> {
        self.made(call, (key, fd.as_raw_fd()), given, make, |()| 0)
    }

    /// Makes and records a call whose result is a number of bytes.
    fn count(
        &mut self,
        call: Call,
        key: Key,
        fd: BorrowedFd<'_>,
        len: usize,
        make: impl FnOnce(&mut S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.made(call, (key, fd.as_raw_fd()), len as i32, make, |&n| n as i32)
    }
}

fn bits(interest: Interest) -> i32 {
    i32::from(interest.readable) | i32::from(interest.writable) << 1
}
