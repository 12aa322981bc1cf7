//! A trace in Perfetto's format, for the Perfetto UI.
//!
//! The messages and the numbers of their fields are those of
//! <https://perfetto.dev/docs/reference/trace-packet-proto>. A test decodes the output with the
//! descriptors that Perfetto publishes. Times are nanoseconds of `CLOCK_MONOTONIC`, which a system
//! trace of the same machine can have as well.

mod field;

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::mem;
use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Header, Writers};
use proactor_report::units::{self, nanos};
use serde_json::{Value, json};

use super::protobuf::ProtoMessage;
use super::track_event::{Flow, Shape, Track, TrackEvent};
use super::tracks::TrackBuilder;
use crate::event::Event;
use crate::show::{fields, moment};
use crate::trace_file::TraceFile;
use crate::view::{ConnectionList, Cut, Lanes, ListOrder, ThreadSpan, TraceStats};

/// The default limit of connections, and of threads or children, that have tracks. Perfetto's UI
/// becomes unusable with thousands.
pub const PERFETTO_TRACKS: usize = 200;

/// The rank of the tracks below the loop and all counters.
const BELOW: u64 = 32;

/// The default limit of events in a file: more than this the UI loads slowly, or not at all.
pub const PERFETTO_EVENTS: usize = 1_000_000;

/// Writes the last `limit` events of a part of a trace in Perfetto's format: the loop's track, or
/// those of the `most` busiest threads or children; two tracks for each of the `most` worst
/// connections; and counters. Returns what was left out, one sentence each.
///
/// # Errors
/// `out` cannot be written to.
pub fn perfetto(
    trace: &TraceFile,
    cut: &Cut,
    most: usize,
    limit: usize,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let mut cut = *cut;
    let mut left_out: Vec<String> = shorten(&mut cut, trace, limit).into_iter().collect();
    let stats = TraceStats::of(trace, &cut);
    let description = stats.source.to_string();
    let has_buffers = stats.buffers.is_some_and(|buffers| buffers.fewest.is_some());
    let lanes = stats.lanes.clone();
    let list = ConnectionList::new(stats, most, ListOrder::Worst);
    let mut writer = PerfettoWriter {
        header: &trace.header,
        out: Vec::new(),
        texts: HashMap::new(),
        interned: ProtoMessage::default(),
        described: HashSet::new(),
        is_first: true,
        last: (0, None),
    };
    writer.common_tracks(&description, &list);
    let drawn = lanes.as_ref().map_or(Vec::new(), |lanes| lanes.busiest(most));
    lanes.iter().for_each(|lanes| writer.threads(lanes, &drawn));
    let mut tracks = TrackBuilder::new(&cut, &list, has_buffers, lanes, &drawn);
    let mut write = |all: Vec<TrackEvent>| {
        all.iter().for_each(|one| writer.track_event(one));
        out.write_all(&mem::take(&mut writer.out))
    };
    trace.events().try_for_each(|event| write(tracks.draw(event)))?;
    write(tracks.finish())?;
    left_out.extend((list.left_out > 0).then(|| {
        let connections = units::plural(list.left_out, "connection");
        let (has, have) = (list.left_out, list.connections.len() as u64);
        let [has, have] = [has, have].map(|n| units::agree(n, "has", "have"));
        format!("{connections} {has} no track: the {most} worst {have} (--connections)")
    }));
    Ok(left_out)
}

/// Cuts a part to its last `limit` events; says what that leaves out, if anything.
fn shorten(cut: &mut Cut, trace: &TraceFile, limit: usize) -> Option<String> {
    let times = || {
        let times = trace.records.iter().map(|record| trace.header.nanos(record.time));
        times.filter(|&time| cut.is_in_time(time))
    };
    let count = times().count();
    let since = times().nth(count.checked_sub(limit).filter(|&before| before > 0)?)?;
    let before = times().filter(|&time| time < since).count() as u64;
    cut.since = Some(Duration::from_nanos(since));
    let (before, count) = (units::count(before), units::count(count as u64));
    let since = moment(since);
    Some(format!(
        "the first {before} of {count} events are left out: it begins at {since} s (--events, or \
         --since and --until for another part)"
    ))
}

impl Track {
    /// The `uuid`: unique in the trace, and by the loop's number among the loops of a server. The
    /// lowest two bits are the side of a connection, or 3; zero would be the trace's own track.
    fn uuid(self, header: &Header) -> u64 {
        let conn_number = |conn: ConnId| {
            (u64::from(conn.generation()) << 32 | u64::from(conn.slot())).wrapping_add(1)
        };
        let (number, side) = match self {
            Track::Connection(conn) => (conn_number(conn), 0),
            Track::Inbound(conn) => (conn_number(conn), 1),
            Track::Outbound(conn) => (conn_number(conn), 2),
            Track::Process => (1, 3),
            Track::Loop => (2, 3),
            Track::Listeners => (3, 3),
            Track::Connections => (4, 3),
            Track::Undrawn => (5, 3),
            Track::Arrived => (6, 3),
            Track::Posted => (7, 3),
            Track::Counter(number, _) => (16 + number, 3),
            Track::Listener(index) => (64 + u64::from(index), 3),
            Track::Thread(index) => (1 << 40 | index as u64, 3),
            Track::ThreadGroup(process) => (1 << 41 | u64::from(process), 3),
        };
        u64::from(header.lane & 31) << 59 | number << 2 | side
    }

    /// The track that it is shown below.
    fn parent(self) -> Option<Track> {
        match self {
            Track::Process | Track::ThreadGroup(_) => None,
            Track::Listener(_) => Some(Track::Listeners),
            Track::Inbound(conn) | Track::Outbound(conn) => Some(Track::Connection(conn)),
            Track::Connection(_) => Some(Track::Connections),
            _ => Some(Track::Process),
        }
    }
}

/// Makes packets. They are taken out of `out` from time to time.
struct PerfettoWriter<'a> {
    header: &'a Header,
    out: Vec<u8>,
    /// The texts of each field of `InternedData`, and their numbers.
    texts: HashMap<u32, HashMap<String, u64>>,
    /// Texts that were interned since the last packet.
    interned: ProtoMessage,
    described: HashSet<Track>,
    is_first: bool,
    /// The last time that was written, and the number of its event.
    last: (u64, Option<u64>),
}

impl PerfettoWriter<'_> {
    /// Describes the tracks of every trace, the connections', and the loop's if there is one.
    fn common_tracks(&mut self, description: &str, list: &ConnectionList) {
        let header = self.header;
        // Without a `ProcessDescriptor`: below a process, Perfetto sorts tracks by name and ignores
        // their ranks.
        let name = format!("proactor {} {}", header.model(), header.pid);
        self.track(Track::Process, &name, 0, Some(description));
        if !self.has_threads() {
            self.track(Track::Loop, &format!("loop r{}", header.lane), 0, None);
        }
        self.track(Track::Listeners, "listeners", BELOW, None);
        let name = match list.left_out {
            0 => "connections, the worst first".to_owned(),
            n => format!("connections, the worst first ({n} left out)"),
        };
        self.track(Track::Connections, &name, BELOW + 1, None);
        for (rank, conn) in list.connections.iter().enumerate() {
            let (conn, name) = (conn.conn, format!("c{}", conn.conn));
            self.track(Track::Connection(conn), &name, rank as u64, None);
            self.track(Track::Inbound(conn), &format!("{name} in"), 1, None);
            self.track(Track::Outbound(conn), &format!("{name} out"), 2, None);
        }
    }

    /// Begins the description of a track.
    fn descriptor(&mut self, track: Track, parent: Option<Track>, name: &str) -> ProtoMessage {
        self.described.insert(track);
        let parent = parent.map(|parent| parent.uuid(self.header));
        let descriptor = ProtoMessage::default().uint(field::UUID, track.uuid(self.header));
        descriptor.text(field::TRACK_NAME, name).uint(field::PARENT, parent)
    }

    fn track(&mut self, track: Track, name: &str, rank: u64, description: Option<&str>) {
        let is_counter = matches!(track, Track::Counter(..));
        let counter =
            ProtoMessage::default().uint(field::UNIT, is_counter.then_some(field::PLAIN_COUNT));
        let descriptor = self
            .descriptor(track, track.parent(), name)
            .text(field::DESCRIPTION, description)
            .uint(field::ORDERING, field::BY_RANK)
            .uint(field::RANK, rank)
            .message(field::COUNTER, &counter);
        self.packet(ProtoMessage::default().message(field::DESCRIPTOR, &descriptor));
    }

    /// Describes the tracks of threads or children, and says how many have none.
    fn threads(&mut self, lanes: &Lanes, drawn: &[usize]) {
        let without = lanes.spans.len() - drawn.len();
        if without > 0 {
            let name = format!("{} {} have no track", units::count(without as u64), lanes.kind);
            let drawn = drawn.len();
            let description =
                format!("{drawn} have: the main one and those that made the most calls.");
            self.track(Track::Undrawn, &name, BELOW - 1, Some(&description));
        }
        drawn.iter().for_each(|&index| self.thread(index, &lanes.spans[index]));
    }

    /// Describes a thread's track. Perfetto shows it below its process, with the numbers that a
    /// system trace of the same machine has.
    fn thread(&mut self, index: usize, lived: &ThreadSpan) {
        let Some((thread, process)) = lived.thread.zip(lived.process) else {
            let name = format!("{} (started before the recording)", lived.lane);
            return self.track(Track::Thread(index), &name, 1, None);
        };
        let group = Track::ThreadGroup(process);
        if !self.described.contains(&group) {
            let name = match process == self.header.pid {
                true => "proactor".to_owned(),
                false => format!("proactor {}", lived.lane),
            };
            let own = ProtoMessage::default().uint(field::PID, u64::from(process));
            let own = own.text(field::PROCESS_NAME, &*name);
            let descriptor = self.descriptor(group, None, &name).message(field::PROCESS, &own);
            self.packet(ProtoMessage::default().message(field::DESCRIPTOR, &descriptor));
        }
        let own = ProtoMessage::default()
            .uint(field::THREAD_PID, u64::from(process))
            .uint(field::TID, u64::from(thread))
            .text(field::THREAD_NAME, &*lived.lane);
        let descriptor = self
            .descriptor(Track::Thread(index), Some(group), &lived.lane)
            .text(field::DESCRIPTION, &*time_spent(lived))
            .message(field::THREAD, &own);
        self.packet(ProtoMessage::default().message(field::DESCRIPTOR, &descriptor));
    }

    /// Writes what is drawn. A counter, a listener, and the loop if there are threads are described
    /// when they first occur.
    fn track_event(&mut self, one: &TrackEvent) {
        let track = one.track;
        if !self.described.contains(&track) {
            match track {
                Track::Counter(number, name) => self.track(track, name, 1 + number, None),
                Track::Listener(index) => {
                    self.track(track, &format!("listener {index}"), index.into(), None);
                }
                Track::Arrived => self.track(track, "kernel: data arrived", 1, None),
                Track::Posted => self.track(track, "kernel: completions posted", 2, None),
                _ => self.track(track, "the recording", 0, None),
            }
        }
        let (kind, name, value) = match &one.shape {
            Shape::Begin(name) => (field::SLICE_BEGIN, Some(name), None),
            Shape::End => (field::SLICE_END, None, None),
            Shape::Instant(name) => (field::INSTANT, Some(name), None),
            Shape::Value(value) => (field::COUNTER_VALUE, None, Some(*value)),
        };
        let name_id = name.map(|name| self.intern(field::EVENT_NAMES, name));
        let mut message = ProtoMessage::default()
            .uint(field::TYPE, kind)
            .uint(field::TRACK, track.uuid(self.header))
            .uint(field::NAME_ID, name_id)
            .uint(field::VALUE, value.map(|value| value.min(i64::MAX as u64)));
        message = match one.flow {
            Some(Flow::Continue(number)) => message.fixed(field::FLOW, number),
            Some(Flow::End(number)) => message.fixed(field::LAST_FLOW, number),
            None => message,
        };
        if let Some(event) = &one.event {
            message = self.annotated(message, event);
            // A thread serves several connections.
            if let (Track::Thread(_), Some(_), Some(conn)) = (track, name, event.conn) {
                message = self.annotate(message, "conn", &json!(format!("c{conn}")));
            }
        }
        let time = self.header.pairs[0].1.saturating_add(self.moment(one));
        let packet = ProtoMessage::default().uint(field::TIMESTAMP, time);
        self.packet(packet.message(field::TRACK_EVENT, &message));
    }

    fn has_threads(&self) -> bool {
        self.header.writers != Writers::One
    }

    /// The time that is written. With a clock per batch all operations of an iteration have the
    /// same time, and Perfetto stacks events of one time into as many rows. So each operation gets
    /// a nanosecond of its own.
    fn moment(&mut self, one: &TrackEvent) -> u64 {
        // These are earlier than what was written, and each has a time of its own.
        if matches!(one.track, Track::Arrived | Track::Posted) {
            return one.at;
        }
        // The slices of an iteration share their borders.
        let is_own = |event: &Event| event.op.is_some() || matches!(one.shape, Shape::Instant(_));
        let event = one.event.as_deref().filter(|event| is_own(event)).map(|event| event.number);
        let (last, number) = self.last;
        let is_next = event.is_some_and(|event| number != Some(event));
        self.last = (one.at.max(last.saturating_add(is_next.into())), event.or(number));
        self.last.0
    }

    /// Adds the fields that the event has in JSON lines.
    fn annotated(&mut self, mut to: ProtoMessage, event: &Event) -> ProtoMessage {
        if self.has_threads() {
            to = self.annotate(to, "lane", &json!(self.header.lane_name(event.lane)));
        }
        let fields = fields(self.header, event);
        fields.iter().fold(to, |to, (name, value)| self.annotate(to, name, value))
    }

    /// Adds a field. Zero and false are left out, but a result of zero is one.
    fn annotate(&mut self, to: ProtoMessage, name: &str, value: &Value) -> ProtoMessage {
        let one = ProtoMessage::default();
        let one = match value {
            Value::Bool(true) => one.uint(field::BOOL, 1),
            Value::String(text) => one.text(field::TEXT, &**text),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(0), _) if name != "res" => return to,
                (Some(number), _) => one.uint(field::UINT, number),
                (None, number) => one.uint(field::INT, number.unwrap_or(0) as u64),
            },
            _ => return to,
        };
        let key = self.intern(field::KEYS, name);
        to.message(field::ANNOTATION, &one.uint(field::KEY_ID, key))
    }

    fn packet(&mut self, packet: ProtoMessage) {
        let is_first = mem::take(&mut self.is_first);
        let flags = if is_first { field::CLEARED | field::NEEDS_STATE } else { field::NEEDS_STATE };
        let packet = packet
            .uint(field::SEQUENCE, u64::from(self.header.lane).saturating_add(1))
            .uint(field::SEQUENCE_FLAGS, flags)
            .uint(field::FIRST, is_first.then_some(1))
            .message(field::INTERNED, &mem::take(&mut self.interned));
        self.out.extend(ProtoMessage::default().message(field::PACKET, &packet).0);
    }

    /// Returns the number of a text. A new one is defined in the next packet, the first that refers
    /// to it, by this field of `InternedData`.
    fn intern(&mut self, field: u32, text: &str) -> u64 {
        let texts = self.texts.entry(field).or_default();
        if let Some(&id) = texts.get(text) {
            return id;
        }
        let id = texts.len() as u64 + 1;
        texts.insert(text.to_owned(), id);
        let entry = ProtoMessage::default().uint(field::ID, id).text(field::INTERNED_NAME, text);
        self.interned = mem::take(&mut self.interned).message(field, &entry);
        id
    }
}

/// How a thread spent its time, in a line.
fn time_spent(lived: &ThreadSpan) -> String {
    let spent = &lived.spent;
    format!(
        "{}; waited {}, copied {}, in other calls {}, between calls {}",
        units::plural(lived.calls, "call"),
        nanos(spent.waiting_ns),
        nanos(spent.copying_ns),
        nanos(spent.other_ns),
        nanos(spent.between_ns)
    )
}
