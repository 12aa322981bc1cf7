//! What the ring loop and the readiness loop have in common: the connections, the listeners, the
//! life cycle and the console.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::buffer::{Pool, Size};
use crate::clock::{Nanos, earlier};
use crate::console::{Console, SocketInfo};
use crate::counters::{Counters, LiveCounters};
use crate::engine::{self, Listener};
use crate::keys::{ConnId, ListenerId};
use crate::lifecycle::{Accepting, Lifecycle, Stage};
use crate::limits::{CloseReason, Ended, Limits};
use crate::os::{self, AcceptFailure, Clock, ShutdownSignal};
use crate::peer::{AcceptedPeer, Factory, Made, WorkerFactory};
use crate::peers::Peers;
use crate::protocol::Protocol;
use crate::status::{ServerMonitor, Status};
use crate::trim::Trim;

/// The state of a loop, without the ring or selector that it waits with. `D` is what the loop keeps
/// of a connection, and `L` what it keeps of a listener.
#[derive(Debug)]
pub struct LoopState<P, D, L> {
    /// The buffers of the loop.
    pool: Rc<Pool>,
    trim: Trim,
    /// The connections, and what is counted.
    pub peers: Peers<P, D>,
    /// The listeners, by their numbers.
    pub listeners: Vec<Listener<WorkerFactory<P>, L>>,
    /// The stage of the server, and the pause of its accepts.
    pub lifecycle: Lifecycle,
    /// The operator console, if there is one.
    pub console: Option<Box<Console>>,
    /// What watches the server, if anything does.
    pub monitor: Option<Box<dyn ServerMonitor>>,
    /// The clock of the server.
    pub clock: Clock,
    /// True if the listeners must be looked at, whatever `accepting` says.
    pub listeners_changed: bool,
    /// Whether connections were accepted when the listeners were last looked at.
    accepting: Accepting,
    /// A connection that is closed because it never sent a byte; another one only after it.
    closing_silent: Option<ConnId>,
    /// When the next one is closed, if the server is full until then.
    silent_until: Option<Nanos>,
    /// True once the drain has begun here.
    drains: bool,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<P: Protocol, D, L: Default> LoopState<P, D, L> {
    /// A server without a listener, which `shutdown` can stop, with the buffers of `pool`.
    pub fn new(limits: Limits, shutdown: ShutdownSignal, clock: Clock, pool: Rc<Pool>) -> Self {
        LoopState {
            pool,
            trim: Trim::default(),
            peers: Peers::new(&limits, clock.clone()),
            listeners: Vec::new(),
            lifecycle: Lifecycle::new(limits, shutdown),
            console: None,
            monitor: None,
            clock,
            listeners_changed: false,
            accepting: Accepting::Later,
            closing_silent: None,
            silent_until: None,
            drains: false,
            calls_before: os::calls(),
        }
    }

    /// Adds a listener: the next number.
    ///
    /// # Errors
    /// Its connections cannot be limited: setsockopt(2).
    pub fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: &Factory<P>) -> io::Result<()> {
        self.lifecycle.limits.limit_kernel(fd.as_fd())?;
        debug_assert_eq!(id.index(), self.listeners.len(), "in the order of their numbers");
        let factory = WorkerFactory::new(factory, fd.as_fd());
        self.listeners.push(Listener::new(id, fd, factory));
        self.listeners_changed = true;
        Ok(())
    }

    /// Attaches an operator console.
    pub fn set_console(&mut self, console: Console) {
        self.console = Some(Box::new(console));
        self.peers.expect_operator();
    }

    /// Prompts the operator: the server has said where it listens.
    pub fn begin(&mut self) {
        self.enable_trim();
        self.console.iter_mut().for_each(|console| console.flush());
    }

    /// Gives memory back to the kernel from now on, when a crowd has left.
    pub fn enable_trim(&mut self) {
        self.trim.enable();
    }

    /// Returns what was counted.
    pub fn counters(&self) -> Counters {
        self.peers.counters(os::calls() - self.calls_before)
    }

    /// Has the monitor do one thing. Returns false if it has nothing to do. `complete` adds to the
    /// status what the loop alone knows.
    #[cold]
    pub fn serve_monitor(&mut self, complete: impl Fn(&mut Status)) -> bool {
        let Some(mut monitor) = self.monitor.take() else { return false };
        let served = monitor.serve(self.lifecycle.stage(), &|| {
            let counters = self.counters();
            let mut status = Status::new(counters, self.peers.len(), &self.lifecycle);
            (status.memory, status.buffers) = (self.peers.held(), self.pool.status());
            complete(&mut status);
            status
        });
        self.monitor = Some(monitor);
        served
    }

    /// Stores the counters in `live`, if they are wanted.
    pub fn publish(&self, live: Option<&LiveCounters>) {
        if let Some(live) = live {
            self.counters().store(live);
        }
    }

    /// Returns true if no timer is set, no connection is marked, and the server accepts: an
    /// iteration need not ask for each of these.
    pub fn is_calm(&self) -> bool {
        // `|` and `&` need fewer jumps.
        let changed = self.listeners_changed | self.trim.is_wanted();
        let accepts = self.lifecycle.is_serving() & (self.accepting == Accepting::Now);
        !changed & accepts && self.lifecycle.accepts(self.peers.len()) && self.peers.is_calm()
    }

    /// Returns whether connections are accepted, if anything about it has changed since the last
    /// call.
    pub fn changed_accepting(&mut self) -> Option<Accepting> {
        let accepting = self.lifecycle.accepting(self.peers.len());
        if accepting == self.accepting && !self.listeners_changed {
            return None;
        }
        (self.accepting, self.listeners_changed) = (accepting, false);
        Some(accepting)
    }

    /// An accept of listener `id` brought no connection.
    ///
    /// # Errors
    /// It failed for good, and no other listener is left.
    pub fn not_accepted(&mut self, id: ListenerId, failure: AcceptFailure) -> io::Result<()> {
        let counters = &mut self.peers.counters;
        match self.lifecycle.pause.failed(failure, counters, || self.clock.now()) {
            Ok(_) => Ok(()),
            Err(error) => engine::end_listener(&mut self.listeners, id, &error),
        }
    }

    /// Returns true if a connection that was accepted may be opened.
    pub fn opens_backlog(&self) -> bool {
        let Lifecycle { pause, .. } = &self.lifecycle;
        let may_open = self.lifecycle.has_capacity(self.peers.len()) && !pause.is_of_rate();
        may_open || !self.lifecycle.is_serving()
    }

    /// Returns the protocol of the next connection of `listener`, whose peer is at `addr`. `None`
    /// if it is not admitted: the loop closes its socket.
    pub fn admit(&mut self, listener: ListenerId, addr: Option<SocketAddr>) -> Option<Made<P>> {
        let (lifecycle, counters) = (&mut self.lifecycle, &mut self.peers.counters);
        let now = self.clock.now();
        counters.accept_rate += u64::from(lifecycle.pause.accepted(addr, now));
        let admitted = lifecycle.admission.admit(addr, now);
        let admitted = admitted.inspect_err(|reason| counters.close(*reason)).ok()?;
        if lifecycle.is_serving() && self.peers.held() >= lifecycle.limits.queues {
            self.peers.counters.memory_full += 1;
            lifecycle.pause.memory_is_full(addr, now);
        }
        if lifecycle.is_full(self.peers.len() + 1) {
            self.peers.counters.full += 1;
            lifecycle.admission.report_full(addr);
        }
        let reach = Some((self.peers.next_id(), &lifecycle.shutdown));
        let factory = &mut self.listeners[listener.index()].factory;
        let (protocol, accepted) = factory.make(self.peers.next_number(), addr, reach);
        Some((protocol, AcceptedPeer { admitted, ..accepted }))
    }

    /// Removes a connection whose socket is closed. Returns what the loop kept of it.
    pub fn closed(&mut self, conn: ConnId) -> D {
        self.lifecycle.pause.end();
        let peer = self.peers.get_mut(conn);
        let bulk = peer.is_some_and(|peer| peer.connection.recv_size() > Size::SMALLEST);
        self.trim.closes(self.peers.len(), self.peers.held(), bulk);
        self.peers.remove(conn).expect("a connection is closed once")
    }

    /// Runs the timers that have expired. Reads the clock only if a timer is set, or if a
    /// connection waits for another. Returns true if memory was given back to the kernel.
    pub fn run_timers(&mut self) -> bool {
        self.peers.run_timers(|| self.clock.now());
        if self.lifecycle.next_timer().is_some() {
            self.advance_lifecycle();
        }
        let trims = self.trim.is_wanted() && self.trim.run(self.clock.now());
        if trims {
            self.pool.trim();
            self.peers.shrink();
        }
        self.silent_until = None;
        if self.lifecycle.is_full(self.peers.len()) {
            self.close_silent();
        }
        trims
    }

    /// Closes the oldest connection that has never sent a byte, if its time is over.
    fn close_silent(&mut self) {
        let closes = self.closing_silent.is_some_and(|id| self.peers.get_mut(id).is_some());
        let Some(timeout) = self.lifecycle.limits.silent_timeout.filter(|_| !closes) else {
            return;
        };
        let Some((opened, id)) = self.peers.oldest_silent() else { return };
        let due = opened + timeout;
        if due > self.clock.now() {
            self.silent_until = Some(due);
        } else {
            self.closing_silent = Some(id);
            self.peers.broken(id, CloseReason::Silent);
        }
    }

    /// Ends a pause of the accepts that is over; goes on with a drain.
    #[cold]
    fn advance_lifecycle(&mut self) {
        if self.lifecycle.run_timers(self.clock.now()) {
            self.peers.cut();
        }
        self.advance_drain();
    }

    /// Returns when the next timer expires.
    pub fn next_timer(&self) -> Option<Nanos> {
        let first = earlier(self.peers.next_timer(), self.lifecycle.next_timer());
        earlier(earlier(first, self.silent_until), self.trim.next_timer())
    }

    /// Does what the shutdown signal asks.
    pub fn take_requests(&mut self) -> ControlFlow<Ended> {
        let (drains, posted) = self.lifecycle.take_requests()?;
        if drains {
            self.drain();
        }
        self.peers.take_posted(posted);
        ControlFlow::Continue(())
    }

    /// Starts to drain, if it does not drain already: in the next iteration, when all accepts that
    /// have completed are known.
    pub fn drain(&mut self) {
        self.lifecycle.drain(self.peers.len(), self.clock.now());
    }

    /// Goes on with a drain, if there is one. At its begin, the listeners accept what waits, and
    /// each connection takes its [last input](crate::peers::LAST_INPUT).
    pub fn advance_drain(&mut self) {
        if self.lifecycle.is_serving() {
            return;
        }
        if !std::mem::replace(&mut self.drains, true) {
            self.listeners.iter_mut().for_each(Listener::accept_last);
            self.listeners_changed = true;
            self.peers.take_last_input();
        }
        self.peers.finish_taken();
    }

    /// Returns true if the server drains, accepts no more and has no connection left.
    pub fn is_drained(&self) -> bool {
        self.drains && self.peers.is_empty() && !self.accepts_more()
    }

    /// Returns true while a listener accepts connections, unless they are all cut.
    pub fn accepts_more(&self) -> bool {
        let cuts = self.lifecycle.stage() == Stage::Cutting;
        !cuts && self.listeners.iter().any(Listener::listens)
    }

    /// Prints the messages to the operator, and runs the commands that were read. `look` returns
    /// what the console shows of the loop's part of a connection.
    pub fn serve_console(&mut self, look: impl Fn(&D) -> SocketInfo) -> ControlFlow<Ended> {
        let (counters, now) = (self.counters(), self.clock.now());
        let LoopState { peers, lifecycle, console: Some(console), .. } = self else {
            return ControlFlow::Continue(());
        };
        console.serve(&mut peers.inspect(lifecycle, counters, now, look))
    }
}
