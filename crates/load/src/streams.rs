//! The byte streams of a run, without sockets: what each connection may send, which bytes are
//! outstanding, and how long the replies took. An engine moves the bytes and decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::byte_stream::{BlockBytes, ByteStream, UNUSED};
use super::error::{LoadError, Result};
use proactor::clock::Nanos;
use proactor_report::Latencies;

/// The number of connections, and the load on each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LoadShape {
    /// The number of connections.
    pub connections: usize,
    /// The bytes of a message.
    pub size: usize,
    /// The maximum number of outstanding messages of a connection.
    pub depth: usize,
}

impl LoadShape {
    /// Returns the maximum number of outstanding bytes of a connection.
    pub fn window(&self) -> usize {
        self.size.saturating_mul(self.depth)
    }
}

/// A request and its reply, each time the same; neither is empty.
pub type Example = (Arc<[u8]>, Arc<[u8]>);

/// The protocol of a server, and what is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadProtocol {
    /// The name of the protocol.
    #[serde(rename = "protocol")]
    pub name: String,
    /// What is sent and must be received for it, message after message; `None` for pseudo-random
    /// bytes that the server echoes.
    #[serde(skip)]
    pub example: Option<Example>,
}

impl LoadProtocol {
    /// Returns echo, with pseudo-random bytes.
    pub fn echo() -> LoadProtocol {
        LoadProtocol { name: "echo".to_owned(), example: None }
    }
}

/// The streams of all connections.
///
/// Invariant of a stream: `sent` and `received` never exceed the bytes of the queued messages and
/// their replies, and the received bytes equal those of `replies_with` from offset 0. (An engine
/// may learn that bytes were received before it learns that they were sent.) A message is *queued*
/// when it may be sent; its service time begins then, and ends when the last byte of its reply has
/// been received.
#[derive(Debug)]
pub(super) struct ReplyStreams {
    pub(super) shape: LoadShape,
    pub(super) protocol: LoadProtocol,
    /// The bytes of a reply.
    pub(super) reply_size: usize,
    pub(super) streams: Vec<ReplyStream>,
    block: BlockBytes,
    /// While true, new messages are queued.
    pub(super) sending: bool,
    /// The connections that the server has closed; `None` until it is expected to close them.
    pub(super) closed: Option<usize>,
    /// Bytes of replies to queued messages that are not yet received, over all connections.
    pub(super) outstanding: u64,
    /// The number of verified replies.
    pub(super) messages: u64,
    pub(super) latencies: Latencies,
}

/// The stream of one connection. `replies` are messages, the other counters are bytes.
#[derive(Debug)]
pub(super) struct ReplyStream {
    sends: ByteStream,
    replies_with: ByteStream,
    sent: u64,
    received: u64,
    pub(super) replies: u64,
    /// When each message without a whole reply was queued.
    queued_at: VecDeque<Nanos>,
    /// When bytes last arrived, or when the stream last became outstanding.
    last_progress: Nanos,
}

impl ReplyStreams {
    pub(super) fn new(shape: LoadShape, protocol: LoadProtocol, seed: u64) -> ReplyStreams {
        let repeated = |message: &Arc<[u8]>| ByteStream::Repeated(message.clone());
        let random = |connection| ByteStream::random(seed, connection);
        let example = protocol.example.as_ref();
        let stream = |connection| ReplyStream {
            sends: example.map_or_else(|| random(connection), |(request, _)| repeated(request)),
            replies_with: example.map_or_else(|| random(connection), |(_, reply)| repeated(reply)),
            sent: 0,
            received: 0,
            replies: 0,
            queued_at: VecDeque::with_capacity(shape.depth),
            last_progress: Nanos(0),
        };
        ReplyStreams {
            shape,
            reply_size: example.map_or(shape.size, |(_, reply)| reply.len()),
            streams: (0..shape.connections).map(stream).collect(),
            protocol,
            block: UNUSED,
            sending: false,
            closed: None,
            outstanding: 0,
            messages: 0,
            latencies: Latencies::new(),
        }
    }

    /// Queues the messages that `conn` may send now, and returns how many of its bytes are queued
    /// and unsent.
    pub(super) fn outgoing(&mut self, conn: usize, now: Nanos) -> usize {
        let LoadShape { size, depth, .. } = self.shape;
        let stream = &mut self.streams[conn];
        if self.sending {
            if stream.queued_at.is_empty() {
                stream.last_progress = now;
            }
            while stream.queued_at.len() < depth {
                stream.queued_at.push_back(now);
                self.outstanding += self.reply_size as u64;
            }
        }
        (stream.queued() * size as u64 - stream.sent) as usize
    }

    /// Writes the next bytes of `conn`, up to the length of `out`.
    pub(super) fn fill(&mut self, conn: usize, out: &mut [u8]) {
        let stream = &self.streams[conn];
        stream.sends.fill(&mut self.block, stream.sent, out);
    }

    /// Records that bytes were sent.
    pub(super) fn sent(&mut self, conn: usize, bytes: usize) {
        self.streams[conn].sent += bytes as u64;
    }

    /// Verifies and records received bytes.
    ///
    /// # Errors
    /// A byte differs from the expected one, or none was expected.
    pub(super) fn received(&mut self, conn: usize, bytes: &[u8], now: Nanos) -> Result {
        let size = self.reply_size as u64;
        let stream = &mut self.streams[conn];
        let outstanding = stream.outstanding(self.reply_size) as usize;
        let expected = &bytes[..outstanding.min(bytes.len())];
        let checked = stream.replies_with.check(&mut self.block, stream.received, expected);
        checked.map_err(|at| LoadError::Wrong { connection: conn, at })?;
        // A wrong byte, if there is one, is the better error.
        if let surplus @ 1.. = bytes.len() - expected.len() {
            let offset = stream.queued() * size;
            return Err(LoadError::Surplus { connection: conn, offset, surplus });
        }
        stream.received += bytes.len() as u64;
        stream.last_progress = now;
        self.outstanding -= bytes.len() as u64;
        while stream.received >= (stream.replies + 1) * size {
            let queued_at = stream.queued_at.pop_front().expect("a reply has its message");
            self.latencies.record(now.since(queued_at));
            stream.replies += 1;
            self.messages += 1;
        }
        Ok(())
    }

    /// Records that the server closed its side.
    ///
    /// # Errors
    /// The connection was still in use.
    pub(super) fn ended(&mut self, conn: usize) -> Result {
        let stream = &self.streams[conn];
        let (offset, outstanding) = (stream.received, stream.outstanding(self.reply_size));
        match &mut self.closed {
            Some(closed) if outstanding == 0 => *closed += 1,
            _ => return Err(LoadError::Ended { connection: conn, offset, outstanding }),
        }
        Ok(())
    }

    #[cold]
    pub(super) fn broken(&self, conn: usize, error: std::io::Error) -> LoadError {
        LoadError::Broken { connection: conn, offset: self.streams[conn].received, error }
    }

    /// Looks for a connection that has waited for bytes longer than `timeout`.
    ///
    /// # Errors
    /// The first such connection.
    pub(super) fn check_progress(&self, now: Nanos, timeout: Duration) -> Result {
        for (connection, stream) in self.streams.iter().enumerate() {
            let outstanding = stream.outstanding(self.reply_size);
            if outstanding > 0 && now.since(stream.last_progress) >= timeout {
                let offset = stream.received;
                return Err(LoadError::Stalled { connection, offset, outstanding, timeout });
            }
        }
        Ok(())
    }
}

impl ReplyStream {
    /// Returns how many messages were ever queued.
    fn queued(&self) -> u64 {
        self.replies + self.queued_at.len() as u64
    }

    /// Returns how many bytes of replies are outstanding.
    fn outstanding(&self, reply_size: usize) -> u64 {
        self.queued() * reply_size as u64 - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LoadShape = LoadShape { connections: 2, size: 10, depth: 3 };

    fn at(micros: u64) -> Nanos {
        Nanos(micros * 1000)
    }

    /// Sends all queued bytes of `conn` and returns them.
    fn send_all(streams: &mut ReplyStreams, conn: usize, now: Nanos) -> Vec<u8> {
        let mut bytes = vec![0; streams.outgoing(conn, now)];
        streams.fill(conn, &mut bytes);
        streams.sent(conn, bytes.len());
        bytes
    }

    fn sending() -> ReplyStreams {
        let mut streams = ReplyStreams::new(SHAPE, LoadProtocol::echo(), 7);
        streams.sending = true;
        streams
    }

    #[test]
    fn at_most_depth_messages_are_outstanding() {
        let mut streams = sending();
        let sent = send_all(&mut streams, 0, at(1));
        assert_eq!(sent.len(), 30);
        assert_eq!(streams.outgoing(0, at(1)), 0);
        streams.received(0, &sent[..9], at(2)).expect("its bytes");
        assert_eq!(streams.outgoing(0, at(2)), 0, "nine bytes are no reply");
        streams.received(0, &sent[9..20], at(3)).expect("its bytes");
        assert_eq!(streams.outgoing(0, at(3)), 20);
        assert_eq!(streams.messages, 2);
    }

    #[test]
    fn a_latency_begins_when_the_message_is_queued() {
        let mut streams = sending();
        let first = send_all(&mut streams, 0, at(1));
        streams.received(0, &first, at(5)).expect("its bytes");
        let second = send_all(&mut streams, 0, at(7));
        streams.received(0, &second, at(9)).expect("its bytes");
        assert_eq!(streams.latencies.len(), 6);
        let max = streams.latencies.max().expect("six were recorded").as_nanos();
        assert!((4000..4010).contains(&max), "{max}");
    }

    #[test]
    fn after_the_end_queued_messages_are_sent_and_no_more_are_queued() {
        let mut streams = sending();
        streams.outgoing(0, at(1));
        let mut part = [0; 4];
        streams.fill(0, &mut part);
        streams.sent(0, 4);
        streams.sending = false;
        let rest = send_all(&mut streams, 0, at(2));
        assert_eq!(rest.len(), 26, "the queued bytes are sent to their end");
        assert_eq!(streams.outgoing(1, at(2)), 0);
        assert_ne!(streams.outstanding, 0);
        streams.received(0, &part, at(3)).expect("its bytes");
        streams.received(0, &rest, at(3)).expect("its bytes");
        assert_eq!(streams.outstanding, 0);
    }

    #[test]
    fn bytes_that_were_never_sent_are_surplus() {
        let mut streams = sending();
        let mut sent = send_all(&mut streams, 1, at(1));
        sent.push(0);
        let error = streams.received(1, &sent, at(2)).expect_err("a byte too many");
        assert!(
            matches!(error, LoadError::Surplus { connection: 1, offset: 30, surplus: 1 }),
            "{error}"
        );
    }

    #[test]
    fn the_server_may_close_only_after_the_client() {
        let mut streams = sending();
        let sent = send_all(&mut streams, 0, at(1));
        let error = streams.ended(0).expect_err("thirty bytes are outstanding");
        assert!(matches!(error, LoadError::Ended { outstanding: 30, .. }), "{error}");
        streams.received(0, &sent, at(2)).expect("its bytes");
        let error = streams.ended(0).expect_err("the client is not closing").to_string();
        assert_eq!(error, "the server closed connection 0 after 30 bytes of replies");
        streams.closed = Some(0);
        streams.ended(0).expect("the client is closing");
        streams.ended(1).expect("the client is closing");
        assert_eq!(streams.closed, Some(SHAPE.connections));
    }

    #[test]
    fn a_connection_that_waits_too_long_has_stalled() {
        let second = Duration::from_secs(1);
        let mut streams = sending();
        let sent = send_all(&mut streams, 0, at(0));
        streams.received(0, &sent, at(900_000)).expect("its bytes");
        streams.check_progress(at(5_000_000), second).expect("nothing is outstanding");
        send_all(&mut streams, 1, at(5_000_000));
        streams.check_progress(at(5_900_000), second).expect("not yet");
        let error = streams.check_progress(at(6_000_000), second).expect_err("a second has passed");
        assert!(matches!(error, LoadError::Stalled { connection: 1, .. }), "{error}");
    }
}
