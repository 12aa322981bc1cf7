//! Thread by thread, or child by child: what each did with its time, where many wrote into a trace.
//!
//! A lane may have many tenants, one after the other; a [`ThreadSpan`] is one tenant's time in it. From
//! its first record to its last it is in one of four states, which two phases of a receive name:
//! it **waits** for something to come, it **copies**, it makes another call, or it is between two
//! calls. A receive that may sleep is all waiting here: that it copies at its end, once it has
//! something to copy, cannot be told apart from user space.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use super::source::Cut;
use crate::event::Event;
use proactor_record::format::MAIN;
use proactor_record::{Header, Payload, Writers};

/// What a call does with the time of who makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It may sleep until something comes, or until another thread is done.
    Waiting,
    /// It moves bytes, and sleeps only if its peer takes none.
    Copying,
    /// It accepts, closes, and so on.
    Other,
}

impl Phase {
    /// Of the begin or the end of a call or a wait; `None` of what is none.
    pub fn of(event: &Event) -> Option<Phase> {
        match event.what {
            Payload::WaitBegin { .. } | Payload::WaitEnd { .. } => Some(Phase::Waiting),
            Payload::CallBegin { may_sleep, .. } | Payload::CallEnd { may_sleep, .. } => {
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

/// A thread's or a child's time in its lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadSpan {
    /// Its lane's name: `main`, `t3`, `p3`.
    pub lane: String,
    /// Its thread's number; `None` if it began before what is here.
    pub thread: Option<u32>,
    /// Its process's.
    pub process: Option<u32>,
    /// Its first moment: nanoseconds since recording began.
    pub from_ns: u64,
    /// Its last; of who was in a call, and of the main lane, that of the trace.
    pub until_ns: u64,
    /// Calls and waits that it began.
    pub calls: u64,
    /// How long it waited: in calls that may sleep.
    pub waiting_ns: u64,
    /// How long it was in calls that copy.
    pub copying_ns: u64,
    /// How long it was in other calls.
    pub other_ns: u64,
    /// How long it was in no call.
    pub between_ns: u64,
    #[serde(skip)]
    number: u16,
    /// The numbers of its first record and of its last.
    #[serde(skip)]
    ends: (u64, u64),
    #[serde(skip)]
    now: Now,
}

/// What a tenant is doing, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Now {
    /// Not known: it has just begun, or records are missing.
    #[default]
    Unknown,
    Between(u64),
    In(Phase, u64),
}

impl ThreadSpan {
    /// Which lane.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Whether this is the last that it did, and it was then in no call.
    pub(crate) fn ends_with(&self, event: &Event) -> bool {
        let is_over = !matches!(self.now, Now::In(..)) && self.number != MAIN;
        is_over && event.number == self.ends.1
    }

    /// How long it was in a call that does not wait, or in none.
    pub fn awake_ns(&self) -> u64 {
        self.copying_ns.saturating_add(self.other_ns).saturating_add(self.between_ns)
    }

    fn see(&mut self, event: &Event, from: u64) {
        let next = match (&event.what, Phase::of(event)) {
            (Payload::CallBegin { .. } | Payload::WaitBegin { .. }, Some(phase)) => {
                self.calls += 1;
                Now::In(phase, event.at)
            }
            (_, Some(_)) => Now::Between(event.at),
            (Payload::Lane { .. }, _) => Now::Between(event.at),
            _ => return,
        };
        self.spend(event.at, from);
        self.now = next;
    }

    /// Accounts for the time until now, from `from` on.
    fn spend(&mut self, until: u64, from: u64) {
        let (field, since) = match self.now {
            Now::Unknown => return,
            Now::Between(since) => (&mut self.between_ns, since),
            Now::In(Phase::Waiting, since) => (&mut self.waiting_ns, since),
            Now::In(Phase::Copying, since) => (&mut self.copying_ns, since),
            Now::In(Phase::Other, since) => (&mut self.other_ns, since),
        };
        *field = field.saturating_add(until.saturating_sub(since.max(from)));
    }
}

/// All who wrote into a trace, and what they did with their time together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lanes {
    /// `threads` or `processes`.
    pub kind: &'static str,
    /// How many there were.
    pub count: u64,
    /// How many at a time, at most.
    pub most: u64,
    /// How long they waited, all together: in calls that may sleep.
    pub waiting_ns: u64,
    /// How long they were in calls that copy.
    pub copying_ns: u64,
    /// How long they were in other calls.
    pub other_ns: u64,
    /// How long they were in no call.
    pub between_ns: u64,
    /// Each of them, in the order in which they began.
    #[serde(skip)]
    pub stints: Vec<ThreadSpan>,
    /// By lane, which of them it was one after the other.
    #[serde(skip)]
    tenants: HashMap<u16, Vec<usize>>,
}

impl Lanes {
    /// Which stint an event belongs to; `None` of what is nobody's.
    pub(crate) fn whose(&self, event: &Event) -> Option<usize> {
        let tenants = self.tenants.get(&event.lane?)?;
        let after = tenants.partition_point(|&one| self.stints[one].ends.0 <= event.number);
        tenants.get(after.saturating_sub(1)).copied()
    }

    /// The main one and those that made the most calls, no more than `most`, in the order of their
    /// lanes.
    pub(crate) fn busiest(&self, most: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.stints.len()).collect();
        all.sort_by_key(|&one| {
            let stint = &self.stints[one];
            (stint.number != MAIN, Reverse(stint.calls))
        });
        all.truncate(most);
        // The main lane's number is the greatest.
        all.sort_by_key(|&one| (self.stints[one].number.wrapping_add(1), one));
        all
    }

    /// How long they were there, all together.
    pub fn lived_ns(&self) -> u64 {
        let all = [self.waiting_ns, self.copying_ns, self.other_ns, self.between_ns];
        all.into_iter().fold(0, u64::saturating_add)
    }
}

/// Follows all lanes through the events of a trace.
#[derive(Debug)]
pub(super) struct Counter {
    lanes: Lanes,
    /// Nothing before it is counted.
    from: u64,
}

impl Counter {
    /// `None` if one owner wrote all of it.
    pub(super) fn new(header: &Header, cut: &Cut) -> Option<Counter> {
        let from = cut.since.map_or(0, |since| since.as_nanos() as u64);
        let lanes = Lanes { kind: header.writers.name(), ..Lanes::default() };
        (header.writers != Writers::One).then_some(Counter { lanes, from })
    }

    pub(super) fn see(&mut self, header: &Header, event: &Event, cut: &Cut) {
        if cut.until.is_some() && !cut.is_in_time(event.at.max(self.from)) {
            return;
        }
        if matches!(event.what, Payload::Lost(_)) {
            // Of those who were here before them nothing is awaited any more.
            for last in self.lanes.tenants.values().filter_map(|tenants| tenants.last()) {
                self.lanes.stints[*last].now = Now::Unknown;
            }
        }
        let Some(lane) = event.lane else { return };
        let tenants = self.lanes.tenants.entry(lane).or_default();
        let begins = matches!(event.what, Payload::Lane { .. });
        if begins || tenants.is_empty() {
            // Whoever was here has gone, and if it was in a call it was killed in it.
            if let Some(&last) = tenants.last() {
                self.lanes.stints[last].now = Now::Unknown;
            }
            tenants.push(self.lanes.stints.len());
            self.lanes.stints.push(begin(header, lane, event));
        }
        let stint = tenants.last().and_then(|&last| self.lanes.stints.get_mut(last));
        let stint = stint.expect("it has one by now");
        stint.ends.1 = event.number;
        stint.until_ns = event.at;
        let calls = stint.calls;
        stint.see(event, self.from);
        if event.at < self.from {
            stint.calls = calls;
        }
    }

    /// All of them, of a part that ends at `until`.
    pub(super) fn finish(self, until: u64) -> Lanes {
        let Counter { mut lanes, from } = self;
        for stint in &mut lanes.stints {
            if stint.number == MAIN || matches!(stint.now, Now::In(..)) {
                stint.spend(until, from);
                stint.until_ns = until;
            }
            lanes.waiting_ns = lanes.waiting_ns.saturating_add(stint.waiting_ns);
            lanes.copying_ns = lanes.copying_ns.saturating_add(stint.copying_ns);
            lanes.other_ns = lanes.other_ns.saturating_add(stint.other_ns);
            lanes.between_ns = lanes.between_ns.saturating_add(stint.between_ns);
        }
        let here = |stint: &&ThreadSpan| stint.until_ns >= from;
        lanes.count = lanes.stints.iter().filter(here).count() as u64;
        lanes.most = at_a_time(lanes.stints.iter().filter(here));
        lanes
    }
}

fn begin(header: &Header, lane: u16, event: &Event) -> ThreadSpan {
    let (thread, process) = match event.what {
        Payload::Lane { thread, process } => (Some(thread), Some(process)),
        _ => (None, None),
    };
    ThreadSpan {
        lane: header.lane_name(Some(lane)),
        thread,
        process,
        from_ns: event.at,
        until_ns: event.at,
        calls: 0,
        waiting_ns: 0,
        copying_ns: 0,
        other_ns: 0,
        between_ns: 0,
        number: lane,
        ends: (event.number, event.number),
        now: Now::Unknown,
    }
}

/// How many of them there were at a time, at most.
fn at_a_time<'a>(stints: impl Iterator<Item = &'a ThreadSpan>) -> u64 {
    let mut changes: Vec<(u64, i64)> = stints
        .flat_map(|stint| [(stint.from_ns, 1), (stint.until_ns.saturating_add(1), -1)])
        .collect();
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or(0)
}
