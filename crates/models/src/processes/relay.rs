//! How children hear of one another: what each end of the stream between a child and its parent
//! says to what it hears.
//!
//! ```text
//!   client ◄──► Guest ─┐                ┌─ Link ◄──► client
//!                      │ a room of two, │
//!                Link ◄┘ in each child  └► Link
//!                  ▲                        ▲
//!     frames       ▼                        ▼
//!                Relay ◄── a room, in ──► Relay
//!                          the parent
//! ```
//!
//! A child is a room of two: its client, and its link to the parent. What the client says to all,
//! the link hears, packed; what comes by the link, the client hears, unpacked. The parent is a room
//! of links, one to each child, and passes every frame on. So all that holds in a room holds here:
//! who talks waits for who is slow, across all three processes.
//!
//! Who comes is announced by the parent, with a copy of the protocol that begins as the child's
//! does. Who goes is announced by the child, if it lives to; its last frame is a goodbye. Of a
//! child that ended without one, the parent's copy says what it has to say when it goes.

use super::frames::{self, HEADER};
use proactor::protocol::{Input, Message, Outbox, OutboxBuffer, Protocol};

/// In the parent: the end of a link to one child.
#[derive(Debug, Clone)]
pub(super) struct Relay<P> {
    /// Told only that it comes, and perhaps that it goes.
    protocol: P,
    me: u64,
    /// True once the child has said all, its going included.
    goodbye: bool,
}

impl<P: Protocol> Relay<P> {
    /// The end of a link to the child whose client is the `me`th at its listener, and is served
    /// `protocol`.
    pub(super) fn new(protocol: P, me: u64) -> Relay<P> {
        Relay { protocol, me, goodbye: false }
    }

    /// Says to the others what its protocol says to them; what it replies, the child replies.
    fn announce(&mut self, out: &mut Outbox<'_>, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        let mut asked = OutboxBuffer::default();
        event(&mut self.protocol, &mut asked.outbox());
        asked.messages.into_iter().for_each(|message| frames::broadcast(message, out));
    }
}

impl<P: Protocol> Protocol for Relay<P> {
    fn open(&mut self, _: u64, out: &mut Outbox<'_>) {
        let me = self.me;
        self.announce(out, |protocol, out| protocol.open(me, out));
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(frame) = frames::next(input) {
            match frame.len() {
                HEADER => self.goodbye = true,
                _ => out.broadcast(frame),
            }
        }
    }

    fn close(&mut self, out: &mut Outbox<'_>) {
        if !self.goodbye {
            self.announce(out, |protocol, out| protocol.close(out));
        }
    }
}

/// In a child: one of the two in its room.
#[derive(Debug, Clone)]
pub(super) enum RelayEnd<P> {
    /// The client.
    Client(Client<P>),
    /// The parent: what it passes on is unpacked.
    Link,
}

impl<P: Protocol> RelayEnd<P> {
    /// The client, the `me`th at its listener.
    pub(super) fn client(protocol: P, me: u64) -> RelayEnd<P> {
        RelayEnd::Client(Client { protocol, me, messages: Vec::new() })
    }

    /// The parent.
    pub(super) fn link() -> RelayEnd<P> {
        RelayEnd::Link
    }
}

/// The client: what its protocol says to all is packed.
#[derive(Debug, Clone)]
pub(super) struct Client<P> {
    protocol: P,
    me: u64,
    /// Emptied before every return: its capacity is kept.
    messages: Vec<Message>,
}

impl<P: Protocol> Client<P> {
    fn pack(&mut self, out: &mut Outbox<'_>, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        event(&mut self.protocol, &mut out.with_messages(&mut self.messages));
        self.messages.drain(..).for_each(|message| frames::broadcast(message, out));
    }
}

impl<P: Protocol> Protocol for RelayEnd<P> {
    fn open(&mut self, _: u64, out: &mut Outbox<'_>) {
        if let RelayEnd::Client(client) = self {
            client.protocol.open(client.me, &mut out.with_messages(&mut client.messages));
            client.messages.clear(); // The parent has announced it.
        }
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        match self {
            RelayEnd::Client(client) => client.pack(out, |protocol, out| protocol.data(input, out)),
            RelayEnd::Link => {
                while let Some(frame) = frames::next(input) {
                    let mut frame = frame.into_chunk();
                    frame.advance(HEADER);
                    out.broadcast(frame);
                }
            }
        }
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        match self {
            RelayEnd::Client(client) => client.pack(out, |protocol, out| protocol.end(input, out)),
            RelayEnd::Link => out.finish(),
        }
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        match self {
            RelayEnd::Client(client) => client.pack(out, |protocol, out| protocol.drain(out)),
            RelayEnd::Link => out.finish(),
        }
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        if let RelayEnd::Client(client) = self {
            client.pack(out, |protocol, out| protocol.refill(out));
        }
    }

    fn close(&mut self, out: &mut Outbox<'_>) {
        if let RelayEnd::Client(client) = self {
            client.pack(out, |protocol, out| protocol.close(out));
            frames::broadcast_goodbye(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proactor::buffer::Chunk;
    use proactor::protocol::testing::{receive, to_others};
    use proactor::protocol::{Chat, Untaken};

    /// Returns what the others receive because of this event, and the reply.
    fn said<P: Protocol>(
        protocol: &mut P,
        event: impl FnOnce(&mut P, &mut Outbox<'_>),
    ) -> (Vec<u8>, Vec<u8>) {
        let mut out = OutboxBuffer::default();
        event(protocol, &mut out.outbox());
        (to_others(&out.messages).concat(), out.replies())
    }

    /// Returns what the others receive because of these bytes, and the reply.
    fn reply_to<P: Protocol>(protocol: &mut P, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut untaken) = (OutboxBuffer::default(), Untaken::default());
        receive(protocol, Chunk::from(bytes.to_vec()), &mut untaken, &mut out);
        (to_others(&out.messages).concat(), out.replies())
    }

    /// What clients would hear of these frames.
    fn unpacked(frames: &[u8]) -> String {
        String::from_utf8(reply_to(&mut RelayEnd::<Chat>::link(), frames).0).unwrap()
    }

    #[test]
    fn what_a_guest_says_to_all_is_heard_as_it_was_said_and_its_coming_once() {
        let mut relay = Relay::new(Chat::default(), 7);
        let mut client = RelayEnd::client(Chat::default(), 7);
        let (joined, _) = said(&mut relay, |relay, out| relay.open(1, out));
        assert_eq!(unpacked(&joined), "* 7 joined\n");
        assert_eq!(said(&mut client, |client, out| client.open(1, out)).0, b"");
        let (frames, _) = reply_to(&mut client, b"hello\nyou\nhalf");
        let (passed, reply) = reply_to(&mut relay, &frames);
        assert_eq!((&passed, &reply[..]), (&frames, &b""[..]));
        assert_eq!(unpacked(&passed), "[7] hello\n[7] you\n");
    }

    #[test]
    fn who_says_farewell_has_left_once() {
        let mut relay = Relay::new(Chat::default(), 7);
        let mut client = RelayEnd::client(Chat::default(), 7);
        said(&mut relay, |relay, out| relay.open(1, out));
        said(&mut client, |client, out| client.open(1, out));
        let (goodbye, _) = said(&mut client, |client, out| client.close(out));
        let (passed, _) = reply_to(&mut relay, &goodbye);
        assert_eq!(unpacked(&passed), "* 7 left\n");
        assert_eq!(said(&mut relay, |relay, out| relay.close(out)).0, b"");
    }

    #[test]
    fn of_who_died_in_mid_word_the_parent_says_that_it_left() {
        let mut relay = Relay::new(Chat::default(), 7);
        let mut client = RelayEnd::client(Chat::default(), 7);
        said(&mut relay, |relay, out| relay.open(1, out));
        said(&mut client, |client, out| client.open(1, out));
        let (frames, _) = reply_to(&mut client, b"never to be heard\n");
        assert_eq!(reply_to(&mut relay, &frames[..frames.len() - 1]).0, b"");
        let (left, _) = said(&mut relay, |relay, out| relay.close(out));
        assert_eq!(unpacked(&left), "* 7 left\n");
    }
}
