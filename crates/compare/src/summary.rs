//! From slices to rows: medians, ratios, findings. Pure functions of what was measured.

use serde::Serialize;

use super::heat::SPINNING;
use super::plan::{AGAIN, Entrant, Role};
use super::rounds::{Pair, Round, Sample};
use super::verdict::{self, Finding, Ratio};
use super::{Heat, Outcome};
use proactor_load::LoadShape;
use proactor_report::{stats, units};

/// A server that had less to do than this in its median slice was not at its limit: it waited for
/// the client.
const SATURATED: f64 = 0.90;
/// A server that waited longer than this for its CPU in the median slice was disturbed.
const CROWDED: f64 = 0.05;
/// The host took more than this from a round that is disturbed, …
const STEAL_MAX: f64 = 0.02;
/// … and more than this share of disturbed rounds makes all of them worthless.
const DISTURBED_MAX: f64 = 0.25;
/// From here on, steal is worth a warning.
const STEAL_WARN: f64 = 0.01;
/// From here on, a floor is worth a warning.
const FLOOR_WARN: f64 = 0.05;

/// One entrant's row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// In which part it took part.
    pub role: Role,
    /// Why there are no numbers; then `measured` is absent.
    pub reason: Option<String>,
    /// The numbers.
    pub measured: Option<Measured>,
}

/// What was measured of one entrant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Of how many slices.
    pub slices: usize,
    /// Messages per second: the median of the slices.
    pub rate: f64,
    /// Server CPU per message in microseconds: the median of the slices.
    pub cpu_us: f64,
    /// The rate relative to the baseline's; `None` for the baseline.
    pub rate_ratio: Option<Ratio>,
    /// CPU per message relative to the baseline's; `None` for the baseline.
    pub cpu_ratio: Option<Ratio>,
    /// What may be said of the rate; `None` for the baseline and its double.
    pub rate_finding: Option<Finding>,
    /// What may be said of CPU per message; `None` for the baseline and its double.
    pub cpu_finding: Option<Finding>,
    /// The share of the median slice for which the server was on a CPU.
    pub server_busy: f64,
    /// The share of the median slice for which it waited for a CPU that something else had.
    pub server_crowded: f64,
    /// The share of the median slice for which the client had something to do.
    pub client_busy: f64,
    /// The server was not kept busy: `rate` is what the client asked of it, at least.
    pub is_client_bound: bool,
    /// The server uses a CPU while nobody asks: that is in `cpu_us`.
    pub is_spinning: bool,
    /// System calls of the server per message, over its whole life.
    pub calls_per_message: Option<f64>,
}

/// Makes the rows of a load.
pub(super) fn heat(
    shape: LoadShape,
    entrants: Vec<Entrant>,
    rounds: Vec<Round>,
    servers: Vec<Outcome>,
) -> Heat {
    let pairs: Vec<Pair> = rounds.iter().flat_map(Round::pairs).collect();
    let ratios = |entrant: usize, of: fn(&Pair) -> f64| -> Vec<f64> {
        pairs.iter().filter(|pair| pair.entrant == entrant).map(of).collect()
    };
    let rates: Vec<Vec<f64>> = (0..entrants.len()).map(|e| ratios(e, |pair| pair.rate)).collect();
    let cpus: Vec<Vec<f64>> = (0..entrants.len()).map(|e| ratios(e, |pair| pair.cpu)).collect();
    let again = entrants.iter().position(|entrant| entrant.role == Role::Again);
    let floor = |of: &[Vec<f64>]| verdict::floor(again.and_then(|at| Ratio::of(&of[at])).as_ref());
    let (rate_floor, cpu_floor) = (floor(&rates), floor(&cpus));
    let is_disturbed = is_disturbed(&rounds);

    let mut rows: Vec<Row> = entrants
        .iter()
        .enumerate()
        .map(|(at, entrant)| {
            let samples: Vec<Sample> = samples(&rounds, at).collect();
            let reason = servers[at].reason.clone();
            let measured = match reason {
                Some(_) => None,
                None => measured(&samples, &rates[at], &cpus[at], &servers[at]),
            };
            let reason = match (&measured, reason) {
                (None, None) => Some("no round came to its end".to_owned()),
                (_, reason) => reason,
            };
            Row { name: entrant.name(), role: entrant.role, reason, measured }
        })
        .collect();

    let judged: Vec<usize> = (0..rows.len())
        .filter(|&at| rows[at].role == Role::Model && rows[at].measured.is_some())
        .collect();
    let findings = |of: &[Vec<f64>], floor| {
        let models: Vec<&[f64]> = judged.iter().map(|&at| of[at].as_slice()).collect();
        verdict::judge(&models, floor)
    };
    let found = findings(&rates, rate_floor).into_iter().zip(findings(&cpus, cpu_floor));
    let baseline_bound = rows[0].measured.as_ref().is_some_and(|row| row.is_client_bound);
    for (&at, (rate, cpu)) in judged.iter().zip(found) {
        if let Some(measured) = &mut rows[at].measured {
            // A rate that the client set is nobody's, whichever side of the ratio it is on.
            let no_rate = is_disturbed || baseline_bound || measured.is_client_bound;
            measured.rate_finding = Some(if no_rate { Finding::Invalid } else { rate });
            measured.cpu_finding = Some(if is_disturbed { Finding::Invalid } else { cpu });
        }
    }
    let LoadShape { connections, size, depth } = shape;
    Heat {
        connections,
        size,
        depth,
        entrants,
        rounds,
        servers,
        rows,
        rate_floor,
        cpu_floor,
        is_disturbed,
    }
}

fn samples(rounds: &[Round], entrant: usize) -> impl Iterator<Item = Sample> {
    let turns = rounds.iter().flat_map(|round| &round.turns);
    turns.filter(move |turn| turn.entrant == entrant).map(|turn| turn.sample)
}

fn measured(samples: &[Sample], rates: &[f64], cpus: &[f64], server: &Outcome) -> Option<Measured> {
    let median = |of: fn(&Sample) -> f64| -> Option<f64> {
        stats::median(&samples.iter().map(of).collect::<Vec<f64>>())
    };
    let calls = server.stats.as_ref().map(|stats| stats.counters.calls as f64);
    Some(Measured {
        slices: samples.len(),
        rate: median(Sample::rate)?,
        cpu_us: median(Sample::cpu_per_message)? * 1e6,
        rate_ratio: Ratio::of(rates),
        cpu_ratio: Ratio::of(cpus),
        rate_finding: None,
        cpu_finding: None,
        server_busy: median(Sample::server_busy)?,
        server_crowded: median(Sample::server_crowded)?,
        client_busy: median(|sample| sample.slice.busy())?,
        is_client_bound: median(Sample::server_wanted)? < SATURATED,
        is_spinning: median(|sample| sample.server_idle_cpu_share)? > SPINNING,
        calls_per_message: calls.map(|calls| calls / server.messages.max(1) as f64),
    })
}

fn is_disturbed(rounds: &[Round]) -> bool {
    let disturbed = rounds.iter().filter(|round| round.steal.is_some_and(|s| s > STEAL_MAX));
    disturbed.count() as f64 > rounds.len() as f64 * DISTURBED_MAX
}

impl Heat {
    /// How many messages were replied to, each verified byte by byte.
    pub fn messages(&self) -> u64 {
        self.servers.iter().map(|server| server.messages).sum()
    }

    /// In how many rounds an entrant met the baseline.
    fn pairs(&self, entrant: usize) -> usize {
        self.rounds.iter().flat_map(Round::pairs).filter(|pair| pair.entrant == entrant).count()
    }

    /// The least and the most rounds in which one of those that were measured met the baseline.
    pub(super) fn rounds_each(&self) -> (usize, usize) {
        let pairs = (AGAIN..self.rows.len()).map(|at| self.pairs(at)).filter(|&pairs| pairs > 0);
        pairs
            .fold(None, |range: Option<(usize, usize)>, pairs| {
                Some(range.map_or((pairs, pairs), |(low, high)| (low.min(pairs), high.max(pairs))))
            })
            .unwrap_or_default()
    }

    /// What is to be said of these numbers, as advice.
    pub(super) fn warnings(&self, wire: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let load = match self.connections {
            1 => "at 1 connection".to_owned(),
            more => format!("at {more} connections"),
        };
        let is_played = !self.rounds.is_empty();
        if is_played && (self.rate_floor.is_none() || self.cpu_floor.is_none()) {
            warnings.push(format!(
                "{load} there are {} rounds; a verdict needs {}. Give it more --time or --rounds.",
                self.pairs(AGAIN),
                stats::VALUES_MIN
            ));
        }
        let few: Vec<&str> = (AGAIN + 1..self.rows.len())
            .filter(|&at| (1..stats::VALUES_MIN).contains(&self.pairs(at)))
            .map(|at| self.rows[at].name.as_str())
            .collect();
        if self.rate_floor.is_some() && !few.is_empty() {
            warnings.push(format!(
                "{load} there were fewer than {} rounds of {}: no verdict is given of them. Give it \
                 more --time or --rounds.",
                stats::VALUES_MIN,
                few.join(", ")
            ));
        }
        if let Some(floor) = self.rate_floor.filter(|&floor| floor > FLOOR_WARN) {
            warnings.push(format!(
                "{load} the baseline differs from itself by up to {}: smaller differences of msg/s \
                 cannot be told here. A quieter machine, or more --time, would help.",
                units::percent(floor)
            ));
        }
        let steal: Vec<f64> = self.rounds.iter().filter_map(|round| round.steal).collect();
        let mean = steal.iter().sum::<f64>() / steal.len().max(1) as f64;
        if self.is_disturbed {
            warnings.push(format!(
                "{load} the host took more than {} of the CPUs in over a quarter of the rounds: no \
                 verdict is valid. Run it again when the host is quiet.",
                units::percent(STEAL_MAX)
            ));
        } else if mean > STEAL_WARN {
            warnings.push(format!(
                "{load} the host took {} of the CPUs: expect wide intervals.",
                units::percent(mean)
            ));
        }
        let of = |is: fn(&Measured) -> bool| -> Vec<&str> {
            let rows = self.rows.iter().filter(|row| row.measured.as_ref().is_some_and(is));
            rows.map(|row| row.name.as_str()).collect()
        };
        let crowded = of(|row| row.server_crowded > CROWDED);
        if !crowded.is_empty() {
            warnings.push(format!(
                "{load} something else ran on the servers' CPU while they had work to do ({}): their \
                 msg/s are what was left to them. Let nothing else run.",
                crowded.join(", ")
            ));
        }
        let bound = of(|row| row.is_client_bound);
        if !bound.is_empty() {
            let faster = if wire == "uring" { "" } else { ", or --engine uring," };
            warnings.push(format!(
                "{load} the client did not keep every server busy ({}): their msg/s are the client's, \
                 marked ≥, and only CPU per message is compared. More --connections{faster} would.",
                bound.join(", ")
            ));
        }
        let spinning = of(|row| row.is_spinning);
        if !spinning.is_empty() {
            warnings.push(format!(
                "{load} {} used the CPU while nobody asked anything: who is seen to do so at the \
                 beginning is stopped while others have their turn, so that only its own CPU per \
                 message is higher for it.",
                spinning.join(", ")
            ));
        }
        warnings
    }
}
