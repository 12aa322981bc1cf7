//! Signal-driven I/O: the kernel sends a signal when a descriptor's state changes (`O_ASYNC`).
//!
//! The signal is a real-time one (`F_SETSIG`): those queue, each with the descriptor it is about,
//! and go to the thread that waits (`F_SETOWN_EX`), which has it blocked. They are read from a
//! signalfd(2), many at a time: sigtimedwait(2) returns one, and cannot wait for descriptors that
//! send none, such as an eventfd. A signal may be outdated, so poll(2) checks its descriptor.
//!
//! A wait costs three calls and what *changed*, one signal for every change, however many; to watch
//! costs five, to cease two. Changing an interest costs nothing. Signals are queued up to
//! `ulimit -i`; beyond that there is one plain `SIGIO`, and everything watched is looked at.
//! Sockets, pipes and terminals send signals; what does not is looked at in every wait, by level.
//! Edge-triggered. One per thread: two would share the plain `SIGIO`. fcntl(2), sigqueue(3); Linux
//! 2.4, to a thread 2.6.32.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use super::{Interest, Key, ReadyEvent, Selector, Trigger, WatchTable, events, report};
use crate::os::{self, IoSignals};

/// A selector by signals.
#[derive(Debug)]
pub struct Sigio {
    signals: IoSignals,
    watched: WatchTable<Watched>,
    /// The descriptors that the next wait checks: those with a signal, and always those that send
    /// none.
    suspects: Vec<RawFd>,
    /// Buffers of a wait: the argument of poll(2), and the descriptors that signals named.
    asked: Vec<libc::pollfd>,
    named: Vec<RawFd>,
}

#[derive(Debug)]
struct Watched {
    key: Key,
    interest: Interest,
    /// Whether it sends signals.
    signals: bool,
    /// True exactly while it is one of the suspects.
    suspect: bool,
}

impl Sigio {
    /// Watches nothing yet. It is for the thread that makes it, and blocks `SIGIO` and one of the
    /// real-time signals there, for good: some may still be under way when it is dropped.
    ///
    /// # Errors
    /// No descriptor is left, or no real-time signal.
    pub fn new() -> io::Result<Sigio> {
        Ok(Sigio {
            signals: IoSignals::new()?,
            watched: WatchTable::default(),
            suspects: Vec::new(),
            asked: Vec::new(),
            named: Vec::new(),
        })
    }

    /// Has the next look be at this one too, if it is watched: a signal may be about one that is no
    /// more, or about another that has its number now, and does no harm.
    fn suspect(&mut self, fd: RawFd) {
        if let Ok(watched) = self.watched.get(fd)
            && !std::mem::replace(&mut watched.suspect, true)
        {
            self.suspects.push(fd);
        }
    }

    /// Polls the suspects and the signals. Returns how many have an event.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.asked.clear();
        self.asked.extend(self.suspects.iter().map(|&fd| libc::pollfd {
            fd,
            events: events(self.watched.0[&fd].interest),
            revents: 0,
        }));
        let fd = self.signals.as_fd().as_raw_fd();
        self.asked.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        os::poll(&mut self.asked, timeout)
    }

    /// Takes the signals that came, and suspects the descriptors that they name.
    fn take_signals(&mut self) -> io::Result<()> {
        let mut named = std::mem::take(&mut self.named);
        let overflowed = self.signals.take(&mut named)?;
        if overflowed {
            // kernel-notes §24: some were not sent, and their descriptors are unknown.
            named.clear();
            named.extend(self.watched.0.keys());
        }
        named.drain(..).for_each(|fd| self.suspect(fd));
        self.named = named;
        Ok(())
    }
}

#[cfg(test)]
impl Sigio {
    /// Drops the signals that came, as if the queue had been full.
    pub(super) fn lose_signals(&mut self) {
        let _ = self.signals.take(&mut Vec::new());
    }
}

impl Selector for Sigio {
    fn trigger(&self) -> Trigger {
        Trigger::Edge
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.add_shared(fd, key, interest)?;
        let watched = self.watched.get(fd.as_raw_fd())?;
        match self.signals.attach(fd) {
            Ok(signals) => watched.signals = signals,
            Err(error) => {
                self.remove(fd)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// To send signals is a flag of the open file (`O_ASYNC`): this one does not, and is looked at
    /// in every wait.
    fn add_shared(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        self.watched.add(fd, Watched { key, interest, signals: false, suspect: false })?;
        // What is there already has no signal to come.
        self.suspect(fd);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let watched = self.watched.get(fd)?;
        (watched.key, watched.interest) = (key, interest);
        self.suspect(fd);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        let gone = self.watched.remove(raw)?;
        if gone.suspect {
            self.suspects.retain(|&fd| fd != raw);
        }
        if gone.signals { self.signals.detach(fd) } else { Ok(()) }
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        reports.clear();
        let mut found = self.look(timeout)?;
        let signalled = self.asked.last().is_some_and(|signals| signals.revents != 0);
        if found > 0 && signalled {
            self.take_signals()?;
            found = self.look(Some(Duration::ZERO))?;
        }
        if found > 0 {
            for (asked, fd) in self.asked.iter().zip(&self.suspects) {
                if asked.revents != 0 {
                    reports.push(report(self.watched.0[fd].key, asked.revents));
                }
            }
        }
        let watched = &mut self.watched;
        self.suspects.retain(|fd| {
            let one = watched.get(*fd).expect("a suspect is watched");
            one.suspect = !one.signals;
            one.suspect
        });
        Ok(())
    }
}
