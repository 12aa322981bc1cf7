//! What is to be compared, and how.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::rounds::slices;
use proactor_load::{EngineChoice, LoadShape};

/// What every model is compared with, unless another is asked for: level-triggered epoll.
pub const BASELINE: &str = "epoll";

/// What is put to a model's name to have it recorded while it serves.
pub const RECORDED: &str = "+trace";

/// The models compared unless others are asked for, as they are typed.
pub const MODELS: &str = "uring,epoll,epoll-et,poll,select";

/// Where the baseline's double stands among the entrants; the baseline is the first of all.
pub const AGAIN: usize = 1;

/// From so many connections on, no more than two servers are open at a time. With more, the
/// baseline, whose turn is every second slice, was measured 10 to 15 % faster than it is: its
/// connections stay in the cache and those of the others do not.
pub const PAIRS_FROM: usize = 1000;

/// How long one slice is. Short, so that a ratio is of neighbours in time: what drifts within
/// minutes, and on shared machines everything does, drifts for both.
pub const SLICE: Duration = Duration::from_millis(40);

/// How many slices of each server are not counted, at its beginning.
pub const WARM_UP: usize = 3;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// So many rounds per table.
    Rounds(u32),
    /// As many rounds as fit into so many seconds, for all tables together: starting, connecting
    /// and warming up are in them.
    Seconds(u64),
}

/// How many rounds the default time is to be enough for; a verdict needs
/// [`VALUES_MIN`](proactor_report::stats::VALUES_MIN).
const ROUNDS_AIMED: f64 = 10.0;
/// The least and the most that is taken without being asked for.
const SECONDS: std::ops::RangeInclusive<u64> = 25..=100;
/// What a message costs both sides at most, about: how much longer a slice is for each connection,
/// since it ends with all that is owed; and what a connection takes to be opened.
const PER_MESSAGE: Duration = Duration::from_micros(10);
const PER_CONNECTION: Duration = Duration::from_micros(100);
/// What a server takes to be started, about.
const PER_SERVER: Duration = Duration::from_millis(60);

/// A comparison to be made.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What the others are compared with.
    pub baseline: Variant,
    /// The models, the baseline perhaps among them: it takes part in any case.
    pub models: Vec<Variant>,
    /// The loads: a table each.
    pub loads: Vec<LoadShape>,
    /// How much is measured.
    pub budget: Budget,
    /// How many idle connections are held to find out what one costs; of 0 it is not found out.
    pub idle: usize,
    /// From which the order of the contenders and the bytes of the messages are made.
    pub seed: u64,
    /// The I/O engine of the client.
    pub engine: EngineChoice,
    /// The CPU of the servers.
    pub server_cpu: usize,
    /// The CPU of the client.
    pub client_cpu: usize,
}

/// A model, and whether what it does is recorded meanwhile: `thread`, or `thread+trace`, as which
/// it is also serialized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The I/O model.
    pub model: String,
    /// Whether it records into a file.
    pub recorded: bool,
}

impl From<&str> for Variant {
    fn from(name: &str) -> Variant {
        let model = name.strip_suffix(RECORDED);
        Variant { model: model.unwrap_or(name).to_owned(), recorded: model.is_some() }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        f.write_str(if self.recorded { RECORDED } else { "" })
    }
}

impl Serialize for Variant {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entrant {
    /// The I/O model.
    pub model: Variant,
    /// In which part.
    pub role: Role,
}

/// In which part a server takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the others are compared with. Always the first.
    Baseline,
    /// The baseline once more, as a process of its own: what is told apart here is noise.
    Again,
    /// A model that is compared.
    Model,
}

impl Entrant {
    /// Its name in a table.
    pub fn name(&self) -> String {
        match self.role {
            Role::Again => format!("{} again (A/A)", self.model),
            _ => self.model.to_string(),
        }
    }
}

impl Plan {
    /// Who takes part: the baseline, then itself again, then the models in the order asked for,
    /// each once.
    pub fn entrants(&self) -> Vec<Entrant> {
        let baseline = |role| Entrant { model: self.baseline.clone(), role };
        let mut entrants = vec![baseline(Role::Baseline), baseline(Role::Again)];
        for model in &self.models {
            if !entrants.iter().any(|entrant| entrant.model == *model) {
                entrants.push(Entrant { model: model.clone(), role: Role::Model });
            }
        }
        entrants
    }

    /// Which of `challengers` are open at the same time, beside the baseline.
    pub fn phases(&self, load: LoadShape, challengers: &[usize]) -> Vec<Vec<usize>> {
        if load.connections >= PAIRS_FROM {
            challengers.iter().map(|&challenger| vec![challenger]).collect()
        } else {
            vec![challengers.to_vec()]
        }
    }

    /// The budget if none is asked for: as long as it takes to come to verdicts, about, within
    /// what a person waits.
    pub fn default_budget(&self) -> Budget {
        let challengers: Vec<usize> = (1..self.entrants().len()).collect();
        let phases = self.loads.iter().flat_map(|&load| {
            self.phases(load, &challengers).into_iter().map(move |phase| cost(load, &phase))
        });
        let all: Duration = phases.sum();
        Budget::Seconds(all.as_secs().clamp(*SECONDS.start(), *SECONDS.end()))
    }
}

/// What a phase takes, about: setting its challengers up, and [`ROUNDS_AIMED`] rounds.
pub(super) fn cost(load: LoadShape, phase: &[usize]) -> Duration {
    let slice = slice(load);
    let set_up = PER_SERVER + PER_CONNECTION * load.connections as u32 + slice * WARM_UP as u32;
    // What the baseline and its double cannot tell apart bounds what is said of all others.
    let rounds = if phase == [AGAIN] { 2.0 * ROUNDS_AIMED } else { ROUNDS_AIMED };
    // The baseline is set up once for a table; it is no great part of it.
    set_up * phase.len() as u32 + (slice * slices(phase.len()) as u32).mul_f64(rounds)
}

/// How long a slice really is, about.
fn slice(load: LoadShape) -> Duration {
    SLICE + PER_MESSAGE * load.connections as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(models: &[&str]) -> Plan {
        Plan {
            baseline: BASELINE.into(),
            models: models.iter().map(|&model| model.into()).collect(),
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
            plan(models).entrants().iter().map(Entrant::name).collect()
        };
        assert_eq!(names(&["uring"]), ["epoll", "epoll again (A/A)", "uring"]);
        assert_eq!(
            names(&["uring", "epoll", "poll", "uring"]),
            ["epoll", "epoll again (A/A)", "uring", "poll"]
        );
    }

    #[test]
    fn a_model_that_is_recorded_is_another_than_one_that_is_not() {
        let plan = Plan { baseline: "poll".into(), ..plan(&["poll+trace", "poll", "epoll"]) };
        let names: Vec<String> = plan.entrants().iter().map(Entrant::name).collect();
        assert_eq!(names, ["poll", "poll again (A/A)", "poll+trace", "epoll"]);
        let recorded: Vec<bool> = plan.entrants().iter().map(|one| one.model.recorded).collect();
        assert_eq!(recorded, [false, false, true, false]);
        assert_eq!(plan.entrants()[2].model.model, "poll");
    }

    #[test]
    fn a_thousand_connections_are_compared_in_pairs() {
        let shape = |connections| LoadShape { connections, size: 64, depth: 1 };
        let plan = plan(&["uring", "poll"]);
        assert_eq!(plan.phases(shape(999), &[1, 2, 3]), [vec![1, 2, 3]]);
        assert_eq!(plan.phases(shape(1000), &[1, 2, 3]), [vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn the_default_time_grows_with_what_is_asked_for_and_stays_under_two_minutes() {
        let seconds = |models: &[&str], loads: &[usize]| {
            let shape = |&connections| LoadShape { connections, size: 64, depth: 1 };
            let plan = Plan { loads: loads.iter().map(shape).collect(), ..plan(models) };
            match plan.default_budget() {
                Budget::Seconds(seconds) => seconds,
                Budget::Rounds(_) => panic!("a time is the default"),
            }
        };
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];
        assert_eq!(seconds(&["uring"], &[64]), 25);
        assert!(seconds(&all, &[1, 100, 1000]) > 40);
        assert!((90..=100).contains(&seconds(&all, &[1, 100, 1000, 4000])));
        assert_eq!(seconds(&all, &[1000, 4000, 10_000]), 100);
    }
}
