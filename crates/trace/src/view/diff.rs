//! `trace diff A B`: two traces side by side, each number per message.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::chart::ratio;
use super::iterations::Turns;
use super::ops::OpRow;
use super::stats::TraceStats;
use super::summary::span;
use proactor_record::{Call, Kind, Op};
use proactor_report::histogram::Percentiles;
use proactor_report::{Align, NOTHING, Table, units};

/// Two traces, side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// `proactor.trace.diff/2`
    pub schema: &'static str,
    /// The first, whole.
    pub a: TraceStats,
    /// The second, whole.
    pub b: TraceStats,
    /// Line by line.
    pub lines: Vec<Line>,
}

/// One number of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// In what it is counted.
    pub unit: Unit,
    /// Of the first; `None` where there is no such number.
    pub a: Option<f64>,
    /// Of the second.
    pub b: Option<f64>,
}

/// In what a line is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things.
    Count,
    /// Things for each message, or in each turn.
    Ratio,
    /// Nanoseconds.
    Nanos,
    /// Bytes.
    Bytes,
}

impl Diff {
    /// Of two traces.
    ///
    /// # Errors
    /// A sentence, if nothing can be told per message of one of them.
    pub fn new(a: TraceStats, b: TraceStats) -> Result<Diff, String> {
        for (name, digest) in [("first", &a), ("second", &b)] {
            if digest.messages == 0 {
                return Err(format!(
                    "the {name} trace has no message (no receive brought bytes): there is nothing \
                     to compare per message"
                ));
            }
            if digest.source.sample > 1 {
                return Err(format!(
                    "the {name} trace is a sample of 1 in {} connections: its turns are not those \
                     of its messages. Record without --trace-sample",
                    digest.source.sample
                ));
            }
        }
        let lines = lines(&a, &b);
        Ok(Diff { schema: "proactor.trace.diff/2", a, b, lines })
    }
}

fn lines(a: &TraceStats, b: &TraceStats) -> Vec<Line> {
    let mut lines = Lines { a, b, all: Vec::new() };
    lines.traffic();
    lines.calls();
    lines.turns();
    lines.times();
    lines.ages();
    lines.oddities();
    lines.all
}

/// Lines that are being gathered.
struct Lines<'a> {
    a: &'a TraceStats,
    b: &'a TraceStats,
    all: Vec<Line>,
}

impl Lines<'_> {
    /// A number of both. What neither has, or what never happened in either, says nothing.
    fn add(&mut self, name: &str, unit: Unit, number: impl Fn(&TraceStats) -> Option<f64>) {
        let (a, b) = (number(self.a), number(self.b));
        if a.unwrap_or(0.0) != 0.0 || b.unwrap_or(0.0) != 0.0 {
            self.all.push(Line { name: name.to_owned(), unit, a, b });
        }
    }

    fn traffic(&mut self) {
        self.add("messages", Unit::Count, |d| some(d.messages));
        self.add("connections", Unit::Count, |d| some(d.connections));
        if self.a.lanes.is_some() || self.b.lanes.is_some() {
            let most = |d: &TraceStats| some(d.lanes.as_ref().map_or(1, |lanes| lanes.most));
            self.add("threads or processes, max", Unit::Count, most);
        }
        self.add("bytes in / message", Unit::Bytes, |d| d.per_message(d.bytes_in));
        self.add("bytes out / message", Unit::Bytes, |d| d.per_message(d.bytes_out));
    }

    fn calls(&mut self) {
        use Unit::{Bytes, Ratio};
        self.add("system calls / message", Ratio, |d| d.per_message(d.calls?));
        self.add("  enters or waits", Ratio, |d| {
            let turns = d.turns.as_ref().map(|turns| turns.count);
            d.per_message(turns.or_else(|| Some(d.op(Op::Wait)?.begun))?)
        });
        for op in both(self.a, self.b, false).into_iter().filter(|&op| op != Op::Wait) {
            self.add(&format!("  {op} calls"), Ratio, |d| per(d, op));
        }
        self.add("bytes / system call", Bytes, |d| {
            let bytes = d.bytes_in.saturating_add(d.bytes_out);
            d.calls.filter(|&calls| calls > 0).map(|calls| bytes as f64 / calls as f64)
        });
        self.add("submissions / message", Ratio, |d| on_ring(d, |row| row.begun));
        for op in both(self.a, self.b, true) {
            self.add(&format!("  {op}"), Ratio, |d| per(d, op));
        }
        self.add("completions / message", Ratio, |d| on_ring(d, |row| row.ended));
        self.add("would block / message", Ratio, |d| {
            let calls: Vec<_> = d.ops.iter().filter(|row| !row.on_ring).collect();
            let all = calls.iter().map(|row| row.would_block).sum();
            d.per_message(all).filter(|_| !calls.is_empty())
        });
    }

    fn turns(&mut self) {
        self.add("messages / turn", Unit::Ratio, |d| {
            let turns = d.turns.as_ref()?.count;
            (turns > 0).then(|| d.messages as f64 / turns as f64)
        });
        self.add("brought by a turn, mean", Unit::Ratio, |d| Some(d.turns.as_ref()?.batches.mean));
        self.add("brought by a turn, max", Unit::Count, |d| some(d.turns.as_ref()?.batches.max));
    }

    fn times(&mut self) {
        use Unit::Nanos;
        let add = |lines: &mut Self, name, of: fn(&Spent) -> Option<u64>| {
            lines.add(name, Nanos, |d| d.per_message(of(&Spent::of(d)?)?));
        };
        add(self, "in calls that wait / message", |spent| Some(spent.waiting));
        add(self, "outside of them / message", |spent| Some(spent.awake));
        add(self, "  copying", |spent| spent.copying);
        add(self, "  in other calls", |spent| spent.other);
        add(self, "  between calls", |spent| spent.between);
        let of =
            |d: &TraceStats, of: fn(&Turns) -> Option<u64>| Some(of(d.turns.as_ref()?)? as f64);
        self.add("turn inside, p50", Nanos, |d| of(d, |turns| turns.inside.p50_ns));
        self.add("turn inside, p99", Nanos, |d| of(d, |turns| turns.inside.p99_ns));
        self.add("turn outside, p50", Nanos, |d| of(d, |turns| turns.outside.p50_ns));
        self.add("turn outside, p99", Nanos, |d| of(d, |turns| turns.outside.p99_ns));
    }

    fn ages(&mut self) {
        let timed = [
            ("send age", Op::Ring(Kind::Send)),
            ("recv took", Op::Call(Call::Recv)),
            ("send took", Op::Call(Call::Send)),
        ];
        for (name, op) in timed {
            let ages = |d: &TraceStats| d.op(op).filter(|row| !row.waits_for_others())?.ages;
            self.percentiles(name, ages);
        }
        if self.a.measure == self.b.measure {
            self.percentiles("answered", |d| Some(d.answered));
        }
    }

    /// The middle, the slow and the slowest.
    fn percentiles(&mut self, name: &str, of: impl Fn(&TraceStats) -> Option<Percentiles>) {
        let nanos = |n: Option<u64>| n.map(|n| n as f64);
        self.add(&format!("{name}, p50"), Unit::Nanos, |d| nanos(of(d)?.p50_ns));
        self.add(&format!("{name}, p99"), Unit::Nanos, |d| nanos(of(d)?.p99_ns));
        self.add(&format!("{name}, max"), Unit::Nanos, |d| nanos(of(d)?.max_ns));
    }

    fn oddities(&mut self) {
        use Unit::Count;
        self.add("no buffer (ENOBUFS)", Count, |d| some(d.odd.out_of_buffers.count));
        self.add("short sends", Count, |d| some(d.odd.short.count));
        self.add("turns with an overflow", Count, |d| some(d.turns.as_ref()?.overflows.count));
        self.add("stalls", Count, |d| some(d.turns.as_ref()?.stalls.count));
        self.add("records lost", Count, |d| some(d.source.lost));
    }
}

fn some(n: u64) -> Option<f64> {
    Some(n as f64)
}

/// What the time of a loop, or of all threads together, went to, in nanoseconds.
struct Spent {
    /// Enters, waits, and receives that may sleep.
    waiting: u64,
    /// All the rest.
    awake: u64,
    /// Of the rest what was spent in calls that copy, in others, and in none; `None` if calls have
    /// no times, or on a ring, which copies in its enters.
    copying: Option<u64>,
    other: Option<u64>,
    between: Option<u64>,
}

impl Spent {
    /// `None` if neither turns nor threads are here.
    fn of(digest: &TraceStats) -> Option<Spent> {
        if let Some(lanes) = &digest.lanes {
            let (copying, other, between) = (lanes.copying_ns, lanes.other_ns, lanes.between_ns);
            return Some(Spent {
                waiting: lanes.waiting_ns,
                awake: copying.saturating_add(other).saturating_add(between),
                copying: Some(copying),
                other: Some(other),
                between: Some(between),
            });
        }
        let waiting = digest.turns.as_ref()?.inside_ns;
        let awake = digest.source.span_ns.saturating_sub(waiting);
        if digest.is_ring() {
            let between = Some(awake);
            return Some(Spent { waiting, awake, copying: None, other: None, between });
        }
        let together = |copies: bool| {
            let rows = digest.ops.iter().filter(|row| !row.on_ring && copies == is_copy(row));
            rows.filter_map(|row| row.together_ns).fold(0, u64::saturating_add)
        };
        let (copying, other) = (together(true), together(false));
        let told = has_times(digest);
        Some(Spent {
            waiting,
            awake,
            copying: told.then_some(copying),
            other: told.then_some(other),
            between: told.then(|| awake.saturating_sub(copying.saturating_add(other))),
        })
    }
}

/// Whether its calls have a length.
fn has_times(digest: &TraceStats) -> bool {
    digest.ops.iter().any(|row| !row.on_ring && row.together_ns.is_some_and(|nanos| nanos > 0))
}

fn is_copy(row: &OpRow) -> bool {
    row.op.receives() || row.op.sends()
}

/// What the times of one of them do not tell by themselves.
fn note(digest: &TraceStats) -> Option<String> {
    if let Some(lanes) = &digest.lanes {
        return Some(format!(
            "times are those of all {} added up; a receive that may sleep counts as waiting to its \
             end, though it copies there",
            lanes.kind
        ));
    }
    if digest.is_ring() {
        return Some(
            "the kernel copies within the enters: time asleep and time copying are one number"
                .to_owned(),
        );
    }
    (digest.turns.is_some() && !has_times(digest))
        .then(|| "its calls have no times (serve --trace-clock=record has them timed)".to_owned())
}

/// The names of the operations, or of the calls, of both: each once, in their order.
fn both(a: &TraceStats, b: &TraceStats, on_ring: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    for row in a.ops.iter().chain(&b.ops).filter(|row| row.on_ring == on_ring) {
        if !ops.contains(&row.op) {
            ops.push(row.op);
        }
    }
    ops
}

/// Something of all operations of a ring, per message; `None` of what is none.
fn on_ring(digest: &TraceStats, number: fn(&OpRow) -> u64) -> Option<f64> {
    let all = digest.ops.iter().filter(|row| row.on_ring);
    digest.per_message(all.map(number).sum()).filter(|_| digest.is_ring())
}

fn per(digest: &TraceStats, op: Op) -> Option<f64> {
    digest.per_message(digest.op(op)?.begun)
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Align::{Left, Right};
        for (name, digest) in [("A", &self.a), ("B", &self.b)] {
            let text = digest.source.to_string().replace('\n', "\n   ");
            writeln!(f, "{name}  {text}")?;
        }
        writeln!(f)?;
        let (a, b) = (&self.a.source.model, &self.b.source.model);
        let (a, b) = (format!("A: {a}"), format!("B: {b}"));
        let mut table = Table::new(&[("", Left), (&a, Right), (&b, Right), ("B / A", Right)]);
        for line in &self.lines {
            let both = match (line.a, line.b) {
                (Some(a), Some(b)) if a > 0.0 && b > 0.0 => format!("{}×", ratio(b / a)),
                _ => String::new(),
            };
            let show = |number| show(line.unit, number);
            table.row([line.name.clone(), show(line.a), show(line.b), both]);
        }
        writeln!(f, "{table}\n")?;
        for (name, digest) in [("A", &self.a), ("B", &self.b)] {
            if let Some(note) = note(digest) {
                writeln!(f, "{name}: {note}")?;
            }
        }
        if self.a.measure != self.b.measure {
            writeln!(
                f,
                "answered is left out: A is timed from {}, B from {}",
                self.a.measure.words(),
                self.b.measure.words()
            )?;
        }
        f.write_str(
            "the two traces had different loads: compare counts per message, and times only if the \
             loads were alike. For speed use `proactor compare`",
        )
    }
}

fn show(unit: Unit, number: Option<f64>) -> String {
    let Some(number) = number else { return NOTHING.to_owned() };
    match unit {
        Unit::Count => units::count(number as u64),
        Unit::Ratio => ratio(number),
        Unit::Nanos => span(Some(Duration::from_nanos(number as u64).as_nanos() as u64)),
        Unit::Bytes => units::bytes(number),
    }
}
