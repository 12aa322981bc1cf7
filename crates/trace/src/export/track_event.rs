//! What Perfetto and the page draw, in Perfetto's terms: slices, instants and counters on tracks.

use std::rc::Rc;

use proactor::keys::ConnId;

use crate::event::Event;

/// A track: a row of slices and instants, a number that changes over time, or a parent of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Track {
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
    /// When what operations waited for arrived, as the kernel's events say.
    Arrived,
    /// When completions were posted, as the kernel's events say.
    Posted,
    /// A number that changes over time, by its number and its title.
    Counter(u64, &'static str),
    /// The whole recording: the parent of all other tracks.
    Process,
    /// The parent of all listeners.
    Listeners,
    /// The parent of all connections.
    Connections,
    /// The parent of both tracks of a connection.
    Connection(ConnId),
    /// The track whose name says how many threads have none.
    Undrawn,
    /// The process of a thread.
    ThreadGroup(u32),
}

/// All operations in flight.
pub(super) const IN_FLIGHT: Track = Track::Counter(0, "in flight");
/// Completions in the queue.
pub(super) const QUEUE: Track = Track::Counter(1, "completions in the queue");
/// Submissions that an enter took.
pub(super) const TAKEN: Track = Track::Counter(2, "batch: submissions per enter");
/// Buffers that the kernel can use.
pub(super) const BUFFERS: Track = Track::Counter(3, "free buffers");
/// Ready descriptors that a wait returned.
pub(super) const READY: Track = Track::Counter(4, "batch: ready descriptors per wait");
/// Events of connections without a track, for each iteration.
pub(super) const UNDRAWN: Track = Track::Counter(5, "events of connections without a track");
/// Threads or children in a call that waits.
pub(super) const ASLEEP: Track = Track::Counter(6, "asleep: in a call that waits");
/// All other threads or children.
pub(super) const AWAKE: Track =
    Track::Counter(7, "awake: between calls, or in one that does not wait");
/// Calls that have begun and not ended.
pub(super) const CALLS: Track = Track::Counter(8, "calls in flight");

/// What is drawn on a track at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrackEvent {
    /// Nanoseconds since recording began.
    pub(super) at: u64,
    pub(super) track: Track,
    pub(super) shape: Shape,
    /// The event that is drawn; `None` of a number, and of a slice whose end is not known.
    pub(super) event: Option<Rc<Event>>,
    pub(super) flow: Option<Flow>,
}

/// A slice's begin or end, an instant, or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// A slice with this name begins.
    Begin(String),
    /// The innermost slice of the track ends.
    End,
    /// An instant with this name.
    Instant(String),
    /// The counter has a new value.
    Value(u64),
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
