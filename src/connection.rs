//! One connection, minus the socket.
//!
//! ```text
//!              inbound                                 outbound
//!   Open ── the peer's end ──► Ended      Open ── finish ──► Finishing ── what is owed is
//!                                            └──────┬────────────┘        sent: shut down
//!                                                 reset
//!                                                   ▼
//!                                                 Broken
//! ```
//!
//! | inbound × outbound | wants |
//! |---|---|
//! | Open × Open | receive unless paused, send what is owed |
//! | Ended × Open | send (a protocol that goes on talking after the peer's end) |
//! | Open × Finishing | send what is owed, shut that direction down, discard until the peer ends |
//! | Ended × Finishing | send what is owed, close |
//! | any × Broken | be rid of what is in flight, close |
//!
//! Its methods are of three kinds. *Events* tell it what happened. *Wants* answer what it would
//! have its driver do. One *command*, [`finish`](Connection::finish), comes from a server that
//! drains. The one law: **after any event, compare the wants with what is in flight, and issue the
//! difference.** The comparison may be made at any time, any number of times.

use crate::buffer::{Chunk, Fit, SendQueue, Size};
use crate::protocol::{Message, Outbox, Protocol};

/// Owed so many bytes, a connection is paused: not received from.
pub const HIGH: usize = 512 << 10;
/// Owed no more than this, and few leases, a paused connection goes on. The distance to [`HIGH`]
/// keeps a healthy bulk stream from pausing at every turn.
pub const LOW: usize = 128 << 10;
/// Holding so many pooled buffers, a connection is paused: one socket must not take the pool.
pub const LEASES_HIGH: usize = 32;
/// Holding no more than this, a paused connection goes on.
pub const LEASES_LOW: usize = 8;
/// Owed less than this, a protocol that has more to say by itself is asked for it.
pub const REFILL: usize = 64 << 10;
/// Owed more than this by what others said, a connection is evicted at once. More than one turn
/// brings, lest a healthy reader be evicted before it is first sent to: a ring may have filled
/// every buffer that it was lent before its talkers can be hushed.
pub const HARD: usize = 64 << 20;

/// The protocol's state, the bytes owed to the peer, and which of the two directions are open.
#[derive(Debug)]
pub struct Connection<P> {
    protocol: P,
    queue: SendQueue,
    inbound: Inbound,
    outbound: Outbound,
    /// True from reaching a high mark until both low marks are reached.
    paused: bool,
    /// True once the outbound direction was shut down.
    shut: bool,
    /// True once the protocol was told that the connection goes away.
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
    Broken,
}

impl<P: Protocol> Connection<P> {
    /// A connection that has just opened, the `me`th at its server, and what its protocol says
    /// first.
    pub fn open(protocol: P, me: u64, messages: &mut Vec<Message>) -> Connection<P> {
        let mut connection = Connection {
            protocol,
            queue: SendQueue::new(),
            inbound: Inbound::Open,
            outbound: Outbound::Open,
            paused: false,
            shut: false,
            closed: false,
            recv_size: RecvSize::default(),
        };
        connection.ask(messages, |protocol, out| protocol.open(me, out));
        connection
    }

    // Events.

    /// Bytes arrived. What the protocol says to others is added to `messages`.
    pub fn received(&mut self, chunk: Chunk, messages: &mut Vec<Message>) {
        self.recv_size.learn(chunk.fit());
        if self.outbound == Outbound::Open {
            self.ask(messages, |protocol, out| protocol.data(chunk, out));
        }
    }

    /// The peer will send no more.
    pub fn ended(&mut self, messages: &mut Vec<Message>) {
        if self.inbound == Inbound::Open {
            self.inbound = Inbound::Ended;
            if self.outbound == Outbound::Open {
                self.ask(messages, |protocol, out| protocol.end(out));
            }
        }
    }

    /// A receive found no buffer: the next one asks for less.
    pub fn no_buffer(&mut self) {
        self.recv_size.lower();
    }

    /// Another peer said `chunk` to all.
    pub fn deliver(&mut self, chunk: Chunk) {
        if self.outbound == Outbound::Open {
            self.queue.push(chunk);
            if self.queue.bytes() > HARD {
                self.broken();
            }
            self.weigh();
        }
    }

    /// `n` of the bytes that were owed have been sent.
    pub fn sent(&mut self, n: usize, messages: &mut Vec<Message>) {
        if self.outbound != Outbound::Broken {
            self.queue.advance(n);
            self.refill(messages);
            self.weigh();
        }
    }

    /// The outbound direction has been shut down: the peer will see our end.
    pub fn shut_down(&mut self) {
        self.shut = true;
    }

    /// Reset, timed out, or evicted: nothing more can be or will be done with the peer.
    pub fn broken(&mut self) {
        self.outbound = Outbound::Broken;
        self.inbound = Inbound::Ended;
        self.queue.clear();
        self.paused = false;
    }

    /// It goes away: its protocol is told, the first time.
    pub fn close(&mut self, messages: &mut Vec<Message>) {
        if !std::mem::replace(&mut self.closed, true) {
            // Finished: nobody is left to reply to.
            let mut finished = true;
            self.protocol.close(&mut Outbox::new(&mut self.queue, messages, &mut finished));
        }
    }

    // The command.

    /// Has it send what is owed, and then end, whatever its protocol would say.
    pub fn finish(&mut self) {
        if self.outbound == Outbound::Open {
            self.outbound = Outbound::Finishing;
        }
    }

    // Wants.

    /// Whether it would receive; a finishing one does so to discard.
    pub fn wants_recv(&self) -> bool {
        self.inbound == Inbound::Open && (!self.paused || self.outbound == Outbound::Finishing)
    }

    /// Whether it would receive if it were owed nothing.
    pub fn could_recv(&self) -> bool {
        self.inbound == Inbound::Open
    }

    /// What it would send.
    pub fn outgoing(&self) -> &SendQueue {
        &self.queue
    }

    /// Whether it would shut the outbound direction down: all is sent, and the peer goes on.
    pub fn wants_shutdown(&self) -> bool {
        !self.shut
            && self.outbound == Outbound::Finishing
            && self.queue.is_empty()
            && self.inbound == Inbound::Open
    }

    /// Whether there is nothing more to do: close.
    pub fn is_finished(&self) -> bool {
        match self.outbound {
            Outbound::Open => false,
            Outbound::Finishing => self.queue.is_empty() && self.inbound == Inbound::Ended,
            Outbound::Broken => true,
        }
    }

    /// Whether it still sends what it is told to: it neither finishes nor broke.
    pub fn is_open(&self) -> bool {
        self.outbound == Outbound::Open
    }

    /// Whether it broke: what is in flight is of no use, a send that waits for the peer included.
    pub fn is_broken(&self) -> bool {
        self.outbound == Outbound::Broken
    }

    /// Whether it will want nothing new merely because all that it is owed has been sent. Who has
    /// more to say by itself is never at ease.
    pub fn can_skip_completion(&self) -> bool {
        self.inbound == Inbound::Open
            && self.outbound == Outbound::Open
            && !self.paused
            && !self.protocol.refills()
    }

    /// Whether it is owed so much that it is not received from. As a listener: congested.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The size of buffer that fits what it has been receiving.
    pub fn recv_size(&self) -> Size {
        self.recv_size.size
    }

    /// Its protocol.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    fn ask(&mut self, messages: &mut Vec<Message>, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        let mut finished = false;
        event(&mut self.protocol, &mut Outbox::new(&mut self.queue, messages, &mut finished));
        if finished {
            self.finish();
        }
        self.refill(messages);
        self.weigh();
    }

    /// Asks the protocol for more, if it has more and there is room.
    #[inline]
    fn refill(&mut self, messages: &mut Vec<Message>) {
        if self.protocol.refills() && self.outbound == Outbound::Open && self.queue.bytes() < REFILL
        {
            let mut finished = false;
            self.protocol.refill(&mut Outbox::new(&mut self.queue, messages, &mut finished));
            if finished {
                self.finish();
            }
        }
    }

    fn weigh(&mut self) {
        let (bytes, leases) = (self.queue.bytes(), self.queue.leases());
        self.paused = if self.paused {
            bytes > LOW || leases > LEASES_LOW
        } else {
            bytes >= HIGH || leases >= LEASES_HIGH
        };
    }
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
            Fit::Tight(size) if size >= self.size => self.turn(Size(size.0 + 1), Self::GROW),
            Fit::Loose(size) if size == self.size => self.turn(Size(size.0 - 1), Self::SHRINK),
            _ => self.run = 0,
        }
    }

    fn turn(&mut self, size: Size, after: u8) {
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
    use crate::protocol::testing::{Broadcast, to_others};
    use crate::protocol::{Chargen, Chat, Echo};

    fn echo() -> Connection<Echo> {
        Connection::open(Echo, 1, &mut Vec::new())
    }

    fn hear<P: Protocol>(connection: &mut Connection<P>, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        connection.received(Chunk::from(bytes.to_vec()), &mut messages);
        messages
    }

    #[test]
    fn half_close_sends_what_is_owed_and_then_finishes() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.ended(&mut Vec::new());
        assert!(!connection.is_finished(), "five bytes are owed");
        assert!(!connection.wants_recv() && !connection.wants_shutdown());
        connection.sent(2, &mut Vec::new());
        assert_eq!(connection.outgoing().bytes(), 3);
        connection.sent(3, &mut Vec::new());
        assert!(connection.is_finished());
    }

    #[test]
    fn finishing_first_shuts_down_and_discards_until_the_peer_ends() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.finish();
        assert!(!connection.wants_shutdown(), "not before all is sent");
        connection.sent(5, &mut Vec::new());
        assert!(connection.wants_shutdown() && connection.wants_recv());
        connection.shut_down();
        assert!(!connection.wants_shutdown(), "once");
        hear(&mut connection, b"late");
        assert!(connection.outgoing().is_empty() && !connection.is_finished());
        connection.ended(&mut Vec::new());
        assert!(connection.is_finished());
    }

    #[test]
    fn a_broken_connection_owes_nothing_and_wants_to_be_closed() {
        let mut connection = echo();
        hear(&mut connection, b"hello");
        connection.broken();
        assert!(connection.is_finished() && connection.is_broken());
        assert!(connection.outgoing().is_empty() && !connection.wants_recv());
        connection.sent(5, &mut Vec::new()); // The send that was in flight; its bytes are no longer counted.
        connection.ended(&mut Vec::new());
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
        connection.sent(HIGH - LOW - 1, &mut Vec::new());
        assert!(!connection.wants_recv(), "hysteresis");
        connection.sent(1, &mut Vec::new());
        assert!(connection.wants_recv());
    }

    #[test]
    fn holding_many_buffers_pauses_too() {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 64 }]).unwrap();
        let mut connection = echo();
        for _ in 0..LEASES_HIGH {
            assert!(connection.wants_recv());
            let chunk = Chunk::received(pool.lease(Size(0)).unwrap(), 600);
            connection.received(chunk, &mut Vec::new());
        }
        assert!(!connection.wants_recv());
        connection.sent(600 * (LEASES_HIGH - LEASES_LOW), &mut Vec::new());
        assert!(connection.wants_recv());
    }

    #[test]
    fn what_others_said_beyond_the_hard_limit_evicts() {
        let mut connection = Connection::open(Broadcast, 1, &mut Vec::new());
        let chunk = Chunk::from(vec![b'x'; 1 << 20]);
        (0..HARD / chunk.len()).for_each(|_| connection.deliver(chunk.clone()));
        assert!(!connection.is_broken());
        connection.deliver(chunk);
        assert!(connection.is_broken());
    }

    #[test]
    fn messages_come_out_as_data() {
        let mut messages = Vec::new();
        let mut connection = Connection::open(Chat::default(), 7, &mut messages);
        messages.extend(hear(&mut connection, b"one\ntw"));
        connection.broken();
        connection.close(&mut messages);
        connection.close(&mut messages);
        assert_eq!(to_others(&messages), [&b"* 7 joined\n"[..], b"[7] one\n", b"* 7 left\n"]);
    }

    #[test]
    fn who_has_more_to_say_is_asked_for_it_while_little_is_owed() {
        let mut connection = Connection::open(Chargen, 1, &mut Vec::new());
        for _ in 0..1000 {
            let owed = connection.outgoing().bytes();
            assert!(
                owed > 0
                    && owed < HIGH
                    && !connection.can_skip_completion()
                    && connection.wants_recv()
            );
            connection.sent(owed.min(10_007), &mut Vec::new());
        }
        connection.finish();
        let owed = connection.outgoing().bytes();
        connection.sent(owed, &mut Vec::new());
        assert!(connection.wants_shutdown(), "who drains is asked for no more");
    }

    #[test]
    fn who_is_gone_is_replied_to_no_more() {
        #[derive(Debug)]
        struct Polite;
        impl Protocol for Polite {
            fn data(&mut self, _: Chunk, _: &mut Outbox<'_>) {}
            fn close(&mut self, out: &mut Outbox<'_>) {
                out.reply("farewell");
            }
        }
        let mut connection = Connection::open(Polite, 1, &mut Vec::new());
        connection.broken();
        connection.close(&mut Vec::new());
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
            connection.received(Chunk::received(lease, len), &mut Vec::new());
            connection.sent(len, &mut Vec::new());
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
        assert!(size_of::<Connection<Echo>>() <= 96, "{}", size_of::<Connection<Echo>>());
    }
}
