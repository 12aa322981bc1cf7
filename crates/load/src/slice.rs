//! A slice of a run: what was done in a stretch of time, and how that is noted while it lasts.

use std::time::Duration;

use serde::Serialize;

use super::Found;
use super::crowd::{Crowd, Shape};
use proactor::clock::Nanos;
use proactor::os;
use proactor_report::units::as_nanos;

/// How often a run looks for connections that have stalled, and says how it goes.
const TICK: Duration = Duration::from_millis(100);

/// What was done in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slice {
    /// Messages sent, replied to, and verified.
    pub messages: u64,
    /// Their bytes, counted once.
    pub bytes: u64,
    /// How long it took, until the last reply was there.
    #[serde(rename = "wall_ns", serialize_with = "as_nanos")]
    pub wall: Duration,
    /// CPU time of the client's thread.
    #[serde(rename = "client_cpu_ns", serialize_with = "as_nanos")]
    pub cpu: Duration,
    /// How long the client looked and found nothing to do.
    #[serde(rename = "client_idle_ns", serialize_with = "as_nanos")]
    pub idle: Duration,
    /// Of the connections, the share whose replies lay there when the client looked, on average of
    /// the looks that found any. Near zero, messages spend their time at the server; near one, they
    /// wait for the client.
    pub backlog: f64,
}

impl Slice {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// Of its time, how much the client was at work: near one, it was the bottleneck.
    pub fn busy(&self) -> f64 {
        1.0 - self.idle.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// Of its time, how much the client had a CPU: well below one, others took it away.
    pub fn cpu_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A slice while it lasts: what its turns found, by one reading of the clock for each.
#[derive(Debug)]
pub(super) struct Watched {
    begun: Nanos,
    pub(super) now: Nanos,
    /// From when on nothing is begun any more.
    pub(super) end: Nanos,
    /// When to look how it goes.
    tick: Nanos,
    /// The messages of the slices before.
    messages_before: u64,
    idle: Duration,
    /// How many receives brought bytes, and in how many turns.
    receives: usize,
    looks: usize,
}

impl Watched {
    pub(super) fn begin(crowd: &Crowd, span: Duration) -> Watched {
        let begun = os::now();
        Watched {
            begun,
            now: begun,
            end: begun + span,
            tick: begun + TICK,
            messages_before: crowd.messages(),
            idle: Duration::ZERO,
            receives: 0,
            looks: 0,
        }
    }

    /// A turn is over, that found this.
    pub(super) fn saw(&mut self, found: Found) {
        let before = std::mem::replace(&mut self.now, os::now());
        self.receives += found.receives;
        self.looks += usize::from(found.receives > 0);
        if !found.anything {
            self.idle += self.now.since(before);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.now >= self.end
    }

    /// Whether it is time to look how it goes; then the next time is set.
    pub(super) fn ticks(&mut self) -> bool {
        let ticks = self.now >= self.tick;
        if ticks {
            self.tick = self.now + TICK;
        }
        ticks
    }

    /// What was done so far, but for the CPU time, which is read at the end only.
    pub(super) fn slice(&self, crowd: &Crowd) -> Slice {
        let messages = crowd.messages() - self.messages_before;
        let Shape { connections, size, .. } = crowd.shape();
        Slice {
            messages,
            bytes: messages * size as u64,
            wall: self.now.since(self.begun),
            cpu: Duration::ZERO,
            idle: self.idle,
            backlog: self.receives as f64 / (self.looks.max(1) * connections) as f64,
        }
    }
}
