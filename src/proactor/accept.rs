//! The accepts of the ring loop.

use std::io;
use std::os::fd::AsFd;

use super::{Flight, Proactor};
use crate::keys::ListenerId;
use crate::lifecycle::Stage;
use crate::limits::CloseReason;
use crate::os::AcceptFailure;
use crate::protocol::Protocol;
use crate::ring::{CancelTarget, Op, Ring, Socket};

/// The accept of a listener, and the cancel of it: they complete in either order.
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
        debug_assert!(self.in_flight, "one accept of a listener is in flight");
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
    pub(super) fn arm_accepts(&mut self) -> io::Result<()> {
        let wanted = self.lifecycle.accepts(self.peers.len());
        for (id, listener) in self.listeners.iter_mut() {
            let (Some(fd), accept) = (&listener.fd, &mut listener.state) else { continue };
            if accept.cancel_in_flight {
                continue;
            }
            match accept.in_flight {
                false if wanted => {
                    accept.in_flight = true;
                    self.ring.submit(Op::Accept { listener: id, fd: fd.as_fd() })?;
                }
                // Closed only now: an accept in flight would have kept the socket listening.
                false if !self.lifecycle.is_serving() => listener.fd = None,
                true if !wanted && !accept.cancelled => {
                    (accept.cancelled, accept.cancel_in_flight) = (true, true);
                    self.ring.submit(Op::Cancel { target: CancelTarget::Accept(id) })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn accepted(
        &mut self,
        listener: ListenerId,
        outcome: Result<Socket, AcceptFailure>,
        more: bool,
    ) {
        self.listeners[listener].state.completed(more);
        match outcome {
            Ok(socket) => {
                self.counters.accepted += 1;
                self.backlog.push_back((listener, socket));
                self.open_backlog();
            }
            Err(failure) => {
                let ring = &self.ring;
                let refused = self.lifecycle.pause().failed(failure, || ring.now());
                self.counters.refused += u64::from(refused);
            }
        }
    }

    /// Opens the connections that wait in the backlog, as far as the limit permits. All of them
    /// are opened when the server drains, to be sent its end.
    pub(super) fn open_backlog(&mut self) {
        while (self.lifecycle.has_capacity(self.peers.len()) || !self.lifecycle.is_serving())
            && let Some((listener, socket)) = self.backlog.pop_front()
        {
            self.open(listener, socket);
        }
    }

    fn open(&mut self, listener: ListenerId, socket: Socket) {
        let (number, fd) = (self.peers.next_number(), self.ring.descriptor(socket));
        let protocol = self.listeners[listener].factory.make(number, fd);
        let id = self.peers.open(protocol, listener, Flight::new(socket));
        if let Some(input) = &mut self.console {
            input.console.opened(id, self.ring.now());
        }
        match self.lifecycle.stage() {
            Stage::Serving => {}
            Stage::Draining => self.peers.finish(id),
            Stage::Cutting => self.peers.broken(id, CloseReason::Cut),
        }
    }
}
