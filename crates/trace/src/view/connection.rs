//! Connections: for each, what it moved, how fast it was answered, and whether it ended in order.
//!
//! An *exchange* of a connection begins with a receive that brought bytes and ends with the first
//! send after it. How long it took depends on what the trace has, and [`Measure`] says what that
//! is.

use std::collections::HashMap;

use proactor::keys::ConnId;
use proactor_record::{Call, Content, Errno, Kind, Level, OpKind, RecordKind};
use serde::Serialize;

use super::names;
use super::ops::Errors;
use crate::event::{Event, Kinds};
use crate::show::is_attached;
use crate::trace_file::TraceFile;

/// The end of the time of an exchange. It begins with the reaping of the receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The reaping of the reply's completion.
    #[default]
    Completed,
    /// The enter that took the reply: a send that skips its completion has none to wait for.
    Taken,
    /// The end of the call that sent the reply.
    Called,
    /// From the wake-up to the next wait, which lies behind the call: the clock was read per batch.
    Waited,
}

impl Measure {
    /// The measure that these records allow.
    pub fn of(trace: &TraceFile) -> Measure {
        let has = |kind| trace.records.iter().any(|one| one.is(kind));
        if has(RecordKind::Sqe) || has(RecordKind::Cqe) {
            let skips = trace.records.iter().any(|one| {
                one.op() == Some(OpKind::Ring(Kind::Send))
                    && matches!(one.payload(), Content::Submitted { skip_success: true, .. })
            });
            return if skips { Measure::Taken } else { Measure::Completed };
        }
        match trace.header.level {
            Some(Level::Batch) if has(RecordKind::WaitBegin) => Measure::Waited,
            _ => Measure::Called,
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It had not, when the trace ended.
    #[default]
    Open,
    /// The peer ended, and what was owed went; then it was closed.
    PeerFirst,
    /// This server ended it.
    WeFirst,
    /// It broke: with this error.
    Broken(String),
}

/// One connection in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConnectionStats {
    /// The connection, as `c7.1`: its slot and generation.
    #[serde(serialize_with = "names::conn")]
    pub conn: ConnId,
    /// Its descriptor, or slot of the ring's file table.
    pub file: Option<i32>,
    /// When it was accepted, if that is seen: nanoseconds since recording began.
    pub accepted_ns: Option<u64>,
    /// When it is first seen.
    pub first_ns: u64,
    /// When it is last seen.
    pub last_ns: u64,
    /// When it was closed, if it was.
    pub closed_ns: Option<u64>,
    /// Receives that brought bytes.
    pub messages: u64,
    /// The bytes that they brought.
    pub bytes_in: u64,
    /// Bytes that were sent.
    pub bytes_out: u64,
    /// How often a receive was submitted, or called.
    pub receives: u64,
    /// Receives that found no buffer.
    pub out_of_buffers: u64,
    /// Sends of which less went than was given.
    pub short: u64,
    /// Calls that would have blocked.
    pub would_block: u64,
    /// The failures, by errno.
    pub errors: Errors,
    /// Exchanges: receives that were answered.
    pub exchanges: u64,
    /// How long they took together.
    pub exchanges_ns: u64,
    /// The time of the slowest.
    pub slowest_ns: Option<u64>,
    /// How long its posted completions waited to be reaped; if the kernel's events were recorded.
    pub reaping: Waits,
    /// Completions of its operations that the kernel handed to a worker thread (io-wq).
    pub punted: u64,
    /// When the peer had ended.
    pub peer_ended_ns: Option<u64>,
    /// The way in which it ended.
    pub ending: Ending,
    /// What is in flight at the end of the trace.
    #[serde(serialize_with = "names::kinds")]
    pub in_flight: Kinds,
    /// What was wrong: a sentence each. Nothing, if every operation ended once, before the close.
    pub faults: Vec<String>,
    /// The exchange that is not over.
    #[serde(skip)]
    exchange: Option<OpenExchange>,
    /// How often records were missing before the last event.
    #[serde(skip)]
    gaps: u64,
}

impl ConnectionStats {
    /// The bytes of both directions.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }

    /// Whether nothing went wrong: closed, or open, in order.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && !matches!(self.ending, Ending::Broken(_))
    }
}

/// How long something waited, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// The number of times.
    pub count: u64,
    /// All times together, in nanoseconds.
    pub total_ns: u64,
    /// The longest of them.
    pub longest_ns: u64,
}

impl Waits {
    fn add(&mut self, nanos: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(nanos);
        self.longest_ns = self.longest_ns.max(nanos);
    }
}

/// An exchange that has begun.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct OpenExchange {
    at: u64,
    /// The position of its completion in its enter.
    position: u16,
    waited: Option<u64>,
}

/// An exchange that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// The connection whose exchange it is.
    #[serde(skip)]
    pub conn: ConnId,
    /// The number of the exchange on its connection, from 1.
    #[serde(rename = "exchange")]
    pub number: u64,
    /// When it began: nanoseconds since recording began.
    pub at_ns: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// The position of its receive among the completions since the enter, from 1.
    pub position: u32,
    /// How long its receive had waited to be reaped, in nanoseconds, if the kernel's events were
    /// recorded.
    pub waited_ns: Option<u64>,
}

/// Follows all connections through the events.
#[derive(Debug, Default)]
pub(super) struct ConnectionTracker {
    pub(super) measure: Measure,
    /// Whether a completion without a submission is a fault: no record is missing.
    whole: bool,
    /// Whether another program decides what is in order.
    is_attached: bool,
    all: HashMap<ConnId, ConnectionStats>,
    /// When connections were accepted that have done nothing yet, by file.
    accepted: HashMap<i32, u64>,
    /// Connections whose exchange ends with the next enter or wait.
    ending: Vec<ConnId>,
    /// How often records were missing.
    gaps: u64,
    /// Exchanges that have ended since this was last emptied.
    pub(super) exchanges: Vec<Exchange>,
}

impl ConnectionTracker {
    pub(super) fn new(trace: &TraceFile) -> ConnectionTracker {
        ConnectionTracker {
            measure: Measure::of(trace),
            whole: trace.lost() == 0 && trace.remarks.is_empty(),
            is_attached: is_attached(&trace.header),
            ..ConnectionTracker::default()
        }
    }

    /// Takes in an event. All events of the trace are needed, also those outside of a cut.
    pub(super) fn see(&mut self, event: &Event) {
        match event.what {
            Content::EnterBegin { .. } | Content::WaitBegin { .. } => {
                for conn in std::mem::take(&mut self.ending) {
                    self.answer(conn, event.at);
                }
            }
            Content::Lost(_) => {
                // Nothing is known to be in flight. Each connection learns of it with its next
                // event: there may be as many gaps as connections.
                self.ending.clear();
                self.accepted.clear();
                self.gaps += 1;
            }
            _ => {}
        }
        match (event.conn, event.result_of(OpKind::accepts)) {
            (Some(conn), _) => self.of_conn(conn, event),
            (None, Some(Ok(file))) => drop(self.accepted.insert(file as i32, event.at)),
            _ => {}
        }
    }

    /// Returns all connections, the oldest first.
    pub(super) fn finish(self) -> Vec<ConnectionStats> {
        let mut all: Vec<ConnectionStats> = self.all.into_values().collect();
        for stats in &mut all {
            stats.forget_before(self.gaps);
            if stats.closed_ns.is_some() {
                stats.in_flight = Kinds::default();
            }
        }
        all.sort_by_key(|stats| (stats.first_ns, stats.conn));
        all
    }

    /// The connection's exchange is over.
    fn answer(&mut self, conn: ConnId, at: u64) {
        let Some(stats) = self.all.get_mut(&conn) else { return };
        let Some(begun) = stats.exchange.take() else { return };
        let took = at.saturating_sub(begun.at);
        stats.exchanges += 1;
        stats.exchanges_ns = stats.exchanges_ns.saturating_add(took);
        stats.slowest_ns = stats.slowest_ns.max(Some(took));
        self.exchanges.push(Exchange {
            conn,
            number: stats.messages,
            at_ns: begun.at,
            took_ns: took,
            position: u32::from(begun.position) + 1,
            waited_ns: begun.waited,
        });
    }

    fn of_conn(&mut self, conn: ConnId, event: &Event) {
        let stats = self.all.entry(conn).or_insert_with(|| {
            let file = file(event);
            let accepted_ns = file.and_then(|file| self.accepted.remove(&file));
            let first_ns = event.at;
            ConnectionStats { conn, file, accepted_ns, first_ns, ..ConnectionStats::default() }
        });
        stats.forget_before(self.gaps);
        stats.last_ns = event.at;
        stats.in_flight = event.in_flight.of_conn;
        if !self.is_attached {
            stats.check(event, self.whole);
        }
        if let Some(posting) = event.posting {
            stats.reaping.add(posting.waited(event.at));
            stats.punted += u64::from(posting.is_punted);
        }
        let begins = matches!(event.what, Content::Submitted { .. } | Content::CallBegin { .. });
        stats.receives += u64::from(begins && event.op.is_some_and(OpKind::receives));
        stats.ended(event);
        let sends = event.op.is_some_and(OpKind::sends);
        let sent = sends && matches!(event.result(), Some(Ok(1..)));
        let is_open = stats.exchange.is_some();
        match self.measure {
            Measure::Taken if sends && is_open && begins => self.ending.push(conn),
            Measure::Completed | Measure::Called if sent => self.answer(conn, event.at),
            Measure::Waited if sent && is_open => self.ending.push(conn),
            _ => {}
        }
    }
}

impl ConnectionStats {
    /// Forgets what was in flight before the last of so many gaps.
    fn forget_before(&mut self, gaps: u64) {
        if std::mem::replace(&mut self.gaps, gaps) != gaps {
            (self.in_flight, self.exchange) = (Kinds::default(), None);
        }
    }

    /// Checks that each operation has one submission and one end, before the close.
    fn check(&mut self, event: &Event, whole: bool) {
        let name = event.op_name();
        let is_late = self.closed_ns.is_some() && !event.op.is_some_and(is_of_child);
        if is_late && self.faults.is_empty() {
            self.faults.push(format!("{name} came after the close"));
        }
        // Two cancels of a kind may be in flight: the result says which operation they cancel.
        let Some(OpKind::Ring(kind)) = event.op else { return };
        if kind.is_cancel() {
            return;
        }
        match event.what {
            Content::Submitted { .. } if event.in_flight.before => {
                self.fault(format!("a second {name} was submitted"));
            }
            Content::Completed { .. } | Content::Implied { .. }
                if whole && event.begun.is_none() =>
            {
                self.fault(format!("{name} completed without a submission"));
            }
            _ => {}
        }
    }

    /// Notes the first faults: one that repeats adds nothing.
    fn fault(&mut self, sentence: String) {
        if self.faults.len() < 3 && !self.faults.contains(&sentence) {
            self.faults.push(sentence);
        }
    }

    fn ended(&mut self, event: &Event) {
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
        match result {
            Ok(0) if op.receives() => self.peer_ended_ns = Some(event.at),
            Ok(n) if op.receives() => {
                self.messages += 1;
                self.bytes_in += u64::from(n);
                let position = match event.what {
                    Content::Completed { position, .. } => position,
                    _ => 0,
                };
                let waited = event.posting.map(|posting| posting.waited(event.at));
                self.exchange.get_or_insert(OpenExchange { at: event.at, position, waited });
            }
            Ok(n) if op.sends() => {
                self.bytes_out += u64::from(n);
                self.short += u64::from(event.is_short());
            }
            Ok(_) => {}
            Err(_) if event.would_block() => self.would_block += 1,
            Err(Errno(libc::ENOBUFS)) if op.receives() => self.out_of_buffers += 1,
            Err(errno) => {
                if (op.receives() || op.sends()) && !errno.is_transient() {
                    self.ending = Ending::Broken(errno.to_string());
                }
                *self.errors.entry(errno.to_string()).or_default() += 1;
            }
        }
        if op.closes() {
            self.closed(event.at);
        }
    }

    fn closed(&mut self, at: u64) {
        self.closed_ns = Some(at);
        if !self.in_flight.is_empty() {
            self.fault(format!("closed while {} was in flight", self.in_flight.names().join(", ")));
        }
        if self.ending == Ending::Open {
            let first = self.peer_ended_ns.is_some();
            self.ending = if first { Ending::PeerFirst } else { Ending::WeFirst };
        }
    }
}

/// Whether it is about the child that serves the connection and outlives it.
fn is_of_child(op: OpKind) -> bool {
    matches!(op, OpKind::Call(Call::Fork | Call::Reap | Call::Kill))
}

/// The file that an event names.
fn file(event: &Event) -> Option<i32> {
    match event.what {
        Content::Submitted { file, .. }
        | Content::CallBegin { file, .. }
        | Content::CallEnd { file, .. } => Some(file),
        _ => None,
    }
}
