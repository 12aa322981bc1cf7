//! Readiness: asking which sockets *may* proceed, and then doing it oneself.
//!
//! The contract of readiness, which holds for every [`Selector`] here:
//!
//! * **A report is a hint.** A socket reported ready may turn out not to be; the call that finds
//!   out answers `WouldBlock`, and that is no error.
//! * **Level**-triggered selectors report a socket as long as it is ready. What is not wanted must
//!   be taken out of the interest, or the loop spins.
//! * **Edge**-triggered selectors report a socket when it *becomes* ready. Whoever stops before
//!   `WouldBlock` (or, on a stream, before a call that moved less than it was given room for) must
//!   remember that it is still ready, for he will not be told again.
//! * **Oneshot** selectors report a descriptor as level-triggered ones do, but once: with the
//!   report it is disarmed, though still watched, until it is modified. Even an error is not told
//!   then.
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

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

pub use crate::keys::{Key, KeyOwner};

/// What is asked of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest {
    /// Whether it may be read from.
    pub readable: bool,
    /// Whether it may be written to.
    pub writable: bool,
}

impl Interest {
    /// Neither. Errors and hang-ups are reported all the same, level-triggered for ever: whoever
    /// wants nothing had better [`remove`](Selector::remove) the descriptor.
    pub const NONE: Interest = Interest { readable: false, writable: false };
    /// Reading.
    pub const READ: Interest = Interest { readable: true, writable: false };
    /// Writing.
    pub const WRITE: Interest = Interest { readable: false, writable: true };
    /// Both.
    pub const BOTH: Interest = Interest { readable: true, writable: true };
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.readable, self.writable) {
            (false, false) => "none",
            (true, false) => "read",
            (false, true) => "write",
            (true, true) => "read|write",
        })
    }
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

/// What is reported of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub key: Key,
    /// It may be read from: bytes, the peer's end, or an error.
    pub readable: bool,
    /// It may be written to, or has an error.
    pub writable: bool,
    /// The peer has ended or reset: a read that comes back short is not the last one. Not every
    /// level-triggered selector can tell; it will report again what is left to read.
    pub hung_up: bool,
}

/// Reports which descriptors are ready.
pub trait Selector {
    /// When it reports a descriptor.
    fn trigger(&self) -> Trigger;

    /// Begins to watch.
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

    /// Changes what is asked, and arms what a report has disarmed.
    ///
    /// # Errors
    /// The descriptor is not watched.
    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()>;

    /// Ceases to watch. To be called before the descriptor is closed.
    ///
    /// # Errors
    /// The descriptor is not watched.
    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Waits until something is ready, a signal comes, or `timeout` has passed (`None`: never), and
    /// adds what is ready to `ready`. A timeout is rounded up, so that waiting for a moment does
    /// not become a busy loop just before it. A signal is no error: nothing is ready.
    ///
    /// # Errors
    /// The selector itself is broken.
    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()>;

    /// Returns the longest time that a wait may sleep, if the selector does not learn from the
    /// kernel when a descriptor becomes ready. The caller passes no longer timeout, and a timeout
    /// of zero while its calls still find something.
    fn longest_wait(&self) -> Option<Duration> {
        None
    }
}

fn watched_already(fd: RawFd) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("descriptor {fd} is watched already"))
}

fn not_watched(fd: RawFd) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("descriptor {fd} is not watched"))
}

#[cfg(test)]
mod tests;
