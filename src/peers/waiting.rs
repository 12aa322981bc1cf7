//! Who must wait for whom, and who is evicted because others wait: the throttled and the starved of
//! [`Peers`].

use super::{LINGER, PeerEntry, Peers, SOFT, mark};
use crate::clock::Nanos;
use crate::keys::{ConnId, ListenerId};
use crate::limits::CloseReason;
use crate::protocol::Protocol;

/// Of one room.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupCounts {
    pub(super) congested: usize,
    pub(super) talkers: usize,
    /// Of those, how many are lines to other processes.
    pub(super) links: usize,
}

impl<P: Protocol, D> Peers<P, D> {
    /// A receive found no buffer: the connection does not receive until
    /// [`wake_buffer_waiters`](Peers::wake_buffer_waiters) marks it.
    pub fn wait_for_buffer(&mut self, id: ConnId) {
        self.step(id, |peer, _| peer.connection.no_buffer());
        let Some(peer) = self.slab.get_mut(id) else { return };
        if !peer.waits_for_buffer {
            (peer.waits_for_buffer, peer.any_size) = (true, true);
            self.buffer_waiters += 1;
            self.waiting_for_buffer.push_back(id);
        }
    }

    /// Lets those who starve try again, longest waiting first: as many as there are `buffers` of
    /// the size that they will get. Nobody waits while there is one.
    pub fn wake_buffer_waiters(&mut self, mut buffers: usize) {
        while buffers > 0
            && let Some(id) = self.waiting_for_buffer.pop_front()
        {
            if let Some(peer) = self.slab.get_mut(id).filter(|peer| peer.waits_for_buffer) {
                buffers -= 1;
                self.buffer_waiters -= 1;
                peer.waits_for_buffer = false;
                mark(peer, id, &mut self.marked);
            }
        }
    }

    /// Whether anybody waits for a buffer.
    pub fn has_buffer_waiters(&self) -> bool {
        self.buffer_waiters > 0
    }

    /// Runs the timers that have expired: closes the connections that lingered, evicts those that
    /// stall. The clock is read only if a timer is set.
    pub fn run_timers(&mut self, clock: impl FnOnce() -> Nanos) {
        let waits = self.buffer_waiters > 0
            || self.group_counts.iter().any(|counts| counts.congested > 0 && counts.talkers > 0);
        if !waits {
            self.look_at = None;
            if self.fresh.is_empty() && self.lingering.is_empty() {
                return;
            }
        }
        let now = clock();
        self.lingering.extend(self.fresh.drain(..).map(|id| (now + LINGER, id)));
        while let Some(&(_, id)) = self.lingering.front().filter(|(until, _)| *until <= now) {
            self.lingering.pop_front();
            self.broken(id, CloseReason::LingerTimeout);
        }
        if waits && self.look_at.is_none_or(|at| at <= now) {
            self.evict_stalled(self.look_at.is_some());
            self.look_at = Some(now + SOFT);
        }
    }

    /// Returns when the next timer expires.
    pub fn next_timer(&self) -> Option<Nanos> {
        let lingers = self.lingering.front().map(|&(until, _)| until);
        [lingers, self.look_at].into_iter().flatten().min()
    }

    /// Evicts who is owed bytes and took none since the last look, if this is not the first.
    fn evict_stalled(&mut self, evict: bool) {
        let mut stalled = Vec::new();
        for (id, peer) in self.slab.iter_mut() {
            // Others: who waits for itself alone may do so for as long as it likes.
            let buffer_waiters = self.buffer_waiters - usize::from(peer.waits_for_buffer);
            let talkers =
                self.group_counts[peer.listener.index()].talkers - usize::from(peer.talks);
            let waited_for = (buffer_waiters > 0 && peer.connection.outgoing().leases() > 0)
                || (talkers > 0 && peer.congested);
            if waited_for && !peer.link && !std::mem::take(&mut peer.progressed) && evict {
                stalled.push(id);
            }
            peer.progressed = false;
        }
        for id in stalled {
            self.broken(id, CloseReason::Stalled);
        }
    }

    /// Has those who talk resumed, if nobody of their room is congested any more; or one only,
    /// which may be a line, and does not wait for itself.
    pub(super) fn wake_talkers(&mut self, listener: ListenerId) {
        let counts = self.group_counts[listener.index()];
        if counts.congested <= usize::from(counts.links > 0) && counts.talkers > 0 {
            for (id, peer) in self.slab.iter_mut().filter(|(_, peer)| peer.listener == listener) {
                if peer.talks {
                    mark(peer, id, &mut self.marked);
                }
            }
        }
    }
}

/// Whether a peer would receive, and waits neither for a listener nor for a buffer.
pub(super) fn wants_recv<P: Protocol, D>(
    peer: &PeerEntry<P, D>,
    group_counts: &[GroupCounts],
) -> bool {
    let mut congested = group_counts[peer.listener.index()].congested;
    let wants = if peer.link {
        congested -= usize::from(peer.congested);
        peer.connection.could_recv()
    } else {
        peer.connection.wants_recv()
    };
    wants && !(peer.talks && congested > 0) && !peer.waits_for_buffer
}

/// Counts a peer as congested or not; answers whether it just ceased to be.
pub(super) fn weigh<P: Protocol, D>(
    peer: &mut PeerEntry<P, D>,
    group_counts: &mut [GroupCounts],
) -> bool {
    let (was, is) = (peer.congested, peer.connection.is_paused());
    peer.congested = is;
    let counts = &mut group_counts[peer.listener.index()];
    counts.congested = counts.congested + usize::from(is) - usize::from(was);
    was && !is
}
