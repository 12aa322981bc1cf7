//! The timers of connections: those of protocols, the end of lingering, and the eviction of slow
//! readers.
//!
//! A connection has one timer, which its [`Connection`](crate::connection::Connection) keeps. It is
//! armed at the start of the next iteration, so the clock is read once for all that were set. Its
//! entry in the queue moves only when the time of the entry has come: a timer that is set anew with
//! every message costs no look-up.
//!
//! A slow reader is evicted only while another connection waits for it: for a buffer that holds
//! bytes owed to it, or because it throttles a talker. Then it must take some of its bytes at least
//! every [`SOFT`], as with the soft limit of redis' `client-output-buffer-limit`.

use std::collections::BTreeSet;

use super::{PeerEntry, Peers, SOFT};
use crate::clock::{Nanos, earlier};
use crate::keys::ConnId;
use crate::limits::CloseReason;
use crate::protocol::Protocol;

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// At most one entry for each connection: when its timer expires, or a time before.
    queue: BTreeSet<(Nanos, ConnId)>,
    /// Those whose timer was changed since the clock was last read.
    changed: Vec<ConnId>,
    /// When slow readers are looked for next; `Some` exactly while a connection waits for another.
    look_at: Option<Nanos>,
}

/// What the queue knows of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimerEntry {
    /// The time of its entry in the queue.
    queued: Option<Nanos>,
    /// True exactly while it is in the list of those that changed.
    changed: bool,
}

impl Timers {
    /// The timer of a connection may have been set. A link has none, and lingers without a limit.
    pub(super) fn changed<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>) {
        if !peer.accepted.link && !std::mem::replace(&mut peer.timer.changed, true) {
            self.changed.push(id);
        }
    }

    /// Forgets a connection that is removed.
    pub(super) fn remove(&mut self, id: ConnId, entry: TimerEntry) {
        entry.queued.into_iter().for_each(|at| _ = self.queue.remove(&(at, id)));
    }

    /// Has an entry for a timer that expires at `due`.
    fn schedule(&mut self, id: ConnId, queued: &mut Option<Nanos>, due: Nanos) {
        if queued.is_none_or(|at| due < at) {
            queued.replace(due).into_iter().for_each(|at| _ = self.queue.remove(&(at, id)));
            self.queue.insert((due, id));
        }
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Runs the timers that have expired: calls protocols, closes the connections that lingered,
    /// evicts those that stall. The clock is read only if a timer is set, or if a connection waits
    /// for another.
    pub fn run_timers(&mut self, clock: impl FnOnce() -> Nanos) {
        let waits = self.has_buffer_waiters() || self.groups.any_throttled();
        let timers = &mut self.timers;
        if !waits {
            timers.look_at = None;
            if timers.changed.is_empty() && timers.queue.is_empty() {
                return;
            }
        }
        let now = clock();
        self.arm_changed(now);
        while let Some((_, id)) = self.timers.queue.first().copied().filter(|&(at, _)| at <= now) {
            self.timers.queue.pop_first();
            let peer = self.slab.get_mut(id).expect("the entry goes with its connection");
            peer.timer.queued = None;
            match peer.connection.arm_timer(|| now) {
                Some(due) if due > now => {
                    self.timers.schedule(id, &mut peer.timer.queued, due);
                }
                Some(_) => self.step(id, |peer, context| peer.connection.run_timer(now, context)),
                None => {} // It was cleared.
            }
        }
        self.arm_changed(now); // Those that these calls have set.
        if waits && self.timers.look_at.is_none_or(|at| at <= now) {
            self.evict_stalled(self.timers.look_at.is_some());
            self.timers.look_at = Some(now + SOFT);
        }
    }

    /// Arms the timers that were set.
    fn arm_changed(&mut self, now: Nanos) {
        let mut changed = std::mem::take(&mut self.timers.changed);
        for id in changed.drain(..) {
            let Some(peer) = self.slab.get_mut(id) else { continue };
            peer.timer.changed = false;
            if let Some(due) = peer.connection.arm_timer(|| now) {
                self.timers.schedule(id, &mut peer.timer.queued, due);
            }
        }
        self.timers.changed = changed; // Empty, with its capacity.
    }

    /// Returns when the next timer expires, or a time before.
    pub fn next_timer(&self) -> Option<Nanos> {
        let first = self.timers.queue.first().map(|&(at, _)| at);
        earlier(first, self.timers.look_at)
    }

    /// Evicts the connections that another one waits for and that took none of their bytes since
    /// the last look, if this is not the first.
    fn evict_stalled(&mut self, evict: bool) {
        let mut stalled = Vec::new();
        for (id, peer) in self.slab.iter_mut() {
            let holds_buffers = peer.connection.outgoing().leases() > 0;
            let others_wait = self.buffers.count > usize::from(peer.waits_for_buffer);
            let waited_for = (holds_buffers && others_wait) || self.groups.throttles_others(peer);
            if waited_for && !peer.accepted.link && !peer.progressed && evict {
                stalled.push(id);
            }
            peer.progressed = false;
        }
        for id in stalled {
            self.broken(id, CloseReason::Stalled);
        }
    }
}
