//! Times in which the thread of a loop did nothing that the trace shows, and what is known of why.
//!
//! Outside of its enters or waits a loop is never silent for long: between two records there is a
//! call or some lines of the loop. What lasts longer than that work explains is the protocol's,
//! unless the thread was ready and had no CPU ([`Content::Delayed`]) or the process was stopped
//! ([`Content::Continued`]). Within an enter or a wait only these two can be seen: the thread may
//! well sleep there.

use std::time::Duration;

use proactor::keys::ConnId;
use proactor_record::{Content, Writers};
use serde::Serialize;

use super::iterations::Occurrences;
use crate::event::Event;
use crate::show::is_attached;
use crate::trace_file::TraceFile;

/// What the work of one iteration may take: so much in any case, and more for each event and byte.
/// A delay is read at most each 2 ms, so that none is known of less.
const ANY: Duration = Duration::from_millis(2);
const EACH_EVENT: Duration = Duration::from_micros(50);
const EACH_BYTE: Duration = Duration::from_nanos(1);
/// A thread that shares its CPU is delayed for some milliseconds again and again: what is longer is
/// noted.
pub(super) const LONG_DELAY: Duration = Duration::from_millis(10);
/// SIGCONT may come without a stop.
const SHORTEST_STOP: Duration = Duration::from_millis(1);
/// Of many threads, others may go on for so long before the first that records SIGCONT.
const LATE: Duration = Duration::from_millis(20);

/// Something that takes time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Spells {
    /// How long they took together, in nanoseconds.
    pub total_ns: u64,
    /// The longest of them.
    pub longest_ns: u64,
    /// How many, and the first of them; how long each took, in nanoseconds.
    #[serde(flatten)]
    pub times: Occurrences,
}

impl Spells {
    /// Adds one, of a connection if it is one's.
    pub(super) fn add(&mut self, since: u64, conn: Option<ConnId>, until: u64) {
        let nanos = until.saturating_sub(since);
        self.total_ns = self.total_ns.saturating_add(nanos);
        self.longest_ns = self.longest_ns.max(nanos);
        self.times.note(since, conn, Some(nanos));
    }
}

/// What kept the thread of a loop from its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pauses {
    /// Whether the delays of the thread were recorded: how long it was ready and had no CPU.
    pub sees_delays: bool,
    /// Outside of enters and waits, longer than the work and the delays explain: by how much.
    /// `None` where each connection has a thread.
    pub unexplained: Option<Spells>,
    /// The time in which the thread was ready and had no CPU, as far as it was recorded; `None` if
    /// it was not.
    pub delayed_ns: Option<u64>,
    /// The long ones of these delays.
    pub delayed: Spells,
    /// The process was stopped (SIGSTOP, SIGTSTP, a debugger) until it was continued: at most since
    /// the last that it did before, for it may have slept first.
    pub stopped: Spells,
}

/// Follows the thread of a loop, event by event.
#[derive(Debug, Default)]
pub(super) struct PauseCounter {
    all: Pauses,
    /// Whether one thread does everything.
    is_one: bool,
    /// Whether delays are read only after an iteration, and not after any record.
    is_loop: bool,
    /// The time of the last event, and whether it was in an enter or a wait.
    last: Option<(u64, bool)>,
    /// How long the last iteration was in the kernel.
    inside: u64,
    /// What was done since the time of the last event.
    work: Duration,
    /// What no work explains, until the next delay is read: from when, and how long.
    open: Option<(u64, u64)>,
    is_read: bool,
    /// The last time in which none of many threads did anything: when it ended, and how long.
    silence: Option<(u64, u64)>,
}

impl PauseCounter {
    pub(super) fn new(trace: &TraceFile) -> PauseCounter {
        let header = &trace.header;
        let is_loop = header.writers == Writers::One;
        let is_one = is_loop && !is_attached(header) || header.model() == "coroutine";
        let sees_delays = header.get("delays").is_some();
        let all = Pauses {
            sees_delays,
            unexplained: is_one.then(Spells::default),
            delayed_ns: sees_delays.then_some(0),
            ..Pauses::default()
        };
        PauseCounter { all, is_one, is_loop, ..PauseCounter::default() }
    }

    pub(super) fn see(&mut self, event: &Event) {
        let (now, was_inside) = (event.at, self.last.is_some_and(|(_, inside)| inside));
        let silent = self.last.map_or(0, |(last, _)| now.saturating_sub(last));
        match event.what {
            Content::Lost(_) => return *self = self.after_gap(),
            Content::Continued(_) => return self.continued(now, silent),
            Content::Delayed { nanos, .. } => return self.delayed(now, nanos),
            // Written beside the loop.
            Content::Clock(_) | Content::Frozen(_) | Content::Lane { .. } => return,
            _ => {}
        }
        if !self.is_one {
            if u128::from(silent) >= SHORTEST_STOP.as_nanos() {
                self.silence = Some((now, silent));
            }
            self.last = Some((now, false));
            return;
        }
        if self.is_read {
            self.settle();
        }
        self.add_work(event);
        let nanos = silent.saturating_sub(self.work.as_nanos() as u64);
        if !was_inside && u128::from(nanos) > ANY.as_nanos() {
            let (since, earlier) = self.open.unwrap_or((now.saturating_sub(silent), 0));
            self.open = Some((since, earlier.saturating_add(nanos)));
        }
        if silent > 0 {
            self.work = Duration::ZERO;
        }
        let inside = match event.what {
            Content::EnterBegin { .. } | Content::WaitBegin { .. } => true,
            Content::EnterEnd { .. } | Content::WaitEnd { .. } => {
                self.inside = silent;
                self.is_read = true;
                false
            }
            _ => was_inside && self.is_loop,
        };
        self.is_read |= !self.is_loop;
        self.last = Some((now, inside));
    }

    /// The process goes on after a stop, if there was one.
    fn continued(&mut self, now: u64, silent: u64) {
        // A record may have come between the stop and this one.
        let open = self.open.take().map_or(0, |(_, nanos)| nanos);
        let is_near = |end: u64| u128::from(now.saturating_sub(end)) < LATE.as_nanos();
        let earlier = self.silence.take().filter(|&(end, _)| is_near(end));
        let here = (now, silent.max(self.inside).max(open));
        let (until, nanos) = earlier.into_iter().fold(here, |a, b| if b.1 > a.1 { b } else { a });
        if u128::from(nanos) >= SHORTEST_STOP.as_nanos() {
            self.all.stopped.add(until.saturating_sub(nanos), None, until);
        }
        (self.work, self.inside) = (Duration::ZERO, 0);
        self.last = self.last.map(|(_, inside)| (now, inside));
    }

    /// What is done with an event takes its time before the next.
    fn add_work(&mut self, event: &Event) {
        let bytes = match event.what {
            Content::Completed { .. } | Content::Implied { .. } | Content::CallEnd { .. } => {
                let moves = event.result_of(|op| op.receives() || op.sends());
                moves.and_then(Result::ok).unwrap_or(0)
            }
            Content::WaitEnd { .. } | Content::EnterEnd { .. } | Content::Ready { .. } => 0,
            _ => return,
        };
        self.work = self.work.saturating_add(EACH_EVENT + EACH_BYTE * bytes);
    }

    /// The thread had no CPU for so long, at most as long as what is open.
    fn delayed(&mut self, now: u64, nanos: u64) {
        let all = &mut self.all;
        all.delayed_ns = Some(all.delayed_ns.unwrap_or(0).saturating_add(nanos));
        if u128::from(nanos) >= LONG_DELAY.as_nanos() {
            all.delayed.add(now.saturating_sub(nanos), None, now);
        }
        self.open = self.open.map(|(since, open)| (since, open.saturating_sub(nanos)));
    }

    /// No delay is read any more of what is open.
    fn settle(&mut self) {
        self.is_read = false;
        let open = self.open.take().filter(|&(_, nanos)| u128::from(nanos) > ANY.as_nanos());
        if let (Some((since, nanos)), Some(all)) = (open, &mut self.all.unexplained) {
            all.add(since, None, since.saturating_add(nanos));
        }
    }

    /// The same, after records that are missing.
    fn after_gap(&mut self) -> PauseCounter {
        let all = std::mem::take(&mut self.all);
        PauseCounter { all, is_one: self.is_one, is_loop: self.is_loop, ..PauseCounter::default() }
    }

    pub(super) fn finish(mut self) -> Pauses {
        self.settle();
        self.all
    }
}
