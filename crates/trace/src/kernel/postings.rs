//! Which events of the kernel belong to the records of a trace: when a completion was posted, and
//! how long an enter slept.
//!
//! The kernel's events have the arrival of what an operation waited for and the posting of its
//! completion; the trace has its reaping. Completions are reaped in the order in which they were
//! posted, so the two can be matched.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{KernelEvent, Sidecar, Tracepoint};
use proactor_record::{RecordKind, Trace};

/// How a completion came into the queue. Times are nanoseconds since recording began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// When what its operation waited for arrived; `None` if it did not wait.
    pub arrived: Option<u64>,
    /// When the kernel posted it.
    pub posted: u64,
    /// Whether the operation was handed to a worker thread (io-wq).
    pub is_punted: bool,
}

impl Posting {
    /// How long the completion waited to be reaped at this time, in nanoseconds.
    pub fn waited(&self, reaped: u64) -> u64 {
        reaped.saturating_sub(self.posted)
    }

    /// How long it took from the arrival to the posting, in nanoseconds, if it waited for one.
    pub fn took(&self) -> Option<u64> {
        self.arrived.map(|arrived| self.posted.saturating_sub(arrived))
    }
}

/// The postings of a trace's completions, and the sleeps in its enters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Postings {
    /// By the index of the record.
    postings: HashMap<usize, Posting>,
    /// When a thread began to sleep, and when something arrived; `None` if that is not recorded.
    sleeps: Option<Vec<(u64, u64)>>,
}

/// The posted completions that are not matched, by user data, each with its result and flags.
type Posted = HashMap<u64, VecDeque<((i32, u32), Posting)>>;

impl Postings {
    /// Matches a trace with the kernel's events.
    pub(crate) fn of(trace: &Trace, sidecar: &Sidecar) -> Postings {
        let mut posted = posted(&sidecar.events);
        let is_whole = trace.lost() == 0 && sidecar.lost == 0;
        if let Some(first) = trace.records.first().filter(|_| trace.lost() > 0) {
            forget(&mut posted, trace.header.nanos(first.time));
        }
        let mut postings = HashMap::new();
        for (at, record) in trace.records.iter().enumerate() {
            let time = trace.header.nanos(record.time);
            match record.kind() {
                Some(RecordKind::Cqe) => {
                    // With one clock reading for a batch, it may have been posted later than that.
                    let latest = if is_whole { u64::MAX } else { time };
                    let queue = posted.get_mut(&record.id);
                    let own = queue.and_then(|it| take(it, (record.res, record.flags), latest));
                    postings.extend(own.map(|posting| (at, posting)));
                }
                Some(RecordKind::Lost) => forget(&mut posted, time),
                _ => {}
            }
        }
        let sleeps = sidecar.has_sleeps.then(|| sleeps(&sidecar.events));
        Postings { postings, sleeps }
    }

    /// The posting of the completion that this record is.
    pub(crate) fn posting(&self, record: usize) -> Option<Posting> {
        self.postings.get(&record).copied()
    }

    /// How long a thread slept between two moments.
    pub(crate) fn asleep(&self, from: u64, until: u64) -> Option<u64> {
        let sleeps = self.sleeps.as_ref()?;
        let first = sleeps.partition_point(|&(_, end)| end <= from);
        let within = sleeps[first..].iter().take_while(|&&(begin, _)| begin < until);
        Some(within.map(|&(begin, end)| end.min(until) - begin.max(from)).sum())
    }
}

/// The completions that were posted, in their order.
fn posted(events: &[KernelEvent]) -> Posted {
    let (mut posted, mut arrived, mut punted) = (Posted::new(), HashMap::new(), HashSet::new());
    for event in events {
        let &KernelEvent { time, user_data, .. } = event;
        match event.tracepoint {
            Tracepoint::TaskAdd => _ = arrived.entry(user_data).or_insert(time),
            Tracepoint::QueueAsyncWork => _ = punted.insert(user_data),
            _ => {}
        }
        let Some(completion) = event.completion() else { continue };
        let (arrived, is_punted) = (arrived.remove(&user_data), punted.remove(&user_data));
        let posting = Posting { arrived, posted: time, is_punted };
        posted.entry(user_data).or_default().push_back((completion, posting));
    }
    posted
}

/// Forgets what was posted before this time: its reaping is not in the trace, so that it would be
/// matched with a later completion of the same operation.
fn forget(posted: &mut Posted, before: u64) {
    posted.values_mut().for_each(|queue| queue.retain(|(_, one)| one.posted >= before));
}

/// Returns the posting of a completion: the first equal entry of the queue, if it is not later than
/// `latest`. The entries before it are not in the trace, and are removed.
fn take(
    queue: &mut VecDeque<((i32, u32), Posting)>,
    completion: (i32, u32),
    latest: u64,
) -> Option<Posting> {
    let at = queue.iter().position(|(one, _)| *one == completion)?;
    if queue[at].1.posted > latest {
        return None;
    }
    queue.drain(..=at).next_back().map(|(_, posting)| posting)
}

/// From when a thread began to sleep on the ring until something arrived or was posted.
fn sleeps(events: &[KernelEvent]) -> Vec<(u64, u64)> {
    let (mut sleeps, mut since) = (Vec::new(), None);
    for event in events {
        match event.tracepoint {
            Tracepoint::CqringWait => _ = since.get_or_insert(event.time),
            Tracepoint::TaskAdd | Tracepoint::Complete | Tracepoint::CqeOverflow => {
                sleeps.extend(since.take().map(|since| (since, event.time)));
            }
            _ => {}
        }
    }
    // A wait that nothing ended lasts until its enter returns.
    sleeps.extend(since.map(|since| (since, u64::MAX)));
    sleeps
}
