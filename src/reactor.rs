//! The readiness loop: wait until a socket is ready, then read from it or write to it.
//!
//! ```text
//!         ┌───────────────── wait ─────────────────┐  sleep until something is ready
//!         ▼                                        │
//!   each report: remember that it is ready;        │  of an ordinary connection, read and write
//!         │      mark it if more is left to do     │  once, which is all that most want
//!         ▼                                        │
//!   each that is marked: resume ───────────────────┘  read and write what it wants, while the
//!                                                      socket is ready; watch for the rest
//! ```
//!
//! The counterpart of [`proactor`](crate::proactor): the same connections, groups, limits and
//! drain. Where the ring loop submits operations and gets their results, this loop waits for the
//! report that a socket is ready, and then makes the system call that copies the data itself.
//!
//! A socket counts as ready until a call on it would block, or moves fewer bytes than it
//! could. An edge-triggered selector requires this, since it reports an edge once; a
//! level-triggered loop saves the call that would find nothing. The interest changes only when the
//! wants change.

mod accept;
mod console;
mod embedded;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::{Chunk, Pool, SEND_MAX, Size};
use crate::clock::{Nanos, earlier};
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::engine::Engine;
use crate::keys::{ConnId, KeyOwner, ListenerId};
use crate::lifecycle;
use crate::limits::{CloseReason, Ended, Limits};
use crate::loop_state::LoopState;
use crate::os::{self, Clock, ShutdownSignal};
use crate::peer::Factory;
use crate::peers::{Visit, is_heavy};
use crate::protocol::Protocol;
use crate::selector::{Interest, Ready, Selector, Trigger};
pub use accept::ACCEPTS;
use accept::ListenerReadiness;
use console::InputReadiness;

/// How often one connection may receive in an iteration: at its report, and as often as it is
/// resumed. So a flood does not delay the others.
const PASSES: usize = 16;

/// A server that waits for readiness.
#[derive(Debug)]
pub struct Reactor<S, P> {
    selector: S,
    pool: Rc<Pool>,
    /// The interest of a connection that wants to receive and owes nothing.
    usual: Interest,
    state: LoopState<P, WatchedSocket, ListenerReadiness>,
    /// When the program that embeds it wants to be woken.
    wake_at: Option<Nanos>,
    /// External descriptors that were reported and not yet taken.
    external: Vec<u32>,
    /// What [`moved`](Reactor::moved) returned before the last wait of a selector that tries all
    /// sockets instead of asking.
    moved_before: u64,
    /// The receives that were counted after marked connections were last resumed.
    receives_before: u64,
    /// True if a listener is readable.
    listeners_ready: bool,
    /// Emptied in every iteration: its capacity is kept.
    reports: Vec<Ready>,
    console_input: InputReadiness,
}

/// A connection's socket, and what is known of its readiness.
#[derive(Debug)]
pub struct WatchedSocket {
    fd: OwnedFd,
    /// True until a read would block, or is short.
    readable: bool,
    /// True until a write would block, or is short.
    writable: bool,
    /// True once the peer's end was reported: a read that is short is not the last.
    hung_up: bool,
    /// What the selector watches for; if nothing, it does not watch the socket.
    interest: Interest,
    /// False from a report by a oneshot selector until it is armed again.
    armed: bool,
}

impl<S: Selector, P: Protocol> Reactor<S, P> {
    /// Creates a server that has no listener yet and that `stop` stops. It takes its buffers from
    /// `pool`.
    ///
    /// # Errors
    /// The selector cannot watch `stop`.
    pub fn new(
        mut selector: S,
        pool: Rc<Pool>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Reactor<S, P>> {
        let mut state = LoopState::new(limits, stop, Clock::default(), Rc::clone(&pool));
        state.peers.receive_into(&pool);
        let signal = state.lifecycle.shutdown.as_fd();
        selector.add(signal, KeyOwner::Shutdown.into(), Interest::READ)?;
        let usual = match selector.trigger() {
            Trigger::Edge => Interest::BOTH,
            Trigger::Level | Trigger::Oneshot => Interest::READ,
        };
        Ok(Reactor {
            selector,
            pool,
            usual,
            state,
            wake_at: None,
            external: Vec::new(),
            moved_before: u64::MAX,
            receives_before: 0,
            listeners_ready: false,
            reports: Vec::new(),
            console_input: InputReadiness::default(),
        })
    }

    /// Runs one iteration: sleep until a descriptor is ready, then resume the connections that this
    /// concerns.
    ///
    /// # Errors
    /// The selector as a whole fails.
    pub fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        self.state.run_timers();
        while let Some(conn) = self.state.peers.next_asked() {
            let peer = self.state.peers.get_mut(conn);
            let outq = peer.and_then(|peer| os::unsent(peer.driver.fd.as_fd()).ok());
            self.state.peers.acknowledged(conn, outq);
        }
        if let Some(accepting) = self.state.changed_accepting() {
            self.watch_listeners(accepting)?;
        }
        let mut timeout = self.timeout(os::now);
        if let Some(longest) = self.selector.longest_wait() {
            // The loop does not sleep while bytes or connections come and go.
            let moved = self.moved();
            let moves = std::mem::replace(&mut self.moved_before, moved) != moved;
            let longest = if moves { Duration::ZERO } else { longest };
            timeout = Some(timeout.map_or(longest, |timeout| timeout.min(longest)));
        }
        let mut reports = std::mem::take(&mut self.reports);
        self.selector.wait(&mut reports, timeout)?;
        self.state.peers.counters.iterations += 1;
        self.state.peers.counters.completed += reports.len() as u64;
        let mut flow = ControlFlow::Continue(());
        for report in reports.drain(..) {
            if let ended @ ControlFlow::Break(_) = self.reported(report)? {
                flow = ended;
            }
        }
        self.reports = reports;
        if flow.is_continue() {
            flow = self.read_console()?;
        }
        if flow.is_break() {
            return Ok(flow);
        }
        if !self.state.lifecycle.is_serving() {
            self.look_for_last();
        }
        if self.may_accept() {
            self.accept()?;
        }
        self.resume_ready();
        if self.state.peers.has_operator_messages()
            && let ended @ ControlFlow::Break(_) = self.serve_console()?
        {
            return Ok(ended);
        }
        Ok(lifecycle::unless_drained(self.state.is_drained()))
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.state.peers.len()
    }

    /// Remembers what is ready.
    ///
    /// A oneshot selector has disarmed what it reports. A connection is marked, so that it is
    /// resumed and armed again; listeners are armed before the next wait; the console's input is
    /// armed when it has been read; the shutdown signal is armed here.
    fn reported(&mut self, report: Ready) -> io::Result<ControlFlow<Ended>> {
        let armed = self.selector.trigger() != Trigger::Oneshot;
        match KeyOwner::from(report.key) {
            KeyOwner::Conn(conn) => {
                if let Some(peer) = self.state.peers.get_mut(conn) {
                    let socket = &mut peer.driver;
                    debug_assert!(socket.interest != Interest::NONE, "only what is watched");
                    socket.readable |= report.readable;
                    socket.writable |= report.writable;
                    socket.hung_up |= report.hung_up;
                    socket.armed &= armed;
                    self.exchange(conn);
                }
            }
            KeyOwner::Listener(id) => {
                let state = &mut self.state.listeners[id.index()].state;
                state.readable = true;
                state.armed &= armed;
                (self.listeners_ready, self.state.listeners_changed) = (true, true);
            }
            KeyOwner::Shutdown => {
                if !armed {
                    let (signal, key) =
                        (self.state.lifecycle.shutdown.as_fd(), KeyOwner::Shutdown.into());
                    self.selector.modify(signal, key, Interest::READ)?;
                }
                return Ok(self.state.take_requests());
            }
            KeyOwner::Console => self.console_input.readable = true,
            KeyOwner::External(number) => self.external.push(number),
            KeyOwner::Link(_) => {} // Only in a trace.
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns a number that grows when a connection is accepted or closed, or counted bytes move.
    fn moved(&self) -> u64 {
        let Counters { accepted, closed, receives, sends, .. } = self.state.peers.counters;
        accepted + closed + receives + sends
    }

    /// Returns the socket of a new connection.
    fn socket(&self, fd: OwnedFd) -> WatchedSocket {
        let (readable, writable, interest) = (false, true, self.usual);
        WatchedSocket { fd, readable, writable, hung_up: false, interest, armed: true }
    }

    fn watch_new(&mut self, id: ConnId) {
        let socket = &self.state.peers.get_mut(id).expect("just opened").driver;
        let (fd, interest) = (socket.fd.as_fd(), socket.interest);
        if let Err(error) = self.selector.add(fd, KeyOwner::Conn(id).into(), interest) {
            self.state.peers.counters.refused += 1;
            tracing::warn!(%id, %error, "a connection is refused");
            self.state.peers.get_mut(id).expect("just opened").driver.interest = Interest::NONE;
            self.state.peers.broken(id, CloseReason::Refused);
        }
    }

    /// Returns how long this iteration may sleep.
    fn timeout(&self, clock: impl FnOnce() -> Nanos) -> Option<Duration> {
        let busy = self.state.is_drained()
            || self.state.peers.has_marked()
            || self.state.peers.has_taken()
            || self.may_accept()
            || self.console_input.readable;
        if busy {
            return Some(Duration::ZERO);
        }
        earlier(self.state.next_timer(), self.wake_at).map(|due| due.since(clock()))
    }

    /// Receives and sends once for a connection that was reported. It is marked if more is left to
    /// do, or if it is not ordinary, which includes all that the server drains.
    ///
    /// This is all that happens for most messages, so it looks the connection up once.
    fn exchange(&mut self, conn: ConnId) {
        let drains = !self.state.lifecycle.is_serving();
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        let peer = &*visit.peer;
        if drains || !peer.is_ordinary() || is_heavy(&peer.connection) {
            return visit.mark();
        }
        if peer.driver.readable
            && let Err(reason) = receive(&mut self.selector, &self.pool, &mut visit)
        {
            return self.not_received(conn, reason);
        }
        if visit.peer.driver.writable
            && let Err(error) = send(&mut self.selector, &mut visit, SEND_MAX)
        {
            return self.state.peers.broken(conn, CloseReason::failed(&error));
        }
        let (peer, socket) = (&*visit.peer, &visit.peer.driver);
        let has_all = !socket.readable && peer.connection.outgoing().is_empty();
        let is_watched = socket.interest == self.usual && socket.armed;
        let falls_short = !has_all && !socket.writable;
        if !(has_all && is_watched && peer.is_ordinary()) {
            visit.mark();
        }
        if !visit.is_settled() {
            self.state.peers.settle(conn);
        }
        if falls_short {
            self.state.peers.fell_short(conn);
        }
    }

    /// A receive has brought no bytes.
    #[cold]
    fn not_received(&mut self, conn: ConnId, reason: NoBytes) {
        let peers = &mut self.state.peers;
        match reason {
            NoBytes::NoBuffer => peers.wait_for_buffer(conn),
            NoBytes::NotReady => peers.mark(conn),
            NoBytes::End => peers.ended(conn),
            NoBytes::Failed(error) => peers.broken(conn, CloseReason::failed(&error)),
        }
    }

    /// Resumes connections until none is marked: one that was resumed, or that others sent to, may
    /// want something new. One that is marked after all passes is resumed in the next iteration,
    /// which does not sleep: first the selector reports the others that are ready.
    #[inline]
    fn resume_ready(&mut self) {
        self.wake_buffer_waiters();
        if self.state.peers.has_marked() {
            self.resume_marked();
        }
    }

    #[inline(never)] // Most messages are exchanged at their report: an iteration marks nothing.
    fn resume_marked(&mut self) {
        // Only light connections have received since, at their reports.
        let light = self.state.peers.counters.receives > self.receives_before;
        self.state.peers.begin_iteration(false, light);
        for _ in 1..PASSES {
            if !self.state.peers.has_resumable() {
                break;
            }
            self.state.peers.begin();
            while let Some(visit) = self.state.peers.next_ready() {
                let conn = visit.id;
                self.resume(conn);
            }
            self.wake_buffer_waiters();
        }
        self.receives_before = self.state.peers.counters.receives;
    }

    /// A receive takes a buffer of any size, so each buffer serves one connection that waits.
    fn wake_buffer_waiters(&mut self) {
        if self.state.peers.has_buffer_waiters() {
            self.state.peers.wake_buffer_waiters(self.pool.unfilled_in_all());
        }
    }

    /// Does what the connection wants and its socket is ready for; watches for the rest. It is
    /// marked if the socket is ready for more: first its reply is sent, from a buffer that is still
    /// in the cache.
    fn resume(&mut self, conn: ConnId) {
        self.receive(conn);
        self.send(conn);
        if !self.state.lifecycle.is_serving() {
            self.state.peers.note_cannot_receive(conn);
        }
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        let (wants_recv, owes) = (visit.wants_recv(), !visit.peer.connection.outgoing().is_empty());
        if owes && self.pool.has_scarce() {
            visit.peer.connection.release_scarce(Size::LARGEST);
        }
        let socket = &visit.peer.driver;
        if (wants_recv && socket.readable) || (owes && socket.writable) || visit.may_resume_input()
        {
            visit.mark();
        }
        let (connection, socket) = (&visit.peer.connection, &mut visit.peer.driver);
        if connection.wants_shutdown() {
            // It fails only if the peer has reset the connection, which a read will report.
            let _ = self.selector.shutdown(KeyOwner::Conn(conn).into(), socket.fd.as_fd());
            self.state.peers.shut_down(conn);
        } else if connection.is_finished() {
            self.close(conn);
        } else if self.selector.trigger() != Trigger::Edge {
            let wanted = Interest { readable: wants_recv, writable: owes && !socket.writable };
            if let Err(error) = socket.watch_for(&mut self.selector, conn, wanted) {
                tracing::warn!(%conn, %error, "a connection cannot be watched");
                self.state.peers.broken(conn, CloseReason::failed(&error));
            }
        }
    }

    /// Receives once, if the connection wants to and its socket is readable.
    fn receive(&mut self, conn: ConnId) {
        let drains = !self.state.lifecycle.is_serving();
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        let takes_last = drains && visit.peer.takes_last_input();
        // Of the last input, no report may have come.
        visit.peer.driver.readable |= takes_last;
        if !visit.peer.driver.readable || !visit.wants_recv() {
            return;
        }
        match receive(&mut self.selector, &self.pool, &mut visit) {
            Ok(()) if visit.is_settled() => {}
            Ok(()) => self.state.peers.settle(conn),
            Err(reason) => self.not_received(conn, reason),
        }
        if takes_last {
            self.note_last_input(conn);
        }
    }

    /// Notes whether a receive has brought all of the connection's last input.
    #[cold]
    fn note_last_input(&mut self, conn: ConnId) {
        let Some(peer) = self.state.peers.get_mut(conn) else { return };
        if !peer.driver.readable || peer.has_taken_enough() {
            self.state.peers.last_input_taken(conn);
        }
    }

    /// Writes what is queued, at most [`SEND_MAX`] bytes, while the socket takes it. What is left,
    /// and what a protocol adds meanwhile, is written when the connection is resumed again: an
    /// endless stream does not delay the others.
    fn send(&mut self, conn: ConnId) {
        let mut left = None;
        while let Some(mut visit) = self.state.peers.visit(conn) {
            let queued = visit.peer.connection.outgoing().bytes();
            let most = *left.get_or_insert(queued.min(SEND_MAX));
            if most == 0 || queued == 0 || !visit.peer.driver.writable {
                return;
            }
            match send(&mut self.selector, &mut visit, most) {
                Ok(n) => left = Some(most - n),
                Err(error) => return self.state.peers.broken(conn, CloseReason::failed(&error)),
            }
            let writable = visit.peer.driver.writable;
            if !visit.is_settled() {
                self.state.peers.settle(conn);
            }
            if !writable {
                self.state.peers.fell_short(conn);
            }
        }
    }

    fn close(&mut self, conn: ConnId) {
        let mut socket = self.state.closed(conn);
        // If this fails, the close removes it from the selector.
        let _ = socket.watch_for(&mut self.selector, conn, Interest::NONE);
        self.selector.close(KeyOwner::Conn(conn).into(), socket.fd);
    }
}

/// Why a receive has brought no bytes.
enum NoBytes {
    NoBuffer,
    NotReady,
    End,
    Failed(io::Error),
}

/// Receives once into a buffer of the pool.
///
/// # Errors
/// Why no bytes were received.
#[inline(always)] // Once for each message: a call would store and load the whole visit.
fn receive<P: Protocol>(
    selector: &mut impl Selector,
    pool: &Rc<Pool>,
    visit: &mut Visit<'_, P, WatchedSocket>,
) -> Result<(), NoBytes> {
    let (connection, socket) = (&visit.peer.connection, &mut visit.peer.driver);
    let Some(mut lease) = pool.lease(connection.recv_size()) else {
        return Err(NoBytes::NoBuffer);
    };
    let buffer = lease.bytes_mut();
    let space = buffer.len();
    match selector.recv(KeyOwner::Conn(visit.id).into(), socket.fd.as_fd(), buffer) {
        Ok(n) if n > 0 => {
            // Short: that was all, unless the peer's end follows, which an edge does not report
            // again.
            socket.readable = n == space || socket.hung_up;
            visit.received(Chunk::received(lease, n));
            Ok(())
        }
        Ok(_) => {
            socket.readable = false;
            Err(NoBytes::End)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.readable = false;
            Err(NoBytes::NotReady)
        }
        Err(error) => Err(NoBytes::Failed(error)),
    }
}

/// Sends what is queued by one call, at most so many bytes. Returns how many were sent.
///
/// # Errors
/// send(2), but for a socket that takes no more: nothing is sent then.
#[inline(always)] // As `receive`.
fn send<P: Protocol>(
    selector: &mut impl Selector,
    visit: &mut Visit<'_, P, WatchedSocket>,
    most: usize,
) -> io::Result<usize> {
    let (queue, socket) = (visit.peer.connection.outgoing(), &mut visit.peer.driver);
    if queue.is_empty() {
        return Ok(0);
    }
    let (fd, key) = (socket.fd.as_fd(), KeyOwner::Conn(visit.id).into());
    let (sent, offered) = queue.offer(most, |parts| selector.send(key, fd, parts));
    match sent {
        Ok(n) => {
            socket.writable = n == offered;
            visit.sent(n);
            Ok(n)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.writable = false;
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

impl<S: Selector, P: Protocol> Engine<P> for Reactor<S, P> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        os::set_blocking(fd.as_fd(), false)?;
        self.state.listen(id, fd, &factory)
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        self.console_input = InputReadiness::watch(&console, &mut self.selector)?;
        self.state.set_console(console);
        Ok(())
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

impl WatchedSocket {
    /// Makes the selector watch for `wanted`, if it does not already. A socket without interest is
    /// not watched: a level-triggered selector would report its hang-up in every iteration.
    fn watch_for(
        &mut self,
        selector: &mut impl Selector,
        conn: ConnId,
        wanted: Interest,
    ) -> io::Result<()> {
        let watched = std::mem::replace(&mut self.interest, wanted);
        let armed = std::mem::replace(&mut self.armed, true);
        let (fd, key) = (self.fd.as_fd(), KeyOwner::Conn(conn).into());
        match (watched == Interest::NONE, wanted == Interest::NONE) {
            (true, true) => Ok(()),
            _ if watched == wanted && armed => Ok(()),
            (true, _) => selector.add(fd, key, wanted),
            (_, true) => selector.remove(fd),
            _ => selector.modify(fd, key, wanted),
        }
    }
}

#[cfg(test)]
mod tests;
