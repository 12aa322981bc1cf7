//! The connections of [`Peers`] as an operator console shows and changes them.

use super::{PeerEntry, Peers, note_reason};
use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::Connection;
use crate::console::{Console, Delivery, Inspect, Row, SocketInfo};
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::lifecycle::Lifecycle;
use crate::limits::CloseReason;
use crate::protocol::Protocol;

impl<P: Protocol, D> Peers<P, D> {
    /// Keeps the messages of protocols to the operator from now on. Without an operator they are
    /// dropped.
    pub fn expect_operator(&mut self) {
        self.has_operator = true;
    }

    /// Returns true if there are messages to the operator.
    pub fn has_operator_messages(&self) -> bool {
        !self.to_operator.is_empty()
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
        self.to_operator.drain(..).for_each(|chunk| console.show(&chunk));
        console.flush();
    }

    /// Queues `line` for a peer, after everything that it is owed. Returns whether it will be sent.
    pub(super) fn send_to(&mut self, id: ConnId, line: Chunk) -> bool {
        let Some(peer) = self.slab.get_mut(id) else { return false };
        let broken = peer.connection.is_broken();
        peer.progressed |= peer.connection.outgoing().is_empty();
        peer.connection.deliver(line);
        if peer.connection.is_broken() && !broken {
            note_reason(&mut self.counters, id, peer, CloseReason::QueueFull);
            peer.connection.close(peer.reason, &mut self.context);
        }
        let is_open = peer.connection.is_open();
        self.after_event(id);
        is_open
    }

    fn find(&mut self, number: u64) -> Option<ConnId> {
        self.slab.iter_mut().find(|(_, peer)| peer.number == number).map(|(id, _)| id)
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
        self.peers.to_operator.drain(..).for_each(|chunk| console.show(&chunk));
    }

    fn count(&self) -> usize {
        self.peers.len()
    }

    fn rows(&mut self, console: &Console) -> Vec<Row> {
        let PeersView { peers, now, look, .. } = self;
        let groups = &peers.groups;
        let row = |(id, peer): (ConnId, &mut PeerEntry<P, D>)| {
            let SocketInfo { address, doing } = look(&peer.driver);
            let throttled =
                !peer.waits_for_buffer && peer.connection.wants_recv() && !groups.wants_recv(peer);
            let marks = [
                (peer.connection.is_paused(), "paused"),
                (throttled, "throttled"),
                (peer.waits_for_buffer, "no-buffer"),
            ];
            Row {
                number: peer.number,
                id,
                listener: peer.listener,
                address,
                age: console.age(id, *now),
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

    fn send_to(&mut self, number: u64, line: Vec<u8>) -> Delivery {
        match self.peers.find(number) {
            Some(id) if self.peers.send_to(id, line.into()) => Delivery::Sent,
            Some(_) => Delivery::Ending,
            None => Delivery::NotFound,
        }
    }

    fn send_to_all(&mut self, line: Vec<u8>) -> usize {
        let ids: Vec<ConnId> = self.peers.slab.iter_mut().map(|(id, _)| id).collect();
        let line = Chunk::from(line);
        ids.into_iter().filter(|&id| self.peers.send_to(id, line.clone())).count()
    }

    fn kick(&mut self, number: u64) -> bool {
        let found = self.peers.find(number);
        found.into_iter().for_each(|id| self.peers.broken(id, CloseReason::Kicked));
        found.is_some()
    }

    fn is_draining(&self) -> bool {
        !self.lifecycle.is_serving()
    }

    fn drain(&mut self) {
        if self.lifecycle.drain(self.peers.len(), self.now) {
            self.peers.finish_all();
        }
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
