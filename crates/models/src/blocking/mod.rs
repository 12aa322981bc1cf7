//! Blocking calls: a thread sleeps in the call that waits for its bytes.
//!
//! ```text
//!   one at a time           a thread for each
//!
//!   ┌► accept                ┌► accept ──► thread: read ◄─► write
//!   │  read ◄─► write        │             thread: read ◄─► write
//!   └─ close                 └─            …
//! ```
//!
//! The oldest way to serve, driving the same connections as the loops. There is no readiness: the
//! thread itself waits, and the kernel's scheduler is the loop. One connection at a time needs
//! nothing more, and the next one waits; with a thread for each, all are served, and each costs a
//! stack and a context switch.
//!
//! Each connection has a few buffers of its own, of the sizes that a loop would share among all. A
//! thread writes its broadcasts to the other sockets itself, so a slow listener slows its speaker
//! (`group.rs`).
//!
//! The thread that waits for the end serves the operator console (`console.rs`).
//!
//! # Stopping
//!
//! A thread that sleeps in a call does not look at flags. `shutdown(2)` would wake it, but after it
//! the kernel replies to further bytes with a reset, and a reset destroys what the peer has not
//! read yet. So a drain interrupts the calls, by a signal whose handler does nothing
//! ([`os::interrupt`]), again and again until each thread has noticed: it may have looked at the
//! flag just before the signal, and gone to sleep just after. From then on each thread finishes by
//! itself. Past the deadline nothing needs to be preserved, and `shutdown(2)` is used, which lasts:
//! a thread that goes to sleep later wakes at once. In the end every thread is joined.

mod acceptor;
mod connection;
mod console;
mod group;
mod local_counters;
mod pool;
mod shared;
mod state;
mod status;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use acceptor::Acceptor;
use connection::serve_connection;
use console::BlockingConsole;
use group::{Group, Member};
use local_counters::LocalCounters;
use pool::ThreadPool;
use shared::SharedState;
use status::ThreadStatus;

use proactor::buffer::BufferClass;
use proactor::calls::{Calls, PlainCalls};
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::keys::{ConnId, ListenerId};
use proactor::lifecycle::{Lifecycle, Stage};
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::mailbox::PostedRequest;
use proactor::os::{self, EventFd, ShutdownSignal};
use proactor::peer::Factory;
use proactor::protocol::Protocol;

/// Accepts at one listener in an iteration.
const ACCEPTS: usize = 64;
/// How soon a thread that has not noticed a drain is interrupted again, at first …
const INTERRUPT_AFTER: Duration = Duration::from_millis(1);
/// … and at most: the time doubles with each interrupt.
const INTERRUPT_AFTER_MAX: Duration = Duration::from_millis(64);

/// How many connections a server serves at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One, and then the next, in a thread: the thread that called waits for the signal to stop.
    OneByOne,
    /// As many as there are, each in a thread.
    Threads,
}

/// A server whose calls block.
#[derive(Debug)]
pub struct Blocking<P, C = PlainCalls> {
    /// The calls of this thread.
    calls: C,
    style: Style,
    acceptor: Acceptor<P>,
    groups: Vec<Arc<Group>>,
    /// How many connections were ever accepted.
    accepted: Arc<AtomicU64>,
    shared: Arc<SharedState>,
    threads: ThreadPool,
    lifecycle: Lifecycle,
    console: Option<BlockingConsole>,
    /// How soon threads with messages are interrupted again; `Some` exactly while there may be any.
    interrupt: Option<Duration>,
    /// What the threads that have ended counted.
    ended: Counters,
    /// What this thread counted.
    counted: LocalCounters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<P: Protocol, C: Calls> Blocking<P, C> {
    /// Creates a server without a listener, which `stop` can stop. Each connection has a few
    /// buffers of each of these sizes, and each thread its own [lane](Calls::lane) of `calls`.
    ///
    /// SIGURG gets a handler that does nothing, in the whole process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(
        calls: C,
        style: Style,
        buffers: Vec<BufferClass>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Blocking<P, C>> {
        let calls_before = os::calls();
        os::allow_interrupts()?;
        Ok(Blocking {
            calls,
            style,
            acceptor: Acceptor::new(),
            groups: Vec::new(),
            accepted: Arc::default(),
            shared: Arc::new(SharedState::new(buffers, limits.max_input, EventFd::new()?)),
            threads: ThreadPool::new(),
            lifecycle: Lifecycle::new(limits, stop),
            console: None,
            interrupt: None,
            ended: Counters::default(),
            counted: LocalCounters::default(),
            calls_before,
        })
    }

    /// Serves in a thread until the server is asked to stop. Returns how it is to end.
    fn run_one_by_one(&mut self) -> io::Result<Ended> {
        let acceptor = std::mem::replace(&mut self.acceptor, Acceptor::new());
        let (calls, signal) = (self.calls.clone(), self.lifecycle.shutdown().clone());
        self.threads.add(&self.shared, move |shared, status| {
            serve_one_after_another(&calls, &signal, shared, status, acceptor)
        })?;
        loop {
            let interrupt = self.interrupt_receivers();
            self.wait(false, interrupt)?;
            self.ended += self.threads.reap(&self.shared)?;
            if let Some(ended) = self.take_requests() {
                return Ok(ended);
            }
        }
    }

    /// Accepts, and serves each connection in a thread, until the server is asked to stop. Returns
    /// how it is to end.
    fn run_threads(&mut self) -> io::Result<Ended> {
        loop {
            let capacity = self.lifecycle.has_capacity(self.threads.len());
            let interrupt = self.interrupt_receivers();
            self.wait(capacity, interrupt)?;
            self.reap()?;
            self.acceptor.ids().for_each(|listener| self.accept(listener));
            if let Some(ended) = self.take_requests() {
                return Ok(ended);
            }
        }
    }

    fn accept(&mut self, listener: ListenerId) {
        for _ in 0..ACCEPTS {
            if !self.lifecycle.has_capacity(self.threads.len()) {
                return;
            }
            let id = self.threads.next_id();
            let accepted = self.acceptor.accept(&self.calls, listener, id, &self.counted);
            let Some((membership, factory)) = accepted else { return };
            let (calls, signal) = (self.calls.clone(), self.lifecycle.shutdown().clone());
            let work = move |shared: &SharedState, status: &ThreadStatus| {
                let make = |member: &Member| factory.make(member, &signal);
                let (calls, noticed) = (calls.lane(id.slot()), &mut || status.notice());
                serve_connection(&calls, shared, status, membership, make, noticed);
                Ok(())
            };
            if let Err(error) = self.threads.add(&self.shared, work) {
                tracing::warn!(%error, threads = self.threads.len(), "a connection is refused");
                self.counted.refused.add(1);
                self.counted.closed.add(1);
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let before = self.threads.len();
        self.ended += self.threads.reap(&self.shared)?;
        if self.threads.len() < before {
            self.acceptor.end_pause();
        }
        Ok(())
    }

    /// Takes the requests to stop, by the signal or by the operator, whose console is served.
    /// Returns how the server is to end, if it is asked to.
    fn take_requests(&mut self) -> Option<Ended> {
        let signal = self.lifecycle.take_requests();
        self.pass_posted();
        let console = self.serve_console();
        if let Some(ended) = signal.break_value().or(console.break_value()) {
            return Some(ended);
        }
        if signal.continue_value() == Some(true) {
            self.lifecycle.drain(self.threads.len(), os::now());
        }
        (!self.lifecycle.is_serving()).then_some(Ended::Drained)
    }

    /// Passes what other threads ask to the threads of the connections.
    fn pass_posted(&mut self) {
        for posted in self.lifecycle.shutdown().take_posted() {
            self.interrupt = Some(INTERRUPT_AFTER);
            match posted {
                PostedRequest::Broadcast(listener, bytes) => {
                    let wanted = |member: &Member| member.listener == listener;
                    let statuses = self.threads.statuses();
                    statuses.for_each(|status| _ = status.post(&self.calls, wanted, &bytes));
                }
                PostedRequest::Send(ref peer, _) | PostedRequest::Wake(ref peer) => {
                    let conn = peer.conn();
                    if let Some(status) = self.threads.status(conn) {
                        status.pass(conn, posted);
                    }
                }
                PostedRequest::Close(peer) => {
                    let close = |member: &Member| {
                        if member.id == peer.conn() {
                            member.break_off(&self.calls, CloseReason::Handle);
                        }
                    };
                    self.threads.status(peer.conn()).map(|status| status.look(close));
                }
            }
        }
    }

    /// Interrupts the threads that sleep for their own peer and have messages. Returns when to do
    /// so again, if any has not taken them.
    fn interrupt_receivers(&mut self) -> Option<Duration> {
        let pause = self.interrupt?;
        let any = self.threads.interrupt_receivers();
        self.interrupt = any.then(|| (2 * pause).min(INTERRUPT_AFTER_MAX));
        self.interrupt.map(|_| pause)
    }

    /// Lets every connection finish; cuts those that take too long, or all `at_once`.
    fn finish(&mut self, mut at_once: bool) -> io::Result<Ended> {
        self.acceptor.close();
        self.lifecycle.drain(self.threads.len(), os::now());
        self.shared.advance(Stage::Draining);
        if at_once {
            self.cut();
        }
        let (mut interrupt, mut failed) = (INTERRUPT_AFTER, Ok(()));
        loop {
            match self.threads.reap(&self.shared) {
                Ok(counted) => self.ended += counted,
                Err(error) => failed = failed.and(Err(error)),
            }
            if self.threads.len() == 0 {
                let _ = self.serve_console(); // Prints the last messages.
                let ended = if at_once { Ended::AtOnce } else { Ended::Drained };
                return failed.map(|()| ended);
            }
            let receivers = self.interrupt_receivers();
            let drain = self.threads.interrupt_unaware().then_some(interrupt);
            interrupt = (2 * interrupt).min(INTERRUPT_AFTER_MAX);
            let deadline = self.lifecycle.next_timer().map(|due| due.since(os::now()));
            self.wait(false, [receivers, drain, deadline].into_iter().flatten().min())?;
            if self.take_requests() == Some(Ended::AtOnce) {
                at_once = true;
                self.cut();
            } else if self.lifecycle.run_timers(os::now()) && !at_once {
                self.ended.cut = self.cut();
            }
        }
    }

    /// Breaks every connection. Returns how many there are.
    fn cut(&self) -> u64 {
        // In this order: a thread that enters a group after it was cut sees the stage.
        self.shared.advance(Stage::Cutting);
        self.groups.iter().map(|group| group.cut(&self.calls)).sum()
    }

    /// Sleeps until the server is asked to stop, a thread has ended, the console has input or
    /// messages, or, if there is `capacity`, this thread can accept a connection.
    fn wait(&mut self, capacity: bool, timeout: Option<Duration>) -> io::Result<()> {
        let input = self.console.as_ref().and_then(BlockingConsole::input);
        let others = [self.lifecycle.shutdown().as_fd(), self.shared.event.as_fd()];
        let others = others.into_iter().chain(input);
        self.counted.iterations.add(1);
        let ready = self.acceptor.wait(&self.calls, others, capacity, timeout)?;
        self.counted.completed.add(ready as u64);
        Ok(())
    }
}

impl<P: Protocol, C: Calls> Engine<P> for Blocking<P, C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        let group = Arc::new(Group::new(Arc::clone(&self.accepted), id));
        self.acceptor.add(id, fd, factory, Arc::clone(&group))?;
        self.groups.push(group);
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        Arc::get_mut(&mut self.shared).expect("no thread runs yet").has_operator = true;
        self.console = Some(BlockingConsole::new(console));
        Ok(())
    }

    /// Serves until it is stopped. No thread is left then.
    ///
    /// # Errors
    /// poll(2) fails, or the one thread of [`Style::OneByOne`] cannot be made.
    ///
    /// # Panics
    /// If a protocol panicked in its thread.
    fn run(&mut self) -> io::Result<Ended> {
        self.console.iter_mut().for_each(BlockingConsole::begin);
        let requested = match self.style {
            Style::OneByOne => self.run_one_by_one(),
            Style::Threads => self.run_threads(),
        };
        let at_once = !matches!(requested, Ok(Ended::Drained));
        let ended = self.finish(at_once);
        requested.and(ended)
    }

    fn counters(&self) -> Counters {
        let calls = os::calls() - self.calls_before;
        let mut counters = Counters { calls, ..self.counted.snapshot() };
        counters += self.ended;
        counters += self.threads.counters();
        counters
    }
}

/// Accepts a connection, serves it to its end, and accepts the next, until the server drains.
fn serve_one_after_another<P: Protocol>(
    calls: &impl Calls,
    signal: &ShutdownSignal,
    shared: &SharedState,
    status: &ThreadStatus,
    mut acceptor: Acceptor<P>,
) -> io::Result<()> {
    let calls = calls.lane(status.id.slot());
    let mut id = status.id;
    while shared.stage() == Stage::Serving {
        status.counted.completed.add(acceptor.wait(&calls, [], true, None)? as u64);
        status.counted.iterations.add(1);
        for listener in acceptor.ids() {
            let accepted = acceptor.accept(&calls, listener, id, &status.counted);
            if let Some((membership, factory)) = accepted {
                let make = |member: &Member| factory.make(member, signal);
                // Connections that still wait will not be accepted: the peers learn it now.
                let mut noticed = || {
                    status.notice();
                    acceptor.close();
                };
                serve_connection(&calls, shared, status, membership, make, &mut noticed);
                id = ConnId::new(id.slot(), id.generation() + 1); // For the next connection.
            }
        }
    }
    status.notice();
    Ok(())
}

#[cfg(test)]
mod tests;
