//! What the tasks of a coroutine server share. None of its methods waits.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proactor::address;
use proactor::buffer::{Chunk, Pool};
use proactor::calls::{Calls, SLEEPS};
use proactor::clock::Nanos;
use proactor::console::{Console, SocketInfo};
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::Lifecycle;
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::os::{self, AcceptFailure, Clock, ShutdownSignal};
use proactor::peer::WorkerFactory;
use proactor::peers::Peers;
use proactor::protocol::Protocol;

use super::watched::{SocketReady, WatchedFd};

pub(super) struct ServerState {
    pub(super) peers: Peers<Box<dyn Protocol>, TaskState>,
    pool: Rc<Pool>,
    pub(super) lifecycle: Lifecycle,
    /// How the server ends before every connection is closed.
    ended: Option<Ended>,
    /// True once a task has panicked: its connection would never be removed.
    pub(super) panicked: bool,
    /// When a timer expires next.
    pub(super) due: Option<Nanos>,
    /// When [`run_timers`](super::run_timers) will be woken in any case.
    pub(super) alarm: Option<Nanos>,
    pub(super) timer_waker: Waker,
    /// Tasks that wait for a change of the server itself: for capacity, for the drain, for the end.
    waiting: Vec<Waker>,
    pub(super) console: Option<ConsoleTask>,
    /// System calls that this thread had made before.
    calls_before: u64,
}

/// A console, and the waker of its task.
#[derive(Debug)]
pub(super) struct ConsoleTask {
    pub(super) console: Console,
    pub(super) waker: Waker,
}

impl ConsoleTask {
    pub(super) fn new(console: Console) -> ConsoleTask {
        ConsoleTask { console, waker: Waker::noop().clone() }
    }
}

/// The task of a connection, as the others see it.
#[derive(Debug)]
pub(super) struct TaskState {
    waker: Waker,
    /// What it awaits while it is suspended.
    awaits: Awaits,
    /// The peer's address, if there is a console to show it.
    address: Option<String>,
}

/// What a task awaits beside a change of its wants.
#[derive(Debug, Clone, Copy)]
enum Awaits {
    /// Readiness of its socket for some of this.
    Socket { read: bool, write: bool },
    /// To be resumed after it has yielded.
    Resumption,
}

impl TaskState {
    /// The state of a task that has not run yet.
    pub(super) fn new(address: Option<String>) -> TaskState {
        TaskState { waker: Waker::noop().clone(), awaits: Awaits::Resumption, address }
    }

    /// Returns what the console shows of it.
    pub(super) fn socket_info(&self) -> SocketInfo {
        let awaited = match self.awaits {
            Awaits::Socket { read, write } => [(read, "awaits read"), (write, "awaits write")],
            Awaits::Resumption => [(true, "yields"), (false, "")],
        };
        let doing = awaited.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned());
        SocketInfo { address: self.address.clone(), doing: doing.collect() }
    }
}

/// The next operation of a connection, once its socket is ready for it.
pub(super) enum TaskStep<'a> {
    Receive(SocketReady<'a>),
    Send(SocketReady<'a>),
    ShutDown,
    Close,
}

impl ServerState {
    pub(super) fn new(pool: Rc<Pool>, limits: Limits, stop: ShutdownSignal) -> ServerState {
        ServerState {
            peers: Peers::new(limits.max_input, Clock::default()),
            pool,
            lifecycle: Lifecycle::new(limits, stop),
            ended: None,
            panicked: false,
            due: None,
            alarm: None,
            timer_waker: Waker::noop().clone(),
            waiting: Vec::new(),
            console: None,
            calls_before: os::calls(),
        }
    }

    /// Returns what was counted, with so many waits of the executor.
    pub(super) fn counters(&self, waits: u64) -> Counters {
        let calls = os::calls() - self.calls_before + waits;
        let mut counters = self.peers.counters(calls);
        counters.iterations = waits;
        counters
    }

    /// Opens a connection for an accepted socket.
    pub(super) fn open(
        &mut self,
        factory: &mut WorkerFactory,
        listener: ListenerId,
        socket: BorrowedFd<'_>,
    ) -> ConnId {
        self.peers.counters.accepted += 1;
        let reach = Some((self.peers.next_id(), self.lifecycle.shutdown()));
        let made = factory.make(self.peers.next_number(), Some(socket), reach);
        let address = self.console.as_ref().and_then(|_| address::of_peer(socket));
        let id = self.peers.open(made, listener, TaskState::new(address));
        self.settle(Some(id)); // The protocol may have sent to others.
        id
    }

    /// A connection cannot be watched for want of resources.
    pub(super) fn refuse(&mut self, error: &io::Error) {
        self.peers.counters.refused += 1;
        tracing::warn!(%error, "a connection is refused");
    }

    /// Returns true if another connection is accepted now.
    pub(super) fn accepts(&self) -> bool {
        self.lifecycle.accepts(self.peers.len())
    }

    /// An accept brought no connection.
    pub(super) fn not_accepted(&mut self, failure: AcceptFailure, mut ready: SocketReady<'_>) {
        if let AcceptFailure::NoConnection = failure {
            ready.clear_ready();
        }
        if self.lifecycle.pause().failed(failure, os::now) {
            self.peers.counters.refused += 1;
            self.settle(None); // The end of the pause is a timer.
        }
    }

    /// Returns the next operation of a connection, if its socket is ready for one that it wants
    /// now; if not, its task is woken when that may have changed.
    pub(super) fn poll_step<'a>(
        &mut self,
        socket: &'a WatchedFd,
        id: ConnId,
        cx: &mut Context<'_>,
    ) -> Poll<TaskStep<'a>> {
        let read = self.peers.wants(id).is_some_and(|peer| peer.wants_recv);
        let peer = self.peers.get_mut(id).expect("only its own task removes a connection");
        let (task, connection) = (&mut peer.driver, &peer.connection);
        let write = !connection.outgoing().is_empty();
        task.waker.clone_from(cx.waker());
        task.awaits = Awaits::Socket { read, write };
        // tokio's driver fails only when it shuts down, and this task with it.
        let step = |ready: io::Result<_>, step: fn(_) -> TaskStep<'a>| {
            Poll::Ready(ready.map_or(TaskStep::Close, step))
        };
        if connection.is_finished() {
            Poll::Ready(TaskStep::Close)
        } else if connection.wants_shutdown() {
            Poll::Ready(TaskStep::ShutDown)
        } else if write && let Poll::Ready(ready) = socket.poll_write_ready(cx) {
            // A reply is sent first, from a buffer that is still in the cache.
            step(ready, TaskStep::Send)
        } else if read && let Poll::Ready(ready) = socket.poll_read_ready(cx) {
            step(ready, TaskStep::Receive)
        } else {
            Poll::Pending
        }
    }

    /// Notes that its task yields.
    pub(super) fn yield_task(&mut self, id: ConnId) {
        self.peers.get_mut(id).expect("its task yields").driver.awaits = Awaits::Resumption;
    }

    /// Receives once. Clears `ready` if that was all.
    pub(super) fn receive(&mut self, calls: &impl Calls, id: ConnId, mut ready: SocketReady<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(mut lease) = self.pool.lease(peer.connection.recv_size()) else {
            return self.peers.wait_for_buffer(id);
        };
        let buffer = lease.bytes_mut().expect("a new lease is the only one");
        let space = buffer.len();
        match calls.recv(KeyOwner::Conn(id).into(), ready.get_inner().as_fd(), buffer, SLEEPS) {
            Ok(0) => self.peers.ended(id),
            Ok(n) => {
                if n < space {
                    // tokio remembers the peer's end, if it was reported.
                    ready.clear_ready();
                }
                self.peers.received(id, Chunk::received(lease, n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => self.peers.broken(id, CloseReason::failed(&error)),
        }
    }

    /// Sends once. Clears `ready` if the socket takes no more.
    pub(super) fn send(&mut self, calls: &impl Calls, id: ConnId, mut ready: SocketReady<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (queue, socket) = (peer.connection.outgoing(), ready.get_inner().as_fd());
        if queue.is_empty() {
            return;
        }
        let key = KeyOwner::Conn(id).into();
        let (sent, offered) =
            queue.offer(usize::MAX, |parts| calls.send(key, socket, parts, SLEEPS));
        match sent {
            Ok(n) => {
                if n < offered {
                    ready.clear_ready();
                }
                self.peers.sent(id, n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => self.peers.broken(id, CloseReason::failed(&error)),
        }
    }

    /// After any event: wakes connections that wait for buffers, runs the timers, and wakes the
    /// task of each marked connection, except the one that runs now. Wakes the console's task if
    /// there are messages to the operator.
    pub(super) fn settle(&mut self, except: Option<ConnId>) {
        if self.peers.has_buffer_waiters() {
            self.peers.wake_buffer_waiters(self.pool.unfilled_in_all());
        }
        self.peers.run_timers(os::now);
        let timers = [self.peers.next_timer(), self.lifecycle.next_timer()];
        self.due = timers.into_iter().flatten().min();
        if self.due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm)) {
            self.timer_waker.wake_by_ref();
        }
        self.peers.begin();
        while let Some(marked) = self.peers.next_ready() {
            if Some(marked.id) != except {
                marked.peer.driver.waker.wake_by_ref();
            }
        }
        if self.peers.has_operator_messages()
            && let Some(task) = &self.console
        {
            task.waker.wake_by_ref();
        }
    }

    /// Removes a connection whose socket is closed.
    pub(super) fn closed(&mut self, id: ConnId) {
        let awaited = !self.accepts();
        self.peers.remove(id);
        self.lifecycle.pause().end();
        if awaited {
            self.changed();
        }
        self.settle(None);
    }

    /// Returns how the server has ended, once it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        let drained = !self.lifecycle.is_serving() && self.peers.is_empty();
        self.ended.or(drained.then_some(Ended::Drained))
    }

    /// Ends the server at once.
    pub(super) fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.changed();
    }

    /// The shutdown signal was reported.
    pub(super) fn take_requests(&mut self) {
        self.take_stop_requests();
        self.peers.take_posted(self.lifecycle.take_posted());
        self.settle(None);
    }

    fn take_stop_requests(&mut self) {
        match self.lifecycle.take_requests() {
            ControlFlow::Break(ended) => self.end(ended),
            ControlFlow::Continue(false) => {}
            ControlFlow::Continue(true) => {
                self.lifecycle.drain(self.peers.len(), os::now());
                self.peers.finish_all();
                self.changed();
            }
        }
    }

    /// Does what has become due by the clock.
    pub(super) fn run_timers(&mut self) {
        if self.lifecycle.next_timer().is_some() {
            if self.lifecycle.run_timers(os::now()) {
                self.peers.cut();
            }
            self.changed(); // Accepts may go on.
        }
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
