//! From events to tracks: the loop's and the connections' slices, instants and counters.
//!
//! Every slice that begins also ends, on its own track and within the slice it began in. An event
//! that would break this (records are lost, a file is damaged) becomes an instant.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;
use std::rc::Rc;

use proactor::keys::{ConnId, KeyOwner};
use proactor::ring::Token;
use proactor_record::format::MAIN;
use proactor_record::{Call, Content, Kind, OpKind};

use super::track_event::*;
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
    thread: usize,
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
    open: BTreeMap<Track, Vec<OpenSlice>>,
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
    /// The time of the last event.
    at: u64,
    /// Track events that were not returned yet.
    out: Vec<TrackEvent>,
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
    pub(super) fn draw(&mut self, event: Event) -> Vec<TrackEvent> {
        if self.cut.is_in_time(event.at) {
            let earlier = mem::take(&mut self.earlier).into_values();
            earlier.chain([event]).for_each(|event| self.put(&Rc::new(event)));
        } else if let Some(lane) = event.lane.filter(|_| self.threads.is_some()) {
            self.earlier.remove(&lane);
            if matches!(event.what, Content::CallBegin { .. } | Content::WaitBegin { .. })
                && let Some(since) = self.cut.since
            {
                let at = event.at.max(since.as_nanos() as u64);
                self.earlier.insert(lane, Event { at, ..event });
            }
        }
        mem::take(&mut self.out)
    }

    /// Ends all open slices.
    pub(super) fn finish(mut self) -> Vec<TrackEvent> {
        self.close();
        if self.threads.is_some() {
            self.count_undrawn();
        }
        self.out
    }

    fn put(&mut self, event: &Rc<Event>) {
        self.at = event.at;
        if let Content::Lost(_) = event.what {
            self.close();
        }
        let track = self.track(event);
        if track.is_some() {
            self.posting(event);
        }
        let flow = match self.threads {
            None => self.loop_event(event, track),
            Some(_) => self.thread_event(event, track),
        };
        let is_mark = matches!(event.what, Content::Mark(_)) && self.threads.is_none();
        if is_mark || matches!(event.what, Content::Lost(_) | Content::Frozen(_) | Content::Unknown)
        {
            self.instant(Track::Loop, event, None);
        }
        if let Some(track) = track.filter(|&track| track != Track::Loop) {
            self.side(track, event, flow);
        }
    }

    /// Draws when a completion was posted, and when what it waited for arrived.
    fn posting(&mut self, event: &Rc<Event>) {
        let Some(posting) = event.posting else { return };
        let conn = event.conn.map_or(String::new(), |conn| format!(" c{conn}"));
        let shape = Shape::Instant(label(event) + &conn);
        let arrived = posting.arrived.map(|at| (Track::Arrived, at));
        for (track, at) in arrived.into_iter().chain([(Track::Posted, posting.posted)]) {
            let (shape, event) = (shape.clone(), Some(Rc::clone(event)));
            self.out.push(TrackEvent { at, track, shape, event, flow: None });
        }
    }

    /// Draws on the loop's track. Returns the flow of an operation.
    fn loop_event(&mut self, event: &Rc<Event>, track: Option<Track>) -> Option<Flow> {
        match event.what {
            Content::EnterBegin { .. } | Content::WaitBegin { .. } => {
                self.end_all(Track::Loop);
                self.count_undrawn();
                if matches!(event.what, Content::EnterBegin { .. }) {
                    self.count(QUEUE, 0);
                }
                self.begin(Track::Loop, "iteration", event, None);
                self.begin(Track::Loop, event.name().trim_matches(['<', '>']), event, None);
            }
            Content::EnterEnd { result, provided, .. } => {
                self.handling_begins(event);
                self.provided += u64::from(provided);
                self.count(TAKEN, result.unwrap_or(0).into());
                self.count(QUEUE, event.completions.into());
                self.count(IN_FLIGHT, event.in_flight.total as u64);
                if self.has_buffers {
                    self.count(BUFFERS, self.provided.saturating_sub(self.filled));
                }
            }
            Content::WaitEnd { result, .. } => {
                self.handling_begins(event);
                self.count(READY, result.unwrap_or(0).into());
            }
            Content::Submitted { .. } | Content::Completed { .. } | Content::Implied { .. } => {
                let has_buffer = matches!(event.what, Content::Completed { buffer: Some(_), .. });
                self.filled += u64::from(has_buffer);
                let flow = self.flow(event);
                track.iter().for_each(|_| self.instant(Track::Loop, event, flow));
                return flow;
            }
            Content::Ready { .. } if track == Some(Track::Loop) => {
                self.instant(Track::Loop, event, None);
            }
            Content::CallBegin { .. } => {
                let is_in_call = self.innermost(Track::Loop).is_some_and(|one| one.is_call);
                if track.is_some() && !is_in_call {
                    self.begin(Track::Loop, event.op.map_or("call", OpKind::name), event, None);
                }
            }
            Content::CallEnd { .. } if self.ends(Track::Loop, event) => {
                self.end(Track::Loop, Some(event));
            }
            _ => {}
        }
        None
    }

    /// Ends the enter or wait and begins the handling.
    fn handling_begins(&mut self, event: &Rc<Event>) {
        if self.ends(Track::Loop, event) {
            self.end(Track::Loop, Some(event));
        } else {
            self.end_all(Track::Loop);
            self.begin(Track::Loop, "iteration", event, None);
        }
        self.begin(Track::Loop, "handle", event, None);
    }

    /// Draws on the track of a thread or a child, which is in one call at a time. `track` is the
    /// connection's track of the same event, if it has one. Returns the end of a flow to there if
    /// another thread serves that connection.
    fn thread_event(&mut self, event: &Rc<Event>, track: Option<Track>) -> Option<Flow> {
        let lane = event.lane?;
        if let Content::WaitBegin { .. } = event.what {
            self.count_undrawn();
        }
        let threads = self.threads.as_ref()?;
        let thread = threads.span_of(event)?;
        let (own, is_last) = (Track::Thread(thread), threads.spans[thread].ends_with(event));
        self.occupied.insert(lane);
        let mut flow = None;
        match event.what {
            Content::CallBegin { .. } | Content::WaitBegin { .. } => {
                self.abandon(lane);
                let (number, waits) = (event.number, Phase::of(event) == Some(Phase::Waiting));
                self.calls.insert(lane, CallInProgress { number, thread, waits });
                if self.drawn.contains(&thread) {
                    flow = flow_to(track, lane, event);
                }
                let name = event.op.map_or("wait", OpKind::name).to_owned();
                self.emit(own, Shape::Begin(name), Some(event), flow.map(Flow::Continue));
            }
            Content::CallEnd { .. } | Content::WaitEnd { .. } => {
                let begun = event.begun.map(|begun| begun.event);
                let is_its =
                    |call: &CallInProgress| call.thread == thread && Some(call.number) == begun;
                if self.calls.get(&lane).is_some_and(is_its) {
                    self.calls.remove(&lane);
                    self.emit(own, Shape::End, Some(event), None);
                } else {
                    self.instant(own, event, None);
                }
            }
            Content::Lane { .. } => {
                self.lane_ends(lane);
                self.abandon(lane);
            }
            _ => self.instant(own, event, None),
        }
        if is_last {
            self.occupied.remove(&lane);
        }
        self.count_threads();
        flow.map(Flow::End)
    }

    /// Ends the call of a writer whose end is not known.
    fn abandon(&mut self, lane: u16) {
        if let Some(call) = self.calls.remove(&lane) {
            self.emit(Track::Thread(call.thread), Shape::End, None, None);
        }
    }

    /// Ends the slices of a thread that is gone.
    fn lane_ends(&mut self, lane: u16) {
        let is_its = |slice: &OpenSlice| slice.operation.0 == Some(lane);
        let open = self.open.iter().filter(|(_, slices)| slices.iter().any(is_its));
        let tracks: Vec<Track> = open.map(|(&track, _)| track).collect();
        tracks.into_iter().for_each(|track| self.end_all(track));
    }

    fn count_threads(&mut self) {
        let asleep = self.calls.values().filter(|call| call.waits).count();
        let awake = self.occupied.len().saturating_sub(asleep);
        let now = [(ASLEEP, asleep), (AWAKE, awake), (CALLS, self.calls.len())];
        for (at, (counter, value)) in now.into_iter().enumerate() {
            if self.counted[at].replace(value as u64) != Some(value as u64) {
                self.count(counter, value as u64);
            }
        }
    }

    fn count_undrawn(&mut self) {
        match mem::take(&mut self.undrawn) {
            0 => {}
            undrawn => self.count(UNDRAWN, undrawn),
        }
    }

    /// The flow from a submission to its last completion. Its number is that of the submission's
    /// event, plus one because zero is not a flow.
    fn flow(&self, event: &Event) -> Option<Flow> {
        let number = event.begun.filter(|begun| self.cut.is_in_time(begun.at))?.event;
        match event.what {
            Content::Submitted { .. } => Some(Flow::Continue(number.wrapping_add(1))),
            // A flow through each of a thousand shots would hide all others.
            Content::Completed { more: true, .. } => None,
            _ => Some(Flow::End(number.wrapping_add(1))),
        }
    }

    /// Draws an operation, a call or a readiness on the track of its connection or listener.
    fn side(&mut self, track: Track, event: &Rc<Event>, flow: Option<Flow>) {
        let begins = matches!(event.what, Content::Submitted { .. } | Content::CallBegin { .. });
        let is_same = |one: &OpenSlice| one.operation == operation(event);
        if begins && self.innermost(track).is_some_and(is_same) {
            self.end(track, None); // Its end is missing: it begins anew.
        }
        if begins && self.innermost(track).is_none() && is_slice(event) {
            self.begin(track, &label(event), event, flow);
        } else if !begins && self.ends(track, event) {
            if event.is_multishot() {
                self.instant(track, event, None);
            }
            if !matches!(event.what, Content::Completed { more: true, .. }) {
                self.end(track, Some(event));
            }
        } else if !matches!(event.what, Content::CallBegin { .. }) {
            self.instant(track, event, None);
        }
    }

    fn innermost(&self, track: Track) -> Option<&OpenSlice> {
        self.open.get(&track)?.last()
    }

    /// Whether the event belongs to the innermost slice of a track.
    fn ends(&self, track: Track, event: &Event) -> bool {
        let begun = event.begun.map(|begun| begun.event);
        self.innermost(track).is_some_and(|slice| Some(slice.number) == begun)
    }

    fn begin(&mut self, track: Track, name: &str, event: &Rc<Event>, flow: Option<Flow>) {
        let is_call = matches!(event.what, Content::CallBegin { .. });
        let slice = OpenSlice { number: event.number, operation: operation(event), is_call };
        self.open.entry(track).or_default().push(slice);
        self.emit(track, Shape::Begin(name.to_owned()), Some(event), flow);
    }

    /// Ends the innermost slice of a track.
    fn end(&mut self, track: Track, event: Option<&Rc<Event>>) {
        self.open.get_mut(&track).and_then(Vec::pop);
        self.emit(track, Shape::End, event, None);
    }

    fn end_all(&mut self, track: Track) {
        let slices = self.open.remove(&track).unwrap_or_default();
        slices.iter().for_each(|_| self.emit(track, Shape::End, None, None));
    }

    /// Ends all slices: of the loop, of the threads, of the connections.
    fn close(&mut self) {
        self.end_all(Track::Loop);
        let lanes: Vec<u16> = self.calls.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.abandon(lane));
        let tracks: Vec<Track> = self.open.keys().copied().collect();
        tracks.into_iter().for_each(|track| self.end_all(track));
    }

    /// Draws an instant, with a name that fits the track.
    fn instant(&mut self, track: Track, event: &Rc<Event>, flow: Option<Flow>) {
        let name = match (track, event.op) {
            (Track::Loop | Track::Thread(_), Some(op)) => {
                format!("{} {}", event.name(), op.name())
            }
            _ => label(event),
        };
        self.emit(track, Shape::Instant(name), Some(event), flow);
    }

    fn count(&mut self, counter: Track, value: u64) {
        self.emit(counter, Shape::Value(value), None, None);
    }

    /// Draws on a track, unless it is that of a thread that has none.
    fn emit(&mut self, track: Track, shape: Shape, event: Option<&Rc<Event>>, flow: Option<Flow>) {
        if !matches!(track, Track::Thread(thread) if !self.drawn.contains(&thread)) {
            self.out.push(TrackEvent { at: self.at, track, shape, event: event.cloned(), flow });
        }
    }

    /// The track of an event, other than its thread's; `None` if its connection has none.
    fn track(&mut self, event: &Event) -> Option<Track> {
        let Some(conn) = event.conn else { return Some(track_without_conn(event)) };
        if !self.conns.contains(&conn) {
            self.undrawn += 1;
            return None;
        }
        let inbound = match event.op {
            Some(OpKind::Ring(kind)) => {
                matches!(kind, Kind::Recv | Kind::PollRecv | Kind::CancelRecv)
            }
            Some(OpKind::Opcode(_)) => event.op.is_some_and(OpKind::receives),
            Some(OpKind::Call(call)) => call == Call::Recv,
            Some(OpKind::Wait) | None => true,
        };
        Some(if inbound { Track::Inbound(conn) } else { Track::Outbound(conn) })
    }
}

/// The writer of an event, and the identity and the kind of its operation.
fn operation(event: &Event) -> (Option<u16>, u64, u8) {
    (event.lane, event.raw.id, event.raw.op)
}

/// The number of a flow from a thread to a connection that another thread serves: the record's
/// number, which is unique, plus one because zero is not a flow.
fn flow_to(track: Option<Track>, lane: u16, event: &Event) -> Option<u64> {
    let (Track::Inbound(conn) | Track::Outbound(conn)) = track? else {
        return None;
    };
    (lane != MAIN && u32::from(lane) != conn.slot()).then(|| event.number.wrapping_add(1))
}

/// Whether an operation or a call is drawn as a slice on the track of its connection or listener.
fn is_slice(event: &Event) -> bool {
    use Kind::{Accept, PollAccept, PollRecv, PollSend, Recv, Send};
    match event.op {
        Some(OpKind::Ring(kind)) => {
            matches!(kind, Accept | Recv | Send | PollAccept | PollRecv | PollSend)
        }
        _ => true,
    }
}

/// The track of an event that belongs to no connection.
fn track_without_conn(event: &Event) -> Track {
    match (event.op, event.owner()) {
        (Some(OpKind::Ring(Kind::Accept | Kind::PollAccept | Kind::CancelAccept)), _) => {
            Track::Listener(Token(event.raw.id).accept().listener.0.into())
        }
        (_, Some(KeyOwner::Listener(index))) => Track::Listener(index.0.into()),
        _ => Track::Loop,
    }
}
