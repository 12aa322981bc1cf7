//! What an operator sees of the connections, and does to them.

use super::{Peer, Peers, wants_recv};
use crate::buffer::Chunk;
use crate::connection::Connection;
use crate::console::{Console, Delivery, Inspect, Moment, Order, Row, SocketInfo};
use crate::counters::Counters;
use crate::keys::ConnId;
use crate::protocol::Protocol;

impl<P: Protocol, D> Peers<P, D> {
    /// From now on there is an operator: what protocols tell it is kept for
    /// [`attend`](Peers::attend). Without one it is dropped.
    pub fn expect_operator(&mut self) {
        self.has_operator = true;
    }

    /// Whether there is something to tell the operator.
    pub fn has_messages(&self) -> bool {
        !self.to_operator.is_empty()
    }

    /// Shows the operator what was said to it, and does what it has typed; `look` tells what the
    /// driver knows of a connection. Stops at an order, which is the driver's to carry out, and is
    /// to be called again until there is none.
    pub fn attend(
        &mut self,
        console: &mut Console,
        moment: Moment,
        look: impl Fn(&D) -> SocketInfo,
    ) -> Option<Order> {
        console.attend(&mut View { peers: self, moment, look }, moment.ending)
    }

    /// Shows the operator what was said to it.
    pub fn show_messages(&mut self, console: &mut Console) {
        self.to_operator.drain(..).for_each(|chunk| console.show(&chunk));
        console.flush();
    }

    /// Says `line` to a peer, after all that it is owed. Answers whether it will be sent.
    fn send_to(&mut self, id: ConnId, line: Chunk) -> bool {
        let mut evicted = false;
        self.step(id, |peer, context| {
            let broken = peer.connection.is_broken();
            peer.connection.deliver(line);
            if peer.connection.is_broken() && !broken {
                tracing::warn!(%id, "evicted: it is owed too much");
                evicted = true;
                peer.connection.close(context);
            }
        });
        self.evicted += u64::from(evicted);
        self.slab.get(id).is_some_and(|peer| peer.connection.is_open())
    }

    fn find(&mut self, number: u64) -> Option<ConnId> {
        self.slab.iter_mut().find(|(_, peer)| peer.number == number).map(|(id, _)| id)
    }
}

/// The peers as an operator sees them at a moment.
struct View<'a, P, D, L> {
    peers: &'a mut Peers<P, D>,
    moment: Moment,
    look: L,
}

impl<P: Protocol, D, L: Fn(&D) -> SocketInfo> Inspect for View<'_, P, D, L> {
    fn show_messages(&mut self, console: &mut Console) {
        self.peers.to_operator.drain(..).for_each(|chunk| console.show(&chunk));
    }

    fn count(&self) -> usize {
        self.peers.len()
    }

    fn rows(&mut self, console: &Console) -> Vec<Row> {
        let View { peers, moment, look } = self;
        let group_counts = &peers.group_counts;
        let row = |(id, peer): (ConnId, &mut Peer<P, D>)| {
            let SocketInfo { address, doing } = look(&peer.driver);
            let throttled = !peer.waits_for_buffer
                && peer.connection.wants_recv()
                && !wants_recv(peer, group_counts);
            let marks = [
                (peer.connection.is_paused(), "paused"),
                (throttled, "throttled"),
                (peer.waits_for_buffer, "no-buffer"),
            ];
            Row {
                number: peer.number,
                id,
                place: peer.room.0.into(),
                address,
                age: console.age(id, moment.now),
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
        self.moment.counters
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
        found.into_iter().for_each(|id| self.peers.broken(id));
        found.is_some()
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
