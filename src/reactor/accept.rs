//! Who comes: the listeners of the readiness loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Reactor;
use crate::calls::SocketCalls;
use crate::limits::{ACCEPT_PAUSE, Stage};
use crate::os;
use crate::peers::Room;
use crate::protocol::Protocol;
use crate::selector::{Interest, KeyOwner, Selector};

/// Accepts at one listener in a turn.
const ACCEPTS: usize = 64;

/// A listening socket, and what is known of its readiness.
#[derive(Debug)]
pub(super) struct Listener<P> {
    /// `None` once it is closed.
    pub(super) fd: Option<OwnedFd>,
    /// What each connection begins as.
    pub(super) protocol: P,
    /// True exactly when the selector watches it.
    pub(super) watched: bool,
    /// False from a report by a oneshot selector until it is asked again.
    pub(super) armed: bool,
    /// True from a report until an accept would block.
    pub(super) readable: bool,
}

impl<S: Selector + SocketCalls, P: Protocol + Clone> Reactor<S, P> {
    /// Watches the listeners while connections are wanted: who comes meanwhile waits in the
    /// kernel's queue.
    pub(super) fn watch_listeners(&mut self) -> io::Result<()> {
        let wanted = self.wants_accept();
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            let Some(fd) = &listener.fd else { continue };
            if wanted && !listener.watched {
                self.selector.add(fd.as_fd(), KeyOwner::Listener(at).into(), Interest::READ)?;
                (listener.watched, listener.armed) = (true, true);
            } else if wanted && !listener.armed && !listener.readable {
                self.selector.modify(fd.as_fd(), KeyOwner::Listener(at).into(), Interest::READ)?;
                listener.armed = true;
            } else if !wanted && listener.watched {
                self.selector.remove(fd.as_fd())?;
                (listener.watched, listener.readable) = (false, false);
            }
            if self.stage != Stage::Serving {
                listener.fd = None;
            }
        }
        Ok(())
    }

    pub(super) fn accept(&mut self) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                if !self.listeners[at].readable || !self.wants_accept() {
                    break;
                }
                let Some(fd) = &self.listeners[at].fd else { break };
                match self.selector.accept(KeyOwner::Listener(at).into(), fd.as_fd()) {
                    Ok(socket) => self.open(at, socket),
                    Err(error) => self.not_accepted(at, error),
                }
            }
        }
    }

    fn not_accepted(&mut self, at: usize, error: io::Error) {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => self.listeners[at].readable = false,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                self.counters.refused += 1;
                tracing::warn!(%error, connections = self.peers.len(), "cannot accept for now");
                self.accept_at = Some(os::now() + ACCEPT_PAUSE);
            }
            _ => tracing::debug!(%error, "a connection was lost unaccepted"),
        }
    }

    fn open(&mut self, at: usize, fd: OwnedFd) {
        self.counters.accepted += 1;
        let protocol = self.listeners[at].protocol.clone();
        let socket = self.socket(fd, 1);
        let id = self.peers.open(protocol, Room(at as u16), socket);
        if let Some(desk) = &mut self.desk {
            desk.console.opened(id, os::now());
        }
        self.watch_new(id);
    }

    fn has_room(&self) -> bool {
        self.peers.len() < self.limits.connections
    }

    pub(super) fn wants_accept(&self) -> bool {
        self.stage == Stage::Serving && self.has_room() && self.accept_at.is_none()
    }
}
