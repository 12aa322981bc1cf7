//! From events to what can be drawn: slices that nest, instants, and counters, each at its place.
//!
//! Whatever the events are, a slice that begins ends, on its own track, and within the one that it
//! began in: what would break that (records are lost, a file is damaged) becomes an instant.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::threads::Threads;
use crate::event::Event;
use crate::view::Cut;
use proactor::keys::ConnId;
use proactor::ring::{Kind, Token};
use proactor::selector::{Key, KeyOwner};
use proactor_record::Call;
use proactor_record::Errno;
use proactor_record::{Op, Payload};

/// Where something is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// What the loop does: turns, and in them the enter or wait, and the handling. Where there are
    /// many lanes, what none of them did.
    Loop,
    /// What a thread or a child does: by its number among the [stints](Lanes::stints).
    Lane(usize),
    /// What a listener accepts.
    Listener(u32),
    /// What comes in on a connection.
    In(ConnId),
    /// What goes out on it, and its end.
    Out(ConnId),
}

/// A number over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Gauge {
    /// Operations in flight.
    InFlight,
    /// Completions in the queue.
    Queue,
    /// Submissions that an enter took.
    Taken,
    /// Buffers that the kernel has.
    Buffers,
    /// Reports that a wait brought.
    Reports,
    /// Events of connections that are not drawn, by turn.
    Others,
    /// Threads or children in a call that waits.
    Asleep,
    /// The others.
    Awake,
    /// Calls that have begun and not ended.
    Calls,
}

impl Gauge {
    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Gauge::InFlight => "in flight",
            Gauge::Queue => "completions in the queue",
            Gauge::Taken => "batch: submissions per enter",
            Gauge::Buffers => "free buffers",
            Gauge::Reports => "batch: reports per wait",
            Gauge::Others => "events of connections without a track",
            Gauge::Asleep => "asleep: in a call that waits",
            Gauge::Awake => "awake: between calls, or in one that does not wait",
            Gauge::Calls => "calls in flight",
        }
    }
}

/// Something to draw.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stroke<'a> {
    /// When: nanoseconds since recording began.
    pub(super) at: u64,
    /// What.
    pub(super) what: Draw<'a>,
}

impl<'a> Stroke<'a> {
    /// What it is drawn for, if it is an event.
    pub(super) fn event(&self) -> Option<&'a Event> {
        match self.what {
            Draw::Begin { event, .. } | Draw::Instant { event, .. } => Some(event),
            Draw::End { event, .. } => event,
            Draw::Count { .. } => None,
        }
    }
}

/// What to draw.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Draw<'a> {
    /// A slice begins. A flow leads to it.
    Begin { place: Place, name: String, event: &'a Event, flow: Option<Flow> },
    /// The slice that began last at this place, and has not ended, ends; with what ended it.
    End { place: Place, event: Option<&'a Event> },
    /// A moment; the flow that begins or ends with it.
    Instant { place: Place, name: String, event: &'a Event, flow: Option<Flow> },
    /// A number changes.
    Count { gauge: Gauge, value: u64 },
}

/// An arrow from a submission to its completion, or from who writes to a connection that is
/// another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// It begins, or goes on.
    On(u64),
    /// It ends.
    Last(u64),
}

/// What is open on the loop's track, the outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Turn,
    Inside,
    Handle,
    /// Whose and which.
    Call(u64, u8),
}

/// By whom something is made, whose it is, and which operation or call.
type Made = (Option<u16>, u64, u8);

/// Draws events, to be given in their order.
#[derive(Debug)]
pub(super) struct Scene {
    /// Where many recorded: what each of them does.
    threads: Option<Threads>,
    /// Connections to draw.
    drawn: HashSet<ConnId>,
    /// Whether it is known how many buffers the kernel has.
    buffers: bool,
    blocks: Vec<Block>,
    /// By place, whose slice is open there.
    open: HashMap<Place, Made>,
    /// By token, the number of its flow.
    flows: HashMap<u64, u64>,
    lent: u64,
    filled: u64,
    others: u64,
    last: u64,
    /// By lane, the call that it was in before what is drawn.
    before: BTreeMap<u16, Event>,
}

impl Scene {
    /// Of these connections, and of the loop or of all who recorded.
    pub(super) fn new(drawn: HashSet<ConnId>, buffers: bool, threads: Option<Threads>) -> Scene {
        Scene {
            threads,
            drawn,
            buffers,
            blocks: Vec::new(),
            open: HashMap::new(),
            flows: HashMap::new(),
            lent: 0,
            filled: 0,
            others: 0,
            last: 0,
            before: BTreeMap::new(),
        }
    }

    /// Draws one, if it is within the time that is cut out. Of many lanes, those that are in a call
    /// when that begins are in it from then on.
    pub(super) fn draw(&mut self, event: &Event, cut: &Cut, mut pen: impl FnMut(Stroke<'_>)) {
        if cut.is_in_time(event.at) {
            let before = std::mem::take(&mut self.before);
            before.values().for_each(|begun| self.put(begun, &mut pen));
            return self.put(event, &mut pen);
        }
        let Some(lane) = event.lane.filter(|_| self.threads.is_some()) else { return };
        self.before.remove(&lane);
        if matches!(event.what, Payload::CallBegin { .. } | Payload::WaitBegin { .. })
            && let Some(since) = cut.since
        {
            let at = event.at.max(since.as_nanos() as u64);
            self.before.insert(lane, Event { at, ..event.clone() });
        }
    }

    fn put(&mut self, event: &Event, pen: &mut impl FnMut(Stroke<'_>)) {
        self.last = event.at;
        let mut put = |what: Draw<'_>| pen(Stroke { at: event.at, what });
        if self.threads.is_some() {
            return self.made(event, &mut put);
        }
        match &event.what {
            Payload::EnterBegin { .. } | Payload::WaitBegin { .. } => self.begin(event, &mut put),
            Payload::EnterEnd { result, provided, .. } => {
                self.back(event, &mut put);
                self.lent += u64::from(*provided);
                count(&mut put, Gauge::Taken, u64::from(result.unwrap_or(0)));
                count(&mut put, Gauge::Queue, u64::from(event.completions));
                count(&mut put, Gauge::InFlight, event.in_flight.total as u64);
                if self.buffers {
                    count(&mut put, Gauge::Buffers, self.lent.saturating_sub(self.filled));
                }
            }
            Payload::WaitEnd { result, .. } => {
                self.back(event, &mut put);
                count(&mut put, Gauge::Reports, u64::from(result.unwrap_or(0)));
            }
            Payload::Completed { buffer, .. } => {
                self.filled += u64::from(buffer.is_some());
                self.operation(event, &mut put);
            }
            Payload::Submitted { .. } | Payload::Implied { .. } => self.operation(event, &mut put),
            Payload::Ready { .. } | Payload::CallBegin { .. } | Payload::CallEnd { .. } => {
                self.call(event, &mut put);
            }
            Payload::Lost(_) => {
                self.close(&mut put);
                instant(&mut put, Place::Loop, event, None);
            }
            Payload::Mark(_) | Payload::Frozen(_) | Payload::Unknown => {
                instant(&mut put, Place::Loop, event, None);
            }
            Payload::Clock(_) | Payload::Lane { .. } => {}
        }
    }

    /// Ends what is open: nothing comes any more.
    pub(super) fn finish(mut self, mut pen: impl FnMut(Stroke<'_>)) {
        let at = self.last;
        let mut put = |what: Draw<'_>| pen(Stroke { at, what });
        self.close(&mut put);
        if self.threads.is_some() {
            self.tell_others(&mut put);
        }
    }

    /// Something that one of many made: its part, and the connection's.
    fn made(&mut self, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        match event.what {
            Payload::Lost(_) => self.close(put),
            Payload::Lane { .. } => self.leave(event.lane, put),
            Payload::WaitBegin { .. } => self.tell_others(put),
            _ => {}
        }
        let place = self.place(event);
        let Some(threads) = &mut self.threads else { return };
        let flow = threads.draw(event, place, put);
        match event.what {
            Payload::Lost(_) | Payload::Frozen(_) | Payload::Unknown => {
                instant(put, Place::Loop, event, None);
            }
            Payload::Ready { .. } | Payload::CallBegin { .. } | Payload::CallEnd { .. } => {
                let Some(place) = place.filter(|&place| place != Place::Loop) else { return };
                self.side(place, event, flow, put);
            }
            _ => {}
        }
    }

    /// Whoever was in this lane is no more: what it was at ends.
    fn leave(&mut self, lane: Option<u16>, put: &mut impl FnMut(Draw<'_>)) {
        let its = self.open.iter().filter(|&(_, &(by, ..))| by == lane);
        let mut places: Vec<Place> = its.map(|(&place, _)| place).collect();
        places.sort_unstable(); // The same trace makes the same file.
        for place in places {
            self.open.remove(&place);
            put(Draw::End { place, event: None });
        }
    }

    fn tell_others(&mut self, put: &mut impl FnMut(Draw<'_>)) {
        if self.others > 0 {
            count(put, Gauge::Others, std::mem::take(&mut self.others));
        }
    }

    /// A turn ends and the next begins, with an enter or a wait.
    fn begin(&mut self, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        self.close_loop(put);
        self.tell_others(put);
        if matches!(event.what, Payload::EnterBegin { .. }) {
            count(put, Gauge::Queue, 0);
        }
        self.block(Block::Turn, "turn", event, put);
        self.block(Block::Inside, event.name().trim_matches(['<', '>']), event, put);
    }

    /// The enter or wait is over, and handling begins.
    fn back(&mut self, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        if self.blocks.last() == Some(&Block::Inside) {
            self.blocks.pop();
            put(Draw::End { place: Place::Loop, event: Some(event) });
        } else {
            self.close_loop(put);
            self.block(Block::Turn, "turn", event, put);
        }
        self.block(Block::Handle, "handle", event, put);
    }

    fn block(&mut self, block: Block, name: &str, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        self.blocks.push(block);
        put(Draw::Begin { place: Place::Loop, name: name.to_owned(), event, flow: None });
    }

    /// An operation of a ring: the loop's part, and the connection's.
    fn operation(&mut self, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        let id = event.raw.id;
        let Some(place) = self.place(event) else { return };
        let flow = match event.what {
            Payload::Submitted { .. } => {
                // A record's number is unique, and so is a flow's.
                let number = event.number.wrapping_add(1);
                self.flows.insert(id, number);
                Some(Flow::On(number))
            }
            // An arrow through each of a thousand shots would hide all others.
            Payload::Completed { more: true, .. } => None,
            _ => self.flows.remove(&id).map(Flow::Last),
        };
        instant(put, Place::Loop, event, flow);
        if place == Place::Loop {
            return;
        }
        let is_slice = matches!(
            event.op,
            Some(Op::Ring(
                Kind::Accept
                    | Kind::Recv
                    | Kind::Send
                    | Kind::PollAccept
                    | Kind::PollRecv
                    | Kind::PollSend
            ))
        );
        let is_open = self.open.get(&place) == Some(&(None, id, 0));
        match event.what {
            Payload::Submitted { .. } if is_slice && !self.open.contains_key(&place) => {
                self.open.insert(place, (None, id, 0));
                put(Draw::Begin { place, name: label(event), event, flow });
            }
            Payload::Completed { more, .. } if is_open && (more || event.is_multishot()) => {
                instant(put, place, event, None);
                if !more {
                    self.end(place, event, put);
                }
            }
            Payload::Completed { .. } | Payload::Implied { .. } if is_open => {
                self.end(place, event, put);
            }
            _ => instant(put, place, event, None),
        }
    }

    /// A call of the loop's, or the report that leads to it: its part, and the connection's.
    fn call(&mut self, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        let Some(place) = self.place(event) else { return };
        let (id, op) = (event.raw.id, event.raw.op);
        match event.what {
            Payload::CallBegin { .. } if !matches!(self.blocks.last(), Some(Block::Call(..))) => {
                self.block(Block::Call(id, op), event.op.map_or("call", Op::name), event, put);
            }
            Payload::CallEnd { .. } if self.blocks.last() == Some(&Block::Call(id, op)) => {
                self.blocks.pop();
                put(Draw::End { place: Place::Loop, event: Some(event) });
            }
            Payload::CallBegin { .. } | Payload::CallEnd { .. } => {}
            _ => return instant(put, place, event, None),
        }
        if place != Place::Loop {
            self.side(place, event, None, put);
        }
    }

    /// A connection's or a listener's part of a call or a report.
    fn side(
        &mut self,
        place: Place,
        event: &Event,
        flow: Option<Flow>,
        put: &mut impl FnMut(Draw<'_>),
    ) {
        let made = (event.lane, event.raw.id, event.raw.op);
        match event.what {
            Payload::CallBegin { .. } if !self.open.contains_key(&place) => {
                self.open.insert(place, made);
                put(Draw::Begin { place, name: label(event), event, flow });
            }
            Payload::CallBegin { .. } => {}
            Payload::CallEnd { .. } if self.open.get(&place) == Some(&made) => {
                self.end(place, event, put);
            }
            _ => instant(put, place, event, None),
        }
    }

    fn end(&mut self, place: Place, event: &Event, put: &mut impl FnMut(Draw<'_>)) {
        self.open.remove(&place);
        put(Draw::End { place, event: Some(event) });
    }

    fn close_loop(&mut self, put: &mut impl FnMut(Draw<'_>)) {
        for _ in self.blocks.drain(..) {
            put(Draw::End { place: Place::Loop, event: None });
        }
    }

    fn close(&mut self, put: &mut impl FnMut(Draw<'_>)) {
        self.close_loop(put);
        if let Some(threads) = &mut self.threads {
            threads.close(put);
        }
        self.flows.clear();
        for (place, _) in self.open.drain() {
            put(Draw::End { place, event: None });
        }
    }

    /// Where it belongs; `None` if that connection is not drawn.
    fn place(&mut self, event: &Event) -> Option<Place> {
        let Some(conn) = event.conn else { return Some(elsewhere(event)) };
        if !self.drawn.contains(&conn) {
            self.others += 1;
            return None;
        }
        let comes_in = match event.op {
            Some(Op::Ring(kind)) => matches!(kind, Kind::Recv | Kind::PollRecv | Kind::CancelRecv),
            Some(Op::Call(call)) => call == Call::Recv,
            Some(Op::Wait) | None => true,
        };
        Some(if comes_in { Place::In(conn) } else { Place::Out(conn) })
    }
}

/// The place of what is no connection's.
fn elsewhere(event: &Event) -> Place {
    match event.op {
        Some(Op::Ring(Kind::Accept | Kind::PollAccept | Kind::CancelAccept)) => {
            Place::Listener(Token(event.raw.id).listener().0.into())
        }
        Some(Op::Ring(_)) => Place::Loop,
        _ => match KeyOwner::from(Key(event.raw.id)) {
            KeyOwner::Listener(id) => Place::Listener(id.0.into()),
            KeyOwner::Conn(_)
            | KeyOwner::Shutdown
            | KeyOwner::Console
            | KeyOwner::External(_)
            | KeyOwner::Link(_) => Place::Loop,
        },
    }
}

pub(super) fn count(put: &mut impl FnMut(Draw<'_>), gauge: Gauge, value: u64) {
    put(Draw::Count { gauge, value });
}

pub(super) fn instant(
    put: &mut impl FnMut(Draw<'_>),
    place: Place,
    event: &Event,
    flow: Option<Flow>,
) {
    let name = match (place, event.op) {
        (Place::Loop | Place::Lane(_), Some(op)) => format!("{} {}", event.name(), op.name()),
        _ => label(event),
    };
    put(Draw::Instant { place, name, event, flow });
}

/// What it is called where it is drawn: its operation, and what is remarkable about its end.
pub(super) fn label(event: &Event) -> String {
    let name = event.op.map_or_else(|| event.name(), Op::name);
    let is_recv = matches!(event.op, Some(Op::Ring(Kind::Recv) | Op::Call(Call::Recv)));
    match event.result() {
        Some(Ok(0)) if is_recv => format!("{name} EOF"),
        Some(Err(Errno(libc::EAGAIN))) if matches!(event.op, Some(Op::Call(_))) => {
            format!("{name} would block")
        }
        Some(Err(errno)) => format!("{name} {errno}"),
        _ => name.to_owned(),
    }
}
