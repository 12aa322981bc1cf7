//! The selector poll(2): the whole interest is handed over at every wait.
//!
//! A wait costs what is *watched*: the kernel looks at each descriptor, and the caller afterwards.
//! Changing an interest costs nothing. No limit but that of descriptors. Level-triggered. POSIX.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::{Interest, Key, ReadyEvent, Selector, WatchTable, events, report};
use crate::os;

/// A selector by poll(2).
#[derive(Debug, Default)]
pub struct Poll {
    /// What the kernel is asked, in no order; `keys` runs beside it.
    asked: Vec<libc::pollfd>,
    keys: Vec<Key>,
    /// Where each descriptor stands in both.
    places: WatchTable<usize>,
}

impl Poll {
    /// Creates a selector that watches nothing.
    pub fn new() -> Poll {
        Poll::default()
    }
}

impl Selector for Poll {
    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        self.places.add(fd, self.asked.len())?;
        self.asked.push(libc::pollfd { fd, events: events(interest), revents: 0 });
        self.keys.push(key);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let place = *self.places.get(fd)?;
        self.asked[place].events = events(interest);
        self.keys[place] = key;
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let place = self.places.remove(fd)?;
        self.asked.swap_remove(place);
        self.keys.swap_remove(place);
        if let Some(moved) = self.asked.get(place) {
            *self.places.get(moved.fd)? = place;
        }
        Ok(())
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        reports.clear();
        let mut left = os::poll(&mut self.asked, timeout)?;
        for (asked, &key) in self.asked.iter().zip(&self.keys) {
            if left == 0 {
                break;
            }
            if asked.revents != 0 {
                left -= 1;
                reports.push(report(key, asked.revents));
            }
        }
        Ok(())
    }
}
