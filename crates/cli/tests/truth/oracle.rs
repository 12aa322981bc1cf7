//! What must hold between what a trace says and what the kernel says of the same ring.
//!
//! | | |
//! |---|---|
//! | I1 | The submissions are those that the kernel took or refused: by name, in order. |
//! | I2 | What was reaped is what the kernel posted: each, to the bit, in order. |
//! | I3 | Every submission ends exactly once, and nothing ends that was not submitted. |
//! | I4 | What the enters answered adds up to what was submitted. |
//! | I5 | The kernel's own counts of both queues are those of the trace. |
//! | I6 | Neither of the two has lost anything. |
//! | I7 | Where work is deferred, every completion was posted within an enter. |
//!
//! I3 to I6 need no privilege. Every answer is the first thing that does not hold, as a sentence.

use std::collections::{HashMap, HashSet};

use proactor::ring::{Cqe, Kind, Token};
use proactor_trace::kernel::{KernelEvent, Tracepoint};
use proactor_trace::{Record, RecordKind};

/// The data to compare with each other.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    /// What the loop recorded.
    pub(crate) records: Vec<Record>,
    /// Records that are not there.
    pub(crate) lost: u64,
    /// What `fdinfo` says at the end: submissions and completions, modulo 2³². Some kernels do
    /// not.
    pub(crate) tails: Option<(u32, u32)>,
    /// The kernel's events of this ring, if they were recorded.
    pub(crate) kernel: Option<Vec<KernelEvent>>,
    /// Events that the kernel lost.
    pub(crate) kernel_lost: u64,
    /// Whether completions are made only when they are asked for.
    pub(crate) deferred: bool,
    /// Whether the queue has the order in which completions were posted. Before 5.19 those that
    /// waited outside a full queue are overtaken by later ones.
    pub(crate) ordered: bool,
}

impl Evidence {
    /// All that must hold.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        // What neither side has is not held against the other.
        if self.records.is_empty() || self.kernel.as_ref().is_some_and(Vec::is_empty) {
            return Err("I6: nothing was recorded".to_owned());
        }
        if (self.lost, self.kernel_lost) != (0, 0) {
            return Err(format!(
                "I6: lost {} records, {} of the kernel's",
                self.lost, self.kernel_lost
            ));
        }
        self.lifetimes()?;
        self.sums()?;
        let Some(events) = &self.kernel else { return Ok(()) };
        self.submissions(events)?;
        self.completions(events)?;
        if self.deferred { self.windows(events) } else { Ok(()) }
    }

    /// After how many enters the kernel said that completions waited outside a full queue.
    pub(crate) fn overflows(&self) -> usize {
        self.of(RecordKind::EnterEnd)
            .filter(|record| record.res >= 0 && record.flags & 1 != 0)
            .count()
    }

    /// Returns the completions that were reaped.
    pub(crate) fn reaped(&self) -> impl Iterator<Item = Cqe> {
        self.of(RecordKind::Cqe).map(|record| Cqe {
            token: Token(record.id),
            res: record.res,
            flags: record.flags,
        })
    }

    fn of(&self, kind: RecordKind) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.is(kind))
    }

    /// Checks I1, the submissions.
    fn submissions(&self, events: &[KernelEvent]) -> Result<(), String> {
        let ours = self.of(RecordKind::Sqe).map(|record| (record.id, record.op));
        let theirs = events.iter().filter_map(|event| match event.tracepoint {
            Tracepoint::SubmitReq | Tracepoint::ReqFailed => {
                Some((event.user_data, event.opcode.expect("a submission has an opcode")))
            }
            _ => None,
        });
        same("I1: submission", ours, theirs)
    }

    /// I2. Where later completions overtake those outside the queue, in order for each operation.
    fn completions(&self, events: &[KernelEvent]) -> Result<(), String> {
        let ours = self.reaped().map(|cqe| (cqe.token.0, cqe.res, cqe.flags));
        let theirs = events.iter().filter_map(|event| {
            let (res, flags) = event.completion()?;
            Some((event.user_data, res, flags))
        });
        let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
        if !self.ordered {
            ours.sort_by_key(|&(token, ..)| token);
            theirs.sort_by_key(|&(token, ..)| token);
        }
        same("I2: completion", ours.into_iter(), theirs.into_iter())
    }

    /// Checks I3, the completions.
    fn lifetimes(&self) -> Result<(), String> {
        let mut alive = HashSet::new();
        let mut lengths = HashMap::new();
        let mut timers = 0;
        for (at, record) in self.records.iter().enumerate() {
            let token = Token(record.id);
            let wrong = |why| Err(format!("I3: record {at}, {token:?}, {why}: {record:?}"));
            match RecordKind::from_number(record.kind) {
                // Timers are all of one name, and the last may not have come due.
                Some(RecordKind::Sqe) if token.kind() == Some(Kind::Internal) => timers += 1,
                Some(RecordKind::Cqe) if token.kind() == Some(Kind::Internal) => {
                    timers -= 1;
                    if timers < 0 {
                        return wrong("ended and was not in flight");
                    }
                }
                Some(RecordKind::Sqe) => {
                    lengths.insert(record.id, record.res);
                    if !alive.insert(record.id) {
                        return wrong("was submitted twice");
                    }
                }
                Some(RecordKind::Cqe) => {
                    let more = record.flags & Cqe::MORE != 0;
                    if !(if more { alive.contains(&record.id) } else { alive.remove(&record.id) }) {
                        return wrong("ended and was not in flight");
                    }
                }
                Some(RecordKind::Implied)
                    if !alive.remove(&record.id) || lengths[&record.id] != record.res =>
                {
                    return wrong("went out in silence and was not in flight, or not as long");
                }
                _ => {}
            }
        }
        // The stop is listened to until the end.
        alive.remove(&Token::at(Kind::Wake, 0).0);
        let left: Vec<_> = alive.into_iter().map(Token).take(3).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("I3: they never ended: {left:?}")) }
    }

    /// I4 and I5, and what the records say of their own counts.
    fn sums(&self) -> Result<(), String> {
        let (mut queued, mut taken, mut reaped) = (0u64, 0i64, 0u64);
        for (at, record) in self.records.iter().enumerate() {
            let right = match RecordKind::from_number(record.kind) {
                Some(RecordKind::Sqe) => {
                    queued += 1;
                    true
                }
                Some(RecordKind::Cqe) => {
                    reaped += 1;
                    true
                }
                Some(RecordKind::EnterBegin) => {
                    record.id == queued && i64::from(record.res) == queued as i64 - taken
                }
                Some(RecordKind::EnterEnd) => {
                    taken += i64::from(record.res);
                    record.id == reaped && record.res >= 0
                }
                _ => true,
            };
            if !right {
                let is = (queued, taken, reaped);
                return Err(format!("I4: record {at} does not add up to {is:?}: {record:?}"));
            }
        }
        let enters =
            (self.of(RecordKind::EnterBegin).count(), self.of(RecordKind::EnterEnd).count());
        if taken != queued as i64 || enters.0 != enters.1 {
            return Err(format!(
                "I4: {queued} were queued and {taken} taken, in {enters:?} enters"
            ));
        }
        match self.tails {
            Some(tails) if tails != (queued as u32, reaped as u32) => {
                Err(format!("I5: {queued} and {reaped}, but the kernel has {tails:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Checks I7, the order of times.
    fn windows(&self, events: &[KernelEvent]) -> Result<(), String> {
        let begins = self.of(RecordKind::EnterBegin).map(|record| record.time);
        let ends = self.of(RecordKind::EnterEnd).map(|record| record.time);
        let windows: Vec<_> = begins.zip(ends).collect();
        for event in events.iter().filter(|event| event.completion().is_some()) {
            let at = windows.partition_point(|&(_, end)| end < event.time);
            if windows.get(at).is_none_or(|&(begin, _)| event.time < begin) {
                return Err(format!("I7: posted outside of every enter: {event:?}"));
            }
        }
        Ok(())
    }
}

/// Compares two sequences, position by position.
fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    mut ours: impl Iterator<Item = T>,
    mut theirs: impl Iterator<Item = T>,
) -> Result<(), String> {
    for at in 0.. {
        let both = (ours.next(), theirs.next());
        if both.0 != both.1 {
            return Err(format!(
                "{what} {at}: the trace has {:x?}, the kernel {:x?}",
                both.0, both.1
            ));
        }
        if both.0.is_none() {
            break;
        }
    }
    Ok(())
}

/// One way in which a trace could be wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mutation {
    /// The record is not there.
    Drop(usize),
    /// It is there twice.
    Double(usize),
    /// It and a later one of its kind have changed places.
    Swap(usize, usize),
    /// Some bit of its result or its flags is the other; of a submission, of its name or operation.
    Flip(usize, u32),
}

impl Mutation {
    /// Some mutation of these records; `below(n)` is a random number below n. None that would
    /// change nothing.
    pub(crate) fn some(records: &[Record], mut below: impl FnMut(usize) -> usize) -> Mutation {
        let counts = [RecordKind::Sqe, RecordKind::Cqe, RecordKind::Implied].map(|what| what as u8);
        let kind = below(4);
        loop {
            let at = below(records.len());
            let record = &records[at];
            if !counts.contains(&record.kind) {
                continue;
            }
            match kind {
                0 => return Mutation::Drop(at),
                1 => return Mutation::Double(at),
                // Implied successes are recorded after the reaping, in any order.
                2 if !record.is(RecordKind::Implied) => {
                    // Of a submission the kernel says whose it is and what, not its length.
                    let said = if record.is(RecordKind::Sqe) { 0 } else { -1 };
                    let reported =
                        |one: &Record| (one.id, one.op, one.res & said, one.flags & said as u32);
                    let is_other = |one: &&Record| one.kind == record.kind;
                    let other = records[at + 1..].iter().position(|one| is_other(&one));
                    if let Some(other) = other.map(|n| at + 1 + n)
                        && reported(&records[other]) != reported(record)
                    {
                        return Mutation::Swap(at, other);
                    }
                }
                2 => {}
                _ => return Mutation::Flip(at, below(64) as u32),
            }
        }
    }

    /// Applies the mutation to records.
    pub(crate) fn apply(self, records: &mut Vec<Record>) {
        match self {
            Mutation::Drop(at) => drop(records.remove(at)),
            Mutation::Double(at) => records.insert(at, records[at]),
            Mutation::Swap(one, other) => {
                // The contents change place; the positions and times do not.
                let (a, b) = (records[one], records[other]);
                records[one] = Record { time: a.time, iteration: a.iteration, aux: a.aux, ..b };
                records[other] = Record { time: b.time, iteration: b.iteration, aux: b.aux, ..a };
            }
            Mutation::Flip(at, bit) => {
                let record = &mut records[at];
                match RecordKind::from_number(record.kind) {
                    Some(RecordKind::Sqe) if bit < 8 => record.op ^= 1 << bit,
                    Some(RecordKind::Sqe) => record.id ^= 1 << bit,
                    Some(RecordKind::Cqe) if bit < 32 => record.flags ^= 1 << bit,
                    _ => record.res ^= 1 << (bit & 31),
                }
            }
        }
    }
}
