//! What a server needs of the I/O model that drives it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::address::{BoundSocket, LISTEN_BACKLOG, SocketFile};
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::keys::ListenerId;
use crate::lifecycle;
use crate::limits::Ended;
use crate::os::{self, EventFd};
use crate::peer::{Factory, WorkerFactory};
use crate::protocol::Protocol;
use crate::status::ServerMonitor;

/// A server that drives its connections by one I/O model. `P` is the type of their protocols.
pub trait Engine<P = Box<dyn Protocol>> {
    /// Serves the connections that `fd`, a listening socket, accepts, each by a protocol that
    /// `factory` makes. The connections of one listener form a broadcast group, unless the factory
    /// names another. Listeners are added in the order of their numbers, from 0.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking, or the model cannot provide what the protocol needs.
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()>;

    /// Attaches an operator console. It names listeners by the numbers that `listen` was given.
    ///
    /// # Errors
    /// The input cannot be watched, or the model has no console.
    fn set_console(&mut self, console: Console) -> io::Result<()>;

    /// Attaches what watches the server. It is served until the server has ended.
    ///
    /// # Errors
    /// Its descriptor cannot be waited for.
    fn set_monitor(&mut self, monitor: Box<dyn ServerMonitor>) -> io::Result<()>;

    /// Serves until it is stopped. An engine with a loop stores its counters in `live` after each
    /// iteration.
    ///
    /// # Errors
    /// The kernel refuses what the engine as a whole needs.
    fn run(&mut self, live: Option<&LiveCounters>) -> io::Result<Ended>;

    /// Returns what was counted since the start.
    fn counters(&self) -> Counters;
}

/// The descriptors that a connection takes for a moment, on the model that takes most: its socket,
/// both ends of a link to its child, and one of the system's.
const SPARE: usize = 4;

/// Has `engine` listen on these sockets, in the order of their numbers. Returns the files of Unix
/// sockets, which are removed when the result is dropped.
///
/// # Errors
/// As [`Engine::listen`], or no descriptor is left for a connection: the server would listen and
/// serve none.
pub fn listen_all(
    engine: &mut dyn Engine,
    listeners: impl IntoIterator<Item = (BoundSocket, Factory)>,
) -> io::Result<Vec<SocketFile>> {
    let (mut files, mut groups) = (Vec::new(), 0);
    for (id, (socket, mut factory)) in (0..).map(ListenerId).zip(listeners) {
        groups += u16::from(!socket.follows);
        factory.group = Some(ListenerId(groups - 1));
        engine.listen(id, socket.fd, factory)?;
        files.extend(socket.file);
    }
    let spare = (0..SPARE).map(|_| EventFd::new()).collect::<io::Result<Vec<_>>>();
    spare.map_err(|error| {
        io::Error::other(format!("no descriptor is left for a connection: {error}"))
    })?;
    Ok(files)
}

/// A listening socket of an engine; `F` makes the protocols of its connections, `S` is the engine's
/// state of it.
#[derive(Debug)]
pub struct Listener<F, S> {
    /// The number of the listener.
    pub id: ListenerId,
    /// The socket; `None` once it is closed.
    pub fd: Option<OwnedFd>,
    /// What makes the protocol of each connection.
    pub factory: F,
    /// What the engine knows of the socket.
    pub state: S,
    /// True once an accept has failed for good: the engine closes the socket.
    pub failed: bool,
    /// How many connections are still accepted, once the server drains: those that waited then.
    pub left: Option<usize>,
}

impl<F, S> Listener<F, S> {
    /// Returns a listener of which the engine knows nothing yet.
    pub fn new(id: ListenerId, fd: OwnedFd, factory: F) -> Listener<F, S>
    where
        S: Default,
    {
        Listener { id, fd: Some(fd), factory, state: S::default(), failed: false, left: None }
    }

    /// Returns true while it accepts connections: the engine closes the socket after that.
    pub fn listens(&self) -> bool {
        !self.failed && self.left != Some(0)
    }

    /// The server drains: the connections that wait now are accepted, and no more.
    pub fn accept_last(&mut self) {
        let waiting = |fd: &OwnedFd| os::waiting(fd.as_fd(), LISTEN_BACKLOG as usize);
        self.left = self.fd.as_ref().map(waiting);
    }

    /// Counts a connection that it has accepted.
    pub fn accepted(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// No connection waits. If the server drains, it accepts no more.
    pub fn none_waits(&mut self) {
        self.left = self.left.and(Some(0));
    }
}

/// Ends the listener with this number, whose accepts fail with `error` for good.
///
/// # Errors
/// `error`, with the address, if no listener is left.
pub fn end_listener<P, S>(
    listeners: &mut [Listener<WorkerFactory<P>, S>],
    id: ListenerId,
    error: &io::Error,
) -> io::Result<()> {
    // Several accepts of a ring are in flight, and each of them fails.
    if std::mem::replace(&mut listeners[id.index()].failed, true) {
        return Ok(());
    }
    if listeners[id.index()].left.is_some() {
        return Ok(()); // The server drains, and has other work to finish.
    }
    let others = listeners.iter().any(|listener| !listener.failed);
    lifecycle::listener_failed(listeners[id.index()].factory.listener(), error, others)
}
