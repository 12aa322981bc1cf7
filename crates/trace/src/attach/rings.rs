//! The state of one watched ring: its requests in flight and its counts.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use crate::kernel::{KernelEvent, Tracepoint};
use crate::view::Errors;
use proactor::ring::Cqe;
use proactor_record::Errno;
use proactor_report::Latencies;

/// `IORING_CQE_F_NOTIF`: the buffer of a zero-copy send is no longer in use. It is not a result.
const NOTIFICATION: u32 = 1 << 3;

/// A ring of the watched process.
#[derive(Debug, Default, Serialize)]
pub(super) struct RingState {
    /// The first thread that was seen to use it.
    pub(super) thread: i32,
    /// The name of that thread.
    pub(super) name: String,
    /// The entries of both queues, if its creation was seen.
    pub(super) entries: Option<[u32; 2]>,
    /// The setup flags, if its creation was seen.
    pub(super) setup: Option<u32>,
    /// By `IORING_OP_*`; `None` counts what was submitted before the watching began.
    #[serde(skip)]
    pub(super) ops: BTreeMap<Option<u8>, OpCounts>,
    /// Completions that overflowed the queue.
    pub(super) overflows: u64,
    /// How often a thread waited on it.
    pub(super) sleeps: u64,
    /// How often deferred work was run.
    pub(super) work_runs: u64,
    /// How many pieces of it.
    pub(super) work: u64,
    #[serde(skip)]
    requests: HashMap<RequestKey, Request>,
    /// The latest request with each user data.
    #[serde(skip)]
    latest: HashMap<u64, RequestKey>,
}

/// The identity of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RequestKey {
    Address(u64),
    UserData(u64),
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Request {
    opcode: Option<u8>,
    user_data: u64,
    /// The time of the submission, if it was seen.
    begun: Option<u64>,
    /// The time of an arrival that no completion has reported yet.
    arrived: Option<u64>,
    shots: u64,
}

/// The counts of one operation.
#[derive(Debug, Default, Serialize)]
pub(super) struct OpCounts {
    pub(super) submitted: u64,
    pub(super) completed: u64,
    /// Completions without an error.
    pub(super) ok: u64,
    pub(super) errors: Errors,
    /// Requests that were rejected before they started.
    pub(super) rejected: u64,
    /// Requests that ended without a completion (`IOSQE_CQE_SKIP_SUCCESS`).
    #[serde(rename = "skipped_cqes")]
    pub(super) skipped: u64,
    /// Requests that were handed to a worker thread (io-wq).
    pub(super) punts: u64,
    /// Requests that waited by polling.
    pub(super) polls: u64,
    /// Multishot operations that ended.
    pub(super) multishot_ended: u64,
    /// The completions of these.
    pub(super) multishot_completions: u64,
    /// Other operations: from the submission to the completion.
    #[serde(rename = "submit_to_cqe")]
    pub(super) took: Latencies,
    /// From the arrival of what was waited for to the completion.
    #[serde(rename = "arrival_to_cqe")]
    pub(super) after: Latencies,
}

/// A completion, matched with its submission.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatchedCompletion {
    /// Its number among the completions of the submission, from 1.
    pub(super) shot: u64,
    /// Nanoseconds since the submission, if it was seen.
    pub(super) took: Option<u64>,
    /// Nanoseconds since the arrival of what it waited for.
    pub(super) after: Option<u64>,
}

impl RingState {
    pub(super) fn new(thread: i32, name: String) -> RingState {
        RingState { thread, name, ..RingState::default() }
    }

    /// The numbers of all submissions and of all completions.
    pub(super) fn totals(&self) -> (u64, u64) {
        let ops = self.ops.values();
        ops.fold((0, 0), |(s, c), op| (s + op.submitted + op.rejected, c + op.completed))
    }

    /// Returns the event with the user data and the opcode of its request: 5.10 traces a punted
    /// request by its address only.
    pub(super) fn identified(&self, event: &KernelEvent) -> KernelEvent {
        let is_bare = event.tracepoint == Tracepoint::QueueAsyncWork && event.opcode.is_none();
        match self.requests.get(&RequestKey::Address(event.request)) {
            Some(request) if is_bare => {
                KernelEvent { user_data: request.user_data, opcode: request.opcode, ..*event }
            }
            _ => *event,
        }
    }

    /// Counts an event. Returns its operation, and for a completion the match.
    pub(super) fn observe(
        &mut self,
        event: &KernelEvent,
    ) -> (Option<u8>, Option<MatchedCompletion>) {
        let KernelEvent { opcode, time, own, .. } = *event;
        match event.tracepoint {
            Tracepoint::Create => {
                self.entries = Some([own[2] as u32, own[3] as u32]);
                self.setup = Some(own[1] as u32);
            }
            Tracepoint::CqringWait => self.sleeps += 1,
            Tracepoint::LocalWorkRun => {
                self.work_runs += 1;
                self.work += u64::from(own[0] as u32);
            }
            Tracepoint::SubmitReq => {
                self.op(opcode).submitted += 1;
                self.begin(event, Some(time));
            }
            Tracepoint::ReqFailed => self.op(opcode).rejected += 1,
            Tracepoint::CqeOverflow => self.overflows += 1,
            Tracepoint::TaskAdd => {
                // A request that was submitted before the watching began is known from here on.
                let key = self.find(event).unwrap_or_else(|| self.begin(event, None));
                if let Some(request) = self.requests.get_mut(&key) {
                    request.arrived.get_or_insert(time);
                }
            }
            Tracepoint::QueueAsyncWork => self.op(opcode).punts += 1,
            Tracepoint::PollArm => self.op(opcode).polls += 1,
            Tracepoint::Complete | Tracepoint::FailLink => {}
        }
        match event.completion() {
            Some((res, flags)) => self.completed(event, res, flags),
            None => (opcode, None),
        }
    }

    fn op(&mut self, opcode: Option<u8>) -> &mut OpCounts {
        self.ops.entry(opcode).or_default()
    }

    fn begin(&mut self, event: &KernelEvent, begun: Option<u64>) -> RequestKey {
        let KernelEvent { opcode, user_data, .. } = *event;
        let key = match event.request {
            0 => RequestKey::UserData(user_data),
            address => RequestKey::Address(address),
        };
        let request = Request { opcode, user_data, begun, arrived: None, shots: 0 };
        // A request without a completion is known to have ended when its address is reused.
        if let Some(old) = self.requests.insert(key, request) {
            self.forget(old.user_data, key);
            self.op(old.opcode).skipped += 1;
        }
        self.latest.insert(user_data, key);
        key
    }

    /// The sizes of both tables of requests.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.requests.len(), self.latest.len())
    }

    fn forget(&mut self, user_data: u64, key: RequestKey) {
        if self.latest.get(&user_data) == Some(&key) {
            self.latest.remove(&user_data);
        }
    }

    /// Finds the request of an event. Of a multishot request's completions only the last has the
    /// address.
    fn find(&self, event: &KernelEvent) -> Option<RequestKey> {
        let key = RequestKey::Address(event.request);
        let is_its = |request: &Request| request.user_data == event.user_data;
        if event.request != 0 && self.requests.get(&key).is_some_and(is_its) {
            return Some(key);
        }
        self.latest.get(&event.user_data).copied()
    }

    fn completed(
        &mut self,
        event: &KernelEvent,
        res: i32,
        flags: u32,
    ) -> (Option<u8>, Option<MatchedCompletion>) {
        let more = flags & Cqe::MORE != 0;
        let key = self.find(event);
        let Some(request) = key.and_then(|key| self.requests.get_mut(&key)) else {
            self.count(None, res);
            return (None, None);
        };
        request.shots += 1;
        let Request { opcode, user_data, begun, shots, .. } = *request;
        let since = |then: u64| event.time.saturating_sub(then);
        let after = request.arrived.take().map(since);
        let matched = MatchedCompletion { shot: shots, took: begun.map(since), after };
        if let (false, Some(key)) = (more, key) {
            self.requests.remove(&key);
            self.forget(user_data, key);
        }
        if flags & NOTIFICATION != 0 {
            return (opcode, Some(matched));
        }
        self.count(opcode, res);
        let op = self.op(opcode);
        if let Some(after) = after {
            op.after.record(Duration::from_nanos(after));
        }
        match matched.took {
            // The first completion seen may be the last of a multishot request. Without its
            // submission it says nothing.
            Some(took) if !more && shots == 1 => op.took.record(Duration::from_nanos(took)),
            None if shots == 1 => {}
            _ if !more => {
                op.multishot_ended += 1;
                op.multishot_completions += shots;
            }
            _ => {}
        }
        (opcode, Some(matched))
    }

    fn count(&mut self, opcode: Option<u8>, res: i32) {
        let op = self.op(opcode);
        op.completed += 1;
        if res < 0 {
            *op.errors.entry(Errno(res.wrapping_neg()).to_string()).or_default() += 1;
        } else {
            op.ok += 1;
        }
    }
}

impl OpCounts {
    /// The errors by name, the most frequent first: `3 ECONNRESET, 1 EPIPE`.
    pub(super) fn errors(&self) -> String {
        let mut errors: Vec<_> = self.errors.iter().collect();
        errors.sort_by_key(|&(_, count)| std::cmp::Reverse(*count));
        let words = errors.iter().map(|(name, count)| format!("{count} {name}"));
        words.collect::<Vec<_>>().join(", ")
    }
}
