//! The raw measurements: blocks of rounds of slices.
//!
//! A *block* has fresh server processes for the baseline, its A/A twin and every model, with fresh
//! connections. After a lead-in, which does not count, each *round* gives each server exactly one
//! *slice*, in an order drawn anew:
//!
//! ```text
//!   block 1   start R A B C   lead-in   | B R C A | A C R B | C B A R |   stop
//!   block 2   start C R B A   lead-in   | R A C B | …
//! ```
//!
//! So the two sides of a ratio are exchangeable: one process, equally many slices, no position of
//! its own. A process has a cost of its own (about 1 % either way), which only other processes can
//! average out; a block is therefore one value of a ratio, however many slices it has.

use std::time::Duration;

use serde::Serialize;

use crate::plan::{MESSAGES_MIN, OPEN_MESSAGES_MIN, OPEN_SLICE, SLICE};
use crate::process_stat::CpuTicks;
use proactor_load::{LoadSlice, Offer, Workload};
use proactor_report::units::as_nanos;

/// A block of one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MeasuredBlock {
    /// The number of the block within its table, from 0. Repeats of void blocks have new numbers.
    pub number: u32,
    /// When its first slice began, in nanoseconds since the start of the comparison.
    pub began_ns: u64,
    /// Why the block does not count: a cause that no model can influence, found before any ratio
    /// was computed.
    pub void: Option<String>,
    /// The share of the two CPUs' time that the host took during the slices, if it is known.
    pub steal: Option<f64>,
    /// The rounds, each with one slice of each server.
    pub rounds: Vec<Vec<Sample>>,
    /// What each server used in all its slices together.
    pub servers: Vec<ServerUse>,
}

/// What a server used in its slices, of what is too coarse to be read for each of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServerUse {
    /// The index of the participant.
    pub participant: usize,
    /// CPU time by its mode, which most kernels sample at the ticks of their clock.
    #[serde(flatten)]
    pub ticks: CpuTicks,
    /// The context switches of all threads.
    pub switches: Option<u64>,
    /// The smallest and the largest number of messages of a connection, the lead-in included.
    pub connection_messages: (u64, u64),
    /// The service times: each in nanoseconds, rounded up by at most 2 %, with its count.
    pub service_times: Vec<(u64, u64)>,
    /// The times from plan to reply of an open loop; empty in a closed one.
    pub latencies: Vec<(u64, u64)>,
    /// The times from plan to send of an open loop.
    pub offer_lags: Vec<(u64, u64)>,
}

impl ServerUse {
    /// Returns the times that a loop is judged by: in an open loop they begin when a message was
    /// planned, so that they contain what it waited.
    pub(crate) fn times(&self) -> &[(u64, u64)] {
        if self.latencies.is_empty() { &self.service_times } else { &self.latencies }
    }
}

impl MeasuredBlock {
    /// Returns the slices of one participant, one for each round.
    pub(crate) fn slices(&self, participant: usize) -> impl Iterator<Item = &Sample> {
        self.rounds.iter().flatten().filter(move |sample| sample.participant == participant)
    }
}

/// One slice of one server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// The index of the participant.
    pub participant: usize,
    /// When the slice began, in nanoseconds since the start of the comparison.
    pub began_ns: u64,
    /// What the client measured.
    #[serde(flatten)]
    pub slice: LoadSlice,
    /// CPU time of all processes and threads of the server.
    #[serde(rename = "server_cpu_ns", serialize_with = "as_nanos")]
    pub server_cpu: Duration,
    /// How long the server was runnable while another process had its CPU; zero if the kernel does
    /// not report it.
    #[serde(rename = "server_waited_ns", serialize_with = "as_nanos")]
    pub server_waited: Duration,
    /// CPU time of all CPUs, the client's too, in ticks: the kernel samples it at the ticks of its
    /// clock.
    pub machine_ticks: Option<u64>,
    /// The share of a CPU that the server used since its last slice, while it had nothing to do.
    pub server_idle_cpu_share: f64,
}

impl Sample {
    /// Returns the seconds of server CPU per message.
    pub fn cpu_per_message(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.slice.messages.max(1) as f64
    }

    /// Returns the share of the slice in which the server ran on a CPU.
    pub fn server_busy(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.slice.seconds()
    }

    /// Returns the share of the slice in which the server waited for a CPU.
    pub fn server_waiting(&self) -> f64 {
        self.server_waited.as_secs_f64() / self.slice.seconds()
    }
}

/// Draws the orders of the servers: each is random, and the same for the same seed.
#[derive(Debug)]
pub struct Orders(fastrand::Rng);

impl Orders {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Orders {
        Orders(fastrand::Rng::with_seed(seed))
    }

    /// Returns the participants in the next order.
    pub fn next(&mut self, participants: &[usize]) -> Vec<usize> {
        let mut order = participants.to_vec();
        self.0.shuffle(&mut order);
        order
    }
}

/// Returns the length of a slice of a load whose slowest server had this rate.
pub(crate) fn slice_length(load: &Workload, slowest: f64) -> Duration {
    let Some(Offer { rate, .. }) = load.offer else {
        let messages = (MESSAGES_MIN * load.shape.connections) as f64;
        // A rate of no more than a trial has its error.
        let needed = 1.1 * messages / slowest.max(1.0);
        return SLICE.max(Duration::from_secs_f64(needed.min(SLICE_MAX)));
    };
    let needed = (OPEN_MESSAGES_MIN as f64 / rate).min(SLICE_MAX) / OPEN_SLICE.as_secs_f64();
    OPEN_SLICE * needed.ceil().max(1.0) as u32
}

/// The longest slice, in seconds.
const SLICE_MAX: f64 = 10.0;

#[cfg(test)]
mod tests {
    use proactor_load::LoadShape;

    use super::*;

    #[test]
    fn the_order_is_random_and_repeats_with_its_seed() {
        let orders = |seed| -> Vec<Vec<usize>> {
            let mut orders = Orders::new(seed);
            (0..60).map(|_| orders.next(&[0, 1, 2])).collect()
        };
        assert_eq!(orders(7), orders(7));
        assert_ne!(orders(7), orders(8));
        let mut seen = orders(7);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6, "every order occurs, those in which the baseline is last too");
    }

    #[test]
    fn a_slice_has_twenty_messages_of_each_connection() {
        let millis = |connections, rate| slice_length(&load_of(connections), rate).as_millis();
        assert_eq!(millis(64, 100_000.0), 40);
        assert_eq!(millis(1000, 100_000.0), 220);
        assert_eq!(millis(1000, 40_000.0), 550);
        assert_eq!(millis(1000, 0.0), 10_000, "a server that serves nothing is found elsewhere");
    }

    #[test]
    fn a_slice_of_an_open_loop_has_whole_bursts_and_four_hundred_messages() {
        let millis = |rate| {
            let offer = Some(Offer { rate, arrivals: Default::default() });
            slice_length(&Workload { offer, ..load_of(64) }, 1.0).as_millis()
        };
        assert_eq!(millis(100_000.0), 100);
        assert_eq!(millis(4_000.0), 100);
        assert_eq!(millis(3_000.0), 200);
        assert_eq!(millis(1.0), 10_000);
    }

    fn load_of(connections: usize) -> Workload {
        LoadShape { connections, size: 64, depth: 1 }.into()
    }
}
