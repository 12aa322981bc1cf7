//! The selector epoll(7): the kernel keeps the interest, and returns what is ready.
//!
//! A wait costs what is *ready*, not what is watched; changing an interest costs a system call.
//! No limit but that of descriptors. Linux 2.6 (`EPOLLONESHOT` 2.6.2).
//!
//! Three triggers: level; edge (`EPOLLET`); once (`EPOLLONESHOT`), which costs a call for every
//! report to arm it again, and is made for threads that share an epoll: the thread that gets a
//! report has the descriptor alone until it arms it. In one thread it gains nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{Interest, Key, ReadyEvent, Selector, Trigger, events};
use crate::os;
use crate::polling::BusyPoll;

/// Reports from one wait; more than that are reported by the next.
const REPORTS: usize = 256;

/// A selector by epoll(7).
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    trigger: Trigger,
    busy_poll: Option<BusyPoll>,
}

impl Epoll {
    /// Creates a selector that watches nothing.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(trigger: Trigger) -> io::Result<Epoll> {
        Ok(Epoll { fd: os::epoll_create()?, trigger, busy_poll: None })
    }

    /// Polls for at most so long before each sleep.
    #[must_use]
    pub fn spinning(self, spin: Option<Duration>) -> Epoll {
        Epoll { busy_poll: spin.map(BusyPoll::new), ..self }
    }

    /// Polls for a while, and then sleeps.
    #[cold]
    fn spin(
        &mut self,
        mut busy_poll: BusyPoll,
        reports: &mut Vec<ReadyEvent>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let until = timeout.map(|timeout| os::now() + timeout);
        busy_poll.wait(os::now, until, |sleeps| {
            let left = || until.map(|until| until.since(os::now()));
            let timeout = if sleeps { left() } else { Some(Duration::ZERO) };
            os::epoll_wait(self.fd.as_fd(), reports, timeout)?;
            Ok(!reports.is_empty())
        })?;
        self.busy_poll = Some(busy_poll);
        Ok(())
    }

    fn event(&self, key: Key, interest: Interest) -> libc::epoll_event {
        let once = match self.trigger {
            Trigger::Level => 0,
            Trigger::Edge => libc::EPOLLET,
            Trigger::Oneshot => libc::EPOLLONESHOT,
        };
        libc::epoll_event { events: (i32::from(events(interest)) | once) as u32, u64: key.0 }
    }
}

impl Selector for Epoll {
    fn trigger(&self) -> Trigger {
        self.trigger
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let event = self.event(key, interest);
        os::epoll_ctl(self.fd.as_fd(), libc::EPOLL_CTL_ADD, fd, event)
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let event = self.event(key, interest);
        os::epoll_ctl(self.fd.as_fd(), libc::EPOLL_CTL_MOD, fd, event)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let event = self.event(Key(0), Interest::NONE);
        os::epoll_ctl(self.fd.as_fd(), libc::EPOLL_CTL_DEL, fd, event)
    }

    #[inline]
    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        if reports.capacity() < REPORTS {
            reports.reserve(REPORTS);
        }
        match self.busy_poll {
            Some(busy_poll) if timeout != Some(Duration::ZERO) => {
                self.spin(busy_poll, reports, timeout)
            }
            _ => os::epoll_wait(self.fd.as_fd(), reports, timeout),
        }
    }
}
