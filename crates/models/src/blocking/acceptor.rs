//! The accepts of the blocking models: poll(2) for several listeners at once, then accept4(2).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::member::Origin;
use super::shared::{Membership, SharedState};
use proactor::address::LISTEN_BACKLOG;
use proactor::admission::Admission;
use proactor::calls::{Calls, SLEEPS};
use proactor::counters::Counters;
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::lifecycle::{self, AcceptPause};
use proactor::limits::{CloseReason, Limits};
use proactor::os::{self, AcceptFailure};

/// The listeners of a server.
#[derive(Debug, Default)]
pub(super) struct Acceptor {
    /// The sockets, by the numbers of the listeners; `None` once its accepts have failed for good.
    pub(super) listeners: Vec<(Option<OwnedFd>, Arc<Origin>)>,
    pub(super) pause: AcceptPause,
    pub(super) admission: Admission,
    /// What was passed to poll(2), and its results: its capacity is kept.
    polled: Vec<libc::pollfd>,
    /// How many of those are not listeners.
    others: usize,
    /// Connections that were accepted as the server began to drain, and are not served yet, each
    /// with the number of its listener.
    last: VecDeque<(usize, OwnedFd)>,
}

impl Acceptor {
    /// An acceptor without a listener.
    pub(super) fn new(limits: &Limits) -> Acceptor {
        let (pause, admission) = (AcceptPause::new(limits), Admission::new(limits));
        Acceptor { pause, admission, ..Acceptor::default() }
    }

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
        let poll = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
            // poll(2) ignores a negative number.
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        };
        self.polled.clear();
        // In this order: a connection that came before another event is reported with it.
        self.polled.extend(others.into_iter().map(Some).map(poll));
        self.others = self.polled.len();
        if capacity && pause.is_none() {
            let fds = self.listeners.iter().map(|(fd, _)| fd.as_ref().map(OwnedFd::as_fd));
            self.polled.extend(fds.map(poll));
        }
        let ready = calls.wait(&mut self.polled, [pause, timeout].into_iter().flatten().min())?;
        if ready == 0 {
            self.polled.clear();
        }
        Ok(ready)
    }

    /// Accepts a connection of listener number `index`, if one was reported; the thread with this
    /// `id` will serve it. Returns `None` as well for one that is not admitted.
    ///
    /// # Errors
    /// It failed for good, and no other listener is left.
    pub(super) fn accept(
        &mut self,
        calls: &impl Calls,
        shared: &Arc<SharedState>,
        index: usize,
        id: ConnId,
        counters: &mut Counters,
    ) -> io::Result<Option<Membership>> {
        let at = self.others + index;
        let is_ready = self.polled.get(at).is_some_and(|polled| polled.revents != 0);
        let Some((Some(fd), origin)) = self.listeners.get(index).filter(|_| is_ready) else {
            return Ok(None);
        };
        let origin = Arc::clone(origin);
        let accepted = calls.accept(key(index), fd.as_fd(), SLEEPS);
        let entered =
            accepted.and_then(|socket| self.enter(calls, (shared, id), index, socket, counters));
        match entered {
            Ok(membership) => return Ok(membership),
            Err(error) => {
                let failure = AcceptFailure::from(error);
                if let AcceptFailure::NoConnection = failure {
                    self.polled[at].revents = 0;
                }
                match self.pause.failed(failure, counters, os::now) {
                    Ok(false) => {}
                    Ok(true) => self.polled.clear(), // Nothing more is accepted for a while.
                    Err(error) => {
                        let address = Arc::clone(&origin.address);
                        self.listeners[index].0 = None;
                        let others = self.listeners.iter().any(|(fd, _)| fd.is_some());
                        lifecycle::listener_failed(&address, &error, others)?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Counts an accepted connection, and has it enter, unless it is not admitted.
    fn enter(
        &mut self,
        calls: &impl Calls,
        (shared, id): (&Arc<SharedState>, ConnId),
        index: usize,
        socket: OwnedFd,
        counters: &mut Counters,
    ) -> io::Result<Option<Membership>> {
        let (addr, now) = (os::peer_addr(socket.as_fd()), os::now());
        counters.accepted += 1;
        counters.accept_rate += u64::from(self.pause.accepted(addr, now));
        match self.admission.admit(addr, now) {
            Ok(admitted) => {
                if shared.memory_is_full() {
                    counters.memory_full += 1;
                    self.pause.memory_is_full(addr, now);
                }
                let (origin, peer) = (&self.listeners[index].1, (addr, admitted.map(Arc::new)));
                let entered = shared.enter(id, origin, socket, peer);
                entered.map(Some).inspect_err(|error| counters.close(CloseReason::failed(error)))
            }
            Err(reason) => {
                counters.close(reason);
                calls.refuse(key(index), socket);
                Ok(None)
            }
        }
    }

    /// The server drains: accepts what waits now, and closes the listeners.
    pub(super) fn accept_last(&mut self, calls: &impl Calls) {
        for (index, (fd, _)) in self.listeners.iter_mut().enumerate() {
            let Some(fd) = fd.take() else { continue };
            for _ in 0..os::waiting(fd.as_fd(), LISTEN_BACKLOG as usize) {
                match calls.accept(key(index), fd.as_fd(), SLEEPS).map_err(AcceptFailure::from) {
                    Ok(socket) => self.last.push_back((index, socket)),
                    Err(AcceptFailure::Lost(_)) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// Returns the next of the connections that were accepted last, and the number of its listener;
    /// the thread with this `id` serves it.
    pub(super) fn next_last(
        &mut self,
        calls: &impl Calls,
        shared: &Arc<SharedState>,
        id: ConnId,
        counters: &mut Counters,
    ) -> Option<(usize, Membership)> {
        while let Some((index, socket)) = self.last.pop_front() {
            if let Ok(Some(membership)) = self.enter(calls, (shared, id), index, socket, counters) {
                return Some((index, membership));
            }
        }
        None
    }

    /// Returns true if connections that were accepted last are not served yet.
    pub(super) fn has_last(&self) -> bool {
        !self.last.is_empty()
    }

    /// Closes the connections that were accepted last and are not served yet: the server cuts.
    pub(super) fn cut_last(&mut self, counters: &mut Counters) {
        counters.accepted += self.last.len() as u64;
        counters.cut += self.last.len() as u64;
        self.last.drain(..).for_each(|_| counters.close(CloseReason::Cut));
    }
}

/// Returns the key of the accepts of a listener.
fn key(index: usize) -> Key {
    KeyOwner::Listener(ListenerId(index as u16)).into()
}
