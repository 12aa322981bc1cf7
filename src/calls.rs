//! The calls that an engine makes on sockets, each with the key of the connection or the listener
//! that it is made for, so that a recorder can stand between.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proactor_record::Call;

use crate::keys::Key;
use crate::os;

/// Makes the system calls of a thread or of a child process, which may sleep in them. The errors
/// are those of the call.
///
/// Every call goes through [`made`](Calls::made), so that a recorder implements that alone.
pub trait Calls: Clone + Send + 'static {
    /// Returns the calls of another thread or process, which is number `slot` of its kind: a
    /// recording distinguishes it from the others by that. Called on a clone, by the thread or the
    /// process itself.
    fn lane(&self, slot: u32) -> Self;

    /// Makes a call by `make`; `res` returns what is recorded as its result. The call sleeps or
    /// not, is made for `key`, on descriptor `file` (-1 if it has none), and moves at most `len`
    /// bytes.
    ///
    /// # Errors
    /// The error of `make`.
    fn made<T>(
        &self,
        (_call, _may_sleep): (Call, bool),
        (_key, _file): (Key, RawFd),
        _len: usize,
        make: impl FnOnce() -> io::Result<T>,
        _res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        make()
    }

    /// Sleeps until some of `asked` is ready, as [`os::poll`] does.
    ///
    /// # Errors
    /// poll(2).
    fn wait(&self, asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
        os::poll(asked, timeout)
    }

    /// Locks the right to use `file`, and sleeps while another thread has it. A panic of another
    /// holder is ignored: what is locked is always whole.
    fn lock<'a, T>(
        &self,
        _key: Key,
        _file: BorrowedFd<'_>,
        mutex: &'a Mutex<T>,
    ) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the socket of a connection has one of these `events`, or its peer has hung up.
    /// Returns 0 if a signal or the `timeout` comes before.
    ///
    /// # Errors
    /// poll(2).
    fn poll(
        &self,
        key: Key,
        socket: BorrowedFd<'_>,
        events: i16,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let asked = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
        let make = || os::poll(&mut [asked], timeout);
        self.made((Call::Poll, SLEEPS), (key, socket.as_raw_fd()), 0, make, count)
    }

    /// Accepts a connection whose calls may sleep, or do not. The listener does not block.
    ///
    /// # Errors
    /// accept4(2).
    fn accept(&self, key: Key, listener: BorrowedFd<'_>, sleeps: bool) -> io::Result<OwnedFd> {
        let flags = if sleeps { 0 } else { libc::SOCK_NONBLOCK };
        let whose = (key, listener.as_raw_fd());
        let make = || os::accept(listener, flags);
        self.made((Call::Accept, AT_ONCE), whose, 0, make, AsRawFd::as_raw_fd)
    }

    /// Receives, and sleeps until there are bytes, or returns what is there.
    ///
    /// # Errors
    /// recv(2).
    fn recv(
        &self,
        key: Key,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        sleeps: bool,
    ) -> io::Result<usize> {
        let (whose, len) = ((key, socket.as_raw_fd()), buffer.len());
        let make = || os::recv(socket, buffer, flags(sleeps));
        self.made((Call::Recv, sleeps), whose, len, make, count)
    }

    /// Sends from one or several buffers, and sleeps while the socket takes nothing, or sends what
    /// it takes.
    ///
    /// # Errors
    /// send(2), from several buffers sendmsg(2).
    fn send(
        &self,
        key: Key,
        socket: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
        sleeps: bool,
    ) -> io::Result<usize> {
        let (call, len) = Call::send_of(parts);
        let make = || os::send(socket, parts, flags(sleeps));
        self.made((call, sleeps), (key, socket.as_raw_fd()), len, make, count)
    }

    /// Shuts the outbound direction down, or both directions.
    ///
    /// # Errors
    /// shutdown(2).
    fn shutdown(&self, key: Key, socket: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
        let (whose, make) = ((key, socket.as_raw_fd()), || os::shutdown(socket, how));
        self.made((Call::Shutdown, AT_ONCE), whose, 0, make, |()| 0)
    }

    /// Closes a descriptor: [`os::close`].
    fn close(&self, key: Key, fd: OwnedFd) {
        let whose = (key, fd.as_raw_fd());
        let make = || {
            os::close(fd);
            Ok(())
        };
        // `close` returns nothing, so its record has no result.
        let _ = self.made((Call::Close, AT_ONCE), whose, 0, make, |()| 0);
    }

    /// Closes the socket of a connection that is not served. Its peer receives the end: a close
    /// alone would reset the connection if a request had arrived.
    fn refuse(&self, key: Key, socket: OwnedFd) {
        let _ = self.shutdown(key, socket.as_fd(), Shutdown::Write); // It fails after a reset.
        self.close(key, socket);
    }
}

/// The call may sleep; a connection that is accepted may sleep in its calls.
pub const SLEEPS: bool = true;
/// The call does not sleep.
pub const AT_ONCE: bool = false;

/// Returns the flags of a receive or a send on a socket that blocks.
fn flags(sleeps: bool) -> libc::c_int {
    if sleeps { 0 } else { libc::MSG_DONTWAIT }
}

fn count(n: &usize) -> i32 {
    *n as i32
}

/// Calls that are made, and not recorded: it has no size, and costs nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainCalls;

impl Calls for PlainCalls {
    fn lane(&self, _slot: u32) -> PlainCalls {
        PlainCalls
    }
}
