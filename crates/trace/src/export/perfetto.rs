//! A trace in Perfetto's format, for the Perfetto UI.
//!
//! The messages and the numbers of their fields are those of
//! <https://perfetto.dev/docs/reference/trace-packet-proto>. A test decodes the output with the
//! descriptors that Perfetto publishes. Times are nanoseconds of `CLOCK_MONOTONIC`, which a system
//! trace of the same machine can have as well.

mod field;

use std::collections::HashSet;
use std::io::{self, Write};
use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Header, Trace, Writers};
use proactor_report::units;
use serde_json::{Value, json};

use super::protobuf::ProtoMessage;
use super::string_table::StringTable;
use super::track_event::{CounterTrack, Drawn, Flow, TimelineTrack, TrackEvent};
use super::tracks::TrackBuilder;
use crate::event::{Event, events};
use crate::show::fields;
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
    let mut writer = PerfettoWriter {
        header: &trace.header,
        out,
        names: StringTable::default(),
        keys: StringTable::default(),
        interned: ProtoMessage::default(),
        described: HashSet::new(),
        is_first: true,
        last: (0, None),
    };
    writer.common_tracks(&description, &list, trace.header.writers == Writers::One)?;
    let drawn = lanes.as_ref().map_or(Vec::new(), |lanes| lanes.busiest(most));
    lanes.as_ref().map_or(Ok(()), |lanes| writer.threads(lanes, &drawn))?;
    let mut tracks = TrackBuilder::new(cut, &list, has_buffers, lanes, &drawn);
    let mut result = Ok(());
    let mut write = |at: u64, event: TrackEvent<'_>| {
        if result.is_ok() {
            result = writer.track_event(at, &event);
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
    Listeners,
    Connections,
    /// The parent of both tracks of a connection.
    Connection(ConnId),
    /// The track whose name says how many threads have none.
    Undrawn,
    /// The process of a thread.
    ThreadGroup(u32),
    Counter(CounterTrack),
    Timeline(TimelineTrack),
}

impl TrackId {
    /// The `uuid`: unique in the trace, and by the loop's number among the loops of a server. The
    /// lowest two bits are the side of a connection, or 3; zero would be the trace's own track.
    fn uuid(self, header: &Header) -> u64 {
        let conn_number = |conn: ConnId| {
            (u64::from(conn.generation()) << 32 | u64::from(conn.slot())).wrapping_add(1)
        };
        let (number, side) = match self {
            TrackId::Connection(conn) => (conn_number(conn), 0),
            TrackId::Timeline(TimelineTrack::Inbound(conn)) => (conn_number(conn), 1),
            TrackId::Timeline(TimelineTrack::Outbound(conn)) => (conn_number(conn), 2),
            TrackId::Process => (1, 3),
            TrackId::Timeline(TimelineTrack::Loop) => (2, 3),
            TrackId::Listeners => (3, 3),
            TrackId::Connections => (4, 3),
            TrackId::Undrawn => (5, 3),
            TrackId::Counter(counter) => (16 + counter as u64, 3),
            TrackId::Timeline(TimelineTrack::Listener(index)) => (64 + u64::from(index), 3),
            TrackId::Timeline(TimelineTrack::Thread(index)) => (1 << 40 | index as u64, 3),
            TrackId::ThreadGroup(process) => (1 << 41 | u64::from(process), 3),
        };
        u64::from(header.lane & 31) << 59 | number << 2 | side
    }

    /// The track that it is shown below.
    fn parent(self) -> Option<TrackId> {
        match self {
            TrackId::Process | TrackId::ThreadGroup(_) => None,
            TrackId::Timeline(TimelineTrack::Listener(_)) => Some(TrackId::Listeners),
            TrackId::Timeline(TimelineTrack::Inbound(conn) | TimelineTrack::Outbound(conn)) => {
                Some(TrackId::Connection(conn))
            }
            TrackId::Connection(_) => Some(TrackId::Connections),
            _ => Some(TrackId::Process),
        }
    }
}

struct PerfettoWriter<'a, W> {
    header: &'a Header,
    out: W,
    names: StringTable,
    keys: StringTable,
    /// Texts that were interned since the last packet.
    interned: ProtoMessage,
    /// Tracks that are described where they first occur.
    described: HashSet<u64>,
    is_first: bool,
    /// The last time that was written, and the number of its event.
    last: (u64, Option<u64>),
}

impl<W: Write> PerfettoWriter<'_, W> {
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
        self.track(TrackId::Process, &name, 0, description)?;
        if has_loop {
            let name = format!("loop r{}", header.lane);
            self.track(TrackId::Timeline(TimelineTrack::Loop), &name, 0, "")?;
        }
        self.track(TrackId::Listeners, "listeners", BELOW, "")?;
        let name = match list.left_out {
            0 => "connections, the worst first".to_owned(),
            n => format!("connections, the worst first ({n} left out)"),
        };
        self.track(TrackId::Connections, &name, BELOW + 1, "")?;
        for (rank, conn) in list.connections.iter().enumerate() {
            let name = format!("c{}", conn.conn);
            self.track(TrackId::Connection(conn.conn), &name, rank as u64, "")?;
            let inbound = TrackId::Timeline(TimelineTrack::Inbound(conn.conn));
            self.track(inbound, &format!("{name} in"), 1, "")?;
            let outbound = TrackId::Timeline(TimelineTrack::Outbound(conn.conn));
            self.track(outbound, &format!("{name} out"), 2, "")?;
        }
        Ok(())
    }

    /// Begins the description of a track.
    fn descriptor(
        &self,
        id: TrackId,
        parent: Option<TrackId>,
        name: &str,
        description: &str,
    ) -> ProtoMessage {
        let mut track = ProtoMessage::default();
        track.uint(field::UUID, id.uuid(self.header)).text(field::TRACK_NAME, name);
        if let Some(parent) = parent {
            track.uint(field::PARENT, parent.uuid(self.header));
        }
        if !description.is_empty() {
            track.text(field::DESCRIPTION, description);
        }
        track
    }

    fn track(&mut self, id: TrackId, name: &str, rank: u64, description: &str) -> io::Result<()> {
        let mut track = self.descriptor(id, id.parent(), name, description);
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
        let id = TrackId::Timeline(TimelineTrack::Thread(index));
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
            let mut track = self.descriptor(group, None, &name, "");
            track.message(field::PROCESS, &own);
            self.write_track(&track)?;
        }
        let mut own = ProtoMessage::default();
        own.uint(field::THREAD_PID, process.into())
            .uint(field::TID, thread.into())
            .text(field::THREAD_NAME, &lived.lane);
        let mut track = self.descriptor(id, Some(group), &lived.lane, &time_spent(lived));
        track.message(field::THREAD, &own);
        self.write_track(&track)
    }

    fn track_event(&mut self, at: u64, one: &TrackEvent<'_>) -> io::Result<()> {
        let time = self.header.pairs[0].1.saturating_add(self.moment(at, one));
        let mut message = ProtoMessage::default();
        match one {
            TrackEvent::Begin(drawn) => self.draw(&mut message, field::SLICE_BEGIN, drawn)?,
            TrackEvent::Instant(drawn) => self.draw(&mut message, field::INSTANT, drawn)?,
            TrackEvent::End { track, event } => {
                let track = TrackId::Timeline(*track).uuid(self.header);
                message.uint(field::TYPE, field::SLICE_END).uint(field::TRACK, track);
                event.iter().for_each(|event| self.annotate(&mut message, event));
            }
            TrackEvent::Count { counter, value } => {
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
        let mut packet = ProtoMessage::default();
        packet.uint(field::TIMESTAMP, time).message(field::TRACK_EVENT, &message);
        self.packet(packet)
    }

    /// Sets the track, the name, the flow and the annotations of a slice or an instant. The track
    /// of a listener, and the loop's if there are threads, is described when it is first used.
    fn draw(&mut self, message: &mut ProtoMessage, kind: u64, drawn: &Drawn<'_>) -> io::Result<()> {
        let id = TrackId::Timeline(drawn.track);
        let uuid = id.uuid(self.header);
        match drawn.track {
            TimelineTrack::Listener(index) if self.described.insert(uuid) => {
                self.track(id, &format!("listener {index}"), index.into(), "")?;
            }
            TimelineTrack::Loop if self.has_threads() && self.described.insert(uuid) => {
                self.track(id, "the recording", 0, "")?;
            }
            _ => {}
        }
        let name = intern(&mut self.names, &drawn.name, field::EVENT_NAMES, &mut self.interned);
        message.uint(field::TYPE, kind).uint(field::TRACK, uuid).uint(field::NAME_ID, name);
        match drawn.flow {
            Some(Flow::Continue(number)) => _ = message.fixed(field::FLOW, number),
            Some(Flow::End(number)) => _ = message.fixed(field::LAST_FLOW, number),
            None => {}
        }
        self.annotate(message, drawn.event);
        // A thread serves several connections.
        if let (TimelineTrack::Thread(_), Some(conn)) = (drawn.track, drawn.event.conn) {
            self.annotation(message, "conn", json!(format!("c{conn}")));
        }
        Ok(())
    }

    fn has_threads(&self) -> bool {
        self.header.writers != Writers::One
    }

    /// The time that is written. With a clock per batch all operations of an iteration have the
    /// same time, and Perfetto stacks events of one time into as many rows. So each operation gets
    /// a nanosecond of its own.
    fn moment(&mut self, at: u64, one: &TrackEvent<'_>) -> u64 {
        let event = match one {
            TrackEvent::Instant(drawn) => Some(drawn.event),
            TrackEvent::Begin(drawn) => Some(drawn.event).filter(|event| event.op.is_some()),
            // The slices of an iteration share their borders.
            TrackEvent::End { event, .. } => event.filter(|event| event.op.is_some()),
            TrackEvent::Count { .. } => None,
        };
        let (last, number) = self.last;
        let event = event.map(|event| event.number);
        let is_next = event.is_some_and(|event| number != Some(event));
        self.last = (at.max(last.saturating_add(is_next.into())), event.or(number));
        self.last.0
    }

    /// Adds the fields that the event has in JSON lines.
    fn annotate(&mut self, to: &mut ProtoMessage, event: &Event) {
        if self.has_threads() {
            self.annotation(to, "lane", json!(self.header.lane_name(event.lane)));
        }
        for (name, value) in fields(self.header, event) {
            self.annotation(to, &name, value);
        }
    }

    /// Adds a field. Zero and false are left out, but a result of zero is one.
    fn annotation(&mut self, to: &mut ProtoMessage, name: &str, value: Value) {
        let mut one = ProtoMessage::default();
        match value {
            Value::Bool(true) => one.uint(field::BOOL, 1),
            Value::String(text) => one.text(field::TEXT, &text),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(0), _) if name != "res" => return,
                (Some(number), _) => one.uint(field::UINT, number),
                (None, number) => one.int(field::INT, number.unwrap_or(0)),
            },
            _ => return,
        };
        one.uint(field::KEY_ID, intern(&mut self.keys, name, field::KEYS, &mut self.interned));
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

/// Returns the number of a text. A new one is defined in the next packet, the first that refers to
/// it, by this field of `InternedData`.
fn intern(table: &mut StringTable, text: &str, field: u32, interned: &mut ProtoMessage) -> u64 {
    let known = table.all().len();
    let id = u64::from(table.number(text)) + 1;
    if table.all().len() > known {
        let mut entry = ProtoMessage::default();
        entry.uint(field::ID, id).text(field::INTERNED_NAME, text);
        interned.message(field, &entry);
    }
    id
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
