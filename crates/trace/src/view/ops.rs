//! Operation by operation, call by call: counts, results and ages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use proactor_record::{Call, Content, OpKind};
use proactor_report::Latencies;
use proactor_report::histogram::Percentiles;
use serde::Serialize;

use super::names;
use crate::event::Event;
use crate::show::POLLS_ALL;

/// Errors by name, and how many of each.
pub type Errors = BTreeMap<String, u64>;

/// The results of all operations of one kind, or of all calls of one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OpRow {
    /// The operation or call.
    #[serde(serialize_with = "names::op")]
    pub op: OpKind,
    /// Whether it is an operation of a ring, and not a call.
    pub on_ring: bool,
    /// Whether one submission of it had many completions.
    pub multishot: bool,
    /// Submissions queued, or calls made.
    pub begun: u64,
    /// Completions reaped, or calls that returned.
    pub ended: u64,
    /// Those that succeeded, including those that skip their completion.
    pub ok: u64,
    /// Sends that skip their completion and succeeded in full.
    pub implied: u64,
    /// Sends that took less than they were given. Also among `ok`.
    pub short: u64,
    /// Receives that say that the peer has ended. Not among `ok`.
    pub eof: u64,
    /// Calls that would have blocked. Not among the errors.
    pub would_block: u64,
    /// All other failures, by errno.
    pub errors: Errors,
    /// Operations with a completion whose submission is not in the trace.
    pub unseen: u64,
    /// Submissions that were in flight at the end.
    pub in_flight: u64,
    /// Bytes that were moved.
    pub bytes: u64,
    /// Whether these are calls that may sleep: their time includes their sleep.
    pub may_sleep: bool,
    /// How old operations were when their completion was reaped, or how long calls took. `None`
    /// where that says nothing: for operations that wait for others, and for calls with a clock per
    /// batch.
    pub ages: Option<Percentiles>,
    /// The sum of the ages or times, in nanoseconds; `None` where `ages` is.
    pub together_ns: Option<u64>,
    /// The same, by powers of two.
    pub octaves: Vec<Octave>,
    /// How long posted completions waited to be reaped, if the kernel's events were recorded.
    pub reaping: Option<Percentiles>,
    /// Completions of operations that the kernel handed to a worker thread (io-wq), as far as its
    /// events were recorded.
    pub punted: u64,
}

/// How many had this age, and less than twice this age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Octave {
    /// The smallest age, in nanoseconds: a power of two times a microsecond, or zero.
    pub from_ns: u64,
    /// How many had it.
    pub count: u64,
}

impl OpRow {
    /// Whether its time is not its own: it waits for a peer, a person or another thread.
    pub fn waits_for_others(&self) -> bool {
        self.op.waits_for_others(self.may_sleep)
    }

    fn add_to_octave(&mut self, from_ns: u64) {
        match self.octaves.binary_search_by_key(&from_ns, |one| one.from_ns) {
            Ok(at) => self.octaves[at].count += 1,
            Err(at) => self.octaves.insert(at, Octave { from_ns, count: 1 }),
        }
    }
}

/// Counts events, operation by operation.
#[derive(Debug)]
pub(super) struct Ops {
    /// Each row with its ages, if it has any, and the waits of its posted completions.
    rows: HashMap<OpKind, (OpRow, Option<Latencies>, Latencies)>,
    /// Whether calls have durations.
    timed: bool,
    /// Whether waits are calls like others, and not iterations of a loop.
    counts_waits: bool,
    /// The tokens of operations that complete again and again, and were submitted before the trace.
    unseen: HashSet<u64>,
}

impl Ops {
    /// Counts from zero; with durations of calls, if they were recorded, and with waits if they are
    /// calls like others.
    pub(super) fn new(timed: bool, counts_waits: bool) -> Ops {
        Ops { rows: HashMap::new(), timed, counts_waits, unseen: HashSet::new() }
    }

    pub(super) fn see(&mut self, event: &Event) {
        let is_wait = matches!(event.what, Content::WaitBegin { .. } | Content::WaitEnd { .. });
        let wait = (is_wait && self.counts_waits).then_some(OpKind::Wait);
        let Some(op) = event.op.or(wait) else { return };
        let (row, ages, reaping) = self.rows.entry(op).or_insert_with(|| {
            let on_ring = op.is_on_ring();
            let has_ages = if on_ring { !op.waits_for_others(false) } else { self.timed };
            let row = OpRow { op, on_ring, may_sleep: op == OpKind::Wait, ..OpRow::default() };
            (row, has_ages.then(Latencies::new), Latencies::new())
        });
        if event.what == Content::Notified {
            return;
        }
        let Some(result) = event.result() else {
            row.begun += 1;
            return;
        };
        match event.what {
            Content::Implied { .. } => row.implied += 1,
            _ => row.ended += 1,
        }
        row.multishot |= event.is_multishot();
        row.may_sleep |= matches!(event.what, Content::CallEnd { may_sleep: true, .. });
        if row.on_ring && event.begun.is_none() {
            // One submission, however many completions it has.
            row.unseen += u64::from(self.unseen.insert(event.raw.id));
            if !matches!(event.what, Content::Completed { more: true, .. }) {
                self.unseen.remove(&event.raw.id);
            }
        }
        if let Some(posting) = event.posting {
            reaping.record(Duration::from_nanos(posting.waited(event.at)));
            row.punted += u64::from(posting.is_punted);
        }
        if let (Some(ages), Some(nanos)) = (ages, event.lasted) {
            ages.record(Duration::from_nanos(nanos));
            row.together_ns = Some(row.together_ns.unwrap_or(0).saturating_add(nanos));
            row.add_to_octave(octave(nanos));
        }
        match result {
            Ok(0) if op.receives() => row.eof += 1,
            Ok(n) => {
                row.ok += 1;
                row.bytes += if op.receives() || op.sends() { u64::from(n) } else { 0 };
                row.short += u64::from(event.is_short());
            }
            Err(_) if event.would_block() => row.would_block += 1,
            Err(errno) => *row.errors.entry(errno.to_string()).or_default() += 1,
        }
    }

    /// Returns all rows, in the order of the operations' numbers, with those `in_flight` at the
    /// end.
    pub(super) fn finish(self, in_flight: &HashMap<OpKind, u64>) -> Vec<OpRow> {
        let rows = self.rows.into_values().map(|(row, ages, reaping)| OpRow {
            ages: ages.filter(|ages| !ages.is_empty()).map(|ages| ages.percentiles()),
            reaping: (!reaping.is_empty()).then(|| reaping.percentiles()),
            in_flight: in_flight.get(&row.op).copied().unwrap_or(0),
            ..row
        });
        let mut rows: Vec<OpRow> = rows.collect();
        rows.sort_by_key(|row| match row.op {
            OpKind::Wait => (0, 0),
            OpKind::Ring(kind) => (1, kind as u8),
            OpKind::Opcode(opcode) => (1, opcode),
            OpKind::Call(call) => (2, call as u8),
        });
        rows
    }
}

/// The power of two of a microsecond below it, in nanoseconds, or zero.
pub(super) fn octave(nanos: u64) -> u64 {
    match nanos / 1000 {
        0 => 0,
        micros => (1 << micros.ilog2()) * 1000,
    }
}

/// Whether this is a system call in this model.
pub(super) fn is_call(model: &str, op: OpKind) -> bool {
    let keeps_interests = ["epoll", "epoll-et", "epoll-oneshot"].contains(&model);
    match op {
        OpKind::Call(Call::Watch | Call::Unwatch) => keeps_interests || model == "sigio",
        OpKind::Call(Call::Rewatch) => keeps_interests,
        // No system call: a thread that unlocks lets the next one in.
        OpKind::Call(Call::Lock) | OpKind::Ring(_) | OpKind::Opcode(_) => false,
        OpKind::Wait => model != POLLS_ALL,
        OpKind::Call(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_octave_begins_with_a_power_of_two_of_a_microsecond() {
        assert_eq!(
            [0, 999, 1000, 1999, 2000, 65_000, u64::MAX].map(octave)[..6],
            [0, 0, 1000, 1000, 2000, 64_000]
        );
    }
}
