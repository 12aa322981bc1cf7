//! The readiness loop: wait until something may be done, and do it.
//!
//! ```text
//!         ┌───────────────── wait ─────────────────┐  sleep until something is ready
//!         ▼                                        │
//!   each report: remember that it is ready, mark   │  state only; nothing is read or written
//!         │                                        │
//!         ▼                                        │
//!   each that is marked: resume ───────────────────┘  read and write what it wants, while it
//!                                                      may; then wish for what it may not
//! ```
//!
//! The twin of [`proactor`](crate::proactor): the same connections, the same rooms, limits and
//! drain, the same names. Where the ring loop issues operations, this one makes the calls itself:
//! the kernel says *now you may*, and the data are copied by us, in a system call each.
//!
//! What is ready is remembered for each socket until a call would block, or, on a stream, moves
//! less than it was given room for: that is right for edges and spares a level-triggered loop the
//! call that finds nothing. The interest is changed only when the wish changes.

mod accept;
mod console;
mod embedded;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::{Chunk, Pool};
use crate::calls::SocketCalls;
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::limits::{Ended, Limits, Stage};
use crate::os::{self, ShutdownSignal};
use crate::peers::Peers;
use crate::protocol::Protocol;
use crate::selector::{Interest, KeyOwner, Ready, Selector, Trigger};
use accept::Listener;
use console::ConsoleInput;

/// How often one connection may be resumed in a turn, and so receive: a flood does not own the
/// loop.
const PASSES: usize = 16;

/// A server that waits for readiness.
#[derive(Debug)]
pub struct Reactor<S, P> {
    selector: S,
    pool: Rc<Pool>,
    peers: Peers<P, Socket>,
    listeners: Vec<Listener<P>>,
    limits: Limits,
    stop: ShutdownSignal,
    stage: Stage,
    /// Until when nothing is accepted, after it failed for want of resources.
    accept_at: Option<Nanos>,
    /// When its owner wants to be woken.
    wake_at: Option<Nanos>,
    /// Which of its owner's descriptors were reported and not yet taken.
    guests: Vec<u32>,
    /// True if the last iteration accepted, received, sent or closed anything.
    busy: bool,
    /// Emptied at every turn: its capacity is kept.
    reports: Vec<Ready>,
    /// Where the operator sits, if there is one.
    desk: Option<Box<ConsoleInput>>,
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

/// A connection's socket, and what is known of its readiness.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// True until a read would block, or comes short.
    readable: bool,
    /// True until a write would block, or comes short.
    writable: bool,
    /// True once the peer's end was reported: a read that comes short is not the last.
    hung_up: bool,
    /// One if what passes here is counted, zero if it passes within the house.
    counts: u64,
    /// What the selector is asked; if nothing, it does not watch.
    interest: Interest,
    /// False from a report by a oneshot selector until it is asked again: it watches, and is mute.
    armed: bool,
}

impl<S: Selector + SocketCalls, P: Protocol + Clone> Reactor<S, P> {
    /// A server without a listener, which `stop` can stop. Its buffers are `pool`'s.
    ///
    /// # Errors
    /// The selector cannot watch `stop`.
    pub fn new(
        mut selector: S,
        pool: Rc<Pool>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Reactor<S, P>> {
        let calls_before = os::calls();
        selector.add(stop.as_fd(), KeyOwner::Shutdown.into(), Interest::READ)?;
        Ok(Reactor {
            selector,
            pool,
            peers: Peers::new(limits.max_input),
            listeners: Vec::new(),
            limits,
            stop,
            stage: Stage::Serving,
            accept_at: None,
            wake_at: None,
            guests: Vec::new(),
            busy: true,
            reports: Vec::new(),
            desk: None,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Serves `protocol` to whoever connects to `fd`, a listening socket, which becomes
    /// non-blocking. Each listener is a room of its own.
    ///
    /// # Errors
    /// `fd` cannot be made non-blocking.
    pub fn listen(&mut self, fd: OwnedFd, protocol: P) -> io::Result<()> {
        os::set_nonblocking(fd.as_fd())?;
        self.listeners.push(Listener {
            fd: Some(fd),
            protocol,
            watched: false,
            armed: false,
            readable: false,
        });
        Ok(())
    }

    /// Turns until it is stopped.
    ///
    /// # Errors
    /// The selector as a whole fails.
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

    /// One turn: sleep until something is ready, then resume whom it concerns.
    ///
    /// # Errors
    /// The selector as a whole fails.
    pub fn turn(&mut self) -> io::Result<Option<Ended>> {
        self.watch_listeners()?;
        let mut timeout = self.wait();
        if let Some(longest) = self.selector.longest_wait() {
            let longest = if self.busy { Duration::ZERO } else { longest };
            timeout = Some(timeout.map_or(longest, |timeout| timeout.min(longest)));
        }
        let mut reports = std::mem::take(&mut self.reports);
        self.selector.wait(&mut reports, timeout)?;
        self.counters.turns += 1;
        self.counters.completed += reports.len() as u64;
        let mut stopped = false;
        for report in reports.drain(..) {
            stopped |= self.reported(report)?;
        }
        self.reports = reports;
        if stopped || self.read_typed()? {
            return Ok(Some(Ended::AtOnce));
        }
        let before = self.moved();
        self.accept();
        self.resume_ready();
        if self.peers.has_messages() && self.attend()? {
            return Ok(Some(Ended::AtOnce));
        }
        self.busy = self.moved() != before;
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

    /// Remembers what is ready; answers whether the server was asked to end at once.
    ///
    /// A oneshot selector has disarmed what it reports. A connection is marked, so it is resumed
    /// and wishes again; listeners are armed before the next wait; the operator's input is when
    /// it has been read from; the stop signal is, here.
    fn reported(&mut self, report: Ready) -> io::Result<bool> {
        let armed = self.selector.trigger() != Trigger::Oneshot;
        match KeyOwner::from(report.key) {
            KeyOwner::Conn(conn) => {
                if let Some(peer) = self.peers.get_mut(conn) {
                    peer.driver.readable |= report.readable;
                    peer.driver.writable |= report.writable;
                    peer.driver.hung_up |= report.hung_up;
                    peer.driver.armed &= armed;
                    self.peers.mark(conn);
                }
            }
            KeyOwner::Listener(at) => {
                self.listeners[at].readable = true;
                self.listeners[at].armed &= armed;
            }
            KeyOwner::Shutdown => {
                if !armed {
                    let (stop, key) = (self.stop.as_fd(), KeyOwner::Shutdown.into());
                    self.selector.modify(stop, key, Interest::READ)?;
                }
                return Ok(self.stop());
            }
            KeyOwner::Console => {
                if let Some(desk) = &mut self.desk {
                    desk.readable = true;
                }
            }
            KeyOwner::External(guest) => self.guests.push(guest),
            KeyOwner::Link(_) => {} // Only in a trace.
        }
        Ok(false)
    }

    /// A number that grows whenever anything does.
    fn moved(&self) -> u64 {
        let Counters { accepted, closed, receives, sends, .. } = self.counters;
        accepted + closed + receives + sends
    }

    /// A socket of a connection that has just come.
    fn socket(&self, fd: OwnedFd, counts: u64) -> Socket {
        let interest = match self.selector.trigger() {
            Trigger::Edge => Interest::BOTH,
            Trigger::Level | Trigger::Oneshot => Interest::READ,
        };
        let (readable, writable) = (false, true);
        Socket { fd, readable, writable, hung_up: false, counts, interest, armed: true }
    }

    fn watch_new(&mut self, id: ConnId) {
        let socket = &self.peers.get_mut(id).expect("just opened").driver;
        let (fd, interest) = (socket.fd.as_fd(), socket.interest);
        if let Err(error) = self.selector.add(fd, KeyOwner::Conn(id).into(), interest) {
            self.counters.refused += 1;
            tracing::warn!("a connection is refused: {error}");
            self.peers.get_mut(id).expect("just opened").driver.interest = Interest::NONE;
            self.peers.broken(id);
        }
    }

    /// How long this turn may sleep. What is due by the clock is done on the way.
    fn wait(&mut self) -> Option<Duration> {
        const NO: Option<Duration> = Some(Duration::ZERO);
        if self.is_drained() {
            return NO;
        }
        let timer = self.peers.tick(os::now);
        let drain = self.stage.deadline();
        let accepts = self.wants_accept() && self.listeners.iter().any(|one| one.readable);
        let hasty = self.peers.has_marked()
            || accepts
            || self.desk.as_ref().is_some_and(|desk| desk.readable);
        let Some(due) = [timer, drain, self.accept_at, self.wake_at].into_iter().flatten().min()
        else {
            return if hasty { NO } else { None };
        };
        let now = os::now();
        self.accept_at = self.accept_at.filter(|&at| at > now);
        if drain.is_some_and(|until| until <= now) {
            self.cut();
        }
        if self.peers.has_marked() || hasty { NO } else { Some(due.since(now)) }
    }

    /// Resumes until nobody is marked: whom something happened to, in being resumed or by what
    /// others said, may want the next thing. Whoever is marked after all passes goes on in the next
    /// turn, which does not sleep: first the selector is asked who else is ready.
    fn resume_ready(&mut self) {
        for _ in 0..PASSES {
            if !self.peers.has_marked() {
                return;
            }
            self.peers.begin();
            while let Some(ready) = self.peers.next_ready() {
                let (conn, wants_recv) = (ready.id, ready.wants_recv);
                self.resume(conn, wants_recv);
            }
            self.peers.wake_buffer_waiters(self.pool.unfilled_in_all());
        }
    }

    /// Does what the connection wants and its socket may; wishes for what it may not.
    fn resume(&mut self, conn: ConnId, wants_recv: bool) {
        if wants_recv {
            self.receive(conn);
        }
        self.send(conn);
        let readable = self.peers.wants_recv(conn);
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let (connection, socket) = (&peer.connection, &mut peer.driver);
        if connection.wants_shutdown() {
            // It fails only if the peer has reset, and then a read will tell.
            let _ = self.selector.shutdown(KeyOwner::Conn(conn).into(), socket.fd.as_fd());
            self.peers.shut_down(conn);
        } else if connection.is_finished() {
            self.close(conn);
        } else if self.selector.trigger() != Trigger::Edge {
            let writable = !connection.outgoing().is_empty() && !socket.writable;
            let wish = Interest { readable, writable };
            if let Err(error) = socket.wish(&mut self.selector, conn, wish) {
                tracing::warn!(%conn, "a connection is lost: {error}");
                self.peers.broken(conn);
            }
        }
    }

    /// Receives once, if there is something. If that was not all, the connection is resumed again
    /// for it: what it has to say goes out first, from a buffer that is still in the cache.
    fn receive(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let (connection, socket) = (&peer.connection, &mut peer.driver);
        if !socket.readable {
            return;
        }
        let Some(mut lease) = self.pool.lease(connection.recv_size()) else {
            self.counters.out_of_buffers += 1;
            return self.peers.wait_for_buffer(conn);
        };
        let buffer = lease.bytes_mut().expect("a new lease is the only one");
        let room = buffer.len();
        match self.selector.recv(KeyOwner::Conn(conn).into(), socket.fd.as_fd(), buffer) {
            Ok(0) => {
                socket.readable = false;
                self.peers.ended(conn);
            }
            Ok(n) => {
                // Short: that was all, unless the peer's end stands behind it, of which an edge
                // would not tell again.
                socket.readable = n == room || socket.hung_up;
                self.counters.receives += socket.counts;
                self.counters.received_bytes += socket.counts * n as u64;
                self.peers.received(conn, Chunk::received(lease, n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
            Err(_) => self.peers.broken(conn),
        }
    }

    /// Writes what is owed, while there is room for it. What a protocol says meanwhile because it
    /// is sent is written when the connection is resumed again: one without end does not own the
    /// loop.
    fn send(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        let mut owed = peer.connection.outgoing().bytes();
        while owed > 0
            && let Some(peer) = self.peers.get_mut(conn)
        {
            let (queue, socket) = (peer.connection.outgoing(), &mut peer.driver);
            if queue.is_empty() || !socket.writable {
                return;
            }
            let (fd, key) = (socket.fd.as_fd(), KeyOwner::Conn(conn).into());
            let (sent, room) = queue.offer(usize::MAX, |parts| self.selector.send(key, fd, parts));
            match sent {
                Ok(n) => {
                    socket.writable = n == room;
                    self.counters.sends += socket.counts;
                    self.counters.sent_bytes += socket.counts * n as u64;
                    owed = owed.saturating_sub(n);
                    self.peers.sent(conn, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable = false,
                Err(_) => self.peers.broken(conn),
            }
        }
    }

    fn close(&mut self, conn: ConnId) {
        let mut socket = self.peers.remove(conn).expect("a connection is closed once");
        // It was watched, so it can be unwatched; and if not, closing does it.
        let _ = socket.wish(&mut self.selector, conn, Interest::NONE);
        self.selector.close(KeyOwner::Conn(conn).into(), socket.fd);
        self.counters.closed += 1;
        self.accept_at = None;
    }

    /// Somebody asked it to stop; answers whether at once.
    fn stop(&mut self) -> bool {
        match self.stage.asked(self.stop.take()) {
            None => {}
            Some(Ended::Drained) => self.drain(),
            Some(Ended::AtOnce) => return true,
        }
        false
    }

    fn cut(&mut self) {
        self.stage = Stage::Cutting;
        self.counters.cut = self.peers.len() as u64;
        self.peers.break_all();
    }

    fn is_drained(&self) -> bool {
        self.stage != Stage::Serving && self.peers.is_empty()
    }
}

impl Socket {
    /// Asks the selector for what is wished now, if that is not what it is asked. Whoever wishes
    /// nothing is not watched: a hang-up would be reported for ever.
    fn wish(
        &mut self,
        selector: &mut impl Selector,
        conn: ConnId,
        wish: Interest,
    ) -> io::Result<()> {
        let asked = std::mem::replace(&mut self.interest, wish);
        let armed = std::mem::replace(&mut self.armed, true);
        let (fd, key) = (self.fd.as_fd(), KeyOwner::Conn(conn).into());
        match (asked == Interest::NONE, wish == Interest::NONE) {
            (true, true) => Ok(()),
            _ if asked == wish && armed => Ok(()),
            (true, _) => selector.add(fd, key, wish),
            (_, true) => selector.remove(fd),
            _ => selector.modify(fd, key, wish),
        }
    }
}

#[cfg(test)]
mod tests;
