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

use super::{Interest, Key, Ready, Selector, Trigger, events};
use crate::os;

/// Reports from one wait; more than that are reported by the next.
const REPORTS: usize = 256;

/// A selector by epoll(7).
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    trigger: Trigger,
    reports: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Creates a selector that watches nothing.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(trigger: Trigger) -> io::Result<Epoll> {
        Ok(Epoll { fd: os::epoll_create()?, trigger, reports: Vec::with_capacity(REPORTS) })
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

    fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        os::epoll_wait(self.fd.as_fd(), &mut self.reports, timeout)?;
        let reports = self.reports.iter();
        ready
            .extend(reports.map(|report| Ready::of(Key(report.u64), report.events as libc::c_int)));
        Ok(())
    }
}
