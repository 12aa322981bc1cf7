//! The output of `trace attach`: one line or JSON object per event, and a summary.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::findings::findings;
use super::rings::{MatchedCompletion, OpCounts, RingState};
use super::{RingEvent, WatchedProcess};
use crate::kernel::{Missing, Tracepoint, operation};
use crate::show::{end_line, moment, result_text};
use proactor_record::sys;
use proactor_report::{Align, NOTHING, Table, units};

/// The column of the mark of abnormal events, behind the details.
const MARK: usize = 102;

/// The names of `IORING_SETUP_*`, by bit.
const SETUP: &str = "IOPOLL SQPOLL SQ_AFF CQSIZE CLAMP ATTACH_WQ R_DISABLED SUBMIT_ALL COOP_TASKRUN \
     TASKRUN_FLAG SQE128 CQE32 SINGLE_ISSUER DEFER_TASKRUN NO_MMAP REGISTERED_FD_ONLY \
     NO_SQARRAY HYBRID_IOPOLL CQE_MIXED SQE_MIXED";

/// The counts that are unknown without a tracepoint: of a ring, and of an operation.
const COUNTED: [(Tracepoint, &str); 5] = [
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

    /// The event as a line, always in the same columns.
    pub fn text(&self) -> String {
        let event = &self.event;
        let multishot = event.more() || self.matched.is_some_and(|matched| matched.shot > 1);
        let star = if multishot { "*" } else { "" };
        let op = self.opcode.map_or(String::new(), |code| format!("{}{star}", operation(code)));
        let user_data = match event.tracepoint.is_of_request() {
            true => format!("{:#x}", event.user_data),
            false => String::new(),
        };
        let (time, ring) = (moment(self.at), format!("r{}", self.ring));
        let (result, details) = (result_text(event.result()), self.details());
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
        let Some(MatchedCompletion { shot, took, after }) = self.matched else {
            return "submitted earlier".to_owned();
        };
        let mut text = match (self.event.more(), shot) {
            (true, _) => format!("more (shot {shot})  "),
            (false, 1) => took.map_or(String::new(), |took| format!("took {}  ", span(took))),
            (false, _) => match took {
                Some(took) => format!("last shot ({shot} in {})  ", span(took)),
                None => format!("last shot ({shot} seen)  "),
            },
        };
        if let Some(after) = after {
            let _ = write!(text, "{} after arrival", span(after));
        }
        text
    }

    /// The event as JSON. Keys that do not apply are omitted.
    pub fn json(&self) -> Value {
        let mut fields = self.event.fields();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("t_ns", json!(self.at));
        put("ring", json!(self.ring));
        put("abnormal", json!(self.is_abnormal()));
        if let Some(opcode) = self.opcode {
            put("op", json!(operation(opcode)));
            put("opcode", json!(opcode));
        }
        if let Some(matched) = self.matched {
            put("shot", json!(matched.shot));
            put("took_ns", json!(matched.took));
            put("after_arrival_ns", json!(matched.after));
        }
        Value::Object(fields)
    }
}

/// A line: always the same columns.
fn columns([time, ring, what, op, user_data, result, details]: [&str; 7]) -> String {
    format!("{time:>13}  {ring:<4} {what:<9} {op:<16} {user_data:<18} {result:>9}  {details}")
}

impl WatchedProcess {
    /// The heading above the lines of [`RingEvent::text`].
    pub fn heading() -> String {
        columns(["time", "ring", "what", "op", "user data", "res", "details"])
    }

    /// The summary as text.
    pub fn summary(&self) -> String {
        let uname = sys::uname();
        let mut text = format!(
            "{}  {} watched  {}  {} lost  kernel: {}\n",
            self.label(),
            units::span(self.watched),
            units::plural(self.rings.len() as u64, "ring"),
            units::plural(self.lost, "event"),
            uname.split(' ').nth(1).unwrap_or(&uname),
        );
        if self.rings.is_empty() {
            let (watched, open) = (units::span(self.watched), self.open_rings() as u64);
            let _ =
                writeln!(text, "no activity in {watched} ({} open)", units::plural(open, "ring"));
        }
        for (at, ring) in self.rings.iter().enumerate() {
            text.push_str(&self.ring_text(at, ring));
        }
        for missing in &self.missing {
            let _ = writeln!(text, "{missing}");
        }
        text
    }

    /// The summary as one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "schema": "proactor.trace.attach/2",
            "pid": self.pid,
            "name": self.name,
            "uname": sys::uname(),
            "watched_ns": self.watched.as_nanos() as u64,
            "lost": self.lost,
            "missing": self.missing,
            "rings": self.rings.iter().map(|ring| self.ring_json(ring)).collect::<Vec<_>>(),
        })
    }

    fn ring_json(&self, ring: &RingState) -> Value {
        let ops = ring.ops.iter().map(|(opcode, op)| {
            let mut op = self.counts(op);
            op["op"] = json!(opcode.map(operation));
            op["opcode"] = json!(opcode);
            op
        });
        let ops: Value = ops.collect();
        let mut json = self.counts(ring);
        json["ops"] = ops;
        json["findings"] = json!(findings(ring));
        json
    }

    /// Counts as JSON. A count of a tracepoint that the kernel does not have is null.
    fn counts(&self, counts: impl Serialize) -> Value {
        let mut json = json!(counts);
        for (tracepoint, name) in COUNTED {
            if self.known(tracepoint, ()).is_none() && !json[name].is_null() {
                json[name] = Value::Null;
            }
        }
        json
    }

    /// The count of a tracepoint, unless the kernel does not have it.
    fn known<T>(&self, tracepoint: Tracepoint, count: T) -> Option<T> {
        (!self.missing.contains(&Missing::Tracepoint(tracepoint))).then_some(count)
    }

    fn ring_text(&self, at: usize, ring: &RingState) -> String {
        let setup = ring.entries.zip(ring.setup).map_or(String::new(), |(entries, flags)| {
            format!("  {}/{} entries  {}", entries[0], entries[1], setup(flags))
        });
        let mut lines = vec![
            format!("\nr{at}  thread {} ({}){setup}", ring.thread, ring.name),
            self.table(ring).to_string(),
        ];
        for (opcode, op) in &ring.ops {
            let name = opcode.map_or("?".to_owned(), operation);
            let (ended, shots) = (op.multishot_ended, op.multishot_completions);
            if ended > 0 {
                let (count, mean) = (units::count(ended), shots as f64 / ended as f64);
                lines.push(format!(
                    "multishot {name}: {count} ended, after {mean:.1} completions on average"
                ));
            }
            if op.skipped > 0 {
                let count = units::count(op.skipped);
                lines.push(format!(
                    "{name}: {count} ended without a completion (IOSQE_CQE_SKIP_SUCCESS)"
                ));
            }
        }
        lines.push(self.totals(ring));
        let findings = findings(ring);
        if findings.is_empty() {
            lines.push("nothing stands out".to_owned());
        }
        lines.extend(findings.iter().map(|finding| format!("! {finding}")));
        lines.join("\n") + "\n"
    }

    /// The operations of a ring, one row each.
    fn table(&self, ring: &RingState) -> Table {
        let names = ["op", "submitted", "cqes", "ok", "polls", "punts", "submit→cqe p50", "p99"];
        let names = names.into_iter().chain(["max", "arrival→cqe p50", "p99", "errors"]);
        let is_text = |name| ["op", "errors"].contains(&name);
        let align = |name| if is_text(name) { Align::Left } else { Align::Right };
        let columns: Vec<_> = names.map(|name| (name, align(name))).collect();
        let mut table = Table::new(&columns);
        ring.ops.iter().for_each(|(opcode, op)| table.row(self.row(*opcode, op)));
        table
    }

    /// All operations of a ring in one line.
    fn totals(&self, ring: &RingState) -> String {
        let (submissions, completions) = ring.totals();
        let each = match ring.sleeps {
            0 => String::new(),
            waits => format!(", {:.1} completions each", completions as f64 / waits as f64),
        };
        let sleeps = match self.known(Tracepoint::CqringWait, ring.sleeps) {
            None => format!("{NOTHING} sleeps"),
            Some(waits) => units::plural(waits, "sleep"),
        };
        let overflow = match self.known(Tracepoint::CqeOverflow, ring.overflows) {
            None => "unknown".to_owned(),
            Some(0) => "never".to_owned(),
            Some(overflows) => units::count(overflows),
        };
        format!(
            "{}, {}; {sleeps}{each}; overflow {overflow}",
            units::plural(submissions, "submission"),
            units::plural(completions, "completion"),
        )
    }

    fn row(&self, opcode: Option<u8>, op: &OpCounts) -> [String; 12] {
        let [took, took_99] = [0.5, 0.99].map(|share| duration(op.took.percentile(share)));
        let [after, after_99] = [0.5, 0.99].map(|share| duration(op.after.percentile(share)));
        let star = if op.multishot_ended > 0 || op.completed > op.submitted { "*" } else { "" };
        let zero = |tracepoint, count| match self.known(tracepoint, count) {
            None => NOTHING.to_owned(),
            Some(0) => String::new(),
            Some(count) => units::count(count),
        };
        [
            opcode.map_or("(earlier)".to_owned(), |code| format!("{}{star}", operation(code))),
            units::count(op.submitted + op.rejected),
            units::count(op.completed),
            units::count(op.ok),
            zero(Tracepoint::PollArm, op.polls),
            zero(Tracepoint::QueueAsyncWork, op.punts),
            took,
            took_99,
            duration(op.took.max()),
            after,
            after_99,
            op.errors(),
        ]
    }
}

fn setup(flags: u32) -> String {
    let names = (0..32).filter(|bit| flags & 1 << bit != 0);
    let names: Vec<_> = names.map(|bit| SETUP.split(' ').nth(bit).unwrap_or("?")).collect();
    if names.is_empty() { "no flags".to_owned() } else { names.join("|") }
}

fn span(nanos: u64) -> String {
    units::span(Duration::from_nanos(nanos))
}

fn duration(span: Option<Duration>) -> String {
    span.map_or(NOTHING.to_owned(), units::span)
}
