//! A connection without its socket: what it wants, and what it owes.
//!
//! ```text
//!              inbound                              outbound
//!   Open ── the peer's end ──► Ended    Open ── finish ──► Finishing ── all is sent and ──► Shut
//!                                         │                    │        shut down           │
//!                                         └────────────────────┴── reset, evicted ──────────┘
//!                                                                        ▼
//!                                                                      Broken
//! ```
//!
//! | inbound × outbound | wants |
//! |---|---|
//! | Open × Open | receive unless too much is queued, send what is queued |
//! | Ended × Open | send what is queued (a protocol may go on sending after the peer's end) |
//! | Open × Finishing | send what is queued, then shut that direction down; receive and discard |
//! | Open × Shut | receive and discard until the peer ends |
//! | Ended × Finishing, Ended × Shut | send what is queued, then close |
//! | any × Broken | cancel what is in flight, close |
//!
//! Input that a protocol leaves because it may send no more ([`Outbox::allowance`]), or that
//! arrives while the connection is throttled, is *held*: it waits as untaken input, nothing more is
//! received, and neither the peer's end nor a drain reaches the protocol before it is taken.
//!
//! A protocol may pause its connection: then it receives nothing, and neither the peer's end nor a
//! drain reaches the protocol until it resumes.
//!
//! The driver calls methods of four kinds. *Events* report what happened. The *command*
//! [`drain`](Connection::drain) comes from a server that stops. *Wants* return what the driver
//! should do, and *getters* return the state that it decides by. The driver follows one rule:
//! **after any event, compare the wants with what is in flight, and issue the difference.** The
//! comparison may be made at any time, any number of times.

mod flags;
mod recv_size;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::buffer::{Chunk, SendQueue, Size};
use crate::clock::Nanos;
use crate::limits::CloseReason;
use crate::memory::{Memory, SHARE_MIN};
use crate::protocol::{Input, Outbox, Protocol, Requests, Untaken};
use flags::ConnectionFlags;
use recv_size::RecvSize;

pub use crate::protocol::Context;

/// A congested connection receives again with at most this part of its share queued. The distance
/// keeps a steady bulk stream from pausing in every iteration.
const LOW: usize = 4;
/// With this many pooled buffers queued, a connection is congested: one socket must not take the
/// pool.
pub const LEASES_HIGH: usize = 32;
/// With at most this many pooled buffers queued, a congested connection receives again.
pub const LEASES_LOW: usize = 8;
/// How long a connection that has shut its outbound direction down discards what it receives before
/// it is closed: a close with unread input would reset the connection and destroy what the peer has
/// not read yet. A drain does not wait so long for a peer that has acknowledged everything.
pub const LINGER: Duration = Duration::from_secs(2);
/// A peer that is owed so much is behind: announcements are dropped for it.
const BEHIND: usize = SHARE_MIN;
/// The parts in which input is offered to a protocol that sends more than it receives.
const CUT: usize = 4 << 10;
/// With less than this queued, a connection calls a protocol that requested a refill.
pub const REFILL: usize = 64 << 10;
/// The protocol's state, the bytes queued for the peer, and which of the two directions are open.
#[derive(Debug)]
pub struct Connection<P> {
    protocol: P,
    queue: SendQueue,
    /// What the protocol has not taken.
    untaken: Untaken,
    /// Changed by [`close_outbound`](Connection::close_outbound) alone.
    outbound: Outbound,
    flags: ConnectionFlags,
    /// When the timer expires, or how long it takes until `TIMER_SET` is cleared; zero if none is
    /// set. It is that of the protocol, and once the
    /// connection has shut down, the end of its lingering.
    timer: Nanos,
    recv_size: RecvSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outbound {
    Open,
    Finishing,
    /// Finished and shut down.
    Shut,
    Broken,
}

impl<P: Protocol> Connection<P> {
    /// A connection that has just opened.
    pub fn open(protocol: P, context: &mut Context) -> Connection<P> {
        let mut connection = Connection {
            protocol,
            queue: SendQueue::default(),
            untaken: Untaken::default(),
            outbound: Outbound::Open,
            flags: ConnectionFlags::default(),
            timer: Nanos(0),
            recv_size: RecvSize::default(),
        };
        connection.call(context, |protocol, out| protocol.open(out));
        connection
    }

    // Events. Where an event calls the protocol, its messages to others are added to the context.

    /// Bytes have arrived from the peer.
    ///
    /// Most protocols take all of a few bytes at once, have left nothing before, and ask for
    /// nothing. For them this is all; it is in one piece so that the chunk is moved once.
    #[inline(always)] // Into the loops: once for each message.
    pub fn received(&mut self, chunk: Chunk, context: &mut Context) {
        self.recv_size.learn(chunk.fit());
        let len = chunk.len();
        let mut input = Input::rest(chunk, &mut self.untaken, context.max_input);
        let flags = ConnectionFlags::NOT_OPEN | ConnectionFlags::WAITS;
        if self.flags.has(flags) || len > CUT || input.has_state() {
            let chunk = input.into_tail();
            return self.received_otherwise(chunk, context);
        }
        let mut requests = Requests::default();
        let mut out = Outbox::new(&mut self.queue, context, &mut requests);
        if !returns(|| self.protocol.data(&mut input, &mut out)) {
            return self.panicked(context);
        }
        if input.is_used_up() && requests.is_empty() {
            // There is nothing to drop, and the compiler need not ask.
            std::mem::forget(input);
            std::mem::forget(requests);
        } else {
            let left = input.into_tail();
            self.offer_rest(left, Some(len), requests, context);
        }
        self.after_change(context);
    }

    #[cold]
    #[inline(never)]
    fn received_otherwise(&mut self, chunk: Chunk, context: &mut Context) {
        if self.is_open() {
            match chunk.len() {
                ..=CUT => self.offer(chunk, context),
                _ => self.offer_large(chunk, context),
            }
            self.after_change(context);
        }
    }

    /// Bytes have arrived that the protocol is not given yet: the connection is throttled.
    #[cold]
    pub fn received_held(&mut self, chunk: Chunk, context: &mut Context) {
        if self.is_open() {
            self.flags.set(ConnectionFlags::HELD);
            self.offer(chunk, context);
        }
    }

    /// Gives the protocol the input that is held, as much as it takes now.
    #[cold]
    pub fn resume_input(&mut self, context: &mut Context) {
        if self.flags.has(ConnectionFlags::CONGESTED) {
            return;
        }
        self.flags.take(ConnectionFlags::HELD);
        if self.is_open() {
            if self.flags.has(ConnectionFlags::GROWS) {
                let input = self.untaken.take_head();
                self.offer_large(input, context);
            } else {
                self.offer(Chunk::EMPTY, context);
            }
            self.refill(context);
            self.update_congested(&context.memory);
            self.report_due(context);
        }
    }

    /// The peer will send no more.
    pub fn ended(&mut self, context: &mut Context) {
        if !self.flags.has(ConnectionFlags::ENDED) {
            self.flags.set(ConnectionFlags::ENDED | ConnectionFlags::END);
            self.report_due(context);
        }
    }

    /// A receive found no buffer: the next one asks for less.
    pub fn no_buffer(&mut self) {
        self.recv_size.lower();
    }

    /// Queues bytes that come from elsewhere: another peer, a handle or the operator. A connection
    /// that closes drops them. Returns true if that is too much, and breaks
    /// the connection.
    pub fn deliver(&mut self, chunk: Chunk, memory: &Memory) -> bool {
        if !self.is_open() {
            return false;
        }
        self.queue.push(chunk);
        if self.queue.bytes() > SHARE_MIN && self.queue.bytes() > memory.most() {
            self.broken();
        }
        self.update_congested(memory);
        self.is_broken()
    }

    /// Queues bytes that come over a link between two processes of this server, or go over one. It
    /// is never too much: the process at the other end pauses its senders.
    pub fn pass_on(&mut self, chunk: Chunk, memory: &Memory) {
        if self.is_open() {
            self.queue.push(chunk);
            self.update_congested(memory);
        }
    }

    /// Counts an announcement that is dropped because the peer is behind. Returns false if it is
    /// not.
    pub fn misses(&mut self) -> bool {
        let is_behind = self.queue.bytes() >= BEHIND;
        if is_behind {
            self.queue.missed = self.queue.missed.saturating_add(1);
            self.flags.set(ConnectionFlags::AWAITS_REFILL);
        }
        is_behind
    }

    /// Counts announcements that were dropped before they came here.
    pub fn has_missed(&mut self, count: u32, context: &mut Context) {
        self.queue.missed = self.queue.missed.saturating_add(count);
        self.flags.set(ConnectionFlags::AWAITS_REFILL);
        self.refill(context);
    }

    /// Queues an announcement, or drops and counts it if the peer is behind.
    pub fn announce(&mut self, chunk: Chunk, memory: &Memory) -> bool {
        !self.misses() && self.deliver(chunk, memory)
    }

    /// Copies to the heap what it alone holds of buffers, of a size up to `largest`, of which few
    /// are left.
    #[cold]
    pub fn release_scarce(&mut self, largest: Size) {
        self.queue.release_scarce(largest);
    }

    /// Puts back what an operation has taken from the queue, before its result is reported.
    pub fn put_back(&mut self, chunk: Chunk) {
        self.queue.put_back(chunk);
    }

    /// `n` of the queued bytes have been sent.
    #[inline(always)] // As `received`.
    pub fn sent(&mut self, n: usize, context: &mut Context) {
        if !self.queue.end(n) && !self.queue.end_taken(n) {
            if self.is_broken() {
                return;
            }
            self.queue.advance(n);
        }
        // What is owed has become less, so it is not too long now.
        if self.flags.has(ConnectionFlags::AWAITS_REFILL | ConnectionFlags::CONGESTED) {
            self.after_rare_change(context);
        }
    }

    /// The outbound direction has been shut down: the peer will see the end, and the connection
    /// lingers.
    pub fn shut_down(&mut self, context: &mut Context) {
        if self.outbound == Outbound::Finishing {
            self.close_outbound(Outbound::Shut);
            self.set_timer(Some(LINGER), context);
        }
    }

    /// Another thread wakes the protocol.
    pub fn wake(&mut self, context: &mut Context) {
        if self.is_open() {
            self.call(context, |protocol, out| protocol.wake(out));
        }
    }

    /// The time that its timer is armed for has come, perhaps.
    pub fn run_timer(&mut self, now: Nanos, context: &mut Context) {
        if self.timer > now || self.timer == Nanos(0) || self.flags.has(ConnectionFlags::TIMER_SET)
        {
            return;
        }
        self.timer = Nanos(0);
        if self.is_open() {
            self.call(context, |protocol, out| protocol.timer(out));
        } else {
            self.fail(CloseReason::LingerTimeout, context);
        }
    }

    /// The connection was reset, timed out or was evicted: nothing more is exchanged with the peer.
    pub fn broken(&mut self) {
        self.close_outbound(Outbound::Broken);
        self.queue.clear();
        self.untaken.clear();
        self.flags.take(ConnectionFlags::HELD | ConnectionFlags::CONGESTED);
        self.flags.set(ConnectionFlags::ENDED);
        self.timer = Nanos(0);
    }

    /// The connection closes: its protocol is called once more, for the last time.
    pub fn close(&mut self, reason: CloseReason, context: &mut Context) {
        if !self.flags.has(ConnectionFlags::CLOSED) {
            self.flags.set(ConnectionFlags::CLOSED);
            let mut requests = Requests::default();
            let mut out = Outbox::new(&mut self.queue, context, &mut requests);
            out.finish(); // It takes nothing more for the peer.
            if !returns(|| self.protocol.close(reason, &mut out)) {
                tracing::warn!("a protocol panicked as its connection closed");
                context.panicked += 1;
            }
        }
    }

    // The command.

    /// Asks the protocol to finish: at once, or when it resumes.
    pub fn drain(&mut self, context: &mut Context) {
        if !self.flags.has(ConnectionFlags::DRAINING) {
            self.flags.set(ConnectionFlags::DRAINING | ConnectionFlags::DRAIN);
            self.report_due(context);
        }
    }

    /// Finishes it, whatever its protocol would do: it sends what it is owed, and ends.
    pub fn finish(&mut self, context: &mut Context) {
        if self.is_open() {
            self.close_outbound(Outbound::Finishing);
            self.timer = Nanos(0);
            context.changed = true;
            self.untaken.clear();
        }
    }

    // Wants.

    /// Returns true if it wants to receive. A finishing connection receives in order to discard.
    pub fn wants_recv(&self) -> bool {
        let waits = self.flags.has(ConnectionFlags::CONGESTED | ConnectionFlags::WAITS);
        self.could_recv() && (!waits || self.is_finishing())
    }

    /// Returns true if it may still receive, congested or not.
    pub fn could_recv(&self) -> bool {
        !self.flags.has(ConnectionFlags::ENDED)
    }

    /// Returns what it wants to send.
    pub fn outgoing(&self) -> &SendQueue {
        &self.queue
    }

    /// Returns the queue that an operation sends from. What it takes is put back, or sent.
    pub fn outgoing_mut(&mut self) -> &mut SendQueue {
        &mut self.queue
    }

    /// Returns true if it wants to shut the outbound direction down: all is sent, and the peer has
    /// not ended.
    pub fn wants_shutdown(&self) -> bool {
        self.outbound == Outbound::Finishing && self.queue.is_empty() && self.could_recv()
    }

    /// Returns when its timer expires. One that was set since the last call is armed now, by
    /// `clock`, which otherwise is not read.
    pub fn arm_timer(&mut self, clock: impl FnOnce() -> Nanos) -> Option<Nanos> {
        if self.timer != Nanos(0) && self.flags.take(ConnectionFlags::TIMER_SET) {
            self.timer = clock() + Duration::from_nanos(self.timer.0);
        }
        (self.timer != Nanos(0)).then_some(self.timer)
    }

    /// Returns true if it wants to be closed: nothing is left to send or to receive.
    pub fn is_finished(&self) -> bool {
        !self.is_open() && (self.is_broken() || (self.queue.is_empty() && !self.could_recv()))
    }

    // Getters.

    /// Returns true if it may still send new bytes: it neither finishes nor is broken.
    pub fn is_open(&self) -> bool {
        !self.flags.has(ConnectionFlags::NOT_OPEN)
    }

    /// Returns true if the server drains, and all that it waits for is the peer's end.
    pub fn lingers_in_drain(&self) -> bool {
        self.outbound == Outbound::Shut
            && self.could_recv()
            && self.flags.has(ConnectionFlags::DRAINING)
    }

    /// Returns true if it is broken: the driver cancels what is in flight, also a send that waits
    /// for the peer.
    pub fn is_broken(&self) -> bool {
        self.outbound == Outbound::Broken
    }

    /// Returns true if it wants to receive, to send what is queued, and nothing else. Then the
    /// success of a send changes nothing that it wants. False while its protocol waits for a
    /// refill.
    pub fn is_ordinary(&self) -> bool {
        !self.flags.has(ConnectionFlags::RARE)
    }

    /// Returns true if input is held.
    pub fn holds_input(&self) -> bool {
        self.flags.has(ConnectionFlags::HELD)
    }

    /// Returns true if so much is queued that it does not receive. A member of a broadcast group is
    /// then congested.
    pub fn is_congested(&self) -> bool {
        self.flags.has(ConnectionFlags::CONGESTED)
    }

    /// Returns how many received bytes wait for the rest of their message, if any do and it has not
    /// ended.
    pub fn incomplete(&self) -> Option<usize> {
        let waits = !self.flags.has(ConnectionFlags::ENDED | ConnectionFlags::WAITS);
        self.untaken.incomplete().filter(|_| waits)
    }

    /// Returns the size of buffer that fits what it has received of late.
    pub fn recv_size(&self) -> Size {
        self.recv_size.size
    }

    /// Returns true if it fitted the last time.
    pub fn recv_fits(&self) -> bool {
        self.recv_size.fits()
    }

    fn close_outbound(&mut self, outbound: Outbound) {
        self.outbound = outbound;
        self.flags.set(ConnectionFlags::NOT_OPEN);
    }

    fn is_finishing(&self) -> bool {
        matches!(self.outbound, Outbound::Finishing | Outbound::Shut)
    }

    fn set_timer(&mut self, time: Option<Duration>, context: &mut Context) {
        self.timer = time.map_or(Nanos(0), |time| (Nanos(0) + time).max(Nanos(1)));
        self.flags.set(ConnectionFlags::TIMER_SET);
        context.changed = true;
    }

    /// Calls the protocol for an event that is not input.
    fn call(&mut self, context: &mut Context, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        self.call_once(context, event);
        self.refill(context);
        self.update_congested(&context.memory);
    }

    fn call_once(&mut self, context: &mut Context, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        let mut requests = Requests::default();
        let mut out = Outbox::new(&mut self.queue, context, &mut requests);
        match returns(|| event(&mut self.protocol, &mut out)) {
            true => self.apply(&requests, context),
            false => self.panicked(context),
        }
    }

    /// Offers `chunk`, behind what was left before, until the protocol can take no more of it.
    fn offer(&mut self, chunk: Chunk, context: &mut Context) {
        self.offer_rest(chunk, None, Requests::default(), context);
    }

    /// Offers what is left of `offered` bytes, after a call that asked for `requests`; or, behind
    /// what was left before, what was not offered yet.
    #[inline(never)]
    fn offer_rest(
        &mut self,
        chunk: Chunk,
        mut offered: Option<usize>,
        mut requests: Requests,
        context: &mut Context,
    ) {
        let is_link = context.max_input == usize::MAX;
        let make = if offered.is_some() { Input::rest } else { Input::new };
        let mut input = make(chunk, &mut self.untaken, context.max_input);
        let mut out = Outbox::new(&mut self.queue, context, &mut requests);
        let waits = self.flags.has(ConnectionFlags::WAITS);
        let mut again = offered.is_some() || (input.is_enough() && !waits);
        while again {
            let before = offered.unwrap_or(input.len());
            if offered.take().is_none() && !returns(|| self.protocol.data(&mut input, &mut out)) {
                return self.panicked(context);
            }
            let left = !input.is_empty() && !input.awaits_more() && !out.stops_input();
            again = left && input.len() < before;
            // A link is received from however long its own queue is.
            if left && out.allowance() == 0 && !is_link {
                self.flags.set(ConnectionFlags::HELD);
                again = false;
            }
        }
        if !input.is_empty() || input.has_state() {
            let paused = self.flags.has(ConnectionFlags::PAUSED) || requests.has(Requests::PAUSE);
            if self.flags.has(ConnectionFlags::HELD) {
                // What arrives until the receive in flight is cancelled needs little memory.
                self.recv_size = RecvSize::default();
                input.hold();
            }
            let most = if is_link { usize::MAX } else { context.memory.most() };
            if let Some(violation) = input.leave(paused, most) {
                return self.abort(&violation, context);
            }
        }
        self.apply(&requests, context);
    }

    /// Offers a large chunk: in parts, until the protocol may send no more, if it has sent more
    /// than it received before.
    #[inline(never)]
    fn offer_large(&mut self, mut chunk: Chunk, context: &mut Context) {
        while !chunk.is_empty() && self.is_open() {
            let cuts =
                self.flags.has(ConnectionFlags::GROWS) && !self.flags.has(ConnectionFlags::WAITS);
            let part = if cuts { chunk.len().min(CUT) } else { chunk.len() };
            let most = self.queue.bytes() + part;
            self.offer(chunk.split_to(part), context);
            if self.queue.bytes() > most {
                self.flags.set(ConnectionFlags::GROWS);
            }
            if cuts && self.queue.bytes() >= context.memory.share() {
                self.flags.set(ConnectionFlags::HELD);
            }
        }
    }

    #[cold]
    fn offer_kept(&mut self, context: &mut Context) {
        self.offer(Chunk::EMPTY, context);
    }

    /// Does what the protocol asked for.
    fn apply(&mut self, requests: &Requests, context: &mut Context) {
        if !requests.is_empty() {
            self.apply_some(requests, context);
        }
    }

    #[cold]
    fn apply_some(&mut self, requests: &Requests, context: &mut Context) {
        if requests.has(Requests::REFILL) {
            self.flags.set(ConnectionFlags::REFILL);
            self.flags.set(ConnectionFlags::AWAITS_REFILL);
        }
        if let Some(reason) = &requests.abort {
            return match &**reason {
                Ok(text) => self.abort(text, context),
                Err(reason) => self.fail(*reason, context),
            };
        }
        if requests.has(Requests::TIMER) {
            self.set_timer(requests.timer, context);
        }
        if requests.has(Requests::FINISH) {
            self.finish(context);
        }
        if requests.has(Requests::PAUSE) {
            self.flags.set(ConnectionFlags::PAUSED);
        } else if requests.has(Requests::RESUME) && self.flags.take(ConnectionFlags::PAUSED) {
            if self.is_open() && !self.untaken.is_empty() {
                self.offer_kept(context);
            }
            self.report_due(context);
        }
    }

    /// Reports to the protocol what happened while it was paused, and what has just happened.
    fn report_due(&mut self, context: &mut Context) {
        if self.flags.has(ConnectionFlags::WAITS) || !self.is_open() {
            return;
        }
        if self.flags.take(ConnectionFlags::DRAIN) {
            self.call(context, |protocol, out| protocol.drain(out));
        }
        let may_end = self.is_open() && !self.flags.has(ConnectionFlags::WAITS);
        if may_end && self.flags.take(ConnectionFlags::END) {
            let mut untaken = std::mem::take(&mut self.untaken);
            let mut input = Input::new(Chunk::EMPTY, &mut untaken, context.max_input);
            self.call(context, |protocol, out| protocol.end(&mut input, out));
        }
    }

    #[cold]
    fn abort(&mut self, reason: &str, context: &mut Context) {
        tracing::warn!("a connection is aborted: {reason}");
        self.fail(CloseReason::Aborted, context);
    }

    /// Gives up a connection whose protocol panicked: it is called no more.
    #[cold]
    fn panicked(&mut self, context: &mut Context) {
        context.panicked += 1;
        self.flags.set(ConnectionFlags::CLOSED);
        self.fail(CloseReason::Panicked, context);
    }

    fn fail(&mut self, reason: CloseReason, context: &mut Context) {
        (context.failure, context.changed) = (Some(reason), true);
        self.broken();
    }

    /// After a change of the queue: calls the protocol for the refill that it requested, and
    /// compares the queue with the share of the connection, if that may be necessary.
    fn after_change(&mut self, context: &mut Context) {
        let is_rare = self.flags.has(ConnectionFlags::AWAITS_REFILL | ConnectionFlags::CONGESTED);
        if is_rare || self.queue.is_long(LEASES_LOW) {
            self.after_rare_change(context);
        }
    }

    #[cold]
    #[inline(never)]
    fn after_rare_change(&mut self, context: &mut Context) {
        self.refill(context);
        self.update_congested(&context.memory);
    }

    /// Calls the protocol for the refill that it requested, if little is queued.
    fn refill(&mut self, context: &mut Context) {
        if self.flags.has(ConnectionFlags::AWAITS_REFILL) {
            self.refill_if_little_is_queued(context);
        }
    }

    #[cold]
    fn refill_if_little_is_queued(&mut self, context: &mut Context) {
        let little = REFILL.min(context.memory.share());
        if !self.is_open() || self.queue.bytes() >= little {
            return;
        }
        if self.queue.missed > 0 && self.queue.bytes() < BEHIND / 2 {
            let missed = std::mem::take(&mut self.queue.missed);
            self.call_once(context, |protocol, out| protocol.missed(missed, out));
        }
        self.flags.set_to(ConnectionFlags::AWAITS_REFILL, self.queue.missed > 0);
        if self.flags.take(ConnectionFlags::REFILL) {
            self.call_once(context, |protocol, out| protocol.refill(out));
        }
    }

    fn update_congested(&mut self, memory: &Memory) {
        if self.is_congested() || self.queue.is_long(LEASES_LOW) {
            self.compare_with_share(memory);
        }
    }

    fn compare_with_share(&mut self, memory: &Memory) {
        let (bytes, leases, share) = (self.queue.bytes(), self.queue.leases(), memory.share());
        let congested = if self.is_congested() {
            bytes > share / LOW || leases > LEASES_LOW
        } else {
            bytes >= share || leases >= LEASES_HIGH
        };
        self.flags.set_to(ConnectionFlags::CONGESTED, congested);
    }
}

/// Calls a protocol. Returns false if it panicked: what it borrowed is dropped with its
/// connection.
fn returns(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_ok()
}

#[cfg(test)]
mod tests;
