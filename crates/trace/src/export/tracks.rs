//! From events to tracks: the loop's and the connections' slices, instants and counters.
//!
//! Every slice that begins also ends, on its own track and within the slice it began in. An event
//! that would break this (records are lost, a file is damaged) becomes an instant.

use std::collections::{BTreeMap, HashMap, HashSet};

use proactor::keys::{ConnId, KeyOwner};
use proactor::ring::Token;
use proactor_record::{Call, Kind, Op, Payload};

use super::thread_tracks::ThreadTracks;
use super::track_event::{CounterTrack, Flow, Sink, TimelineTrack, TrackEvent, label};
use crate::event::Event;
use crate::view::Cut;

/// An open slice on the loop's track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoopSlice {
    Iteration,
    /// The enter or the wait.
    Inside,
    Handle,
    /// A call, by its key and its number.
    Call(u64, u8),
}

/// The identity of an operation or a call: the writer, the token or key, and the call's number.
type Operation = (Option<u16>, u64, u8);

/// Makes track events of a trace's events.
#[derive(Debug, Default)]
pub(super) struct TrackBuilder {
    cut: Cut,
    /// The tracks of threads or children, if many recorded.
    threads: Option<ThreadTracks>,
    /// The connections that have tracks.
    conns: HashSet<ConnId>,
    /// Whether the number of free buffers is known.
    has_buffers: bool,
    /// The open slices of the loop's track, the outermost first.
    loop_slices: Vec<LoopSlice>,
    /// The operation of the open slice of each other track.
    open: HashMap<TimelineTrack, Operation>,
    provided: u64,
    filled: u64,
    undrawn: u64,
    last: u64,
    /// By writer, the call that began before the cut and has not ended.
    earlier: BTreeMap<u16, Event>,
}

impl TrackBuilder {
    /// Draws the events within a cut: of these connections, and of the loop or the threads.
    pub(super) fn new(
        cut: &Cut,
        conns: HashSet<ConnId>,
        has_buffers: bool,
        threads: Option<ThreadTracks>,
    ) -> TrackBuilder {
        TrackBuilder { cut: *cut, threads, conns, has_buffers, ..TrackBuilder::default() }
    }

    /// Draws an event if it is within the cut. A thread that is in a call when the cut begins is
    /// drawn in it from there on.
    pub(super) fn draw(&mut self, event: &Event, write: &mut dyn FnMut(u64, TrackEvent<'_>)) {
        if self.cut.is_in_time(event.at) {
            for earlier in std::mem::take(&mut self.earlier).into_values() {
                self.put(&earlier, write);
            }
            return self.put(event, write);
        }
        let Some(lane) = event.lane.filter(|_| self.threads.is_some()) else { return };
        self.earlier.remove(&lane);
        if matches!(event.what, Payload::CallBegin { .. } | Payload::WaitBegin { .. })
            && let Some(since) = self.cut.since
        {
            let at = event.at.max(since.as_nanos() as u64);
            self.earlier.insert(lane, Event { at, ..event.clone() });
        }
    }

    fn put(&mut self, event: &Event, write: &mut dyn FnMut(u64, TrackEvent<'_>)) {
        self.last = event.at;
        let mut sink = Sink { at: event.at, write };
        if self.threads.is_some() {
            self.thread_event(event, &mut sink);
        } else {
            self.loop_event(event, &mut sink);
        }
    }

    /// Ends all open slices.
    pub(super) fn finish(mut self, write: &mut dyn FnMut(u64, TrackEvent<'_>)) {
        let mut sink = Sink { at: self.last, write };
        self.close(&mut sink);
        if self.threads.is_some() {
            self.count_undrawn(&mut sink);
        }
    }

    fn loop_event(&mut self, event: &Event, sink: &mut Sink<'_>) {
        match event.what {
            Payload::EnterBegin { .. } | Payload::WaitBegin { .. } => {
                self.iteration_begins(event, sink);
            }
            Payload::EnterEnd { result, provided, .. } => {
                self.handling_begins(event, sink);
                self.provided += u64::from(provided);
                sink.count(CounterTrack::Taken, result.unwrap_or(0).into());
                sink.count(CounterTrack::Queue, event.completions.into());
                sink.count(CounterTrack::InFlight, event.in_flight.total as u64);
                if self.has_buffers {
                    sink.count(CounterTrack::Buffers, self.provided.saturating_sub(self.filled));
                }
            }
            Payload::WaitEnd { result, .. } => {
                self.handling_begins(event, sink);
                sink.count(CounterTrack::Ready, result.unwrap_or(0).into());
            }
            Payload::Completed { buffer, .. } => {
                self.filled += u64::from(buffer.is_some());
                self.operation(event, sink);
            }
            Payload::Submitted { .. } | Payload::Implied { .. } => self.operation(event, sink),
            Payload::Ready { .. } | Payload::CallBegin { .. } | Payload::CallEnd { .. } => {
                self.call(event, sink);
            }
            Payload::Lost(_) => {
                self.close(sink);
                sink.instant(TimelineTrack::Loop, event, None);
            }
            Payload::Mark(_) | Payload::Frozen(_) | Payload::Unknown => {
                sink.instant(TimelineTrack::Loop, event, None);
            }
            Payload::Clock(_) | Payload::Lane { .. } => {}
        }
    }

    /// Draws an event of one of many threads, on its track and on the connection's.
    fn thread_event(&mut self, event: &Event, sink: &mut Sink<'_>) {
        match event.what {
            Payload::Lost(_) => self.close(sink),
            Payload::Lane { .. } => self.lane_ends(event.lane, sink),
            Payload::WaitBegin { .. } => self.count_undrawn(sink),
            _ => {}
        }
        let track = self.track(event);
        let Some(threads) = &mut self.threads else { return };
        let flow = threads.draw(event, track, sink);
        match event.what {
            Payload::Lost(_) | Payload::Frozen(_) | Payload::Unknown => {
                sink.instant(TimelineTrack::Loop, event, None);
            }
            Payload::Ready { .. } | Payload::CallBegin { .. } | Payload::CallEnd { .. } => {
                let Some(track) = track.filter(|&track| track != TimelineTrack::Loop) else {
                    return;
                };
                self.side(track, event, flow, sink);
            }
            _ => {}
        }
    }

    /// Ends the slices of a thread that is gone.
    fn lane_ends(&mut self, lane: Option<u16>, sink: &mut Sink<'_>) {
        let its = self.open.iter().filter(|&(_, &(by, ..))| by == lane);
        let mut tracks: Vec<TimelineTrack> = its.map(|(&track, _)| track).collect();
        tracks.sort_unstable(); // The same trace makes the same file.
        for track in tracks {
            self.open.remove(&track);
            sink.end(track, None);
        }
    }

    fn count_undrawn(&mut self, sink: &mut Sink<'_>) {
        if self.undrawn > 0 {
            sink.count(CounterTrack::Undrawn, std::mem::take(&mut self.undrawn));
        }
    }

    /// Ends an iteration and begins the next, with an enter or a wait.
    fn iteration_begins(&mut self, event: &Event, sink: &mut Sink<'_>) {
        self.close_loop(sink);
        self.count_undrawn(sink);
        if matches!(event.what, Payload::EnterBegin { .. }) {
            sink.count(CounterTrack::Queue, 0);
        }
        self.loop_slice(LoopSlice::Iteration, "iteration", event, sink);
        self.loop_slice(LoopSlice::Inside, event.name().trim_matches(['<', '>']), event, sink);
    }

    /// Ends the enter or wait and begins the handling.
    fn handling_begins(&mut self, event: &Event, sink: &mut Sink<'_>) {
        if self.loop_slices.last() == Some(&LoopSlice::Inside) {
            self.loop_slices.pop();
            sink.end(TimelineTrack::Loop, Some(event));
        } else {
            self.close_loop(sink);
            self.loop_slice(LoopSlice::Iteration, "iteration", event, sink);
        }
        self.loop_slice(LoopSlice::Handle, "handle", event, sink);
    }

    fn loop_slice(&mut self, slice: LoopSlice, name: &str, event: &Event, sink: &mut Sink<'_>) {
        self.loop_slices.push(slice);
        sink.begin(TimelineTrack::Loop, name, event, None);
    }

    /// Draws an operation of a ring, on the loop's track and on the connection's.
    fn operation(&mut self, event: &Event, sink: &mut Sink<'_>) {
        let Some(track) = self.track(event) else { return };
        let flow = self.flow(event);
        sink.instant(TimelineTrack::Loop, event, flow);
        if track == TimelineTrack::Loop {
            return;
        }
        self.side(track, event, flow, sink);
    }

    /// The flow from a submission to its last completion. Its number is that of the submission's
    /// event, plus one because zero is not a flow.
    fn flow(&self, event: &Event) -> Option<Flow> {
        let number = event.begun.filter(|begun| self.cut.is_in_time(begun.at))?.event;
        match event.what {
            Payload::Submitted { .. } => Some(Flow::Continue(number.wrapping_add(1))),
            // A flow through each of a thousand shots would hide all others.
            Payload::Completed { more: true, .. } => None,
            _ => Some(Flow::End(number.wrapping_add(1))),
        }
    }

    /// Draws a call of the loop, or the readiness that leads to it, on the loop's track and on the
    /// connection's.
    fn call(&mut self, event: &Event, sink: &mut Sink<'_>) {
        let Some(track) = self.track(event) else { return };
        let call = LoopSlice::Call(event.raw.id, event.raw.op);
        let last = self.loop_slices.last();
        match event.what {
            Payload::CallBegin { .. } if !matches!(last, Some(LoopSlice::Call(..))) => {
                self.loop_slice(call, event.op.map_or("call", Op::name), event, sink);
            }
            Payload::CallEnd { .. } if last == Some(&call) => {
                self.loop_slices.pop();
                sink.end(TimelineTrack::Loop, Some(event));
            }
            Payload::CallBegin { .. } | Payload::CallEnd { .. } => {}
            _ => return sink.instant(track, event, None),
        }
        if track != TimelineTrack::Loop {
            self.side(track, event, None, sink);
        }
    }

    /// Draws an operation, a call or a readiness on the track of its connection or listener.
    fn side(
        &mut self,
        track: TimelineTrack,
        event: &Event,
        flow: Option<Flow>,
        sink: &mut Sink<'_>,
    ) {
        let operation = match event.op {
            Some(Op::Ring(_)) => (None, event.raw.id, 0),
            _ => (event.lane, event.raw.id, event.raw.op),
        };
        let open = self.open.get(&track);
        let is_open = open == Some(&operation);
        match event.what {
            Payload::Submitted { .. } | Payload::CallBegin { .. }
                if open.is_none() && is_slice(event) =>
            {
                self.open.insert(track, operation);
                sink.begin(track, &label(event), event, flow);
            }
            Payload::CallBegin { .. } => {}
            Payload::Completed { more, .. } if is_open && (more || event.is_multishot()) => {
                sink.instant(track, event, None);
                if !more {
                    self.end(track, event, sink);
                }
            }
            Payload::Completed { .. } | Payload::Implied { .. } | Payload::CallEnd { .. }
                if is_open =>
            {
                self.end(track, event, sink);
            }
            _ => sink.instant(track, event, None),
        }
    }

    fn end(&mut self, track: TimelineTrack, event: &Event, sink: &mut Sink<'_>) {
        self.open.remove(&track);
        sink.end(track, Some(event));
    }

    fn close_loop(&mut self, sink: &mut Sink<'_>) {
        self.loop_slices.drain(..).for_each(|_| sink.end(TimelineTrack::Loop, None));
    }

    fn close(&mut self, sink: &mut Sink<'_>) {
        self.close_loop(sink);
        if let Some(threads) = &mut self.threads {
            threads.close(sink);
        }
        self.open.drain().for_each(|(track, _)| sink.end(track, None));
    }

    /// The track of an event, other than its thread's; `None` if its connection has none.
    fn track(&mut self, event: &Event) -> Option<TimelineTrack> {
        let Some(conn) = event.conn else { return Some(track_without_conn(event)) };
        if !self.conns.contains(&conn) {
            self.undrawn += 1;
            return None;
        }
        let inbound = match event.op {
            Some(Op::Ring(kind)) => matches!(kind, Kind::Recv | Kind::PollRecv | Kind::CancelRecv),
            Some(Op::Call(call)) => call == Call::Recv,
            Some(Op::Wait) | None => true,
        };
        Some(if inbound { TimelineTrack::Inbound(conn) } else { TimelineTrack::Outbound(conn) })
    }
}

/// Whether an operation or a call is drawn as a slice on the track of its connection or listener.
fn is_slice(event: &Event) -> bool {
    use Kind::{Accept, PollAccept, PollRecv, PollSend, Recv, Send};
    match event.op {
        Some(Op::Ring(kind)) => {
            matches!(kind, Accept | Recv | Send | PollAccept | PollRecv | PollSend)
        }
        _ => true,
    }
}

/// The track of an event that belongs to no connection.
fn track_without_conn(event: &Event) -> TimelineTrack {
    match (event.op, event.owner()) {
        (Some(Op::Ring(Kind::Accept | Kind::PollAccept | Kind::CancelAccept)), _) => {
            TimelineTrack::Listener(Token(event.raw.id).accept().listener.0.into())
        }
        (_, Some(KeyOwner::Listener(index))) => TimelineTrack::Listener(index.0.into()),
        _ => TimelineTrack::Loop,
    }
}
