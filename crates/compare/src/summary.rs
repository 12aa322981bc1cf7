//! From slices to results: medians, ratios, verdicts and warnings. Pure functions.

use crate::plan::CONTROL;
use crate::results::{Measured, Outcome, ResultTable};
use crate::sampling::{Pair, Round, Sample};
use crate::verdict::{self, Ratio, Verdict};
use crate::warning::{TableWarning, Warning};
use proactor_load::LoadShape;
use proactor_report::stats;

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

/// The ratios of one participant to the baseline, one for each round.
struct PairRatios {
    rates: Vec<f64>,
    cpus: Vec<f64>,
}

/// Makes the results of a load.
pub(crate) fn table(
    load: LoadShape,
    mut participants: Vec<Outcome>,
    rounds: Vec<Round>,
) -> ResultTable {
    let ratios: Vec<PairRatios> = (0..participants.len())
        .map(|at| {
            let pairs: Vec<Pair> = pairs(&rounds, at).collect();
            let (rates, cpus) = pairs.iter().map(|pair| (pair.rate, pair.cpu)).unzip();
            PairRatios { rates, cpus }
        })
        .collect();
    let noise_floor = |of: fn(&PairRatios) -> &[f64]| {
        verdict::noise_floor(ratios.get(CONTROL).and_then(|control| Ratio::of(of(control))))
    };
    let (rate_noise_floor, cpu_noise_floor) = (noise_floor(rates), noise_floor(cpus));
    let is_disturbed = is_disturbed(&rounds);

    for (at, outcome) in participants.iter_mut().enumerate() {
        if outcome.reason.is_none() {
            let samples: Vec<Sample> = samples(&rounds, at).collect();
            outcome.measured = measured(&samples, &ratios[at], outcome);
            if outcome.measured.is_none() {
                outcome.reason = Some("no round was completed".to_owned());
            }
        }
    }

    let judged: Vec<usize> = (0..participants.len())
        .filter(|&at| participants[at].is_compared() && participants[at].measured.is_some())
        .collect();
    let verdicts = |of: fn(&PairRatios) -> &[f64], floor| {
        let models: Vec<&[f64]> = judged.iter().map(|&at| of(&ratios[at])).collect();
        verdict::judge(&models, floor)
    };
    let found = verdicts(rates, rate_noise_floor).into_iter().zip(verdicts(cpus, cpu_noise_floor));
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

fn rates(ratios: &PairRatios) -> &[f64] {
    &ratios.rates
}

fn cpus(ratios: &PairRatios) -> &[f64] {
    &ratios.cpus
}

fn samples(rounds: &[Round], participant: usize) -> impl Iterator<Item = Sample> {
    let samples = rounds.iter().flat_map(|round| &round.slices).copied();
    samples.filter(move |sample| sample.participant == participant)
}

fn pairs(rounds: &[Round], participant: usize) -> impl Iterator<Item = Pair> {
    rounds.iter().flat_map(Round::pairs).filter(move |pair| pair.participant == participant)
}

fn measured(samples: &[Sample], ratios: &PairRatios, outcome: &Outcome) -> Option<Measured> {
    let median = |of: fn(&Sample) -> f64| -> Option<f64> {
        stats::median(&samples.iter().map(of).collect::<Vec<f64>>())
    };
    let calls = outcome.stats.as_ref().map(|stats| stats.counters.calls as f64);
    Some(Measured {
        slices: samples.len(),
        rate: median(Sample::rate)?,
        cpu_us: median(Sample::cpu_per_message)? * 1e6,
        rate_ratio: Ratio::of(&ratios.rates),
        cpu_ratio: Ratio::of(&ratios.cpus),
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
    /// Returns the number of verified replies.
    pub fn messages(&self) -> u64 {
        self.participants.iter().map(|participant| participant.messages).sum()
    }

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

    /// Returns the names of the participants whose numbers have a property.
    fn names(&self, property: fn(&Measured) -> bool) -> Vec<String> {
        let with = self
            .participants
            .iter()
            .filter(|participant| participant.measured.as_ref().is_some_and(property));
        with.map(|participant| participant.spec.name.clone()).collect()
    }
}

/// Returns the warnings about a table. `engine` is the name of the client's engine.
pub(crate) fn warnings(table: &ResultTable, engine: &str) -> Vec<Warning> {
    let mut warnings = rounds_warnings(table);
    warnings.extend(
        table
            .rate_noise_floor
            .filter(|&floor| floor > NOISE_FLOOR_WARN)
            .map(TableWarning::NoiseFloor),
    );
    let steal: Vec<f64> = table.rounds.iter().filter_map(|round| round.steal).collect();
    let mean = steal.iter().sum::<f64>() / steal.len().max(1) as f64;
    if table.is_disturbed {
        warnings.push(TableWarning::Disturbed(STEAL_MAX));
    } else if mean > STEAL_WARN {
        warnings.push(TableWarning::Steal(mean));
    }
    let has_faster_engine = engine != "uring";
    let about = |names: Vec<String>, warning: &dyn Fn(Vec<String>) -> TableWarning| {
        (!names.is_empty()).then(|| warning(names))
    };
    let bound = |names| TableWarning::ClientBound { names, has_faster_engine };
    warnings.extend(about(
        table.names(|measured| measured.server_waiting > WAITING_MAX),
        &TableWarning::CpuContention,
    ));
    warnings.extend(about(table.names(|measured| measured.is_client_bound), &bound));
    warnings.extend(about(table.names(|measured| measured.is_spinning), &TableWarning::Spinning));
    let connections = table.load.connections;
    warnings.into_iter().map(|warning| Warning::Table { connections, warning }).collect()
}

fn rounds_warnings(table: &ResultTable) -> Vec<TableWarning> {
    let mut warnings = Vec::new();
    if table.rounds.is_empty() {
        return warnings;
    }
    if table.rate_noise_floor.is_none() || table.cpu_noise_floor.is_none() {
        warnings.push(TableWarning::FewRounds(table.round_count(CONTROL)));
    }
    let few: Vec<String> = (CONTROL + 1..table.participants.len())
        .filter(|&at| (1..stats::VALUES_MIN).contains(&table.round_count(at)))
        .map(|at| table.participants[at].spec.name.clone())
        .collect();
    if table.rate_noise_floor.is_some() && !few.is_empty() {
        warnings.push(TableWarning::FewRoundsOf(few));
    }
    warnings
}
