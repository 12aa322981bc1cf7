//! Broadcast groups: the connections of one listener, or of all addresses of a name, receive each
//! other's messages.
//!
//! A connection whose send queue is too long is *congested*. While one is congested, the
//! connections of its group that broadcast (*talkers*) are *throttled*: they are not received from.

use super::rare::RareStates;
use super::{PeerEntry, Peers};
use crate::keys::{ConnId, ListenerId};
use crate::limits::CloseReason;
use crate::protocol::{Message, Protocol};

/// What is counted of each group, by the number of its listener.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<GroupCounts>);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupCounts {
    pub(super) congested: usize,
    pub(super) talkers: usize,
    /// Links to other processes.
    pub(super) links: usize,
}

impl Groups {
    /// Returns the counts of a group, which need not have had a member before.
    pub(super) fn at(&mut self, group: ListenerId) -> &mut GroupCounts {
        let at = group.index();
        if self.0.len() <= at {
            self.0.resize(at + 1, GroupCounts::default());
        }
        &mut self.0[at]
    }

    /// Returns true if a connection of any group is congested.
    pub(super) fn any_congested(&self) -> bool {
        self.0.iter().any(|counts| counts.congested > 0)
    }

    fn of<P, D>(&self, peer: &PeerEntry<P, D>) -> GroupCounts {
        self.0[peer.group.index()]
    }

    /// Returns true if a connection wants to receive, is not throttled and has not run out of
    /// buffers. A link is received from however long its own queue is: if both ends of it waited
    /// for the other to receive, both would wait forever (kernel-notes §45).
    pub(super) fn wants_recv<P: Protocol, D>(&self, peer: &PeerEntry<P, D>) -> bool {
        if peer.rare.has(RareStates::LINK) || peer.rare.has(RareStates::TALKS) {
            return self.member_wants_recv(peer);
        }
        peer.connection.wants_recv() && !peer.rare.has(RareStates::WAITS_FOR_BUFFER)
    }

    fn member_wants_recv<P: Protocol, D>(&self, peer: &PeerEntry<P, D>) -> bool {
        let mut congested = self.of(peer).congested;
        let wants = if peer.rare.has(RareStates::LINK) {
            congested -= usize::from(peer.rare.has(RareStates::CONGESTED));
            peer.connection.could_recv()
        } else {
            peer.connection.wants_recv()
        };
        let throttled = peer.rare.has(RareStates::TALKS) && congested > 0;
        wants && !throttled && !peer.rare.has(RareStates::WAITS_FOR_BUFFER)
    }

    /// Returns true if the protocol of a connection is given nothing now: its peer must read, or
    /// as a talker it is throttled.
    pub(super) fn holds_back<P: Protocol, D>(&self, peer: &PeerEntry<P, D>) -> bool {
        peer.connection.is_congested() || (peer.rare.has(RareStates::TALKS) && self.throttles(peer))
    }

    /// Returns true if the group waits for a slow reader, so that a talker is throttled.
    pub(super) fn throttles<P, D>(&self, peer: &PeerEntry<P, D>) -> bool {
        self.of(peer).congested > 0
    }

    /// Returns true if a connection is congested while another connection of its group talks.
    pub(super) fn throttles_others<P, D>(&self, peer: &PeerEntry<P, D>) -> bool {
        peer.rare.has(RareStates::CONGESTED)
            && self.of(peer).talkers > usize::from(peer.rare.has(RareStates::TALKS))
    }

    /// Updates whether a connection is congested. Returns true if it has just ceased to be.
    pub(super) fn update_congested<P: Protocol, D>(&mut self, peer: &mut PeerEntry<P, D>) -> bool {
        let congested = peer.rare.has(RareStates::CONGESTED);
        congested != peer.connection.is_congested() && self.change_congested(peer, !congested)
    }

    fn change_congested<P, D>(&mut self, peer: &mut PeerEntry<P, D>, congested: bool) -> bool {
        peer.rare.set(RareStates::CONGESTED, congested);
        peer.accepted.shared.iter().for_each(|shared| shared.set_congested(congested));
        let counts = self.at(peer.group);
        if congested {
            counts.congested += 1;
        } else {
            debug_assert!(counts.congested > 0, "a congested connection is counted");
            counts.congested -= 1;
        }
        !congested
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Delivers the messages of a connection, then those of the connections that this evicts.
    pub(super) fn deliver_messages(&mut self, from: ConnId, group: ListenerId) {
        if !self.context.messages.is_empty() {
            self.deliver_some(from, group);
        }
    }

    #[inline(never)]
    fn deliver_some(&mut self, from: ConnId, group: ListenerId) {
        let messages = &mut self.context.messages;
        messages.iter_mut().for_each(Message::release_scarce);
        let mut evicted = Vec::new();
        self.deliver_once(from, group, &mut evicted);
        while let Some(id) = evicted.pop() {
            let peer = self.slab.get_mut(id).expect("an evicted connection is not closed yet");
            peer.connection.close(peer.reason(), &mut self.context);
            self.deliver_once(id, group, &mut evicted);
        }
    }

    fn deliver_once(&mut self, from: ConnId, group: ListenerId, evicted: &mut Vec<ConnId>) {
        let (to_operator, has_operator) = (&mut self.to_operator, self.has_operator);
        self.context.messages.retain(|message| match message {
            Message::Broadcast(_) | Message::Announce(_) => true,
            Message::Operator(chunk) => {
                if has_operator {
                    to_operator.push(chunk);
                }
                false
            }
        });
        if self.context.messages.is_empty() {
            return;
        }
        let from_link = self.slab.get_mut(from).is_some_and(|peer| peer.accepted.link);
        let mut relieved = false;
        for (id, peer) in self.slab.iter_mut().filter(|(_, peer)| peer.group == group) {
            if id != from {
                let mut broken = false;
                for message in &self.context.messages {
                    let (chunk, memory) = (message.chunk().clone(), &self.context.memory);
                    if matches!(message, Message::Announce(_)) && peer.connection.misses() {
                        continue;
                    }
                    match from_link || peer.accepted.link {
                        true => peer.connection.pass_on(chunk, memory),
                        false => broken |= peer.connection.deliver(chunk, memory),
                    }
                }
                if broken {
                    peer.note_reason(CloseReason::QueueFull, &mut self.counters);
                    evicted.push(id);
                }
                self.ready.mark(id, peer);
                // An evicted connection is not congested any more.
                relieved |= self.groups.update_congested(peer);
            }
        }
        self.context.messages.clear();
        if relieved {
            self.wake_talkers(group);
        }
    }

    /// Marks the talkers of a group if no connection of it is congested any more. If the only
    /// congested one is a link, it is marked as well: a link does not wait for itself.
    pub(super) fn wake_talkers(&mut self, group: ListenerId) {
        let counts = *self.groups.at(group);
        if counts.congested <= usize::from(counts.links > 0) && counts.talkers > 0 {
            for (id, peer) in self.slab.iter_mut().filter(|(_, peer)| peer.group == group) {
                if peer.rare.has(RareStates::TALKS) {
                    self.ready.mark(id, peer);
                }
            }
        }
    }
}
