//! `trace summary`: what was asked, what came of it, and how old it was.

use std::fmt;

use serde::Serialize;

use super::ops::{Octave, OpRow};
use super::stats::TraceStats;
use super::text::{bar, ratio, some};
use proactor_record::Errno;
use proactor_report::units::plural;
use proactor_report::{Align, Table, units};

/// The longest bar of a histogram.
const WIDTH: usize = 40;

/// What a trace comes to, operation by operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The name and version of this JSON: `proactor.trace.summary/2`.
    pub schema: &'static str,
    /// All numbers of the trace.
    #[serde(flatten)]
    pub stats: TraceStats,
}

impl Summary {
    /// Makes the view of these numbers.
    pub fn new(stats: TraceStats) -> Summary {
        Summary { schema: "proactor.trace.summary/2", stats }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        writeln!(f, "{}", stats.source)?;
        writeln!(f, "{}\n", traffic(stats))?;
        if stats.ops.is_empty() {
            return f.write_str("no operation and no call is in it");
        }
        f.write_str(&table(stats))?;
        if let Some(row) = charted(stats) {
            write!(f, "\n\n{}", histogram(stats, row))?;
        }
        notes(stats).iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// Connections, messages and bytes, and the time in the kernel.
fn traffic(stats: &TraceStats) -> String {
    let mut text = format!(
        "{}, {} in, {} in, {} out",
        plural(stats.connections, "connection"),
        plural(stats.messages, "message"),
        units::bytes(stats.bytes_in as f64),
        units::bytes(stats.bytes_out as f64),
    );
    if let (Some(iterations), Some(share)) = (&stats.iterations, stats.share_inside()) {
        let inside = units::nanos(iterations.inside_ns);
        text.push_str(&format!(
            "   {inside} in {} ({}, asleep and awake)",
            plural(iterations.count, iterations.name),
            units::percent(share)
        ));
    }
    if let Some(calls) = stats.calls.and_then(|calls| stats.per_message(calls)) {
        text.push_str(&format!("   {} system calls per message", ratio(calls)));
    }
    text
}

fn table(stats: &TraceStats) -> String {
    use Align::{Left, Right};
    let ring = stats.is_ring();
    let (begun, ended) = if ring { ("submitted", "cqes") } else { ("calls", "per message") };
    let fifth = if ring { "no CQE" } else { "would block" };
    let ages = if ring { "age: p50" } else { "took: p50" };
    let mut table = Table::new(&[
        ("op", Left),
        (begun, Right),
        (ended, Right),
        ("ok", Right),
        (fifth, Right),
        ("short", Right),
        ("eof", Right),
        ("errors", Left),
        (ages, Right),
        ("p90", Right),
        ("p99", Right),
        ("p99.9", Right),
        ("max", Right),
        ("", Left),
    ]);
    if let Some(iterations) = stats.iterations.as_ref().filter(|_| !ring) {
        let per = stats.per_message(iterations.count).map_or(String::new(), ratio);
        let mut cells = vec![iterations.name.to_owned(), units::count(iterations.count), per];
        let useless = iterations.idle.count + iterations.timers;
        cells.extend([
            units::count(iterations.count - useless),
            String::new(),
            String::new(),
            String::new(),
        ]);
        cells.push(some(iterations.failed));
        cells.extend(iterations.inside.cells().map(|(_, cell)| cell));
        let mean = ratio(iterations.batches.mean);
        cells.push(format!("{mean} reports of each"));
        table.row(cells);
    }
    stats.ops.iter().for_each(|row| table.row(cells(stats, row)));
    table.to_string()
}

fn cells(stats: &TraceStats, row: &OpRow) -> Vec<String> {
    let star = if row.multishot { "*" } else { "" };
    let ended = if row.on_ring {
        units::count(row.ended)
    } else {
        stats.per_message(row.begun).map_or(String::new(), ratio)
    };
    let fifth = if row.on_ring { row.implied } else { row.would_block };
    let errors = row.errors.iter().map(|(name, n)| format!("{} {name}", units::count(*n)));
    let mut cells = vec![
        format!("{}{star}", row.op.name()),
        units::count(row.begun),
        ended,
        units::count(row.ok),
        some(fifth),
        some(row.short),
        some(row.eof),
        errors.collect::<Vec<_>>().join(", "),
    ];
    match row.ages {
        Some(ages) => cells.extend(ages.cells().map(|(_, cell)| cell)),
        None => cells.extend(std::iter::repeat_n(String::new(), 5)),
    }
    cells.push(remark(row));
    cells
}

fn remark(row: &OpRow) -> String {
    let mut all = Vec::new();
    if row.multishot && row.begun > 0 {
        let each = ratio(row.ended as f64 / row.begun as f64);
        all.push(format!("1 submission, {each} completions on average"));
    }
    if row.may_sleep && row.ages.is_some() {
        all.push("asleep and awake".to_owned());
    }
    if row.in_flight > 0 {
        all.push(format!("{} in flight at the end", units::count(row.in_flight)));
    }
    if row.unseen > 0 {
        all.push(format!("{} submitted before what is here", units::count(row.unseen)));
    }
    all.join("; ")
}

/// The operation whose ages are drawn: that which takes the most time, of those whose time is their
/// own.
fn charted(stats: &TraceStats) -> Option<&OpRow> {
    let time = |row: &&OpRow| -> u128 {
        let each = |one: &Octave| u128::from(one.from_ns.max(500)) * u128::from(one.count);
        row.octaves.iter().map(each).sum()
    };
    let own = |row: &&OpRow| !row.octaves.is_empty() && !row.waits_for_others();
    stats.ops.iter().filter(own).max_by_key(time)
}

fn histogram(stats: &TraceStats, row: &OpRow) -> String {
    let most = row.octaves.iter().map(|octave| octave.count).max().unwrap_or(0);
    let word = if stats.is_ring() { "age" } else { "took" };
    let head = format!("{} {word}", row.op.name());
    let line = |(at, octave): (usize, &Octave)| {
        let head = if at == 0 { &head[..] } else { "" };
        let from = match octave.from_ns {
            0 => "below 1 µs".to_owned(),
            nanos if nanos < 1_000_000 => format!("{} µs", nanos / 1000),
            nanos => units::nanos(nanos),
        };
        let bar = bar(octave.count, most, WIDTH);
        format!("{head:<13}{from:>10} ▏{bar} {}", units::count(octave.count))
    };
    row.octaves.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// What the numbers do not say by themselves.
fn notes(stats: &TraceStats) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(row) = charted(stats) else {
        if !stats.is_ring() && stats.source.level == Some("batch") {
            notes.push(
                "\nhow long calls took is not here: the clock was read per batch \
                 (serve --trace-clock=record reads it for each)"
                    .to_owned(),
            );
        }
        return notes;
    };
    if stats.is_ring() {
        notes.push(format!(
            "age: from the submission to the reaping; {}",
            if stats.source.defers {
                "posted somewhere inside the enter that returned it"
            } else {
                "posted at some time before, nearly always inside an enter"
            }
        ));
    }
    if row.implied > 0 {
        notes.push(format!(
            "no CQE: {} skipped {} and ended, at the latest, when the enter that took {} \
             returned: {}",
            plural(row.implied, row.op.name()),
            units::agree(row.implied, "its completion", "their completions"),
            units::agree(row.implied, "it", "them"),
            units::agree(row.implied, "its age is an upper bound", "their ages are upper bounds")
        ));
    }
    let aborted = Errno(libc::ECANCELED).to_string();
    if stats.ops.iter().any(|row| row.errors.contains_key(&aborted)) {
        notes.push(format!(
            "{aborted}: cancelled by the loop itself, at its end or to ask for something else"
        ));
    }
    notes
}
