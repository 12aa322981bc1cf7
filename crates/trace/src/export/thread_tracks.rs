//! The tracks of threads or children. A thread is in one call at a time, so slices do not nest.

use std::collections::{BTreeMap, HashSet};

use proactor_record::format::MAIN;
use proactor_record::{Op, Payload};

use super::track_event::{CounterTrack, Flow, Sink, TimelineTrack};
use crate::event::Event;
use crate::view::{Lanes, Phase};

/// Makes the track events of threads or children.
#[derive(Debug, Default)]
pub(super) struct ThreadTracks {
    lanes: Lanes,
    /// The threads that have tracks.
    drawn: HashSet<usize>,
    /// By writer, the call in progress.
    calls: BTreeMap<u16, CallInProgress>,
    /// How many of those calls wait.
    asleep: usize,
    /// The writers that have a thread.
    occupied: HashSet<u16>,
    /// The last values of the three counters.
    counted: [Option<u64>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallInProgress {
    thread: Option<usize>,
    phase: Phase,
    /// The key and the number of the call; `None` for a wait.
    call: Option<(u64, u8)>,
}

impl ThreadTracks {
    /// Counts all threads, and draws those with these indices.
    pub(super) fn new(lanes: Lanes, drawn: &[usize]) -> ThreadTracks {
        let drawn = drawn.iter().copied().collect();
        ThreadTracks { lanes, drawn, ..ThreadTracks::default() }
    }

    /// Draws what a thread does. `track` is the connection's track of the same event, if it has
    /// one. Returns the end of a flow to there if another thread serves that connection.
    pub(super) fn draw(
        &mut self,
        event: &Event,
        track: Option<TimelineTrack>,
        sink: &mut Sink<'_>,
    ) -> Option<Flow> {
        let lane = event.lane?;
        let thread = self.lanes.span_of(event);
        let drawn = thread.filter(|thread| self.drawn.contains(thread)).map(TimelineTrack::Thread);
        self.occupied.insert(lane);
        let call = event.op.map(|_| (event.raw.id, event.raw.op));
        let mut number = None;
        match event.what {
            Payload::CallBegin { .. } | Payload::WaitBegin { .. } => {
                self.abandon(lane, sink);
                let phase = Phase::of(event).unwrap_or(Phase::Other);
                self.calls.insert(lane, CallInProgress { thread, phase, call });
                self.asleep += usize::from(phase == Phase::Waiting);
                if let Some(own) = drawn {
                    number = flow_to(track, lane, event);
                    let name = event.op.map_or("wait", Op::name);
                    sink.begin(own, name, event, number.map(Flow::Continue));
                }
            }
            Payload::CallEnd { .. } | Payload::WaitEnd { .. } => {
                let is_its = |one: &CallInProgress| (one.thread, one.call) == (thread, call);
                let ended = self.calls.get(&lane).is_some_and(is_its);
                if ended {
                    self.remove(lane);
                }
                match drawn {
                    Some(own) if ended => sink.end(own, Some(event)),
                    Some(own) => sink.instant(own, event, None),
                    None => {}
                }
            }
            Payload::Lane { .. } => self.abandon(lane, sink),
            _ => drawn.into_iter().for_each(|own| sink.instant(own, event, None)),
        }
        if thread.is_some_and(|thread| self.lanes.spans[thread].ends_with(event)) {
            self.occupied.remove(&lane);
        }
        self.count(sink);
        number.map(Flow::End)
    }

    /// Ends all open slices.
    pub(super) fn close(&mut self, sink: &mut Sink<'_>) {
        let lanes: Vec<u16> = self.calls.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.abandon(lane, sink));
    }

    /// Ends the call of a writer whose end is not known.
    fn abandon(&mut self, lane: u16, sink: &mut Sink<'_>) {
        let thread = self.remove(lane).and_then(|call| call.thread);
        if let Some(thread) = thread.filter(|thread| self.drawn.contains(thread)) {
            sink.end(TimelineTrack::Thread(thread), None);
        }
    }

    /// Removes the call of a writer, if it is in one.
    fn remove(&mut self, lane: u16) -> Option<CallInProgress> {
        let call = self.calls.remove(&lane)?;
        self.asleep -= usize::from(call.phase == Phase::Waiting);
        Some(call)
    }

    fn count(&mut self, sink: &mut Sink<'_>) {
        let awake = self.occupied.len().saturating_sub(self.asleep);
        let now = [
            (CounterTrack::Asleep, self.asleep as u64),
            (CounterTrack::Awake, awake as u64),
            (CounterTrack::Calls, self.calls.len() as u64),
        ];
        for ((counter, value), last) in now.into_iter().zip(&mut self.counted) {
            if last.replace(value) != Some(value) {
                sink.count(counter, value);
            }
        }
    }
}

/// The number of a flow from a thread to a connection that another thread serves: the record's
/// number, which is unique, plus one because zero is not a flow.
fn flow_to(track: Option<TimelineTrack>, lane: u16, event: &Event) -> Option<u64> {
    let (TimelineTrack::Inbound(conn) | TimelineTrack::Outbound(conn)) = track? else {
        return None;
    };
    (lane != MAIN && u32::from(lane) != conn.slot()).then(|| event.number.wrapping_add(1))
}
