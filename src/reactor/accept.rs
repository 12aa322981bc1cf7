//! The accepts of the readiness loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Reactor;
use crate::keys::{KeyOwner, ListenerId};
use crate::lifecycle::Accepting;
use crate::os::{self, AcceptFailure};
use crate::protocol::Protocol;
use crate::selector::{Interest, Selector};

/// Accepts at one listener in an iteration, in which the other connections wait; a ring has eight
/// in flight.
pub const ACCEPTS: usize = 16;

/// What is known of the readiness of a listener.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ListenerReadiness {
    /// True exactly when the selector watches it.
    watched: bool,
    /// False from a report by a oneshot selector until it is armed again.
    pub(super) armed: bool,
    /// True from a report until an accept would block.
    pub(super) readable: bool,
}

impl<S: Selector, P: Protocol> Reactor<S, P> {
    /// Watches the listeners while connections are wanted. Otherwise connections wait in the
    /// kernel's queue.
    pub(super) fn watch_listeners(&mut self, accepting: Accepting) -> io::Result<()> {
        for listener in &mut self.state.listeners {
            let wanted = accepting == Accepting::Now && listener.listens();
            let closes = accepting == Accepting::Never || !listener.listens();
            let Some(fd) = &listener.fd else { continue };
            let (key, state) = (KeyOwner::Listener(listener.id).into(), &mut listener.state);
            if wanted && !state.watched {
                self.selector.add(fd.as_fd(), key, Interest::READ)?;
                (state.watched, state.armed) = (true, true);
            } else if wanted && !state.armed && !state.readable {
                self.selector.modify(fd.as_fd(), key, Interest::READ)?;
                state.armed = true;
            } else if !wanted && state.watched {
                self.selector.remove(fd.as_fd())?;
                (state.watched, state.readable) = (false, false);
            }
            if closes {
                listener.fd = None;
            }
        }
        Ok(())
    }

    /// Returns true if there may be a connection to accept now.
    pub(super) fn may_accept(&self) -> bool {
        self.listeners_ready && self.state.lifecycle.accepts(self.state.peers.len())
    }

    /// Has the listeners accept what waits when the server drains, though no report may have come.
    pub(super) fn look_for_last(&mut self) {
        for listener in self.state.listeners.iter_mut().filter(|listener| listener.listens()) {
            (listener.state.readable, self.listeners_ready) = (true, true);
        }
    }

    /// # Errors
    /// No listener is left.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        for at in 0..self.state.listeners.len() {
            for _ in 0..ACCEPTS {
                let listener = &self.state.listeners[at];
                let may = listener.state.readable && listener.listens();
                if !may || !self.state.lifecycle.accepts(self.state.peers.len()) {
                    break;
                }
                let (Some(fd), id) = (&listener.fd, listener.id) else { break };
                match self.selector.accept(KeyOwner::Listener(id).into(), fd.as_fd()) {
                    Ok(socket) => self.open(id, socket),
                    Err(error) => {
                        let failure = AcceptFailure::from(error);
                        if matches!(
                            failure,
                            AcceptFailure::NoConnection | AcceptFailure::Lasting(_)
                        ) {
                            self.state.listeners[at].state.readable = false;
                            self.state.listeners[at].none_waits();
                        }
                        self.state.not_accepted(id, failure)?;
                    }
                }
            }
        }
        self.state.listeners_changed = true;
        self.listeners_ready = self.state.listeners.iter().any(|listener| listener.state.readable);
        Ok(())
    }

    fn open(&mut self, listener: ListenerId, fd: OwnedFd) {
        let addr = os::peer_addr(fd.as_fd());
        self.state.peers.counters.accepted += 1;
        self.state.listeners[listener.index()].accepted();
        match self.state.admit(listener, addr) {
            Some(made) => {
                let id = self.adopt(fd, made, listener);
                if !self.state.lifecycle.is_serving() {
                    self.state.peers.take_last_input_of(id);
                }
            }
            None => {
                let key = KeyOwner::Listener(listener).into();
                let _ = self.selector.shutdown(key, fd.as_fd()); // It fails if the peer has reset.
                self.selector.close(key, fd);
            }
        }
    }
}
