//! The ring loop: issue operations, reap completions, resume whom they concern.
//!
//! ```text
//!         ┌──────────────── enter ────────────────┐  lend the idle buffers, submit, sleep
//!         ▼                                       │
//!   reap: Completion ──► Peers.received / sent / …│  state only; nothing is submitted
//!         │              mark the connection      │
//!         ▼                                       │
//!   each that is marked: resume ──────────────────┘  wants − in flight ──► Op
//! ```
//!
//! Two steps, never mixed: first everything is reaped, then each marked connection is resumed
//! once. `resume` compares what a connection wants with what it has in flight and issues the
//! difference; there is no case in it for backpressure, half-close, reset or drain, because those
//! are different wants. Teardown is a *join*: a connection is closed when nothing of it is in
//! flight any more, not even a cancel.
//!
//! Terms: a send with *skip_success* (`IOSQE_CQE_SKIP_SUCCESS`) posts a completion only if it fails
//! or comes short; after a short one, the next send asks for its completion. A connection is *out of
//! buffers* when it wants to receive and the pool has none. A socket accepted above the limit of
//! connections waits in the *backlog*.

mod accept;
mod console;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::buffer::Size;
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::limits::{Ended, Limits, Stage};
use crate::os::{self, ShutdownSignal};
use crate::peers::{Peers, ReadyPeer};
use crate::protocol::Protocol;
use crate::ring::{CancelTarget, Completion, ListenerId, Op, Recv, Ring, Sent, Socket, Wait};
use accept::Listener;
use console::ConsoleInput;

/// A server on a ring.
#[derive(Debug)]
pub struct Proactor<R, P> {
    ring: R,
    peers: Peers<P, Flight>,
    listeners: Vec<Listener<P>>,
    /// Accepted beyond the limit: connected, not yet served.
    backlog: VecDeque<(ListenerId, Socket)>,
    limits: Limits,
    stop: ShutdownSignal,
    stage: Stage,
    /// Until when no accept is armed, after one failed for want of resources.
    accept_at: Option<Nanos>,
    /// Whether quiet sends were issued of which it is not known yet how they went.
    unconfirmed_sends: bool,
    /// Where the operator sits, if there is one.
    desk: Option<Box<ConsoleInput>>,
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

/// A connection's socket and its operations in flight.
#[derive(Debug)]
pub struct Flight {
    socket: Socket,
    receiving: InFlight,
    /// The size that the connection would have had when the receive in flight was issued.
    recv_size: Size,
    sending: InFlight,
    /// Whether the send in flight is one that says nothing if all of it goes.
    skip_success: bool,
    /// True while the peer takes less than it is owed: sends wait, and say how they went.
    await_send: bool,
    shutting: bool,
    /// Cancels that have not completed.
    cancels: u8,
    /// True from submitting the close: the last thing that is done.
    closing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    No,
    Yes,
    Cancelling,
}

impl<R: Ring, P: Protocol + Clone> Proactor<R, P> {
    /// A server without a listener, which `stop` can stop.
    ///
    /// # Errors
    /// The ring refuses its first submission.
    pub fn new(mut ring: R, limits: Limits, stop: ShutdownSignal) -> io::Result<Proactor<R, P>> {
        let calls_before = os::calls();
        ring.submit(Op::Wake { fd: stop.as_fd() })?;
        Ok(Proactor {
            ring,
            peers: Peers::new(limits.max_input),
            listeners: Vec::new(),
            backlog: VecDeque::new(),
            limits,
            stop,
            stage: Stage::Serving,
            accept_at: None,
            unconfirmed_sends: false,
            desk: None,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Serves `protocol` to whoever connects to `fd`, a listening socket. Each listener is a room
    /// of its own.
    pub fn listen(&mut self, fd: OwnedFd, protocol: P) {
        let accepting = InFlight::No;
        self.listeners.push(Listener { fd: Some(fd), protocol, accepting, cancelling: false });
    }

    /// Turns until it is stopped.
    ///
    /// # Errors
    /// The ring as a whole fails.
    pub fn run(&mut self) -> io::Result<Ended> {
        if let Some(desk) = &mut self.desk {
            desk.console.begin();
        }
        loop {
            if let Some(ended) = self.turn()? {
                return Ok(ended);
            }
        }
    }

    /// One turn: submit what was issued, sleep until something completes, resume whom it concerns.
    ///
    /// # Errors
    /// The ring as a whole fails.
    pub fn turn(&mut self) -> io::Result<Option<Ended>> {
        self.arm_accepts()?;
        let wait = self.wait();
        let entered = self.ring.enter(wait)?;
        self.counters.turns += 1;
        self.counters.submitted += u64::from(entered.submitted);
        self.counters.overflows += u64::from(entered.overflow);
        while let Some(completion) = self.ring.next() {
            self.counters.completed += 1;
            if self.complete(completion)? {
                return Ok(Some(Ended::AtOnce));
            }
        }
        // Quiet sends that went out whole.
        while let Some((conn, n)) = self.ring.next_implied() {
            self.sent(conn, Sent::Bytes(n));
        }
        self.unconfirmed_sends = false;
        self.resume_ready()?;
        if self.peers.has_messages() && self.attend() {
            return Ok(Some(Ended::AtOnce));
        }
        Ok(self.is_drained().then_some(Ended::Drained))
    }

    /// What it has counted.
    pub fn counters(&self) -> Counters {
        let calls = os::calls() - self.calls_before;
        Counters { calls, evicted: self.peers.evicted(), ..self.counters }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    /// Its ring.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// Its ring, to play with.
    pub fn ring_mut(&mut self) -> &mut R {
        &mut self.ring
    }

    /// Steps whom a completion concerns. Submits nothing that is a connection's; answers whether
    /// the server was asked to end at once.
    fn complete(&mut self, completion: Completion) -> io::Result<bool> {
        match completion {
            Completion::Accept { listener, outcome, more } => {
                self.accepted(listener, outcome, more)
            }
            Completion::Recv { conn, outcome, more } => self.received(conn, outcome, more),
            Completion::Send { conn, outcome } => {
                // A quiet send that says something was short: the next one waits.
                self.update(conn, |flight| flight.await_send = flight.skip_success);
                self.sent(conn, outcome);
            }
            Completion::Shutdown { conn } => {
                self.update(conn, |flight| flight.shutting = false);
                self.peers.shut_down(conn);
            }
            Completion::Close { conn } => self.closed(conn),
            Completion::Cancel { target: CancelTarget::Recv(conn) | CancelTarget::Send(conn) } => {
                self.update(conn, |flight| flight.cancels -= 1);
                self.peers.mark(conn);
            }
            Completion::Cancel { target: CancelTarget::Accept(listener) } => {
                self.listeners[listener.0 as usize].cancelling = false;
            }
            Completion::Internal => {}
            Completion::Read { outcome } => return self.typed(outcome),
            Completion::Wake => return self.stop(),
        }
        Ok(false)
    }

    fn received(&mut self, conn: ConnId, outcome: Recv, more: bool) {
        if !more {
            self.update(conn, |flight| flight.receiving = InFlight::No);
        }
        match outcome {
            Recv::Data(chunk) => {
                self.counters.receives += 1;
                self.counters.received_bytes += chunk.len() as u64;
                self.peers.received(conn, chunk);
            }
            Recv::End => self.peers.ended(conn),
            Recv::NoBuffer => {
                self.counters.out_of_buffers += 1;
                self.peers.wait_for_buffer(conn);
            }
            Recv::Cancelled => self.peers.mark(conn),
            Recv::Failed(_) => self.peers.broken(conn),
        }
    }

    fn sent(&mut self, conn: ConnId, outcome: Sent) {
        self.update(conn, |flight| flight.sending = InFlight::No);
        match outcome {
            Sent::Bytes(n) => {
                self.counters.sends += 1;
                self.counters.sent_bytes += n as u64;
                self.peers.sent(conn, n);
            }
            Sent::Cancelled => self.peers.mark(conn),
            Sent::Failed(_) => self.peers.broken(conn),
        }
    }

    fn closed(&mut self, conn: ConnId) {
        self.peers.remove(conn).expect("a connection is closed once");
        self.counters.closed += 1;
        self.accept_at = None;
        if let Some((listener, socket)) = self.backlog.pop_front() {
            self.open(listener, socket);
        }
    }

    /// How long this turn may sleep. What is due by the clock is done on the way.
    fn wait(&mut self) -> Wait {
        let ring = &self.ring;
        let timer = self.peers.tick(|| ring.now());
        let drain = self.stage.deadline();
        // Who starves may be waiting for a buffer that a quiet send is about to free.
        let hasty =
            self.peers.has_marked() || (self.unconfirmed_sends && self.peers.has_buffer_waiters());
        let Some(due) = [timer, drain, self.accept_at].into_iter().flatten().min() else {
            return if hasty { Wait::No } else { Wait::Completion };
        };
        let now = self.ring.now();
        self.accept_at = self.accept_at.filter(|&at| at > now);
        if drain.is_some_and(|until| until <= now) {
            self.cut();
        }
        if hasty || self.peers.has_marked() || due <= now { Wait::No } else { Wait::Until(due) }
    }

    fn resume_ready(&mut self) -> io::Result<()> {
        let pool = self.ring.pool();
        self.peers.wake_buffer_waiters(pool.unfilled(pool.largest_free()));
        self.peers.begin();
        while let Some(ready) = self.peers.next_ready() {
            let conn = ready.id;
            let Resumed { skip_success, out_of_buffers } = resume(&mut self.ring, ready)?;
            self.unconfirmed_sends |= skip_success;
            if out_of_buffers {
                self.counters.out_of_buffers += 1;
                self.peers.wait_for_buffer(conn);
            }
        }
        Ok(())
    }

    /// Somebody asked it to stop, or it seemed so; answers whether at once.
    fn stop(&mut self) -> io::Result<bool> {
        match self.stage.asked(self.stop.take()) {
            None => {}
            Some(Ended::Drained) => self.drain(),
            Some(Ended::AtOnce) => return Ok(true),
        }
        self.ring.submit(Op::Wake { fd: self.stop.as_fd() })?;
        Ok(false)
    }

    fn drain(&mut self) {
        self.stage = Stage::Draining(self.ring.now() + self.limits.drain);
        while let Some((listener, socket)) = self.backlog.pop_front() {
            self.open(listener, socket);
        }
        self.peers.finish_all();
    }

    fn cut(&mut self) {
        self.stage = Stage::Cutting;
        self.counters.cut = self.peers.len() as u64;
        self.peers.break_all();
    }

    fn is_drained(&self) -> bool {
        self.stage != Stage::Serving
            && self.peers.is_empty()
            && self.listeners.iter().all(Listener::is_idle)
    }

    fn update(&mut self, conn: ConnId, change: impl FnOnce(&mut Flight)) {
        if let Some(peer) = self.peers.get_mut(conn) {
            change(&mut peer.driver);
        }
    }
}

impl Flight {
    fn new(socket: Socket) -> Flight {
        Flight {
            socket,
            receiving: InFlight::No,
            recv_size: Size::SMALLEST,
            sending: InFlight::No,
            skip_success: false,
            await_send: false,
            shutting: false,
            cancels: 0,
            closing: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.receiving == InFlight::No
            && self.sending == InFlight::No
            && !self.shutting
            && self.cancels == 0
            && !self.closing
    }
}

/// What the loop must know of a connection that was resumed.
#[derive(Debug, Clone, Copy, Default)]
struct Resumed {
    /// A quiet send was issued.
    skip_success: bool,
    /// It wants to receive, and there is no buffer.
    out_of_buffers: bool,
}

/// Issues the difference between what a connection wants and what it has in flight.
fn resume<R: Ring, P: Protocol>(
    ring: &mut R,
    ready: ReadyPeer<'_, P, Flight>,
) -> io::Result<Resumed> {
    let mut resumed = Resumed::default();
    let ReadyPeer { id: conn, peer, wants_recv, any_size } = ready;
    let (connection, flight) = (&peer.connection, &mut peer.driver);
    let socket = flight.socket;

    match flight.sending {
        InFlight::No if !connection.outgoing().is_empty() => {
            let queue = connection.outgoing();
            // Nothing waits to hear that it went.
            let skip_success = connection.can_skip_completion() && !flight.await_send;
            (flight.sending, flight.skip_success, resumed.skip_success) =
                (InFlight::Yes, skip_success, skip_success);
            ring.submit(Op::Send { conn, socket, queue, skip_success })?;
        }
        InFlight::Yes if connection.is_broken() => {
            flight.sending = InFlight::Cancelling;
            flight.cancels += 1;
            ring.submit(Op::Cancel { target: CancelTarget::Send(conn) })?;
        }
        _ => {}
    }
    // One that waits for another size than would suit now is cancelled, and then issued anew.
    let recv_size = ring.pool().clamp(connection.recv_size());
    match flight.receiving {
        InFlight::No if wants_recv && flight.cancels > 0 => {} // Resumed again when it is answered.
        InFlight::No if wants_recv && ring.out_of_buffers(recv_size) => {
            resumed.out_of_buffers = true
        }
        InFlight::No if wants_recv => {
            (flight.receiving, flight.recv_size) = (InFlight::Yes, recv_size);
            let pool = ring.pool();
            let size = if any_size { pool.largest_free() } else { pool.nearest(recv_size) };
            ring.submit(Op::Recv { conn, socket, size })?;
        }
        InFlight::Yes if !wants_recv || flight.recv_size != recv_size => {
            flight.receiving = InFlight::Cancelling;
            flight.cancels += 1;
            ring.submit(Op::Cancel { target: CancelTarget::Recv(conn) })?;
        }
        _ => {}
    }
    if connection.wants_shutdown() && !flight.shutting {
        flight.shutting = true;
        ring.submit(Op::Shutdown { conn, socket })?;
    }
    if connection.is_finished() && flight.is_empty() {
        flight.closing = true;
        ring.submit(Op::Close { conn, socket })?;
    }
    Ok(resumed)
}
