//! Latencies: a histogram of fixed relative error. A percentile is reported only if there are
//! enough samples to estimate it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

/// A histogram of latencies from one nanosecond to one minute, with three significant digits.
/// Recording does not allocate. A longer latency counts as one minute.
#[derive(Debug, Clone)]
pub struct Latencies(pub(crate) Histogram<u64>);

/// The upper bound of the histogram.
const LONGEST: Duration = Duration::from_secs(60);

/// How many samples must lie above a percentile before it is reported: p99 needs 1,000 samples,
/// p99.9 needs 10,000.
const BEYOND: f64 = 10.0;

impl Latencies {
    /// Creates an empty histogram.
    pub fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 3);
        Latencies(histogram.expect("bounds from a nanosecond to a minute are in order"))
    }

    /// Adds one latency to the histogram.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos);
    }

    /// Adds so many latencies of so many nanoseconds, as [`counts`](Latencies::counts) returned
    /// them.
    pub fn record_counted(&mut self, counts: &[(u64, u64)]) {
        counts.iter().for_each(|&(nanos, count)| self.0.saturating_record_n(nanos, count));
    }

    /// Removes all samples from the histogram.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// Returns the number of samples.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns true if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the percentile for `share` (0 to 1), or `None` if too few samples lie above it.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        // The tolerance is for rounding: 1 - 0.999 is not exactly 0.001.
        let enough = self.0.len() as f64 * (1.0 - share) >= BEYOND * (1.0 - 1e-9);
        enough.then(|| Duration::from_nanos(self.0.value_at_quantile(share)))
    }

    /// Returns an estimate of the percentile for `share` in all that might have been measured:
    /// `None` if fewer than 20 samples lie above it, and with fewer than [`LOWER_END_BELOW`] the
    /// lower end of its 95 % interval.
    fn estimate(&self, share: f64) -> Option<Duration> {
        let n = self.0.len() as f64;
        let beyond = n * (1.0 - share) * (1.0 + 1e-9);
        let below = if beyond < LOWER_END_BELOW { 2.0 * (share * beyond).sqrt() / n } else { 0.0 };
        (beyond >= 20.0).then(|| Duration::from_nanos(self.0.value_at_quantile(share - below)))
    }

    /// Returns the longest latency, or `None` if there are no samples.
    pub fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.max()))
    }

    /// Returns each recorded latency in nanoseconds with its count, rounded up by at most 2 %.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for step in self.0.iter_recorded() {
            let value = rounded_up(step.value_iterated_to());
            match counts.last_mut() {
                Some((last, count)) if *last == value => *count += step.count_at_value(),
                _ => counts.push((value, step.count_at_value())),
            }
        }
        counts
    }

    /// Returns the percentiles that reports show.
    pub fn percentiles(&self) -> Percentiles {
        self.percentiles_by(|share| self.percentile(share))
    }

    /// Returns the percentiles as estimates. Those with too few samples above them are `None`, or
    /// the lower end of an interval ([`is_lower_end`]).
    pub fn estimates(&self) -> Percentiles {
        self.percentiles_by(|share| self.estimate(share))
    }

    fn percentiles_by(&self, of: impl Fn(f64) -> Option<Duration>) -> Percentiles {
        let nanos = |share| of(share).map(|span| span.as_nanos() as u64);
        Percentiles {
            samples: self.len(),
            p50_ns: nanos(0.5),
            p90_ns: nanos(0.9),
            p99_ns: nanos(0.99),
            p99_9_ns: nanos(0.999),
            max_ns: self.max().map(|span| span.as_nanos() as u64),
        }
    }
}

/// Returns the last value with the same six leading bits.
fn rounded_up(value: u64) -> u64 {
    let bits = 58u32.saturating_sub(value.leading_zeros());
    (((value >> bits) + 1) << bits) - 1
}

impl Serialize for Latencies {
    /// Writes what [`percentiles`](Latencies::percentiles) returns.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.percentiles().serialize(to)
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

/// With fewer samples above it than this, an estimate is the lower end of an interval.
const LOWER_END_BELOW: f64 = 100.0;

/// Returns whether an estimate of the percentile for `share` is the lower end of its interval.
pub fn is_lower_end(samples: u64, share: f64) -> bool {
    samples as f64 * (1.0 - share) * (1.0 + 1e-9) < LOWER_END_BELOW
}

/// Percentiles in nanoseconds. A percentile with too few samples is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The number of samples.
    pub samples: u64,
    /// The median latency: p50.
    pub p50_ns: Option<u64>,
    /// The 90th percentile: p90.
    pub p90_ns: Option<u64>,
    /// The 99th percentile: p99.
    pub p99_ns: Option<u64>,
    /// The 99.9th percentile: p99.9.
    pub p99_9_ns: Option<u64>,
    /// The longest latency of all.
    pub max_ns: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: u64) -> Latencies {
        let mut latencies = Latencies::new();
        for i in 1..=n {
            latencies.record(Duration::from_micros(i));
        }
        latencies
    }

    #[test]
    fn a_percentile_needs_ten_samples_above_it() {
        assert_eq!(of(999).percentile(0.99), None);
        assert!(of(1000).percentile(0.99).is_some());
        assert_eq!(of(9_999).percentile(0.999), None);
        assert!(of(10_000).percentile(0.999).is_some());
        assert_eq!(Latencies::new().max(), None);
    }

    #[test]
    fn an_estimate_with_few_samples_above_it_is_a_lower_end_or_nothing() {
        let p99 = |n| of(n).estimates().p99_ns;
        assert_eq!(p99(1_999), None);
        assert!(is_lower_end(2_000, 0.99) && !is_lower_end(10_000, 0.99));
        // The 20 longest of 2,000 are above p99; the interval begins 2 * sqrt(19.8) samples lower.
        let low = p99(2_000).expect("20 are above it");
        assert!((1_968_000..1_974_000).contains(&low), "{low}");
        let exact = p99(10_000).expect("100 are above it");
        assert!((9_890_000..9_910_000).contains(&exact), "{exact}");
    }

    #[test]
    fn counts_are_those_that_were_recorded_within_two_percent() {
        let counts = of(10_000).counts();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 10_000);
        assert!(counts.is_sorted() && counts.len() < 700, "{}", counts.len());
        assert_eq!([0, 63, 64, 65, 130].map(rounded_up), [0, 63, 65, 65, 131]);
        let up_to =
            |nanos| counts.iter().take_while(|it| it.0 <= nanos).map(|it| it.1).sum::<u64>();
        assert!((4_900..=5_100).contains(&up_to(5_000_000)), "{}", up_to(5_000_000));
    }

    #[test]
    fn a_latency_above_a_minute_counts_as_a_minute() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(3600));
        latencies.record(Duration::ZERO);
        let max = latencies.max().expect("two were recorded");
        assert!(max >= Duration::from_secs(59) && max <= Duration::from_secs(70), "{max:?}");
        latencies.clear();
        assert!(latencies.is_empty());
    }
}
