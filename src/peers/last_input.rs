//! The last input: what has arrived at a connection when the server begins to drain is answered.
//!
//! Each connection receives what is there, without waiting, until a receive finds nothing or it has
//! received [`LAST_INPUT`] bytes more. When all have done so, they are drained: so a line to a
//! group reaches all its members. A connection that cannot receive then, because its peer does not
//! read or the pool is empty, delays no other one: it is drained when it has taken its last input
//! later.

use super::rare::RareStates;
use super::{PeerEntry, Peers};
use crate::keys::ConnId;
use crate::protocol::Protocol;

/// The most that a connection receives after the server has begun to drain, but for one receive:
/// a flood does not hold a drain open.
pub const LAST_INPUT: u64 = 1 << 20;

/// The last input of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LastInput {
    /// The server does not drain.
    #[default]
    No,
    /// It receives until it has received so many bytes since it was opened; the others wait for it.
    Awaited { until: u64 },
    /// As `Awaited`, but the others do not wait for it.
    Late { until: u64 },
    /// It was taken, and the connection is drained.
    Taken,
}

/// The last inputs of all connections.
#[derive(Debug, Default)]
pub(super) struct LastInputs {
    /// How many the others wait for.
    awaited: usize,
    /// The connections that have taken theirs and are not drained yet.
    taken: Vec<ConnId>,
}

impl LastInputs {
    /// A connection is removed.
    pub(super) fn forget(&mut self, last: LastInput) {
        self.awaited -= usize::from(matches!(last, LastInput::Awaited { .. }));
    }

    fn take<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>) {
        self.forget(std::mem::replace(&mut peer.extra().last, LastInput::Taken));
        peer.rare.set(RareStates::LAST_INPUT, false);
        self.taken.push(id);
    }

    /// A connection does not receive: its peer has ended, or it has to wait.
    #[cold]
    pub(super) fn cannot_receive<P: Protocol, D>(
        &mut self,
        id: ConnId,
        peer: &mut PeerEntry<P, D>,
    ) {
        if !peer.connection.could_recv() {
            self.take(id, peer);
        } else if let LastInput::Awaited { until } = peer.last() {
            self.forget(peer.last());
            peer.extra().last = LastInput::Late { until };
        }
    }
}

impl<P: Protocol, D> PeerEntry<P, D> {
    /// Returns true if it receives its last input: what is there, without waiting.
    pub fn takes_last_input(&self) -> bool {
        self.rare.has(RareStates::LAST_INPUT)
    }

    /// Returns true if it has received as much of its last input as it may.
    pub fn has_taken_enough(&self) -> bool {
        match self.last() {
            LastInput::Awaited { until } | LastInput::Late { until } => self.received >= until,
            LastInput::No | LastInput::Taken => false,
        }
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Has every connection take its last input.
    pub fn take_last_input(&mut self) {
        self.deadlines.drain();
        self.ids(None).into_iter().for_each(|id| self.take_last_input_of(id));
    }

    /// Has a connection take its last input.
    pub fn take_last_input_of(&mut self, id: ConnId) {
        let Some(peer) = self.slab.get_mut(id).filter(|peer| peer.last() == LastInput::No) else {
            return;
        };
        peer.extra().last = LastInput::Awaited { until: peer.received + LAST_INPUT };
        peer.rare.set(RareStates::LAST_INPUT, true);
        self.last_inputs.awaited += 1;
        self.ready.mark(id, peer);
    }

    /// A connection has taken its last input: nothing more is there, or it has taken enough.
    pub fn last_input_taken(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id)
            && peer.takes_last_input()
        {
            self.last_inputs.take(id, peer);
        }
    }

    /// Returns true if connections must be [finished](Peers::finish_taken): the driver must not
    /// sleep.
    pub fn has_taken(&self) -> bool {
        self.last_inputs.awaited == 0 && !self.last_inputs.taken.is_empty()
    }

    /// Drains the connections that have taken their last input, unless others have not.
    pub fn finish_taken(&mut self) {
        if self.has_taken() {
            let taken = std::mem::take(&mut self.last_inputs.taken);
            taken.into_iter().for_each(|id| self.finish(id));
        }
    }
}
