//! What makes a recorder stop, so that what came before it is kept.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::format::{Call, Frozen, MAY_SLEEP, Record, What};
use proactor::ring::{Kind, Token};
use proactor_report::units;

/// Something to stop at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trigger {
    /// A share of the operations, of some thousand in a row, was older than this when it completed:
    /// of calls, took longer.
    Age {
        /// The share that may not be, as 0.99.
        quantile: f64,
        /// The age.
        over: Duration,
    },
    /// A completion or a call fails, other than for want of bytes, room, a buffer, or by a cancel.
    Error,
    /// The completion queue overflows.
    Overflow,
    /// SIGUSR2 comes. It always stops a recorder, and starts one that has stopped.
    Signal,
}

impl FromStr for Trigger {
    type Err = String;

    /// `p99>1ms` (any percentile), `error`, `overflow` or `signal`.
    fn from_str(text: &str) -> Result<Trigger, String> {
        let wrong = || format!("no trigger {text:?}: write p99>1ms, error, overflow or signal");
        match text {
            "error" => return Ok(Trigger::Error),
            "overflow" => return Ok(Trigger::Overflow),
            "signal" => return Ok(Trigger::Signal),
            _ => {}
        }
        let (percent, over) =
            text.strip_prefix('p').and_then(|rest| rest.split_once('>')).ok_or_else(wrong)?;
        let over = units::parse_positive_duration(over)?;
        let percent: f64 = percent.parse().map_err(|_| wrong())?;
        if !(0.0..100.0).contains(&percent) {
            return Err(wrong());
        }
        Ok(Trigger::Age { quantile: percent / 100.0, over })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Age { quantile, over } => {
                let short = |number: f64| (number * 1e6).round() / 1e6;
                write!(f, "p{}>{}ms", short(quantile * 100.0), short(over.as_secs_f64() * 1e3))
            }
            Trigger::Error => f.write_str("error"),
            Trigger::Overflow => f.write_str("overflow"),
            Trigger::Signal => f.write_str("signal"),
        }
    }
}

/// Operations after which the ages are looked at.
const WINDOW: u64 = 1024;
/// Ages beyond are held to be as long, in ticks: some days.
const LONGEST: u64 = 1 << 50;

/// Watches the records go by for what it is to stop at.
#[derive(Debug)]
pub(super) struct Watch {
    error: bool,
    overflow: bool,
    ages: Option<Ages>,
}

#[derive(Debug)]
struct Ages {
    /// Quantiles, and what they may be at most, in ticks.
    limits: Vec<(f64, u64)>,
    /// Since when each is in flight: by what it is known by, of calls also by call and lane.
    begun: HashMap<(u64, u8, u16), u64>,
    seen: Histogram<u64>,
}

impl Watch {
    /// For these, on a clock of so many ticks a second; `None` if there is nothing to watch for.
    pub(super) fn new(triggers: &[Trigger], hertz: u64) -> Option<Watch> {
        let has = |wanted| triggers.contains(&wanted);
        let limit = |trigger: &Trigger| match *trigger {
            Trigger::Age { quantile, over } => {
                Some((quantile, (over.as_secs_f64() * hertz as f64) as u64))
            }
            _ => None,
        };
        let limits: Vec<_> = triggers.iter().filter_map(limit).collect();
        let ages = (!limits.is_empty()).then(|| Ages {
            limits,
            begun: HashMap::new(),
            seen: Histogram::new_with_bounds(1, LONGEST, 2).expect("1 to any, two digits"),
        });
        let (error, overflow) = (has(Trigger::Error), has(Trigger::Overflow));
        (error || overflow || ages.is_some()).then_some(Watch { error, overflow, ages })
    }

    /// Whether this record is what it is to stop at.
    pub(super) fn see(&mut self, record: &Record) -> Option<Frozen> {
        let what = What::from_number(record.what);
        if self.overflow && what == Some(What::EnterEnd) && record.flags & 1 != 0 {
            return Some(Frozen::Overflow);
        }
        let ends = matches!(what, Some(What::Cqe | What::CallEnd));
        if self.error && ends && is_failure(record) {
            return Some(Frozen::Error);
        }
        self.ages.as_mut()?.see(record, what?).then_some(Frozen::Age)
    }
}

impl Ages {
    fn see(&mut self, record: &Record, what: What) -> bool {
        match what {
            What::Sqe => drop(self.begun.insert((record.id, 0, 0), record.time)),
            What::CallBegin => {
                self.begun.insert((record.id, record.op, record.aux), record.time);
            }
            What::Cqe | What::CallEnd | What::Silent => {
                let call = what == What::CallEnd;
                let key = if call { (record.id, record.op, record.aux) } else { (record.id, 0, 0) };
                let waits = if call { sleeps_for_others } else { waits_for_others };
                if let Some(begun) = self.begun.remove(&key)
                    && !waits(record)
                {
                    self.seen.saturating_record(record.time.saturating_sub(begun));
                }
            }
            _ => {}
        }
        if self.seen.len() < WINDOW {
            return false;
        }
        let seen = &self.seen;
        let beyond = self.limits.iter().any(|&(at, over)| seen.value_at_quantile(at) > over);
        self.seen.reset();
        beyond
    }
}

/// Whether an operation waits until somebody else does something: that it is old says nothing.
fn waits_for_others(record: &Record) -> bool {
    match Token(record.id).kind() {
        Some(
            Kind::Accept
            | Kind::Recv
            | Kind::Wake
            | Kind::Internal
            | Kind::PollAccept
            | Kind::PollRecv
            | Kind::PollSend
            | Kind::Read
            | Kind::PollRead,
        )
        | None => true,
        Some(
            Kind::Send
            | Kind::Shutdown
            | Kind::Close
            | Kind::CancelAccept
            | Kind::CancelRecv
            | Kind::CancelSend,
        ) => false,
    }
}

/// The same of a call: that it may sleep, and not because its peer takes nothing.
fn sleeps_for_others(record: &Record) -> bool {
    let sends = [Call::Send, Call::SendVectored].map(|call| call as u8 | MAY_SLEEP);
    record.op & MAY_SLEEP != 0 && !sends.contains(&record.op)
}

/// Whether a result is a failure, and none of those that are part of the game.
pub(super) fn is_failure(record: &Record) -> bool {
    let expected = [
        libc::EAGAIN,
        libc::EINTR,
        libc::ENOBUFS,
        libc::ECANCELED,
        libc::ENOENT,
        libc::EALREADY,
        libc::ETIME,
    ];
    let ends = record.what == What::Cqe as u8 || record.op != Call::Shutdown as u8;
    record.res < 0 && ends && !expected.contains(&record.res.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proactor::keys::ConnId;

    #[test]
    fn a_trigger_is_read_as_it_is_written() {
        let over = Duration::from_micros(1500);
        assert_eq!("p99>1.5ms".parse(), Ok(Trigger::Age { quantile: 0.99, over }));
        assert_eq!("p50>1500us".parse(), Ok(Trigger::Age { quantile: 0.5, over }));
        for (text, trigger) in [
            ("error", Trigger::Error),
            ("overflow", Trigger::Overflow),
            ("signal", Trigger::Signal),
        ] {
            assert_eq!(text.parse(), Ok(trigger));
            assert_eq!(trigger.to_string(), text);
        }
        for again in ["p99>1.5ms", "p99.9>0.1ms", "p57>1.1ms"] {
            assert_eq!(again.parse::<Trigger>().unwrap().to_string(), again);
        }
        for wrong in ["", "p99", "p99>", "p100>1ms", "p-1>1ms", "p99>0ms", "99>1ms", "errors"] {
            let error = wrong.parse::<Trigger>().expect_err(wrong);
            assert!(!error.is_empty());
        }
    }

    #[test]
    fn ages_beyond_the_limit_are_seen_once_there_are_enough_of_them() {
        let age = Trigger::Age { quantile: 0.5, over: Duration::from_millis(100) };
        for (ticks, expected) in [(50_000_000, None), (150_000_000, Some(Frozen::Age))] {
            let mut watch = Watch::new(&[age], 1_000_000_000).expect("something to watch for");
            let id = Token::of(Kind::Send, ConnId::new(0, 0)).0;
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                assert_eq!(last, None);
                let begin = Record { what: What::Sqe as u8, id, time, ..Record::default() };
                assert_eq!(watch.see(&begin), None);
                last = watch.see(&Record { what: What::Cqe as u8, time: time + ticks, ..begin });
            }
            assert_eq!(last, expected);
        }
    }

    #[test]
    fn of_several_limits_each_is_heeded_and_who_waits_for_others_is_not_looked_at() {
        let age = |quantile, nanos| Trigger::Age { quantile, over: Duration::from_nanos(nanos) };
        let limits = [age(0.5, 1000), age(0.99, 100)];
        for (kind, expected) in [(Kind::Send, Some(Frozen::Age)), (Kind::PollRecv, None)] {
            let mut watch = Watch::new(&limits, 1_000_000_000).expect("something to watch for");
            let id = Token::of(kind, ConnId::new(0, 0)).0;
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                let begin = Record { what: What::Sqe as u8, id, time, ..Record::default() };
                assert_eq!(watch.see(&begin), None);
                last = watch.see(&Record { what: What::Cqe as u8, time: time + 150, ..begin });
            }
            assert_eq!(last, expected, "{kind:?}");
        }
    }

    #[test]
    fn how_long_a_receive_slept_is_not_looked_at_and_how_long_a_send_did_is() {
        let limit = Trigger::Age { quantile: 0.5, over: Duration::from_nanos(100) };
        for (op, expected) in [
            (Call::Recv as u8, Some(Frozen::Age)),
            (Call::Recv as u8 | MAY_SLEEP, None),
            (Call::Send as u8 | MAY_SLEEP, Some(Frozen::Age)),
            (Call::Lock as u8 | MAY_SLEEP, None),
        ] {
            let mut watch = Watch::new(&[limit], 1_000_000_000).expect("something to watch for");
            let mut last = None;
            for time in (0..WINDOW).map(|n| n * 1000) {
                // The same call for the same connection, begun later in another lane, ends first.
                let begin = Record { what: What::CallBegin as u8, op, time, ..Record::default() };
                let other = Record { aux: 1, time: time + 200, ..begin };
                assert_eq!(watch.see(&begin), None);
                assert_eq!(watch.see(&other), None);
                let ends = Record { what: What::CallEnd as u8, time: time + 201, ..begin };
                last = last.or(watch.see(&ends));
            }
            assert_eq!(last, expected, "{op}");
        }
    }

    #[test]
    fn an_error_is_not_what_a_cancel_or_an_empty_socket_answers() {
        let mut watch = Watch::new(&[Trigger::Error], 1).expect("something to watch for");
        let cqe = |errno: i32| Record { what: What::Cqe as u8, res: -errno, ..Record::default() };
        for errno in [0, libc::EAGAIN, libc::EINTR, libc::ECANCELED, libc::ENOBUFS] {
            assert_eq!(watch.see(&cqe(errno)), None);
        }
        assert_eq!(watch.see(&cqe(libc::ECONNRESET)), Some(Frozen::Error));
    }
}
