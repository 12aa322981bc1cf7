//! Gates: conditions on a comparison, for scripts that must know whether they hold.
//!
//! A condition is decided by the interval that the table prints: it holds if the whole interval is
//! on its side, does not hold if the whole interval is on the other one, and else is undecided.

use std::str::FromStr;

use crate::plan::{ComparisonPlan, Role};
use crate::results::{Comparison, GateResult, GateVerdict, Measured, Outcome, ResultTable};
use crate::verdict::{Judge, Ratio, Verdict};
use proactor_report::stats::Interval;
use proactor_report::units;

/// A condition on each table of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    text: String,
    /// The row; without it, every model.
    model: Option<String>,
    condition: Condition,
    /// The row that it is relative to, for a ratio.
    baseline: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Condition {
    Cpu(RatioBound),
    Rate(RatioBound),
    /// At most this share of the messages takes longer than this many nanoseconds.
    Slower(f64, u64),
}

/// A bound of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
struct RatioBound {
    is_most: bool,
    value: f64,
}

impl FromStr for Gate {
    type Err = String;

    /// Parses `uring cpu <= 0.97 epoll`, `uring rate >= 1.05 epoll`, `p99 <= 2ms` or
    /// `uring p99 <= 2ms`.
    fn from_str(text: &str) -> Result<Gate, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (model, condition, baseline) = match words[..] {
            [model, metric, sign, value, baseline] => {
                (Some(model), ratio(metric, sign, value), Some(baseline))
            }
            [model, quantile, "<=", time] => (Some(model), slower(quantile, time), None),
            [quantile, "<=", time] => (None, slower(quantile, time), None),
            _ => (None, None, None),
        };
        let condition = condition.ok_or_else(|| {
            format!(
                "{text:?} is no condition: write 'uring cpu <= 0.97 epoll', \
                 'uring rate >= 1.05 epoll' or 'uring p99 <= 2ms'"
            )
        })?;
        let owned = |name: Option<&str>| name.map(str::to_owned);
        let (model, baseline) = (owned(model), owned(baseline));
        Ok(Gate { text: words.join(" "), model, condition, baseline })
    }
}

fn ratio(metric: &str, sign: &str, value: &str) -> Option<Condition> {
    let value = value.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)?;
    let is_most = match sign {
        "<=" => true,
        ">=" => false,
        _ => return None,
    };
    match metric {
        "cpu" => Some(Condition::Cpu(RatioBound { is_most, value })),
        "rate" => Some(Condition::Rate(RatioBound { is_most, value })),
        _ => None,
    }
}

fn slower(quantile: &str, time: &str) -> Option<Condition> {
    let percent: f64 = quantile.strip_prefix('p')?.parse().ok()?;
    let time = units::parse_positive_duration(time).ok()?;
    let is_share = percent > 0.0 && percent < 100.0;
    is_share.then(|| Condition::Slower(1.0 - percent / 100.0, time.as_nanos() as u64))
}

impl Gate {
    /// Returns what is wrong with a name that the gate uses: it is no row of a plan, or not its
    /// baseline.
    pub fn wrong_name(&self, plan: &ComparisonPlan) -> Option<String> {
        let (rows, base) = (plan.participants(), plan.baseline.to_string());
        let model = self.model.as_ref().filter(|model| rows.iter().all(|it| it.name != **model));
        let other = self.baseline.as_ref().filter(|other| **other != base);
        let no_row =
            model.map(|model| format!("{model:?} is not among the models that are compared"));
        no_row.or(other.map(|it| format!("the ratios are to {base:?}, not to {it:?} (--baseline)")))
    }

    /// Judges the condition under each load of a comparison.
    pub fn judge(&self, comparison: &Comparison) -> Vec<GateResult> {
        let Comparison { plan, intervals, .. } = comparison;
        let judge = Judge { rules: plan.rules, intervals: *intervals };
        comparison.tables.iter().flat_map(|table| self.judge_table(table, &judge)).collect()
    }

    fn judge_table(&self, table: &ResultTable, judge: &Judge) -> Vec<GateResult> {
        let asked = |row: &&Outcome| match &self.model {
            Some(model) => row.spec.name == *model,
            None => row.spec.role != Role::Control,
        };
        let rows = table.participants.iter().enumerate().filter(|(_, row)| asked(row));
        let result = |(at, row): (usize, &Outcome)| {
            let (verdict, because) = match &row.measured {
                Some(measured) => self.decide(measured, &table.times(at), judge),
                None => (GateVerdict::Undecided, "it was not measured".to_owned()),
            };
            let (gate, model) = (self.text.clone(), row.spec.name.clone());
            GateResult { gate, load: table.load, model, verdict, because }
        };
        rows.map(result).collect()
    }

    fn decide(
        &self,
        measured: &Measured,
        times: &[&[(u64, u64)]],
        judge: &Judge,
    ) -> (GateVerdict, String) {
        match self.condition {
            Condition::Cpu(bound) => bound.decide(measured.cpu_ratio.as_ref(), judge),
            Condition::Rate(bound) => bound.decide(measured.rate_ratio.as_ref(), judge),
            Condition::Slower(share, time) => decide_slower(share, time, times, judge),
        }
    }
}

impl RatioBound {
    fn decide(self, ratio: Option<&Ratio>, judge: &Judge) -> (GateVerdict, String) {
        let Some(ratio) = ratio else {
            return (GateVerdict::Undecided, "no block is valid".to_owned());
        };
        let Some(interval) = ratio.interval else {
            let why = match ratio.verdict {
                Verdict::ClientBound => "the client was the limit".to_owned(),
                _ => format!("{} of {} blocks", ratio.logs.len(), judge.rules.blocks_min()),
            };
            return (GateVerdict::Undecided, why);
        };
        let (low, high, bound) = (interval.low, interval.high, self.value);
        let (holds, fails) = match self.is_most {
            true => (high <= bound + 1e-9, low > bound + 1e-9),
            false => (low >= bound - 1e-9, high < bound - 1e-9),
        };
        let half = units::percent((high - low) / 2.0);
        let said = format!("{:.3} [{low:.3}..{high:.3}], half a width of {half}", ratio.centre);
        (verdict(holds, fails), said)
    }
}

/// Decides whether at most `share` of the messages took longer than `time`, by the mean of the
/// blocks: no block is left out, because what is rare is what is asked for.
fn decide_slower(
    share: f64,
    time: u64,
    times: &[&[(u64, u64)]],
    judge: &Judge,
) -> (GateVerdict, String) {
    let sum = |counts: &[(u64, u64)], least: u64| {
        counts.iter().filter(|it| it.0 > least).map(|it| it.1).sum::<u64>() as f64
    };
    let shares: Vec<f64> =
        times.iter().map(|counts| sum(counts, time) / sum(counts, 0).max(1.0)).collect();
    let least = judge.rules.blocks_min() as usize;
    let interval = Interval::of_mean(&shares, judge.alpha()).filter(|_| shares.len() >= least);
    let Some(Interval { centre, low, high }) = interval else {
        return (GateVerdict::Undecided, format!("{} of {least} blocks", shares.len()));
    };
    let percent = |share: f64| format!("{:.3} %", share.max(0.0) * 100.0);
    let said = format!(
        "{} [{}..{}] of the messages took longer",
        percent(centre),
        percent(low),
        percent(high)
    );
    (verdict(high <= share + 1e-12, low > share + 1e-12), said)
}

fn verdict(holds: bool, fails: bool) -> GateVerdict {
    match (holds, fails) {
        (true, _) => GateVerdict::Holds,
        (_, true) => GateVerdict::Fails,
        _ => GateVerdict::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Rules;

    const JUDGE: Judge = Judge { rules: Rules::DEFAULT, intervals: 10 };

    fn gate(text: &str) -> Gate {
        text.parse().expect("a condition")
    }

    #[test]
    fn a_condition_is_a_ratio_or_a_percentile() {
        let Gate { text, model, condition, baseline } = gate("uring  cpu <= 0.97 epoll");
        assert_eq!((&*text, model.as_deref()), ("uring cpu <= 0.97 epoll", Some("uring")));
        assert_eq!(baseline.as_deref(), Some("epoll"));
        assert_eq!(condition, Condition::Cpu(RatioBound { is_most: true, value: 0.97 }));
        let Gate { model, condition, .. } = gate("p99.9 <= 2ms");
        let Condition::Slower(share, 2_000_000) = condition else { panic!("{condition:?}") };
        assert!(model.is_none() && (share - 0.001).abs() < 1e-12);
        for wrong in [
            "",
            "uring",
            "uring cpu < 0.97 epoll",
            "uring cost <= 0.97 epoll",
            "uring cpu <= much epoll",
            "uring cpu <= -1 epoll",
            "p99 >= 2ms",
            "p100 <= 2ms",
            "p99 <= 2",
            "q99 <= 2ms",
        ] {
            assert_eq!(wrong.parse::<Gate>().is_ok(), wrong == "p99 <= 2", "{wrong}");
        }
    }

    /// Twelve equal values have an interval without a width.
    fn decided(text: &str, log: f64) -> GateVerdict {
        let ratio = JUDGE.ratio(vec![log; 12], 0.02);
        let (Condition::Cpu(bound) | Condition::Rate(bound)) = gate(text).condition else {
            panic!("{text} is of a ratio")
        };
        bound.decide(ratio.as_ref(), &JUDGE).0
    }

    #[test]
    fn the_whole_interval_is_on_one_side_or_the_condition_is_undecided() {
        use GateVerdict::{Fails, Holds};
        assert_eq!(decided("a cpu <= 0.97 b", 0.96_f64.ln()), Holds);
        assert_eq!(decided("a cpu <= 0.97 b", 0.98_f64.ln()), Fails);
        assert_eq!(decided("a rate >= 0.97 b", 0.98_f64.ln()), Holds);
        assert_eq!(decided("a rate >= 0.97 b", 0.96_f64.ln()), Fails);
        let bound = RatioBound { is_most: true, value: 1.0 };
        let wide: Vec<f64> = (0..12).map(|at| 0.01 * f64::from(at % 2) - 0.005).collect();
        let (verdict, because) = bound.decide(JUDGE.ratio(wide, 0.02).as_ref(), &JUDGE);
        assert_eq!(verdict, GateVerdict::Undecided);
        assert!(
            because.starts_with("1.000 [0.99") && because.contains("half a width"),
            "{because}"
        );
        let few = bound.decide(JUDGE.ratio(vec![0.0; 11], 0.02).as_ref(), &JUDGE);
        assert_eq!(few, (GateVerdict::Undecided, "11 of 12 blocks".to_owned()));
        assert_eq!(bound.decide(None, &JUDGE).0, GateVerdict::Undecided);
    }

    #[test]
    fn a_percentile_is_decided_by_the_share_of_the_messages_that_are_slower() {
        let blocks = |slow: u64| -> Vec<[(u64, u64); 2]> {
            (0..12).map(|at| [(1_000_000, 10_000), (3_000_000, slow + at % 2)]).collect()
        };
        let decide = |slow| {
            let blocks = blocks(slow);
            let times: Vec<&[(u64, u64)]> = blocks.iter().map(|block| &block[..]).collect();
            decide_slower(0.01, 2_000_000, &times, &JUDGE).0
        };
        assert_eq!(decide(50), GateVerdict::Holds);
        assert_eq!(decide(200), GateVerdict::Fails);
        assert_eq!(decide(101), GateVerdict::Undecided, "a hundredth, more or less");
        let few = decide_slower(0.01, 2_000_000, &[&[(1, 1)]], &JUDGE);
        assert_eq!(few, (GateVerdict::Undecided, "1 of 12 blocks".to_owned()));
    }
}
