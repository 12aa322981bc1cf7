//! From records to events: operations with their connections, results by name, ages.
//!
//! A record alone knows little: a completion does not say when its operation was submitted.
//! [`Events`] goes through the records once and tracks what is in flight, and no view does so
//! again: an [`Event`] says what began it, how long that lasted, and what is in flight behind it.
//! Where records are lost the tracker forgets all, so that no completion is paired with a
//! submission that is not its own.
//!
//! An **age** is the time from a submission to the reaping of its completion; of a multishot
//! operation, from its last completion. It is not how long the kernel took: only the kernel's own
//! events say when the completion was [posted](Event::posting).

use std::collections::HashMap;

use crate::kernel::{Posting, Postings};
use proactor::keys::{ConnId, Key, KeyOwner};
use proactor_record::{
    Content, Errno, Header, Kind, OpKind, Pairing, Record, RecordKind, Trace, Writers,
};

/// Something that happened in a loop, a thread or a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The record's number: how many were written before it, since recording began.
    pub number: u64,
    /// Nanoseconds since recording began. With a clock per batch, this is the time of the last
    /// begin or end of an enter or wait.
    pub at: u64,
    /// The number of the enter or wait in or after which it was; 0 with many writers.
    pub iteration: u32,
    /// The lane, in a trace of many writers, if one of them did it.
    pub lane: Option<u16>,
    /// The connection that it is about, if any.
    pub conn: Option<ConnId>,
    /// The operation or call that it is about, if any.
    pub op: Option<OpKind>,
    /// What the record says.
    pub what: Content,
    /// The submission or the begin of the call that this belongs to. A submission has itself.
    /// `None` if it is not known.
    pub begun: Option<Begun>,
    /// How long what ends here lasted, in nanoseconds: the age of an operation, or the time in an
    /// enter, a wait or a call.
    pub lasted: Option<u64>,
    /// Of the end of an enter: completions reaped until the next one.
    pub completions: u32,
    /// The operations in flight behind this event.
    pub in_flight: InFlight,
    /// How the kernel posted this completion, if its events were recorded.
    pub posting: Option<Posting>,
    /// Of the end of an enter: for how many nanoseconds of it its thread slept until something
    /// arrived, if the kernel's events say so. For the rest it woke up, or worked in the kernel.
    pub asleep: Option<u64>,
    /// The record that it was decoded from.
    pub raw: Record,
}

/// The begin of an operation or a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun {
    /// The [number](Event::number) of the event.
    pub event: u64,
    /// The number of the submission on its ring, from 0; `None` where records are lost, and of a
    /// call.
    pub number: Option<u64>,
    /// Nanoseconds since recording began.
    pub at: u64,
    /// Completions so far, this one included.
    pub shots: u32,
    /// Bytes to send, or the size of the buffer to receive into.
    pub len: u32,
    /// How often the same operation was submitted before, as far as is known.
    pub earlier: u32,
}

/// The operations in flight behind an event, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InFlight {
    /// How many there are of the ring.
    pub total: usize,
    /// Those of the event's connection.
    pub of_conn: Kinds,
    /// Whether the event's own operation was in flight before it.
    pub before: bool,
}

/// A set of kinds of operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// Whether none is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in the order of the kinds' numbers.
    pub fn names(self) -> Vec<&'static str> {
        let kinds = Kind::ALL.iter().filter(|kind| self.0 & Kinds::bit(**kind) != 0);
        kinds.map(|kind| kind.name()).collect()
    }

    fn bit(kind: Kind) -> u32 {
        1 << kind as u16
    }
}

impl Event {
    /// The name of the record's kind.
    pub fn name(&self) -> &'static str {
        self.raw.kind().map_or("?", RecordKind::name)
    }

    /// The name of the operation, or of the record's kind if there is none.
    pub fn op_name(&self) -> &'static str {
        self.op.map_or_else(|| self.name(), OpKind::name)
    }

    /// The result, if it is the end of something.
    pub fn result(&self) -> Option<Result<u32, Errno>> {
        self.what.result()
    }

    /// Whether an operation that this test holds for ended here, with what result.
    pub fn result_of(&self, is_wanted: impl Fn(OpKind) -> bool) -> Option<Result<u32, Errno>> {
        self.op.filter(|op| is_wanted(*op)).and(self.result())
    }

    /// Whether it is the end of a receive that brought bytes.
    pub fn is_message(&self) -> bool {
        matches!(self.result_of(OpKind::receives), Some(Ok(1..)))
    }

    /// Whether it is the end of a receive that says that the peer has ended.
    pub fn is_eof(&self) -> bool {
        self.result_of(OpKind::receives) == Some(Ok(0))
    }

    /// Whether it is the end of a send that took less than it was given.
    pub fn is_short(&self) -> bool {
        let given = self.begun.map(|begun| begun.len);
        let sent = self.result_of(OpKind::sends).and_then(Result::ok);
        sent.zip(given).is_some_and(|(sent, given)| sent < given)
    }

    /// Whether it is a call that found nothing to do on a nonblocking socket.
    pub fn would_block(&self) -> bool {
        self.result_of(|op| !op.is_on_ring()) == Some(Err(Errno(libc::EAGAIN)))
    }

    /// Whether many completions belong to one submission of this, as far as is known by now.
    pub fn is_multishot(&self) -> bool {
        let Content::Completed { more, .. } = self.what else { return false };
        more || self.begun.is_some_and(|begun| begun.shots > 1)
    }

    /// Whether it is something that is not to happen, or not often: a failure, a receive without a
    /// buffer, an overflow, records that are lost.
    pub fn is_abnormal(&self) -> bool {
        match self.what {
            Content::Lost(_) | Content::Frozen(_) | Content::Unknown => true,
            Content::EnterEnd { result, overflow, .. } => overflow || result.is_err(),
            Content::WaitEnd { result, .. } => result.is_err(),
            Content::Completed { result: Err(Errno(libc::ENOBUFS)), .. } => true,
            Content::Completed { .. } | Content::CallEnd { .. } => self.raw.is_failure(),
            _ => false,
        }
    }

    /// The owner of the key that a call or a ready descriptor has.
    pub fn owner(&self) -> Option<KeyOwner> {
        let has_key = matches!(
            self.what,
            Content::Ready { .. } | Content::CallBegin { .. } | Content::CallEnd { .. }
        );
        has_key.then(|| Key(self.raw.id).into())
    }
}

/// The connection of an operation with this token, if it is one's.
pub(crate) fn token_conn(token: u64) -> Option<ConnId> {
    Record::completed(token, 0, 0, 0).conn().map(conn_id)
}

/// The connection with this number in tokens and keys.
pub(crate) fn conn_id(number: u64) -> ConnId {
    ConnId::new(number as u32, (number >> 32) as u32)
}

/// An operation in flight.
#[derive(Debug, Clone, Copy)]
struct SeenOp {
    op: Option<OpKind>,
    begun: Begun,
    /// The time of its submission or its last completion.
    last: u64,
}

/// Decodes records, given in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decoder {
    /// The operations in flight, by what their records have in common.
    in_flight: HashMap<Pairing, SeenOp>,
    /// The kinds of them, by connection.
    of_conns: HashMap<ConnId, Kinds>,
    /// How often each operation was submitted, by token.
    submitted: HashMap<u64, u32>,
    /// The calls, enters and waits that have begun and not ended.
    spans: HashMap<Pairing, Begun>,
    /// The next submission's number; `None` until an enter says it, if the beginning is lost.
    queued: Option<u64>,
}

impl Decoder {
    /// A decoder of records from this number on.
    pub(crate) fn new(first: u64) -> Decoder {
        Decoder { queued: (first == 0).then_some(0), ..Decoder::default() }
    }

    /// Decodes record `at` of `records`, which has this number. The records behind it are searched
    /// for the completions of an enter.
    fn decode(&mut self, header: &Header, number: u64, records: &[Record], at: usize) -> Event {
        let raw = records[at];
        let is_alone = header.writers == Writers::One;
        let mut event = Event {
            number,
            at: header.nanos(raw.time),
            iteration: if is_alone { raw.iteration } else { 0 },
            lane: raw.lane().filter(|_| !is_alone),
            conn: raw.conn().map(conn_id),
            op: raw.op(),
            what: raw.payload(),
            begun: None,
            lasted: None,
            completions: 0,
            in_flight: InFlight::default(),
            posting: None,
            asleep: None,
            raw,
        };
        event.in_flight.before = self.in_flight.contains_key(&raw.pairing());
        match event.what {
            Content::Submitted { len, .. } => event.begun = Some(self.begin(&event, len)),
            Content::Completed { more, .. } => self.completed(&mut event, more),
            Content::Implied { .. } | Content::Notified => self.completed(&mut event, false),
            Content::EnterBegin { queued, .. } => {
                self.queued = Some(queued);
                self.span_begins(&event, 0);
            }
            Content::WaitBegin { .. } => self.span_begins(&event, 0),
            Content::CallBegin { len, .. } => self.span_begins(&event, len),
            Content::EnterEnd { .. } => {
                event.completions = completions(&records[at + 1..]);
                self.span_ends(&mut event);
            }
            Content::WaitEnd { .. } | Content::CallEnd { .. } => self.span_ends(&mut event),
            Content::Lost(_) => *self = Decoder::new(1),
            _ => {}
        }
        event.in_flight.total = self.in_flight.len();
        event.in_flight.of_conn =
            event.conn.and_then(|conn| self.of_conns.get(&conn).copied()).unwrap_or_default();
        event
    }

    fn begin(&mut self, event: &Event, len: u32) -> Begun {
        let number = self.queued;
        self.queued = number.map(|n| n.wrapping_add(1));
        let earlier = match event.raw.is_watched() {
            true => &mut 0,
            false => self.submitted.entry(event.raw.id).or_default(),
        };
        let begun =
            Begun { event: event.number, number, at: event.at, shots: 0, len, earlier: *earlier };
        *earlier = earlier.saturating_add(1);
        let op = event.op;
        self.in_flight.insert(event.raw.pairing(), SeenOp { op, begun, last: event.at });
        if let (Some(conn), Some(OpKind::Ring(kind))) = (event.conn, event.op) {
            self.of_conns.entry(conn).or_default().0 |= Kinds::bit(kind);
        }
        begun
    }

    fn completed(&mut self, event: &mut Event, more: bool) {
        if let Some(flight) = self.in_flight.get_mut(&event.raw.pairing()) {
            event.lasted = Some(event.at.saturating_sub(flight.last));
            flight.last = event.at;
            flight.begun.shots = flight.begun.shots.saturating_add(1);
            event.begun = Some(flight.begun);
        }
        if more {
            return;
        }
        self.in_flight.remove(&event.raw.pairing());
        let (Some(conn), Some(OpKind::Ring(kind))) = (event.conn, event.op) else { return };
        if let Some(kinds) = self.of_conns.get_mut(&conn) {
            kinds.0 &= !Kinds::bit(kind);
        }
        if kind == Kind::Close {
            // The next connection of the slot begins anew.
            for kind in Kind::ALL {
                self.submitted.remove(&((*kind as u64) << 56 | event.raw.id << 8 >> 8));
            }
        }
    }

    fn span_begins(&mut self, event: &Event, len: u32) {
        let begun = Begun { event: event.number, at: event.at, len, ..Begun::default() };
        self.spans.insert(event.raw.pairing(), begun);
    }

    fn span_ends(&mut self, event: &mut Event) {
        event.begun = self.spans.remove(&event.raw.pairing());
        event.lasted = event.begun.map(|begun| event.at.saturating_sub(begun.at));
    }
}

/// How many completions stand before the next enter.
fn completions(records: &[Record]) -> u32 {
    let ends = [RecordKind::EnterBegin, RecordKind::EnterEnd, RecordKind::Lost];
    let until = |record: &&Record| !ends.iter().any(|&kind| record.is(kind));
    records.iter().take_while(until).filter(|record| record.is(RecordKind::Cqe)).count() as u32
}

/// The events of records, in the order in which they were recorded.
#[derive(Debug)]
pub struct Events<'a> {
    header: &'a Header,
    records: &'a [Record],
    at: usize,
    next: u64,
    pub(crate) decoder: Decoder,
    postings: Option<&'a Postings>,
}

/// Returns the events of a trace, in the order in which they were recorded.
pub fn events(trace: &Trace) -> Events<'_> {
    Events::new(&trace.header, &trace.records, trace.first, Decoder::new(trace.first))
}

impl<'a> Events<'a> {
    /// Of records of which the first has the number `next`, and of what was in flight before.
    pub(crate) fn new(
        header: &'a Header,
        records: &'a [Record],
        next: u64,
        decoder: Decoder,
    ) -> Events<'a> {
        Events { header, records, at: 0, next, decoder, postings: None }
    }

    /// With what the kernel's events add.
    pub(crate) fn with_postings(self, postings: Option<&'a Postings>) -> Events<'a> {
        Events { postings, ..self }
    }

    /// How many operations of each kind are in flight behind the last event.
    pub fn in_flight(&self) -> HashMap<OpKind, u64> {
        let mut all = HashMap::new();
        for op in self.decoder.in_flight.values().filter_map(|one| one.op) {
            *all.entry(op).or_default() += 1;
        }
        all
    }
}

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let raw = self.records.get(self.at)?;
        let number = self.header.number(self.next, raw);
        let mut event = self.decoder.decode(self.header, number, self.records, self.at);
        if let Some(postings) = self.postings {
            event.posting = postings.posting(self.at);
            event.asleep = match (event.what, event.begun) {
                (Content::EnterEnd { .. }, Some(begun)) => postings.asleep(begun.at, event.at),
                _ => None,
            };
        }
        self.next = raw.next_number(number);
        self.at += 1;
        Some(event)
    }
}
