//! What the tasks of a coroutine server share. No method of it waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use proactor::address;
use proactor::buffer::{Chunk, Pool};
use proactor::calls::PlainCalls;
use proactor::clock::Nanos;
use proactor::console::SocketInfo;
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner};
use proactor::limits::{Limits, Stage};
use proactor::os;
use proactor::peers::{Peers, Room};
use proactor::protocol::Protocol;

use super::console::ConsoleTask;
use super::hooks::RuntimeHooks;
use super::watched::Ready;

#[derive(Debug)]
pub(super) struct ServerState<P, C = PlainCalls> {
    /// By what calls are made.
    pub(super) calls: C,
    /// Beside each connection, what is known of its task.
    pub(super) peers: Peers<P, TaskState>,
    pool: Rc<Pool>,
    limits: Limits,
    pub(super) stage: Stage,
    /// How often it was asked to stop.
    pub(super) asked: u64,
    /// True for a while after an accept failed for want of resources, or until a connection
    /// closes.
    pub(super) pausing: bool,
    /// True once a task has panicked: nobody would remove its connection.
    pub(super) panicked: bool,
    /// When something will next be due by the clock.
    pub(super) due: Option<Nanos>,
    /// When [`run_timers`](super::run_timers) will be woken in any case.
    pub(super) alarm: Option<Nanos>,
    pub(super) timer_waker: Waker,
    /// Who waits for a change of the server itself: for room, for the drain, for the end.
    waiting: Vec<Waker>,
    /// Where the operator sits, if there is one.
    pub(super) desk: Option<ConsoleTask>,
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

/// A connection's task, as the others know it.
#[derive(Debug)]
pub(super) struct TaskState {
    waker: Waker,
    /// What it awaits, while it is not resumed.
    awaits: Awaits,
    /// Its peer's, if there is an operator to see it.
    address: Option<String>,
}

/// What a task awaits beside a change of its wishes.
#[derive(Debug, Clone, Copy)]
enum Awaits {
    /// That its socket may do some of this.
    Socket { read: bool, write: bool },
    /// To be resumed: others go first.
    Turn,
}

impl TaskState {
    /// One that is not resumed yet.
    pub(super) fn new(address: Option<String>) -> TaskState {
        TaskState { waker: Waker::noop().clone(), awaits: Awaits::Turn, address }
    }

    /// As an operator sees it.
    pub(super) fn socket_info(&self) -> SocketInfo {
        let awaited = match self.awaits {
            Awaits::Socket { read, write } => [(read, "awaits read"), (write, "awaits write")],
            Awaits::Turn => [(true, "awaits its turn"), (false, "")],
        };
        let doing = awaited.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned());
        SocketInfo { address: self.address.clone(), doing: doing.collect() }
    }
}

/// What a connection would do, if it may.
#[derive(Debug)]
pub(super) struct Wants {
    pub(super) receive: bool,
    pub(super) send: bool,
    pub(super) shut_down: bool,
    pub(super) close: bool,
}

impl<P: Protocol, C: RuntimeHooks> ServerState<P, C> {
    /// Nobody is here.
    pub(super) fn new(calls: C, pool: Rc<Pool>, limits: Limits) -> ServerState<P, C> {
        ServerState {
            calls,
            peers: Peers::new(limits.max_input),
            pool,
            limits,
            stage: Stage::Serving,
            asked: 0,
            pausing: false,
            panicked: false,
            due: None,
            alarm: None,
            timer_waker: Waker::noop().clone(),
            waiting: Vec::new(),
            desk: None,
            counters: Counters::default(),
            calls_before: os::calls(),
        }
    }

    /// What was counted, with so many waits of the executor's.
    pub(super) fn counters(&self, waits: u64) -> Counters {
        let calls = os::calls() - self.calls_before + waits;
        Counters { calls, turns: waits, evicted: self.peers.evicted(), ..self.counters }
    }

    /// Somebody has come.
    pub(super) fn open(&mut self, protocol: P, room: Room, socket: BorrowedFd<'_>) -> ConnId {
        self.counters.accepted += 1;
        let address = self.desk.as_ref().and_then(|_| address::of_peer(socket));
        let id = self.peers.open(protocol, room, TaskState::new(address));
        if let Some(desk) = &mut self.desk {
            desk.console.opened(id, os::now());
        }
        self.settle(Some(id)); // Others may be told that it came.
        id
    }

    /// Nobody can be let in for whom there is no descriptor.
    pub(super) fn refuse(&mut self, error: &io::Error) {
        self.counters.refused += 1;
        tracing::warn!("a connection is refused: {error}");
    }

    /// What the connection wants now. From now on `waker` is woken when that may have changed.
    pub(super) fn wants(&mut self, id: ConnId, waker: &Waker) -> Wants {
        let receive = self.peers.wants_recv(id);
        let peer = self.peers.get_mut(id).expect("only its own task removes a connection");
        let (task, connection) = (&mut peer.driver, &peer.connection);
        let send = !connection.outgoing().is_empty();
        task.waker.clone_from(waker);
        task.awaits = Awaits::Socket { read: receive, write: send };
        Wants {
            receive,
            send,
            shut_down: connection.wants_shutdown(),
            close: connection.is_finished(),
        }
    }

    /// Its task lets others go first.
    pub(super) fn yield_task(&mut self, id: ConnId) {
        self.peers.get_mut(id).expect("its task yields").driver.awaits = Awaits::Turn;
    }

    /// Receives once, and forgets that it is `ready` if that was all.
    pub(super) fn receive(&mut self, id: ConnId, mut ready: Ready<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(mut lease) = self.pool.lease(peer.connection.recv_size()) else {
            self.counters.out_of_buffers += 1;
            return self.peers.wait_for_buffer(id);
        };
        let buffer = lease.bytes_mut().expect("a new lease is the only one");
        let room = buffer.len();
        match self.calls.recv(KeyOwner::Conn(id).into(), ready.get_inner().as_fd(), buffer) {
            Ok(0) => self.peers.ended(id),
            Ok(n) => {
                if n < room {
                    // The peer's end behind it, if it was reported, tokio does not forget.
                    ready.clear_ready();
                }
                self.counters.receives += 1;
                self.counters.received_bytes += n as u64;
                self.peers.received(id, Chunk::received(lease, n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(_) => self.peers.broken(id),
        }
    }

    /// Sends once, and forgets that it is `ready` if the socket takes no more.
    pub(super) fn send(&mut self, id: ConnId, mut ready: Ready<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (queue, socket) = (peer.connection.outgoing(), ready.get_inner().as_fd());
        if queue.is_empty() {
            return;
        }
        let key = KeyOwner::Conn(id).into();
        let (sent, room) = queue.offer(usize::MAX, |parts| self.calls.send(key, socket, parts));
        match sent {
            Ok(n) => {
                if n < room {
                    ready.clear_ready();
                }
                self.counters.sends += 1;
                self.counters.sent_bytes += n as u64;
                self.peers.sent(id, n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(_) => self.peers.broken(id),
        }
    }

    /// After anything has happened: feeds the starving, does what is due, and wakes whoever is
    /// marked, except the one whose task this is: it goes on anyway. The operator's task is woken
    /// if there is something to tell.
    pub(super) fn settle(&mut self, except: Option<ConnId>) {
        if self.peers.has_buffer_waiters() {
            self.peers.wake_buffer_waiters(self.pool.unfilled_in_all());
        }
        self.due = self.peers.tick(os::now);
        if self.due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm)) {
            self.timer_waker.wake_by_ref();
        }
        self.peers.begin();
        while let Some(marked) = self.peers.next_ready() {
            if Some(marked.id) != except {
                marked.peer.driver.waker.wake_by_ref();
            }
        }
        if self.peers.has_messages()
            && let Some(desk) = &self.desk
        {
            desk.waker.wake_by_ref();
        }
    }

    /// Its socket is closed.
    pub(super) fn closed(&mut self, id: ConnId) {
        let awaited = self.is_full() || self.pausing || self.stage != Stage::Serving;
        self.peers.remove(id);
        self.counters.closed += 1;
        self.pausing = false;
        if awaited {
            self.changed();
        }
        self.settle(None);
    }

    pub(super) fn is_full(&self) -> bool {
        self.peers.len() >= self.limits.connections
    }

    /// An accept failed for want of resources.
    pub(super) fn pause(&mut self, error: &io::Error) {
        self.counters.refused += 1;
        tracing::warn!(%error, connections = self.peers.len(), "cannot accept for now");
        self.pausing = true;
    }

    pub(super) fn go_on(&mut self) {
        self.pausing = false;
        self.changed();
    }

    /// It is asked to stop, so many times.
    pub(super) fn ask(&mut self, times: u64) {
        self.asked += times;
        self.changed();
    }

    /// Accepts no more, and has all send what they are owed; answers how long that may take.
    pub(super) fn drain(&mut self) -> Duration {
        self.stage = Stage::Draining(os::now() + self.limits.drain);
        self.peers.finish_all();
        self.settle(None);
        self.go_on();
        self.limits.drain
    }

    /// Past the deadline: gives up on who is left.
    pub(super) fn cut(&mut self) {
        self.stage = Stage::Cutting;
        self.counters.cut = self.peers.len() as u64;
        self.peers.break_all();
        self.settle(None);
    }

    /// Has `waker` woken at the next [`changed`](ServerState::changed).
    pub(super) fn wait_for_change(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waits| waits.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    pub(super) fn changed(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
