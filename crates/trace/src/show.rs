//! One line an event: for people, always the same columns; for programs, JSON.
//!
//! ```text
//!          time  lane  what    op            conn            res  details                                !
//!   0.001923300  r0    cqe     recv*         c7.1             64  #2  buf 82  more (shot 27, armed 1.60 ms ago)
//! ```

use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::event::{Event, Happened, Op, Submission};
use super::format::{Call, Clock, Level, MAIN, Patience, UNTOLD, What, Writers};
use super::reader::Header;
use proactor::keys::{ConnId, Key, KeyOwner};
use proactor_report::{Errno, units};

/// Where the details end and the mark of the abnormal stands.
pub(super) const MARK: usize = 112;

/// The model that tries all sockets instead of asking which are ready.
pub(super) const ASKS_NOBODY: &str = "nonblocking";

/// What is to be shown. Empty lists show all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of these connections; `None` as a generation is any.
    pub conns: Vec<(u32, Option<u32>)>,
    /// Only these operations or records, by name: `recv`, `cqe`.
    pub ops: Vec<String>,
    /// Only these results: an errno's name, a number, `ok` or `error`.
    pub results: Vec<String>,
    /// Only from then on: since recording began.
    pub since: Option<Duration>,
    /// Only before.
    pub until: Option<Duration>,
    /// Only what ought not to happen.
    pub abnormal: bool,
}

impl Filter {
    /// Whether it is to be shown.
    pub fn passes(&self, event: &Event) -> bool {
        let at = Duration::from_nanos(event.at);
        let conn = |conn: ConnId| {
            let is = |&(slot, generation): &(u32, Option<u32>)| {
                slot == conn.slot() && generation.is_none_or(|one| one == conn.generation())
            };
            self.conns.iter().any(is)
        };
        let op = |name: &String| {
            event.op.is_some_and(|op| op.name() == name)
                || event.name().trim_matches(['<', '>']).eq_ignore_ascii_case(name)
        };
        let result = |wanted: &String| match event.result() {
            None => false,
            Some(Ok(n)) => wanted == "ok" || wanted.parse() == Ok(n),
            Some(Err(errno)) => wanted == "error" || errno.to_string().eq_ignore_ascii_case(wanted),
        };
        (self.conns.is_empty() || event.conn.is_some_and(conn))
            && (self.ops.is_empty() || self.ops.iter().any(op))
            && (self.results.is_empty() || self.results.iter().any(result))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && (!self.abnormal || event.is_abnormal())
    }
}

/// A connection as a command line has it: `c7` is all tenants of slot 7, `c7.1` one of them.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_conn(text: &str) -> Result<(u32, Option<u32>), String> {
    let wrong = || format!("no connection {text:?}: write c7, or c7.1 for one tenant of slot 7");
    let rest = text.strip_prefix('c').unwrap_or(text);
    let number = |text: &str| u32::from_str(text).map_err(|_| wrong());
    match rest.split_once('.') {
        Some((slot, generation)) => Ok((number(slot)?, Some(number(generation)?))),
        None => Ok((number(rest)?, None)),
    }
}

/// The line that goes before any view: who recorded, by which clock, and what is not there.
pub fn title(header: &Header, lost: u64) -> String {
    let clock = match header.clock {
        Some(Clock::Tsc) => format!("tsc {:.1} MHz", header.hertz as f64 / 1e6),
        Some(Clock::Nanos) => "monotonic".to_owned(),
        None => "unknown".to_owned(),
    };
    let level = header.level.map_or("unknown", Level::name);
    let mut text = format!(
        "{}  clock: {clock}, per {level}  records: {} written, {} lost",
        subject(header.model(), header.pid),
        units::count(header.head),
        units::count(lost),
    );
    let mut add = |words: String| text.push_str(&words);
    if header.sample > 1 {
        let skipped = units::plural(header.skipped, "record");
        add(format!("  sample: 1 of {} connections, {skipped} left out", header.sample));
    }
    if let Some(why) = header.frozen {
        add(format!("  stopped {why}"));
    }
    if let Some(uname) = header.get("uname") {
        add(format!("  kernel: {}", uname.split(' ').nth(1).unwrap_or(uname)));
    }
    text
}

/// Whose recording it is: which model served, and in which process.
pub(super) fn subject(model: &str, pid: u32) -> String {
    match model {
        "process" => format!("model process, parent {pid}"),
        _ => format!("{model} of process {pid}"),
    }
}

/// What stands in the columns of [`line()`]: once, above the first.
pub fn heading() -> String {
    columns(["time", "lane", "what", "op", "conn", "res", "details"])
}

/// A line: the same columns always.
pub(crate) fn columns([time, lane, what, op, conn, result, details]: [&str; 7]) -> String {
    format!("{time:>13}  {lane:<5} {what:<7} {op:<13} {conn:<9} {result:>9}  {details}")
}

/// A moment, as its column has it: seconds since recording began.
pub(crate) fn moment(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Ends the line of an event: nothing trails, and what is abnormal is marked, at a column where no
/// details stand.
pub(crate) fn end_line(mut text: String, column: usize, abnormal: bool) -> String {
    text.truncate(text.trim_end().len());
    if abnormal {
        let width = text.chars().count();
        text.extend(std::iter::repeat_n(' ', column.saturating_sub(width)));
        text.push_str("  !");
    }
    text
}

/// One event for people.
pub fn line(header: &Header, event: &Event) -> String {
    let star = if event.is_multishot() { "*" } else { "" };
    let op = event.op.map_or(String::new(), |op| format!("{}{star}", op.name()));
    let conn = whose(event);
    let untold = matches!(event.what, Happened::WaitEnd { .. }) && event.raw.flags & UNTOLD != 0;
    let result = match event.result().filter(|_| !untold) {
        Some(Ok(n)) => n.to_string(),
        Some(Err(errno)) => errno.to_string(),
        None => String::new(),
    };
    let (time, lane) = (moment(event.at), header.lane_name(event.lane));
    let details = details(header, event);
    let text = columns([&time, &lane, event.name(), &op, &conn, &result, &details]);
    end_line(text, MARK, event.is_abnormal())
}

/// The connection, or what else a readiness or a call is about; nothing if that is not told.
fn whose(event: &Event) -> String {
    match (event.conn, &event.what) {
        (Some(conn), _) => format!("c{conn}"),
        (None, Happened::Ready { .. } | Happened::CallBegin { .. } | Happened::CallEnd { .. }) => {
            match KeyOwner::from(Key(event.raw.id)) {
                KeyOwner::Conn(conn) => format!("c{conn}"),
                KeyOwner::Listener(at) => format!("listen {at}"),
                KeyOwner::Shutdown => "stop".to_owned(),
                KeyOwner::Console => "input".to_owned(),
                KeyOwner::External(guest) => format!("guest {guest}"),
                KeyOwner::Link(conn) => format!("to c{conn}"),
            }
        }
        _ => String::new(),
    }
}

fn details(header: &Header, event: &Event) -> String {
    let mut text = String::new();
    match &event.what {
        Happened::Submitted { number, len, quiet, again, .. } => {
            text.push_str(&hash(*number));
            if *len > 0 {
                let _ = write!(text, "{len} B  ");
            }
            if *quiet {
                text.push_str("quiet  ");
            }
            if *again > 0 && event.op.is_some_and(|op| op.name() == "recv") {
                let _ = write!(text, "armed again, {} before", units::times((*again).into()));
            }
        }
        Happened::Completed { result, more, buffer, submission, age, .. } => {
            completed(&mut text, event, *result, *more, *buffer, *submission);
            // With many completions, it is its peers' since the one before: no age of its own.
            write_age(&mut text, age.filter(|_| !event.is_multishot()));
        }
        Happened::Silent { submission, age, .. } => {
            text.push_str(&hash(submission.and_then(|one| one.number)));
            text.push_str("went out whole, without a completion  ");
            write_age(&mut text, *age);
        }
        Happened::EnterBegin { pending, patience, .. } => {
            let _ = write!(text, "submit={pending}  {}", patience.map_or("?", Patience::name));
        }
        Happened::EnterEnd { result, completions, lent, overflow, lasted, in_flight, .. } => {
            write_span(&mut text, *lasted);
            let took = result.unwrap_or(0);
            let cqes = units::plural((*completions).into(), "cqe");
            let _ = write!(text, "{took} submitted, {cqes}");
            if let Some(queue) = header.get("completions") {
                let _ = write!(text, "  cq {completions}/{queue}");
            }
            let _ = write!(text, "  in flight {in_flight}");
            if *lent > 0 {
                let _ = write!(text, "  lent {lent}");
            }
            if *overflow {
                text.push_str("  OVERFLOW: completions wait outside the queue");
            }
        }
        Happened::WaitBegin { patience, at_most } => {
            text.push_str(match patience {
                // It asks nobody: whatever comes, it sleeps.
                Some(Patience::Until) if header.model() == ASKS_NOBODY => "sleep",
                _ => patience.map_or("?", Patience::name),
            });
            if let Some(nanos) = at_most {
                let _ = write!(text, " {}", span(*nanos));
            }
        }
        Happened::WaitEnd { result, lasted } => {
            write_span(&mut text, *lasted);
            if event.raw.flags & UNTOLD == 0 {
                let _ = write!(text, "{} ready", result.unwrap_or(0));
            }
        }
        Happened::Ready { readable, writable, hung_up } => {
            let words = [(*readable, "read"), (*writable, "write"), (*hung_up, "hung up")];
            let words: Vec<_> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
            text.push_str(&words.join(", "));
        }
        Happened::CallBegin { file, len, .. } => {
            if *file >= 0 {
                let _ = write!(text, "fd {file}");
            }
            if *len > 0 && !matches!(event.op.map(Op::name), Some("watch" | "rewatch")) {
                let _ = write!(text, "  {len} B");
            }
        }
        Happened::CallEnd { file, result, lasted, .. } => {
            if *file >= 0 {
                let _ = write!(text, "fd {file}  ");
            }
            if *result == Ok(0) && event.op == Some(Op::Call(Call::Recv)) {
                text.push_str("EOF  ");
            }
            write_span(&mut text, measured(header, *lasted));
        }
        Happened::Lost(n) => {
            let _ = write!(text, "{}", units::plural(*n, "record"));
        }
        Happened::Clock(nanos) => {
            let _ = write!(text, "{nanos} ns of the monotonic clock");
        }
        Happened::Mark(number) => {
            let _ = write!(text, "{number}");
        }
        Happened::Lane { thread, process } => {
            let _ = match event.lane {
                Some(MAIN) => write!(text, "who began: process {process}"),
                _ if header.writers == Writers::Processes => write!(text, "process {process}"),
                _ => write!(text, "thread {thread}"),
            };
        }
        Happened::Frozen(why) => {
            let _ = write!(text, "recording stopped {}", why.map_or("", |why| why.name()));
        }
        Happened::Unknown => {
            let _ = write!(text, "a record of kind {}", event.raw.what);
        }
    }
    text
}

fn completed(
    text: &mut String,
    event: &Event,
    result: Result<u32, Errno>,
    more: bool,
    buffer: Option<u16>,
    submission: Option<Submission>,
) {
    text.push_str(&hash(submission.and_then(|one| one.number)));
    if let Some(buffer) = buffer {
        let _ = write!(text, "buf {buffer}  ");
    }
    let recv = event.op.is_some_and(|op| op.name() == "recv");
    match result {
        Ok(0) if recv => text.push_str("EOF  "),
        Err(Errno(libc::ENOBUFS)) if recv => text.push_str("no buffer left  "),
        _ => {}
    }
    match submission {
        Some(one) if more => {
            let armed = span(event.at.saturating_sub(one.at));
            let _ =
                write!(text, "more (shot {}, armed {armed} ago)", units::count(one.shots.into()));
        }
        Some(one) if one.shots > 1 => {
            let armed = span(event.at.saturating_sub(one.at));
            let _ = write!(text, "last shot ({} in {armed})", units::count(one.shots.into()));
        }
        Some(_) => {}
        None => text.push_str("submitted before this trace"),
    }
}

/// How long a call took, if that was measured: between two readings of a clock that is read once a
/// batch, no time passes.
fn measured(header: &Header, lasted: Option<u64>) -> Option<u64> {
    lasted.filter(|&nanos| nanos > 0 || header.level == Some(Level::Record))
}

fn write_age(text: &mut String, age: Option<u64>) {
    if let Some(age) = age {
        let _ = write!(text, "age {}", span(age));
    }
}

fn write_span(text: &mut String, lasted: Option<u64>) {
    if let Some(nanos) = lasted {
        let _ = write!(text, "{}  ", span(nanos));
    }
}

fn hash(number: Option<u64>) -> String {
    number.map_or(String::new(), |number| format!("#{number}  "))
}

fn span(nanos: u64) -> String {
    units::span(Duration::from_nanos(nanos))
}

/// One event for programs: decoded and raw. Names that do not apply are left out.
pub fn json(header: &Header, event: &Event) -> Value {
    let raw = &event.raw;
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| drop(map.insert(name.to_owned(), value));
    put("n", json!(event.number));
    put("t_ns", json!(event.at));
    put("lane", json!(header.lane_name(event.lane)));
    put("turn", json!(event.turn));
    let what = What::from_number(raw.what);
    put("kind", json!(what.map_or("unknown", |what| kind(what))));
    if let Some(op) = event.op {
        put("op", json!(op.name()));
    }
    if let Some(conn) = event.conn {
        put("slot", json!(conn.slot()));
        put("gen", json!(conn.generation()));
    } else if let whose = whose(event)
        && !whose.is_empty()
    {
        put("whose", json!(whose));
    }
    match event.result() {
        Some(Ok(n)) => put("res", json!(n)),
        Some(Err(errno)) => {
            put("res", json!(-i64::from(errno.0)));
            put("error", json!(errno.to_string()));
        }
        None => {}
    }
    match &event.what {
        Happened::Submitted { number, opcode, file, len, quiet, again } => {
            put("number", json!(number));
            put("opcode", json!(opcode));
            put("file", json!(file));
            put("len", json!(len));
            put("quiet", json!(quiet));
            put("again", json!(again));
        }
        Happened::Completed { more, buffer, position, submission, age, .. } => {
            put("more", json!(more));
            put("multi", json!(event.is_multishot()));
            put("buf", json!(buffer));
            put("position", json!(position));
            put("number", json!(submission.and_then(|one| one.number)));
            put("shot", json!(submission.map(|one| one.shots)));
            put("age_ns", json!(age));
        }
        Happened::Silent { submission, age, .. } => {
            put("number", json!(submission.and_then(|one| one.number)));
            put("age_ns", json!(age));
        }
        Happened::EnterBegin { queued, pending, patience } => {
            put("queued", json!(queued));
            put("pending", json!(pending));
            put("patience", json!(patience.map(Patience::name)));
        }
        Happened::EnterEnd { reaped, completions, lent, overflow, lasted, in_flight, .. } => {
            put("reaped", json!(reaped));
            put("completions", json!(completions));
            put("lent", json!(lent));
            put("overflow", json!(overflow));
            put("lasted_ns", json!(lasted));
            put("in_flight", json!(in_flight));
        }
        Happened::WaitBegin { patience, at_most } => {
            put("patience", json!(patience.map(Patience::name)));
            put("at_most_ns", json!(at_most));
        }
        Happened::WaitEnd { lasted, .. } => put("lasted_ns", json!(lasted)),
        Happened::Ready { readable, writable, hung_up } => {
            put("readable", json!(readable));
            put("writable", json!(writable));
            put("hung_up", json!(hung_up));
        }
        Happened::CallBegin { file, len, may_sleep } => {
            put("file", json!(file));
            put("len", json!(len));
            put("may_sleep", json!(may_sleep));
        }
        Happened::CallEnd { file, lasted, may_sleep, .. } => {
            put("file", json!(file));
            put("lasted_ns", json!(measured(header, *lasted)));
            put("may_sleep", json!(may_sleep));
        }
        Happened::Lost(n) => put("lost", json!(n)),
        Happened::Clock(nanos) => put("monotonic_ns", json!(nanos)),
        Happened::Mark(number) => put("mark", json!(number)),
        Happened::Lane { thread, process } => {
            put("thread", json!(thread));
            put("process", json!(process));
        }
        Happened::Frozen(why) => put("why", json!(why.map(|why| why.name()))),
        Happened::Unknown => {}
    }
    put("abnormal", json!(event.is_abnormal()));
    put("user_data", json!(format!("{:#018x}", raw.id)));
    put("flags", json!(raw.flags));
    Value::Object(map)
}

/// A record's kind as a word of letters.
fn kind(what: What) -> &'static str {
    match what {
        What::EnterBegin => "enter_begin",
        What::EnterEnd => "enter_end",
        What::WaitBegin => "wait_begin",
        What::WaitEnd => "wait_end",
        What::CallBegin => "call_begin",
        What::CallEnd => "call_end",
        What::Lost => "lost",
        What::Freeze => "freeze",
        What::Sqe
        | What::Cqe
        | What::Silent
        | What::Clock
        | What::Mark
        | What::Ready
        | What::Lane => what.name(),
    }
}

/// A header for programs: the first line of `--json`.
pub fn json_header(header: &Header, lost: u64, remarks: &[String]) -> Value {
    let text: Map<String, Value> =
        header.text.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "schema": "proactor.trace/1",
        "model": header.model(),
        "pid": header.pid,
        "ring_fd": header.ring_fd,
        "lane": header.lane,
        "writers": header.writers.name(),
        "clock": header.clock.map(Clock::name),
        "level": header.level.map(Level::name),
        "hertz": header.hertz,
        "wall_ns": header.wall_nanos,
        "capacity": header.capacity,
        "written": header.head,
        "lost": lost,
        "skipped": header.skipped,
        "sample": header.sample,
        "stopped": header.frozen.map(|why| why.name()),
        "ended": header.ended,
        "remarks": remarks,
        "text": text,
    })
}
