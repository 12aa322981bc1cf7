//! The ready list: which connections their driver resumes.
//!
//! A *heavy* connection moves much: it receives into larger buffers than the smallest, or is owed
//! more than [`LIGHT`]. In an iteration the others are resumed first, and then heavy ones, one
//! after another, until those have moved [`HEAVY_BYTES`]. The rest is first in the next iteration.
//! So the length of an iteration does not depend on how many connections flood the server.

use std::collections::VecDeque;

use super::{PeerEntry, Peers, Visit};
use crate::buffer::{Pool, SEND_MAX, Size};
use crate::connection::Connection;
use crate::keys::ConnId;
use crate::protocol::Protocol;

/// The most bytes that the heavy connections move in an iteration, in both directions together, but
/// for the last one of them.
pub const HEAVY_BYTES: usize = 4 << 20;
/// The most that they move while light ones are resumed as well, which wait for the end of the
/// iteration. (Cutting every iteration so short costs epoll 10 % at 64 connections of 16 KiB.)
pub const HEAVY_BYTES_WITH_LIGHT: usize = 256 << 10;
/// So many iterations after a light connection was resumed, another one is expected.
const LIGHT_EXPECTED: u8 = 64;
/// A connection that is owed more than this is heavy.
pub const LIGHT: usize = 16 << 10;

/// For how many iterations a light connection is expected.
#[derive(Debug, Default)]
pub struct LightExpected(u8);

impl LightExpected {
    /// Notes that one was resumed.
    pub fn resumed(&mut self) {
        self.0 = LIGHT_EXPECTED;
    }

    /// Begins an iteration, of which a light connection is expected.
    pub fn begin(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// Returns true if another one is expected.
    fn is_expected(&self) -> bool {
        self.0 > 0
    }

    /// Returns how many bytes heavy connections may move in an iteration: all, if others need the
    /// buffers that they hold.
    pub fn budget(&self, scarce: bool) -> usize {
        match (scarce, self.is_expected()) {
            (true, _) => usize::MAX,
            (false, true) => HEAVY_BYTES_WITH_LIGHT,
            (false, false) => HEAVY_BYTES,
        }
    }
}

/// Two lists: the connections that are resumed in this pass, and those marked for the next. A
/// connection that has been removed since it was marked is skipped.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    ready: Vec<ConnId>,
    /// The position in `ready` of the next connection to resume.
    next: usize,
    /// Each connection once: with those of `heavy`, those whose entry says `marked`.
    marked: Vec<ConnId>,
    /// The heavy connections that wait.
    heavy: VecDeque<ConnId>,
    /// How many bytes heavy connections may still move in this iteration, once it is known.
    budget: Option<usize>,
    /// True if others need the buffers that heavy connections hold.
    scarce: bool,
    light: LightExpected,
    /// The heavy connection that was resumed last, until it is charged.
    resumed: Option<ConnId>,
    /// How many bytes a receive may bring, for each size of buffers.
    received: Vec<usize>,
    /// True if operations move their bytes after their connection was resumed.
    moves_later: bool,
}

impl ReadyList {
    /// Marks a connection, unless it is marked already.
    pub(super) fn mark<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>) {
        if !std::mem::replace(&mut peer.marked, true) {
            self.marked.push(id);
        }
    }

    /// Returns how many bytes a connection moves at most when it is resumed once: what its buffer
    /// holds, and what it is owed.
    fn most<P: Protocol>(&self, connection: &Connection<P>) -> usize {
        let size = usize::from(connection.recv_size().0).min(self.received.len().max(1) - 1);
        let receives = self.received.get(size).copied().unwrap_or_default();
        receives + connection.outgoing().bytes().min(SEND_MAX)
    }

    /// Takes from the budget what a connection has moved since it was charged last, at most so
    /// much.
    fn charge<P, D>(&mut self, peer: &mut PeerEntry<P, D>, most: usize) {
        let moved = peer.received + peer.sent;
        let more = moved - std::mem::replace(&mut peer.charged, moved);
        self.budget = self.budget.map(|left| left.saturating_sub((more as usize).min(most)));
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Marks a connection because what its driver keeps has changed.
    #[inline(never)] // Most messages mark none.
    pub fn mark(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id) {
            self.ready.mark(id, peer);
        }
    }

    /// Returns true if a connection is marked: the driver must not sleep.
    pub fn has_marked(&self) -> bool {
        !self.ready.marked.is_empty() || !self.ready.heavy.is_empty()
    }

    /// Returns true if no connection is marked or waits for a buffer, and the operator has no
    /// messages.
    pub fn has_no_work(&self) -> bool {
        let ReadyList { marked, heavy, .. } = &self.ready;
        let messages = self.to_operator.messages.len();
        marked.len() | heavy.len() | self.buffers.count | messages == 0
    }

    /// Returns true if, moreover, no timer is set.
    pub fn is_calm(&self) -> bool {
        self.has_no_work() && !self.has_timers()
    }

    /// Operations of connections move their bytes in a later call, as those of a ring.
    pub fn move_later(&mut self) {
        self.ready.moves_later = true;
    }

    /// Connections receive into buffers of this pool.
    pub fn receive_into(&mut self, pool: &Pool) {
        let sizes = (0..pool.sizes()).map(|size| pool.shape(Size(size as u8)).bytes);
        self.ready.received = sizes.collect();
    }

    /// Begins an iteration, in which heavy connections move [`HEAVY_BYTES`]; less, if a light one
    /// was resumed of late, by [`next_ready`](Peers::next_ready) or, if `light`, by the driver
    /// itself; or all they want, if others need the buffers that they hold.
    pub fn begin_iteration(&mut self, scarce: bool, light: bool) {
        if light {
            self.ready.light.resumed();
        }
        self.ready.light.begin();
        (self.ready.budget, self.ready.scarce) = (None, scarce);
    }

    /// Returns true if a light connection was resumed of late.
    pub fn expects_light(&self) -> bool {
        self.ready.light.is_expected()
    }

    /// Returns true if a further pass would resume a connection in this iteration.
    pub fn has_resumable(&self) -> bool {
        let ReadyList { marked, heavy, budget, .. } = &self.ready;
        !marked.is_empty() || (*budget != Some(0) && !heavy.is_empty())
    }

    /// Begins a pass over the connections that are marked now. Those marked during the pass wait
    /// for the next one.
    pub fn begin(&mut self) {
        let ReadyList { ready, next, marked, .. } = &mut self.ready;
        debug_assert_eq!(*next, ready.len(), "a pass resumes every ready connection");
        ready.clear();
        *next = 0;
        std::mem::swap(ready, marked);
    }

    /// Returns the next connection of the pass: the light ones first, then heavy ones, as far as
    /// the budget of the iteration permits.
    pub fn next_ready(&mut self) -> Option<Visit<'_, P, D>> {
        while let Some(&id) = self.ready.ready.get(self.ready.next) {
            self.ready.next += 1;
            let Some(peer) = self.slab.get(id) else { continue };
            if is_heavy(&peer.connection) {
                self.ready.heavy.push_back(id);
                continue;
            }
            if !peer.is_ordinary() {
                self.ready.light.resumed();
                let id = self.take_marked(id);
                return self.visit(id);
            }
            // The look-up is that of above: nothing was written since.
            let visit = self.visit(id)?;
            visit.ready.light.resumed();
            visit.peer.marked = false;
            return Some(Visit { is_light: true, ..visit });
        }
        if self.ready.heavy.is_empty() && self.ready.resumed.is_none() {
            return None;
        }
        let id = self.next_heavy()?;
        self.visit(id)
    }

    /// Returns the next heavy connection. It is charged after it was resumed, for what it moved.
    /// What the operations of a ring will move is not known then: it is charged before, for the
    /// most.
    #[cold]
    fn next_heavy(&mut self) -> Option<ConnId> {
        let resumed = self.ready.resumed.take();
        if let Some(peer) = resumed.and_then(|id| self.slab.get_mut(id)) {
            self.ready.charge(peer, usize::MAX);
        }
        let ReadyList { light, scarce, .. } = &self.ready;
        let budget = light.budget(*scarce);
        while *self.ready.budget.get_or_insert(budget) > 0 {
            let id = self.ready.heavy.pop_front()?;
            if let Some(peer) = self.slab.get_mut(id) {
                // What it moved before it was heavy is not charged.
                let most = self.ready.most(&peer.connection);
                if self.ready.moves_later {
                    self.ready.budget = self.ready.budget.map(|left| left.saturating_sub(most));
                } else {
                    self.ready.charge(peer, most);
                    self.ready.resumed = Some(id);
                }
                return Some(self.take_marked(id));
            }
        }
        None
    }

    /// Returns the next connection of the pass, heavy or not, for a driver that divides the time
    /// itself.
    pub fn next_marked(&mut self) -> Option<Visit<'_, P, D>> {
        loop {
            let id = *self.ready.ready.get(self.ready.next)?;
            self.ready.next += 1;
            if self.slab.get_mut(id).is_some() {
                self.take_marked(id);
                return self.visit(id);
            }
        }
    }

    #[inline(never)] // It returns an id, since a visit would be returned in memory.
    fn take_marked(&mut self, id: ConnId) -> ConnId {
        if let Some(peer) = self.slab.get_mut(id) {
            debug_assert!(peer.marked, "only marked connections are in the list");
            peer.marked = false;
            if !peer.is_ordinary() {
                self.take_rare(id);
            }
        }
        id
    }

    /// Prepares a connection for its driver that is not ordinary.
    #[cold]
    fn take_rare(&mut self, id: ConnId) {
        if self.holds_input(id) {
            self.resume_input(id);
        }
        self.note_cannot_receive(id);
    }

    /// Notes that a connection does not receive its last input now, if it does not.
    #[cold]
    pub fn note_cannot_receive(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id)
            && peer.takes_last_input()
            && !self.groups.wants_recv(peer)
        {
            self.last_inputs.cannot_receive(id, peer);
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
        let may_resume =
            |peers: &mut Self| peers.visit(id).is_some_and(|visit| visit.may_resume_input());
        if may_resume(self) {
            self.step(id, |peer, context| peer.connection.resume_input(context));
        }
        may_resume(self)
    }
}

/// Returns true if a connection moves much.
pub fn is_heavy<P: Protocol>(connection: &Connection<P>) -> bool {
    connection.recv_size() != Size::SMALLEST || connection.outgoing().bytes() > LIGHT
}
