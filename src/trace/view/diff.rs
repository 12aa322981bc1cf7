//! `trace diff A B`: two traces side by side, each number per message.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::chart::ratio;
use super::digest::Digest;
use super::ops::OpRow;
use super::summary::span;
use crate::report::{Align, NOTHING, Table, units};

/// Two traces, side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// `proactor.trace.diff/1`
    pub schema: &'static str,
    /// The first, whole.
    pub a: Digest,
    /// The second, whole.
    pub b: Digest,
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
    pub fn new(a: Digest, b: Digest) -> Result<Diff, String> {
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
        Ok(Diff { schema: "proactor.trace.diff/1", a, b, lines })
    }
}

fn lines(a: &Digest, b: &Digest) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |name: &str, unit, number: &dyn Fn(&Digest) -> Option<f64>| {
        let (a, b) = (number(a), number(b));
        // What neither has, or what never happened in either, says nothing.
        if a.unwrap_or(0.0) != 0.0 || b.unwrap_or(0.0) != 0.0 {
            lines.push(Line { name: name.to_owned(), unit, a, b });
        }
    };
    use Unit::{Bytes, Count, Nanos, Ratio};
    let some = |n: u64| Some(n as f64);
    add("messages", Count, &|d| some(d.messages));
    add("connections", Count, &|d| some(d.connections));
    add("bytes in / message", Bytes, &|d| d.per_message(d.bytes_in));
    add("bytes out / message", Bytes, &|d| d.per_message(d.bytes_out));
    add("system calls / message", Ratio, &|d| d.per_message(d.calls?));
    add("  enters or waits", Ratio, &|d| d.per_message(d.turns.as_ref()?.count));
    for op in names(a, b, false) {
        add(&format!("  {op} calls"), Ratio, &|d| per(d, op, false));
    }
    add("submissions / message", Ratio, &|d| on_ring(d, |row| row.begun));
    for op in names(a, b, true) {
        add(&format!("  {op}"), Ratio, &|d| per(d, op, true));
    }
    add("completions / message", Ratio, &|d| on_ring(d, |row| row.ended));
    add("would block / message", Ratio, &|d| {
        let calls: Vec<_> = d.ops.iter().filter(|row| !row.on_ring).collect();
        let all = calls.iter().map(|row| row.would_block).sum();
        d.per_message(all).filter(|_| !calls.is_empty())
    });
    add("messages / turn", Ratio, &|d| {
        let turns = d.turns.as_ref()?.count;
        (turns > 0).then(|| d.messages as f64 / turns as f64)
    });
    add("brought by a turn, mean", Ratio, &|d| Some(d.turns.as_ref()?.batches.mean));
    add("brought by a turn, max", Count, &|d| some(d.turns.as_ref()?.batches.max));
    add("in enters or waits / message", Nanos, &|d| d.per_message(d.turns.as_ref()?.inside_ns));
    add("outside of them / message", Nanos, &|d| {
        d.per_message(d.source.span_ns.saturating_sub(d.turns.as_ref()?.inside_ns))
    });
    add("  of that in calls", Nanos, &|d| {
        d.turns.as_ref()?;
        let calls = d.ops.iter().filter(|row| !row.on_ring && row.ages.is_some());
        let together: u64 = calls.filter_map(|row| row.together_ns).sum();
        d.per_message(together).filter(|_| together > 0)
    });
    add("turn inside, p50", Nanos, &|d| d.turns.as_ref()?.inside.p50_ns.map(|n| n as f64));
    add("turn inside, p99", Nanos, &|d| d.turns.as_ref()?.inside.p99_ns.map(|n| n as f64));
    add("turn outside, p50", Nanos, &|d| d.turns.as_ref()?.outside.p50_ns.map(|n| n as f64));
    add("turn outside, p99", Nanos, &|d| d.turns.as_ref()?.outside.p99_ns.map(|n| n as f64));
    for (name, on_ring, op) in
        [("send age", true, "send"), ("recv took", false, "recv"), ("send took", false, "send")]
    {
        let ages = |d: &Digest| {
            let mut rows = d.ops.iter().filter(|row| !row.waits_for_others());
            rows.find(|row| row.op == op && row.on_ring == on_ring)?.ages
        };
        add(&format!("{name}, p50"), Nanos, &|d| ages(d)?.p50_ns.map(|n| n as f64));
        add(&format!("{name}, p99"), Nanos, &|d| ages(d)?.p99_ns.map(|n| n as f64));
    }
    if a.measure == b.measure {
        add("answered, p50", Nanos, &|d| d.answered.p50_ns.map(|n| n as f64));
        add("answered, p99", Nanos, &|d| d.answered.p99_ns.map(|n| n as f64));
    }
    add("no buffer (ENOBUFS)", Count, &|d| some(d.odd.starved.count));
    add("short sends", Count, &|d| some(d.odd.short.count));
    add("turns with an overflow", Count, &|d| some(d.turns.as_ref()?.overflows.count));
    add("stalls", Count, &|d| some(d.turns.as_ref()?.stalls.count));
    add("records lost", Count, &|d| some(d.source.lost));
    lines
}

/// The names of the operations, or of the calls, of both: each once, in their order.
fn names(a: &Digest, b: &Digest, on_ring: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    for row in a.ops.iter().chain(&b.ops).filter(|row| row.on_ring == on_ring) {
        if !names.contains(&row.op) {
            names.push(row.op);
        }
    }
    names
}

/// Something of all operations of a ring, per message; `None` of what is none.
fn on_ring(digest: &Digest, number: fn(&OpRow) -> u64) -> Option<f64> {
    let all = digest.ops.iter().filter(|row| row.on_ring);
    digest.per_message(all.map(number).sum()).filter(|_| digest.is_ring())
}

fn per(digest: &Digest, op: &str, on_ring: bool) -> Option<f64> {
    let row = digest.ops.iter().find(|row| row.op == op && row.on_ring == on_ring)?;
    digest.per_message(row.begun)
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
        if self.a.measure != self.b.measure {
            writeln!(
                f,
                "answered is left out: A is timed from {}, B from {}",
                self.a.measure.words(),
                self.b.measure.words()
            )?;
        }
        f.write_str(
            "two runs under loads of their own: counts per message can be compared, times only if \
             the loads were alike; which is faster, `proactor compare` tells",
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
