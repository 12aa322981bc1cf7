//! A trace in Perfetto's format, for the Perfetto UI.
//!
//! The messages and the numbers of their fields are those of
//! <https://perfetto.dev/docs/reference/trace-packet-proto>. A test decodes the output with the
//! descriptors that Perfetto publishes. Times are nanoseconds of `CLOCK_MONOTONIC`, which a system
//! trace of the same machine can have as well.

mod field;

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Header, Payload, Trace, WaitMode, Writers};
use proactor_report::units;

use super::protobuf::ProtoMessage;
use super::thread_tracks::ThreadTracks;
use super::track_event::{CounterTrack, Flow, TimelineTrack, TrackEvent, TrackEventKind};
use super::tracks::TrackBuilder;
use crate::event::{Event, events};
use crate::view::{ConnectionList, Cut, Lanes, ThreadSpan, TraceStats};

/// The default limit of connections, and of threads or children, that have tracks. Perfetto's UI
/// becomes unusable with thousands.
pub const PERFETTO_TRACKS: usize = 200;

/// The rank of the tracks below the loop and all counters.
const BELOW: u64 = 32;

/// Writes a part of a trace in Perfetto's format: the loop's track, or those of the `most` busiest
/// threads or children; two tracks for each of the `most` worst connections; and counters. Returns
/// how many connections have no track.
///
/// # Errors
/// `out` cannot be written to.
pub fn perfetto(trace: &Trace, cut: &Cut, most: usize, out: &mut impl Write) -> io::Result<u64> {
    let stats = TraceStats::of(trace, cut);
    let description = stats.source.to_string();
    let has_buffers = stats.buffers.is_some_and(|buffers| buffers.fewest.is_some());
    let lanes = stats.lanes.clone();
    let list = ConnectionList::new(stats, most);
    let mut writer = PerfettoWriter::new(&trace.header, out);
    writer.common_tracks(&description, &list, lanes.is_none())?;
    let threads = match lanes {
        Some(lanes) => {
            let drawn = lanes.busiest(most);
            writer.threads(&lanes, &drawn)?;
            Some(ThreadTracks::new(lanes, &drawn))
        }
        None => None,
    };
    let mut tracks = TrackBuilder::new(cut, super::ids(&list.connections), has_buffers, threads);
    let mut result = Ok(());
    let mut write = |event: TrackEvent<'_>| {
        if result.is_ok() {
            result = writer.track_event(&event);
        }
    };
    events(trace).for_each(|event| tracks.draw(&event, &mut write));
    tracks.finish(&mut write);
    result.map(|()| list.left_out)
}

/// The identity of a track in the file.
#[derive(Debug, Clone, Copy)]
enum TrackId {
    /// The whole recording: the parent of all other tracks.
    Process,
    Loop,
    Listeners,
    Connections,
    /// The track whose name says how many threads have none.
    Undrawn,
    Counter(CounterTrack),
    Listener(u32),
    /// A thread or child, by its index.
    Thread(usize),
    /// The process of a thread.
    ThreadGroup(u32),
    /// A connection's group, or one direction of it.
    Conn(ConnId, Side),
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Both,
    Inbound,
    Outbound,
}

impl From<TimelineTrack> for TrackId {
    fn from(track: TimelineTrack) -> TrackId {
        match track {
            TimelineTrack::Loop => TrackId::Loop,
            TimelineTrack::Thread(index) => TrackId::Thread(index),
            TimelineTrack::Listener(index) => TrackId::Listener(index),
            TimelineTrack::Inbound(conn) => TrackId::Conn(conn, Side::Inbound),
            TimelineTrack::Outbound(conn) => TrackId::Conn(conn, Side::Outbound),
        }
    }
}

impl TrackId {
    /// The `uuid`: unique in the trace, and by the loop's number among the loops of a server. The
    /// lowest two bits are the side of a connection, or 3; zero would be the trace's own track.
    fn uuid(self, header: &Header) -> u64 {
        let (number, side) = match self {
            TrackId::Conn(conn, side) => {
                let number = u64::from(conn.generation()) << 32 | u64::from(conn.slot());
                (number + 1, side as u64)
            }
            TrackId::Process => (1, 3),
            TrackId::Loop => (2, 3),
            TrackId::Listeners => (3, 3),
            TrackId::Connections => (4, 3),
            TrackId::Undrawn => (5, 3),
            TrackId::Counter(counter) => (16 + counter as u64, 3),
            TrackId::Listener(index) => (64 + u64::from(index), 3),
            TrackId::Thread(index) => (1 << 40 | index as u64, 3),
            TrackId::ThreadGroup(process) => (1 << 41 | u64::from(process), 3),
        };
        u64::from(header.lane & 31) << 59 | number << 2 | side
    }
}

/// The value of an annotation. Zero and false are left out.
enum Annotation<'a> {
    Uint(u64),
    Int(i64),
    Text(&'a str),
    Bool(bool),
    /// A number that is written also if it is zero.
    Count(u32),
}

/// Texts that are written once and referred to by number.
#[derive(Debug)]
struct Interner {
    known: HashMap<String, u64>,
    /// The field of `InternedData` that defines the texts.
    field: u32,
}

impl Interner {
    fn new(field: u32) -> Interner {
        Interner { known: HashMap::new(), field }
    }

    /// Returns the number of a text. A new text is added to `defined`, which goes into the next
    /// packet: the first one that refers to it.
    fn number(&mut self, text: &str, defined: &mut ProtoMessage) -> u64 {
        if let Some(&number) = self.known.get(text) {
            return number;
        }
        let number = self.known.len() as u64 + 1;
        self.known.insert(text.to_owned(), number);
        let mut entry = ProtoMessage::default();
        entry.uint(field::ID, number).text(field::INTERNED_NAME, text);
        defined.message(self.field, &entry);
        number
    }
}

struct PerfettoWriter<'a, W> {
    header: &'a Header,
    out: W,
    names: Interner,
    keys: Interner,
    /// Texts that were interned since the last packet.
    interned: ProtoMessage,
    /// Tracks that are described where they first occur.
    described: HashSet<u64>,
    is_first: bool,
    /// The last time that was written, and the number of its event.
    last: (u64, Option<u64>),
}

impl<'a, W: Write> PerfettoWriter<'a, W> {
    fn new(header: &'a Header, out: W) -> PerfettoWriter<'a, W> {
        PerfettoWriter {
            header,
            out,
            names: Interner::new(field::EVENT_NAMES),
            keys: Interner::new(field::KEYS),
            interned: ProtoMessage::default(),
            described: HashSet::new(),
            is_first: true,
            last: (0, None),
        }
    }

    /// Describes the tracks of every trace, the connections', and the loop's if there is one.
    fn common_tracks(
        &mut self,
        description: &str,
        list: &ConnectionList,
        has_loop: bool,
    ) -> io::Result<()> {
        let header = self.header;
        // Without a `ProcessDescriptor`: below a process, Perfetto sorts tracks by name and ignores
        // their ranks.
        let name = format!("proactor {} {}", header.model(), header.pid);
        let mut track = self.descriptor(TrackId::Process, &name, description);
        track.uint(field::ORDERING, field::BY_RANK);
        self.write_track(&track)?;
        if has_loop {
            self.track(TrackId::Loop, &format!("loop r{}", header.lane), 0, description)?;
        }
        self.track(TrackId::Listeners, "listeners", BELOW, "")?;
        let (name, description) = match list.left_out {
            0 => ("connections, the worst first".to_owned(), String::new()),
            n => (
                format!("connections, the worst first ({n} left out)"),
                format!(
                    "The {} worst; {} {} no track and {} in a counter.",
                    units::plural(list.connections.len() as u64, "connection"),
                    units::plural(n, "other"),
                    units::agree(n, "has", "have"),
                    units::agree(n, "is", "are")
                ),
            ),
        };
        self.track(TrackId::Connections, &name, BELOW + 1, &description)?;
        for (rank, conn) in list.connections.iter().enumerate() {
            let name = format!("c{}", conn.conn);
            self.track(TrackId::Conn(conn.conn, Side::Both), &name, rank as u64, "")?;
            for (side, direction) in [(Side::Inbound, "in"), (Side::Outbound, "out")] {
                let name = format!("{name} {direction}");
                self.track(TrackId::Conn(conn.conn, side), &name, side as u64, "")?;
            }
        }
        Ok(())
    }

    /// Begins the description of a track.
    fn descriptor(&self, id: TrackId, name: &str, description: &str) -> ProtoMessage {
        let mut track = ProtoMessage::default();
        track.uint(field::UUID, id.uuid(self.header)).text(field::TRACK_NAME, name);
        let parent = match id {
            TrackId::Process | TrackId::ThreadGroup(_) => None,
            TrackId::Listener(_) => Some(TrackId::Listeners),
            TrackId::Conn(_, Side::Both) => Some(TrackId::Connections),
            TrackId::Conn(conn, _) => Some(TrackId::Conn(conn, Side::Both)),
            _ => Some(TrackId::Process),
        };
        if let Some(parent) = parent {
            track.uint(field::PARENT, parent.uuid(self.header));
        }
        if !description.is_empty() {
            track.text(field::DESCRIPTION, description);
        }
        track
    }

    fn track(&mut self, id: TrackId, name: &str, rank: u64, description: &str) -> io::Result<()> {
        let mut track = self.descriptor(id, name, description);
        track.uint(field::ORDERING, field::BY_RANK).uint(field::RANK, rank);
        if let TrackId::Counter(_) = id {
            let mut counter = ProtoMessage::default();
            counter.uint(field::UNIT, field::PLAIN_COUNT);
            track.message(field::COUNTER, &counter);
        }
        self.write_track(&track)
    }

    /// Describes the tracks of threads or children, and says how many have none.
    fn threads(&mut self, lanes: &Lanes, drawn: &[usize]) -> io::Result<()> {
        let without = lanes.spans.len() - drawn.len();
        if without > 0 {
            let name = format!("{} {} have no track", units::count(without as u64), lanes.kind);
            let drawn = drawn.len();
            let description =
                format!("{drawn} have: the main one and those that made the most calls.");
            self.track(TrackId::Undrawn, &name, BELOW - 1, &description)?;
        }
        drawn.iter().try_for_each(|&index| self.thread(index, &lanes.spans[index]))
    }

    /// Describes a thread's track. Perfetto shows it below its process, with the numbers that a
    /// system trace of the same machine has.
    fn thread(&mut self, index: usize, lived: &ThreadSpan) -> io::Result<()> {
        let id = TrackId::Thread(index);
        let Some((thread, process)) = lived.thread.zip(lived.process) else {
            let name = format!("{} (started before the recording)", lived.lane);
            return self.track(id, &name, 1, "");
        };
        let group = TrackId::ThreadGroup(process);
        if self.described.insert(group.uuid(self.header)) {
            let name = match process == self.header.pid {
                true => "proactor".to_owned(),
                false => format!("proactor {}", lived.lane),
            };
            let mut own = ProtoMessage::default();
            own.uint(field::PID, process.into()).text(field::PROCESS_NAME, &name);
            let mut track = self.descriptor(group, &name, "");
            track.message(field::PROCESS, &own);
            self.write_track(&track)?;
        }
        let mut own = ProtoMessage::default();
        own.uint(field::THREAD_PID, process.into())
            .uint(field::TID, thread.into())
            .text(field::THREAD_NAME, &lived.lane);
        let mut track = ProtoMessage::default();
        track
            .uint(field::UUID, id.uuid(self.header))
            .text(field::TRACK_NAME, &lived.lane)
            .uint(field::PARENT, group.uuid(self.header))
            .message(field::THREAD, &own)
            .text(field::DESCRIPTION, &time_spent(lived));
        self.write_track(&track)
    }

    fn track_event(&mut self, one: &TrackEvent<'_>) -> io::Result<()> {
        let mut message = ProtoMessage::default();
        match &one.kind {
            TrackEventKind::Begin { track, name, event, flow } => {
                message.uint(field::TYPE, field::SLICE_BEGIN);
                self.place(&mut message, *track, name, *flow)?;
                self.annotate(&mut message, event);
                // A thread serves several connections.
                if let (TimelineTrack::Thread(_), Some(conn)) = (track, event.conn) {
                    let conn = format!("c{conn}");
                    self.annotation(&mut message, "conn", Annotation::Text(&conn));
                }
            }
            TrackEventKind::End { track, event } => {
                let track = TrackId::from(*track).uuid(self.header);
                message.uint(field::TYPE, field::SLICE_END).uint(field::TRACK, track);
                event.iter().for_each(|event| self.annotate(&mut message, event));
            }
            TrackEventKind::Instant { track, name, event, flow } => {
                message.uint(field::TYPE, field::INSTANT);
                self.place(&mut message, *track, name, *flow)?;
                self.annotate(&mut message, event);
            }
            TrackEventKind::Count { counter, value } => {
                let id = TrackId::Counter(*counter);
                let track = id.uuid(self.header);
                if self.described.insert(track) {
                    self.track(id, counter.name(), 1 + *counter as u64, "")?;
                }
                message
                    .uint(field::TYPE, field::COUNTER_VALUE)
                    .uint(field::TRACK, track)
                    .int(field::VALUE, i64::try_from(*value).unwrap_or(i64::MAX));
            }
        }
        let begin = self.header.pairs[0].1;
        let mut packet = ProtoMessage::default();
        packet.uint(field::TIMESTAMP, begin.saturating_add(self.moment(one)));
        packet.message(field::TRACK_EVENT, &message);
        self.packet(packet)
    }

    /// Sets the track, the name and the flow of an event. The track of a listener, and the loop's
    /// if there are threads, is described when it is first used.
    fn place(
        &mut self,
        message: &mut ProtoMessage,
        track: TimelineTrack,
        name: &str,
        flow: Option<Flow>,
    ) -> io::Result<()> {
        let id = TrackId::from(track);
        let uuid = id.uuid(self.header);
        match track {
            TimelineTrack::Listener(index) if self.described.insert(uuid) => {
                self.track(id, &format!("listener {index}"), index.into(), "")?;
            }
            TimelineTrack::Loop if self.has_threads() && self.described.insert(uuid) => {
                self.track(id, "the recording", 0, "")?;
            }
            _ => {}
        }
        let name = self.names.number(name, &mut self.interned);
        message.uint(field::TRACK, uuid).uint(field::NAME_ID, name);
        match flow {
            Some(Flow::Continue(number)) => _ = message.fixed(field::FLOW, number),
            Some(Flow::End(number)) => _ = message.fixed(field::LAST_FLOW, number),
            None => {}
        }
        Ok(())
    }

    fn has_threads(&self) -> bool {
        self.header.writers != Writers::One
    }

    /// The time that is written. With a clock per batch all operations of an iteration have the
    /// same time, and Perfetto stacks events of one time into as many rows. So each operation gets
    /// a nanosecond of its own.
    fn moment(&mut self, one: &TrackEvent<'_>) -> u64 {
        let (at, number) = self.last;
        let event = one.event().filter(|event| {
            // The slices of an iteration share their borders.
            event.op.is_some() || matches!(one.kind, TrackEventKind::Instant { .. })
        });
        let event = event.map(|event| event.number);
        let is_next = event.is_some_and(|event| number != Some(event));
        self.last = (one.at.max(at.saturating_add(is_next.into())), event.or(number));
        self.last.0
    }

    /// Adds the fields of an event.
    fn annotate(&mut self, to: &mut ProtoMessage, event: &Event) {
        use Annotation::{Bool, Count, Int, Text, Uint};
        if self.has_threads() {
            let lane = self.header.lane_name(event.lane);
            self.annotation(to, "lane", Text(&lane));
        }
        let mut put = |name: &str, value: Annotation<'_>| self.annotation(to, name, value);
        if let Some(begun) = event.begun.filter(|_| event.op.is_some_and(|op| op.is_on_ring())) {
            put("number", Uint(begun.number.unwrap_or(0)));
            put("age_ns", Uint(event.lasted.unwrap_or(0)));
        }
        match event.result() {
            Some(Ok(n)) => put("res", Count(n)),
            Some(Err(errno)) => {
                put("res", Int(-i64::from(errno.0)));
                put("error", Text(&errno.to_string()));
            }
            None => {}
        }
        match event.what {
            Payload::Submitted { file, len, skip_success, .. } => {
                put("len", Uint(len.into()));
                put("file", Int(file.into()));
                put("skip_success", Bool(skip_success));
                put("again", Uint(event.begun.map_or(0, |begun| begun.earlier).into()));
            }
            Payload::Completed { more, buffer, .. } => {
                put("more", Bool(more));
                put("buf", Uint(buffer.unwrap_or(0).into()));
                put("shot", Uint(event.begun.map_or(0, |begun| begun.shots).into()));
            }
            Payload::EnterBegin { pending, mode, .. } => {
                put("pending", Uint(pending.into()));
                put("wait", Text(mode.map_or("", WaitMode::name)));
            }
            Payload::EnterEnd { provided, overflow, .. } => {
                put("completions", Uint(event.completions.into()));
                put("provided", Uint(provided.into()));
                put("overflow", Bool(overflow));
                put("in_flight", Uint(event.in_flight.total as u64));
            }
            Payload::WaitBegin { mode, at_most } => {
                put("wait", Text(mode.map_or("", WaitMode::name)));
                put("at_most_ns", Uint(at_most.unwrap_or(0)));
            }
            Payload::CallBegin { file, len, may_sleep } => {
                put("len", Uint(len.into()));
                put("file", Int(file.into()));
                put("may_sleep", Bool(may_sleep));
            }
            Payload::CallEnd { file, may_sleep, .. } => {
                put("file", Int(file.into()));
                put("may_sleep", Bool(may_sleep));
            }
            Payload::Lost(n) => put("lost", Uint(n)),
            Payload::Frozen(why) => put("why", Text(why.map_or("", |why| why.name()))),
            _ => {}
        }
        put("user_data", Text(&format!("{:#018x}", event.raw.id)));
    }

    fn annotation(&mut self, to: &mut ProtoMessage, name: &str, value: Annotation<'_>) {
        let mut one = ProtoMessage::default();
        match value {
            Annotation::Uint(0)
            | Annotation::Int(0)
            | Annotation::Bool(false)
            | Annotation::Text("") => return,
            Annotation::Uint(number) => one.uint(field::UINT, number),
            Annotation::Int(number) => one.int(field::INT, number),
            Annotation::Text(text) => one.text(field::TEXT, text),
            Annotation::Bool(true) => one.uint(field::BOOL, 1),
            Annotation::Count(number) => one.uint(field::UINT, number.into()),
        };
        one.uint(field::KEY_ID, self.keys.number(name, &mut self.interned));
        to.message(field::ANNOTATION, &one);
    }

    fn write_track(&mut self, track: &ProtoMessage) -> io::Result<()> {
        let mut packet = ProtoMessage::default();
        packet.message(field::DESCRIPTOR, track);
        self.packet(packet)
    }

    fn packet(&mut self, mut packet: ProtoMessage) -> io::Result<()> {
        packet.uint(field::SEQUENCE, u64::from(self.header.lane).saturating_add(1));
        if std::mem::take(&mut self.is_first) {
            packet.uint(field::SEQUENCE_FLAGS, field::CLEARED | field::NEEDS_STATE);
            packet.uint(field::FIRST, 1);
        } else {
            packet.uint(field::SEQUENCE_FLAGS, field::NEEDS_STATE);
        }
        let interned = std::mem::take(&mut self.interned);
        if !interned.as_bytes().is_empty() {
            packet.message(field::INTERNED, &interned);
        }
        let mut framed = ProtoMessage::default();
        framed.message(field::PACKET, &packet);
        self.out.write_all(framed.as_bytes())
    }
}

/// How a thread spent its time, in a line.
fn time_spent(lived: &ThreadSpan) -> String {
    let span = |nanos| units::span(Duration::from_nanos(nanos));
    format!(
        "{}; waited {}, copied {}, in other calls {}, between calls {}",
        units::plural(lived.calls, "call"),
        span(lived.spent.waiting_ns),
        span(lived.spent.copying_ns),
        span(lived.spent.other_ns),
        span(lived.spent.between_ns)
    )
}
