//! The time that a comparison still needs, for those that wait for it.

use std::time::Duration;

use proactor::clock::Nanos;

/// The parts of a comparison that have not ended.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// The estimated time of all parts that have not begun.
    ahead: Duration,
    /// When the current part began, and its estimated time.
    current: (Nanos, Duration),
}

impl Schedule {
    /// Makes a schedule of parts that take `ahead` together.
    pub(crate) fn new(ahead: Duration) -> Schedule {
        Schedule { ahead, current: (Nanos(0), Duration::ZERO) }
    }

    /// Begins the next part, which was estimated to take `cost`.
    pub(crate) fn begin(&mut self, cost: Duration, now: Nanos) {
        self.ahead = self.ahead.saturating_sub(cost);
        self.current = (now, cost);
    }

    /// Adds a part that was not expected.
    pub(crate) fn add(&mut self, cost: Duration) {
        self.ahead += cost;
    }

    /// Returns the remaining time.
    pub(crate) fn left(&self, now: Nanos) -> Duration {
        let (began, cost) = self.current;
        self.ahead + cost.saturating_sub(now.since(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_its_time_from_what_is_left() {
        let second = Duration::from_secs(1);
        let mut schedule = Schedule::new(10 * second);
        assert_eq!(schedule.left(Nanos(0)), 10 * second);
        schedule.begin(2 * second, Nanos(1_000_000_000));
        assert_eq!(schedule.left(Nanos(2_000_000_000)), 9 * second);
        assert_eq!(
            schedule.left(Nanos(9_000_000_000)),
            8 * second,
            "it takes longer than expected"
        );
        schedule.add(second);
        schedule.begin(2 * second, Nanos(9_000_000_000));
        assert_eq!(schedule.left(Nanos(9_000_000_000)), 9 * second);
    }
}
