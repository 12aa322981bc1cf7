//! The accepts of the blocking models: poll(2) for several listeners at once, then accept4(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::group::{Group, Member, Membership};
use super::local_counters::LocalCounters;
use proactor::address::Address;
use proactor::calls::Calls;
use proactor::engine::Listeners;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::AcceptPause;
use proactor::os::{self, AcceptFailure, ShutdownSignal};
use proactor::peer::{Factory, Made, Peer};

/// The listeners of a server.
#[derive(Debug)]
pub(super) struct Acceptor<P> {
    listeners: Listeners<ConnectionFactory<P>, Arc<Group>>,
    pause: AcceptPause,
    /// What was passed to poll(2), and its results: its capacity is kept.
    polled: Vec<libc::pollfd>,
    /// How many of those are not listeners.
    others: usize,
    /// True if the last wait polled the listeners.
    polls_listeners: bool,
}

/// What makes the protocol of one connection, in its own thread.
#[derive(Debug)]
pub(super) struct ConnectionFactory<P> {
    factory: Factory<P>,
    listener: Arc<Address>,
}

impl<P: 'static> ConnectionFactory<P> {
    /// Makes the protocol of this connection; other threads reach it by `signal`.
    pub(super) fn make(&self, member: &Member, signal: &ShutdownSignal) -> Made<P> {
        let (socket, reach) = (Some(member.socket()), Some((member.id, signal)));
        let make = self.factory.for_worker(0);
        Peer::within_reach(member.number, &self.listener, socket, reach, make)
    }
}

impl<P> Clone for ConnectionFactory<P> {
    fn clone(&self) -> ConnectionFactory<P> {
        ConnectionFactory { factory: self.factory.clone(), listener: Arc::clone(&self.listener) }
    }
}

impl<P> Acceptor<P> {
    pub(super) fn new() -> Acceptor<P> {
        Acceptor {
            listeners: Listeners::default(),
            pause: AcceptPause::default(),
            polled: Vec::new(),
            others: 0,
            polls_listeners: false,
        }
    }

    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub(super) fn add(
        &mut self,
        id: ListenerId,
        fd: OwnedFd,
        factory: Factory<P>,
        group: Arc<Group>,
    ) -> io::Result<()> {
        // A connection that was reported may be gone: the accept must not sleep.
        os::set_nonblocking(fd.as_fd())?;
        let listener = Arc::new(Address::of_listener(fd.as_fd()));
        self.listeners.add(id, fd, ConnectionFactory { factory, listener }, group);
        Ok(())
    }

    /// Returns the numbers of the listeners.
    pub(super) fn ids(&self) -> impl Iterator<Item = ListenerId> + use<P> {
        self.listeners.ids()
    }

    /// Closes the listeners: further connections are refused.
    pub(super) fn close(&mut self) {
        self.listeners = Listeners::default();
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
        let now = self.pause.until().map(|_| os::now());
        now.into_iter().for_each(|now| self.pause.run_timer(now));
        let pause = self.pause.until().zip(now).map(|(until, now)| until.since(now));
        self.polls_listeners = capacity && pause.is_none();
        let poll = |fd: BorrowedFd<'_>| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        self.polled.clear();
        // In this order: a connection that came before another event is reported with it.
        self.polled.extend(others.into_iter().map(poll));
        self.others = self.polled.len();
        if self.polls_listeners {
            let fds = self.listeners.iter_mut().filter_map(|(_, listener)| listener.fd.as_ref());
            self.polled.extend(fds.map(|fd| poll(fd.as_fd())));
        }
        let ready = calls.wait(&mut self.polled, [pause, timeout].into_iter().flatten().min())?;
        if ready == 0 {
            self.polled.iter_mut().for_each(|polled| polled.revents = 0);
        }
        Ok(ready)
    }

    /// Accepts a connection of this listener, if one was reported, which gets this `id`.
    pub(super) fn accept(
        &mut self,
        calls: &impl Calls,
        listener: ListenerId,
        id: ConnId,
        counted: &LocalCounters,
    ) -> Option<(Membership, ConnectionFactory<P>)> {
        let polled = self.others + listener.index();
        let reported = self.polled.get(polled).is_some_and(|polled| polled.revents != 0);
        if !self.polls_listeners || !reported || listener.index() >= self.listeners.len() {
            return None;
        }
        let one = &self.listeners[listener];
        let fd = one.fd.as_ref()?;
        let entered = match calls.accept(KeyOwner::Listener(listener).into(), fd.as_fd()) {
            Ok(socket) => {
                counted.accepted.add(1);
                one.state.enter(id, socket).inspect_err(|_| counted.closed.add(1))
            }
            Err(error) => Err(error),
        };
        match entered {
            Ok(membership) => Some((membership, one.factory.clone())),
            Err(error) => {
                let failure = AcceptFailure::from(error);
                if let AcceptFailure::NoConnection = failure {
                    self.polled[polled].revents = 0;
                }
                if self.pause.failed(failure, os::now) {
                    counted.refused.add(1);
                    self.polls_listeners = false;
                }
                None
            }
        }
    }

    /// Ends a pause of the accepts: a resource may have become free.
    pub(super) fn end_pause(&mut self) {
        self.pause.end();
    }
}
