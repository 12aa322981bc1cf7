//! A trace in numbers, from one pass over its events.

use std::collections::HashMap;
use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Call, Errno, Kind, Level, Op, Payload, RecordKind, Trace, Writers};
use proactor_report::Latencies;
use serde::Serialize;

use super::connection::{ConnectionStats, ConnectionTracker, Measure};
use super::iterations::{Counter, Occurrences, Turns};
use super::lanes::{self, Lanes};
use super::ops::{OpRow, Ops};
use super::source::{Cut, Source};
use crate::event::{Event, events};

/// What a trace comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceStats {
    /// Of what it is made.
    pub source: Source,
    /// Connections seen.
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
    pub turns: Option<Turns>,
    /// The threads, or the children, where many recorded; of one connection alone there are none.
    pub lanes: Option<Lanes>,
    /// System calls, counted where they are made; `None` if some may not be here.
    pub calls: Option<u64>,
    /// How many completions the queue holds, if it is a ring.
    pub queue: Option<u64>,
    /// Buffers that the kernel is lent; `None` where it picks none.
    pub buffers: Option<Buffers>,
    /// Turns of connections: how long from a receive to its reply.
    pub answered: proactor_report::histogram::Percentiles,
    /// From what to what that is timed.
    pub measure: Measure,
    /// What happened that ought not to, or not often.
    pub odd: Anomalies,
    /// All connections.
    #[serde(skip)]
    pub lives: Vec<ConnectionStats>,
}

/// Provided buffers, of all sizes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

/// What happened that ought not to, or not often.
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
        let mut pass = Pass::new(trace, cut);
        let mut events = events(trace);
        for event in &mut events {
            if let Some(lanes) = &mut pass.lanes {
                lanes.see(&trace.header, &event, cut);
            }
            pass.see(&event, cut);
        }
        // The operations in flight are of all connections, and of the end of the trace.
        let is_whole = *cut == Cut::default();
        let in_flight = if is_whole { events.in_flight() } else { HashMap::new() };
        pass.finish(trace, cut, &in_flight)
    }

    /// The row of this operation or call, if there is one.
    pub fn op(&self, op: Op) -> Option<&OpRow> {
        self.ops.iter().find(|row| row.op == op)
    }

    /// The row of the receives, on a ring or by calls.
    pub(super) fn receives(&self) -> Option<&OpRow> {
        self.ops.iter().find(|row| row.op.receives())
    }

    /// How many of something there were per message; `None` without messages, or of a sample.
    pub fn per_message(&self, number: u64) -> Option<f64> {
        let told = self.messages > 0 && self.source.sample == 1;
        told.then(|| number as f64 / self.messages as f64)
    }

    /// Whether it is of a ring.
    pub fn is_ring(&self) -> bool {
        self.turns.as_ref().is_some_and(|turns| turns.name == "enter")
            || matches!(self.measure, Measure::Completed | Measure::Taken)
    }

    /// The share of the time that was spent in enters or waits, asleep and awake.
    pub fn share_inside(&self) -> Option<f64> {
        let turns = self.turns.as_ref()?;
        (self.source.span_ns > 0).then(|| turns.inside_ns as f64 / self.source.span_ns as f64)
    }
}

struct Pass {
    ops: Ops,
    /// Many recorded, most of whom sleep in calls of their own.
    no_loop: bool,
    turns: Counter,
    lanes: Option<lanes::Counter>,
    lives: ConnectionTracker,
    answered: Latencies,
    lent: Lent,
    span: Option<(u64, u64)>,
    seen: HashMap<ConnId, bool>,
    open: u64,
    open_max: u64,
    bytes_in: u64,
    bytes_out: u64,
    messages: u64,
    odd: Anomalies,
}

/// How many buffers the kernel has.
#[derive(Debug, Default)]
struct Lent {
    lent: u64,
    filled: u64,
    fewest: Option<u64>,
    most: u64,
}

impl Pass {
    fn new(trace: &Trace, cut: &Cut) -> Pass {
        let waits = trace.records.iter().any(|one| one.is(RecordKind::WaitBegin));
        let timed = trace.header.level == Some(Level::Record) || !waits;
        let no_loop = trace.header.writers != Writers::One;
        Pass {
            ops: Ops::new(timed, no_loop),
            no_loop,
            turns: Counter::default(),
            lanes: lanes::Counter::new(&trace.header, cut).filter(|_| cut.conn.is_none()),
            lives: ConnectionTracker::new(trace),
            answered: Latencies::new(),
            lent: Lent::default(),
            span: None,
            seen: HashMap::new(),
            open: 0,
            open_max: 0,
            bytes_in: 0,
            bytes_out: 0,
            messages: 0,
            odd: Anomalies::default(),
        }
    }

    fn see(&mut self, event: &Event, cut: &Cut) {
        self.lives.see(event);
        for one in self.lives.exchanges.drain(..) {
            if cut.is_in_time(one.at) && cut.is_of(Some(one.conn)) {
                self.answered.record(Duration::from_nanos(one.took));
            }
        }
        if !cut.is_in_time(event.at) {
            return;
        }
        let (from, _) = *self.span.get_or_insert((event.at, event.at));
        self.span = Some((from, event.at));
        if cut.conn.is_none() && !self.no_loop {
            self.turns.see(event);
            self.lent.see(event);
        }
        if !cut.is_of(event.conn) {
            return;
        }
        self.ops.see(event);
        self.traffic(event);
        self.oddities(event);
    }

    fn traffic(&mut self, event: &Event) {
        let Some(conn) = event.conn else { return };
        let closed = self.seen.entry(conn).or_insert_with(|| {
            self.open += 1;
            self.open_max = self.open_max.max(self.open);
            false
        });
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
        let n = u64::from(result.unwrap_or(0));
        if op.receives() && n > 0 {
            self.messages += 1;
            self.bytes_in += n;
        } else if op.sends() {
            self.bytes_out += n;
        } else if op.closes() && !*closed {
            *closed = true;
            self.open -= 1;
        }
    }

    fn oddities(&mut self, event: &Event) {
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
        let (at, conn, odd) = (event.at, event.conn, &mut self.odd);
        match result {
            Ok(n) if event.is_short() => odd.short.note(at, conn, Some(u64::from(n))),
            Ok(1..) if op == Op::Ring(Kind::Recv) && event.is_multishot() => {
                if let Payload::Completed { more: false, .. } = event.what {
                    odd.disarmed.note(at, conn, None);
                }
            }
            Ok(_) => {}
            Err(errno) if op.accepts() && errno.is_shortage() => {
                odd.exhausted.note(at, conn, None);
            }
            Err(Errno(libc::ENOBUFS)) if op.receives() => odd.out_of_buffers.note(at, conn, None),
            Err(Errno(libc::EAGAIN)) if op == Op::Call(Call::Recv) => {
                odd.recv_blocked.note(at, conn, None);
            }
            Err(Errno(libc::EAGAIN)) if op.sends() => odd.send_blocked.note(at, conn, None),
            Err(errno) if errno.is_reset() => odd.reset.note(at, conn, None),
            Err(errno) if event.is_abnormal() => {
                odd.failed.note(at, conn, Some(errno.0.unsigned_abs().into()));
            }
            Err(_) => {}
        }
    }

    fn finish(self, trace: &Trace, cut: &Cut, in_flight: &HashMap<Op, u64>) -> TraceStats {
        let (ops, turns) = (self.ops.finish(in_flight), self.turns.finish());
        let (from, to) = self.span.unwrap_or((0, 0));
        let whole = trace.lost() == 0 && trace.remarks.is_empty() && cut.since.is_none();
        let told = cut.conn.is_none() && trace.header.sample == 1;
        let measure = self.lives.measure();
        let source = Source::new(trace, cut, from, to);
        TraceStats {
            connections: self.seen.len() as u64,
            connections_max: self.open_max,
            messages: self.messages,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            calls: told.then(|| calls(&source, &ops, turns.as_ref())),
            source,
            ops,
            turns,
            lanes: self.lanes.map(|lanes| lanes.finish(to)),
            queue: trace.header.get("completions").and_then(|size| size.parse().ok()),
            buffers: self.lent.finish(whole),
            answered: self.answered.percentiles(),
            measure,
            odd: self.odd,
            lives: self.lives.finish(),
        }
    }
}

impl Lent {
    fn see(&mut self, event: &Event) {
        match event.what {
            Payload::EnterEnd { provided, .. } => {
                self.lent += u64::from(provided);
                self.most = self.most.max(self.lent.saturating_sub(self.filled));
            }
            Payload::Completed { buffer: Some(_), .. } => {
                self.filled += 1;
                let left = self.lent.saturating_sub(self.filled);
                self.fewest = Some(self.fewest.map_or(left, |fewest| fewest.min(left)));
            }
            _ => {}
        }
    }

    fn finish(self, whole: bool) -> Option<Buffers> {
        let (lent, filled) = (self.lent, self.filled);
        let (fewest, most) =
            (whole.then(|| self.fewest.unwrap_or(self.most)), whole.then_some(self.most));
        (lent + filled > 0).then_some(Buffers { lent, filled, fewest, most })
    }
}

/// How many system calls there were. On a ring each enter is one, and nothing else is. With a
/// selector, a watch is a call where the kernel keeps the interests.
fn calls(source: &Source, ops: &[OpRow], turns: Option<&Turns>) -> u64 {
    let is_call = |row: &&OpRow| match row.op {
        Op::Call(Call::Watch | Call::Unwatch) => source.watches_in_kernel(),
        Op::Call(Call::Rewatch) => source.rewatches_in_kernel(),
        // No system call: a thread that unlocks lets the next one in.
        Op::Call(Call::Lock) | Op::Ring(_) => false,
        Op::Call(_) | Op::Wait => true,
    };
    let turns = turns.filter(|_| !source.polls_all()).map_or(0, |turns| turns.count);
    if ops.iter().any(|row| row.on_ring) {
        return turns;
    }
    turns + ops.iter().filter(is_call).map(|row| row.begun.max(row.ended)).sum::<u64>()
}
