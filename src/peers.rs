//! Every open connection of a server: what is ready, what is broadcast, what must wait.
//!
//! A *driver* is what moves the bytes of connections: a loop, or a task. It keeps its connections
//! here, each with its own state (`D`: the socket, the operations in flight). A driver reports
//! events. Each event steps the connection, *marks* it (`ready.rs`) and delivers its messages to
//! the other connections of its listener (`groups.rs`). Then the driver resumes each marked
//! connection once, whatever happened to it. A connection that is marked meanwhile is resumed in
//! the next pass.
//!
//! # A reader may be slow
//!
//! * *Throttled*: while a connection of a group is congested, those of the group that broadcast are
//!   not received from. So a flood is as fast as the slowest reader, and no reader loses a line.
//! * *Out of buffers* (`buffers.rs`): a connection wants to receive, and every buffer holds bytes
//!   that are owed to others.
//!
//! A connection that is owed bytes is closed if its peer acknowledges none of them in time, and
//! sooner if another connection waits for it (`deadlines.rs`): one that holds pool buffers while
//! others are out of buffers, or one that throttles others. A link to another process is not.

mod buffers;
mod deadlines;
mod groups;
mod last_input;
mod links;
mod operator;
mod posted;
mod rare;
mod ready;
mod timers;
mod visit;

use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::{Connection, Context};
use crate::connection_log;
use crate::counters::Counters;
use crate::keys::{ConnId, ConnSlab, ListenerId};
use crate::limits::{CloseReason, Limits};
use crate::memory::Memory;
use crate::os::Clock;
use crate::peer::{AcceptedPeer, Made};
use crate::protocol::Protocol;
use crate::silent::SilentQueue;
use crate::timeouts::LookState;
use buffers::BufferWaiters;
use deadlines::Deadlines;
use groups::Groups;
use last_input::{LastInput, LastInputs};
use operator::OperatorMessages;
use rare::RareStates;
use ready::ReadyList;
use timers::{TimerEntry, Timers};

pub use crate::connection::LINGER;
pub use deadlines::next_linger_period;
pub use last_input::LAST_INPUT;
pub use ready::{HEAVY_BYTES, HEAVY_BYTES_WITH_LIGHT, LIGHT, LightExpected, is_heavy};

/// A connection and its driver's state.
#[derive(Debug)]
pub struct PeerEntry<P, D> {
    /// The connection, without its socket.
    pub connection: Connection<P>,
    /// The state that the driver keeps.
    pub driver: D,
    /// Its number among all connections of this server, from 1.
    number: u64,
    listener: ListenerId,
    /// The group that receives what it broadcasts, by the number of a listener.
    group: ListenerId,
    /// The number of bytes received.
    received: u64,
    /// The number of bytes sent.
    sent: u64,
    /// The number of both that its time as a heavy connection was charged for.
    charged: u64,
    /// True exactly while it is in the ready list and has not been resumed.
    marked: bool,
    /// True while the [looks](deadlines) include it.
    watched: bool,
    rare: RareStates,
    timer: TimerEntry,
    /// What is known of its peer.
    accepted: AcceptedPeer,
    /// When it was opened.
    opened: Nanos,
    /// `None` until something of it is needed.
    extra: Option<Box<PeerExtra>>,
}

/// What few connections have: those that are watched, are closed for a reason, or are drained.
#[derive(Debug, Default)]
struct PeerExtra {
    progress: LookState,
    /// Why the connection is closed.
    reason: CloseReason,
    /// Its last input, once the server drains.
    last: LastInput,
}

/// A connection that is open, with what all connections share.
#[derive(Debug)]
pub struct Visit<'a, P, D> {
    /// The id of the connection.
    pub id: ConnId,
    /// The connection and its driver's state.
    pub peer: &'a mut PeerEntry<P, D>,
    /// True if [`next_ready`](Peers::next_ready) has found it ordinary and not heavy.
    pub is_light: bool,
    ready: &'a mut ReadyList,
    context: &'a mut Context,
    groups: &'a mut Groups,
    counters: &'a mut Counters,
}

/// All connections that are open.
#[derive(Debug)]
pub struct Peers<P, D> {
    slab: ConnSlab<PeerEntry<P, D>>,
    ready: ReadyList,
    buffers: BufferWaiters,
    groups: Groups,
    timers: Timers,
    silent: SilentQueue<ConnId>,
    deadlines: Deadlines,
    /// The number of the connection that was opened last.
    last_number: u64,
    last_inputs: LastInputs,
    /// Its messages are delivered before every return; the capacity is kept.
    context: Context,
    /// True if messages to the operator are kept.
    has_operator: bool,
    /// Messages that the operator has not seen.
    to_operator: OperatorMessages,
    /// What is counted of all connections but the links; the driver adds what it counts.
    pub counters: Counters,
}

impl<P, D> PeerEntry<P, D> {
    fn extra(&mut self) -> &mut PeerExtra {
        self.extra.get_or_insert_default()
    }

    fn last(&self) -> LastInput {
        self.extra.as_ref().map(|extra| extra.last).unwrap_or_default()
    }

    fn reason(&self) -> CloseReason {
        self.extra.as_ref().map(|extra| extra.reason).unwrap_or_default()
    }

    /// Notes and logs why it is about to be broken, and counts it if it is evicted.
    fn note_reason(&mut self, reason: CloseReason, counters: &mut Counters) {
        if self.reason().ends_in_order() {
            return; // What happens until it has ended is of no interest.
        }
        self.extra().reason = reason;
        self.accepted.shared.iter().for_each(|shared| _ = shared.close());
        connection_log::warn(self.number, self.accepted.addr(), reason);
        counters.evicted += u64::from(reason.is_eviction());
    }
}

impl<P: Protocol, D> Peers<P, D> {
    /// Creates an empty set, within `limits`. Its protocols read this `clock`.
    pub fn new(limits: &Limits, clock: Clock) -> Peers<P, D> {
        Peers {
            slab: ConnSlab::default(),
            ready: ReadyList::default(),
            buffers: BufferWaiters::default(),
            groups: Groups::default(),
            timers: Timers::default(),
            silent: SilentQueue::default(),
            deadlines: Deadlines::new(limits.timeouts),
            last_number: 0,
            last_inputs: LastInputs::default(),
            context: Context::new(limits.max_input, clock, Memory::new(limits.queues)),
            has_operator: false,
            to_operator: OperatorMessages::default(),
            counters: Counters::default(),
        }
    }

    // Events: each steps a connection, marks it and delivers its messages. An event of a connection
    // that was removed does nothing: a completion may be late.

    /// Adds a new connection, with the protocol that was made for its peer.
    pub fn open(&mut self, made: Made<P>, listener: ListenerId, driver: D) -> ConnId {
        let (protocol, accepted) = made;
        self.last_number += u64::from(!accepted.link);
        let group = accepted.group.unwrap_or(listener);
        self.groups.at(group).links += usize::from(accepted.link);
        let connection = Connection::open(protocol, &mut self.context);
        let (opened, may_be_silent) =
            (self.context.clock.now(), accepted.link || accepted.allow_silence);
        let mut rare = RareStates::default();
        rare.set(RareStates::LINK, accepted.link);
        let id = self.slab.insert(PeerEntry {
            connection,
            driver,
            number: self.last_number,
            listener,
            group,
            received: 0,
            sent: 0,
            charged: 0,
            marked: false,
            watched: false,
            rare,
            timer: TimerEntry::default(),
            accepted,
            opened,
            extra: None,
        });
        if !may_be_silent {
            let (slab, connections) = (&self.slab, self.slab.len());
            self.silent.push(opened, id, connections, |id| is_silent(slab, id));
        }
        if self.deadlines.limits.limit_input()
            && let Some(peer) = self.slab.get_mut(id)
        {
            self.deadlines.watch(id, peer);
        }
        self.after_event(id);
        id
    }

    /// Delivers bytes that were received.
    pub fn received(&mut self, id: ConnId, chunk: Chunk) {
        let Some(mut visit) = self.visit(id) else { return };
        visit.received(chunk);
        self.after_event(id);
    }

    /// The peer will send no more.
    pub fn ended(&mut self, id: ConnId) {
        self.step(id, |peer, context| peer.connection.ended(context));
    }

    /// `n` bytes were sent.
    pub fn sent(&mut self, id: ConnId, n: usize) {
        let Some(mut visit) = self.visit(id) else { return };
        visit.sent(n);
        self.after_event(id);
    }

    /// The outbound direction was shut down.
    pub fn shut_down(&mut self, id: ConnId) {
        self.step(id, |peer, context| {
            let received = peer.received;
            peer.extra().progress.lingers(received);
            peer.connection.shut_down(context);
        });
    }

    /// Breaks a connection: nothing more is exchanged with its peer.
    pub fn broken(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(peer) = self.slab.get_mut(id)
            && !peer.connection.is_broken()
        {
            peer.note_reason(reason, &mut self.counters);
        }
        self.step(id, |peer, context| {
            peer.connection.broken();
            peer.connection.close(peer.reason(), context);
        });
    }

    /// Removes a connection that was closed. Returns its driver's state.
    pub fn remove(&mut self, id: ConnId) -> Option<D> {
        let peer = self.slab.remove(id)?;
        let (reason, last) = (peer.reason(), peer.last());
        let PeerEntry { mut connection, driver, group, ref accepted, .. } = peer;
        if !peer.accepted.link {
            let (counters, bytes) = (&mut self.counters, [peer.received, peer.sent]);
            connection_log::closed(counters, peer.number, accepted.addr(), bytes, reason);
        }
        self.buffers.count -= usize::from(peer.rare.has(RareStates::WAITS_FOR_BUFFER));
        self.timers.remove(id, peer.timer);
        self.last_inputs.forget(last);
        accepted.shared.iter().for_each(|shared| _ = shared.close());
        let counts = self.groups.at(group);
        counts.talkers -= usize::from(peer.rare.has(RareStates::TALKS));
        counts.links -= usize::from(accepted.link);
        if peer.rare.has(RareStates::CONGESTED) {
            counts.congested -= 1;
            self.wake_talkers(group);
        }
        connection.close(reason, &mut self.context);
        self.deliver_messages(id, group);
        Some(driver)
    }

    // Commands.

    /// Gives the next connection this number; the following ones count on from it.
    pub fn number_from(&mut self, number: u64) {
        self.last_number = number - 1;
    }

    /// Drains a connection: it sends what it is owed, and ends.
    pub fn finish(&mut self, id: ConnId) {
        self.step(id, |peer, context| peer.connection.drain(context));
    }

    /// Breaks every open connection: the drain's deadline has passed.
    pub fn cut(&mut self) {
        self.counters.cut = self.len() as u64;
        self.ids(None).into_iter().for_each(|id| self.broken(id, CloseReason::Cut));
    }

    /// Returns an id that no connection has or will have.
    pub fn unused_id(&mut self) -> ConnId {
        self.slab.skip_id()
    }

    /// Frees the memory of connections that were removed.
    pub fn shrink(&mut self) {
        self.slab.shrink();
    }

    /// Returns how many bytes the connections hold.
    pub fn held(&self) -> usize {
        self.context.memory.used()
    }

    // Getters.

    /// Returns the oldest connection that has never sent a byte and should have, and when it was
    /// opened.
    pub fn oldest_silent(&mut self) -> Option<(Nanos, ConnId)> {
        self.silent.oldest(|id| is_silent(&self.slab, id))
    }

    /// Returns the id that the next connection gets.
    pub fn next_id(&self) -> ConnId {
        self.slab.next_id()
    }

    /// Returns the counters, with so many system calls.
    pub fn counters(&self, calls: u64) -> Counters {
        Counters { calls, panicked: self.context.panicked, ..self.counters }
    }

    /// Returns the number that the next connection gets.
    pub fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    /// Returns a connection and its driver's state.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut PeerEntry<P, D>> {
        self.slab.get_mut(id)
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Returns true if there is no connection.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    fn step(&mut self, id: ConnId, event: impl FnOnce(&mut PeerEntry<P, D>, &mut Context)) {
        let Some(peer) = self.slab.get_mut(id) else { return };
        event(peer, &mut self.context);
        self.after_event(id);
    }

    /// After an event of a connection: marks it, and does what concerns others.
    fn after_event(&mut self, id: ConnId) {
        self.mark(id);
        self.settle(id);
    }

    /// Does what the events of a connection concern beside it: updates its timer and its group,
    /// delivers its messages.
    #[inline(never)]
    pub fn settle(&mut self, id: ConnId) {
        let peer = self.slab.get_mut(id).expect("only an open connection changes");
        if std::mem::take(&mut self.context.changed) {
            if let Some(reason) = self.context.failure.take() {
                peer.note_reason(reason, &mut self.counters);
            }
            self.timers.changed(id, peer);
            // A connection that is not open takes no more: its handles learn it.
            let closed = peer.accepted.shared.iter().filter(|_| !peer.connection.is_open());
            closed.for_each(|shared| _ = shared.close());
        }
        let group = peer.group;
        if self.groups.update_congested(peer) {
            self.wake_talkers(group);
        }
        self.deliver_messages(id, group);
    }
}

/// Returns true if the connection is open and has never sent a byte.
fn is_silent<P: Protocol, D>(slab: &ConnSlab<PeerEntry<P, D>>, id: ConnId) -> bool {
    slab.get(id)
        .is_some_and(|peer| !peer.accepted.has_sent(peer.received) && peer.connection.is_open())
}

#[cfg(test)]
mod tests;
