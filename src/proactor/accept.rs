//! The accepts of the ring loop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{Flight, Proactor};
use crate::keys::ListenerId;
use crate::lifecycle::{Accepting, Stage};
use crate::limits::CloseReason;
use crate::os::AcceptFailure;
use crate::protocol::Protocol;
use crate::ring::{AcceptId, CancelTarget, Op, Ring, Socket};

/// An accept, and the cancel of it: they complete in either order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AcceptState {
    in_flight: bool,
    /// True from the cancel of the accept in flight until the accept completes.
    cancelled: bool,
    /// True while the cancel has not completed.
    cancel_in_flight: bool,
}

impl AcceptState {
    pub(super) fn is_idle(&self) -> bool {
        !self.in_flight && !self.cancel_in_flight
    }

    fn completed(&mut self, more: bool) {
        debug_assert!(self.in_flight, "an accept completes while it is in flight");
        self.in_flight = more;
        self.cancelled &= more;
    }

    pub(super) fn cancel_completed(&mut self) {
        debug_assert!(self.cancel_in_flight, "a cancel completes once");
        self.cancel_in_flight = false;
    }
}

impl<R: Ring, P: Protocol> Proactor<R, P> {
    /// Arms the accepts that are wanted, and cancels those that are not.
    pub(super) fn arm_accepts(&mut self, accepting: Accepting) -> io::Result<()> {
        for listener in &mut self.state.listeners {
            if let (Some(fd), Some(1..)) = (&listener.fd, listener.left)
                && self.ring.waiting(listener.id, fd.as_fd()) == 0
            {
                listener.none_waits();
            }
            let wanted = accepting == Accepting::Now && listener.listens();
            let closes = accepting == Accepting::Never || !listener.listens();
            let (Some(fd), accepts) = (&listener.fd, &mut listener.state) else {
                continue;
            };
            let count = if wanted { self.ring.accepts() } else { 0 };
            accepts.resize(accepts.len().max(count.into()), AcceptState::default());
            for (slot, state) in (0..).zip(accepts) {
                let accept = AcceptId { listener: listener.id, slot };
                match state.in_flight {
                    _ if state.cancel_in_flight => {}
                    false if slot < count => {
                        state.in_flight = true;
                        self.ring.submit(Op::Accept { accept, fd: fd.as_fd() })?;
                    }
                    true if !wanted && !state.cancelled => {
                        (state.cancelled, state.cancel_in_flight) = (true, true);
                        self.ring.submit(Op::Cancel { target: CancelTarget::Accept(accept) })?;
                    }
                    _ => {}
                }
            }
            // Closed only when no accept is in flight: one would keep the socket listening.
            if closes && listener.state.iter().all(AcceptState::is_idle) {
                listener.fd = None;
            }
        }
        Ok(())
    }

    /// # Errors
    /// No listener is left.
    pub(super) fn accepted(
        &mut self,
        accept: AcceptId,
        outcome: Result<Socket, AcceptFailure>,
        more: bool,
    ) -> io::Result<()> {
        let AcceptId { listener, slot } = accept;
        self.state.listeners[listener.index()].state[usize::from(slot)].completed(more);
        self.state.listeners_changed = true;
        match outcome {
            Ok(socket) => {
                self.state.peers.counters.accepted += 1;
                self.state.listeners[listener.index()].accepted();
                let address = self.ring.peer_address(accept, socket);
                self.backlog.push_back((listener, socket, address));
                self.open_backlog();
            }
            Err(failure) => self.state.not_accepted(listener, failure)?,
        }
        Ok(())
    }

    /// Opens the connections that wait in the backlog, as far as the limit of connections and the
    /// accept rate permit. All of them are opened when the server drains, to be sent its end.
    pub(super) fn open_backlog(&mut self) {
        while self.state.opens_backlog()
            && let Some((listener, socket, address)) = self.backlog.pop_front()
        {
            self.open(listener, socket, address);
        }
    }

    fn open(&mut self, listener: ListenerId, socket: Socket, address: Option<SocketAddr>) {
        let Some(made) = self.state.admit(listener, address) else {
            return self.refused.add(self.state.peers.unused_id(), socket);
        };
        let flight = Flight { socket, ..Flight::default() };
        let id = self.state.peers.open(made, listener, flight);
        match self.state.lifecycle.stage() {
            Stage::Serving => {}
            Stage::Draining => self.state.peers.take_last_input_of(id),
            Stage::Cutting => self.state.peers.broken(id, CloseReason::Cut),
        }
    }
}
