//! `trace conn c7.1`: one connection's life, step by step, what repeats itself folded.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::life::{Answered, Life, Lives, Measure};
use super::ops::{is_recv, is_send};
use super::roster::ended;
use super::source::{Cut, Source};
use super::summary::span;
use crate::keys::ConnId;
use crate::report::histogram::Percentiles;
use crate::report::{Latencies, units};
use crate::ring::Kind;
use crate::trace::event::{Event, Happened, Op};
use crate::trace::format::{Call, Level, MAIN, Writers};
use crate::trace::{Header, Trace};

/// So many abnormal steps are never folded.
const ABNORMAL: usize = 16;

/// One connection's life.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Story {
    /// `proactor.trace.connection/1`
    pub schema: &'static str,
    /// Of what it is made.
    pub source: Source,
    /// How many tenants its slot had in this trace, this one included.
    pub tenants: u64,
    /// In numbers.
    #[serde(flatten)]
    pub life: Life,
    /// From what to what a turn is timed.
    pub measure: Measure,
    /// How long its turns took.
    pub answered: Percentiles,
    /// The slowest of them.
    pub slowest: Vec<Slow>,
    /// What is told.
    pub told: Vec<Told>,
}

/// A turn that took long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Slow {
    /// Which of the connection's turns, from 1.
    pub turn: u64,
    /// When it began: nanoseconds since recording began.
    pub at_ns: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// As which completion since the enter the receive came, from 1.
    pub position: u32,
}

/// A line of a story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Something that happened.
    Step(Step),
    /// So many steps of so many turns are left out.
    Folded {
        /// Turns, of which a part may be shown.
        turns: u64,
        /// Steps.
        steps: u64,
    },
}

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When: nanoseconds since recording began.
    pub at_ns: u64,
    /// In which turn of the connection, from 1; 0 before the first.
    pub turn: u64,
    /// What.
    pub what: String,
    /// Whether it ends a span, and of how long: in nanoseconds, and of what.
    pub ends: Option<(u64, &'static str)>,
    /// Whether it begins a span.
    pub begins: bool,
    /// Whether it ought not to happen.
    pub abnormal: bool,
}

impl Story {
    /// Of this connection: its slot and which tenant of it, or the first tenant there is; with its
    /// `slowest` turns, and with every step if `all`. `None` if the trace knows no such connection.
    pub fn of(
        trace: &Trace,
        cut: &Cut,
        conn: (u32, Option<u32>),
        slowest: usize,
        all: bool,
    ) -> Option<Story> {
        let wanted = Cut { conn: Some(conn), ..*cut };
        let is_wanted = |one: &ConnId| wanted.is_of(Some(*one));
        let conn = trace.events().filter_map(|event| event.conn).find(is_wanted)?;
        let cut = Cut { conn: Some((conn.slot(), Some(conn.generation()))), ..*cut };
        let mut lives = Lives::new(trace);
        let slot = u16::try_from(conn.slot()).ok();
        let has_own = slot.is_some()
            && trace.events().any(|event| event.conn == Some(conn) && event.lane == slot);
        let mut teller = Teller::new(conn, &trace.header, has_own);
        let (mut answered, mut slow) = (Latencies::new(), Vec::new());
        let mut tenants = HashSet::new();
        for event in trace.events() {
            if let Some(tenant) = event.conn.filter(|one| one.slot() == conn.slot()) {
                tenants.insert(tenant);
            }
            lives.see(&event);
            teller.see(&event, &cut);
            for turn in lives.answered.drain(..).filter(|turn| turn.conn == conn) {
                teller.answered(&turn);
                if cut.is_in_time(turn.at) {
                    answered.record(Duration::from_nanos(turn.took));
                    slow.push(turn);
                    // Bounded: the slowest so far are enough.
                    if slow.len() >= 2 * slowest.max(512) {
                        keep_slowest(&mut slow, slowest);
                    }
                }
            }
        }
        keep_slowest(&mut slow, slowest);
        let measure = lives.measure();
        let life = lives.finish().into_iter().find(|life| life.conn == format!("c{conn}"))?;
        let from = life.accepted_ns.unwrap_or(life.first_ns);
        Some(Story {
            schema: "proactor.trace.connection/1",
            source: Source::new(trace, &cut, from, life.last_ns),
            tenants: tenants.len() as u64,
            life,
            measure,
            answered: answered.percentiles(),
            slowest: slow.into_iter().map(Slow::from).collect(),
            told: fold(teller.steps, all),
        })
    }
}

impl From<Answered> for Slow {
    fn from(turn: Answered) -> Slow {
        let Answered { turn, at, took, position, .. } = turn;
        Slow { turn, at_ns: at, took_ns: took, position: u32::from(position) + 1 }
    }
}

fn keep_slowest(turns: &mut Vec<Answered>, most: usize) {
    turns.sort_by_key(|turn| std::cmp::Reverse((turn.took, turn.turn)));
    turns.truncate(most);
}

/// Leaves out what repeats itself: the steps of all turns but the first and the last, unless they
/// are abnormal.
fn fold(steps: Vec<Step>, all: bool) -> Vec<Told> {
    let last = steps.last().map_or(0, |step| step.turn);
    let (mut told, mut abnormal) = (Vec::new(), 0);
    let mut hidden: (HashSet<u64>, u64) = Default::default();
    for step in steps {
        abnormal += usize::from(step.abnormal);
        let shown =
            all || step.turn <= 1 || step.turn == last || (step.abnormal && abnormal <= ABNORMAL);
        if shown {
            let (turns, steps) = std::mem::take(&mut hidden);
            if steps > 0 {
                told.push(Told::Folded { turns: turns.len() as u64, steps });
            }
            told.push(Told::Step(step));
        } else {
            hidden.0.insert(step.turn);
            hidden.1 += 1;
        }
    }
    if hidden.1 > 0 {
        told.push(Told::Folded { turns: hidden.0.len() as u64, steps: hidden.1 });
    }
    told
}

/// Makes steps of events.
struct Teller {
    conn: ConnId,
    /// Whether calls have a time of their own.
    timed: bool,
    /// Who may have done it, if somebody other than those who are its own.
    others: Option<Writers>,
    steps: Vec<Step>,
    /// Which turn it is in.
    turn: u64,
    /// When a receive was first armed, while it has brought nothing.
    armed: Option<u64>,
    seen: bool,
}

impl Teller {
    /// `has_own` if there is a thread or a process for this connection.
    fn new(conn: ConnId, header: &Header, has_own: bool) -> Teller {
        let timed = header.level == Some(Level::Record);
        let others = has_own.then_some(header.writers);
        Teller { conn, timed, others, steps: Vec::new(), turn: 0, armed: None, seen: false }
    }

    fn see(&mut self, event: &Event, cut: &Cut) {
        if event.conn != Some(self.conn) {
            return;
        }
        let Some(what) = self.tell(event) else { return };
        let came = event.op.is_some_and(is_recv)
            && matches!(event.result(), Some(Ok(n)) if n > 0)
            && !matches!(event.what, Happened::CallBegin { .. });
        let mut step = Step {
            at_ns: event.at,
            turn: self.turn,
            what,
            ends: None,
            begins: false,
            abnormal: event.is_abnormal(),
        };
        if came {
            self.turn += 1;
            step.turn = self.turn;
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
    fn answered(&mut self, turn: &Answered) {
        let recent = self.steps.iter_mut().rev().take(8);
        let mut sends =
            recent.filter(|step| step.turn == turn.turn && step.what.starts_with("send"));
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
        let star = if event.is_multishot() { "*" } else { "" };
        let op = event.op;
        let name = op.map_or("", Op::name);
        let moves = op.is_some_and(|op| is_recv(op) || is_send(op));
        let number = |number: Option<u64>| number.map_or(String::new(), |n| format!(" #{n}"));
        Some(match &event.what {
            Happened::Submitted { number: n, len, quiet, again, .. } => {
                let again = if *again > 0 && op.is_some_and(is_recv) { " again" } else { "" };
                match op {
                    Some(Op::Ring(Kind::Send)) => {
                        let quiet = if *quiet { ", quiet" } else { "" };
                        format!("{name} {len} B{}{quiet}", number(*n))
                    }
                    Some(Op::Ring(Kind::Recv)) => format!("{name} armed{again}{}", number(*n)),
                    _ => format!("{name}{}", number(*n)),
                }
            }
            Happened::Completed { result, more, buffer, age, .. } => {
                let age = age.filter(|_| !op.is_some_and(is_recv));
                let age = age.map_or(String::new(), |age| format!("   age {}", span(Some(age))));
                match result {
                    Ok(0) if op.is_some_and(is_recv) => format!("{name}{star} EOF"),
                    Ok(n) if moves => {
                        let buffer = buffer.map_or(String::new(), |one| format!(" buf {one}"));
                        let last = if star == "*" && !more { ", last shot" } else { "" };
                        let done = if op.is_some_and(is_send) { " done" } else { "" };
                        format!("{name}{star}{done} {n} B{buffer}{last}{age}")
                    }
                    Ok(_) => format!("{name} done{age}"),
                    Err(errno) => format!("{name}{star} {errno}{age}"),
                }
            }
            Happened::Silent { bytes, .. } => format!("{name} went: {bytes} B, no completion"),
            Happened::Ready { readable, writable, hung_up } => {
                let words = [(*readable, "read"), (*writable, "write"), (*hung_up, "hung up")];
                let words = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
                format!("ready to {}", words.collect::<Vec<_>>().join(", "))
            }
            Happened::CallEnd { result, lasted, may_sleep, .. } => {
                let took = lasted.filter(|_| self.timed);
                let mut took =
                    took.map_or(String::new(), |nanos| format!("   {}", span(Some(nanos))));
                if *may_sleep && !took.is_empty() && !op.is_some_and(is_send) {
                    took.push_str(" with its sleep");
                }
                took.push_str(&self.by(event));
                match result {
                    Ok(0) if op.is_some_and(is_recv) => format!("{name} EOF{took}"),
                    Ok(n) if moves => format!("{name} {n} B{took}"),
                    Ok(_) if op == Some(Op::Call(Call::Close)) => format!("{name}{took}"),
                    Ok(_) => format!("{name}{took}"),
                    Err(errno) => format!("{name} {errno}{took}"),
                }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let life = &self.life;
        writeln!(f, "{}\n", self.source)?;
        let file = life.file.map_or(String::new(), |file| format!("  file {file}"));
        writeln!(
            f,
            "{}{file}  {}  {} in {}, out {}  {}",
            life.conn,
            units::span(Duration::from_nanos(life.lived_ns())),
            units::plural(life.messages, "msg"),
            units::bytes(life.bytes_in as f64),
            units::bytes(life.bytes_out as f64),
            receives(life),
        )?;
        if self.tenants > 1 {
            writeln!(f, "one of {} tenants of its slot", units::count(self.tenants))?;
        }
        let zero = life.accepted_ns.unwrap_or(life.first_ns);
        if let Some(at) = life.accepted_ns {
            writeln!(f, "{}  accepted", offset(at, zero))?;
        }
        let mut open = false;
        for told in &self.told {
            match told {
                Told::Step(step) => writeln!(f, "{}", self.step(step, zero, &mut open))?,
                Told::Folded { turns, steps } => {
                    open = false;
                    let (turns, steps) =
                        (units::plural(*turns, "turn"), units::plural(*steps, "step"));
                    write!(f, "{:>13}  … {turns} folded, {steps} (--all shows them)", "")?;
                    writeln!(f)?;
                }
            }
        }
        if !self.slowest.is_empty() {
            writeln!(f, "slowest turns:")?;
            for slow in &self.slowest {
                writeln!(f, "{}", slow_turn(slow, zero, self.measure))?;
            }
        }
        let checked = if !life.faults.is_empty() {
            ""
        } else if self.source.lost > 0 {
            "   (what is here is in order; records are missing)"
        } else if life.closed_ns.is_some() {
            "   every operation ended once ✓"
        } else {
            "   nothing ended twice ✓"
        };
        write!(f, "verdict: {}{checked}", ended(life))
    }
}

impl Story {
    fn step(&self, step: &Step, zero: u64, open: &mut bool) -> String {
        let mark = if step.begins {
            *open = true;
            if step.ends.is_some() { '┤' } else { '┐' }
        } else if step.ends.is_some() {
            *open = false;
            '┘'
        } else if *open {
            '│'
        } else {
            ' '
        };
        let mut text = format!("{}  {:<36} {mark}", offset(step.at_ns, zero), step.what);
        if let Some((nanos, what)) = step.ends {
            text.push_str(&format!(" {what} {}", span(Some(nanos))));
            if step.turn == 1 && what == "turnaround" && self.answered.samples > 1 {
                let (p50, p99) = (span(self.answered.p50_ns), span(self.answered.p99_ns));
                let all = units::count(self.answered.samples);
                text.push_str(&format!("   ({all} of these: p50 {p50}  p99 {p99};"));
                text.push_str(&format!(" {})", self.measure.words()));
            }
        }
        if step.abnormal {
            text.push_str("  !");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn receives(life: &Life) -> String {
    let failed = units::count(life.starved);
    if life.would_block > 0 || life.receives > life.messages {
        return format!(
            "{} asked, {} found nothing, {failed} no buffer",
            units::plural(life.receives, "receive"),
            units::count(life.would_block)
        );
    }
    match life.receives {
        0 => "armed before what is here".to_owned(),
        n => format!("recv armed {}, {failed} ENOBUFS", units::times(n)),
    }
}

fn slow_turn(slow: &Slow, zero: u64, measure: Measure) -> String {
    let mut text = format!(
        "{}  #{:<8} took {}",
        offset(slow.at_ns, zero),
        slow.turn,
        span(Some(slow.took_ns))
    );
    if matches!(measure, Measure::Completed | Measure::Taken) {
        text.push_str(&format!("   completion {} of its turn", slow.position));
    }
    text
}

/// Right-aligned, as `+289.2 µs`.
fn offset(at: u64, zero: u64) -> String {
    let text = format!("+{}", units::span(Duration::from_nanos(at.saturating_sub(zero))));
    format!("{text:>13}")
}
