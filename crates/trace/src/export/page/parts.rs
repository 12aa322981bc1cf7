//! A recording in parts of equal length: how much happened in each. A page draws them where it does
//! not have the marks themselves.

use std::collections::{BTreeMap, HashMap};

use proactor::keys::ConnId;
use proactor_record::OpKind;
use serde::Serialize;
use serde_json::{Value, json};

use super::stretch::Span;
use crate::event::Event;

/// An iteration of the loop: an enter or a wait, and the handling after it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Iteration {
    pub(super) number: u32,
    pub(super) at: u64,
    /// The time in the enter or wait; `None` before its end.
    pub(super) inside: Option<u64>,
    /// The part of it that the thread slept, where the kernel's events say it.
    pub(super) asleep: u64,
    pub(super) outside: u64,
    /// The part of the latter that was spent in calls, as far as their time was recorded.
    pub(super) calls: u64,
    pub(super) taken: u32,
    pub(super) returned: u32,
    pub(super) in_flight: u32,
    pub(super) abnormal: u8,
}

/// The number of parts: a screen has hardly more columns of pixels.
const PARTS: usize = 1500;
/// The limit of parts of all rows together.
const CELLS: usize = 90_000;

/// What happened in each part, row by row.
#[derive(Debug, Serialize)]
pub(super) struct TimeParts {
    from: u64,
    /// The length of a part.
    step: u64,
    #[serde(skip)]
    count: usize,
    /// Messages of all connections.
    messages: Vec<u32>,
    /// Abnormal events of the whole recording.
    abnormal: Vec<u32>,
    #[serde(rename = "loop")]
    of_loop: LoopParts,
    /// The connections that have a row, in their order.
    conns: Vec<ConnParts>,
    /// All other connections together, if there are any.
    others: Option<ConnParts>,
    /// The threads that have a row, in their order.
    threads: Vec<ThreadParts>,
    #[serde(skip)]
    rows: HashMap<ConnId, usize>,
}

/// The iterations of the loop.
#[derive(Debug, Default, Serialize)]
struct LoopParts {
    iterations: Vec<u32>,
    /// Nanoseconds in enters or waits, asleep in them, in calls, and in neither.
    inside: Vec<u64>,
    asleep: Vec<u64>,
    calls: Vec<u64>,
    own: Vec<u64>,
    /// The largest numbers of an iteration.
    returned: Vec<u32>,
    in_flight: Vec<u32>,
}

/// Events of a connection, or of several.
#[derive(Debug, Default, Serialize)]
struct ConnParts {
    received: Vec<u32>,
    sent: Vec<u32>,
    /// All other events, where there is no message.
    other: Vec<u32>,
    /// By part; most have none.
    abnormal: BTreeMap<usize, u32>,
}

/// Nanoseconds of a thread in each kind of call.
#[derive(Debug, Default, Serialize)]
struct ThreadParts {
    times: [Vec<u64>; 3],
}

impl TimeParts {
    /// Of the time between two moments, with rows for these connections and so many threads,
    /// and if there are `others` for them.
    pub(super) fn new(
        (from, until): Span,
        conns: &[ConnId],
        others: bool,
        threads: usize,
    ) -> TimeParts {
        let count = (CELLS / (conns.len() + threads + 1)).clamp(100, PARTS);
        let conn = || ConnParts {
            received: vec![0; count],
            sent: vec![0; count],
            other: vec![0; count],
            abnormal: BTreeMap::new(),
        };
        TimeParts {
            from,
            step: (until - from) / count as u64 + 1,
            count,
            messages: vec![0; count],
            abnormal: vec![0; count],
            of_loop: LoopParts {
                iterations: vec![0; count],
                inside: vec![0; count],
                asleep: vec![0; count],
                calls: vec![0; count],
                own: vec![0; count],
                returned: vec![0; count],
                in_flight: vec![0; count],
            },
            conns: conns.iter().map(|_| conn()).collect(),
            others: others.then(conn),
            threads: (0..threads)
                .map(|_| ThreadParts { times: [(); 3].map(|()| vec![0; count]) })
                .collect(),
            rows: conns.iter().copied().zip(0..).collect(),
        }
    }

    /// The length of a part, in nanoseconds.
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The parts for the script; without those of what is drawn mark by mark.
    pub(super) fn json(&self, is_drawn: bool) -> Value {
        let mut all = json!(self);
        if let (true, Value::Object(fields)) = (is_drawn, &mut all) {
            fields.retain(|name, _| !["loop", "conns", "threads"].contains(&name.as_str()));
        }
        all
    }

    fn part(&self, at: u64) -> usize {
        ((at.saturating_sub(self.from) / self.step) as usize).min(self.count - 1)
    }

    /// Counts an event, on the row of its connection too.
    pub(super) fn event(&mut self, event: &Event) {
        let (part, is_abnormal) = (self.part(event.at), u32::from(event.is_abnormal()));
        let is_message = event.is_message();
        self.messages[part] += u32::from(is_message);
        self.abnormal[part] += is_abnormal;
        let Some(conn) = event.conn else { return };
        let row = match self.rows.get(&conn) {
            Some(&row) => Some(&mut self.conns[row]),
            None => self.others.as_mut(),
        };
        let Some(row) = row else { return };
        if is_abnormal > 0 {
            *row.abnormal.entry(part).or_default() += 1;
        }
        let what = match event.result_of(OpKind::sends) {
            Some(Ok(_)) => &mut row.sent,
            _ if is_message => &mut row.received,
            _ => &mut row.other,
        };
        what[part] += 1;
    }

    /// Counts an iteration, and adds up its times.
    pub(super) fn iteration(&mut self, one: &Iteration) {
        let back = one.at + one.inside.unwrap_or(0);
        let part = self.part(back);
        let all = &mut self.of_loop;
        all.iterations[part] += 1;
        all.returned[part] = all.returned[part].max(one.returned);
        all.in_flight[part] = all.in_flight[part].max(one.in_flight);
        let (from, step) = (self.from, self.step);
        spread(&mut all.inside, from, step, (one.at, back), 1.0);
        let asleep = one.asleep as f64 / one.inside.unwrap_or(0).max(1) as f64;
        spread(&mut all.asleep, from, step, (one.at, back), asleep);
        let outside = (back, back + one.outside);
        // When the calls were is not known here: they are all over the handling.
        let calls = one.calls as f64 / one.outside.max(1) as f64;
        spread(&mut all.calls, from, step, outside, calls);
        spread(&mut all.own, from, step, outside, 1.0 - calls);
    }

    /// Leaves out the events that go with messages: a message says that something happened.
    pub(super) fn finish(&mut self) {
        for row in self.conns.iter_mut().chain(&mut self.others) {
            let messages = row.received.iter().zip(&row.sent);
            let other = row.other.iter_mut().zip(messages);
            other.filter(|&(_, (&a, &b))| a + b > 0).for_each(|(other, _)| *other = 0);
        }
    }

    /// Adds up the time of a thread's call.
    pub(super) fn call(&mut self, row: usize, phase: u64, span: Span) {
        let times = self.threads[row].times.get_mut(phase as usize);
        times.into_iter().for_each(|times| spread(times, self.from, self.step, span, 1.0));
    }
}

/// Adds a share of the time between two moments to the parts that it is in.
fn spread(to: &mut [u64], from: u64, step: u64, (begin, end): Span, share: f64) {
    let mut at = begin.max(from);
    let until = end.min(from.saturating_add(step.saturating_mul(to.len() as u64)));
    while at < until {
        let part = (at - from) / step;
        let next = until.min(from.saturating_add((part + 1).saturating_mul(step)));
        to[part as usize] += ((next - at) as f64 * share).round() as u64;
        at = next;
    }
}
