//! The head of `trace doctor`: the numbers of the loop, and a verdict.

use std::fmt;
use std::time::Duration;

use proactor_record::{Call, Op};
use serde::Serialize;

use super::chart::{bar, ratio};
use super::checks::findings;
use super::finding::Severity;
use super::iterations::{Batches, Iterations, STALL};
use super::stats::TraceStats;
use super::summary::span;
use proactor_report::units::{self, plural};

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
    /// Judges these numbers by the doctor's checks.
    pub fn new(stats: TraceStats) -> Health {
        let mut names = findings(&stats);
        names.retain(|one| one.severity != Severity::Note);
        let names: Vec<_> = names.iter().map(|one| one.name).collect();
        let is_judged =
            stats.iterations.is_some() || stats.source.has_no_loop() && !stats.ops.is_empty();
        if !names.is_empty() {
            let verdict = format!("unhealthy: {}", names.join(", "));
            return Health { verdict, hint: String::new(), stats };
        }
        let verdict =
            if is_judged { "healthy" } else { "nothing can be said: the trace has no iteration" };
        Health { verdict: verdict.to_owned(), hint: hint(&stats), stats }
    }
}

fn hint(stats: &TraceStats) -> String {
    let sleeps = stats.receives().is_some_and(|row| row.may_sleep);
    if stats.source.has_no_loop() && sleeps && stats.messages > 0 {
        return "each one sleeps in its own call: how soon it runs when data arrives depends on the \
                scheduler"
            .to_owned();
    }
    let Some(iterations) = &stats.iterations else { return String::new() };
    let (mean, open) = (iterations.batches.mean, plural(stats.connections_max, "connection"));
    let batch = ratio(mean);
    let each = iterations.batch_name();
    if iterations.count == 0 || stats.connections_max == 0 {
        return String::new();
    }
    if mean < 1.5 && stats.connections_max > 1 {
        return format!(
            "{batch} {each} at {open}: the loop is ahead of its clients, and an iteration \
             serves one"
        );
    }
    if stats.share_inside().is_some_and(|share| share < 0.5) {
        let outside =
            if iterations.are_enters() { "the protocol" } else { "calls and the protocol" };
        return format!(
            "{batch} {each} at {open}, and most of the time outside of them: {outside} \
             (or others on this CPU) set the pace"
        );
    }
    format!("{batch} {each} at {open}: more connections, or a higher --depth, fill a batch")
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        writeln!(f, "{}\n", stats.source)?;
        if let Some(iterations) = &stats.iterations {
            line(f, &format!("{}s", iterations.name), &calls(stats, iterations))?;
            let ring = iterations.are_enters();
            let each = if ring { "cqes per enter" } else { "reports per wait" };
            line(f, each, &distribution(&iterations.batches))?;
            if ring {
                line(f, "sqes per enter", &distribution(&iterations.submitted))?;
            }
            line(f, "spurious wakeups", &vain(iterations))?;
            line(f, &format!("time in {}", iterations.name), &inside(stats, iterations))?;
            line(f, &format!("outside {}", iterations.name), &outside(iterations))?;
            if ring {
                line(f, "cq fill", &queue(stats, iterations))?;
            }
        }
        if stats.source.has_no_loop() {
            line(f, "calls", &calls_alone(stats))?;
            line(f, "asleep and awake", &slept(stats))?;
        }
        if stats.is_ring() {
            line(f, "buffers", &buffers(stats))?;
        } else {
            line(f, "would block", &blocked(stats))?;
        }
        line(f, "faults", &faults(stats))?;
        line(f, "reply time", &answered(stats))?;
        write!(f, "{:<18}{}", "verdict", self.verdict)?;
        if !self.hint.is_empty() {
            write!(f, "\n{:<18}{}", "hint", self.hint)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { writeln!(f, "{name:<18}{text}") }
}

fn calls(stats: &TraceStats, iterations: &Iterations) -> String {
    let mut text = units::count(iterations.count);
    let messages = plural(stats.messages, "message");
    let per = |n| stats.per_message(n).map(ratio);
    if let Some(all) = stats.calls.and_then(per) {
        text.push_str(&format!(" → {all} system calls per message ({messages})"));
    }
    if let Some(waits) = per(iterations.count).filter(|_| !iterations.are_enters()) {
        text.push_str(&format!(", {waits} of them waits"));
    }
    text
}

/// All calls, where there is no loop: those per message, and of which there are most.
fn calls_alone(stats: &TraceStats) -> String {
    let all: u64 = stats.ops.iter().map(|row| row.begun).sum();
    let mut text = units::count(stats.calls.unwrap_or(all));
    if let Some(each) = stats.calls.and_then(|calls| stats.per_message(calls)) {
        let messages = plural(stats.messages, "message");
        text.push_str(&format!(" → {} system calls per message ({messages})", ratio(each)));
    }
    let rows = stats.ops.iter().filter(|row| row.op.receives() || row.op.sends());
    let each = rows.filter_map(|row| {
        let per = ratio(stats.per_message(row.begun)?);
        Some(format!(", {per} of them {}", row.op))
    });
    text.extend(each);
    text
}

/// How long those calls took in which it may sleep.
fn slept(stats: &TraceStats) -> String {
    let rows = stats.ops.iter().filter_map(|row| {
        Some((row, row.ages.filter(|ages| row.may_sleep && ages.p50_ns.is_some())?))
    });
    let each = rows.map(|(row, ages)| {
        format!("{} p50 {} p99 {}", row.op, span(ages.p50_ns), span(ages.p99_ns))
    });
    each.collect::<Vec<_>>().join(",  ")
}

fn distribution(batches: &Batches) -> String {
    let most = batches.bins.iter().copied().max().unwrap_or(0);
    let bin = |(name, count): (String, u64)| {
        format!("{name} ▏{} {}", bar(count, most, WIDTH), units::count(count))
    };
    let bins: Vec<_> = batches.named().into_iter().map(bin).collect();
    let (mean, max) = (ratio(batches.mean), units::count(batches.max));
    format!("{}   mean {mean}  max {max}", bins.join("  "))
}

fn vain(iterations: &Iterations) -> String {
    let mut text = format!("{} with nothing", units::count(iterations.idle.count));
    text.push_str(&format!(", {} by the clock", units::count(iterations.timers)));
    if !iterations.are_enters() {
        let vain = units::count(iterations.spurious.count);
        text.push_str(&format!(", {vain} with readiness that yielded EAGAIN"));
    }
    if iterations.failed > 0 {
        text.push_str(&format!(", {} failed", units::count(iterations.failed)));
    }
    text
}

fn inside(stats: &TraceStats, iterations: &Iterations) -> String {
    let share = stats.share_inside().map_or(String::new(), units::percent);
    let (p50, p99) = (span(iterations.inside.p50_ns), span(iterations.inside.p99_ns));
    format!("{share}   p50 {p50}  p99 {p99}  max {}", span(iterations.inside.max_ns))
}

fn outside(iterations: &Iterations) -> String {
    let (p50, p99) = (span(iterations.outside.p50_ns), span(iterations.outside.p99_ns));
    let stalls = match iterations.stalls.count {
        0 => format!("no stall > {}", units::span(STALL)),
        n => format!("{} > {}", plural(n, "stall"), units::span(STALL)),
    };
    format!("p50 {p50}  p99 {p99}  max {}   ({stalls})", span(iterations.outside.max_ns))
}

fn queue(stats: &TraceStats, iterations: &Iterations) -> String {
    let mut text = format!("max {}", units::count(iterations.batches.max));
    if let Some(size) = stats.queue {
        let share = units::percent(iterations.batches.max as f64 / size.max(1) as f64);
        text.push_str(&format!(" of {} ({share})", units::count(size)));
    }
    text.push_str(&match iterations.overflows.count {
        0 => "   overflow: never".to_owned(),
        n => format!("   overflow: in {}", plural(n, "enter")),
    });
    text.push_str(&format!("   in flight max {}", units::count(iterations.in_flight_max)));
    text
}

fn buffers(stats: &TraceStats) -> String {
    let missed = format!("ENOBUFS {}", units::count(stats.anomalies.out_of_buffers.count));
    let Some(buffers) = &stats.buffers else {
        return format!("picked by us, one with each receive   {missed}");
    };
    let (lent, filled) = (units::count(buffers.lent), units::count(buffers.filled));
    let window = match (buffers.fewest, buffers.most) {
        (Some(fewest), Some(most)) => {
            format!("min free {} of {}", units::count(fewest), units::count(most))
        }
        _ => "min free not known".to_owned(),
    };
    format!("{window} (all sizes)   lent {lent}, filled {filled}   {missed}")
}

fn blocked(stats: &TraceStats) -> String {
    let anomalies = &stats.anomalies;
    let (recv, send) =
        (units::count(anomalies.recv_blocked.count), units::count(anomalies.send_blocked.count));
    let text = format!("recv {recv}, send {send}");
    if stats.source.has_no_loop() {
        return text;
    }
    let watches = stats.op(Op::Call(Call::Rewatch)).map_or(0, |row| row.begun);
    format!("{text}   rewatched {}", units::count(watches))
}

fn faults(stats: &TraceStats) -> String {
    let anomalies = &stats.anomalies;
    let unclean = stats.conns.iter().filter(|conn| !conn.faults.is_empty()).count();
    format!(
        "short sends {}, resets {}, accepts refused {}, other errors {}, connections out of order {}",
        units::count(anomalies.short.count),
        units::count(anomalies.reset.count),
        units::count(anomalies.exhausted.count),
        units::count(anomalies.failed.count),
        units::count(unclean as u64),
    )
}

fn answered(stats: &TraceStats) -> String {
    let all = stats.answered;
    if all.samples == 0 {
        return "no receive was followed by a send".to_owned();
    }
    let longest = units::span(Duration::from_nanos(all.max_ns.unwrap_or(0)));
    let (p50, p99) = (span(all.p50_ns), span(all.p99_ns));
    format!("p50 {p50}  p99 {p99}  max {longest}   ({})", stats.measure.words())
}
