//! Connections: of each, what it moved, how fast it was answered, and whether it ended in order.
//!
//! One operation of a kind is in flight per connection, so what is in flight is a set of kinds. A
//! *turn* of a connection begins with a receive that brought bytes and ends with the first send
//! after it; how long it took depends on what there is to see, and [`Measure`] says what that is.

use std::collections::HashMap;

use serde::Serialize;

use super::ops::{Errors, is_recv, is_send, passes};
use crate::Trace;
use crate::event::{Event, Happened, Op};
use crate::format::{Call, Level, What, kind_name};
use proactor::keys::ConnId;
use proactor::ring::{Kind, Token};
use proactor_report::Errno;

/// `IOSQE_CQE_SKIP_SUCCESS`
const QUIET: u16 = 1 << 6;

/// From the reaping of a receive to what a turn is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// To the reaping of the reply's completion.
    Completed,
    /// To the enter that took the reply: a quiet send has no completion to wait for.
    Taken,
    /// To the end of the call that sent the reply.
    Called,
    /// From the wake-up to the next wait, which lies behind the call: the clock was read per batch.
    Waited,
}

impl Measure {
    /// What these records allow.
    pub fn of(trace: &Trace) -> Measure {
        let is_quiet = |one: &&crate::Record| {
            one.what == What::Sqe as u8
                && one.aux & QUIET != 0
                && Token(one.id).kind() == Some(Kind::Send)
        };
        let has = |what: What| trace.records.iter().any(|one| one.what == what as u8);
        if has(What::Sqe) || has(What::Cqe) {
            let quiet = trace.records.iter().find(is_quiet).is_some();
            return if quiet { Measure::Taken } else { Measure::Completed };
        }
        match trace.header.level {
            Some(Level::Batch) if has(What::WaitBegin) => Measure::Waited,
            _ => Measure::Called,
        }
    }

    /// In words: a turn is timed from a receive …
    pub fn words(self) -> &'static str {
        match self {
            Measure::Completed => "receive reaped to send reaped",
            Measure::Taken => "receive reaped to the enter that took the send",
            Measure::Called => "receive to the end of the send",
            Measure::Waited => "wake-up to the wait after the send",
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It had not, when the trace ended.
    Open,
    /// The peer ended, and what was owed went; then it was closed.
    PeerFirst,
    /// We ended it.
    WeFirst,
    /// It broke: with this error.
    Broken(String),
}

/// One connection's life, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Life {
    /// As `c7.1`: its slot, and which tenant of it.
    pub conn: String,
    /// Its descriptor, or slot of the ring's file table.
    pub file: Option<i32>,
    /// When it was accepted, if that is seen: nanoseconds since recording began.
    pub accepted_ns: Option<u64>,
    /// When it is first seen.
    pub first_ns: u64,
    /// When it is last seen.
    pub last_ns: u64,
    /// When it was closed, if it was.
    pub closed_ns: Option<u64>,
    /// Receives that brought bytes.
    pub messages: u64,
    /// How many bytes.
    pub bytes_in: u64,
    /// Bytes that were sent.
    pub bytes_out: u64,
    /// How often a receive was submitted, or called.
    pub receives: u64,
    /// Receives that found no buffer.
    pub starved: u64,
    /// Sends of which less went than was given.
    pub short: u64,
    /// Calls that would have blocked.
    pub would_block: u64,
    /// What failed.
    pub errors: Errors,
    /// Turns: receives that were answered.
    pub turns: u64,
    /// How long they took together.
    pub turns_ns: u64,
    /// The slowest.
    pub slowest_ns: Option<u64>,
    /// When the peer had ended.
    pub peer_ended_ns: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// What is in flight at the end of the trace.
    pub in_flight: Vec<&'static str>,
    /// What was wrong: a sentence each. Nothing, if every operation ended once, before the close.
    pub faults: Vec<String>,
}

impl Life {
    /// Whether nothing went wrong: closed, or open, in order.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && !matches!(self.ending, Ending::Broken(_))
    }

    /// How long it was seen.
    pub fn lived_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.accepted_ns.unwrap_or(self.first_ns))
    }
}

/// A turn that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) conn: ConnId,
    /// Which turn of its connection, from 1.
    pub(super) turn: u64,
    /// When it began, and how long it took, in nanoseconds.
    pub(super) at: u64,
    pub(super) took: u64,
    /// Which completion since the enter it began with.
    pub(super) position: u16,
}

/// Follows all connections.
#[derive(Debug)]
pub(super) struct Lives {
    measure: Measure,
    /// Whether an operation without a begin is a fault: nothing is missing from the trace.
    whole: bool,
    all: HashMap<ConnId, Track>,
    /// Accepted, and not yet seen to do anything: when, by file.
    accepted: HashMap<i32, u64>,
    /// Whose turn ends with the next enter or wait.
    ending: Vec<ConnId>,
    /// How often records were missing.
    gaps: u64,
    /// Turns that have ended since this was last emptied.
    pub(super) answered: Vec<Answered>,
}

#[derive(Debug)]
struct Track {
    life: Life,
    /// By kind.
    in_flight: u16,
    /// When the turn that is not over began, and with which completion of its enter.
    turn: Option<(u64, u16)>,
    /// What the send that is not over was given.
    given: u32,
    /// How often records were missing before what is known of it.
    gaps: u64,
}

impl Lives {
    pub(super) fn new(trace: &Trace) -> Lives {
        let whole = trace.lost() == 0 && trace.remarks.is_empty();
        let (all, accepted) = (HashMap::new(), HashMap::new());
        let (ending, answered) = (Vec::new(), Vec::new());
        Lives { measure: Measure::of(trace), whole, all, accepted, ending, gaps: 0, answered }
    }

    pub(super) fn measure(&self) -> Measure {
        self.measure
    }

    /// Follows. All events are to be given, those outside of a cut too.
    pub(super) fn see(&mut self, event: &Event) {
        match event.what {
            Happened::EnterBegin { .. } | Happened::WaitBegin { .. } => self.turn_ends(event.at),
            Happened::Lost(_) => self.forget(),
            _ => {}
        }
        if let Some(conn) = event.conn {
            self.of_conn(conn, event);
        } else if let Some(Op::Ring(Kind::Accept) | Op::Call(Call::Accept)) = event.op
            && let Some(Ok(file)) = event.result()
        {
            self.accepted.insert(file as i32, event.at);
        }
    }

    /// All of them, oldest first.
    pub(super) fn finish(self) -> Vec<Life> {
        let finish = |mut track: Track| {
            track.forget_before(self.gaps);
            track.finish()
        };
        let mut lives: Vec<Life> = self.all.into_values().map(finish).collect();
        lives.sort_by(|a, b| (a.first_ns, &a.conn).cmp(&(b.first_ns, &b.conn)));
        lives
    }

    /// Those whose reply waits for the next enter or wait have it.
    fn turn_ends(&mut self, at: u64) {
        for conn in std::mem::take(&mut self.ending) {
            self.answer(conn, at);
        }
    }

    fn answer(&mut self, conn: ConnId, at: u64) {
        let Some(track) = self.all.get_mut(&conn) else { return };
        let Some((begun, position)) = track.turn.take() else { return };
        let (life, took) = (&mut track.life, at.saturating_sub(begun));
        life.turns += 1;
        life.turns_ns = life.turns_ns.saturating_add(took);
        life.slowest_ns = Some(life.slowest_ns.map_or(took, |slowest| slowest.max(took)));
        let turn = life.messages;
        self.answered.push(Answered { conn, turn, at: begun, took, position });
    }

    /// Records are missing: nothing is known to be in flight. Each connection hears of it when it
    /// is looked at next: there may be as many gaps as connections.
    fn forget(&mut self) {
        self.ending.clear();
        self.accepted.clear();
        self.gaps += 1;
    }

    fn of_conn(&mut self, conn: ConnId, event: &Event) {
        let accepted = &mut self.accepted;
        let track = self.all.entry(conn).or_insert_with(|| {
            let file = file(event);
            let at = file.and_then(|file| accepted.remove(&file));
            Track::new(conn, file, at, event.at)
        });
        track.forget_before(self.gaps);
        track.life.last_ns = event.at;
        let stale = track.life.closed_ns.is_some() && !event.op.is_some_and(is_of_child);
        if stale && track.life.faults.is_empty() {
            track.life.faults.push(format!("{} came after the close", name(event)));
        }
        match event.what {
            Happened::Submitted { .. } => self.submitted(conn, event),
            Happened::Completed { more, .. } => {
                let ended = if more { None } else { event.op };
                self.ended(conn, event, ended);
            }
            Happened::Silent { .. } => self.ended(conn, event, event.op),
            Happened::CallBegin { len, .. } => {
                // Another thread may send while its own receives; no two send at a time.
                if event.op.is_some_and(is_send) {
                    track.given = len;
                }
                track.life.receives += u64::from(event.op.is_some_and(is_recv));
            }
            Happened::CallEnd { .. } => self.came_to(conn, event),
            _ => {}
        }
    }

    fn submitted(&mut self, conn: ConnId, event: &Event) {
        let Some(Op::Ring(kind)) = event.op else { return };
        let Some(track) = self.all.get_mut(&conn) else { return };
        // Two cancels of a kind may be under way: what they cancel is told apart by its result.
        if track.in_flight & bit(kind) != 0 && !is_cancel(kind) {
            track.fault(format!("a second {} was submitted", kind_name(kind)));
        }
        track.in_flight |= bit(kind);
        track.life.receives += u64::from(kind == Kind::Recv);
        if kind == Kind::Send && self.measure == Measure::Taken && track.turn.is_some() {
            self.ending.push(conn);
        }
    }

    /// A completion, or the news that there is none; `ended` if the operation is over.
    fn ended(&mut self, conn: ConnId, event: &Event, ended: Option<Op>) {
        let Some(track) = self.all.get_mut(&conn) else { return };
        if let Some(Op::Ring(kind)) = event.op {
            if self.whole && track.in_flight & bit(kind) == 0 && !is_cancel(kind) {
                track.fault(format!("{} completed without a submission", kind_name(kind)));
            }
            if ended.is_some() {
                track.in_flight &= !bit(kind);
            }
        }
        self.came_to(conn, event);
    }

    fn came_to(&mut self, conn: ConnId, event: &Event) {
        let (Some(op), Some(result)) = (event.op, event.result()) else { return };
        let Some(track) = self.all.get_mut(&conn) else { return };
        let given = match event.what {
            Happened::Completed { submission, .. } => submission.map(|one| one.len),
            Happened::CallEnd { .. } => Some(track.given),
            _ => None,
        };
        track.came_to(op, result, given, event);
        let sent = is_send(op) && result.is_ok_and(|n| n > 0);
        match self.measure {
            Measure::Completed | Measure::Called if sent => self.answer(conn, event.at),
            Measure::Waited if sent && track.turn.is_some() => self.ending.push(conn),
            _ => {}
        }
    }
}

impl Track {
    fn new(conn: ConnId, file: Option<i32>, accepted_ns: Option<u64>, at: u64) -> Track {
        let life = Life {
            conn: format!("c{conn}"),
            file,
            accepted_ns,
            first_ns: at,
            last_ns: at,
            closed_ns: None,
            messages: 0,
            bytes_in: 0,
            bytes_out: 0,
            receives: 0,
            starved: 0,
            short: 0,
            would_block: 0,
            errors: Errors::new(),
            turns: 0,
            turns_ns: 0,
            slowest_ns: None,
            peer_ended_ns: None,
            ending: Ending::Open,
            in_flight: Vec::new(),
            faults: Vec::new(),
        };
        Track { life, in_flight: 0, turn: None, given: 0, gaps: 0 }
    }

    /// Forgets what was in flight before the last of so many gaps.
    fn forget_before(&mut self, gaps: u64) {
        if std::mem::replace(&mut self.gaps, gaps) != gaps {
            (self.in_flight, self.turn) = (0, None);
        }
    }

    /// The first faults: one that repeats says nothing new.
    fn fault(&mut self, sentence: String) {
        if self.life.faults.len() < 3 && !self.life.faults.contains(&sentence) {
            self.life.faults.push(sentence);
        }
    }

    fn came_to(&mut self, op: Op, result: Result<u32, Errno>, given: Option<u32>, event: &Event) {
        let life = &mut self.life;
        match result {
            Ok(0) if is_recv(op) => life.peer_ended_ns = Some(event.at),
            Ok(n) if is_recv(op) => {
                life.messages += 1;
                life.bytes_in += u64::from(n);
                let position = if let Happened::Completed { position, .. } = event.what {
                    position
                } else {
                    0
                };
                self.turn.get_or_insert((event.at, position));
            }
            Ok(n) if is_send(op) => {
                life.bytes_out += u64::from(n);
                life.short += u64::from(given.is_some_and(|given| n < given));
            }
            Ok(_) if is_close(op) => self.closed(event.at),
            Ok(_) => {}
            Err(Errno(libc::EAGAIN)) if matches!(op, Op::Call(_)) => life.would_block += 1,
            Err(Errno(libc::ENOBUFS)) if is_recv(op) => life.starved += 1,
            Err(errno) => {
                if (is_recv(op) || is_send(op)) && !passes(errno) {
                    life.ending = Ending::Broken(errno.to_string());
                }
                *life.errors.entry(errno.to_string()).or_default() += 1;
                if is_close(op) {
                    self.closed(event.at);
                }
            }
        }
    }

    fn closed(&mut self, at: u64) {
        self.life.closed_ns = Some(at);
        if self.in_flight != 0 {
            let names = kinds(self.in_flight).join(", ");
            self.fault(format!("closed while {names} was in flight"));
        }
        if self.life.ending == Ending::Open {
            let first = self.life.peer_ended_ns.is_some();
            self.life.ending = if first { Ending::PeerFirst } else { Ending::WeFirst };
        }
    }

    fn finish(self) -> Life {
        let in_flight = if self.life.closed_ns.is_some() { 0 } else { self.in_flight };
        Life { in_flight: kinds(in_flight), ..self.life }
    }
}

fn bit(kind: Kind) -> u16 {
    1 << kind as u16
}

fn kinds(set: u16) -> Vec<&'static str> {
    Kind::ALL.into_iter().filter(|kind| set & bit(*kind) != 0).map(kind_name).collect()
}

fn is_cancel(kind: Kind) -> bool {
    matches!(kind, Kind::CancelAccept | Kind::CancelRecv | Kind::CancelSend)
}

fn is_close(op: Op) -> bool {
    matches!(op, Op::Ring(Kind::Close) | Op::Call(Call::Close))
}

/// Whether it is about the child that serves the connection, which outlives it.
fn is_of_child(op: Op) -> bool {
    matches!(op, Op::Call(Call::Fork | Call::Reap | Call::Kill))
}

fn name(event: &Event) -> &'static str {
    event.op.map_or_else(|| event.name(), Op::name)
}

/// The file that an event names.
fn file(event: &Event) -> Option<i32> {
    match event.what {
        Happened::Submitted { file, .. }
        | Happened::CallBegin { file, .. }
        | Happened::CallEnd { file, .. } => Some(file),
        _ => None,
    }
}
