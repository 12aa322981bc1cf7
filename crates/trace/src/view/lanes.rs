//! Thread by thread, or child by child: what each did with its time, where many wrote into a trace.
//!
//! Many threads or children may use a lane, one after the other; a [`ThreadSpan`] is the time of
//! one. From its first record to its last it is in one of four states, of which two are the phases
//! of a receive: it **waits** for something to come, it **copies**, it makes another call, or it is
//! between two calls. A receive that may sleep is all waiting here: that it copies at its end, once
//! it has something to copy, cannot be distinguished from user space.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use super::source::Cut;
use crate::event::Event;
use proactor_record::format::MAIN;
use proactor_record::{Content, Header, Writers};

/// What a call does with the time of its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It may sleep until something comes, or until another thread is done.
    Waiting,
    /// It moves bytes, and sleeps only if its peer takes none.
    Copying,
    /// It accepts, closes, and so on.
    Other,
    /// There is no call: it is between two.
    Between,
}

impl Phase {
    /// Of the begin or the end of a call or a wait; `None` of what is none.
    pub fn of(event: &Event) -> Option<Phase> {
        match event.what {
            Content::WaitBegin { .. } | Content::WaitEnd { .. } => Some(Phase::Waiting),
            Content::CallBegin { may_sleep, .. } | Content::CallEnd { may_sleep, .. } => {
                Some(match event.op {
                    Some(op) if op.sends() => Phase::Copying,
                    _ if may_sleep => Phase::Waiting,
                    Some(op) if op.receives() => Phase::Copying,
                    _ => Phase::Other,
                })
            }
            _ => None,
        }
    }
}

/// Time in calls and between them, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TimeSpent {
    /// Time in calls that may sleep.
    pub waiting_ns: u64,
    /// Time in calls that copy.
    pub copying_ns: u64,
    /// Time in other calls.
    pub other_ns: u64,
    /// Time in no call.
    pub between_ns: u64,
}

impl TimeSpent {
    /// The time in a call that does not wait, or in none.
    pub fn awake_ns(&self) -> u64 {
        self.copying_ns.saturating_add(self.other_ns).saturating_add(self.between_ns)
    }

    fn add(&mut self, phase: Phase, nanos: u64) {
        let sum = match phase {
            Phase::Waiting => &mut self.waiting_ns,
            Phase::Copying => &mut self.copying_ns,
            Phase::Other => &mut self.other_ns,
            Phase::Between => &mut self.between_ns,
        };
        *sum = sum.saturating_add(nanos);
    }
}

/// A thread or a child, from its first record in its lane to its last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ThreadSpan {
    /// Its lane's name: `main`, `t3`, `p3`.
    pub lane: String,
    /// Its thread's number; `None` if it began before what is here.
    pub thread: Option<u32>,
    /// The number of its process.
    pub process: Option<u32>,
    /// Its first moment: nanoseconds since recording began.
    pub from_ns: u64,
    /// Its last moment; in a call, and of the main lane, that of the trace.
    pub until_ns: u64,
    /// Calls and waits that it began.
    pub calls: u64,
    /// What it did with its time.
    #[serde(flatten)]
    pub spent: TimeSpent,
    /// The number of its lane.
    #[serde(skip)]
    pub number: u16,
    /// The numbers of its first record and of its last.
    #[serde(skip)]
    ends: (u64, u64),
    /// What it is doing, and since when. `None` if it has just begun, or records are missing.
    #[serde(skip)]
    now: Option<(Phase, u64)>,
}

impl ThreadSpan {
    fn new(header: &Header, lane: u16, event: &Event) -> ThreadSpan {
        let (thread, process) = match event.what {
            Content::Lane { thread, process } => (Some(thread), Some(process)),
            _ => (None, None),
        };
        ThreadSpan {
            lane: header.lane_name(Some(lane)),
            thread,
            process,
            from_ns: event.at,
            number: lane,
            ends: (event.number, event.number),
            ..ThreadSpan::default()
        }
    }

    /// Whether it is in a call.
    fn is_calling(&self) -> bool {
        self.now.is_some_and(|(phase, _)| phase != Phase::Between)
    }

    /// Whether this is the last that it did, and it was then in no call.
    pub(crate) fn ends_with(&self, event: &Event) -> bool {
        !self.is_calling() && self.number != MAIN && event.number == self.ends.1
    }

    /// Takes in an event of its own; nothing before `from` is counted.
    fn see(&mut self, event: &Event, from: u64, all: &mut TimeSpent) {
        (self.ends.1, self.until_ns) = (event.number, event.at);
        let next = match (event.what, Phase::of(event)) {
            (Content::CallBegin { .. } | Content::WaitBegin { .. }, Some(phase)) => {
                self.calls += u64::from(event.at >= from);
                phase
            }
            (_, Some(_)) | (Content::Lane { .. }, _) => Phase::Between,
            _ => return,
        };
        self.spend(event.at, from, all);
        self.now = Some((next, event.at));
    }

    /// Accounts for the time until now, from `from` on.
    fn spend(&mut self, until: u64, from: u64, all: &mut TimeSpent) {
        if let Some((phase, since)) = self.now {
            let nanos = until.saturating_sub(since.max(from));
            self.spent.add(phase, nanos);
            all.add(phase, nanos);
        }
    }
}

/// All threads or children of a trace, and what they did with their time together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lanes {
    /// Either `threads` or `processes`.
    pub kind: &'static str,
    /// How many there were.
    pub count: u64,
    /// How many at a time, at most.
    pub most: u64,
    /// What they did with their time, all together.
    #[serde(flatten)]
    pub spent: TimeSpent,
    /// Each of them, in the order in which they began.
    #[serde(skip)]
    pub spans: Vec<ThreadSpan>,
    /// The spans of each lane, one after the other.
    #[serde(skip)]
    of_lanes: HashMap<u16, Vec<usize>>,
    /// Nothing before it is counted.
    #[serde(skip)]
    from: u64,
}

impl Lanes {
    /// None yet, of a part of a trace; `None` if one owner wrote all of it.
    pub(super) fn new(header: &Header, cut: &Cut) -> Option<Lanes> {
        let from = cut.since.map_or(0, |since| since.as_nanos() as u64);
        let lanes = Lanes { kind: header.writers.name(), from, ..Lanes::default() };
        (header.writers != Writers::One).then_some(lanes)
    }

    /// Takes in an event of the trace.
    pub(super) fn see(&mut self, header: &Header, event: &Event, cut: &Cut) {
        if cut.until.is_some() && !cut.is_in_time(event.at.max(self.from)) {
            return;
        }
        let Lanes { spans, of_lanes, spent, .. } = self;
        if matches!(event.what, Content::Lost(_)) {
            // The ends of the calls that they were in may be among the missing records.
            for last in of_lanes.values().filter_map(|of_lane| of_lane.last()) {
                spans[*last].now = None;
            }
        }
        let Some(lane) = event.lane else { return };
        let of_lane = of_lanes.entry(lane).or_default();
        if matches!(event.what, Content::Lane { .. }) || of_lane.is_empty() {
            // The thread or child before it has gone; if it was in a call, it was killed in it.
            if let Some(&last) = of_lane.last() {
                spans[last].now = None;
            }
            of_lane.push(spans.len());
            spans.push(ThreadSpan::new(header, lane, event));
        }
        let last = of_lane.last().expect("it has one by now");
        spans[*last].see(event, self.from, spent);
    }

    /// Returns all of them, of a part that ends at `until`.
    pub(super) fn finish(mut self, until: u64) -> Lanes {
        for span in &mut self.spans {
            if span.number == MAIN || span.is_calling() {
                span.spend(until, self.from, &mut self.spent);
                span.until_ns = until;
            }
        }
        let here = |span: &&ThreadSpan| span.until_ns >= self.from;
        self.count = self.spans.iter().filter(here).count() as u64;
        self.most = at_a_time(self.spans.iter().filter(here));
        self
    }

    /// The index of the span that an event belongs to; `None` if it belongs to no lane.
    pub(crate) fn span_of(&self, event: &Event) -> Option<usize> {
        let spans = self.of_lanes.get(&event.lane?)?;
        let after = spans.partition_point(|&one| self.spans[one].ends.0 <= event.number);
        spans.get(after.saturating_sub(1)).copied()
    }

    /// The main one and those that made the most calls, no more than `most`, in the order of their
    /// lanes.
    pub(crate) fn busiest(&self, most: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.spans.len()).collect();
        let number = |one: usize| self.spans[one].number;
        all.sort_by_key(|&one| (number(one) != MAIN, Reverse(self.spans[one].calls)));
        all.truncate(most);
        // The main lane's number is the greatest.
        all.sort_by_key(|&one| (number(one).wrapping_add(1), one));
        all
    }
}

/// How many of them there were at a time, at most.
fn at_a_time<'a>(spans: impl Iterator<Item = &'a ThreadSpan>) -> u64 {
    let mut changes: Vec<(u64, i64)> =
        spans.flat_map(|span| [(span.from_ns, 1), (span.until_ns.saturating_add(1), -1)]).collect();
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or(0)
}
