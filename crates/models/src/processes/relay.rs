//! How the clients of different children reach one another: the protocols at both ends of the link
//! between a child and its parent.
//!
//! ```text
//!   client ◄─► Client ─┐                ┌─ Link ◄──► client
//!                      │ a group of two,│
//!                Link ◄┘ in each child  └► Link
//!                  ▲                        ▲
//!     frames       ▼                        ▼
//!                Relay ◄── a group in ──► Relay
//!                          the parent
//! ```
//!
//! A child is a group of two: its client, and its link to the parent. What the client broadcasts,
//! the link sends, packed into frames; what the link receives, the client is sent, unpacked. The
//! parent is a group of links, one to each child, and passes every frame on. So the rules of a
//! group hold here as well: a sender waits for a slow receiver, across all three processes.
//!
//! The parent announces a new client, with a copy of the protocol in the state that the child
//! starts with. The child announces the end of its client; its last frame is a goodbye. For a child
//! that ended without one, the parent's copy of the protocol sends what it sends on close.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::frames::{self, HEADER};
use proactor::limits::CloseReason;
use proactor::protocol::{Input, Message, Outbox, OutboxBuffer, Protocol};

/// The parent's end of the link to one child.
#[derive(Debug)]
pub(super) struct Relay<P> {
    /// It is opened, and perhaps closed, and gets no other event.
    protocol: P,
    /// True once the child has sent its last frame.
    goodbye: bool,
}

impl<P: Protocol> Relay<P> {
    /// The end of a link to the child that serves the client; `protocol` is the parent's
    /// copy.
    pub(super) fn new(protocol: P) -> Relay<P> {
        Relay { protocol, goodbye: false }
    }

    /// Broadcasts what the protocol broadcasts. Its replies are dropped: the child replies.
    fn announce(&mut self, out: &mut Outbox<'_>, event: impl FnOnce(&mut P, &mut Outbox<'_>)) {
        let mut asked = OutboxBuffer::default();
        event(&mut self.protocol, &mut asked.outbox());
        asked.context.messages.into_iter().for_each(|message| frames::broadcast(message, out));
    }
}

impl<P: Protocol> Protocol for Relay<P> {
    fn open(&mut self, out: &mut Outbox<'_>) {
        self.announce(out, |protocol, out| protocol.open(out));
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(frame) = frames::next(input) {
            match frame.len() {
                HEADER => self.goodbye = true,
                _ => frames::pass_on(frame, false, out),
            }
        }
    }

    fn missed(&mut self, count: u32, out: &mut Outbox<'_>) {
        let mut asked = OutboxBuffer::default();
        self.protocol.missed(count, &mut asked.outbox());
        out.send(frames::packed(&asked.queue));
    }

    fn close(&mut self, reason: CloseReason, out: &mut Outbox<'_>) {
        if !self.goodbye {
            self.announce(out, |protocol, out| protocol.close(reason, out));
        }
    }
}

/// One of the two members of a group in a child.
#[derive(Debug)]
pub(super) enum RelayEnd<P> {
    /// The client of this child: the broadcasts of its protocol are packed.
    Client {
        /// The protocol that the client is served.
        protocol: P,
        /// Emptied before every return: its capacity is kept.
        messages: Vec<Message>,
    },
    /// The link to the parent: its input is unpacked.
    Link,
}

impl<P: Protocol> RelayEnd<P> {
    /// The client of this child.
    pub(super) fn client(protocol: P) -> RelayEnd<P> {
        RelayEnd::Client { protocol, messages: Vec::new() }
    }

    /// Passes an event to the protocol of a client, and packs what that broadcasts. Returns whether
    /// this is the client.
    fn pack(&mut self, out: &mut Outbox<'_>, event: impl FnOnce(&mut P, &mut Outbox<'_>)) -> bool {
        let RelayEnd::Client { protocol, messages } = self else { return false };
        // Frames that were packed before are not packed again.
        out.swap_messages(messages);
        // After a panic as well: what is not packed would be taken for frames.
        let called = catch_unwind(AssertUnwindSafe(|| event(protocol, out)));
        out.swap_messages(messages);
        messages.drain(..).for_each(|message| frames::broadcast(message, out));
        called.unwrap_or_else(|panic| resume_unwind(panic));
        true
    }
}

impl<P: Protocol> Protocol for RelayEnd<P> {
    fn open(&mut self, out: &mut Outbox<'_>) {
        if let RelayEnd::Client { protocol, messages } = self {
            let called = catch_unwind(AssertUnwindSafe(|| protocol.open(out)));
            out.swap_messages(messages);
            messages.clear(); // The parent has announced it.
            called.unwrap_or_else(|panic| resume_unwind(panic));
        }
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        if !self.pack(out, |protocol, out| protocol.data(input, out)) {
            while let Some(frame) = frames::next(input) {
                frames::pass_on(frame, true, out);
            }
        }
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        if !self.pack(out, |protocol, out| protocol.end(input, out)) {
            out.finish();
        }
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        if !self.pack(out, |protocol, out| protocol.drain(out)) {
            out.finish();
        }
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        self.pack(out, |protocol, out| protocol.timer(out));
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        self.pack(out, |protocol, out| protocol.wake(out));
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        self.pack(out, |protocol, out| protocol.refill(out));
    }

    fn missed(&mut self, count: u32, out: &mut Outbox<'_>) {
        self.pack(out, |protocol, out| protocol.missed(count, out));
    }

    fn close(&mut self, reason: CloseReason, out: &mut Outbox<'_>) {
        if self.pack(out, |protocol, out| protocol.close(reason, out)) {
            out.broadcast(&[0; HEADER][..]); // The goodbye: an empty frame.
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
    fn sent_by<P: Protocol>(
        protocol: &mut P,
        event: impl FnOnce(&mut P, &mut Outbox<'_>),
    ) -> (Vec<u8>, Vec<u8>) {
        let mut out = OutboxBuffer::default();
        event(protocol, &mut out.outbox());
        (to_others(&out.context.messages).concat(), out.replies())
    }

    /// Returns what the others receive because of these bytes, and the reply.
    fn reply_to<P: Protocol>(protocol: &mut P, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut untaken) = (OutboxBuffer::default(), Untaken::default());
        receive(protocol, Chunk::from(bytes.to_vec()), &mut untaken, &mut out);
        (to_others(&out.context.messages).concat(), out.replies())
    }

    /// Returns what clients would receive for these frames.
    fn unpacked(frames: &[u8]) -> String {
        String::from_utf8(reply_to(&mut RelayEnd::<Chat>::Link, frames).0).unwrap()
    }

    #[test]
    fn broadcasts_of_a_client_arrive_unchanged_and_its_join_once() {
        let mut relay = Relay::new(Chat::new(7));
        let mut client = RelayEnd::client(Chat::new(7));
        let (joined, _) = sent_by(&mut relay, |relay, out| relay.open(out));
        assert_eq!(unpacked(&joined), "* 7 joined\n");
        assert_eq!(sent_by(&mut client, |client, out| client.open(out)).0, b"");
        let (frames, _) = reply_to(&mut client, b"hello\nyou\nhalf");
        let (passed, reply) = reply_to(&mut relay, &frames);
        assert_eq!((&passed, &reply[..]), (&frames, &b""[..]));
        assert_eq!(unpacked(&passed), "[7] hello\n[7] you\n");
    }

    #[test]
    fn a_client_that_sent_its_goodbye_leaves_once() {
        let mut relay = Relay::new(Chat::new(7));
        let mut client = RelayEnd::client(Chat::new(7));
        sent_by(&mut relay, |relay, out| relay.open(out));
        sent_by(&mut client, |client, out| client.open(out));
        let (goodbye, _) =
            sent_by(&mut client, |client, out| client.close(CloseReason::Finished, out));
        let (passed, _) = reply_to(&mut relay, &goodbye);
        assert_eq!(unpacked(&passed), "* 7 left\n");
        assert_eq!(
            sent_by(&mut relay, |relay, out| relay.close(CloseReason::Finished, out)).0,
            b""
        );
    }

    #[test]
    fn the_parent_announces_the_end_of_a_child_that_died_in_a_frame() {
        let mut relay = Relay::new(Chat::new(7));
        let mut client = RelayEnd::client(Chat::new(7));
        sent_by(&mut relay, |relay, out| relay.open(out));
        sent_by(&mut client, |client, out| client.open(out));
        let (frames, _) = reply_to(&mut client, b"never passed on\n");
        assert_eq!(reply_to(&mut relay, &frames[..frames.len() - 1]).0, b"");
        let (left, _) = sent_by(&mut relay, |relay, out| relay.close(CloseReason::Finished, out));
        assert_eq!(unpacked(&left), "* 7 left\n");
    }
}
