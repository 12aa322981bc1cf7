//! The timers of connections: those of protocols, and the end of lingering.
//!
//! A connection has one timer, which its [`Connection`](crate::connection::Connection) keeps. It is
//! armed at the start of the next iteration, so the clock is read once for all that were set. Its
//! entry in the queue moves only when the time of the entry has come: a timer that is set anew with
//! every message costs no look-up.

use std::collections::BTreeSet;

use super::{PeerEntry, Peers};
use crate::clock::{Nanos, earlier};
use crate::keys::ConnId;
use crate::protocol::Protocol;

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// At most one entry for each connection: when its timer expires, or a time before.
    queue: BTreeSet<(Nanos, ConnId)>,
    /// Those whose timer was changed since the clock was last read.
    changed: Vec<ConnId>,
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
    /// Returns true if a timer is set, or a connection is watched.
    pub(super) fn has_timers(&self) -> bool {
        let Timers { queue, changed } = &self.timers;
        changed.len() | queue.len() > 0 || !self.deadlines.is_idle()
    }

    /// Runs the timers that have expired: calls protocols, closes connections that lingered, and
    /// looks at those that are watched. The clock is read only if a timer is set, or if a
    /// connection is watched.
    pub fn run_timers(&mut self, clock: impl FnOnce() -> Nanos) {
        if !self.has_timers() {
            return;
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
        self.run_looks(now);
        self.arm_changed(now); // Those that these calls have set.
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
        earlier(first, self.deadlines.next_look())
    }
}
