//! Where the time of a completion goes: arrival → posted → reaped → handled. The first two the
//! kernel told, the others the loop recorded; what joins them is that completions are reaped in the
//! order in which they were posted.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Beside, Lack, Point, Tale};
use crate::format::What;
use crate::reader::Trace;
use proactor_report::{Align, Latencies, NOTHING, Table, units};

/// How long each of the stages took, over a whole trace.
#[derive(Debug, Clone, Default)]
pub struct Delays {
    /// From when what an operation waited for was there, to its completion's being posted. Only of
    /// those that waited.
    pub posting: Latencies,
    /// From there to the reaping; with a clock per batch, to the end of the enter before it.
    pub reaping: Latencies,
    /// From there to the next enter, in which the answers go out: what the loop itself takes.
    pub handling: Latencies,
    /// Completions that were posted outside a full queue; `None` if the kernel does not tell.
    pub overflowed: Option<u64>,
    /// Operations that were handed to a thread of the kernel; `None` likewise.
    pub punted: Option<u64>,
    /// Completions that only one of the two tells of: where something is lost.
    pub unmatched: u64,
    /// What is lost of the kernel's side.
    pub lost: u64,
    /// What the kernel does not tell at all.
    pub lacks: Vec<Lack>,
}

/// A completion as it was posted.
struct Posted {
    time: u64,
    res: i32,
    flags: u32,
}

impl Delays {
    /// Joins a recording with what the kernel told of it.
    pub fn of(trace: &Trace, beside: &Beside) -> Delays {
        let told = |point| (!beside.lacks.contains(&Lack::Point(point))).then_some(0);
        let mut delays = Delays {
            overflowed: told(Point::Overflow),
            punted: told(Point::Punt),
            lost: beside.lost,
            lacks: beside.lacks.clone(),
            ..Delays::default()
        };
        let since = |from: u64, to: u64| {
            let nanos = |tick| trace.header.nanos(tick);
            Duration::from_nanos(nanos(to).saturating_sub(nanos(from)))
        };
        let mut posted = delays.post(beside, since);
        // Reaped, and not yet known when handled.
        let mut reaped = Vec::new();
        for record in &trace.records {
            match What::from_number(record.what) {
                Some(What::Cqe) => {
                    reaped.push(record.time);
                    let queue = posted.get_mut(&record.id);
                    match queue.and_then(|queue| take(queue, record.res, record.flags)) {
                        Some(posted) => delays.reaping.record(since(posted, record.time)),
                        None => delays.unmatched += 1,
                    }
                }
                Some(What::EnterBegin) => {
                    reaped.drain(..).for_each(|at| delays.handling.record(since(at, record.time)));
                }
                Some(What::Lost) => reaped.clear(),
                _ => {}
            }
        }
        delays
    }

    /// The kernel's side: what was posted, by user data.
    fn post(
        &mut self,
        beside: &Beside,
        since: impl Fn(u64, u64) -> Duration,
    ) -> HashMap<u64, VecDeque<Posted>> {
        let mut posted: HashMap<u64, VecDeque<Posted>> = HashMap::new();
        let mut arrived = HashMap::new();
        for told in &beside.told {
            let (res, flags) = match told.what {
                Tale::Completed { res, flags } => (res, flags),
                Tale::Overflowed { res, flags } => {
                    self.overflowed = self.overflowed.map(|n| n + 1);
                    (res, flags)
                }
                Tale::Arrived => {
                    arrived.entry(told.user_data).or_insert(told.time);
                    continue;
                }
                Tale::Punted => {
                    self.punted = self.punted.map(|n| n + 1);
                    continue;
                }
                _ => continue,
            };
            if let Some(at) = arrived.remove(&told.user_data) {
                self.posting.record(since(at, told.time));
            }
            let queue = posted.entry(told.user_data).or_default();
            queue.push_back(Posted { time: told.time, res, flags });
        }
        posted
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "schema": "proactor.delays/1",
            "arrival_to_posted": self.posting.percentiles(),
            "posted_to_reaped": self.reaping.percentiles(),
            "reaped_to_enter": self.handling.percentiles(),
            "overflowed": self.overflowed,
            "punted": self.punted,
            "unmatched": self.unmatched,
            "lost": self.lost,
            "not_told": self.lacks.iter().map(|lack| lack.name()).collect::<Vec<_>>(),
        })
    }
}

/// When that completion was posted: the first that is the same. Those before it are not in the
/// recording.
fn take(queue: &mut VecDeque<Posted>, res: i32, flags: u32) -> Option<u64> {
    let at = queue.iter().position(|one| (one.res, one.flags) == (res, flags))?;
    queue.drain(..=at).next_back().map(|posted| posted.time)
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = vec![("", Align::Left), ("n", Align::Right)];
        let none = Latencies::new().percentiles();
        columns.extend(none.cells().map(|(name, _)| (name, Align::Right)));
        let mut table = Table::new(&columns);
        for (name, all) in [
            ("arrival → posted", &self.posting),
            ("posted → reaped", &self.reaping),
            ("reaped → next enter", &self.handling),
        ] {
            let cells = all.percentiles().cells().map(|(_, cell)| cell);
            table.row([name.to_owned(), units::count(all.len())].into_iter().chain(cells));
        }
        let [unmatched, lost] = [self.unmatched, self.lost].map(units::count);
        let [overflowed, punted] = [self.overflowed, self.punted]
            .map(|count| count.map_or(NOTHING.to_owned(), units::count));
        write!(
            f,
            "{table}\nposted outside a full queue {overflowed}, handed to threads of the kernel \
             {punted}, not matched {unmatched}, lost by the kernel {lost}"
        )?;
        self.lacks.iter().try_for_each(|lack| write!(f, "\n{lack}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Clock, Record};
    use crate::kernel::Told;
    use crate::preface::{About, Settings};
    use crate::recorder::Recorder;

    fn told(time: u64, user_data: u64, what: Tale) -> Told {
        Told { time, thread: 1, ring: 0, request: 0, user_data, opcode: None, what }
    }

    #[test]
    fn the_stages_of_a_completion_are_told_apart() {
        let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
        let mut log = Recorder::in_memory(&settings, &About::default()).expect("memory");
        let cqe = |id, res| Record { what: What::Cqe as u8, id, res, ..Record::default() };
        log.write_at(5000, cqe(7, 64));
        log.write_at(5000, cqe(7, 32));
        log.write_at(5000, cqe(9, 1));
        log.write_at(9000, Record { what: What::EnterBegin as u8, ..Record::default() });
        let trace = Trace::from_bytes(log.bytes()).expect("a trace");
        let done = |res| Tale::Completed { res, flags: 0 };
        let told = vec![
            told(500, 7, done(1)), // Before the recording began.
            told(1000, 7, Tale::Arrived),
            told(1500, 7, Tale::Arrived),
            told(3000, 7, done(64)),
            told(4000, 7, Tale::Overflowed { res: 32, flags: 0 }),
            told(4000, 3, Tale::Punted),
        ];
        let mut beside = Beside { told, lost: 2, lacks: Vec::new() };
        let delays = Delays::of(&trace, &beside);
        assert_eq!(delays.posting.max(), Some(Duration::from_nanos(2000)));
        assert_eq!((delays.posting.len(), delays.reaping.len(), delays.handling.len()), (1, 2, 3));
        assert_eq!(delays.reaping.max(), Some(Duration::from_nanos(2000)));
        assert!(delays.handling.max() >= Some(Duration::from_nanos(4000)));
        let counts = (delays.overflowed, delays.punted, delays.unmatched, delays.lost);
        assert_eq!(counts, (Some(1), Some(1), 1, 2));
        assert!(delays.to_string().ends_with("not matched 1, lost by the kernel 2"));
        // What is not told is not none.
        beside.lacks = vec![Lack::Point(Point::Overflow)];
        let delays = Delays::of(&trace, &beside);
        assert_eq!((delays.overflowed, delays.punted), (None, Some(1)));
        let (text, json) = (delays.to_string(), delays.json());
        assert!(
            text.contains("full queue –") && text.contains("no io_uring_cqe_overflow"),
            "{text}"
        );
        assert!(json["overflowed"].is_null() && json["not_told"][0] == "io_uring_cqe_overflow");
    }
}
