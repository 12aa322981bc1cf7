//! Where a protocol puts what it sends and asks for.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use super::Received;
use crate::buffer::{Chunk, SendQueue, Size};
use crate::clock::Nanos;
use crate::limits::{CloseReason, MAX_INPUT};
use crate::memory::Memory;
use crate::os::Clock;

/// Where a [`Protocol`](super::Protocol) puts what it sends, and asks for what it needs.
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut SendQueue,
    context: &'a mut Context,
    requests: &'a mut Requests,
}

/// What the calls of all protocols of a server share.
#[derive(Debug)]
pub struct Context {
    /// Messages that protocols have sent to other peers or the operator; the driver takes them.
    pub messages: Vec<Message>,
    /// The limit of input that a protocol may leave untaken, in bytes.
    pub max_input: usize,
    /// Why a protocol has just broken its connection; the driver takes it.
    pub failure: Option<CloseReason>,
    /// True from a change of a connection that its driver must look for: it finishes or fails,
    /// or its timer is set.
    pub changed: bool,
    /// How many calls of protocols have panicked.
    pub panicked: u64,
    /// The clock of the server.
    pub clock: Clock,
    /// What the connections of the server hold, and may.
    pub memory: Memory,
}

impl Context {
    /// A context without messages, in which a protocol may leave so much input untaken.
    pub fn new(max_input: usize, clock: Clock, memory: Memory) -> Context {
        let (messages, panicked) = (Vec::new(), 0);
        Context { messages, max_input, failure: None, changed: false, panicked, clock, memory }
    }

    /// Returns how many bytes are sent to other peers and not yet delivered.
    fn undelivered(&self) -> usize {
        self.messages.iter().map(|message| message.chunk().len()).sum()
    }
}

impl Default for Context {
    fn default() -> Context {
        Context::new(MAX_INPUT, Clock::default(), Memory::new(usize::MAX))
    }
}

/// What a protocol sends to others than its peer.
#[derive(Debug, Clone)]
pub enum Message {
    /// To every other peer of its listener.
    Broadcast(Chunk),
    /// As a broadcast; dropped and counted for a peer that is behind.
    Announce(Chunk),
    /// To the server's operator; dropped if there is none.
    Operator(Chunk),
}

impl Message {
    /// Returns the bytes of the message.
    pub fn chunk(&self) -> &Chunk {
        let (Message::Broadcast(chunk) | Message::Announce(chunk) | Message::Operator(chunk)) =
            self;
        chunk
    }

    /// Copies its bytes to the heap if few buffers of their size are left.
    pub(crate) fn release_scarce(&mut self) {
        let (Message::Broadcast(chunk) | Message::Announce(chunk) | Message::Operator(chunk)) =
            self;
        chunk.release_scarce(Size::LARGEST);
    }
}

/// With so many bytes for other peers, a protocol is given no more input before they are delivered.
const UNDELIVERED_MAX: usize = 64 << 10;

/// What a protocol asked its connection for during a call.
#[derive(Debug, Default)]
pub struct Requests {
    /// One bit each: see the constants.
    flags: u8,
    /// Why it aborts, if it does: by a text to log, or by a reason that was logged.
    pub(crate) abort: Option<Box<Result<Cow<'static, str>, CloseReason>>>,
    /// With `TIMER`: when its timer expires; `None` clears it.
    pub(crate) timer: Option<Duration>,
}

impl Requests {
    /// The protocol called [`Outbox::finish`].
    pub const FINISH: u8 = 1;
    /// The protocol called [`Outbox::request_refill`].
    pub const REFILL: u8 = 2;
    /// The protocol called [`Outbox::pause`], and not `resume` behind it.
    pub const PAUSE: u8 = 4;
    /// The protocol called [`Outbox::resume`], and not `pause` behind it.
    pub const RESUME: u8 = 8;
    /// The protocol called [`Outbox::abort`].
    pub const ABORT: u8 = 16;
    /// The timer was set, or cleared.
    pub const TIMER: u8 = 32;

    /// Returns whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.flags == 0
    }

    /// Returns whether any of these was asked for.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// An outbox that no connection reads: for a protocol that another one embeds, and for tests.
#[derive(Debug, Default)]
pub struct OutboxBuffer {
    /// What was sent to the peer.
    pub queue: SendQueue,
    /// What was sent to others, and the clock.
    pub context: Context,
    /// What the connection was asked for.
    pub requests: Requests,
}

impl OutboxBuffer {
    /// Returns an outbox that fills it.
    pub fn outbox(&mut self) -> Outbox<'_> {
        Outbox::new(&mut self.queue, &mut self.context, &mut self.requests)
    }

    /// Returns the bytes that were sent to the peer.
    #[cfg(any(test, feature = "testing"))]
    pub fn replies(&self) -> Vec<u8> {
        self.queue.iter().flat_map(|chunk| chunk.to_vec()).collect()
    }
}

impl<'a> Outbox<'a> {
    /// An outbox of a connection: what is sent goes to `queue`, what is for others to `context`,
    /// and what the connection must do to `requests`.
    pub fn new(
        queue: &'a mut SendQueue,
        context: &'a mut Context,
        requests: &'a mut Requests,
    ) -> Outbox<'a> {
        Outbox { queue, context, requests }
    }

    /// Exchanges what was sent to others for `messages`.
    pub fn swap_messages(&mut self, messages: &mut Vec<Message>) {
        std::mem::swap(&mut self.context.messages, messages);
    }

    /// Sends `bytes` to the peer, behind what is already queued. Once
    /// [`finish`](Outbox::finish) was called they are dropped.
    pub fn send(&mut self, bytes: impl Payload) {
        if !self.requests.has(Requests::FINISH) {
            self.queue.push(bytes.into_chunk());
        }
    }

    /// Sends formatted text: with it, `write!(out, …)` and `writeln!(out, …)` work and return
    /// nothing, since they cannot fail.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        if let Some(text) = text.as_str() {
            return self.send(text);
        }
        let mut written = String::new();
        written.write_fmt(text).expect("a String takes what is written");
        self.send(written);
    }

    /// Sends `bytes` to every other peer of this listener.
    pub fn broadcast(&mut self, bytes: impl Payload) {
        let chunk = bytes.into_chunk();
        if !chunk.is_empty() {
            self.context.messages.push(Message::Broadcast(chunk));
        }
    }

    /// Sends `bytes` to every other peer of this listener that is not behind with what it is owed.
    /// For one that is, they are dropped, and [`missed`](super::Protocol::missed) is called once it
    /// has read. For what peers cause without sending, as a notice that one has joined: sent again
    /// and again, it would fill the memory.
    pub fn announce(&mut self, bytes: impl Payload) {
        let chunk = bytes.into_chunk();
        if !chunk.is_empty() {
            self.context.messages.push(Message::Announce(chunk));
        }
    }

    /// Sends `bytes`, whole lines, to the operator at the server's console. Control characters are
    /// shown, not obeyed.
    pub fn to_operator(&mut self, bytes: impl Payload) {
        let chunk = bytes.into_chunk();
        if !chunk.is_empty() {
            self.context.messages.push(Message::Operator(chunk));
        }
    }

    /// Sends what is queued, then closes this direction.
    pub fn finish(&mut self) {
        self.requests.flags |= Requests::FINISH;
    }

    /// Closes the connection now; what is queued is dropped. The reason is logged.
    pub fn abort(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.requests.flags |= Requests::ABORT;
        self.requests.abort.get_or_insert_with(|| Box::new(Ok(reason.into())));
    }

    /// Closes the connection now, for a reason that was logged.
    pub(crate) fn close_as(&mut self, reason: CloseReason) {
        self.requests.flags |= Requests::ABORT;
        self.requests.abort.get_or_insert_with(|| Box::new(Err(reason)));
    }

    /// Asks for one call of [`refill`](super::Protocol::refill), as soon as little is queued.
    pub fn request_refill(&mut self) {
        self.requests.flags |= Requests::REFILL;
    }

    /// Has [`timer`](super::Protocol::timer) called once, after this time. A connection has one
    /// timer: set anew, it replaces the old one. It does not expire any more once
    /// [`finish`](Outbox::finish) was called.
    pub fn set_timer(&mut self, after: Duration) {
        self.requests.flags |= Requests::TIMER;
        self.requests.timer = Some(after);
    }

    /// Clears the timer, if it is set.
    pub fn clear_timer(&mut self) {
        self.requests.flags |= Requests::TIMER;
        self.requests.timer = None;
    }

    /// Returns the time, by the clock of the server: in a test, that of the test.
    pub fn now(&self) -> Instant {
        self.context.clock.instant()
    }

    /// Returns the time by the clock of the server, as engines have it.
    pub(crate) fn server_now(&self) -> Nanos {
        self.context.clock.now()
    }

    /// Receives nothing more until [`resume`](Outbox::resume): an answer from elsewhere is awaited.
    /// A drain waits too. A timer or a wake calls a paused protocol.
    pub fn pause(&mut self) {
        self.requests.flags = self.requests.flags & !Requests::RESUME | Requests::PAUSE;
    }

    /// Receives again. Input that was not taken is offered first.
    pub fn resume(&mut self) {
        self.requests.flags = self.requests.flags & !Requests::PAUSE | Requests::RESUME;
    }

    /// Returns whether `data` must not be called again for what is left.
    pub(crate) fn stops_input(&self) -> bool {
        self.requests.has(Requests::FINISH | Requests::PAUSE | Requests::ABORT)
    }

    /// Returns how many bytes may be sent before the peer must read. A protocol that sends more
    /// than it receives takes no more input while this is zero: the input that it leaves is offered
    /// again.
    pub fn allowance(&self) -> usize {
        let share = match self.context.messages.is_empty() {
            false if self.context.undelivered() >= UNDELIVERED_MAX => return 0,
            _ => self.context.memory.share(),
        };
        share.saturating_sub(self.queue.bytes())
    }

    /// Returns how many bytes are queued and not yet sent.
    pub fn queued(&self) -> usize {
        self.queue.bytes()
    }
}

/// What [`Outbox::send`] and [`Outbox::broadcast`] take. [`Received`], [`Chunk`], `Vec<u8>` and
/// `String` are passed on as they are; `&[u8]`, `&[u8; N]` and `&str` are copied.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent",
    note = "pass a `Received`, `Chunk`, `Vec<u8>` or `String`, or a slice to have it copied"
)]
pub trait Payload: sealed::Sealed {
    /// Returns the bytes as a chunk.
    #[doc(hidden)]
    fn into_chunk(self) -> Chunk;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! payloads {
    ($([$($generic:tt)*] $type:ty: $bytes:ident => $chunk:expr,)+) => {$(
        impl<$($generic)*> sealed::Sealed for $type {}

        impl<$($generic)*> Payload for $type {
            fn into_chunk(self) -> Chunk {
                let $bytes = self;
                $chunk
            }
        }
    )+};
}

payloads! {
    [] Received<'_>: bytes => Received::into_chunk(bytes),
    [] Chunk: bytes => bytes,
    [] Vec<u8>: bytes => Chunk::from(bytes),
    [] String: text => Chunk::from(text.into_bytes()),
    [] &[u8]: bytes => Chunk::from(bytes.to_vec()),
    [] &str: text => Chunk::from(text.as_bytes().to_vec()),
    [const N: usize] &[u8; N]: bytes => Chunk::from(bytes.to_vec()),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_after_the_finish_is_dropped() {
        let mut sent = OutboxBuffer::default();
        let mut out = sent.outbox();
        out.send("first");
        out.finish();
        out.send("second");
        writeln!(out, "third {}", 3);
        assert_eq!(sent.replies(), b"first");
    }

    #[test]
    fn formatted_text_needs_no_result() {
        let mut sent = OutboxBuffer::default();
        let mut out = sent.outbox();
        write!(out, "{} ", 1);
        writeln!(out, "two");
        assert_eq!(out.queued(), 6);
        assert_eq!(sent.replies(), b"1 two\n");
    }

    #[test]
    fn the_last_of_pause_and_resume_holds() {
        let mut sent = OutboxBuffer::default();
        sent.outbox().pause();
        assert!(sent.requests.has(Requests::PAUSE) && !sent.requests.has(Requests::RESUME));
        sent.outbox().resume();
        assert!(!sent.requests.has(Requests::PAUSE) && sent.requests.has(Requests::RESUME));
    }
}
