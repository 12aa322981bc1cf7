//! Divides the time of a comparison among its phases.
//!
//! A phase gets its share of the *remaining* time. A phase that takes longer or shorter than
//! planned changes all later phases a little, and the comparison ends on time.

use std::time::Duration;

use crate::plan::{self, Budget};
use crate::sampling::PhaseLimit;
use proactor::clock::Nanos;
use proactor_load::LoadShape;

/// The deadline of a comparison, and the phases that remain.
#[derive(Debug)]
pub(crate) struct Schedule {
    budget: Budget,
    deadline: Nanos,
    /// The estimated seconds of all phases that have not begun.
    remaining: f64,
}

impl Schedule {
    /// Makes a schedule for these phases, from `now` on.
    pub(crate) fn new<'a>(
        budget: Budget,
        phases: impl Iterator<Item = (LoadShape, &'a [usize])>,
        now: Nanos,
    ) -> Schedule {
        let remaining: Duration = phases.map(|(load, phase)| plan::cost(load, phase)).sum();
        let span = match budget {
            Budget::Seconds(seconds) => Duration::from_secs(seconds),
            Budget::Rounds(_) => remaining,
        };
        Schedule { budget, deadline: now + span, remaining: remaining.as_secs_f64() }
    }

    /// Begins the next phase. Returns its deadline, including its setup.
    pub(crate) fn next(&mut self, load: LoadShape, phase: &[usize], now: Nanos) -> Nanos {
        let cost = plan::cost(load, phase).as_secs_f64();
        let part = cost / self.remaining.max(cost);
        self.remaining -= cost;
        now + self.left(now).mul_f64(part)
    }

    /// Returns the limit of a phase whose setup has ended. If the setup took most of its time, the
    /// phase may still take what a verdict needs, up to a third of the remaining time, so that time
    /// is left for the next phase.
    pub(crate) fn limit(&self, deadline: Nanos, now: Nanos) -> PhaseLimit {
        let (time, grace) = (deadline.since(now), self.left(now) / 3);
        match self.budget {
            Budget::Rounds(rounds) => PhaseLimit::rounds(rounds),
            Budget::Seconds(_) => PhaseLimit { rounds: u32::MAX, time, grace },
        }
    }

    /// Returns the remaining time.
    pub(crate) fn left(&self, now: Nanos) -> Duration {
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

    fn spans(limit: PhaseLimit) -> (f64, f64) {
        assert_eq!(limit.rounds, u32::MAX, "the budget is a time");
        (limit.time.as_secs_f64(), limit.grace.as_secs_f64())
    }

    fn elapsed(limit: PhaseLimit) -> f64 {
        spans(limit).0
    }

    fn schedule(phases: usize) -> Schedule {
        Schedule::new(Budget::Seconds(90), (0..phases).map(|_| (LOAD, PHASE)), at(0.0))
    }

    #[test]
    fn equal_phases_have_equal_shares_including_setup() {
        let mut schedule = schedule(3);
        let first = schedule.next(LOAD, PHASE, at(0.0));
        assert!((elapsed(schedule.limit(first, at(10.0))) - 20.0).abs() < 1e-6);
        let second = schedule.next(LOAD, PHASE, at(30.0));
        assert!((elapsed(schedule.limit(second, at(30.0))) - 30.0).abs() < 1e-6);
    }

    #[test]
    fn a_late_phase_shortens_all_that_follow_and_an_early_one_lengthens_them() {
        let mut schedule = schedule(3);
        schedule.next(LOAD, PHASE, at(0.0));
        let second = schedule.next(LOAD, PHASE, at(50.0));
        assert!((elapsed(schedule.limit(second, at(50.0))) - 20.0).abs() < 1e-6);
        let third = schedule.next(LOAD, PHASE, at(51.0));
        assert!((elapsed(schedule.limit(third, at(51.0))) - 39.0).abs() < 1e-6);
    }

    #[test]
    fn a_setup_that_took_all_leaves_a_third_of_the_rest_for_a_verdict() {
        let mut schedule = schedule(3);
        let first = schedule.next(LOAD, PHASE, at(0.0));
        let (limit, grace) = spans(schedule.limit(first, at(31.0)));
        assert_eq!(limit, 0.0);
        assert!((grace - 59.0 / 3.0).abs() < 1e-6, "{grace}");
        assert_eq!(spans(schedule.limit(first, at(90.0))), (0.0, 0.0), "no time is left");
    }
}
