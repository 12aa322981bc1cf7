//! The knee of a server: the highest rate that it holds, found by open loops of rising rate.
//!
//! A pass raises the rate by half until a step does not hold, and halves the ratio between the last
//! rate that held and the first that did not, until they are close. One pass is one draw: the knee
//! counts only if a second pass finds it again.

use std::time::Duration;

use minijinja::Value;
use serde::Serialize;

use super::error::Result;
use super::{Arrivals, Load, LoadSlice, Offer};
use proactor_report::histogram::Percentiles;
use proactor_report::template;

/// The factor between the rates of two steps before one does not hold.
const RISE: f64 = 1.5;
/// How close the rates that hold and do not hold must be.
const CLOSE: f64 = 1.04;
/// How close the two knees must be.
const AGREE: f64 = 1.05;
/// A step holds if this share of its offers is answered.
const HOLDS: f64 = 0.99;
/// A backlog grows if it doubles, by more than the messages of this time.
const GROWTH: Duration = Duration::from_millis(1);

/// The rates of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RampPlan {
    /// The first rate in messages per second.
    pub from: f64,
    /// The highest rate to try.
    pub to: f64,
    /// How the planned times are spread.
    pub arrivals: Arrivals,
}

/// One rate of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RampStep {
    /// The pass of the step: 1 or 2.
    pub pass: usize,
    /// The offered messages per second.
    pub offered_rate: f64,
    /// What the client measured.
    #[serde(flatten)]
    pub slice: LoadSlice,
    /// The messages per second that were answered.
    pub rate: f64,
    /// The times from plan to reply.
    pub latency: Percentiles,
    /// Whether the messages without a reply became more and more.
    pub grows: bool,
    /// Whether the server held the rate.
    pub holds: bool,
}

/// The result of a ramp.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "schema", rename = "proactor.load.ramp/1")]
pub struct Ramp {
    /// The address of the server.
    pub address: String,
    /// The rates to try.
    #[serde(flatten)]
    pub plan: RampPlan,
    /// The duration of a step.
    #[serde(rename = "step_ns", serialize_with = "proactor_report::units::as_nanos")]
    pub step: Duration,
    /// The steps in order.
    pub steps: Vec<RampStep>,
    /// The last rate that held, in each pass; `None` if not even the first did.
    pub knees: Vec<Option<f64>>,
    /// The knee: the lower one of both, if they agree.
    pub knee: Option<f64>,
    /// The highest rate held: the knee lies beyond it.
    pub held_all: bool,
}

impl Ramp {
    /// Runs the steps, each for `step`. `watch` receives the steps so far and the slice in
    /// progress; it returns false to end the ramp.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn run(
        load: &mut Load,
        address: String,
        plan: RampPlan,
        step: Duration,
        watch: &mut dyn FnMut(&[RampStep], &LoadSlice) -> bool,
    ) -> Result<Ramp> {
        let steps = Vec::new();
        let mut ramp =
            Ramp { address, plan, step, steps, knees: Vec::new(), knee: None, held_all: false };
        let mut from = plan.from;
        for _ in 0..2 {
            let Some(knee) = ramp.pass(load, from, watch)? else { return Ok(ramp) };
            ramp.knees.push(knee);
            match knee {
                Some(knee) if knee < plan.to => from = (knee / RISE).max(plan.from),
                held => {
                    ramp.held_all = held.is_some();
                    return Ok(ramp);
                }
            }
        }
        if let [Some(first), Some(second)] = ramp.knees[..] {
            let (low, high) = (first.min(second), first.max(second));
            ramp.knee = (high <= low * AGREE).then_some(low);
        }
        Ok(ramp)
    }

    /// Finds the knee once. Returns `None` if `watch` ended the ramp.
    fn pass(
        &mut self,
        load: &mut Load,
        from: f64,
        watch: &mut dyn FnMut(&[RampStep], &LoadSlice) -> bool,
    ) -> Result<Option<Option<f64>>> {
        let (mut held, mut failed) = (None, None);
        let mut rate = from;
        loop {
            let Some(step) = self.step(load, rate, watch)? else { return Ok(None) };
            if step.holds {
                held = Some(rate)
            } else {
                failed = Some(rate)
            }
            rate = match (held, failed) {
                (Some(held), None) if held < self.plan.to => (held * RISE).min(self.plan.to),
                (Some(held), Some(failed)) if failed > held * CLOSE => (held * failed).sqrt(),
                _ => return Ok(Some(held)),
            };
        }
    }

    fn step(
        &mut self,
        load: &mut Load,
        rate: f64,
        watch: &mut dyn FnMut(&[RampStep], &LoadSlice) -> bool,
    ) -> Result<Option<RampStep>> {
        load.set_offer(Offer { rate, arrivals: self.plan.arrivals });
        load.clear_latencies();
        let (mut backlogs, mut is_ended) = (Vec::new(), false);
        let slice = load.run(self.step, &mut |so_far| {
            if so_far.wall <= self.step {
                backlogs.push(so_far.offered.saturating_sub(so_far.messages) as f64);
            }
            is_ended |= !watch(&self.steps, so_far);
            !is_ended
        })?;
        if is_ended {
            return Ok(None);
        }
        let grows = grows(&backlogs, rate);
        // Of a step that ends late, what was answered in its time counts.
        let rate_answered = slice.rate();
        let holds = !grows && slice.unsent == 0 && rate_answered >= HOLDS * rate;
        let latency = load.latencies().estimates();
        self.steps.push(RampStep {
            pass: self.knees.len() + 1,
            offered_rate: rate,
            slice,
            rate: rate_answered,
            latency,
            grows,
            holds,
        });
        Ok(self.steps.last().copied())
    }

    /// Returns the result as text.
    pub fn text(&self) -> String {
        template::fill(include_str!("ramp.txt"), Value::from_serialize(self))
    }
}

/// Returns whether the backlog of a step grows from its first third to its last.
fn grows(backlogs: &[f64], rate: f64) -> bool {
    let third = backlogs.len() / 3;
    if third == 0 {
        return false;
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / third as f64;
    let (first, last) = (mean(&backlogs[..third]), mean(&backlogs[backlogs.len() - third..]));
    last > 2.0 * first && last - first > rate * GROWTH.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_grows_if_it_doubles_and_is_no_jitter() {
        let rate = 10_000.0;
        let rising: Vec<f64> = (0..10).map(|n| f64::from(n) * 50.0).collect();
        assert!(grows(&rising, rate));
        assert!(!grows(&[100.0; 10], rate), "as long as before");
        assert!(!grows(&[1.0, 1.0, 1.0, 8.0, 8.0, 8.0], rate), "less than a millisecond");
        assert!(!grows(&[0.0, 500.0], rate), "too short to say");
    }

    fn ramp(knees: &[Option<f64>], knee: Option<f64>, held_all: bool) -> String {
        let plan = RampPlan { from: 1000.0, to: 100_000.0, arrivals: Arrivals::Constant };
        let step = Duration::from_secs(1);
        let (address, steps) = ("127.0.0.1:7000".to_owned(), Vec::new());
        Ramp { address, plan, step, steps, knees: knees.to_vec(), knee, held_all }.text()
    }

    #[test]
    fn the_text_says_whether_the_knee_was_found_twice() {
        let found = ramp(&[Some(50_000.0), Some(51_000.0)], Some(50_000.0), false);
        assert!(found.contains("knee: 50.0k msg/s, found twice within 5 %"), "{found}");
        let apart = ramp(&[Some(50_000.0), Some(60_000.0)], None, false);
        assert!(apart.contains("not found twice within 5 %: 50.0k and 60.0k msg/s"), "{apart}");
        assert!(ramp(&[Some(100_000.0)], None, true).contains("beyond 100k msg/s"));
        assert!(ramp(&[None], None, false).contains("did not even hold 1.00k msg/s"));
        assert!(ramp(&[], None, false).contains("interrupted"));
    }
}
