//! What the tasks of a coroutine server share. None of its methods waits.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proactor::address::{self, LISTEN_BACKLOG};
use proactor::buffer::{Chunk, Pool, SEND_MAX, Size};
use proactor::calls::{Calls, SLEEPS};
use proactor::clock::Nanos;
use proactor::console::SocketInfo;
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::Stage;
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::loop_state::LoopState;
use proactor::os::{self, AcceptFailure, Clock, ShutdownSignal};
use proactor::peer::Made;
use proactor::peers::{LightExpected, is_heavy};
use proactor::protocol::Protocol;
use proactor::selector::Interest;

use super::watched::{SocketReady, WatchedFd};
use crate::hooks::CallHooks;

pub(super) struct ServerState {
    pub(super) core: LoopState<Box<dyn Protocol>, TaskState, ()>,
    pub(super) pool: Rc<Pool>,
    /// How the server ends before every connection is closed.
    ended: Option<io::Result<Ended>>,
    /// True once a task has panicked: its connection would never be removed.
    pub(super) panicked: bool,
    /// When a timer expires next.
    pub(super) due: Option<Nanos>,
    /// When [`run_timers`](super::TaskServer::run_timers) will be woken in any case.
    pub(super) alarm: Option<Nanos>,
    /// Tasks that wait for a change of the server itself: for capacity, for the drain, for the end,
    /// for a timer, for a message to the operator.
    waiting: Vec<Waker>,
    /// The heavy connections that wait for a permit, in the order in which they began to.
    pub(super) heavy: VecDeque<ConnId>,
    pub(super) light: LightExpected,
    /// The task that gives permits, while no connection waits for one.
    pub(super) awaits_heavy: Option<Waker>,
}

/// The task of a connection, as the others see it.
#[derive(Debug)]
pub(super) struct TaskState {
    pub(super) waker: Waker,
    /// The readiness of its socket that it awaits; `None` if it has yielded.
    awaits: Option<Interest>,
    /// True if it has to find what its peer has not acknowledged.
    asks_outq: bool,
    /// Whether it may do its next operation, if its connection is heavy.
    pub(super) permit: Permit,
    /// The peer's address, if there is a console to show it.
    address: Option<String>,
}

impl TaskState {
    /// The state of a task that has not run yet.
    pub(super) fn new(address: Option<String>) -> TaskState {
        TaskState {
            waker: Waker::noop().clone(),
            awaits: None,
            asks_outq: false,
            permit: Permit::None,
            address,
        }
    }

    /// Returns what the console shows of it.
    pub(super) fn socket_info(&self) -> SocketInfo {
        let Interest { readable, writable } = self.awaits.unwrap_or_default();
        let yields = self.awaits.is_none();
        let doing = [(readable, "awaits read"), (writable, "awaits write"), (yields, "yields")];
        let doing = doing.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned());
        SocketInfo { address: self.address.clone(), doing: doing.collect() }
    }
}

/// The permit of a heavy connection for one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    None,
    Awaited,
    Given,
}

/// The next operation of a connection, once its socket is ready for it.
pub(super) enum TaskStep<'a> {
    Receive(SocketReady<'a>),
    /// The last input, for which its socket need not have been reported.
    ReceiveLast,
    Send(SocketReady<'a>),
    /// Its socket is ready, and it must wait for its permit.
    AwaitPermit,
    ShutDown,
    Close,
}

/// Adds the waits of the executor.
fn waited(mut counters: Counters, waits: u64) -> Counters {
    counters.calls += waits;
    counters.iterations = waits;
    counters
}

impl ServerState {
    pub(super) fn new(pool: Rc<Pool>, limits: Limits, stop: ShutdownSignal) -> ServerState {
        ServerState {
            core: LoopState::new(limits, stop, Clock::default(), Rc::clone(&pool)),
            pool,
            ended: None,
            panicked: false,
            due: None,
            alarm: None,
            waiting: Vec::new(),
            heavy: VecDeque::new(),
            light: LightExpected::default(),
            awaits_heavy: None,
        }
    }

    /// Returns what was counted, with so many waits of the executor.
    pub(super) fn counters(&self, waits: u64) -> Counters {
        waited(self.core.counters(), waits)
    }

    /// Opens a connection for an accepted socket, whose protocol was made.
    pub(super) fn open(
        &mut self,
        listener: ListenerId,
        made: Made<Box<dyn Protocol>>,
        socket: BorrowedFd<'_>,
    ) -> ConnId {
        let address = self.core.console.as_ref().and_then(|_| address::of_peer(socket));
        let id = self.core.peers.open(made, listener, TaskState::new(address));
        self.core.run_timers(); // It may be the last that the limit permits.
        if !self.core.lifecycle.is_serving() {
            self.core.peers.take_last_input_of(id);
        }
        self.settle(Some(id)); // The protocol may have sent to others.
        id
    }

    /// Returns true if another connection is accepted now.
    pub(super) fn accepts(&self) -> bool {
        self.core.lifecycle.accepts(self.core.peers.len())
    }

    /// An accept brought no connection. Returns true if the listener has failed for good; if it
    /// was the last, the server ends.
    pub(super) fn listener_failed(
        &mut self,
        listener: ListenerId,
        failure: AcceptFailure,
        ready: Option<SocketReady<'_>>,
    ) -> bool {
        if let AcceptFailure::NoConnection = failure {
            ready.into_iter().for_each(|mut ready| ready.clear_ready());
            self.core.listeners[listener.index()].none_waits();
        }
        if let Err(error) = self.core.not_accepted(listener, failure) {
            self.ended = Some(Err(error));
            self.changed();
        }
        if !self.core.lifecycle.is_serving() {
            self.changed();
        }
        self.settle(None); // The end of the pause is a timer.
        self.core.listeners[listener.index()].failed
    }

    /// Returns the next operation of a connection, if its socket is ready for one that it wants
    /// now; if not, its task is woken when that may have changed, by its socket or by another task,
    /// and it has `waited`.
    pub(super) fn poll_step<'a>(
        &mut self,
        calls: &impl CallHooks,
        socket: &'a WatchedFd,
        id: ConnId,
        waited: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<TaskStep<'a>> {
        let asked = self.core.peers.get_mut(id).map(|peer| &mut peer.driver.asks_outq);
        if asked.is_some_and(std::mem::take) {
            self.core.peers.acknowledged(id, os::unsent(socket.as_fd()).ok());
            self.settle(Some(id)); // It may have been closed.
        }
        while self.core.peers.holds_input(id) && self.core.peers.resume_input(id) {}
        self.core.peers.note_cannot_receive(id);
        let readable = self.core.peers.visit(id).is_some_and(|visit| visit.wants_recv());
        let peer = self.core.peers.get_mut(id).expect("only its own task removes a connection");
        let (task, connection) = (&mut peer.driver, &peer.connection);
        let writable = !connection.outgoing().is_empty();
        task.waker.clone_from(cx.waker());
        task.awaits = Some(Interest { readable, writable });
        let (step, receives) = if connection.is_finished() {
            return Poll::Ready(TaskStep::Close);
        } else if connection.wants_shutdown() {
            return Poll::Ready(TaskStep::ShutDown);
        } else if writable && let Poll::Ready(ready) = socket.poll_write_ready(cx) {
            // A reply is sent first, from a buffer that is still in the cache.
            (ready.map(TaskStep::Send), false)
        } else if readable && peer.takes_last_input() {
            (Ok(TaskStep::ReceiveLast), true)
        } else if readable && let Poll::Ready(ready) = socket.poll_read_ready(cx) {
            (ready.map(TaskStep::Receive), true)
        } else {
            *waited = true;
            if writable && self.pool.has_scarce() {
                peer.connection.release_scarce(Size::LARGEST);
                self.settle(Some(id)); // Others may wait for the buffers.
            }
            if self.core.peers.has_taken() {
                self.settle(None);
            }
            return Poll::Pending;
        };
        let permit = std::mem::replace(&mut peer.driver.permit, Permit::None);
        let heavy = is_heavy(&peer.connection);
        if heavy && permit == Permit::None {
            return Poll::Ready(TaskStep::AwaitPermit);
        }
        if !heavy {
            self.light.resumed();
        }
        if std::mem::take(waited) && !matches!(step, Ok(TaskStep::ReceiveLast)) {
            calls.ready(KeyOwner::Conn(id).into(), receives, !receives);
        }
        // tokio's driver fails only when it shuts down, and this task with it.
        Poll::Ready(step.unwrap_or(TaskStep::Close))
    }

    /// Returns the readiness of a listener once there is capacity for a connection; while the
    /// server drains it need not be ready. Breaks once it accepts no more. Notes if it is
    /// `awaited`.
    pub(super) fn poll_accept<'a>(
        &mut self,
        (listener, id): (&'a WatchedFd, ListenerId),
        cx: &mut Context<'_>,
        awaited: &mut bool,
    ) -> Poll<ControlFlow<(), Option<SocketReady<'a>>>> {
        let drains = !self.core.lifecycle.is_serving();
        let its = &mut self.core.listeners[id.index()];
        if drains && its.left.is_none() {
            its.left = Some(os::waiting(listener.as_fd(), LISTEN_BACKLOG as usize));
        }
        if !its.listens() || self.core.lifecycle.stage() == Stage::Cutting {
            return Poll::Ready(ControlFlow::Break(()));
        }
        self.wait_for_change(cx.waker());
        if !self.accepts() {
            return Poll::Pending;
        }
        if drains {
            return Poll::Ready(ControlFlow::Continue(None));
        }
        let ready = listener.poll_read_ready(cx).map(Result::ok);
        *awaited |= ready.is_pending();
        // tokio's driver fails only when it shuts down, and this task with it.
        ready
            .map(|ready| ready.map_or(ControlFlow::Break(()), |it| ControlFlow::Continue(Some(it))))
    }

    /// Notes that its task yields.
    pub(super) fn yield_task(&mut self, id: ConnId) {
        self.task(id).awaits = None;
    }

    /// Returns the task of a connection that it has not removed.
    pub(super) fn task(&mut self, id: ConnId) -> &mut TaskState {
        &mut self.core.peers.get_mut(id).expect("only its own task removes a connection").driver
    }

    /// Receives once. Clears `ready` if that was all.
    pub(super) fn receive(&mut self, calls: &impl Calls, id: ConnId, mut ready: SocketReady<'_>) {
        let Some(peer) = self.core.peers.get_mut(id) else { return };
        let Some(mut lease) = self.pool.lease(peer.connection.recv_size()) else {
            return self.core.peers.wait_for_buffer(id);
        };
        let buffer = lease.bytes_mut();
        let space = buffer.len();
        match calls.recv(KeyOwner::Conn(id).into(), ready.get_inner().as_fd(), buffer, SLEEPS) {
            Ok(0) => self.core.peers.ended(id),
            Ok(n) => {
                if n < space {
                    // tokio remembers the peer's end, if it was reported.
                    ready.clear_ready();
                }
                self.core.peers.received(id, Chunk::received(lease, n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => self.core.peers.broken(id, CloseReason::failed(&error)),
        }
    }

    /// Receives once, and notes whether that was all of the connection's last input.
    pub(super) fn receive_last(&mut self, calls: &impl Calls, id: ConnId, socket: &WatchedFd) {
        let Some(peer) = self.core.peers.get_mut(id) else { return };
        if peer.has_taken_enough() {
            return self.core.peers.last_input_taken(id);
        }
        let Some(mut lease) = self.pool.lease(peer.connection.recv_size()) else {
            return self.core.peers.wait_for_buffer(id);
        };
        let buffer = lease.bytes_mut();
        match calls.recv(KeyOwner::Conn(id).into(), socket.as_fd(), buffer, SLEEPS) {
            Ok(0) => self.core.peers.ended(id),
            Ok(n) => self.core.peers.received(id, Chunk::received(lease, n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.core.peers.last_input_taken(id);
            }
            Err(error) => self.core.peers.broken(id, CloseReason::failed(&error)),
        }
    }

    /// Sends once. Clears `ready` if the socket takes no more.
    pub(super) fn send(&mut self, calls: &impl Calls, id: ConnId, mut ready: SocketReady<'_>) {
        let Some(peer) = self.core.peers.get_mut(id) else { return };
        let (queue, socket) = (peer.connection.outgoing(), ready.get_inner().as_fd());
        if queue.is_empty() {
            return;
        }
        let key = KeyOwner::Conn(id).into();
        let (sent, offered) = queue.offer(SEND_MAX, |parts| calls.send(key, socket, parts, SLEEPS));
        match sent {
            Ok(n) => {
                self.core.peers.sent(id, n);
                if n < offered {
                    ready.clear_ready();
                    self.fell_short(id);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                self.fell_short(id);
            }
            Err(error) => self.core.peers.broken(id, CloseReason::failed(&error)),
        }
    }

    /// The socket of a connection takes no more for now.
    fn fell_short(&mut self, id: ConnId) {
        self.core.peers.counters.short_sends += 1;
        self.core.peers.fell_short(id);
    }

    /// Has the monitor do one thing. Returns false if it has nothing to do.
    pub(super) fn serve_monitor(&mut self, waits: u64) -> bool {
        self.core.serve_monitor(|status| status.counters = waited(status.counters, waits))
    }

    /// After any event: wakes connections that wait for buffers, runs the timers, and wakes the
    /// task of each marked connection, except the one that runs now. Wakes the tasks of the server
    /// if there are messages to the operator, or a timer expires before they are woken.
    pub(super) fn settle(&mut self, except: Option<ConnId>) {
        let peers = &mut self.core.peers;
        if peers.has_buffer_waiters() {
            peers.wake_buffer_waiters(self.pool.unfilled_in_all());
        }
        peers.run_timers(os::now);
        while let Some(asked) = peers.next_asked() {
            if let Some(peer) = peers.get_mut(asked) {
                peer.driver.asks_outq = true;
                peers.mark(asked);
            }
        }
        peers.finish_taken();
        peers.begin();
        while let Some(marked) = peers.next_marked() {
            if Some(marked.id) != except {
                marked.peer.driver.waker.wake_by_ref();
            }
        }
        let to_operator = peers.has_operator_messages();
        self.due = self.core.next_timer();
        if to_operator || self.due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm)) {
            self.changed();
        }
    }

    /// Removes a connection whose socket is closed.
    pub(super) fn closed(&mut self, id: ConnId) {
        let awaited = !self.accepts() || !self.core.lifecycle.is_serving();
        self.core.closed(id);
        self.core.run_timers(); // The server may be full no more.
        if awaited {
            self.changed();
        }
        self.settle(None);
    }

    /// Returns how the server has ended, once it has.
    pub(super) fn ended(&mut self) -> Option<io::Result<Ended>> {
        self.ended.take().or(self.core.is_drained().then_some(Ok(Ended::Drained)))
    }

    /// The shutdown signal was reported, or the console was served. Ends the server at once if that
    /// is asked.
    pub(super) fn served(&mut self, flow: ControlFlow<Ended>) {
        self.core.advance_drain(); // A command may have begun it.
        self.ended = flow.break_value().map(Ok).or(self.ended.take());
        if self.ended.is_some() || !self.core.lifecycle.is_serving() {
            self.changed();
        }
        self.settle(None);
    }

    /// Does what has become due by the clock.
    pub(super) fn run_timers(&mut self) {
        self.core.run_timers();
        self.changed(); // Accepts may go on.
        self.settle(None);
    }

    /// Wakes `waker` at the next [`changed`](ServerState::changed).
    pub(super) fn wait_for_change(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waits| waits.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    pub(super) fn changed(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
