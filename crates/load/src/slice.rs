//! A slice of a run: its result, and the measurement in progress.

use std::time::Duration;

use serde::Serialize;

use super::Polled;
use super::streams::{LoadShape, ReplyStreams};
use proactor::clock::Nanos;
use proactor::os;
use proactor_report::units::as_nanos;

/// The interval at which a run looks for stalled connections and reports its progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The result of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadSlice {
    /// The number of messages whose replies were verified.
    pub messages: u64,
    /// The bytes of these messages, counted once.
    pub bytes: u64,
    /// The time until the last reply had arrived.
    #[serde(rename = "wall_ns", serialize_with = "as_nanos")]
    pub wall: Duration,
    /// CPU time of the client's thread.
    #[serde(rename = "client_cpu_ns", serialize_with = "as_nanos")]
    pub cpu: Duration,
    /// How long the client polled without finding work.
    #[serde(rename = "client_idle_ns", serialize_with = "as_nanos")]
    pub idle: Duration,
    /// The share of the connections that had an unread reply when the client polled, averaged over
    /// the polls that found any. Near zero, messages wait for the server; near one, they wait for
    /// the client.
    pub unread_share: f64,
}

impl LoadSlice {
    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds()
    }

    /// Returns the share of the time in which the client had work. Near one, the client was the
    /// bottleneck.
    pub fn busy(&self) -> f64 {
        1.0 - self.idle.as_secs_f64() / self.seconds()
    }

    /// Returns the share of the time in which the client ran on a CPU. Below one, other processes
    /// used that CPU.
    pub fn cpu_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.seconds()
    }

    /// Returns the wall time in seconds, for use as a divisor.
    pub fn seconds(&self) -> f64 {
        self.wall.as_secs_f64().max(1e-9)
    }
}

/// A slice in progress. The clock is read once per poll.
#[derive(Debug)]
pub(super) struct SliceProgress {
    start: Nanos,
    pub(super) now: Nanos,
    /// From this time on, no message is sent.
    pub(super) end: Nanos,
    next_check: Nanos,
    /// The messages of earlier slices.
    messages_before: u64,
    idle: Duration,
    /// Receives that returned bytes, and the number of polls with such a receive.
    receives: usize,
    receiving_polls: usize,
}

impl SliceProgress {
    pub(super) fn begin(streams: &ReplyStreams, span: Duration) -> SliceProgress {
        let start = os::now();
        SliceProgress {
            start,
            now: start,
            end: start + span,
            next_check: start + CHECK_INTERVAL,
            messages_before: streams.messages,
            idle: Duration::ZERO,
            receives: 0,
            receiving_polls: 0,
        }
    }

    /// Adds the result of a poll that has just returned.
    pub(super) fn add(&mut self, polled: Polled) {
        let before = std::mem::replace(&mut self.now, os::now());
        self.receives += polled.receives;
        self.receiving_polls += usize::from(polled.receives > 0);
        if !polled.any_event {
            self.idle += self.now.since(before);
        }
    }

    /// Returns true once per [`CHECK_INTERVAL`].
    pub(super) fn is_check_due(&mut self) -> bool {
        let due = self.now >= self.next_check;
        if due {
            self.next_check = self.now + CHECK_INTERVAL;
        }
        due
    }

    /// Returns the result so far, without the CPU time, which is read only at the end.
    pub(super) fn slice(&self, streams: &ReplyStreams) -> LoadSlice {
        let messages = streams.messages - self.messages_before;
        let LoadShape { connections, size, .. } = streams.shape;
        LoadSlice {
            messages,
            bytes: messages * size as u64,
            wall: self.now.since(self.start),
            cpu: Duration::ZERO,
            idle: self.idle,
            unread_share: self.receives as f64 / (self.receiving_polls.max(1) * connections) as f64,
        }
    }
}
