//! What is to be compared, and how.

use std::time::Duration;

use serde::Serialize;

use crate::load::{Shape, WireChoice};

/// What every model is compared with: level-triggered epoll.
pub const BASELINE: &str = "epoll";

/// The models compared unless others are asked for.
pub const MODELS: [&str; 5] = ["uring", "epoll", "epoll-et", "poll", "select"];

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
    /// As many rounds as fit, for all tables together.
    Seconds(u64),
}

/// A comparison to be made.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The models, the baseline perhaps among them: it takes part in any case.
    pub models: Vec<String>,
    /// The loads: a table each.
    #[serde(serialize_with = "shapes")]
    pub loads: Vec<Shape>,
    /// How much is measured.
    pub budget: Budget,
    /// From which the order of the contenders and the bytes of the messages are made.
    pub seed: u64,
    /// What moves the client's bytes.
    pub wire: WireChoice,
    /// The CPU of the servers.
    pub server_cpu: usize,
    /// The CPU of the client.
    pub client_cpu: usize,
}

fn shapes<S: serde::Serializer>(shapes: &[Shape], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Plain {
        connections: usize,
        size: usize,
        depth: usize,
    }
    to.collect_seq(shapes.iter().map(|&Shape { connections, size, depth }| Plain {
        connections,
        size,
        depth,
    }))
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entrant {
    /// The I/O model.
    pub model: String,
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
            _ => self.model.clone(),
        }
    }
}

impl Plan {
    /// Who takes part: the baseline, then itself again, then the models in the order asked for, each
    /// once.
    pub fn entrants(&self) -> Vec<Entrant> {
        let baseline = |role| Entrant { model: BASELINE.to_owned(), role };
        let mut entrants = vec![baseline(Role::Baseline), baseline(Role::Again)];
        for model in &self.models {
            if !entrants.iter().any(|entrant| entrant.model == *model) {
                entrants.push(Entrant { model: model.clone(), role: Role::Model });
            }
        }
        entrants
    }

    /// Which of `challengers` are open at the same time, beside the baseline.
    pub fn phases(&self, load: Shape, challengers: &[usize]) -> Vec<Vec<usize>> {
        if load.connections >= PAIRS_FROM {
            challengers.iter().map(|&challenger| vec![challenger]).collect()
        } else {
            vec![challengers.to_vec()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(models: &[&str]) -> Plan {
        Plan {
            models: models.iter().map(|&model| model.to_owned()).collect(),
            loads: Vec::new(),
            budget: Budget::Rounds(6),
            seed: 7,
            wire: WireChoice::Auto,
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
    fn a_thousand_connections_are_compared_in_pairs() {
        let shape = |connections| Shape { connections, size: 64, depth: 1 };
        let plan = plan(&["uring", "poll"]);
        assert_eq!(plan.phases(shape(999), &[1, 2, 3]), [vec![1, 2, 3]]);
        assert_eq!(plan.phases(shape(1000), &[1, 2, 3]), [vec![1], vec![2], vec![3]]);
    }
}
