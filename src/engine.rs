//! The seam between a server and the I/O model that drives it.

use std::io;
use std::os::fd::OwnedFd;

use crate::address::{BoundSocket, SocketFile};
use crate::console::Console;
use crate::counters::{Counters, LiveCounters};
use crate::keys::ListenerId;
use crate::limits::Ended;
use crate::peer::Factory;
use crate::protocol::Protocol;

/// A server that drives its connections by one I/O model. `P` is the type of their protocols.
pub trait Engine<P = Box<dyn Protocol>> {
    /// Serves the connections that `fd`, a listening socket, accepts, each by a protocol that
    /// `factory` makes. The connections of one listener form a broadcast group. Listeners are added
    /// in the order of their numbers, from 0.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking, or the model cannot provide what the protocol needs.
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, factory: Factory<P>) -> io::Result<()>;

    /// Attaches an operator console, whose listeners have the same numbers.
    ///
    /// # Errors
    /// The input cannot be watched, or the model has no console.
    fn set_console(&mut self, console: Console) -> io::Result<()>;

    /// Serves until it is stopped. An engine with a loop stores its counters in `live` after each
    /// iteration.
    ///
    /// # Errors
    /// The kernel refuses what the engine as a whole needs.
    fn run(&mut self, live: Option<&LiveCounters>) -> io::Result<Ended>;

    /// Returns what was counted since the start.
    fn counters(&self) -> Counters;
}

/// Has `engine` listen on these sockets, in the order of their numbers. Returns the files of Unix
/// sockets, which are removed when the result is dropped.
///
/// # Errors
/// As [`Engine::listen`].
pub fn listen_all(
    engine: &mut dyn Engine,
    listeners: impl IntoIterator<Item = (BoundSocket, Factory)>,
) -> io::Result<Vec<SocketFile>> {
    let mut files = Vec::new();
    for (id, (socket, factory)) in (0..).map(ListenerId).zip(listeners) {
        engine.listen(id, socket.fd, factory)?;
        files.extend(socket.file);
    }
    Ok(files)
}

/// A listening socket of an engine; `F` makes the protocols of its connections, `S` is the engine's
/// state of it.
#[derive(Debug)]
pub struct Listener<F, S> {
    /// The socket; `None` once it is closed.
    pub fd: Option<OwnedFd>,
    /// What makes the protocol of each connection.
    pub factory: F,
    /// What the engine knows of the socket.
    pub state: S,
}

/// The listening sockets of an engine, by their numbers.
#[derive(Debug)]
pub struct Listeners<F, S>(Vec<Listener<F, S>>);

impl<F, S> Listeners<F, S> {
    /// Adds listener number `id`.
    ///
    /// # Panics
    /// If it is not the next number.
    pub fn add(&mut self, id: ListenerId, fd: OwnedFd, factory: F, state: S) {
        assert_eq!(id.index(), self.0.len(), "listeners are added in the order of their numbers");
        self.0.push(Listener { fd: Some(fd), factory, state });
    }

    /// Returns the number of listeners.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is no listener.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the numbers of all listeners.
    pub fn ids(&self) -> impl Iterator<Item = ListenerId> + use<F, S> {
        (0..self.0.len()).map(|index| ListenerId(index as u16))
    }

    /// Iterates over the listeners with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut Listener<F, S>)> {
        self.0.iter_mut().enumerate().map(|(index, one)| (ListenerId(index as u16), one))
    }

    /// Iterates over the engine's states of the listeners.
    pub fn states(&self) -> impl Iterator<Item = &S> {
        self.0.iter().map(|listener| &listener.state)
    }
}

impl<F, S> Default for Listeners<F, S> {
    fn default() -> Listeners<F, S> {
        Listeners(Vec::new())
    }
}

impl<F, S> std::ops::Index<ListenerId> for Listeners<F, S> {
    type Output = Listener<F, S>;

    fn index(&self, id: ListenerId) -> &Listener<F, S> {
        &self.0[id.index()]
    }
}

impl<F, S> std::ops::IndexMut<ListenerId> for Listeners<F, S> {
    fn index_mut(&mut self, id: ListenerId) -> &mut Listener<F, S> {
        &mut self.0[id.index()]
    }
}
