//! What the doctor looks for, and the thresholds that keep the usual from being called a fault.

use std::time::Duration;

use super::chart::ratio;
use super::connection::ConnectionStats;
use super::finding::{Finding, Severity};
use super::iterations::{Moment, Occurrences, STALL};
use super::stats::TraceStats;
use proactor_record::Errno;
use proactor_record::{Call, Kind, Op};
use proactor_report::units;
use proactor_report::units::plural;

/// Something to look for.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    of: Of,
    pub(super) look: fn(&TraceStats) -> Option<Finding>,
}

/// In which traces something can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// In all.
    All,
    /// In those that have iterations.
    Loop,
    /// In those of a ring.
    Ring,
    /// In those of a selector.
    Selector,
}

impl Check {
    /// Whether it can be seen in what this was made of.
    pub(super) fn is_for(&self, stats: &TraceStats) -> bool {
        let iterations = !stats.source.has_no_loop();
        match self.of {
            Of::All => true,
            Of::Loop => iterations,
            Of::Ring => stats.is_ring(),
            Of::Selector => iterations && !stats.is_ring(),
        }
    }
}

const fn check(
    name: &'static str,
    about: &'static str,
    of: Of,
    look: fn(&TraceStats) -> Option<Finding>,
) -> Check {
    Check { name, about, of, look }
}

/// All that is looked for.
pub(super) const CHECKS: &[Check] = &[
    check("cq-overflow", "completions outside of a full queue", Of::Ring, overflow),
    check("no-buffers", "receives that found no buffer", Of::Ring, out_of_buffers),
    check("out-of-order", "operations that did not end once", Of::All, faults),
    check("errors", "operations that failed", Of::All, failed),
    check("accepts-refused", "no descriptor or memory to accept with", Of::All, exhausted),
    check("never-closed", "connections that end and are not closed", Of::All, lingering),
    check("stalls", "a loop that stays away from the kernel", Of::Loop, stalls),
    check("disarmed", "multishot receives that keep ending", Of::Ring, disarmed),
    check("one-shot", "a receive asked for anew for each message", Of::Ring, one_shot),
    check("short-sends", "sends that take less than they are given", Of::All, short),
    check("woken-for-nothing", "iterations without a completion or report", Of::Loop, idle),
    check("spurious-reports", "reports of which no call makes anything", Of::Selector, spurious),
    check("would-block", "calls that find nothing", Of::Selector, would_block),
    check("rewatched", "interests that change with the messages", Of::Selector, rewatched),
    check("one-each-iteration", "iterations that serve one of many", Of::Loop, one_each),
    check("resets", "connections that the peer broke", Of::All, resets),
    check("records-lost", "gaps in the trace", Of::All, lost),
];

/// Makes all checks that such a trace allows. The worst findings come first.
pub(super) fn findings(stats: &TraceStats) -> Vec<Finding> {
    let found = |check: &Check| {
        let finding = (check.look)(stats)?;
        Some(Finding { name: check.name, ..finding })
    };
    let checks = CHECKS.iter().filter(|check| check.is_for(stats));
    let mut findings: Vec<Finding> = checks.filter_map(found).collect();
    findings.sort_by_key(|one| one.severity);
    findings
}

/// A finding that is not named yet.
fn finding(severity: Severity, what: String, noted: &Occurrences, fix: &str) -> Finding {
    Finding {
        name: "",
        severity,
        what,
        evidence: Vec::new(),
        first: noted.first.clone(),
        fix: fix.to_owned(),
    }
}

impl Finding {
    fn with(mut self, evidence: impl Into<String>) -> Finding {
        self.evidence.push(evidence.into());
        self
    }
}

/// Returns a share as in `812 of 5,361 enters (15 %)`.
fn share_of(n: u64, all: u64, thing: &str) -> String {
    let share = n as f64 / all.max(1) as f64;
    let share = if n > 0 && share < 0.0005 { "<0.1 %".to_owned() } else { units::percent(share) };
    format!("{} of {} ({share})", units::count(n), plural(all, thing))
}

/// More than one in so many, and more than a few.
fn often(n: u64, all: u64, one_in: u64) -> bool {
    n > 10 && n.saturating_mul(one_in) > all
}

fn overflow(stats: &TraceStats) -> Option<Finding> {
    let iterations =
        stats.iterations.as_ref().filter(|iterations| iterations.overflows.count > 0)?;
    let size = stats.queue.map_or("an unknown number".to_owned(), units::count);
    let what = format!(
        "completions waited outside the full queue in {}",
        share_of(iterations.overflows.count, iterations.count, "enter")
    );
    let fix = "a larger completion queue (IORING_SETUP_CQSIZE): it grows with --max-connections, up to 8,192. \
               The kernel keeps what does not fit, but ends multishot operations and takes longer";
    let most = units::count(iterations.batches.max);
    Some(
        finding(Severity::Wrong, what, &iterations.overflows, fix)
            .with(format!("the queue holds {size}; {most} were reaped at once at most")),
    )
}

fn out_of_buffers(stats: &TraceStats) -> Option<Finding> {
    let missed = &stats.anomalies.out_of_buffers;
    if missed.count == 0 {
        return None;
    }
    // One in a hundred is a storm: each costs a completion, a receive and a wait.
    let severity =
        if often(missed.count, stats.messages, 100) { Severity::Wrong } else { Severity::Costly };
    let all = missed.count + stats.messages;
    let what = format!("{} found no buffer (ENOBUFS)", share_of(missed.count, all, "receive"));
    let fix = "more buffers (--buffers), or larger ones if messages are (--buffer-size); slow \
               readers hold the buffers of what they are owed";
    let found = finding(severity, what, missed, fix);
    Some(match stats.buffers {
        Some(buffers) => found.with(format!(
            "{} lent in all, {} of them filled",
            units::count(buffers.lent),
            units::count(buffers.filled)
        )),
        None => found,
    })
}

fn faults(stats: &TraceStats) -> Option<Finding> {
    let bad: Vec<&ConnectionStats> =
        stats.conns.iter().filter(|conn| !conn.faults.is_empty()).collect();
    let first = bad.first()?;
    let what = format!(
        "operations of {} did not end once, before the close",
        share_of(bad.len() as u64, stats.conns.len() as u64, "connection")
    );
    let fix = "this is a fault of the loop, or of the kernel: `trace conn` shows each of them; \
               please report it with the trace";
    let mut found = finding(Severity::Wrong, what, &Occurrences::default(), fix);
    for conn in bad.iter().take(3) {
        found = found.with(format!("c{}: {}", conn.conn, conn.faults.join("; ")));
    }
    found.first = vec![Moment { at_ns: first.last_ns, conn: None, amount: None }];
    Some(found)
}

fn failed(stats: &TraceStats) -> Option<Finding> {
    let failed = &stats.anomalies.failed;
    if failed.count == 0 {
        return None;
    }
    let what = format!("{} failed", plural(failed.count, "operation"));
    let fix = "`trace show --result error` shows each; what the name means is in the man page of \
               the call";
    let mut found = finding(Severity::Wrong, what, failed, fix);
    let mut names: Vec<String> =
        failed.first.iter().filter_map(|one| Some(Errno(one.amount? as i32).to_string())).collect();
    names.dedup();
    for row in &stats.ops {
        let these = row.errors.iter().filter(|(name, _)| names.contains(name));
        let these: Vec<_> = these.map(|(name, n)| format!("{} {name}", units::count(*n))).collect();
        if !these.is_empty() {
            found = found.with(format!("{}: {}", row.op.name(), these.join(", ")));
        }
    }
    // The amount is an errno, and is in the evidence.
    found.first.iter_mut().for_each(|one| one.amount = None);
    Some(found)
}

fn exhausted(stats: &TraceStats) -> Option<Finding> {
    let exhausted = &stats.anomalies.exhausted;
    let what = format!("{} failed for want of resources", plural(exhausted.count, "accept"));
    let fix = "more descriptors (ulimit -n), or fewer connections at a time (--max-connections)";
    (exhausted.count > 0).then(|| finding(Severity::Wrong, what, exhausted, fix))
}

/// How long a connection may take from the peer's end to its close.
const LINGER: Duration = Duration::from_secs(1);

fn lingering(stats: &TraceStats) -> Option<Finding> {
    let end = stats.source.from_ns + stats.source.span_ns;
    let late = |conn: &&ConnectionStats| {
        let ended = conn.peer_ended_ns.filter(|_| conn.closed_ns.is_none());
        ended.is_some_and(|at| end.saturating_sub(at) > LINGER.as_nanos() as u64)
    };
    let late: Vec<&ConnectionStats> = stats.conns.iter().filter(late).collect();
    let first = late.first()?;
    let what = format!(
        "{} whose peer ended over {} before the end of the trace are not closed",
        share_of(late.len() as u64, stats.conns.len() as u64, "connection"),
        units::span(LINGER)
    );
    let fix = "the peer has ended but does not read its replies: it is disconnected when others wait \
               for it, or at a drain (--drain-timeout); `trace conn` shows what is in flight";
    let mut found = finding(Severity::Costly, what, &Occurrences::default(), fix);
    for conn in late.iter().take(3) {
        let waits = conn.in_flight;
        let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.to_string() };
        found = found.with(format!("c{}: {waits} in flight", conn.conn));
    }
    let at_ns = first.peer_ended_ns.unwrap_or(first.last_ns);
    found.first = vec![Moment { at_ns, conn: None, amount: None }];
    Some(found)
}

fn stalls(stats: &TraceStats) -> Option<Finding> {
    let iterations = stats.iterations.as_ref().filter(|iterations| iterations.stalls.count > 0)?;
    let longest = iterations.outside.max_ns.unwrap_or(0);
    // A few are the scheduler's, unless one alone takes a hundredth of the time.
    let long = longest.saturating_mul(100) > stats.source.span_ns;
    let severity = if iterations.stalls.count >= 3 && long
        || often(iterations.stalls.count, iterations.count, 1000)
    {
        Severity::Costly
    } else {
        Severity::Note
    };
    let what = format!(
        "the loop stayed away from the kernel for over {} in {}",
        units::span(STALL),
        share_of(iterations.stalls.count, iterations.count, "iteration")
    );
    let fix = "a protocol that computes for long, or a CPU that others take (--cpu keeps to one): \
               meanwhile no client is served";
    let longest = units::span(Duration::from_nanos(longest));
    let found = finding(severity, what, &iterations.stalls, fix);
    Some(found.with(format!("the longest took {longest}")))
}

fn disarmed(stats: &TraceStats) -> Option<Finding> {
    let disarmed = &stats.anomalies.disarmed;
    if !often(disarmed.count, stats.messages, 100) {
        return None;
    }
    let what = format!(
        "multishot receives ended with {}",
        share_of(disarmed.count, stats.messages, "message")
    );
    let row = stats.op(Op::Ring(Kind::Recv))?;
    let fix = "the kernel ends them when completions overflow or memory is short: see to \
               cq-overflow and no-buffers first";
    Some(finding(Severity::Costly, what, disarmed, fix).with(format!(
        "{} submitted for {}",
        plural(row.begun, "receive"),
        plural(stats.connections, "connection")
    )))
}

fn one_shot(stats: &TraceStats) -> Option<Finding> {
    let row = stats.op(Op::Ring(Kind::Recv)).filter(|row| !row.multishot)?;
    // Two of three, and not too few.
    if stats.messages < 100 || row.begun * 3 < stats.messages * 2 {
        return None;
    }
    let per = stats.per_message(row.begun).map_or(String::new(), ratio);
    let what = format!("receives are one-shot: {per} submissions of them per message");
    let fix = "a kernel from 6.0 on receives many times for one submission (and no --kernel below \
               that)";
    Some(finding(Severity::Note, what, &Occurrences::default(), fix))
}

fn short(stats: &TraceStats) -> Option<Finding> {
    let sends: u64 = stats.ops.iter().filter(|row| row.op.sends()).map(|row| row.ok).sum();
    let (short, blocked) = (&stats.anomalies.short, &stats.anomalies.send_blocked);
    let many = short.count + blocked.count;
    if many == 0 {
        return None;
    }
    let what = format!("{} met a full socket", share_of(many, sends + blocked.count, "send"));
    let fix = "these clients read more slowly than they are answered: that bounds memory and is no \
               fault; larger socket buffers (net.ipv4.tcp_wmem) make it rarer";
    let first = if short.count > 0 { short } else { blocked };
    Some(finding(Severity::Note, what, first, fix).with(format!(
        "{} came short, {} would have blocked",
        units::count(short.count),
        units::count(blocked.count)
    )))
}

fn idle(stats: &TraceStats) -> Option<Finding> {
    let iterations = stats.iterations.as_ref()?;
    if !often(iterations.idle.count, iterations.count, 100) || stats.source.polls_all() {
        return None;
    }
    let what = format!(
        "nothing was submitted and nothing came in {}",
        share_of(iterations.idle.count, iterations.count, iterations.name)
    );
    let fix = "signals wake it, or a loop that asks without waiting: `trace show --op enter --op \
               wait` shows for how long each was to wait";
    Some(finding(Severity::Costly, what, &iterations.idle, fix))
}

fn spurious(stats: &TraceStats) -> Option<Finding> {
    let iterations = stats.iterations.as_ref()?;
    if !often(iterations.spurious.count, iterations.count, 100) {
        return None;
    }
    let asks_nobody = stats.source.polls_all();
    let severity = if asks_nobody { Severity::Note } else { Severity::Costly };
    let what = format!(
        "no call came to anything after {}",
        share_of(iterations.spurious.count, iterations.count, "reporting wait")
    );
    let fix = if asks_nobody {
        "this model tries instead of asking: --idle-sleep lets it rest, any other model asks"
    } else {
        "a socket is reported and no call uses its readiness: its interest should be removed"
    };
    Some(finding(severity, what, &iterations.spurious, fix))
}

fn would_block(stats: &TraceStats) -> Option<Finding> {
    let blocked = &stats.anomalies.recv_blocked;
    // One in ten.
    if !often(blocked.count, stats.messages, 10) {
        return None;
    }
    let asks_nobody = stats.source.polls_all();
    let severity = if asks_nobody { Severity::Note } else { Severity::Costly };
    let per = stats.per_message(blocked.count).map_or("some".to_owned(), ratio);
    let what = format!("{per} receives per message found nothing (EAGAIN)");
    let fix = if asks_nobody {
        "that is how this model waits; any other asks first"
    } else {
        "a receive that comes short has emptied the socket: to try once more costs a call"
    };
    let row = stats.receives()?;
    Some(finding(severity, what, blocked, fix).with(share_of(
        row.would_block,
        row.ended,
        "receive",
    )))
}

fn rewatched(stats: &TraceStats) -> Option<Finding> {
    let row =
        stats.op(Op::Call(Call::Rewatch)).filter(|row| often(row.begun, stats.messages, 10))?;
    let oneshot = stats.source.model == "epoll-oneshot";
    let severity = if oneshot { Severity::Note } else { Severity::Costly };
    let per = stats.per_message(row.begun).map_or("some".to_owned(), ratio);
    let what = format!("{per} changes of interest per message");
    let fix = if oneshot {
        "a oneshot selector is armed again after each report; epoll, level-triggered, is not"
    } else {
        "slow readers make the loop watch for space and back again; edges (--model epoll-et) need \
         no change"
    };
    Some(finding(severity, what, &Occurrences::default(), fix).with(format!(
        "{} rewatch{}, {}",
        units::count(row.begun),
        units::agree(row.begun, "", "es"),
        plural(stats.messages, "message")
    )))
}

fn one_each(stats: &TraceStats) -> Option<Finding> {
    let iterations = stats.iterations.as_ref()?;
    // Not too few iterations, and so many clients that there could be more in each.
    if iterations.count < 100 || iterations.batches.mean >= 1.5 || stats.connections_max < 8 {
        return None;
    }
    let (mean, open) = (ratio(iterations.batches.mean), units::count(stats.connections_max));
    let each = iterations.batch_name();
    let what = format!("{mean} {each}, with up to {open} connections open");
    let fix = "nothing: the loop is ahead of its clients. Under more load the batches grow, and \
               the calls per message shrink";
    Some(finding(Severity::Note, what, &Occurrences::default(), fix))
}

fn resets(stats: &TraceStats) -> Option<Finding> {
    let reset = &stats.anomalies.reset;
    let what = format!(
        "{} met a connection that the peer had broken (ECONNRESET, EPIPE, ECONNABORTED)",
        plural(reset.count, "operation")
    );
    let fix = "nothing, if these clients are known to leave like that: a peer that closes with \
               bytes unread resets";
    (reset.count > 0).then(|| finding(Severity::Note, what, reset, fix))
}

fn lost(stats: &TraceStats) -> Option<Finding> {
    let (lost, written) = (stats.source.lost, stats.source.written);
    let (overwritten, stopped) = (stats.source.overwritten, stats.source.stopped);
    let unwritten = lost.saturating_sub(overwritten).saturating_sub(stopped);
    let share = share_of(lost, written.max(lost), "record");
    let what = format!("{share} {} not here", units::agree(lost, "is", "are"));
    // Only overwritten records are due to a file that is too small.
    let fix = if overwritten > 0 {
        "a larger recording (--trace-size), or fewer connections of it (--trace-sample)"
    } else if stopped > 0 {
        "nothing, if it was meant to stop: SIGUSR2 and --trace-trigger stop it, SIGUSR2 starts it \
         again"
    } else if stats.source.has_no_loop() {
        "none needed if the process was killed: the record that it was writing is lost. If it \
         still runs, read the file again"
    } else {
        "the whole file, if this is a part of it"
    };
    let found = finding(Severity::Note, what, &Occurrences::default(), fix);
    let why = [
        (overwritten, "overwritten by newer ones"),
        (stopped, "not written while recording was stopped"),
        (unwritten, "begun and not written"),
    ];
    let why = why.iter().filter(|(n, _)| *n > 0);
    let why = why.map(|(n, why)| format!("{} {why}", units::count(*n))).collect::<Vec<_>>();
    (lost > 0).then(|| found.with(why.join(", ")))
}
