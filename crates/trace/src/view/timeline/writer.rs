//! What happens to a connection, step by step: events in, steps in words out.

use super::super::connection::Exchange;
use super::super::source::Cut;
use super::Step;
use crate::event::{Begun, Event};
use crate::show::readiness;
use crate::trace_file::TraceFile;
use proactor::keys::ConnId;
use proactor::ring::Kind;
use proactor_record::format::MAIN;
use proactor_record::{Content, Header, Level, OpKind};
use proactor_report::units::nanos;

/// Makes steps of events.
pub(super) struct TimelineWriter<'a> {
    conn: ConnId,
    header: &'a Header,
    /// Whether the connection has a thread or process of its own, in the lane of its slot.
    has_own_lane: bool,
    pub(super) steps: Vec<Step>,
    /// The number of the exchange.
    exchange: u64,
    /// When a receive was first armed, while it has brought nothing.
    armed: Option<u64>,
    seen: bool,
}

impl<'a> TimelineWriter<'a> {
    pub(super) fn new(conn: ConnId, trace: &'a TraceFile) -> TimelineWriter<'a> {
        let is_own = |event: Event| event.conn == Some(conn) && is_own_lane(conn, &event);
        TimelineWriter {
            conn,
            header: &trace.header,
            has_own_lane: trace.events().any(is_own),
            steps: Vec::new(),
            exchange: 0,
            armed: None,
            seen: false,
        }
    }

    pub(super) fn see(&mut self, event: &Event, cut: &Cut) {
        if event.conn != Some(self.conn) {
            return;
        }
        let Some(what) = self.words(event) else { return };
        // A recording may begin in the middle: after a message or a send, nothing is timed.
        let is_first = !std::mem::replace(&mut self.seen, true);
        let mut step = Step {
            at_ns: event.at,
            exchange: self.exchange,
            what,
            ends: None,
            begins: false,
            abnormal: event.is_abnormal(),
            sends: event.op.is_some_and(OpKind::sends),
        };
        if event.is_message() {
            self.exchange += 1;
            step.exchange = self.exchange;
            step.begins = true;
            if let Some(armed) = self.armed.take() {
                step.ends = Some((event.at.saturating_sub(armed), "to the first data"));
            }
        } else if is_first && !step.sends {
            self.armed = Some(event.at);
            step.begins = true;
        }
        if cut.is_in_time(event.at) {
            self.steps.push(step);
        }
    }

    /// Marks the step that ends an exchange: the last send's.
    pub(super) fn answered(&mut self, exchange: &Exchange) {
        let recent = self.steps.iter_mut().rev().take(8);
        let mut sends = recent.filter(|step| step.exchange == exchange.number && step.sends);
        if let Some(step) = sends.next() {
            step.ends = Some((exchange.took_ns, "turnaround"));
        }
    }

    /// The thread or process of a call, if it is not the connection's own.
    fn by(&self, event: &Event) -> String {
        if !self.has_own_lane || event.lane.is_none() || is_own_lane(self.conn, event) {
            return String::new();
        }
        format!("   by {}", self.header.lane_name(event.lane))
    }

    /// The event in a few words; `None` if it says nothing by itself.
    fn words(&self, event: &Event) -> Option<String> {
        let name = event.op.map_or("", OpKind::name);
        Some(match event.what {
            Content::Submitted { skip_success, .. } => submitted(name, event, skip_success),
            Content::Completed { more, buffer, .. } => completed(name, event, more, buffer),
            Content::Implied { bytes, .. } => {
                format!("{name} went: {bytes} B, no completion")
            }
            Content::Ready { readable, writable, hung_up } => {
                format!("ready to {}", readiness(readable, writable, hung_up))
            }
            Content::CallEnd { may_sleep, .. } => {
                // With a clock per batch, calls have no time of their own.
                let is_timed = self.header.level == Some(Level::Record);
                let slept = may_sleep && !event.op.is_some_and(OpKind::sends);
                let slept = if slept { " with its sleep" } else { "" };
                let took = event.lasted.filter(|_| is_timed);
                let took = took.map_or(String::new(), |took| format!("   {}{slept}", nanos(took)));
                outcome(name, event, "") + &took + &self.by(event)
            }
            _ => return None,
        })
    }
}

/// Whether the lane of an event is that of the connection's slot: the lane of the thread or process
/// that serves this connection only.
fn is_own_lane(conn: ConnId, event: &Event) -> bool {
    event.lane.is_some_and(|lane| u32::from(lane) == conn.slot() && lane != MAIN)
}

fn submitted(name: &str, event: &Event, skip_success: bool) -> String {
    let Begun { number, len, earlier, .. } = event.begun.unwrap_or_default();
    let number = number.map_or(String::new(), |number| format!(" #{number}"));
    let skips = if skip_success { ", skip-success" } else { "" };
    let again = if earlier > 0 { " again" } else { "" };
    match event.op {
        Some(OpKind::Ring(Kind::Send)) => format!("{name} {len} B{number}{skips}"),
        Some(OpKind::Ring(Kind::Recv)) => format!("{name} armed{again}{number}"),
        _ => format!("{name}{number}"),
    }
}

fn completed(name: &str, event: &Event, more: bool, buffer: Option<u16>) -> String {
    let buffer = buffer.map_or(String::new(), |one| format!(" buf {one}"));
    let last = if event.is_multishot() && !more { ", last shot" } else { "" };
    let age = event.lasted.filter(|_| !event.op.is_some_and(OpKind::receives));
    let age = age.map_or(String::new(), |age| format!("   age {}", nanos(age)));
    let age = age + &posted(event);
    let star = if event.is_multishot() { "*" } else { "" };
    let done = match (event.result(), event.op) {
        (Some(Ok(_)), Some(op)) if op.sends() => " done",
        (Some(Ok(_)), Some(op)) if !op.receives() => return format!("{name} done{age}"),
        _ => "",
    };
    outcome(&format!("{name}{star}{done}"), event, &format!("{buffer}{last}")) + &age
}

/// When a completion was posted, and when what it waited for arrived, before it was reaped.
fn posted(event: &Event) -> String {
    let Some(posting) = event.posting else { return String::new() };
    let before = |at: u64| nanos(event.at.saturating_sub(at));
    let arrived = posting.arrived.map(|at| format!("arrived {}, ", before(at)));
    let punted = if posting.is_punted { ", by a worker thread (io-wq)" } else { "" };
    format!("   {}posted {} before{punted}", arrived.unwrap_or_default(), before(posting.posted))
}

/// What an operation or a call came to: `recv 64 B`, `recv EOF`, `close`, `send EPIPE`.
fn outcome(name: &str, event: &Event, how: &str) -> String {
    let moves_bytes = event.op.is_some_and(|op| op.receives() || op.sends());
    match event.result() {
        _ if event.is_eof() => format!("{name} EOF"),
        Some(Ok(n)) if moves_bytes => format!("{name} {n} B{how}"),
        Some(Err(errno)) => format!("{name} {errno}"),
        _ => name.to_owned(),
    }
}
