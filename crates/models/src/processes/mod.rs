//! A child process for each connection, and the parent that accepts, relays and reaps.
//!
//! ```text
//!   parent: accept ──► fork ──► relay, reap ──► …        one thread, asleep in one poll(2)
//!                       │
//!                       └► child: receive, send, … ──► _exit       asleep in its receive
//! ```
//!
//! A child has its client's socket and nothing else of its parent's. It drives the same
//! [`Connection`](proactor::connection::Connection) as the loops do: by calls that sleep if its
//! protocol never [broadcasts](Protocol::broadcasts); else it waits for two, its client and its
//! line to the parent, and the parent passes on what is said, as `relay.rs` has it. A child that
//! crashes, or is killed, takes its own client along and nobody else.
//!
//! What is only the parent's to do: it gives every client its number, so that numbers are right in
//! all children; it keeps count of what children have done where they write it themselves, so that
//! nothing is lost with a child; it waits for every child that ends, whatever signals coalesce; and
//! no child outlives it.
//!
//! Who remembers what happens is a [`ForkHooks`], by which all calls are made; by default nobody is,
//! and nothing of that is there.

mod child;
mod fork_hooks;
mod frames;
mod relay;
mod shared_counters;
mod single;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;

pub use self::fork_hooks::{ForkHooks, RenamingLog};

use self::relay::Relay;
use self::shared_counters::{CounterSlot, SharedCounters};
use self::single::NewConnection;
use proactor::buffer::{BufferClass, Pool};
use proactor::calls::PlainCalls;
use proactor::clock::Nanos;
use proactor::counters::Counters;
use proactor::keys::{ConnId, KeyOwner};
use proactor::limits::{ACCEPT_PAUSE, Ended, Limits, Stage};
use proactor::os::process::{self, Alone, Deaths, Pid};
use proactor::os::{self, ShutdownSignal};
use proactor::peers::Room;
use proactor::protocol::Protocol;
use proactor::reactor::Reactor;
use proactor_trace::Call;

/// Accepts at one listener in a turn: a fork takes long, and others wait to be relayed.
const ACCEPTS: usize = 8;

/// Of a call that is for no descriptor.
const NONE: RawFd = -1;

// What the relay's loop watches for the parent.
const STOP: u32 = 0;
const CHILD_EXITS: u32 = 1;
const LISTENERS: u32 = 2;

/// A server that forks a child for each connection.
#[derive(Debug)]
pub struct Processes<P, C: ForkHooks = PlainCalls> {
    /// By what the parent's calls are made.
    calls: C,
    /// The loop in which the parent waits for everything. Its connections are links to children.
    relay: Reactor<C::Selector, Relay<P>>,
    listeners: Vec<Listener<P>>,
    /// How many have ever come: the number of the last.
    came: u64,
    /// Whose client was accepted and could not be forked for yet.
    waiting: Option<(usize, NewConnection<P>)>,
    children: HashMap<Pid, CounterSlot>,
    counted: SharedCounters,
    deaths: Deaths,
    alone: Alone,
    buffers: Vec<BufferClass>,
    limits: Limits,
    stop: ShutdownSignal,
    stage: Stage,
    /// Until when nothing is accepted or forked, after it failed for want of resources.
    accept_at: Option<Nanos>,
    /// Emptied at every turn: its capacity is kept.
    guests: Vec<u32>,
    /// Of the parent, and of the children that have ended.
    counters: Counters,
    /// System calls that this thread had made before.
    calls_before: u64,
}

#[derive(Debug)]
struct Listener<P> {
    /// `None` once it is closed.
    fd: Option<OwnedFd>,
    /// What each connection begins as.
    protocol: P,
    watched: bool,
}

impl<P: Protocol + Clone> Processes<P> {
    /// A server as [`with_calls`](Processes::with_calls) makes it, whose calls are only made.
    ///
    /// # Errors
    /// As of [`with_calls`](Processes::with_calls).
    pub fn new(
        buffers: &[BufferClass],
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Processes<P>> {
        Processes::with_calls(PlainCalls, buffers, limits, stop)
    }
}

impl<P: Protocol + Clone, C: ForkHooks> Processes<P, C> {
    /// A server without a listener, which `stop` can stop. The relay and each child have buffers
    /// like these, of each size a few; each child has its own [lane](proactor::calls::Calls::lane) of
    /// `calls`. Blocks SIGCHLD in this thread for good.
    ///
    /// # Errors
    /// There are other threads in this process, or there is no descriptor or memory left.
    pub fn with_calls(
        calls: C,
        buffers: &[BufferClass],
        limits: Limits,
        stop: ShutdownSignal,
    ) -> io::Result<Processes<P, C>> {
        let calls_before = os::calls();
        let (alone, deaths) = (Alone::check()?, Deaths::new()?);
        // Nobody asks it to stop: it is turned for as long as there are children.
        let never = ShutdownSignal::new()?;
        let mut relay = Reactor::new(calls.selector(), Pool::new(buffers)?, limits, never)?;
        relay.watch(stop.as_fd(), STOP)?;
        relay.watch(deaths.as_fd(), CHILD_EXITS)?;
        Ok(Processes {
            calls,
            relay,
            listeners: Vec::new(),
            came: 0,
            waiting: None,
            children: HashMap::new(),
            counted: SharedCounters::new(limits.connections)?,
            deaths,
            alone,
            buffers: buffers.to_vec(),
            limits,
            stop,
            stage: Stage::Serving,
            accept_at: None,
            guests: Vec::new(),
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
        self.listeners.push(Listener { fd: Some(fd), protocol, watched: false });
        Ok(())
    }

    /// Turns until it is stopped. No child is left then.
    ///
    /// # Errors
    /// poll(2) or waitid(2) fails.
    pub fn run(&mut self) -> io::Result<Ended> {
        loop {
            if let Some(ended) = self.turn()? {
                return Ok(ended);
            }
        }
    }

    /// What it and its children have counted.
    pub fn counters(&self) -> Counters {
        let relay = self.relay.counters();
        let mut counters = self.counters;
        // Of what the relay counts, connections are children's, and so are the bytes.
        counters.turns += relay.turns;
        counters.completed += relay.completed;
        counters.out_of_buffers += relay.out_of_buffers;
        counters.evicted += relay.evicted;
        counters.calls += os::calls() - self.calls_before;
        for &slot in self.children.values() {
            counters += self.counted.read(slot);
        }
        counters
    }

    /// One turn: sleep until something is to be relayed, accepted or reaped.
    fn turn(&mut self) -> io::Result<Option<Ended>> {
        self.watch_listeners()?;
        self.relay.wake_at([self.stage.deadline(), self.accept_at].into_iter().flatten().min());
        self.relay.turn()?;
        let mut guests = std::mem::take(&mut self.guests);
        self.relay.take_guests(&mut guests);
        let mut at_once = false;
        for guest in guests.drain(..) {
            match guest {
                STOP => at_once |= self.stop(),
                CHILD_EXITS => self.reap()?,
                listener => self.accept((listener - LISTENERS) as usize),
            }
        }
        self.guests = guests;
        if at_once {
            self.kill_all();
            return Ok(Some(Ended::AtOnce));
        }
        self.do_what_is_due();
        let over = self.stage != Stage::Serving && self.children.is_empty();
        Ok(over.then_some(Ended::Drained))
    }

    // Coming.

    fn wants_accept(&self) -> bool {
        let has_room = self.children.len() < self.limits.connections;
        self.stage == Stage::Serving && has_room && self.accept_at.is_none()
    }

    /// Watches the listeners while connections are wanted: who comes meanwhile waits in the
    /// kernel's queue.
    fn watch_listeners(&mut self) -> io::Result<()> {
        let wanted = self.wants_accept() && self.waiting.is_none();
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            let Some(fd) = &listener.fd else { continue };
            if wanted != listener.watched {
                match wanted {
                    true => self.relay.watch(fd.as_fd(), LISTENERS + at as u32)?,
                    false => self.relay.unwatch(fd.as_fd())?,
                }
                listener.watched = wanted;
            }
            if self.stage != Stage::Serving {
                listener.fd = None;
            }
        }
        Ok(())
    }

    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPTS {
            let Some(fd) = &self.listeners[at].fd else { return };
            if !self.wants_accept() || self.waiting.is_some() {
                return;
            }
            match self.calls.accept_nonblocking(KeyOwner::Listener(at).into(), fd.as_fd()) {
                Ok(socket) => self.admit(at, socket),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                        self.pause("cannot accept for now", &error);
                    }
                    _ => tracing::debug!(%error, "a connection was lost unaccepted"),
                },
            }
        }
    }

    /// Nothing is accepted or forked for a while, or until a child has ended.
    fn pause(&mut self, why: &str, error: &io::Error) {
        self.counters.refused += 1;
        tracing::warn!(%error, connections = self.children.len(), "{why}");
        self.accept_at = Some(os::now() + ACCEPT_PAUSE);
    }

    fn admit(&mut self, at: usize, socket: OwnedFd) {
        self.counters.accepted += 1;
        self.came += 1;
        let (protocol, me) = (self.listeners[at].protocol.clone(), self.came);
        self.fork_for(at, NewConnection { socket, protocol, me, max_input: self.limits.max_input });
    }

    /// Forks a child for a client. If that fails for now, the client waits.
    fn fork_for(&mut self, at: usize, connection: NewConnection<P>) {
        let (protocol, me) = (connection.protocol.clone(), connection.me);
        match self.fork(at, connection) {
            Ok((_, None)) => {}
            Ok((client, Some(link))) => {
                // A child that says something before this is heard after it.
                let (relay, next) = (Relay::new(protocol, me), self.relay.next_id());
                C::name(self.relay.selector_mut(), next, KeyOwner::Link(client));
                self.relay.adopt_link(link, relay, Room(at as u16));
            }
            Err((error, connection)) => {
                self.pause("cannot fork for now: a connection waits", &error);
                self.waiting = Some((at, connection));
            }
        }
    }

    /// Forks a child. Answers by what its client is known to all, and the link to it, if it has
    /// one.
    fn fork(
        &mut self,
        at: usize,
        connection: NewConnection<P>,
    ) -> Result<(ConnId, Option<OwnedFd>), (io::Error, NewConnection<P>)> {
        let (ours, its) = match connection.protocol.broadcasts().then(link).transpose() {
            Ok(pair) => pair.unzip(),
            Err(error) => return Err((error, connection)),
        };
        let slot = self.counted.open();
        let client = slot.client();
        let mut keep = vec![connection.socket.as_raw_fd()];
        keep.extend(its.as_ref().map(|its: &OwnedFd| its.as_raw_fd()));
        // Both processes own them; each takes its own.
        let (mut connection, mut its) = (Some(connection), its);
        let (calls, counted, buffers) = (&self.calls, &self.counted, &self.buffers);
        let live = |signals| {
            let connection = connection.take().expect("taken once, in the child");
            let own = (calls.lane(client.slot()), client);
            let publish = |counters: &Counters| counted.write(slot, counters);
            connection.live(own, its.take(), buffers, signals, publish)
        };
        let (whose, fork) = (KeyOwner::Conn(client), || process::fork(&self.alone, &keep, live));
        let forked = calls.made(Call::Fork, (whose, keep[0]), fork, |pid| pid.number());
        let connection = connection.take().expect("not taken in the parent");
        match forked {
            Ok(pid) => {
                self.children.insert(pid, slot);
                // It was the listener's; the connection's own is the child's to close.
                self.calls.close(KeyOwner::Listener(at).into(), connection.socket);
                Ok((client, ours))
            }
            Err(error) => {
                self.counted.close(slot);
                Err((error, connection))
            }
        }
    }

    // Going.

    /// Waits for the children that have ended: for all, since their signals are one.
    fn reap(&mut self) -> io::Result<()> {
        self.deaths.take();
        let who = |pid: &Option<Pid>| pid.map_or(0, Pid::number);
        while let Some(pid) = self.calls.made(
            Call::Reap,
            (KeyOwner::External(CHILD_EXITS), NONE),
            process::ended,
            who,
        )? {
            if !self.children.contains_key(&pid) {
                // A child of somebody else's in this process, who is to wait for it. It is named
                // before ours, so these are asked one by one.
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
        let client = self.children[&pid].client();
        let who = |status: &Option<_>| status.map_or(0, |_| pid.number());
        let reap = || process::reap(pid);
        if let Some(status) =
            self.calls.made(Call::Reap, (KeyOwner::Conn(client), NONE), reap, who)?
        {
            self.reaped(pid, status);
        }
        Ok(())
    }

    fn reaped(&mut self, pid: Pid, status: ExitStatus) {
        if !status.success() && self.stage != Stage::Cutting {
            tracing::warn!(%pid, "a child died, and its connection with it: {status}");
        }
        let slot = self.children.remove(&pid).expect("a child is reaped once");
        self.counters += self.counted.close(slot);
        self.counters.closed += 1;
        self.accept_at = None;
    }

    /// Does what the clock or a burial has made due.
    fn do_what_is_due(&mut self) {
        if self.accept_at.is_some() || self.stage.deadline().is_some() {
            let now = os::now();
            self.accept_at = self.accept_at.filter(|&at| at > now);
            if self.stage.deadline().is_some_and(|until| until <= now) {
                self.cut();
            }
        }
        if self.wants_accept()
            && let Some((at, connection)) = self.waiting.take()
        {
            self.fork_for(at, connection);
        }
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

    /// Accepts no more, and tells every child to finish.
    fn drain(&mut self) {
        self.stage = Stage::Draining(os::now() + self.limits.drain);
        if let Some((at, connection)) = self.waiting.take() {
            self.calls.close(KeyOwner::Listener(at).into(), connection.socket);
            self.counters.closed += 1;
        }
        for (&pid, slot) in &self.children {
            if let Err(error) = self.kill(slot.client(), || process::tell(pid)) {
                tracing::warn!(%pid, "a child cannot be told to drain: {error}");
            }
        }
    }

    /// Past the deadline: ends those who are left.
    fn cut(&mut self) {
        self.stage = Stage::Cutting;
        self.counters.cut = self.children.len() as u64;
        self.kill_each();
    }
}

impl<P, C: ForkHooks> Processes<P, C> {
    fn kill(&self, client: ConnId, kill: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.calls.made(Call::Kill, (KeyOwner::Conn(client), NONE), kill, |()| 0)
    }

    fn kill_each(&self) {
        for (&pid, slot) in &self.children {
            // One that has ended already is still there to be waited for.
            let _ = self.kill(slot.client(), || process::kill(pid));
        }
    }

    /// Ends all children, and waits for each.
    fn kill_all(&mut self) {
        self.kill_each();
        for (pid, slot) in self.children.drain() {
            let (whose, wait) = ((KeyOwner::Conn(slot.client()), NONE), || process::wait(pid));
            let _ = self.calls.made(Call::Reap, whose, wait, |_| pid.number());
            self.counters += self.counted.close(slot);
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
