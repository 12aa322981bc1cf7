//! The byte streams of a run, without sockets: what each connection may send, which bytes are
//! outstanding, and how long the replies took. An engine moves the bytes and decides nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::byte_stream::{BlockBytes, UNUSED};
use super::error::{LoadError, Result};
use super::protocol::LoadProtocol;
use super::send_times::SendTimes;
use super::stream::{Planned, ReplyStream, StreamPhase};
use super::workload::{LoadShape, Pattern, Workload};
use proactor::clock::Nanos;
use proactor_report::Latencies;

/// An offer that is sent later than this after its planned time is late.
const LATE: Duration = Duration::from_millis(1);

/// The streams of all connections.
///
/// A message is *queued* when it may be sent; its service time begins then, and ends when the last
/// byte of its reply has been received. In a closed loop it is queued as soon as its connection has
/// fewer than `depth` outstanding messages. In an open loop it is *due* at its planned time, and
/// queued then unless its connection has as many as that; its latency begins at the planned time.
///
/// With [`Pattern::Churn`] a message is a connection, from before it is opened until the server has
/// closed it. With [`Pattern::Fanout`] it is a line at one of the connections that receive it.
#[derive(Debug)]
pub(super) struct ReplyStreams {
    pub(super) workload: Workload,
    pub(super) protocol: LoadProtocol,
    pub(super) streams: Vec<ReplyStream>,
    seed: u64,
    block: BlockBytes,
    /// While true, new messages are queued.
    pub(super) sending: bool,
    /// The connections that the server has closed; `None` until it is expected to close them.
    pub(super) closed: Option<usize>,
    /// Bytes of replies to queued messages that are not yet received, over all connections.
    pub(super) outstanding: u64,
    /// Connections that must end before the slice does.
    ending: usize,
    /// The number of verified replies, and the bytes of their messages.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// What is due with connections, other than sending and receiving.
    pub(super) actions: Vec<Action>,
    /// Of each line that is not received by all, how many have not received it.
    lines: VecDeque<usize>,
    /// The number of lines that were sent.
    all_lines: u64,
    /// When the next message of each connection is due, in an open loop.
    plan: BinaryHeap<Reverse<(Nanos, usize)>>,
    pub(super) offers: Offers,
    /// From the planned time of each message to its reply.
    pub(super) latencies: Latencies,
    pub(super) open: OpenTimes,
}

/// What is due with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It must be opened.
    Open(usize),
    /// The client ends its direction.
    End(usize),
    /// It may send, although nothing of it has arrived.
    Send(usize),
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

impl ReplyStreams {
    /// Makes the streams of a load; `label` stands in front of the lines of a chat.
    pub(super) fn new(
        workload: Workload,
        protocol: LoadProtocol,
        seed: u64,
        label: &[u8],
    ) -> ReplyStreams {
        let LoadShape { connections, depth, .. } = workload.shape;
        let stream = |connection| ReplyStream::new(&workload, &protocol, seed, connection, label);
        ReplyStreams {
            streams: (0..connections).map(stream).collect(),
            workload,
            protocol,
            seed,
            block: UNUSED,
            sending: false,
            closed: None,
            outstanding: 0,
            ending: 0,
            messages: 0,
            bytes: 0,
            actions: Vec::with_capacity(2 * connections),
            lines: VecDeque::with_capacity(depth),
            all_lines: 0,
            plan: BinaryHeap::with_capacity(connections),
            offers: Offers::default(),
            latencies: Latencies::new(),
            open: OpenTimes::default(),
        }
    }

    /// Begins a slice: says what is due with each connection that sends. An open loop makes a new
    /// plan instead.
    pub(super) fn begin(&mut self, start: Nanos) {
        (self.sending, self.offers) = (true, Offers::default());
        let pattern = self.workload.pattern;
        let senders = if pattern == Pattern::Fanout { 1 } else { self.streams.len() };
        let action = if pattern.reconnects() { Action::Open } else { Action::Send };
        let Some(offer) = self.workload.offer else {
            return self.actions.extend((0..senders).map(action));
        };
        self.plan.clear();
        for (conn, stream) in self.streams[..senders].iter_mut().enumerate() {
            // Each slice has its own random intervals.
            let seed = self.seed ^ start.0;
            let next = SendTimes::new(offer, start, conn, senders, seed);
            self.plan.push(Reverse((next.next(), conn)));
            stream.planned = Some(Planned { unqueued: next.clone(), next, due: 0 });
        }
    }

    /// Makes messages due whose planned time is before `limit`, and says what is due then.
    pub(super) fn plan_until(&mut self, limit: Nanos) {
        while let Some(mut first) = self.plan.peek_mut() {
            let Reverse((time, conn)) = *first;
            let Some(planned) = self.streams[conn].planned.as_mut().filter(|_| time < limit) else {
                return;
            };
            planned.due += 1;
            planned.next.take();
            *first = Reverse((planned.next.next(), conn));
            drop(first);
            self.offers.due += 1;
            let is_closed = self.streams[conn].phase == StreamPhase::Closed;
            match self.workload.pattern.reconnects() {
                false => self.actions.push(Action::Send(conn)),
                true if is_closed => self.actions.push(Action::Open(conn)),
                true => {}
            }
        }
    }

    /// Ends the sending of a slice. What is due and not queued is never sent: its latency is at
    /// least the time until now.
    pub(super) fn stop_sending(&mut self, now: Nanos) {
        self.sending = false;
        for (conn, stream) in self.streams.iter_mut().enumerate() {
            if let Some(planned) = &mut stream.planned {
                for _ in 0..std::mem::take(&mut planned.due) {
                    self.offers.unsent += 1;
                    self.latencies.record(now.since(planned.unqueued.take()));
                }
            }
            if self.workload.pattern.is_one_way() && stream.phase == StreamPhase::Open {
                stream.phase = StreamPhase::Ending;
                self.actions.push(Action::End(conn));
            }
        }
    }

    /// Returns the number of verified replies since there were so many, with so many bytes; of
    /// bytes in one direction, how many messages they are.
    pub(super) fn messages_since(&self, messages: u64, bytes: u64) -> u64 {
        match self.workload.pattern.is_one_way() {
            true => (self.bytes - bytes) / self.workload.shape.size as u64,
            false => self.messages - messages,
        }
    }

    /// Returns whether nothing is outstanding, so that a slice may end.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding == 0 && self.ending == 0
    }

    /// Begins to open a connection. Returns false if that is no longer due.
    pub(super) fn begin_open(&mut self, conn: usize, now: Nanos) -> bool {
        let stream = &mut self.streams[conn];
        let is_due = stream.planned.as_ref().is_none_or(|planned| planned.due > 0);
        if !self.sending || !is_due || stream.phase != StreamPhase::Closed {
            return false;
        }
        (stream.phase, stream.opening, stream.last_progress) = (StreamPhase::Open, Some(now), now);
        if self.workload.pattern == Pattern::Download {
            (stream.received, stream.owed) = (0, 0);
        }
        self.ending += 1;
        true
    }

    /// Queues the messages that `conn` may send now, and returns how many of its bytes are queued
    /// and unsent.
    pub(super) fn outgoing(&mut self, conn: usize, now: Nanos) -> usize {
        let pattern = self.workload.pattern;
        match pattern {
            Pattern::Download => return 0,
            Pattern::Upload if self.sending => return self.workload.shape.size,
            Pattern::Upload => return 0,
            Pattern::Fanout if conn > 0 => return 0,
            _ => {}
        }
        while self.sending && self.has_capacity(conn) {
            let stream = &mut self.streams[conn];
            let Some(planned) = stream.next_planned(now) else { break };
            stream.opening = None;
            if stream.planned.is_some() {
                let lag = now.since(planned);
                self.open.offer_lags.record(lag);
                self.offers.late += u64::from(lag > LATE);
            }
            let (request, reply) = stream.next_sizes();
            stream.queued += request as u64;
            let receivers =
                if pattern == Pattern::Fanout { 1..self.streams.len() } else { conn..conn + 1 };
            self.outstanding += (reply * receivers.len()) as u64;
            if pattern == Pattern::Fanout {
                self.lines.push_back(receivers.len());
                self.all_lines += 1;
            }
            for stream in &mut self.streams[receivers] {
                stream.expect(reply, planned, now);
            }
        }
        let stream = &self.streams[conn];
        (stream.queued - stream.sent) as usize
    }

    /// Returns whether a connection may queue another message.
    fn has_capacity(&self, conn: usize) -> bool {
        let (stream, depth) = (&self.streams[conn], self.workload.shape.depth);
        match self.workload.pattern {
            Pattern::Churn => stream.opening.is_some(),
            Pattern::Fanout => self.lines.len() < depth,
            _ => stream.waiting.len() < depth,
        }
    }

    /// Writes the next bytes of `conn`, up to the length of `out`.
    pub(super) fn fill(&mut self, conn: usize, out: &mut [u8]) {
        let stream = &self.streams[conn];
        stream.sends.fill(&mut self.block, stream.sent, out);
    }

    /// Records that bytes were sent.
    pub(super) fn sent(&mut self, conn: usize, bytes: usize) {
        self.streams[conn].sent += bytes as u64;
        if self.workload.pattern == Pattern::Upload {
            self.bytes += bytes as u64;
        }
    }

    /// Verifies and records received bytes. The announcements of a chat are dropped.
    ///
    /// # Errors
    /// A byte differs from the expected one, or none was expected.
    pub(super) fn received(&mut self, conn: usize, bytes: &[u8], now: Nanos) -> Result {
        if self.workload.pattern != Pattern::Fanout {
            return self.received_part(conn, bytes, now);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some(part) = self.streams[conn].next_line_part(&mut rest) {
                self.received_part(conn, part, now)?;
            }
        }
        Ok(())
    }

    fn received_part(&mut self, conn: usize, bytes: &[u8], now: Nanos) -> Result {
        let pattern = self.workload.pattern;
        let stream = &mut self.streams[conn];
        let outstanding = match pattern {
            Pattern::Download => bytes.len(),
            _ => stream.outstanding() as usize,
        };
        let expected = &bytes[..outstanding.min(bytes.len())];
        let checked = stream.replies_with.check(&mut self.block, stream.received, expected);
        checked.map_err(|at| LoadError::Wrong { connection: conn, at })?;
        // A wrong byte, if there is one, is the better error.
        if let surplus @ 1.. = bytes.len() - expected.len() {
            let offset = stream.owed;
            return Err(LoadError::Surplus { connection: conn, offset, surplus });
        }
        stream.received += bytes.len() as u64;
        stream.last_progress = now;
        if pattern == Pattern::Download {
            stream.owed = stream.received;
            self.bytes += bytes.len() as u64;
            return Ok(());
        }
        self.outstanding -= bytes.len() as u64;
        if pattern == Pattern::Churn {
            if stream.outstanding() == 0 {
                stream.phase = StreamPhase::Ending;
                self.actions.push(Action::End(conn));
            }
            return Ok(());
        }
        while self.streams[conn].has_reply() {
            self.finish_message(conn, now);
        }
        Ok(())
    }

    /// Records that the first message of a connection is over.
    fn finish_message(&mut self, conn: usize, now: Nanos) {
        let stream = &mut self.streams[conn];
        let message = stream.waiting.pop_front().expect("a reply has its message");
        self.latencies.record(now.since(message.planned));
        if self.workload.offer.is_some() {
            self.open.service_times.record(now.since(message.queued));
        }
        stream.replies += 1;
        self.messages += 1;
        self.bytes += match self.protocol.example {
            Some(_) => self.workload.shape.size as u64,
            None => message.end - std::mem::replace(&mut stream.finished, message.end),
        };
        if self.workload.pattern == Pattern::Fanout {
            let received = stream.replies - (self.all_lines - self.lines.len() as u64) - 1;
            self.lines[received as usize] -= 1;
            while self.lines.front() == Some(&0) {
                self.lines.pop_front();
                self.actions.push(Action::Send(0));
            }
        }
    }

    /// Records that the server closed its side.
    ///
    /// # Errors
    /// The connection was still in use.
    pub(super) fn ended(&mut self, conn: usize, now: Nanos) -> Result {
        let stream = &mut self.streams[conn];
        let (offset, outstanding) = (stream.received, stream.outstanding());
        match &mut self.closed {
            Some(closed) if outstanding == 0 => *closed += 1,
            None if stream.phase == StreamPhase::Ending => {
                stream.phase = StreamPhase::Closed;
                self.ending -= 1;
                if self.workload.pattern == Pattern::Churn {
                    self.finish_message(conn, now);
                    self.actions.push(Action::Open(conn));
                }
            }
            _ => return Err(LoadError::Ended { connection: conn, offset, outstanding }),
        }
        Ok(())
    }

    /// Begins the end of all connections: the server is expected to close them.
    pub(super) fn close(&mut self) -> impl Iterator<Item = usize> {
        let is_closed = |stream: &&ReplyStream| stream.phase == StreamPhase::Closed;
        self.closed = Some(self.streams.iter().filter(is_closed).count());
        let streams = self.streams.iter().enumerate();
        streams.filter(move |(_, stream)| !is_closed(stream)).map(|(conn, _)| conn)
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

    /// Looks for a connection that has waited for bytes longer than `timeout`, or that must end and
    /// on which nothing has moved for as long.
    ///
    /// # Errors
    /// The first such connection.
    pub(super) fn check_progress(&mut self, now: Nanos, timeout: Duration) -> Result {
        let reconnects = self.workload.pattern.reconnects();
        for (connection, stream) in self.streams.iter_mut().enumerate() {
            let moved = stream.sent + stream.received;
            if reconnects && std::mem::replace(&mut stream.seen, moved) != moved {
                stream.last_progress = now;
            }
            let outstanding = stream.outstanding();
            let is_late = now.since(stream.last_progress) >= timeout;
            if is_late && outstanding > 0 {
                let offset = stream.received;
                return Err(LoadError::Stalled { connection, offset, outstanding, timeout });
            }
            if is_late && reconnects && stream.phase != StreamPhase::Closed {
                return Err(LoadError::NotMoving { connection, bytes: moved, timeout });
            }
        }
        Ok(())
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
        let mut streams = ReplyStreams::new(SHAPE.into(), LoadProtocol::echo(), 7, b"");
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
        let error = streams.ended(0, at(3)).expect_err("thirty bytes are outstanding");
        assert!(matches!(error, LoadError::Ended { outstanding: 30, .. }), "{error}");
        streams.received(0, &sent, at(2)).expect("its bytes");
        let error = streams.ended(0, at(3)).expect_err("the client is not closing").to_string();
        assert_eq!(error, "the server closed connection 0 after 30 bytes of replies");
        assert!(streams.close().eq([0, 1]));
        streams.ended(0, at(3)).expect("the client is closing");
        streams.ended(1, at(3)).expect("the client is closing");
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
        let workload = Workload { offer, ..SHAPE.into() };
        let mut streams = ReplyStreams::new(workload, LoadProtocol::echo(), 7, b"");
        streams.begin(at(0));
        streams
    }

    /// Queues all that is due at a time.
    fn offer(streams: &mut ReplyStreams, now: Nanos) {
        streams.plan_until(now);
        for action in std::mem::take(&mut streams.actions) {
            let Action::Send(conn) = action else { panic!("{action:?}") };
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
        streams.plan_until(at(0));
        assert_eq!(streams.actions, []);
        streams.plan_until(at(100));
        assert_eq!(streams.actions, [Action::Send(0)]);
        assert_eq!(streams.outgoing(1, at(100)), 0);
        streams.plan_until(at(101));
        assert_eq!(streams.actions, [Action::Send(0), Action::Send(1)]);
    }
}
