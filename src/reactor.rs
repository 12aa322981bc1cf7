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

use std::io::ErrorKind::WouldBlock;
use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::{Chunk, Pool, SEND_MAX, Size, Vacant};
use crate::clock::{Nanos, earlier};
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::engine::Engine;
use crate::keys::{ConnId, Key, KeyOwner, ListenerId, MONITOR};
use crate::lifecycle;
use crate::limits::{CloseReason, Ended, Limits};
use crate::loop_state::LoopState;
use crate::os::{self, Clock, ShutdownSignal};
use crate::peer::Factory;
use crate::peers::{Visit, is_heavy};
use crate::protocol::Protocol;
use crate::selector::{Interest, Ready, ReadyEvent, Selector, Trigger};
use crate::status::ServerMonitor;
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
    /// What was reported last.
    reports: Vec<ReadyEvent>,
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
    /// True from a send that was counted as short until it is reported as writable.
    short: bool,
    /// What the selector watches for; if nothing, it does not watch the socket.
    interest: Interest,
    /// False from a report by a oneshot selector until it is armed again.
    armed: bool,
    /// True if it is armed, and its interest is the [usual](Reactor::usual) one.
    watched_as_usual: bool,
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
        let is_calm = self.has_no_input() & self.wake_at.is_none() && self.state.is_calm();
        let mut timeout = if is_calm { None } else { self.prepare()? };
        if let Some(longest) = self.selector.longest_wait() {
            // The loop does not sleep while bytes or connections come and go.
            let moved = self.moved();
            let moves = std::mem::replace(&mut self.moved_before, moved) != moved;
            let longest = if moves { Duration::ZERO } else { longest };
            timeout = Some(timeout.map_or(longest, |timeout| timeout.min(longest)));
        }
        self.selector.wait(&mut self.reports, timeout)?;
        self.state.peers.counters.iterations += 1;
        self.state.peers.counters.completed += self.reports.len() as u64;
        let flow = self.take_reports()?;
        let drains = !self.state.lifecycle.is_serving();
        let has_served_all = self.has_no_input() & !drains && self.state.peers.has_no_work();
        if flow.is_continue() && has_served_all { Ok(flow) } else { self.serve_rest(flow) }
    }

    /// Returns true if nothing but reports of connections came.
    fn has_no_input(&self) -> bool {
        !(self.listeners_ready | self.console_input.readable)
    }

    /// Prepares a wait. Returns how long it may sleep.
    #[cold]
    fn prepare(&mut self) -> io::Result<Option<Duration>> {
        self.state.run_timers();
        while let Some(conn) = self.state.peers.next_asked() {
            let peer = self.state.peers.get_mut(conn);
            let outq = peer.and_then(|peer| os::unsent(peer.driver.fd.as_fd()).ok());
            self.state.peers.acknowledged(conn, outq);
        }
        if let Some(accepting) = self.state.changed_accepting() {
            self.watch_listeners(accepting)?;
        }
        Ok(self.timeout(os::now))
    }

    /// Ends an iteration in which more came than the messages of ordinary connections.
    #[inline(never)]
    fn serve_rest(&mut self, mut flow: ControlFlow<Ended>) -> io::Result<ControlFlow<Ended>> {
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

    /// Acts upon what was reported of connections, and remembers the rest.
    ///
    /// A oneshot selector has disarmed what it reports. A connection is marked, so that it is
    /// resumed and armed again; listeners are armed before the next wait; the console's input is
    /// armed when it has been read; the shutdown signal is armed here.
    fn take_reports(&mut self) -> io::Result<ControlFlow<Ended>> {
        let mut flow = ControlFlow::Continue(());
        let mut at = 0;
        let armed = self.selector.trigger() != Trigger::Oneshot;
        while let Some(&report) = self.reports.get(at) {
            at += 1;
            let key = Key(report.u64);
            if let Some(conn) = key.conn() {
                self.exchange(conn, report, armed);
            } else if let ended @ ControlFlow::Break(_) = self.reported(key, armed)? {
                flow = ended;
            }
        }
        Ok(flow)
    }

    /// Remembers that what is no connection is ready.
    #[cold]
    fn reported(&mut self, key: Key, armed: bool) -> io::Result<ControlFlow<Ended>> {
        match KeyOwner::from(key) {
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
            KeyOwner::External(MONITOR) if self.state.monitor.is_some() => self.serve_monitor()?,
            KeyOwner::External(number) => self.external.push(number),
            KeyOwner::Conn(_) | KeyOwner::Link(_) => {} // A link only in a trace.
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Serves the monitor, and has the selector report it again if more is left to do.
    fn serve_monitor(&mut self) -> io::Result<()> {
        self.state.serve_monitor(|_| {});
        if self.selector.trigger() != Trigger::Level
            && let Some(monitor) = &self.state.monitor
        {
            let key = KeyOwner::External(MONITOR).into();
            self.selector.modify(monitor.fd(), key, Interest::READ)?;
        }
        Ok(())
    }

    /// Returns a number that grows when a connection is accepted or closed, or counted bytes move.
    fn moved(&self) -> u64 {
        let Counters { accepted, closed, receives, sends, .. } = self.state.peers.counters;
        accepted + closed + receives + sends
    }

    /// Returns the socket of a new connection.
    fn socket(&self, fd: OwnedFd) -> WatchedSocket {
        let (readable, writable, interest) = (false, true, self.usual);
        let (hung_up, short, armed, watched_as_usual) = (false, false, true, true);
        WatchedSocket { fd, readable, writable, hung_up, short, interest, armed, watched_as_usual }
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
    #[inline(always)] // Into the loop over all reports.
    fn exchange(&mut self, conn: ConnId, report: ReadyEvent, armed: bool) {
        let drains = !self.state.lifecycle.is_serving();
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        visit.peer.driver.reported(report, armed);
        let peer = &*visit.peer;
        if drains || !peer.is_ordinary() || is_heavy(&peer.connection) {
            return self.state.peers.mark(conn);
        }
        if peer.driver.readable {
            let Some(buffer) = self.pool.vacant(Size::SMALLEST) else {
                return self.state.peers.mark(conn);
            };
            match receive(&mut self.selector, buffer, conn, &mut visit.peer.driver) {
                Ok(chunk) => visit.received_ordinarily(chunk),
                Err(result) => return self.not_received(conn, result),
            }
        }
        if visit.peer.driver.writable
            && let Err(error) = send(&mut self.selector, &mut visit, SEND_MAX)
        {
            return self.state.peers.broken(conn, CloseReason::failed(&error));
        }
        let socket = &visit.peer.driver;
        let owes = !visit.peer.connection.outgoing().is_empty();
        if socket.readable || owes || !socket.watched_as_usual || !visit.changed_nothing() {
            self.exchanged(conn);
        }
    }

    /// A connection has received and sent, and that was not all.
    #[cold]
    #[inline(never)]
    fn exchanged(&mut self, conn: ConnId) {
        let Some(mut visit) = self.state.peers.visit(conn) else { return };
        let (peer, socket) = (&*visit.peer, &visit.peer.driver);
        let owes = !peer.connection.outgoing().is_empty();
        let falls_short = (socket.readable || owes) && !socket.writable;
        if socket.readable || owes || !socket.watched_as_usual || !peer.is_ordinary() {
            visit.mark();
        }
        if !visit.is_settled() {
            self.state.peers.settle(conn);
        }
        if falls_short {
            self.fell_short(conn);
        }
    }

    /// The socket of a connection takes no more for now.
    fn fell_short(&mut self, conn: ConnId) {
        if let Some(mut visit) = self.state.peers.visit(conn)
            && !std::mem::replace(&mut visit.peer.driver.short, true)
        {
            visit.note_short_send();
        }
        self.state.peers.fell_short(conn);
    }

    /// A receive has brought no bytes, but this result.
    #[cold]
    fn not_received(&mut self, conn: ConnId, result: io::Result<usize>) {
        let peers = &mut self.state.peers;
        let broken = result.as_ref().err().filter(|error| error.kind() != WouldBlock);
        let failed = broken.map(CloseReason::failed);
        if let Some(peer) = peers.get_mut(conn) {
            peer.driver.readable &= failed.is_some();
        }
        match (failed, result) {
            (Some(reason), _) => peers.broken(conn, reason),
            (None, Ok(_)) => peers.ended(conn),
            (None, Err(_)) => peers.mark(conn),
        }
    }

    /// Resumes connections until none is marked: one that was resumed, or that others sent to, may
    /// want something new. One that is marked after all passes is resumed in the next iteration,
    /// which does not sleep: first the selector reports the others that are ready.
    fn resume_ready(&mut self) {
        self.wake_buffer_waiters();
        if !self.state.peers.has_marked() {
            return;
        }
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
            socket.watched_as_usual = wanted == self.usual;
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
        let size = self.pool.nearest(visit.peer.connection.recv_size());
        let socket = &mut visit.peer.driver;
        let buffer = self.pool.vacant(size);
        match buffer.map(|buffer| receive(&mut self.selector, buffer, conn, socket)) {
            Some(Ok(chunk)) => {
                visit.received(chunk);
                if !visit.is_settled() {
                    self.state.peers.settle(conn);
                }
            }
            Some(Err(result)) => self.not_received(conn, result),
            None => self.state.peers.wait_for_buffer(conn),
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
                self.fell_short(conn);
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

/// Receives once into a buffer.
///
/// # Errors
/// The result, if no bytes were received.
#[inline(always)] // Once for each message.
fn receive(
    selector: &mut impl Selector,
    mut buffer: Vacant<'_>,
    conn: ConnId,
    socket: &mut WatchedSocket,
) -> Result<Chunk, io::Result<usize>> {
    let (key, fd) = (KeyOwner::Conn(conn).into(), socket.fd.as_fd());
    match selector.recv(key, fd, buffer.bytes_mut()) {
        Ok(n) if n > 0 => {
            // Short: that was all, unless the peer's end follows, which an edge does not report
            // again.
            socket.readable = n == buffer.bytes_mut().len() || socket.hung_up;
            Ok(Chunk::received(buffer.leased(), n))
        }
        result => {
            buffer.give_back();
            Err(result)
        }
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
    let (sent, offered) = match queue.only_part(most) {
        Some(part) => (selector.send(key, fd, &[IoSlice::new(part)]), part.len()),
        None => queue.offer_several(most, move |parts| selector.send(key, fd, parts)),
    };
    match sent {
        Ok(n) => {
            socket.writable = n == offered;
            visit.sent(n);
            Ok(n)
        }
        Err(error) if error.kind() == WouldBlock => {
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

    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()> {
        let key = KeyOwner::External(MONITOR).into();
        self.selector.add_shared(monitor.fd(), key, Interest::READ)?;
        self.state.monitor = Some(monitor);
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
    /// Remembers what was reported, by a selector that keeps it armed or not.
    #[inline(always)]
    fn reported(&mut self, report: ReadyEvent, armed: bool) {
        debug_assert!(self.interest != Interest::NONE, "only what is watched");
        if report.events == libc::EPOLLIN as u32 && armed {
            self.readable = true; // Bytes, and nothing else: so it is for most.
        } else {
            self.reported_otherwise(Ready::of(report), armed);
        }
    }

    #[inline(never)]
    fn reported_otherwise(&mut self, report: Ready, armed: bool) {
        self.readable |= report.readable;
        self.writable |= report.writable;
        self.hung_up |= report.hung_up;
        self.short &= !report.writable;
        self.armed &= armed;
        self.watched_as_usual &= armed;
    }

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
