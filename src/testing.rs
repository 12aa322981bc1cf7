//! Tests of a protocol without sockets: the same connection as in a server drives it.
//!
//! ```
//! use proactor::testing::every_split;
//! use proactor::{Input, Outbox, Protocol};
//!
//! struct Shout;
//!
//! impl Protocol for Shout {
//!     fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
//!         while let Some(mut line) = input.line(1024) {
//!             line.make_ascii_uppercase();
//!             out.send(line);
//!         }
//!     }
//! }
//!
//! let done = every_split(|_| Shout, b"ab\n\ncd\nrest");
//! assert_eq!((&done.sent[..], done.finished), (&b"AB\n\nCD\n"[..], true));
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::buffer::Chunk;
use crate::clock::Nanos;
use crate::connection::{Connection, Context};
use crate::limits::MAX_INPUT;
use crate::memory::Memory;
use crate::os::Clock;
use crate::peer::{Factory, Peer};
use crate::protocol::{Message, Protocol};

/// A connection without a socket.
#[derive(Debug)]
pub struct Driver {
    connection: Connection<Box<dyn Protocol>>,
    context: Context,
    now: Nanos,
}

/// What a protocol did since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transcript {
    /// The bytes sent to the peer.
    pub sent: Vec<u8>,
    /// The bytes sent to the other peers of the listener.
    pub broadcast: Vec<u8>,
    /// Whether it has finished, so that everything was sent.
    pub finished: bool,
    /// Whether it was closed early: it aborted, panicked, or left too much input.
    pub broken: bool,
}

impl Driver {
    /// Opens connection 1 with a protocol that `factory` makes.
    pub fn open<P: Protocol>(factory: impl Fn(&Peer) -> P + Send + Sync + 'static) -> Driver {
        Driver::of(&Factory::shared(factory))
    }

    pub(crate) fn of(factory: &Factory) -> Driver {
        let listener = Arc::new(Address::Tcp(([127, 0, 0, 1], 1).into()));
        let mut context = Context::new(MAX_INPUT, Clock::simulated(), Memory::new(usize::MAX));
        let (protocol, _) = Peer::with(1, &listener, None, None, factory.for_worker(0));
        let connection = Connection::open(protocol, &mut context);
        Driver { connection, context, now: Nanos(0) }
    }

    /// The peer sends `bytes`, which arrive at once.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.connection.received(Chunk::from(bytes.to_vec()), &mut self.context);
    }

    /// The peer sends no more.
    pub fn end(&mut self) {
        self.connection.ended(&mut self.context);
    }

    /// A handle of the connection wakes the protocol.
    pub fn wake(&mut self) {
        self.connection.wake(&mut self.context);
    }

    /// The server begins to drain.
    pub fn drain(&mut self) {
        self.connection.drain(&mut self.context);
    }

    /// So much time passes: the timers that expire meanwhile are run.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.connection.arm_timer(|| self.now).filter(|&due| due <= end) {
            self.set_now(due);
            self.connection.run_timer(due, &mut self.context);
        }
        self.set_now(end);
    }

    fn set_now(&mut self, now: Nanos) {
        self.now = now;
        self.context.clock.set(now);
    }

    /// Returns what the protocol did since this was last called; the peer receives what was sent.
    pub fn take(&mut self) -> Transcript {
        let (mut sent, mut broadcast) = (Vec::new(), Vec::new());
        loop {
            let before = sent.len();
            let queue = self.connection.outgoing();
            sent.extend(queue.iter().flat_map(|chunk| chunk.to_vec()));
            self.connection.sent(sent.len() - before, &mut self.context);
            broadcast.extend(self.context.messages.drain(..).flat_map(|message| match message {
                Message::Broadcast(chunk) | Message::Announce(chunk) => chunk.to_vec(),
                Message::Operator(_) => Vec::new(),
            }));
            if !self.connection.holds_input() {
                break;
            }
            self.connection.resume_input(&mut self.context);
        }
        let broken = self.connection.is_broken();
        Transcript { sent, broadcast, finished: !broken && !self.connection.is_open(), broken }
    }
}

/// Sends `input` and then the end, cut into receives in many ways: in every way up to 12 bytes;
/// else at each place, at all places, and in 1,000 random ways that are the same in each run.
/// Returns what the protocol did, which must not depend on the cuts.
///
/// # Panics
/// If it does; the message says for which cuts.
pub fn every_split<P: Protocol>(
    factory: impl Fn(&Peer) -> P + Send + Sync + 'static,
    input: &[u8],
) -> Transcript {
    every_split_of(&Factory::shared(factory), input)
}

/// Does what [`every_split`] does, with the protocols of a factory.
pub(crate) fn every_split_of(factory: &Factory, input: &[u8]) -> Transcript {
    let play = |cuts: &[usize]| {
        let mut driver = Driver::of(factory);
        let ends = cuts.iter().copied().chain([input.len()]);
        let mut start = 0;
        for end in ends {
            driver.receive(&input[start..end]);
            start = end;
        }
        driver.end();
        driver.take()
    };
    let whole = play(&[]);
    let check = |cuts: Vec<usize>| {
        let cut = play(&cuts);
        assert_eq!(cut, whole, "cut at {cuts:?}, and uncut");
    };
    let places = 1..input.len();
    if input.len() <= 12 {
        for bits in 1..1u32 << input.len().saturating_sub(1) {
            check(places.clone().filter(|place| bits & 1 << (place - 1) != 0).collect());
        }
        return whole;
    }
    places.clone().for_each(|place| check(vec![place]));
    check(places.clone().collect());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut one_in = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.is_multiple_of(n)
    };
    for round in 0..1000 {
        let n = 2 + round % 64;
        check(places.clone().filter(|_| one_in(n)).collect());
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Chat, Echo, Input, Outbox, Prefix};

    #[test]
    fn a_protocol_that_depends_on_the_cuts_is_found() {
        struct Receives;
        impl Protocol for Receives {
            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                input.take_all();
                out.send("x");
            }
        }
        for input in [&b"ab"[..], &[b'x'; 40]] {
            let played = std::panic::catch_unwind(|| every_split(|_| Receives, input));
            assert!(played.is_err());
        }
    }

    #[test]
    fn the_protocols_of_this_crate_do_not_depend_on_the_cuts() {
        assert_eq!(every_split(|_| Echo, b"hello").sent, b"hello");
        let done = every_split(|_| Prefix::new("> "), b"one\ntwo\nthree and the rest");
        assert_eq!(done.sent, b"> one ===\n> two ===\n> three and the rest ===\n");
        let done = every_split(|peer| Chat::new(peer.id()), b"hello\nquit\n");
        assert_eq!(done.broadcast, b"* 1 joined\n[1] hello\n* 1 left\n");
        assert!(done.finished && done.sent.is_empty());
    }

    #[test]
    fn a_timer_expires_once_and_the_clock_is_that_of_the_test() {
        struct Idle(std::time::Instant);
        impl Protocol for Idle {
            fn open(&mut self, out: &mut Outbox<'_>) {
                self.0 = out.now();
                out.set_timer(Duration::from_secs(30));
            }
            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                match &*input.take_all() {
                    b"stop" => out.clear_timer(),
                    _ => out.set_timer(Duration::from_secs(30)),
                }
            }
            fn timer(&mut self, out: &mut Outbox<'_>) {
                write!(out, "idle at {:?}", out.now() - self.0);
            }
        }
        let mut driver = Driver::open(|_| Idle(std::time::Instant::now()));
        driver.advance(Duration::from_secs(29));
        driver.receive(b"x");
        driver.advance(Duration::from_secs(29));
        assert_eq!(driver.take().sent, b"");
        driver.advance(Duration::from_secs(60));
        assert_eq!(driver.take().sent, b"idle at 59s");
        driver.receive(b"x");
        driver.receive(b"stop");
        driver.advance(Duration::from_secs(60));
        assert_eq!(driver.take().sent, b"");
        driver.receive(b"x");
        driver.drain();
        driver.advance(Duration::from_secs(60));
        let done = driver.take();
        assert_eq!((&done.sent[..], done.finished), (&b""[..], true), "its timer is off");
    }

    #[test]
    fn a_driver_reports_what_happened_since_it_was_last_asked() {
        let mut driver = Driver::open(|_| Echo);
        driver.receive(b"one");
        assert_eq!(driver.take().sent, b"one");
        driver.drain();
        assert_eq!(driver.take(), Transcript { finished: true, ..Transcript::default() });
    }
}
