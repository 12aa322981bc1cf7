//! A trace in numbers, from one pass over its events.

use std::collections::HashMap;
use std::time::Duration;

use minijinja::{Value, context};
use proactor::keys::ConnId;
use proactor_record::{Call, Content, Errno, Header, Kind, Level, OpKind, RecordKind, Writers};
use proactor_report::Latencies;
use serde::Serialize;

use super::connection::{ConnectionStats, ConnectionTracker, Exchange, Measure};
use super::delays::{DelayCounter, Delays};
use super::iterations::{IterationCounter, Iterations, LONG, Occurrences};
use super::lanes::Lanes;
use super::ops::{OpRow, Ops, is_call};
use super::pauses::{LONG_DELAY, PauseCounter, Pauses};
use super::seen::SeenConnections;
use super::source::{Cut, Source};
use super::starvation::{Starvation, StarvationCounter};
use crate::event::Event;
use crate::show::is_attached;
use crate::trace_file::TraceFile;

/// What a trace comes to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TraceStats {
    /// What it is made of.
    pub source: Source,
    /// The number of connections seen.
    pub connections: u64,
    /// Connections open at a time, at most.
    pub connections_max: u64,
    /// Receives that brought bytes. A *message*, unless a client writes several at once.
    pub messages: u64,
    /// How many bytes they brought.
    pub bytes_in: u64,
    /// How many bytes were sent.
    pub bytes_out: u64,
    /// Operation by operation, call by call.
    pub ops: Vec<OpRow>,
    /// The enters, or the waits; of one connection alone there are none, nor where each has a
    /// thread.
    pub iterations: Option<Iterations>,
    /// What kept the thread of a loop from its work.
    pub pauses: Pauses,
    /// How long connections waited for a buffer.
    pub starvation: Starvation,
    /// The threads, or the children, where many recorded; of one connection alone there are none.
    pub lanes: Option<Lanes>,
    /// System calls, counted where they are made; `None` if some may not be here.
    pub calls: Option<u64>,
    /// How many completions the queue holds, if it is a ring.
    pub queue: Option<u64>,
    /// Buffers that the kernel is lent; `None` where it picks none.
    pub buffers: Option<Buffers>,
    /// Iterations of connections: how long from a receive to its reply.
    pub answered: proactor_report::histogram::Percentiles,
    /// From what to what that is timed.
    pub measure: Measure,
    /// Events that are failures, or costly if there are many.
    pub anomalies: Anomalies,
    /// What the kernel's events add; `None` if they were not recorded.
    pub kernel: Option<Delays>,
    /// The numbers of each connection.
    #[serde(skip)]
    pub conns: Vec<ConnectionStats>,
}

/// Provided buffers, of all sizes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Buffers {
    /// How many were lent in all.
    pub lent: u64,
    /// How many of them the kernel gave back, filled.
    pub filled: u64,
    /// How few were lent at a time, and how many at most; `None` where records are missing.
    pub fewest: Option<u64>,
    /// How many at most.
    pub most: Option<u64>,
}

/// Events that are failures, or costly if there are many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Anomalies {
    /// Receives that found no buffer.
    pub out_of_buffers: Occurrences,
    /// Sends of which less went than was given; how many bytes did.
    pub short: Occurrences,
    /// Accepts that failed for want of descriptors or memory.
    pub exhausted: Occurrences,
    /// Connections that the peer reset, or that we wrote to too late.
    pub reset: Occurrences,
    /// Other failures that are not part of the game; which errno.
    pub failed: Occurrences,
    /// Multishot receives that ended though they brought bytes.
    pub disarmed: Occurrences,
    /// Sends that would have blocked.
    pub send_blocked: Occurrences,
    /// Receives that would have blocked, unless the one before had filled its buffer.
    pub recv_blocked: Occurrences,
    /// The connection whose last receive filled its buffer: more may have been there.
    #[serde(skip)]
    filled: Option<ConnId>,
}

impl TraceStats {
    /// Of this part of a trace.
    pub fn of(trace: &TraceFile, cut: &Cut) -> TraceStats {
        let mut parts = parts(trace, std::slice::from_ref(cut));
        parts.pop().expect("one part has statistics")
    }

    /// Of this part of a trace, and of equal slices of its time. A slice has no connections, and
    /// counts what was begun and ended in it.
    pub fn with_slices(trace: &TraceFile, cut: &Cut, slices: u32) -> (TraceStats, Vec<TraceStats>) {
        let times = trace.records.iter().map(|one| trace.header.nanos(one.time));
        let times = times.filter(|&at| cut.is_in_time(at));
        let (from, to) = times.fold((u64::MAX, 0), |(from, to), at| (from.min(at), to.max(at)));
        let width = to.saturating_sub(from) / u64::from(slices) + 1;
        let slice = |at: u32| {
            let since = Duration::from_nanos(from.saturating_add(width * u64::from(at)));
            Cut { since: Some(since), until: Some(since + Duration::from_nanos(width)), ..*cut }
        };
        let cuts: Vec<Cut> = std::iter::once(*cut).chain((0..slices).map(slice)).collect();
        let mut parts = parts(trace, &cuts);
        let slices = parts.split_off(1);
        (parts.pop().expect("the whole is first"), slices)
    }

    /// The row of this operation or call, if there is one.
    pub fn op(&self, op: OpKind) -> Option<&OpRow> {
        self.ops.iter().find(|row| row.op == op)
    }

    /// The row of the receives, on a ring or by calls.
    pub(super) fn receives(&self) -> Option<&OpRow> {
        self.ops.iter().find(|row| row.op.receives())
    }

    /// How many of something there were per message; `None` without messages, or of a sample.
    pub fn per_message(&self, number: u64) -> Option<f64> {
        let is_known = self.messages > 0 && self.source.sample == 1;
        is_known.then(|| number as f64 / self.messages as f64)
    }

    /// The bytes of both directions for each system call. Calls per message get fewer where small
    /// buffers cut messages into many receives; this does not get more.
    pub fn bytes_per_call(&self) -> Option<f64> {
        let bytes = self.bytes_in.saturating_add(self.bytes_out);
        self.calls.filter(|&calls| calls > 0).map(|calls| bytes as f64 / calls as f64)
    }

    /// Whether it is of a ring.
    pub fn is_ring(&self) -> bool {
        self.iterations.as_ref().is_some_and(Iterations::are_enters)
            || matches!(self.measure, Measure::Completed | Measure::Taken)
    }

    /// The values of its texts: those of its JSON, and what follows from them.
    pub(super) fn values(&self) -> Value {
        let rows = |is: fn(OpKind) -> bool| self.ops.iter().filter(move |row| is(row.op));
        context! {
            head => self.source.to_string(),
            ring => self.is_ring(),
            no_loop => self.source.has_no_loop(),
            polls_all => self.source.polls_all(),
            share_inside => self.share_inside(),
            asleep_share => self.asleep_share(),
            bytes_per_call => self.bytes_per_call(),
            waiting_share => self.starvation.share(),
            long_ns => LONG.as_nanos() as u64,
            long_delay_ns => LONG_DELAY.as_nanos() as u64,
            receive => self.receives(),
            moving => rows(|op| op.receives() || op.sends()).collect::<Vec<_>>(),
            sent => rows(OpKind::sends).map(|row| row.ok).sum::<u64>(),
            known => self.conns.len(),
            out_of_order => self.conns.iter().filter(|conn| !conn.faults.is_empty()).count(),
            ..Value::from_serialize(self)
        }
    }

    /// The share of the time that was spent in enters or waits, asleep and awake.
    pub fn share_inside(&self) -> Option<f64> {
        let iterations = self.iterations.as_ref()?;
        (self.source.span_ns > 0).then(|| iterations.inside_ns as f64 / self.source.span_ns as f64)
    }

    /// The share of the time that its thread slept in enters, if the kernel's events say it.
    pub fn asleep_share(&self) -> Option<f64> {
        let asleep = self.kernel.as_ref()?.asleep_ns?;
        (self.source.span_ns > 0).then(|| asleep as f64 / self.source.span_ns as f64)
    }
}

/// Returns the statistics of these parts of a trace, from one pass over its events. The first has
/// the numbers of each connection.
fn parts(trace: &TraceFile, cuts: &[Cut]) -> Vec<TraceStats> {
    let mut conns = ConnectionTracker::new(trace);
    let mut parts: Vec<PartCounter> = cuts.iter().map(|cut| PartCounter::new(trace, cut)).collect();
    let mut events = trace.events();
    for event in &mut events {
        conns.see(&event);
        let exchanges = std::mem::take(&mut conns.exchanges);
        for part in &mut parts {
            part.see(&trace.header, &event, &exchanges);
        }
    }
    let (in_flight, measure) = (events.in_flight(), conns.measure);
    let finish = |part: PartCounter| part.finish(trace, &in_flight, measure);
    let mut parts: Vec<TraceStats> = parts.into_iter().map(finish).collect();
    if let Some(first) = parts.first_mut() {
        first.conns = conns.finish();
    }
    parts
}

/// Whether calls have a duration: the clock was read for each record, or nothing waits for many.
pub(super) fn times_calls(trace: &TraceFile) -> bool {
    let mut records = trace.records.iter();
    trace.header.level == Some(Level::Record) || !records.any(|one| one.is(RecordKind::WaitBegin))
}

/// Counts the events of a part of a trace.
struct PartCounter<'a> {
    cut: &'a Cut,
    has_loop: bool,
    ops: Ops,
    iterations: IterationCounter,
    buffers: Buffers,
    /// Whether the kernel is lent buffers, in this part or another.
    lends: bool,
    pauses: PauseCounter,
    starvation: StarvationCounter,
    answered: Latencies,
    span: Option<(u64, u64)>,
    seen: SeenConnections,
    anomalies: Anomalies,
    lanes: Option<Lanes>,
    delays: Option<DelayCounter<'a>>,
}

impl<'a> PartCounter<'a> {
    fn new(trace: &'a TraceFile, cut: &'a Cut) -> PartCounter<'a> {
        let (header, is_timed) = (&trace.header, times_calls(trace));
        // Otherwise many threads or processes recorded, most of which sleep in calls of their own.
        let has_loop = header.writers == Writers::One;
        PartCounter {
            cut,
            has_loop,
            ops: Ops::new(is_timed, !has_loop),
            iterations: IterationCounter::default(),
            buffers: Buffers::default(),
            lends: false,
            pauses: PauseCounter::new(trace),
            starvation: StarvationCounter::default(),
            answered: Latencies::new(),
            span: None,
            seen: SeenConnections::default(),
            anomalies: Anomalies::default(),
            lanes: Lanes::new(header, cut).filter(|_| cut.conn.is_none()),
            delays: trace.sidecar().map(DelayCounter::new),
        }
    }

    fn see(&mut self, header: &Header, event: &Event, exchanges: &[Exchange]) {
        let cut = self.cut;
        if let Some(lanes) = &mut self.lanes {
            lanes.see(header, event, cut);
        }
        for one in exchanges {
            if cut.is_in_time(one.at_ns) && cut.is_of(Some(one.conn)) {
                self.answered.record(Duration::from_nanos(one.took_ns));
            }
        }
        self.lends |= is_lent(event);
        if !cut.is_in_time(event.at) {
            return;
        }
        self.span = Some((self.span.map_or(event.at, |(from, _)| from), event.at));
        if cut.conn.is_none() {
            self.pauses.see(event);
        }
        if let Some(delays) = &mut self.delays {
            delays.see(event, cut);
        }
        if cut.conn.is_none() && self.has_loop {
            self.iterations.see(event);
            self.buffers.see(event);
        }
        if cut.is_of(event.conn) {
            self.ops.see(event);
            self.anomalies.see(event);
            self.seen.see(event);
            self.starvation.see(event);
        }
    }

    fn finish(
        self,
        trace: &TraceFile,
        in_flight: &HashMap<OpKind, u64>,
        measure: Measure,
    ) -> TraceStats {
        let PartCounter { cut, seen, anomalies, .. } = self;
        // The operations in flight are of all connections, and of the end of the trace.
        let none = HashMap::new();
        let ops = self.ops.finish(if *cut == Cut::default() { in_flight } else { &none });
        let (iterations, (from, to)) = (self.iterations.finish(), self.span.unwrap_or((0, 0)));
        let source = Source::new(trace, cut, from, to);
        let has_all_calls =
            cut.conn.is_none() && trace.header.sample == 1 && !is_attached(&trace.header);
        let is_whole = trace.lost() == 0 && trace.remarks.is_empty() && cut.since.is_none();
        TraceStats {
            connections: seen.totals.opened,
            connections_max: seen.open_max,
            messages: seen.totals.messages,
            bytes_in: seen.totals.bytes_in,
            bytes_out: seen.totals.bytes_out,
            calls: has_all_calls.then(|| calls(&source, &ops, iterations.as_ref())),
            source,
            ops,
            iterations,
            pauses: self.pauses.finish(),
            starvation: self.starvation.finish(to),
            lanes: self.lanes.map(|lanes| lanes.finish(to)),
            queue: trace.header.get("completions").and_then(|size| size.parse().ok()),
            buffers: (self.lends && cut.conn.is_none()).then(|| self.buffers.finish(is_whole)),
            answered: self.answered.percentiles(),
            measure,
            anomalies,
            kernel: self.delays.map(|delays| delays.finish(cut)),
            conns: Vec::new(),
        }
    }
}

impl Anomalies {
    fn see(&mut self, event: &Event) {
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
        let is_full = event.begun.is_some_and(|begun| result == Ok(begun.len));
        // What it brought may be sent before the next receive.
        let filled = match op.receives() {
            true => std::mem::replace(&mut self.filled, event.conn.filter(|_| is_full)),
            false => None,
        };
        let mut amount = None;
        let which = match result {
            Ok(n) if event.is_short() => {
                amount = Some(u64::from(n));
                &mut self.short
            }
            Ok(1..) if op == OpKind::Ring(Kind::Recv) && event.is_multishot() => match event.what {
                Content::Completed { more: false, .. } => &mut self.disarmed,
                _ => return,
            },
            Ok(_) => return,
            Err(errno) if op.accepts() && errno.is_shortage() => &mut self.exhausted,
            Err(Errno(libc::ENOBUFS)) if op.receives() => &mut self.out_of_buffers,
            Err(Errno(libc::EAGAIN)) if op == OpKind::Call(Call::Recv) => {
                if filled.is_some() && filled == event.conn {
                    return;
                }
                &mut self.recv_blocked
            }
            Err(Errno(libc::EAGAIN)) if op.sends() => &mut self.send_blocked,
            Err(errno) if errno.is_reset() => &mut self.reset,
            Err(errno) if event.is_abnormal() => {
                amount = Some(errno.0.unsigned_abs().into());
                &mut self.failed
            }
            Err(_) => return,
        };
        which.note(event.at, event.conn, amount);
    }
}

impl Buffers {
    fn see(&mut self, event: &Event) {
        match event.what {
            Content::EnterEnd { provided, .. } => {
                self.lent += u64::from(provided);
                self.most = self.most.max(Some(self.lent.saturating_sub(self.filled)));
            }
            Content::Completed { buffer: Some(_), .. } => {
                self.filled += 1;
                let left = self.lent.saturating_sub(self.filled);
                self.fewest = Some(self.fewest.map_or(left, |fewest| fewest.min(left)));
            }
            _ => {}
        }
    }

    /// The extremes are known only of a whole trace.
    fn finish(self, is_whole: bool) -> Buffers {
        let (fewest, most) =
            if is_whole { (self.fewest.or(self.most), self.most) } else { (None, None) };
        Buffers { fewest, most, ..self }
    }
}

/// Whether the kernel is lent buffers, or has filled one.
fn is_lent(event: &Event) -> bool {
    matches!(
        event.what,
        Content::EnterEnd { provided: 1.., .. } | Content::Completed { buffer: Some(_), .. }
    )
}

/// How many system calls there were. On a ring each enter is one, and nothing else is. With a
/// selector, a watch is a call where the kernel keeps the interests.
fn calls(source: &Source, ops: &[OpRow], iterations: Option<&Iterations>) -> u64 {
    let iterations =
        iterations.filter(|_| !source.polls_all()).map_or(0, |iterations| iterations.count);
    if ops.iter().any(|row| row.on_ring) {
        return iterations;
    }
    let calls = ops.iter().filter(|row| is_call(&source.model, row.op));
    iterations + calls.map(|row| row.begun.max(row.ended)).sum::<u64>()
}
