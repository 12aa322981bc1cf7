//! From slices to results: medians, ratios, verdicts and warnings. Pure functions.

use crate::plan::{CONTROL, Role};
use crate::results::{Measured, Outcome, ResultTable};
use crate::sampling::{Pair, Round, Sample};
use crate::verdict::{self, Ratio, Verdict};
use proactor_load::LoadShape;
use proactor_report::stats::{self, VALUES_MIN};
use proactor_report::units::{agree, percent, plural};

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
    let noise_floor = |ratios: &[Vec<f64>]| {
        verdict::noise_floor(ratios.get(CONTROL).and_then(|control| Ratio::of(control)))
    };
    let (rate_noise_floor, cpu_noise_floor) = (noise_floor(&rates), noise_floor(&cpus));
    let is_disturbed = is_disturbed(&rounds);

    for (at, outcome) in participants.iter_mut().enumerate() {
        if outcome.reason.is_none() {
            let samples: Vec<Sample> = samples(&rounds, at).collect();
            outcome.measured = measured(&samples, &rates[at], &cpus[at], outcome);
            if outcome.measured.is_none() {
                outcome.reason = Some("no round was completed".to_owned());
            }
        }
    }

    let judged: Vec<usize> = (0..count)
        .filter(|&at| {
            participants[at].spec.role == Role::Model && participants[at].measured.is_some()
        })
        .collect();
    let verdicts = |ratios: &[Vec<f64>], floor| {
        let models: Vec<&[f64]> = judged.iter().map(|&at| &*ratios[at]).collect();
        verdict::judge(&models, floor)
    };
    let cpu_verdicts = verdicts(&cpus, cpu_noise_floor);
    let found = verdicts(&rates, rate_noise_floor).into_iter().zip(cpu_verdicts);
    let is_bound = |outcome: &Outcome| outcome.measured.as_ref().is_some_and(|m| m.is_client_bound);
    let baseline_bound = participants.first().is_some_and(is_bound);
    for (&at, (rate, cpu)) in judged.iter().zip(found) {
        if let Some(measured) = &mut participants[at].measured {
            // If the client limited the rate of either side, the ratio says nothing.
            let no_rate = is_disturbed || baseline_bound || measured.is_client_bound;
            measured.rate_verdict = Some(if no_rate { Verdict::Invalid } else { rate });
            measured.cpu_verdict = Some(if is_disturbed { Verdict::Invalid } else { cpu });
        }
    }
    ResultTable { load, participants, rounds, rate_noise_floor, cpu_noise_floor, is_disturbed }
}

fn samples(rounds: &[Round], participant: usize) -> impl Iterator<Item = Sample> {
    let samples = rounds.iter().flat_map(|round| &round.slices).copied();
    samples.filter(move |sample| sample.participant == participant)
}

fn pairs(rounds: &[Round], participant: usize) -> impl Iterator<Item = Pair> {
    rounds.iter().flat_map(Round::pairs).filter(move |pair| pair.participant == participant)
}

fn measured(
    samples: &[Sample],
    rates: &[f64],
    cpus: &[f64],
    outcome: &Outcome,
) -> Option<Measured> {
    let median = |of: fn(&Sample) -> f64| -> Option<f64> {
        stats::median(&samples.iter().map(of).collect::<Vec<f64>>())
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
        let counts = || {
            let pairs = (CONTROL..self.participants.len()).map(|at| self.round_count(at));
            pairs.filter(|&rounds| rounds > 0)
        };
        (counts().min().unwrap_or(0), counts().max().unwrap_or(0))
    }

    fn round_count(&self, participant: usize) -> usize {
        pairs(&self.rounds, participant).count()
    }

    /// Returns the names of the participants whose numbers have a property, if there are any.
    fn names(&self, property: fn(&Measured) -> bool) -> Option<String> {
        let has = |one: &&Outcome| one.measured.as_ref().is_some_and(property);
        joined(self.participants.iter().filter(has))
    }
}

fn joined<'a>(participants: impl Iterator<Item = &'a Outcome>) -> Option<String> {
    let names: Vec<&str> = participants.map(|one| one.spec.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns the warnings about a table. `engine` is the name of the client's engine.
pub(crate) fn warnings(table: &ResultTable, engine: &str) -> Vec<String> {
    let mut warnings = rounds_warnings(table);
    if let Some(floor) = table.rate_noise_floor.filter(|&floor| floor > NOISE_FLOOR_WARN) {
        warnings.push(format!(
            "the baseline differs from itself by up to {}: smaller differences of msg/s cannot be \
             found. Use a quieter machine, or more --time.",
            percent(floor)
        ));
    }
    let steal: Vec<f64> = table.rounds.iter().filter_map(|round| round.steal).collect();
    let mean = steal.iter().sum::<f64>() / steal.len().max(1) as f64;
    if table.is_disturbed {
        warnings.push(format!(
            "the host took more than {} of the CPU time in over a quarter of the rounds: no \
             verdict is valid. Repeat the run when the host is idle.",
            percent(STEAL_MAX)
        ));
    } else if mean > STEAL_WARN {
        let share = percent(mean);
        warnings.push(format!("the host took {share} of the CPU time: expect wide intervals."));
    }
    if let Some(names) = table.names(|measured| measured.server_waiting > WAITING_MAX) {
        warnings.push(format!(
            "another program used the CPU of busy servers ({names}): their msg/s are too low. Stop \
             other programs."
        ));
    }
    if let Some(names) = table.names(|measured| measured.is_client_bound) {
        let faster = if engine == "uring" { "" } else { ", or --engine uring" };
        warnings.push(format!(
            "the client did not keep all servers busy ({names}): their msg/s, marked ≥, are those \
             of the client, and only CPU per message is compared. Use more --connections{faster}."
        ));
    }
    if let Some(names) = table.names(|measured| measured.is_spinning) {
        warnings.push(format!(
            "{names} used CPU time while idle, which adds to its own CPU per message. A server that \
             does so from the start is stopped during the slices of the others."
        ));
    }
    let load = plural(table.load.connections as u64, "connection");
    warnings.into_iter().map(|warning| format!("at {load} {warning}")).collect()
}

fn rounds_warnings(table: &ResultTable) -> Vec<String> {
    let mut warnings = Vec::new();
    if table.rounds.is_empty() {
        return warnings;
    }
    if table.rate_noise_floor.is_none() || table.cpu_noise_floor.is_none() {
        let rounds = table.round_count(CONTROL) as u64;
        warnings.push(format!(
            "there {} {}; a verdict needs {VALUES_MIN}. Use more --time or --rounds.",
            agree(rounds, "is", "are"),
            plural(rounds, "round")
        ));
    }
    let has_few = |at: &usize| (1..VALUES_MIN).contains(&table.round_count(*at));
    let few = (CONTROL + 1..table.participants.len()).filter(has_few);
    let few = joined(few.map(|at| &table.participants[at]));
    if let Some(names) = few.filter(|_| table.rate_noise_floor.is_some()) {
        warnings.push(format!(
            "there were fewer than {VALUES_MIN} rounds of {names}, which therefore have no verdict. \
             Use more --time or --rounds."
        ));
    }
    warnings
}
