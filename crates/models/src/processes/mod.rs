//! A child process for each connection, and the parent that accepts, relays and reaps.
//!
//! ```text
//!   parent: accept ──► fork ──► relay, reap ──► …        one thread, asleep in one poll(2)
//!                       │
//!                       └► child: receive, send, … ──► _exit       asleep in its receive
//! ```
//!
//! A child has its client's socket and nothing else of its parent. It drives the same
//! [`Connection`](proactor::connection::Connection) as the loops: by calls that sleep, if its
//! protocol never [broadcasts](Needs::BROADCAST); else it waits for its client and for its link
//! to the parent, which passes broadcasts on, as `relay.rs` describes. A child that crashes, or is
//! killed, takes its own client with it and no other.
//!
//! Four things are left to the parent. It gives every client its number, so that numbers are right
//! in all children. It keeps the counters of its children in memory that they write themselves, so
//! that nothing is lost with a child. It reaps every child that ends, even where signals coalesce.
//! And no child outlives it.
//!
//! All calls are made through [`ForkHooks`], so that a trace can record them. The default hooks
//! record nothing and cost nothing.

mod child;
mod fork_hooks;
mod frames;
mod relay;
mod shared_counters;
mod single;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;

pub use self::fork_hooks::{ForkHooks, RenamingLog};

use self::relay::Relay;
use self::shared_counters::SharedCounters;
use self::single::NewConnection;
use proactor::buffer::{BufferClass, Pool};
use proactor::calls::PlainCalls;
use proactor::connection_log;
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::engine::{Engine, Listeners};
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::lifecycle::{self, Lifecycle, Stage};
use proactor::limits::{Ended, Limits};
use proactor::os::process::{self, Alone, Deaths, Pid};
use proactor::os::{self, AcceptFailure, ShutdownSignal};
use proactor::peer::{Factory, WorkerFactory};
use proactor::protocol::{Needs, Protocol};
use proactor::reactor::Reactor;
use proactor_record::Call;

/// Accepts at one listener in an iteration: a fork takes long, and the relay must not wait.
const ACCEPTS: usize = 8;

// The external descriptors that the relay's loop watches.
const SHUTDOWN: u32 = 0;
const CHILD_EXITS: u32 = 1;
const LISTENERS: u32 = 2;

/// The id of a child's client, which all processes use; the parent's copy of the protocol; and the
/// link to the child, if it has one.
type Forked<P> = (ConnId, P, Option<OwnedFd>);

/// A server that forks a child for each connection.
#[derive(Debug)]
pub struct Processes<P, C: ForkHooks = PlainCalls> {
    /// The calls of the parent.
    calls: C,
    /// The loop in which the parent waits for everything. Its connections are links to children.
    relay: Reactor<C::Selector, Relay<P>>,
    /// The state of a listener is whether the loop watches it.
    listeners: Listeners<WorkerFactory<P>, bool>,
    /// How many connections were ever accepted: the number of the last.
    accepted: u64,
    /// A connection that was accepted and could not be forked for yet.
    waiting: Option<(ListenerId, NewConnection<P>)>,
    /// By process, the child's only client.
    children: HashMap<Pid, ConnId>,
    counted: SharedCounters,
    child_exits: Deaths,
    alone: Alone,
    buffers: Vec<BufferClass>,
    lifecycle: Lifecycle,
    /// Emptied in every iteration: its capacity is kept.
    reported: Vec<u32>,
    /// Of the parent, and of the children that have ended.
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<P: Protocol, C: ForkHooks> Processes<P, C> {
    /// Creates a server without a listener, which `stop` can stop. The relay and each child have
    /// buffers of these sizes, a few of each; each child has its own
    /// [lane](proactor::calls::Calls::lane) of `calls`. Blocks SIGCHLD in this thread for good.
    ///
    /// # Errors
    /// There are other threads in this process, or no descriptor or memory is left.
    pub fn new(
        calls: C,
        buffers: &[BufferClass],
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Processes<P, C>> {
        let calls_before = os::calls();
        let (alone, child_exits) = (Alone::check()?, Deaths::new()?);
        // The relay is never asked to stop: it runs as long as there are children.
        let never = ShutdownSignal::new()?;
        stop.refuse_posts(); // The connections are those of other processes.
        let mut relay = Reactor::new(calls.selector(), Pool::new(buffers)?, limits, never)?;
        relay.watch(stop.as_fd(), SHUTDOWN)?;
        relay.watch(child_exits.as_fd(), CHILD_EXITS)?;
        Ok(Processes {
            calls,
            relay,
            listeners: Listeners::default(),
            accepted: 0,
            waiting: None,
            children: HashMap::new(),
            counted: SharedCounters::new(limits.connections)?,
            child_exits,
            alone,
            buffers: buffers.to_vec(),
            lifecycle: Lifecycle::new(limits, stop),
            reported: Vec::new(),
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Runs one iteration: sleep until there is something to relay, to accept or to reap.
    fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        self.run_timers();
        self.watch_listeners()?;
        self.relay.wake_at(self.lifecycle.next_timer());
        // Links end, the relay does not.
        let _ = self.relay.run_once()?;
        let mut reported = std::mem::take(&mut self.reported);
        self.relay.take_external(&mut reported);
        let mut flow = ControlFlow::Continue(());
        for number in reported.drain(..) {
            match number {
                SHUTDOWN => match self.lifecycle.take_requests() {
                    ControlFlow::Break(ended) => flow = ControlFlow::Break(ended),
                    ControlFlow::Continue(true) => self.drain(),
                    ControlFlow::Continue(false) => {}
                },
                CHILD_EXITS => self.reap()?,
                listener => self.accept(ListenerId((listener - LISTENERS) as u16)),
            }
        }
        self.reported = reported;
        if flow.is_break() {
            self.kill_all();
            return Ok(flow);
        }
        let drained = !self.lifecycle.is_serving() && self.children.is_empty();
        Ok(lifecycle::unless_drained(drained))
    }

    // Accepting.

    fn accepts(&self) -> bool {
        self.lifecycle.accepts(self.children.len()) && self.waiting.is_none()
    }

    /// Watches the listeners while connections are wanted. Meanwhile they wait in the kernel's
    /// queue.
    fn watch_listeners(&mut self) -> io::Result<()> {
        let wanted = self.accepts();
        for (id, listener) in self.listeners.iter_mut() {
            let (Some(fd), watched) = (&listener.fd, &mut listener.state) else { continue };
            if wanted != *watched {
                match wanted {
                    true => self.relay.watch(fd.as_fd(), LISTENERS + u32::from(id.0))?,
                    false => self.relay.unwatch(fd.as_fd())?,
                }
                *watched = wanted;
            }
            if !self.lifecycle.is_serving() {
                listener.fd = None;
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: ListenerId) {
        for _ in 0..ACCEPTS {
            let Some(fd) = &self.listeners[id].fd else { return };
            if !self.accepts() {
                return;
            }
            match self.calls.accept_nonblocking(KeyOwner::Listener(id).into(), fd.as_fd()) {
                Ok(socket) => self.accepted(id, socket),
                Err(error) => {
                    let failure = AcceptFailure::from(error);
                    let none = matches!(failure, AcceptFailure::NoConnection);
                    let refused = self.lifecycle.pause().failed(failure, os::now);
                    self.counters.refused += u64::from(refused);
                    if none {
                        return;
                    }
                }
            }
        }
    }

    fn accepted(&mut self, id: ListenerId, socket: OwnedFd) {
        self.counters.accepted += 1;
        self.accepted += 1;
        connection_log::accepted(self.accepted, id);
        let factory = &mut self.listeners[id].factory;
        let (protocol, _) = factory.make(self.accepted, Some(socket.as_fd()), None);
        let max_input = self.lifecycle.limits().max_input;
        self.fork_for(id, NewConnection { socket, protocol, max_input, number: self.accepted });
    }

    /// Forks a child for a connection. If that fails for now, the connection waits.
    fn fork_for(&mut self, id: ListenerId, connection: NewConnection<P>) {
        match self.fork(id, connection) {
            Ok((.., None)) => {}
            Ok((client, protocol, Some(link))) => {
                // What the child sends before this is received after it.
                let (relay, next) = (Relay::new(protocol), self.relay.next_id());
                C::name(self.relay.selector_mut(), next, KeyOwner::Link(client));
                self.relay.adopt_link(link, relay, id);
            }
            Err((error, connection)) => {
                self.counters.refused += 1;
                tracing::warn!(%error, children = self.children.len(), "cannot fork for now");
                self.lifecycle.pause().begin(os::now());
                self.waiting = Some((id, connection));
            }
        }
    }

    /// Forks a child for a connection.
    fn fork(
        &mut self,
        id: ListenerId,
        connection: NewConnection<P>,
    ) -> Result<Forked<P>, (io::Error, NewConnection<P>)> {
        let broadcasts = self.listeners[id].factory.needs().contains(Needs::BROADCAST);
        let (ours, its) = match broadcasts.then(link).transpose() {
            Ok(pair) => pair.unzip(),
            Err(error) => return Err((error, connection)),
        };
        let client = self.counted.open();
        let mut keep = vec![connection.socket.as_raw_fd()];
        keep.extend(its.as_ref().map(|its: &OwnedFd| its.as_raw_fd()));
        // Both processes own them; each takes its own.
        let (mut connection, mut its) = (Some(connection), its);
        let (calls, counted, buffers) = (&self.calls, &self.counted, &self.buffers);
        let live = |signals| {
            let connection = connection.take().expect("taken once, in the child");
            let own = (calls.lane(client.slot()), client);
            let publish = |counters: &Counters| counted.write(client, counters);
            connection.live(own, its.take(), buffers, signals, publish)
        };
        let whose = (KeyOwner::Conn(client).into(), keep[0]);
        let fork = || process::fork(&self.alone, &keep, live);
        let forked = calls.made((Call::Fork, false), whose, 0, fork, |pid| pid.number());
        let connection = connection.take().expect("not taken in the parent");
        match forked {
            Ok(pid) => {
                self.children.insert(pid, client);
                // The parent's copy, in the name of the listener; the child closes its own.
                self.calls.close(KeyOwner::Listener(id).into(), connection.socket);
                Ok((client, connection.protocol, ours))
            }
            Err(error) => {
                self.counted.close(client);
                Err((error, connection))
            }
        }
    }

    // Ending.

    /// Reaps all children that have ended: their signals coalesce.
    fn reap(&mut self) -> io::Result<()> {
        self.child_exits.take();
        let owner = KeyOwner::External(CHILD_EXITS);
        let number = |pid: &Option<Pid>| pid.map_or(0, Pid::number);
        while let Some(pid) = self.call(Call::Reap, owner, process::ended, number)? {
            if !self.children.contains_key(&pid) {
                // A child of other code in this process, which has to wait for it. It is named
                // before ours, so ours are waited for one by one.
                return self.reap_each();
            }
            self.reap_if_ended(pid)?;
        }
        Ok(())
    }

    fn reap_each(&mut self) -> io::Result<()> {
        let all: Vec<Pid> = self.children.keys().copied().collect();
        all.into_iter().try_for_each(|pid| self.reap_if_ended(pid))
    }

    fn reap_if_ended(&mut self, pid: Pid) -> io::Result<()> {
        let client = self.children[&pid];
        let number = |status: &Option<_>| status.map_or(0, |_| pid.number());
        let reaped =
            self.call(Call::Reap, KeyOwner::Conn(client), || process::reap(pid), number)?;
        reaped.into_iter().for_each(|status| self.reaped(pid, status));
        Ok(())
    }

    fn reaped(&mut self, pid: Pid, status: ExitStatus) {
        if !status.success() && self.lifecycle.stage() != Stage::Cutting {
            tracing::warn!(%pid, "a child died, and its connection with it: {status}");
        }
        let client = self.children.remove(&pid).expect("a child is reaped once");
        self.counters += self.counted.close(client);
        self.counters.closed += 1;
        self.lifecycle.pause().end();
        self.fork_for_waiting();
    }

    /// Does what has become due by the clock.
    fn run_timers(&mut self) {
        if self.lifecycle.next_timer().is_some() {
            if self.lifecycle.run_timers(os::now()) {
                self.counters.cut = self.children.len() as u64;
                self.kill_each();
            }
            self.fork_for_waiting();
        }
    }

    fn fork_for_waiting(&mut self) {
        if self.lifecycle.accepts(self.children.len())
            && let Some((id, connection)) = self.waiting.take()
        {
            self.fork_for(id, connection);
        }
    }

    /// Accepts no more, and signals every child to finish.
    fn drain(&mut self) {
        self.lifecycle.drain(self.children.len(), os::now());
        if let Some((id, connection)) = self.waiting.take() {
            self.calls.close(KeyOwner::Listener(id).into(), connection.socket);
            self.counters.closed += 1;
        }
        for (&pid, &client) in &self.children {
            if let Err(error) = self.kill(client, || process::terminate(pid)) {
                tracing::warn!(%pid, %error, "cannot signal a child to drain");
            }
        }
    }
}

impl<P: Protocol, C: ForkHooks> Engine<P> for Processes<P, C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()> {
        if factory.needs().contains(Needs::SHARED_MEMORY) {
            let reason = "the protocol needs memory that all connections share, and a process for \
                          each connection would have a copy";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        os::set_nonblocking(fd.as_fd())?;
        let factory = WorkerFactory::new(&factory, fd.as_fd());
        self.listeners.add(id, fd, factory, false);
        Ok(())
    }

    fn set_console(&mut self, _: Console) -> io::Result<()> {
        let reason = "each connection is in a process of its own";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    /// Serves until it is stopped. No child is left then.
    ///
    /// # Errors
    /// poll(2) or waitid(2) fails.
    fn run(&mut self) -> io::Result<Ended> {
        lifecycle::run(|| self.run_once())
    }

    /// Returns what it and its children have counted.
    fn counters(&self) -> Counters {
        let relay = self.relay.counters();
        let mut counters = self.counters;
        // The connections that the relay counts are links, and their bytes are the children's.
        counters.iterations += relay.iterations;
        counters.completed += relay.completed;
        counters.out_of_buffers += relay.out_of_buffers;
        counters.evicted += relay.evicted;
        counters.calls += os::calls() - self.calls_before;
        for &client in self.children.values() {
            counters += self.counted.read(client);
        }
        counters
    }
}

impl<P, C: ForkHooks> Processes<P, C> {
    /// Makes a call that has no descriptor.
    fn call<T>(
        &self,
        call: Call,
        owner: KeyOwner,
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        self.calls.made((call, false), (owner.into(), -1), 0, make, res)
    }

    fn kill(&self, client: ConnId, kill: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.call(Call::Kill, KeyOwner::Conn(client), kill, |()| 0)
    }

    fn kill_each(&self) {
        for (&pid, &client) in &self.children {
            // One that has ended already is still there to be waited for.
            let _ = self.kill(client, || process::kill(pid));
        }
    }

    /// Ends all children, and waits for each.
    fn kill_all(&mut self) {
        self.kill_each();
        for (pid, client) in self.children.drain() {
            let (owner, wait) = (KeyOwner::Conn(client).into(), || process::wait(pid));
            let _ = self.calls.made((Call::Reap, false), (owner, -1), 0, wait, |_| pid.number());
            self.counters += self.counted.close(client);
            self.counters.closed += 1;
        }
    }
}

impl<P, C: ForkHooks> Drop for Processes<P, C> {
    /// No child outlives it.
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// A link between two processes: either end.
fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one.into(), other.into()))
}
