//! The state of one watched ring: its requests in flight and its counts.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::kernel::{KernelEvent, Tracepoint, operation};
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
    #[serde(serialize_with = "rows")]
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

/// The identity of a request: its address and zero, or zero and its user data where the kernel does
/// not trace the address.
type RequestKey = (u64, u64);

fn rows<S: Serializer>(ops: &BTreeMap<Option<u8>, OpCounts>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(ops.values())
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
    op: Option<String>,
    opcode: Option<u8>,
    submitted: u64,
    completed: u64,
    /// Completions without an error.
    ok: u64,
    errors: Errors,
    /// Requests that were rejected before they started.
    rejected: u64,
    /// Requests that ended without a completion (`IOSQE_CQE_SKIP_SUCCESS`).
    #[serde(rename = "skipped_cqes")]
    skipped: u64,
    /// Requests that were handed to a worker thread (io-wq).
    punts: u64,
    /// Requests that waited by polling.
    polls: u64,
    /// Multishot operations that ended.
    multishot_ended: u64,
    /// The completions of these.
    multishot_completions: u64,
    /// Other operations: from the submission to the completion.
    #[serde(rename = "submit_to_cqe")]
    took: Latencies,
    /// From the arrival of what was waited for to the completion.
    #[serde(rename = "arrival_to_cqe")]
    after: Latencies,
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

    /// Counts an event, and adds what only its request knows: the operation of a completion, the
    /// user data and the operation of a punt. Returns the match of a completion.
    pub(super) fn observe(&mut self, event: &mut KernelEvent) -> Option<MatchedCompletion> {
        // 5.10 traces a punted request by its address only.
        if event.tracepoint == Tracepoint::QueueAsyncWork
            && (event.opcode.is_none() && event.request != 0)
            && let Some(request) = self.requests.get(&(event.request, 0))
        {
            (event.user_data, event.opcode) = (request.user_data, request.opcode);
        }
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
        let (res, flags) = event.completion()?;
        let matched = self.complete(event, flags & Cqe::MORE != 0);
        if matched.is_some() && flags & NOTIFICATION != 0 {
            return matched;
        }
        let op = self.op(event.opcode);
        op.completed += 1;
        match u32::try_from(res) {
            Ok(_) => op.ok += 1,
            Err(_) => *op.errors.entry(Errno(res.wrapping_neg()).to_string()).or_default() += 1,
        }
        matched.inspect(|matched| op.measure(matched, event.more()))
    }

    fn op(&mut self, opcode: Option<u8>) -> &mut OpCounts {
        let op = opcode.map(operation);
        self.ops.entry(opcode).or_insert_with(|| OpCounts { op, opcode, ..OpCounts::default() })
    }

    fn begin(&mut self, event: &KernelEvent, begun: Option<u64>) -> RequestKey {
        let KernelEvent { opcode, user_data, request: address, .. } = *event;
        let key = (address, if address == 0 { user_data } else { 0 });
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
        let key = (event.request, 0);
        let is_its = |request: &Request| request.user_data == event.user_data;
        if event.request != 0 && self.requests.get(&key).is_some_and(is_its) {
            return Some(key);
        }
        self.latest.get(&event.user_data).copied()
    }

    /// Matches a completion with its request, which ends unless more follow.
    fn complete(&mut self, event: &mut KernelEvent, more: bool) -> Option<MatchedCompletion> {
        event.opcode = None;
        let key = self.find(event)?;
        let request = self.requests.get_mut(&key)?;
        event.opcode = request.opcode;
        request.shots += 1;
        let Request { user_data, begun, shots: shot, .. } = *request;
        let since = |then: u64| event.time.saturating_sub(then);
        let after = request.arrived.take().map(since);
        if !more {
            self.requests.remove(&key);
            self.forget(user_data, key);
        }
        Some(MatchedCompletion { shot, took: begun.map(since), after })
    }
}

impl OpCounts {
    /// Measures a completion. The first one seen may be the last of a multishot request: without
    /// its submission it says nothing.
    fn measure(&mut self, matched: &MatchedCompletion, more: bool) {
        let &MatchedCompletion { shot, took, after } = matched;
        after.into_iter().for_each(|after| self.after.record(Duration::from_nanos(after)));
        if shot > 1 && !more {
            self.multishot_ended += 1;
            self.multishot_completions += shot;
        } else if let (Some(took), false) = (took, more) {
            self.took.record(Duration::from_nanos(took));
        }
    }
}
