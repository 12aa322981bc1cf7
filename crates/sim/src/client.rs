//! The far end of a simulated connection, and the two socket buffers between it and the server.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::faults::Dice;
use proactor::clock::Nanos;

/// The number of a client of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(pub usize);

/// How a client reads what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// Whenever there is something.
    #[default]
    AtOnce,
    /// So many bytes at a time, and not again before this much time has passed.
    Paced {
        /// At most so many at a time.
        bytes: usize,
        /// Then it pauses for so long.
        every: Duration,
    },
    /// The client never reads.
    Never,
}

/// A client: sends the bytes of the test, reads by its [`Reads`], and ends after the server does.
pub struct Client {
    reads: Reads,
    /// What each of the server's two socket buffers holds at most.
    capacity: usize,
    /// The client's kernel opens its window by so many bytes, when what it has is read.
    window: usize,
    /// The bytes that are not yet sent.
    to_send: VecDeque<u8>,
    /// True once it is to end when all is sent.
    finishing: bool,
    /// True if it does not end when the server does.
    stubborn: bool,
    /// Sent, and not yet received by the server.
    to_server: VecDeque<u8>,
    /// True once its end was sent: it follows what is in `to_server`.
    ended: bool,
    /// Sent by the server, and not yet read.
    to_client: VecDeque<u8>,
    /// How many of the first of these the client's kernel has acknowledged.
    acknowledged: usize,
    /// How many more it takes before the next part is read.
    open: usize,
    /// True once the server's end was sent: it follows what is in `to_client`.
    server_ended: bool,
    /// True once the server has closed its socket.
    server_closed: bool,
    /// The side that reset the connection, if it was reset.
    reset: Option<Reset>,
    /// The time at which it will reset.
    resets_at: Option<Nanos>,
    read_at: Nanos,
    received: Vec<u8>,
    received_end: bool,
    taken: usize,
    owed_most: usize,
    given: usize,
}

/// The side that reset a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The client, or the network: the scenario, by `reset`, or a fault.
    ByClient,
    /// The server, by closing with bytes unread, or having closed when more arrived.
    ByServer,
}

impl Client {
    pub(super) fn new(reads: Reads, capacity: usize, window: usize) -> Client {
        Client {
            reads,
            capacity,
            window,
            to_send: VecDeque::new(),
            finishing: false,
            stubborn: false,
            to_server: VecDeque::new(),
            ended: false,
            to_client: VecDeque::new(),
            acknowledged: 0,
            open: window,
            server_ended: false,
            server_closed: false,
            reset: None,
            resets_at: None,
            read_at: Nanos(0),
            received: Vec::new(),
            received_end: false,
            taken: 0,
            owed_most: 0,
            given: 0,
        }
    }

    // The interface of the tests.

    /// Adds `bytes` to what the client sends.
    pub fn send(&mut self, bytes: &[u8]) {
        assert!(!self.finishing, "the client has already ended");
        self.to_send.extend(bytes);
    }

    /// Has all that it sends arrive now, as far as the server's socket takes it.
    pub fn send_all(&mut self) {
        let space = self.capacity.saturating_sub(self.to_server.len());
        self.to_server.extend(self.to_send.drain(..space.min(self.to_send.len())));
    }

    /// Has it end its direction when it has sent all, and go on reading.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Has it reset the connection.
    pub fn reset(&mut self) {
        self.break_off(Reset::ByClient);
    }

    /// Has it reset the connection when this moment has come.
    pub fn reset_at(&mut self, at: Nanos) {
        self.resets_at = Some(at);
    }

    /// Has it read in another way from now on.
    pub fn set_reads(&mut self, reads: Reads) {
        (self.reads, self.read_at) = (reads, Nanos(0));
    }

    /// Has it not answer the server's end with its own.
    pub fn be_stubborn(&mut self) {
        self.stubborn = true;
    }

    /// What it has read.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Whether it has read the server's end, in order.
    pub fn received_end(&self) -> bool {
        self.received_end
    }

    /// Whether the server has sent its end.
    pub fn is_sent_the_end(&self) -> bool {
        self.server_ended
    }

    /// The side that reset the connection, if it was reset.
    pub fn was_reset(&self) -> Option<Reset> {
        self.reset
    }

    /// Whether it has received all that it ever will.
    pub fn is_done(&self) -> bool {
        self.received_end || self.reset.is_some()
    }

    /// Bytes that it has sent and that the server has received.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// By how many bytes at most the server had at any time received more from it than sent to it:
    /// what an echo owed it.
    pub fn owed_most(&self) -> usize {
        self.owed_most
    }

    // The server's side of the socket.

    /// Whether a receive would end at once.
    pub(super) fn is_readable(&self) -> bool {
        !self.to_server.is_empty() || self.ended || self.reset.is_some()
    }

    /// How many bytes a receive finds.
    pub(super) fn available(&self) -> usize {
        self.to_server.len()
    }

    /// Whether a send that waits goes on: TCP wakes it when a third of the send buffer is free.
    pub(super) fn is_writable(&self) -> bool {
        3 * self.unacknowledged() <= 2 * self.capacity || self.reset.is_some()
    }

    /// How many bytes a send may add.
    pub(super) fn writable(&self) -> usize {
        self.capacity.saturating_sub(self.unacknowledged())
    }

    /// How many bytes the client's kernel has not acknowledged: what `SIOCOUTQ` returns.
    pub(super) fn unacknowledged(&self) -> usize {
        self.to_client.len() - self.acknowledged
    }

    /// The client's kernel takes what its window has space for.
    fn acknowledge(&mut self) {
        if self.acknowledged == 0 {
            self.open = self.window;
        }
        let n = self.open.min(self.unacknowledged());
        (self.acknowledged, self.open) = (self.acknowledged + n, self.open - n);
    }

    /// The server receives into all of `buffer`.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        let len = buffer.len();
        for (to, from) in buffer.iter_mut().zip(self.to_server.drain(..len)) {
            *to = from;
        }
        self.taken += len;
        self.owed_most = self.owed_most.max(self.taken.saturating_sub(self.given));
    }

    /// Takes bytes that the server sends.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        assert!(!self.server_ended, "nothing is sent after the end");
        self.to_client.extend(bytes);
        self.given += bytes.len();
        self.acknowledge();
    }

    /// The server ends its direction.
    pub(super) fn server_ends(&mut self) {
        self.server_ended = true;
    }

    /// The server closes. As TCP has it: with bytes unread that is a reset, and a reset destroys
    /// what the client has not read yet.
    pub(super) fn server_closes(&mut self) {
        self.server_ended = true;
        self.server_closed = true;
        if !self.to_server.is_empty() {
            self.break_off(Reset::ByServer);
        }
    }

    pub(super) fn break_off(&mut self, by: Reset) {
        if self.reset.is_none() {
            self.reset = Some(by);
            self.to_server.clear();
            self.to_client.clear();
            self.acknowledged = 0;
            self.to_send.clear();
        }
    }

    // Its own side.

    /// Whether it would do something now.
    pub(super) fn can_step(&self, now: Nanos) -> bool {
        let can = self.can_send() || self.can_end() || self.can_read(now) || self.must_reset(now);
        can && self.reset.is_none()
    }

    /// When it would do something, if it is only the time that has not come.
    pub(super) fn steps_at(&self) -> Option<Nanos> {
        let reads_at = self.can_read(Nanos(u64::MAX)).then_some(self.read_at);
        let next = [reads_at, self.resets_at].into_iter().flatten().min();
        next.filter(|_| self.reset.is_none())
    }

    /// Does one thing that it can do.
    pub(super) fn step(&mut self, now: Nanos, dice: &mut Dice) {
        if self.must_reset(now) {
            return self.reset();
        }
        let mut can = [self.can_send(), self.can_end(), self.can_read(now)];
        while can.iter().filter(|&&can| can).count() > 1 {
            can[dice.below(3)] = false;
        }
        match can {
            [true, ..] => self.send_some(dice),
            [_, true, _] => self.ended = true,
            [.., true] => self.read_some(now, dice),
            _ => {}
        }
    }

    fn must_reset(&self, now: Nanos) -> bool {
        self.resets_at.is_some_and(|at| at <= now)
    }

    fn can_send(&self) -> bool {
        let has_space = self.server_closed || self.to_server.len() < self.capacity;
        !self.to_send.is_empty() && has_space && !self.ended
    }

    fn can_end(&self) -> bool {
        self.finishing && self.to_send.is_empty() && !self.ended
    }

    fn can_read(&self, now: Nanos) -> bool {
        let something = !self.to_client.is_empty() || (self.server_ended && !self.received_end);
        something && self.reads != Reads::Never && self.read_at <= now
    }

    fn send_some(&mut self, dice: &mut Dice) {
        if self.server_closed && self.unacknowledged() > 0 {
            return self.break_off(Reset::ByServer);
        } else if self.server_closed {
            // As Linux has it: a reset behind the end leaves what was acknowledged to be read.
            self.to_send.clear();
            self.finishing = true;
            return;
        }
        let most = self.to_send.len().min(self.capacity - self.to_server.len());
        let len = dice.between(1, most);
        self.to_server.extend(self.to_send.drain(..len));
    }

    fn read_some(&mut self, now: Nanos, dice: &mut Dice) {
        let len = match self.reads {
            Reads::AtOnce => self.acknowledged,
            Reads::Paced { bytes, every } => {
                self.read_at = now + every;
                self.acknowledged.min(dice.between(1, bytes))
            }
            Reads::Never => 0,
        };
        self.received.extend(self.to_client.drain(..len));
        self.acknowledged -= len;
        self.acknowledge();
        if len == 0 && self.server_ended && self.to_client.is_empty() {
            self.received_end = true;
            if !self.stubborn {
                self.to_send.clear();
                self.finishing = true;
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sends {} more, {} wait for the server",
            self.to_send.len(),
            self.to_server.len()
        )?;
        write!(f, "{}; ", if self.ended { " and its end" } else { "" })?;
        write!(f, "received {}, {} wait for it", self.received.len(), self.to_client.len())?;
        write!(f, "{}; ", if self.server_ended { " and the server's end" } else { "" })?;
        write!(
            f,
            "reads {:?}, end received: {}, reset: {:?}",
            self.reads, self.received_end, self.reset
        )
    }
}
