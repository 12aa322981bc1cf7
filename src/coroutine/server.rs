//! What the tasks of a coroutine server share. No method of it waits.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use crate::buffer::{Chunk, Pool};
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::limits::{Limits, Stage};
use crate::os;
use crate::peers::Peers;
use crate::protocol::Protocol;

use super::watched::Ready;

/// Chunks in one vectored send.
const VECTOR: usize = 16;

#[derive(Debug)]
pub(super) struct Server<P> {
    /// Beside each connection, what wakes its task.
    pub(super) peers: Peers<P, Waker>,
    pool: Rc<Pool>,
    limits: Limits,
    pub(super) stage: Stage,
    /// How often it was asked to stop.
    pub(super) asked: u64,
    /// True for a while after an accept failed for want of resources, or until a connection closes.
    pub(super) pausing: bool,
    /// True once a task has panicked: nobody would remove its connection.
    pub(super) panicked: bool,
    /// When something will next be due by the clock.
    pub(super) due: Option<Nanos>,
    /// When [`keep_time`](super::keep_time) will be woken in any case.
    pub(super) alarm: Option<Nanos>,
    pub(super) timekeeper: Waker,
    /// Who waits for a change of the server itself: for room, for the drain, for the end.
    waiting: Vec<Waker>,
    pub(super) counters: Counters,
}

/// What a connection would do, if it may.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) receive: bool,
    pub(super) send: bool,
    pub(super) shut_down: bool,
    pub(super) close: bool,
}

impl<P: Protocol> Server<P> {
    /// Nobody is here.
    pub(super) fn new(pool: Rc<Pool>, limits: Limits) -> Server<P> {
        Server {
            peers: Peers::new(),
            pool,
            limits,
            stage: Stage::Serving,
            asked: 0,
            pausing: false,
            panicked: false,
            due: None,
            alarm: None,
            timekeeper: Waker::noop().clone(),
            waiting: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// What the connection wants now. From now on `waker` is woken when that may have changed.
    pub(super) fn wish(&mut self, id: ConnId, waker: &Waker) -> Wish {
        let receive = self.peers.wants_recv(id);
        let peer = self.peers.get_mut(id).expect("only its own task removes a connection");
        peer.driver.clone_from(waker);
        let connection = &peer.connection;
        Wish {
            receive,
            send: !connection.outgoing().is_empty(),
            shut_down: connection.wants_shutdown(),
            close: connection.is_finished(),
        }
    }

    /// Receives once, and forgets that it is `ready` if that was all.
    pub(super) fn receive(&mut self, id: ConnId, mut ready: Ready<'_>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(mut lease) = self.pool.lease(peer.connection.appetite()) else {
            self.counters.starved += 1;
            return self.peers.starve(id);
        };
        let buffer = lease.bytes_mut().expect("a new lease is the only one");
        let room = buffer.len();
        match os::recv(ready.get_inner().as_fd(), buffer) {
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
        let Some(first) = queue.first() else { return };
        let (sent, room) = if queue.chunks() == 1 {
            (os::send(socket, first), first.len())
        } else {
            let mut parts = [io::IoSlice::new(&[]); VECTOR];
            let chunks = queue.chunks().min(VECTOR);
            parts.iter_mut().zip(queue.iter()).for_each(|(part, chunk)| {
                *part = io::IoSlice::new(chunk);
            });
            let room = parts[..chunks].iter().map(|part| part.len()).sum();
            (os::send_vectored(socket, &parts[..chunks]), room)
        };
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
    /// marked, except the one whose task this is: it goes on anyway.
    pub(super) fn settle(&mut self, except: Option<ConnId>) {
        if self.peers.is_starving() {
            self.peers.feed(self.pool.unfilled_in_all());
        }
        self.due = self.peers.tick(os::now);
        if self.due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm)) {
            self.timekeeper.wake_by_ref();
        }
        self.peers.begin();
        while let Some(marked) = self.peers.next_ready() {
            if Some(marked.id) != except {
                marked.peer.driver.wake_by_ref();
            }
        }
    }

    /// Its socket is closed.
    pub(super) fn left(&mut self, id: ConnId) {
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

    /// Has `waker` woken at the next [`changed`](Server::changed).
    pub(super) fn wait_for_change(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waits| waits.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    pub(super) fn changed(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
