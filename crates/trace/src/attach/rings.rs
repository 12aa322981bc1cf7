//! One ring as it is watched: what is in flight on it, and what was counted.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::kernel::{Tale, Told};
use proactor::ring::Cqe;
use proactor_report::{Errno, Latencies};

/// `IORING_CQE_F_NOTIF`: not the answer, but that the bytes of a send are no longer needed.
const NOTIFICATION: u32 = 1 << 3;

/// A ring, and what was told of it.
#[derive(Debug)]
pub(super) struct Ring {
    /// Who was first seen to use it.
    pub(super) thread: i32,
    /// That thread's name.
    pub(super) name: String,
    /// Its entries and set-up flags, if its making was seen.
    pub(super) made: Option<(u32, u32, u32)>,
    /// By `IORING_OP_*`; `None` gathers what began before.
    pub(super) ops: BTreeMap<Option<u8>, Operation>,
    /// Completions that found the queue full.
    pub(super) overflows: u64,
    /// How often a thread slept on it.
    pub(super) waits: u64,
    /// How often deferred work was done, and how many pieces of it.
    pub(super) works: (u64, u64),
    flights: HashMap<Name, Flight>,
    /// Whose user data that is: the latest.
    latest: HashMap<u64, Name>,
}

/// By what a request is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Address(u64),
    UserData(u64),
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    opcode: Option<u8>,
    user_data: u64,
    /// When it was submitted, if that was seen.
    begun: Option<u64>,
    /// When what it waited for came, if no completion has told of it since.
    arrived: Option<u64>,
    shots: u64,
}

/// What was counted of one operation.
#[derive(Debug, Default)]
pub(super) struct Operation {
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// Completions without an error.
    pub(super) fine: u64,
    pub(super) errors: BTreeMap<i32, u64>,
    /// Refused before it began.
    pub(super) refused: u64,
    /// Ended without a completion, as a `CQE_SKIP_SUCCESS` that goes well.
    pub(super) silent: u64,
    /// Handed to a thread of the kernel.
    pub(super) punts: u64,
    /// Waited by polling.
    pub(super) polls: u64,
    /// Of multishot operations: how many ended, and after how many completions in all.
    pub(super) ended: (u64, u64),
    /// Of others: from the submission to the completion.
    pub(super) took: Latencies,
    /// From the arrival of what was waited for to the completion.
    pub(super) after: Latencies,
}

/// A completion, joined with its submission.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// The how-manieth of its submission.
    pub(super) shot: u64,
    /// Nanoseconds since the submission, if that was seen.
    pub(super) took: Option<u64>,
    /// Nanoseconds since what it waited for came.
    pub(super) after: Option<u64>,
}

impl Ring {
    pub(super) fn new(thread: i32, name: String) -> Ring {
        Ring {
            thread,
            name,
            made: None,
            ops: BTreeMap::new(),
            overflows: 0,
            waits: 0,
            works: (0, 0),
            flights: HashMap::new(),
            latest: HashMap::new(),
        }
    }

    /// All submissions and all completions.
    pub(super) fn totals(&self) -> (u64, u64) {
        let ops = self.ops.values();
        ops.fold((0, 0), |(s, c), op| (s + op.submitted + op.refused, c + op.completed))
    }

    /// What was told, with what its submission told of the operation: 5.10 says of work for its
    /// threads only which request it is.
    pub(super) fn named(&self, told: &Told) -> Told {
        let is_bare = matches!(told.what, Tale::Punted) && told.opcode.is_none();
        match self.flights.get(&Name::Address(told.request)) {
            Some(flight) if is_bare => {
                Told { user_data: flight.user_data, opcode: flight.opcode, ..*told }
            }
            _ => *told,
        }
    }

    /// Takes in what was told. Answers which operation it is about, and, of a completion, what it
    /// belongs to.
    pub(super) fn see(&mut self, told: &Told) -> (Option<u8>, Option<Done>) {
        match told.what {
            Tale::Created { submissions, completions, flags, .. } => {
                self.made = Some((submissions, completions, flags));
            }
            Tale::Waited { .. } => self.waits += 1,
            Tale::Worked { count } => {
                self.works.0 += 1;
                self.works.1 += u64::from(count);
            }
            Tale::Submitted { .. } => self.submitted(told),
            Tale::Refused { .. } => self.op(told.opcode).refused += 1,
            Tale::Completed { res, flags } => return self.completed(told, res, flags),
            Tale::Overflowed { res, flags } => {
                self.overflows += 1;
                return self.completed(told, res, flags);
            }
            Tale::Arrived => self.arrived(told),
            Tale::Punted => self.op(told.opcode).punts += 1,
            Tale::Armed => self.op(told.opcode).polls += 1,
            Tale::LinkFailed => {}
        }
        (told.opcode, None)
    }

    fn op(&mut self, opcode: Option<u8>) -> &mut Operation {
        self.ops.entry(opcode).or_default()
    }

    fn submitted(&mut self, told: &Told) {
        self.op(told.opcode).submitted += 1;
        self.begin(told, Some(told.time));
    }

    fn arrived(&mut self, told: &Told) {
        // What was submitted before we came is known from then on.
        let name = self.find(told).unwrap_or_else(|| self.begin(told, None));
        if let Some(flight) = self.flights.get_mut(&name) {
            flight.arrived.get_or_insert(told.time);
        }
    }

    fn begin(&mut self, told: &Told, begun: Option<u64>) -> Name {
        let Told { opcode, user_data, .. } = *told;
        let name = match told.request {
            0 => Name::UserData(user_data),
            address => Name::Address(address),
        };
        let flight = Flight { opcode, user_data, begun, arrived: None, shots: 0 };
        // What ends without a completion is known to have ended when its address is another's.
        if let Some(old) = self.flights.insert(name, flight) {
            self.forget(old.user_data, name);
            self.op(old.opcode).silent += 1;
        }
        self.latest.insert(user_data, name);
        name
    }

    /// How much is remembered of what is in flight.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.flights.len(), self.latest.len())
    }

    fn forget(&mut self, user_data: u64, name: Name) {
        if self.latest.get(&user_data) == Some(&name) {
            self.latest.remove(&user_data);
        }
    }

    /// Which flight that is about. All but the last of many completions tell no address.
    fn find(&self, told: &Told) -> Option<Name> {
        let name = Name::Address(told.request);
        let is_its = |flight: &Flight| flight.user_data == told.user_data;
        if told.request != 0 && self.flights.get(&name).is_some_and(is_its) {
            return Some(name);
        }
        self.latest.get(&told.user_data).copied()
    }

    fn completed(&mut self, told: &Told, res: i32, flags: u32) -> (Option<u8>, Option<Done>) {
        let more = flags & Cqe::MORE != 0;
        let name = self.find(told);
        let Some(flight) = name.and_then(|name| self.flights.get_mut(&name)) else {
            self.count(None, res);
            return (None, None);
        };
        flight.shots += 1;
        let Flight { opcode, user_data, begun, shots, .. } = *flight;
        let since = |then: u64| told.time.saturating_sub(then);
        let after = flight.arrived.take().map(since);
        let done = Done { shot: shots, took: begun.map(since), after };
        if let (false, Some(name)) = (more, name) {
            self.flights.remove(&name);
            self.forget(user_data, name);
        }
        if flags & NOTIFICATION != 0 {
            return (opcode, Some(done));
        }
        self.count(opcode, res);
        let op = self.op(opcode);
        if let Some(after) = after {
            op.after.record(Duration::from_nanos(after));
        }
        match done.took {
            // A last completion may be that of a multishot operation or of one that never was one:
            // the first of which the submission was not seen tells nothing.
            Some(took) if !more && shots == 1 => op.took.record(Duration::from_nanos(took)),
            None if shots == 1 => {}
            _ if !more => {
                op.ended.0 += 1;
                op.ended.1 += shots;
            }
            _ => {}
        }
        (opcode, Some(done))
    }

    fn count(&mut self, opcode: Option<u8>, res: i32) {
        let op = self.op(opcode);
        op.completed += 1;
        if res < 0 {
            *op.errors.entry(res.wrapping_neg()).or_default() += 1;
        } else {
            op.fine += 1;
        }
    }
}

impl Operation {
    /// Its errors by name, the most frequent first: `3 ECONNRESET, 1 EPIPE`.
    pub(super) fn errors(&self) -> String {
        let mut errors: Vec<_> = self.errors.iter().collect();
        errors.sort_by_key(|&(errno, count)| (std::cmp::Reverse(*count), *errno));
        let words = errors.iter().map(|(errno, count)| format!("{count} {}", Errno(**errno)));
        words.collect::<Vec<_>>().join(", ")
    }
}
