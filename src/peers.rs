//! Every open connection: who is to be resumed, what they say to one another, who must wait.
//!
//! Drivers of every kind keep their connections here, each beside something of the driver's own
//! (`D`: its socket, what is in flight). A driver reports events; `Peers` steps the connection,
//! *marks* it, and hands what it said on to the others of its room. Then the driver asks for those
//! that are marked and resumes each once, however much happened to it. Whoever is marked while a
//! turn's peers are resumed waits for the next turn.
//!
//! # A reader may be as slow as it likes, until somebody waits for it
//!
//! * *Hushed*: a peer that is owed too much is *congested*. While anyone in a room is congested,
//!   those of the room who talk (have broadcast) are not received from. So a flood runs at the
//!   speed of the slowest listener, and nobody who reads loses a line.
//! * *Out of buffers*: a peer wants to receive and every buffer holds bytes owed to others.
//!
//! While somebody waits in either way, a peer that is owed bytes and takes none of them for
//! [`SOFT`] is evicted. (The words are those of redis' `client-output-buffer-limit`.)

mod operator;
mod waiting;

use std::collections::VecDeque;
use std::time::Duration;

use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::{Connection, Context};
use crate::connection_log;
use crate::keys::{ConnId, ConnSlab, ListenerId};
use crate::limits::CloseReason;
use crate::protocol::{Message, Protocol};
use waiting::{GroupCounts, wants_recv, weigh};

/// How long a peer for whom somebody waits may take nothing of what it is owed: at least this long,
/// and at most twice as long.
pub const SOFT: Duration = Duration::from_secs(1);
/// How long a connection that has said all goes on discarding, so that its close does not reset
/// the connection and destroy what the peer has not yet read.
pub const LINGER: Duration = Duration::from_secs(2);

/// A connection and what its driver keeps beside it.
#[derive(Debug)]
pub struct PeerEntry<P, D> {
    /// The connection.
    pub connection: Connection<P>,
    /// The driver's own.
    pub driver: D,
    /// Its number among all connections of this server, from 1.
    number: u64,
    listener: ListenerId,
    /// Why it is closed, once it is.
    reason: CloseReason,
    /// Bytes received from it.
    received: u64,
    /// Bytes sent to it.
    sent: u64,
    /// True exactly when it stands in `ready` or `marked`.
    marked: bool,
    /// True once it has broadcast: others may have to be waited for.
    talks: bool,
    /// True exactly when it is counted in its room's `congested`.
    congested: bool,
    /// True exactly when it stands in `waiting_for_buffer`.
    waits_for_buffer: bool,
    /// True from waiting for a buffer until bytes arrive: it takes whichever size is free.
    any_size: bool,
    /// True for a link to another process: see [`Peers::open_link`].
    link: bool,
    /// True if, since the last look at the stalled, it took some of what it is owed or was owed
    /// nothing.
    progressed: bool,
}

/// A peer whose turn it is.
#[derive(Debug)]
pub struct ReadyPeer<'a, P, D> {
    /// Which.
    pub id: ConnId,
    /// The peer.
    pub peer: &'a mut PeerEntry<P, D>,
    /// Whether it would receive, and need not wait for others.
    pub wants_recv: bool,
    /// Whether it has starved since it last received: better any buffer than the right one.
    pub any_size: bool,
}

/// Every open connection.
#[derive(Debug)]
pub struct Peers<P, D> {
    slab: ConnSlab<PeerEntry<P, D>>,
    /// Whose turn it is, from `next` on.
    ready: Vec<ConnId>,
    next: usize,
    /// Whose turn it will be. Ids of peers that have left meanwhile are skipped.
    marked: Vec<ConnId>,
    /// Who waits for a buffer, longest first. Ids of peers that have left are skipped.
    waiting_for_buffer: VecDeque<ConnId>,
    /// How many of those have not left.
    buffer_waiters: usize,
    /// By room.
    group_counts: Vec<GroupCounts>,
    /// How many have ever come: the number of the last.
    came: u64,
    /// Its messages are emptied before every return; their capacity is kept.
    context: Context,
    max_input: usize,
    /// Whether there is an operator to be told anything.
    has_operator: bool,
    /// What is for the operator.
    to_operator: Vec<Chunk>,
    /// Who has said all and discards, and until when; in order of time.
    lingering: VecDeque<(Nanos, ConnId)>,
    /// Who began to linger since the clock was last read.
    fresh: Vec<ConnId>,
    /// When the stalled are next looked for; `Some` exactly while somebody waits.
    look_at: Option<Nanos>,
    broken: BrokenCounts,
}

/// How many connections were broken, by reason.
#[derive(Debug, Default)]
struct BrokenCounts {
    evicted: u64,
    failed: u64,
}

impl BrokenCounts {
    /// Notes, counts and logs why a connection is about to be broken.
    fn note<P, D>(&mut self, id: ConnId, peer: &mut PeerEntry<P, D>, reason: CloseReason) {
        peer.reason = reason;
        let connection = peer.number;
        if reason.is_eviction() {
            tracing::warn!(connection, %id, "{reason}");
            self.evicted += 1;
        } else if let CloseReason::Failed(_) = reason {
            self.failed += 1;
        }
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// No connections. A protocol may leave `max_input` bytes of its input untaken.
    pub fn new(max_input: usize) -> Peers<P, D> {
        Peers {
            slab: ConnSlab::new(),
            ready: Vec::new(),
            next: 0,
            marked: Vec::new(),
            waiting_for_buffer: VecDeque::new(),
            buffer_waiters: 0,
            group_counts: Vec::new(),
            came: 0,
            context: Context { max_input, ..Context::default() },
            max_input,
            has_operator: false,
            to_operator: Vec::new(),
            lingering: VecDeque::new(),
            fresh: Vec::new(),
            look_at: None,
            broken: BrokenCounts::default(),
        }
    }

    // Events: each steps a connection, marks it, and hands on what it said. Those of peers that
    // have left are nothing: an answer may come late.

    /// Somebody has come.
    pub fn open(&mut self, protocol: P, listener: ListenerId, driver: D) -> ConnId {
        self.admit(protocol, listener, driver, false)
    }

    /// Opens a link to another process: a connection that carries the messages of other peers.
    ///
    /// It differs in three ways. It is never evicted for taking nothing: the process at its other
    /// end evicts whom it waits for. It lingers for as long as it takes: that process may have to
    /// wait before it hears the last word. And it is received from however much it is owed, while
    /// nobody else in its room is congested: were both ends to wait until the other receives, both
    /// would wait for ever (kernel-notes §45).
    pub fn open_link(&mut self, protocol: P, listener: ListenerId, driver: D) -> ConnId {
        self.admit(protocol, listener, driver, true)
    }

    /// By what the next who comes will be known.
    pub fn next_id(&self) -> ConnId {
        self.slab.next_id()
    }

    /// Returns the number that the next connection gets.
    pub fn next_number(&self) -> u64 {
        self.came + 1
    }

    /// Gives the next connection this number; the following ones count on from it.
    pub fn number_from(&mut self, number: u64) {
        self.came = number - 1;
    }

    fn admit(&mut self, protocol: P, listener: ListenerId, driver: D, link: bool) -> ConnId {
        if self.group_counts.len() <= listener.index() {
            self.group_counts.resize(listener.index() + 1, GroupCounts::default());
        }
        self.came += u64::from(!link);
        let connection = Connection::open(protocol, &mut self.context);
        self.group_counts[listener.index()].links += usize::from(link);
        let id = self.slab.insert(PeerEntry {
            connection,
            driver,
            number: self.came,
            listener,
            reason: CloseReason::Finished,
            received: 0,
            sent: 0,
            marked: false,
            talks: false,
            congested: false,
            waits_for_buffer: false,
            any_size: false,
            link,
            progressed: false,
        });
        if !link {
            connection_log::accepted(self.came, listener);
        }
        self.settle(id);
        id
    }

    /// Bytes arrived from it.
    pub fn received(&mut self, id: ConnId, chunk: Chunk) {
        let Some(peer) = self.slab.get_mut(id) else { return };
        peer.progressed |= peer.connection.outgoing().is_empty();
        peer.any_size = false;
        peer.received += chunk.len() as u64;
        if peer.link {
            // What another process of this server sends is bounded there.
            self.context.max_input = usize::MAX;
            peer.connection.received(chunk, &mut self.context);
            self.context.max_input = self.max_input;
        } else {
            peer.connection.received(chunk, &mut self.context);
        }
        // Only who is received from can be hushed: to come and to go is not to talk.
        if !peer.talks
            && self.context.messages.iter().any(|message| matches!(message, Message::Broadcast(_)))
        {
            peer.talks = true;
            self.group_counts[peer.listener.index()].talkers += 1;
        }
        self.settle(id);
    }

    /// It will send no more.
    pub fn ended(&mut self, id: ConnId) {
        self.step(id, |peer, context| peer.connection.ended(context));
    }

    /// It took `n` bytes of what it is owed.
    pub fn sent(&mut self, id: ConnId, n: usize) {
        self.step(id, |peer, context| {
            peer.progressed |= n > 0;
            peer.sent += n as u64;
            peer.connection.sent(n, context);
        });
    }

    /// Its outbound direction has been shut down.
    pub fn shut_down(&mut self, id: ConnId) {
        self.step(id, |peer, _| peer.connection.shut_down());
        if self.slab.get(id).is_some_and(|peer| !peer.link) {
            self.fresh.push(id);
        }
    }

    /// Breaks a connection: nothing more is exchanged with its peer.
    pub fn broken(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(peer) = self.slab.get_mut(id)
            && !peer.connection.is_broken()
        {
            self.broken.note(id, peer, reason);
        }
        self.step(id, |peer, context| {
            peer.connection.broken();
            peer.connection.close(context);
        });
    }

    /// It is gone. Answers what the driver kept beside it.
    pub fn remove(&mut self, id: ConnId) -> Option<D> {
        let peer = self.slab.remove(id)?;
        if !peer.link {
            let PeerEntry { number, reason, received, sent, .. } = peer;
            connection_log::closed(number, received, sent, reason);
        }
        let PeerEntry {
            mut connection,
            listener,
            talks,
            congested,
            waits_for_buffer,
            link,
            driver,
            ..
        } = peer;
        self.buffer_waiters -= usize::from(waits_for_buffer);
        let counts = &mut self.group_counts[listener.index()];
        counts.talkers -= usize::from(talks);
        counts.links -= usize::from(link);
        if congested {
            counts.congested -= 1;
            self.wake_talkers(listener);
        }
        connection.close(&mut self.context);
        self.hand_on(id, listener);
        Some(driver)
    }

    /// Something changed in what the driver keeps beside it.
    pub fn mark(&mut self, id: ConnId) {
        if let Some(peer) = self.slab.get_mut(id) {
            mark(peer, id, &mut self.marked);
        }
    }

    // Commands, to all.

    /// Has all send what they are owed, and end.
    pub fn finish_all(&mut self) {
        let ids: Vec<ConnId> = self.slab.iter_mut().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.finish(id));
    }

    /// Has one send what it is owed, and end.
    pub fn finish(&mut self, id: ConnId) {
        self.step(id, |peer, context| peer.connection.drain(context));
    }

    /// Gives up on all.
    pub fn break_all(&mut self, reason: CloseReason) {
        let ids: Vec<ConnId> = self.slab.iter_mut().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.broken(id, reason));
    }

    // The turn.

    /// Begins a turn: those marked until now are ready.
    pub fn begin(&mut self) {
        debug_assert_eq!(self.next, self.ready.len(), "a turn is resumed to its end");
        self.ready.clear();
        self.next = 0;
        std::mem::swap(&mut self.ready, &mut self.marked);
    }

    /// The next who is ready, until none is.
    pub fn next_ready(&mut self) -> Option<ReadyPeer<'_, P, D>> {
        let id = loop {
            let id = *self.ready.get(self.next)?;
            self.next += 1;
            if self.slab.get(id).is_some() {
                break id;
            }
        };
        let peer = self.slab.get_mut(id).expect("it is here");
        peer.marked = false;
        let (wants_recv, any_size) = (wants_recv(peer, &self.group_counts), peer.any_size);
        Some(ReadyPeer { id, peer, wants_recv, any_size })
    }

    /// Whether it would receive, and need not wait for others: what [`ReadyPeer`] said may have
    /// changed since.
    pub fn wants_recv(&self, id: ConnId) -> bool {
        self.slab.get(id).is_some_and(|peer| wants_recv(peer, &self.group_counts))
    }

    /// Whether anyone is marked: there is no time to sleep.
    pub fn has_marked(&self) -> bool {
        !self.marked.is_empty()
    }

    // Getters.

    /// A peer.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut PeerEntry<P, D>> {
        self.slab.get_mut(id)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut PeerEntry<P, D>)> {
        self.slab.iter_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many have been evicted.
    pub fn evicted(&self) -> u64 {
        self.broken.evicted
    }

    /// Returns how many were broken by a failed call.
    pub fn failed(&self) -> u64 {
        self.broken.failed
    }

    // Within.

    fn step(&mut self, id: ConnId, event: impl FnOnce(&mut PeerEntry<P, D>, &mut Context)) {
        let Some(peer) = self.slab.get_mut(id) else { return };
        peer.progressed |= peer.connection.outgoing().is_empty();
        event(peer, &mut self.context);
        self.settle(id);
    }

    /// After any change of a connection: mark it, count it, hand on what it said.
    fn settle(&mut self, id: ConnId) {
        let peer = self.slab.get_mut(id).expect("a peer settles while it is here");
        mark(peer, id, &mut self.marked);
        let listener = peer.listener;
        if weigh(peer, &mut self.group_counts) {
            self.wake_talkers(listener);
        }
        self.hand_on(id, listener);
    }

    /// Hands the messages on to the others of the room or to the operator, and then what is said by the
    /// going of those whom that evicts.
    #[inline]
    fn hand_on(&mut self, from: ConnId, listener: ListenerId) {
        if self.context.messages.is_empty() {
            return;
        }
        let mut evicted = Vec::new();
        self.hand_on_once(from, listener, &mut evicted);
        while let Some(id) = evicted.pop() {
            let peer = self.slab.get_mut(id).expect("who is evicted is still to be closed");
            peer.connection.close(&mut self.context);
            self.hand_on_once(id, listener, &mut evicted);
        }
    }

    fn hand_on_once(&mut self, from: ConnId, listener: ListenerId, evicted: &mut Vec<ConnId>) {
        let (to_operator, has_operator) = (&mut self.to_operator, self.has_operator);
        self.context.messages.retain(|message| match message {
            Message::Broadcast(_) => true,
            Message::Operator(chunk) => {
                to_operator.extend(has_operator.then(|| chunk.clone()));
                false
            }
        });
        if self.context.messages.is_empty() {
            return;
        }
        let mut relieved = false;
        for (id, peer) in self.slab.iter_mut().filter(|(_, peer)| peer.listener == listener) {
            if id != from {
                peer.progressed |= peer.connection.outgoing().is_empty();
                let broken = peer.connection.is_broken();
                for message in &self.context.messages {
                    let (Message::Broadcast(chunk) | Message::Operator(chunk)) = message;
                    peer.connection.deliver(chunk.clone());
                }
                if peer.connection.is_broken() && !broken {
                    self.broken.note(id, peer, CloseReason::QueueFull);
                    evicted.push(id);
                }
                mark(peer, id, &mut self.marked);
                relieved |= weigh(peer, &mut self.group_counts); // by its eviction
            }
        }
        self.context.messages.clear();
        if relieved {
            self.wake_talkers(listener);
        }
    }
}

impl<P: Protocol, D> Default for Peers<P, D> {
    fn default() -> Peers<P, D> {
        Peers::new(Context::MAX_INPUT)
    }
}

fn mark<P, D>(peer: &mut PeerEntry<P, D>, id: ConnId, marked: &mut Vec<ConnId>) {
    if !std::mem::replace(&mut peer.marked, true) {
        marked.push(id);
    }
}

#[cfg(test)]
mod tests;
