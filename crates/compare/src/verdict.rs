//! The verdict about a ratio.
//!
//! A ratio is the median of many pairs with a confidence interval. The *noise floor* is the
//! smallest difference that can be found here: the difference between the baseline and its control,
//! and at least 2 %. A model is *faster* or *slower* only if the whole interval is beyond the noise
//! floor, and *the same* only if the whole interval is within it. Everything else is *not shown*,
//! which does not mean *the same*. With more than two models, a difference would be found by chance
//! more often; Holm's correction prevents that.

use serde::Serialize;

use proactor_report::Interval;
use proactor_report::stats::{self, CONFIDENCE};

/// The minimum of the noise floor.
pub const NOISE_FLOOR_MIN: f64 = 0.02;
/// From this number of models on, Holm's correction applies.
const HOLM_FROM: usize = 3;

/// The verdict about a ratio to the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The ratio is above one by more than the noise floor.
    Higher,
    /// The ratio is below one by more than the noise floor.
    Lower,
    /// The ratio is one, within this difference.
    Same(f64),
    /// The measurement shows none of these.
    NotShown,
    /// The numbers are not valid.
    Invalid,
}

/// A ratio to the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the pairs.
    pub median: f64,
    /// Its confidence interval; `None` for fewer than six pairs.
    pub interval: Option<Interval>,
    /// The number of pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Returns the ratio of these pairs, or `None` if there are none.
    pub fn of(pairs: &[f64]) -> Option<Ratio> {
        let median = stats::median(pairs)?;
        Some(Ratio { median, interval: stats::median_interval(pairs), pairs: pairs.len() })
    }
}

/// Returns the noise floor that the control's ratio shows, or `None` if there are too few pairs.
pub fn noise_floor(control: Option<Ratio>) -> Option<f64> {
    Some(control?.interval?.distance_from_one().max(NOISE_FLOOR_MIN))
}

/// Returns the verdicts about models by their pairs. Without a noise floor nothing is shown.
pub fn judge(models: &[&[f64]], floor: Option<f64>) -> Vec<Verdict> {
    let Some(floor) = floor else { return vec![Verdict::NotShown; models.len()] };
    let mut verdicts: Vec<Verdict> = models.iter().map(|pairs| verdict(pairs, floor)).collect();
    let tested = models.iter().filter(|pairs| pairs.len() >= stats::VALUES_MIN).count();
    if tested < HOLM_FROM {
        return verdicts;
    }
    let mut claims = Vec::new();
    for (model, (pairs, verdict)) in models.iter().zip(&verdicts).enumerate() {
        let beyond = match verdict {
            Verdict::Higher => pairs.iter().filter(|&&ratio| ratio > 1.0 + floor).count(),
            Verdict::Lower => pairs.iter().filter(|&&ratio| ratio < 1.0 - floor).count(),
            _ => continue,
        };
        claims.push((stats::sign_test(beyond, pairs.len()), model));
    }
    claims.sort_by(|a, b| a.0.total_cmp(&b.0));
    let holds = |&(rank, (chance, _)): &(usize, (f64, usize))| {
        chance <= (1.0 - CONFIDENCE) / (tested - rank) as f64
    };
    for (_, (_, model)) in claims.into_iter().enumerate().skip_while(holds) {
        verdicts[model] = Verdict::NotShown;
    }
    verdicts
}

fn verdict(pairs: &[f64], floor: f64) -> Verdict {
    match stats::median_interval(pairs) {
        Some(interval) if interval.low > 1.0 + floor => Verdict::Higher,
        Some(interval) if interval.high < 1.0 - floor => Verdict::Lower,
        Some(interval) if interval.distance_from_one() <= floor => Verdict::Same(floor),
        _ => Verdict::NotShown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns nine ratios around a middle. Their interval is the second to the eighth.
    fn around(middle: f64, step: f64) -> Vec<f64> {
        (-4..=4).map(|i| middle + f64::from(i) * step).collect()
    }

    fn judged(pairs: &[f64], floor: f64) -> Verdict {
        judge(&[pairs], Some(floor))[0]
    }

    #[test]
    fn only_an_interval_beyond_the_noise_floor_is_a_difference() {
        assert_eq!(judged(&around(1.10, 0.01), 0.04), Verdict::Higher);
        assert_eq!(judged(&around(0.90, 0.01), 0.04), Verdict::Lower);
        assert_eq!(judged(&around(1.06, 0.01), 0.04), Verdict::NotShown);
        assert_eq!(judged(&around(1.00, 0.01), 0.04), Verdict::Same(0.04));
        assert_eq!(judged(&around(1.00, 0.02), 0.04), Verdict::NotShown);
    }

    #[test]
    fn fewer_than_six_rounds_have_no_verdict() {
        assert_eq!(judged(&[1.5; 5], 0.02), Verdict::NotShown);
        assert_eq!(judged(&[1.5; 6], 0.02), Verdict::Higher);
        assert_eq!(judged(&[], 0.02), Verdict::NotShown);
    }

    #[test]
    fn the_noise_floor_is_the_difference_of_the_control() {
        assert_eq!(noise_floor(Ratio::of(&around(1.0, 0.001))), Some(NOISE_FLOOR_MIN));
        let floor_of = |pairs: &[f64]| noise_floor(Ratio::of(pairs));
        let wide = floor_of(&around(1.01, 0.01)).expect("nine pairs");
        assert!((wide - 0.04).abs() < 1e-9, "{wide}");
        assert_eq!(floor_of(&[1.0; 5]), None, "five pairs are too few");
        assert_eq!(judge(&[&around(2.0, 0.01)], None), [Verdict::NotShown]);
    }

    #[test]
    fn with_many_models_a_weak_claim_does_not_hold() {
        // Six of six pairs have a probability of 1 in 32: enough for one model, not for three.
        let six = [1.1; 6];
        let even = around(1.0, 0.001);
        assert_eq!(judge(&[&six], Some(0.02)), [Verdict::Higher]);
        let three = judge(&[&six, &even, &even], Some(0.02));
        assert_eq!(three, [Verdict::NotShown, Verdict::Same(0.02), Verdict::Same(0.02)]);
        let strong = [1.1; 20];
        assert_eq!(judge(&[&strong, &even, &even], Some(0.02))[0], Verdict::Higher);
    }
}
