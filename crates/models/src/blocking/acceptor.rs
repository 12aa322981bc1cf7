//! The accepts of the blocking models: poll(2) for several listeners at once, then accept4(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::member::Origin;
use super::shared::{Membership, SharedState};
use proactor::admission::Admission;
use proactor::calls::{Calls, SLEEPS};
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::{self, AcceptPause};
use proactor::limits::Limits;
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
        let polled = self.polled.get_mut(self.others + index).filter(|it| it.revents != 0);
        let Some((polled, (Some(fd), origin))) = polled.zip(self.listeners.get(index)) else {
            return Ok(None);
        };
        let key = KeyOwner::Listener(ListenerId(index as u16)).into();
        let (admission, pause) = (&self.admission, &mut self.pause);
        let entered = calls.accept(key, fd.as_fd(), SLEEPS).and_then(|socket| {
            let (addr, now) = (os::peer_addr(socket.as_fd()), os::now());
            counters.accepted += 1;
            counters.accept_rate += u64::from(pause.accepted(addr, now));
            match admission.admit(addr, now) {
                Ok(admitted) => {
                    let entered = shared.enter(id, origin, socket, (addr, admitted.map(Arc::new)));
                    entered.map(Some).inspect_err(|_| counters.closed += 1)
                }
                Err(reason) => {
                    counters.close(reason);
                    calls.refuse(key, socket);
                    Ok(None)
                }
            }
        });
        match entered {
            Ok(membership) => return Ok(membership),
            Err(error) => {
                let failure = AcceptFailure::from(error);
                if let AcceptFailure::NoConnection = failure {
                    polled.revents = 0;
                }
                match self.pause.failed(failure, os::now) {
                    Ok(false) => {}
                    Ok(true) => {
                        counters.refused += 1;
                        self.polled.clear(); // Nothing more is accepted for a while.
                    }
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
}
