//! Calls that remember: those that a thread makes and may sleep in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::format::{Call, MAY_SLEEP, Patience, Record, UNTOLD, What};
use super::selector::{clock, minus_errno, owner};
use super::writer::Writer;
use proactor::calls::{Calls, PlainCalls};
use proactor::keys::Key;

/// The calls of a thread or of a child process, in a lane of a trace.
#[derive(Debug, Clone)]
pub struct TracedCalls {
    log: Writer,
    /// Whether sockets block, so that a call may sleep.
    sleeps: bool,
}

impl TracedCalls {
    /// Those of who began the recording, on sockets that block.
    pub fn new(log: Writer) -> TracedCalls {
        TracedCalls { log, sleeps: true }
    }

    /// The same on sockets that do not: no receive and no send may sleep.
    pub fn on_nonblocking(log: Writer) -> TracedCalls {
        TracedCalls { log, sleeps: false }
    }

    /// Who writes what is recorded.
    pub fn writer(&self) -> &Writer {
        &self.log
    }

    /// It goes to sleep until something is ready, for so long at most.
    pub fn wait_begins(&self, timeout: Option<Duration>) {
        let begin = Record {
            what: What::WaitBegin as u8,
            id: timeout.map_or(0, |span| span.as_nanos() as u64),
            op: Patience::of(timeout) as u8,
            ..Record::default()
        };
        self.log.write(None, clock, begin);
    }

    /// It is awake: so many are ready. `None` if another slept for it, and does not tell.
    pub fn wait_ends(&self, waited: Result<Option<usize>, &io::Error>) {
        let (res, flags) = match waited {
            Ok(Some(ready)) => (ready as i32, 0),
            Ok(None) => (0, UNTOLD),
            Err(error) => (minus_errno(error), 0),
        };
        let what = What::WaitEnd as u8;
        self.log.write(None, clock, Record { what, res, flags, ..Record::default() });
    }

    /// It is found that something is ready, to be read from or to be written to.
    pub fn ready(&self, key: Key, readable: bool, writable: bool) {
        let (what, id) = (What::Ready as u8, key.0);
        let flags = u32::from(readable) | u32::from(writable) << 1;
        self.log.write(owner(key), clock, Record { what, id, flags, ..Record::default() });
    }

    /// Makes a call, which may sleep or not, and records its begin and its end. `res` says what its
    /// answer comes to; `file` is -1 if it is for none.
    #[inline]
    pub fn made<T>(
        &self,
        (call, may_sleep): (Call, bool),
        (key, file): (Key, i32),
        len: usize,
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        let op = call as u8 | if may_sleep { MAY_SLEEP } else { 0 };
        let (id, flags) = (key.0, file as u32);
        let begin = Record {
            what: What::CallBegin as u8,
            op,
            id,
            flags,
            res: i32::try_from(len).unwrap_or(i32::MAX),
            ..Record::default()
        };
        self.log.write(owner(key), clock, begin);
        let answer = make();
        let res = answer.as_ref().map_or_else(minus_errno, res);
        self.log.write(owner(key), clock, Record { what: What::CallEnd as u8, res, ..begin });
        answer
    }
}

const SLEEPS: bool = true;
const AT_ONCE: bool = false;

impl Calls for TracedCalls {
    fn lane(&self, slot: u32) -> TracedCalls {
        TracedCalls { log: self.log.lane(slot), sleeps: self.sleeps }
    }

    fn wait(&self, asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
        self.wait_begins(timeout);
        let waited = PlainCalls.wait(asked, timeout);
        self.wait_ends(waited.as_ref().map(|&ready| Some(ready)));
        waited
    }

    fn poll(&self, key: Key, socket: BorrowedFd<'_>, events: i16) -> io::Result<usize> {
        let make = || PlainCalls.poll(key, socket, events);
        self.made((Call::Poll, SLEEPS), (key, socket.as_raw_fd()), 0, make, count)
    }

    fn accept(&self, key: Key, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // Its listener does not block.
        let make = || PlainCalls.accept(key, listener);
        let accepted = |fd: &OwnedFd| fd.as_raw_fd();
        self.made((Call::Accept, AT_ONCE), (key, listener.as_raw_fd()), 0, make, accepted)
    }

    fn accept_nonblocking(&self, key: Key, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let make = || PlainCalls.accept_nonblocking(key, listener);
        let accepted = |fd: &OwnedFd| fd.as_raw_fd();
        self.made((Call::Accept, AT_ONCE), (key, listener.as_raw_fd()), 0, make, accepted)
    }

    fn recv(&self, key: Key, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let (whose, len) = ((key, socket.as_raw_fd()), buffer.len());
        let make = || PlainCalls.recv(key, socket, buffer);
        self.made((Call::Recv, self.sleeps), whose, len, make, count)
    }

    fn recv_now(&self, key: Key, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let (whose, len) = ((key, socket.as_raw_fd()), buffer.len());
        self.made(
            (Call::Recv, AT_ONCE),
            whose,
            len,
            || PlainCalls.recv_now(key, socket, buffer),
            count,
        )
    }

    fn send(
        &self,
        key: Key,
        socket: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        let (call, len) = Call::send_of(parts);
        let make = || PlainCalls.send(key, socket, parts);
        self.made((call, self.sleeps), (key, socket.as_raw_fd()), len, make, count)
    }

    fn send_now(
        &self,
        key: Key,
        socket: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        let (call, len) = Call::send_of(parts);
        let make = || PlainCalls.send_now(key, socket, parts);
        self.made((call, AT_ONCE), (key, socket.as_raw_fd()), len, make, count)
    }

    fn shutdown_write(&self, key: Key, socket: BorrowedFd<'_>) -> io::Result<()> {
        let make = || PlainCalls.shutdown_write(key, socket);
        self.made((Call::Shutdown, AT_ONCE), (key, socket.as_raw_fd()), 0, make, |()| 0)
    }

    fn shutdown_both(&self, key: Key, socket: BorrowedFd<'_>) -> io::Result<()> {
        let make = || PlainCalls.shutdown_both(key, socket);
        self.made((Call::Shutdown, AT_ONCE), (key, socket.as_raw_fd()), 0, make, |()| 0)
    }

    fn close(&self, key: Key, fd: OwnedFd) {
        let whose = (key, fd.as_raw_fd());
        let make = || {
            PlainCalls.close(key, fd);
            Ok(())
        };
        // It cannot fail: what the kernel says of it is not asked.
        let _ = self.made((Call::Close, AT_ONCE), whose, 0, make, |()| 0);
    }

    /// Only waiting is worth a record: a lock that is free is taken without one.
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
        made.expect("it is always had in the end")
    }
}

fn count(n: &usize) -> i32 {
    *n as i32
}
