//! The state of one watched ring: its requests in flight and its counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::requests::{Request, RequestKey, RequestTable};
use crate::kernel::{KernelEvent, Tracepoint, operation};
use crate::view::Errors;
use proactor::ring::Cqe;
use proactor_record::Errno;
use proactor_record::format::CQE_NOTIFICATION;
use proactor_report::Latencies;

/// `IORING_OP_TIMEOUT` and `IORING_OP_LINK_TIMEOUT`, which end with `ETIME` when they are due.
const TIMEOUTS: [u8; 2] = [11, 15];

/// A watched ring and its counts.
#[derive(Debug, Default, Serialize)]
pub(super) struct RingState {
    /// The process of the first thread that was seen to use it, by the kernel's number.
    pub(super) process: i32,
    /// The first thread that was seen to use it.
    pub(super) thread: i32,
    /// The name of that thread.
    pub(super) name: String,
    /// The entries of both queues, if its creation was seen.
    pub(super) entries: Option<[u32; 2]>,
    /// The setup flags, if its creation was seen.
    pub(super) setup: Option<u32>,
    #[serde(serialize_with = "rows")]
    pub(super) ops: BTreeMap<OpKey, OpCounts>,
    /// Completions that overflowed the queue.
    pub(super) overflows: u64,
    /// How often io_uring_enter(2) was called for it.
    pub(super) enters: u64,
    /// How often a thread waited on it.
    pub(super) sleeps: u64,
    /// How often deferred work was run.
    pub(super) work_runs: u64,
    /// How many pieces of it.
    pub(super) work: u64,
    #[serde(skip)]
    requests: RequestTable,
    /// Whether all its submissions were seen: its creation was, and no event has been lost since.
    #[serde(skip)]
    is_whole: bool,
}

/// What may be concluded from events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certainty {
    /// Whether completions name their requests.
    pub(super) names_requests: bool,
    /// Whether the kernel lost events recently: nothing is measured or concluded.
    pub(super) has_gap: bool,
}

/// What completions are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OpKey {
    /// The submission was not seen: it was before the watching began.
    Unseen,
    /// Another ring posted it (`IORING_OP_MSG_RING`).
    Message,
    /// It is a completion of this `IORING_OP_*`.
    Op(u8),
}

fn rows<S: Serializer>(ops: &BTreeMap<OpKey, OpCounts>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(ops.values())
}

/// The latencies that were added since then.
fn since(now: &Latencies, then: &Latencies) -> Latencies {
    let then: BTreeMap<u64, u64> = then.counts().into_iter().collect();
    let before = |nanos: &u64| then.get(nanos).copied().unwrap_or(0);
    let added = now.counts().into_iter().map(|(nanos, count)| (nanos, count - before(&nanos)));
    let mut since = Latencies::new();
    since.record_counted(&added.filter(|(_, count)| *count > 0).collect::<Vec<_>>());
    since
}

/// The counts of one operation.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct OpCounts {
    op: Option<String>,
    opcode: Option<u8>,
    /// Whether these are messages of other rings.
    message: bool,
    submitted: u64,
    completed: u64,
    /// Completions without an error.
    ok: u64,
    pub(super) errors: Errors,
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

/// What is known of a completion.
#[derive(Debug, Clone, Copy)]
pub(super) enum SeenCompletion {
    /// It is of a request that was seen.
    Matched(MatchedCompletion),
    /// Another ring posted it.
    Message,
    /// Its submission was not seen.
    Unseen,
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
    /// Whether the request was handed to a worker thread.
    pub(super) punted: bool,
    /// The index of the file of the request.
    pub(super) file: Option<usize>,
    /// The number of the request.
    pub(super) number: u16,
}

impl RingState {
    pub(super) fn new(process: i32, thread: i32, name: String) -> RingState {
        RingState { process, thread, name, ..RingState::default() }
    }

    /// The counts of several rings together.
    pub(super) fn total<'a>(rings: impl Iterator<Item = &'a RingState>) -> RingState {
        let mut total = RingState::default();
        for ring in rings {
            total.overflows += ring.overflows;
            total.enters += ring.enters;
            total.sleeps += ring.sleeps;
            total.work_runs += ring.work_runs;
            total.work += ring.work;
            ring.ops.iter().for_each(|(origin, op)| total.op(*origin).add(op));
        }
        total
    }

    /// What has been counted since then.
    pub(super) fn since(mut self, then: &RingState) -> RingState {
        self.overflows -= then.overflows;
        self.enters -= then.enters;
        self.sleeps -= then.sleeps;
        self.work_runs -= then.work_runs;
        self.work -= then.work;
        for (origin, op) in &mut self.ops {
            then.ops.get(origin).into_iter().for_each(|then| op.subtract(then));
        }
        self
    }

    /// How many requests were submitted, also if they were rejected; and completions.
    pub(super) fn requests(&self) -> (u64, u64) {
        let ops = || self.ops.values();
        let submitted = ops().map(|op| op.submitted + op.rejected).sum();
        (submitted, ops().map(|op| op.completed).sum())
    }

    /// Counts an event, and adds what only its request knows: the operation of a completion, the
    /// user data and the operation of a punt. Returns what is known of a completion.
    pub(super) fn observe(
        &mut self,
        event: &mut KernelEvent,
        certainty: Certainty,
    ) -> Option<SeenCompletion> {
        // 5.10 traces a punted request by its address only.
        if event.tracepoint == Tracepoint::QueueAsyncWork
            && (event.opcode.is_none() && event.request != 0)
            && let Some(request) = self.requests.get((event.request, 0))
        {
            (event.user_data, event.opcode) = (request.user_data, request.opcode);
        }
        self.count(event, certainty);
        let (res, flags) = event.completion()?;
        let known = self.complete(event, flags & Cqe::MORE != 0, certainty);
        if flags & CQE_NOTIFICATION != 0 && matches!(known, SeenCompletion::Matched(_)) {
            return Some(known);
        }
        let op = self.op(match known {
            SeenCompletion::Message => OpKey::Message,
            _ => OpKey::of(event.opcode),
        });
        op.completed += 1;
        match u32::try_from(res) {
            Ok(_) => op.ok += 1,
            Err(_) => *op.errors.entry(Errno(res.wrapping_neg()).to_string()).or_default() += 1,
        }
        if let (SeenCompletion::Matched(matched), false) = (&known, certainty.has_gap) {
            op.measure(matched, event.more());
        }
        Some(known)
    }

    /// Counts an event that is not a completion.
    fn count(&mut self, event: &KernelEvent, certainty: Certainty) {
        let KernelEvent { opcode, time, own, .. } = *event;
        match event.tracepoint {
            Tracepoint::Create => {
                self.entries = Some([own[2] as u32, own[3] as u32]);
                self.setup = Some(own[1] as u32);
                self.is_whole = true;
            }
            Tracepoint::CqringWait => self.sleeps += 1,
            Tracepoint::LocalWorkRun => {
                self.work_runs += 1;
                self.work += u64::from(own[0] as u32);
            }
            Tracepoint::SubmitReq => {
                self.op(OpKey::of(opcode)).submitted += 1;
                self.begin(event, Some(time), certainty);
            }
            Tracepoint::ReqFailed => {
                self.op(OpKey::of(opcode)).rejected += 1;
                // It completes as well. Some are traced as submitted before.
                if self.requests.find(event).is_none() {
                    self.begin(event, Some(time), certainty);
                }
            }
            Tracepoint::CqeOverflow => self.overflows += 1,
            Tracepoint::TaskAdd => {
                // A request that was submitted before the watching began is known from here on.
                let key = self.requests.find(event);
                let key = key.unwrap_or_else(|| self.begin(event, None, certainty));
                if let Some(request) = self.requests.get_mut(key) {
                    request.arrived.get_or_insert(time);
                }
            }
            Tracepoint::QueueAsyncWork => {
                self.op(OpKey::of(opcode)).punts += 1;
                let key = self.requests.find(event);
                if let Some(request) = key.and_then(|key| self.requests.get_mut(key)) {
                    request.punted = true;
                }
            }
            Tracepoint::PollArm => self.op(OpKey::of(opcode)).polls += 1,
            _ => {}
        }
    }

    fn op(&mut self, origin: OpKey) -> &mut OpCounts {
        self.ops.entry(origin).or_insert_with(|| OpCounts::new(origin))
    }

    fn begin(
        &mut self,
        event: &KernelEvent,
        begun: Option<u64>,
        certainty: Certainty,
    ) -> RequestKey {
        let (key, old) = self.requests.begin(event, begun);
        // A request without a completion is known to have ended when its address is reused.
        if let Some(Request { opcode, .. }) = old.filter(|_| !certainty.has_gap) {
            self.op(OpKey::of(opcode)).skipped += 1;
        }
        key
    }

    /// Notes the file of a request that was seen.
    pub(super) fn set_file(&mut self, event: &KernelEvent, file: usize) {
        let key = self.requests.find(event);
        if let Some(request) = key.and_then(|key| self.requests.get_mut(key)) {
            request.file = Some(file);
        }
    }

    /// The file of the request of an event.
    pub(super) fn file(&self, event: &KernelEvent) -> Option<usize> {
        self.requests.get(self.requests.find(event)?)?.file
    }

    /// The number of the request of an event.
    pub(super) fn number(&self, event: &KernelEvent) -> Option<u16> {
        self.requests.get(self.requests.find(event)?).map(|request| request.number)
    }

    /// The same, if it began with this event.
    pub(super) fn begun(&self, event: &KernelEvent) -> Option<u16> {
        let request = self.requests.get(self.requests.find(event)?)?;
        (request.begun == Some(event.time)).then_some(request.number)
    }

    /// Forgets the requests in flight, because events were lost.
    pub(super) fn forget_requests(&mut self) {
        self.requests.clear();
        self.is_whole = false;
    }

    /// The sizes of both tables of requests.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        self.requests.sizes()
    }

    /// Matches a completion with its request, which ends unless more follow.
    fn complete(
        &mut self,
        event: &mut KernelEvent,
        more: bool,
        certainty: Certainty,
    ) -> SeenCompletion {
        event.opcode = None;
        if certainty.names_requests && event.is_message() {
            return SeenCompletion::Message;
        }
        let key = self.requests.find(event);
        let Some((key, request)) = key.and_then(|key| Some((key, self.requests.get_mut(key)?)))
        else {
            // Outside a full queue no completion names its request.
            let is_message = self.is_whole && event.tracepoint == Tracepoint::CqeOverflow;
            return if is_message { SeenCompletion::Message } else { SeenCompletion::Unseen };
        };
        event.opcode = request.opcode;
        request.shots += 1;
        let Request { begun, shots: shot, punted, file, number, .. } = *request;
        let since = |then: u64| event.time.saturating_sub(then);
        let after = request.arrived.take().map(since);
        if !more {
            self.requests.end(key);
        }
        let took = begun.map(since);
        SeenCompletion::Matched(MatchedCompletion { shot, took, after, punted, file, number })
    }

    /// By operation and error, how many of its completions failed.
    pub(super) fn failures(&self) -> impl Iterator<Item = (OpKey, &OpCounts, &str, u64)> {
        self.ops.iter().flat_map(|(&origin, op)| {
            let is_timeout = matches!(origin, OpKey::Op(op) if TIMEOUTS.contains(&op));
            let failed =
                op.errors.iter().filter(move |(error, _)| !is_timeout || *error != "ETIME");
            failed.map(move |(error, count)| (origin, op, &**error, *count))
        })
    }
}

impl OpKey {
    fn of(opcode: Option<u8>) -> OpKey {
        opcode.map_or(OpKey::Unseen, OpKey::Op)
    }

    /// The operation in words.
    pub(super) fn name(self) -> String {
        match self {
            OpKey::Unseen => "(unseen)".to_owned(),
            OpKey::Message => "(message)".to_owned(),
            OpKey::Op(opcode) => operation(opcode),
        }
    }
}

impl OpCounts {
    fn new(origin: OpKey) -> OpCounts {
        let opcode = if let OpKey::Op(opcode) = origin { Some(opcode) } else { None };
        let (op, message) = (opcode.map(operation), origin == OpKey::Message);
        OpCounts { op, opcode, message, ..OpCounts::default() }
    }

    /// The counts, but for errors and latencies.
    fn counts(&mut self) -> [&mut u64; 9] {
        [
            &mut self.submitted,
            &mut self.completed,
            &mut self.ok,
            &mut self.rejected,
            &mut self.skipped,
            &mut self.punts,
            &mut self.polls,
            &mut self.multishot_ended,
            &mut self.multishot_completions,
        ]
    }

    fn add(&mut self, other: &OpCounts) {
        let mut other = other.clone();
        self.counts().into_iter().zip(other.counts()).for_each(|(count, more)| *count += *more);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.took.record_counted(&other.took.counts());
        self.after.record_counted(&other.after.counts());
    }

    fn subtract(&mut self, then: &OpCounts) {
        let mut then = then.clone();
        self.counts().into_iter().zip(then.counts()).for_each(|(count, less)| *count -= *less);
        for (error, count) in then.errors {
            self.errors.entry(error).and_modify(|now| *now -= count);
        }
        self.errors.retain(|_, count| *count > 0);
        self.took = since(&self.took, &then.took);
        self.after = since(&self.after, &then.after);
    }

    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// Measures a completion. The first one seen may be the last of a multishot request: without
    /// its submission it says nothing.
    fn measure(&mut self, matched: &MatchedCompletion, more: bool) {
        let &MatchedCompletion { shot, took, after, .. } = matched;
        after.into_iter().for_each(|after| self.after.record(Duration::from_nanos(after)));
        if shot > 1 && !more {
            self.multishot_ended += 1;
            self.multishot_completions += shot;
        } else if let (Some(took), false) = (took, more) {
            self.took.record(Duration::from_nanos(took));
        }
    }
}
