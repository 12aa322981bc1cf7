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
//! After an enter come two steps, never mixed: first every completion is reaped, then each marked
//! connection is resumed once. `resume` compares what a connection wants with what it has in flight
//! and submits the difference. Backpressure, half-close and drain need no case of their own: they
//! are different wants. A broken connection cancels what is in flight. Teardown is a *join*: a
//! connection is closed when it has nothing in flight, not even a cancel.
//!
//! The terms of this loop: A send with *skip_success* (`IOSQE_CQE_SKIP_SUCCESS`) posts a
//! completion only if it fails or is short; after one that completed, the next send asks for its
//! completion. A connection is *out of buffers* when it wants to receive and the pool has none. A
//! socket that was accepted above the limit waits in the *backlog*.

mod accept;
mod console;
mod refused;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::buffer::{BufferClass, Pool, Size};
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::engine::Engine;
use crate::keys::{ConnId, ListenerId};
use crate::lifecycle;
use crate::limits::{CloseReason, Ended, Limits};
use crate::loop_state::LoopState;
use crate::os::{self, ShutdownSignal};
use crate::peer::Factory;
use crate::peers::{HEAVY_BYTES, PeerEntry};
use crate::protocol::Protocol;
use crate::ring::{
    AcceptId, CancelTarget, Completion, Cqe, Op, Recv, RecvMode, Ring, Sent, Socket, WIDEST, Wait,
    WakeSource,
};
use crate::status::ServerMonitor;
use accept::AcceptState;
use console::INPUT_SIZE;
use refused::RefusedSockets;

/// A server on a ring.
#[derive(Debug)]
pub struct Proactor<R, P> {
    ring: R,
    state: LoopState<P, Flight, Vec<AcceptState>>,
    /// Connections accepted above the limit, which are not served yet.
    backlog: VecDeque<(ListenerId, Socket, Option<SocketAddr>)>,
    refused: RefusedSockets,
    /// True from a send with `skip_success` until the completions of the next iteration are reaped.
    unconfirmed_sends: bool,
    /// The buffer that the console's input is read into: no connection can hold it.
    console_buffer: Option<Rc<Pool>>,
}

/// A connection's socket and its operations in flight: at most one of each kind.
#[derive(Debug, Default)]
pub struct Flight {
    socket: Socket,
    recv: RecvState,
    send: SendState,
    /// True after a send with `skip_success` has completed: the next one asks for its completion.
    confirm_send: bool,
    /// True if the send in flight waits until the socket takes bytes.
    send_waits: bool,
    shutting_down: bool,
    /// True while the kernel is asked what the peer has not acknowledged.
    asks_outq: bool,
    /// Cancels that have not completed.
    cancels: u8,
    /// True once the close is submitted: the last operation of a connection.
    closing: bool,
}

/// The receive of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum RecvState {
    #[default]
    Idle,
    /// In flight; submitted when the connection preferred buffers of this size.
    InFlight {
        preferred: Size,
        mode: RecvMode,
    },
    Cancelling,
}

/// The send of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SendState {
    #[default]
    Idle,
    InFlight {
        skip_success: bool,
    },
    Cancelling,
}

impl<R: Ring, P: Protocol> Proactor<R, P> {
    /// Creates a server that has no listener yet and that `stop` stops.
    ///
    /// # Errors
    /// The ring refuses its first submission.
    pub fn new(mut ring: R, limits: Limits, stop: ShutdownSignal) -> io::Result<Proactor<R, P>> {
        let mut state = LoopState::new(limits, stop, ring.clock(), Rc::clone(ring.pool()));
        state.peers.receive_into(ring.pool());
        state.peers.move_later();
        let fd = state.lifecycle.shutdown.as_fd();
        ring.submit(Op::Wake { source: WakeSource::Shutdown, fd })?;
        Ok(Proactor {
            ring,
            state,
            backlog: VecDeque::new(),
            refused: RefusedSockets::default(),
            unconfirmed_sends: false,
            console_buffer: None,
        })
    }

    /// Runs one iteration: submit what was queued, sleep until an operation completes, reap,
    /// and resume the connections that completions concern.
    ///
    /// # Errors
    /// The ring as a whole fails.
    pub fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        let is_calm = self.backlog.is_empty() && self.state.is_calm();
        let wait = if is_calm { Wait::Completion } else { self.prepare()? };
        let entered = self.ring.enter(wait)?;
        self.state.peers.counters.iterations += 1;
        self.state.peers.counters.submitted += u64::from(entered.submitted);
        self.state.peers.counters.overflows += u64::from(entered.overflow);
        if let ended @ ControlFlow::Break(_) = self.reap_all()? {
            return Ok(ended);
        }
        self.confirm_sends();
        self.refused.submit(&mut self.ring)?;
        self.resume_ready()?;
        if self.state.peers.has_operator_messages()
            && let ended @ ControlFlow::Break(_) = self.serve_console()
        {
            return Ok(ended);
        }
        let drains = !self.state.lifecycle.is_serving();
        Ok(lifecycle::unless_drained(drains && self.is_drained()))
    }

    /// Prepares an enter. Returns how long it may sleep.
    #[cold]
    fn prepare(&mut self) -> io::Result<Wait> {
        if self.state.run_timers() {
            self.ring.trim();
        }
        while let Some(conn) = self.state.peers.next_asked() {
            self.ask_outq(conn)?;
        }
        if !self.backlog.is_empty() {
            self.open_backlog(); // A pause of the accept rate may have ended.
        }
        if let Some(accepting) = self.state.changed_accepting() {
            self.arm_accepts(accepting)?;
        }
        Ok(self.timeout())
    }

    /// Passes each completion to the connection that it concerns.
    #[inline(never)] // This and the next two: the registers of each are for its own loop.
    fn reap_all(&mut self) -> io::Result<ControlFlow<Ended>> {
        while let Some(cqe) = self.ring.reap() {
            self.state.peers.counters.completed += 1;
            if cqe.brought_bytes()
                && let Some(mut visit) = self.state.peers.visit(cqe.token.conn())
                && visit.peer.is_ordinary()
            {
                if visit.peer.driver.receive_completed(cqe.more()) && self.ring.has_multishot() {
                    visit.counters().multishot_with_bytes += 1;
                }
                visit.received_ordinarily(self.ring.received(cqe));
                visit.mark();
                if !visit.changed_nothing() {
                    self.settle(cqe.token.conn());
                }
                continue;
            }
            if let ended @ ControlFlow::Break(_) = self.reaped(cqe)? {
                return Ok(ended);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    #[inline(never)]
    fn reaped(&mut self, cqe: Cqe) -> io::Result<ControlFlow<Ended>> {
        let completion = self.ring.decode(cqe);
        self.complete(completion)
    }

    /// Ends the sends that succeeded and therefore posted no completion.
    #[inline(never)]
    fn confirm_sends(&mut self) {
        while let Some((conn, n)) = self.ring.next_implied() {
            let Some(mut visit) = self.state.peers.visit(conn) else { continue };
            debug_assert!(visit.peer.driver.send != SendState::Idle, "one send is in flight");
            visit.peer.driver.send = SendState::Idle;
            visit.sent(n);
            // Most are owed nothing more, and a receive is in flight.
            let rests = visit.peer.driver.recv != RecvState::Idle;
            if !rests || !visit.peer.connection.outgoing().is_empty() {
                visit.mark();
            }
            if !visit.changed_nothing() {
                visit.mark();
                self.settle(conn);
            }
        }
        self.unconfirmed_sends = false;
    }

    #[cold]
    fn settle(&mut self, conn: ConnId) {
        if self.state.peers.visit(conn).is_some_and(|visit| !visit.is_settled()) {
            self.state.peers.settle(conn);
        }
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.state.peers.len()
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
            Completion::Accept { accept, outcome, more } => self.accepted(accept, outcome, more)?,
            Completion::Recv { conn, outcome, more } => self.received(conn, outcome, more),
            Completion::Send { conn, outcome } => self.sent(conn, outcome),
            Completion::Shutdown { conn } if self.refused.shut_down(conn) => {}
            Completion::Close { conn } if self.refused.closed(conn) => {}
            Completion::Shutdown { conn } => {
                self.update(conn, |flight| {
                    debug_assert!(flight.shutting_down, "one shutdown is in flight");
                    flight.shutting_down = false;
                });
                self.state.peers.shut_down(conn);
            }
            Completion::Close { conn } => self.closed(conn),
            Completion::Cancel { target: CancelTarget::Recv(conn) | CancelTarget::Send(conn) } => {
                self.update(conn, |flight| {
                    debug_assert!(flight.cancels > 0, "a cancel completes once");
                    flight.cancels -= 1;
                });
                self.state.peers.mark(conn);
            }
            Completion::Cancel { target: CancelTarget::Accept(AcceptId { listener, slot }) } => {
                self.state.listeners[listener.index()].state[usize::from(slot)].cancel_completed();
                self.state.listeners_changed = true;
            }
            Completion::Outq { conn, outq } => {
                self.update(conn, |flight| flight.asks_outq = false);
                self.state.peers.mark(conn);
                self.state.peers.acknowledged(conn, outq);
            }
            Completion::Internal => {}
            Completion::Read { outcome } => return self.console_input(outcome),
            Completion::Wake { source: WakeSource::Shutdown } => return self.shutdown_requested(),
            Completion::Wake { source: WakeSource::Monitor } => self.serve_monitor()?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn received(&mut self, conn: ConnId, outcome: Recv, more: bool) {
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        let recv = visit.peer.driver.recv;
        let at_once = matches!(recv, RecvState::InFlight { mode: RecvMode::AtOnce, .. });
        let preferred = self.ring.pool().clamp(visit.peer.connection.recv_size());
        if visit.peer.driver.receive_completed(more) && self.ring.has_multishot() {
            *multishot_ended(visit.counters(), &outcome) += 1;
        }
        match outcome {
            Recv::Data(chunk) => self.state.peers.received(conn, chunk),
            Recv::End => self.state.peers.ended(conn),
            // The kernel had used up what it was lent: the next enter lends more.
            Recv::NoBuffer if self.ring.pool().idle(preferred) > 0 => visit.mark(),
            Recv::NoBuffer => self.state.peers.wait_for_buffer(conn),
            Recv::Nothing if at_once => self.state.peers.last_input_taken(conn),
            Recv::Nothing | Recv::Cancelled => visit.mark(),
            Recv::Failed(error) => self.state.peers.broken(conn, CloseReason::failed(&error)),
        }
    }

    /// A send has completed.
    fn sent(&mut self, conn: ConnId, outcome: Sent) {
        let taken = self.ring.take_back(conn);
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        if let Some(chunk) = taken {
            visit.peer.connection.put_back(chunk);
        }
        let flight = &mut visit.peer.driver;
        debug_assert!(flight.send != SendState::Idle, "one send is in flight");
        // One with `skip_success` that completes was short, has failed, or could not skip its
        // completion: the kernel has no `CqeSkip`, or the queue has too many chunks.
        flight.confirm_send = flight.send == SendState::InFlight { skip_success: true };
        let is_short = !flight.send_waits
            && flight.send != SendState::Cancelling
            && !matches!(outcome, Sent::Failed(_));
        (flight.send, flight.send_waits) = (SendState::Idle, false);
        if is_short {
            visit.note_short_send();
        }
        visit.mark();
        match outcome {
            Sent::Bytes(n) => self.state.peers.sent(conn, n),
            Sent::Cancelled => self.state.peers.fell_short(conn),
            Sent::Failed(error) => self.state.peers.broken(conn, CloseReason::failed(&error)),
        }
    }

    fn closed(&mut self, conn: ConnId) {
        let flight = self.state.closed(conn);
        debug_assert!(flight.closing && flight.is_empty(), "a close is the last operation");
        self.state.listeners_changed = true; // There may be space for more.
        self.open_backlog();
    }

    /// Returns how long this iteration may sleep.
    fn timeout(&self) -> Wait {
        // A connection that waits for a buffer may get the one that a send with `skip_success` is
        // about to free.
        if self.state.peers.has_marked()
            || self.is_drained() // The last connection may have closed as the drain began.
            || self.state.peers.has_taken()
            || (self.unconfirmed_sends && self.state.peers.has_buffer_waiters())
        {
            return Wait::No;
        }
        self.state.next_timer().map_or(Wait::Completion, Wait::Until)
    }

    #[inline(never)]
    fn resume_ready(&mut self) -> io::Result<()> {
        self.wake_buffer_waiters();
        let scarce = self.ring.pool().has_scarce();
        self.state.peers.begin_iteration(scarce, false);
        self.state.peers.begin();
        while let Some(visit) = self.state.peers.next_ready() {
            let conn = visit.id;
            if scarce {
                release_scarce(&mut *visit.peer);
            }
            // Then only what it is owed may have to be submitted: `resume` in short, for most.
            let receiving = RecvState::InFlight { preferred: Size::SMALLEST, mode: RecvMode::Many };
            if visit.is_light && visit.peer.driver.recv == receiving {
                let peer = visit.peer;
                let owes = !peer.connection.outgoing().is_empty();
                if owes && peer.driver.send == SendState::Idle {
                    let skips = submit_send(&mut self.ring, conn, peer)?;
                    self.sent_later(conn, skips);
                }
                continue;
            }
            self.resume(conn)?;
        }
        if scarce {
            self.wake_buffer_waiters(); // For the buffers that were released.
        }
        Ok(())
    }

    /// Submits the difference between what a connection wants and what it has in flight.
    #[inline(never)]
    fn resume(&mut self, conn: ConnId) -> io::Result<()> {
        let (ring, peers) = (&mut self.ring, &mut self.state.peers);
        let light = peers.expects_light();
        let Some(visit) = peers.visit(conn) else { return Ok(()) };
        let mut skips_success = None;
        let (wants_recv, any_size) = (visit.wants_recv(), visit.takes_any_size());
        let peer = visit.peer;
        match peer.driver.send {
            SendState::Idle if !peer.connection.outgoing().is_empty() => {
                skips_success = Some(submit_send(ring, conn, peer)?);
            }
            SendState::InFlight { .. } if peer.connection.is_broken() => {
                let flight = &mut peer.driver;
                flight.send = SendState::Cancelling;
                flight.cancels += 1;
                ring.submit(Op::Cancel { target: CancelTarget::Send(conn) })?;
            }
            _ => {}
        }
        let no_recv = resume_recv(ring, conn, peer, wants_recv, any_size, light)?;
        let (connection, flight) = (&mut peer.connection, &mut peer.driver);
        let socket = flight.socket;
        if connection.wants_shutdown() && !flight.shutting_down {
            flight.shutting_down = true;
            ring.submit(Op::Shutdown { conn, socket })?;
        }
        if connection.is_finished() && flight.is_empty() && !flight.closing {
            flight.closing = true;
            ring.submit(Op::Close { conn, socket })?;
        }
        if let Some(skips_success) = skips_success {
            self.sent_later(conn, skips_success);
        }
        match no_recv {
            Some(NoRecv::NoBuffer) => self.state.peers.wait_for_buffer(conn),
            Some(NoRecv::LastInputTaken) => self.state.peers.last_input_taken(conn),
            Some(NoRecv::CancelsMany) if self.ring.has_multishot() => {
                self.state.peers.counters.multishot_cancelled += 1;
            }
            Some(NoRecv::CancelsMany) | None => {}
        }
        Ok(())
    }

    /// A send was submitted, which posts a completion or skips it.
    fn sent_later(&mut self, conn: ConnId, skips_success: bool) {
        self.unconfirmed_sends |= skips_success;
        if !skips_success {
            self.update(conn, |flight| flight.send_waits = true);
            self.state.peers.fell_short(conn); // It may wait for its peer.
        }
    }

    fn wake_buffer_waiters(&mut self) {
        if self.state.peers.has_buffer_waiters() {
            // They will all receive into the most plentiful size (`Ring::buffer_for`).
            let pool = self.ring.pool();
            self.state.peers.wake_buffer_waiters(pool.unfilled(pool.most_plentiful()));
        }
    }

    /// Finds out what the peer of a connection has not acknowledged: by a call where the socket has
    /// a descriptor, else by an operation.
    fn ask_outq(&mut self, conn: ConnId) -> io::Result<()> {
        let Some(peer) = self.state.peers.get_mut(conn) else { return Ok(()) };
        let (socket, flight) = (peer.driver.socket, &mut peer.driver);
        if !self.ring.has_outq() {
            let outq = self.ring.descriptor(socket).and_then(|fd| os::unsent(fd).ok());
            self.state.peers.acknowledged(conn, outq);
        } else if !flight.asks_outq && !flight.closing {
            flight.asks_outq = true;
            self.ring.submit(Op::Outq { conn, socket })?;
        }
        Ok(())
    }

    /// The shutdown signal was reported.
    fn shutdown_requested(&mut self) -> io::Result<ControlFlow<Ended>> {
        let flow = self.state.take_requests();
        if flow.is_continue() {
            self.open_backlog(); // The drain may have begun.
            let fd = self.state.lifecycle.shutdown.as_fd();
            self.ring.submit(Op::Wake { source: WakeSource::Shutdown, fd })?;
        }
        Ok(flow)
    }

    /// Serves the monitor, if there is one, and waits for it again.
    fn serve_monitor(&mut self) -> io::Result<()> {
        let accepted = self.backlog.len();
        self.state.serve_monitor(|status| status.open += accepted);
        self.watch_monitor()
    }

    fn watch_monitor(&mut self) -> io::Result<()> {
        let Some(monitor) = &self.state.monitor else { return Ok(()) };
        self.ring.submit(Op::Wake { source: WakeSource::Monitor, fd: monitor.fd() }).map(drop)
    }

    fn is_drained(&self) -> bool {
        let mut accepts = self.state.listeners.iter().flat_map(|listener| &listener.state);
        let rests = self.backlog.is_empty() && self.refused.is_empty();
        self.state.is_drained() && rests && accepts.all(AcceptState::is_idle)
    }

    fn update(&mut self, conn: ConnId, change: impl FnOnce(&mut Flight)) {
        if let Some(peer) = self.state.peers.get_mut(conn) {
            change(&mut peer.driver);
        }
    }
}

impl<R: Ring, P: Protocol> Engine<P> for Proactor<R, P> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        self.state.listen(id, fd, &factory)
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        self.console_buffer = Some(Pool::new(&[BufferClass { bytes: INPUT_SIZE, count: 1 }])?);
        self.state.set_console(console);
        self.read_console()
    }

    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()> {
        self.state.monitor = Some(monitor);
        self.watch_monitor()
    }

    fn run(&mut self, live: Option<&LiveCounters>) -> io::Result<Ended> {
        self.state.begin();
        lifecycle::run(|| {
            let flow = self.run_once()?;
            self.state.publish(live);
            Ok(flow)
        })
    }

    fn counters(&self) -> Counters {
        self.state.counters()
    }
}

impl Flight {
    /// The receive has completed; with `more` it stays in flight. Returns true if it ends although
    /// it was armed for many completions and not cancelled.
    fn receive_completed(&mut self, more: bool) -> bool {
        debug_assert!(self.recv != RecvState::Idle, "one receive is in flight");
        if more {
            return false;
        }
        let ended = std::mem::replace(&mut self.recv, RecvState::Idle);
        matches!(ended, RecvState::InFlight { mode: RecvMode::Many, .. })
    }

    /// Returns true if no operation is in flight, except the close.
    fn is_empty(&self) -> bool {
        self.recv == RecvState::Idle
            && self.send == SendState::Idle
            && !self.shutting_down
            && !self.asks_outq
            && self.cancels == 0
    }
}

/// Copies to the heap what is queued in the smallest buffers, before it is sent; and what is behind
/// a send that waits, in buffers of any size.
#[cold]
fn release_scarce<P: Protocol>(peer: &mut PeerEntry<P, Flight>) {
    let waits = peer.driver.send != SendState::Idle;
    peer.connection.release_scarce(if waits { Size::LARGEST } else { Size::SMALLEST });
}

/// Returns the counter of multishot receives that end in this way.
#[cold]
fn multishot_ended<'c>(counters: &'c mut Counters, outcome: &Recv) -> &'c mut u64 {
    match outcome {
        Recv::Data(_) => &mut counters.multishot_with_bytes,
        Recv::End => &mut counters.multishot_end,
        Recv::NoBuffer => &mut counters.multishot_no_buffer,
        Recv::Nothing | Recv::Cancelled => &mut counters.multishot_cancelled,
        Recv::Failed(_) => &mut counters.multishot_failed,
    }
}

/// Why a connection does not receive although it wants to.
enum NoRecv {
    NoBuffer,
    LastInputTaken,
    /// A receive of [`RecvMode::Many`] was cancelled, to be armed in another way or not at all.
    CancelsMany,
}

/// Submits the receive that a connection wants and has not in flight. One that waits in another way
/// than would be right now is cancelled, and then submitted anew.
fn resume_recv<R: Ring, P: Protocol>(
    ring: &mut R,
    conn: ConnId,
    peer: &mut PeerEntry<P, Flight>,
    wants_recv: bool,
    any_size: bool,
    light: bool,
) -> io::Result<Option<NoRecv>> {
    let at_once = peer.takes_last_input();
    let enough = at_once && peer.has_taken_enough();
    let (connection, flight) = (&peer.connection, &mut peer.driver);
    let preferred = ring.pool().clamp(connection.recv_size());
    match flight.recv {
        RecvState::Idle if !wants_recv || flight.cancels > 0 => {} // Until that completes.
        RecvState::Idle if enough => return Ok(Some(NoRecv::LastInputTaken)),
        RecvState::Idle => {
            let Some(size) = ring.buffer_for(preferred, any_size) else {
                return Ok(Some(NoRecv::NoBuffer));
            };
            let fits = size == Size::SMALLEST || connection.recv_fits();
            let mode = match at_once {
                true => RecvMode::AtOnce,
                false if fits && may_fill_many(ring, size, light) => RecvMode::Many,
                false => RecvMode::Once,
            };
            flight.recv = RecvState::InFlight { preferred, mode };
            ring.submit(Op::Recv { conn, socket: flight.socket, size, mode })?;
        }
        RecvState::InFlight { mode: RecvMode::AtOnce, .. } | RecvState::Cancelling => {}
        RecvState::InFlight { preferred: size, mode } => {
            let is_many = mode == RecvMode::Many;
            let stays = wants_recv && size == preferred && !at_once;
            if !stays || (is_many && !may_fill_many(ring, size, light)) {
                flight.recv = RecvState::Cancelling;
                flight.cancels += 1;
                ring.submit(Op::Cancel { target: CancelTarget::Recv(conn) })?;
                return Ok(is_many.then_some(NoRecv::CancelsMany));
            }
        }
    }
    Ok(None)
}

/// Returns true if a receive may stay armed, and fill as many buffers of this size as it finds.
/// Those of the smallest size are soon passed on. For what fills larger ones, light connections
/// would wait: if `light` ones are expected, or if as many are lent at a time as heavy connections
/// may move at most, a receive fills one.
fn may_fill_many<R: Ring>(ring: &R, size: Size, light: bool) -> bool {
    let bytes = WIDEST * ring.pool().shape(size).bytes;
    size == Size::SMALLEST || (!light && bytes < HEAVY_BYTES)
}

/// Submits a send of what a connection is owed. None is in flight. Returns true if a success posts
/// no completion.
#[inline(always)] // Once for each message.
fn submit_send<R: Ring, P: Protocol>(
    ring: &mut R,
    conn: ConnId,
    peer: &mut PeerEntry<P, Flight>,
) -> io::Result<bool> {
    if ring.is_full() {
        ring.make_space()?;
    }
    let (connection, flight) = (&mut peer.connection, &mut peer.driver);
    // If nothing waits for its success, the send posts no completion.
    let skip_success = connection.is_ordinary() && !flight.confirm_send;
    flight.send = SendState::InFlight { skip_success };
    Ok(ring.push_send(conn, flight.socket, connection.outgoing_mut(), skip_success))
}
