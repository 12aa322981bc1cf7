//! What Perfetto and the page draw, in Perfetto's terms: slices, instants and counters on tracks.

use proactor::keys::ConnId;
use proactor_record::numbered;

use crate::event::Event;

/// A track: a row of slices and instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TimelineTrack {
    /// The loop: its iterations, with the enter or wait and the handling in each. With many
    /// writers, the events that belong to none of them.
    Loop,
    /// A thread or a child process, by its index among those of the recording.
    Thread(usize),
    /// A listener: what it accepts.
    Listener(u32),
    /// The receives of a connection.
    Inbound(ConnId),
    /// A connection's sends and its end.
    Outbound(ConnId),
}

numbered! {
    /// A number that changes over time. The name is the title of its track.
    CounterTrack {
        /// All operations in flight.
        InFlight = 0, "in flight";
        /// Completions in the queue.
        Queue = 1, "completions in the queue";
        /// Submissions that an enter took.
        Taken = 2, "batch: submissions per enter";
        /// Buffers that the kernel can use.
        Buffers = 3, "free buffers";
        /// Ready descriptors that a wait returned.
        Ready = 4, "batch: ready descriptors per wait";
        /// Events of connections without a track, for each iteration.
        Undrawn = 5, "events of connections without a track";
        /// Threads or children in a call that waits.
        Asleep = 6, "asleep: in a call that waits";
        /// All other threads or children.
        Awake = 7, "awake: between calls, or in one that does not wait";
        /// Calls that have begun and not ended.
        Calls = 8, "calls in flight";
    }
}

/// A flow: from a submission to its completion, or from a thread's send to a connection that
/// another thread serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The flow with this number begins or continues here.
    Continue(u64),
    /// The flow with this number ends here.
    End(u64),
}

/// A slice's begin or end, an instant, or a counter's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TrackEvent<'a> {
    /// A slice begins, and a flow may lead to it.
    Begin(Drawn<'a>),
    /// The innermost slice of the track ends, by this event if one ended it.
    End { track: TimelineTrack, event: Option<&'a Event> },
    /// An instant, where a flow may begin or end.
    Instant(Drawn<'a>),
    /// A counter has a new value.
    Count { counter: CounterTrack, value: u64 },
}

/// What is drawn of an event on one track.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn<'a> {
    pub(super) track: TimelineTrack,
    pub(super) name: String,
    pub(super) event: &'a Event,
    pub(super) flow: Option<Flow>,
}

/// Receives track events, each with its time in nanoseconds since recording began.
pub(super) type WriteEvent<'s> = dyn FnMut(u64, TrackEvent<'_>) + 's;

/// Receives the track events of one moment.
pub(super) struct Sink<'s> {
    pub(super) at: u64,
    pub(super) write: &'s mut WriteEvent<'s>,
}

impl Sink<'_> {
    /// Begins a slice on a track.
    pub(super) fn begin(
        &mut self,
        track: TimelineTrack,
        name: &str,
        event: &Event,
        flow: Option<Flow>,
    ) {
        let name = name.to_owned();
        (self.write)(self.at, TrackEvent::Begin(Drawn { track, name, event, flow }));
    }

    /// Ends the innermost slice of a track.
    pub(super) fn end(&mut self, track: TimelineTrack, event: Option<&Event>) {
        (self.write)(self.at, TrackEvent::End { track, event });
    }

    /// Draws an instant, with a name that fits the track.
    pub(super) fn instant(&mut self, track: TimelineTrack, event: &Event, flow: Option<Flow>) {
        let name = match (track, event.op) {
            (TimelineTrack::Loop | TimelineTrack::Thread(_), Some(op)) => {
                format!("{} {}", event.name(), op.name())
            }
            _ => label(event),
        };
        (self.write)(self.at, TrackEvent::Instant(Drawn { track, name, event, flow }));
    }

    /// Sets the value of a counter.
    pub(super) fn count(&mut self, counter: CounterTrack, value: u64) {
        (self.write)(self.at, TrackEvent::Count { counter, value });
    }
}

/// The name of an event where it is drawn: its operation, and how it ended if not as usual.
pub(super) fn label(event: &Event) -> String {
    let name = event.op_name().trim_matches(['<', '>']);
    match event.result() {
        _ if event.is_eof() => format!("{name} EOF"),
        _ if event.would_block() => format!("{name} would block"),
        Some(Err(errno)) => format!("{name} {errno}"),
        _ => name.to_owned(),
    }
}
