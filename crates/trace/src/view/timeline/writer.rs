//! What happens to a connection, step by step: events in, steps in words out.

use super::super::connection::Exchange;
use super::super::source::Cut;
use super::super::summary::span;
use super::Step;
use crate::event::{Begun, Event, events};
use proactor::keys::ConnId;
use proactor::ring::Kind;
use proactor_record::Errno;
use proactor_record::format::MAIN;
use proactor_record::{Level, Op, Payload, Trace, Writers};

/// Makes steps of events.
pub(super) struct TimelineWriter {
    conn: ConnId,
    /// Whether calls have a time of their own.
    timed: bool,
    /// Who may have done it, if somebody other than those who are its own.
    others: Option<Writers>,
    pub(super) steps: Vec<Step>,
    /// Which turn it is in.
    turn: u64,
    /// When a receive was first armed, while it has brought nothing.
    armed: Option<u64>,
    seen: bool,
}

impl TimelineWriter {
    pub(super) fn new(conn: ConnId, trace: &Trace) -> TimelineWriter {
        let timed = trace.header.level == Some(Level::Record);
        // A thread or a process that is there for a connection has the lane of its slot.
        let slot = u16::try_from(conn.slot()).ok();
        let is_own = |event: Event| event.conn == Some(conn) && event.lane == slot;
        let has_own = slot.is_some() && events(trace).any(is_own);
        let others = has_own.then_some(trace.header.writers);
        TimelineWriter { conn, timed, others, steps: Vec::new(), turn: 0, armed: None, seen: false }
    }

    pub(super) fn see(&mut self, event: &Event, cut: &Cut) {
        if event.conn != Some(self.conn) {
            return;
        }
        let Some(what) = self.tell(event) else { return };
        let came = event.is_message();
        let mut step = Step {
            at_ns: event.at,
            exchange: self.turn,
            what,
            ends: None,
            begins: false,
            abnormal: event.is_abnormal(),
            sends: event.op.is_some_and(Op::sends),
        };
        if came {
            self.turn += 1;
            step.exchange = self.turn;
            step.begins = true;
            if let Some(armed) = self.armed.take() {
                step.ends = Some((event.at.saturating_sub(armed), "to the first data"));
            }
        } else if !std::mem::replace(&mut self.seen, true) {
            self.armed = Some(event.at);
            step.begins = true;
        }
        if cut.is_in_time(event.at) {
            self.steps.push(step);
        }
    }

    /// The step that ends a turn: the last send's.
    pub(super) fn answered(&mut self, turn: &Exchange) {
        let recent = self.steps.iter_mut().rev().take(8);
        let mut sends = recent.filter(|step| step.exchange == turn.number && step.sends);
        if let Some(step) = sends.next() {
            step.ends = Some((turn.took, "turnaround"));
        }
    }

    /// Who did it, if that is another thread or process than its own.
    fn by(&self, event: &Event) -> String {
        let (Some(writers), Some(lane)) = (self.others, event.lane) else { return String::new() };
        match (writers, lane) {
            (_, MAIN) => "   by main".to_owned(),
            (_, lane) if u32::from(lane) == self.conn.slot() => String::new(),
            (Writers::Processes, lane) => format!("   by p{lane}"),
            (_, lane) => format!("   by t{lane}"),
        }
    }

    /// In a few words; `None` if it says nothing by itself.
    fn tell(&self, event: &Event) -> Option<String> {
        let words = Words::of(event);
        Some(match event.what {
            Payload::Submitted { skip_success, .. } => {
                words.submitted(event.begun.unwrap_or_default(), skip_success)
            }
            Payload::Completed { result, more, buffer, .. } => {
                words.completed(result, more, buffer, event.lasted)
            }
            Payload::Implied { bytes, .. } => {
                format!("{} went: {bytes} B, no completion", words.name)
            }
            Payload::Ready { readable, writable, hung_up } => {
                let words = [(readable, "read"), (writable, "write"), (hung_up, "hung up")];
                let words = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
                format!("ready to {}", words.collect::<Vec<_>>().join(", "))
            }
            Payload::CallEnd { result, may_sleep, .. } => {
                let took = event.lasted.filter(|_| self.timed);
                words.returned(result, took, may_sleep) + &self.by(event)
            }
            _ => return None,
        })
    }
}

/// What an event is about, to be put in words.
struct Words {
    op: Option<Op>,
    /// What that is called.
    name: &'static str,
    /// Behind the name of what may complete many times.
    star: &'static str,
    receives: bool,
    sends: bool,
}

impl Words {
    fn of(event: &Event) -> Words {
        let op = event.op;
        Words {
            op,
            name: op.map_or("", Op::name),
            star: if event.is_multishot() { "*" } else { "" },
            receives: op.is_some_and(Op::receives),
            sends: op.is_some_and(Op::sends),
        }
    }

    fn submitted(&self, begun: Begun, skip_success: bool) -> String {
        let (name, Begun { number, len, earlier, .. }) = (self.name, begun);
        let number = number.map_or(String::new(), |number| format!(" #{number}"));
        match self.op {
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
        &self,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
        age: Option<u64>,
    ) -> String {
        let &Words { name, star, .. } = self;
        let age = age.filter(|_| !self.receives);
        let age = age.map_or(String::new(), |age| format!("   age {}", span(Some(age))));
        match result {
            Ok(0) if self.receives => format!("{name}{star} EOF"),
            Ok(n) if self.receives || self.sends => {
                let buffer = buffer.map_or(String::new(), |one| format!(" buf {one}"));
                let last = if star == "*" && !more { ", last shot" } else { "" };
                let done = if self.sends { " done" } else { "" };
                format!("{name}{star}{done} {n} B{buffer}{last}{age}")
            }
            Ok(_) => format!("{name} done{age}"),
            Err(errno) => format!("{name}{star} {errno}{age}"),
        }
    }

    fn returned(&self, result: Result<u32, Errno>, took: Option<u64>, may_sleep: bool) -> String {
        let name = self.name;
        let slept = if may_sleep && !self.sends { " with its sleep" } else { "" };
        let took = took.map_or(String::new(), |nanos| format!("   {}{slept}", span(Some(nanos))));
        match result {
            Ok(0) if self.receives => format!("{name} EOF{took}"),
            Ok(n) if self.receives || self.sends => format!("{name} {n} B{took}"),
            Ok(_) => format!("{name}{took}"),
            Err(errno) => format!("{name} {errno}{took}"),
        }
    }
}
