//! The stages of a completion: arrival → posted → reaped → next enter. The kernel's events have
//! the first two times, the recording has the others. Completions are reaped in the order in which
//! they were posted, so the two can be matched.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use minijinja::{Value, context};
use serde::Serialize;

use super::{KernelEvent, Missing, Sidecar, Tracepoint};
use proactor_record::{RecordKind, Trace};
use proactor_report::{Latencies, template};

/// The durations of the stages over a whole recording.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.delays/2")]
pub struct Delays {
    /// From the arrival of what an operation waited for to its completion being posted. Operations
    /// that did not wait are not included.
    #[serde(rename = "arrival_to_posted")]
    pub posting: Latencies,
    /// From there to the reaping; with a clock per batch, to the end of the enter before it.
    #[serde(rename = "posted_to_reaped")]
    pub reaping: Latencies,
    /// From there to the next enter, which submits the replies: the loop's own share.
    #[serde(rename = "reaped_to_enter")]
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

/// The posted completions that are not matched, by user data, each with its result and flags and
/// the time.
type Posted = HashMap<u64, VecDeque<((i32, u32), u64)>>;

impl Delays {
    /// Matches a recording with the kernel's events.
    pub fn of(trace: &Trace, sidecar: &Sidecar) -> Delays {
        let count = |point| {
            let events = sidecar.events.iter().filter(|event| event.tracepoint == point);
            (!sidecar.missing.contains(&Missing::Tracepoint(point))).then(|| events.count() as u64)
        };
        let mut delays = Delays {
            overflowed: count(Tracepoint::CqeOverflow),
            punted: count(Tracepoint::QueueAsyncWork),
            lost: sidecar.lost,
            missing: sidecar.missing.clone(),
            ..Delays::default()
        };
        let mut posted = delays.post(&sidecar.events);
        let is_whole = trace.lost() == 0 && sidecar.lost == 0;
        if let Some(first) = trace.records.first().filter(|_| trace.lost() > 0) {
            forget(&mut posted, trace.header.nanos(first.time));
        }
        // Reaped since the last enter.
        let mut reaped = Vec::new();
        for record in &trace.records {
            let time = trace.header.nanos(record.time);
            match record.kind() {
                Some(RecordKind::Cqe) => {
                    reaped.push(time);
                    // With one clock reading for a batch, it may have been posted later than that.
                    let latest = if is_whole { u64::MAX } else { time };
                    let queue = posted.get_mut(&record.id);
                    match queue.and_then(|queue| take(queue, (record.res, record.flags), latest)) {
                        Some(posted) => delays.reaping.record(since(posted, time)),
                        None => delays.unmatched += 1,
                    }
                }
                Some(RecordKind::EnterBegin) => {
                    reaped.drain(..).for_each(|at| delays.handling.record(since(at, time)));
                }
                Some(RecordKind::Lost) => {
                    reaped.clear();
                    forget(&mut posted, time);
                }
                _ => {}
            }
        }
        delays
    }

    /// Measures the delays of the kernel's events; returns the posted completions.
    fn post(&mut self, events: &[KernelEvent]) -> Posted {
        let (mut posted, mut arrived) = (Posted::new(), HashMap::new());
        for event in events {
            let &KernelEvent { time, user_data, .. } = event;
            if event.tracepoint == Tracepoint::TaskAdd {
                arrived.entry(user_data).or_insert(time);
            }
            let Some(completion) = event.completion() else { continue };
            if let Some(at) = arrived.remove(&user_data) {
                self.posting.record(since(at, time));
            }
            posted.entry(user_data).or_default().push_back((completion, time));
        }
        posted
    }
}

fn since(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

/// Forgets what was posted before this time: its reaping is not in the recording, so that it would
/// be matched with a later completion of the same operation.
fn forget(posted: &mut Posted, before: u64) {
    posted.values_mut().for_each(|queue| queue.retain(|(_, time)| *time >= before));
}

/// Returns when a completion was posted: the first equal entry of the queue, if it is not later
/// than `latest`. The entries before it are not in the recording, and are removed.
fn take(
    queue: &mut VecDeque<((i32, u32), u64)>,
    completion: (i32, u32),
    latest: u64,
) -> Option<u64> {
    let at = queue.iter().position(|(one, _)| *one == completion)?;
    if queue[at].1 > latest {
        return None;
    }
    queue.drain(..=at).next_back().map(|(_, time)| time)
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notes: Vec<String> = self.missing.iter().map(Missing::to_string).collect();
        let values = context! { notes, ..Value::from_serialize(self) };
        f.write_str(template::fill(include_str!("delays.txt"), values).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proactor_record::Recorder;
    use proactor_record::{About, Settings};
    use proactor_record::{Clock, Record, WaitMode};

    fn event(time: u64, user_data: u64, tracepoint: Tracepoint, res: u64) -> KernelEvent {
        let own = [res, 0, 0, 0];
        let (thread, ring, request, opcode) = (1, 0, 0, None);
        KernelEvent { time, thread, ring, request, user_data, opcode, tracepoint, own }
    }

    #[test]
    fn completions_on_both_sides_of_a_loss_are_not_matched() {
        let settings = Settings { bytes: 0, clock: Some(Clock::Nanos), ..Settings::default() };
        let mut log = Recorder::new(None, &settings, &About::default()).expect("memory");
        let cqe = || Record::completed(7, 64, 0, 0);
        log.write_at(1000, cqe());
        log.write_at(9000, Record::lost(5));
        log.write_at(9500, cqe());
        let trace = Trace::from_bytes(log.bytes()).expect("a trace");
        let post = |time| event(time, 7, Tracepoint::Complete, 64);
        // The second and third were reaped in the gap.
        let events = [900, 2000, 3000, 9400].map(post).to_vec();
        let sidecar = Sidecar { events, lost: 0, missing: Vec::new() };
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!(delays.reaping.max(), Some(Duration::from_nanos(100)), "{delays}");
        // The kernel lost the event of the first.
        let events = [1500, 9400].map(post).to_vec();
        let sidecar = Sidecar { events, lost: 1, missing: Vec::new() };
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!((delays.unmatched, delays.reaping.len()), (1, 1), "{delays}");
        assert!(delays.to_string().contains("the kernel lost events: "), "{delays}");
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
        let events = vec![
            event(500, 7, Tracepoint::Complete, 1), // Before the recording started.
            event(1000, 7, Tracepoint::TaskAdd, 0),
            event(1500, 7, Tracepoint::TaskAdd, 0),
            event(3000, 7, Tracepoint::Complete, 64),
            event(4000, 7, Tracepoint::CqeOverflow, 32),
            event(4000, 3, Tracepoint::QueueAsyncWork, 0),
        ];
        let mut sidecar = Sidecar { events, lost: 2, missing: Vec::new() };
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!(delays.posting.max(), Some(Duration::from_nanos(2000)));
        assert_eq!((delays.posting.len(), delays.reaping.len(), delays.handling.len()), (1, 2, 3));
        assert_eq!(delays.reaping.max(), Some(Duration::from_nanos(2000)));
        assert!(delays.handling.max() >= Some(Duration::from_nanos(4000)));
        let counts = (delays.overflowed, delays.punted, delays.unmatched, delays.lost);
        assert_eq!(counts, (Some(1), Some(1), 1, 2));
        assert!(delays.to_string().contains("not matched 1, lost by the kernel 2"));
        // An unknown count is not shown as zero.
        sidecar.missing = vec![Missing::Tracepoint(Tracepoint::CqeOverflow)];
        let delays = Delays::of(&trace, &sidecar);
        assert_eq!((delays.overflowed, delays.punted), (None, Some(1)));
        let (text, json) = (delays.to_string(), serde_json::json!(delays));
        assert!(
            text.contains("full queue –") && text.contains("no io_uring_cqe_overflow"),
            "{text}"
        );
        assert!(json["overflowed"].is_null() && json["missing"][0] == "io_uring_cqe_overflow");
    }
}
