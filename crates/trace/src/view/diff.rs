//! `trace diff A B`: two traces side by side, each number per message.

use std::collections::HashSet;
use std::fmt;

use minijinja::context;
use serde::Serialize;

use super::lanes::Lanes;
use super::ops::OpRow;
use super::source::Cut;
use super::stats::TraceStats;
use super::text::fill;
use crate::trace_file::TraceFile;
use proactor_record::{Call, Kind, OpKind};
use proactor_report::histogram::Percentiles;

/// How many slices of its time show how much a number varies within a trace.
const SLICES: u32 = 10;
/// The fewest slices with a number that have a range.
const FEWEST: usize = 5;

/// Two traces, side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.diff/3")]
pub struct Diff {
    /// All numbers of the first.
    pub a: TraceStats,
    /// All numbers of the second.
    pub b: TraceStats,
    /// All numbers of another one of the first kind, if there is one.
    pub again: Option<TraceStats>,
    /// The numbers side by side.
    pub lines: Vec<Line>,
}

/// One number of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The name of the number.
    pub name: String,
    /// The unit of the number.
    pub unit: Unit,
    /// The number of the first.
    pub a: Number,
    /// The number of the second.
    pub b: Number,
    /// The number of another one of the first kind.
    pub again: Option<Number>,
    /// Whether the range of the second lies outside of those of the first and its like; `None`
    /// without ranges.
    pub differs: Option<bool>,
}

/// A number of a trace: that of the median slice, where slices have one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Number {
    /// The number; `None` where there is none.
    pub value: Option<f64>,
    /// The least and the greatest of the slices.
    pub range: Option<[f64; 2]>,
}

/// One of the traces of a comparison: its numbers, and those of slices of its time.
#[derive(Debug, Clone)]
pub struct DiffSide {
    whole: TraceStats,
    slices: Vec<TraceStats>,
}

impl DiffSide {
    /// Of this part of a trace.
    pub fn of(trace: &TraceFile, cut: &Cut) -> DiffSide {
        let (whole, mut slices) = TraceStats::with_slices(trace, cut, SLICES);
        // Not those in which the clients came, went or rested.
        let most = slices.iter().map(|slice| slice.messages).max().unwrap_or(0);
        slices.retain(|slice| slice.messages > 0 && slice.messages >= most / 10);
        DiffSide { whole, slices }
    }

    /// The number of the whole, unless enough slices have it.
    fn number(&self, number: impl Fn(&TraceStats) -> Option<f64>) -> Number {
        let Some(whole) = number(&self.whole) else { return Number::default() };
        let mut sliced: Vec<f64> = self.slices.iter().filter_map(number).collect();
        sliced.sort_by(f64::total_cmp);
        if sliced.len() < FEWEST {
            return Number { value: Some(whole), range: None };
        }
        let median = (sliced[(sliced.len() - 1) / 2] + sliced[sliced.len() / 2]) / 2.0;
        Number { value: Some(median), range: Some([sliced[0], sliced[sliced.len() - 1]]) }
    }
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
    /// Compares two traces, number by number; `again` is another one of the first kind.
    ///
    /// # Errors
    /// A sentence, if one of them has no numbers per message, or `again` is of another model.
    pub fn new(a: DiffSide, b: DiffSide, again: Option<DiffSide>) -> Result<Diff, String> {
        let sides = [("first", Some(&a)), ("second", Some(&b)), ("other", again.as_ref())];
        for (name, side) in sides {
            let Some(DiffSide { whole, .. }) = side else { continue };
            let sample = whole.source.sample;
            let why = match whole.messages {
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
        let models = [Some(&a), again.as_ref()].map(|side| Some(&*side?.whole.source.model));
        if let [Some(first), Some(other)] = models
            && first != other
        {
            return Err(format!(
                "the other trace is of the model {other}, and the first of {first}: how much one \
                 varies by itself shows in another one of it"
            ));
        }
        let lines = lines(&a, &b, again.as_ref());
        let [a, b] = [a.whole, b.whole];
        Ok(Diff { a, b, again: again.map(|side| side.whole), lines })
    }
}

fn lines(a: &DiffSide, b: &DiffSide, again: Option<&DiffSide>) -> Vec<Line> {
    use Unit::{Bytes, Nanos, Ratio};
    let mut all = Lines { a, b, again, all: Vec::new() };
    let [a, b] = [&a.whole, &b.whole];
    // A ring copies within its enters, a selector between its waits.
    let (is_alike, is_same_place) = (a.measure == b.measure, a.is_ring() == b.is_ring());
    let is_comparable = |d: &TraceStats| is_same_place || !d.is_ring();
    all.total("messages", |d| Some(d.messages));
    all.total("connections", |d| Some(d.connections));
    if a.lanes.is_some() || b.lanes.is_some() {
        let most = |d: &TraceStats| Some(d.lanes.as_ref().map_or(1, |lanes| lanes.most));
        all.total("threads or processes, max", most);
    }
    all.add("bytes in / message", Bytes, |d| d.per_message(d.bytes_in));
    all.add("bytes out / message", Bytes, |d| d.per_message(d.bytes_out));
    all.add("bytes / system call", Bytes, TraceStats::bytes_per_call);
    all.add("system calls / message", Ratio, |d| d.per_message(d.calls?));
    all.add("  enters or waits", Ratio, |d| {
        let iterations = d.iterations.as_ref().map(|iterations| iterations.count);
        d.per_message(iterations.or_else(|| Some(d.op(OpKind::Wait)?.begun))?)
    });
    for op in both(a, b, false).into_iter().filter(|&op| op != OpKind::Wait) {
        all.add(&format!("  {op} calls"), Ratio, |d| d.per_message(d.op(op)?.begun));
    }
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
    all.total("events / iteration, max", |d| Some(d.iterations.as_ref()?.batches.max));
    for (at, name) in TIMES.into_iter().enumerate() {
        let is_of_protocol = name == BETWEEN;
        all.add(name, Nanos, |d| {
            d.per_message(times(d).filter(|_| is_of_protocol || is_comparable(d))?[at]?)
        });
    }
    all.add("asleep in enters / message", Nanos, |d| d.per_message(d.kernel.as_ref()?.asleep_ns?));
    all.add("at work in enters / message", Nanos, |d| {
        let (inside, asleep) = (d.iterations.as_ref()?.inside_ns, d.kernel.as_ref()?.asleep_ns?);
        d.per_message(inside.saturating_sub(asleep))
    });
    all.add("to worker threads (io-wq) / message", Ratio, |d| {
        d.per_message(d.kernel.as_ref()?.punted?)
    });
    // Exchanges that are not timed alike are not compared.
    for (name, how_many, of) in TIMED.iter().filter(|one| one.0 != "answered" || is_alike) {
        let is_of_iteration = ["enter or wait", "between them"].contains(name);
        for (at, percentile) in ["p50", "p99", "max"].iter().enumerate().take(*how_many) {
            all.add(&format!("{name}, {percentile}"), Nanos, |d| {
                let all = of(d).filter(|_| !is_of_iteration || is_comparable(d))?;
                [all.p50_ns, all.p99_ns, all.max_ns][at].map(|nanos| nanos as f64)
            });
        }
    }
    what_went_wrong(&mut all);
    all.all
}

/// Adds the numbers that are zero in a server without problems.
fn what_went_wrong(all: &mut Lines) {
    all.total("no buffer (ENOBUFS)", |d| Some(d.anomalies.out_of_buffers.count));
    all.total("short sends", |d| Some(d.anomalies.short.count));
    all.total("overflows", |d| Some(d.iterations.as_ref()?.overflows.count));
    all.total("stalls", |d| {
        let stalls = d.pauses.unexplained.as_ref().filter(|_| d.pauses.sees_delays)?;
        Some(stalls.times.count)
    });
    all.add("ready without a CPU / s", Unit::Nanos, |d| {
        // A damaged recording may have more delays than time.
        let (delayed, span) = (d.pauses.delayed_ns?, d.source.span_ns);
        (delayed <= span && span > 0).then(|| delayed as f64 / span as f64 * 1e9)
    });
    all.total("stops", |d| Some(d.pauses.stopped.times.count));
    all.total("records lost", |d| Some(d.source.lost));
}

/// Lines that are being gathered.
struct Lines<'a> {
    a: &'a DiffSide,
    b: &'a DiffSide,
    again: Option<&'a DiffSide>,
    all: Vec<Line>,
}

impl Lines<'_> {
    /// Adds a number of all, unless neither of the two has it or it is zero in both.
    fn add(&mut self, name: &str, unit: Unit, number: impl Fn(&TraceStats) -> Option<f64>) {
        let [a, b] = [self.a, self.b].map(|side| side.number(&number));
        let again = self.again.map(|side| side.number(&number));
        let differs = differs(a, b, again);
        self.push(Line { name: name.to_owned(), unit, a, b, again, differs });
    }

    /// Adds a count of all, which has no slices.
    fn total(&mut self, name: &str, number: impl Fn(&TraceStats) -> Option<u64>) {
        let of =
            |side: &DiffSide| Number { value: number(&side.whole).map(|n| n as f64), range: None };
        let ([a, b], again) = ([self.a, self.b].map(of), self.again.map(of));
        self.push(Line { name: name.to_owned(), unit: Unit::Count, a, b, again, differs: None });
    }

    fn push(&mut self, line: Line) {
        if [line.a, line.b].iter().any(|number| number.value.unwrap_or(0.0) != 0.0) {
            self.all.push(line);
        }
    }
}

/// Whether all slices of the second lie above or below all of the first and its like.
fn differs(a: Number, b: Number, again: Option<Number>) -> Option<bool> {
    let ([a_least, a_most], [least, most]) = (a.range?, b.range?);
    let [again_least, again_most] = again.map_or(a.range, |again| again.range)?;
    Some(most < a_least.min(again_least) || least > a_most.max(again_most))
}

/// What is timed, how many of its percentiles are compared, and where they are.
type DurationRow = (&'static str, usize, fn(&TraceStats) -> Option<Percentiles>);

const TIMED: [DurationRow; 8] = [
    ("enter or wait", 2, |d| Some(d.iterations.as_ref()?.inside)),
    ("between them", 2, |d| Some(d.iterations.as_ref()?.outside)),
    ("arrival to posted", 2, |d| Some(d.kernel.as_ref()?.posting)),
    ("posted to reaped", 2, |d| Some(d.kernel.as_ref()?.reaping)),
    ("send age", 3, |d| ages(d, OpKind::Ring(Kind::Send))),
    ("recv took", 3, |d| ages(d, OpKind::Call(Call::Recv))),
    ("send took", 3, |d| ages(d, OpKind::Call(Call::Send))),
    ("answered", 3, |d| Some(d.answered)),
];

/// How long an operation took, unless it waits for others.
fn ages(stats: &TraceStats, op: OpKind) -> Option<Percentiles> {
    stats.op(op).filter(|row| !row.waits_for_others())?.ages
}

/// The time that is neither in the kernel's enters and waits nor in calls.
const BETWEEN: &str = "  between calls";

const TIMES: [&str; 5] =
    ["time waiting / message", "time not waiting / message", "  copying", "  other calls", BETWEEN];

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
        let values =
            |stats: &TraceStats| context! { has_times => has_times(stats), ..stats.values() };
        let ([a, b], again) = ([&self.a, &self.b].map(values), self.again.as_ref().map(values));
        let values = context! { a, b, again, slices => SLICES, lines => self.lines };
        f.write_str(&fill(include_str!("diff.txt"), values))
    }
}
