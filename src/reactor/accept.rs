//! The accepts of the readiness loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Reactor;
use crate::calls::SocketCalls;
use crate::keys::{KeyOwner, ListenerId};
use crate::lifecycle::Accepting;
use crate::os::{self, AcceptFailure};
use crate::protocol::Protocol;
use crate::selector::{Interest, Selector};

/// Accepts at one listener in an iteration.
const ACCEPTS: usize = 64;

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

impl<S: Selector + SocketCalls, P: Protocol> Reactor<S, P> {
    /// Watches the listeners while connections are wanted, if anything about that has changed since
    /// the last call. While they are not watched, connections wait in the kernel's queue.
    #[inline]
    pub(super) fn update_listeners(&mut self) -> io::Result<()> {
        let accepting = self.lifecycle.accepting(self.peers.len());
        if accepting == self.accepting && !self.listeners_changed {
            return Ok(());
        }
        (self.accepting, self.listeners_changed) = (accepting, false);
        self.watch_listeners(accepting)
    }

    fn watch_listeners(&mut self, accepting: Accepting) -> io::Result<()> {
        let wanted = accepting == Accepting::Now;
        for (id, listener) in self.listeners.iter_mut() {
            let Some(fd) = &listener.fd else { continue };
            let (key, state) = (KeyOwner::Listener(id).into(), &mut listener.state);
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
            if accepting == Accepting::Never {
                listener.fd = None;
            }
        }
        Ok(())
    }

    /// Returns true if there may be a connection to accept now.
    pub(super) fn may_accept(&self) -> bool {
        self.listeners_ready && self.lifecycle.accepts(self.peers.len())
    }

    pub(super) fn accept(&mut self) {
        for id in self.listeners.ids() {
            for _ in 0..ACCEPTS {
                let listener = &self.listeners[id];
                if !listener.state.readable || !self.lifecycle.accepts(self.peers.len()) {
                    break;
                }
                let Some(fd) = &listener.fd else { break };
                match self.selector.accept(KeyOwner::Listener(id).into(), fd.as_fd()) {
                    Ok(socket) => self.open(id, socket),
                    Err(error) => self.not_accepted(id, error.into()),
                }
            }
        }
        self.listeners_changed = true;
        self.listeners_ready = self.listeners.states().any(|listener| listener.readable);
    }

    fn not_accepted(&mut self, id: ListenerId, failure: AcceptFailure) {
        if let AcceptFailure::NoConnection = failure {
            self.listeners[id].state.readable = false;
        }
        let refused = self.lifecycle.pause().failed(failure, os::now);
        self.peers.counters.refused += u64::from(refused);
    }

    fn open(&mut self, listener: ListenerId, fd: OwnedFd) {
        self.peers.counters.accepted += 1;
        let number = self.peers.next_number();
        let reach = Some((self.peers.next_id(), self.lifecycle.shutdown()));
        let factory = &mut self.listeners[listener].factory;
        let (protocol, accepted) = factory.make(number, Some(fd.as_fd()), reach);
        let socket = self.socket(fd);
        let id = self.peers.open(protocol, listener, socket);
        self.peers.attach(id, accepted);
        if let Some(input) = &mut self.console {
            input.console.opened(id, os::now());
        }
        self.watch_new(id);
    }
}
