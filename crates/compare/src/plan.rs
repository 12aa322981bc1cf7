//! The plan of a comparison: participants, loads and budget.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use proactor::ring::kernel::Capability;
use proactor_load::{Arrivals, EngineChoice, LoadProtocol, LoadShape, Offer, Workload};

/// The default baseline: level-triggered epoll.
pub const BASELINE: &str = "epoll";

/// The suffix of a model's name that makes its server record a trace.
pub const RECORDED: &str = "+trace";

/// The default models, as typed on the command line.
pub const MODELS: &str = "uring,epoll,epoll-et,poll,select";

/// The index of the control among the participants. The baseline is the first participant.
pub const CONTROL: usize = 1;

/// From this number of connections to a server on, a block has only one model and a baseline of its
/// own: the connections of all of them would not fit into the ports and the caches of a machine.
pub const CROWD_FROM: usize = 1000;

/// A model with a process or a thread for each connection is not measured with more than this: a
/// block would take longer than all other models together.
pub const TASKS_MAX: usize = 1000;

/// The shortest slice. A slice is short so that the two sides of a ratio are measured within a
/// moment of each other: slow drift, as on shared machines, then affects both.
pub const SLICE: Duration = Duration::from_millis(40);

/// A slice of a closed loop has at least this many messages of each connection, on average: it
/// begins and ends without outstanding messages, which is not the steady state.
pub const MESSAGES_MIN: usize = 20;

/// The shortest slice of an open loop, and what the length of any is a multiple of: the period of
/// its bursts.
pub const OPEN_SLICE: Duration = Duration::from_millis(100);

/// A slice of an open loop has at least this many messages over all connections.
pub const OPEN_MESSAGES_MIN: usize = 400;

/// How long each server is driven before its first slice. That does not count.
pub const LEAD_IN: Duration = Duration::from_millis(40);

/// How long a connection may wait for bytes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// The extent of a measurement. The number of blocks is fixed before the first of them: to go on
/// until a difference is shown would find one too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The rounds of a block.
    pub rounds: u32,
    /// The least number of blocks of a table, whatever time they take.
    pub least: u32,
    /// The largest number of blocks of a table.
    pub most: u32,
    /// The seconds for all tables together, with all that belongs to them.
    pub seconds: u64,
}

impl Extent {
    /// What verdicts need, within a minute where that is possible.
    pub const DEFAULT: Extent = Extent { rounds: 3, least: BLOCKS_MIN, most: 20, seconds: 55 };
    /// Narrow intervals, within a quarter of an hour.
    pub const FULL: Extent = Extent { rounds: 5, least: BLOCKS_MIN, most: 60, seconds: 660 };

    /// Returns this extent with a number of blocks.
    pub fn of_blocks(self, blocks: u32) -> Extent {
        Extent { least: blocks, most: blocks, ..self }
    }

    /// Returns this extent with a time, and no other limit.
    pub fn of_seconds(self, seconds: u64) -> Extent {
        Extent { least: 1, most: u32::MAX, seconds, ..self }
    }

    /// Returns the number of blocks, if one of each table together takes `each`, and `spent` is
    /// needed for other things.
    pub(crate) fn blocks(self, spent: Duration, each: Duration) -> u32 {
        let left = Duration::from_secs(self.seconds).saturating_sub(spent);
        let fit = left.as_secs_f64() / each.as_secs_f64().max(1e-9);
        (fit as u32).clamp(self.least, self.most)
    }
}

/// The least number of valid blocks that a verdict needs: with fewer, the intervals miss the true
/// ratio more often than they say (by simulation, from the slices of real runs).
pub const BLOCKS_MIN: u32 = 12;
/// The same at 99 % confidence.
pub const BLOCKS_MIN_99: u32 = 15;

/// The rules of the verdicts, fixed before the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rules {
    /// The probability that all intervals of the run together enclose their true ratios.
    pub confidence: f64,
    /// The share by which CPU time per message may differ and still be *within*.
    pub cpu_margin: f64,
    /// The share by which a rate may differ and still be *within*.
    pub rate_margin: f64,
}

impl Rules {
    /// Half of the width that *within* would need is attainable within a minute.
    pub const DEFAULT: Rules = Rules { confidence: 0.95, cpu_margin: 0.02, rate_margin: 0.05 };

    /// Returns the least number of valid blocks that a verdict needs.
    pub fn blocks_min(&self) -> u32 {
        if self.confidence >= 0.99 { BLOCKS_MIN_99 } else { BLOCKS_MIN }
    }
}

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
    pub loads: Vec<PlannedLoad>,
    /// The extent of the measurement.
    pub extent: Extent,
    /// The rules of the verdicts.
    #[serde(flatten)]
    pub rules: Rules,
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

/// A load of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PlannedLoad {
    /// What the client does in a closed loop.
    #[serde(flatten)]
    pub closed: Workload,
    /// The open loop that is measured instead.
    pub open: Option<OpenLoop>,
}

/// An open loop of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OpenLoop {
    /// What it offers to each server.
    #[serde(flatten)]
    pub rate: OfferedRate,
    /// How the planned times are spread.
    pub arrivals: Arrivals,
    /// The maximum number of outstanding messages of a connection.
    pub depth: usize,
}

/// The rate of an open loop, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferedRate {
    /// So many messages per second.
    PerSecond(f64),
    /// A share of what the slowest server serves in a closed loop, as its trial shows.
    OfSlowest(f64),
}

impl From<Workload> for PlannedLoad {
    fn from(closed: Workload) -> PlannedLoad {
        PlannedLoad { closed, open: None }
    }
}

impl From<LoadShape> for PlannedLoad {
    fn from(shape: LoadShape) -> PlannedLoad {
        Workload::from(shape).into()
    }
}

impl PlannedLoad {
    /// Returns what is measured, if the slowest server serves so many messages per second in a
    /// closed loop; `None` if that must be known and is not.
    pub(crate) fn measured(&self, slowest: Option<f64>) -> Option<Workload> {
        let Some(OpenLoop { rate, arrivals, depth }) = self.open else { return Some(self.closed) };
        let rate = match rate {
            OfferedRate::PerSecond(rate) => rate,
            OfferedRate::OfSlowest(share) => share * slowest?,
        };
        let mut load = Workload { offer: Some(Offer { rate, arrivals }), ..self.closed };
        load.shape.depth = depth;
        Some(load)
    }
}

/// A model, and how its server runs. Its text form, also in JSON, is `thread`, `thread+trace`,
/// `uring@5.6`, `uring-RECV_MULTISHOT`, or a combination in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name of the I/O model.
    pub model: String,
    /// The kernel whose io_uring features the server uses, and none that came later.
    pub kernel: Option<String>,
    /// A feature of io_uring that the server does not use, nor those that need it.
    pub without: Option<Capability>,
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
        let (name, recorded) = match name.strip_suffix(RECORDED) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let feature = name.rsplit_once('-').and_then(|(name, it)| Some((name, it.parse().ok()?)));
        let (name, without) = feature.map_or((name, None), |(name, it)| (name, Some(it)));
        let (model, kernel) = match name.split_once('@') {
            Some((model, kernel)) => (model, Some(kernel.to_owned())),
            None => (name, None),
        };
        ModelSpec { model: model.to_owned(), kernel, without, recorded }
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel.as_ref().map(|kernel| format!("@{kernel}"));
        let without = self.without.map(|feature| format!("-{}", feature.name()));
        let recorded = if self.recorded { RECORDED } else { "" };
        let (kernel, without) = (kernel.unwrap_or_default(), without.unwrap_or_default());
        write!(f, "{}{kernel}{without}{recorded}", self.model)
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

    /// Divides participants into the groups whose servers are open at the same time, each with the
    /// baseline. A block of a table has one part for each of them.
    pub(crate) fn groups(load: Workload, others: &[usize]) -> Vec<Vec<usize>> {
        if load.all_connections() >= CROWD_FROM {
            others.iter().map(|&other| vec![0, other]).collect()
        } else {
            vec![[&[0], others].concat()]
        }
    }
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
            extent: Extent::DEFAULT,
            rules: Rules::DEFAULT,
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
    fn a_variant_has_its_name_and_keeps_it() {
        let names = ["uring", "uring@5.6", "uring@5.6+trace", "uring+trace", "epoll-et"];
        for name in names.into_iter().chain(["uring-RECV_MULTISHOT", "uring-ENTER_NO_IOWAIT+trace"])
        {
            assert_eq!(ModelSpec::from(name).to_string(), name);
        }
        let ModelSpec { model, kernel, without, recorded } =
            "uring@6.1-recv_multishot+trace".into();
        assert_eq!((&*model, kernel.as_deref(), recorded), ("uring", Some("6.1"), true));
        assert_eq!(without, Some(Capability::MultishotRecv));
    }

    #[test]
    fn a_share_of_the_slowest_server_is_a_rate_when_that_is_known() {
        let closed: Workload = LoadShape { connections: 4, size: 64, depth: 1 }.into();
        let open = |rate| PlannedLoad {
            closed,
            open: Some(OpenLoop { rate, arrivals: Arrivals::Poisson, depth: 8 }),
        };
        let share = open(OfferedRate::OfSlowest(0.5));
        assert_eq!(share.measured(None), None);
        let load = share.measured(Some(1000.0)).expect("it is known");
        assert_eq!((load.offer.map(|it| it.rate), load.shape.depth), (Some(500.0), 8));
        let load = open(OfferedRate::PerSecond(70.0)).measured(None).expect("it is given");
        assert_eq!(load.offer, Some(Offer { rate: 70.0, arrivals: Arrivals::Poisson }));
        assert_eq!(PlannedLoad::from(closed).measured(None), Some(closed));
    }

    #[test]
    fn a_thousand_connections_are_compared_in_pairs() {
        let groups = |connections, others: &[usize]| {
            let shape = LoadShape { connections, size: 64, depth: 1 };
            ComparisonPlan::groups(shape.into(), others)
        };
        assert_eq!(groups(999, &[1, 2, 3]), [vec![0, 1, 2, 3]]);
        assert_eq!(groups(1000, &[1, 2, 3]), [vec![0, 1], vec![0, 2], vec![0, 3]]);
    }

    #[test]
    fn the_number_of_blocks_is_what_fits_within_its_limits() {
        let seconds = Duration::from_secs_f64;
        let blocks = |extent: Extent, each| extent.blocks(seconds(3.0), seconds(each));
        assert_eq!(blocks(Extent::DEFAULT, 1.5), 20, "no more than a default needs");
        assert_eq!(blocks(Extent::DEFAULT, 3.2), 16, "52 s are left");
        assert_eq!(blocks(Extent::DEFAULT, 30.0), 12, "what a verdict needs takes its time");
        assert_eq!(blocks(Extent::DEFAULT.of_seconds(10), 2.0), 3);
        assert_eq!(blocks(Extent::DEFAULT.of_seconds(1), 2.0), 1);
        assert_eq!(blocks(Extent::FULL.of_blocks(7), 100.0), 7);
    }
}
