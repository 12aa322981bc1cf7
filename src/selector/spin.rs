//! Busy polling: every socket is tried again and again, and most calls would block.
//!
//! A wait costs nothing and learns nothing: it reports every descriptor with an interest, and the
//! caller makes a call for each, ready or not. So a CPU is busy while no client sends, unless the
//! loop sleeps after an iteration in which no call moved anything. That trades CPU for latency, and
//! still costs a call for each descriptor in every iteration.
//! Changing an interest costs nothing. No limit. Level-triggered. `O_NONBLOCK`: open(2); 4.2BSD.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::{Interest, Key, Ready, Selector, Trigger, not_watched, watched_already};
use crate::calls::SocketCalls;
use crate::os;

/// A selector that does not ask the kernel.
#[derive(Default)]
pub struct Spin {
    /// By descriptor, `None` where nothing is watched. No longer than needed.
    watched: Vec<Option<(Key, Interest)>>,
    /// How long to sleep after an iteration in which no call moved anything.
    idle_sleep: Option<Duration>,
}

impl Spin {
    /// Watches nothing yet. Without an `idle_sleep` it never sleeps while anything is watched.
    pub fn new(idle_sleep: Option<Duration>) -> Spin {
        Spin { idle_sleep, ..Spin::default() }
    }

    fn watched(&mut self, fd: RawFd) -> Option<&mut (Key, Interest)> {
        self.watched.get_mut(fd as usize)?.as_mut()
    }
}

impl Selector for Spin {
    fn trigger(&self) -> Trigger {
        Trigger::Level
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        if self.watched(fd).is_some() {
            return Err(watched_already(fd));
        }
        if self.watched.len() <= fd as usize {
            self.watched.resize(fd as usize + 1, None);
        }
        self.watched[fd as usize] = Some((key, interest));
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        *self.watched(fd).ok_or_else(|| not_watched(fd))? = (key, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        self.watched(fd).ok_or_else(|| not_watched(fd))?;
        self.watched[fd as usize] = None;
        while self.watched.last() == Some(&None) {
            self.watched.pop();
        }
        Ok(())
    }

    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let before = ready.len();
        ready.extend(self.watched.iter().flatten().filter(|one| one.1 != Interest::NONE).map(
            |&(key, Interest { readable, writable })| {
                // The read that finds a hang-up is its only sign.
                Ready { key, readable, writable, hung_up: false }
            },
        ));
        // With nothing to try, only a signal can end the wait.
        let none = ready.len() == before;
        let span = match timeout {
            Some(timeout) if none => timeout,
            Some(timeout) => timeout.min(self.idle_sleep.unwrap_or_default()),
            None => self.idle_sleep.unwrap_or_default(),
        };
        if span.is_zero() { Ok(()) } else { os::sleep(span) }
    }

    fn longest_wait(&self) -> Option<Duration> {
        Some(self.idle_sleep.unwrap_or_default())
    }
}

impl SocketCalls for Spin {}

impl fmt::Debug for Spin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spin")
            .field("up_to", &self.watched.len())
            .field("idle_sleep", &self.idle_sleep)
            .finish()
    }
}
