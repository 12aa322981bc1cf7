//! What the processes of a server ask of their links and of the memory that they share.

use super::Peers;
use super::rare::RareStates;
use crate::keys::ConnId;
use crate::memory::Memory;
use crate::protocol::Protocol;

impl<P: Protocol, D> Peers<P, D> {
    /// Returns true if a connection is congested.
    pub(crate) fn any_congested(&self) -> bool {
        self.groups.any_congested()
    }

    /// Returns the connections that are congested, and how many bytes each was sent.
    pub(crate) fn congested(&self) -> impl Iterator<Item = (ConnId, u64)> {
        let congested = self.slab.iter().filter(|(_, peer)| peer.rare.has(RareStates::CONGESTED));
        congested.map(|(id, peer)| (id, peer.sent))
    }

    /// Counts what the connections hold in this account.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        self.context.memory = memory;
    }
}
