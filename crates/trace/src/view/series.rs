//! `trace summary --every 1s`: a row of numbers for each interval of the time.

use std::fmt;
use std::time::Duration;

use minijinja::{Value, context};
use proactor_record::{Content, OpKind};
use proactor_report::Latencies;
use proactor_report::histogram::Percentiles;
use serde::Serialize;

use super::connection::{ConnectionTracker, Measure};
use super::ops::is_call;
use super::seen::{SeenConnections, Totals};
use super::source::{Cut, Source};
use super::text::fill;
use crate::TraceFile;

/// The most rows of a series. A damaged recording may last for years.
const MOST: u64 = 10_000;

/// A trace, interval by interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.series/1")]
pub struct TimeSeries {
    /// Of what it is made.
    pub source: Source,
    /// How long each interval is; the last ends with the trace.
    pub every_ns: u64,
    /// The begin and end of the time of a reply.
    pub measure: Measure,
    /// The intervals, one after another.
    pub rows: Vec<SeriesRow>,
}

/// The numbers of an interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SeriesRow {
    /// When it begins: nanoseconds since recording began.
    pub at_ns: u64,
    /// How long it is, in nanoseconds.
    pub span_ns: u64,
    /// Receives that brought bytes.
    pub messages: u64,
    /// How many bytes they brought.
    pub bytes_in: u64,
    /// How many bytes were sent.
    pub bytes_out: u64,
    /// System calls that ended; `None` if some may not be here.
    pub calls: Option<u64>,
    /// How long replies took that began in it.
    pub replies: Percentiles,
    /// Connections that were seen first, and that were closed.
    pub opened: u64,
    /// How many were closed.
    pub closed: u64,
    /// How many were open at its end.
    pub open: u64,
}

/// A row that is being counted.
#[derive(Default)]
struct OpenRow {
    row: SeriesRow,
    calls: u64,
    replies: Latencies,
}

impl TimeSeries {
    /// Of this part of a trace.
    ///
    /// # Errors
    /// The number of rows, if there would be far too many.
    pub fn of(trace: &TraceFile, cut: &Cut, every: Duration) -> Result<TimeSeries, u64> {
        let every_ns = (every.as_nanos() as u64).max(1);
        let mut conns = ConnectionTracker::new(trace);
        let (mut seen, mut rows) = (SeenConnections::default(), Vec::<OpenRow>::new());
        let (mut from, mut to) = (None, 0);
        let model = trace.header.model();
        for event in trace.events() {
            conns.see(&event);
            let exchanges = std::mem::take(&mut conns.exchanges);
            let before = seen.totals;
            if cut.is_of(event.conn) {
                seen.see(&event);
            }
            if !cut.is_in_time(event.at) {
                continue;
            }
            let from = *from.get_or_insert(event.at);
            let row_of = |at: u64| at.saturating_sub(from) / every_ns;
            let at = row_of(event.at).max((rows.len() as u64).saturating_sub(1));
            if at >= MOST {
                return Err(row_of(trace.end().as_nanos() as u64).saturating_add(1));
            }
            to = event.at.max(to);
            while rows.len() as u64 <= at {
                let at_ns = from + every_ns * rows.len() as u64;
                let row = SeriesRow { at_ns, open: before.open(), ..SeriesRow::default() };
                rows.push(OpenRow { row, ..OpenRow::default() });
            }
            let row = &mut rows[at as usize];
            row.row.add(before, seen.totals);
            row.calls += u64::from(match (event.what, event.op) {
                (Content::EnterEnd { .. }, _) => true,
                (Content::WaitEnd { .. }, _) => is_call(model, OpKind::Wait),
                (Content::CallEnd { .. }, Some(op)) => is_call(model, op),
                _ => false,
            });
            for one in exchanges.iter().filter(|one| cut.is_of(Some(one.conn))) {
                if let Some(row) = rows.get_mut(row_of(one.at_ns) as usize) {
                    row.replies.record(Duration::from_nanos(one.took_ns));
                }
            }
        }
        let has_all_calls = cut.conn.is_none() && trace.header.sample == 1;
        let finish = |row: OpenRow| {
            let span_ns = every_ns.min(to.saturating_sub(row.row.at_ns));
            let (calls, replies) = (has_all_calls.then_some(row.calls), row.replies.percentiles());
            SeriesRow { span_ns, calls, replies, ..row.row }
        };
        let rows = rows.into_iter().map(finish).collect();
        let source = Source::new(trace, cut, from.unwrap_or(0), to);
        Ok(TimeSeries { source, every_ns, measure: conns.measure, rows })
    }
}

impl SeriesRow {
    /// Adds what one event has changed.
    fn add(&mut self, before: Totals, after: Totals) {
        self.messages += after.messages - before.messages;
        self.bytes_in += after.bytes_in - before.bytes_in;
        self.bytes_out += after.bytes_out - before.bytes_out;
        self.opened += after.opened - before.opened;
        self.closed += after.closed - before.closed;
        self.open = after.open();
    }
}

impl fmt::Display for TimeSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = context! { head => self.source.to_string(), ..Value::from_serialize(self) };
        f.write_str(&fill(include_str!("series.txt"), values))
    }
}
