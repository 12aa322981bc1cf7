//! What the doctor looks for, and the thresholds that keep the usual from being called a fault.

use std::time::Duration;

use minijinja::{Value, context};
use proactor_record::{Call, Errno, Kind, OpKind};
use serde::Serialize;

use super::connection::ConnectionStats;
use super::iterations::{Moment, Occurrences};
use super::pauses::Spells;
use super::stats::TraceStats;
use super::text::fill;
use Severity::{Costly, Note, Wrong};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something does not work, or not for all.
    Wrong,
    /// It works, and costs more than it must.
    Costly,
    /// Worth to know; nothing has to be done.
    Note,
}

/// Something that the doctor has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is called.
    pub name: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// The numbers that show it.
    pub evidence: Vec<String>,
    /// When it happened first.
    pub first: Vec<Moment>,
    /// The remedy for it.
    pub fix: String,
}

/// Something to look for: its name, what it is, in which traces it can be seen, and the search.
type Check = (&'static str, &'static str, Of, fn(&TraceStats) -> Option<Found>);

/// In which traces something can be seen.
pub(super) enum Of {
    /// It can be seen in all.
    All,
    /// In those that a recorder in the program made.
    Own,
    /// In those that have iterations.
    Loop,
    /// In those of which one thread does everything.
    Thread,
    /// In those of a ring.
    Ring,
    /// In those of a selector.
    Selector,
    /// In those that have the delays of their thread.
    Delays,
    /// In those with the kernel's events.
    Kernel,
}

/// All that is looked for.
pub(super) const CHECKS: &[Check] = &[
    ("cq-overflow", "completions outside of a full queue", Of::Ring, overflow),
    ("no-buffers", "connections that wait for a buffer", Of::Ring, out_of_buffers),
    ("out-of-order", "operations that did not end once", Of::Own, faults),
    ("errors", "operations that failed", Of::All, failed),
    ("accepts-refused", "no descriptor or memory to accept with", Of::All, exhausted),
    ("never-closed", "connections that end and are not closed", Of::Own, lingering),
    ("stalls", "a loop that does nothing for long, outside of its waits", Of::Thread, stalls),
    ("no-cpu", "a loop that is ready and has no CPU", Of::Delays, no_cpu),
    ("stopped", "a process that is stopped (SIGSTOP) and continued", Of::Own, stopped),
    ("punted", "operations that worker threads of the kernel (io-wq) do", Of::Kernel, punted),
    ("disarmed", "multishot receives that keep ending", Of::Ring, disarmed),
    ("one-shot", "a receive asked for anew for each message", Of::Ring, one_shot),
    ("short-sends", "sends that take less than they are given", Of::All, short),
    ("woken-for-nothing", "iterations without a completion or report", Of::Loop, idle),
    ("spurious-reports", "reports of which no call makes anything", Of::Selector, spurious),
    ("would-block", "calls that find nothing", Of::Selector, would_block),
    ("rewatched", "interests that change with the messages", Of::Selector, rewatched),
    ("one-each-iteration", "iterations that serve one of many", Of::Loop, one_each),
    ("one-heavy", "a connection that has nearly all bytes", Of::All, one_heavy),
    ("resets", "connections that the peer broke", Of::All, resets),
    ("records-lost", "gaps in the trace", Of::All, lost),
];

/// For each check what is wrong, the evidence and the remedy, below its name.
const TEXTS: &str = include_str!("checks.txt");

/// The share of their time in which connections wait for buffers, if there are far too few, and if
/// there are not enough; and a wait that is long for one.
const FAR_TOO_FEW: f64 = 0.1;
const TOO_FEW: f64 = 0.01;
const LONG_WAIT_NS: u64 = Duration::from_secs(1).as_nanos() as u64;
/// The bytes of a trace in which one connection may have too many.
const HEAVY: u64 = 1 << 20;
/// How long a connection may take from the peer's end to its close.
const LINGER_NS: u64 = Duration::from_secs(1).as_nanos() as u64;

/// The checks that such a trace allows.
pub(super) fn checks(stats: &TraceStats) -> impl Iterator<Item = &'static Check> {
    let (has_loop, is_ring) = (!stats.source.has_no_loop(), stats.is_ring());
    CHECKS.iter().filter(move |(_, _, of, _)| match of {
        Of::All => true,
        Of::Own => !stats.source.is_attached(),
        Of::Loop => has_loop && stats.iterations.is_some(),
        Of::Thread => stats.pauses.unexplained.is_some(),
        Of::Delays => stats.pauses.sees_delays,
        Of::Kernel => stats.kernel.as_ref().is_some_and(|delays| delays.punted.is_some()),
        Of::Ring => is_ring && !stats.source.is_attached(),
        Of::Selector => has_loop && !is_ring,
    })
}

/// Makes all checks that such a trace allows. The worst findings come first.
pub(super) fn findings(stats: &TraceStats) -> Vec<Finding> {
    let values = stats.values();
    let found = checks(stats).map(|(name, _, _, look)| Some(look(stats)?.named(name, &values)));
    let mut findings: Vec<Finding> = found.flatten().collect();
    findings.sort_by_key(|one| one.severity);
    findings
}

/// What a check has found, without its text.
pub(super) struct Found {
    severity: Severity,
    first: Vec<Moment>,
    /// What the text says besides the statistics.
    values: Value,
}

impl Found {
    fn new(severity: Severity, first: Vec<Moment>) -> Found {
        Found { severity, first, values: context! {} }
    }

    /// Of something that happened; `None` if it never did.
    fn at(severity: Severity, noted: &Occurrences) -> Option<Found> {
        (noted.count > 0).then(|| Found::new(severity, noted.first.clone()))
    }

    /// Of connections, with the moment of the first of them; `None` if there are none.
    fn of_conns<'a>(
        severity: Severity,
        conns: impl Iterator<Item = &'a ConnectionStats>,
        at_ns: impl Fn(&ConnectionStats) -> Option<u64>,
    ) -> Option<Found> {
        let conns: Vec<_> = conns.collect();
        let first = Moment { at_ns: at_ns(conns.first()?)?, conn: None, amount: None };
        let worst: Vec<_> = conns.iter().take(3).collect();
        let values = context! { these => conns.len(), worst, linger_ns => LINGER_NS };
        Some(Found { values, ..Found::new(severity, vec![first]) })
    }

    /// With the text of the check of this name.
    fn named(self, name: &'static str, stats: &Value) -> Finding {
        let its_text = |section: &'static str| section.strip_prefix(name)?.strip_prefix("]\n");
        let template = TEXTS.split("\n[").find_map(its_text).expect("each check has a text");
        let text = fill(template, context! { ..self.values, ..stats.clone() });
        let lines = |key| text.lines().filter_map(move |line| line.strip_prefix(key));
        Finding {
            name,
            severity: self.severity,
            what: lines("what: ").collect(),
            evidence: lines("evidence: ").map(str::to_owned).collect(),
            first: self.first,
            fix: lines("fix: ").collect(),
        }
    }
}

/// More than one in so many, and more than a few.
fn often(n: u64, all: u64, one_in: u64) -> bool {
    n > 10 && n.saturating_mul(one_in) > all
}

fn overflow(stats: &TraceStats) -> Option<Found> {
    Found::at(Wrong, &stats.iterations.as_ref()?.overflows)
}

fn out_of_buffers(stats: &TraceStats) -> Option<Found> {
    // The kernel is lent more buffers when it finds none, so that a few waits are short.
    let severity = match stats.starvation.share() {
        FAR_TOO_FEW.. => Wrong,
        TOO_FEW.. => Costly,
        _ if stats.starvation.waits.longest_ns > LONG_WAIT_NS => Costly,
        _ => return None,
    };
    Found::at(severity, &stats.starvation.waits.times)
}

fn faults(stats: &TraceStats) -> Option<Found> {
    let bad = stats.conns.iter().filter(|conn| !conn.faults.is_empty());
    Found::of_conns(Wrong, bad, |conn| Some(conn.last_ns))
}

fn failed(stats: &TraceStats) -> Option<Found> {
    let mut found = Found::at(Wrong, &stats.anomalies.failed)?;
    // The amount is an errno, and is in the evidence.
    let errnos = found.first.iter_mut().filter_map(|one| one.amount.take());
    let errnos: Vec<String> = errnos.map(|errno| Errno(errno as i32).to_string()).collect();
    Some(Found { values: context! { errnos }, ..found })
}

fn exhausted(stats: &TraceStats) -> Option<Found> {
    Found::at(Wrong, &stats.anomalies.exhausted)
}

fn lingering(stats: &TraceStats) -> Option<Found> {
    let end = stats.source.from_ns + stats.source.span_ns;
    let is_late = |conn: &&ConnectionStats| {
        let ended = conn.peer_ended_ns.filter(|_| conn.closed_ns.is_none());
        ended.is_some_and(|at| end.saturating_sub(at) > LINGER_NS)
    };
    Found::of_conns(Costly, stats.conns.iter().filter(is_late), |conn| conn.peer_ended_ns)
}

fn stalls(stats: &TraceStats) -> Option<Found> {
    let stalls = stats.pauses.unexplained.as_ref()?;
    // Without the delays, the thread may have been ready and had no CPU.
    let is_known = stats.pauses.sees_delays && is_costly(stats, stalls, 100);
    Found::at(if is_known { Costly } else { Note }, &stalls.times)
}

fn no_cpu(stats: &TraceStats) -> Option<Found> {
    let delayed = &stats.pauses.delayed;
    Found::at(if is_costly(stats, delayed, 20) { Costly } else { Note }, &delayed.times)
}

fn stopped(stats: &TraceStats) -> Option<Found> {
    Found::at(Costly, &stats.pauses.stopped.times)
}

/// More than once or twice, and together one in so many parts of the time.
fn is_costly(stats: &TraceStats, spells: &Spells, one_in: u64) -> bool {
    let is_long = spells.total_ns.saturating_mul(one_in) > stats.source.span_ns;
    spells.times.count >= 3 && is_long
}

fn punted(stats: &TraceStats) -> Option<Found> {
    let punted = stats.kernel.as_ref()?.punted?;
    let is_found = often(punted, stats.messages, 100);
    is_found.then(|| Found::new(Costly, Vec::new()))
}

fn disarmed(stats: &TraceStats) -> Option<Found> {
    let disarmed = &stats.anomalies.disarmed;
    Found::at(Costly, disarmed).filter(|_| often(disarmed.count, stats.messages, 100))
}

fn one_shot(stats: &TraceStats) -> Option<Found> {
    let row = stats.op(OpKind::Ring(Kind::Recv)).filter(|row| !row.multishot)?;
    // Two of three, and not too few.
    let is_one_shot = stats.messages >= 100 && row.begun * 3 >= stats.messages * 2;
    is_one_shot.then(|| Found::new(Note, Vec::new()))
}

fn short(stats: &TraceStats) -> Option<Found> {
    let all = &stats.anomalies;
    Found::at(Note, &all.short).or_else(|| Found::at(Note, &all.send_blocked))
}

fn idle(stats: &TraceStats) -> Option<Found> {
    let all = stats.iterations.as_ref()?;
    let is_found = often(all.idle.count, all.count, 100) && !stats.source.polls_all();
    Found::at(Costly, &all.idle).filter(|_| is_found)
}

fn spurious(stats: &TraceStats) -> Option<Found> {
    let all = stats.iterations.as_ref()?;
    let severity = if stats.source.polls_all() { Note } else { Costly };
    // One or two of each connection are usual: others took its accept, or it is hung up.
    let more = all.spurious.count.saturating_sub(2 * stats.connections);
    let is_found = often(more, all.count, 100);
    Found::at(severity, &all.spurious).filter(|_| is_found)
}

fn would_block(stats: &TraceStats) -> Option<Found> {
    let blocked = &stats.anomalies.recv_blocked;
    let severity = if stats.source.polls_all() { Note } else { Costly };
    // One in ten.
    Found::at(severity, blocked).filter(|_| often(blocked.count, stats.messages, 10))
}

fn rewatched(stats: &TraceStats) -> Option<Found> {
    let rewatched = stats.op(OpKind::Call(Call::Rewatch))?.begun;
    let severity = if stats.source.model == "epoll-oneshot" { Note } else { Costly };
    let found = Found { values: context! { rewatched }, ..Found::new(severity, Vec::new()) };
    often(rewatched, stats.messages, 10).then_some(found)
}

fn one_each(stats: &TraceStats) -> Option<Found> {
    let all = stats.iterations.as_ref()?;
    // Not too few iterations, and so many clients that there could be more in each.
    let is_found = all.count >= 100 && all.batches.mean < 1.5 && stats.connections_max >= 8;
    is_found.then(|| Found::new(Note, Vec::new()))
}

fn one_heavy(stats: &TraceStats) -> Option<Found> {
    let served = stats.conns.iter().filter(|conn| conn.messages > 0);
    let heaviest = stats.conns.iter().max_by_key(|conn| conn.bytes())?;
    let all = stats.bytes_in.saturating_add(stats.bytes_out);
    let share = heaviest.bytes() as f64 / all.max(1) as f64;
    let is_found = served.count() >= 8 && all > HEAVY && share > 0.9;
    is_found.then(|| {
        let moment = Moment { at_ns: heaviest.first_ns, conn: Some(heaviest.conn), amount: None };
        let values = context! { heavy_share => share, heaviest };
        Found { values, ..Found::new(Note, vec![moment]) }
    })
}

fn resets(stats: &TraceStats) -> Option<Found> {
    Found::at(Note, &stats.anomalies.reset)
}

fn lost(stats: &TraceStats) -> Option<Found> {
    (stats.source.lost > 0).then(|| Found::new(Note, Vec::new()))
}
