//! What was told, as people and as programs read it: a line an event, and a summary at the end.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::findings::findings;
use super::rings::{Done, Operation, Ring};
use super::{Attached, Line};
use crate::kernel::{Lack, Point, Tale, operation};
use crate::show::end_line;
use proactor::os;
use proactor::ring::Cqe;
use proactor_report::{Align, Errno, Latencies, NOTHING, Table, units};

/// Where the details end and the mark of the abnormal stands.
const MARK: usize = 96;

/// `IORING_SETUP_*`, by their bits.
const SETUP: [&str; 20] = [
    "IOPOLL",
    "SQPOLL",
    "SQ_AFF",
    "CQSIZE",
    "CLAMP",
    "ATTACH_WQ",
    "R_DISABLED",
    "SUBMIT_ALL",
    "COOP_TASKRUN",
    "TASKRUN_FLAG",
    "SQE128",
    "CQE32",
    "SINGLE_ISSUER",
    "DEFER_TASKRUN",
    "NO_MMAP",
    "REGISTERED_FD_ONLY",
    "NO_SQARRAY",
    "HYBRID_IOPOLL",
    "CQE_MIXED",
    "SQE_MIXED",
];

impl Line {
    /// Whether it is something that ought not to happen, or not often.
    fn is_abnormal(&self) -> bool {
        match self.told.what {
            Tale::Overflowed { .. } | Tale::Refused { .. } | Tale::LinkFailed => true,
            Tale::Completed { res, .. } => {
                let expected = [libc::EAGAIN, libc::ECANCELED, libc::ETIME, libc::ENOENT];
                res < 0 && !expected.contains(&res.wrapping_neg())
            }
            _ => false,
        }
    }

    fn name(&self) -> &'static str {
        match &self.told.what {
            Tale::Completed { .. } => "cqe",
            Tale::Overflowed { .. } => "overfl.",
            what => what.name(),
        }
    }

    fn result(&self) -> Option<i32> {
        match self.told.what {
            Tale::Completed { res, .. } | Tale::Overflowed { res, .. } => Some(res),
            Tale::Refused { error } => Some(error),
            _ => None,
        }
    }

    fn more(&self) -> bool {
        match self.told.what {
            Tale::Completed { flags, .. } | Tale::Overflowed { flags, .. } => {
                flags & Cqe::MORE != 0
            }
            _ => false,
        }
    }

    /// For people: always the same columns.
    pub fn text(&self) -> String {
        let many = self.more() || self.done.is_some_and(|done| done.shot > 1);
        let star = if many { "*" } else { "" };
        let op = self.opcode.map_or(String::new(), |code| format!("{}{star}", operation(code)));
        let of_one = self.opcode.is_some() || self.result().is_some();
        let user_data = if of_one { format!("{:#x}", self.told.user_data) } else { String::new() };
        let (seconds, nanos) = (self.at / 1_000_000_000, self.at % 1_000_000_000);
        let text = format!(
            "{seconds:>3}.{nanos:09}  {:<4} {:<7} {op:<12} {user_data:<18} {:>9}  {}",
            format!("r{}", self.ring),
            self.name(),
            self.result().map_or(String::new(), result),
            self.details(),
        );
        end_line(text, MARK, self.is_abnormal())
    }

    fn details(&self) -> String {
        match self.told.what {
            Tale::Created { fd, submissions, completions, flags } => {
                format!("fd {fd}  {submissions}/{completions}  {}", setup(flags))
            }
            Tale::Submitted { by_kernel: true } => "by the kernel's thread".to_owned(),
            Tale::Refused { .. } => "before it began".to_owned(),
            Tale::Completed { .. } => self.completed(),
            Tale::Overflowed { .. } => format!("{}  the queue is full", self.completed()),
            Tale::Arrived => "what it waited for is there".to_owned(),
            Tale::Punted => "to a thread of the kernel".to_owned(),
            Tale::Armed => "waits by polling".to_owned(),
            Tale::Worked { count } => {
                format!("{} of deferred work", units::plural(count.into(), "piece"))
            }
            Tale::Waited { least } => format!("for {least}"),
            Tale::Submitted { .. } | Tale::LinkFailed => String::new(),
        }
    }

    fn completed(&self) -> String {
        let Some(Done { shot, took, after }) = self.done else {
            return "submitted before".to_owned();
        };
        let mut text = match (self.more(), shot) {
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

    /// For programs. Names that do not apply are left out.
    pub fn json(&self) -> Value {
        let mut value = json!({
            "t_ns": self.at,
            "ring": self.ring,
            "thread": self.told.thread,
            "kind": self.name().trim_end_matches('.'),
            "abnormal": self.is_abnormal(),
        });
        let mut put = |name: &str, part: Value| value[name] = part;
        if let Some(opcode) = self.opcode {
            put("op", json!(operation(opcode)));
            put("opcode", json!(opcode));
        }
        if self.opcode.is_some() || self.result().is_some() {
            put("user_data", json!(format!("{:#018x}", self.told.user_data)));
        }
        if let Some(res) = self.result() {
            put("res", json!(res));
            if res < 0 {
                put("error", json!(Errno(res.wrapping_neg()).to_string()));
            }
        }
        match self.told.what {
            Tale::Completed { flags, .. } | Tale::Overflowed { flags, .. } => {
                put("flags", json!(flags));
                put("more", json!(self.more()));
            }
            Tale::Worked { count } => put("count", json!(count)),
            Tale::Waited { least } => put("least", json!(least)),
            _ => {}
        }
        if let Some(done) = self.done {
            put("shot", json!(done.shot));
            put("took_ns", json!(done.took));
            put("after_arrival_ns", json!(done.after));
        }
        value
    }
}

impl Attached {
    /// The columns of [`Line::text`], as `trace show` has them over its own.
    pub fn heading() -> String {
        let (time, lane, what, op) = ("time", "ring", "what", "op");
        let (id, res, details) = ("user data", "res", "details");
        format!("{time:>13}  {lane:<4} {what:<7} {op:<12} {id:<18} {res:>9}  {details}")
    }

    /// All that was counted, for people.
    pub fn summary(&self) -> String {
        let uname = os::uname();
        let mut text = format!(
            "{}  {} watched  {}  {} lost  kernel: {}\n",
            self.who(),
            units::span(self.watched),
            units::plural(self.rings.len() as u64, "ring"),
            units::plural(self.lost, "event"),
            uname.split(' ').nth(1).unwrap_or(&uname),
        );
        for (at, ring) in self.rings.iter().enumerate() {
            text.push_str(&self.of_ring(at, ring));
        }
        for lack in &self.lacks {
            let _ = writeln!(text, "{lack}");
        }
        text
    }

    /// All that was counted, for programs.
    pub fn json(&self) -> Value {
        json!({
            "schema": "proactor.attach/1",
            "pid": self.pid,
            "name": self.name,
            "uname": os::uname(),
            "watched_ns": self.watched.as_nanos() as u64,
            "lost": self.lost,
            "not_told": self.lacks.iter().map(|lack| lack.name()).collect::<Vec<_>>(),
            "rings": self.rings.iter().map(|ring| self.ring_json(ring)).collect::<Vec<_>>(),
        })
    }

    /// What that point counts, unless the kernel does not tell of it.
    fn told<T>(&self, point: Point, count: T) -> Option<T> {
        (!self.lacks.contains(&Lack::Point(point))).then_some(count)
    }

    fn of_ring(&self, at: usize, ring: &Ring) -> String {
        let mut text = format!(
            "\nr{at}  thread {} ({}){}\n",
            ring.thread,
            ring.name,
            ring.made.map_or(String::new(), |(submissions, completions, flags)| {
                format!("  {submissions}/{completions} entries  {}", setup(flags))
            }),
        );
        let _ = writeln!(text, "{}", self.table(ring));
        for (opcode, op) in ring.ops.iter().filter(|(_, op)| op.ended.0 > 0) {
            let (ended, shots) = op.ended;
            let _ = writeln!(
                text,
                "multishot {}: {} ended, after {:.1} completions on average",
                opcode.map_or("?".to_owned(), operation),
                units::count(ended),
                shots as f64 / ended as f64,
            );
        }
        for (opcode, op) in ring.ops.iter().filter(|(_, op)| op.silent > 0) {
            let _ = writeln!(
                text,
                "{}: {} ended without a completion, as asked (IOSQE_CQE_SKIP_SUCCESS)",
                opcode.map_or("?".to_owned(), operation),
                units::count(op.silent),
            );
        }
        let _ = writeln!(text, "{}", self.totals(ring));
        let findings = findings(ring);
        if findings.is_empty() {
            text.push_str("nothing stands out\n");
        }
        for finding in &findings {
            let _ = writeln!(text, "! {finding}");
        }
        text
    }

    /// Its operations, a row each.
    fn table(&self, ring: &Ring) -> Table {
        let mut table = Table::new(&[
            ("op", Align::Left),
            ("submitted", Align::Right),
            ("cqes", Align::Right),
            ("ok", Align::Right),
            ("polls", Align::Right),
            ("punts", Align::Right),
            ("submit→cqe p50", Align::Right),
            ("p99", Align::Right),
            ("max", Align::Right),
            ("arrival→cqe p50", Align::Right),
            ("p99", Align::Right),
            ("errors", Align::Left),
        ]);
        ring.ops.iter().for_each(|(opcode, op)| table.row(self.row(*opcode, op)));
        table
    }

    /// All its operations in one line.
    fn totals(&self, ring: &Ring) -> String {
        let (submissions, completions) = ring.totals();
        let each = match ring.waits {
            0 => String::new(),
            waits => format!(", {:.1} completions each", completions as f64 / waits as f64),
        };
        let sleeps = match self.told(Point::Wait, ring.waits) {
            None => format!("{NOTHING} sleeps"),
            Some(waits) => units::plural(waits, "sleep"),
        };
        let overflow = match self.told(Point::Overflow, ring.overflows) {
            None => "not told".to_owned(),
            Some(0) => "never".to_owned(),
            Some(overflows) => units::count(overflows),
        };
        format!(
            "{}, {}; {sleeps}{each}; overflow {overflow}",
            units::plural(submissions, "submission"),
            units::plural(completions, "completion"),
        )
    }

    fn row(&self, opcode: Option<u8>, op: &Operation) -> [String; 12] {
        let [took, took_99] = [0.5, 0.99].map(|share| known(op.took.percentile(share)));
        let [after, after_99] = [0.5, 0.99].map(|share| known(op.after.percentile(share)));
        let star = if op.ended.0 > 0 || op.completed > op.submitted { "*" } else { "" };
        let zero = |point: Point, count: u64| match self.told(point, count) {
            None => NOTHING.to_owned(),
            Some(0) => String::new(),
            Some(count) => units::count(count),
        };
        [
            opcode.map_or("(before)".to_owned(), |code| format!("{}{star}", operation(code))),
            units::count(op.submitted + op.refused),
            units::count(op.completed),
            units::count(op.fine),
            zero(Point::Arm, op.polls),
            zero(Point::Punt, op.punts),
            took,
            took_99,
            known(op.took.max()),
            after,
            after_99,
            op.errors(),
        ]
    }

    fn ring_json(&self, ring: &Ring) -> Value {
        let latencies = |all: &Latencies| json!(all.percentiles());
        let ops = ring.ops.iter().map(|(opcode, op)| {
            let errors = op.errors.iter().map(|(errno, n)| (Errno(*errno).to_string(), json!(n)));
            json!({
                "op": opcode.map(operation),
                "opcode": opcode,
                "submitted": op.submitted,
                "refused": self.told(Point::Refuse, op.refused),
                "silent": op.silent,
                "completed": op.completed,
                "ok": op.fine,
                "errors": errors.collect::<serde_json::Map<_, _>>(),
                "polls": self.told(Point::Arm, op.polls),
                "punts": self.told(Point::Punt, op.punts),
                "multishot_ended": op.ended.0,
                "multishot_completions": op.ended.1,
                "submit_to_cqe": latencies(&op.took),
                "arrival_to_cqe": latencies(&op.after),
            })
        });
        json!({
            "thread": ring.thread,
            "name": ring.name,
            "entries": ring.made.map(|(submissions, completions, _)| [submissions, completions]),
            "setup": ring.made.map(|(.., flags)| flags),
            "ops": ops.collect::<Vec<_>>(),
            "sleeps": self.told(Point::Wait, ring.waits),
            "work_runs": ring.works.0,
            "work": ring.works.1,
            "overflows": self.told(Point::Overflow, ring.overflows),
            "findings": findings(ring),
        })
    }
}

fn result(res: i32) -> String {
    if res < 0 { Errno(res.wrapping_neg()).to_string() } else { res.to_string() }
}

fn setup(flags: u32) -> String {
    let names = (0..32).filter(|bit| flags & 1 << bit != 0);
    let names: Vec<_> = names.map(|bit: usize| SETUP.get(bit).map_or("?", |name| name)).collect();
    if names.is_empty() { "no flag".to_owned() } else { names.join("|") }
}

fn span(nanos: u64) -> String {
    units::span(Duration::from_nanos(nanos))
}

fn known(span: Option<Duration>) -> String {
    span.map_or(NOTHING.to_owned(), units::span)
}
