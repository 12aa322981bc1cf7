//! What a page draws: the loop's iterations or the threads' calls, an overview, and marks on the
//! rows of connections. The script gets it as packed columns of numbers.
//!
//! The drawing is limited. The overview, the tables and the histograms cover all events.

use std::collections::HashMap;

use proactor::keys::ConnId;
use proactor_record::{Payload, Trace};
use serde_json::{Value, json};

use super::super::ids;
use super::super::packing::{Column, StringTable, column};
use super::super::track_event::{TimelineTrack, TrackEvent, TrackEventKind, label};
use super::super::tracks::TrackBuilder;
use super::shared::{
    IMPLIED, ITERATIONS, Latest, MARKS, MULTISHOT, OUTBOUND, PARTS, SPAN, UNENDED, result,
};
use super::thread_timeline::ThreadTimeline;
use crate::event::{Event, events};
use crate::view::{ConnectionList, ConnectionStats, Cut, Lanes, Source};

/// An iteration of the loop: an enter or a wait, and the handling after it.
#[derive(Debug, Clone, Copy, Default)]
struct Iteration {
    number: u32,
    at: u64,
    inside: u64,
    outside: u64,
    taken: u32,
    returned: u32,
    in_flight: u32,
    abnormal: bool,
}

/// Something on the row of a connection.
#[derive(Debug, Clone, Copy)]
struct Mark {
    conn: ConnId,
    name: u32,
    at: u64,
    lasted: u64,
    res: i64,
    bits: u64,
}

/// One of the equal parts of time of the overview.
#[derive(Debug, Clone, Copy, Default)]
struct OverviewPart {
    inside: u64,
    outside: u64,
    messages: u64,
    abnormal: u64,
}

/// What a page draws.
#[derive(Debug)]
pub(super) struct PageData {
    from: u64,
    until: u64,
    step: u64,
    parts: Vec<OverviewPart>,
    iterations: Latest<Iteration>,
    marks: Latest<Mark>,
    names: StringTable,
    open: HashMap<TimelineTrack, Mark>,
    threads: Option<ThreadTimeline>,
    /// The iteration that has not ended, and whether its enter or wait has.
    iteration: Option<Iteration>,
    is_handling: bool,
}

impl PageData {
    /// Collects what is drawn of a part of a trace.
    pub(super) fn of(
        trace: &Trace,
        cut: &Cut,
        list: &ConnectionList,
        lanes: Option<Lanes>,
    ) -> PageData {
        let Source { from_ns: from, span_ns: span, .. } = list.source;
        let mut data = PageData {
            from,
            until: from + span,
            step: span / PARTS as u64 + 1,
            parts: vec![OverviewPart::default(); PARTS],
            iterations: Latest::new(ITERATIONS),
            marks: Latest::new(MARKS),
            names: StringTable::default(),
            open: HashMap::new(),
            threads: lanes.map(ThreadTimeline::new),
            iteration: None,
            is_handling: false,
        };
        let threads = data.threads.as_ref().map(ThreadTimeline::tracks);
        let mut tracks = TrackBuilder::new(cut, ids(&list.connections), false, threads);
        for event in events(trace) {
            if cut.is_in_time(event.at) {
                data.count(&event);
            }
            tracks.draw(&event, &mut |one| data.track_event(&one));
        }
        tracks.finish(&mut |one| data.track_event(&one));
        data.iteration_ends(data.until);
        data
    }

    /// What is not drawn, one sentence each.
    pub(super) fn left_out(&self) -> Vec<String> {
        let mut all = self.threads.as_ref().map_or_else(Vec::new, ThreadTimeline::left_out);
        all.extend(self.iterations.left_out("iterations"));
        all.extend(self.marks.left_out("marks of connections"));
        all
    }

    /// Counts an event in the overview and in the loop's iteration, if there is one loop.
    fn count(&mut self, event: &Event) {
        if self.threads.is_none() {
            self.loop_event(event);
        }
        let abnormal = event.is_abnormal();
        if let Some(iteration) = &mut self.iteration {
            iteration.abnormal |= abnormal;
        }
        let part = self.part(event.at);
        part.abnormal += u64::from(abnormal);
        part.messages += u64::from(event.is_message());
    }

    fn loop_event(&mut self, event: &Event) {
        match event.what {
            Payload::EnterBegin { .. } | Payload::WaitBegin { .. } => {
                self.iteration_ends(event.at);
                let (number, at) = (event.iteration, event.at);
                self.iteration = Some(Iteration { number, at, ..Iteration::default() });
            }
            Payload::EnterEnd { result, .. } => {
                let iteration = self.handling_begins(event);
                iteration.taken = result.unwrap_or(0);
                iteration.returned = event.completions;
                iteration.in_flight = u32::try_from(event.in_flight.total).unwrap_or(u32::MAX);
            }
            Payload::WaitEnd { result, .. } => {
                self.handling_begins(event).returned = result.unwrap_or(0);
            }
            Payload::Lost(_) => (self.iteration, self.is_handling) = (None, false),
            _ => {}
        }
    }

    fn handling_begins(&mut self, event: &Event) -> &mut Iteration {
        let at = event.at - event.lasted.unwrap_or(0);
        let begun = Iteration { number: event.iteration, at, ..Iteration::default() };
        self.is_handling = true;
        let iteration = self.iteration.get_or_insert(begun);
        iteration.inside = event.at.saturating_sub(iteration.at);
        iteration
    }

    fn iteration_ends(&mut self, at: u64) {
        let is_handling = std::mem::take(&mut self.is_handling);
        let Some(mut one) = self.iteration.take() else { return };
        if is_handling {
            one.outside = at.saturating_sub(one.at + one.inside);
        } else {
            one.inside = at.saturating_sub(one.at);
        }
        self.spread(one.at, one.inside, |part| &mut part.inside);
        self.spread(one.at + one.inside, one.outside, |part| &mut part.outside);
        self.iterations.push(one);
    }

    /// Adds a span of time to the parts of the overview that it covers.
    fn spread(&mut self, at: u64, lasted: u64, field: impl Fn(&mut OverviewPart) -> &mut u64) {
        // A damaged file may have any times.
        let (mut at, until) = (at.max(self.from), at.saturating_add(lasted).min(self.until));
        while at < until {
            let next = ((at - self.from) / self.step + 1).saturating_mul(self.step);
            let next = self.from.saturating_add(next);
            *field(self.part(at)) += until.min(next) - at;
            at = next;
        }
    }

    fn part(&mut self, at: u64) -> &mut OverviewPart {
        let index = (at.saturating_sub(self.from) / self.step) as usize;
        &mut self.parts[index.min(PARTS - 1)]
    }

    /// Draws on the rows of connections and threads.
    fn track_event(&mut self, one: &TrackEvent<'_>) {
        let at = one.at;
        if let Some(threads) = &mut self.threads {
            threads.track_event(one, &mut self.names);
        }
        match &one.kind {
            TrackEventKind::Begin { track, event, .. } => {
                if let Some(mark) = self.mark(*track, event, at) {
                    self.open.insert(*track, mark);
                }
            }
            TrackEventKind::End { track, event } => {
                let Some(begun) = self.open.remove(track) else { return };
                let ended = event.and_then(|event| self.mark(*track, event, at));
                let multishot = event.is_some_and(Event::is_multishot);
                let ended = ended.unwrap_or(Mark { bits: UNENDED, ..begun });
                self.marks.push(Mark {
                    at: begun.at,
                    lasted: at.saturating_sub(begun.at),
                    bits: begun.bits | ended.bits | SPAN | if multishot { MULTISHOT } else { 0 },
                    ..ended
                });
            }
            TrackEventKind::Instant { track, event, .. } => {
                let mark = self.mark(*track, event, at);
                mark.into_iter().for_each(|mark| self.marks.push(mark));
            }
            TrackEventKind::Count { .. } => {}
        }
    }

    fn mark(&mut self, track: TimelineTrack, event: &Event, at: u64) -> Option<Mark> {
        let (conn, outbound) = match track {
            TimelineTrack::Inbound(conn) => (conn, 0),
            TimelineTrack::Outbound(conn) => (conn, OUTBOUND),
            TimelineTrack::Loop | TimelineTrack::Thread(_) | TimelineTrack::Listener(_) => {
                return None;
            }
        };
        let (res, bits) = result(event);
        let implied = if matches!(event.what, Payload::Implied { .. }) { IMPLIED } else { 0 };
        let name = self.names.number(&match event.what {
            Payload::Submitted { .. } => format!("{} submitted", label(event)),
            Payload::CallBegin { .. } => format!("{} called", label(event)),
            _ => label(event),
        });
        Some(Mark { conn, name, at, lasted: 0, res, bits: bits | outbound | implied })
    }

    /// Packs the data for the script. Times are nanoseconds since recording began; a column of
    /// begins has differences.
    pub(super) fn pack(&self, list: &ConnectionList) -> Value {
        let mut of_conn: HashMap<ConnId, Vec<&Mark>> = HashMap::new();
        self.marks.entries.iter().for_each(|mark| of_conn.entry(mark.conn).or_default().push(mark));
        let conns: Vec<Value> = list
            .connections
            .iter()
            .map(|conn| pack_conn(conn, of_conn.remove(&conn.conn).unwrap_or_default()))
            .collect();
        json!({
            "from": self.from,
            "step": self.step,
            "parts": self.pack_parts(),
            "iterations": self.pack_iterations(),
            "names": self.names.all(),
            "threads": self.threads.as_ref().map(ThreadTimeline::pack),
            "conns": conns,
        })
    }

    fn pack_parts(&self) -> Value {
        let of = |of: fn(&OverviewPart) -> u64| column(self.parts.iter().map(of), Column::push);
        json!({
            "inside": of(|part| part.inside),
            "outside": of(|part| part.outside),
            "messages": of(|part| part.messages),
            "abnormal": of(|part| part.abnormal),
        })
    }

    fn pack_iterations(&self) -> Value {
        let all = &self.iterations.entries;
        let of = |of: fn(&Iteration) -> u64| column(all.iter().map(of), Column::push);
        json!({
            "number": column(all.iter().map(|one| one.number.into()), Column::push_after),
            "at": column(all.iter().map(|one| one.at), Column::push_after),
            "inside": of(|one| one.inside),
            "outside": of(|one| one.outside),
            "taken": of(|one| one.taken.into()),
            "returned": of(|one| one.returned.into()),
            "in_flight": of(|one| one.in_flight.into()),
            "abnormal": of(|one| one.abnormal.into()),
        })
    }
}

/// Packs the row of a connection.
fn pack_conn(conn: &ConnectionStats, mut marks: Vec<&Mark>) -> Value {
    marks.sort_by_key(|mark| mark.at);
    let of = |of: fn(&Mark) -> u64| column(marks.iter().map(|mark| of(mark)), Column::push);
    json!({
        "conn": format!("c{}", conn.conn),
        "at": column(marks.iter().map(|mark| mark.at), Column::push_after),
        "lasted": of(|mark| mark.lasted),
        "name": of(|mark| mark.name.into()),
        "bits": of(|mark| mark.bits),
        "res": column(marks.iter().map(|mark| mark.res), Column::push_signed),
    })
}
