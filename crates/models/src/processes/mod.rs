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
//! All calls are made through [`CallHooks`], so that a trace can record them. The default hooks
//! record nothing and cost nothing.

mod child;
mod frames;
mod relay;
mod shared_counters;
mod single;
mod stalls;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use self::relay::Relay;
use self::shared_counters::SharedCounters;
use self::single::NewConnection;
use self::stalls::StallWatch;
use crate::hooks::{CHILD_EXITS, CallHooks, LISTENERS, SHUTDOWN};
use proactor::buffer::{BufferClass, Pool};
use proactor::calls::AT_ONCE;
use proactor::clock::{Nanos, earlier};
use proactor::connection_log;
use proactor::console::Console;
use proactor::counters::{Counters, LiveCounters};
use proactor::engine::{self, Engine, Listener};
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId, MONITOR};
use proactor::lifecycle::{self, Lifecycle, Stage};
use proactor::limits::{CloseReason, Ended, Limits};
use proactor::memory::Memory;
use proactor::os::process::{self, Alone, Deaths, Pid};
use proactor::os::{self, AcceptFailure, ShutdownSignal};
use proactor::peer::{AcceptedPeer, Factory, WorkerFactory};
use proactor::protocol::{Needs, Protocol};
use proactor::reactor::Reactor;
use proactor::silent::SilentQueue;
use proactor::status::{ServerMonitor, Status};
use proactor_record::Call;

/// Accepts at one listener in an iteration: a fork takes long, and the relay must not wait.
const ACCEPTS: usize = 8;

/// What is recorded for a call without a descriptor.
const NO_FILE: RawFd = -1;

/// A child's only client.
struct ChildClient {
    /// Its id, which all processes use.
    id: ConnId,
    /// Its number among all connections of the server.
    number: u64,
    /// What is known of its peer.
    peer: AcceptedPeer,
    /// The link to its child, if there is one.
    link: Option<ConnId>,
    /// Why the parent has killed it, if it has.
    killed: Option<CloseReason>,
}

impl ChildClient {
    /// Returns the key of calls that are made for it, which have no descriptor.
    fn key(&self) -> (Key, RawFd) {
        (KeyOwner::Conn(self.id).into(), NO_FILE)
    }
}

/// A server that forks a child for each connection.
pub(crate) struct Processes<C: CallHooks> {
    /// The calls of the parent.
    calls: C,
    /// The loop in which the parent waits for everything. Its connections are links to children.
    relay: Reactor<C::Selector, Relay<Box<dyn Protocol>>>,
    /// The state of a listener is whether the loop watches it.
    listeners: Vec<Listener<WorkerFactory, bool>>,
    /// A connection that was accepted and could not be forked for yet.
    waiting: Option<(ListenerId, NewConnection)>,
    children: HashMap<Pid, ChildClient>,
    stalls: StallWatch<Pid>,
    silent: SilentQueue<Pid>,
    /// A child that was killed because its client never sent a byte; another one only after it.
    closing_silent: Option<Pid>,
    counted: SharedCounters,
    child_exits: Deaths,
    alone: Alone,
    buffers: Vec<BufferClass>,
    lifecycle: Lifecycle,
    monitor: Option<Box<dyn ServerMonitor>>,
    /// Of the parent, and of the children that have ended.
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

impl<C: CallHooks> Processes<C> {
    /// Creates a server without a listener, which `stop` can stop. The relay and each child have
    /// buffers of these sizes, a few of each; each child has its own
    /// [lane](proactor::calls::Calls::lane) of `calls`. Blocks SIGCHLD in this thread for good.
    ///
    /// # Errors
    /// There are other threads in this process, or no descriptor or memory is left.
    pub(crate) fn new(
        calls: C,
        buffers: Vec<BufferClass>,
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Processes<C>> {
        let calls_before = os::calls();
        let (alone, child_exits) = (Alone::check()?, Deaths::new()?);
        // The relay is never asked to stop: it runs as long as there are children.
        let never = ShutdownSignal::new()?;
        stop.refuse_posts(); // The connections are those of other processes.
        let (pool, counted) = (Pool::new(&buffers)?, SharedCounters::new(limits.connections)?);
        let mut relay = Reactor::new(calls.selector(), pool, limits.clone(), never)?;
        relay.set_memory(Memory::shared(limits.queues, counted.held(None)));
        relay.enable_trim();
        relay.watch(stop.as_fd(), SHUTDOWN)?;
        relay.watch(child_exits.as_fd(), CHILD_EXITS)?;
        Ok(Processes {
            calls,
            relay,
            listeners: Vec::new(),
            waiting: None,
            children: HashMap::new(),
            stalls: StallWatch::new(),
            silent: SilentQueue::default(),
            closing_silent: None,
            counted,
            child_exits,
            alone,
            buffers,
            lifecycle: Lifecycle::new(limits, stop),
            monitor: None,
            counters: Counters::default(),
            calls_before,
        })
    }

    /// Runs one iteration: sleep until there is something to relay, to accept or to reap.
    fn run_once(&mut self) -> io::Result<ControlFlow<Ended>> {
        if self.lifecycle.next_timer().is_some() && self.lifecycle.run_timers(os::now()) {
            self.counters.cut = self.children.len() as u64;
            self.refuse_waiting();
            self.kill_each();
        }
        if self.lifecycle.accepts(self.children.len())
            && let Some((id, connection)) = self.waiting.take()
        {
            self.fork_for(id, connection);
        }
        self.watch_listeners()?;
        let silent = self.close_silent();
        let timer = earlier(self.lifecycle.next_timer(), silent);
        self.relay.wake_at(earlier(timer, self.stalls.next_look()));
        // Links end, the relay does not.
        let _ = self.relay.run_once()?;
        self.end_stalled();
        let mut flow = ControlFlow::Continue(());
        for number in self.relay.take_external() {
            match number {
                SHUTDOWN => match self.lifecycle.take_requests() {
                    ControlFlow::Break(ended) => flow = ControlFlow::Break(ended),
                    ControlFlow::Continue((true, _)) => self.drain(),
                    ControlFlow::Continue(_) => {}
                },
                CHILD_EXITS => self.reap()?,
                MONITOR => self.serve_monitor(),
                listener => self.accept(ListenerId((listener - LISTENERS) as u16))?,
            }
        }
        if flow.is_break() {
            self.kill_all();
            return Ok(flow);
        }
        let cuts = self.lifecycle.stage() == Stage::Cutting;
        let accepts = !cuts && self.listeners.iter().any(Listener::listens);
        let rests = self.children.is_empty() && self.waiting.is_none() && !accepts;
        Ok(lifecycle::unless_drained(!self.lifecycle.is_serving() && rests))
    }

    // Accepting.

    fn accepts(&self) -> bool {
        self.lifecycle.accepts(self.children.len()) && self.waiting.is_none()
    }

    /// Watches the listeners while connections are wanted. Meanwhile they wait in the kernel's
    /// queue.
    fn watch_listeners(&mut self) -> io::Result<()> {
        let accepts = self.accepts();
        for listener in &mut self.listeners {
            let wanted = accepts && listener.listens();
            let (Some(fd), watched) = (&listener.fd, &mut listener.state) else { continue };
            if wanted != *watched {
                match wanted {
                    true => self.relay.watch(fd.as_fd(), LISTENERS + u32::from(listener.id.0))?,
                    false => self.relay.unwatch(fd.as_fd())?,
                }
                *watched = wanted;
            }
            if !listener.listens() || self.lifecycle.stage() == Stage::Cutting {
                listener.fd = None;
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: ListenerId) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            let listener = &self.listeners[id.index()];
            let Some(fd) = listener.fd.as_ref().filter(|_| listener.listens()) else { break };
            if !self.accepts() {
                break;
            }
            match self.calls.accept(KeyOwner::Listener(id).into(), fd.as_fd(), AT_ONCE) {
                Ok(socket) => self.accepted(id, socket),
                Err(error) => {
                    let failure = AcceptFailure::from(error);
                    let none = matches!(failure, AcceptFailure::NoConnection);
                    let (pause, counters) = (&mut self.lifecycle.pause, &mut self.counters);
                    if let Err(error) = pause.failed(failure, counters, os::now) {
                        return engine::end_listener(&mut self.listeners, id, &error);
                    }
                    if none {
                        self.listeners[id.index()].none_waits();
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn accepted(&mut self, id: ListenerId, socket: OwnedFd) {
        let (addr, now) = (os::peer_addr(socket.as_fd()), os::now());
        self.counters.accepted += 1;
        self.listeners[id.index()].accepted();
        self.counters.accept_rate += u64::from(self.lifecycle.pause.accepted(addr, now));
        let admitted = match self.lifecycle.admission.admit(addr, now) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.counters.close(reason);
                return self.calls.refuse(KeyOwner::Listener(id).into(), socket);
            }
        };
        let (number, limits) = (self.counters.accepted, self.lifecycle.limits.clone());
        let factory = &mut self.listeners[id.index()].factory;
        let (protocol, accepted) = factory.make(number, addr, None);
        let accepted = AcceptedPeer { admitted, ..accepted };
        self.fork_for(id, NewConnection { socket, protocol, limits, number, accepted });
    }

    /// Forks a child for a connection. If that fails for now, the connection waits.
    fn fork_for(&mut self, id: ListenerId, connection: NewConnection) {
        let mut connection = Some(connection);
        if let Err(error) = self.fork(id, &mut connection) {
            self.counters.refused += 1;
            tracing::warn!(%error, children = self.children.len(), "cannot fork for now");
            self.lifecycle.pause.begin(os::now());
            self.waiting = connection.map(|connection| (id, connection));
            if !self.lifecycle.is_serving() && self.children.is_empty() {
                self.refuse_waiting(); // Only the end of another child could help.
            }
        }
    }

    /// Forks a child for a connection, which both processes own: each takes its own.
    fn fork(&mut self, id: ListenerId, both: &mut Option<NewConnection>) -> io::Result<()> {
        let new = both.as_ref().expect("it was not forked for");
        let number = new.number;
        let mut keep = vec![new.socket.as_raw_fd()];
        let broadcasts = self.listeners[id.index()].factory.needs.contains(Needs::BROADCAST);
        let (ours, mut its) = broadcasts.then(link).transpose()?.unzip();
        keep.extend(its.as_ref().map(OwnedFd::as_raw_fd));
        let client = self.counted.open();
        let (calls, counted, buffers) = (&self.calls, &self.counted, &self.buffers);
        let live = |signals| {
            let connection = both.take().expect("taken once, in the child");
            let own = (calls.lane(client.slot()), client);
            let held = counted.held(Some(client));
            let publish = |counters: &Counters| counters.store(counted.of(client));
            connection.live(own, its.take(), (buffers, held), signals, publish)
        };
        let whose = (KeyOwner::Conn(client).into(), keep[0]);
        let fork = || process::fork(&self.alone, &keep, live);
        let forked = calls.made((Call::Fork, false), whose, 0, fork, |pid| pid.number());
        let pid = forked.inspect_err(|_| _ = self.counted.close(client))?;
        let NewConnection { socket, protocol, accepted, .. } =
            both.take().expect("not taken in the parent");
        let group = accepted.group.unwrap_or(id);
        let link = ours.is_some().then(|| self.relay.next_id());
        self.forked(pid, ChildClient { id: client, number, peer: accepted, link, killed: None });
        // The parent's copy, in the name of the listener; the child closes its own.
        self.calls.close(KeyOwner::Listener(id).into(), socket);
        if let Some(link) = ours {
            // What the child sends before this is received after it.
            let next = self.relay.next_id();
            C::name(self.relay.selector_mut(), next, KeyOwner::Link(client));
            self.relay.adopt(link, (Relay::new(protocol), AcceptedPeer::of_link()), group);
        }
        Ok(())
    }

    /// A child serves a client.
    fn forked(&mut self, pid: Pid, client: ChildClient) {
        let (addr, allow_silence) = (client.peer.addr(), client.peer.allow_silence);
        if !self.lifecycle.is_serving() {
            self.terminate(pid, &client);
        }
        self.children.insert(pid, client);
        let count = self.children.len();
        if self.lifecycle.is_full(count) {
            self.counters.full += 1;
            self.lifecycle.admission.report_full(addr);
        }
        if !allow_silence {
            let is_silent = |pid| is_silent(&self.children, &self.counted, pid);
            self.silent.push(os::now(), pid, count, is_silent);
        }
    }

    /// Kills the child of the oldest client that has never sent a byte, if the server is full and
    /// its time is over. Returns when its time will be over, otherwise.
    fn close_silent(&mut self) -> Option<Nanos> {
        let closes = self.closing_silent.is_some_and(|pid| self.children.contains_key(&pid));
        let timeout = self.lifecycle.limits.silent_timeout.filter(|_| !closes)?;
        if !self.lifecycle.is_full(self.children.len()) {
            return None;
        }
        let is_silent = |pid| is_silent(&self.children, &self.counted, pid);
        let (opened, pid) = self.silent.oldest(is_silent)?;
        if opened + timeout > os::now() {
            return Some(opened + timeout);
        }
        self.closing_silent = Some(pid);
        let client = self.children.get_mut(&pid)?;
        client.killed = Some(CloseReason::Silent);
        // The kernel closes its socket, which has no unread input: its peer receives the end.
        let _ = self.kill(&self.children[&pid], || process::kill(pid));
        None
    }

    // Ending.

    /// Kills the children that do not run although others of their group wait for them. A child
    /// evicts a slow client itself, so it is given twice that time.
    fn end_stalled(&mut self) {
        if !self.relay.any_congested() {
            return self.stalls.rest();
        }
        let (timeouts, now) = (self.lifecycle.limits.timeouts, os::now());
        let Some(limit) = timeouts.evict.or(timeouts.send).map(|limit| 2 * limit) else { return };
        if !self.stalls.is_due(now) {
            return;
        }
        let sent: HashMap<ConnId, u64> = self.relay.congested().collect();
        let congested = self.children.iter().filter_map(|(&pid, client)| {
            let iterations = Counters::load(self.counted.of(client.id)).iterations;
            Some((pid, sent.get(&client.link?)? + iterations))
        });
        for pid in self.stalls.look(limit, now, congested) {
            let Some(client) = self.children.get_mut(&pid) else { continue };
            let peer = client.peer.addr().map(tracing::field::display);
            let reason = "evicted: others wait for it, and its process does not run: killed";
            tracing::warn!(connection = client.number, peer, %pid, "{reason}");
            client.killed = Some(CloseReason::Stalled(limit));
            self.counters.evicted += 1;
            // The kill may come late; the others go on now.
            let link = client.link.expect("a child that others wait for has a link");
            let _ = self.kill(&self.children[&pid], || process::kill(pid));
            self.relay.break_off(link, CloseReason::Failed(libc::ETIMEDOUT));
        }
    }

    /// Reaps all children that have ended: their signals coalesce.
    fn reap(&mut self) -> io::Result<()> {
        self.child_exits.take();
        let exits = KeyOwner::External(CHILD_EXITS);
        let number = |pid: &Option<Pid>| pid.map_or(0, Pid::number);
        let (reap, whose) = ((Call::Reap, AT_ONCE), (exits.into(), NO_FILE));
        while let Some(pid) = self.calls.made(reap, whose, 0, process::ended, number)? {
            if !self.children.contains_key(&pid) {
                // A child of other code in this process, which has to wait for it. It is named
                // before ours, so ours are waited for one by one.
                let all: Vec<Pid> = self.children.keys().copied().collect();
                return all.into_iter().try_for_each(|pid| self.reap_if_ended(pid));
            }
            self.reap_if_ended(pid)?;
        }
        Ok(())
    }

    fn reap_if_ended(&mut self, pid: Pid) -> io::Result<()> {
        let whose = self.children[&pid].key();
        let number = |status: &Option<_>| status.map_or(0, |_| pid.number());
        let reap = || process::reap(pid);
        if let Some(status) = self.calls.made((Call::Reap, AT_ONCE), whose, 0, reap, number)? {
            let client = self.children.remove(&pid).expect("a child is reaped once");
            let cut = self.lifecycle.stage() == Stage::Cutting;
            let killed = client.killed.or(cut.then_some(CloseReason::Cut));
            if !status.success() && killed.is_none() {
                tracing::warn!(%pid, "a child died, and its connection with it: {status}");
            }
            self.reaped(client, killed.unwrap_or(CloseReason::Failed(libc::ECONNABORTED)));
            self.lifecycle.pause.end();
        }
        Ok(())
    }

    /// No child will be forked for the connection that waits for one.
    fn refuse_waiting(&mut self) {
        if let Some((id, connection)) = self.waiting.take() {
            self.calls.close(KeyOwner::Listener(id).into(), connection.socket);
            let NewConnection { number, accepted, .. } = connection;
            let counters = &mut self.counters;
            connection_log::closed(counters, number, accepted.addr(), [0, 0], CloseReason::Refused);
        }
    }

    /// Accepts what waits and no more, and signals every child to finish.
    fn drain(&mut self) {
        self.lifecycle.drain(self.children.len(), os::now());
        self.listeners.iter_mut().for_each(Listener::accept_last);
        self.children.iter().for_each(|(&pid, child)| self.terminate(pid, child));
    }

    /// Signals a child to finish.
    fn terminate(&self, pid: Pid, child: &ChildClient) {
        if let Err(error) = self.kill(child, || process::terminate(pid)) {
            tracing::warn!(%pid, %error, "cannot signal a child to drain");
        }
    }
}

impl<C: CallHooks> Engine for Processes<C> {
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory) -> io::Result<()> {
        if factory.needs.contains(Needs::SHARED_MEMORY) {
            let reason = "the protocol needs memory that all connections share, and a process for \
                          each connection would have a copy";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        os::set_blocking(fd.as_fd(), false)?;
        self.lifecycle.limits.limit_kernel(fd.as_fd())?;
        let factory = WorkerFactory::new(&factory, fd.as_fd());
        self.listeners.push(Listener::new(id, fd, factory));
        Ok(())
    }

    fn set_console(&mut self, _: Console) -> io::Result<()> {
        let reason = "each connection is in a process of its own";
        Err(io::Error::new(io::ErrorKind::Unsupported, reason))
    }

    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()> {
        self.relay.watch(monitor.fd(), MONITOR)?;
        self.monitor = Some(monitor);
        Ok(())
    }

    /// Serves until it is stopped. No child is left then.
    ///
    /// # Errors
    /// poll(2) or waitid(2) fails.
    fn run(&mut self, _: Option<&LiveCounters>) -> io::Result<Ended> {
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
        for client in self.children.values() {
            counters += Counters::load(self.counted.of(client.id));
        }
        counters
    }
}

impl<C: CallHooks> Processes<C> {
    /// Has the monitor do one thing.
    fn serve_monitor(&mut self) {
        let Some(mut monitor) = self.monitor.take() else { return };
        monitor.serve(self.lifecycle.stage(), &|| {
            let open = self.children.len() + usize::from(self.waiting.is_some());
            let memory = self.counted.held(None).get();
            Status { memory, ..Status::new(self.counters(), open, &self.lifecycle) }
        });
        self.monitor = Some(monitor);
    }

    fn kill(&self, client: &ChildClient, kill: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.calls.made((Call::Kill, AT_ONCE), client.key(), 0, kill, |()| 0)
    }

    fn kill_each(&self) {
        for (&pid, client) in &self.children {
            // One that has ended already is still there to be waited for.
            let _ = self.kill(client, || process::kill(pid));
        }
    }

    /// A child has ended. If it did not count and log the end of its connection, this does.
    fn reaped(&mut self, client: ChildClient, reason: CloseReason) {
        let mut counters = self.counted.close(client.id);
        if counters.closed == 0 {
            let bytes = [counters.received_bytes, counters.sent_bytes];
            connection_log::closed(&mut counters, client.number, client.peer.addr(), bytes, reason);
        }
        self.counters += counters;
    }

    /// Ends all children, and waits for each.
    fn kill_all(&mut self) {
        self.refuse_waiting();
        self.kill_each();
        for (pid, client) in std::mem::take(&mut self.children) {
            let (reap, wait) = ((Call::Reap, AT_ONCE), || process::wait(pid));
            if self.calls.made(reap, client.key(), 0, wait, |_| pid.number()).is_ok() {
                self.reaped(client, CloseReason::Cut);
            }
        }
    }
}

impl<C: CallHooks> Drop for Processes<C> {
    /// No child outlives it.
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Returns true if the client of a child has never sent a byte.
fn is_silent(children: &HashMap<Pid, ChildClient>, counted: &SharedCounters, pid: Pid) -> bool {
    let received = |client: &ChildClient| Counters::load(counted.of(client.id)).received_bytes;
    children.get(&pid).is_some_and(|client| received(client) == 0)
}

/// A link between two processes: either end.
fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one.into(), other.into()))
}
