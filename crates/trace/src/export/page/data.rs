//! What a page draws: the loop's iterations or the threads' calls, an overview, and bars on the
//! rows of connections and threads.
//!
//! The drawing is limited: every mark of a part of the time, and of the rest how much happened in
//! each of many short [`TimeParts`]. The tables and the distributions cover all events.

use std::collections::{BTreeSet, HashMap};

use minijinja::context;
use proactor::keys::ConnId;
use proactor_record::{Content, Level};
use proactor_report::template;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::track_event::{Shape, Track, TrackEvent, label};
use super::super::tracks::TrackBuilder;
use super::parts::{Iteration, TimeParts};
use super::stretch::{Span, Stretch};
use crate::event::Event;
use crate::show::moment;
use crate::trace_file::TraceFile;
use crate::view::{ConnectionList, Cut, Lanes, Phase, Source, TraceStats};

/// The limit of iterations and bars that are drawn.
const MARKS: usize = 30_000;
/// The limit of abnormal bars that are drawn beyond those.
const ABNORMALS: usize = 2_000;
/// The limit of threads or children that have a row.
const THREADS: usize = 16;

// The bits of a bar; `page.js` has the same.
/// The event is abnormal.
const ABNORMAL: u64 = 1;
/// The bar has a duration.
const SPAN: u64 = 2;
/// The bar is a send or the end of the connection.
const OUTBOUND: u64 = 4;
/// The end was not recorded.
const UNENDED: u64 = 8;
/// The bar has a result.
const RESULT: u64 = 16;
/// The operation has several completions.
const MULTISHOT: u64 = 32;
/// The send has no completion.
const IMPLIED: u64 = 64;
/// The result is a number of bytes.
const BYTES: u64 = 128;
/// From this bit on: the [`Phase`] of a thread's call.
const PHASE: u64 = 8;

/// An operation or a call on the row of a connection or a thread, or an instant there.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Bar {
    at: u64,
    lasted: u64,
    name: u32,
    bits: u64,
    res: i64,
    /// How long its completion waited to be reaped, and what it waited for to be posted, where the
    /// kernel's events say it.
    waited: u64,
    took: u64,
}

/// What a page draws.
#[derive(Debug)]
pub(super) struct PageData {
    /// On this the page opens.
    opens: Span,
    /// Of this everything is drawn. Whether that is all is known before.
    detail: Span,
    is_all: bool,
    parts: TimeParts,
    iterations: Vec<Iteration>,
    /// The bars of connections and threads. Both directions of a connection are in the row of the
    /// inbound track.
    bars: Vec<(Track, Bar)>,
    abnormal_bars: usize,
    /// The names of bars, and their numbers.
    names: HashMap<String, u32>,
    open: HashMap<Track, Bar>,
    /// Whether it is known how long calls took.
    is_timed: bool,
    /// The threads or children, if many recorded, and the indices of those that have a row.
    lanes: Option<Lanes>,
    drawn: Vec<usize>,
    /// The iteration that has not ended.
    iteration: Option<Iteration>,
}

impl PageData {
    /// Collects what is drawn of a part of a trace.
    pub(super) fn of(
        trace: &TraceFile,
        cut: &Cut,
        stats: &TraceStats,
        list: &ConnectionList,
    ) -> PageData {
        let Source { from_ns: from, span_ns: span, .. } = stats.source;
        let whole = (from, from + span);
        let lanes = stats.lanes.clone();
        let drawn = lanes.as_ref().map_or_else(Vec::new, |lanes| lanes.busiest(THREADS));
        let conns: Vec<ConnId> = list.connections.iter().map(|conn| conn.conn).collect();
        let rows = conns.iter().copied().collect();
        let Stretch { opens, detail } = Stretch::of(trace, cut, stats, &rows, MARKS);
        let mut tracks = TrackBuilder::new(cut, list, false, lanes.clone(), &drawn);
        let mut data = PageData {
            opens,
            detail,
            is_all: detail == whole,
            parts: TimeParts::new(whole, &conns, list.left_out > 0, drawn.len()),
            iterations: Vec::new(),
            bars: Vec::new(),
            abnormal_bars: 0,
            names: HashMap::new(),
            open: HashMap::new(),
            is_timed: trace.header.level == Some(Level::Record),
            lanes,
            drawn,
            iteration: None,
        };
        for event in trace.events() {
            if cut.is_in_time(event.at) {
                data.count(&event);
            }
            tracks.draw(event).iter().for_each(|one| data.track_event(one));
        }
        tracks.finish().iter().for_each(|one| data.track_event(one));
        data.iteration_ends(whole.1);
        data.parts.finish();
        data
    }

    /// What is not drawn, or not in detail, one sentence each.
    pub(super) fn left_out(&self, list: &ConnectionList) -> Vec<String> {
        let drawn = self.drawn.len();
        let values = context! {
            connections => json!({ "drawn": list.connections.len(), "left_out": list.left_out }),
            threads => self.lanes.as_ref().map(|lanes| {
                let left_out = lanes.spans.len().saturating_sub(drawn);
                json!({ "kind": lanes.kind, "drawn": drawn, "left_out": left_out })
            }),
            detail => (!self.is_all).then(|| json!({
                "from": moment(self.detail.0) + " s",
                "until": moment(self.detail.1) + " s",
                "step": self.parts.step(),
            })),
        };
        let sentences = template::fill(include_str!("left_out.txt"), values);
        sentences.lines().map(str::to_owned).collect()
    }

    /// Counts an event in its part, and in the loop's iteration if there is one loop.
    fn count(&mut self, event: &Event) {
        self.parts.event(event);
        if self.lanes.is_none() {
            self.loop_event(event);
        }
        if let Some(iteration) = &mut self.iteration {
            iteration.abnormal |= u8::from(event.is_abnormal());
            if let Content::CallEnd { .. } = event.what {
                iteration.calls += event.lasted.filter(|_| self.is_timed).unwrap_or(0);
            }
        }
    }

    fn loop_event(&mut self, event: &Event) {
        let new = |at| Iteration { number: event.iteration, at, ..Iteration::default() };
        match event.what {
            Content::EnterBegin { .. } | Content::WaitBegin { .. } => {
                self.iteration_ends(event.at);
                self.iteration = Some(new(event.at));
            }
            Content::EnterEnd { result, .. } | Content::WaitEnd { result, .. } => {
                let begun = new(event.at - event.lasted.unwrap_or(0));
                let iteration = self.iteration.get_or_insert(begun);
                iteration.inside = Some(event.at.saturating_sub(iteration.at));
                iteration.asleep = event.asleep.unwrap_or(0);
                (iteration.taken, iteration.returned) = match event.what {
                    Content::EnterEnd { .. } => (result.unwrap_or(0), event.completions),
                    _ => (0, result.unwrap_or(0)),
                };
                iteration.in_flight = u32::try_from(event.in_flight.total).unwrap_or(u32::MAX);
            }
            Content::Lost(_) => self.iteration = None,
            _ => {}
        }
    }

    fn iteration_ends(&mut self, at: u64) {
        let Some(mut one) = self.iteration.take() else { return };
        let inside = *one.inside.get_or_insert(at.saturating_sub(one.at));
        one.outside = at.saturating_sub(one.at + inside);
        one.calls = one.calls.min(one.outside);
        self.parts.iteration(&one);
        if self.is_in_detail(one.at, at) {
            self.iterations.push(one);
        }
    }

    /// Whether what lasts from `at` until `end` is drawn in detail. Once there are too many marks,
    /// nothing later is.
    fn is_in_detail(&mut self, at: u64, end: u64) -> bool {
        if self.iterations.len() + self.bars.len() - self.abnormal_bars >= MARKS {
            (self.detail.1, self.is_all) = (self.detail.1.min(at), false);
        }
        end >= self.detail.0 && (at < self.detail.1 || self.is_all)
    }

    /// Draws on the rows of connections and threads.
    fn track_event(&mut self, one: &TrackEvent) {
        let &TrackEvent { at, track, ref shape, ref event, .. } = one;
        let is_of_thread = matches!(track, Track::Thread(_));
        let bar = match (shape, event) {
            (Shape::Instant(_), _) if is_of_thread => None,
            (_, event) => event.as_ref().and_then(|event| self.bar(track, event, at)),
        };
        match shape {
            Shape::Begin(_) => self.open.extend(bar.map(|bar| (track, bar))),
            Shape::Instant(_) => bar.into_iter().for_each(|bar| self.draw(track, bar)),
            Shape::Value(_) => {}
            Shape::End => {
                let Some(begun) = self.open.remove(&track) else { return };
                let ended = bar.unwrap_or(Bar { bits: UNENDED, ..begun });
                let is_multishot = event.as_ref().is_some_and(|event| event.is_multishot());
                let multishot = if is_multishot { MULTISHOT } else { 0 };
                let bits = begun.bits | ended.bits | SPAN | multishot;
                let lasted = at.saturating_sub(begun.at);
                self.draw(track, Bar { at: begun.at, lasted, bits, ..ended });
            }
        }
    }

    /// Draws a bar if it is one of those that are drawn.
    fn draw(&mut self, track: Track, bar: Bar) {
        let end = bar.at.saturating_add(bar.lasted);
        let thread = |number: usize| self.drawn.iter().position(|&one| one == number);
        let row = match track {
            Track::Outbound(conn) => Track::Inbound(conn),
            Track::Thread(number) => {
                let row = thread(number);
                row.into_iter()
                    .for_each(|row| self.parts.call(row, bar.bits >> PHASE, (bar.at, end)));
                track
            }
            track => track,
        };
        let is_in_detail = self.is_in_detail(bar.at, end);
        let is_extra = !is_in_detail && bar.bits & ABNORMAL != 0 && self.abnormal_bars < ABNORMALS;
        self.abnormal_bars += usize::from(is_extra);
        if is_in_detail || is_extra {
            self.bars.push((row, bar));
        }
    }

    /// What an event draws on a row; `None` on a track that has no row.
    fn bar(&mut self, track: Track, event: &Event, at: u64) -> Option<Bar> {
        let (res, mut bits) = result(event);
        let mut name = label(event);
        match (track, &event.what) {
            (Track::Loop | Track::Listener(_) | Track::Arrived | Track::Posted, _) => return None,
            (Track::Thread(_), what) => {
                if matches!(what, Content::CallBegin { .. } | Content::WaitBegin { .. }) {
                    bits |= (Phase::of(event).unwrap_or(Phase::Other) as u64) << PHASE;
                }
                if let Some(conn) = event.conn {
                    name = format!("{name} c{conn}");
                }
            }
            (_, Content::Submitted { .. }) => name.push_str(" submitted"),
            (_, Content::CallBegin { .. }) => name.push_str(" called"),
            (_, Content::Implied { .. }) => bits |= IMPLIED,
            _ => {}
        }
        if matches!(track, Track::Outbound(_)) {
            bits |= OUTBOUND;
        }
        let next = self.names.len() as u32;
        let name = *self.names.entry(name).or_insert(next);
        let waited = event.posting.map_or(0, |posting| posting.waited(event.at));
        let took = event.posting.and_then(|posting| posting.took()).unwrap_or(0);
        Some(Bar { at, lasted: 0, name, bits, res, waited, took })
    }

    /// The drawing for the script. Times are nanoseconds since recording began; a list of
    /// iterations or bars is an object of columns.
    pub(super) fn json(&self, list: &ConnectionList) -> Value {
        // Only the names of bars that are drawn.
        let used: BTreeSet<u32> = self.bars.iter().map(|(_, bar)| bar.name).collect();
        let used: HashMap<u32, u32> = used.into_iter().zip(0..).collect();
        let mut names = vec![""; used.len()];
        for (name, number) in &self.names {
            used.get(number).into_iter().for_each(|&new| names[new as usize] = name);
        }
        let mut rows: HashMap<Track, Vec<Bar>> = HashMap::new();
        for (row, bar) in &self.bars {
            rows.entry(*row).or_default().push(Bar { name: used[&bar.name], ..*bar });
        }
        let mut bars = |row| {
            let mut bars = rows.remove(&row).unwrap_or_default();
            bars.sort_by_key(|bar| bar.at);
            columns(bars)
        };
        let conns = list.connections.iter().map(|conn| {
            let bars = bars(Track::Inbound(conn.conn));
            json!({ "conn": format!("c{}", conn.conn), "bars": bars })
        });
        let conns: Vec<Value> = conns.collect();
        let threads = self.lanes.as_ref().map(|lanes| {
            let shown = self.drawn.iter().map(|&thread| {
                let bars = bars(Track::Thread(thread));
                json!({ "info": lanes.spans[thread], "bars": bars })
            });
            json!({ "all": lanes, "shown": shown.collect::<Vec<_>>() })
        });
        json!({
            "opens": self.opens,
            "detail": (!self.is_all).then_some(self.detail),
            "timed": self.is_timed,
            "parts": self.parts.json(self.is_all),
            "iterations": columns(self.iterations.iter().copied()),
            "names": names,
            "threads": threads,
            "conns": conns,
        })
    }
}

/// A list as an object with an array for each field of its items.
fn columns<T: Serialize + Default>(items: impl IntoIterator<Item = T>) -> Value {
    let fields = |item| match json!(item) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let names = fields(T::default()).into_iter();
    let mut columns: Vec<_> = names.map(|(name, _)| (name, Vec::new())).collect();
    for item in items {
        let values = fields(item).into_iter().map(|(_, value)| value);
        columns.iter_mut().zip(values).for_each(|((_, column), value)| column.push(value));
    }
    // Without the kernel's events these are zero for all.
    let is_kernels = |name: &str| ["waited", "took", "asleep"].contains(&name);
    columns.retain(|(name, column)| !is_kernels(name) || column.iter().any(|one| *one != json!(0)));
    columns.into_iter().map(|(name, column)| (name, Value::Array(column))).collect()
}

/// The result of an event as a number, negative for an errno, and the bits that go with it.
fn result(event: &Event) -> (i64, u64) {
    let abnormal = if event.is_abnormal() { ABNORMAL } else { 0 };
    let bytes = if event.op.is_some_and(|op| op.receives() || op.sends()) { BYTES } else { 0 };
    match event.result() {
        Some(Ok(n)) => (i64::from(n), RESULT | bytes | abnormal),
        Some(Err(errno)) => (-i64::from(errno.0), RESULT | abnormal),
        None => (0, abnormal),
    }
}
