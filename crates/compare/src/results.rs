//! The results of a comparison. They are serialized as they are.

use serde::Serialize;

use crate::environment::Environment;
use crate::idle::IdleCosts;
use crate::plan::{ComparisonPlan, ParticipantSpec};
use crate::sampling::Round;
use crate::stats_line::ServerStats;
use crate::verdict::{Ratio, Verdict};
use proactor_load::LoadShape;
use proactor_report::histogram::Percentiles;

/// The result of a comparison.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "proactor.compare/3")]
pub struct Comparison {
    /// The machine of the measurement.
    pub environment: Environment,
    /// The plan of the measurement.
    pub plan: ComparisonPlan,
    /// The I/O engine of the client: `uring` or `epoll`.
    pub engine: &'static str,
    /// One table for each load.
    pub tables: Vec<ResultTable>,
    /// The cost of idle connections, if it was measured.
    pub idle: Option<IdleCosts>,
    /// What makes the numbers doubtful, with advice.
    pub warnings: Vec<String>,
}

/// The results of all participants under one load.
#[derive(Debug, Serialize)]
pub struct ResultTable {
    /// The load on each participant.
    #[serde(flatten)]
    pub load: LoadShape,
    /// The participants. `participant` in a slice is an index into this list.
    pub participants: Vec<Outcome>,
    /// All rounds with all slices, without the warm-up.
    pub rounds: Vec<Round>,
    /// The smallest relative difference between rates that can be found here.
    pub rate_noise_floor: Option<f64>,
    /// The smallest relative difference between CPU times per message that can be found here.
    pub cpu_noise_floor: Option<f64>,
    /// True if the host took so much CPU time that no verdict is valid.
    pub is_disturbed: bool,
}

/// The result of one participant.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The model and its role in the comparison.
    #[serde(flatten)]
    pub spec: ParticipantSpec,
    /// Why the participant was not measured, or not to the end.
    pub reason: Option<String>,
    /// The server's description of itself when it started.
    pub about: String,
    /// The server's counters at its end.
    pub stats: Option<ServerStats>,
    /// The messages from the server's start to its end, including the warm-up, as `stats`.
    pub messages: u64,
    /// The share of the server's CPU time in user mode, if the measurement was long enough to know
    /// it: the kernel samples it at the ticks of its clock.
    pub user_share: Option<f64>,
    /// The service times in a closed loop.
    pub service_time: Option<Percentiles>,
    /// The numbers; absent if there is a reason.
    pub measured: Option<Measured>,
}

impl Outcome {
    /// Returns an outcome without results.
    pub fn new(spec: ParticipantSpec) -> Outcome {
        Outcome { spec, ..Outcome::default() }
    }
}

/// The numbers of one participant. Rates, times and shares are medians over the slices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The number of slices.
    pub slices: usize,
    /// The messages per second.
    pub rate: f64,
    /// Server CPU per message in microseconds.
    pub cpu_us: f64,
    /// The rate relative to the baseline; `None` for the baseline.
    pub rate_ratio: Option<Ratio>,
    /// CPU per message relative to the baseline; `None` for the baseline.
    pub cpu_ratio: Option<Ratio>,
    /// The verdict about the rate; `None` for the baseline and its control.
    pub rate_verdict: Option<Verdict>,
    /// The verdict about CPU per message; `None` for the baseline and its control.
    pub cpu_verdict: Option<Verdict>,
    /// The share of a slice in which the server ran on a CPU.
    pub server_busy: f64,
    /// The share of a slice in which the server was runnable but another process had its CPU.
    pub server_waiting: f64,
    /// The share of a slice in which the client had work.
    pub client_busy: f64,
    /// True if the client did not keep the server busy: then `rate` is a lower bound.
    pub is_client_bound: bool,
    /// True if the server uses CPU time while it is idle, which is included in `cpu_us`.
    pub is_spinning: bool,
    /// System calls of the server per message, from its start to its end.
    pub calls_per_message: Option<f64>,
}
