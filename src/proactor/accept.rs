//! Who comes: the accepts of the ring loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{Flight, InFlight, Proactor};
use crate::limits::{ACCEPT_PAUSE, Stage};
use crate::peers::Room;
use crate::protocol::Protocol;
use crate::ring::{Accepted, CancelTarget, ListenerId, Op, Ring, Socket};

/// A listening socket, and its accept.
#[derive(Debug)]
pub(super) struct Listener<P> {
    /// `None` once it is closed.
    pub(super) fd: Option<OwnedFd>,
    /// What each connection begins as.
    pub(super) protocol: P,
    pub(super) accepting: InFlight,
    /// True while a cancel of its accept has not completed.
    pub(super) cancelling: bool,
}

impl<R: Ring, P: Protocol + Clone> Proactor<R, P> {
    /// Arms the accepts that are wanted, and cancels those that are not.
    pub(super) fn arm_accepts(&mut self) -> io::Result<()> {
        let wanted = self.stage == Stage::Serving && self.has_room() && self.accept_at.is_none();
        for (at, listener) in self.listeners.iter_mut().enumerate() {
            let Some(fd) = &listener.fd else { continue };
            let id = ListenerId(at as u16);
            match listener.accepting {
                _ if listener.cancelling => {}
                InFlight::No if wanted => {
                    listener.accepting = InFlight::Yes;
                    self.ring.submit(Op::Accept { listener: id, fd: fd.as_fd() })?;
                }
                // Closed only now: an accept in flight would have kept the socket listening.
                InFlight::No if self.stage != Stage::Serving => listener.fd = None,
                InFlight::Yes if !wanted => {
                    listener.accepting = InFlight::Cancelling;
                    listener.cancelling = true;
                    self.ring.submit(Op::Cancel { target: CancelTarget::Accept(id) })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn accepted(&mut self, listener: ListenerId, outcome: Accepted, more: bool) {
        if !more {
            self.listeners[listener.0 as usize].accepting = InFlight::No;
        }
        match outcome {
            Accepted::Socket(socket) => {
                self.counters.accepted += 1;
                if self.has_room() {
                    self.open(listener, socket);
                } else {
                    self.backlog.push_back((listener, socket));
                }
            }
            Accepted::Exhausted(error) => {
                self.counters.refused += 1;
                tracing::warn!(%error, connections = self.peers.len(), "cannot accept for now");
                self.accept_at = Some(self.ring.now() + ACCEPT_PAUSE);
            }
            Accepted::Failed(error) => tracing::debug!(%error, "a connection was lost unaccepted"),
            Accepted::Cancelled => {}
        }
    }

    pub(super) fn open(&mut self, listener: ListenerId, socket: Socket) {
        let protocol = self.listeners[listener.0 as usize].protocol.clone();
        let id = self.peers.open(protocol, Room(listener.0), Flight::new(socket));
        if let Some(desk) = &mut self.desk {
            desk.console.opened(id, self.ring.now());
        }
        match self.stage {
            Stage::Serving => {}
            Stage::Draining(_) => self.peers.finish(id),
            Stage::Cutting => self.peers.broken(id),
        }
    }

    /// Whether who was accepted is taken in at once. When the server ends all are: to be told.
    fn has_room(&self) -> bool {
        self.peers.len() < self.limits.connections || self.stage != Stage::Serving
    }
}

impl<P> Listener<P> {
    pub(super) fn is_idle(&self) -> bool {
        self.accepting == InFlight::No && !self.cancelling
    }
}
