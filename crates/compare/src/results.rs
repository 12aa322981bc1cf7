//! The results of a comparison. They are serialized as they are.

use std::time::Duration;

use serde::Serialize;

use crate::block::MeasuredBlock;
use crate::environment::Environment;
use crate::idle::IdleCosts;
use crate::percentile::Percentile;
use crate::plan::{ComparisonPlan, ParticipantSpec};
use crate::stats_line::ServerStats;
use crate::verdict::Ratio;
use proactor_load::Workload;
use proactor_report::units::as_nanos;

/// The result of a comparison.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "proactor.compare/5")]
pub struct Comparison {
    /// The machine of the measurement.
    pub environment: Environment,
    /// The plan of the measurement.
    pub plan: ComparisonPlan,
    /// The I/O engine of the client: `uring` or `epoll`.
    pub engine: &'static str,
    /// The number of intervals that hold together with the confidence of the plan.
    pub intervals: usize,
    /// One table for each load.
    pub tables: Vec<ResultTable>,
    /// What became of the conditions that a script depends on.
    pub gates: Vec<GateResult>,
    /// The cost of idle connections, if it was measured.
    pub idle: Option<IdleCosts>,
    /// True if the measurement was ended before its time.
    pub interrupted: bool,
    /// What makes the numbers doubtful, with advice.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// Returns true if there is no number of any model.
    pub fn is_empty(&self) -> bool {
        let rows = self.tables.iter().flat_map(|table| &table.participants[1..]);
        rows.into_iter().all(|row| row.measured.is_none())
            && self.idle.as_ref().is_none_or(|idle| idle.rows.iter().all(|row| row.cost.is_none()))
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// The whole interval is on the side of the condition.
    Holds,
    /// The interval has a part on either side, or there is none.
    Undecided,
    /// The whole interval is on the other side.
    Fails,
}

/// What became of a condition under one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateResult {
    /// The condition as it was written.
    pub gate: String,
    /// The load of the table.
    #[serde(flatten)]
    pub load: Workload,
    /// The row that was judged.
    pub model: String,
    /// Whether the condition holds there.
    pub verdict: GateVerdict,
    /// The interval that decides, or why there is none.
    pub because: String,
}

/// The results of all participants under one load.
#[derive(Debug, Serialize)]
pub struct ResultTable {
    /// The load on each participant.
    #[serde(flatten)]
    pub load: Workload,
    /// The server whose rate in a closed loop an open one has a share of.
    pub slowest: Option<Slowest>,
    /// The length of a slice.
    #[serde(rename = "slice_ns", serialize_with = "as_nanos")]
    pub slice: Duration,
    /// The participants. `participant` in a slice is an index into this list.
    pub participants: Vec<Outcome>,
    /// All blocks with all slices, void ones too.
    pub blocks: Vec<MeasuredBlock>,
    /// By how much the speed of the machine changed: the 90th percentile of the CPU time per
    /// message of the baseline over the blocks, divided by the 10th.
    pub speed_change: Option<f64>,
}

/// The slowest server of a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slowest {
    /// Its name in the table.
    pub model: String,
    /// The messages per second that it served in a closed loop.
    pub rate: f64,
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
    /// What the servers of all blocks reported at their end, with the sums of their counters.
    pub stats: Option<ServerStats>,
    /// The messages of all servers from start to end, including the lead-in, as `stats`.
    pub messages: u64,
    /// The numbers; absent if there is a reason.
    pub measured: Option<Measured>,
}

impl Outcome {
    /// Returns an outcome without results.
    pub fn new(spec: ParticipantSpec) -> Outcome {
        Outcome { spec, ..Outcome::default() }
    }

    /// Adds what a server reported at its end.
    pub(crate) fn add_stats(&mut self, stats: Option<ServerStats>) {
        match (&mut self.stats, stats) {
            (Some(sum), Some(stats)) => sum.counters += stats.counters,
            (sum, stats) => *sum = stats,
        }
    }
}

/// The numbers of one participant: of the valid blocks, or of all if none is valid.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measured {
    /// The number of blocks.
    pub blocks: usize,
    /// The messages per second: all messages over all time.
    pub rate: f64,
    /// Server CPU per message in microseconds: the median over the blocks.
    pub cpu_us: f64,
    /// The part of `cpu_us` in user mode, if there was enough CPU time to know it.
    pub cpu_user_us: Option<f64>,
    /// CPU time of all CPUs per message in microseconds, without the client's thread, if there was
    /// enough of it to know it. What it exceeds `cpu_us` by, other threads took.
    pub machine_us: Option<f64>,
    /// CPU per message relative to the baseline; `None` for the baseline.
    pub cpu_ratio: Option<Ratio>,
    /// The rate relative to the baseline; `None` for the baseline.
    pub rate_ratio: Option<Ratio>,
    /// True if the CPU time comes in bursts that the median of the rounds leaves out.
    pub cost_in_bursts: bool,
    /// The share of a slice in which the server ran on a CPU: the median.
    pub server_busy: f64,
    /// The share of a slice in which the server was runnable but another process had its CPU.
    pub server_waiting: f64,
    /// The share of the client's CPU time in which it waited for the server.
    pub client_waiting: f64,
    /// The share of the connections with an unread reply when the client found any: near zero,
    /// messages wait for the server, and near one for the client.
    pub unread_share: f64,
    /// True if messages waited for the client, which never waited for the server: then `rate` is a
    /// lower bound.
    pub is_client_bound: bool,
    /// The messages of the connection that got the fewest, relative to the one that got the most:
    /// the median over the blocks. Near one, a server is fair; without messages it is `None`.
    pub fairness: Option<f64>,
    /// The longest time in a block in which the server sent nothing although it owed everything:
    /// the median over the blocks.
    #[serde(rename = "longest_wait_ns", serialize_with = "as_nanos")]
    pub longest_wait: Duration,
    /// True if the server uses CPU time while it is idle, which is included in `cpu_us`.
    pub is_spinning: bool,
    /// Context switches of the server per message.
    pub switches_per_message: Option<f64>,
    /// What the servers counted of themselves, from their start to their end.
    pub counted: Option<CountsPerMessage>,
    /// The median of the times from plan to reply in an open loop, of the service times in a closed
    /// one.
    pub p50: Option<Percentile>,
    /// The 99th percentile of these times.
    pub p99: Option<Percentile>,
    /// The 99.9th percentile of these times.
    pub p99_9: Option<Percentile>,
    /// What an open loop is more than a closed one.
    pub open: Option<OpenMeasured>,
}

/// The numbers of one participant that only an open loop has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct OpenMeasured {
    /// True if the server answered fewer messages in its slices than were offered.
    pub is_behind: bool,
    /// The share of the messages that were sent more than a millisecond after their planned time.
    pub late_share: f64,
    /// The share of the messages that were never sent.
    pub unsent_share: f64,
    /// The 99th percentile of the times from send to reply.
    pub service_p99: Option<Percentile>,
    /// The 99th percentile of the times from plan to send.
    pub offer_lag_p99: Option<Percentile>,
}

/// Some counters of a server, per message.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CountsPerMessage {
    /// System calls of its threads.
    pub calls: f64,
    /// Iterations of the loop: each waits at most once.
    pub iterations: f64,
    /// Operations submitted to a ring.
    pub submitted: f64,
    /// Completions of a ring, or reports of readiness.
    pub completed: f64,
}
