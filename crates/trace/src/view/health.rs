//! The head of `trace doctor`: the numbers of the loop, and a verdict.

use std::fmt;

use proactor_record::{Call, Op};
use proactor_report::units::{self, count, plural};
use serde::Serialize;

use super::finding::{Finding, Severity};
use super::iterations::{Batches, Iterations, STALL};
use super::stats::TraceStats;
use super::text::{bar, ratio, span, spread};

/// The longest bar of a distribution.
const WIDTH: usize = 16;

/// The numbers of a loop, and a verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// `healthy`, or the names of the findings.
    pub verdict: String,
    /// What limits the loop; empty if there is a problem.
    pub hint: String,
    /// All numbers of the trace.
    #[serde(flatten)]
    pub stats: TraceStats,
}

impl Health {
    /// Judges these numbers by what was found in them.
    pub(super) fn new(stats: TraceStats, findings: &[Finding]) -> Health {
        let ills = findings.iter().filter(|one| one.severity != Severity::Note);
        let ills: Vec<_> = ills.map(|one| one.name).collect();
        let is_judged =
            stats.iterations.is_some() || stats.source.has_no_loop() && !stats.ops.is_empty();
        let verdict = match ills.len() {
            0 if is_judged => "healthy".to_owned(),
            0 => "nothing can be said: the trace has no iteration".to_owned(),
            _ => format!("unhealthy: {}", ills.join(", ")),
        };
        let hint = if ills.is_empty() { hint(&stats) } else { String::new() };
        Health { verdict, hint, stats }
    }
}

fn hint(stats: &TraceStats) -> String {
    let sleeps = stats.receives().is_some_and(|row| row.may_sleep);
    if stats.source.has_no_loop() && sleeps && stats.messages > 0 {
        return "each one sleeps in its own call: how soon it runs when data arrives depends on the \
                scheduler"
            .to_owned();
    }
    let loops = stats.iterations.as_ref().filter(|iterations| iterations.count > 0);
    let Some(iterations) = loops.filter(|_| stats.connections_max > 0) else {
        return String::new();
    };
    let mean = iterations.batches.mean;
    let why = if mean < 1.5 && stats.connections_max > 1 {
        ": the loop is ahead of its clients, and an iteration serves one"
    } else if stats.share_inside().is_none_or(|share| share >= 0.5) {
        ": more connections, or a higher --depth, fill a batch"
    } else if iterations.are_enters() {
        ", and most of the time outside of them: the protocol (or others on this CPU) set the pace"
    } else {
        ", and most of the time outside of them: calls and the protocol (or others on this CPU) \
         set the pace"
    };
    let open = plural(stats.connections_max, "connection");
    format!("{} {} at {open}{why}", ratio(mean), iterations.batch_name())
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| {
            if !text.is_empty() {
                lines.push(format!("{name:<18}{text}"));
            }
        };
        if let Some(iterations) = &stats.iterations {
            let (name, ring) = (iterations.name, iterations.are_enters());
            line(&format!("{name}s"), calls(stats));
            let batches = if ring { "cqes per enter" } else { "reports per wait" };
            line(batches, distribution(&iterations.batches));
            if ring {
                line("sqes per enter", distribution(&iterations.submitted));
            }
            line("spurious wakeups", vain(iterations));
            let share = stats.share_inside().map_or(String::new(), units::percent);
            let inside = spread(&iterations.inside);
            line(&format!("time in {name}"), format!("{share}   {inside}"));
            line(&format!("outside {name}"), outside(iterations));
            if ring {
                line("cq fill", queue(stats, iterations));
            }
        }
        if stats.source.has_no_loop() {
            line("calls", calls(stats));
            line("asleep and awake", slept(stats));
        }
        match stats.is_ring() {
            true => line("buffers", buffers(stats)),
            false => line("would block", blocked(stats)),
        }
        line("faults", faults(stats));
        let answered = format!("{}   ({})", spread(&stats.answered), stats.measure.words());
        let never = "no receive was followed by a send".to_owned();
        line("reply time", if stats.answered.samples > 0 { answered } else { never });
        line("verdict", self.verdict.clone());
        line("hint", self.hint.clone());
        write!(f, "{}\n\n{}", stats.source, lines.join("\n"))
    }
}

/// The iterations, or all calls where there is no loop; and how many there are per message.
fn calls(stats: &TraceStats) -> String {
    let each = stats.ops.iter().filter(|row| row.op.receives() || row.op.sends());
    let (all, parts) = match &stats.iterations {
        Some(enters) if enters.are_enters() => (enters.count, Vec::new()),
        Some(waits) => (waits.count, vec![(waits.count, "waits")]),
        None => {
            let all = stats.ops.iter().map(|row| row.begun).sum();
            let parts = each.map(|row| (row.begun, row.op.name())).collect();
            (stats.calls.unwrap_or(all), parts)
        }
    };
    let per_message = |n| stats.per_message(n).map(ratio);
    let mut text = count(all);
    if let Some(calls) = stats.calls.and_then(per_message) {
        let messages = plural(stats.messages, "message");
        text += &format!(" → {calls} system calls per message ({messages})");
    }
    let parts = parts.into_iter().filter_map(|(n, name)| Some((per_message(n)?, name)));
    text + &parts.map(|(n, name)| format!(", {n} of them {name}")).collect::<String>()
}

/// How long those calls took in which it may sleep.
fn slept(stats: &TraceStats) -> String {
    let rows = stats.ops.iter().filter(|row| row.may_sleep);
    let each = rows.filter_map(|row| {
        let ages = row.ages.filter(|ages| ages.p50_ns.is_some())?;
        Some(format!("{} p50 {} p99 {}", row.op, span(ages.p50_ns), span(ages.p99_ns)))
    });
    each.collect::<Vec<_>>().join(",  ")
}

fn distribution(batches: &Batches) -> String {
    let most = batches.bins.iter().copied().max().unwrap_or(0);
    let bins = batches.named().into_iter();
    let bins = bins.map(|(name, n)| format!("{name} ▏{} {}", bar(n, most, WIDTH), count(n)));
    let (mean, max) = (ratio(batches.mean), count(batches.max));
    format!("{}   mean {mean}  max {max}", bins.collect::<Vec<_>>().join("  "))
}

fn vain(iterations: &Iterations) -> String {
    let (idle, timers) = (count(iterations.idle.count), count(iterations.timers));
    let mut text = format!("{idle} with nothing, {timers} by the clock");
    if !iterations.are_enters() {
        let vain = count(iterations.spurious.count);
        text += &format!(", {vain} with readiness that yielded EAGAIN");
    }
    if iterations.failed > 0 {
        text += &format!(", {} failed", count(iterations.failed));
    }
    text
}

fn outside(iterations: &Iterations) -> String {
    let stalls = match iterations.stalls.count {
        0 => "no stall".to_owned(),
        n => plural(n, "stall"),
    };
    format!("{}   ({stalls} > {})", spread(&iterations.outside), units::span(STALL))
}

fn queue(stats: &TraceStats, iterations: &Iterations) -> String {
    let most = iterations.batches.max;
    let of = stats.queue.map_or(String::new(), |size| {
        let share = units::percent(most as f64 / size.max(1) as f64);
        format!(" of {} ({share})", count(size))
    });
    let overflow = match iterations.overflows.count {
        0 => "never".to_owned(),
        n => format!("in {}", plural(n, "enter")),
    };
    let (most, in_flight) = (count(most), count(iterations.in_flight_max));
    format!("max {most}{of}   overflow: {overflow}   in flight max {in_flight}")
}

fn buffers(stats: &TraceStats) -> String {
    let missed = count(stats.anomalies.out_of_buffers.count);
    let Some(buffers) = &stats.buffers else {
        return format!("picked by us, one with each receive   ENOBUFS {missed}");
    };
    let (lent, filled) = (count(buffers.lent), count(buffers.filled));
    let free = match (buffers.fewest, buffers.most) {
        (Some(fewest), Some(most)) => format!("{} of {}", count(fewest), count(most)),
        _ => "not known".to_owned(),
    };
    format!("min free {free} (all sizes)   lent {lent}, filled {filled}   ENOBUFS {missed}")
}

fn blocked(stats: &TraceStats) -> String {
    let (recv, send) = (&stats.anomalies.recv_blocked, &stats.anomalies.send_blocked);
    let text = format!("recv {}, send {}", count(recv.count), count(send.count));
    if stats.source.has_no_loop() {
        return text;
    }
    let watches = stats.op(Op::Call(Call::Rewatch)).map_or(0, |row| row.begun);
    format!("{text}   rewatched {}", count(watches))
}

fn faults(stats: &TraceStats) -> String {
    let all = &stats.anomalies;
    let unclean = stats.conns.iter().filter(|conn| !conn.faults.is_empty()).count();
    let numbers = [
        ("short sends", all.short.count),
        ("resets", all.reset.count),
        ("accepts refused", all.exhausted.count),
        ("other errors", all.failed.count),
        ("connections out of order", unclean as u64),
    ];
    numbers.map(|(name, n)| format!("{name} {}", count(n))).join(", ")
}
