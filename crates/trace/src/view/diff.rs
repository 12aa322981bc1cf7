//! `trace diff A B`: two traces side by side, each number per message.

use std::collections::HashSet;
use std::fmt;

use minijinja::context;
use serde::Serialize;

use super::lanes::Lanes;
use super::ops::OpRow;
use super::stats::TraceStats;
use super::text::fill;
use proactor_record::{Call, Kind, OpKind};
use proactor_report::histogram::Percentiles;

/// Two traces, side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.diff/2")]
pub struct Diff {
    /// All numbers of the first.
    pub a: TraceStats,
    /// All numbers of the second.
    pub b: TraceStats,
    /// The numbers side by side.
    pub lines: Vec<Line>,
}

/// One number of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The name of the number.
    pub name: String,
    /// The unit of the number.
    pub unit: Unit,
    /// The number of the first; `None` where there is no such number.
    pub a: Option<f64>,
    /// The number of the second.
    pub b: Option<f64>,
}

/// In what a line is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A count of things.
    Count,
    /// Things for each message, or in each iteration.
    Ratio,
    /// A time in nanoseconds.
    Nanos,
    /// A number of bytes.
    Bytes,
}

impl Diff {
    /// Compares two traces, number by number.
    ///
    /// # Errors
    /// A sentence, if one of them has no numbers per message.
    pub fn new(a: TraceStats, b: TraceStats) -> Result<Diff, String> {
        for (name, stats) in [("first", &a), ("second", &b)] {
            let sample = stats.source.sample;
            let why = match stats.messages {
                0 => "has no message (no receive brought bytes): there is nothing to compare per \
                      message"
                    .to_owned(),
                _ if sample > 1 => format!(
                    "is a sample of 1 in {sample} connections: its iterations are not those of \
                     its messages. Record without --trace-sample"
                ),
                _ => continue,
            };
            return Err(format!("the {name} trace {why}"));
        }
        let lines = lines(&a, &b);
        Ok(Diff { a, b, lines })
    }
}

fn lines(a: &TraceStats, b: &TraceStats) -> Vec<Line> {
    use Unit::{Bytes, Nanos, Ratio};
    let (mut all, is_alike) = (Lines { a, b, all: Vec::new() }, a.measure == b.measure);
    all.count("messages", |d| Some(d.messages));
    all.count("connections", |d| Some(d.connections));
    if a.lanes.is_some() || b.lanes.is_some() {
        let most = |d: &TraceStats| Some(d.lanes.as_ref().map_or(1, |lanes| lanes.most));
        all.count("threads or processes, max", most);
    }
    all.add("bytes in / message", Bytes, |d| d.per_message(d.bytes_in));
    all.add("bytes out / message", Bytes, |d| d.per_message(d.bytes_out));
    all.add("system calls / message", Ratio, |d| d.per_message(d.calls?));
    all.add("  enters or waits", Ratio, |d| {
        let iterations = d.iterations.as_ref().map(|iterations| iterations.count);
        d.per_message(iterations.or_else(|| Some(d.op(OpKind::Wait)?.begun))?)
    });
    for op in both(a, b, false).into_iter().filter(|&op| op != OpKind::Wait) {
        all.add(&format!("  {op} calls"), Ratio, |d| d.per_message(d.op(op)?.begun));
    }
    all.add("bytes / system call", Bytes, |d| {
        let bytes = d.bytes_in.saturating_add(d.bytes_out);
        d.calls.filter(|&calls| calls > 0).map(|calls| bytes as f64 / calls as f64)
    });
    all.add("submissions / message", Ratio, |d| on_ring(d, |row| row.begun));
    for op in both(a, b, true) {
        all.add(&format!("  {op}"), Ratio, |d| d.per_message(d.op(op)?.begun));
    }
    all.add("completions / message", Ratio, |d| on_ring(d, |row| row.ended));
    all.add("would block / message", Ratio, |d| {
        let calls = d.ops.iter().filter(|row| !row.on_ring);
        d.per_message(calls.map(|row| row.would_block).reduce(u64::wrapping_add)?)
    });
    all.add("messages / iteration", Ratio, |d| {
        let iterations = d.iterations.as_ref()?.count;
        (iterations > 0).then(|| d.messages as f64 / iterations as f64)
    });
    all.add("events / iteration, mean", Ratio, |d| Some(d.iterations.as_ref()?.batches.mean));
    all.count("events / iteration, max", |d| Some(d.iterations.as_ref()?.batches.max));
    for (at, name) in TIMES.into_iter().enumerate() {
        all.add(name, Nanos, |d| d.per_message(times(d)?[at]?));
    }
    // Exchanges that are not timed alike are not compared.
    for (name, how_many, of) in TIMED.iter().filter(|one| one.0 != "answered" || is_alike) {
        for (at, percentile) in ["p50", "p99", "max"].iter().enumerate().take(*how_many) {
            all.add(&format!("{name}, {percentile}"), Nanos, |d| {
                let all = of(d)?;
                [all.p50_ns, all.p99_ns, all.max_ns][at].map(|nanos| nanos as f64)
            });
        }
    }
    all.count("no buffer (ENOBUFS)", |d| Some(d.anomalies.out_of_buffers.count));
    all.count("short sends", |d| Some(d.anomalies.short.count));
    all.count("overflows", |d| Some(d.iterations.as_ref()?.overflows.count));
    all.count("stalls", |d| Some(d.iterations.as_ref()?.stalls.count));
    all.count("records lost", |d| Some(d.source.lost));
    all.all
}

/// Lines that are being gathered.
struct Lines<'a> {
    a: &'a TraceStats,
    b: &'a TraceStats,
    all: Vec<Line>,
}

impl Lines<'_> {
    /// Adds a number of both, unless neither has it or it is zero in both.
    fn add(&mut self, name: &str, unit: Unit, number: impl Fn(&TraceStats) -> Option<f64>) {
        let (a, b) = (number(self.a), number(self.b));
        if a.unwrap_or(0.0) != 0.0 || b.unwrap_or(0.0) != 0.0 {
            self.all.push(Line { name: name.to_owned(), unit, a, b });
        }
    }

    /// Adds a count of both.
    fn count(&mut self, name: &str, number: impl Fn(&TraceStats) -> Option<u64>) {
        self.add(name, Unit::Count, |d| number(d).map(|n| n as f64));
    }
}

/// What is timed, how many of its percentiles are compared, and where they are.
type DurationRow = (&'static str, usize, fn(&TraceStats) -> Option<Percentiles>);

const TIMED: [DurationRow; 6] = [
    ("enter or wait", 2, |d| Some(d.iterations.as_ref()?.inside)),
    ("between them", 2, |d| Some(d.iterations.as_ref()?.outside)),
    ("send age", 3, |d| ages(d, OpKind::Ring(Kind::Send))),
    ("recv took", 3, |d| ages(d, OpKind::Call(Call::Recv))),
    ("send took", 3, |d| ages(d, OpKind::Call(Call::Send))),
    ("answered", 3, |d| Some(d.answered)),
];

/// How long an operation took, unless it waits for others.
fn ages(stats: &TraceStats, op: OpKind) -> Option<Percentiles> {
    stats.op(op).filter(|row| !row.waits_for_others())?.ages
}

const TIMES: [&str; 5] = [
    "time waiting / message",
    "time not waiting / message",
    "  copying",
    "  other calls",
    "  between calls",
];

/// The time of a loop, or of all threads together, in nanoseconds: what they waited, which includes
/// receives that may sleep, and what they did not; and of the latter, what they spent in calls that
/// copy, in other calls and in no call. `None` for calls if they have no times, or on a ring, which
/// copies in its enters; and for all if neither iterations nor threads are here.
fn times(stats: &TraceStats) -> Option<[Option<u64>; 5]> {
    if let Some(Lanes { spent, .. }) = &stats.lanes {
        let calls = [spent.copying_ns, spent.other_ns, spent.between_ns];
        let [copying, other, between] = calls.map(Some);
        return Some([Some(spent.waiting_ns), Some(spent.awake_ns()), copying, other, between]);
    }
    let waiting = stats.iterations.as_ref()?.inside_ns;
    let awake = stats.source.span_ns.saturating_sub(waiting);
    let together = |copies: bool| {
        let is_copy = |row: &OpRow| row.op.receives() || row.op.sends();
        let rows = stats.ops.iter().filter(|row| !row.on_ring && copies == is_copy(row));
        rows.filter_map(|row| row.together_ns).fold(0, u64::saturating_add)
    };
    let has_times = !stats.is_ring() && has_times(stats);
    let [copying, other] = [true, false].map(|copies| has_times.then(|| together(copies)));
    let in_calls = copying.zip(other).map(|(copying, other)| copying + other);
    let in_calls = if stats.is_ring() { Some(0) } else { in_calls };
    let between = in_calls.map(|in_calls| awake.saturating_sub(in_calls));
    Some([Some(waiting), Some(awake), copying, other, between])
}

/// Whether its calls have a length.
fn has_times(stats: &TraceStats) -> bool {
    stats.ops.iter().any(|row| !row.on_ring && row.together_ns.is_some_and(|nanos| nanos > 0))
}

/// The names of the operations, or of the calls, of both: each once, in their order.
fn both(a: &TraceStats, b: &TraceStats, on_ring: bool) -> Vec<OpKind> {
    let rows = a.ops.iter().chain(&b.ops).filter(|row| row.on_ring == on_ring);
    let mut seen = HashSet::new();
    rows.map(|row| row.op).filter(|&op| seen.insert(op)).collect()
}

/// Something of all operations of a ring, per message; `None` of what is none.
fn on_ring(stats: &TraceStats, number: fn(&OpRow) -> u64) -> Option<f64> {
    let all = stats.ops.iter().filter(|row| row.on_ring);
    stats.per_message(all.map(number).sum()).filter(|_| stats.is_ring())
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = [&self.a, &self.b]
            .map(|stats| context! { has_times => has_times(stats), ..stats.values() });
        let values = context! { a, b, lines => self.lines };
        f.write_str(&fill(include_str!("diff.txt"), values))
    }
}
