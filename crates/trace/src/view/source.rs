//! The source of a view: its recorder, the part that is looked at, and what is missing.

use std::fmt;
use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Level, Trace, Writers};
use proactor_report::units;
use serde::Serialize;

use crate::show::{POLLS_ALL, clock, is_between, is_conn, kernel_release, subject};

/// The part of a trace that a view is about. The default is all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Only from then on: since recording began.
    pub since: Option<Duration>,
    /// Only before this time.
    pub until: Option<Duration>,
    /// Only of this connection: its slot, and its generation if not all are meant.
    pub conn: Option<(u32, Option<u32>)>,
}

impl Cut {
    /// Whether this moment is in it.
    pub fn is_in_time(&self, at: u64) -> bool {
        is_between(self.since, self.until, at)
    }

    /// Whether it is about this connection.
    pub(super) fn is_of(&self, conn: Option<ConnId>) -> bool {
        self.conn.is_none_or(|wanted| conn.is_some_and(|conn| is_conn(wanted, conn)))
    }
}

/// The recorder of a trace, and how much of the trace is here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Source {
    /// The name of the I/O model.
    pub model: String,
    /// What it uses of the kernel.
    pub detail: String,
    /// The release of the kernel.
    pub kernel: Option<String>,
    /// The process that recorded.
    pub pid: u32,
    /// Which of its loops.
    pub lane: u32,
    /// The writers of it: `one` owner, the `threads` of a server, or its `processes`.
    pub writers: &'static str,
    /// Whether the ring posts completions only within an enter (`IORING_SETUP_DEFER_TASKRUN`).
    pub defers: bool,
    /// What ticked, and how fast.
    pub clock: String,
    /// Whether the clock was read per batch or per record.
    pub level: Option<&'static str>,
    /// The records ever written.
    pub written: u64,
    /// Those of them that are not here, and those that were not written.
    pub lost: u64,
    /// Of the lost: those that newer ones have overwritten.
    pub overwritten: u64,
    /// Of the lost: those that were not written while recording was stopped.
    pub stopped: u64,
    /// One connection of so many was recorded.
    pub sample: u32,
    /// When what is looked at begins: nanoseconds since recording began.
    pub from_ns: u64,
    /// How long it lasts.
    pub span_ns: u64,
    /// What is missing, and what is uncertain because of it: a sentence each.
    pub uncertain: Vec<String>,
}

impl Source {
    /// Of this trace, cut to this; from the first to the last moment that was seen.
    pub(super) fn new(trace: &Trace, cut: &Cut, from_ns: u64, to_ns: u64) -> Source {
        let header = &trace.header;
        let unwritten = if header.writers == Writers::One { trace.absent() } else { 0 };
        Source {
            model: header.model().to_owned(),
            detail: header.get("detail").unwrap_or_default().to_owned(),
            kernel: kernel_release(header).map(str::to_owned),
            pid: header.pid,
            lane: header.lane,
            writers: header.writers.name(),
            defers: header.defers(),
            clock: clock(header),
            level: header.level.map(Level::name),
            written: header.head,
            lost: trace.lost().saturating_add(unwritten),
            overwritten: trace.first,
            stopped: header.missed,
            sample: header.sample,
            from_ns,
            span_ns: to_ns.saturating_sub(from_ns),
            uncertain: uncertain(trace, cut),
        }
    }

    /// Whether many threads or processes recorded: most sleep in calls of their own, so there is
    /// no loop and no iteration.
    pub(super) fn has_no_loop(&self) -> bool {
        self.writers != Writers::One.name()
    }

    /// Whether the model tries all sockets instead of waiting for those that are ready.
    pub(crate) fn polls_all(&self) -> bool {
        self.model == POLLS_ALL
    }
}

fn uncertain(trace: &Trace, cut: &Cut) -> Vec<String> {
    let header = &trace.header;
    let were = |n, what: &str| {
        format!("{} {} {what}", units::plural(n, "record"), units::agree(n, "was", "were"))
    };
    let mut all = trace.remarks.clone();
    if trace.first > 0 {
        let were = were(trace.first, "overwritten");
        all.push(format!(
            "the first {were}: what began before is seen to end only, without an age"
        ));
    }
    if header.missed > 0 {
        let were = were(header.missed, "not written while recording was stopped");
        all.push(format!("{were}: there, what was in flight is forgotten"));
    }
    let unwritten = trace.absent();
    if header.writers != Writers::One && unwritten > 0 {
        all.push(format!(
            "{}: the writer of {} was killed, or still writes. There, what was being called is \
             forgotten",
            were(unwritten, "begun and not written"),
            units::agree(unwritten, "it", "them")
        ));
    }
    if header.sample > 1 {
        let sample = header.sample;
        all.push(format!(
            "1 of {sample} connections is here: counts are of those, iterations are of all, and \
             nothing is given per message"
        ));
    }
    if let Some(why) = header.frozen {
        all.push(format!("recording stopped {why}: what came after is not here"));
    } else if !header.ended {
        all.push("the recorder was not closed: its process runs, or was killed".to_owned());
    }
    if let Some((slot, generation)) = cut.conn {
        let generation = generation.map_or(String::new(), |generation| format!(".{generation}"));
        all.push(format!(
            "only c{slot}{generation} is counted: iterations belong to no connection and are left \
             out"
        ));
    }
    if cut.since.is_some() || cut.until.is_some() {
        let since = cut.since.map_or("the begin".to_owned(), units::span);
        let until = cut.until.map_or("the end".to_owned(), units::span);
        all.push(format!("only what lies between {since} and {until} is counted"));
    }
    all
}

impl fmt::Display for Source {
    /// Two lines, and one for each uncertainty. No line-end at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = subject(&self.model, self.pid);
        if self.lane > 0 {
            text += &format!(", loop {}", self.lane);
        }
        if !self.detail.is_empty() {
            text += &format!(": {}", self.detail);
        }
        let (written, lost) = (units::plural(self.written, "record"), units::count(self.lost));
        let (span, clock) = (units::nanos(self.span_ns), &self.clock);
        text += &format!("\n{written}, {lost} lost, over {span}   clock: {clock}");
        text.extend(self.level.map(|level| format!(", read per {level}")));
        text.extend(self.kernel.as_ref().map(|kernel| format!("   kernel {kernel}")));
        text.extend(self.uncertain.iter().map(|sentence| format!("\nnote: {sentence}")));
        f.write_str(&text)
    }
}
