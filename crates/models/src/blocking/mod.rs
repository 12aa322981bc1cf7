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
//! (`member.rs`).
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
mod broadcast;
mod connection;
mod console;
mod member;
mod pool;
mod shared;
mod state;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptor::Acceptor;
use connection::serve_connection;
use member::{AdmittedPeer, Member, Origin, lock};
use pool::{ThreadPool, ThreadStatus};
use shared::{Members, Membership, SharedState};

use proactor::address::Address;
use proactor::buffer::BufferClass;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::clock::earlier;
use proactor::console::Console;
use proactor::counters::{Counters, LiveCounters};
use proactor::engine::Engine;
use proactor::keys::{ConnId, ListenerId};
use proactor::lifecycle::{self, Lifecycle, Stage};
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::mailbox::PostedRequest;
use proactor::os::{self, ShutdownSignal};
use proactor::peer::Factory;
use proactor::silent::SilentQueue;
use proactor::status::{ServerMonitor, Status};
use proactor::trim::Trim;

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
    shared: Arc<SharedState>,
    threads: ThreadPool,
    trim: Trim,
    /// A connection of this listener that was accepted, and that no thread could be started for
    /// yet. Meanwhile others wait in the kernel's queue.
    waiting: Option<(usize, OwnedFd, AdmittedPeer)>,
    lifecycle: Lifecycle,
    silent: SilentQueue<ConnId>,
    /// A connection that is closed because it never sent a byte; another one only after it.
    closing_silent: Option<ConnId>,
    /// True once the server ends at once.
    at_once: bool,
    console: Option<Console>,
    monitor: Option<Box<dyn ServerMonitor>>,
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
        os::limit_heaps();
        let mut shared = SharedState::new(buffers, limits.clone(), stop.clone())?;
        shared.one_by_one = style == Style::OneByOne;
        Ok(Blocking {
            calls,
            style,
            acceptor: Acceptor::new(&limits),
            shared: Arc::new(shared),
            threads: ThreadPool::new(),
            trim: Trim::default(),
            waiting: None,
            lifecycle: Lifecycle::new(limits, stop),
            silent: SilentQueue::default(),
            closing_silent: None,
            at_once: false,
            console: None,
            monitor: None,
            posted: false,
            interrupt_after: INTERRUPT_AFTER,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Starts the thread that serves one connection after another, if that is the style.
    fn begin(&mut self) -> io::Result<()> {
        self.trim.enable();
        self.console.iter_mut().for_each(Console::flush);
        if self.style == Style::OneByOne {
            let (acceptor, calls) = (std::mem::take(&mut self.acceptor), self.calls.clone());
            self.threads.add(&self.shared, move |status, counters| {
                serve_one_after_another(&calls, status, acceptor, counters)
            })?;
        }
        Ok(())
    }

    /// Runs one iteration: sleep until there is something to do, then accept, reap, and pass on
    /// what the operator and other threads ask.
    fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        let rests = self.threads.len() == 0 && self.waiting.is_none() && !self.acceptor.has_last();
        if rests && !self.lifecycle.is_serving() {
            let ended = if self.at_once { Ended::AtOnce } else { Ended::Drained };
            return Ok(ControlFlow::Break(ended));
        }
        self.serve_waiting();
        let (interrupt, silent) = (self.interrupt(), self.close_silent());
        self.wait([interrupt, silent])?;
        self.reap()?;
        (0..self.acceptor.listeners.len()).try_for_each(|listener| self.accept(listener))?;
        self.serve_last();
        let requests = self.lifecycle.take_requests();
        let ends = requests.is_break();
        let (drains, posted) = requests.continue_value().unwrap_or_default();
        self.pass_posted(posted);
        self.serve_monitor();
        if ends || self.serve_console().is_break() {
            self.end_at_once();
        } else if drains {
            self.begin_drain(self.threads.len());
        } else if self.lifecycle.run_timers(os::now()) && !self.at_once {
            self.counters.cut += self.cut();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns true if a further connection can be served.
    fn has_capacity(&self) -> bool {
        self.lifecycle.has_capacity(self.threads.len())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            if self.waiting.is_some() || !self.has_capacity() {
                break;
            }
            let (id, counters) = (self.threads.next_id(), &mut self.counters);
            let accepted = self.acceptor.accept(&self.calls, &self.shared, listener, id, counters);
            let Some(membership) = accepted? else { break };
            self.start(listener, membership);
        }
        Ok(())
    }

    /// Serves what was accepted as the drain began, as far as the limit permits.
    fn serve_last(&mut self) {
        while self.waiting.is_none() && self.has_capacity() {
            let (id, counters) = (self.threads.next_id(), &mut self.counters);
            let next = self.acceptor.next_last(&self.calls, &self.shared, id, counters);
            let Some((listener, membership)) = next else { break };
            self.start(listener, membership);
        }
    }

    /// Starts a thread for a connection. Without a thread, the connection waits.
    fn start(&mut self, listener: usize, membership: Membership) {
        let Member { id, accepted, .. } = *membership.member;
        let peer = membership.member.peer.clone();
        let (calls, given) = (self.calls.clone(), Arc::new(Mutex::new(Some(membership))));
        let taken = Arc::clone(&given);
        let work = move |status: &ThreadStatus, counters: &mut Counters| {
            let membership = lock(&taken).take().expect("it is given to one thread");
            let calls = calls.lane(id.slot());
            serve_connection(&calls, status, membership, counters, &mut || status.notice());
            Ok(())
        };
        if let Err(error) = self.threads.add(&self.shared, work) {
            self.counters.refused += 1;
            tracing::warn!(%error, threads = self.threads.len(), "cannot start a thread for now");
            self.acceptor.pause.begin(os::now());
            let membership = lock(&given).take().expect("no thread has taken it");
            // During a drain only the end of another thread could help.
            let waits = self.lifecycle.is_serving() || self.threads.len() > 0;
            match self.shared.undo_enter(membership) {
                Ok(socket) if waits => self.waiting = Some((listener, socket, peer)),
                _ => self.counters.close(CloseReason::Refused),
            }
        } else {
            self.started(id, accepted, peer.0);
        }
    }

    /// Tries again to start a thread for the connection that waits for one.
    fn serve_waiting(&mut self) {
        let Some((listener, socket, peer)) = self.waiting.take() else { return };
        self.acceptor.pause.run_timer(os::now());
        if self.acceptor.pause.until().is_some() || !self.has_capacity() {
            self.waiting = Some((listener, socket, peer));
            return;
        }
        let (id, origin) = (self.threads.next_id(), &self.acceptor.listeners[listener].1);
        match self.shared.enter(id, origin, socket, peer) {
            Ok(membership) => self.start(listener, membership),
            Err(_) => self.counters.close(CloseReason::Failed(libc::EINVAL)),
        }
    }

    /// A connection is served, by a thread of this id.
    fn started(&mut self, id: ConnId, accepted: Nanos, addr: Option<SocketAddr>) {
        let (threads, members) = (self.threads.len(), self.shared.members());
        self.silent.push(accepted, id, threads, |id| is_silent(&members, id));
        drop(members);
        if self.lifecycle.is_full(threads) {
            self.counters.full += 1;
            self.acceptor.admission.report_full(addr);
        }
    }

    /// Closes the oldest connection that has never sent a byte, if the server is full and its time
    /// is over. Returns when its time will be over, otherwise.
    fn close_silent(&mut self) -> Option<Duration> {
        let timeout = self.lifecycle.limits.silent_timeout?;
        let members = self.shared.members();
        let closes = self.closing_silent.is_some_and(|id| find(&members, id).is_some());
        if closes || !self.lifecycle.is_full(self.threads.len()) {
            return None;
        }
        let (opened, id) = self.silent.oldest(|id| is_silent(&members, id))?;
        let left = (opened + timeout).since(os::now());
        if left > Duration::ZERO {
            return Some(left);
        }
        self.closing_silent = Some(id);
        find(&members, id)?.break_off(&self.calls, CloseReason::Silent);
        None
    }

    fn reap(&mut self) -> io::Result<()> {
        let before = self.threads.len();
        let reaped = self.threads.reap(&self.shared, &mut self.counters);
        if self.threads.len() < before {
            self.acceptor.pause.end();
            self.trim.closes(before, 0, true);
        }
        if self.trim.is_wanted() {
            self.trim.run(os::now());
        }
        reaped
    }

    /// Has the monitor do one thing, if there is one.
    fn serve_monitor(&mut self) {
        let Some(mut monitor) = self.monitor.take() else { return };
        monitor.serve(self.lifecycle.stage(), &|| {
            let open = self.shared.members().len() + usize::from(self.waiting.is_some());
            let memory = self.shared.held();
            let counters = Engine::counters(self);
            Status { memory, ..Status::new(counters, open, &self.lifecycle) }
        });
        self.monitor = Some(monitor);
    }

    /// Passes what other threads ask to the threads of the connections.
    fn pass_posted(&mut self, posted: Vec<PostedRequest>) {
        for posted in posted {
            self.posted = true;
            let (calls, members) = (&self.calls, self.shared.members());
            let conn = match &posted {
                PostedRequest::Broadcast(group, bytes) => {
                    let group = members.values().filter(|member| member.group() == *group);
                    group.for_each(|member| _ = member.post(calls, bytes));
                    continue;
                }
                PostedRequest::Send(peer, _)
                | PostedRequest::Wake(peer)
                | PostedRequest::Close(peer) => peer.conn,
            };
            match find(&members, conn) {
                None => {}
                Some(member) if matches!(posted, PostedRequest::Close(_)) => {
                    member.break_off(calls, CloseReason::Handle);
                }
                Some(member) => member.pass(posted),
            }
        }
    }

    // Ending.

    /// Accepts no more, and has the threads finish the connections.
    /// Returns whether they begin to.
    fn begin_drain(&mut self, connections: usize) -> bool {
        let begins = self.lifecycle.drain(connections, os::now());
        if begins {
            self.acceptor.accept_last(&self.calls);
            self.serve_last();
            self.shared.advance(Stage::Draining);
            self.interrupt_after = INTERRUPT_AFTER;
        }
        begins
    }

    fn end_at_once(&mut self) {
        self.at_once = true;
        self.begin_drain(self.threads.len());
        let _ = self.cut();
    }

    /// Breaks every connection. Returns how many there are.
    fn cut(&mut self) -> u64 {
        self.waiting.take().into_iter().for_each(|_| self.counters.close(CloseReason::Refused));
        self.acceptor.cut_last(&mut self.counters);
        // In this order: a thread that enters a group after it was cut sees the stage.
        self.shared.advance(Stage::Cutting);
        let members = self.shared.members();
        for member in members.values() {
            // It fails only if the peer has reset the connection, and that wakes the thread too.
            let _ = self.calls.shutdown(member.key(), member.socket(), Shutdown::Both);
        }
        members.len() as u64
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

    /// Sleeps until the server is asked to stop, a thread has ended, the console has input or
    /// messages, this thread can accept a connection, threads must be interrupted, or a timer
    /// expires.
    fn wait(&mut self, timeouts: [Option<Duration>; 2]) -> io::Result<()> {
        let console = self.console.as_ref().filter(|console| !console.has_ended());
        let others = [self.lifecycle.shutdown.as_fd(), self.shared.event.as_fd()];
        let others = others.into_iter().chain(console.map(Console::input));
        let others = others.chain(self.monitor.as_ref().map(|monitor| monitor.fd()));
        let capacity = self.waiting.is_none() && self.has_capacity();
        let deadline = earlier(self.lifecycle.next_timer(), self.trim.next_timer());
        let deadline = deadline.map(|due| due.since(os::now()));
        let timeout = timeouts.into_iter().chain([deadline]).flatten().min();
        self.counters.iterations += 1;
        let ready = self.acceptor.wait(&self.calls, others, capacity, timeout)?;
        self.counters.completed += ready as u64;
        Ok(())
    }
}

impl<C: Calls> Engine for Blocking<C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory) -> io::Result<()> {
        // A connection that was reported may be gone: the accept must not sleep.
        os::set_blocking(fd.as_fd(), false)?;
        self.lifecycle.limits.limit_kernel(fd.as_fd())?;
        let address = Arc::new(Address::of_listener(fd.as_fd()));
        let origin = Arc::new(Origin { listener: id, address, factory });
        self.acceptor.listeners.push((Some(fd), origin));
        Ok(())
    }

    fn set_console(&mut self, console: Console) -> io::Result<()> {
        Arc::get_mut(&mut self.shared).expect("no thread runs yet").has_operator = true;
        self.console = Some(console);
        Ok(())
    }

    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()> {
        self.monitor = Some(monitor);
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
        let served = self.begin().and_then(|()| lifecycle::run(|| self.run_once()));
        let ended = served.inspect_err(|_| {
            self.end_at_once();
            let _ = lifecycle::run(|| self.run_once());
        });
        let _ = self.serve_console(); // Prints the last messages.
        ended
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.calls += os::calls() - self.calls_before;
        counters += self.threads.counters();
        counters
    }
}

/// Returns the connection with this id, if it is served.
fn find(members: &Members, id: ConnId) -> Option<&Member> {
    members.get(&id.slot()).map(|member| &**member).filter(|member| member.id == id)
}

fn is_silent(members: &Members, id: ConnId) -> bool {
    find(members, id).is_some_and(Member::is_silent)
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
            let accepted = acceptor.accept(&calls, &status.shared, listener, id, counters);
            if let Some(membership) = accepted? {
                // The peers of connections that will not be accepted learn it now.
                let mut noticed = || {
                    status.notice();
                    acceptor.accept_last(&calls);
                };
                serve_connection(&calls, status, membership, counters, &mut noticed);
                id = ConnId::new(id.slot(), id.generation() + 1); // For the next connection.
            }
        }
    }
    status.notice();
    acceptor.accept_last(&calls);
    while status.shared.stage() != Stage::Cutting
        && let Some((_, membership)) = acceptor.next_last(&calls, &status.shared, id, counters)
    {
        serve_connection(&calls, status, membership, counters, &mut || {});
        id = ConnId::new(id.slot(), id.generation() + 1);
    }
    acceptor.cut_last(counters);
    Ok(())
}

#[cfg(test)]
mod tests;
