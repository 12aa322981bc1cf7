//! What an operator sees of the connections, and does to them.

use super::{Peer, Peers, wants_recv};
use crate::buffer::Chunk;
use crate::connection::Connection;
use crate::console::{Command, Console, Moment, Order, Row, Sight};
use crate::keys::ConnId;
use crate::protocol::Protocol;

impl<P: Protocol, D> Peers<P, D> {
    /// From now on there is an operator: what protocols tell it is kept for
    /// [`attend`](Peers::attend). Without one it is dropped.
    pub fn expect_operator(&mut self) {
        self.attended = true;
    }

    /// Whether there is something to tell the operator.
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// Shows the operator what was said to it, and does what it has typed; `look` tells what the
    /// driver knows of a connection. Stops at an order, which is the driver's to carry out, and is
    /// to be called again until there is none.
    pub fn attend(
        &mut self,
        console: &mut Console,
        moment: Moment,
        look: impl Fn(&D) -> Sight,
    ) -> Option<Order> {
        self.show_told(console);
        while let Some(command) = console.next_command() {
            match command {
                Ok(Command::Drain) if moment.ending => console.say("draining already"),
                Ok(Command::Drain) => {
                    console.say(&format!("draining: {} to finish", connections(self.len())));
                    return Some(Order::Drain);
                }
                Ok(Command::Quit) => {
                    console.print();
                    return Some(Order::Quit);
                }
                Ok(command) => self.obey(command, console, moment, &look),
                Err(complaint) => console.say(&complaint),
            }
            self.show_told(console); // Who is kicked leaves.
        }
        console.flush();
        None
    }

    fn show_told(&mut self, console: &mut Console) {
        self.told.drain(..).for_each(|chunk| console.show(&chunk));
    }

    fn obey(
        &mut self,
        command: Command,
        console: &mut Console,
        moment: Moment,
        look: &impl Fn(&D) -> Sight,
    ) {
        match command {
            Command::List => console.list(self.rows(console, moment, look)),
            Command::Stats => console.stats(&moment.counters),
            Command::Help => console.help(),
            Command::Say(line) => {
                let ids: Vec<ConnId> = self.keys.iter_mut().map(|(id, _)| id).collect();
                let line = Chunk::from(line);
                let told = ids.into_iter().filter(|&id| self.tell(id, line.clone())).count();
                console.say(&format!("said to {}", connections(told)));
            }
            Command::Tell(number, line) => match self.find(number) {
                Some(id) if self.tell(id, line.into()) => {}
                Some(_) => console.say(&format!("connection {number} is ending: it hears no more")),
                None => console.say(&nobody(number)),
            },
            Command::Kick(number) => match self.find(number) {
                Some(id) => {
                    self.broken(id);
                    console.say(&format!("kicked {number}"));
                }
                None => console.say(&nobody(number)),
            },
            Command::Drain | Command::Quit => unreachable!("an order is its driver's"),
        }
    }

    /// Says `line` to a peer, after all that it is owed. Answers whether it will be sent.
    fn tell(&mut self, id: ConnId, line: Chunk) -> bool {
        let mut evicted = false;
        self.step(id, |peer, posts| {
            let broken = peer.connection.is_broken();
            peer.connection.deliver(line);
            if peer.connection.is_broken() && !broken {
                tracing::warn!(%id, "evicted: it is owed too much");
                evicted = true;
                peer.connection.close(posts);
            }
        });
        self.evicted += u64::from(evicted);
        self.keys.get(id).is_some_and(|peer| peer.connection.is_open())
    }

    fn find(&mut self, number: u64) -> Option<ConnId> {
        self.keys.iter_mut().find(|(_, peer)| peer.number == number).map(|(id, _)| id)
    }

    fn rows(&mut self, console: &Console, moment: Moment, look: &impl Fn(&D) -> Sight) -> Vec<Row> {
        let crowds = &self.crowds;
        let row = |(id, peer): (ConnId, &mut Peer<P, D>)| {
            let Sight { address, doing } = look(&peer.driver);
            let hushed = !peer.starved && peer.connection.wants_recv() && !wants_recv(peer, crowds);
            let marks = [
                (peer.connection.is_paused(), "paused"),
                (hushed, "hushed"),
                (peer.starved, "starved"),
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
        self.keys.iter_mut().map(row).collect()
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

fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

fn nobody(number: u64) -> String {
    format!("no connection {number}: `list` shows who is here")
}
