//! The stages of a completion: arrival → posted → reaped → next enter. The kernel's events have
//! the first two times, the recording has the others. Completions are reaped in the order in which
//! they were posted, so the two can be matched.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::{KernelEvent, KernelEventKind, Missing, Sidecar, Tracepoint};
use proactor_record::{RecordKind, Trace};
use proactor_report::{Align, Latencies, NOTHING, Table, units};

/// The durations of the stages over a whole recording.
#[derive(Debug, Clone, Default)]
pub struct Delays {
    /// From the arrival of what an operation waited for to its completion being posted. Operations
    /// that did not wait are not included.
    pub posting: Latencies,
    /// From there to the reaping; with a clock per batch, to the end of the enter before it.
    pub reaping: Latencies,
    /// From there to the next enter, which submits the replies: the loop's own share.
    pub handling: Latencies,
    /// Completions that were posted outside a full queue; `None` if the kernel does not trace them.
    pub overflowed: Option<u64>,
    /// Operations that were handed to a kernel worker thread; `None` as above.
    pub punted: Option<u64>,
    /// Reaped completions without a posting in the kernel's events.
    pub unmatched: u64,
    /// Events that the kernel lost.
    pub lost: u64,
    /// Tracepoints and fields that the kernel does not have.
    pub missing: Vec<Missing>,
}

/// A posted completion that has not been matched.
struct Posted {
    time: u64,
    res: i32,
    flags: u32,
}

impl Delays {
    /// Matches a recording with the kernel's events.
    pub fn of(trace: &Trace, sidecar: &Sidecar) -> Delays {
        let zero = |point| (!sidecar.missing.contains(&Missing::Tracepoint(point))).then_some(0);
        let mut delays = Delays {
            overflowed: zero(Tracepoint::CqeOverflow),
            punted: zero(Tracepoint::QueueAsyncWork),
            lost: sidecar.lost,
            missing: sidecar.missing.clone(),
            ..Delays::default()
        };
        let since = |from: u64, to: u64| {
            let nanos = |tick| trace.header.nanos(tick);
            Duration::from_nanos(nanos(to).saturating_sub(nanos(from)))
        };
        let mut posted = delays.post(sidecar, since);
        // Reaped since the last enter.
        let mut reaped = Vec::new();
        for record in &trace.records {
            match RecordKind::from_number(record.kind) {
                Some(RecordKind::Cqe) => {
                    reaped.push(record.time);
                    let queue = posted.get_mut(&record.id);
                    match queue.and_then(|queue| take(queue, record.res, record.flags)) {
                        Some(posted) => delays.reaping.record(since(posted, record.time)),
                        None => delays.unmatched += 1,
                    }
                }
                Some(RecordKind::EnterBegin) => {
                    reaped.drain(..).for_each(|at| delays.handling.record(since(at, record.time)));
                }
                Some(RecordKind::Lost) => reaped.clear(),
                _ => {}
            }
        }
        delays
    }

    /// Counts the kernel's events; returns the posted completions by user data.
    fn post(
        &mut self,
        sidecar: &Sidecar,
        since: impl Fn(u64, u64) -> Duration,
    ) -> HashMap<u64, VecDeque<Posted>> {
        let mut posted: HashMap<u64, VecDeque<Posted>> = HashMap::new();
        let mut arrived = HashMap::new();
        for event in &sidecar.events {
            let &KernelEvent { time, user_data, kind, .. } = event;
            match kind {
                KernelEventKind::Overflowed { .. } => {
                    self.overflowed = self.overflowed.map(|n| n + 1);
                }
                KernelEventKind::Arrived => _ = arrived.entry(user_data).or_insert(time),
                KernelEventKind::Punted => self.punted = self.punted.map(|n| n + 1),
                _ => {}
            }
            let Some((res, flags)) = kind.completion() else { continue };
            if let Some(at) = arrived.remove(&user_data) {
                self.posting.record(since(at, time));
            }
            posted.entry(user_data).or_default().push_back(Posted { time, res, flags });
        }
        posted
    }

    /// The delays as one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "schema": "proactor.trace.delays/2",
            "arrival_to_posted": self.posting.percentiles(),
            "posted_to_reaped": self.reaping.percentiles(),
            "reaped_to_enter": self.handling.percentiles(),
            "overflowed": self.overflowed,
            "punted": self.punted,
            "unmatched": self.unmatched,
            "lost": self.lost,
            "missing": self.missing.iter().map(|missing| missing.name()).collect::<Vec<_>>(),
        })
    }
}

/// Returns when a completion was posted: the first equal entry of the queue. The entries before it
/// are not in the recording, and are removed.
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
            "{table}\nposted outside a full queue {overflowed}, handed to worker threads (io-wq) \
             {punted}, not matched {unmatched}, lost by the kernel {lost}"
        )?;
        self.missing.iter().try_for_each(|missing| write!(f, "\n{missing}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proactor_record::Recorder;
    use proactor_record::{About, Settings};
    use proactor_record::{Clock, Record, WaitMode};

    fn event(time: u64, user_data: u64, kind: KernelEventKind) -> KernelEvent {
        KernelEvent { time, thread: 1, ring: 0, request: 0, user_data, opcode: None, kind }
    }

    #[test]
    fn the_stages_of_a_completion_are_measured() {
        let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
        let mut log = Recorder::new(None, &settings, &About::default()).expect("memory");
        let cqe = |id, res| Record::completed(id, res, 0, 0);
        log.write_at(5000, cqe(7, 64));
        log.write_at(5000, cqe(7, 32));
        log.write_at(5000, cqe(9, 1));
        log.write_at(9000, Record::enter_begin(0, 0, WaitMode::None));
        let trace = Trace::from_bytes(log.bytes()).expect("a trace");
        let done = |res| KernelEventKind::Completed { res, flags: 0 };
        let events = vec![
            event(500, 7, done(1)), // Before the recording started.
            event(1000, 7, KernelEventKind::Arrived),
            event(1500, 7, KernelEventKind::Arrived),
            event(3000, 7, done(64)),
            event(4000, 7, KernelEventKind::Overflowed { res: 32, flags: 0 }),
            event(4000, 3, KernelEventKind::Punted),
        ];
        let mut sidecar = Sidecar { events, lost: 2, missing: Vec::new() };
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!(delays.posting.max(), Some(Duration::from_nanos(2000)));
        assert_eq!((delays.posting.len(), delays.reaping.len(), delays.handling.len()), (1, 2, 3));
        assert_eq!(delays.reaping.max(), Some(Duration::from_nanos(2000)));
        assert!(delays.handling.max() >= Some(Duration::from_nanos(4000)));
        let counts = (delays.overflowed, delays.punted, delays.unmatched, delays.lost);
        assert_eq!(counts, (Some(1), Some(1), 1, 2));
        assert!(delays.to_string().ends_with("not matched 1, lost by the kernel 2"));
        // An unknown count is not shown as zero.
        sidecar.missing = vec![Missing::Tracepoint(Tracepoint::CqeOverflow)];
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!((delays.overflowed, delays.punted), (None, Some(1)));
        let (text, json) = (delays.to_string(), delays.json());
        assert!(
            text.contains("full queue –") && text.contains("no io_uring_cqe_overflow"),
            "{text}"
        );
        assert!(json["overflowed"].is_null() && json["missing"][0] == "io_uring_cqe_overflow");
    }
}
