//! What to say: protocols, without sockets, clocks or I/O.
//!
//! A [`Protocol`] is a value that turns chunks into replies. One value lives in each connection;
//! every I/O model drives the same one. [`Echo`] is the shortest, [`Chat`] uses all there is.

mod any;
mod chat;
mod echo;
mod lines;
mod upper;

pub use any::Any;
pub use chat::Chat;
pub use echo::Echo;
pub use lines::{LINE_MAX, Lines, Piece};
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
    /// The connection has opened.
    fn open(&mut self, _out: &mut Outbox<'_>) {}

    /// Bytes arrived; how many at a time is the network's choice and means nothing.
    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>);

    /// The peer will send no more. By default: say no more either.
    fn end(&mut self, out: &mut Outbox<'_>) {
        out.finish();
    }
}

/// Where a protocol puts what it has to say.
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut SendQueue,
    posts: &'a mut Vec<Chunk>,
    finished: &'a mut bool,
}

impl<'a> Outbox<'a> {
    /// An outbox: replies go to `queue`, broadcasts to `posts`, and `finished` tells whether the
    /// protocol has finished.
    pub fn new(
        queue: &'a mut SendQueue,
        posts: &'a mut Vec<Chunk>,
        finished: &'a mut bool,
    ) -> Outbox<'a> {
        Outbox { queue, posts, finished }
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
            self.posts.push(chunk);
        }
    }

    /// Sends what is owed, then closes this direction.
    pub fn finish(&mut self) {
        *self.finished = true;
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// What a protocol said to what it heard.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub(crate) struct Said {
        pub(crate) replies: Vec<u8>,
        pub(crate) posts: Vec<Vec<u8>>,
        pub(crate) finished: bool,
    }

    /// Opens `protocol`, tells it `parts` and then the end.
    pub(crate) fn converse<'p>(
        protocol: &mut impl Protocol,
        parts: impl IntoIterator<Item = &'p [u8]>,
    ) -> Said {
        let (mut queue, mut posts, mut finished) = (SendQueue::new(), Vec::new(), false);
        protocol.open(&mut Outbox::new(&mut queue, &mut posts, &mut finished));
        for part in parts {
            let chunk = Chunk::from(part.to_vec());
            protocol.data(chunk, &mut Outbox::new(&mut queue, &mut posts, &mut finished));
        }
        protocol.end(&mut Outbox::new(&mut queue, &mut posts, &mut finished));
        Said {
            replies: queue.iter().flat_map(|chunk| chunk.to_vec()).collect(),
            posts: posts.iter().map(|chunk| chunk.to_vec()).collect(),
            finished,
        }
    }
}
