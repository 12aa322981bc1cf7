//! One connection, minus the socket.
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
//! | Open × Open | receive unless paused, send what is queued |
//! | Ended × Open | send what is queued (a protocol may go on sending after the peer's end) |
//! | Open × Finishing | send what is queued, then shut that direction down; receive and discard |
//! | Open × Shut | receive and discard until the peer ends |
//! | Ended × Finishing, Ended × Shut | send what is queued, then close |
//! | any × Broken | cancel what is in flight, close |
//!
//! A protocol may pause its connection: then it receives nothing, and neither the peer's end nor a
//! drain reaches the protocol until it resumes.
//!
//! The driver calls methods of four kinds. *Events* report what happened. The *command*
//! [`drain`](Connection::drain) comes from a server that stops. *Wants* return what the driver
//! should do, and *getters* return the state that it decides by. The driver follows one rule:
//! **after any event, compare the wants with what is in flight, and issue the difference.** The
//! comparison may be made at any time, any number of times.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::buffer::{Chunk, Fit, SendQueue, Size};
use crate::clock::Nanos;
use crate::limits::CloseReason;
use crate::protocol::{Input, Outbox, Protocol, Requests, Untaken};

pub use crate::protocol::Context;

/// With this many bytes queued to send, a connection is paused: it does not receive.
pub const HIGH: usize = 512 << 10;
/// With at most this many bytes queued, and at most [`LEASES_LOW`] buffers, a paused connection
/// receives again. The distance to [`HIGH`] keeps a steady bulk stream from pausing in every
/// iteration.
pub const LOW: usize = 128 << 10;
/// With this many pooled buffers queued, a connection is paused: one socket must not take the pool.
pub const LEASES_HIGH: usize = 32;
/// With at most this many pooled buffers queued, and at most [`LOW`] bytes, a paused connection
/// receives again.
pub const LEASES_LOW: usize = 8;
/// How long a connection that has shut its outbound direction down discards what it receives before
/// it is closed: a close with unread input would reset the connection and destroy what the peer has
/// not read yet.
pub const LINGER: Duration = Duration::from_secs(2);
/// With less than this queued, a connection calls a protocol that requested a refill.
pub const REFILL: usize = 64 << 10;
/// With more than this queued, a delivered message evicts the connection. The limit is above what
/// one iteration can deliver: a ring may fill every buffer of the pool before the senders are
/// throttled, and a reader that keeps up must not be evicted before the first send to it.
pub const HARD: usize = 64 << 20;

/// The protocol's state, the bytes queued for the peer, and which of the two directions are open.
#[derive(Debug)]
pub struct Connection<P> {
    protocol: P,
    queue: SendQueue,
    /// What the protocol has not taken.
    untaken: Untaken,
    inbound: Inbound,
    outbound: Outbound,
    /// True from reaching a high mark until both low marks are reached.
    paused: bool,
    flags: ProtocolFlags,
    /// When the timer expires; zero if none is set. It is that of the protocol, and once the
    /// connection has shut down, the end of its lingering.
    timer: Nanos,
    /// True from the protocol's request until it is called for it.
    refill: bool,
    /// True once the protocol's `close` was called, or the protocol panicked.
    closed: bool,
    recv_size: RecvSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inbound {
    Open,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outbound {
    Open,
    Finishing,
    /// Finished and shut down.
    Shut,
    Broken,
}

/// A set of bits: whether the protocol is paused, whether the connection drains, whether its timer
/// was set, and which calls of the protocol are due when it resumes.
#[derive(Debug, Clone, Copy, Default)]
struct ProtocolFlags(u8);

impl ProtocolFlags {
    /// From `pause` to `resume`.
    const PAUSED: u8 = 1;
    /// The call of `end` is due.
    const END: u8 = 2;
    /// The call of `drain` is due.
    const DRAIN: u8 = 4;
    /// The server drains this connection.
    const DRAINING: u8 = 8;
    /// The timer was set and not yet armed: it is a time from then on.
    const TIMER_SET: u8 = 16;

    fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }

    /// Clears `bits`. Returns whether any was set.
    fn take(&mut self, bits: u8) -> bool {
        let had = self.has(bits);
        self.0 &= !bits;
        had
    }
}

impl<P: Protocol> Connection<P> {
    /// A connection that has just opened.
    pub fn open(protocol: P, context: &mut Context) -> Connection<P> {
        let mut connection = Connection {
            protocol,
            queue: SendQueue::new(),
            untaken: Untaken::default(),
            inbound: Inbound::Open,
            outbound: Outbound::Open,
            paused: false,
            flags: ProtocolFlags::default(),
            timer: Nanos(0),
            refill: false,
            closed: false,
            recv_size: RecvSize::default(),
        };
        connection.call(context, |protocol, out| protocol.open(out));
        connection
    }

    // Events. Where an event calls the protocol, its messages to others are added to the context.

    /// Bytes have arrived from the peer.
    pub fn received(&mut self, chunk: Chunk, context: &mut Context) {
        self.recv_size.learn(chunk.fit());
        if self.outbound == Outbound::Open {
            self.offer(chunk, context);
            self.refill(context);
            self.update_paused();
        }
    }

    /// The peer will send no more.
    pub fn ended(&mut self, context: &mut Context) {
        if self.inbound == Inbound::Open {
            self.inbound = Inbound::Ended;
            self.flags.set(ProtocolFlags::END);
            self.report_due(context);
        }
    }

    /// A receive found no buffer: the next one asks for less.
    pub fn no_buffer(&mut self) {
        self.recv_size.lower();
    }

    /// Queues a message of another peer for this one.
    pub fn deliver(&mut self, chunk: Chunk) {
        if self.outbound == Outbound::Open {
            self.queue.push(chunk);
            if self.queue.bytes() > HARD {
                self.broken();
            }
            self.update_paused();
        }
    }

    /// `n` of the queued bytes have been sent.
    #[inline]
    pub fn sent(&mut self, n: usize, context: &mut Context) {
        if self.outbound != Outbound::Broken {
            self.queue.advance(n);
            self.refill(context);
            self.update_paused();
        }
    }

    /// The outbound direction has been shut down: the peer will see the end, and the connection
    /// lingers.
    pub fn shut_down(&mut self, context: &mut Context) {
        if self.outbound == Outbound::Finishing {
            self.outbound = Outbound::Shut;
            self.set_timer(Some(LINGER), context);
        }
    }

    /// Another thread wakes the protocol.
    pub fn wake(&mut self, context: &mut Context) {
        if self.outbound == Outbound::Open {
            self.call(context, |protocol, out| protocol.wake(out));
        }
    }

    /// The time that its timer is armed for has come, perhaps.
    pub fn run_timer(&mut self, now: Nanos, context: &mut Context) {
        if self.timer > now || self.timer == Nanos(0) || self.flags.has(ProtocolFlags::TIMER_SET) {
            return;
        }
        self.timer = Nanos(0);
        if self.outbound == Outbound::Open {
            self.call(context, |protocol, out| protocol.timer(out));
        } else {
            self.broken();
            context.fail(CloseReason::LingerTimeout);
        }
    }

    /// The connection was reset, timed out or was evicted: nothing more is exchanged with the peer.
    pub fn broken(&mut self) {
        self.outbound = Outbound::Broken;
        self.inbound = Inbound::Ended;
        self.queue.clear();
        self.untaken.clear();
        (self.paused, self.timer) = (false, Nanos(0));
    }

    /// The connection closes: its protocol is called once more, for the last time.
    pub fn close(&mut self, reason: CloseReason, context: &mut Context) {
        if !std::mem::replace(&mut self.closed, true) {
            let mut requests = Requests::of_finished();
            let mut out = Outbox::new(&mut self.queue, context, &mut requests);
            if !returns(|| self.protocol.close(reason, &mut out)) {
                tracing::warn!("a protocol panicked as its connection closed");
                context.panicked += 1;
            }
        }
    }

    // The command.

    /// Asks the protocol to finish: at once, or when it resumes.
    pub fn drain(&mut self, context: &mut Context) {
        if !self.flags.has(ProtocolFlags::DRAINING) {
            self.flags.set(ProtocolFlags::DRAINING | ProtocolFlags::DRAIN);
            self.report_due(context);
        }
    }

    // Wants.

    /// Returns true if it wants to receive. A finishing connection receives in order to discard.
    pub fn wants_recv(&self) -> bool {
        let waits = self.paused || self.flags.has(ProtocolFlags::PAUSED);
        self.inbound == Inbound::Open && (!waits || self.is_finishing())
    }

    /// Returns true if it may still receive, paused or not.
    pub fn could_recv(&self) -> bool {
        self.inbound == Inbound::Open
    }

    /// Returns what it wants to send.
    pub fn outgoing(&self) -> &SendQueue {
        &self.queue
    }

    /// Returns true if it wants to shut the outbound direction down: all is sent, and the peer has
    /// not ended.
    pub fn wants_shutdown(&self) -> bool {
        self.outbound == Outbound::Finishing
            && self.queue.is_empty()
            && self.inbound == Inbound::Open
    }

    /// Returns when its timer expires. One that was set since the last call is armed now, by
    /// `clock`, which is not read else.
    pub fn arm_timer(&mut self, clock: impl FnOnce() -> Nanos) -> Option<Nanos> {
        if self.timer != Nanos(0) && self.flags.take(ProtocolFlags::TIMER_SET) {
            self.timer = clock() + Duration::from_nanos(self.timer.0);
        }
        (self.timer != Nanos(0)).then_some(self.timer)
    }

    /// Returns true if it wants to be closed: nothing is left to send or to receive.
    pub fn is_finished(&self) -> bool {
        match self.outbound {
            Outbound::Open => false,
            Outbound::Finishing | Outbound::Shut => {
                self.queue.is_empty() && self.inbound == Inbound::Ended
            }
            Outbound::Broken => true,
        }
    }

    // Getters.

    /// Returns true if it may still send new bytes: it neither finishes nor is broken.
    pub fn is_open(&self) -> bool {
        self.outbound == Outbound::Open
    }

    /// Returns true if it is broken: the driver cancels what is in flight, also a send that waits
    /// for the peer.
    pub fn is_broken(&self) -> bool {
        self.outbound == Outbound::Broken
    }

    /// Returns true if the success of a send would change nothing that it wants, so that the send
    /// need not report it. False while its protocol waits for a refill.
    pub fn can_skip_completion(&self) -> bool {
        self.inbound == Inbound::Open
            && self.outbound == Outbound::Open
            && !self.paused
            && !self.refill
            && !self.flags.has(ProtocolFlags::PAUSED)
    }

    /// Returns true if so much is queued that it does not receive. A member of a broadcast group is
    /// then congested.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Returns the size of buffer that fits what it has received of late.
    pub fn recv_size(&self) -> Size {
        self.recv_size.size
    }

    /// Returns the protocol that serves it.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    fn is_finishing(&self) -> bool {
        matches!(self.outbound, Outbound::Finishing | Outbound::Shut)
    }

    fn set_timer(&mut self, time: Option<Duration>, context: &mut Context) {
        self.timer = time.map_or(Nanos(0), |time| (Nanos(0) + time).max(Nanos(1)));
        self.flags.set(ProtocolFlags::TIMER_SET);
        context.changed = true;
    }

    /// Calls the protocol for an event that is not input.
    fn call(&mut self, context: &mut Context, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        let mut requests = Requests::default();
        let mut out = Outbox::new(&mut self.queue, context, &mut requests);
        if !returns(|| event(&mut self.protocol, &mut out)) {
            return self.panicked(context);
        }
        self.apply(&requests, context);
        self.refill(context);
        self.update_paused();
    }

    /// Offers `chunk`, behind what was left before, until the protocol can take no more of it.
    #[inline(always)] // Into `received`: a message passes one frame less.
    fn offer(&mut self, chunk: Chunk, context: &mut Context) {
        let mut requests = Requests::default();
        let mut input = Input::new(chunk, &mut self.untaken, context.max_input);
        let mut out = Outbox::new(&mut self.queue, context, &mut requests);
        let mut again = input.is_enough() && !self.flags.has(ProtocolFlags::PAUSED);
        while again {
            let before = input.len();
            if !returns(|| self.protocol.data(&mut input, &mut out)) {
                return self.panicked(context);
            }
            again = !input.is_empty()
                && input.len() < before
                && !input.awaits_more()
                && !out.stops_input();
        }
        if !input.is_empty() || input.has_state() {
            let paused = self.flags.has(ProtocolFlags::PAUSED) || requests.pauses();
            if let Some(violation) = input.leave(paused) {
                return self.abort(&violation, context);
            }
        }
        self.apply(&requests, context);
    }

    #[cold]
    fn offer_kept(&mut self, context: &mut Context) {
        self.offer(Chunk::EMPTY, context);
    }

    /// Does what the protocol asked for.
    #[inline]
    fn apply(&mut self, requests: &Requests, context: &mut Context) {
        if !requests.is_empty() {
            self.apply_some(requests, context);
        }
    }

    #[cold]
    fn apply_some(&mut self, requests: &Requests, context: &mut Context) {
        self.refill |= requests.refills();
        if let Some(reason) = requests.abort() {
            return self.abort(reason, context);
        }
        if let Some(time) = requests.timer() {
            self.set_timer(time, context);
        }
        if requests.finishes() && self.outbound == Outbound::Open {
            (self.outbound, self.timer) = (Outbound::Finishing, Nanos(0));
            context.changed = true;
            self.untaken.clear();
        }
        if requests.pauses() {
            self.flags.set(ProtocolFlags::PAUSED);
        } else if requests.resumes() && self.flags.take(ProtocolFlags::PAUSED) {
            if self.outbound == Outbound::Open && !self.untaken.is_empty() {
                self.offer_kept(context);
            }
            self.report_due(context);
        }
    }

    /// Reports to the protocol what happened while it was paused, and what has just happened.
    fn report_due(&mut self, context: &mut Context) {
        if self.flags.has(ProtocolFlags::PAUSED) || self.outbound != Outbound::Open {
            return;
        }
        if self.flags.take(ProtocolFlags::DRAIN) {
            self.call(context, |protocol, out| protocol.drain(out));
        }
        let may_end = self.outbound == Outbound::Open && !self.flags.has(ProtocolFlags::PAUSED);
        if may_end && self.flags.take(ProtocolFlags::END) {
            self.end(context);
        }
    }

    /// The peer's end, with what is left of its input.
    fn end(&mut self, context: &mut Context) {
        let mut untaken = std::mem::take(&mut self.untaken);
        let mut input = Input::new(Chunk::EMPTY, &mut untaken, context.max_input);
        self.call(context, |protocol, out| protocol.end(&mut input, out));
    }

    #[cold]
    fn abort(&mut self, reason: &str, context: &mut Context) {
        tracing::warn!("a connection is aborted: {reason}");
        context.fail(CloseReason::Aborted);
        self.broken();
    }

    /// Gives up a connection whose protocol panicked: it is called no more.
    #[cold]
    fn panicked(&mut self, context: &mut Context) {
        context.fail(CloseReason::Panicked);
        context.panicked += 1;
        self.closed = true;
        self.broken();
    }

    /// Calls the protocol for the refill that it requested, if little is queued.
    #[inline]
    fn refill(&mut self, context: &mut Context) {
        if self.refill {
            self.refill_if_little_is_queued(context);
        }
    }

    #[cold]
    fn refill_if_little_is_queued(&mut self, context: &mut Context) {
        if self.outbound == Outbound::Open && self.queue.bytes() < REFILL {
            self.refill = false;
            let mut requests = Requests::default();
            let mut out = Outbox::new(&mut self.queue, context, &mut requests);
            if !returns(|| self.protocol.refill(&mut out)) {
                return self.panicked(context);
            }
            self.apply(&requests, context);
        }
    }

    fn update_paused(&mut self) {
        let (bytes, leases) = (self.queue.bytes(), self.queue.leases());
        self.paused = if self.paused {
            bytes > LOW || leases > LEASES_LOW
        } else {
            bytes >= HIGH || leases >= LEASES_HIGH
        };
    }
}

/// Calls a protocol. Returns false if it panicked: what it borrowed is dropped with its
/// connection.
#[inline]
fn returns(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_ok()
}

/// Which size of buffer suits the peer, learned from how its chunks fit.
#[derive(Debug, Clone, Copy, Default)]
struct RecvSize {
    size: Size,
    /// How many chunks in a row have asked for another size.
    run: u8,
}

impl RecvSize {
    /// So many tight chunks in a row ask for more …
    const GROW: u8 = 2;
    /// … and so many loose ones for less.
    const SHRINK: u8 = 16;

    fn learn(&mut self, fit: Fit) {
        match fit {
            Fit::Tight(size) if size >= self.size => self.change(Size(size.0 + 1), Self::GROW),
            Fit::Loose(size) if size == self.size => self.change(Size(size.0 - 1), Self::SHRINK),
            _ => self.run = 0,
        }
    }

    fn change(&mut self, size: Size, after: u8) {
        self.run += 1;
        if self.run >= after {
            *self = RecvSize { size, run: 0 };
        }
    }

    fn lower(&mut self) {
        *self = RecvSize { size: Size(self.size.0.saturating_sub(1)), run: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{BufferClass, Pool};
    use crate::protocol::Message;
    use crate::protocol::testing::{Broadcast, to_others};
    use crate::protocol::{Chargen, Chat, Echo};

    fn echo() -> Connection<Echo> {
        Connection::open(Echo, &mut Context::default())
    }

    fn hear<P: Protocol>(connection: &mut Connection<P>, bytes: &[u8]) -> Vec<Message> {
        let mut context = Context::default();
        connection.received(Chunk::from(bytes.to_vec()), &mut context);
        context.messages
    }

    #[test]
    fn half_close_sends_what_is_owed_and_then_finishes() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.ended(&mut Context::default());
        assert!(!connection.is_finished(), "five bytes are owed");
        assert!(!connection.wants_recv() && !connection.wants_shutdown());
        connection.sent(2, &mut Context::default());
        assert_eq!(connection.outgoing().bytes(), 3);
        connection.sent(3, &mut Context::default());
        assert!(connection.is_finished());
    }

    #[test]
    fn finishing_first_shuts_down_and_discards_until_the_peer_ends() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.drain(&mut Context::default());
        assert!(!connection.wants_shutdown(), "not before all is sent");
        connection.sent(5, &mut Context::default());
        assert!(connection.wants_shutdown() && connection.wants_recv());
        connection.shut_down(&mut Context::default());
        assert!(!connection.wants_shutdown(), "once");
        hear(&mut connection, b"late");
        assert!(connection.outgoing().is_empty() && !connection.is_finished());
        connection.ended(&mut Context::default());
        assert!(connection.is_finished());
    }

    #[test]
    fn a_broken_connection_owes_nothing_and_wants_to_be_closed() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.broken();
        assert!(connection.is_finished() && connection.is_broken());
        assert!(connection.outgoing().is_empty() && !connection.wants_recv());
        // The send that was in flight; its bytes are no longer counted.
        connection.sent(5, &mut Context::default());
        connection.ended(&mut Context::default());
        assert!(connection.is_finished());
    }

    #[test]
    fn owing_much_pauses_until_little_is_owed() {
        let mut connection = echo();
        hear(&mut connection, &vec![0; HIGH - 1]);
        assert!(connection.wants_recv());
        hear(&mut connection, b"x");
        assert!(!connection.wants_recv() && connection.is_paused());
        assert!(!connection.can_skip_completion(), "once all is sent it will want to receive");
        connection.sent(HIGH - LOW - 1, &mut Context::default());
        assert!(!connection.wants_recv(), "hysteresis");
        connection.sent(1, &mut Context::default());
        assert!(connection.wants_recv());
    }

    #[test]
    fn holding_many_buffers_pauses_too() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 64 }]).unwrap();
        let mut connection = echo();
        for _ in 0..LEASES_HIGH {
            assert!(connection.wants_recv());
            let chunk = Chunk::received(pool.lease(Size(0)).unwrap(), 600);
            connection.received(chunk, &mut Context::default());
        }
        assert!(!connection.wants_recv());
        connection.sent(600 * (LEASES_HIGH - LEASES_LOW), &mut Context::default());
        assert!(connection.wants_recv());
    }

    #[test]
    fn messages_beyond_the_hard_limit_evict() {
        let mut connection = Connection::open(Broadcast, &mut Context::default());
        let chunk = Chunk::from(vec![b'x'; 1 << 20]);
        (0..HARD / chunk.len()).for_each(|_| connection.deliver(chunk.clone()));
        assert!(!connection.is_broken());
        connection.deliver(chunk);
        assert!(connection.is_broken());
    }

    #[test]
    fn messages_come_out_as_data() {
        let mut context = Context::default();
        let mut connection = Connection::open(Chat::new(7), &mut context);
        context.messages.extend(hear(&mut connection, b"one\ntw"));
        connection.broken();
        connection.close(CloseReason::Finished, &mut context);
        connection.close(CloseReason::Finished, &mut context);
        assert_eq!(
            to_others(&context.messages),
            [&b"* 7 joined\n"[..], b"[7] one\n", b"* 7 left\n"]
        );
    }

    #[test]
    fn a_refill_is_asked_for_while_little_is_queued() {
        let mut connection = Connection::open(Chargen, &mut Context::default());
        for _ in 0..1000 {
            let owed = connection.outgoing().bytes();
            assert!(
                owed > 0
                    && owed < HIGH
                    && !connection.can_skip_completion()
                    && connection.wants_recv()
            );
            connection.sent(owed.min(10_007), &mut Context::default());
        }
        connection.drain(&mut Context::default());
        let owed = connection.outgoing().bytes();
        connection.sent(owed, &mut Context::default());
        assert!(connection.wants_shutdown(), "a draining connection is not refilled");
    }

    /// Replies to a line when it is asked to; in between it is paused.
    #[derive(Debug, Default)]
    struct Worker(Vec<u8>);

    impl Protocol for Worker {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            if let Some(line) = input.line(100) {
                self.0 = line.to_vec();
                out.pause();
            }
        }

        fn end(&mut self, _: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.send("end");
            out.finish();
        }

        fn drain(&mut self, out: &mut Outbox<'_>) {
            out.send("drained");
            out.finish();
        }
    }

    /// The answer to the line that a [`Worker`] waits with.
    fn answer(connection: &mut Connection<Worker>) {
        connection.call(&mut Context::default(), |worker, out| {
            out.send(std::mem::take(&mut worker.0));
            out.resume();
        });
    }

    fn owed<P: Protocol>(connection: &Connection<P>) -> String {
        let owed = connection.outgoing().iter().flat_map(|chunk| chunk.to_vec()).collect();
        String::from_utf8(owed).unwrap()
    }

    #[test]
    fn a_paused_protocol_is_called_for_neither_input_nor_the_end_until_it_resumes() {
        let context = &mut Context::default();
        let mut connection = Connection::open(Worker::default(), context);
        hear(&mut connection, b"one\ntwo\nth");
        assert!(!connection.wants_recv() && owed(&connection).is_empty());
        hear(&mut connection, b"ree\n"); // It was in flight.
        connection.ended(context);
        assert!(!connection.is_finished());
        answer(&mut connection);
        answer(&mut connection);
        assert_eq!(owed(&connection), "one\ntwo\n");
        answer(&mut connection);
        assert_eq!(owed(&connection), "one\ntwo\nthree\nend");
        connection.sent(17, context);
        assert!(connection.is_finished());
    }

    #[test]
    fn a_drain_waits_for_a_paused_protocol_and_takes_no_further_input() {
        let context = &mut Context::default();
        let mut connection = Connection::open(Worker::default(), context);
        hear(&mut connection, b"one\n");
        connection.drain(context);
        assert!(connection.is_open(), "an answer is awaited");
        answer(&mut connection);
        assert_eq!((owed(&connection), connection.is_open()), ("one\ndrained".to_owned(), false));
        connection.drain(context);
        assert_eq!(owed(&connection), "one\ndrained", "once");
    }

    #[test]
    fn input_that_is_not_taken_is_limited_and_an_abort_owes_nothing() {
        #[derive(Debug)]
        struct Lazy;
        impl Protocol for Lazy {
            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                out.send("x");
                if input.peek() == b"abort" {
                    out.abort("as the line asks");
                }
            }
        }
        let context = &mut Context { max_input: 10, ..Context::default() };
        let mut connection = Connection::open(Lazy, context);
        connection.received(Chunk::from(vec![b'x'; 10]), context);
        assert!(!connection.is_broken() && owed(&connection) == "x", "called once");
        connection.received(Chunk::from("x"), context);
        assert!(connection.is_broken());
        let mut connection = Connection::open(Lazy, context);
        connection.received(Chunk::from("abort"), context);
        assert!(connection.is_broken() && owed(&connection).is_empty());
    }

    #[test]
    fn a_protocol_that_panics_is_called_no_more_and_breaks_its_connection() {
        #[derive(Debug)]
        struct Wrong(&'static str);
        impl Wrong {
            fn call(&self, name: &str) {
                assert_ne!(self.0, name, "as this test has it");
            }
        }
        impl Protocol for Wrong {
            fn open(&mut self, out: &mut Outbox<'_>) {
                out.send("x");
                out.request_refill();
                self.call("open");
            }
            fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
                self.call("data");
            }
            fn end(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
                self.call("end");
            }
            fn refill(&mut self, _: &mut Outbox<'_>) {
                self.call("refill");
            }
            fn drain(&mut self, _: &mut Outbox<'_>) {
                self.call("drain");
            }
            fn close(&mut self, _: CloseReason, _: &mut Outbox<'_>) {
                self.call("close");
                assert_eq!(self.0, "close", "it is called no more");
            }
        }
        for name in ["open", "data", "end", "refill", "drain", "close"] {
            let context = &mut Context::default();
            let mut connection = Connection::open(Wrong(name), context);
            connection.received(Chunk::from("abc"), context);
            connection.drain(context);
            connection.ended(context);
            if name == "close" {
                connection.broken();
            }
            assert!(connection.is_broken() && owed(&connection).is_empty(), "{name}");
            connection.close(CloseReason::Failed(libc::EPIPE), context);
            assert_eq!(context.panicked, 1, "{name}");
            let reason = (name != "close").then_some(CloseReason::Panicked);
            assert_eq!(context.failure, reason, "{name}");
        }
    }

    #[test]
    fn data_is_called_until_the_input_is_taken() {
        #[derive(Debug)]
        struct One;
        impl Protocol for One {
            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                if let Some(line) = input.line(100) {
                    out.send(line);
                }
            }
        }
        let mut connection = Connection::open(One, &mut Context::default());
        hear(&mut connection, b"one\ntwo\nthr");
        assert_eq!(owed(&connection), "one\ntwo\n");
        hear(&mut connection, b"ee\n");
        assert_eq!(owed(&connection), "one\ntwo\nthree\n");
    }

    #[test]
    fn nothing_is_queued_for_a_broken_connection() {
        #[derive(Debug)]
        struct Polite;
        impl Protocol for Polite {
            fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {}
            fn close(&mut self, _: CloseReason, out: &mut Outbox<'_>) {
                out.send("farewell");
            }
        }
        let mut connection = Connection::open(Polite, &mut Context::default());
        connection.broken();
        connection.close(CloseReason::Cut, &mut Context::default());
        assert!(connection.outgoing().is_empty());
    }

    #[test]
    fn recv_size_grows_by_tight_chunks_and_shrinks_by_loose_ones() {
        let shapes = [64, 256, 1024].map(|bytes| BufferClass { bytes, count: 40 });
        let pool = Pool::new(&shapes).unwrap();
        let mut connection = echo();
        let mut receive = |len: usize| {
            let lease = pool.lease(connection.recv_size()).unwrap();
            let len = len.min(lease.location().1);
            connection.received(Chunk::received(lease, len), &mut Context::default());
            connection.sent(len, &mut Context::default());
            connection.recv_size()
        };
        assert_eq!((receive(5000), receive(10), receive(5000)), (Size(0), Size(0), Size(0)));
        assert_eq!(receive(5000), Size(1), "two in a row");
        assert_eq!((receive(5000), receive(5000)), (Size(1), Size(2)));
        assert!((1..RecvSize::SHRINK).all(|_| receive(100) == Size(2)), "not at once");
        assert_eq!(receive(100), Size(1));
        assert!((0..100).all(|_| receive(100) == Size(1)), "this fits");
    }

    #[test]
    fn recv_size_beyond_the_largest_buffer_is_clamped_by_the_pool() {
        let pool = Pool::new(&[BufferClass { bytes: 64, count: 2 }]).unwrap();
        let mut recv_size = RecvSize::default();
        (0..20).for_each(|_| recv_size.learn(Fit::Tight(pool.clamp(recv_size.size))));
        assert_eq!(recv_size.size, Size(1));
        recv_size.lower();
        assert_eq!(recv_size.size, Size(0));
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Of these, 8 for its timer.
        assert!(size_of::<Connection<Echo>>() <= 104, "{}", size_of::<Connection<Echo>>());
    }
}
