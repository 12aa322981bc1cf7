//! The connections of [`Peers`] as an operator console shows and changes them.

use super::rare::RareStates;
use super::{PeerEntry, Peers};
use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::Connection;
use crate::console::{Console, Inspect, Row, SocketInfo};
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::lifecycle::Lifecycle;
use crate::limits::CloseReason;
use crate::memory::SHARE_MAX;
use crate::protocol::Protocol;

/// With so many bytes waiting, messages to the operator are dropped.
pub(super) const OPERATOR_MAX: usize = SHARE_MAX;
/// What a message counts, at least.
const MESSAGE_MIN: usize = 128;

/// Messages to the operator, of one iteration: as many as may wait.
#[derive(Debug, Default)]
pub(super) struct OperatorMessages {
    pub(super) messages: Vec<Chunk>,
    bytes: usize,
    /// How many were dropped because too much was waiting.
    lost: u64,
}

impl OperatorMessages {
    pub(super) fn push(&mut self, message: &Chunk) {
        if self.bytes >= OPERATOR_MAX {
            self.lost += 1;
        } else {
            // It may keep a buffer that is much larger.
            self.bytes += message.len().max(MESSAGE_MIN);
            self.messages.push(message.clone());
        }
    }

    /// Returns how many wait, and how many were dropped.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.messages.len() as u64, self.lost)
    }

    fn show(&mut self, console: &mut Console) {
        let OperatorMessages { messages, lost, .. } = std::mem::take(self);
        messages.iter().for_each(|chunk| console.show(chunk));
        if lost > 0 {
            console.say(&format!("({lost} messages were not shown: they came too fast)"));
        }
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Keeps the messages of protocols to the operator from now on. Without an operator they are
    /// dropped.
    pub fn expect_operator(&mut self) {
        self.has_operator = true;
    }

    /// Returns true if there are messages to the operator.
    pub fn has_operator_messages(&self) -> bool {
        !self.to_operator.messages.is_empty()
    }

    /// Returns the peers as a console sees them now; `look` returns what the engine knows of a
    /// connection.
    pub fn inspect<'a, L: Fn(&D) -> SocketInfo>(
        &'a mut self,
        lifecycle: &'a mut Lifecycle,
        counters: Counters,
        now: Nanos,
        look: L,
    ) -> impl Inspect + use<'a, P, D, L> {
        PeersView { peers: self, lifecycle, counters, now, look }
    }

    /// Prints the messages to the operator.
    pub fn show_operator_messages(&mut self, console: &mut Console) {
        self.to_operator.show(console);
        console.flush();
    }

    /// Queues `line` for a peer, after everything that it is owed. Returns whether it will be sent.
    pub(super) fn send_to(&mut self, id: ConnId, line: Chunk) -> bool {
        let Some(peer) = self.slab.get_mut(id) else { return false };
        if peer.connection.deliver(line, &self.context.memory) {
            peer.note_reason(CloseReason::QueueFull, &mut self.counters);
            peer.connection.close(peer.reason(), &mut self.context);
        }
        let is_open = peer.connection.is_open();
        self.after_event(id);
        is_open
    }

    /// Returns the id of the connection of this number, or those of all.
    pub(crate) fn ids(&self, number: Option<u64>) -> Vec<ConnId> {
        let peers = self.slab.iter();
        let found = peers.filter(|(_, peer)| number.is_none_or(|number| peer.number == number));
        found.map(|(id, _)| id).collect()
    }
}

struct PeersView<'a, P, D, L> {
    peers: &'a mut Peers<P, D>,
    lifecycle: &'a mut Lifecycle,
    counters: Counters,
    now: Nanos,
    look: L,
}

impl<P: Protocol, D, L: Fn(&D) -> SocketInfo> Inspect for PeersView<'_, P, D, L> {
    fn show_messages(&mut self, console: &mut Console) {
        self.peers.to_operator.show(console);
    }

    fn rows(&mut self) -> Vec<Row> {
        let PeersView { peers, now, look, .. } = self;
        let groups = &peers.groups;
        let row = |(id, peer): (ConnId, &mut PeerEntry<P, D>)| {
            let SocketInfo { address, doing } = look(&peer.driver);
            let no_buffer = peer.rare.has(RareStates::WAITS_FOR_BUFFER);
            let throttled = !no_buffer && peer.connection.wants_recv() && !groups.wants_recv(peer);
            let marks = [
                (peer.connection.is_congested(), "paused"),
                (throttled, "throttled"),
                (no_buffer, "no-buffer"),
            ];
            Row {
                number: peer.number,
                id,
                listener: peer.listener,
                address: peer.accepted.client().or(address),
                age: Some(now.since(peer.opened)),
                received: peer.received,
                sent: peer.sent,
                wants: wants(&peer.connection),
                doing,
                marks: marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect(),
            }
        };
        peers.slab.iter_mut().map(row).collect()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn send(&mut self, number: Option<u64>, line: Vec<u8>) -> Vec<bool> {
        let (line, serves) = (Chunk::from(line), self.lifecycle.is_serving());
        let ids = self.peers.ids(number).into_iter();
        ids.map(|id| serves && self.peers.send_to(id, line.clone())).collect()
    }

    fn kick(&mut self, number: u64) -> bool {
        let ids = self.peers.ids(Some(number));
        ids.iter().for_each(|&id| self.peers.broken(id, CloseReason::Kicked));
        !ids.is_empty()
    }

    fn drain(&mut self) -> Option<usize> {
        let count = self.peers.len();
        self.lifecycle.drain(count, self.now).then_some(count)
    }
}

fn wants<P: Protocol>(connection: &Connection<P>) -> Vec<String> {
    let owed = connection.outgoing().bytes();
    let mut wants = Vec::new();
    wants.extend(connection.wants_recv().then(|| "receive".to_owned()));
    wants.extend((owed > 0).then(|| format!("send {owed} B")));
    wants.extend(connection.wants_shutdown().then(|| "shut down".to_owned()));
    wants.extend(connection.is_finished().then(|| "close".to_owned()));
    wants
}
