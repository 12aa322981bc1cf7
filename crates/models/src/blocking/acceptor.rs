//! The accepts of the blocking models: poll(2) for several listeners at once, then accept4(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::member::Origin;
use super::shared::{Membership, SharedState};
use proactor::calls::{Calls, SLEEPS};
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::AcceptPause;
use proactor::os::{self, AcceptFailure};

/// The listeners of a server.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    /// The sockets, by the numbers of the listeners.
    pub(super) listeners: Vec<(OwnedFd, Arc<Origin>)>,
    pub(super) pause: AcceptPause,
    /// What was passed to poll(2), and its results: its capacity is kept.
    polled: Vec<libc::pollfd>,
    /// How many of those are not listeners.
    others: usize,
}

impl Acceptor {
    /// Sleeps until one of `others` is readable or, if there is `capacity`, a connection waits; or
    /// until a signal interrupts it, or `timeout` has passed. Returns how many descriptors are
    /// ready.
    ///
    /// # Errors
    /// poll(2).
    pub(super) fn wait<'a>(
        &mut self,
        calls: &impl Calls,
        others: impl IntoIterator<Item = BorrowedFd<'a>>,
        capacity: bool,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let now = os::now();
        self.pause.run_timer(now);
        let pause = self.pause.until().map(|until| until.since(now));
        let poll = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        self.polled.clear();
        // In this order: a connection that came before another event is reported with it.
        self.polled.extend(others.into_iter().map(poll));
        self.others = self.polled.len();
        if capacity && pause.is_none() {
            self.polled.extend(self.listeners.iter().map(|(fd, _)| poll(fd.as_fd())));
        }
        let ready = calls.wait(&mut self.polled, [pause, timeout].into_iter().flatten().min())?;
        if ready == 0 {
            self.polled.clear();
        }
        Ok(ready)
    }

    /// Accepts a connection of listener number `index`, if one was reported; the thread with this
    /// `id` will serve it.
    pub(super) fn accept(
        &mut self,
        calls: &impl Calls,
        shared: &Arc<SharedState>,
        index: usize,
        id: ConnId,
        counters: &mut Counters,
    ) -> Option<Membership> {
        let polled = self.polled.get_mut(self.others + index).filter(|it| it.revents != 0)?;
        let (fd, origin) = self.listeners.get(index)?;
        let key = KeyOwner::Listener(ListenerId(index as u16)).into();
        let entered = calls.accept(key, fd.as_fd(), SLEEPS).and_then(|socket| {
            counters.accepted += 1;
            shared.enter(id, origin, socket).inspect_err(|_| counters.closed += 1)
        });
        match entered {
            Ok(membership) => Some(membership),
            Err(error) => {
                let failure = AcceptFailure::from(error);
                if let AcceptFailure::NoConnection = failure {
                    polled.revents = 0;
                }
                if self.pause.failed(failure, os::now) {
                    counters.refused += 1;
                    self.polled.clear(); // Nothing more is accepted for a while.
                }
                None
            }
        }
    }
}
