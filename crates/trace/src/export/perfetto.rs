//! A trace as the Perfetto UI reads it: `TrackEvent`s in Perfetto's own format.
//!
//! The messages and the numbers of their fields are those of
//! <https://perfetto.dev/docs/reference/trace-packet-proto>; a test decodes what is written with
//! the descriptors that Perfetto publishes. Times are nanoseconds of `CLOCK_MONOTONIC`, as a
//! system trace of the same machine may have them.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use super::ids;
use super::protobuf::ProtoMessage;
use super::scene::{Draw, Flow, Gauge, Place, Scene, Stroke};
use super::threads::Threads;
use crate::view::{Cut, Digest, Lanes, Life, Roster, Stint};
use crate::{Event, Header, Trace, Writers, events, json};
use proactor::keys::ConnId;
use proactor_report::units;

/// Connections, and threads or children, that get tracks of their own, unless told otherwise.
/// Perfetto's UI becomes unusable with thousands.
pub const PERFETTO_TRACKS: usize = 200;

/// What of an event is annotated; what is false, null or zero is left out.
const ANNOTATED: [&str; 23] = [
    "lane",
    "number",
    "len",
    "file",
    "skip_success",
    "again",
    "res",
    "error",
    "more",
    "buf",
    "shot",
    "age_ns",
    "may_sleep",
    "pending",
    "wait",
    "at_most_ns",
    "completions",
    "provided",
    "overflow",
    "in_flight",
    "lost",
    "why",
    "user_data",
];

/// Fields by their numbers, message by message.
mod field {
    /// `Trace`
    pub(super) const PACKET: u32 = 1;
    /// `TracePacket`
    pub(super) const TIMESTAMP: u32 = 8;
    pub(super) const SEQUENCE: u32 = 10;
    pub(super) const TRACK_EVENT: u32 = 11;
    pub(super) const INTERNED: u32 = 12;
    pub(super) const SEQUENCE_FLAGS: u32 = 13;
    pub(super) const DESCRIPTOR: u32 = 60;
    pub(super) const FIRST: u32 = 87;
    /// `TrackDescriptor`
    pub(super) const UUID: u32 = 1;
    pub(super) const TRACK_NAME: u32 = 2;
    pub(super) const PROCESS: u32 = 3;
    pub(super) const THREAD: u32 = 4;
    pub(super) const PARENT: u32 = 5;
    pub(super) const COUNTER: u32 = 8;
    pub(super) const ORDERING: u32 = 11;
    pub(super) const RANK: u32 = 12;
    pub(super) const DESCRIPTION: u32 = 14;
    /// `ProcessDescriptor`
    pub(super) const PID: u32 = 1;
    pub(super) const PROCESS_NAME: u32 = 6;
    /// `ThreadDescriptor`
    pub(super) const THREAD_PID: u32 = 1;
    pub(super) const TID: u32 = 2;
    pub(super) const THREAD_NAME: u32 = 5;
    /// `CounterDescriptor`
    pub(super) const UNIT: u32 = 3;
    /// `TrackEvent`
    pub(super) const ANNOTATION: u32 = 4;
    pub(super) const TYPE: u32 = 9;
    pub(super) const NAME_ID: u32 = 10;
    pub(super) const TRACK: u32 = 11;
    pub(super) const VALUE: u32 = 30;
    pub(super) const FLOW: u32 = 47;
    pub(super) const LAST_FLOW: u32 = 48;
    /// `DebugAnnotation`
    pub(super) const KEY_ID: u32 = 1;
    pub(super) const BOOL: u32 = 2;
    pub(super) const UINT: u32 = 3;
    pub(super) const INT: u32 = 4;
    pub(super) const TEXT: u32 = 6;
    /// `InternedData`
    pub(super) const EVENT_NAMES: u32 = 2;
    pub(super) const KEYS: u32 = 3;
    /// `EventName` and `DebugAnnotationName`
    pub(super) const ID: u32 = 1;
    pub(super) const INTERNED_NAME: u32 = 2;
}

const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;
const COUNT: u64 = 4;
/// `SEQ_INCREMENTAL_STATE_CLEARED` and `SEQ_NEEDS_INCREMENTAL_STATE`
const CLEARED: u64 = 1;
const NEEDS_STATE: u64 = 2;
/// `ChildTracksOrdering::EXPLICIT`
const BY_RANK: u64 = 3;
/// The rank of what comes below the loop and all counters.
const BELOW: u64 = 32;
/// `CounterDescriptor::UNIT_COUNT`
const PLAIN_COUNT: u64 = 2;

/// Writes a part of a trace as Perfetto has it: the loop's track, or those of the `most` busiest
/// threads or children; of the `most` worst connections one for each direction; and counters.
/// Answers how many connections have no track.
///
/// # Errors
/// `out` cannot be written to.
pub fn perfetto(trace: &Trace, cut: &Cut, most: usize, out: &mut impl Write) -> io::Result<u64> {
    let digest = Digest::of(trace, cut);
    let about = digest.source.to_string();
    let buffers = digest.buffers.is_some_and(|buffers| buffers.fewest.is_some());
    let lanes = digest.lanes.clone();
    let roster = Roster::new(digest, most);
    let mut writer = Writer::new(&trace.header, out);
    writer.tracks(&about, &roster, lanes.is_none())?;
    let threads = match lanes {
        Some(lanes) => {
            let drawn = lanes.busiest(most);
            writer.lanes(&lanes, &drawn)?;
            Some(Threads::new(lanes, &drawn))
        }
        None => None,
    };
    let mut scene = Scene::new(ids(&roster.connections), buffers, threads);
    let mut result = Ok(());
    for event in events(trace) {
        scene.draw(&event, cut, |stroke| {
            if result.is_ok() {
                result = writer.stroke(&stroke);
            }
        });
    }
    scene.finish(|stroke| {
        if result.is_ok() {
            result = writer.stroke(&stroke);
        }
    });
    result.map(|()| roster.left_out)
}

/// Tracks that are no connection's.
#[derive(Debug, Clone, Copy)]
enum Common {
    Process,
    Loop,
    Listeners,
    Connections,
    Counter(Gauge),
    Listener(u32),
    /// A thread's or a child's, by its number among the stints.
    Lane(usize),
    /// Whose threads they are.
    Owner(u32),
    /// What says how many have no track.
    Others,
}

/// A track's `uuid`, unique in the trace and, by the loop's number, among those of a server's
/// loops.
fn uuid(header: &Header, common: Common) -> u64 {
    let number = match common {
        Common::Process => 1,
        Common::Loop => 2,
        Common::Listeners => 3,
        Common::Connections => 4,
        Common::Counter(gauge) => 16 + gauge as u64,
        Common::Listener(index) => 64 + u64::from(index),
        Common::Lane(stint) => 1 << 40 | stint as u64,
        Common::Owner(process) => 1 << 41 | u64::from(process),
        Common::Others => 5,
    };
    lane_bits(header) | number << 2 | 3
}

/// Of a connection: its group's, or one direction's.
fn conn_uuid(header: &Header, conn: ConnId, side: u64) -> u64 {
    let conn = u64::from(conn.generation()) << 32 | u64::from(conn.slot());
    // Never zero, which would be the trace's own track.
    lane_bits(header) | (conn + 1) << 2 | side
}

fn lane_bits(header: &Header) -> u64 {
    u64::from(header.lane & 31) << 59
}

fn place_uuid(header: &Header, place: Place) -> u64 {
    match place {
        Place::Loop => uuid(header, Common::Loop),
        Place::Lane(stint) => uuid(header, Common::Lane(stint)),
        Place::Listener(index) => uuid(header, Common::Listener(index)),
        Place::In(conn) => conn_uuid(header, conn, 1),
        Place::Out(conn) => conn_uuid(header, conn, 2),
    }
}

struct Writer<'a, W> {
    header: &'a Header,
    out: W,
    /// Names that have a number, and what is new since the last packet.
    names: HashMap<String, u64>,
    keys: HashMap<String, u64>,
    interned: ProtoMessage,
    /// Tracks that are told of where they first occur.
    told: HashSet<u64>,
    is_first: bool,
    /// The last moment that was written, and the event that it was of.
    last: (u64, Option<u64>),
}

impl<'a, W: Write> Writer<'a, W> {
    fn new(header: &'a Header, out: W) -> Writer<'a, W> {
        Writer {
            header,
            out,
            names: HashMap::new(),
            keys: HashMap::new(),
            interned: ProtoMessage::default(),
            told: HashSet::new(),
            is_first: true,
            last: (0, None),
        }
    }

    /// The tracks that there are in any case, and the loop's if there is one.
    fn tracks(&mut self, about: &str, roster: &Roster, has_loop: bool) -> io::Result<()> {
        let header = self.header;
        // No `ProcessDescriptor`: below a process, Perfetto sorts tracks by name, whatever their
        // rank.
        let mut track = ProtoMessage::default();
        track
            .uint(field::UUID, uuid(header, Common::Process))
            .text(field::TRACK_NAME, &format!("proactor {} {}", header.model(), header.pid))
            .uint(field::ORDERING, BY_RANK)
            .text(field::DESCRIPTION, about);
        self.descriptor(&track)?;
        let process = uuid(header, Common::Process);
        if has_loop {
            self.track(Common::Loop, process, &format!("loop r{}", header.lane), 0, about)?;
        }
        self.track(Common::Listeners, process, "listeners", BELOW, "")?;
        let said = match roster.left_out {
            0 => String::new(),
            n => format!(
                "The {} worst; {} {} no track and {} in a counter.",
                units::plural(roster.connections.len() as u64, "connection"),
                units::plural(n, "other"),
                units::agree(n, "has", "have"),
                units::agree(n, "is", "are")
            ),
        };
        let name = match roster.left_out {
            0 => "connections, the worst first".to_owned(),
            n => format!("connections, the worst first ({n} left out)"),
        };
        self.track(Common::Connections, process, &name, BELOW + 1, &said)?;
        for (rank, life) in roster.connections.iter().enumerate() {
            self.connection(rank as u64, life)?;
        }
        Ok(())
    }

    fn track(
        &mut self,
        common: Common,
        parent: u64,
        name: &str,
        rank: u64,
        said: &str,
    ) -> io::Result<()> {
        let mut track = ProtoMessage::default();
        track
            .uint(field::UUID, uuid(self.header, common))
            .uint(field::PARENT, parent)
            .text(field::TRACK_NAME, name)
            .uint(field::ORDERING, BY_RANK)
            .uint(field::RANK, rank);
        if !said.is_empty() {
            track.text(field::DESCRIPTION, said);
        }
        if let Common::Counter(_) = common {
            let mut counter = ProtoMessage::default();
            counter.uint(field::UNIT, PLAIN_COUNT);
            track.message(field::COUNTER, &counter);
        }
        self.descriptor(&track)
    }

    /// The tracks of threads, or of children: Perfetto has them below their process, each with the
    /// numbers that a system trace of the same machine knows it by.
    fn lanes(&mut self, lanes: &Lanes, drawn: &[usize]) -> io::Result<()> {
        let without = lanes.stints.len() - drawn.len();
        if without > 0 {
            let group = uuid(self.header, Common::Process);
            let name = format!("{} {} have no track", units::count(without as u64), lanes.kind);
            let drawn = drawn.len();
            let said = format!("{drawn} have: the main one and those that made the most calls.");
            self.track(Common::Others, group, &name, BELOW - 1, &said)?;
        }
        let own = self.header.pid;
        for &one in drawn {
            let stint = &lanes.stints[one];
            let Some((thread, process)) = stint.thread.zip(stint.process) else {
                let group = uuid(self.header, Common::Process);
                let name = format!("{} (who began before this)", stint.lane);
                self.track(Common::Lane(one), group, &name, 1, "")?;
                continue;
            };
            let owner = uuid(self.header, Common::Owner(process));
            if self.told.insert(owner) {
                let name = match process == own {
                    true => "proactor".to_owned(),
                    false => format!("proactor {}", stint.lane),
                };
                let mut about = ProtoMessage::default();
                about.uint(field::PID, process.into()).text(field::PROCESS_NAME, &name);
                let mut track = ProtoMessage::default();
                track
                    .uint(field::UUID, owner)
                    .text(field::TRACK_NAME, &name)
                    .message(field::PROCESS, &about);
                self.descriptor(&track)?;
            }
            let mut about = ProtoMessage::default();
            about
                .uint(field::THREAD_PID, process.into())
                .uint(field::TID, thread.into())
                .text(field::THREAD_NAME, &stint.lane);
            let mut track = ProtoMessage::default();
            track
                .uint(field::UUID, uuid(self.header, Common::Lane(one)))
                .text(field::TRACK_NAME, &stint.lane)
                .uint(field::PARENT, owner)
                .message(field::THREAD, &about)
                .text(field::DESCRIPTION, &spent(stint));
            self.descriptor(&track)?;
        }
        Ok(())
    }

    /// A connection's three tracks: a group, and one for each direction.
    fn connection(&mut self, rank: u64, life: &Life) -> io::Result<()> {
        let conn = life.conn;
        let group = uuid(self.header, Common::Connections);
        for (side, name) in ["", " in", " out"].into_iter().enumerate() {
            let parent = if side == 0 { group } else { conn_uuid(self.header, conn, 0) };
            let rank = if side == 0 { rank } else { side as u64 };
            let mut track = ProtoMessage::default();
            track
                .uint(field::UUID, conn_uuid(self.header, conn, side as u64))
                .uint(field::PARENT, parent)
                .text(field::TRACK_NAME, &format!("c{conn}{name}"))
                .uint(field::ORDERING, BY_RANK)
                .uint(field::RANK, rank);
            self.descriptor(&track)?;
        }
        Ok(())
    }

    fn stroke(&mut self, stroke: &Stroke<'_>) -> io::Result<()> {
        let mut event = ProtoMessage::default();
        match &stroke.what {
            Draw::Begin { place, name, event: of, flow } => {
                event.uint(field::TYPE, BEGIN);
                self.named(&mut event, *place, name)?;
                self.flow(&mut event, *flow);
                self.annotate(&mut event, of);
                self.annotate_conn(&mut event, *place, of);
            }
            Draw::End { place, event: of } => {
                event.uint(field::TYPE, END).uint(field::TRACK, place_uuid(self.header, *place));
                if let Some(of) = of {
                    self.annotate(&mut event, of);
                }
            }
            Draw::Instant { place, name, event: of, flow } => {
                event.uint(field::TYPE, INSTANT);
                self.named(&mut event, *place, name)?;
                self.flow(&mut event, *flow);
                self.annotate(&mut event, of);
            }
            Draw::Count { gauge, value } => {
                let track = uuid(self.header, Common::Counter(*gauge));
                if self.told.insert(track) {
                    let parent = uuid(self.header, Common::Process);
                    let rank = 1 + *gauge as u64;
                    self.track(Common::Counter(*gauge), parent, gauge.name(), rank, "")?;
                }
                event
                    .uint(field::TYPE, COUNT)
                    .uint(field::TRACK, track)
                    .int(field::VALUE, i64::try_from(*value).unwrap_or(i64::MAX));
            }
        }
        let (begun, at) = (self.header.pairs[0].1, self.moment(stroke));
        let mut packet = ProtoMessage::default();
        packet.uint(field::TIMESTAMP, begun.saturating_add(at));
        packet.message(field::TRACK_EVENT, &event);
        self.packet(packet)
    }

    /// Says of an event what it is called, and on which track it is; that one is told of before.
    fn named(&mut self, event: &mut ProtoMessage, place: Place, name: &str) -> io::Result<()> {
        self.place(place)?;
        event.uint(field::TRACK, place_uuid(self.header, place));
        event.uint(field::NAME_ID, self.name(name));
        Ok(())
    }

    /// When a stroke is drawn. With a clock per batch all operations of a turn have the same time,
    /// and what has the same time is stacked: a turn of a thousand would be as many rows high. So
    /// each has a nanosecond of its own.
    fn moment(&mut self, stroke: &Stroke<'_>) -> u64 {
        let (at, number) = self.last;
        let event = stroke.event().filter(|event| {
            // A turn's parts share their borders.
            event.op.is_some() || matches!(stroke.what, Draw::Instant { .. })
        });
        let event = event.map(|event| event.number);
        let is_next = event.is_some_and(|event| number != Some(event));
        self.last = (stroke.at.max(at.saturating_add(is_next.into())), event.or(number));
        self.last.0
    }

    /// Tells of a listener's track before it is first drawn on, and of that which has what none of
    /// many lanes did.
    fn place(&mut self, place: Place) -> io::Result<()> {
        let many = self.header.writers != Writers::One;
        let (Place::Listener(_) | Place::Loop) = place else { return Ok(()) };
        if place == Place::Loop && !many || !self.told.insert(place_uuid(self.header, place)) {
            return Ok(());
        }
        if let Place::Listener(index) = place {
            let group = uuid(self.header, Common::Listeners);
            let name = format!("listener {index}");
            return self.track(Common::Listener(index), group, &name, index.into(), "");
        }
        let group = uuid(self.header, Common::Process);
        self.track(Common::Loop, group, "the recording", 0, "")
    }

    fn flow(&self, event: &mut ProtoMessage, flow: Option<Flow>) {
        match flow {
            Some(Flow::On(number)) => _ = event.fixed(field::FLOW, number),
            Some(Flow::Last(number)) => _ = event.fixed(field::LAST_FLOW, number),
            None => {}
        }
    }

    /// On a lane's track it is to be seen whose connection it is.
    fn annotate_conn(&mut self, to: &mut ProtoMessage, place: Place, event: &Event) {
        if let (Place::Lane(_), Some(conn)) = (place, event.conn) {
            let mut one = ProtoMessage::default();
            one.text(field::TEXT, &format!("c{conn}")).uint(field::KEY_ID, self.key("conn"));
            to.message(field::ANNOTATION, &one);
        }
    }

    /// What is known of an event, by name.
    fn annotate(&mut self, to: &mut ProtoMessage, event: &Event) {
        let all = json(self.header, event);
        let alone = self.header.writers == Writers::One;
        for name in ANNOTATED.into_iter().filter(|&name| !(alone && name == "lane")) {
            let value = &all[name];
            let mut one = ProtoMessage::default();
            if let Some(number) = value.as_u64().filter(|&number| number > 0 || name == "res") {
                one.uint(field::UINT, number);
            } else if let Some(number) = value.as_i64().filter(|&number| number < 0) {
                one.int(field::INT, number);
            } else if let Some(text) = value.as_str() {
                one.text(field::TEXT, text);
            } else if value.as_bool() == Some(true) {
                one.uint(field::BOOL, 1);
            } else {
                continue;
            }
            one.uint(field::KEY_ID, self.key(name));
            to.message(field::ANNOTATION, &one);
        }
    }

    /// An event name's number.
    fn name(&mut self, name: &str) -> u64 {
        intern(&mut self.names, &mut self.interned, field::EVENT_NAMES, name)
    }

    /// An annotation name's number.
    fn key(&mut self, name: &str) -> u64 {
        intern(&mut self.keys, &mut self.interned, field::KEYS, name)
    }

    fn descriptor(&mut self, track: &ProtoMessage) -> io::Result<()> {
        let mut packet = ProtoMessage::default();
        packet.message(field::DESCRIPTOR, track);
        self.packet(packet)
    }

    fn packet(&mut self, mut packet: ProtoMessage) -> io::Result<()> {
        packet.uint(field::SEQUENCE, u64::from(self.header.lane).saturating_add(1));
        if std::mem::take(&mut self.is_first) {
            packet.uint(field::SEQUENCE_FLAGS, CLEARED | NEEDS_STATE).uint(field::FIRST, 1);
        } else {
            packet.uint(field::SEQUENCE_FLAGS, NEEDS_STATE);
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

/// The number of a name; a new one is told with the next packet, which is the first to use it.
fn intern(
    known: &mut HashMap<String, u64>,
    interned: &mut ProtoMessage,
    field: u32,
    name: &str,
) -> u64 {
    if let Some(&id) = known.get(name) {
        return id;
    }
    let id = known.len() as u64 + 1;
    known.insert(name.to_owned(), id);
    let mut entry = ProtoMessage::default();
    entry.uint(field::ID, id).text(field::INTERNED_NAME, name);
    interned.message(field, &entry);
    id
}

/// What somebody did with its time, in a line.
fn spent(stint: &Stint) -> String {
    let span = |nanos| units::span(Duration::from_nanos(nanos));
    format!(
        "{}; waited {}, copied {}, in other calls {}, between calls {}",
        units::plural(stint.calls, "call"),
        span(stint.waiting_ns),
        span(stint.copying_ns),
        span(stint.other_ns),
        span(stint.between_ns)
    )
}
