//! The plan of a comparison: participants, loads and budget.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::sampling::slices_per_round;
use proactor_load::{EngineChoice, LoadProtocol, LoadShape};

/// The default baseline: level-triggered epoll.
pub const BASELINE: &str = "epoll";

/// The suffix of a model's name that makes its server record a trace.
pub const RECORDED: &str = "+trace";

/// The default models, as typed on the command line.
pub const MODELS: &str = "uring,epoll,epoll-et,poll,select";

/// The index of the control among the participants. The baseline is the first participant.
pub const CONTROL: usize = 1;

/// From this number of connections on, only two servers are open at a time. With more servers, the
/// measured rate of the baseline was 10 to 15 % too high: the baseline has every second slice, so
/// its connections stay in the cache and those of the others do not.
pub const PAIRS_FROM: usize = 1000;

/// The length of a slice. A slice is short so that the two sides of a ratio are measured within a
/// moment of each other: slow drift, as on shared machines, then affects both.
pub const SLICE: Duration = Duration::from_millis(40);

/// The number of slices at the start of each server that do not count.
pub const WARM_UP: usize = 3;

/// How long a connection may wait for bytes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// The extent of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The number of rounds per table.
    Rounds(u32),
    /// The seconds for all tables together, including start, connecting and warm-up.
    Seconds(u64),
}

/// The number of rounds that the default time allows. A verdict needs at least
/// [`VALUES_MIN`](proactor_report::stats::VALUES_MIN).
const ROUNDS_AIMED: f64 = 10.0;
/// The range of the default time.
const SECONDS: std::ops::RangeInclusive<u64> = 25..=100;
/// Estimates: the time of a message, by which a slice grows for each connection because it ends
/// with all replies, and the time to open a connection.
const PER_MESSAGE: Duration = Duration::from_micros(10);
const PER_CONNECTION: Duration = Duration::from_micros(100);
/// Estimate: the time to start a server.
const PER_SERVER: Duration = Duration::from_millis(80);

/// The plan of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonPlan {
    /// The model that the others are compared with.
    pub baseline: ModelSpec,
    /// The models to compare. The baseline takes part even if it is not among them.
    pub models: Vec<ModelSpec>,
    /// The servers of other programs. Those that are compared are among the models, by their name.
    pub peers: Vec<PeerServer>,
    /// The protocol of the servers.
    #[serde(flatten)]
    pub protocol: LoadProtocol,
    /// The loads, with a table for each.
    pub loads: Vec<LoadShape>,
    /// The extent of the measurement.
    pub budget: Budget,
    /// The number of idle connections whose cost is measured; with 0 that is skipped.
    pub idle: usize,
    /// The seed of the order of the participants and of the message bytes.
    pub seed: u64,
    /// The I/O engine of the client.
    pub engine: EngineChoice,
    /// The CPU that runs the servers.
    pub server_cpu: usize,
    /// The CPU that runs the client.
    pub client_cpu: usize,
}

/// A model, and whether its server records a trace. Its text form, also in JSON, is `thread` or
/// `thread+trace`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name of the I/O model.
    pub model: String,
    /// True if the server records a trace into a file.
    pub recorded: bool,
}

/// A server of another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerServer {
    /// The name in a table.
    pub name: String,
    /// The command of a shell that starts the server. It contains `{port}` where the port to listen
    /// on is put, or else the server writes `listening on ADDRESS` on standard output.
    pub command: String,
}

impl From<&str> for ModelSpec {
    fn from(name: &str) -> ModelSpec {
        let model = name.strip_suffix(RECORDED);
        ModelSpec { model: model.unwrap_or(name).to_owned(), recorded: model.is_some() }
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.model, if self.recorded { RECORDED } else { "" })
    }
}

impl Serialize for ModelSpec {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A participant of a table: a server process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ParticipantSpec {
    /// The name in a table.
    pub name: String,
    /// The model of the server.
    pub model: ModelSpec,
    /// The role in the comparison.
    pub role: Role,
}

/// The role of a participant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The server that the others are compared with. It is the first participant.
    Baseline,
    /// The A/A control: a second server of the baseline's model. Its differences from the baseline
    /// are noise.
    Control,
    /// A model that is compared.
    #[default]
    Model,
}

impl ComparisonPlan {
    /// Returns the participants: the baseline, its control, and the other models, each once.
    pub fn participants(&self) -> Vec<ParticipantSpec> {
        let spec = |model: &ModelSpec, suffix: &str, role| {
            let (name, model) = (format!("{model}{suffix}"), model.clone());
            ParticipantSpec { name, model, role }
        };
        let mut participants = vec![
            spec(&self.baseline, "", Role::Baseline),
            spec(&self.baseline, " again (A/A)", Role::Control),
        ];
        for model in &self.models {
            if !participants.iter().any(|participant| participant.model == *model) {
                participants.push(spec(model, "", Role::Model));
            }
        }
        participants
    }

    /// Divides participants into phases. The servers of a phase are open at the same time, together
    /// with the baseline.
    pub fn phases(&self, load: LoadShape, participants: &[usize]) -> Vec<Vec<usize>> {
        if load.connections >= PAIRS_FROM {
            participants.iter().map(|&participant| vec![participant]).collect()
        } else {
            vec![participants.to_vec()]
        }
    }

    /// Returns the default budget: about the time that verdicts need, within `SECONDS`.
    pub fn default_budget(&self) -> Budget {
        let others: Vec<usize> = (1..self.participants().len()).collect();
        let phases = self.loads.iter().flat_map(|&load| {
            self.phases(load, &others).into_iter().map(move |phase| cost(load, &phase))
        });
        let all: Duration = phases.sum();
        Budget::Seconds(all.as_secs().clamp(*SECONDS.start(), *SECONDS.end()))
    }
}

/// Estimates the time of a phase: the start of its servers, and [`ROUNDS_AIMED`] rounds.
pub(crate) fn cost(load: LoadShape, phase: &[usize]) -> Duration {
    let slice = slice(load);
    let set_up = PER_SERVER + PER_CONNECTION * load.connections as u32 + slice * WARM_UP as u32;
    // The noise floor, which the control measures, limits the verdicts about all other models.
    let rounds = if phase == [CONTROL] { 2.0 * ROUNDS_AIMED } else { ROUNDS_AIMED };
    // The baseline is started only once per table, which takes little time.
    set_up * phase.len() as u32 + (slice * slices_per_round(phase.len()) as u32).mul_f64(rounds)
}

/// Estimates the length of a slice.
fn slice(load: LoadShape) -> Duration {
    SLICE + PER_MESSAGE * load.connections as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(models: &[&str]) -> ComparisonPlan {
        ComparisonPlan {
            baseline: BASELINE.into(),
            models: models.iter().map(|&model| model.into()).collect(),
            peers: Vec::new(),
            protocol: LoadProtocol::echo(),
            loads: Vec::new(),
            budget: Budget::Rounds(6),
            idle: 0,
            seed: 7,
            engine: EngineChoice::Auto,
            server_cpu: 0,
            client_cpu: 1,
        }
    }

    #[test]
    fn the_baseline_takes_part_twice_and_every_other_model_once() {
        let names = |models: &[&str]| -> Vec<String> {
            plan(models).participants().into_iter().map(|participant| participant.name).collect()
        };
        assert_eq!(names(&["uring"]), ["epoll", "epoll again (A/A)", "uring"]);
        assert_eq!(
            names(&["uring", "epoll", "poll", "uring"]),
            ["epoll", "epoll again (A/A)", "uring", "poll"]
        );
    }

    #[test]
    fn a_recorded_model_differs_from_the_same_model_without_a_trace() {
        let plan =
            ComparisonPlan { baseline: "poll".into(), ..plan(&["poll+trace", "poll", "epoll"]) };
        let names: Vec<String> =
            plan.participants().into_iter().map(|participant| participant.name).collect();
        assert_eq!(names, ["poll", "poll again (A/A)", "poll+trace", "epoll"]);
        let recorded: Vec<bool> =
            plan.participants().iter().map(|one| one.model.recorded).collect();
        assert_eq!(recorded, [false, false, true, false]);
        assert_eq!(plan.participants()[2].model.model, "poll");
    }

    #[test]
    fn a_thousand_connections_are_compared_in_pairs() {
        let shape = |connections| LoadShape { connections, size: 64, depth: 1 };
        let plan = plan(&["uring", "poll"]);
        assert_eq!(plan.phases(shape(999), &[1, 2, 3]), [vec![1, 2, 3]]);
        assert_eq!(plan.phases(shape(1000), &[1, 2, 3]), [vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn the_default_time_grows_with_the_plan_and_stays_under_two_minutes() {
        let seconds = |models: &[&str], loads: &[usize]| {
            let shape = |&connections| LoadShape { connections, size: 64, depth: 1 };
            let plan = ComparisonPlan { loads: loads.iter().map(shape).collect(), ..plan(models) };
            match plan.default_budget() {
                Budget::Seconds(seconds) => seconds,
                Budget::Rounds(_) => panic!("the default is a time"),
            }
        };
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        assert_eq!(seconds(&["uring"], &[64]), 25);
        assert!(seconds(&all, &[1, 100, 1000]) > 40);
        assert!((90..=100).contains(&seconds(&all, &[1, 100, 1000, 4000])));
        assert_eq!(seconds(&all, &[1000, 4000, 10_000]), 100);
    }
}
