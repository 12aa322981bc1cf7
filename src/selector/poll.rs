//! poll(2): the whole interest is handed over at every wait.
//!
//! A wait costs what is *watched*: the kernel looks at each descriptor, and the caller afterwards.
//! Changing an interest costs nothing. No limit but that of descriptors. Level-triggered. POSIX.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::{Interest, Key, Ready, Selector, Trigger, not_watched, watched_already};
use crate::calls::SocketCalls;
use crate::os;

/// A selector by poll(2).
#[derive(Default)]
pub struct Poll {
    /// What the kernel is asked, in no order; `keys` runs beside it.
    asked: Vec<libc::pollfd>,
    keys: Vec<Key>,
    /// Where each descriptor stands in both.
    places: HashMap<RawFd, usize>,
}

impl Poll {
    /// Watches nothing yet.
    pub fn new() -> Poll {
        Poll::default()
    }

    fn events(interest: Interest) -> libc::c_short {
        let mut events = 0;
        if interest.readable {
            // Without interest in reading, the peer's end would be reported again and again.
            events |= libc::POLLIN | libc::POLLRDHUP;
        }
        if interest.writable {
            events |= libc::POLLOUT;
        }
        events
    }
}

impl Selector for Poll {
    fn trigger(&self) -> Trigger {
        Trigger::Level
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        if self.places.contains_key(&fd) {
            return Err(watched_already(fd));
        }
        self.places.insert(fd, self.asked.len());
        self.asked.push(libc::pollfd { fd, events: Poll::events(interest), revents: 0 });
        self.keys.push(key);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let &place = self.places.get(&fd).ok_or_else(|| not_watched(fd))?;
        self.asked[place].events = Poll::events(interest);
        self.keys[place] = key;
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let place = self.places.remove(&fd).ok_or_else(|| not_watched(fd))?;
        self.asked.swap_remove(place);
        self.keys.swap_remove(place);
        if let Some(moved) = self.asked.get(place) {
            self.places.insert(moved.fd, place);
        }
        Ok(())
    }

    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        let mut left = os::poll(&mut self.asked, timeout)?;
        for (asked, &key) in self.asked.iter().zip(&self.keys) {
            if left == 0 {
                break;
            }
            if asked.revents == 0 {
                continue;
            }
            left -= 1;
            let has = |flags: libc::c_short| asked.revents & flags != 0;
            let failed = has(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL);
            ready.push(Ready {
                key,
                readable: has(libc::POLLIN | libc::POLLRDHUP) || failed,
                writable: has(libc::POLLOUT) || failed,
                hung_up: has(libc::POLLRDHUP) || failed,
            });
        }
        Ok(())
    }
}

impl SocketCalls for Poll {}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").field("watched", &self.asked.len()).finish()
    }
}
