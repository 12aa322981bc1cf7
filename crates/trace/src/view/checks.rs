//! What the doctor looks for, and the thresholds that keep the usual from being called a fault.

use std::time::Duration;

use proactor_record::{Call, Errno, Kind, Op};
use proactor_report::units::{self, agree, count, nanos, plural};

use super::connection::ConnectionStats;
use super::finding::Finding;
use super::finding::Severity::{self, Costly, Note, Wrong};
use super::iterations::{Iterations, Moment, Occurrences, STALL};
use super::stats::TraceStats;
use super::text::ratio;

/// Something to look for: its name, what it is, in which traces it can be seen, and the search.
type Check = (&'static str, &'static str, Of, fn(&TraceStats) -> Option<Finding>);

/// In which traces something can be seen.
pub(super) enum Of {
    /// It can be seen in all.
    All,
    /// In those that have iterations.
    Loop,
    /// In those of a ring.
    Ring,
    /// In those of a selector.
    Selector,
}

/// All that is looked for.
const CHECKS: &[Check] = &[
    ("cq-overflow", "completions outside of a full queue", Of::Ring, overflow),
    ("no-buffers", "receives that found no buffer", Of::Ring, out_of_buffers),
    ("out-of-order", "operations that did not end once", Of::All, faults),
    ("errors", "operations that failed", Of::All, failed),
    ("accepts-refused", "no descriptor or memory to accept with", Of::All, exhausted),
    ("never-closed", "connections that end and are not closed", Of::All, lingering),
    ("stalls", "a loop that stays away from the kernel", Of::Loop, stalls),
    ("disarmed", "multishot receives that keep ending", Of::Ring, disarmed),
    ("one-shot", "a receive asked for anew for each message", Of::Ring, one_shot),
    ("short-sends", "sends that take less than they are given", Of::All, short),
    ("woken-for-nothing", "iterations without a completion or report", Of::Loop, idle),
    ("spurious-reports", "reports of which no call makes anything", Of::Selector, spurious),
    ("would-block", "calls that find nothing", Of::Selector, would_block),
    ("rewatched", "interests that change with the messages", Of::Selector, rewatched),
    ("one-each-iteration", "iterations that serve one of many", Of::Loop, one_each),
    ("resets", "connections that the peer broke", Of::All, resets),
    ("records-lost", "gaps in the trace", Of::All, lost),
];

/// The checks that such a trace allows.
pub(super) fn checks(stats: &TraceStats) -> impl Iterator<Item = &'static Check> {
    let (has_loop, is_ring) = (!stats.source.has_no_loop(), stats.is_ring());
    CHECKS.iter().filter(move |(_, _, of, _)| match of {
        Of::All => true,
        Of::Loop => has_loop,
        Of::Ring => is_ring,
        Of::Selector => has_loop && !is_ring,
    })
}

/// Makes all checks that such a trace allows. The worst findings come first.
pub(super) fn findings(stats: &TraceStats) -> Vec<Finding> {
    let found = checks(stats).map(|&(name, _, _, look)| Some(Finding { name, ..look(stats)? }));
    let mut findings: Vec<Finding> = found.flatten().collect();
    findings.sort_by_key(|one| one.severity);
    findings
}

/// A finding that is not named yet.
fn finding(severity: Severity, what: String, fix: &'static str) -> Finding {
    Finding { name: "", severity, what, evidence: Vec::new(), first: Vec::new(), fix }
}

impl Finding {
    fn at(self, noted: &Occurrences) -> Finding {
        Finding { first: noted.first.clone(), ..self }
    }

    fn with(mut self, evidence: impl Into<String>) -> Finding {
        self.evidence.push(evidence.into());
        self
    }

    /// With what this says of the first few connections, and with the moment of the first.
    fn of_conns(
        self,
        conns: &[&ConnectionStats],
        at_ns: u64,
        say: fn(&ConnectionStats) -> String,
    ) -> Finding {
        let first = vec![Moment { at_ns, conn: None, amount: None }];
        let evidence = conns.iter().take(3).map(|conn| format!("c{}: {}", conn.conn, say(conn)));
        Finding { first, evidence: evidence.collect(), ..self }
    }
}

/// Returns a share as in `812 of 5,361 enters (15 %)`.
fn share_of(n: u64, all: u64, thing: &str) -> String {
    let share = n as f64 / all.max(1) as f64;
    let share = if n > 0 && share < 0.0005 { "<0.1 %".to_owned() } else { units::percent(share) };
    format!("{} of {} ({share})", count(n), plural(all, thing))
}

/// More than one in so many, and more than a few.
fn often(n: u64, all: u64, one_in: u64) -> bool {
    n > 10 && n.saturating_mul(one_in) > all
}

fn overflow(stats: &TraceStats) -> Option<Finding> {
    let Iterations { overflows, batches, count: all, .. } = stats.iterations.as_ref()?;
    let share = share_of(overflows.some()?.count, *all, "enter");
    let what = format!("completions waited outside the full queue in {share}");
    let fix = "a larger completion queue (IORING_SETUP_CQSIZE): it grows with --max-connections, \
               up to 8,192. The kernel keeps what does not fit, but ends multishot operations and \
               takes longer";
    let size = stats.queue.map_or("an unknown number".to_owned(), count);
    let most = count(batches.max);
    let evidence = format!("the queue holds {size}; {most} were reaped at once at most");
    Some(finding(Wrong, what, fix).at(overflows).with(evidence))
}

fn out_of_buffers(stats: &TraceStats) -> Option<Finding> {
    let missed = stats.anomalies.out_of_buffers.some()?;
    // One in a hundred is a storm: each costs a completion, a receive and a wait.
    let severity = if often(missed.count, stats.messages, 100) { Wrong } else { Costly };
    let share = share_of(missed.count, missed.count + stats.messages, "receive");
    let fix = "more buffers (--buffers), or larger ones if messages are (--buffer-size); slow \
               readers hold the buffers of what they are owed";
    let found = finding(severity, format!("{share} found no buffer (ENOBUFS)"), fix).at(missed);
    let Some(buffers) = stats.buffers else { return Some(found) };
    let (lent, filled) = (count(buffers.lent), count(buffers.filled));
    Some(found.with(format!("{lent} lent in all, {filled} of them filled")))
}

fn faults(stats: &TraceStats) -> Option<Finding> {
    let bad: Vec<_> = stats.conns.iter().filter(|conn| !conn.faults.is_empty()).collect();
    let share = share_of(bad.len() as u64, stats.conns.len() as u64, "connection");
    let what = format!("operations of {share} did not end once, before the close");
    let fix = "this is a fault of the loop, or of the kernel: `trace conn` shows each of them; \
               please report it with the trace";
    let at = bad.first()?.last_ns;
    Some(finding(Wrong, what, fix).of_conns(&bad, at, |conn| conn.faults.join("; ")))
}

fn failed(stats: &TraceStats) -> Option<Finding> {
    let failed = stats.anomalies.failed.some()?;
    let fix = "`trace show --result error` shows each; what the name means is in the man page of \
               the call";
    let what = format!("{} failed", plural(failed.count, "operation"));
    let mut found = finding(Wrong, what, fix).at(failed);
    // The amount is an errno, and is in the evidence.
    let errnos = found.first.iter_mut().filter_map(|one| one.amount.take());
    let names: Vec<String> = errnos.map(|errno| Errno(errno as i32).to_string()).collect();
    for row in &stats.ops {
        let these = row.errors.iter().filter(|(name, _)| names.contains(name));
        let these: Vec<_> = these.map(|(name, n)| format!("{} {name}", count(*n))).collect();
        if !these.is_empty() {
            found = found.with(format!("{}: {}", row.op, these.join(", ")));
        }
    }
    Some(found)
}

fn exhausted(stats: &TraceStats) -> Option<Finding> {
    let exhausted = stats.anomalies.exhausted.some()?;
    let what = format!("{} failed for want of resources", plural(exhausted.count, "accept"));
    let fix = "more descriptors (ulimit -n), or fewer connections at a time (--max-connections)";
    Some(finding(Wrong, what, fix).at(exhausted))
}

/// How long a connection may take from the peer's end to its close.
const LINGER: Duration = Duration::from_secs(1);

fn lingering(stats: &TraceStats) -> Option<Finding> {
    let end = stats.source.from_ns + stats.source.span_ns;
    let late = stats.conns.iter().filter(|conn| {
        let ended = conn.peer_ended_ns.filter(|_| conn.closed_ns.is_none());
        ended.is_some_and(|at| end.saturating_sub(at) > LINGER.as_nanos() as u64)
    });
    let late: Vec<_> = late.collect();
    let (share, span) =
        (share_of(late.len() as u64, stats.conns.len() as u64, "connection"), units::span(LINGER));
    let what =
        format!("{share} whose peer ended over {span} before the end of the trace are not closed");
    let fix = "the peer has ended but does not read its replies: it is disconnected when others \
               wait for it, or at a drain (--drain-timeout); `trace conn` shows what is in flight";
    let at = late.first()?.peer_ended_ns?;
    Some(finding(Costly, what, fix).of_conns(&late, at, |conn| match conn.in_flight {
        none if none.is_empty() => "nothing in flight".to_owned(),
        kinds => format!("{kinds} in flight"),
    }))
}

fn stalls(stats: &TraceStats) -> Option<Finding> {
    let Iterations { stalls, count: all, outside, .. } = stats.iterations.as_ref()?;
    let longest = outside.max_ns.unwrap_or(0);
    // A few are the scheduler's, unless one alone takes a hundredth of the time.
    let is_long = longest.saturating_mul(100) > stats.source.span_ns;
    let is_costly = stalls.count >= 3 && is_long || often(stalls.count, *all, 1000);
    let (limit, share) = (units::span(STALL), share_of(stalls.some()?.count, *all, "iteration"));
    let what = format!("the loop stayed away from the kernel for over {limit} in {share}");
    let fix = "a protocol that computes for long, or a CPU that others take (--cpu keeps to one): \
               meanwhile no client is served";
    let found = finding(if is_costly { Costly } else { Note }, what, fix).at(stalls);
    Some(found.with(format!("the longest took {}", nanos(longest))))
}

fn disarmed(stats: &TraceStats) -> Option<Finding> {
    let disarmed = &stats.anomalies.disarmed;
    let row = stats.op(Op::Ring(Kind::Recv))?;
    let share = share_of(disarmed.count, stats.messages, "message");
    let fix = "the kernel ends them when completions overflow or memory is short: see to \
               cq-overflow and no-buffers first";
    let (asked, conns) = (plural(row.begun, "receive"), plural(stats.connections, "connection"));
    let found = finding(Costly, format!("multishot receives ended with {share}"), fix).at(disarmed);
    let found = found.with(format!("{asked} submitted for {conns}"));
    often(disarmed.count, stats.messages, 100).then_some(found)
}

fn one_shot(stats: &TraceStats) -> Option<Finding> {
    let row = stats.op(Op::Ring(Kind::Recv)).filter(|row| !row.multishot)?;
    let per = stats.per_message(row.begun).map_or(String::new(), ratio);
    let what = format!("receives are one-shot: {per} submissions of them per message");
    let fix = "a kernel from 6.0 on receives many times for one submission (and no --kernel below \
               that)";
    // Two of three, and not too few.
    let is_one_shot = stats.messages >= 100 && row.begun * 3 >= stats.messages * 2;
    is_one_shot.then(|| finding(Note, what, fix))
}

fn short(stats: &TraceStats) -> Option<Finding> {
    let sends: u64 = stats.ops.iter().filter(|row| row.op.sends()).map(|row| row.ok).sum();
    let (short, blocked) = (&stats.anomalies.short, &stats.anomalies.send_blocked);
    let first = short.some().or(blocked.some())?;
    let share = share_of(short.count + blocked.count, sends + blocked.count, "send");
    let fix = "these clients read more slowly than they are answered: that bounds memory and is no \
               fault; larger socket buffers (net.ipv4.tcp_wmem) make it rarer";
    let found = finding(Note, format!("{share} met a full socket"), fix).at(first);
    let (short, blocked) = (count(short.count), count(blocked.count));
    Some(found.with(format!("{short} came short, {blocked} would have blocked")))
}

fn idle(stats: &TraceStats) -> Option<Finding> {
    let Iterations { idle, count: all, name, .. } = stats.iterations.as_ref()?;
    let share = share_of(idle.count, *all, name);
    let what = format!("nothing was submitted and nothing came in {share}");
    let fix = "signals wake it, or a loop that asks without waiting: `trace show --op enter --op \
               wait` shows for how long each was to wait";
    let is_found = often(idle.count, *all, 100) && !stats.source.polls_all();
    is_found.then(|| finding(Costly, what, fix).at(idle))
}

fn spurious(stats: &TraceStats) -> Option<Finding> {
    let Iterations { spurious, count: all, .. } = stats.iterations.as_ref()?;
    let share = share_of(spurious.count, *all, "reporting wait");
    let what = format!("no call came to anything after {share}");
    let (severity, fix) = match stats.source.polls_all() {
        true => (
            Note,
            "this model tries instead of asking: --idle-sleep lets it rest, any other model asks",
        ),
        false => (
            Costly,
            "a socket is reported and no call uses its readiness: its interest should be removed",
        ),
    };
    often(spurious.count, *all, 100).then(|| finding(severity, what, fix).at(spurious))
}

fn would_block(stats: &TraceStats) -> Option<Finding> {
    let blocked = &stats.anomalies.recv_blocked;
    let row = stats.receives()?;
    let per = stats.per_message(blocked.count).map_or("some".to_owned(), ratio);
    let what = format!("{per} receives per message found nothing (EAGAIN)");
    let (severity, fix) = match stats.source.polls_all() {
        true => (Note, "that is how this model waits; any other asks first"),
        false => (
            Costly,
            "a receive that comes short has emptied the socket: to try once more costs a call",
        ),
    };
    let found = finding(severity, what, fix).at(blocked);
    let found = found.with(share_of(row.would_block, row.ended, "receive"));
    // One in ten.
    often(blocked.count, stats.messages, 10).then_some(found)
}

fn rewatched(stats: &TraceStats) -> Option<Finding> {
    let begun = stats.op(Op::Call(Call::Rewatch))?.begun;
    let per = stats.per_message(begun).map_or("some".to_owned(), ratio);
    let (severity, fix) = match &*stats.source.model {
        "epoll-oneshot" => (
            Note,
            "a oneshot selector is armed again after each report; epoll, level-triggered, is not",
        ),
        _ => (
            Costly,
            "slow readers make the loop watch for space and back again; edges (--model epoll-et) \
             need no change",
        ),
    };
    let found = finding(severity, format!("{per} changes of interest per message"), fix);
    let (calls, es) = (count(begun), agree(begun, "", "es"));
    let found = found.with(format!("{calls} rewatch{es}, {}", plural(stats.messages, "message")));
    often(begun, stats.messages, 10).then_some(found)
}

fn one_each(stats: &TraceStats) -> Option<Finding> {
    let iterations = stats.iterations.as_ref()?;
    let (mean, open) = (iterations.batches.mean, count(stats.connections_max));
    let each = iterations.batch_name();
    let what = format!("{} {each}, with up to {open} connections open", ratio(mean));
    let fix = "nothing: the loop is ahead of its clients. Under more load the batches grow, and \
               the calls per message shrink";
    // Not too few iterations, and so many clients that there could be more in each.
    let is_found = iterations.count >= 100 && mean < 1.5 && stats.connections_max >= 8;
    is_found.then(|| finding(Note, what, fix))
}

fn resets(stats: &TraceStats) -> Option<Finding> {
    let reset = stats.anomalies.reset.some()?;
    let operations = plural(reset.count, "operation");
    let what = format!(
        "{operations} met a connection that the peer had broken (ECONNRESET, EPIPE, ECONNABORTED)"
    );
    let fix = "nothing, if these clients are known to leave like that: a peer that closes with \
               bytes unread resets";
    Some(finding(Note, what, fix).at(reset))
}

fn lost(stats: &TraceStats) -> Option<Finding> {
    let source = &stats.source;
    let (lost, overwritten, stopped) = (source.lost, source.overwritten, source.stopped);
    let unwritten = lost.saturating_sub(overwritten).saturating_sub(stopped);
    let share = share_of(lost, source.written.max(lost), "record");
    // Only overwritten records are due to a file that is too small.
    let fix = if overwritten > 0 {
        "a larger recording (--trace-size), or fewer connections of it (--trace-sample)"
    } else if stopped > 0 {
        "nothing, if it was meant to stop: SIGUSR2 and --trace-trigger stop it, SIGUSR2 starts it \
         again"
    } else if source.has_no_loop() {
        "none needed if the process was killed: the record that it was writing is lost. If it \
         still runs, read the file again"
    } else {
        "the whole file, if this is a part of it"
    };
    let why = [
        (overwritten, "overwritten by newer ones"),
        (stopped, "not written while recording was stopped"),
        (unwritten, "begun and not written"),
    ];
    let why = why.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{} {why}", count(*n)));
    let why = why.collect::<Vec<_>>().join(", ");
    let what = format!("{share} {} not here", agree(lost, "is", "are"));
    (lost > 0).then(|| finding(Note, what, fix).with(why))
}
