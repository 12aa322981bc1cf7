//! A selector that remembers: its waits, what they report, and the calls that are made for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::format::{Call, Patience, Record, What};
use super::{Log, Traced};
use proactor::calls::SocketCalls;
use proactor::keys::ConnId;
use proactor::os;
use proactor::selector::{Interest, Key, KeyOwner, Ready, Selector, Trigger};

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
        let patience = Patience::of(timeout);
        let nanos = timeout.map_or(0, |span| span.as_nanos() as u64);
        let (what, op) = (What::WaitBegin as u8, patience as u8);
        self.log.begin_turn(clock, Record { what, id: nanos, op, ..Record::default() });
        let before = ready.len();
        let waited = self.inner.wait(ready, timeout);
        let res = match &waited {
            Ok(()) => (ready.len() - before) as i32,
            Err(error) => minus_errno(error),
        };
        let what = What::WaitEnd as u8;
        self.log.end_turn(clock, Record { what, res, ..Record::default() });
        for report in &ready[before..] {
            let flags = u32::from(report.readable)
                | u32::from(report.writable) << 1
                | u32::from(report.hung_up) << 2;
            let (what, id) = (What::Ready as u8, report.key.0);
            self.log.note(
                owner(report.key),
                clock,
                Record { what, id, flags, ..Record::default() },
            );
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
        // It cannot fail: what the kernel says of it is not asked.
        let _ = self.made(Call::Close, whose, 0, make, |()| 0);
    }
}

impl<S: Selector, L: Log> Traced<S, L> {
    /// Makes a call, and records its begin, with what it is `given`, and its end; `res` says what
    /// its answer comes to.
    fn made<T>(
        &mut self,
        call: Call,
        (key, file): (Key, RawFd),
        given: i32,
        make: impl FnOnce(&mut S) -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        let (what, op, flags) = (What::CallBegin as u8, call as u8, file as u32);
        let begin = Record { what, op, id: key.0, flags, res: given, ..Record::default() };
        self.log.note(owner(key), clock, begin);
        let answer = make(&mut self.inner);
        let (what, res) = (What::CallEnd as u8, answer.as_ref().map_or_else(minus_errno, res));
        self.log.note(owner(key), clock, Record { what, res, ..begin });
        answer
    }

    /// A call whose answer is that it went.
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

    /// A call whose answer is a number of bytes.
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

pub(super) fn clock() -> u64 {
    os::now().0
}

fn bits(interest: Interest) -> i32 {
    i32::from(interest.readable) | i32::from(interest.writable) << 1
}

pub(super) fn minus_errno(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(libc::EIO)
}

/// Whose connection's key that is, if any's.
pub(super) fn owner(key: Key) -> Option<ConnId> {
    match KeyOwner::from(key) {
        KeyOwner::Conn(conn) => Some(conn),
        KeyOwner::Listener(_)
        | KeyOwner::Shutdown
        | KeyOwner::Console
        | KeyOwner::External(_)
        | KeyOwner::Link(_) => None,
    }
}
