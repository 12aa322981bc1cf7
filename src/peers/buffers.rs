//! The connections that are out of buffers: they want to receive, and the pool has no buffer.

use std::collections::VecDeque;

use super::Peers;
use super::rare::RareStates;
use crate::keys::ConnId;
use crate::protocol::Protocol;

/// The connections that wait for a buffer, in the order in which they began to.
#[derive(Debug, Default)]
pub(super) struct BufferWaiters {
    /// A connection that has been removed meanwhile is skipped.
    queue: VecDeque<ConnId>,
    /// Of those, the connections that are still open.
    pub(super) count: usize,
}

impl<P: Protocol, D> Peers<P, D> {
    /// A receive found no buffer. The connection does not receive until
    /// [`wake_buffer_waiters`](Peers::wake_buffer_waiters) marks it.
    pub fn wait_for_buffer(&mut self, id: ConnId) {
        self.counters.out_of_buffers += 1;
        self.step(id, |peer, _| peer.connection.no_buffer());
        let Some(peer) = self.slab.get_mut(id) else { return };
        if !peer.rare.has(RareStates::WAITS_FOR_BUFFER) {
            peer.rare.set(RareStates::WAITS_FOR_BUFFER, true);
            peer.rare.set(RareStates::ANY_SIZE, true);
            self.buffers.count += 1;
            self.buffers.queue.push_back(id);
        }
    }

    /// Lets connections that wait for a buffer receive again, the longest waiting first, one for
    /// each of the `buffers` that are free. So none waits while a buffer is free.
    pub fn wake_buffer_waiters(&mut self, mut buffers: usize) {
        while buffers > 0
            && let Some(id) = self.buffers.queue.pop_front()
        {
            if let Some(peer) = self.slab.get_mut(id)
                && peer.rare.has(RareStates::WAITS_FOR_BUFFER)
            {
                buffers -= 1;
                self.buffers.count -= 1;
                peer.rare.set(RareStates::WAITS_FOR_BUFFER, false);
                self.ready.mark(id, peer);
            }
        }
    }

    /// Returns true if a connection waits for a buffer.
    pub fn has_buffer_waiters(&self) -> bool {
        self.buffers.count > 0
    }
}
