//! The rows of the busiest threads or children on a page, call by call.

use std::collections::HashMap;

use proactor_report::units;
use serde_json::{Value, json};

use super::super::packing::{Column, StringTable, column};
use super::super::thread_tracks::ThreadTracks;
use super::super::track_event::{TimelineTrack, TrackEvent, TrackEventKind, label};
use super::shared::{CALLS, Latest, THREADS, UNENDED, result};
use crate::view::{Lanes, Phase, ThreadSpan};

/// The rows of threads, and their calls.
#[derive(Debug)]
pub(super) struct ThreadTimeline {
    lanes: Lanes,
    /// The indices of the threads that have a row.
    drawn: Vec<usize>,
    calls: Latest<CallBar>,
    open: HashMap<usize, CallBar>,
}

/// A call on the row of a thread.
#[derive(Debug, Clone, Copy)]
struct CallBar {
    thread: usize,
    at: u64,
    lasted: u64,
    name: u32,
    conn: u32,
    phase: Phase,
    bits: u64,
    res: i64,
}

impl ThreadTimeline {
    /// Draws the busiest of these threads.
    pub(super) fn new(lanes: Lanes) -> ThreadTimeline {
        let drawn = lanes.busiest(THREADS);
        ThreadTimeline { lanes, drawn, calls: Latest::new(CALLS), open: HashMap::new() }
    }

    /// The tracks of the threads that have a row.
    pub(super) fn tracks(&self) -> ThreadTracks {
        ThreadTracks::new(self.lanes.clone(), &self.drawn)
    }

    /// Draws on the row of a thread.
    pub(super) fn track_event(&mut self, one: &TrackEvent<'_>, names: &mut StringTable) {
        match &one.kind {
            TrackEventKind::Begin { track: TimelineTrack::Thread(thread), event, name, .. } => {
                let conn = event.conn.map_or(String::new(), |conn| format!("c{conn}"));
                let call = CallBar {
                    thread: *thread,
                    at: one.at,
                    lasted: 0,
                    name: names.number(name),
                    conn: names.number(&conn),
                    phase: Phase::of(event).unwrap_or(Phase::Other),
                    bits: UNENDED,
                    res: 0,
                };
                self.open.insert(*thread, call);
            }
            TrackEventKind::End { track: TimelineTrack::Thread(thread), event } => {
                let Some(mut call) = self.open.remove(thread) else { return };
                call.lasted = one.at.saturating_sub(call.at);
                if let Some(event) = event {
                    (call.res, call.bits) = result(event);
                    if event.op.is_some() {
                        call.name = names.number(&label(event));
                    }
                }
                self.calls.push(call);
            }
            _ => {}
        }
    }

    /// What is not drawn, one sentence each.
    pub(super) fn left_out(&self) -> Vec<String> {
        let mut all = Vec::new();
        let (kind, shown) = (self.lanes.kind, self.drawn.len());
        let without = self.lanes.spans.len().saturating_sub(shown) as u64;
        if without > 0 {
            let kind = match (without, kind) {
                (1, "threads") => "thread",
                (1, "processes") => "process",
                (_, kind) => kind,
            };
            all.push(format!(
                "{} {kind} {} no row: {shown} have, the main one and those that made the most \
                 calls",
                units::count(without),
                units::agree(without, "has", "have")
            ));
        }
        all.extend(self.calls.left_out(&format!("calls of {kind}")));
        all
    }

    /// Packs the rows for the script.
    pub(super) fn pack(&self) -> Value {
        let mut of_thread: HashMap<usize, Vec<&CallBar>> = HashMap::new();
        for call in &self.calls.entries {
            of_thread.entry(call.thread).or_default().push(call);
        }
        let row = |&thread: &usize| {
            let calls = of_thread.remove(&thread).unwrap_or_default();
            pack_thread(&self.lanes.spans[thread], calls)
        };
        json!({ "all": self.lanes, "shown": self.drawn.iter().map(row).collect::<Vec<_>>() })
    }
}

fn pack_thread(lived: &ThreadSpan, mut calls: Vec<&CallBar>) -> Value {
    calls.sort_by_key(|call| call.at);
    let of = |of: fn(&CallBar) -> u64| column(calls.iter().map(|call| of(call)), Column::push);
    json!({
        "info": lived,
        "at": column(calls.iter().map(|call| call.at), Column::push_after),
        "lasted": of(|call| call.lasted),
        "name": of(|call| call.name.into()),
        "conn": of(|call| call.conn.into()),
        "phase": of(|call| call.phase as u64),
        "bits": of(|call| call.bits),
        "res": column(calls.iter().map(|call| call.res), Column::push_signed),
    })
}
