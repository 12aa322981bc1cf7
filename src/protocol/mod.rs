//! Protocols: what a connection sends in reply to what it receives. No sockets, no clock, no I/O.
//!
//! Each connection has one [`Protocol`] value; every I/O model drives the same one. [`Echo`]
//! is the shortest, [`Chat`] uses the most.

mod chargen;
mod chat;
mod discard;
mod echo;
mod input;
mod needs;
mod outbox;
mod prefix;
mod reply;
mod speaker;
mod talk;
mod upper;

pub use chargen::Chargen;
pub use chat::Chat;
pub use discard::Discard;
pub use echo::Echo;
pub use input::{Input, Received, TooLong, Untaken};
pub use needs::Needs;
pub use outbox::{Context, Message, Outbox, OutboxBuffer, Payload, Requests};
pub use prefix::Prefix;
pub use reply::Reply;
pub use speaker::Speaker;
pub use talk::Talk;
pub use upper::Upper;

use std::fmt;

use crate::limits::CloseReason;

/// The longest line that these protocols take, in bytes, its newline not counted.
pub const LINE_MAX: usize = 16 << 10;
/// The reply to a line that is longer.
pub const TOO_LONG: &str = "line too long: 16384 bytes at most\n";

/// What a connection sends in reply to what it receives.
///
/// ```
/// use proactor::protocol::{Input, Outbox, Protocol};
///
/// /// Sends each line back in upper case.
/// struct Shout;
///
/// impl Protocol for Shout {
///     fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
///         while let Some(mut line) = input.line(1024) {
///             line.make_ascii_uppercase(); // where it was received …
///             out.send(line); // … and it is sent from there
///         }
///     }
/// }
/// ```
pub trait Protocol: 'static {
    /// Returns what it needs of an I/O model.
    fn needs() -> Needs
    where
        Self: Sized,
    {
        Needs::ALL
    }

    /// Returns whether a peer may only listen: then a server that is full does not close it for
    /// never having sent a byte.
    fn allow_silence() -> bool
    where
        Self: Sized,
    {
        false
    }

    /// The connection has opened.
    fn open(&mut self, _out: &mut Outbox<'_>) {}

    /// Bytes have arrived. How they are cut is the network's choice and means nothing.
    ///
    /// What is not taken stays in the connection. This is called again until nothing is left, or it
    /// takes nothing, or it asks for bytes that have not arrived.
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>);

    /// The peer will send no more; `input` is what was not taken. By default: send no more either.
    fn end(&mut self, _input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.finish();
    }

    /// The timer has expired that [`Outbox::set_timer`] set; also while the protocol is paused.
    fn timer(&mut self, _out: &mut Outbox<'_>) {}

    /// [`PeerHandle::wake`](crate::PeerHandle::wake) was called, once or several times; also while
    /// the protocol is paused.
    fn wake(&mut self, _out: &mut Outbox<'_>) {}

    /// Little is queued, after [`Outbox::request_refill`].
    fn refill(&mut self, _out: &mut Outbox<'_>) {}

    /// The peer has read what it was owed, and was not sent `count` announcements of others
    /// ([`Outbox::announce`]) because it had not.
    fn missed(&mut self, _count: u32, _out: &mut Outbox<'_>) {}

    /// The server drains. By default: send what is queued, then finish. A protocol that does
    /// otherwise is closed when the drain's time is over.
    fn drain(&mut self, out: &mut Outbox<'_>) {
        out.finish();
    }

    /// The connection closes: the last call, made once, except after a panic. What it sends to its
    /// peer is dropped; a broadcast still reaches the others.
    fn close(&mut self, _reason: CloseReason, _out: &mut Outbox<'_>) {}
}

impl fmt::Debug for dyn Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol")
    }
}

/// Returns whole lines, each between two texts, in one allocation. The last may lack its newline. A
/// carriage return at the end of a line belongs to the newline, as of telnet's lines.
fn wrapped(before: &[u8], lines: &[u8], after: &[u8]) -> Vec<u8> {
    let count = lines.iter().filter(|&&byte| byte == b'\n').count();
    let mut wrapped = Vec::with_capacity(lines.len() + count * (before.len() + after.len() - 1));
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        wrapped.extend_from_slice(before);
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        wrapped.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        wrapped.extend_from_slice(after);
    }
    wrapped
}

impl<P: Protocol + ?Sized> Protocol for Box<P> {
    fn open(&mut self, out: &mut Outbox<'_>) {
        (**self).open(out);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        (**self).data(input, out);
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        (**self).end(input, out);
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        (**self).timer(out);
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        (**self).wake(out);
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        (**self).refill(out);
    }

    fn missed(&mut self, count: u32, out: &mut Outbox<'_>) {
        (**self).missed(count, out);
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        (**self).drain(out);
    }

    fn close(&mut self, reason: CloseReason, out: &mut Outbox<'_>) {
        (**self).close(reason, out);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::buffer::Chunk;

    /// Notes the name of each call.
    struct Noting(Rc<RefCell<Vec<&'static str>>>);

    impl Protocol for Noting {
        fn open(&mut self, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("open");
        }

        fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("data");
        }

        fn end(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("end");
        }

        fn timer(&mut self, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("timer");
        }

        fn wake(&mut self, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("wake");
        }

        fn refill(&mut self, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("refill");
        }

        fn missed(&mut self, _: u32, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("missed");
        }

        fn drain(&mut self, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("drain");
        }

        fn close(&mut self, _: CloseReason, _: &mut Outbox<'_>) {
            self.0.borrow_mut().push("close");
        }
    }

    #[test]
    fn a_batch_of_lines_is_one_allocation_of_the_right_size() {
        let labelled = wrapped(b"[12] ", b"a\n\nb\n", b"\n");
        assert_eq!(labelled, b"[12] a\n[12] \n[12] b\n");
        assert_eq!(labelled.capacity(), labelled.len());
    }

    /// A call that is not forwarded would be silently lost: each has a default.
    #[test]
    fn a_box_forwards_every_call() {
        let calls = Rc::default();
        let mut boxed: Box<dyn Protocol> = Box::new(Noting(Rc::clone(&calls)));
        let (mut untaken, mut out) = (Untaken::default(), OutboxBuffer::default());
        let mut input = Input::new(Chunk::EMPTY, &mut untaken, 1);
        Protocol::open(&mut boxed, &mut out.outbox());
        Protocol::data(&mut boxed, &mut input, &mut out.outbox());
        Protocol::end(&mut boxed, &mut input, &mut out.outbox());
        Protocol::timer(&mut boxed, &mut out.outbox());
        Protocol::wake(&mut boxed, &mut out.outbox());
        Protocol::refill(&mut boxed, &mut out.outbox());
        Protocol::missed(&mut boxed, 1, &mut out.outbox());
        Protocol::drain(&mut boxed, &mut out.outbox());
        Protocol::close(&mut boxed, CloseReason::Finished, &mut out.outbox());
        assert_eq!(
            *calls.borrow(),
            ["open", "data", "end", "timer", "wake", "refill", "missed", "drain", "close"]
        );
        let source = include_str!("mod.rs");
        let start = source.find("pub trait Protocol").unwrap();
        let body = &source[start..start + source[start..].find("\n}\n").unwrap()];
        let declared = body.matches("fn ").count() - 2; // Two are of the type.
        assert_eq!(calls.borrow().len(), declared, "a new call is forwarded, and tested here");
    }
}

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing {
    use super::*;
    use crate::buffer::Chunk;

    /// The limit of untaken input in these tests.
    const MAX_INPUT: usize = 1 << 20;

    /// What a protocol sent in reply to what it received.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Said {
        /// What it sent to its peer.
        pub replies: Vec<u8>,
        /// What it sent to others.
        pub messages: Vec<Vec<u8>>,
        /// What it sent to the operator.
        pub to_operator: Vec<Vec<u8>>,
        /// Whether it has finished sending.
        pub finished: bool,
    }

    /// Broadcasts all that it receives.
    #[derive(Debug, Clone, Default)]
    pub struct Broadcast;

    impl Protocol for Broadcast {
        fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.broadcast(input.take_all());
        }
    }

    /// Returns the parts of `bytes` between these places; those beyond its end are ignored.
    pub fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
        let mut cuts: Vec<usize> =
            cuts.iter().copied().filter(|&cut| cut < bytes.len()).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    /// Opens `protocol`, gives it `parts` and then the end.
    pub fn converse<'p>(
        protocol: &mut impl Protocol,
        parts: impl IntoIterator<Item = &'p [u8]>,
    ) -> Said {
        let (mut out, mut untaken) = (OutboxBuffer::default(), Untaken::default());
        protocol.open(&mut out.outbox());
        for part in parts {
            let chunk = Chunk::from(part.to_vec());
            receive(protocol, chunk, &mut untaken, &mut out);
        }
        let mut input = Input::new(Chunk::EMPTY, &mut untaken, MAX_INPUT);
        if !out.requests.has(Requests::FINISH) {
            protocol.end(&mut input, &mut out.outbox());
        }
        Said {
            replies: out.replies(),
            messages: to_others(&out.context.messages),
            to_operator: to_operator(&out.context.messages),
            finished: out.requests.has(Requests::FINISH),
        }
    }

    /// Gives `protocol` a chunk, as a connection does that is not limited.
    pub fn receive(
        protocol: &mut impl Protocol,
        chunk: Chunk,
        untaken: &mut Untaken,
        out: &mut OutboxBuffer,
    ) {
        let mut input = Input::new(chunk, untaken, MAX_INPUT);
        while !out.requests.has(Requests::FINISH) && !input.is_empty() {
            let before = input.len();
            protocol.data(&mut input, &mut out.outbox());
            if input.len() == before || input.awaits_more() {
                break;
            }
        }
        assert_eq!(input.leave(false, usize::MAX), None);
    }

    /// Returns what is for the other peers.
    pub fn to_others(messages: &[Message]) -> Vec<Vec<u8>> {
        let to_others = |message: &Message| match message {
            Message::Broadcast(chunk) | Message::Announce(chunk) => Some(chunk.to_vec()),
            Message::Operator(_) => None,
        };
        messages.iter().filter_map(to_others).collect()
    }

    /// Returns what is for the operator.
    pub fn to_operator(messages: &[Message]) -> Vec<Vec<u8>> {
        let to_operator = |message: &Message| match message {
            Message::Broadcast(_) | Message::Announce(_) => None,
            Message::Operator(chunk) => Some(chunk.to_vec()),
        };
        messages.iter().filter_map(to_operator).collect()
    }
}
