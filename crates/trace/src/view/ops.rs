//! Operation by operation, call by call: how many, what came of them, how old they were.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use crate::event::{Event, Happened, Op};
use crate::format::Call;
use proactor::ring::Kind;
use proactor_report::histogram::Percentiles;
use proactor_report::{Errno, Latencies};

/// Errors by name, and how many of each.
pub type Errors = BTreeMap<String, u64>;

/// What became of all operations of one kind, or of all calls of one name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpRow {
    /// What it is called.
    pub op: &'static str,
    /// Whether it is an operation of a ring, and no call.
    pub on_ring: bool,
    /// Whether one submission of it had many completions.
    pub multishot: bool,
    /// Submissions queued, or calls made.
    pub begun: u64,
    /// Completions reaped, or calls that came back.
    pub ended: u64,
    /// Those that succeeded, the quiet ones included that have no completion.
    pub ok: u64,
    /// Quiet submissions that went out whole: they have no completion.
    pub silent: u64,
    /// Sends of which less went than was given. Also among `ok`.
    pub short: u64,
    /// Receives that were the peer's end. Not among `ok`.
    pub eof: u64,
    /// Calls that would have blocked. Not among the errors.
    pub would_block: u64,
    /// The others that failed.
    pub errors: Errors,
    /// Completions of which no submission is seen.
    pub unseen: u64,
    /// Submissions that were in flight at the end.
    pub in_flight: u64,
    /// Bytes that were moved.
    pub bytes: u64,
    /// Whether these are calls that may sleep until somebody else does something: they took their
    /// time asleep and awake.
    pub may_sleep: bool,
    /// How old operations were when their completion was reaped, or how long calls took. `None`
    /// where that says nothing: an accept and a receive wait for others, and with a clock per
    /// batch a call takes no time.
    pub ages: Option<Percentiles>,
    /// How old or how long together, in nanoseconds; `None` where `ages` is.
    pub together_ns: Option<u64>,
    /// The same, by powers of two.
    pub octaves: Vec<Octave>,
}

/// How many were as old as this, and less than twice as old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Octave {
    /// From this many nanoseconds on; a power of two times a microsecond, or zero.
    pub from_ns: u64,
    /// So many.
    pub count: u64,
}

impl OpRow {
    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Whether its time is not its own: it sleeps until a peer speaks, or another thread is done.
    pub fn waits_for_others(&self) -> bool {
        self.may_sleep && !SENDS.contains(&self.op)
    }

    /// How many failed with this errno.
    pub fn failed_with(&self, errno: i32) -> u64 {
        self.errors.get(&Errno(errno).to_string()).copied().unwrap_or(0)
    }
}

/// The calls that send: how long they sleep is told by whose room they wait for.
const SENDS: [&str; 2] = [Call::Send.name(), Call::SendVectored.name()];

/// Counts events, operation by operation.
#[derive(Debug, Default)]
pub(super) struct Ops {
    rows: HashMap<Op, Row>,
    /// Whether calls have durations.
    timed: bool,
    /// Of each lane the call that began last: whose, which, and with how many bytes.
    calling: HashMap<Option<u16>, (u64, u8, u32)>,
    /// The waits, where they are calls among others and no turns of a loop.
    waits: Option<Row>,
}

#[derive(Debug)]
struct Row {
    row: OpRow,
    ages: Option<Latencies>,
    octaves: BTreeMap<u64, u64>,
}

impl Ops {
    /// None yet; with durations of calls, if they were recorded.
    pub(super) fn new(timed: bool) -> Ops {
        Ops { timed, ..Ops::default() }
    }

    /// Counts it, and answers whether it is a send of which less went than was given.
    pub(super) fn see(&mut self, event: &Event) -> bool {
        let Some(op) = event.op else {
            self.waited(event);
            return false;
        };
        let timed = self.timed;
        let called = match event.what {
            Happened::CallBegin { len, .. } => {
                self.calling.insert(event.lane, (event.raw.id, event.raw.op, len));
                None
            }
            Happened::CallEnd { .. } => self.calling.remove(&event.lane),
            _ => None,
        };
        let row = self.rows.entry(op).or_insert_with(|| Row::new(op, timed));
        match &event.what {
            Happened::Submitted { .. } | Happened::CallBegin { .. } => {
                row.row.begun += 1;
                false
            }
            Happened::Completed { result, submission, age, .. } => {
                row.row.ended += 1;
                row.row.multishot |= event.is_multishot();
                row.row.unseen += u64::from(submission.is_none());
                row.age(*age);
                row.came_to(op, *result, submission.map(|one| one.len))
            }
            Happened::Silent { bytes, submission, age } => {
                row.row.silent += 1;
                row.row.unseen += u64::from(submission.is_none());
                row.age(*age);
                row.came_to(op, Ok(*bytes), None)
            }
            Happened::CallEnd { result, lasted, may_sleep, .. } => {
                row.row.ended += 1;
                row.row.may_sleep |= may_sleep;
                row.age(*lasted);
                let same =
                    |(id, call, _): &(u64, u8, u32)| (*id, *call) == (event.raw.id, event.raw.op);
                row.came_to(op, *result, called.filter(same).map(|(.., len)| len))
            }
            _ => false,
        }
    }

    /// Has waits counted as calls.
    pub(super) fn count_waits(&mut self) {
        let row = Row::of("wait", false, self.timed);
        self.waits = Some(Row { row: OpRow { may_sleep: true, ..row.row }, ..row });
    }

    fn waited(&mut self, event: &Event) {
        let Some(waits) = &mut self.waits else { return };
        match event.what {
            Happened::WaitBegin { .. } => waits.row.begun += 1,
            Happened::WaitEnd { result, lasted } => {
                waits.row.ended += 1;
                waits.age(lasted);
                match result {
                    Ok(_) => waits.row.ok += 1,
                    Err(errno) => *waits.row.errors.entry(errno.to_string()).or_default() += 1,
                }
            }
            _ => {}
        }
    }

    /// All rows, in the order of the operations' numbers; those in flight at the end by
    /// `in_flight`.
    pub(super) fn finish(self, in_flight: &HashMap<Op, u64>) -> Vec<OpRow> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_by_key(|(op, _)| match op {
            Op::Ring(kind) => (0, *kind as u8),
            Op::Call(call) => (1, *call as u8),
        });
        let finish = |in_flight: u64, one: Row| {
            let octave = |(from_ns, count)| Octave { from_ns, count };
            OpRow {
                ages: one.ages.filter(|ages| !ages.is_empty()).map(|ages| ages.percentiles()),
                octaves: one.octaves.into_iter().map(octave).collect(),
                in_flight,
                ..one.row
            }
        };
        let waits = self.waits.filter(|waits| waits.row.begun + waits.row.ended > 0);
        let of = |op: &Op| in_flight.get(op).copied().unwrap_or(0);
        let waits = waits.into_iter().map(|row| finish(0, row));
        waits.chain(rows.into_iter().map(|(op, row)| finish(of(&op), row))).collect()
    }
}

impl Row {
    fn new(op: Op, timed: bool) -> Row {
        let told = match op {
            Op::Ring(kind) => !waits_for_others(kind),
            Op::Call(_) => timed,
        };
        Row::of(op.name(), matches!(op, Op::Ring(_)), told)
    }

    /// Of this name; with ages, if they are `told`.
    fn of(op: &'static str, on_ring: bool, told: bool) -> Row {
        let row = OpRow {
            op,
            on_ring,
            multishot: false,
            begun: 0,
            ended: 0,
            ok: 0,
            silent: 0,
            short: 0,
            eof: 0,
            would_block: 0,
            errors: Errors::new(),
            unseen: 0,
            in_flight: 0,
            bytes: 0,
            may_sleep: false,
            ages: None,
            together_ns: None,
            octaves: Vec::new(),
        };
        Row { row, ages: told.then(Latencies::new), octaves: BTreeMap::new() }
    }

    fn age(&mut self, nanos: Option<u64>) {
        let (Some(ages), Some(nanos)) = (&mut self.ages, nanos) else { return };
        ages.record(Duration::from_nanos(nanos));
        self.row.together_ns = Some(self.row.together_ns.unwrap_or(0).saturating_add(nanos));
        *self.octaves.entry(octave(nanos)).or_default() += 1;
    }

    /// Counts a result. `given` is what there was to send, or room to receive into.
    fn came_to(&mut self, op: Op, result: Result<u32, Errno>, given: Option<u32>) -> bool {
        let row = &mut self.row;
        match result {
            Ok(0) if is_recv(op) => row.eof += 1,
            Ok(n) => {
                row.ok += 1;
                if !is_recv(op) && !is_send(op) {
                    return false;
                }
                row.bytes += u64::from(n);
                let short = is_send(op) && given.is_some_and(|given| n < given);
                row.short += u64::from(short);
                return short;
            }
            Err(Errno(libc::EAGAIN)) if matches!(op, Op::Call(_)) => row.would_block += 1,
            Err(errno) => *row.errors.entry(errno.to_string()).or_default() += 1,
        }
        false
    }
}

/// Whether it moves bytes in.
pub(super) fn is_recv(op: Op) -> bool {
    matches!(op, Op::Ring(Kind::Recv) | Op::Call(Call::Recv))
}

/// Whether it moves bytes out.
pub(super) fn is_send(op: Op) -> bool {
    matches!(op, Op::Ring(Kind::Send) | Op::Call(Call::Send | Call::SendVectored))
}

/// Whether it is only for now that an operation fails with this: it is asked again, and no
/// connection breaks of it.
pub(super) fn passes(errno: Errno) -> bool {
    matches!(errno.0, libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS | libc::ECANCELED)
}

/// Whether it is a peer's or a signal's affair how long it takes.
fn waits_for_others(kind: Kind) -> bool {
    use Kind::{Accept, Internal, PollAccept, PollRecv, PollSend, Recv, Wake};
    matches!(kind, Accept | Recv | Wake | Internal | PollAccept | PollRecv | PollSend)
}

/// The power of two of a microsecond below it, in nanoseconds, or zero.
fn octave(nanos: u64) -> u64 {
    match nanos / 1000 {
        0 => 0,
        micros => (1 << micros.ilog2()) * 1000,
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
