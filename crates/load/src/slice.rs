//! The result of a slice of a run.

use std::time::Duration;

use serde::Serialize;

use super::streams::Offers;
use proactor_report::units::as_nanos;

/// The shortest time without a reply that counts in [`LoadSlice::in_gaps`].
pub const GAP_MIN: Duration = Duration::from_millis(1);

/// The result of a slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LoadSlice {
    /// The number of messages whose replies were verified.
    pub messages: u64,
    /// The bytes of these messages, counted once.
    pub bytes: u64,
    /// How many messages of an open loop were due.
    pub offered: u64,
    /// How many of these were sent more than a millisecond after their planned time.
    pub late: u64,
    /// How many of these were never sent, because too many were outstanding.
    pub unsent: u64,
    /// The time until the last reply had arrived.
    #[serde(rename = "wall_ns", serialize_with = "as_nanos")]
    pub wall: Duration,
    /// CPU time of the client's thread.
    #[serde(rename = "client_cpu_ns", serialize_with = "as_nanos")]
    pub cpu: Duration,
    /// How long the client polled without finding work: it waited for the server.
    #[serde(rename = "client_idle_ns", serialize_with = "as_nanos")]
    pub idle: Duration,
    /// How long the client worked on replies that were there before it looked: they waited for the
    /// client.
    #[serde(rename = "client_behind_ns", serialize_with = "as_nanos")]
    pub behind: Duration,
    /// How long polls took that found nothing and were too long for a poll: the client was off its
    /// CPU.
    #[serde(rename = "client_paused_ns", serialize_with = "as_nanos")]
    pub paused: Duration,
    /// The longest time in which no reply came although some were owed, without pauses of the
    /// client in which one may have come.
    #[serde(rename = "longest_gap_ns", serialize_with = "as_nanos")]
    pub longest_gap: Duration,
    /// The time in such gaps of [`GAP_MIN`] or more.
    #[serde(rename = "in_gaps_ns", serialize_with = "as_nanos")]
    pub in_gaps: Duration,
    /// The share of the connections that had an unread reply when the client polled, averaged over
    /// the polls that found any. Near zero, messages wait for the server; near one, they wait for
    /// the client.
    pub unread_share: f64,
}

impl LoadSlice {
    pub(super) fn set_offers(&mut self, offers: &Offers) {
        (self.offered, self.late, self.unsent) = (offers.due, offers.late, offers.unsent);
    }

    /// Returns the share of the offered messages that were answered, so far.
    pub fn achieved(&self) -> f64 {
        self.messages as f64 / self.offered.max(1) as f64
    }

    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds()
    }

    /// Returns the share of the time in which the client had work. Near one, the client was the
    /// bottleneck.
    pub fn busy(&self) -> f64 {
        1.0 - self.idle.as_secs_f64() / self.seconds()
    }

    /// Returns the share of the time in which the client worked while replies waited for it. Near
    /// one, with no idle time, the client was the bottleneck.
    pub fn behind_share(&self) -> f64 {
        self.behind.as_secs_f64() / self.seconds()
    }

    /// Returns the share of the time in gaps without a reply.
    pub fn gap_share(&self) -> f64 {
        self.in_gaps.as_secs_f64() / self.seconds()
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
