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
    let (conns, messages) =
        (plural(stats.connections, "connection"), plural(stats.messages, "message"));
    let [bytes_in, bytes_out] = [stats.bytes_in, stats.bytes_out].map(|n| units::bytes(n as f64));
    let mut text = format!("{conns}, {messages} in, {bytes_in} in, {bytes_out} out");
    if let (Some(iterations), Some(share)) = (&stats.iterations, stats.share_inside()) {
        let (inside, share) = (units::nanos(iterations.inside_ns), units::percent(share));
        let all = plural(iterations.count, iterations.name);
        text += &format!("   {inside} in {all} ({share}, asleep and awake)");
    }
    if let Some(calls) = stats.calls.and_then(|calls| stats.per_message(calls)) {
        text += &format!("   {} system calls per message", ratio(calls));
    }
    text
}

fn table(stats: &TraceStats) -> String {
    use Align::{Left, Right};
    let [begun, ended, fifth, p50] = match stats.is_ring() {
        true => ["submitted", "cqes", "no CQE", "age: p50"],
        false => ["calls", "per message", "would block", "took: p50"],
    };
    let numbers = [begun, ended, "ok", fifth, "short", "eof"].map(|name| (name, Right));
    let ages = [p50, "p90", "p99", "p99.9", "max"].map(|name| (name, Right));
    let columns = [&[("op", Left)], &numbers[..], &[("errors", Left)], &ages, &[("", Left)]];
    let mut table = Table::new(&columns.concat());
    if let Some(iterations) = stats.iterations.as_ref().filter(|_| !stats.is_ring()) {
        let per = stats.per_message(iterations.count).map_or(String::new(), ratio);
        let useful = iterations.count - iterations.idle.count - iterations.timers;
        let [name, ok] = [iterations.name.to_owned(), units::count(useful)];
        let numbers = [name, units::count(iterations.count), per, ok];
        let blanks = [const { String::new() }; 3];
        let ages = iterations.inside.cells().map(|(_, cell)| cell);
        let remark = format!("{} reports of each", ratio(iterations.batches.mean));
        let cells = numbers.into_iter().chain(blanks).chain([some(iterations.failed)]);
        table.row(cells.chain(ages).chain([remark]));
    }
    stats.ops.iter().for_each(|row| table.row(cells(stats, row)));
    table.to_string()
}

fn cells(stats: &TraceStats, row: &OpRow) -> impl Iterator<Item = String> {
    let star = if row.multishot { "*" } else { "" };
    let (ended, fifth) = match row.on_ring {
        true => (units::count(row.ended), row.implied),
        false => (stats.per_message(row.begun).map_or(String::new(), ratio), row.would_block),
    };
    let errors = row.errors.iter().map(|(name, n)| format!("{} {name}", units::count(*n)));
    let errors = errors.collect::<Vec<_>>().join(", ");
    let (name, begun) = (format!("{}{star}", row.op), units::count(row.begun));
    let (ok, fifth, short, eof) =
        (units::count(row.ok), some(fifth), some(row.short), some(row.eof));
    let ages = row.ages.map(|ages| ages.cells().map(|(_, cell)| cell)).unwrap_or_default();
    let numbers = [name, begun, ended, ok, fifth, short, eof, errors];
    numbers.into_iter().chain(ages).chain([remark(row)])
}

fn remark(row: &OpRow) -> String {
    let each = ratio(row.ended as f64 / row.begun as f64);
    let [in_flight, unseen] = [row.in_flight, row.unseen].map(units::count);
    let all = [
        (row.multishot && row.begun > 0)
            .then(|| format!("1 submission, {each} completions on average")),
        (row.may_sleep && row.ages.is_some()).then(|| "asleep and awake".to_owned()),
        (row.in_flight > 0).then(|| format!("{in_flight} in flight at the end")),
        (row.unseen > 0).then(|| format!("{unseen} submitted before what is here")),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join("; ")
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
    let Some(row) = charted(stats) else {
        let is_untimed = !stats.is_ring() && stats.source.level == Some("batch");
        let note = "\nhow long calls took is not here: the clock was read per batch \
                    (serve --trace-clock=record reads it for each)";
        return is_untimed.then(|| note.to_owned()).into_iter().collect();
    };
    let mut notes = Vec::new();
    if stats.is_ring() {
        let posted = match stats.source.defers {
            true => "posted somewhere inside the enter that returned it",
            false => "posted at some time before, nearly always inside an enter",
        };
        notes.push(format!("age: from the submission to the reaping; {posted}"));
    }
    if row.implied > 0 {
        let [its_completion, it, its_age] = match row.implied {
            1 => ["its completion", "it", "its age is an upper bound"],
            _ => ["their completions", "them", "their ages are upper bounds"],
        };
        notes.push(format!(
            "no CQE: {} skipped {its_completion} and ended, at the latest, when the enter that \
             took {it} returned: {its_age}",
            plural(row.implied, row.op.name())
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
