//! What may be said of a ratio, and nothing beyond it.
//!
//! A ratio is the median of many pairs with an interval around it. The *floor* is what this machine
//! cannot tell apart: how far the baseline came out from itself, and at least 2 %. A model is
//! *faster* or *slower* only when its whole interval is beyond the floor, *the same* only when the
//! whole interval is inside; everything else is *not shown*, which is not the same as *the same*.
//! Where more than two models are tested, one of them would be found to differ by chance sooner or
//! later: Holm's correction makes up for that.

use std::fmt;

use serde::Serialize;

use proactor_report::stats::{self, CONFIDENCE};
use proactor_report::{Interval, units};

/// Smaller differences are never claimed.
pub const FLOOR_MIN: f64 = 0.02;
/// More models than this share the risk of claiming what is not so.
const HOLM_FROM: usize = 3;

/// What was found out about a ratio to the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is above one by more than the floor.
    Higher,
    /// It is below one by more than the floor.
    Lower,
    /// It is one, within this much.
    Same(f64),
    /// None of these is shown.
    NotShown,
    /// Nothing may be said, whatever the numbers.
    Invalid,
}

/// A ratio to the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the pairs.
    pub median: f64,
    /// What encloses it; `None` of fewer pairs than six.
    pub interval: Option<Interval>,
    /// Of how many pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Of these pairs. `None` of none.
    pub fn of(pairs: &[f64]) -> Option<Ratio> {
        let median = stats::median(pairs)?;
        Some(Ratio { median, interval: stats::median_interval(pairs), pairs: pairs.len() })
    }
}

/// The floor that this run of the baseline against itself leaves: `None` if it says too little.
pub fn floor(again: Option<&Ratio>) -> Option<f64> {
    Some(again?.interval?.distance_from_one().max(FLOOR_MIN))
}

/// Judges models by their pairs. Without a floor nothing is shown.
pub fn judge(models: &[&[f64]], floor: Option<f64>) -> Vec<Finding> {
    let Some(floor) = floor else { return vec![Finding::NotShown; models.len()] };
    let mut findings: Vec<Finding> = models.iter().map(|pairs| finding(pairs, floor)).collect();
    let tested = models.iter().filter(|pairs| pairs.len() >= stats::VALUES_MIN).count();
    if tested < HOLM_FROM {
        return findings;
    }
    let mut claims: Vec<(f64, usize)> = findings
        .iter()
        .enumerate()
        .filter_map(|(model, finding)| {
            let beyond = |ratio: &&f64| match finding {
                Finding::Higher => **ratio > 1.0 + floor,
                _ => **ratio < 1.0 - floor,
            };
            matches!(finding, Finding::Higher | Finding::Lower).then(|| {
                let pairs = models[model];
                (stats::sign_test(pairs.iter().filter(beyond).count(), pairs.len()), model)
            })
        })
        .collect();
    claims.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut held = true;
    for (rank, (chance, model)) in claims.into_iter().enumerate() {
        held &= chance <= (1.0 - CONFIDENCE) / (tested - rank) as f64;
        if !held {
            findings[model] = Finding::NotShown;
        }
    }
    findings
}

fn finding(pairs: &[f64], floor: f64) -> Finding {
    match stats::median_interval(pairs) {
        Some(interval) if interval.is_above(1.0 + floor) => Finding::Higher,
        Some(interval) if interval.is_below(1.0 - floor) => Finding::Lower,
        Some(interval) if interval.distance_from_one() <= floor => Finding::Same(floor),
        _ => Finding::NotShown,
    }
}

/// The words for a rate. There are no others.
#[derive(Debug, Clone, Copy)]
pub struct RateWord(pub Finding);

/// The words for CPU per message. There are no others.
#[derive(Debug, Clone, Copy)]
pub struct CpuWord(pub Finding);

impl fmt::Display for RateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        words(f, self.0, "faster", "slower")
    }
}

impl fmt::Display for CpuWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        words(f, self.0, "more", "less")
    }
}

fn words(f: &mut fmt::Formatter<'_>, finding: Finding, up: &str, down: &str) -> fmt::Result {
    match finding {
        Finding::Higher => f.write_str(up),
        Finding::Lower => f.write_str(down),
        Finding::Same(within) => write!(f, "same (within ±{})", units::percent(within)),
        Finding::NotShown => f.write_str("not shown"),
        Finding::Invalid => f.write_str("invalid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine ratios around a middle: their interval is the second to the eighth.
    fn around(middle: f64, step: f64) -> Vec<f64> {
        (-4..=4).map(|i| middle + f64::from(i) * step).collect()
    }

    fn judged(pairs: &[f64], floor: f64) -> String {
        RateWord(judge(&[pairs], Some(floor))[0]).to_string()
    }

    #[test]
    fn only_an_interval_that_is_wholly_beyond_the_floor_is_a_difference() {
        assert_eq!(judged(&around(1.10, 0.01), 0.04), "faster");
        assert_eq!(judged(&around(0.90, 0.01), 0.04), "slower");
        assert_eq!(judged(&around(1.06, 0.01), 0.04), "not shown");
        assert_eq!(judged(&around(1.00, 0.01), 0.04), "same (within ±4.0 %)");
        assert_eq!(judged(&around(1.00, 0.02), 0.04), "not shown");
    }

    #[test]
    fn fewer_than_six_rounds_have_no_verdict() {
        assert_eq!(judged(&[1.5; 5], 0.02), "not shown");
        assert_eq!(judged(&[1.5; 6], 0.02), "faster");
    }

    #[test]
    fn the_floor_is_how_far_the_baseline_is_from_itself() {
        assert_eq!(floor(Ratio::of(&around(1.0, 0.001)).as_ref()), Some(FLOOR_MIN));
        let floor_of = |pairs: &[f64]| floor(Ratio::of(pairs).as_ref());
        let wide = floor_of(&around(1.01, 0.01)).expect("nine pairs");
        assert!((wide - 0.04).abs() < 1e-9, "{wide}");
        assert_eq!(floor_of(&[1.0; 5]), None, "five pairs say too little");
        assert_eq!(judge(&[&around(2.0, 0.01)], None), [Finding::NotShown]);
    }

    #[test]
    fn among_many_models_a_weak_claim_does_not_stand() {
        // Six of six pairs: one chance in 32, which is enough alone and not as one of three.
        let six = [1.1; 6];
        let even = around(1.0, 0.001);
        assert_eq!(judge(&[&six], Some(0.02)), [Finding::Higher]);
        let three = judge(&[&six, &even, &even], Some(0.02));
        assert_eq!(three, [Finding::NotShown, Finding::Same(0.02), Finding::Same(0.02)]);
        let strong = [1.1; 20];
        assert_eq!(judge(&[&strong, &even, &even], Some(0.02))[0], Finding::Higher);
    }

    #[test]
    fn of_cpu_there_is_more_or_less() {
        assert_eq!(CpuWord(Finding::Lower).to_string(), "less");
        assert_eq!(CpuWord(Finding::Higher).to_string(), "more");
        assert_eq!(CpuWord(Finding::Invalid).to_string(), "invalid");
    }
}
