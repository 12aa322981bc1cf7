//! The head of `trace doctor`: the numbers of the loop, and a verdict.

use std::fmt;
use std::time::Duration;

use proactor_record::{Call, Op};
use serde::Serialize;

use super::chart::{bar, ratio};
use super::checks::findings;
use super::finding::Severity;
use super::iterations::{Batches, STALL, Turns};
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
    /// All numbers.
    #[serde(flatten)]
    pub digest: TraceStats,
}

impl Health {
    /// Judges these numbers by the doctor's checks.
    pub fn new(digest: TraceStats) -> Health {
        let mut names = findings(&digest);
        names.retain(|one| one.severity != Severity::Note);
        let names: Vec<_> = names.iter().map(|one| one.name).collect();
        let is_judged =
            digest.turns.is_some() || digest.source.has_no_loop() && !digest.ops.is_empty();
        if !names.is_empty() {
            let verdict = format!("unhealthy: {}", names.join(", "));
            return Health { verdict, hint: String::new(), digest };
        }
        let verdict =
            if is_judged { "healthy" } else { "nothing can be said: the trace has no iteration" };
        Health { verdict: verdict.to_owned(), hint: hint(&digest), digest }
    }
}

fn hint(digest: &TraceStats) -> String {
    let sleeps = digest.receives().is_some_and(|row| row.may_sleep);
    if digest.source.has_no_loop() && sleeps && digest.messages > 0 {
        return "each one sleeps in its own call: how soon it runs when data arrives depends on the \
                scheduler"
            .to_owned();
    }
    let Some(turns) = &digest.turns else { return String::new() };
    let (mean, open) = (turns.batches.mean, plural(digest.connections_max, "connection"));
    let batch = ratio(mean);
    let each = if turns.name == "enter" { "completions per enter" } else { "reports per wait" };
    if turns.count == 0 || digest.connections_max == 0 {
        return String::new();
    }
    if mean < 1.5 && digest.connections_max > 1 {
        return format!(
            "{batch} {each} at {open}: the loop is ahead of its clients, and a turn \
             serves one"
        );
    }
    if digest.share_inside().is_some_and(|share| share < 0.5) {
        let outside = if turns.name == "enter" { "the protocol" } else { "calls and the protocol" };
        return format!(
            "{batch} {each} at {open}, and most of the time outside of them: {outside} \
             (or others on this CPU) set the pace"
        );
    }
    format!("{batch} {each} at {open}: more connections, or a higher --depth, fill a batch")
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.digest;
        writeln!(f, "{}\n", digest.source)?;
        if let Some(turns) = &digest.turns {
            line(f, &format!("{}s", turns.name), &calls(digest, turns))?;
            let ring = turns.name == "enter";
            let each = if ring { "cqes per enter" } else { "reports per wait" };
            line(f, each, &distribution(&turns.batches))?;
            if ring {
                line(f, "sqes per enter", &distribution(&turns.submitted))?;
            }
            line(f, "spurious wakeups", &vain(turns))?;
            line(f, &format!("time in {}", turns.name), &inside(digest, turns))?;
            line(f, &format!("outside {}", turns.name), &outside(turns))?;
            if ring {
                line(f, "cq fill", &queue(digest, turns))?;
            }
        }
        if digest.source.has_no_loop() {
            line(f, "calls", &calls_alone(digest))?;
            line(f, "asleep and awake", &slept(digest))?;
        }
        if digest.is_ring() {
            line(f, "buffers", &buffers(digest))?;
        } else {
            line(f, "would block", &blocked(digest))?;
        }
        line(f, "faults", &faults(digest))?;
        line(f, "reply time", &answered(digest))?;
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

fn calls(digest: &TraceStats, turns: &Turns) -> String {
    let mut text = units::count(turns.count);
    let messages = plural(digest.messages, "message");
    let per = |n| digest.per_message(n).map(ratio);
    if let Some(all) = digest.calls.and_then(per) {
        text.push_str(&format!(" → {all} system calls per message ({messages})"));
    }
    if let Some(waits) = per(turns.count).filter(|_| turns.name == "wait") {
        text.push_str(&format!(", {waits} of them waits"));
    }
    text
}

/// All calls, where there is no loop: those per message, and of which there are most.
fn calls_alone(digest: &TraceStats) -> String {
    let all: u64 = digest.ops.iter().map(|row| row.begun).sum();
    let mut text = units::count(digest.calls.unwrap_or(all));
    if let Some(each) = digest.calls.and_then(|calls| digest.per_message(calls)) {
        let messages = plural(digest.messages, "message");
        text.push_str(&format!(" → {} system calls per message ({messages})", ratio(each)));
    }
    let rows = digest.ops.iter().filter(|row| row.op.receives() || row.op.sends());
    let each = rows.filter_map(|row| {
        let per = ratio(digest.per_message(row.begun)?);
        Some(format!(", {per} of them {}", row.op))
    });
    text.extend(each);
    text
}

/// How long those calls took in which it may sleep.
fn slept(digest: &TraceStats) -> String {
    let rows = digest.ops.iter().filter_map(|row| {
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

fn vain(turns: &Turns) -> String {
    let mut text = format!("{} with nothing", units::count(turns.idle.count));
    text.push_str(&format!(", {} by the clock", units::count(turns.timers)));
    if turns.name == "wait" {
        let vain = units::count(turns.in_vain.count);
        text.push_str(&format!(", {vain} with readiness that yielded EAGAIN"));
    }
    if turns.failed > 0 {
        text.push_str(&format!(", {} failed", units::count(turns.failed)));
    }
    text
}

fn inside(digest: &TraceStats, turns: &Turns) -> String {
    let share = digest.share_inside().map_or(String::new(), units::percent);
    let (p50, p99) = (span(turns.inside.p50_ns), span(turns.inside.p99_ns));
    format!("{share}   p50 {p50}  p99 {p99}  max {}", span(turns.inside.max_ns))
}

fn outside(turns: &Turns) -> String {
    let (p50, p99) = (span(turns.outside.p50_ns), span(turns.outside.p99_ns));
    let stalls = match turns.stalls.count {
        0 => format!("no stall > {}", units::span(STALL)),
        n => format!("{} > {}", plural(n, "stall"), units::span(STALL)),
    };
    format!("p50 {p50}  p99 {p99}  max {}   ({stalls})", span(turns.outside.max_ns))
}

fn queue(digest: &TraceStats, turns: &Turns) -> String {
    let mut text = format!("max {}", units::count(turns.batches.max));
    if let Some(size) = digest.queue {
        let share = units::percent(turns.batches.max as f64 / size.max(1) as f64);
        text.push_str(&format!(" of {} ({share})", units::count(size)));
    }
    text.push_str(&match turns.overflows.count {
        0 => "   overflow: never".to_owned(),
        n => format!("   overflow: in {}", plural(n, "enter")),
    });
    text.push_str(&format!("   in flight max {}", units::count(turns.in_flight_max)));
    text
}

fn buffers(digest: &TraceStats) -> String {
    let starved = format!("ENOBUFS {}", units::count(digest.odd.out_of_buffers.count));
    let Some(buffers) = &digest.buffers else {
        return format!("picked by us, one with each receive   {starved}");
    };
    let (lent, filled) = (units::count(buffers.lent), units::count(buffers.filled));
    let window = match (buffers.fewest, buffers.most) {
        (Some(fewest), Some(most)) => {
            format!("min free {} of {}", units::count(fewest), units::count(most))
        }
        _ => "min free not known".to_owned(),
    };
    format!("{window} (all sizes)   lent {lent}, filled {filled}   {starved}")
}

fn blocked(digest: &TraceStats) -> String {
    let odd = &digest.odd;
    let (recv, send) = (units::count(odd.recv_blocked.count), units::count(odd.send_blocked.count));
    let text = format!("recv {recv}, send {send}");
    if digest.source.has_no_loop() {
        return text;
    }
    let watches = digest.op(Op::Call(Call::Rewatch)).map_or(0, |row| row.begun);
    format!("{text}   rewatched {}", units::count(watches))
}

fn faults(digest: &TraceStats) -> String {
    let odd = &digest.odd;
    let unclean = digest.lives.iter().filter(|life| !life.faults.is_empty()).count();
    format!(
        "short sends {}, resets {}, accepts refused {}, other errors {}, connections out of order {}",
        units::count(odd.short.count),
        units::count(odd.reset.count),
        units::count(odd.exhausted.count),
        units::count(odd.failed.count),
        units::count(unclean as u64),
    )
}

fn answered(digest: &TraceStats) -> String {
    let all = digest.answered;
    if all.samples == 0 {
        return "no receive was followed by a send".to_owned();
    }
    let longest = units::span(Duration::from_nanos(all.max_ns.unwrap_or(0)));
    let (p50, p99) = (span(all.p50_ns), span(all.p99_ns));
    format!("p50 {p50}  p99 {p99}  max {longest}   ({})", digest.measure.words())
}
