//! select(2): three sets of bits, which every wait passes to the kernel and overwrites.
//!
//! A wait costs the *largest descriptor number*: kernel and caller look at every bit below it.
//! Changing an interest costs nothing. Descriptors from [`os::SELECT_LIMIT`] (`FD_SETSIZE`, 1024)
//! on cannot be watched at all. Level-triggered. 4.2BSD.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::{Interest, Key, Ready, Selector, Trigger, not_watched, watched_already};
use crate::calls::SocketCalls;
use crate::os::{self, FdSet};

/// A selector by select(2).
#[derive(Default)]
pub struct Select {
    /// The interest, as sets of descriptors.
    read: FdSet,
    write: FdSet,
    /// The keys by descriptor, `None` where nothing is watched. No longer than needed.
    keys: Vec<Option<Key>>,
}

impl Select {
    /// Watches nothing yet.
    pub fn new() -> Select {
        Select::default()
    }

    fn ask(&mut self, fd: RawFd, interest: Interest) {
        self.read.set(fd, interest.readable);
        self.write.set(fd, interest.writable);
    }

    fn key(&mut self, fd: RawFd) -> Option<&mut Option<Key>> {
        self.keys.get_mut(fd as usize).filter(|key| key.is_some())
    }
}

impl Selector for Select {
    fn trigger(&self) -> Trigger {
        Trigger::Level
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        if fd >= os::SELECT_LIMIT {
            return Err(io::Error::other(format!(
                "select(2) cannot watch descriptor {fd}: {} is the first beyond FD_SETSIZE",
                os::SELECT_LIMIT
            )));
        }
        if self.key(fd).is_some() {
            return Err(watched_already(fd));
        }
        if self.keys.len() <= fd as usize {
            self.keys.resize(fd as usize + 1, None);
        }
        self.keys[fd as usize] = Some(key);
        self.ask(fd, interest);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        *self.key(fd).ok_or_else(|| not_watched(fd))? = Some(key);
        self.ask(fd, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        *self.key(fd).ok_or_else(|| not_watched(fd))? = None;
        self.ask(fd, Interest::NONE);
        while self.keys.last() == Some(&None) {
            self.keys.pop();
        }
        Ok(())
    }

    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let (mut read, mut write) = (self.read.clone(), self.write.clone());
        let mut left = os::select(self.keys.len(), &mut read, &mut write, timeout)?;
        for (fd, key) in self.keys.iter().enumerate() {
            if left == 0 {
                break;
            }
            let Some(key) = *key else { continue };
            let (readable, writable) = (read.has(fd as RawFd), write.has(fd as RawFd));
            left -= usize::from(readable) + usize::from(writable);
            if readable || writable {
                // A hang-up looks like readability; the read that finds it is its only sign.
                ready.push(Ready { key, readable, writable, hung_up: false });
            }
        }
        Ok(())
    }
}

impl SocketCalls for Select {}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select").field("up_to", &self.keys.len()).finish()
    }
}
