//! Statistics that assume nothing of the distribution: medians, quartiles, and intervals made of
//! order statistics.
//!
//! Measurements on a shared machine are not normal: they drift, and their tails are long on one
//! side. A mean ± σ claims too much there. The interval here holds whatever the distribution: each
//! of n independent values lies below the true median with probability ½, so how many do is
//! binomial, and the k-th smallest and k-th largest enclose the median with a probability that can
//! be counted.

use serde::Serialize;

/// Fewer values than these have no interval: even their extremes enclose the median with less than
/// 95 %.
pub const VALUES_MIN: usize = 6;

/// The confidence that an interval has at least.
pub const CONFIDENCE: f64 = 0.95;

/// What encloses the median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end, one of the values.
    pub low: f64,
    /// Its upper end, one of the values.
    pub high: f64,
    /// With what probability: [`CONFIDENCE`] or a little more.
    pub confidence: f64,
}

impl Interval {
    /// Whether all of it lies above `value`.
    pub fn is_above(&self, value: f64) -> bool {
        self.low > value
    }

    /// Whether all of it lies below `value`.
    pub fn is_below(&self, value: f64) -> bool {
        self.high < value
    }

    /// How far it reaches from one, the ratio of equals.
    pub fn distance_from_one(&self) -> f64 {
        (1.0 - self.low).abs().max((self.high - 1.0).abs())
    }
}

/// The middle value; of an even number the mean of the two. `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The lower and the upper quartile (interpolated linearly). `None` of none.
pub fn quartiles(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((quantile(&sorted, 0.25)?, quantile(&sorted, 0.75)?))
}

/// The narrowest pair of order statistics that encloses the median with at least [`CONFIDENCE`].
/// `None` of fewer than [`VALUES_MIN`].
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    // The k-th from either end leaves out the median when fewer than k values lie on its side.
    let confidence = |k: usize| 1.0 - 2.0 * at_most(k - 1, n);
    let k = (1..=n / 2).rev().find(|&k| confidence(k) >= CONFIDENCE)?;
    let sorted = sorted(values);
    Some(Interval { low: sorted[k - 1], high: sorted[n - k], confidence: confidence(k) })
}

/// The two-sided sign test: how probable it is that of `n` fair coins so many, or more, fall on
/// the same side. 1 of no coins.
pub fn sign_test(same_side: usize, n: usize) -> f64 {
    if same_side == 0 {
        return 1.0;
    }
    let tail = at_most(n - same_side.min(n), n);
    (2.0 * tail).min(1.0)
}

/// The probability that at most `k` of `n` fair coins show heads.
fn at_most(k: usize, n: usize) -> f64 {
    // In logarithms: 2^-n is nothing a float can hold once there are thousands of rounds.
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

fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
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
        assert_eq!(quartiles(&up_to(5)), Some((2.0, 4.0)));
    }

    #[test]
    fn fewer_than_six_values_have_no_interval() {
        assert_eq!(median_interval(&up_to(5)), None);
        assert!(median_interval(&up_to(VALUES_MIN)).is_some());
    }

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // n, the ranks of its ends, its confidence in per mille.
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
    fn an_interval_encloses_the_true_median_as_often_as_it_says() {
        // 2,000 samples of 9 from a crooked distribution, whose median is ln 2.
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
