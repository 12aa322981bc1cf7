//! Readiness: waiting until sockets *may* proceed; the loop then makes the calls itself.
//!
//! The contract of readiness, which holds for every [`Selector`] here:
//!
//! * **A report is a hint.** A socket that is reported may not be ready; then the call fails with
//!   `WouldBlock`, and that is no error.
//! * **Level**-triggered selectors report a socket as long as it is ready. What is not wanted must
//!   be taken out of the interest, or the loop spins.
//! * **Edge**-triggered selectors report a socket when it *becomes* ready. A caller that stops
//!   before `WouldBlock` (or, on a stream, before a call that moved fewer bytes than it could) must
//!   remember that the socket is still ready: no further event is delivered.
//! * **Oneshot** selectors report a descriptor as level-triggered ones do, but once: with the
//!   report it is disarmed, though still watched, until it is modified. Until then not even an
//!   error is reported.
//! * An error or a hang-up is reported as both readable and writable: the next call finds it.

mod epoll;
mod poll;
mod select;
mod sigio;
mod spin;

pub use epoll::Epoll;
pub use poll::Poll;
pub use select::Select;
pub use sigio::Sigio;
pub use spin::Spin;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use proactor_record::Call;

use crate::os;

pub use crate::keys::{Key, KeyOwner};

/// The readiness of a descriptor that a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest {
    /// Wait until it is readable.
    pub readable: bool,
    /// Wait until it is writable.
    pub writable: bool,
}

impl Interest {
    /// Neither. Errors and hang-ups are still reported, level-triggered again and again: a caller
    /// that waits for nothing should [`remove`](Selector::remove) the descriptor.
    pub const NONE: Interest = Interest { readable: false, writable: false };
    /// Wait until it is readable.
    pub const READ: Interest = Interest { readable: true, writable: false };
    /// Wait until it is writable.
    pub const WRITE: Interest = Interest { readable: false, writable: true };
    /// Wait until it is either.
    pub const BOTH: Interest = Interest { readable: true, writable: true };
}

/// When a descriptor is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// As long as it is ready. What is not wanted has to be taken out of the interest.
    Level,
    /// When it becomes ready. A caller registers [`Interest::BOTH`] once and never modifies it.
    Edge,
    /// When it is ready, and then no more until the interest is asked anew, by
    /// [`modify`](Selector::modify): also if it is the same.
    Oneshot,
}

/// A report as epoll(7) makes it, with the key: [`Ready::of`] returns what it means.
pub type ReadyEvent = libc::epoll_event;

/// The meaning of a report: a descriptor may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The key that it was added with.
    pub key: Key,
    /// It may be read from: bytes, the peer's end, or an error.
    pub readable: bool,
    /// It may be written to, or has an error.
    pub writable: bool,
    /// The peer has ended or reset: a short read is not the last one. Some level-triggered
    /// selectors do not know this; they report again what is left to read.
    pub hung_up: bool,
}

/// Waits for descriptors to become ready. The loop also makes its calls on sockets through its
/// selector, each with the key that it is made for: a recorder around the selector sees the waits
/// and the calls in one order.
pub trait Selector {
    /// Returns when it reports a descriptor.
    fn trigger(&self) -> Trigger {
        Trigger::Level
    }

    /// Begins to watch a descriptor.
    ///
    /// # Errors
    /// The descriptor is watched already, or cannot be; the message says why.
    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()>;

    /// Begins to watch a descriptor whose open file is shared with others, as a terminal is with
    /// the shell: nothing of it is changed. By default, as any other.
    ///
    /// # Errors
    /// As of [`add`](Selector::add).
    fn add_shared(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.add(fd, key, interest)
    }

    /// Changes the interest, and arms a descriptor that a report has disarmed.
    ///
    /// # Errors
    /// The descriptor is not watched.
    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()>;

    /// Ceases to watch a descriptor. Called before it is closed.
    ///
    /// # Errors
    /// The descriptor is not watched.
    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Waits until something is ready, a signal comes, or `timeout` has passed (`None`: never), and
    /// replaces `reports` by what is ready. A timeout is rounded up: waiting for a moment must not
    /// become a busy loop just before it. A signal is no error: nothing is ready.
    ///
    /// # Errors
    /// The selector itself is broken.
    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()>;

    /// Returns the longest time that a wait may sleep, if the selector does not learn from the
    /// kernel when a descriptor becomes ready. The caller passes no longer timeout, and a timeout
    /// of zero while its calls still find something.
    fn longest_wait(&self) -> Option<Duration> {
        None
    }

    /// Makes a call on the socket `file` for `key`, which moves at most `len` bytes; `res` returns
    /// what is recorded as its result.
    ///
    /// # Errors
    /// The error of `make`.
    fn made<T>(
        &mut self,
        _call: Call,
        (_key, _file): (Key, RawFd),
        _len: usize,
        make: impl FnOnce() -> io::Result<T>,
        _res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        make()
    }

    /// Accepts a connection of a listener.
    ///
    /// # Errors
    /// accept4(2).
    fn accept(&mut self, key: Key, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let make = || os::accept(fd, libc::SOCK_NONBLOCK);
        self.made(Call::Accept, (key, fd.as_raw_fd()), 0, make, AsRawFd::as_raw_fd)
    }

    /// Receives into a buffer.
    ///
    /// # Errors
    /// recv(2).
    fn recv(&mut self, key: Key, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let (whose, len) = ((key, fd.as_raw_fd()), buffer.len());
        self.made(Call::Recv, whose, len, || os::recv(fd, buffer, 0), |&n| n as i32)
    }

    /// Sends from one or several buffers.
    ///
    /// # Errors
    /// send(2), from several buffers sendmsg(2).
    fn send(&mut self, key: Key, fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let (call, len) = Call::send_of(parts);
        self.made(call, (key, fd.as_raw_fd()), len, || os::send(fd, parts, 0), |&n| n as i32)
    }

    /// Shuts the outbound direction down.
    ///
    /// # Errors
    /// shutdown(2).
    fn shutdown(&mut self, key: Key, fd: BorrowedFd<'_>) -> io::Result<()> {
        let make = || os::shutdown(fd, Shutdown::Write);
        self.made(Call::Shutdown, (key, fd.as_raw_fd()), 0, make, |()| 0)
    }

    /// Closes a descriptor, which is not watched any more.
    fn close(&mut self, key: Key, fd: OwnedFd) {
        let whose = (key, fd.as_raw_fd());
        let make = || {
            os::close(fd);
            Ok(())
        };
        // `close` returns nothing, so its record has no result.
        let _ = self.made(Call::Close, whose, 0, make, |()| 0);
    }
}

impl Ready {
    /// Returns the meaning of a report.
    pub fn of(report: ReadyEvent) -> Ready {
        let (key, events) = (Key(report.u64), report.events as libc::c_int);
        let has = |flags: libc::c_short| events & libc::c_int::from(flags) != 0;
        let failed = has(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL);
        Ready {
            key,
            readable: has(libc::POLLIN | libc::POLLRDHUP) || failed,
            writable: has(libc::POLLOUT) || failed,
            hung_up: has(libc::POLLRDHUP) || failed,
        }
    }
}

/// Makes a report of the events that poll(2) returns.
fn report(Key(key): Key, events: libc::c_short) -> ReadyEvent {
    ReadyEvent { events: events as u32, u64: key }
}

/// Makes a report of a selector that does not know whether the peer has hung up: the read that
/// finds it is the only sign.
fn report_of(key: Key, Interest { readable, writable }: Interest) -> ReadyEvent {
    let read = if readable { libc::POLLIN } else { 0 };
    report(key, if writable { read | libc::POLLOUT } else { read })
}

/// Returns the events that poll(2) is asked for; epoll(7) has the same numbers.
fn events(interest: Interest) -> libc::c_short {
    // Without interest in reading, the peer's end would be reported again and again.
    let read = if interest.readable { libc::POLLIN | libc::POLLRDHUP } else { 0 };
    let write = if interest.writable { libc::POLLOUT } else { 0 };
    read | write
}

const _: () = assert!(
    libc::EPOLLIN == libc::POLLIN as libc::c_int
        && libc::EPOLLOUT == libc::POLLOUT as libc::c_int
        && libc::EPOLLERR == libc::POLLERR as libc::c_int
        && libc::EPOLLHUP == libc::POLLHUP as libc::c_int
        && libc::EPOLLRDHUP == libc::POLLRDHUP as libc::c_int
);

/// The watched descriptors of a selector that keeps them itself, in the order of their numbers.
#[derive(Debug)]
struct WatchTable<W>(BTreeMap<RawFd, W>);

impl<W> Default for WatchTable<W> {
    fn default() -> WatchTable<W> {
        WatchTable(BTreeMap::new())
    }
}

impl<W> WatchTable<W> {
    /// # Errors
    /// The descriptor is watched already.
    fn add(&mut self, fd: RawFd, watched: W) -> io::Result<()> {
        if self.0.contains_key(&fd) {
            let text = format!("descriptor {fd} is watched already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        self.0.insert(fd, watched);
        Ok(())
    }

    /// # Errors
    /// The descriptor is not watched.
    fn get(&mut self, fd: RawFd) -> io::Result<&mut W> {
        self.0.get_mut(&fd).ok_or_else(|| not_watched(fd))
    }

    /// # Errors
    /// The descriptor is not watched.
    fn remove(&mut self, fd: RawFd) -> io::Result<W> {
        self.0.remove(&fd).ok_or_else(|| not_watched(fd))
    }
}

fn not_watched(fd: RawFd) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("descriptor {fd} is not watched"))
}

#[cfg(test)]
mod tests;
