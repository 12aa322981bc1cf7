//! From slices to results: medians, ratios, verdicts and warnings. Pure functions.

use minijinja::context;

use crate::plan::{CONTROL, Role};
use crate::results::{Measured, Outcome, ResultTable};
use crate::sampling::{Pair, Round, Sample};
use crate::verdict::{self, Ratio, Verdict};
use proactor_load::LoadShape;
use proactor_report::stats::{self, VALUES_MIN};
use proactor_report::template;
use proactor_report::units::plural;

/// A server that uses more of a CPU than this while it is idle is spinning.
pub(crate) const SPINNING: f64 = 0.05;
/// A server that was runnable for less of its median slice than this waited for the client.
const SATURATED: f64 = 0.90;
/// A server that waited for its CPU for more of its median slice than this was disturbed.
const WAITING_MAX: f64 = 0.05;
/// A round in which the host took a larger share of the CPU time than this is disturbed.
const STEAL_MAX: f64 = 0.02;
/// With a larger share of disturbed rounds, no verdict is valid.
const DISTURBED_MAX: f64 = 0.25;
/// A larger share of CPU time that the host took is a warning.
const STEAL_WARN: f64 = 0.01;
/// A larger noise floor is a warning.
const NOISE_FLOOR_WARN: f64 = 0.05;

/// Makes the results of a load.
pub(crate) fn table(
    load: LoadShape,
    mut participants: Vec<Outcome>,
    rounds: Vec<Round>,
) -> ResultTable {
    let count = participants.len();
    // The ratios of each participant to the baseline, one for each round.
    let ratios = |of: fn(Pair) -> f64| -> Vec<Vec<f64>> {
        (0..count).map(|at| pairs(&rounds, at).map(of).collect()).collect()
    };
    let (rates, cpus) = (ratios(|pair| pair.rate), ratios(|pair| pair.cpu));
    for (at, outcome) in participants.iter_mut().enumerate() {
        if outcome.reason.is_none() {
            outcome.measured = measured(&rounds, at, (&rates[at], &cpus[at]), outcome);
            if outcome.measured.is_none() {
                outcome.reason = Some("no round was completed".to_owned());
            }
        }
    }
    let is_judged = |at: &usize| {
        participants[*at].spec.role == Role::Model && participants[*at].measured.is_some()
    };
    let judged: Vec<usize> = (0..count).filter(is_judged).collect();
    let judge = |ratios: &[Vec<f64>]| {
        let control = ratios.get(CONTROL).and_then(|control| Ratio::of(control));
        let models: Vec<&[f64]> = judged.iter().map(|&at| &*ratios[at]).collect();
        let floor = verdict::noise_floor(control);
        (floor, verdict::judge(&models, floor))
    };
    let (rate_noise_floor, rate_verdicts) = judge(&rates);
    let (cpu_noise_floor, cpu_verdicts) = judge(&cpus);

    let is_disturbed = is_disturbed(&rounds);
    let is_bound = |outcome: &Outcome| outcome.measured.as_ref().is_some_and(|m| m.is_client_bound);
    let baseline_bound = participants.first().is_some_and(is_bound);
    for (&at, (rate, cpu)) in judged.iter().zip(rate_verdicts.into_iter().zip(cpu_verdicts)) {
        if let Some(measured) = &mut participants[at].measured {
            // If the client limited the rate of either side, the ratio says nothing.
            let no_rate = is_disturbed || baseline_bound || measured.is_client_bound;
            measured.rate_verdict = Some(if no_rate { Verdict::Invalid } else { rate });
            measured.cpu_verdict = Some(if is_disturbed { Verdict::Invalid } else { cpu });
        }
    }
    ResultTable { load, participants, rounds, rate_noise_floor, cpu_noise_floor, is_disturbed }
}

fn pairs(rounds: &[Round], participant: usize) -> impl Iterator<Item = Pair> {
    rounds.iter().flat_map(Round::pairs).filter(move |pair| pair.participant == participant)
}

/// Returns the numbers of the participant `at`, or `None` if it has no slice.
fn measured(
    rounds: &[Round],
    at: usize,
    (rates, cpus): (&[f64], &[f64]),
    outcome: &Outcome,
) -> Option<Measured> {
    let all = rounds.iter().flat_map(|round| &round.slices);
    let samples: Vec<&Sample> = all.filter(|sample| sample.participant == at).collect();
    let median = |of: fn(&Sample) -> f64| -> Option<f64> {
        stats::median(&samples.iter().map(|sample| of(sample)).collect::<Vec<f64>>())
    };
    let calls = outcome.stats.as_ref().map(|stats| stats.counters.calls as f64);
    Some(Measured {
        slices: samples.len(),
        rate: median(Sample::rate)?,
        cpu_us: median(Sample::cpu_per_message)? * 1e6,
        rate_ratio: Ratio::of(rates),
        cpu_ratio: Ratio::of(cpus),
        rate_verdict: None,
        cpu_verdict: None,
        server_busy: median(Sample::server_busy)?,
        server_waiting: median(Sample::server_waiting)?,
        client_busy: median(|sample| sample.slice.busy())?,
        is_client_bound: median(Sample::server_runnable)? < SATURATED,
        is_spinning: median(|sample| sample.server_idle_cpu_share)? > SPINNING,
        calls_per_message: calls.map(|calls| calls / outcome.messages.max(1) as f64),
    })
}

fn is_disturbed(rounds: &[Round]) -> bool {
    let disturbed = rounds.iter().filter(|round| round.steal.is_some_and(|s| s > STEAL_MAX));
    disturbed.count() as f64 > rounds.len() as f64 * DISTURBED_MAX
}

impl ResultTable {
    /// Returns the smallest and the largest number of rounds of a measured participant.
    pub(crate) fn rounds_range(&self) -> (usize, usize) {
        let all = (CONTROL..self.participants.len()).map(|at| self.round_count(at));
        let counts: Vec<usize> = all.filter(|&rounds| rounds > 0).collect();
        (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0))
    }

    fn round_count(&self, participant: usize) -> usize {
        pairs(&self.rounds, participant).count()
    }
}

/// Returns the warnings about a table. `engine` is the name of the client's engine.
pub(crate) fn warnings(table: &ResultTable, engine: &str) -> Vec<String> {
    let names = |applies: &dyn Fn(usize) -> bool| -> Vec<&str> {
        let found = (0..table.participants.len()).filter(|&at| applies(at));
        found.map(|at| table.participants[at].spec.name.as_str()).collect()
    };
    let measured = |property: fn(&Measured) -> bool| {
        names(&|at| table.participants[at].measured.as_ref().is_some_and(property))
    };
    let (rate_floor, cpu_floor) = (table.rate_noise_floor, table.cpu_noise_floor);
    let has_no_floor = !table.rounds.is_empty() && (rate_floor.is_none() || cpu_floor.is_none());
    let is_short = |at| at > CONTROL && (1..VALUES_MIN).contains(&table.round_count(at));
    let steal: Vec<f64> = table.rounds.iter().filter_map(|round| round.steal).collect();
    let mean = steal.iter().sum::<f64>() / steal.len().max(1) as f64;
    let values = context! {
        engine,
        values_min => VALUES_MIN,
        rounds => has_no_floor.then(|| table.round_count(CONTROL)),
        few => rate_floor.map(|_| names(&is_short)),
        noise_floor => rate_floor.filter(|&floor| floor > NOISE_FLOOR_WARN),
        is_disturbed => table.is_disturbed,
        steal_max => STEAL_MAX,
        steal => (mean > STEAL_WARN).then_some(mean),
        waiting => measured(|measured| measured.server_waiting > WAITING_MAX),
        bound => measured(|measured| measured.is_client_bound),
        spinning => measured(|measured| measured.is_spinning),
    };
    let load = plural(table.load.connections as u64, "connection");
    let text = template::fill(include_str!("warnings.txt"), values);
    text.lines().map(|warning| format!("at {load} {warning}")).collect()
}
