//! The output of `trace attach`: one line or JSON object per event, and a summary.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use minijinja::context;
use serde_json::{Value, json};

use super::files::FileCounts;
use super::rings::{MatchedCompletion, OpKey, RingState, SeenCompletion};
use super::{RingEvent, RingFilter, WatchedRings};
use crate::kernel::{Missing, Tracepoint, operation};
use crate::show::{end_line, moment, result_text};
use proactor_record::sys;
use proactor_report::template;
use proactor_report::units::nanos;

/// The column of the mark of abnormal events, behind the details.
const MARK: usize = 102;

/// So many rings have a table in the summary.
const SHOWN: usize = 8;

/// The names of `IORING_SETUP_*`, by bit.
const SETUP: &str = "IOPOLL SQPOLL SQ_AFF CQSIZE CLAMP ATTACH_WQ R_DISABLED SUBMIT_ALL COOP_TASKRUN \
     TASKRUN_FLAG SQE128 CQE32 SINGLE_ISSUER DEFER_TASKRUN NO_MMAP REGISTERED_FD_ONLY \
     NO_SQARRAY HYBRID_IOPOLL CQE_MIXED SQE_MIXED";

/// The counts that are unknown without a tracepoint: of a ring, and of an operation.
const COUNTED: [(Tracepoint, &str); 6] = [
    (Tracepoint::Enter, "enters"),
    (Tracepoint::CqringWait, "sleeps"),
    (Tracepoint::CqeOverflow, "overflows"),
    (Tracepoint::ReqFailed, "rejected"),
    (Tracepoint::PollArm, "polls"),
    (Tracepoint::QueueAsyncWork, "punts"),
];

impl RingEvent {
    /// Whether the event indicates a problem.
    fn is_abnormal(&self) -> bool {
        use Tracepoint::{CqeOverflow, FailLink, ReqFailed};
        let expected = [libc::EAGAIN, libc::ECANCELED, libc::ETIME, libc::ENOENT];
        let result = self.event.result();
        [CqeOverflow, FailLink, ReqFailed].contains(&self.event.tracepoint)
            || result.and_then(Result::err).is_some_and(|errno| !expected.contains(&errno.0))
    }

    fn matched(&self) -> Option<&MatchedCompletion> {
        if let Some(SeenCompletion::Matched(matched)) = &self.completion {
            Some(matched)
        } else {
            None
        }
    }

    /// Whether the filter selects the event.
    pub fn passes(&self, filter: &RingFilter) -> bool {
        let op = self.event.opcode.map_or(String::new(), operation);
        let is_named = |name: &String| *name == op || name == self.event.name();
        let took = self.matched().and_then(|matched| matched.took).map(Duration::from_nanos);
        (filter.ops.is_empty() || filter.ops.iter().any(is_named))
            && (!filter.errors || self.event.result().is_some_and(|result| result.is_err()))
            && (!filter.punted || self.is_punted())
            && filter.slower.is_none_or(|slower| took.is_some_and(|took| took > slower))
    }

    /// Whether the request was handed to a worker thread, by this event or before.
    fn is_punted(&self) -> bool {
        self.event.tracepoint == Tracepoint::QueueAsyncWork
            || self.matched().is_some_and(|matched| matched.punted)
    }

    /// The event as a line, always in the same columns.
    pub fn text(&self) -> String {
        let event = &self.event;
        let multishot = event.more() || self.matched().is_some_and(|matched| matched.shot > 1);
        let star = if multishot { "*" } else { "" };
        let op = event.opcode.map_or(String::new(), |code| format!("{}{star}", operation(code)));
        let user_data = match event.tracepoint.is_of_request() {
            true => format!("{:#x}", event.user_data),
            false => String::new(),
        };
        let (time, ring) = (moment(self.at), format!("r{}", self.ring));
        let (result, mut details) = (result_text(event.result()), self.details());
        if let Some((fd, name)) = &self.file {
            details = format!("fd {fd} {name}  {details}");
        }
        let text = columns([&time, &ring, event.name(), &op, &user_data, &result, &details]);
        end_line(text, MARK, self.is_abnormal())
    }

    fn details(&self) -> String {
        let [_, flags, submissions, completions] = self.event.own;
        match self.event.tracepoint {
            Tracepoint::Create => {
                let fd = self.event.details();
                format!("{fd}  {submissions}/{completions}  {}", setup(flags as u32))
            }
            Tracepoint::Complete => self.completed(),
            Tracepoint::CqeOverflow => format!("{}  queue full", self.completed()),
            _ => self.event.details(),
        }
    }

    fn completed(&self) -> String {
        let MatchedCompletion { shot, took, after, .. } = match &self.completion {
            Some(SeenCompletion::Matched(matched)) => *matched,
            Some(SeenCompletion::Message) => return "message of another ring".to_owned(),
            _ => return "submission not seen".to_owned(),
        };
        let text = match (self.event.more(), shot, took.map(nanos)) {
            (true, ..) => format!("more (shot {shot})  "),
            (false, 1, took) => took.map_or(String::new(), |took| format!("took {took}  ")),
            (false, _, Some(took)) => format!("last shot ({shot} in {took})  "),
            (false, _, None) => format!("last shot ({shot} seen)  "),
        };
        after.map(nanos).map_or(text.clone(), |after| format!("{text}{after} after arrival"))
    }

    /// The event as JSON. Keys that do not apply are omitted.
    pub fn json(&self) -> Value {
        let opcode = self.event.opcode;
        let mut json = self.event.fields(json!({
            "t_ns": self.at, "ring": self.ring, "abnormal": self.is_abnormal(),
            "op": opcode.map(operation), "opcode": opcode,
            "fd": self.file.as_ref().map(|(fd, _)| fd),
            "file": self.file.as_ref().map(|(_, name)| &**name),
        }));
        if let Some(MatchedCompletion { shot, took, after, .. }) = self.matched() {
            json["shot"] = json!(shot);
            json["took_ns"] = json!(took);
            json["after_arrival_ns"] = json!(after);
        }
        json
    }
}

/// A line: always the same columns.
fn columns([time, ring, what, op, user_data, result, details]: [&str; 7]) -> String {
    format!("{time:>13}  {ring:<4} {what:<9} {op:<16} {user_data:<18} {result:>9}  {details}")
}

impl WatchedRings {
    /// The heading above the lines of [`RingEvent::text`].
    pub fn heading() -> String {
        columns(["time", "ring", "what", "op", "user data", "res", "details"])
    }

    /// The summary as text.
    pub fn summary(&self) -> String {
        let uname = sys::uname();
        let parts = self.parts();
        let values = context! {
            label => self.label(),
            open => self.open_rings(),
            kernel => uname.split(' ').nth(1).unwrap_or(&uname),
            more => self.rings.len() - parts.iter().filter(|part| part["at"].is_u64()).count(),
            parts,
            notes => self.missing.iter().map(Missing::to_string).collect::<Vec<_>>(),
            ..minijinja::Value::from_serialize(self.json())
        };
        template::fill(include_str!("summary.txt"), values)
    }

    /// The tables of the summary: the total, and the rings with the most completions in the order
    /// of their numbers.
    fn parts(&self) -> Vec<Value> {
        let busy = |at: &usize| !self.rings[*at].ops.is_empty();
        let mut shown: Vec<_> = (0..self.rings.len()).filter(busy).collect();
        let total = (shown.len() > 1).then(|| RingState::total(self.rings.iter()));
        if shown.is_empty() {
            shown = (0..self.rings.len()).collect();
        }
        shown.sort_by_key(|at| Reverse(self.rings[*at].requests().1));
        shown.truncate(SHOWN);
        shown.sort_unstable();
        let part = |at: Option<usize>, ring: &RingState| {
            let (mut json, (submitted, completed)) = (self.ring_json(ring), ring.requests());
            json["at"] = json!(at);
            json["flags"] = json!(ring.setup.map(setup));
            json["submitted"] = json!(submitted);
            json["completed"] = json!(completed);
            json
        };
        let total = total.iter().map(|total| part(None, total));
        total.chain(shown.into_iter().map(|at| part(Some(at), &self.rings[at]))).collect()
    }

    /// The processes with watched rings, the most completions first.
    fn processes(&self) -> Vec<Value> {
        let mut rings = BTreeMap::<i32, Vec<&RingState>>::new();
        self.rings.iter().for_each(|ring| rings.entry(ring.process).or_default().push(ring));
        let mut all: Vec<_> = rings
            .into_iter()
            .map(|(process, rings)| {
                let total = RingState::total(rings.iter().copied());
                let (submitted, completed) = total.requests();
                let failures: u64 = total.failures().map(|(.., count)| count).sum();
                let row = json!({
                    "pid": process, "name": self.tasks.name(process), "rings": rings.len(),
                    "enters": total.enters, "submitted": submitted, "completed": completed,
                    "failures": failures, "overflows": total.overflows,
                });
                (completed, self.with_unknown(row))
            })
            .collect();
        all.sort_by_key(|(completed, _)| Reverse(*completed));
        all.into_iter().map(|(_, row)| row).collect()
    }

    /// The counts of a tracepoint that the kernel does not have are null, in the object itself and
    /// in its operations.
    pub(super) fn with_unknown(&self, mut json: Value) -> Value {
        let is_missing =
            |one: &&(Tracepoint, _)| self.missing.contains(&Missing::Tracepoint(one.0));
        let missing = COUNTED.iter().filter(is_missing).map(|(_, name)| *name);
        for name in missing.chain((self.lost > 0).then_some("skipped_cqes")) {
            let ops = json.get_mut("ops").and_then(Value::as_array_mut).into_iter().flatten();
            ops.filter_map(|op| op.get_mut(name)).for_each(|count| *count = Value::Null);
            json.get_mut(name).into_iter().for_each(|count| *count = Value::Null);
        }
        json
    }

    /// The summary as one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "schema": "proactor.trace.attach/3",
            "pid": self.id,
            "name": self.name,
            "uname": sys::uname(),
            "watched_ns": self.watched.as_nanos() as u64,
            "lost": self.lost,
            "missing": self.missing,
            "errors": self.errors(),
            "files": self.files.rows().into_iter().map(file_json).collect::<Vec<_>>(),
            "processes": self.processes(),
            "total": self.ring_json(&RingState::total(self.rings.iter())),
            "rings": self.rings.iter().map(|ring| self.ring_json(ring)).collect::<Vec<_>>(),
        })
    }

    /// By operation and error, how many completions failed on all rings, the most first.
    fn errors(&self) -> Vec<Value> {
        let mut all = BTreeMap::<(OpKey, &str), (u64, u64, BTreeSet<usize>)>::new();
        for (at, ring) in self.rings.iter().enumerate() {
            for (origin, op, error, count) in ring.failures() {
                let (failed, of, rings) = all.entry((origin, error)).or_default();
                *failed += count;
                *of += op.completed();
                rings.insert(at);
            }
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(_, (count, ..))| Reverse(*count));
        let rows = all.into_iter().map(|((origin, error), (count, of, rings))| {
            json!({ "op": origin.name(), "error": error, "count": count, "of": of, "rings": rings })
        });
        rows.collect()
    }

    /// A ring with its operations and findings. If events were lost, counts are lower bounds, and
    /// nothing is concluded.
    fn ring_json(&self, ring: &RingState) -> Value {
        let mut json = self.with_unknown(json!(ring));
        let findings = match self.lost {
            0 => template::fill(
                include_str!("findings.txt"),
                minijinja::Value::from_serialize(&json),
            ),
            _ => String::new(),
        };
        json["failures"] = ring.failures().map(|(.., count)| count).sum::<u64>().into();
        json["findings"] = findings.lines().collect();
        json
    }
}

fn file_json(file: &FileCounts) -> Value {
    let FileCounts { process, fd, name, operations, completed, errors } = file;
    json!({
        "pid": process, "fd": fd, "name": **name,
        "operations": operations, "completed": completed, "errors": errors,
    })
}

/// The names of the set-up flags of a ring.
fn setup(flags: u32) -> String {
    let names = (0..32).filter(|bit| flags & 1 << bit != 0);
    let names: Vec<_> = names.map(|bit| SETUP.split(' ').nth(bit).unwrap_or("?")).collect();
    if names.is_empty() { "no flags".to_owned() } else { names.join("|") }
}
