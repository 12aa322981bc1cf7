//! Iteration by iteration: what each enter or wait took and brought, and what lay between two.

use std::time::Duration;

use serde::Serialize;

use super::names;
use crate::event::Event;
use proactor::keys::ConnId;
use proactor_record::{Content, WaitMode};
use proactor_report::Latencies;
use proactor_report::histogram::Percentiles;

/// The loop was away from the kernel for longer than this: for long. An iteration that serves
/// hundreds of connections takes a good part of it.
pub(super) const LONG: Duration = Duration::from_millis(1);
/// How many of a kind are remembered with their moment.
const REMEMBERED: usize = 3;

/// A moment worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Nanoseconds since recording began.
    pub at_ns: u64,
    /// The connection, if it is about one.
    #[serde(serialize_with = "names::some_conn")]
    pub conn: Option<ConnId>,
    /// How much, how many or how long, if there is such a number.
    pub amount: Option<u64>,
}

/// Something that happened so often, and when it did first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Occurrences {
    /// The number of times.
    pub count: u64,
    /// The moments of the first.
    pub first: Vec<Moment>,
}

impl Occurrences {
    pub(super) fn note(&mut self, at_ns: u64, conn: Option<ConnId>, amount: Option<u64>) {
        self.count += 1;
        if self.first.len() < REMEMBERED {
            self.first.push(Moment { at_ns, conn, amount });
        }
    }
}

/// How many there were at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Batches {
    /// The sum of all.
    pub total: u64,
    /// The average of all.
    pub mean: f64,
    /// The greatest of all.
    pub max: u64,
    /// How often none, one, 2 to 3, 4 to 7, and so on.
    pub bins: Vec<u64>,
}

impl Batches {
    fn add(&mut self, n: u64) {
        self.total += n;
        self.max = self.max.max(n);
        let bin = if n == 0 { 0 } else { 1 + n.ilog2() as usize };
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.mean = self.total as f64 / self.bins.iter().sum::<u64>() as f64;
    }
}

/// All enters of a ring, or all waits of a selector.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Iterations {
    /// Its name: `enter` or `wait`.
    pub name: &'static str,
    /// The number of them.
    pub count: u64,
    /// Those that came back with an error.
    pub failed: u64,
    /// Time inside, in nanoseconds.
    pub inside_ns: u64,
    /// How long each took.
    pub inside: Percentiles,
    /// How long the loop was away from one to the next.
    pub outside: Percentiles,
    /// The times it was away for long; how long, in nanoseconds.
    pub long: Occurrences,
    /// Completions reaped, or reports, of each.
    pub batches: Batches,
    /// Submissions taken by each enter.
    pub submitted: Batches,
    /// Those that neither submitted nor brought anything, and were not to end by the clock.
    pub idle: Occurrences,
    /// Those that ended by the clock, with nothing.
    pub timers: u64,
    /// Completions waited outside a full queue; how many were reaped then.
    pub overflows: Occurrences,
    /// Operations in flight at most.
    pub in_flight_max: u64,
    /// Reports came, and not one call succeeded before the next wait; how many reports.
    pub spurious: Occurrences,
}

impl Iterations {
    /// Whether they are enters of a ring, and not waits.
    pub(super) fn are_enters(&self) -> bool {
        self.name == "enter"
    }
}

/// Counts iterations, event by event.
#[derive(Debug, Default)]
pub(super) struct IterationCounter {
    all: Iterations,
    inside: Latencies,
    outside: Latencies,
    /// The one that is not over.
    open: OpenIteration,
}

/// An iteration that is not over.
#[derive(Debug, Default)]
struct OpenIteration {
    /// When it came back; `None` before that, or where records are missing.
    back: Option<u64>,
    mode: Option<WaitMode>,
    submitted: u64,
    brought: u64,
    implied: u64,
    moved: u64,
    failed: bool,
    overflow: bool,
}

impl IterationCounter {
    pub(super) fn see(&mut self, event: &Event) {
        let (all, open) = (&mut self.all, &mut self.open);
        match event.what {
            Content::EnterBegin { mode, .. } | Content::WaitBegin { mode, .. } => {
                self.close(Some(event.at));
                self.open.mode = mode;
            }
            Content::EnterEnd { result, overflow, .. } => {
                all.in_flight_max = all.in_flight_max.max(event.in_flight.total as u64);
                (open.submitted, open.overflow) = (result.unwrap_or(0).into(), overflow);
                self.back("enter", event, result.is_err());
            }
            Content::WaitEnd { result, .. } => {
                open.brought = result.unwrap_or(0).into();
                self.back("wait", event, result.is_err());
            }
            Content::Completed { .. } => open.brought += 1,
            Content::Implied { .. } => open.implied += 1,
            Content::CallEnd { result, .. } => open.moved += u64::from(result.is_ok()),
            Content::Lost(_) => *open = OpenIteration::default(),
            _ => {}
        }
    }

    fn back(&mut self, name: &'static str, event: &Event, failed: bool) {
        self.all.name = name;
        (self.open.back, self.open.failed) = (Some(event.at), failed);
        if let Some(lasted) = event.lasted {
            self.all.inside_ns = self.all.inside_ns.saturating_add(lasted);
            self.inside.record(Duration::from_nanos(lasted));
        }
    }

    /// The iteration is over: the next begins, or nothing comes any more.
    fn close(&mut self, next: Option<u64>) {
        let (all, one) = (&mut self.all, std::mem::take(&mut self.open));
        let Some(back) = one.back else { return };
        all.count += 1;
        all.failed += u64::from(one.failed);
        all.batches.add(one.brought);
        if all.are_enters() {
            all.submitted.add(one.submitted);
        }
        if one.brought + one.submitted + one.implied == 0 && !one.failed {
            match one.mode {
                Some(WaitMode::Until) => all.timers += 1,
                // It only asked, between two parts of its other work.
                Some(WaitMode::None) if one.moved > 0 => {}
                _ => all.idle.note(back, None, None),
            }
        }
        if one.overflow {
            all.overflows.note(back, None, Some(one.brought));
        }
        if !all.are_enters() && one.brought > 0 && one.moved == 0 {
            all.spurious.note(back, None, Some(one.brought));
        }
        let Some(next) = next else { return };
        let away = Duration::from_nanos(next.saturating_sub(back));
        self.outside.record(away);
        if away > LONG {
            all.long.note(back, None, Some(away.as_nanos() as u64));
        }
    }

    /// Returns all of them; `None` if there was no iteration.
    pub(super) fn finish(mut self) -> Option<Iterations> {
        self.close(None);
        let IterationCounter { all, inside, outside, .. } = self;
        let (inside, outside) = (inside.percentiles(), outside.percentiles());
        (!all.name.is_empty()).then_some(Iterations { inside, outside, ..all })
    }
}
