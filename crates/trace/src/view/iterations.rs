//! Turn by turn: what each enter or wait took and brought, and what lay between two of them.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::names;
use crate::event::Event;
use proactor::keys::ConnId;
use proactor_record::{Payload, WaitMode};
use proactor_report::Latencies;
use proactor_report::histogram::Percentiles;

/// The loop was away from the kernel for longer than this: a stall. A turn that serves hundreds of
/// connections takes a good part of it.
pub(super) const STALL: Duration = Duration::from_millis(1);
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
    /// How often.
    pub count: u64,
    /// The first times.
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
    /// All together.
    pub total: u64,
    /// On average.
    pub mean: f64,
    /// At most.
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
    }

    fn finish(mut self) -> Batches {
        let turns: u64 = self.bins.iter().sum();
        self.mean = if turns == 0 { 0.0 } else { self.total as f64 / turns as f64 };
        self
    }

    /// Each bin's name and count, from the first to the last that is not empty, zero left out.
    pub fn named(&self) -> Vec<(String, u64)> {
        let name = |bin: usize| match bin {
            0 => "0".to_owned(),
            1 => "1".to_owned(),
            _ => format!("{}-{}", 1u64 << (bin - 1), (1u64 << bin) - 1),
        };
        let all = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(|(bin, count)| (name(bin), *count)).collect()
    }
}

/// All enters of a ring, or all waits of a selector.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Turns {
    /// `enter` or `wait`.
    pub name: &'static str,
    /// How many.
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
    pub stalls: Occurrences,
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
    /// Reports came, and not one call came to anything before the next wait; how many reports.
    pub in_vain: Occurrences,
}

/// Counts turns.
#[derive(Debug, Default)]
pub(super) struct Counter {
    name: Option<&'static str>,
    count: u64,
    failed: u64,
    inside_ns: u64,
    inside: Latencies,
    outside: Latencies,
    stalls: Occurrences,
    batches: Batches,
    submitted: Batches,
    idle: Occurrences,
    timers: u64,
    overflows: Occurrences,
    in_flight_max: u64,
    in_vain: Occurrences,
    /// Of each lane the turn that is not over.
    now: HashMap<Option<u16>, Turn>,
}

/// The turn that is not over.
#[derive(Debug, Default)]
struct Turn {
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

impl Counter {
    pub(super) fn see(&mut self, event: &Event) {
        match &event.what {
            Payload::EnterBegin { mode, .. } | Payload::WaitBegin { mode, .. } => {
                self.close(event.lane, Some(event.at));
                self.now(event).mode = *mode;
            }
            Payload::EnterEnd { result, overflow, .. } => {
                self.in_flight_max = self.in_flight_max.max(event.in_flight.total as u64);
                let now = self.now(event);
                now.submitted = u64::from(result.unwrap_or(0));
                now.overflow = *overflow;
                self.back("enter", event, result.is_err());
            }
            Payload::WaitEnd { result, .. } => {
                self.now(event).brought = u64::from(result.unwrap_or(0));
                self.back("wait", event, result.is_err());
            }
            Payload::Completed { .. } => self.now(event).brought += 1,
            Payload::Implied { .. } => self.now(event).implied += 1,
            Payload::CallEnd { result, .. } => {
                self.now(event).moved += u64::from(result.is_ok());
            }
            Payload::Lost(_) => self.now.clear(),
            _ => {}
        }
    }

    /// The turn of whoever did this.
    fn now(&mut self, event: &Event) -> &mut Turn {
        self.now.entry(event.lane).or_default()
    }

    fn back(&mut self, name: &'static str, event: &Event, failed: bool) {
        self.name = Some(name);
        let now = self.now(event);
        now.back = Some(event.at);
        now.failed = failed;
        if let Some(lasted) = event.lasted {
            self.inside_ns = self.inside_ns.saturating_add(lasted);
            self.inside.record(Duration::from_nanos(lasted));
        }
    }

    /// A lane's turn is over: the next begins, or nothing comes any more.
    fn close(&mut self, lane: Option<u16>, next: Option<u64>) {
        let Some(turn) = self.now.remove(&lane) else { return };
        let Some(back) = turn.back else { return };
        self.count += 1;
        self.failed += u64::from(turn.failed);
        self.batches.add(turn.brought);
        if self.name == Some("enter") {
            self.submitted.add(turn.submitted);
        }
        let nothing = turn.brought + turn.submitted + turn.implied == 0 && !turn.failed;
        match turn.mode {
            Some(WaitMode::Until) if nothing => self.timers += 1,
            _ if nothing => self.idle.note(back, None, None),
            _ => {}
        }
        if turn.overflow {
            self.overflows.note(back, None, Some(turn.brought));
        }
        if self.name == Some("wait") && turn.brought > 0 && turn.moved == 0 {
            self.in_vain.note(back, None, Some(turn.brought));
        }
        let Some(next) = next else { return };
        let away = Duration::from_nanos(next.saturating_sub(back));
        self.outside.record(away);
        if away > STALL {
            self.stalls.note(back, None, Some(away.as_nanos() as u64));
        }
    }

    /// All of them; `None` if there was no turn.
    pub(super) fn finish(mut self) -> Option<Turns> {
        let mut open: Vec<_> = self.now.keys().copied().collect();
        open.sort_unstable();
        open.into_iter().for_each(|lane| self.close(lane, None));
        Some(Turns {
            name: self.name?,
            count: self.count,
            failed: self.failed,
            inside_ns: self.inside_ns,
            inside: self.inside.percentiles(),
            outside: self.outside.percentiles(),
            stalls: self.stalls,
            batches: self.batches.finish(),
            submitted: self.submitted.finish(),
            idle: self.idle,
            timers: self.timers,
            overflows: self.overflows,
            in_flight_max: self.in_flight_max,
            in_vain: self.in_vain,
        })
    }
}
