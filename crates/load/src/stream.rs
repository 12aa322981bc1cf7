//! The byte streams of one connection: what it sends, what it must receive, and when each message
//! was planned.

use std::collections::VecDeque;

use fastrand::Rng;

use super::byte_stream::{ByteStream, chargen};
use super::protocol::LoadProtocol;
use super::send_times::SendTimes;
use super::workload::{LoadShape, Pattern, Workload};
use proactor::clock::Nanos;

/// The stream of one connection. `replies` are messages, the other counters are bytes.
///
/// Invariant: `sent` and `received` never exceed `queued` and `owed`, except where bytes go in one
/// direction without messages. The received bytes equal those of `replies_with` from offset 0. (An
/// engine may learn that bytes were received before it learns that they were sent.)
#[derive(Debug)]
pub(super) struct ReplyStream {
    pub(super) sends: ByteStream,
    pub(super) replies_with: ByteStream,
    /// The bytes of a request and of its reply, unless sizes are mixed.
    request: usize,
    pub(super) reply: usize,
    /// Draws the mixed sizes.
    sizes: Option<(Rng, f64, f64)>,
    pub(super) queued: u64,
    pub(super) sent: u64,
    pub(super) owed: u64,
    pub(super) received: u64,
    pub(super) replies: u64,
    /// The offset at which the last whole reply ended.
    pub(super) finished: u64,
    /// The messages without a whole reply.
    pub(super) waiting: VecDeque<QueuedMessage>,
    /// When bytes last arrived, or when the stream last became outstanding.
    pub(super) last_progress: Nanos,
    pub(super) planned: Option<Planned>,
    pub(super) phase: StreamPhase,
    /// When the connection began to be opened, if its message is not queued yet.
    pub(super) opening: Option<Nanos>,
    /// True within an announcement of a chat.
    in_announcement: bool,
    /// The bytes moved when they were last looked at.
    pub(super) seen: u64,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamPhase {
    /// There is no connection.
    Closed,
    Open,
    /// The client has ended its direction, or is about to.
    Ending,
}

/// A message without a whole reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedMessage {
    pub(super) planned: Nanos,
    pub(super) queued: Nanos,
    /// The offset at which its reply ends.
    pub(super) end: u64,
}

/// The plan of one connection in an open loop.
#[derive(Debug)]
pub(super) struct Planned {
    /// The first time that is not yet due.
    pub(super) next: SendTimes,
    /// The first time whose message is not queued: `due` times earlier.
    pub(super) unqueued: SendTimes,
    pub(super) due: u64,
}

impl ReplyStream {
    /// Makes the stream of a connection; `label` stands in front of the lines of a chat.
    pub(super) fn new(
        workload: &Workload,
        protocol: &LoadProtocol,
        seed: u64,
        connection: usize,
        label: &[u8],
    ) -> ReplyStream {
        let LoadShape { size, depth, .. } = workload.shape;
        let random = || ByteStream::random(seed, connection);
        let lines = |label| ByteStream::lines(label, seed, size);
        let (sends, replies_with, reply) = match (workload.pattern, &protocol.example) {
            (Pattern::Download, _) => (random(), ByteStream::Repeated(chargen()), size),
            (Pattern::Fanout, _) => (lines(b""), lines(label), label.len() + size),
            (_, Some((request, reply))) => {
                let repeated = |bytes: &std::sync::Arc<[u8]>| ByteStream::Repeated(bytes.clone());
                (repeated(request), repeated(reply), reply.len())
            }
            (_, None) => (random(), random(), size),
        };
        let is_open = !workload.pattern.reconnects();
        let ln = |bytes: usize| (bytes as f64).ln();
        let rng = || Rng::with_seed(seed ^ (connection as u64).rotate_left(32));
        ReplyStream {
            sends,
            replies_with,
            request: size,
            reply,
            sizes: workload.size_max.map(|most| (rng(), ln(size), ln(most + 1))),
            queued: 0,
            sent: 0,
            owed: 0,
            received: 0,
            replies: 0,
            finished: 0,
            waiting: VecDeque::with_capacity(depth),
            last_progress: Nanos(0),
            planned: None,
            phase: if is_open { StreamPhase::Open } else { StreamPhase::Closed },
            opening: None,
            in_announcement: false,
            seen: 0,
        }
    }

    /// Returns the planned time of the message to queue now: now itself in a closed loop, or when
    /// the connection began to be opened; and in an open loop `None` unless one is due.
    pub(super) fn next_planned(&mut self, now: Nanos) -> Option<Nanos> {
        let Some(planned) = &mut self.planned else { return Some(self.opening.unwrap_or(now)) };
        planned.due = planned.due.checked_sub(1)?;
        Some(planned.unqueued.take())
    }

    /// Draws the bytes of the next request and its reply.
    pub(super) fn next_sizes(&mut self) -> (usize, usize) {
        let Some((random, low, high)) = &mut self.sizes else { return (self.request, self.reply) };
        let size = (*low + random.f64() * (*high - *low)).exp() as usize;
        (size.max(1), size.max(1))
    }

    /// Expects the reply of a message.
    pub(super) fn expect(&mut self, bytes: usize, planned: Nanos, now: Nanos) {
        if self.waiting.is_empty() {
            self.last_progress = now;
        }
        self.owed += bytes as u64;
        self.waiting.push_back(QueuedMessage { planned, queued: now, end: self.owed });
    }

    /// Takes the next bytes of one line of a chat; or drops what is there of an announcement, as
    /// `* 7 left`, which may come between two lines.
    pub(super) fn next_line_part<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let at = self.received as usize % self.reply;
        self.in_announcement |= at == 0 && bytes[0] == b'*';
        if self.in_announcement {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            self.in_announcement = end.is_none();
            *bytes = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
            return None;
        }
        let (part, rest) = bytes.split_at(bytes.len().min(self.reply - at));
        *bytes = rest;
        Some(part)
    }

    /// Returns whether the reply of the first message is whole.
    pub(super) fn has_reply(&self) -> bool {
        self.waiting.front().is_some_and(|message| self.received >= message.end)
    }

    /// Returns how many bytes of replies are outstanding.
    pub(super) fn outstanding(&self) -> u64 {
        self.owed - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_between_the_lines_of_a_chat_are_dropped_however_they_are_cut() {
        let shape = LoadShape { connections: 2, size: 4, depth: 1 };
        let workload = Workload { pattern: Pattern::Fanout, ..shape.into() };
        let received = b"* 7 left\n[3] abc\n* 8 joined\n* 9 joined\n[3] *de\n";
        for cut in 1..received.len() {
            let mut stream = ReplyStream::new(&workload, &LoadProtocol::echo(), 7, 1, b"[3] ");
            let mut lines: Vec<u8> = Vec::new();
            for mut bytes in received.chunks(cut) {
                while !bytes.is_empty() {
                    let part = stream.next_line_part(&mut bytes).unwrap_or_default();
                    stream.received += part.len() as u64;
                    lines.extend(part);
                }
            }
            assert_eq!(lines, b"[3] abc\n[3] *de\n", "in pieces of {cut}");
        }
    }
}
