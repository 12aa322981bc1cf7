//! The one axis of time on which all models lie under one another.

use super::{Report, Scene};

/// From when to when, in nanoseconds since the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Axis {
    /// Everything that happened to every message: a little of the waits around it included.
    pub(super) fn of(report: &Report) -> Axis {
        let ends = scenes(report).map(|scene| {
            let begins = scene.calls.iter().map(|call| call.begin);
            begins.chain([scene.received]).max().unwrap_or(0)
        });
        let mut ends: Vec<i64> = ends.collect();
        ends.sort_unstable();
        // One that was held up does not press the others together: it goes on beyond the end.
        let usual = ends.get(ends.len() / 2).copied().unwrap_or(0);
        let last = ends.last().copied().unwrap_or(0).min(usual * 2).max(1_000);
        Axis { from: -last / 6, to: last + last / 8 }
    }

    /// Where on a line of this length it is: what lies beyond the ends is at the end.
    pub(super) fn place(self, at: i64, length: f64) -> f64 {
        let at = at.clamp(self.from, self.to);
        (at - self.from) as f64 / (self.to - self.from) as f64 * length
    }

    /// Round times, five to ten of them.
    pub(super) fn ticks(self) -> Vec<i64> {
        let span = self.to - self.from;
        let step = [1, 2, 5]
            .into_iter()
            .cycle()
            .enumerate()
            .map(|(at, digit)| digit * 10i64.pow((at / 3) as u32));
        let step = step.take(50).find(|step| span / step <= 10).unwrap_or(span);
        (self.from.div_euclid(step) + 1..=self.to / step).map(|n| n * step).collect()
    }
}

pub(super) fn scenes(report: &Report) -> impl Iterator<Item = &Scene> {
    report.models.iter().filter_map(|row| row.scene.as_ref())
}

/// Microseconds, with three digits.
pub(super) fn micros(nanos: i64) -> String {
    let micros = nanos as f64 / 1e3;
    let digits = if micros.abs() < 10.0 { 1 } else { 0 };
    format!("{micros:.digits$} µs")
}
