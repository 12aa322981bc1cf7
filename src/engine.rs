//! The seam between a server and the I/O model that drives it.

use std::io;
use std::os::fd::OwnedFd;

use crate::console::Console;
use crate::counters::Counters;
use crate::keys::ListenerId;
use crate::limits::Ended;

/// A server that drives its connections by one I/O model. `P` is what each connection of a listener
/// starts with.
pub trait Engine<P> {
    /// Serves `protocol` at `fd`, a listening socket. The connections of one listener form a
    /// broadcast group. Listeners are added in the order of their numbers, from 0.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    fn listen(&mut self, id: ListenerId, fd: OwnedFd, protocol: P) -> io::Result<()>;

    /// Attaches an operator console, whose listeners have the same numbers.
    ///
    /// # Errors
    /// The input cannot be watched, or the model has no console.
    fn set_console(&mut self, console: Console) -> io::Result<()>;

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// The kernel refuses what the engine as a whole needs.
    fn run(&mut self) -> io::Result<Ended>;

    /// Returns what was counted since the start.
    fn counters(&self) -> Counters;
}

/// A listening socket of an engine; `S` is the engine's state of it.
#[derive(Debug)]
pub struct Listener<P, S> {
    /// The socket; `None` once it is closed.
    pub fd: Option<OwnedFd>,
    /// What each connection starts with.
    pub protocol: P,
    /// What the engine knows of the socket.
    pub state: S,
}

/// The listening sockets of an engine, by their numbers.
#[derive(Debug)]
pub struct Listeners<P, S>(Vec<Listener<P, S>>);

impl<P, S> Listeners<P, S> {
    /// No listener.
    pub fn new() -> Listeners<P, S> {
        Listeners(Vec::new())
    }

    /// Adds listener number `id`.
    ///
    /// # Panics
    /// If it is not the next number.
    pub fn add(&mut self, id: ListenerId, fd: OwnedFd, protocol: P, state: S) {
        assert_eq!(id.index(), self.0.len(), "listeners are added in the order of their numbers");
        self.0.push(Listener { fd: Some(fd), protocol, state });
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
    pub fn ids(&self) -> impl Iterator<Item = ListenerId> + use<P, S> {
        (0..self.0.len()).map(|index| ListenerId(index as u16))
    }

    /// Iterates over the listeners with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut Listener<P, S>)> {
        self.0.iter_mut().enumerate().map(|(index, one)| (ListenerId(index as u16), one))
    }

    /// Iterates over the engine's states of the listeners.
    pub fn states(&self) -> impl Iterator<Item = &S> {
        self.0.iter().map(|listener| &listener.state)
    }
}

impl<P, S> Default for Listeners<P, S> {
    fn default() -> Listeners<P, S> {
        Listeners::new()
    }
}

impl<P, S> std::ops::Index<ListenerId> for Listeners<P, S> {
    type Output = Listener<P, S>;

    fn index(&self, id: ListenerId) -> &Listener<P, S> {
        &self.0[id.index()]
    }
}

impl<P, S> std::ops::IndexMut<ListenerId> for Listeners<P, S> {
    fn index_mut(&mut self, id: ListenerId) -> &mut Listener<P, S> {
        &mut self.0[id.index()]
    }
}
