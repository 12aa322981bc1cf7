//! A trace in numbers, from one pass over its events.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use minijinja::{Value, context};
use proactor::keys::ConnId;
use proactor_record::{Call, Content, Errno, Kind, Level, OpKind, RecordKind, Trace, Writers};
use proactor_report::Latencies;
use serde::Serialize;

use super::connection::{ConnectionStats, ConnectionTracker, Measure};
use super::iterations::{IterationCounter, Iterations, Occurrences, STALL};
use super::lanes::Lanes;
use super::ops::{OpRow, Ops};
use super::source::{Cut, Source};
use crate::event::{Event, events};

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
    /// Receives that would have blocked.
    pub recv_blocked: Occurrences,
}

impl TraceStats {
    /// Of this part of a trace.
    pub fn of(trace: &Trace, cut: &Cut) -> TraceStats {
        let header = &trace.header;
        let waits = trace.records.iter().any(|one| one.is(RecordKind::WaitBegin));
        let is_timed = header.level == Some(Level::Record) || !waits;
        // Many threads or processes recorded, most of which sleep in calls of their own.
        let no_loop = header.writers != Writers::One;
        let (mut ops, mut conns) = (Ops::new(is_timed, no_loop), ConnectionTracker::new(trace));
        let mut lanes = Lanes::new(header, cut).filter(|_| cut.conn.is_none());
        let (mut iterations, mut buffers) = (IterationCounter::default(), Buffers::default());
        let (mut answered, mut span) = (Latencies::new(), None);
        let (mut seen, mut anomalies) = (SeenConnections::default(), Anomalies::default());
        let mut events = events(trace);
        for event in &mut events {
            if let Some(lanes) = &mut lanes {
                lanes.see(header, &event, cut);
            }
            conns.see(&event);
            for one in conns.exchanges.drain(..) {
                if cut.is_in_time(one.at_ns) && cut.is_of(Some(one.conn)) {
                    answered.record(Duration::from_nanos(one.took_ns));
                }
            }
            if !cut.is_in_time(event.at) {
                continue;
            }
            span = Some((span.map_or(event.at, |(from, _)| from), event.at));
            if cut.conn.is_none() && !no_loop {
                iterations.see(&event);
                buffers.see(&event);
            }
            if cut.is_of(event.conn) {
                ops.see(&event);
                anomalies.see(&event);
                seen.see(&event);
            }
        }
        // The operations in flight are of all connections, and of the end of the trace.
        let is_all = *cut == Cut::default();
        let ops = ops.finish(&if is_all { events.in_flight() } else { HashMap::new() });
        let (iterations, (from, to)) = (iterations.finish(), span.unwrap_or((0, 0)));
        let source = Source::new(trace, cut, from, to);
        let has_all_calls = cut.conn.is_none() && header.sample == 1;
        let is_whole = trace.lost() == 0 && trace.remarks.is_empty() && cut.since.is_none();
        TraceStats {
            connections: seen.all.len() as u64,
            connections_max: seen.open_max as u64,
            messages: seen.messages,
            bytes_in: seen.bytes_in,
            bytes_out: seen.bytes_out,
            calls: has_all_calls.then(|| calls(&source, &ops, iterations.as_ref())),
            source,
            ops,
            iterations,
            lanes: lanes.map(|lanes| lanes.finish(to)),
            queue: header.get("completions").and_then(|size| size.parse().ok()),
            buffers: buffers.finish(is_whole),
            answered: answered.percentiles(),
            measure: conns.measure,
            anomalies,
            conns: conns.finish(),
        }
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
            stall_ns => STALL.as_nanos() as u64,
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
}

/// The connections that are seen, those of them that are open, and their traffic: that of a link
/// between a parent and its child is none.
#[derive(Debug, Default)]
struct SeenConnections {
    all: HashSet<ConnId>,
    open: HashSet<ConnId>,
    open_max: usize,
    messages: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl SeenConnections {
    fn see(&mut self, event: &Event) {
        let Some(conn) = event.conn else { return };
        if self.all.insert(conn) {
            self.open.insert(conn);
            self.open_max = self.open_max.max(self.open.len());
        }
        if let Some(Ok(n @ 1..)) = event.result_of(OpKind::receives) {
            self.messages += 1;
            self.bytes_in += u64::from(n);
        }
        if let Some(Ok(n)) = event.result_of(OpKind::sends) {
            self.bytes_out += u64::from(n);
        }
        if event.result_of(OpKind::closes).is_some() {
            self.open.remove(&conn);
        }
    }
}

impl Anomalies {
    fn see(&mut self, event: &Event) {
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
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
            Err(Errno(libc::EAGAIN)) if op == OpKind::Call(Call::Recv) => &mut self.recv_blocked,
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

    /// Returns `None` if there are none. The extremes are known only of a whole trace.
    fn finish(self, is_whole: bool) -> Option<Buffers> {
        let (fewest, most) =
            if is_whole { (self.fewest.or(self.most), self.most) } else { (None, None) };
        (self.lent + self.filled > 0).then_some(Buffers { fewest, most, ..self })
    }
}

/// How many system calls there were. On a ring each enter is one, and nothing else is. With a
/// selector, a watch is a call where the kernel keeps the interests.
fn calls(source: &Source, ops: &[OpRow], iterations: Option<&Iterations>) -> u64 {
    let keeps_interests = ["epoll", "epoll-et", "epoll-oneshot"].contains(&&*source.model);
    let is_call = |row: &&OpRow| match row.op {
        OpKind::Call(Call::Watch | Call::Unwatch) => keeps_interests || source.model == "sigio",
        OpKind::Call(Call::Rewatch) => keeps_interests,
        // No system call: a thread that unlocks lets the next one in.
        OpKind::Call(Call::Lock) | OpKind::Ring(_) => false,
        OpKind::Call(_) | OpKind::Wait => true,
    };
    let iterations =
        iterations.filter(|_| !source.polls_all()).map_or(0, |iterations| iterations.count);
    if ops.iter().any(|row| row.on_ring) {
        return iterations;
    }
    iterations + ops.iter().filter(is_call).map(|row| row.begun.max(row.ended)).sum::<u64>()
}
