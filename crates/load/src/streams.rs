//! The byte streams of a run, without sockets: what each connection may send, which bytes are
//! outstanding, and how long the replies took. An engine moves the bytes and decides nothing.

use std::time::Duration;

use serde::Serialize;

use super::error::LoadError;
use super::example::{self, LoadProtocol};
use super::pattern::Pattern;
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

/// The streams of all connections.
///
/// Invariant of a stream: `sent` and `received` never exceed the bytes of `queued` messages and
/// replies, and the received bytes equal the expected ones from offset 0: the example's reply again
/// and again, or without an example, the connection's pattern. (An engine may learn that bytes were
/// received before it learns that they were sent.) A message is *queued* when it may be sent; its
/// service time begins then, and ends when the last byte of its reply has been received.
#[derive(Debug)]
pub(super) struct ReplyStreams {
    pub(super) shape: LoadShape,
    pub(super) protocol: LoadProtocol,
    /// The bytes of a reply.
    pub(super) reply_size: usize,
    streams: Vec<ReplyStream>,
    /// When each outstanding message was queued: `depth` entries per connection.
    queued_at: Vec<Nanos>,
    /// While true, new messages are queued.
    pub(super) sending: bool,
    /// True once the server is expected to close the connections.
    closing: bool,
    /// The connections that the server has closed since then.
    closed: usize,
    /// Bytes of replies to queued messages that are not yet received, over all connections.
    outstanding: u64,
    /// The number of verified replies.
    pub(super) messages: u64,
    pub(super) latencies: Latencies,
}

/// The stream of one connection. `queued` and `replies` are messages, the other counters are bytes.
#[derive(Debug)]
struct ReplyStream {
    pattern: Pattern,
    queued: u64,
    sent: u64,
    received: u64,
    replies: u64,
    /// When bytes last arrived, or when the stream last became outstanding.
    last_progress: Nanos,
}

impl ReplyStreams {
    pub(super) fn new(shape: LoadShape, protocol: LoadProtocol, seed: u64) -> ReplyStreams {
        let stream = |connection| ReplyStream {
            pattern: Pattern::new(seed, connection),
            queued: 0,
            sent: 0,
            received: 0,
            replies: 0,
            last_progress: Nanos(0),
        };
        ReplyStreams {
            shape,
            reply_size: protocol.example.as_ref().map_or(shape.size, |(_, reply)| reply.len()),
            protocol,
            streams: (0..shape.connections).map(stream).collect(),
            queued_at: vec![Nanos(0); shape.connections * shape.depth],
            sending: false,
            closing: false,
            closed: 0,
            outstanding: 0,
            messages: 0,
            latencies: Latencies::new(),
        }
    }

    /// Expects the server to close the connections from now on.
    pub(super) fn set_closing(&mut self) {
        self.sending = false;
        self.closing = true;
    }

    pub(super) fn all_closed(&self) -> bool {
        self.closed == self.streams.len()
    }

    /// Returns true if no reply is outstanding.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0
    }

    /// Returns the smallest and the largest number of replies of a connection.
    pub(super) fn replies_per_connection(&self) -> (u64, u64) {
        let replies = || self.streams.iter().map(|stream| stream.replies);
        (replies().min().unwrap_or(0), replies().max().unwrap_or(0))
    }

    /// Queues the messages that `conn` may send now, and returns how many of its bytes are queued
    /// and unsent.
    pub(super) fn outgoing(&mut self, conn: usize, now: Nanos) -> usize {
        let LoadShape { size, depth, .. } = self.shape;
        let stream = &mut self.streams[conn];
        if self.sending {
            if stream.queued == stream.replies {
                stream.last_progress = now;
            }
            while stream.queued < stream.replies + depth as u64 {
                self.queued_at[conn * depth + (stream.queued % depth as u64) as usize] = now;
                stream.queued += 1;
                self.outstanding += self.reply_size as u64;
            }
        }
        (stream.queued * size as u64 - stream.sent) as usize
    }

    /// Writes the next bytes of `conn`, up to the length of `out`.
    pub(super) fn fill(&self, conn: usize, out: &mut [u8]) {
        let stream = &self.streams[conn];
        match &self.protocol.example {
            None => stream.pattern.fill(stream.sent, out),
            Some((request, _)) => example::fill(request, stream.sent, out),
        }
    }

    /// Records that bytes were sent.
    pub(super) fn sent(&mut self, conn: usize, bytes: usize) {
        self.streams[conn].sent += bytes as u64;
    }

    /// Verifies and records received bytes.
    ///
    /// # Errors
    /// A byte differs from the expected one, or none was expected.
    pub(super) fn received(
        &mut self,
        conn: usize,
        bytes: &[u8],
        now: Nanos,
    ) -> Result<(), LoadError> {
        let (depth, size) = (self.shape.depth, self.reply_size as u64);
        let stream = &mut self.streams[conn];
        let outstanding = stream.outstanding(self.reply_size) as usize;
        let expected = &bytes[..outstanding.min(bytes.len())];
        let checked = match &self.protocol.example {
            None => stream.pattern.check(stream.received, expected),
            Some((_, reply)) => example::check(reply, stream.received, expected),
        };
        checked.map_err(|at| LoadError::Wrong { connection: conn, at })?;
        // A wrong byte, if there is one, is the better error.
        if let surplus @ 1.. = bytes.len() - expected.len() {
            let offset = stream.queued * size;
            return Err(LoadError::Surplus { connection: conn, offset, surplus });
        }
        stream.received += bytes.len() as u64;
        stream.last_progress = now;
        self.outstanding -= bytes.len() as u64;
        while stream.received >= (stream.replies + 1) * size {
            let slot = conn * depth + (stream.replies % depth as u64) as usize;
            self.latencies.record(now.since(self.queued_at[slot]));
            stream.replies += 1;
            self.messages += 1;
        }
        Ok(())
    }

    /// Records that the server closed its side.
    ///
    /// # Errors
    /// The connection was still in use.
    pub(super) fn ended(&mut self, conn: usize) -> Result<(), LoadError> {
        let stream = &self.streams[conn];
        let outstanding = stream.outstanding(self.reply_size);
        if self.closing && outstanding == 0 {
            self.closed += 1;
            return Ok(());
        }
        Err(LoadError::Ended { connection: conn, offset: stream.received, outstanding })
    }

    #[cold]
    pub(super) fn broken(&self, conn: usize, error: std::io::Error) -> LoadError {
        LoadError::Broken { connection: conn, offset: self.streams[conn].received, error }
    }

    /// Looks for a connection that has waited for bytes longer than `timeout`.
    ///
    /// # Errors
    /// The first such connection.
    pub(super) fn check_progress(&self, now: Nanos, timeout: Duration) -> Result<(), LoadError> {
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
    /// Returns how many bytes of replies are outstanding.
    fn outstanding(&self, reply_size: usize) -> u64 {
        self.queued * reply_size as u64 - self.received
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
        assert!(!streams.is_idle());
        streams.received(0, &part, at(3)).expect("its bytes");
        streams.received(0, &rest, at(3)).expect("its bytes");
        assert!(streams.is_idle());
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
        assert!(streams.ended(0).is_err(), "the client is not closing");
        streams.set_closing();
        streams.ended(0).expect("the client is closing");
        streams.ended(1).expect("the client is closing");
        assert!(streams.all_closed());
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
