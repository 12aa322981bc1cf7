//! The selector select(2): three sets of bits, which every wait passes to the kernel and
//! overwrites.
//!
//! A wait costs the *largest descriptor number*: kernel and caller look at every bit below it.
//! Changing an interest costs nothing. Descriptors from [`os::SELECT_LIMIT`] (`FD_SETSIZE`, 1024)
//! on cannot be watched at all. Level-triggered. 4.2BSD.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::{Interest, Key, ReadyEvent, Selector, WatchTable, report_of};
use crate::os::{self, FdSet};

/// A selector by select(2).
#[derive(Debug, Default)]
pub struct Select {
    /// The interest, as sets of descriptors.
    read: FdSet,
    write: FdSet,
    keys: WatchTable<Key>,
}

impl Select {
    /// Creates a selector that watches nothing.
    pub fn new() -> Select {
        Select::default()
    }

    fn ask(&mut self, fd: RawFd, interest: Interest) {
        self.read.set(fd, interest.readable);
        self.write.set(fd, interest.writable);
    }
}

impl Selector for Select {
    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let (fd, limit) = (fd.as_raw_fd(), os::SELECT_LIMIT);
        if fd >= limit {
            let text = "is the first beyond FD_SETSIZE";
            let text = format!("select(2) cannot watch descriptor {fd}: {limit} {text}");
            return Err(io::Error::other(text));
        }
        self.keys.add(fd, key)?;
        self.ask(fd, interest);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        *self.keys.get(fd)? = key;
        self.ask(fd, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        self.keys.remove(fd)?;
        self.ask(fd, Interest::NONE);
        Ok(())
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        reports.clear();
        let (mut read, mut write) = (self.read.clone(), self.write.clone());
        let below = self.keys.0.last_key_value().map_or(0, |(&fd, _)| fd as usize + 1);
        let mut left = os::select(below, &mut read, &mut write, timeout)?;
        for (&fd, &key) in &self.keys.0 {
            if left == 0 {
                break;
            }
            let (readable, writable) = (read.has(fd), write.has(fd));
            left -= usize::from(readable) + usize::from(writable);
            if readable || writable {
                reports.push(report_of(key, Interest { readable, writable }));
            }
        }
        Ok(())
    }
}
