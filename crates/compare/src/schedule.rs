//! Dividing the time of a comparison among its phases.
//!
//! A phase gets its part of what is *left*, so that one that took longer than thought, or less,
//! shortens or lengthens all that follow by a little, and the end is where it was promised.

use std::time::Duration;

use super::plan::{self, Budget};
use super::rounds::Until;
use proactor::clock::Nanos;
use proactor_load::LoadShape;

/// When a comparison is to be over, and what is still to be done.
#[derive(Debug)]
pub struct Schedule {
    budget: Budget,
    deadline: Nanos,
    /// The cost of all phases that have not begun, in seconds by the plan's reckoning.
    ahead: f64,
}

/// What a phase may take: until when, its set-up included.
#[derive(Debug, Clone, Copy)]
pub struct Share(Nanos);

impl Schedule {
    /// For these phases, from `now` on.
    pub fn new<'a>(
        budget: Budget,
        phases: impl Iterator<Item = (LoadShape, &'a [usize])>,
        now: Nanos,
    ) -> Schedule {
        let ahead: Duration = phases.map(|(load, phase)| plan::cost(load, phase)).sum();
        let span = match budget {
            Budget::Seconds(seconds) => Duration::from_secs(seconds),
            Budget::Rounds(_) => ahead,
        };
        Schedule { budget, deadline: now + span, ahead: ahead.as_secs_f64() }
    }

    /// The part of the next phase, which begins now.
    pub fn next(&mut self, load: LoadShape, phase: &[usize], now: Nanos) -> Share {
        let cost = plan::cost(load, phase).as_secs_f64();
        let part = cost / self.ahead.max(cost);
        self.ahead -= cost;
        Share(now + self.left(now).mul_f64(part))
    }

    /// When a phase that has been set up by `now` is over. If that took most of its part, it may
    /// still take what a verdict needs, unless that is more than a third of all that is left: so
    /// there is always something left for the next.
    pub fn until(&self, Share(until): Share, now: Nanos) -> Until {
        match self.budget {
            Budget::Rounds(rounds) => Until::Rounds(rounds),
            Budget::Seconds(_) => {
                Until::Elapsed { limit: until.since(now), grace: self.left(now) / 3 }
            }
        }
    }

    /// How long it will yet take.
    pub fn left(&self, now: Nanos) -> Duration {
        self.deadline.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASE: &[usize] = &[2];
    const LOAD: LoadShape = LoadShape { connections: 10, size: 64, depth: 1 };

    fn at(seconds: f64) -> Nanos {
        Nanos(1_000_000_000) + Duration::from_secs_f64(seconds)
    }

    fn spans(until: Until) -> (f64, f64) {
        match until {
            Until::Elapsed { limit, grace } => (limit.as_secs_f64(), grace.as_secs_f64()),
            Until::Rounds(_) => panic!("it is by time"),
        }
    }

    fn elapsed(until: Until) -> f64 {
        spans(until).0
    }

    fn schedule(phases: usize) -> Schedule {
        Schedule::new(Budget::Seconds(90), (0..phases).map(|_| (LOAD, PHASE)), at(0.0))
    }

    #[test]
    fn equal_phases_have_equal_parts_and_set_up_is_in_them() {
        let mut schedule = schedule(3);
        let first = schedule.next(LOAD, PHASE, at(0.0));
        assert!((elapsed(schedule.until(first, at(10.0))) - 20.0).abs() < 1e-6);
        let second = schedule.next(LOAD, PHASE, at(30.0));
        assert!((elapsed(schedule.until(second, at(30.0))) - 30.0).abs() < 1e-6);
    }

    #[test]
    fn who_is_late_takes_it_from_all_that_follow_and_who_is_early_leaves_it_to_them() {
        let mut schedule = schedule(3);
        schedule.next(LOAD, PHASE, at(0.0));
        let second = schedule.next(LOAD, PHASE, at(50.0));
        assert!((elapsed(schedule.until(second, at(50.0))) - 20.0).abs() < 1e-6);
        let third = schedule.next(LOAD, PHASE, at(51.0));
        assert!((elapsed(schedule.until(third, at(51.0))) - 39.0).abs() < 1e-6);
    }

    #[test]
    fn a_set_up_that_took_all_leaves_a_third_of_the_rest_for_a_verdict() {
        let mut schedule = schedule(3);
        let first = schedule.next(LOAD, PHASE, at(0.0));
        let (limit, grace) = spans(schedule.until(first, at(31.0)));
        assert_eq!(limit, 0.0);
        assert!((grace - 59.0 / 3.0).abs() < 1e-6, "{grace}");
        assert_eq!(spans(schedule.until(first, at(90.0))), (0.0, 0.0), "nothing is left at all");
    }
}
