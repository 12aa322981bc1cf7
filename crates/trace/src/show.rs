//! Events as lines of text, always in the same columns, and as JSON.
//!
//! ```text
//!          time  lane  what    op            conn            res  details
//!   0.001923300  r0    cqe     recv*         c7.1             64  #2  buf 82  more (shot 27, …)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::event::Event;
use proactor::keys::{ConnId, KeyOwner};
use proactor_record::format::MAIN;
use proactor_record::{
    Call, Clock, Content, Errno, Frozen, Header, Level, OpKind, RecordKind, WaitMode, Writers,
};
use proactor_report::units::{self, nanos};

/// The model that tries all sockets instead of waiting for those that are ready.
pub(crate) const POLLS_ALL: &str = "nonblocking";

/// The column of the mark of abnormal events, behind the details.
pub(super) const MARK: usize = 112;

/// A selection of events. An empty list selects all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only events of these connections; `None` as a generation is any.
    pub conns: Vec<(u32, Option<u32>)>,
    /// Only these operations or records, by name: `recv`, `cqe`.
    pub ops: Vec<String>,
    /// Only these results: an errno's name, a number, `ok` or `error`.
    pub results: Vec<String>,
    /// Only events at or after this time since recording began.
    pub since: Option<Duration>,
    /// Only events before this time.
    pub until: Option<Duration>,
    /// Only events that are abnormal.
    pub abnormal: bool,
}

impl Filter {
    /// Whether the event is selected.
    pub fn passes(&self, event: &Event) -> bool {
        let is_named = |name: &str| {
            event.op.is_some_and(|op| op.name() == name)
                || event.name().trim_matches(['<', '>']).eq_ignore_ascii_case(name)
        };
        self.selects(event.at, event.conn, is_named, event.result(), event.is_abnormal())
    }

    /// Whether it selects an event with this time, connection, names, result and abnormality.
    pub(crate) fn selects(
        &self,
        at: u64,
        conn: Option<ConnId>,
        is_named: impl Fn(&str) -> bool,
        result: Option<Result<u32, Errno>>,
        is_abnormal: bool,
    ) -> bool {
        let is_of = |conn| self.conns.iter().any(|&wanted| is_conn(wanted, conn));
        let has_result = |wanted: &String| match result {
            None => false,
            Some(Ok(n)) => wanted == "ok" || wanted.parse() == Ok(n),
            Some(Err(errno)) => wanted == "error" || errno.to_string().eq_ignore_ascii_case(wanted),
        };
        (self.conns.is_empty() || conn.is_some_and(is_of))
            && (self.ops.is_empty() || self.ops.iter().any(|name| is_named(name)))
            && (self.results.is_empty() || self.results.iter().any(has_result))
            && is_between(self.since, self.until, at)
            && (!self.abnormal || is_abnormal)
    }
}

/// Whether this time, in nanoseconds, is at or after `since` and before `until`.
pub(crate) fn is_between(since: Option<Duration>, until: Option<Duration>, nanos: u64) -> bool {
    let at = Duration::from_nanos(nanos);
    since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until)
}

/// Whether it is the wanted connection: of this slot and, if one is given, of this generation.
pub(crate) fn is_conn((slot, generation): (u32, Option<u32>), conn: ConnId) -> bool {
    slot == conn.slot() && generation.is_none_or(|one| one == conn.generation())
}

/// Parses a connection of a command line: `c7` is every connection of slot 7, `c7.1` one of them.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_conn(text: &str) -> Result<(u32, Option<u32>), String> {
    let wrong =
        || format!("no connection {text:?}: write c7, or c7.1 for one connection that used slot 7");
    let rest = text.strip_prefix('c').unwrap_or(text);
    let number = |text: &str| text.parse().map_err(|_| wrong());
    match rest.split_once('.') {
        Some((slot, generation)) => Ok((number(slot)?, Some(number(generation)?))),
        None => Ok((number(rest)?, None)),
    }
}

/// The first line of every view: the recording process, its clock, and what is missing.
pub fn title(header: &Header, lost: u64) -> String {
    let (subject, clock) = (subject(header.model(), header.pid), clock(header));
    let (level, release) = (header.level.map_or("unknown", Level::name), kernel_release(header));
    let (written, lost) = (units::count(header.head), units::count(lost));
    let mut text =
        format!("{subject}  clock: {clock}, per {level}  records: {written} written, {lost} lost");
    if header.sample > 1 {
        let skipped = units::plural(header.skipped, "record");
        text += &format!("  sample: 1 of {} connections, {skipped} left out", header.sample);
    }
    text.extend(header.frozen.map(|why| format!("  stopped {why}")));
    text.extend(release.map(|release| format!("  kernel: {release}")));
    text
}

/// The clock of a recording, and how fast it ticks.
pub(crate) fn clock(header: &Header) -> String {
    match header.clock {
        Some(Clock::Tsc) => format!("tsc {:.1} MHz", header.hertz as f64 / 1e6),
        Some(Clock::Nanos) => "monotonic".to_owned(),
        None => "unknown".to_owned(),
    }
}

/// The release of the kernel that recorded, if the recording has it.
pub(crate) fn kernel_release(header: &Header) -> Option<&str> {
    header.get("uname").map(|uname| uname.split(' ').nth(1).unwrap_or(uname))
}

/// The model of a recording that `trace attach` made of a ring of another program.
pub(crate) const ATTACHED: &str = "attached";

/// Whether it is such a recording: its completions are recorded when they were posted, its
/// connections are descriptors, and it has no enters.
pub(crate) fn is_attached(header: &Header) -> bool {
    header.model() == ATTACHED
}

/// The model of the server and its process.
pub(super) fn subject(model: &str, pid: u32) -> String {
    match model {
        ATTACHED => format!("a ring of process {pid}"),
        "process" => format!("model process, parent {pid}"),
        _ => format!("{model} of process {pid}"),
    }
}

/// The heading above the lines of events, with this one above their times.
pub fn heading(time: &str) -> String {
    columns([time, "lane", "what", "op", "conn", "res", "details"])
}

/// A line, always in the same columns.
pub(crate) fn columns([time, lane, what, op, conn, result, details]: [&str; 7]) -> String {
    format!("{time:>13}  {lane:<5} {what:<7} {op:<13} {conn:<9} {result:>9}  {details}")
}

/// A time as its column shows it: seconds since recording began.
pub(crate) fn moment(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Ends the line of an event: removes trailing spaces, and marks an abnormal event behind the
/// column of the details.
pub(crate) fn end_line(mut text: String, column: usize, abnormal: bool) -> String {
    text.truncate(text.trim_end().len());
    if abnormal { format!("{text:column$}  !") } else { text }
}

/// The time of day (UTC) of a moment of a recording.
pub(crate) fn time_of_day(header: &Header, nanos: u64) -> String {
    let at = header.wall_nanos.saturating_add(nanos);
    let seconds = at / 1_000_000_000;
    let [hours, minutes] = [seconds / 3600 % 24, seconds / 60 % 60];
    format!("{hours:02}:{minutes:02}:{:02}.{:09}", seconds % 60, at % 1_000_000_000)
}

/// Returns an event as a line of text, with this time.
pub(crate) fn line(time: &str, header: &Header, event: &Event) -> String {
    let star = if event.is_multishot() { "*" } else { "" };
    let op = event.op.map_or(String::new(), |op| format!("{op}{star}"));
    let is_known = !matches!(event.what, Content::WaitEnd { is_counted: false, .. });
    let result = result_text(event.result().filter(|_| is_known));
    let lane = header.lane_name(event.lane);
    let (conn, details) = (owner(event), details(header, event));
    let text = columns([time, &lane, event.name(), &op, &conn, &result, &details]);
    end_line(text, MARK, event.is_abnormal())
}

/// A result as its column shows it: a number, or the name of an errno.
pub(crate) fn result_text(result: Option<Result<u32, Errno>>) -> String {
    match result {
        Some(Ok(n)) => n.to_string(),
        Some(Err(errno)) => errno.to_string(),
        None => String::new(),
    }
}

/// The connection of an event, or another owner of its descriptor; empty if there is none.
fn owner(event: &Event) -> String {
    let owner = event.conn.map(KeyOwner::Conn).or_else(|| event.owner());
    owner.map_or(String::new(), |owner| match owner {
        KeyOwner::Conn(conn) => format!("c{conn}"),
        KeyOwner::Listener(listener) => format!("listen {listener}"),
        KeyOwner::Shutdown => "shutdown".to_owned(),
        KeyOwner::Console => "console".to_owned(),
        KeyOwner::External(number) => format!("external {number}"),
        KeyOwner::Link(conn) => format!("to c{conn}"),
    })
}

/// What the event says besides its operation and its result.
fn details(header: &Header, event: &Event) -> String {
    let number = event.begun.and_then(|begun| begun.number).map(|number| format!("#{number}"));
    let lasted = event.lasted.map(nanos);
    let length = |len: u32| (len > 0).then(|| format!("{len} B"));
    let descriptor = |file: i32| (file >= 0).then(|| format!("fd {file}"));
    let end = || event.is_eof().then(|| "EOF".to_owned());
    let parts = match event.what {
        Content::Submitted { len, skip_success, .. } => {
            let earlier = event.begun.map_or(0, |begun| begun.earlier);
            let again = earlier > 0 && event.op.is_some_and(OpKind::receives);
            vec![
                number,
                length(len),
                skip_success.then(|| "skip-success".to_owned()),
                again.then(|| format!("armed again, {} before", units::times(earlier.into()))),
            ]
        }
        Content::Completed { result, more, buffer, .. } => {
            let no_buffer = result == Err(Errno(libc::ENOBUFS));
            let no_buffer = no_buffer && event.op.is_some_and(OpKind::receives);
            vec![
                number,
                buffer.map(|buffer| format!("buf {buffer}")),
                end(),
                no_buffer.then(|| "no buffer left".to_owned()),
                shots(event, more),
                // With many completions it is the peer's time since the last one, and not an age.
                lasted.filter(|_| !event.is_multishot()).map(|lasted| format!("age {lasted}")),
                event.posting.map(|one| format!("posted {} before", nanos(one.waited(event.at)))),
            ]
        }
        Content::Implied { .. } => {
            let words = "succeeded without a completion".to_owned();
            vec![number, Some(words), lasted.map(|lasted| format!("age {lasted}"))]
        }
        Content::EnterEnd { result, provided, overflow, .. } => {
            let (taken, completions) = (result.unwrap_or(0), event.completions);
            let cqes = units::plural(completions.into(), "cqe");
            vec![
                lasted,
                event.asleep.map(|asleep| format!("asleep {}", nanos(asleep))),
                Some(format!("{taken} submitted, {cqes}")),
                header.get("completions").map(|queue| format!("cq {completions}/{queue}")),
                Some(format!("in flight {}", event.in_flight.total)),
                (provided > 0).then(|| format!("provided {provided}")),
                overflow.then(|| "OVERFLOW: completions wait outside the queue".to_owned()),
            ]
        }
        Content::WaitEnd { result, is_counted } => {
            vec![lasted, is_counted.then(|| format!("{} ready", result.unwrap_or(0)))]
        }
        Content::CallBegin { file, len, .. } => {
            // What a selector watches for is not a length.
            let watches = matches!(event.op, Some(OpKind::Call(Call::Watch | Call::Rewatch)));
            vec![descriptor(file), length(len).filter(|_| !watches)]
        }
        Content::CallEnd { file, .. } => {
            vec![descriptor(file), end(), measured(header, event.lasted).map(nanos)]
        }
        _ => vec![Some(words(header, event))],
    };
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// The details of an event that has only one.
fn words(header: &Header, event: &Event) -> String {
    match event.what {
        Content::EnterBegin { pending, mode, .. } => {
            format!("submit={pending}  {}", mode.map_or("?", WaitMode::name))
        }
        Content::WaitBegin { mode, at_most } => {
            let mode = match mode {
                // It polls all sockets: whatever comes, it sleeps.
                Some(WaitMode::Until) if header.model() == POLLS_ALL => "sleep",
                _ => mode.map_or("?", WaitMode::name),
            };
            at_most.map_or(mode.to_owned(), |at_most| format!("{mode} {}", nanos(at_most)))
        }
        Content::Ready { readable, writable, hung_up } => readiness(readable, writable, hung_up),
        Content::Lost(n) => units::plural(n, "record"),
        Content::Clock(nanos) => format!("{nanos} ns of the monotonic clock"),
        Content::Mark(number) => number.to_string(),
        Content::Lane { thread, process } => match event.lane {
            Some(MAIN) => format!("started the recording: process {process}"),
            _ if header.writers == Writers::Processes => format!("process {process}"),
            _ => format!("thread {thread}"),
        },
        Content::Delayed { nanos: delay, window } => match window {
            0 => format!("ready for {} without a CPU", nanos(delay)),
            _ => format!("ready for {} of {} without a CPU", nanos(delay), nanos(window)),
        },
        Content::Notified => "a buffer is not in use any more".to_owned(),
        Content::Continued(times) => format!("continued {}", units::times(times)),
        Content::Frozen(why) => {
            format!("recording stopped {}", why.map_or("", |why| why.name()))
        }
        _ => format!("a record of kind {}", event.raw.kind),
    }
}

/// What a descriptor is ready for: `read, hung up`.
pub(crate) fn readiness(readable: bool, writable: bool, hung_up: bool) -> String {
    let words = [(readable, "read"), (writable, "write"), (hung_up, "hung up")];
    let words = words.into_iter().filter_map(|(is, word)| is.then_some(word));
    words.collect::<Vec<_>>().join(", ")
}

/// Where a completion stands among those of its submission, if that has several.
fn shots(event: &Event, more: bool) -> Option<String> {
    let Some(begun) = event.begun else { return Some("submitted before this trace".to_owned()) };
    let (shots, armed) = (units::count(begun.shots.into()), event.at.saturating_sub(begun.at));
    if more {
        return Some(format!("more (shot {shots}, armed {} ago)", nanos(armed)));
    }
    (begun.shots > 1).then(|| format!("last shot ({shots} in {})", nanos(armed)))
}

/// The duration of a call, if it was measured. A clock that is read once per batch does not measure
/// calls.
fn measured(header: &Header, lasted: Option<u64>) -> Option<u64> {
    lasted.filter(|&nanos| nanos > 0 || header.level == Some(Level::Record))
}

/// Returns an event as JSON, decoded and raw. Names that do not apply are left out.
pub fn json(header: &Header, event: &Event) -> Value {
    let owner = Some(owner(event)).filter(|owner| !owner.is_empty());
    let (conn, owner) = if event.conn.is_some() { (owner, None) } else { (None, owner) };
    let mut all = fields(header, event);
    all.extend(applying(json!({
        "n": event.number, "t_ns": event.at, "lane": header.lane_name(event.lane),
        "iteration": event.iteration, "op": event.op.map(OpKind::name), "conn": conn,
        "owner": owner,
        "kind": event.raw.kind().map_or("unknown".to_owned(), kind),
        "abnormal": event.is_abnormal(), "flags": event.raw.flags,
    })));
    all.values_mut().for_each(keep_exact);
    Value::Object(all)
}

/// Makes a string of a number that a reader could not keep exactly: many have a double for each.
/// Only a damaged recording has such numbers where others have small ones.
fn keep_exact(value: &mut Value) {
    const MAX: u64 = 1 << 53;
    if value.as_u64().is_some_and(|number| number >= MAX) {
        *value = Value::String(value.to_string());
    }
}

/// The fields of an object that are not null.
pub(crate) fn applying(object: Value) -> Map<String, Value> {
    let Value::Object(mut fields) = object else { unreachable!("it is an object") };
    fields.retain(|_, value| !value.is_null());
    fields
}

/// The result of an event and the fields that only its kind has, as JSON.
pub(crate) fn fields(header: &Header, event: &Event) -> Map<String, Value> {
    let (lasted, begun) = (event.lasted, event.begun);
    let number = begun.and_then(|begun| begun.number);
    let fields = match event.what {
        Content::Submitted { opcode, file, len, skip_success } => json!({
            "number": number, "again": begun.map(|begun| begun.earlier), "opcode": opcode,
            "file": file, "len": len, "skip_success": skip_success,
        }),
        Content::Completed { more, buffer, position, .. } => json!({
            "number": number, "shot": begun.map(|begun| begun.shots), "age_ns": lasted,
            "more": more, "multi": event.is_multishot(), "buf": buffer, "position": position,
            "arrived_ns": event.posting.and_then(|posting| posting.arrived),
            "posted_ns": event.posting.map(|posting| posting.posted),
            "punted": event.posting.map(|posting| posting.is_punted),
        }),
        Content::Implied { .. } => json!({ "number": number, "age_ns": lasted }),
        Content::Notified => json!({ "notification": true }),
        Content::EnterBegin { queued, pending, mode } => json!({
            "queued": queued, "pending": pending, "wait": mode.map(WaitMode::name),
        }),
        Content::EnterEnd { reaped, provided, overflow, .. } => json!({
            "reaped": reaped, "completions": event.completions, "provided": provided,
            "overflow": overflow, "lasted_ns": lasted, "asleep_ns": event.asleep,
            "in_flight": event.in_flight.total,
        }),
        Content::WaitBegin { mode, at_most } => json!({
            "wait": mode.map(WaitMode::name), "at_most_ns": at_most,
        }),
        Content::WaitEnd { .. } => json!({ "lasted_ns": lasted }),
        Content::Ready { readable, writable, hung_up } => json!({
            "readable": readable, "writable": writable, "hung_up": hung_up,
        }),
        Content::CallBegin { file, len, may_sleep } => json!({
            "file": file, "len": len, "may_sleep": may_sleep,
        }),
        Content::CallEnd { file, may_sleep, .. } => json!({
            "file": file, "lasted_ns": measured(header, lasted), "may_sleep": may_sleep,
        }),
        Content::Lost(n) => json!({ "lost": n }),
        Content::Clock(nanos) => json!({ "monotonic_ns": nanos.to_string() }),
        Content::Mark(number) => json!({ "mark": number.to_string() }),
        Content::Lane { thread, process } => json!({ "thread": thread, "process": process }),
        Content::Delayed { nanos, window } => json!({ "delay_ns": nanos, "window_ns": window }),
        Content::Continued(times) => json!({ "continued": times }),
        Content::Frozen(why) => json!({ "why": why.map(Frozen::name) }),
        Content::Unknown => json!({}),
    };
    let Value::Object(mut fields) = fields else { unreachable!("each is an object") };
    if !event.raw.is_watched() {
        fields.insert("user_data".to_owned(), json!(format!("{:#018x}", event.raw.id)));
    }
    fields.extend(result_fields(event.result()));
    fields
}

/// A result as JSON: a number, negative for an errno, which has its name as well.
pub(crate) fn result_fields(result: Option<Result<u32, Errno>>) -> Map<String, Value> {
    applying(match result {
        Some(Err(errno)) => json!({ "res": -i64::from(errno.0), "error": errno.to_string() }),
        result => json!({ "res": result.and_then(Result::ok) }),
    })
}

/// A record's kind as a word of letters.
fn kind(kind: RecordKind) -> String {
    let name = kind.name().to_lowercase();
    match (name.strip_suffix('>'), name.strip_prefix('<')) {
        _ if kind == RecordKind::Freeze => "freeze".to_owned(),
        (Some(name), _) => format!("{name}_begin"),
        (_, Some(name)) => format!("{name}_end"),
        (None, None) => name,
    }
}

/// Returns a header as JSON: the first line of `--json`.
pub fn json_header(header: &Header, lost: u64, remarks: &[String]) -> Value {
    json!({
        "schema": "proactor.trace.events/3",
        "model": header.model(), "pid": header.pid, "lane": header.lane,
        "writers": header.writers.name(), "ring_fd": header.ring_fd,
        "setup_flags": header.setup_flags,
        "clock": header.clock.map(Clock::name), "level": header.level.map(Level::name),
        "hertz": header.hertz, "wall_ns": header.wall_nanos.to_string(),
        "capacity": header.capacity, "written": header.head, "lost": lost,
        "skipped": header.skipped, "sample": header.sample,
        "stopped": header.frozen.map(Frozen::name), "ended": header.ended,
        "remarks": remarks, "text": header.text.iter().cloned().collect::<BTreeMap<_, _>>(),
    })
}
