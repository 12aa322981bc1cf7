//! Sampling: the order of the slices, and the pairs that are compared.
//!
//! All servers of a phase are open side by side, each with its connections. In each slice the
//! client drives one of them while the others sleep. A round gives each participant one slice, in a
//! random order, and the baseline R one slice before and one after each of them:
//!
//! ```text
//!   R A R B R C R      ratio of B  =  B / mean of the two R next to it
//! ```
//!
//! So the two sides of a ratio are measured within a fraction of a second, and slower drift, such
//! as the load of the host or the clock rate of the CPU, cancels out.
//!
//! A server that has just had a slice is warm. With several participants, the baseline has every
//! second slice and the others have slices more rarely. With few connections this makes no
//! difference; with many it does, so those are compared in pairs ([`PAIRS_FROM`]). In a pair the
//! two servers alternate strictly, R B R b R B R b, where slice b does not count and only prevents
//! that R has two slices in a row. (Without it, at 1,000 connections, epoll was 7 % slower than
//! itself.)
//!
//! [`PAIRS_FROM`]: crate::plan::PAIRS_FROM

use std::time::Duration;

use serde::Serialize;

use proactor::clock::Nanos;
use proactor_load::{LoadError, LoadSlice};
use proactor_report::stats;
use proactor_report::units::as_nanos;

/// A set of servers to sample: the real servers, or those of a test.
pub trait Sampler {
    /// Drives one participant for the length of a slice.
    ///
    /// # Errors
    /// As [`proactor_load::Load::run_for`].
    fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError>;

    /// Returns the share of CPU time that the host has taken since the last call, or `None` if it
    /// is unknown.
    fn steal(&mut self) -> Option<f64>;

    /// Returns the current time.
    fn now(&self) -> Nanos;
}

/// One slice of one server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// The index of the participant.
    pub participant: usize,
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
    /// The share of a CPU that the server used since its last slice, while it had nothing to do.
    pub server_idle_cpu_share: f64,
}

impl Sample {
    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        self.slice.rate()
    }

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

    /// Returns the share of the slice in which the server ran or waited for a CPU.
    pub fn server_runnable(&self) -> f64 {
        self.server_busy() + self.server_waiting()
    }
}

/// One round of slices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// The share of CPU time that the host took during the round.
    pub steal: Option<f64>,
    /// The slices in order: the baseline is first, last, and between any two others.
    pub slices: Vec<Sample>,
}

/// A participant relative to the baseline, in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The index of the participant.
    pub participant: usize,
    /// The rate relative to the baseline.
    pub rate: f64,
    /// The CPU time per message relative to the baseline.
    pub cpu: f64,
}

impl Round {
    /// Compares each participant's slice with the mean of the two baseline slices next to it.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.slices.windows(3).filter_map(|three| match three {
            [before, slice, after] if before.participant == 0 && after.participant == 0 => {
                let mean = |of: fn(&Sample) -> f64| (of(before) + of(after)) / 2.0;
                Some(Pair {
                    participant: slice.participant,
                    rate: slice.rate() / mean(Sample::rate),
                    cpu: slice.cpu_per_message() / mean(Sample::cpu_per_message),
                })
            }
            _ => None,
        })
    }
}

/// Returns the order of the participants in a round: random, and the same for the same seed.
pub fn order(participants: &[usize], seed: u64, round: u32) -> Vec<usize> {
    let mut order = participants.to_vec();
    fastrand::Rng::with_seed(seed ^ (u64::from(round) << 32)).shuffle(&mut order);
    order
}

/// Returns the number of slices of a round.
pub fn slices_per_round(participants: usize) -> usize {
    if participants == 1 { 4 } else { 2 * participants + 1 }
}

/// The progress of a phase after a slice.
#[derive(Debug, Clone, Copy)]
pub struct SampleProgress {
    /// The number of the round, from 0.
    pub round: u32,
    /// The expected number of rounds.
    pub rounds: u32,
    /// The slice that has just ended.
    pub sample: Sample,
}

/// The limit of a phase. The first round always takes place, so that a table has numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseLimit {
    /// The number of rounds.
    pub rounds: u32,
    /// The phase ends when another round would exceed this time, if there are enough rounds for a
    /// verdict ([`stats::VALUES_MIN`]).
    pub time: Duration,
    /// The time until then, if it is longer.
    pub grace: Duration,
}

impl PhaseLimit {
    /// Returns a limit of rounds alone.
    pub fn rounds(rounds: u32) -> PhaseLimit {
        PhaseLimit { rounds, time: Duration::MAX, grace: Duration::ZERO }
    }

    /// Returns true if another round fits after `rounds` rounds, which took `elapsed`.
    fn allows_round(self, rounds: u32, elapsed: Duration) -> bool {
        let few = (rounds as usize) < stats::VALUES_MIN;
        let time = if few { self.time.max(self.grace) } else { self.time };
        rounds < self.rounds && (rounds == 0 || elapsed + elapsed / rounds <= time)
    }

    /// Estimates the number of rounds: in `elapsed`, `rounds` have ended and a slice of the next.
    fn expected_rounds(self, rounds: u32, elapsed: Duration, slices: usize, span: Duration) -> u32 {
        let round = match rounds {
            0 => span.as_secs_f64() * slices as f64,
            _ => elapsed.as_secs_f64() / (f64::from(rounds) + 1.0 / slices as f64),
        };
        let by_time = (self.time.as_secs_f64() / round.max(1e-9)) as u32;
        by_time.max(rounds + 1).min(self.rounds)
    }
}

/// A participant that failed, and how.
#[derive(Debug)]
pub struct SampleError {
    /// The index of the participant.
    pub participant: usize,
    /// The error of its client.
    pub error: LoadError,
}

/// The result of a phase.
#[derive(Debug, Default)]
pub struct PhaseResult {
    /// The rounds that were completed.
    pub rounds: Vec<Round>,
    /// The participants that failed. The others went on without them.
    pub failed: Vec<SampleError>,
}

/// Samples `participants` against the baseline, participant 0, in rounds. `watch` receives every
/// slice, and ends the phase by returning false; the incomplete round does not count.
///
/// # Errors
/// The baseline failed, or a server sent a wrong reply.
pub fn sample_phase(
    sampler: &mut dyn Sampler,
    participants: &[usize],
    seed: u64,
    span: Duration,
    limit: PhaseLimit,
    watch: &mut dyn FnMut(&SampleProgress) -> bool,
) -> Result<PhaseResult, SampleError> {
    let start = sampler.now();
    let mut participants = participants.to_vec();
    let slices = slices_per_round(participants.len());
    let mut phase = PhaseResult::default();
    sampler.steal();
    for number in 0.. {
        let elapsed = sampler.now().since(start);
        if participants.is_empty() || !limit.allows_round(number, elapsed) {
            break;
        }
        let mut round = Round { steal: None, slices: Vec::new() };
        let sequence = order(&participants, seed, number).into_iter().flat_map(|one| [one, 0]);
        for participant in std::iter::once(0).chain(sequence) {
            let Some(sample) = phase.sample(sampler, participant, span)? else {
                participants.retain(|&other| other != participant);
                continue;
            };
            round.slices.push(sample);
            let elapsed = sampler.now().since(start);
            let rounds = limit.expected_rounds(number, elapsed, slices, span);
            if !watch(&SampleProgress { round: number, rounds, sample }) {
                return Ok(phase);
            }
        }
        round.steal = sampler.steal();
        phase.rounds.push(round);
        // In a pair, this slice separates the baseline's last slice from its next.
        if let [only] = participants[..]
            && phase.sample(sampler, only, span)?.is_none()
        {
            participants.clear();
        }
    }
    Ok(phase)
}

impl PhaseResult {
    /// Samples one participant. Returns `None` if it failed, which ends nothing but its own part.
    fn sample(
        &mut self,
        sampler: &mut dyn Sampler,
        participant: usize,
        span: Duration,
    ) -> Result<Option<Sample>, SampleError> {
        match sampler.sample(participant, span) {
            Ok(sample) => Ok(Some(sample)),
            Err(error) if participant == 0 => Err(SampleError { participant, error }),
            Err(error) => {
                self.failed.push(SampleError { participant, error });
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Slices on a simulated clock: participant i makes 1000 × (i + 1) messages. After 20 slices
    /// all rates double, as on a host that has less to do from then on.
    struct Mock {
        now: Nanos,
        slices: Vec<usize>,
        broken: Option<usize>,
    }

    impl Mock {
        fn new() -> Mock {
            Mock { now: Nanos(0), slices: Vec::new(), broken: None }
        }
    }

    impl Sampler for Mock {
        fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError> {
            self.slices.push(participant);
            if self.broken == Some(participant) && self.slices.len() > 10 {
                let error = io::ErrorKind::ConnectionReset.into();
                return Err(LoadError::Broken { connection: 3, offset: 4, error });
            }
            self.now = self.now + span;
            let factor = if self.slices.len() > 20 { 2 } else { 1 };
            let messages = factor * 1000 * (participant as u64 + 1);
            let slice = LoadSlice {
                messages,
                bytes: messages,
                wall: span,
                cpu: span,
                idle: Duration::ZERO,
                unread_share: 0.1,
                ..LoadSlice::default()
            };
            let server_waited = Duration::ZERO;
            let server_idle_cpu_share = 0.0;
            Ok(Sample {
                participant,
                slice,
                server_cpu: span,
                server_waited,
                server_idle_cpu_share,
            })
        }

        fn steal(&mut self) -> Option<f64> {
            Some(0.01)
        }

        fn now(&self) -> Nanos {
            self.now
        }
    }

    const SPAN: Duration = Duration::from_millis(40);

    fn of_time(time: Duration, grace: Duration) -> PhaseLimit {
        PhaseLimit { rounds: u32::MAX, time, grace }
    }

    fn rounds(mock: &mut Mock, participants: &[usize], limit: PhaseLimit) -> PhaseResult {
        sample_phase(mock, participants, 7, SPAN, limit, &mut |_| true).expect("no wrong reply")
    }

    #[test]
    fn the_baseline_is_on_both_sides_of_every_participant() {
        let mut mock = Mock::new();
        let phase = rounds(&mut mock, &[1, 2, 3], PhaseLimit::rounds(5));
        assert_eq!(phase.rounds.len(), 5);
        for (number, round) in phase.rounds.iter().enumerate() {
            let all: Vec<usize> = round.slices.iter().map(|slice| slice.participant).collect();
            assert_eq!(all.len(), 7);
            assert!(all.iter().step_by(2).all(|&participant| participant == 0), "{all:?}");
            let others: Vec<usize> = all.into_iter().skip(1).step_by(2).collect();
            assert_eq!(others, order(&[1, 2, 3], 7, number as u32));
        }
    }

    #[test]
    fn the_order_is_random_and_repeats_with_its_seed() {
        let orders = |seed| -> Vec<Vec<usize>> {
            (0..60).map(|round| order(&[1, 2, 3], seed, round)).collect()
        };
        assert_eq!(orders(7), orders(7));
        assert_ne!(orders(7), orders(8));
        let mut seen = orders(7);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6, "every order occurs");
    }

    #[test]
    fn a_ratio_is_of_adjacent_slices_so_that_drift_cancels_out() {
        let mut mock = Mock::new();
        let phase = rounds(&mut mock, &[1, 2], PhaseLimit::rounds(8));
        let mut off = 0;
        for pair in phase.rounds.iter().flat_map(Round::pairs) {
            let expected = pair.participant as f64 + 1.0;
            off += usize::from((pair.rate / expected - 1.0).abs() > 1e-9);
            assert!((pair.rate * pair.cpu - 1.0).abs() < 0.2, "{pair:?}");
        }
        assert!(off <= 1, "only the pair during the change may be off; {off} are");
    }

    #[test]
    fn in_a_pair_no_server_has_two_slices_in_a_row() {
        let mut mock = Mock::new();
        let phase = rounds(&mut mock, &[2], PhaseLimit::rounds(3));
        assert_eq!(mock.slices, [0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2]);
        assert_eq!(phase.rounds.iter().flat_map(Round::pairs).count(), 3);
    }

    #[test]
    fn rounds_end_before_the_time_limit() {
        let mut mock = Mock::new();
        let limit = Duration::from_millis(1100);
        let limit = of_time(limit, Duration::ZERO);
        let phase = rounds(&mut mock, &[1, 2], limit);
        // Five slices of 40 ms are 200 ms a round.
        assert_eq!(phase.rounds.len(), 5);
        assert!(mock.now.0 <= 1_100_000_000);
    }

    #[test]
    fn a_phase_takes_longer_if_a_verdict_needs_it() {
        let phase = |grace| {
            let limit = of_time(Duration::from_millis(400), Duration::from_millis(grace));
            rounds(&mut Mock::new(), &[1, 2], limit).rounds.len()
        };
        assert_eq!([phase(0), phase(1000), phase(9000)], [2, 5, 6]);
    }

    #[test]
    fn a_phase_that_begins_after_its_deadline_has_one_round() {
        let limit = of_time(Duration::ZERO, Duration::ZERO);
        let elapsed = Duration::from_micros(10);
        assert_eq!([0, 1].map(|rounds| limit.allows_round(rounds, elapsed)), [true, false]);
    }

    #[test]
    fn a_participant_that_fails_leaves_and_the_others_go_on() {
        let mut mock = Mock { broken: Some(2), ..Mock::new() };
        let phase = rounds(&mut mock, &[1, 2], PhaseLimit::rounds(9));
        assert_eq!(phase.rounds.len(), 9);
        assert!(
            matches!(
                phase.failed[..],
                [SampleError { participant: 2, error: LoadError::Broken { .. } }]
            ),
            "{phase:?}"
        );
        let last: Vec<usize> = phase.rounds[8].pairs().map(|pair| pair.participant).collect();
        assert_eq!(last, [1]);
    }

    #[test]
    fn a_baseline_that_fails_ends_everything() {
        let mut mock = Mock { broken: Some(0), ..Mock::new() };
        let ended = sample_phase(&mut mock, &[1, 2], 7, SPAN, PhaseLimit::rounds(9), &mut |_| true);
        assert!(matches!(
            ended,
            Err(SampleError { participant: 0, error: LoadError::Broken { .. } })
        ));
    }

    #[test]
    fn an_incomplete_round_does_not_count() {
        let mut mock = Mock::new();
        let mut left = 8;
        let mut watch = |_: &SampleProgress| {
            left -= 1;
            left > 0
        };
        let phase = sample_phase(&mut mock, &[1, 2], 7, SPAN, PhaseLimit::rounds(9), &mut watch);
        let phase = phase.expect("no wrong reply");
        assert_eq!(phase.rounds.len(), 1, "five slices of eight are a round");
    }
}
