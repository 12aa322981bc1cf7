//! From records to what happened: operations with their connections, results by name, ages.
//!
//! A record alone knows little: a completion does not say when it was asked for. [`Events`] goes
//! through the records once and remembers what is in flight, by the token's identity: one operation
//! of a kind per connection. Where records are lost it forgets all that, rather than pair a
//! completion with a submission that is not its own.
//!
//! An **age** is the time from a submission to the reaping of its completion; of a multishot
//! operation, from its last completion. It is not how long the kernel took: when it posted the
//! completion nobody here can know, only that it was before the reaping and, on a ring that defers
//! its work, within an enter.

use std::collections::HashMap;

use super::format::{Call, Frozen, MAY_SLEEP, Patience, Record, What, Writers, kind_name};
use super::reader::Header;
use super::{ring, selector, trigger};
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Kind, Token};
use proactor::selector::Key;
use proactor_report::Errno;

/// `IOSQE_CQE_SKIP_SUCCESS`: it completes only if it fails.
const SKIP_SUCCESS: u16 = 1 << 6;

/// In the `aux` of a LOST record: it stands in place of those that it counts.
pub(super) const ABSENT: u16 = 1;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The record's number: how many were written before it, since recording began.
    pub number: u64,
    /// When: nanoseconds since recording began. With a clock per batch, the last enter's or wait's
    /// begin or end.
    pub at: u64,
    /// The how-manieth enter or wait it was in or after; 0 where there are many writers.
    pub turn: u32,
    /// Which of many writers did it; none in a trace of one owner, and of what nobody did.
    pub lane: Option<u16>,
    /// Whose connection's it is, if any's.
    pub conn: Option<ConnId>,
    /// Which operation or call it is about, if any.
    pub op: Option<Op>,
    /// What.
    pub what: Happened,
    /// The record itself.
    pub raw: Record,
}

/// An operation on a ring, or a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// On a ring.
    Ring(Kind),
    /// By a loop or a thread.
    Call(Call),
}

impl Op {
    /// What it is called in every view.
    pub fn name(self) -> &'static str {
        match self {
            Op::Ring(kind) => kind_name(kind),
            Op::Call(call) => call.name(),
        }
    }
}

/// A submission, as its completion recalls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submission {
    /// The how-manieth of the ring, from 0; `None` where records are lost.
    pub number: Option<u64>,
    /// When: nanoseconds since recording began.
    pub at: u64,
    /// How many completions it has had, this one included.
    pub shots: u32,
    /// Bytes to send, or room to receive into.
    pub len: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// An operation was queued.
    Submitted {
        /// The how-manieth of the ring, from 0; `None` where records are lost.
        number: Option<u64>,
        /// `IORING_OP_*`.
        opcode: u8,
        /// The file, or the slot of a direct descriptor.
        file: i32,
        /// Bytes to send, or room to receive into.
        len: u32,
        /// Whether it says nothing if all goes well.
        quiet: bool,
        /// How often the same was queued before, as far as is known.
        again: u32,
    },
    /// A completion was reaped.
    Completed {
        /// A count, a descriptor, or an error.
        result: Result<u32, Errno>,
        /// Whether the operation stays in flight.
        more: bool,
        /// The provided buffer that the kernel picked.
        buffer: Option<u16>,
        /// Which since the enter, from 0.
        position: u16,
        /// What it answers; `None` if that is not known.
        submission: Option<Submission>,
        /// Nanoseconds since the submission, or since the last completion of it.
        age: Option<u64>,
    },
    /// A quiet send went out whole.
    Silent {
        /// How many bytes.
        bytes: u32,
        /// What it answers.
        submission: Option<Submission>,
        /// Nanoseconds since the submission.
        age: Option<u64>,
    },
    /// Into the kernel.
    EnterBegin {
        /// Submissions ever queued.
        queued: u64,
        /// Those of them that the kernel has not taken.
        pending: u32,
        /// For how long.
        patience: Option<Patience>,
    },
    /// Back.
    EnterEnd {
        /// How many submissions it took.
        result: Result<u32, Errno>,
        /// Completions ever reaped before.
        reaped: u64,
        /// Completions reaped until the next enter.
        completions: u32,
        /// Buffers lent just before.
        lent: u32,
        /// Whether completions waited outside a full queue.
        overflow: bool,
        /// How long, in nanoseconds.
        lasted: Option<u64>,
        /// Operations in flight, as far as is known.
        in_flight: usize,
    },
    /// Asleep until something is ready.
    WaitBegin {
        /// For how long.
        patience: Option<Patience>,
        /// Nanoseconds at most, if there is an end to it.
        at_most: Option<u64>,
    },
    /// Awake.
    WaitEnd {
        /// How many are ready.
        result: Result<u32, Errno>,
        /// How long, in nanoseconds.
        lasted: Option<u64>,
    },
    /// Something is ready.
    Ready {
        /// To read.
        readable: bool,
        /// To write.
        writable: bool,
        /// The peer has ended.
        hung_up: bool,
    },
    /// A system call begins.
    CallBegin {
        /// On which descriptor.
        file: i32,
        /// Bytes to send, or room to receive into.
        len: u32,
        /// Whether it may sleep until somebody else does something.
        may_sleep: bool,
    },
    /// A system call is over.
    CallEnd {
        /// On which descriptor.
        file: i32,
        /// Its result.
        result: Result<u32, Errno>,
        /// How long, in nanoseconds: zero with a clock per batch. It may have slept in it.
        lasted: Option<u64>,
        /// Whether it might sleep until somebody else did something.
        may_sleep: bool,
    },
    /// Records are missing here: how many.
    Lost(u64),
    /// The clock was compared: nanoseconds of the monotonic clock.
    Clock(u64),
    /// A remark's number.
    Mark(u64),
    /// A writer began, one of many.
    Lane {
        /// Its thread's number.
        thread: u32,
        /// Its process's.
        process: u32,
    },
    /// Recording stopped.
    Frozen(Option<Frozen>),
    /// A kind of record that this reader does not know.
    Unknown,
}

impl Event {
    /// What it was called in the record.
    pub fn name(&self) -> &'static str {
        What::from_number(self.raw.what).map_or("?", What::name)
    }

    /// The result, if it is the end of something.
    pub fn result(&self) -> Option<Result<u32, Errno>> {
        match self.what {
            Happened::Completed { result, .. }
            | Happened::EnterEnd { result, .. }
            | Happened::WaitEnd { result, .. }
            | Happened::CallEnd { result, .. } => Some(result),
            Happened::Silent { bytes, .. } => Some(Ok(bytes)),
            _ => None,
        }
    }

    /// Whether many completions belong to one submission of this, as far as is known by now.
    pub fn is_multishot(&self) -> bool {
        match self.what {
            Happened::Completed { more, submission, .. } => {
                more || submission.is_some_and(|one| one.shots > 1)
            }
            _ => false,
        }
    }

    /// Whether it is something that ought not to happen, or not often: an error that is not part of
    /// the game, a starved receive, an overflow, records that are lost.
    pub fn is_abnormal(&self) -> bool {
        match self.what {
            Happened::Lost(_) | Happened::Frozen(_) | Happened::Unknown => true,
            Happened::EnterEnd { overflow: true, .. } => true,
            Happened::Completed { result: Err(Errno(libc::ENOBUFS)), .. } => true,
            Happened::EnterEnd { result: Err(_), .. }
            | Happened::WaitEnd { result: Err(_), .. } => true,
            Happened::Completed { .. } | Happened::CallEnd { .. } => trigger::is_failure(&self.raw),
            _ => false,
        }
    }
}

/// What a decoder knows of an operation in flight.
#[derive(Debug, Clone, Copy)]
struct Flight {
    submission: Submission,
    last: u64,
}

/// What went before: to be fed the records in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoder {
    /// By token.
    flights: HashMap<u64, Flight>,
    /// How often each was submitted.
    often: HashMap<u64, u32>,
    /// Since when each is being made: by lane, key and call.
    calling: HashMap<(Option<u16>, u64, u8), u64>,
    /// Since when each lane is in an enter or a wait.
    away: HashMap<Option<u16>, u64>,
    /// The next submission's number; `None` until an enter tells, if the beginning is lost.
    queued: Option<u64>,
}

impl Decoder {
    /// For records from this number on.
    pub(super) fn new(first: u64) -> Decoder {
        Decoder { queued: (first == 0).then_some(0), ..Decoder::default() }
    }

    /// What record `at` of `records`, number `number`, tells of. Those behind it are looked at.
    pub(super) fn decode(
        &mut self,
        header: &Header,
        number: u64,
        records: &[Record],
        at: usize,
    ) -> Event {
        let raw = records[at];
        let what = What::from_number(raw.what);
        let now = header.nanos(raw.time);
        let lane = raw.lane().filter(|_| header.writers != Writers::One);
        let turn = if header.writers == Writers::One { raw.turn } else { 0 };
        let (conn, op) = concerned(what, &raw);
        let behind = &records[at + 1..];
        let what = match what {
            Some(What::Sqe) => self.submitted(&raw, now),
            Some(What::Cqe) => self.completed(&raw, now),
            Some(What::Silent) => self.went_quietly(&raw, now),
            Some(What::EnterBegin) => self.enters(&raw, (lane, now)),
            Some(What::EnterEnd) => self.entered(&raw, (lane, now), behind),
            Some(What::WaitBegin) => self.waits(&raw, (lane, now)),
            Some(What::WaitEnd) => {
                Happened::WaitEnd { result: result(raw.res), lasted: self.lasted((lane, now)) }
            }
            Some(What::Ready) => Happened::Ready {
                readable: raw.flags & 1 != 0,
                writable: raw.flags & 2 != 0,
                hung_up: raw.flags & 4 != 0,
            },
            Some(What::CallBegin) => self.calls(&raw, (lane, now)),
            Some(What::CallEnd) => self.called(&raw, (lane, now)),
            Some(What::Lost) => {
                *self = Decoder::new(1);
                Happened::Lost(raw.id)
            }
            Some(What::Clock) => Happened::Clock(raw.id),
            Some(What::Mark) => Happened::Mark(raw.id),
            Some(What::Lane) => Happened::Lane { thread: raw.id as u32, process: raw.flags },
            Some(What::Freeze) => {
                Happened::Frozen(u8::try_from(raw.aux).ok().and_then(Frozen::from_number))
            }
            None => Happened::Unknown,
        };
        Event { number, at: now, turn, lane, conn, op, what, raw }
    }

    fn submitted(&mut self, raw: &Record, now: u64) -> Happened {
        let number = self.queued;
        self.queued = number.map(|n| n.wrapping_add(1));
        let submission = Submission { number, at: now, shots: 0, len: raw.res as u32 };
        self.flights.insert(raw.id, Flight { submission, last: now });
        let times = self.often.entry(raw.id).or_default();
        let again = *times;
        *times = times.saturating_add(1);
        Happened::Submitted {
            number,
            opcode: raw.op,
            file: raw.flags as i32,
            len: raw.res as u32,
            quiet: raw.aux & SKIP_SUCCESS != 0,
            again,
        }
    }

    fn completed(&mut self, raw: &Record, now: u64) -> Happened {
        let cqe = Cqe { token: Token(raw.id), res: raw.res, flags: raw.flags };
        let mut age = None;
        let submission = self.flights.get_mut(&raw.id).map(|flight| {
            age = Some(now.saturating_sub(flight.last));
            flight.last = now;
            flight.submission.shots = flight.submission.shots.saturating_add(1);
            flight.submission
        });
        if !cqe.more() {
            self.ended(raw.id);
        }
        Happened::Completed {
            result: result(raw.res),
            more: cqe.more(),
            buffer: cqe.buffer(),
            position: raw.aux,
            submission,
            age,
        }
    }

    fn went_quietly(&mut self, raw: &Record, now: u64) -> Happened {
        let submission = self.ended(raw.id);
        let age = submission.map(|one| now.saturating_sub(one.at));
        Happened::Silent { bytes: raw.res as u32, submission, age }
    }

    fn enters(&mut self, raw: &Record, (lane, now): (Option<u16>, u64)) -> Happened {
        self.away.insert(lane, now);
        self.queued = Some(raw.id);
        let patience = u8::try_from(raw.aux).ok().and_then(Patience::from_number);
        Happened::EnterBegin { queued: raw.id, pending: raw.res as u32, patience }
    }

    /// The records `behind` it are what it brought.
    fn entered(&mut self, raw: &Record, when: (Option<u16>, u64), behind: &[Record]) -> Happened {
        Happened::EnterEnd {
            result: result(raw.res),
            reaped: raw.id,
            completions: completions(behind),
            lent: raw.flags >> 8,
            overflow: raw.flags & 1 != 0,
            lasted: self.lasted(when),
            in_flight: self.flights.len(),
        }
    }

    fn waits(&mut self, raw: &Record, (lane, now): (Option<u16>, u64)) -> Happened {
        self.away.insert(lane, now);
        let patience = Patience::from_number(raw.op);
        let at_most = (patience == Some(Patience::Until)).then_some(raw.id);
        Happened::WaitBegin { patience, at_most }
    }

    /// How long a lane was in the enter or the wait that ends now.
    fn lasted(&mut self, (lane, now): (Option<u16>, u64)) -> Option<u64> {
        self.away.remove(&lane).map(|begun| now.saturating_sub(begun))
    }

    fn calls(&mut self, raw: &Record, (lane, now): (Option<u16>, u64)) -> Happened {
        self.calling.insert((lane, raw.id, raw.op), now);
        let may_sleep = raw.op & MAY_SLEEP != 0;
        Happened::CallBegin { file: raw.flags as i32, len: raw.res as u32, may_sleep }
    }

    fn called(&mut self, raw: &Record, (lane, now): (Option<u16>, u64)) -> Happened {
        let begun = self.calling.remove(&(lane, raw.id, raw.op));
        let lasted = begun.map(|begun| now.saturating_sub(begun));
        let (file, may_sleep) = (raw.flags as i32, raw.op & MAY_SLEEP != 0);
        Happened::CallEnd { file, result: result(raw.res), lasted, may_sleep }
    }

    fn ended(&mut self, id: u64) -> Option<Submission> {
        // A slot's next tenant begins anew.
        if Token(id).kind() == Some(Kind::Close) {
            let conn = Token(id).conn();
            for kind in Kind::ALL {
                self.often.remove(&Token::of(kind, conn).0);
            }
        }
        self.flights.remove(&id).map(|flight| flight.submission)
    }
}

fn result(res: i32) -> Result<u32, Errno> {
    if res >= 0 { Ok(res as u32) } else { Err(Errno(res.wrapping_neg())) }
}

/// Whose a record is, and about which operation or call.
fn concerned(what: Option<What>, raw: &Record) -> (Option<ConnId>, Option<Op>) {
    match what {
        Some(What::Sqe | What::Cqe | What::Silent) => {
            let token = Token(raw.id);
            (ring::owner(token), token.kind().map(Op::Ring))
        }
        Some(What::CallBegin | What::CallEnd) => {
            (selector::owner(Key(raw.id)), call(raw).map(Op::Call))
        }
        Some(What::Ready) => (selector::owner(Key(raw.id)), None),
        _ => (None, None),
    }
}

/// Which call a record is of.
fn call(raw: &Record) -> Option<Call> {
    Call::from_number(raw.op & !MAY_SLEEP)
}

/// How many completions stand before the next enter.
fn completions(records: &[Record]) -> u32 {
    let until = [What::EnterBegin as u8, What::EnterEnd as u8, What::Lost as u8];
    let these = records.iter().take_while(|record| !until.contains(&record.what));
    these.filter(|record| record.what == What::Cqe as u8).count() as u32
}

/// The number of a record, if the one before it in the file's order would have been followed by
/// `next`. One of many writers says itself which it has: those of several lanes are put in the
/// order of their times.
pub(super) fn number(header: &Header, next: u64, raw: &Record) -> u64 {
    match header.writers {
        Writers::One => next,
        _ => next.saturating_add_signed(raw.turn.wrapping_sub(next as u32).cast_signed().into()),
    }
}

/// What would follow this record's number.
pub(super) fn after(number: u64, raw: &Record) -> u64 {
    // A gap of the file's stands for as many as it says; one of the recorder's is a record.
    let absent = raw.what == What::Lost as u8 && raw.aux == ABSENT;
    number.saturating_add(if absent { raw.id } else { 1 })
}

/// What happened, one after the other.
#[derive(Debug)]
pub struct Events<'a> {
    header: &'a Header,
    records: &'a [Record],
    at: usize,
    next: u64,
    decoder: Decoder,
}

impl<'a> Events<'a> {
    pub(super) fn new(header: &'a Header, records: &'a [Record], first: u64) -> Events<'a> {
        Events { header, records, at: 0, next: first, decoder: Decoder::new(first) }
    }
}

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let raw = self.records.get(self.at)?;
        let number = number(self.header, self.next, raw);
        let event = self.decoder.decode(self.header, number, self.records, self.at);
        self.next = after(number, raw);
        self.at += 1;
        Some(event)
    }
}
