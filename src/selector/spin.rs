//! Busy polling: every socket is tried again and again, and most calls would block.
//!
//! A wait costs nothing and learns nothing: it reports every descriptor with an interest, and the
//! caller makes a call for each, ready or not. So a CPU is busy while no client sends, unless the
//! loop sleeps after an iteration in which no call moved anything. That trades CPU for latency, and
//! still costs a call for each descriptor in every iteration.
//! Changing an interest costs nothing. No limit. Level-triggered. `O_NONBLOCK`: open(2); 4.2BSD.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::{Interest, Key, ReadyEvent, Selector, WatchTable, report_of};
use crate::os;

/// A selector that does not ask the kernel.
#[derive(Debug)]
pub struct Spin {
    watched: WatchTable<(Key, Interest)>,
    /// How long to sleep after an iteration in which no call moved anything.
    idle_sleep: Option<Duration>,
}

impl Spin {
    /// Watches nothing yet. Without an `idle_sleep` it never sleeps while anything is watched.
    pub fn new(idle_sleep: Option<Duration>) -> Spin {
        Spin { watched: WatchTable::default(), idle_sleep }
    }
}

impl Selector for Spin {
    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.watched.add(fd.as_raw_fd(), (key, interest))
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        *self.watched.get(fd.as_raw_fd())? = (key, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watched.remove(fd.as_raw_fd()).map(drop)
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        let wanted = self.watched.0.values().filter(|(_, interest)| *interest != Interest::NONE);
        reports.clear();
        reports.extend(wanted.map(|&(key, interest)| report_of(key, interest)));
        // With nothing to try, only a signal can end the wait.
        let none = reports.is_empty();
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
