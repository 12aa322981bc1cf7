//! What happens to a connection, step by step: events in, steps in words out.

use super::super::connection::Exchange;
use super::super::source::Cut;
use super::super::text::span;
use super::Step;
use crate::event::{Begun, Event, events};
use crate::show::readiness;
use proactor::keys::ConnId;
use proactor::ring::Kind;
use proactor_record::Errno;
use proactor_record::format::MAIN;
use proactor_record::{Header, Level, Op, Payload, Trace};

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
    pub(super) fn new(conn: ConnId, trace: &'a Trace) -> TimelineWriter<'a> {
        let is_own = |event: Event| event.conn == Some(conn) && is_own_lane(conn, &event);
        TimelineWriter {
            conn,
            header: &trace.header,
            has_own_lane: events(trace).any(is_own),
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
        let came = event.is_message();
        // A recording may begin in the middle: after a message or a send, nothing is timed.
        let is_first = !std::mem::replace(&mut self.seen, true);
        let mut step = Step {
            at_ns: event.at,
            exchange: self.exchange,
            what,
            ends: None,
            begins: false,
            abnormal: event.is_abnormal(),
            sends: event.op.is_some_and(Op::sends),
        };
        if came {
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
        let name = event.op.map_or("", Op::name);
        Some(match event.what {
            Payload::Submitted { skip_success, .. } => submitted(name, event, skip_success),
            Payload::Completed { result, more, buffer, .. } => {
                completed(name, event, result, more, buffer)
            }
            Payload::Implied { bytes, .. } => format!("{name} went: {bytes} B, no completion"),
            Payload::Ready { readable, writable, hung_up } => {
                format!("ready to {}", readiness(readable, writable, hung_up))
            }
            Payload::CallEnd { result, may_sleep, .. } => {
                // With a clock per batch, calls have no time of their own.
                let is_timed = self.header.level == Some(Level::Record);
                let took = event.lasted.filter(|_| is_timed);
                returned(name, event, result, took, may_sleep) + &self.by(event)
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

fn moves_bytes(event: &Event) -> bool {
    event.op.is_some_and(|op| op.receives() || op.sends())
}

fn submitted(name: &str, event: &Event, skip_success: bool) -> String {
    let Begun { number, len, earlier, .. } = event.begun.unwrap_or_default();
    let number = number.map_or(String::new(), |number| format!(" #{number}"));
    match event.op {
        Some(Op::Ring(Kind::Send)) => {
            let skips = if skip_success { ", skip-success" } else { "" };
            format!("{name} {len} B{number}{skips}")
        }
        Some(Op::Ring(Kind::Recv)) => {
            let again = if earlier > 0 { " again" } else { "" };
            format!("{name} armed{again}{number}")
        }
        _ => format!("{name}{number}"),
    }
}

fn completed(
    name: &str,
    event: &Event,
    result: Result<u32, Errno>,
    more: bool,
    buffer: Option<u16>,
) -> String {
    let (receives, sends) = (event.op.is_some_and(Op::receives), event.op.is_some_and(Op::sends));
    let star = if event.is_multishot() { "*" } else { "" };
    let age = event.lasted.filter(|_| !receives);
    let age = age.map_or(String::new(), |age| format!("   age {}", span(Some(age))));
    match result {
        Ok(0) if receives => format!("{name}{star} EOF"),
        Ok(n) if moves_bytes(event) => {
            let buffer = buffer.map_or(String::new(), |one| format!(" buf {one}"));
            let last = if event.is_multishot() && !more { ", last shot" } else { "" };
            let done = if sends { " done" } else { "" };
            format!("{name}{star}{done} {n} B{buffer}{last}{age}")
        }
        Ok(_) => format!("{name} done{age}"),
        Err(errno) => format!("{name}{star} {errno}{age}"),
    }
}

fn returned(
    name: &str,
    event: &Event,
    result: Result<u32, Errno>,
    took: Option<u64>,
    may_sleep: bool,
) -> String {
    let sends = event.op.is_some_and(Op::sends);
    let slept = if may_sleep && !sends { " with its sleep" } else { "" };
    let took = took.map_or(String::new(), |nanos| format!("   {}{slept}", span(Some(nanos))));
    match result {
        Ok(0) if !sends && moves_bytes(event) => format!("{name} EOF{took}"),
        Ok(n) if moves_bytes(event) => format!("{name} {n} B{took}"),
        Ok(_) => format!("{name}{took}"),
        Err(errno) => format!("{name} {errno}{took}"),
    }
}
