//! Distribution-free statistics: medians, and confidence intervals made of order statistics.
//!
//! Measurements on a shared machine are not normally distributed: they drift, and their tails are
//! long on one side, so mean ± σ claims too much. The interval here is valid for every
//! distribution. Each of n independent values lies below the true median with probability ½, so the
//! number of values below it is binomial, and the probability that the k-th smallest and the k-th
//! largest value enclose the median can be computed exactly.

use serde::Serialize;

/// The smallest number of values that has an interval. With fewer, even the extremes enclose the
/// median with a probability below [`CONFIDENCE`].
pub const VALUES_MIN: usize = 6;

/// The minimum confidence of an interval.
pub const CONFIDENCE: f64 = 0.95;

/// A confidence interval of the median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end: one of the values.
    pub low: f64,
    /// The upper end: one of the values.
    pub high: f64,
    /// The probability that the interval encloses the median: at least [`CONFIDENCE`].
    pub confidence: f64,
}

impl Interval {
    /// Returns the largest distance of the interval's ends from one, the ratio of equal values.
    pub fn distance_from_one(&self) -> f64 {
        (1.0 - self.low).abs().max((self.high - 1.0).abs())
    }
}

/// Returns the median; for an even number of values, the mean of the middle two. Returns `None` if
/// there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// Returns the narrowest pair of order statistics that encloses the median with at least
/// [`CONFIDENCE`], or `None` for fewer than [`VALUES_MIN`] values.
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    // The interval from the k-th smallest to the k-th largest value misses the median if fewer than
    // k values lie on one side of it.
    let confidence = |k: usize| 1.0 - 2.0 * at_most(k - 1, n);
    let k = (1..=n / 2).rev().find(|&k| confidence(k) >= CONFIDENCE)?;
    let sorted = sorted(values);
    Some(Interval { low: sorted[k - 1], high: sorted[n - k], confidence: confidence(k) })
}

/// The two-sided sign test: returns the probability that of `n` fair coins `same_side` or more fall
/// on the same side.
pub fn sign_test(same_side: usize, n: usize) -> f64 {
    if same_side == 0 { 1.0 } else { (2.0 * at_most(n - same_side.min(n), n)).min(1.0) }
}

/// Returns the probability that at most `k` of `n` fair coins show heads.
fn at_most(k: usize, n: usize) -> f64 {
    // In logarithms, because 2^-n underflows for thousands of values.
    let mut choose = 0.0_f64;
    let mut sum = 0.0;
    for i in 0..=k.min(n) {
        if i > 0 {
            choose += ((n - i + 1) as f64 / i as f64).ln();
        }
        sum += (choose - n as f64 * std::f64::consts::LN_2).exp();
    }
    sum.min(1.0)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(n: usize) -> Vec<f64> {
        (1..=n).rev().map(|i| i as f64).collect()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn fewer_than_six_values_have_no_interval() {
        assert_eq!(median_interval(&up_to(5)), None);
        assert!(median_interval(&up_to(VALUES_MIN)).is_some());
    }

    #[test]
    fn the_interval_is_the_one_of_published_tables() {
        // n, the ranks of the ends, the confidence in per mille.
        let known = [(6, 1, 6, 969), (7, 1, 7, 984), (9, 2, 8, 961), (12, 3, 10, 961)];
        for (n, low, high, confidence) in known {
            let interval = median_interval(&up_to(n)).expect("enough values");
            assert_eq!((interval.low, interval.high), (low as f64, high as f64), "of {n}");
            assert_eq!((interval.confidence * 1000.0).round() as u32, confidence, "of {n}");
        }
    }

    #[test]
    fn thousands_of_values_do_not_underflow() {
        let interval = median_interval(&up_to(4000)).expect("enough values");
        assert!(interval.low > 1930.0 && interval.high < 2070.0, "{interval:?}");
        assert!((0.95..0.96).contains(&interval.confidence), "{interval:?}");
    }

    #[test]
    fn an_interval_encloses_the_true_median_as_often_as_its_confidence() {
        // 2,000 samples of nine values of an exponential distribution, whose median is ln 2.
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64
        };
        let enclosed = (0..2000)
            .filter(|_| {
                let values: Vec<f64> = (0..9).map(|_| -random().ln()).collect();
                let interval = median_interval(&values).expect("nine are enough");
                interval.low <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= interval.high
            })
            .count();
        assert!((1890..=1950).contains(&enclosed), "{enclosed} of 2000; 1922 are expected");
    }

    #[test]
    fn the_sign_test_counts_coins() {
        assert_eq!(sign_test(0, 10), 1.0);
        assert!((sign_test(6, 6) - 2.0 / 64.0).abs() < 1e-12);
        assert!((sign_test(5, 6) - 14.0 / 64.0).abs() < 1e-12);
        assert_eq!(sign_test(3, 6), 1.0);
    }
}
