//! How many connections come in a time.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::Nanos;

/// Connections in a time: `100/s`, or `30/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two connections of a steady stream.
    interval: Duration,
}

impl Rate {
    /// So many connections in each second: 1 to 1,000,000, or the nearer of both.
    pub fn per_second(connections: u32) -> Rate {
        Rate { interval: Duration::from_secs(1) / connections.clamp(1, 1_000_000) }
    }

    /// Returns how many connections come in a minute.
    pub fn per_minute(self) -> u64 {
        (Duration::from_secs(60).as_nanos() / self.interval.as_nanos()) as u64
    }

    /// As many connections may come at once as come in this time: a second, or if the rate is
    /// lower, the time between two.
    fn burst(self) -> Duration {
        self.interval.max(Duration::from_secs(1))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (number, per) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match per {
            "s" => 1,
            "m" => 60,
            _ => 0,
        };
        match number.parse::<u32>() {
            Ok(number @ 1..=1_000_000) if seconds > 0 => {
                Ok(Rate { interval: Duration::from_secs(seconds) / number })
            }
            _ => Err(format!("invalid rate {text:?}: write 100/s or 30/m, at most 1000000")),
        }
    }
}

/// A token bucket, as the moment when it will be full: each connection moves that on by the
/// interval of the rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// Takes a token. Returns when there will be one again, if that is not now.
    pub fn take(&mut self, rate: Rate, now: Nanos) -> Option<Nanos> {
        self.full_at = self.full_at.max(now) + rate.interval;
        self.empty_until(rate, now)
    }

    /// Returns when there will be a token, if there is none now.
    pub fn empty_until(&self, rate: Rate, now: Nanos) -> Option<Nanos> {
        let wait = self.full_at.since(now + (rate.burst() - rate.interval));
        (wait > Duration::ZERO).then(|| now + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1 << 40);

    #[test]
    fn a_bucket_holds_a_burst_of_a_second_and_fills_at_its_rate() {
        let (mut bucket, rate) = (Bucket::default(), Rate::per_second(10));
        let waits: Vec<_> = (0..12).map(|_| bucket.take(rate, NOW)).collect();
        let after = |millis| Some(NOW + Duration::from_millis(millis));
        assert_eq!(waits[8..], [None, after(100), after(200), after(300)]);
        let slow: Rate = "6/m".parse().unwrap();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(slow, NOW), after(10_000));
    }

    #[test]
    fn a_rate_is_so_many_a_second_or_a_minute() {
        assert_eq!("100/s".parse(), Ok(Rate::per_second(100)));
        assert_eq!("100".parse(), Ok(Rate::per_second(100)));
        assert_eq!("120/m".parse(), Ok(Rate::per_second(2)));
        for wrong in ["", "0", "0/s", "1/h", "-1/s", "1.5/s", "1000001/s"] {
            assert!(wrong.parse::<Rate>().unwrap_err().contains("100/s"), "{wrong}");
        }
    }
}
