//! `trace heatmap`: how long operations took, over the time. A hole, a burst or a slow minute are
//! seen here, and not in a histogram of all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use minijinja::context;
use proactor_record::{Call, Content, Kind, OpKind};
use serde::Serialize;

use super::connection::{ConnectionTracker, Measure};
use super::ops::octave;
use super::source::{Cut, Source};
use super::stats::{TraceStats, times_calls};
use super::text::fill;
use crate::event::Event;
use crate::show::moment;
use crate::trace_file::TraceFile;

/// The number of columns: they fit on a terminal, with the labels on both sides.
const COLUMNS: u64 = 72;

/// What is drawn besides operations and calls.
const FIRST: [&str; 3] = ["reply", "enter", "wait"];

/// A row's marks, by the number of digits of a count.
const MARKS: [char; 6] = [' ', '·', '░', '▒', '▓', '█'];

/// How many took how long, and when: in columns of equal time and rows of powers of two.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.heatmap/1")]
pub struct Heatmap {
    /// Of what it is made.
    pub source: Source,
    /// What took the time: `reply`, `enter`, `wait`, or an operation or call.
    pub of: &'static str,
    /// The begin and end of the time of a reply.
    pub measure: Option<Measure>,
    /// The number of all.
    pub samples: u64,
    /// The length of a column. What begins in it is counted in it.
    pub step_ns: u64,
    /// The rows, from the shortest time to the longest, without a gap.
    pub rows: Vec<HeatmapRow>,
}

/// The number of those that took this time, column by column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeatmapRow {
    /// The least of the time, in nanoseconds; less than twice as long belongs to it.
    pub from_ns: u64,
    /// How many, column by column.
    pub counts: Vec<u64>,
}

impl Heatmap {
    /// All that can be drawn of a part of a trace: the replies first, then the enters or waits,
    /// then the operations and calls in the order of `stats`.
    pub fn all(trace: &TraceFile, cut: &Cut, stats: &TraceStats) -> Vec<Heatmap> {
        let mut grids = Grids { step: stats.source.span_ns / COLUMNS + 1, ..Grids::default() };
        grids.from = stats.source.from_ns;
        let is_timed = times_calls(trace);
        let mut conns = ConnectionTracker::new(trace);
        for event in trace.events() {
            conns.see(&event);
            for one in conns.exchanges.drain(..) {
                if cut.is_in_time(one.at_ns) && cut.is_of(Some(one.conn)) {
                    grids.add("reply", one.at_ns, one.took_ns);
                }
            }
            if cut.is_in_time(event.at) && cut.is_of(event.conn) {
                let name = timed(&event, is_timed);
                name.into_iter().zip(event.lasted).for_each(|(name, lasted)| {
                    grids.add(name, event.at.saturating_sub(lasted), lasted);
                });
            }
        }
        let measure = conns.measure;
        let names = FIRST.into_iter().chain(stats.ops.iter().map(|row| row.op.name()));
        let maps = names.filter_map(|name| grids.take(name, &stats.source));
        maps.map(|map| Heatmap { measure: (map.of == "reply").then_some(measure), ..map }).collect()
    }
}

/// Parses the name of what a map can be drawn of.
///
/// # Errors
/// A sentence with the known names.
pub fn parse_timed(text: &str) -> Result<String, String> {
    let name = text.to_lowercase();
    let ops = Kind::ALL.iter().map(|kind| kind.name());
    let calls = Call::ALL.iter().map(|call| call.name());
    let known: BTreeSet<&str> = FIRST.into_iter().chain(ops).chain(calls).collect();
    let list = || known.iter().copied().collect::<Vec<_>>().join(", ");
    if known.contains(&*name) { Ok(name) } else { Err(format!("it is one of {}", list())) }
}

/// The name of what ends with an event, if how long it took says something.
fn timed(event: &Event, is_timed: bool) -> Option<&'static str> {
    match (event.what, event.op) {
        (Content::EnterEnd { .. }, _) => Some("enter"),
        (Content::WaitEnd { .. }, _) => Some("wait"),
        (Content::Completed { .. } | Content::Implied { .. }, Some(op)) => {
            (!op.waits_for_others(false)).then(|| op.name())
        }
        (Content::CallEnd { .. }, op) => op.filter(|_| is_timed).map(OpKind::name),
        _ => None,
    }
}

/// The counts of each name, by duration and by column.
#[derive(Debug, Default)]
struct Grids {
    from: u64,
    step: u64,
    all: BTreeMap<&'static str, BTreeMap<u64, Vec<u64>>>,
}

impl Grids {
    fn add(&mut self, name: &'static str, at: u64, took: u64) {
        let column = (at.saturating_sub(self.from) / self.step).min(COLUMNS - 1);
        let rows = self.all.entry(name).or_default();
        let row = rows.entry(octave(took)).or_insert_with(|| vec![0; COLUMNS as usize]);
        row[column as usize] += 1;
    }

    /// The map of a name, if there is one.
    fn take(&mut self, of: &'static str, source: &Source) -> Option<Heatmap> {
        let mut counted = self.all.remove(of)?;
        let (&first, &last) = (counted.keys().next()?, counted.keys().next_back()?);
        let next = |from: &u64| Some(if *from == 0 { 1000 } else { from.saturating_mul(2) });
        let octaves = std::iter::successors(Some(first), next).take_while(|&from| from <= last);
        let none = || vec![0; COLUMNS as usize];
        let rows = octaves.map(|from_ns| {
            let counts = counted.remove(&from_ns).unwrap_or_else(none);
            HeatmapRow { from_ns, counts }
        });
        let rows: Vec<HeatmapRow> = rows.collect();
        let samples = rows.iter().flat_map(|row| &row.counts).sum();
        let source = source.clone();
        Some(Heatmap { source, of, measure: None, samples, step_ns: self.step, rows })
    }
}

impl fmt::Display for Heatmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark =
            |count: u64| MARKS[count.checked_ilog10().map_or(0, |at| at as usize + 1).min(5)];
        let row = |row: &HeatmapRow| {
            context! {
                from_ns => row.from_ns,
                marks => row.counts.iter().map(|&count| mark(count)).collect::<String>(),
                sum => row.counts.iter().sum::<u64>(),
            }
        };
        let values = context! {
            head => self.source.to_string(),
            of => self.of,
            measure => self.measure,
            samples => self.samples,
            step_ns => self.step_ns,
            rows => self.rows.iter().rev().map(row).collect::<Vec<_>>(),
            columns => COLUMNS,
            from => moment(self.source.from_ns),
            until => moment(self.source.from_ns.saturating_add(self.source.span_ns)),
        };
        f.write_str(fill(include_str!("heatmap.txt"), values).trim_end())
    }
}
