//! The byte streams of a run, without sockets: what each connection may send, which bytes are
//! outstanding, and how long the replies took. An engine moves the bytes and decides nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::byte_stream::{BlockBytes, ByteStream, UNUSED};
use super::error::{LoadError, Result};
use super::send_times::SendTimes;
use super::workload::{LoadShape, Workload};
use proactor::clock::Nanos;
use proactor_report::Latencies;

/// An offer that is sent later than this after its planned time is late.
const LATE: Duration = Duration::from_millis(1);

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
/// been received. In a closed loop it is queued as soon as its connection has fewer than `depth`
/// outstanding messages. In an open loop it is *due* at its planned time, and queued then unless
/// its connection has as many as that; its latency begins at the planned time.
#[derive(Debug)]
pub(super) struct ReplyStreams {
    pub(super) workload: Workload,
    pub(super) protocol: LoadProtocol,
    /// The bytes of a reply.
    pub(super) reply_size: usize,
    pub(super) streams: Vec<ReplyStream>,
    seed: u64,
    block: BlockBytes,
    /// While true, new messages are queued.
    pub(super) sending: bool,
    /// The connections that the server has closed; `None` until it is expected to close them.
    pub(super) closed: Option<usize>,
    /// Bytes of replies to queued messages that are not yet received, over all connections.
    pub(super) outstanding: u64,
    /// The number of verified replies.
    pub(super) messages: u64,
    /// When the next message of each connection is due, in an open loop.
    plan: BinaryHeap<Reverse<(Nanos, usize)>>,
    pub(super) offers: Offers,
    /// From the planned time of each message to its reply.
    pub(super) latencies: Latencies,
    pub(super) open: OpenTimes,
}

/// The offers of an open loop, in one slice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offers {
    /// How many were due.
    pub(super) due: u64,
    /// How many of these were sent more than [`LATE`] after their planned time.
    pub(super) late: u64,
    /// How many of these were never sent.
    pub(super) unsent: u64,
}

/// The parts of the latencies of an open loop.
#[derive(Debug, Default)]
pub(super) struct OpenTimes {
    /// From the planned time of a message to its first byte being sent.
    pub(super) offer_lags: Latencies,
    /// From then to the last byte of its reply.
    pub(super) service_times: Latencies,
}

/// The stream of one connection. `replies` are messages, the other counters are bytes.
#[derive(Debug)]
pub(super) struct ReplyStream {
    sends: ByteStream,
    replies_with: ByteStream,
    sent: u64,
    received: u64,
    pub(super) replies: u64,
    /// The messages without a whole reply.
    waiting: VecDeque<QueuedMessage>,
    /// When bytes last arrived, or when the stream last became outstanding.
    last_progress: Nanos,
    planned: Option<Planned>,
}

/// A message without a whole reply.
#[derive(Debug, Clone, Copy)]
struct QueuedMessage {
    planned: Nanos,
    queued: Nanos,
}

/// The plan of one connection in an open loop.
#[derive(Debug)]
struct Planned {
    /// The first time that is not yet due.
    next: SendTimes,
    /// The first time whose message is not queued: `due` times earlier.
    unqueued: SendTimes,
    due: u64,
}

impl ReplyStreams {
    pub(super) fn new(workload: Workload, protocol: LoadProtocol, seed: u64) -> ReplyStreams {
        let repeated = |message: &Arc<[u8]>| ByteStream::Repeated(message.clone());
        let random = |connection| ByteStream::random(seed, connection);
        let example = protocol.example.as_ref();
        let LoadShape { connections, size, depth } = workload.shape;
        let stream = |connection| ReplyStream {
            sends: example.map_or_else(|| random(connection), |(request, _)| repeated(request)),
            replies_with: example.map_or_else(|| random(connection), |(_, reply)| repeated(reply)),
            sent: 0,
            received: 0,
            replies: 0,
            waiting: VecDeque::with_capacity(depth),
            last_progress: Nanos(0),
            planned: None,
        };
        ReplyStreams {
            workload,
            reply_size: example.map_or(size, |(_, reply)| reply.len()),
            streams: (0..connections).map(stream).collect(),
            protocol,
            seed,
            block: UNUSED,
            sending: false,
            closed: None,
            outstanding: 0,
            messages: 0,
            plan: BinaryHeap::with_capacity(connections),
            offers: Offers::default(),
            latencies: Latencies::new(),
            open: OpenTimes::default(),
        }
    }

    /// Begins a slice. An open loop makes a new plan.
    pub(super) fn begin(&mut self, start: Nanos) {
        (self.sending, self.offers) = (true, Offers::default());
        let Some(offer) = self.workload.offer else { return };
        self.plan.clear();
        let connections = self.streams.len();
        for (conn, stream) in self.streams.iter_mut().enumerate() {
            // Each slice has its own random intervals.
            let seed = self.seed ^ start.0;
            let next = SendTimes::new(offer, start, conn, connections, seed);
            self.plan.push(Reverse((next.next(), conn)));
            stream.planned = Some(Planned { unqueued: next.clone(), next, due: 0 });
        }
    }

    /// Returns a connection whose next message has become due before `limit`.
    pub(super) fn next_due(&mut self, limit: Nanos) -> Option<usize> {
        let Reverse((time, conn)) = *self.plan.peek()?;
        if time >= limit {
            return None;
        }
        let planned = self.streams[conn].planned.as_mut()?;
        planned.due += 1;
        self.offers.due += 1;
        planned.next.take();
        *self.plan.peek_mut()? = Reverse((planned.next.next(), conn));
        Some(conn)
    }

    /// Ends the sending of a slice. What is due and not queued is never sent: its latency is at
    /// least the time until now.
    pub(super) fn stop_sending(&mut self, now: Nanos) {
        self.sending = false;
        for planned in self.streams.iter_mut().filter_map(|stream| stream.planned.as_mut()) {
            for _ in 0..std::mem::take(&mut planned.due) {
                self.offers.unsent += 1;
                self.latencies.record(now.since(planned.unqueued.take()));
            }
        }
    }

    /// Queues the messages that `conn` may send now, and returns how many of its bytes are queued
    /// and unsent.
    pub(super) fn outgoing(&mut self, conn: usize, now: Nanos) -> usize {
        let LoadShape { size, depth, .. } = self.workload.shape;
        let stream = &mut self.streams[conn];
        if self.sending {
            if stream.waiting.is_empty() {
                stream.last_progress = now;
            }
            while stream.waiting.len() < depth {
                let Some(planned) = stream.next_queued(now) else { break };
                if stream.planned.is_some() {
                    let lag = now.since(planned);
                    self.open.offer_lags.record(lag);
                    self.offers.late += u64::from(lag > LATE);
                }
                stream.waiting.push_back(QueuedMessage { planned, queued: now });
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
            let message = stream.waiting.pop_front().expect("a reply has its message");
            self.latencies.record(now.since(message.planned));
            if stream.planned.is_some() {
                self.open.service_times.record(now.since(message.queued));
            }
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

    /// Forgets the times of a warm-up.
    pub(super) fn clear_times(&mut self) {
        for times in [&mut self.latencies, &mut self.open.offer_lags, &mut self.open.service_times]
        {
            times.clear();
        }
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
    /// Returns the planned time of the message to queue now: now itself in a closed loop, and in an
    /// open loop `None` unless one is due.
    fn next_queued(&mut self, now: Nanos) -> Option<Nanos> {
        let Some(planned) = &mut self.planned else { return Some(now) };
        planned.due = planned.due.checked_sub(1)?;
        Some(planned.unqueued.take())
    }

    /// Returns how many messages were ever queued.
    fn queued(&self) -> u64 {
        self.replies + self.waiting.len() as u64
    }

    /// Returns how many bytes of replies are outstanding.
    fn outstanding(&self, reply_size: usize) -> u64 {
        self.queued() * reply_size as u64 - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::send_times::{Arrivals, Offer};

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
        let mut streams = ReplyStreams::new(SHAPE.into(), LoadProtocol::echo(), 7);
        streams.begin(at(0));
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

    /// An open loop with a message every 100 µs, alternately on the two connections.
    fn open() -> ReplyStreams {
        let offer = Some(Offer { rate: 10_000.0, arrivals: Arrivals::Constant });
        let workload = Workload { shape: SHAPE, offer };
        let mut streams = ReplyStreams::new(workload, LoadProtocol::echo(), 7);
        streams.begin(at(0));
        streams
    }

    /// Queues all that is due at a time.
    fn offer(streams: &mut ReplyStreams, now: Nanos) {
        while let Some(conn) = streams.next_due(now) {
            streams.outgoing(conn, now);
        }
    }

    #[test]
    fn an_open_loop_counts_from_the_planned_time() {
        let mut streams = open();
        offer(&mut streams, at(450));
        assert_eq!((streams.offers.due, streams.offers.late, streams.outstanding), (5, 0, 50));
        let bytes = send_all(&mut streams, 0, at(450));
        assert_eq!(bytes.len(), 30);
        streams.received(0, &bytes, at(500)).expect("its bytes");
        let max = |times: &Latencies| times.max().expect("three were recorded").as_micros();
        assert_eq!(max(&streams.latencies), 500, "planned at 0");
        assert_eq!(max(&streams.open.offer_lags), 450);
        assert_eq!(max(&streams.open.service_times), 50);
    }

    #[test]
    fn an_open_loop_offers_all_that_was_planned_however_late() {
        let mut streams = open();
        offer(&mut streams, at(1000));
        assert_eq!((streams.offers.due, streams.outstanding), (10, 60), "three on each");
        let bytes = send_all(&mut streams, 0, at(5000));
        streams.received(0, &bytes, at(5000)).expect("its bytes");
        assert_eq!(streams.outgoing(0, at(5000)), 20, "the other two of five");
        assert_eq!(streams.offers.late, 2);
        streams.stop_sending(at(6000));
        assert_eq!(streams.offers.unsent, 2, "of the other connection");
        let max = streams.latencies.max().expect("those that were never sent count");
        assert!(max >= Duration::from_micros(5300), "{max:?}");
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut streams = open();
        assert_eq!(streams.next_due(at(0)), None);
        assert_eq!(streams.next_due(at(1)), Some(0));
        assert_eq!(streams.next_due(at(100)), None);
        assert_eq!(streams.outgoing(1, at(100)), 0);
        assert_eq!(streams.next_due(at(101)), Some(1));
    }
}
