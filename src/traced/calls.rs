//! Calls that are recorded: those that a thread makes and may sleep in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use proactor_record::{Call, Record, WaitMode, Writer};

use super::{clock, minus_errno};
use crate::calls::{Calls, PlainCalls};
use crate::keys::Key;

/// The calls of a thread or of a child process, in a lane of a trace.
#[derive(Debug, Clone)]
pub struct TracedCalls {
    log: Writer,
    /// Whether the sockets block, so that a call may sleep.
    sleeps: bool,
}

impl TracedCalls {
    /// Records the calls of the thread that started the recording, on blocking sockets.
    pub fn new(log: Writer) -> TracedCalls {
        TracedCalls { log, sleeps: true }
    }

    /// Records the calls on nonblocking sockets: no receive and no send may sleep.
    pub fn on_nonblocking(log: Writer) -> TracedCalls {
        TracedCalls { log, sleeps: false }
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

    /// Makes a call, which may sleep or not, and records its begin and its end, with what `res`
    /// makes of its result. `file` is -1 if the call has none.
    #[inline]
    pub fn made<T>(
        &self,
        (call, may_sleep): (Call, bool),
        (key, file): (Key, i32),
        len: usize,
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        let len = i32::try_from(len).unwrap_or(i32::MAX) as u32;
        self.log.write(clock, Record::call_begin(call, may_sleep, key.0, file, len));
        let result = make();
        let res = result.as_ref().map_or_else(minus_errno, res);
        self.log.write(clock, Record::call_end(call, may_sleep, key.0, file, res));
        result
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
        // The listener does not block.
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
        // `close` returns nothing, so its record has no result.
        let _ = self.made((Call::Close, AT_ONCE), whose, 0, make, |()| 0);
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

fn count(n: &usize) -> i32 {
    *n as i32
}
