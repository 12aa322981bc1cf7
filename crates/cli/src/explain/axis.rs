//! The common time axis of a picture.

use super::CallTimeline;

/// A range of time, in nanoseconds since the client began to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Axis {
    /// Returns an axis for all timelines, with a part of the waits around them.
    pub(super) fn of<'a>(timelines: impl Iterator<Item = &'a CallTimeline>) -> Axis {
        let ends = timelines.map(|timeline| {
            let begins = timeline.calls.iter().map(|call| call.begin);
            begins.chain([timeline.received]).max().unwrap_or(0)
        });
        let mut ends: Vec<i64> = ends.collect();
        ends.sort_unstable();
        // A delayed model does not compress the others: its timeline goes beyond the end.
        let usual = ends.get(ends.len() / 2).copied().unwrap_or(0);
        let last = ends.last().copied().unwrap_or(0).min(usual * 2).max(1_000);
        Axis { from: -last / 6, to: last + last / 8 }
    }

    /// Returns the position on a line of this length. Times beyond an end are at the end.
    pub(super) fn place(self, at: i64, length: f64) -> f64 {
        let at = at.clamp(self.from, self.to);
        (at - self.from) as f64 / (self.to - self.from) as f64 * length
    }

    /// Returns round times, at most `most` of them.
    pub(super) fn ticks(self, most: i64) -> Vec<i64> {
        let span = self.to - self.from;
        let step = [1, 2, 5]
            .into_iter()
            .cycle()
            .enumerate()
            .map(|(at, digit)| digit * 10i64.pow((at / 3) as u32));
        let step = step.take(50).find(|step| span / step <= most).unwrap_or(span);
        (self.from.div_euclid(step) + 1..=self.to / step).map(|n| n * step).collect()
    }
}

/// Formats nanoseconds as microseconds.
pub(super) fn micros(nanos: i64) -> String {
    let micros = nanos as f64 / 1e3;
    let digits = if micros.abs() < 10.0 { 1 } else { 0 };
    format!("{micros:.digits$} µs")
}
