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
use group::{Group, Member, Membership};
use pool::ThreadPool;
use shared::SharedState;
use status::ThreadStatus;

use proactor::address::Address;
use proactor::buffer::BufferClass;
use proactor::calls::Calls;
use proactor::console::Console;
use proactor::counters::{Counters, LiveCounters};
use proactor::engine::Engine;
use proactor::keys::{ConnId, ListenerId};
use proactor::lifecycle::{Lifecycle, Stage};
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::mailbox::PostedRequest;
use proactor::os::{self, EventFd, ShutdownSignal};
use proactor::peer::Factory;

/// Accepts at one listener in an iteration.
const ACCEPTS: usize = 64;
/// How soon a thread that has not noticed a drain or a message is interrupted again, at first …
const INTERRUPT_AFTER: Duration = Duration::from_millis(1);
/// … and at most: the time doubles with each interrupt.
const INTERRUPT_AFTER_MAX: Duration = Duration::from_millis(64);

/// How many connections a server serves at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One, and then the next, in a thread: the thread that called waits for the signal to stop.
    OneByOne,
    /// As many as there are, each in a thread.
    Threads,
}

/// A server whose calls block.
pub(crate) struct Blocking<C> {
    /// The calls of this thread.
    calls: C,
    style: Style,
    acceptor: Acceptor,
    groups: Vec<Arc<Group>>,
    /// How many connections were ever accepted.
    accepted: Arc<AtomicU64>,
    shared: Arc<SharedState>,
    threads: ThreadPool,
    lifecycle: Lifecycle,
    console: Option<Console>,
    /// True while threads may have messages that they have not taken.
    posted: bool,
    /// How soon threads are interrupted again.
    interrupt_after: Duration,
    /// Of this thread, and of those that have ended.
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<C: Calls> Blocking<C> {
    /// Creates a server without a listener, which `stop` can stop. Each connection has a few
    /// buffers of each of these sizes, and each thread its own [lane](Calls::lane) of `calls`.
    ///
    /// SIGURG gets a handler that does nothing, in the whole process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new(
        calls: C,
        style: Style,
        buffers: Vec<BufferClass>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Blocking<C>> {
        let calls_before = os::calls();
        os::allow_interrupts()?;
        Ok(Blocking {
            calls,
            style,
            acceptor: Acceptor::default(),
            groups: Vec::new(),
            accepted: Arc::default(),
            shared: Arc::new(SharedState::new(buffers, limits.max_input, EventFd::new()?)),
            threads: ThreadPool::new(),
            lifecycle: Lifecycle::new(limits, stop),
            console: None,
            posted: false,
            interrupt_after: INTERRUPT_AFTER,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Serves until the server is asked to stop: accepts, and starts a thread for each connection,
    /// or one for all. Returns how it is to end.
    fn serve(&mut self) -> io::Result<Ended> {
        if self.style == Style::OneByOne {
            let (acceptor, calls) = (std::mem::take(&mut self.acceptor), self.calls.clone());
            self.threads.add(&self.shared, move |status, counters| {
                serve_one_after_another(&calls, status, acceptor, counters)
            })?;
        }
        loop {
            let capacity = self.lifecycle.has_capacity(self.threads.len());
            let interrupt = self.interrupt();
            self.wait(capacity, interrupt)?;
            self.reap()?;
            (0..self.acceptor.listeners.len()).for_each(|listener| self.accept(listener));
            if let Some(ended) = self.take_requests() {
                return Ok(ended);
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        for _ in 0..ACCEPTS {
            if !self.lifecycle.has_capacity(self.threads.len()) {
                return;
            }
            let (id, counters) = (self.threads.next_id(), &mut self.counters);
            let accepted = self.acceptor.accept(&self.calls, listener, id, counters);
            let Some(membership) = accepted else { return };
            let calls = self.calls.clone();
            let work = move |status: &ThreadStatus, counters: &mut Counters| {
                let (calls, make) = (calls.lane(id.slot()), Membership::make_protocol);
                serve_connection(&calls, status, membership, make, counters, &mut || {
                    status.notice();
                });
                Ok(())
            };
            if let Err(error) = self.threads.add(&self.shared, work) {
                tracing::warn!(%error, threads = self.threads.len(), "a connection is refused");
                self.counters.refused += 1;
                self.counters.closed += 1;
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let before = self.threads.len();
        let reaped = self.threads.reap(&self.shared, &mut self.counters);
        if self.threads.len() < before {
            self.acceptor.pause.end();
        }
        reaped
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
        for posted in self.lifecycle.take_posted() {
            self.posted = true;
            let conn = match &posted {
                PostedRequest::Broadcast(listener, bytes) => {
                    let post = |member: &Member| {
                        member.listener == *listener && member.post(&self.calls, bytes)
                    };
                    self.threads.statuses().for_each(|status| _ = status.look(post));
                    continue;
                }
                PostedRequest::Send(peer, _)
                | PostedRequest::Wake(peer)
                | PostedRequest::Close(peer) => peer.conn(),
            };
            let pass = |member: &Member| match posted {
                _ if member.id != conn => {}
                PostedRequest::Close(_) => member.break_off(&self.calls, CloseReason::Handle),
                posted => member.pass(posted),
            };
            self.threads.status(conn).map(|status| status.look(pass));
        }
    }

    /// Lets every connection finish; cuts those that take too long, or all `at_once`.
    fn finish(&mut self, mut at_once: bool) -> io::Result<Ended> {
        self.acceptor.listeners.clear();
        self.lifecycle.drain(self.threads.len(), os::now());
        self.shared.advance(Stage::Draining);
        if at_once {
            self.cut();
        }
        self.interrupt_after = INTERRUPT_AFTER;
        let mut reaped = self.reap();
        while self.threads.len() > 0 {
            let deadline = self.lifecycle.next_timer().map(|due| due.since(os::now()));
            let interrupt = self.interrupt();
            self.wait(false, [interrupt, deadline].into_iter().flatten().min())?;
            if self.take_requests() == Some(Ended::AtOnce) {
                at_once = true;
                self.cut();
            } else if self.lifecycle.run_timers(os::now()) && !at_once {
                self.counters.cut = self.cut();
            }
            let more = self.reap();
            reaped = reaped.and(more);
        }
        let _ = self.serve_console(); // Prints the last messages.
        reaped.map(|()| if at_once { Ended::AtOnce } else { Ended::Drained })
    }

    /// Interrupts the threads that have to notice a drain or a message. Returns when to do so
    /// again, if there are any.
    fn interrupt(&mut self) -> Option<Duration> {
        let drains = self.shared.stage() != Stage::Serving;
        if !drains && !self.posted {
            return None;
        }
        self.posted = self.threads.interrupt(drains);
        let pause = self.interrupt_after;
        let next = if self.posted { 2 * pause } else { INTERRUPT_AFTER };
        self.interrupt_after = next.min(INTERRUPT_AFTER_MAX);
        self.posted.then_some(pause)
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
        let console = self.console.as_ref().filter(|console| !console.has_ended());
        let others = [self.lifecycle.shutdown().as_fd(), self.shared.event.as_fd()];
        let others = others.into_iter().chain(console.map(Console::input));
        self.counters.iterations += 1;
        let ready = self.acceptor.wait(&self.calls, others, capacity, timeout)?;
        self.counters.completed += ready as u64;
        Ok(())
    }
}

impl<C: Calls> Engine for Blocking<C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory) -> io::Result<()> {
        // A connection that was reported may be gone: the accept must not sleep.
        os::set_nonblocking(fd.as_fd())?;
        let (address, signal) =
            (Address::of_listener(fd.as_fd()), self.lifecycle.shutdown().clone());
        let group = Group::new(&self.accepted, id, address, factory, signal);
        self.acceptor.listeners.push((fd, Arc::clone(&group)));
        self.groups.push(group);
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        Arc::get_mut(&mut self.shared).expect("no thread runs yet").has_operator = true;
        self.console = Some(console);
        Ok(())
    }

    /// Serves until it is stopped. No thread is left then.
    ///
    /// # Errors
    /// poll(2) fails, or the one thread of [`Style::OneByOne`] cannot be made.
    ///
    /// # Panics
    /// If a protocol panicked in its thread.
    fn run(&mut self, _: Option<&LiveCounters>) -> io::Result<Ended> {
        self.console.iter_mut().for_each(Console::flush);
        let requested = self.serve();
        let at_once = !matches!(requested, Ok(Ended::Drained));
        let ended = self.finish(at_once);
        requested.and(ended)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.calls += os::calls() - self.calls_before;
        counters += self.threads.counters();
        counters
    }
}

/// Accepts a connection, serves it to its end, and accepts the next, until the server drains.
fn serve_one_after_another(
    calls: &impl Calls,
    status: &ThreadStatus,
    mut acceptor: Acceptor,
    counters: &mut Counters,
) -> io::Result<()> {
    let calls = calls.lane(status.id.slot());
    let mut id = status.id;
    while status.shared.stage() == Stage::Serving {
        status.publish(counters);
        counters.completed += acceptor.wait(&calls, [], true, None)? as u64;
        counters.iterations += 1;
        for listener in 0..acceptor.listeners.len() {
            let accepted = acceptor.accept(&calls, listener, id, counters);
            if let Some(membership) = accepted {
                // Connections that still wait will not be accepted: the peers learn it now.
                let mut noticed = || {
                    status.notice();
                    acceptor.listeners.clear();
                };
                let make = Membership::make_protocol;
                serve_connection(&calls, status, membership, make, counters, &mut noticed);
                id = ConnId::new(id.slot(), id.generation() + 1); // For the next connection.
            }
        }
    }
    status.notice();
    Ok(())
}

#[cfg(test)]
mod tests;
