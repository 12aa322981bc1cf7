//! The ring loop: submit operations, reap completions, resume the connections that they concern.
//!
//! ```text
//!         ┌──────────────── enter ────────────────┐  lend the idle buffers, submit, sleep
//!         ▼                                       │
//!   reap: Completion ──► Peers.received / sent / …│  state only; no operation of a
//!         │              mark the connection      │  connection is submitted
//!         ▼                                       │
//!   each that is marked: resume ──────────────────┘  wants − in flight ──► Op
//! ```
//!
//! Two steps, never mixed: first every completion is reaped, then each marked connection is resumed
//! once. `resume` compares what a connection wants with what it has in flight and submits the
//! difference. Backpressure, half-close and drain need no case of their own: they are different
//! wants. A broken connection cancels what is in flight. Teardown is a *join*: a connection is
//! closed when it has nothing in flight, not even a cancel.
//!
//! The terms of this loop: A send with *skip_success* (`IOSQE_CQE_SKIP_SUCCESS`) posts a
//! completion only if it fails or is short; after one that completed, the next send asks for its
//! completion. A connection is *out of buffers* when it wants to receive and the pool has none. A
//! socket that was accepted above the limit waits in the *backlog*.

mod accept;
mod console;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use crate::buffer::Size;
use crate::clock::earlier;
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::engine::{Engine, Listeners};
use crate::keys::{ConnId, ListenerId};
use crate::lifecycle::{self, Accepting, Lifecycle};
use crate::limits::{CloseReason, Ended, Limits};
use crate::os::{self, ShutdownSignal};
use crate::peer::{Factory, WorkerFactory};
use crate::peers::{Peers, ReadyPeer};
use crate::protocol::Protocol;
use crate::ring::{AcceptId, CancelTarget, Completion, Op, Recv, Ring, Sent, Socket, Wait};
use accept::AcceptStates;
use console::RingConsole;

/// A server on a ring.
#[derive(Debug)]
pub struct Proactor<R, P> {
    ring: R,
    peers: Peers<P, Flight>,
    listeners: Listeners<WorkerFactory<P>, AcceptStates>,
    /// Connections accepted above the limit, which are not served yet.
    backlog: VecDeque<(ListenerId, Socket, Option<SocketAddr>)>,
    lifecycle: Lifecycle,
    /// True from a send with `skip_success` until the completions of the next iteration are reaped.
    unconfirmed_sends: bool,
    /// Whether connections were accepted when the accepts were last looked at.
    accepting: Accepting,
    /// True if the accepts must be looked at, whatever `accepting` says.
    accepts_changed: bool,
    console: Option<Box<RingConsole>>,
    /// System calls that this thread had made before.
    calls_before: u64,
}

/// A connection's socket and its operations in flight: at most one of each kind.
#[derive(Debug)]
pub struct Flight {
    socket: Socket,
    /// The peer's address, if the ring knows it.
    address: Option<SocketAddr>,
    recv: RecvState,
    send: SendState,
    /// True after a send with `skip_success` has completed: the next one asks for its completion.
    await_send: bool,
    shutting_down: bool,
    /// Cancels that have not completed.
    cancels: u8,
    /// True once the close is submitted: the last operation of a connection.
    closing: bool,
}

/// The receive of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecvState {
    Idle,
    /// In flight; submitted when the connection preferred buffers of this size.
    InFlight {
        preferred: Size,
    },
    Cancelling,
}

/// The send of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendState {
    Idle,
    InFlight { skip_success: bool },
    Cancelling,
}

impl<R: Ring, P: Protocol> Proactor<R, P> {
    /// Creates a server without a listener, which `stop` can stop.
    ///
    /// # Errors
    /// The ring refuses its first submission.
    pub fn new(mut ring: R, limits: Limits, stop: ShutdownSignal) -> io::Result<Proactor<R, P>> {
        let calls_before = os::calls();
        ring.submit(Op::Wake { fd: stop.as_fd() })?;
        Ok(Proactor {
            peers: Peers::new(limits.max_input, ring.clock()),
            ring,
            listeners: Listeners::default(),
            backlog: VecDeque::new(),
            lifecycle: Lifecycle::new(limits, stop),
            unconfirmed_sends: false,
            accepting: Accepting::Later,
            accepts_changed: false,
            console: None,
            calls_before,
        })
    }

    /// Runs one iteration: submit what was queued, sleep until an operation completes, resume the
    /// connections that it concerns.
    ///
    /// # Errors
    /// The ring as a whole fails.
    pub fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        self.run_timers();
        self.update_accepts()?;
        let wait = self.timeout();
        let entered = self.ring.enter(wait)?;
        self.peers.counters.iterations += 1;
        self.peers.counters.submitted += u64::from(entered.submitted);
        self.peers.counters.overflows += u64::from(entered.overflow);
        while let Some(completion) = self.ring.next() {
            self.peers.counters.completed += 1;
            if let ended @ ControlFlow::Break(_) = self.complete(completion)? {
                return Ok(ended);
            }
        }
        // The successes that posted no completion.
        while let Some((conn, n)) = self.ring.next_implied() {
            self.sent(conn, Sent::Bytes(n));
        }
        self.unconfirmed_sends = false;
        self.resume_ready()?;
        if self.peers.has_operator_messages()
            && let ended @ ControlFlow::Break(_) = self.serve_console()
        {
            return Ok(ended);
        }
        Ok(lifecycle::unless_drained(self.is_drained()))
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    /// Returns the ring that serves.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// The ring, for a test that simulates the kernel.
    pub fn ring_mut(&mut self) -> &mut R {
        &mut self.ring
    }

    /// Passes a completion to the connection that it concerns. Submits nothing for a connection.
    fn complete(&mut self, completion: Completion) -> io::Result<ControlFlow<Ended>> {
        match completion {
            Completion::Accept { accept, outcome, more } => self.accepted(accept, outcome, more),
            Completion::Recv { conn, outcome, more } => self.received(conn, outcome, more),
            Completion::Send { conn, outcome } => {
                // A send with `skip_success` that completes was short, has failed, or could not
                // skip its completion: the kernel has no `CqeSkip`, or the queue has too many
                // chunks.
                self.update(conn, |flight| {
                    flight.await_send = flight.send == SendState::InFlight { skip_success: true };
                });
                self.sent(conn, outcome);
            }
            Completion::Shutdown { conn } => {
                self.update(conn, |flight| {
                    debug_assert!(flight.shutting_down, "one shutdown is in flight");
                    flight.shutting_down = false;
                });
                self.peers.shut_down(conn);
            }
            Completion::Close { conn } => self.closed(conn),
            Completion::Cancel { target: CancelTarget::Recv(conn) | CancelTarget::Send(conn) } => {
                self.update(conn, |flight| {
                    debug_assert!(flight.cancels > 0, "a cancel completes once");
                    flight.cancels -= 1;
                });
                self.peers.mark(conn);
            }
            Completion::Cancel { target: CancelTarget::Accept(AcceptId { listener, slot }) } => {
                self.listeners[listener].state.cancel_completed(slot);
                self.accepts_changed = true;
            }
            Completion::Internal => {}
            Completion::Read { outcome } => return self.console_input(outcome),
            Completion::Wake => return self.shutdown_requested(),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn received(&mut self, conn: ConnId, outcome: Recv, more: bool) {
        self.update(conn, |flight| {
            debug_assert!(flight.recv != RecvState::Idle, "one receive is in flight");
            if !more {
                flight.recv = RecvState::Idle;
            }
        });
        match outcome {
            Recv::Data(chunk) => self.peers.received(conn, chunk),
            Recv::End => self.peers.ended(conn),
            Recv::NoBuffer => self.peers.wait_for_buffer(conn),
            Recv::Cancelled => self.peers.mark(conn),
            Recv::Failed(error) => self.peers.broken(conn, CloseReason::failed(&error)),
        }
    }

    fn sent(&mut self, conn: ConnId, outcome: Sent) {
        self.update(conn, |flight| {
            debug_assert!(flight.send != SendState::Idle, "one send is in flight");
            flight.send = SendState::Idle;
        });
        match outcome {
            Sent::Bytes(n) => self.peers.sent(conn, n),
            Sent::Cancelled => self.peers.mark(conn),
            Sent::Failed(error) => self.peers.broken(conn, CloseReason::failed(&error)),
        }
    }

    fn closed(&mut self, conn: ConnId) {
        let flight = self.peers.remove(conn).expect("a connection is closed once");
        debug_assert!(flight.closing && flight.is_empty(), "a close is the last operation");
        self.lifecycle.pause().end();
        self.accepts_changed = true; // There may be space for more.
        self.open_backlog();
    }

    /// Does what has become due by the clock. Reads the clock only if a timer is set.
    fn run_timers(&mut self) {
        let ring = &self.ring;
        self.peers.run_timers(|| ring.now());
        if self.lifecycle.next_timer().is_some() && self.lifecycle.run_timers(self.ring.now()) {
            self.peers.cut();
        }
    }

    /// Returns how long this iteration may sleep.
    fn timeout(&self) -> Wait {
        // A connection that waits for a buffer may get the one that a send with `skip_success` is
        // about to free.
        if self.peers.has_marked() || (self.unconfirmed_sends && self.peers.has_buffer_waiters()) {
            return Wait::No;
        }
        let timer = earlier(self.peers.next_timer(), self.lifecycle.next_timer());
        timer.map_or(Wait::Completion, Wait::Until)
    }

    fn resume_ready(&mut self) -> io::Result<()> {
        if self.peers.has_buffer_waiters() {
            // They will all receive into the most plentiful size (`Ring::buffer_for`).
            let pool = self.ring.pool();
            self.peers.wake_buffer_waiters(pool.unfilled(pool.most_plentiful()));
        }
        self.peers.begin();
        while let Some(ready) = self.peers.next_ready() {
            let conn = ready.id;
            let resumed = resume(&mut self.ring, ready)?;
            self.unconfirmed_sends |= resumed.unconfirmed_sends;
            if resumed.out_of_buffers {
                self.peers.wait_for_buffer(conn);
            }
        }
        Ok(())
    }

    /// The shutdown signal was reported.
    fn shutdown_requested(&mut self) -> io::Result<ControlFlow<Ended>> {
        match self.lifecycle.take_requests() {
            ControlFlow::Break(ended) => return Ok(ControlFlow::Break(ended)),
            ControlFlow::Continue(true) => self.drain(),
            ControlFlow::Continue(false) => {}
        }
        self.peers.take_posted(self.lifecycle.take_posted());
        self.ring.submit(Op::Wake { fd: self.lifecycle.shutdown().as_fd() })?;
        Ok(ControlFlow::Continue(()))
    }

    fn drain(&mut self) {
        if self.lifecycle.drain(self.peers.len(), self.ring.now()) {
            self.peers.finish_all();
            self.open_backlog();
        }
    }

    fn is_drained(&self) -> bool {
        !self.lifecycle.is_serving()
            && self.peers.is_empty()
            && self.listeners.states().all(AcceptStates::is_idle)
    }

    fn update(&mut self, conn: ConnId, change: impl FnOnce(&mut Flight)) {
        if let Some(peer) = self.peers.get_mut(conn) {
            change(&mut peer.driver);
        }
    }
}

impl<R: Ring, P: Protocol> Engine<P> for Proactor<R, P> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        let factory = WorkerFactory::new(&factory, fd.as_fd());
        self.listeners.add(id, fd, factory, AcceptStates::default());
        self.accepts_changed = true;
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        self.console = Some(Box::new(RingConsole::new(console)?));
        self.peers.expect_operator();
        self.read_console()
    }

    fn run(&mut self, live: Option<&LiveCounters>) -> io::Result<Ended> {
        if let Some(input) = &mut self.console {
            input.console.flush();
        }
        lifecycle::run(|| {
            let flow = self.run_once()?;
            if let Some(live) = live {
                self.counters().store(live);
            }
            Ok(flow)
        })
    }

    fn counters(&self) -> Counters {
        self.peers.counters(os::calls() - self.calls_before)
    }
}

impl Flight {
    fn new(socket: Socket, address: Option<SocketAddr>) -> Flight {
        Flight {
            socket,
            address,
            recv: RecvState::Idle,
            send: SendState::Idle,
            await_send: false,
            shutting_down: false,
            cancels: 0,
            closing: false,
        }
    }

    /// Returns true if no operation but the close is in flight.
    fn is_empty(&self) -> bool {
        self.recv == RecvState::Idle
            && self.send == SendState::Idle
            && !self.shutting_down
            && self.cancels == 0
    }
}

/// What `resume` has found or done that concerns the whole loop.
#[derive(Debug, Clone, Copy, Default)]
struct Resumed {
    /// A send with `skip_success` was submitted.
    unconfirmed_sends: bool,
    /// The connection wants to receive, and there is no buffer.
    out_of_buffers: bool,
}

/// Submits the difference between what a connection wants and what it has in flight.
fn resume<R: Ring, P: Protocol>(
    ring: &mut R,
    ready: ReadyPeer<'_, P, Flight>,
) -> io::Result<Resumed> {
    let mut resumed = Resumed::default();
    let ReadyPeer { id: conn, peer, wants_recv, any_size } = ready;
    let (connection, flight) = (&peer.connection, &mut peer.driver);
    let socket = flight.socket;

    match flight.send {
        SendState::Idle if !connection.outgoing().is_empty() => {
            let queue = connection.outgoing();
            // If nothing waits for its success, the send posts no completion.
            let skip_success = connection.can_skip_completion() && !flight.await_send;
            flight.send = SendState::InFlight { skip_success };
            resumed.unconfirmed_sends = skip_success;
            ring.submit(Op::Send { conn, socket, queue, skip_success })?;
        }
        SendState::InFlight { .. } if connection.is_broken() => {
            flight.send = SendState::Cancelling;
            flight.cancels += 1;
            ring.submit(Op::Cancel { target: CancelTarget::Send(conn) })?;
        }
        _ => {}
    }
    // A receive that waits with another size than the connection prefers now is cancelled, and then
    // submitted anew.
    let preferred = ring.pool().clamp(connection.recv_size());
    match flight.recv {
        RecvState::Idle if wants_recv && flight.cancels > 0 => {} // Resumed when that completes.
        RecvState::Idle if wants_recv => match ring.buffer_for(preferred, any_size) {
            Some(size) => {
                flight.recv = RecvState::InFlight { preferred };
                ring.submit(Op::Recv { conn, socket, size })?;
            }
            None => resumed.out_of_buffers = true,
        },
        RecvState::InFlight { preferred: size } if !wants_recv || size != preferred => {
            flight.recv = RecvState::Cancelling;
            flight.cancels += 1;
            ring.submit(Op::Cancel { target: CancelTarget::Recv(conn) })?;
        }
        _ => {}
    }
    if connection.wants_shutdown() && !flight.shutting_down {
        flight.shutting_down = true;
        ring.submit(Op::Shutdown { conn, socket })?;
    }
    if connection.is_finished() && flight.is_empty() && !flight.closing {
        flight.closing = true;
        ring.submit(Op::Close { conn, socket })?;
    }
    Ok(resumed)
}
