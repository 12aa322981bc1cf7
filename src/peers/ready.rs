//! The ready list: which connections their driver resumes.

use super::{PeerEntry, Peers, ReadyPeer};
use crate::keys::ConnId;
use crate::protocol::Protocol;

/// Two lists: the connections that are resumed in this pass, and those marked for the next. A
/// connection that has been removed since it was marked is skipped.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    ready: Vec<ConnId>,
    /// The position in `ready` of the next connection to resume.
    next: usize,
    /// Each connection once: those whose entry says `marked`.
    marked: Vec<ConnId>,
}

impl ReadyList {
    /// Marks a connection, unless it is marked already.
    pub(super) fn mark<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>) {
        if !std::mem::replace(&mut peer.marked, true) {
            self.marked.push(id);
        }
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Marks a connection because what its driver keeps has changed.
    pub fn mark(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id) {
            self.ready.mark(id, peer);
        }
    }

    /// Returns true if a connection is marked: the driver must not sleep.
    pub fn has_marked(&self) -> bool {
        !self.ready.marked.is_empty()
    }

    /// Begins a pass over the connections that are marked now. Those marked during the pass wait
    /// for the next one.
    pub fn begin(&mut self) {
        let ReadyList { ready, next, marked } = &mut self.ready;
        debug_assert_eq!(*next, ready.len(), "a pass resumes every ready connection");
        ready.clear();
        *next = 0;
        std::mem::swap(ready, marked);
    }

    /// Returns the next connection of the pass.
    pub fn next_ready(&mut self) -> Option<ReadyPeer<'_, P, D>> {
        loop {
            let id = *self.ready.ready.get(self.ready.next)?;
            self.ready.next += 1;
            if let Some(peer) = self.slab.get_mut(id) {
                debug_assert!(peer.marked, "only marked connections are in the list");
                peer.marked = false;
                if peer.connection.holds_input() {
                    self.resume_input(id);
                }
                return self.wants(id);
            }
        }
    }

    /// Returns true if a connection holds input that its protocol was not given.
    pub fn holds_input(&mut self, id: ConnId) -> bool {
        self.slab.get_mut(id).is_some_and(|peer| peer.connection.holds_input())
    }

    /// Gives the protocol of a connection input that is held, unless it must wait: for its peer to
    /// read, or as a talker for the group. Returns true if more is held that need not wait.
    #[cold]
    pub fn resume_input(&mut self, id: ConnId) -> bool {
        let may_resume = |peers: &mut Self| {
            let peer = peers.slab.get_mut(id)?;
            let waits = peer.connection.is_congested()
                || (peer.talks && peers.groups.throttles(peer))
                || !peer.connection.holds_input();
            (!waits).then_some(())
        };
        if may_resume(self).is_some() {
            self.step(id, |peer, context| peer.connection.resume_input(context));
        }
        may_resume(self).is_some()
    }

    /// Returns a connection with what it wants now.
    #[inline]
    pub fn wants(&mut self, id: ConnId) -> Option<ReadyPeer<'_, P, D>> {
        let peer = self.slab.get_mut(id)?;
        let (wants_recv, any_size) = (self.groups.wants_recv(peer), peer.any_size);
        if !wants_recv && peer.last.is_awaited() {
            self.last_inputs.cannot_receive(id, peer);
        }
        Some(ReadyPeer { id, peer, wants_recv, any_size })
    }
}
