//! The mean of repeated measurements, and a confidence interval for it.
//!
//! A measurement on a shared machine is now and then far off, so the mean leaves out the lowest and
//! the highest tenth (a *trimmed mean*), and its interval is that of Tukey and McLaughlin, by
//! Student's t and the variance of the values that were pulled in to the trimmed ends. Both are
//! unbiased if the two sides of a ratio are measured alike: then the values are symmetric.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// One value in this many is left out at each end.
const TRIMMED: usize = 10;

/// A trimmed mean, and the ends of its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The trimmed mean of the values.
    pub centre: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

impl Interval {
    /// Returns the interval that misses the true mean with a probability of `alpha`, or `None` if
    /// there are fewer than two values or one of them is not finite.
    pub fn of(values: &[f64], alpha: f64) -> Option<Interval> {
        Interval::trimmed(values, values.len() / TRIMMED, alpha)
    }

    /// The same without leaving out any value, for what is rare.
    pub fn of_mean(values: &[f64], alpha: f64) -> Option<Interval> {
        Interval::trimmed(values, 0, alpha)
    }

    /// The same without `trimmed` values at each end.
    fn trimmed(values: &[f64], trimmed: usize, alpha: f64) -> Option<Interval> {
        let n = values.len();
        if n < 2 || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let kept = (n - 2 * trimmed) as f64;
        let centre = mean(&sorted[trimmed..n - trimmed]);
        let (least, most) = (sorted[trimmed], sorted[n - trimmed - 1]);
        sorted.iter_mut().for_each(|value| *value = value.clamp(least, most));
        let middle = mean(&sorted);
        let squares: f64 = sorted.iter().map(|value| (value - middle).powi(2)).sum();
        let half = student(alpha, kept - 1.0) * (squares / (kept * (kept - 1.0))).sqrt();
        Some(Interval { centre, low: centre - half, high: centre + half })
    }
}

/// Returns the t that Student's distribution exceeds on either side with a probability of `alpha`.
pub fn student(alpha: f64, freedom: f64) -> f64 {
    let distribution = StudentsT::new(0.0, 1.0, freedom);
    distribution.map_or(f64::INFINITY, |student| student.inverse_cdf(1.0 - alpha / 2.0))
}

/// Returns the mean of some values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the value below which this share of the values lies, between two of them in proportion;
/// the median for one half. Returns `None` if there are no values.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len().checked_sub(1)? as f64 * share;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// Returns the median; for an even number of values, the mean of the middle two. Returns `None` if
/// there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_a_quantile_between_two_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.9), Some(2.8));
    }

    #[test]
    fn the_quantiles_of_student_are_those_of_published_tables() {
        let freedoms = [9.0, 11.0, 13.0, 15.0, 17.0, 19.0, 23.0];
        let rows = [
            (0.05 / 4.0, [3.111, 2.981, 2.896, 2.837, 2.793, 2.759, 2.710]),
            (0.05 / 10.0, [3.690, 3.497, 3.372, 3.286, 3.222, 3.174, 3.104]),
            (0.05 / 24.0, [4.269, 4.001, 3.830, 3.713, 3.627, 3.561, 3.468]),
            (0.01 / 8.0, [4.622, 4.303, 4.101, 3.963, 3.862, 3.786, 3.677]),
        ];
        for (alpha, row) in rows {
            for (freedom, expected) in freedoms.into_iter().zip(row) {
                let t = student(alpha, freedom);
                assert!((t - expected).abs() <= 0.000_51, "{alpha} {freedom}: {t}, not {expected}");
            }
        }
    }

    #[test]
    fn a_tenth_of_the_values_at_each_end_has_no_weight() {
        let mut values: Vec<f64> = (0..20).map(f64::from).collect();
        let even = Interval::of(&values, 0.05).expect("twenty values");
        (values[0], values[19]) = (-1e9, 1e9);
        assert_eq!(Interval::of(&values, 0.05), Some(even), "one of ten is left out at each end");
        (values[1], values[2]) = (-1e9, -1e9);
        assert!(Interval::of(&values, 0.05).expect("twenty values").centre < even.centre);
        let mean = Interval::of_mean(&values, 0.05).expect("twenty values");
        assert!(mean.centre < -1e7 && mean.high > 0.0, "nothing is left out: {mean:?}");
    }

    #[test]
    fn two_finite_values_are_the_least() {
        assert_eq!(Interval::of(&[1.0], 0.05), None);
        assert_eq!(Interval::of(&[1.0, f64::NEG_INFINITY, 2.0], 0.05), None);
        let same = Interval::of(&[1.0, 1.0], 0.05).expect("two values");
        assert_eq!((same.low, same.centre, same.high), (1.0, 1.0, 1.0));
    }

    #[test]
    fn an_interval_misses_the_true_mean_as_often_as_it_may() {
        // 2,000 samples of twelve values that are symmetric about zero and not normal.
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64
        };
        let misses = (0..2000)
            .filter(|_| {
                let values: Vec<f64> = (0..12).map(|_| (random() / random()).ln()).collect();
                let interval = Interval::of(&values, 0.05).expect("twelve are enough");
                interval.low > 0.0 || interval.high < 0.0
            })
            .count();
        assert!((70..=130).contains(&misses), "{misses} of 2000; 100 are expected");
    }
}
