//! What to say: protocols, without sockets, clocks or I/O.
//!
//! A [`Protocol`] is a value that turns chunks into replies. One value lives in each connection;
//! every I/O model drives the same one. [`Echo`] is the shortest, [`Chat`] uses all there is.

mod any;
mod chargen;
mod chat;
mod discard;
mod echo;
mod lines;
mod prefix;
mod reply;
mod speaker;
mod talk;
mod upper;

pub use any::Any;
pub use chargen::Chargen;
pub use chat::{Chat, Others};
pub use discard::Discard;
pub use echo::Echo;
pub use lines::{LINE_MAX, Lines, Piece, TOO_LONG};
pub use prefix::Prefix;
pub use reply::Reply;
pub use speaker::{Audience, Speaker};
pub use talk::{Operator, Talk};
pub use upper::Upper;

use crate::buffer::{Chunk, SendQueue};

/// What one connection says to what it hears.
///
/// ```
/// use proactor::buffer::Chunk;
/// use proactor::protocol::{Outbox, Protocol};
///
/// /// Answers every receive with its length.
/// struct Count;
///
/// impl Protocol for Count {
///     fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
///         out.reply(format!("{}\n", chunk.len()).into_bytes());
///     }
/// }
/// ```
pub trait Protocol {
    /// The connection has opened. It is the `me`th to come to the server, from 1; nobody else
    /// will have this number while the server runs.
    fn open(&mut self, _me: u64, _out: &mut Outbox<'_>) {}

    /// Bytes arrived; how many at a time is the network's choice and means nothing.
    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>);

    /// The peer will send no more. By default: say no more either.
    fn end(&mut self, out: &mut Outbox<'_>) {
        out.finish();
    }

    /// Whether it has something to say by itself: then [`refill`](Protocol::refill) is called.
    /// Always the same answer.
    #[inline]
    fn refills(&self) -> bool {
        false
    }

    /// Little of what was said is left to send, and there is room for more. Asked at the opening
    /// and whenever the peer took some, so what it takes decides how fast this goes.
    #[inline]
    fn refill(&mut self, _out: &mut Outbox<'_>) {}

    /// Whether it ever broadcasts. Always the same answer; who says no and does is not heard. Some
    /// I/O models need not let connections hear of one another that have nothing to say.
    fn broadcasts(&self) -> bool {
        true
    }

    /// The connection goes away, however that came about: the last thing that it is told, once. A
    /// reply reaches nobody; a broadcast still reaches the others.
    fn close(&mut self, _out: &mut Outbox<'_>) {}
}

/// What a protocol said to others than its peer.
#[derive(Debug, Clone)]
pub enum Message {
    /// To every other peer of its listener.
    Broadcast(Chunk),
    /// To the server's operator; to nobody, if there is none.
    Operator(Chunk),
}

/// Where a protocol puts what it has to say.
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut SendQueue,
    messages: &'a mut Vec<Message>,
    finished: &'a mut bool,
}

impl<'a> Outbox<'a> {
    /// An outbox: replies go to `queue`, what is for others to `messages`, and `finished` tells
    /// whether the protocol has finished.
    pub fn new(
        queue: &'a mut SendQueue,
        messages: &'a mut Vec<Message>,
        finished: &'a mut bool,
    ) -> Outbox<'a> {
        Outbox { queue, messages, finished }
    }

    /// The same outbox, but what is broadcast goes to `messages`.
    pub fn with_messages<'b>(&'b mut self, messages: &'b mut Vec<Message>) -> Outbox<'b> {
        Outbox { queue: self.queue, messages, finished: self.finished }
    }

    /// Says `chunk` to this peer, after all it is already owed. After
    /// [`finish`](Outbox::finish) there is nothing more to say, and it is dropped.
    pub fn reply(&mut self, chunk: impl Into<Chunk>) {
        if !*self.finished {
            self.queue.push(chunk.into());
        }
    }

    /// Says `chunk` to every other peer of this listener.
    pub fn broadcast(&mut self, chunk: impl Into<Chunk>) {
        let chunk = chunk.into();
        if !chunk.is_empty() {
            self.messages.push(Message::Broadcast(chunk));
        }
    }

    /// Says `chunk`, whole lines, to the operator at the server's console. They are shown as they
    /// are, but for what would do something to a terminal.
    pub fn to_operator(&mut self, chunk: impl Into<Chunk>) {
        let chunk = chunk.into();
        if !chunk.is_empty() {
            self.messages.push(Message::Operator(chunk));
        }
    }

    /// Sends what is owed, then closes this direction.
    pub fn finish(&mut self) {
        *self.finished = true;
    }
}

/// What the tests of the protocols share.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use super::*;

    /// What a protocol said to what it heard.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Said {
        /// To the peer.
        pub replies: Vec<u8>,
        /// To others.
        pub messages: Vec<Vec<u8>>,
        /// To the operator.
        pub to_operator: Vec<Vec<u8>>,
        /// Whether it finished.
        pub finished: bool,
    }

    /// Says every chunk to all, as it came: who talks, and no more than that.
    #[derive(Debug, Clone, Default)]
    pub struct Broadcast;

    impl Protocol for Broadcast {
        fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
            out.broadcast(chunk);
        }
    }

    /// The parts of `bytes` between these places; those beyond its end are none.
    pub fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
        let mut cuts: Vec<usize> =
            cuts.iter().copied().filter(|&cut| cut < bytes.len()).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    /// Opens `protocol` as number 1, tells it `parts` and then the end.
    pub fn converse<'p>(
        protocol: &mut impl Protocol,
        parts: impl IntoIterator<Item = &'p [u8]>,
    ) -> Said {
        let (mut queue, mut messages, mut finished) = (SendQueue::new(), Vec::new(), false);
        protocol.open(1, &mut Outbox::new(&mut queue, &mut messages, &mut finished));
        for part in parts {
            let chunk = Chunk::from(part.to_vec());
            protocol.data(chunk, &mut Outbox::new(&mut queue, &mut messages, &mut finished));
        }
        protocol.end(&mut Outbox::new(&mut queue, &mut messages, &mut finished));
        Said {
            replies: queue.iter().flat_map(|chunk| chunk.to_vec()).collect(),
            messages: to_others(&messages),
            to_operator: to_operator(&messages),
            finished,
        }
    }

    /// What is for the other peers.
    pub fn to_others(messages: &[Message]) -> Vec<Vec<u8>> {
        let to_others = |message: &Message| match message {
            Message::Broadcast(chunk) => Some(chunk.to_vec()),
            Message::Operator(_) => None,
        };
        messages.iter().filter_map(to_others).collect()
    }

    /// What is for the operator.
    pub fn to_operator(messages: &[Message]) -> Vec<Vec<u8>> {
        let to_operator = |message: &Message| match message {
            Message::Broadcast(_) => None,
            Message::Operator(chunk) => Some(chunk.to_vec()),
        };
        messages.iter().filter_map(to_operator).collect()
    }
}
