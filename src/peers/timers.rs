//! The timers of connections: the end of lingering, and the eviction of slow readers.
//!
//! A slow reader is evicted only while another connection waits for it: for a buffer that holds
//! bytes owed to it, or because it throttles a talker. Then it must take some of its bytes at least
//! every [`SOFT`], as with the soft limit of redis' `client-output-buffer-limit`.

use std::collections::VecDeque;

use super::{LINGER, Peers, SOFT};
use crate::clock::Nanos;
use crate::keys::ConnId;
use crate::limits::CloseReason;
use crate::protocol::Protocol;

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The connections that linger, and until when, in the order of time.
    lingering: VecDeque<(Nanos, ConnId)>,
    /// Those that began to linger since the clock was last read.
    fresh: Vec<ConnId>,
    /// When slow readers are looked for next; `Some` exactly while a connection waits for another.
    look_at: Option<Nanos>,
}

impl Timers {
    /// Lets a connection linger.
    pub(super) fn linger(&mut self, id: ConnId) {
        self.fresh.push(id);
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Runs the timers that have expired: closes the connections that lingered, evicts those that
    /// stall. The clock is read only if a timer is set.
    pub fn run_timers(&mut self, clock: impl FnOnce() -> Nanos) {
        let waits = self.has_buffer_waiters() || self.groups.any_throttled();
        let timers = &mut self.timers;
        if !waits {
            timers.look_at = None;
            if timers.fresh.is_empty() && timers.lingering.is_empty() {
                return;
            }
        }
        let now = clock();
        timers.lingering.extend(timers.fresh.drain(..).map(|id| (now + LINGER, id)));
        let expired = |&&(until, _): &&(Nanos, ConnId)| until <= now;
        while let Some(&(_, id)) = self.timers.lingering.front().filter(expired) {
            self.timers.lingering.pop_front();
            self.broken(id, CloseReason::LingerTimeout);
        }
        if waits && self.timers.look_at.is_none_or(|at| at <= now) {
            self.evict_stalled(self.timers.look_at.is_some());
            self.timers.look_at = Some(now + SOFT);
        }
    }

    /// Returns when the next timer expires.
    pub fn next_timer(&self) -> Option<Nanos> {
        let lingers = self.timers.lingering.front().map(|&(until, _)| until);
        [lingers, self.timers.look_at].into_iter().flatten().min()
    }

    /// Evicts the connections that another one waits for and that took none of their bytes since
    /// the last look, if this is not the first.
    fn evict_stalled(&mut self, evict: bool) {
        let mut stalled = Vec::new();
        for (id, peer) in self.slab.iter_mut() {
            let holds_buffers = peer.connection.outgoing().leases() > 0;
            let waited_for = (holds_buffers && self.buffers.besides(peer) > 0)
                || self.groups.throttles_others(peer);
            if waited_for && !peer.link && !peer.progressed && evict {
                stalled.push(id);
            }
            peer.progressed = false;
        }
        for id in stalled {
            self.broken(id, CloseReason::Stalled);
        }
    }
}
