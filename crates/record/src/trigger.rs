//! The conditions at which a recorder stops, so that the records before it are kept.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::format::{Frozen, MAY_SLEEP, RecordKind};
use crate::record::{Content, Pairing, Record};

/// A condition at which recording stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StopTrigger {
    /// Of some thousand operations in a row, more than a share were older than this when they
    /// completed; of calls, took longer.
    Age {
        /// The share that is not to be exceeded, as 0.99.
        quantile: f64,
        /// The age that counts as old.
        over: Duration,
    },
    /// A completion or a call fails with an error that is not
    /// [expected](crate::Errno::is_expected).
    Error,
    /// The completion queue overflows.
    Overflow,
    /// SIGUSR2 comes. It always stops a recorder, and starts one that has stopped.
    Signal,
}

impl FromStr for StopTrigger {
    type Err = String;

    /// `p99>1ms` (any percentile), `error`, `overflow` or `signal`.
    fn from_str(text: &str) -> Result<StopTrigger, String> {
        let age = || {
            let (percent, over) = text.strip_prefix('p')?.split_once('>')?;
            let (percent, over) = (percent.parse::<f64>().ok()?, duration(over)?);
            let is_valid = (0.0..100.0).contains(&percent) && !over.is_zero();
            is_valid.then_some(StopTrigger::Age { quantile: percent / 100.0, over })
        };
        let mut named =
            [StopTrigger::Error, StopTrigger::Overflow, StopTrigger::Signal].into_iter();
        named.find(|trigger| trigger.to_string() == text).or_else(age).ok_or_else(|| {
            format!("unknown trigger {text:?}: write p99>1ms, error, overflow or signal")
        })
    }
}

/// A duration, as `1.5ms`, `1500us` or `2` (seconds).
fn duration(text: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("min", 60.0), ("m", 60.0), ("s", 1.0)];
    let split = |&(unit, seconds)| Some((text.strip_suffix(unit)?, seconds));
    let (number, seconds) = units.iter().find_map(split).unwrap_or((text, 1.0));
    if number.contains(char::is_alphabetic) {
        return None; // Not `1e3`.
    }
    let number: f64 = number.trim().parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

impl fmt::Display for StopTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopTrigger::Age { quantile, over } => {
                let short = |number: f64| (number * 1e6).round() / 1e6;
                write!(f, "p{}>{}ms", short(quantile * 100.0), short(over.as_secs_f64() * 1e3))
            }
            StopTrigger::Error => f.write_str("error"),
            StopTrigger::Overflow => f.write_str("overflow"),
            StopTrigger::Signal => f.write_str("signal"),
        }
    }
}

/// Operations after which the ages are judged.
const WINDOW: u64 = 1024;

/// Looks at each record for the conditions of the triggers.
#[derive(Debug, Default)]
pub(crate) struct TriggerWatch {
    error: bool,
    overflow: bool,
    limits: Vec<Limit>,
    /// When each operation or call in flight began.
    begun: HashMap<Pairing, u64>,
    /// Ages in this window.
    seen: u64,
}

#[derive(Debug)]
struct Limit {
    quantile: f64,
    /// The age in ticks of the clock.
    over: u64,
    /// Ages in this window that are greater.
    beyond: u64,
}

impl TriggerWatch {
    /// Watches for these, on a clock of so many ticks a second; `None` if none needs it.
    pub(crate) fn new(triggers: &[StopTrigger], hertz: u64) -> Option<TriggerWatch> {
        let mut watch = TriggerWatch::default();
        for trigger in triggers {
            match *trigger {
                StopTrigger::Age { quantile, over } => {
                    let over = (over.as_secs_f64() * hertz as f64) as u64;
                    watch.limits.push(Limit { quantile, over, beyond: 0 });
                }
                StopTrigger::Error => watch.error = true,
                StopTrigger::Overflow => watch.overflow = true,
                StopTrigger::Signal => {}
            }
        }
        (watch.error || watch.overflow || !watch.limits.is_empty()).then_some(watch)
    }

    /// Returns the reason to stop, if this record is one.
    pub(crate) fn see(&mut self, record: &Record) -> Option<Frozen> {
        let kind = record.kind()?;
        if self.overflow && matches!(record.payload(), Content::EnterEnd { overflow: true, .. }) {
            return Some(Frozen::Overflow);
        }
        let ends = matches!(kind, RecordKind::Cqe | RecordKind::CallEnd);
        if self.error && ends && record.is_failure() {
            return Some(Frozen::Error);
        }
        (!self.limits.is_empty() && self.is_too_old(record, kind)).then_some(Frozen::Age)
    }

    /// Whether this record is the last of a window with too many old operations.
    fn is_too_old(&mut self, record: &Record, kind: RecordKind) -> bool {
        match kind {
            RecordKind::Sqe | RecordKind::CallBegin => {
                self.begun.insert(record.pairing(), record.time);
            }
            RecordKind::Cqe | RecordKind::CallEnd | RecordKind::Implied => {
                let may_sleep = kind == RecordKind::CallEnd && record.op & MAY_SLEEP != 0;
                if let Some(begun) = self.begun.remove(&record.pairing())
                    && record.op().is_some_and(|op| !op.waits_for_others(may_sleep))
                {
                    let age = record.time.saturating_sub(begun);
                    self.seen += 1;
                    self.limits.iter_mut().for_each(|one| one.beyond += u64::from(age > one.over));
                }
            }
            _ => {}
        }
        if self.seen < WINDOW {
            return false;
        }
        let seen = std::mem::take(&mut self.seen);
        let mut is_beyond = false;
        for limit in &mut self.limits {
            let within = seen - std::mem::take(&mut limit.beyond);
            is_beyond |= within < ((limit.quantile * seen as f64).ceil() as u64).max(1);
        }
        is_beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Call, Kind};

    /// A connection's operation, begun and ended at these times.
    fn operation(kind: Kind, begun: u64, ended: u64) -> [Record; 2] {
        let token = (kind as u64) << 56;
        let begin = Record { time: begun, ..Record::submitted(token, 0, 0, 0, 0) };
        [begin, Record { time: ended, ..Record::completed(token, 0, 0, 0) }]
    }

    #[test]
    fn a_trigger_is_read_as_it_is_written() {
        let over = Duration::from_micros(1500);
        assert_eq!("p99>1.5ms".parse(), Ok(StopTrigger::Age { quantile: 0.99, over }));
        assert_eq!("p50>1500us".parse(), Ok(StopTrigger::Age { quantile: 0.5, over }));
        for (text, trigger) in [
            ("error", StopTrigger::Error),
            ("overflow", StopTrigger::Overflow),
            ("signal", StopTrigger::Signal),
        ] {
            assert_eq!(text.parse(), Ok(trigger));
            assert_eq!(trigger.to_string(), text);
        }
        for again in ["p99>1.5ms", "p99.9>0.1ms", "p57>1.1ms"] {
            assert_eq!(again.parse::<StopTrigger>().unwrap().to_string(), again);
        }
        for wrong in ["", "p99", "p99>", "p100>1ms", "p-1>1ms", "p99>0ms", "99>1ms", "errors"] {
            let error = wrong.parse::<StopTrigger>().expect_err(wrong);
            assert!(!error.is_empty());
        }
    }

    #[test]
    fn ages_beyond_the_limit_are_seen_once_there_are_enough_of_them() {
        let age = StopTrigger::Age { quantile: 0.5, over: Duration::from_millis(100) };
        for (ticks, expected) in [(50_000_000, None), (150_000_000, Some(Frozen::Age))] {
            let mut watch =
                TriggerWatch::new(&[age], 1_000_000_000).expect("something to watch for");
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                assert_eq!(last, None);
                let [begin, end] = operation(Kind::Send, time, time + ticks);
                assert_eq!(watch.see(&begin), None);
                last = watch.see(&end);
            }
            assert_eq!(last, expected);
        }
    }

    #[test]
    fn each_of_several_limits_counts_and_operations_that_wait_for_others_do_not() {
        let age =
            |quantile, nanos| StopTrigger::Age { quantile, over: Duration::from_nanos(nanos) };
        let limits = [age(0.5, 1000), age(0.99, 100)];
        for (kind, expected) in [(Kind::Send, Some(Frozen::Age)), (Kind::PollRecv, None)] {
            let mut watch =
                TriggerWatch::new(&limits, 1_000_000_000).expect("something to watch for");
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                assert_eq!(last, None);
                let [begin, end] = operation(kind, time, time + 150);
                assert_eq!(watch.see(&begin), None);
                last = watch.see(&end);
            }
            assert_eq!(last, expected, "{kind:?}");
        }
    }

    #[test]
    fn the_sleep_of_a_receive_does_not_count_and_that_of_a_send_does() {
        let limit = StopTrigger::Age { quantile: 0.5, over: Duration::from_nanos(100) };
        for (call, may_sleep, expected) in [
            (Call::Recv, false, Some(Frozen::Age)),
            (Call::Recv, true, None),
            (Call::Send, true, Some(Frozen::Age)),
            (Call::Lock, true, None),
        ] {
            let mut watch =
                TriggerWatch::new(&[limit], 1_000_000_000).expect("something to watch for");
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                // The same call for the same connection, begun later in another lane, ends first.
                let begin = Record { time, ..Record::call_begin(call, may_sleep, 0, 0, 0) };
                let other = Record { aux: 1, time: time + 200, ..begin };
                assert_eq!(watch.see(&begin), None);
                assert_eq!(watch.see(&other), None);
                let end = Record::call_end(call, may_sleep, 0, 0, 0);
                last = last.or(watch.see(&Record { time: time + 201, ..end }));
            }
            assert_eq!(last, expected, "{call}");
        }
    }

    #[test]
    fn the_result_of_a_cancel_or_of_an_empty_socket_is_no_failure() {
        let mut watch =
            TriggerWatch::new(&[StopTrigger::Error], 1).expect("something to watch for");
        let cqe = |errno: i32| Record::completed(0, -errno, 0, 0);
        for errno in [0, libc::EAGAIN, libc::EINTR, libc::ECANCELED, libc::ENOBUFS] {
            assert_eq!(watch.see(&cqe(errno)), None);
        }
        assert_eq!(watch.see(&cqe(libc::ECONNRESET)), Some(Frozen::Error));
    }
}
