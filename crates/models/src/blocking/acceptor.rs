//! Where connections come in: poll(2) for several listeners at once, then accept.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::group::{Membership, Room};
use super::local_counters::LocalCounters;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::keys::{ConnId, KeyOwner};
use proactor::limits::ACCEPT_PAUSE;
use proactor::os;

/// The listeners of a server.
#[derive(Debug)]
pub(super) struct Acceptor<P> {
    listeners: Vec<Listener<P>>,
    /// Until when nothing is accepted, after it failed for want of resources.
    accept_at: Option<Nanos>,
    /// What was asked of poll(2) and what it said: its capacity is kept.
    asked: Vec<libc::pollfd>,
    /// Of those, how many are not listeners.
    others: usize,
    /// Whether the last wait asked for listeners.
    open: bool,
}

#[derive(Debug)]
struct Listener<P> {
    fd: OwnedFd,
    /// What each connection begins as.
    protocol: P,
    room: Arc<Room>,
}

impl<P: Clone> Acceptor<P> {
    pub(super) fn new() -> Acceptor<P> {
        let (listeners, asked) = (Vec::new(), Vec::new());
        Acceptor { listeners, accept_at: None, asked, others: 0, open: false }
    }

    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub(super) fn add(&mut self, fd: OwnedFd, protocol: P, room: Arc<Room>) -> io::Result<()> {
        // Who was seen to come may have gone again: an accept must not sleep.
        os::set_nonblocking(fd.as_fd())?;
        self.listeners.push(Listener { fd, protocol, room });
        Ok(())
    }

    /// How many listeners there are.
    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Nobody is let in any more, and who comes is refused.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
    }

    /// Sleeps until one of `others` is readable or, if there is `room`, somebody comes; or a signal
    /// does, or it has slept for `most`. Answers how many are ready.
    ///
    /// # Errors
    /// poll(2).
    pub(super) fn wait<'a>(
        &mut self,
        calls: &impl Calls,
        others: impl IntoIterator<Item = BorrowedFd<'a>>,
        room: bool,
        most: Option<Duration>,
    ) -> io::Result<usize> {
        let now = self.accept_at.map(|_| os::now());
        self.accept_at = self.accept_at.filter(|&at| Some(at) > now);
        let pause = self.accept_at.zip(now).map(|(at, now)| at.since(now));
        self.open = room && pause.is_none();
        let ask = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        self.asked.clear();
        // In this order: who came before the others were heard is seen with them.
        self.asked.extend(others.into_iter().map(ask));
        self.others = self.asked.len();
        if self.open {
            self.asked.extend(self.listeners.iter().map(|listener| ask(listener.fd.as_fd())));
        }
        let ready = calls.wait(&mut self.asked, [pause, most].into_iter().flatten().min())?;
        if ready == 0 {
            self.asked.iter_mut().for_each(|asked| asked.revents = 0);
        }
        Ok(ready)
    }

    /// Lets one in by this listener, if somebody has come, who is to be known by this `id`.
    pub(super) fn accept(
        &mut self,
        calls: &impl Calls,
        at: usize,
        id: ConnId,
        counted: &LocalCounters,
    ) -> Option<(Membership, P)> {
        let listener = self.listeners.get(at)?;
        let came = self.asked.get(self.others + at).is_some_and(|asked| asked.revents != 0);
        if !self.open || !came {
            return None;
        }
        let entered = match calls.accept(KeyOwner::Listener(at).into(), listener.fd.as_fd()) {
            Ok(socket) => {
                counted.accepted.add(1);
                listener.room.enter(id, socket).inspect_err(|_| counted.closed.add(1))
            }
            Err(error) => Err(error),
        };
        entered
            .map(|membership| (membership, listener.protocol.clone()))
            .map_err(|error| self.not_accepted(at, error, counted))
            .ok()
    }

    fn not_accepted(&mut self, at: usize, error: io::Error, counted: &LocalCounters) {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => self.asked[self.others + at].revents = 0,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                counted.refused.add(1);
                tracing::warn!(%error, "cannot accept for now");
                self.accept_at = Some(os::now() + ACCEPT_PAUSE);
                self.open = false;
            }
            _ => tracing::debug!(%error, "a connection was lost unaccepted"),
        }
    }

    /// Accepts again: something may have become free.
    pub(super) fn try_again(&mut self) {
        self.accept_at = None;
    }
}
