//! The byte streams of a run, without sockets: what each connection may send, which bytes are
//! outstanding, and how long the replies took. An engine moves the bytes and decides nothing.

use std::time::Duration;

use serde::Serialize;

use super::error::LoadError;
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
/// Invariant of a stream: `sent` and `received` never exceed `queued`, and the received bytes equal
/// the connection's pattern from offset 0. (An engine may learn that bytes were received before it
/// learns that they were sent.) A message is *queued* when it may be sent; its service time begins
/// then, and ends when the last byte of its reply has been received.
#[derive(Debug)]
pub(super) struct EchoStreams {
    pub(super) shape: LoadShape,
    streams: Vec<EchoStream>,
    /// When each outstanding message was queued: `depth` entries per connection.
    queued_at: Vec<Nanos>,
    /// While true, new messages are queued.
    pub(super) sending: bool,
    /// True once the server is expected to close the connections.
    closing: bool,
    /// The connections that the server has closed since then.
    closed: usize,
    /// Bytes queued and not yet received, over all connections.
    outstanding: u64,
    /// The number of verified replies.
    pub(super) messages: u64,
    pub(super) latencies: Latencies,
}

/// The stream of one connection. The counters are bytes, and `replies` is messages.
#[derive(Debug)]
struct EchoStream {
    pattern: Pattern,
    queued: u64,
    sent: u64,
    received: u64,
    replies: u64,
    /// When bytes last arrived, or when the stream last became outstanding.
    last_progress: Nanos,
}

impl EchoStreams {
    pub(super) fn new(shape: LoadShape, seed: u64) -> EchoStreams {
        let stream = |connection| EchoStream {
            pattern: Pattern::new(seed, connection),
            queued: 0,
            sent: 0,
            received: 0,
            replies: 0,
            last_progress: Nanos(0),
        };
        EchoStreams {
            shape,
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
            if stream.queued == stream.received {
                stream.last_progress = now;
            }
            let mut message = stream.queued / size as u64;
            while message < stream.replies + depth as u64 {
                self.queued_at[conn * depth + (message % depth as u64) as usize] = now;
                stream.queued += size as u64;
                self.outstanding += size as u64;
                message += 1;
            }
        }
        (stream.queued - stream.sent) as usize
    }

    /// Writes the next bytes of `conn`, up to the length of `out`.
    pub(super) fn fill(&self, conn: usize, out: &mut [u8]) {
        let stream = &self.streams[conn];
        stream.pattern.fill(stream.sent, out);
    }

    /// Records that bytes were sent.
    pub(super) fn sent(&mut self, conn: usize, bytes: usize) {
        self.streams[conn].sent += bytes as u64;
    }

    /// Verifies and records received bytes.
    ///
    /// # Errors
    /// A byte differs from what was sent, or was never sent.
    pub(super) fn received(
        &mut self,
        conn: usize,
        bytes: &[u8],
        now: Nanos,
    ) -> Result<(), LoadError> {
        let LoadShape { size, depth, .. } = self.shape;
        let stream = &mut self.streams[conn];
        let wrong = |at| LoadError::Wrong { connection: conn, at };
        let outstanding = (stream.queued - stream.received) as usize;
        if bytes.len() > outstanding {
            // A wrong byte, if there is one, is the better error.
            stream.pattern.check(stream.received, &bytes[..outstanding]).map_err(wrong)?;
            let surplus = bytes.len() - outstanding;
            return Err(LoadError::Surplus { connection: conn, offset: stream.queued, surplus });
        }
        stream.pattern.check(stream.received, bytes).map_err(wrong)?;
        stream.received += bytes.len() as u64;
        stream.last_progress = now;
        self.outstanding -= bytes.len() as u64;
        while stream.received >= (stream.replies + 1) * size as u64 {
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
        let outstanding = stream.queued - stream.received;
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
            let outstanding = stream.queued - stream.received;
            if outstanding > 0 && now.since(stream.last_progress) >= timeout {
                let offset = stream.received;
                return Err(LoadError::Stalled { connection, offset, outstanding, timeout });
            }
        }
        Ok(())
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
    fn send_all(streams: &mut EchoStreams, conn: usize, now: Nanos) -> Vec<u8> {
        let mut bytes = vec![0; streams.outgoing(conn, now)];
        streams.fill(conn, &mut bytes);
        streams.sent(conn, bytes.len());
        bytes
    }

    fn sending() -> EchoStreams {
        let mut streams = EchoStreams::new(SHAPE, 7);
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
