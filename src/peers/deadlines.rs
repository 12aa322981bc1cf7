//! The looks at connections for their [time limits](crate::timeouts).
//!
//! A connection is *watched* from a send that falls short, because its socket takes no more, until
//! it is owed nothing; with a limit of what is received, from its begin to its end. Without a
//! watched connection there is no timer, and no clock is read. At a look, the driver is asked what
//! the peers of those that are owed bytes have not acknowledged (`SIOCOUTQ`); no message is.
//!
//! A drain looks at the connections that linger as well, soon and then less often: it does not wait
//! for a peer that has acknowledged everything, the end too, and sends nothing more.

use std::time::Duration;

use super::rare::RareStates;
use super::{PeerEntry, Peers};
use crate::clock::{Nanos, earlier};
use crate::keys::ConnId;
use crate::limits::CloseReason;
use crate::protocol::Protocol;
use crate::timeouts::{InputLook, Timeouts};

#[derive(Debug)]
pub(super) struct Deadlines {
    pub(super) limits: Timeouts,
    /// Each connection once: those whose entry says `watched`. One that was removed is skipped.
    watched: Vec<ConnId>,
    /// When the next look comes; `Some` only while a connection is watched.
    look_at: Option<Nanos>,
    /// When a drain looks next at those that linger, and the time between two such looks.
    linger_look: Option<(Nanos, Duration)>,
    /// Of which the driver is asked.
    asked: Vec<ConnId>,
}

impl Deadlines {
    pub(super) fn new(limits: Timeouts) -> Deadlines {
        let (watched, asked) = (Vec::new(), Vec::new());
        Deadlines { limits, watched, look_at: None, linger_look: None, asked }
    }

    /// Watches a connection. A link has no limits.
    pub(super) fn watch<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>) {
        let has_limits = !peer.accepted.link && !self.limits.is_off();
        if has_limits && !std::mem::replace(&mut peer.watched, true) {
            peer.extra().progress.owes_anew();
            self.watched.push(id);
        }
    }

    /// Looks at connections that linger, from now on.
    pub(super) fn drain(&mut self) {
        self.linger_look = Some((Nanos(0), Duration::ZERO));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.watched.is_empty() && self.linger_look.is_none()
    }

    pub(super) fn next_look(&self) -> Option<Nanos> {
        earlier(self.look_at, self.linger_look.map(|(at, _)| at))
    }
}

/// Returns the time until a drain looks again at connections that linger: soon at first, for a peer
/// nearby, and then less often.
pub fn next_linger_period(period: Duration) -> Duration {
    (2 * period).clamp(Duration::from_millis(1), Duration::from_millis(64))
}

impl<P: Protocol, D> Peers<P, D> {
    /// The socket of a connection takes no more for now, or its send waits.
    pub fn fell_short(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id)
            && !peer.connection.outgoing().is_empty()
        {
            self.deadlines.watch(id, peer);
        }
    }

    /// Looks at the watched connections, if it is time to.
    pub(super) fn run_looks(&mut self, now: Nanos) {
        self.look_at_lingering(now);
        if self.deadlines.watched.is_empty() {
            self.deadlines.look_at = None;
            return;
        }
        let period = self.deadlines.limits.period();
        if *self.deadlines.look_at.get_or_insert(now + period) > now {
            return;
        }
        let mut watched = std::mem::take(&mut self.deadlines.watched);
        watched.retain(|&id| self.look(id));
        watched.append(&mut self.deadlines.watched); // Those that this has added.
        self.deadlines.look_at = (!watched.is_empty()).then(|| now + period);
        self.deadlines.watched = watched;
    }

    /// Looks at a connection. Returns whether it stays watched.
    fn look(&mut self, id: ConnId) -> bool {
        let Some(peer) = self.slab.get_mut(id) else { return false };
        let limits = &self.deadlines.limits;
        let owed = !peer.connection.outgoing().is_empty();
        if owed {
            self.deadlines.asked.push(id);
        }
        let limits_input = limits.limit_input() && peer.connection.is_open();
        peer.watched = owed || limits_input;
        if limits_input {
            let incomplete = peer.connection.incomplete().filter(|_| self.groups.wants_recv(peer));
            let (received, sent) = (peer.received, peer.sent);
            let may_be_silent = peer.accepted.allow_silence || peer.accepted.has_sent(received);
            let now = InputLook { received, sent, may_be_silent, incomplete, owed };
            if let Some(reason) = peer.extra().progress.look_at_input(limits, now) {
                peer.note_reason(reason, &mut self.counters);
                self.step(id, |peer, context| peer.connection.finish(context));
            }
        }
        owed || limits_input
    }

    /// Asks for the connections that linger while the server drains, if it is time to.
    fn look_at_lingering(&mut self, now: Nanos) {
        let Some((_, period)) = self.deadlines.linger_look.filter(|&(at, _)| at <= now) else {
            return;
        };
        let period = next_linger_period(period);
        self.deadlines.linger_look = Some((now + period, period));
        for (id, peer) in self.slab.iter_mut().filter(|(_, peer)| !peer.accepted.link) {
            let waits = peer.rare.has(RareStates::WAITS_FOR_BUFFER);
            let lingers = peer.connection.lingers_in_drain() && !waits;
            let received = peer.received;
            if lingers && peer.extra().progress.look_at_lingering(received) {
                self.deadlines.asked.push(id);
            }
        }
    }

    /// Returns a connection of which the driver has to find what its peer has not acknowledged, and
    /// pass it to [`acknowledged`](Peers::acknowledged). Called until it returns `None`, after the
    /// timers have run.
    pub fn next_asked(&mut self) -> Option<ConnId> {
        self.deadlines.asked.pop()
    }

    /// The peer of a connection has not acknowledged so many of the bytes that its socket took; it
    /// is not known of each kind of socket.
    pub fn acknowledged(&mut self, id: ConnId, outq: Option<usize>) {
        let Some(peer) = self.slab.get_mut(id) else { return };
        if peer.connection.lingers_in_drain() && (peer.accepted.unix || outq == Some(0)) {
            return self.broken(id, CloseReason::Finished);
        }
        if peer.connection.outgoing().is_empty() {
            return;
        }
        let holds_buffers = peer.connection.outgoing().leases() > 0;
        let others_wait =
            self.buffers.count > usize::from(peer.rare.has(RareStates::WAITS_FOR_BUFFER));
        let waited_for = (holds_buffers && others_wait) || self.groups.throttles_others(peer);
        let limits = &self.deadlines.limits;
        let sent = peer.sent;
        let over = peer.extra().progress.look_at_output(limits, sent, outq, waited_for);
        if let Some(reason) = over {
            self.broken(id, reason);
        }
    }
}
