//! The source of a view: its recorder, the part that is looked at, and what is missing.

use std::fmt;
use std::time::Duration;

use minijinja::{Value, context};
use proactor::keys::ConnId;
use proactor_record::{Level, Record, RecordKind, Writers};
use serde::Serialize;

use super::text::fill;
use crate::show::{
    ATTACHED, POLLS_ALL, clock, is_attached, is_between, is_conn, kernel_release, subject,
};
use crate::trace_file::TraceFile;

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
    /// Of the lost: events that the kernel lost before they were recorded, of `trace attach`.
    pub lost_by_kernel: u64,
    /// One connection of so many was recorded.
    pub sample: u32,
    /// When what is looked at begins: nanoseconds since recording began.
    pub from_ns: u64,
    /// How long it lasts.
    pub span_ns: u64,
    /// How long recording lasted, if what is looked at is the last part of it: the records before
    /// are overwritten.
    pub of_ns: Option<u64>,
    /// What is missing, and what is uncertain because of it: a sentence each.
    pub uncertain: Vec<String>,
}

impl Source {
    /// Of this trace, cut to this; from the first to the last moment that was seen.
    pub(super) fn new(trace: &TraceFile, cut: &Cut, from_ns: u64, to_ns: u64) -> Source {
        let header = &trace.header;
        let unwritten = if header.writers == Writers::One { trace.absent() } else { 0 };
        let lost_by_kernel = lost_by_kernel(trace);
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
            lost: [unwritten, lost_by_kernel].into_iter().fold(trace.lost(), u64::saturating_add),
            overwritten: trace.first,
            stopped: header.missed,
            lost_by_kernel,
            sample: header.sample,
            from_ns,
            span_ns: to_ns.saturating_sub(from_ns),
            of_ns: (trace.first > 0 && cut.since.is_none() && cut.until.is_none()).then_some(to_ns),
            uncertain: uncertain(trace, cut),
        }
    }

    /// Whether many threads or processes recorded: most sleep in calls of their own, so there is
    /// no loop and no iteration.
    pub(super) fn has_no_loop(&self) -> bool {
        self.writers != Writers::One.name()
    }

    /// Whether `trace attach` recorded it.
    pub(crate) fn is_attached(&self) -> bool {
        self.model == ATTACHED
    }

    /// Whether the model tries all sockets instead of waiting for those that are ready.
    pub(crate) fn polls_all(&self) -> bool {
        self.model == POLLS_ALL
    }
}

/// The events that the kernel lost: in other traces, lost records are known by their numbers.
fn lost_by_kernel(trace: &TraceFile) -> u64 {
    let is_lost = |one: &&Record| one.is(RecordKind::Lost) && one.aux == 0;
    let lost = trace.records.iter().filter(is_lost).filter(|_| is_attached(&trace.header));
    lost.fold(0, |all, record| all.saturating_add(record.id))
}

fn uncertain(trace: &TraceFile, cut: &Cut) -> Vec<String> {
    let header = &trace.header;
    let is_alone = header.writers == Writers::One;
    let values = context! {
        overwritten => trace.first,
        lost_by_kernel => lost_by_kernel(trace),
        stopped => header.missed,
        unwritten => if is_alone { 0 } else { trace.absent() },
        sample => header.sample,
        frozen => header.frozen.map(|why| why.to_string()),
        ended => header.ended,
        conn => cut.conn,
        since => cut.since.map(|since| since.as_nanos() as u64),
        until => cut.until.map(|until| until.as_nanos() as u64),
    };
    let text = fill(include_str!("uncertain.txt"), values);
    trace.remarks.iter().map(String::as_str).chain(text.lines()).map(str::to_owned).collect()
}

impl fmt::Display for Source {
    /// Two lines, and one for each uncertainty. No line-end at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = subject(&self.model, self.pid);
        let values = context! { subject, ..Value::from_serialize(self) };
        f.write_str(&fill(include_str!("source.txt"), values))
    }
}
