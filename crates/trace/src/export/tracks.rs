//! From events to tracks: the loop's and the connections' slices, instants and counters.
//!
//! Every slice that begins also ends, on its own track and within the slice it began in. An event
//! that would break this (records are lost, a file is damaged) becomes an instant.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proactor::keys::{ConnId, KeyOwner};
use proactor::ring::Token;
use proactor_record::format::MAIN;
use proactor_record::{Call, Kind, Op, Payload};

use super::track_event::{CounterTrack, Flow, Sink, TimelineTrack, WriteEvent, label};
use crate::event::Event;
use crate::view::{ConnectionList, Cut, Lanes, Phase};

/// An open slice. The tracker pairs the event that ends it with the one that began it.
#[derive(Debug)]
struct OpenSlice {
    /// The number of the event that began it.
    number: u64,
    /// The writer of that event, and the identity and the kind of its operation.
    operation: (Option<u16>, u64, u8),
    /// Whether it is a call's.
    is_call: bool,
}

/// The call or wait of a writer that has not ended.
#[derive(Debug)]
struct CallInProgress {
    /// The number of the event that began it.
    number: u64,
    thread: Option<usize>,
    waits: bool,
}

/// Makes track events of a trace's events.
#[derive(Debug, Default)]
pub(super) struct TrackBuilder {
    cut: Cut,
    /// The threads or children, if many recorded: without them, one loop did.
    threads: Option<Lanes>,
    /// The threads and the connections that have tracks.
    drawn: HashSet<usize>,
    conns: HashSet<ConnId>,
    /// Whether the number of free buffers is known.
    has_buffers: bool,
    /// The open slices of each track but the threads', the outermost first.
    open: BTreeMap<TimelineTrack, Vec<OpenSlice>>,
    /// By writer, the call in progress, also of a thread that is not drawn.
    calls: BTreeMap<u16, CallInProgress>,
    /// By writer, the call that began before the cut and has not ended.
    earlier: BTreeMap<u16, Event>,
    /// The writers that have a thread.
    occupied: BTreeSet<u16>,
    /// The last values of the threads' counters.
    counted: [Option<u64>; 3],
    provided: u64,
    filled: u64,
    undrawn: u64,
    last: u64,
}

impl TrackBuilder {
    /// Draws the events within a cut: of the connections of a list, and of the loop or
    /// of these threads.
    pub(super) fn new(
        cut: &Cut,
        list: &ConnectionList,
        has_buffers: bool,
        threads: Option<Lanes>,
        drawn: &[usize],
    ) -> TrackBuilder {
        let conns = list.connections.iter().map(|conn| conn.conn).collect();
        let drawn = drawn.iter().copied().collect();
        TrackBuilder { cut: *cut, threads, drawn, conns, has_buffers, ..TrackBuilder::default() }
    }

    /// Draws an event if it is within the cut. A thread that is in a call when the cut begins is
    /// drawn in it from there on.
    pub(super) fn draw(&mut self, event: &Event, write: &mut WriteEvent<'_>) {
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

    /// Ends all open slices.
    pub(super) fn finish(mut self, write: &mut WriteEvent<'_>) {
        let mut sink = Sink { at: self.last, write };
        self.close(&mut sink);
        if self.threads.is_some() {
            self.count_undrawn(&mut sink);
        }
    }

    fn put(&mut self, event: &Event, write: &mut WriteEvent<'_>) {
        self.last = event.at;
        let sink = &mut Sink { at: event.at, write };
        if let Payload::Lost(_) = event.what {
            self.close(sink);
        }
        let track = self.track(event);
        let flow = match self.threads {
            None => self.loop_event(event, track, sink),
            Some(_) => self.thread_event(event, track, sink),
        };
        let is_mark = matches!(event.what, Payload::Mark(_)) && self.threads.is_none();
        if is_mark || matches!(event.what, Payload::Lost(_) | Payload::Frozen(_) | Payload::Unknown)
        {
            sink.instant(TimelineTrack::Loop, event, None);
        }
        if let Some(track) = track.filter(|&track| track != TimelineTrack::Loop) {
            self.side(track, event, flow, sink);
        }
    }

    /// Draws on the loop's track. Returns the flow of an operation.
    fn loop_event(
        &mut self,
        event: &Event,
        track: Option<TimelineTrack>,
        sink: &mut Sink<'_>,
    ) -> Option<Flow> {
        match event.what {
            Payload::EnterBegin { .. } | Payload::WaitBegin { .. } => {
                self.end_all(TimelineTrack::Loop, sink);
                self.count_undrawn(sink);
                if matches!(event.what, Payload::EnterBegin { .. }) {
                    sink.count(CounterTrack::Queue, 0);
                }
                self.begin(TimelineTrack::Loop, "iteration", event, None, sink);
                let name = event.name().trim_matches(['<', '>']);
                self.begin(TimelineTrack::Loop, name, event, None, sink);
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
            Payload::Submitted { .. } | Payload::Completed { .. } | Payload::Implied { .. } => {
                if let Payload::Completed { buffer: Some(_), .. } = event.what {
                    self.filled += 1;
                }
                let flow = self.flow(event);
                track.iter().for_each(|_| sink.instant(TimelineTrack::Loop, event, flow));
                return flow;
            }
            Payload::Ready { .. } if track == Some(TimelineTrack::Loop) => {
                sink.instant(TimelineTrack::Loop, event, None);
            }
            Payload::CallBegin { .. } => {
                let is_in_call = self.innermost(TimelineTrack::Loop).is_some_and(|one| one.is_call);
                if track.is_some() && !is_in_call {
                    let name = event.op.map_or("call", Op::name);
                    self.begin(TimelineTrack::Loop, name, event, None, sink);
                }
            }
            Payload::CallEnd { .. } if self.ends(TimelineTrack::Loop, event) => {
                self.end(TimelineTrack::Loop, Some(event), sink);
            }
            _ => {}
        }
        None
    }

    /// Ends the enter or wait and begins the handling.
    fn handling_begins(&mut self, event: &Event, sink: &mut Sink<'_>) {
        if self.ends(TimelineTrack::Loop, event) {
            self.end(TimelineTrack::Loop, Some(event), sink);
        } else {
            self.end_all(TimelineTrack::Loop, sink);
            self.begin(TimelineTrack::Loop, "iteration", event, None, sink);
        }
        self.begin(TimelineTrack::Loop, "handle", event, None, sink);
    }

    /// Draws on the track of a thread or a child, which is in one call at a time. `track` is the
    /// connection's track of the same event, if it has one. Returns the end of a flow to there if
    /// another thread serves that connection.
    fn thread_event(
        &mut self,
        event: &Event,
        track: Option<TimelineTrack>,
        sink: &mut Sink<'_>,
    ) -> Option<Flow> {
        let lane = event.lane?;
        if let Payload::WaitBegin { .. } = event.what {
            self.count_undrawn(sink);
        }
        let threads = self.threads.as_ref()?;
        let thread = threads.span_of(event);
        let is_last = thread.is_some_and(|thread| threads.spans[thread].ends_with(event));
        let own = thread.filter(|thread| self.drawn.contains(thread)).map(TimelineTrack::Thread);
        self.occupied.insert(lane);
        let mut flow = None;
        match event.what {
            Payload::CallBegin { .. } | Payload::WaitBegin { .. } => {
                self.abandon(lane, sink);
                let (number, waits) = (event.number, Phase::of(event) == Some(Phase::Waiting));
                self.calls.insert(lane, CallInProgress { number, thread, waits });
                if let Some(own) = own {
                    flow = flow_to(track, lane, event);
                    let name = event.op.map_or("wait", Op::name);
                    sink.begin(own, name, event, flow.map(Flow::Continue));
                }
            }
            Payload::CallEnd { .. } | Payload::WaitEnd { .. } => {
                let begun = event.begun.map(|begun| begun.event);
                let call = self.calls.get(&lane).filter(|call| call.thread == thread);
                let is_its = call.is_some_and(|call| Some(call.number) == begun);
                if is_its {
                    self.calls.remove(&lane);
                }
                match own {
                    Some(own) if is_its => sink.end(own, Some(event)),
                    Some(own) => sink.instant(own, event, None),
                    None => {}
                }
            }
            Payload::Lane { .. } => {
                self.lane_ends(lane, sink);
                self.abandon(lane, sink);
            }
            _ => own.into_iter().for_each(|own| sink.instant(own, event, None)),
        }
        if is_last {
            self.occupied.remove(&lane);
        }
        self.count_threads(sink);
        flow.map(Flow::End)
    }

    /// Ends the call of a writer whose end is not known.
    fn abandon(&mut self, lane: u16, sink: &mut Sink<'_>) {
        let thread = self.calls.remove(&lane).and_then(|call| call.thread);
        if let Some(thread) = thread.filter(|thread| self.drawn.contains(thread)) {
            sink.end(TimelineTrack::Thread(thread), None);
        }
    }

    /// Ends the slices of a thread that is gone.
    fn lane_ends(&mut self, lane: u16, sink: &mut Sink<'_>) {
        let is_its = |slice: &OpenSlice| slice.operation.0 == Some(lane);
        let open = self.open.iter().filter(|(_, slices)| slices.iter().any(is_its));
        let tracks: Vec<TimelineTrack> = open.map(|(&track, _)| track).collect();
        tracks.into_iter().for_each(|track| self.end_all(track, sink));
    }

    fn count_threads(&mut self, sink: &mut Sink<'_>) {
        let asleep = self.calls.values().filter(|call| call.waits).count();
        let awake = self.occupied.len().saturating_sub(asleep);
        let now = [
            (CounterTrack::Asleep, asleep as u64),
            (CounterTrack::Awake, awake as u64),
            (CounterTrack::Calls, self.calls.len() as u64),
        ];
        for ((counter, value), last) in now.into_iter().zip(&mut self.counted) {
            if last.replace(value) != Some(value) {
                sink.count(counter, value);
            }
        }
    }

    fn count_undrawn(&mut self, sink: &mut Sink<'_>) {
        if self.undrawn > 0 {
            sink.count(CounterTrack::Undrawn, std::mem::take(&mut self.undrawn));
        }
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

    /// Draws an operation, a call or a readiness on the track of its connection or listener.
    fn side(
        &mut self,
        track: TimelineTrack,
        event: &Event,
        flow: Option<Flow>,
        sink: &mut Sink<'_>,
    ) {
        let ends = self.ends(track, event);
        let begins = matches!(event.what, Payload::Submitted { .. } | Payload::CallBegin { .. });
        let is_same = |one: &OpenSlice| one.operation == (event.lane, event.raw.id, event.raw.op);
        if begins && self.innermost(track).is_some_and(is_same) {
            self.end(track, None, sink); // Its end is missing: it begins anew.
        }
        match event.what {
            _ if begins && self.innermost(track).is_none() && is_slice(event) => {
                self.begin(track, &label(event), event, flow, sink);
            }
            Payload::CallBegin { .. } => {}
            Payload::Completed { more, .. } if ends && (more || event.is_multishot()) => {
                sink.instant(track, event, None);
                if !more {
                    self.end(track, Some(event), sink);
                }
            }
            Payload::Completed { .. } | Payload::Implied { .. } | Payload::CallEnd { .. }
                if ends =>
            {
                self.end(track, Some(event), sink);
            }
            _ => sink.instant(track, event, None),
        }
    }

    fn innermost(&self, track: TimelineTrack) -> Option<&OpenSlice> {
        self.open.get(&track)?.last()
    }

    /// Whether the event belongs to the innermost slice of a track.
    fn ends(&self, track: TimelineTrack, event: &Event) -> bool {
        let begun = event.begun.map(|begun| begun.event);
        self.innermost(track).is_some_and(|slice| Some(slice.number) == begun)
    }

    fn begin(
        &mut self,
        track: TimelineTrack,
        name: &str,
        event: &Event,
        flow: Option<Flow>,
        sink: &mut Sink<'_>,
    ) {
        let is_call = matches!(event.what, Payload::CallBegin { .. });
        let operation = (event.lane, event.raw.id, event.raw.op);
        let slice = OpenSlice { number: event.number, operation, is_call };
        self.open.entry(track).or_default().push(slice);
        sink.begin(track, name, event, flow);
    }

    /// Ends the innermost slice of a track.
    fn end(&mut self, track: TimelineTrack, event: Option<&Event>, sink: &mut Sink<'_>) {
        self.open.get_mut(&track).and_then(Vec::pop);
        sink.end(track, event);
    }

    fn end_all(&mut self, track: TimelineTrack, sink: &mut Sink<'_>) {
        let slices = self.open.remove(&track).unwrap_or_default();
        slices.iter().for_each(|_| sink.end(track, None));
    }

    /// Ends all slices: of the loop, of the threads, of the connections.
    fn close(&mut self, sink: &mut Sink<'_>) {
        self.end_all(TimelineTrack::Loop, sink);
        let lanes: Vec<u16> = self.calls.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.abandon(lane, sink));
        let tracks: Vec<TimelineTrack> = self.open.keys().copied().collect();
        tracks.into_iter().for_each(|track| self.end_all(track, sink));
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

/// The number of a flow from a thread to a connection that another thread serves: the record's
/// number, which is unique, plus one because zero is not a flow.
fn flow_to(track: Option<TimelineTrack>, lane: u16, event: &Event) -> Option<u64> {
    let (TimelineTrack::Inbound(conn) | TimelineTrack::Outbound(conn)) = track? else {
        return None;
    };
    (lane != MAIN && u32::from(lane) != conn.slot()).then(|| event.number.wrapping_add(1))
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
