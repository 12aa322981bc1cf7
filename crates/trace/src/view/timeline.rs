//! `trace conn c7.1`: one connection, step by step, without what repeats itself.

mod writer;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use minijinja::{Value, context};
use serde::Serialize;

use super::connection::{ConnectionStats, ConnectionTracker, Exchange, Measure};
use super::source::{Cut, Source};
use super::text::fill;
use crate::trace_file::TraceFile;
use proactor::keys::ConnId;
use proactor_report::Latencies;
use proactor_report::histogram::Percentiles;
use writer::TimelineWriter;

/// The least width of the words of a step.
const WORDS: usize = 36;
/// The number of abnormal steps, from the first, that are never folded.
const ABNORMAL: usize = 16;

/// The timeline of one connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.connection/3")]
pub struct ConnectionTimeline {
    /// The recording, and the part of it that is shown.
    pub source: Source,
    /// The number of connections that this trace has of its slot, this one included.
    pub slot_connections: u64,
    /// The connection in numbers.
    #[serde(flatten)]
    pub stats: ConnectionStats,
    /// Where the time of an exchange begins and ends.
    pub measure: Measure,
    /// How long its exchanges took.
    pub answered: Percentiles,
    /// The slowest of them.
    pub slowest: Vec<Exchange>,
    /// The lines of the timeline.
    pub lines: Vec<TimelineLine>,
}

/// A line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineLine {
    /// A step of the connection.
    Step(Step),
    /// Steps that are left out.
    Folded {
        /// The number of exchanges, of some of which steps may be shown.
        exchanges: u64,
        /// The number of steps.
        steps: u64,
    },
}

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When: nanoseconds since recording began.
    pub at_ns: u64,
    /// The number of its exchange on the connection, from 1; 0 before the first.
    pub exchange: u64,
    /// The step in words.
    pub what: String,
    /// The span that it ends, if it ends one: its nanoseconds and its name.
    pub ends: Option<(u64, &'static str)>,
    /// True if it begins a span.
    pub begins: bool,
    /// True if it should not happen.
    pub abnormal: bool,
    /// True if it is of a send.
    #[serde(skip)]
    pub sends: bool,
}

impl ConnectionTimeline {
    /// Returns the timeline of a connection, by its slot and its generation, or of the first in
    /// this slot; with its `slowest` exchanges, and with every step if `all`. `None` if the trace
    /// has no such connection.
    pub fn of(
        trace: &TraceFile,
        cut: &Cut,
        conn: (u32, Option<u32>),
        slowest: usize,
        all: bool,
    ) -> Option<ConnectionTimeline> {
        let wanted = Cut { conn: Some(conn), ..*cut };
        let is_wanted = |one: &ConnId| wanted.is_of(Some(*one));
        let conn = trace.events().filter_map(|event| event.conn).find(is_wanted)?;
        let cut = Cut { conn: Some((conn.slot(), Some(conn.generation()))), ..*cut };
        let mut tracker = ConnectionTracker::new(trace);
        let mut writer = TimelineWriter::new(conn, trace);
        let (mut answered, mut slow) = (Latencies::new(), Vec::new());
        let mut slot_connections = HashSet::new();
        for event in trace.events() {
            slot_connections.extend(event.conn.filter(|one| one.slot() == conn.slot()));
            tracker.see(&event);
            writer.see(&event, &cut);
            for exchange in tracker.exchanges.drain(..).filter(|exchange| exchange.conn == conn) {
                writer.answered(&exchange);
                if cut.is_in_time(exchange.at_ns) {
                    answered.record(Duration::from_nanos(exchange.took_ns));
                    let rank = |one: &Exchange| Reverse((one.took_ns, one.number));
                    let at = slow.partition_point(|one| rank(one) < rank(&exchange));
                    slow.insert(at, exchange);
                    slow.truncate(slowest);
                }
            }
        }
        let measure = tracker.measure;
        let stats = tracker.finish().into_iter().find(|stats| stats.conn == conn)?;
        let from = stats.accepted_ns.unwrap_or(stats.first_ns);
        Some(ConnectionTimeline {
            source: Source::new(trace, &cut, from, stats.last_ns),
            slot_connections: slot_connections.len() as u64,
            stats,
            measure,
            answered: answered.percentiles(),
            slowest: slow,
            lines: fold(writer.steps, all),
        })
    }
}

/// Leaves out what repeats itself: the steps of all exchanges but the first and the last, unless
/// they are abnormal.
fn fold(steps: Vec<Step>, all: bool) -> Vec<TimelineLine> {
    let last = steps.last().map_or(0, |step| step.exchange);
    let (mut lines, mut abnormal) = (Vec::new(), 0);
    let (mut exchanges, mut hidden) = (0, 0);
    let mut exchange = None;
    for step in steps {
        abnormal += usize::from(step.abnormal);
        let is_end = step.exchange <= 1 || step.exchange == last;
        if all || is_end || step.abnormal && abnormal <= ABNORMAL {
            if hidden > 0 {
                lines.push(TimelineLine::Folded { exchanges, steps: hidden });
            }
            (exchanges, hidden, exchange) = (0, 0, None);
            lines.push(TimelineLine::Step(step));
        } else {
            exchanges += u64::from(exchange.replace(step.exchange) != Some(step.exchange));
            hidden += 1;
        }
    }
    lines
}

impl fmt::Display for ConnectionTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, stats) = (self.source.to_string(), Value::from_serialize(&self.stats));
        let steps = self.lines.iter().filter_map(|line| match line {
            TimelineLine::Step(step) => Some(step.what.chars().count()),
            TimelineLine::Folded { .. } => None,
        });
        let width = steps.fold(WORDS, usize::max);
        let values = context! { head, stats, width, ..Value::from_serialize(self) };
        f.write_str(&fill(include_str!("timeline.txt"), values))
    }
}
