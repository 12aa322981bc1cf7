//! The life cycle of a server, the same for every engine: it serves, it drains, it cuts what is
//! left; and it pauses its accepts when the kernel is out of resources.
//!
//! ```text
//!   Serving ── a signal, or the operator ──► Draining ── every connection is closed ──► ended
//!      │                                        │  └──── the deadline passes ──► Cutting ──► ended
//!      └──── asked once more, at any stage: ended at once ────┘
//! ```

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::address::Address;
use crate::admission::Admission;
use crate::clock::{Nanos, earlier};
use crate::counters::Counters;
use crate::limits::{Ended, Limits};
use crate::mailbox::PostedRequest;
use crate::os::{AcceptFailure, ShutdownSignal};
use crate::rate::{Bucket, Rate};

/// How long nothing is accepted after an accept failed for want of a descriptor or of memory,
/// unless a connection closes before.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is accepted, at least, after the accept rate was reached: listeners are not
/// armed anew for each connection of a high rate.
const RATE_PAUSE: Duration = Duration::from_millis(10);

/// How far a server is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// It accepts and serves.
    Serving,
    /// What has arrived is accepted and received, no more; every connection is sent what it is
    /// owed, and ends.
    Draining,
    /// The deadline has passed: every connection was broken.
    Cutting,
}

/// Whether a server accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// It accepts every connection.
    Now,
    /// It is at its limit, or pauses.
    Later,
    /// It cuts, and accepts no more.
    Never,
}

/// A pause of the accepts: after one failed for want of resources, to keep to the accept rate, or
/// because the memory is full.
#[derive(Debug, Default)]
pub struct AcceptPause {
    until: Option<Nanos>,
    rate: Option<Rate>,
    bucket: Bucket,
    /// When the accept rate, or the memory, permits the next one, if that is not now.
    rate_until: Option<Nanos>,
}

impl AcceptPause {
    /// No pause yet, within these limits.
    pub fn new(limits: &Limits) -> AcceptPause {
        AcceptPause { rate: limits.accept_rate, ..AcceptPause::default() }
    }

    /// A connection of the peer at `addr` was accepted. Returns true if the accept rate begins a
    /// pause.
    pub fn accepted(&mut self, addr: Option<SocketAddr>, now: Nanos) -> bool {
        let Some(rate) = self.rate else { return false };
        let Some(until) = self.bucket.take(rate, now) else { return false };
        let peer = addr.map(tracing::field::display);
        tracing::warn!(peer, "further clients wait: the accept rate is reached (--accept-rate)");
        self.rate_until.replace(until.max(now + RATE_PAUSE)).is_none()
    }

    /// The connection of the peer at `addr` was accepted, and the memory is full: accepts nothing
    /// for a while. So what a new connection takes in any case comes slowly, and none is refused.
    #[cold]
    pub fn memory_is_full(&mut self, addr: Option<SocketAddr>, now: Nanos) {
        let peer = addr.map(tracing::field::display);
        tracing::warn!(peer, "further clients wait: the memory is full (--max-memory)");
        self.rate_until = self.rate_until.max(Some(now + ACCEPT_PAUSE));
    }

    /// Takes note of an accept that brought no connection, and counts it: pauses if the next one
    /// would fail as well, and logs an error once for each pause.
    /// Returns true if the pause begins.
    ///
    /// # Errors
    /// A lasting error, which ends the listener: see [`listener_failed`].
    pub fn failed(
        &mut self,
        failure: AcceptFailure,
        counters: &mut Counters,
        now: impl FnOnce() -> Nanos,
    ) -> io::Result<bool> {
        match failure {
            AcceptFailure::Lasting(error) => {
                counters.accepts_ended += 1;
                return Err(error);
            }
            AcceptFailure::NoConnection => {}
            AcceptFailure::Lost(error) => {
                counters.accepts_lost += 1;
                tracing::debug!(%error, "a connection was lost before it was accepted");
            }
            // The other accepts in flight fail for the same reason: one report is enough.
            AcceptFailure::RetryLater(_) if self.until.is_some() => {}
            AcceptFailure::RetryLater(error) => {
                counters.refused += 1;
                tracing::warn!(%error, "cannot accept for now");
                self.begin(now());
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Accepts nothing for a while.
    pub fn begin(&mut self, now: Nanos) {
        self.until = Some(now + ACCEPT_PAUSE);
    }

    /// Accepts again, unless the accept rate forbids it: a resource may have become free.
    pub fn end(&mut self) {
        self.until = None;
    }

    /// Returns true during a pause of the accept rate, or for the memory.
    pub fn is_of_rate(&self) -> bool {
        self.rate_until.is_some()
    }

    /// Returns true if there is a pause.
    fn is_on(&self) -> bool {
        self.until.is_some() | self.rate_until.is_some()
    }

    /// Returns when the pause ends, if there is one.
    pub fn until(&self) -> Option<Nanos> {
        self.until.max(self.rate_until)
    }

    /// Ends the pause if it is over.
    pub fn run_timer(&mut self, now: Nanos) {
        self.until = self.until.filter(|&until| until > now);
        self.rate_until = self.rate_until.filter(|&until| until > now);
    }
}

/// The accepts of the listener at `address` fail with `error` for good. Logs that, if there are
/// `others` that listen.
///
/// # Errors
/// `error`, with the address, if there are none: the server has no further use.
pub fn listener_failed(address: &Address, error: &io::Error, others: bool) -> io::Result<()> {
    let text = format!("cannot accept on {address}: {error}");
    if !others {
        return Err(io::Error::new(error.kind(), text));
    }
    tracing::error!("{text}; nothing listens there any more");
    Ok(())
}

/// The life cycle of one server.
#[derive(Debug)]
pub struct Lifecycle {
    /// The bounds of the server.
    pub limits: Limits,
    /// The signal that stops the server.
    pub shutdown: ShutdownSignal,
    /// The pause of the accepts.
    pub pause: AcceptPause,
    /// Which connections are admitted.
    pub admission: Admission,
    stage: Stage,
    /// When the drain cuts what is left; `Some` exactly while draining.
    deadline: Option<Nanos>,
}

impl Lifecycle {
    /// Begins to serve within `limits`, until `shutdown` is signalled.
    pub fn new(limits: Limits, shutdown: ShutdownSignal) -> Lifecycle {
        let (pause, admission) = (AcceptPause::new(&limits), Admission::new(&limits));
        Lifecycle { limits, shutdown, pause, admission, stage: Stage::Serving, deadline: None }
    }

    /// Returns the stage of the server.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns true until the server drains.
    pub fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Returns true if another connection may be served beside so many.
    pub fn has_capacity(&self, connections: usize) -> bool {
        connections < self.limits.connections
    }

    /// Returns true if the server is at its limit with so many connections: others may wait.
    pub fn is_full(&self, connections: usize) -> bool {
        self.is_serving() && !self.has_capacity(connections)
    }

    /// Returns true if the server accepts another connection beside so many.
    /// While it drains, it accepts those that its listeners
    /// [still accept](crate::engine::Listener::left).
    pub fn accepts(&self, connections: usize) -> bool {
        let cuts = self.stage == Stage::Cutting;
        !cuts && self.has_capacity(connections) && !self.pause.is_on()
    }

    /// Returns whether the server accepts another connection beside so many.
    pub fn accepting(&self, connections: usize) -> Accepting {
        match self.accepts(connections) {
            true => Accepting::Now,
            false if self.stage != Stage::Cutting => Accepting::Later,
            false => Accepting::Never,
        }
    }

    /// Takes the requests to stop that were signalled since the last call, and what other threads
    /// asked of connections. The first request of all starts a drain: `true`, and the engine
    /// [drains](Lifecycle::drain). Any further one ends the server at once.
    pub fn take_requests(&mut self) -> ControlFlow<Ended, (bool, Vec<PostedRequest>)> {
        match self.shutdown.take_all() {
            (0, posted) => ControlFlow::Continue((false, posted)),
            (1, posted) if self.is_serving() => ControlFlow::Continue((true, posted)),
            _ => ControlFlow::Break(Ended::AtOnce),
        }
    }

    /// Starts the drain of so many connections, if the server does not drain already. Returns
    /// whether it starts now.
    pub fn drain(&mut self, connections: usize, now: Nanos) -> bool {
        let starts = self.is_serving();
        if starts {
            tracing::info!(connections, "draining");
            self.stage = Stage::Draining;
            self.deadline = Some(now + self.limits.drain);
        }
        starts
    }

    /// Returns when a timer of the life cycle expires next: the drain's deadline, or the pause of
    /// the accepts.
    pub fn next_timer(&self) -> Option<Nanos> {
        earlier(self.deadline, self.pause.until())
    }

    /// Runs the timers that have expired. Returns true if the drain's deadline has passed: the
    /// engine is to cut the connections that are left.
    pub fn run_timers(&mut self, now: Nanos) -> bool {
        self.pause.run_timer(now);
        let cuts = self.deadline.is_some_and(|deadline| deadline <= now);
        if cuts {
            self.stage = Stage::Cutting;
            self.deadline = None;
        }
        cuts
    }
}

impl Drop for Lifecycle {
    /// The engine has ended: requests of other threads are refused from now on.
    fn drop(&mut self) {
        self.shutdown.refuse_posts();
    }
}

/// Returns the way to go on, or the end of a server that has drained.
pub fn unless_drained(drained: bool) -> ControlFlow<Ended> {
    if drained { ControlFlow::Break(Ended::Drained) } else { ControlFlow::Continue(()) }
}

/// Runs an engine: repeats `iteration` until it breaks.
///
/// # Errors
/// The first error of an iteration.
pub fn run(mut iteration: impl FnMut() -> io::Result<ControlFlow<Ended>>) -> io::Result<Ended> {
    loop {
        if let ControlFlow::Break(ended) = iteration()? {
            return Ok(ended);
        }
    }
}
