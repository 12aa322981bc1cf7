//! A visit: a connection with what its events change, found by one look-up.
//!
//! A driver that makes several calls for a connection looks it up once. The visit steps the
//! connection; it does not mark it, since the driver knows what is left undone. What concerns other
//! connections waits until the visit is over: then, unless it [is settled](Visit::is_settled), the
//! driver calls [`Peers::settle`].

use super::groups::Groups;
use super::rare::RareStates;
use super::{PeerEntry, Peers, Visit};
use crate::buffer::Chunk;
use crate::connection::Context;
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::protocol::{Message, Protocol};

impl<P: Protocol, D> Peers<P, D> {
    /// Looks a connection up.
    pub fn visit(&mut self, id: ConnId) -> Option<Visit<'_, P, D>> {
        let Peers { slab, ready, context, groups, counters, .. } = self;
        let peer = slab.get_mut(id)?;
        Some(Visit { id, peer, is_light: false, ready, context, groups, counters })
    }
}

impl<P: Protocol, D> PeerEntry<P, D> {
    /// Returns true if it wants to receive, to send what is queued, and nothing else, and waits for
    /// no other connection.
    pub fn is_ordinary(&self) -> bool {
        self.rare.is_none() && self.connection.is_ordinary()
    }
}

impl<P: Protocol, D> Visit<'_, P, D> {
    /// Delivers bytes that were received.
    #[inline(always)] // So that no visit is written to memory.
    pub fn received(&mut self, chunk: Chunk) {
        if !self.peer.rare.is_none() {
            return received_rarely(self.peer, chunk, self.context, self.groups, self.counters);
        }
        self.received_ordinarily(chunk);
    }

    /// Delivers bytes that were received, for a connection in no rare state.
    #[inline(always)]
    pub fn received_ordinarily(&mut self, chunk: Chunk) {
        debug_assert!(self.peer.rare.is_none(), "a rare state needs more");
        let (peer, bytes) = (&mut *self.peer, chunk.len() as u64);
        peer.received += bytes;
        // Apart: two neighbours are added as a vector, which takes longer.
        self.counters.receives += 1;
        peer.connection.received(chunk, self.context);
        self.counters.received_bytes += bytes;
        if !self.context.messages.is_empty() {
            note_talker(peer, self.context, self.groups);
        }
    }

    /// `n` bytes were sent.
    #[inline(always)] // As `received`.
    pub fn sent(&mut self, n: usize) {
        let peer = &mut *self.peer;
        if peer.rare.has(RareStates::LINK) {
            return sent_over_link(peer, n, self.context);
        }
        peer.sent += n as u64;
        self.counters.sends += 1; // Apart, as above.
        peer.connection.sent(n, self.context);
        self.counters.sent_bytes += n as u64;
    }

    /// The counters of all connections, to which the driver adds what it counts.
    pub fn counters(&mut self) -> &mut Counters {
        self.counters
    }

    /// Its socket took a part of what was sent, or nothing.
    pub fn note_short_send(&mut self) {
        self.counters.short_sends += u64::from(!self.peer.rare.has(RareStates::LINK));
    }

    /// Marks the connection: the driver must resume it.
    pub fn mark(&mut self) {
        self.ready.mark(self.id, self.peer);
    }

    /// Returns true if it wants to receive and need not wait for another connection.
    pub fn wants_recv(&self) -> bool {
        self.groups.wants_recv(self.peer)
    }

    /// Returns true if it has waited for a buffer since it last received: any size will do.
    pub fn takes_any_size(&self) -> bool {
        self.peer.rare.has(RareStates::ANY_SIZE)
    }

    /// Returns true if its protocol can be given input that is held.
    pub fn may_resume_input(&self) -> bool {
        self.peer.connection.holds_input() && !self.groups.holds_back(self.peer)
    }

    /// Returns true if it is ordinary still, and its events concern no other connection.
    pub fn changed_nothing(&self) -> bool {
        self.peer.is_ordinary() && !self.context.changed && self.context.messages.is_empty()
    }

    /// Returns true if its events concern no other connection.
    pub fn is_settled(&self) -> bool {
        let congested = self.peer.rare.has(RareStates::CONGESTED);
        !self.context.changed
            && self.context.messages.is_empty()
            && congested == self.peer.connection.is_congested()
    }
}

/// Delivers bytes to a connection that is in a rare state.
#[cold]
#[inline(never)]
fn received_rarely<P: Protocol, D>(
    peer: &mut PeerEntry<P, D>,
    chunk: Chunk,
    context: &mut Context,
    groups: &mut Groups,
    counters: &mut Counters,
) {
    peer.received += chunk.len() as u64;
    peer.rare.set(RareStates::ANY_SIZE, false);
    if peer.rare.has(RareStates::LINK) {
        // What another process of this server sends is bounded there.
        let max_input = std::mem::replace(&mut context.max_input, usize::MAX);
        peer.connection.received(chunk, context);
        context.max_input = max_input;
    } else {
        counters.receives += 1;
        counters.received_bytes += chunk.len() as u64;
        if peer.rare.has(RareStates::TALKS) && groups.throttles(peer) {
            peer.connection.received_held(chunk, context);
        } else {
            peer.connection.received(chunk, context);
        }
    }
    note_talker(peer, context, groups);
}

#[cold]
#[inline(never)]
fn sent_over_link<P: Protocol, D>(peer: &mut PeerEntry<P, D>, n: usize, context: &mut Context) {
    peer.sent += n as u64;
    peer.connection.sent(n, context);
}

/// Only received bytes make a talker: messages of joining and leaving are not throttled.
#[cold]
#[inline(never)]
fn note_talker<P, D>(peer: &mut PeerEntry<P, D>, context: &Context, groups: &mut Groups) {
    let broadcasts = |message: &Message| matches!(message, Message::Broadcast(_));
    if !peer.rare.has(RareStates::TALKS) && context.messages.iter().any(broadcasts) {
        peer.rare.set(RareStates::TALKS, true);
        groups.at(peer.group).talkers += 1;
    }
}
