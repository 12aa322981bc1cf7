//! When messages are planned to be sent in an open loop: a function of the seed, in nanoseconds.
//!
//! Nothing is stored for a message that is late: a second copy of the times, behind the first one,
//! returns when it was planned.

use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

use proactor::clock::Nanos;

/// How the planned times of an open loop are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Messages at equal intervals.
    #[default]
    Constant,
    /// Messages at random intervals, as independent clients send.
    Poisson,
    /// At equal intervals, ten times as often, in the first tenth of each 100 ms.
    Bursts,
}

/// The period of [`Arrivals::Bursts`], and how much faster than the mean its messages come.
const BURST_PERIOD: f64 = 100e6;
const BURST_FACTOR: f64 = 10.0;

/// What an open loop sends, whatever the server does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Offer {
    /// The messages per second, over all connections.
    #[serde(rename = "offered_rate")]
    pub rate: f64,
    /// How their times are spread.
    pub arrivals: Arrivals,
}

/// The planned times of one connection, from the next one on.
#[derive(Debug, Clone)]
pub(super) struct SendTimes {
    start: Nanos,
    /// The nanoseconds from the start to the next time, before bursts are formed.
    next: f64,
    interval: f64,
    arrivals: Arrivals,
    random: Rng,
}

impl SendTimes {
    /// Plans the times of connection `at` of `connections`, which have an equal share of the rate.
    pub(super) fn new(
        offer: Offer,
        start: Nanos,
        at: usize,
        connections: usize,
        seed: u64,
    ) -> SendTimes {
        let between = 1e9 / offer.rate;
        let mut times = SendTimes {
            start,
            next: between * at as f64,
            interval: between * connections as f64,
            arrivals: offer.arrivals,
            random: Rng::with_seed(seed ^ (at as u64).rotate_left(32)),
        };
        if offer.arrivals == Arrivals::Poisson {
            times.next = times.random_interval();
        }
        times
    }

    /// Returns the next time.
    pub(super) fn next(&self) -> Nanos {
        let nanos = match self.arrivals {
            Arrivals::Bursts => {
                let period = (self.next / BURST_PERIOD).floor() * BURST_PERIOD;
                period + (self.next - period) / BURST_FACTOR
            }
            _ => self.next,
        };
        self.start + Duration::from_nanos(nanos as u64)
    }

    /// Returns the next time, and goes on to the one after it.
    pub(super) fn take(&mut self) -> Nanos {
        let time = self.next();
        self.next += match self.arrivals {
            Arrivals::Poisson => self.random_interval(),
            _ => self.interval,
        };
        time
    }

    /// Returns an interval of the exponential distribution.
    fn random_interval(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln() * self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos(1_000_000_000);

    /// The planned times of all connections in the first second, in order.
    fn times(arrivals: Arrivals, rate: f64) -> Vec<Nanos> {
        let of = |at| {
            let mut times = SendTimes::new(Offer { rate, arrivals }, Nanos(0), at, 4, 7);
            std::iter::from_fn(move || Some(times.take())).take_while(|&time| time < SECOND)
        };
        let mut all: Vec<_> = (0..4).flat_map(of).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn constant_times_are_equally_far_apart_over_all_connections() {
        let times = times(Arrivals::Constant, 1000.0);
        assert_eq!(times.len(), 1000);
        let exact = (0..1000).map(|n| Nanos(n * 1_000_000));
        assert!(times.into_iter().eq(exact));
    }

    #[test]
    fn poisson_times_have_the_rate_and_its_spread() {
        let times = times(Arrivals::Poisson, 10_000.0);
        let n = times.len() as f64;
        assert!((n - 10_000.0).abs() < 400.0, "{n} is four standard deviations off");
        let intervals = times.windows(2).map(|two| two[1].since(two[0]).as_nanos() as f64);
        let above = intervals.filter(|&nanos| nanos > 100_000.0).count() as f64;
        assert!((above / n - (-1.0_f64).exp()).abs() < 0.02, "{above} of {n} exceed the mean");
    }

    #[test]
    fn bursts_are_in_the_first_tenth_of_their_period() {
        let times = times(Arrivals::Bursts, 1000.0);
        assert_eq!(times.len(), 1000);
        assert!(times.iter().all(|time| time.0 % 100_000_000 < 10_000_000));
    }

    #[test]
    fn a_copy_plans_the_same_times() {
        let offer = Offer { rate: 500.0, arrivals: Arrivals::Poisson };
        let mut first = SendTimes::new(offer, SECOND, 1, 2, 9);
        let mut second = first.clone();
        let taken: Vec<_> = (0..100).map(|_| first.take()).collect();
        assert!(taken.into_iter().eq((0..100).map(|_| second.take())));
    }
}
