//! Rounds: who has a slice when, and what is a pair.
//!
//! All servers are open side by side, each with its connections, and in each slice one of them is
//! driven while the others sleep. A round gives each challenger one slice, in an order drawn for
//! that round, and the baseline R one before and one after each:
//!
//! ```text
//!   R A R B R C R      ratio of B  =  B / mean of the two R beside it
//! ```
//!
//! So the two sides of a ratio are a few hundredths of a second apart, and what drifts more slowly
//! than that, a neighbour on the host or the clock of the CPU, is in neither.
//!
//! A server that has just had a slice is warm. With several challengers R is driven every second
//! time and each challenger more rarely, which does not show with few connections and does with
//! many; those are therefore compared in pairs ([`super::plan::PAIRS_FROM`]). In a pair the two
//! alternate strictly, R B R b R B R b: the slice b counts for nothing and is there only so that R
//! is never driven twice in a row. (Without it, with 1,000 connections, epoll was 7 % slower than
//! itself.)

use std::time::Duration;

use serde::Serialize;

use proactor::clock::Nanos;
use proactor_load::{LoadError, Slice};
use proactor_report::stats;
use proactor_report::units::as_nanos;

/// What rounds are played on: the real servers, or a test's.
pub trait Arena {
    /// Drives one entrant for so long.
    ///
    /// # Errors
    /// As [`proactor_load::Load::run_for`].
    fn slice(&mut self, entrant: usize, span: Duration) -> Result<Sample, LoadError>;

    /// The share of CPU time that the host has taken since this was last called; `None` where that
    /// is not told.
    fn steal(&mut self) -> Option<f64>;

    /// The time.
    fn now(&self) -> Nanos;
}

/// One slice of one server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// What the client saw.
    #[serde(flatten)]
    pub slice: Slice,
    /// CPU time of the server's process, all threads.
    #[serde(rename = "server_cpu_ns", serialize_with = "as_nanos")]
    pub server_cpu: Duration,
    /// How long the server was ready to run while something else had its CPU; zero where the
    /// kernel does not tell.
    #[serde(rename = "server_waited_ns", serialize_with = "as_nanos")]
    pub server_waited: Duration,
    /// Of the time since its last slice, the share for which the server had used a CPU though
    /// nobody asked anything of it.
    pub server_idle_cpu_share: f64,
}

impl Sample {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.slice.rate()
    }

    /// Seconds of server CPU per message.
    pub fn cpu_per_message(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.slice.messages.max(1) as f64
    }

    /// Of the slice, how much the server was on a CPU.
    pub fn server_busy(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.slice.wall.as_secs_f64().max(1e-9)
    }

    /// Of the slice, how much the server waited for a CPU that something else had.
    pub fn server_crowded(&self) -> f64 {
        self.server_waited.as_secs_f64() / self.slice.wall.as_secs_f64().max(1e-9)
    }

    /// Of the slice, how much the server had something to do.
    pub fn server_wanted(&self) -> f64 {
        self.server_busy() + self.server_crowded()
    }
}

/// A slice, and whose it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Turn {
    /// Whose.
    pub entrant: usize,
    /// What was measured.
    #[serde(flatten)]
    pub sample: Sample,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// The share of CPU time that the host took meanwhile.
    pub steal: Option<f64>,
    /// Its slices, in order: the baseline first, last, and between any two.
    pub turns: Vec<Turn>,
}

/// What a challenger is in relation to the baseline, in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Which challenger.
    pub entrant: usize,
    /// Its rate, relative.
    pub rate: f64,
    /// Its CPU per message, relative.
    pub cpu: f64,
}

impl Round {
    /// Each challenger's slice against the mean of the two beside it.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.turns.windows(3).filter_map(|three| match three {
            [before, turn, after] if before.entrant == 0 && after.entrant == 0 => {
                let mean = |of: fn(&Sample) -> f64| (of(&before.sample) + of(&after.sample)) / 2.0;
                Some(Pair {
                    entrant: turn.entrant,
                    rate: turn.sample.rate() / mean(Sample::rate),
                    cpu: turn.sample.cpu_per_message() / mean(Sample::cpu_per_message),
                })
            }
            _ => None,
        })
    }
}

/// The order of the challengers in a round: drawn, and the same whenever it is drawn again.
pub fn order(challengers: &[usize], seed: u64, round: u32) -> Vec<usize> {
    let mut order = challengers.to_vec();
    let mut state = seed ^ (u64::from(round) << 32);
    for last in (1..order.len()).rev() {
        // splitmix64; the bias of the remainder is nothing for a handful.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(last, ((z ^ (z >> 31)) % (last as u64 + 1)) as usize);
    }
    order
}

/// How many slices a round has, with so many challengers.
pub fn slices(challengers: usize) -> usize {
    if challengers == 1 { 4 } else { 2 * challengers + 1 }
}

/// How far a phase has come, between two slices.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The round, from 0.
    pub round: u32,
    /// Who had the slice.
    pub entrant: usize,
    /// How it went.
    pub sample: Sample,
    /// How long the phase has taken.
    pub elapsed: Duration,
}

/// When a phase is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After so many rounds.
    Rounds(u32),
    /// When another round would not fit any more.
    Elapsed {
        /// Into so long, …
        limit: Duration,
        /// … or into so long, while there are too few rounds for a verdict
        /// ([`stats::VALUES_MIN`]).
        grace: Duration,
    },
}

/// What came of a phase.
#[derive(Debug, Default)]
pub struct Played {
    /// The rounds that were played to their end.
    pub rounds: Vec<Round>,
    /// Who failed, and how: from there on the others went on alone.
    pub failed: Vec<(usize, LoadError)>,
    /// Whether `watch` ended it.
    pub stopped: bool,
}

/// Plays rounds of `challengers` against the baseline, entrant 0. `watch` is shown every slice and
/// says whether to go on; a round that it cuts short does not count.
///
/// # Errors
/// The baseline failed, or anybody's reply was wrong.
pub fn play(
    arena: &mut dyn Arena,
    challengers: &[usize],
    seed: u64,
    span: Duration,
    until: Until,
    watch: &mut dyn FnMut(&Step) -> bool,
) -> Result<Played, LoadError> {
    let start = arena.now();
    let mut challengers = challengers.to_vec();
    let mut played = Played::default();
    arena.steal();
    for number in 0.. {
        let elapsed = arena.now().since(start);
        let fits = match until {
            Until::Rounds(rounds) => number < rounds,
            Until::Elapsed { limit, grace } => {
                let few = (number as usize) < stats::VALUES_MIN;
                elapsed + elapsed / number.max(1) <= if few { limit.max(grace) } else { limit }
            }
        };
        if !fits || challengers.is_empty() {
            break;
        }
        let mut round = Round { steal: None, turns: Vec::with_capacity(2 * challengers.len() + 1) };
        let sequence = order(&challengers, seed, number).into_iter().flat_map(|one| [one, 0]);
        for entrant in std::iter::once(0).chain(sequence) {
            if played.failed.iter().any(|(failed, _)| *failed == entrant) {
                continue;
            }
            let sample = match arena.slice(entrant, span) {
                Ok(sample) => sample,
                Err(failure) if entrant == 0 || failure.is_wrong() => return Err(failure),
                Err(failure) => {
                    challengers.retain(|&challenger| challenger != entrant);
                    played.failed.push((entrant, failure));
                    continue;
                }
            };
            round.turns.push(Turn { entrant, sample });
            let elapsed = arena.now().since(start);
            if !watch(&Step { round: number, entrant, sample, elapsed }) {
                played.stopped = true;
                return Ok(played);
            }
        }
        round.steal = arena.steal();
        played.rounds.push(round);
        if let [only] = challengers[..] {
            match arena.slice(only, span) {
                Ok(_) => {}
                Err(failure) if failure.is_wrong() => return Err(failure),
                Err(failure) => {
                    challengers.clear();
                    played.failed.push((only, failure));
                }
            }
        }
    }
    Ok(played)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Slices that take no time but the clock's: entrant i makes 1000 × (i + 1) messages at a pace
    /// that doubles in mid-run, as on a machine whose neighbour has left.
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

    impl Arena for Mock {
        fn slice(&mut self, entrant: usize, span: Duration) -> Result<Sample, LoadError> {
            self.slices.push(entrant);
            if self.broken == Some(entrant) && self.slices.len() > 10 {
                let error = io::ErrorKind::ConnectionReset.into();
                return Err(LoadError::Broken { connection: 3, offset: 4, error });
            }
            self.now = self.now + span;
            let pace = if self.slices.len() > 20 { 2 } else { 1 };
            let messages = pace * 1000 * (entrant as u64 + 1);
            let slice = Slice {
                messages,
                bytes: messages,
                wall: span,
                cpu: span,
                idle: Duration::ZERO,
                unread_share: 0.1,
            };
            let server_waited = Duration::ZERO;
            Ok(Sample { slice, server_cpu: span, server_waited, server_idle_cpu_share: 0.0 })
        }

        fn steal(&mut self) -> Option<f64> {
            Some(0.01)
        }

        fn now(&self) -> Nanos {
            self.now
        }
    }

    const SPAN: Duration = Duration::from_millis(40);

    fn rounds(mock: &mut Mock, challengers: &[usize], until: Until) -> Played {
        play(mock, challengers, 7, SPAN, until, &mut |_| true).expect("nobody was wrong")
    }

    #[test]
    fn the_baseline_stands_on_both_sides_of_every_challenger() {
        let mut mock = Mock::new();
        let played = rounds(&mut mock, &[1, 2, 3], Until::Rounds(5));
        assert_eq!(played.rounds.len(), 5);
        for (number, round) in played.rounds.iter().enumerate() {
            let who: Vec<usize> = round.turns.iter().map(|turn| turn.entrant).collect();
            assert_eq!(who.len(), 7);
            assert!(who.iter().step_by(2).all(|&entrant| entrant == 0), "{who:?}");
            let challengers: Vec<usize> = who.into_iter().skip(1).step_by(2).collect();
            assert_eq!(challengers, order(&[1, 2, 3], 7, number as u32));
        }
    }

    #[test]
    fn the_order_is_drawn_anew_and_repeats_with_its_seed() {
        let orders = |seed| -> Vec<Vec<usize>> {
            (0..60).map(|round| order(&[1, 2, 3], seed, round)).collect()
        };
        assert_eq!(orders(7), orders(7));
        assert_ne!(orders(7), orders(8));
        let mut seen = orders(7);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6, "every order comes up");
    }

    #[test]
    fn a_ratio_is_of_neighbours_so_that_drift_is_in_neither() {
        let mut mock = Mock::new();
        let played = rounds(&mut mock, &[1, 2], Until::Rounds(8));
        let mut off = 0;
        for pair in played.rounds.iter().flat_map(Round::pairs) {
            let expected = pair.entrant as f64 + 1.0;
            off += usize::from((pair.rate / expected - 1.0).abs() > 1e-9);
            assert!((pair.rate * pair.cpu - 1.0).abs() < 0.2, "{pair:?}");
        }
        assert!(off <= 1, "only the pair in which the pace changed may be off; {off} are");
    }

    #[test]
    fn in_a_pair_nobody_is_driven_twice_in_a_row() {
        let mut mock = Mock::new();
        let played = rounds(&mut mock, &[2], Until::Rounds(3));
        assert_eq!(mock.slices, [0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2]);
        assert_eq!(played.rounds.iter().flat_map(Round::pairs).count(), 3);
    }

    #[test]
    fn rounds_end_before_the_time_does() {
        let mut mock = Mock::new();
        let limit = Duration::from_millis(1100);
        let until = Until::Elapsed { limit, grace: Duration::ZERO };
        let played = rounds(&mut mock, &[1, 2], until);
        // Five slices of 40 ms are 200 ms a round.
        assert_eq!(played.rounds.len(), 5);
        assert!(mock.now.0 <= 1_100_000_000);
    }

    #[test]
    fn a_verdicts_rounds_are_played_a_little_longer_if_it_takes_that() {
        let played = |grace| {
            let until = Until::Elapsed {
                limit: Duration::from_millis(400),
                grace: Duration::from_millis(grace),
            };
            rounds(&mut Mock::new(), &[1, 2], until).rounds.len()
        };
        assert_eq!([played(0), played(1000), played(9000)], [2, 5, 6]);
    }

    #[test]
    fn who_breaks_leaves_and_the_others_go_on() {
        let mut mock = Mock { broken: Some(2), ..Mock::new() };
        let played = rounds(&mut mock, &[1, 2], Until::Rounds(9));
        assert_eq!(played.rounds.len(), 9);
        assert!(matches!(played.failed[..], [(2, LoadError::Broken { .. })]), "{played:?}");
        let last: Vec<usize> = played.rounds[8].pairs().map(|pair| pair.entrant).collect();
        assert_eq!(last, [1]);
    }

    #[test]
    fn a_baseline_that_breaks_ends_everything() {
        let mut mock = Mock { broken: Some(0), ..Mock::new() };
        let ended = play(&mut mock, &[1, 2], 7, SPAN, Until::Rounds(9), &mut |_| true);
        assert!(matches!(ended, Err(LoadError::Broken { .. })));
    }

    #[test]
    fn a_round_that_was_cut_short_does_not_count() {
        let mut mock = Mock::new();
        let mut left = 8;
        let mut watch = |_: &Step| {
            left -= 1;
            left > 0
        };
        let played = play(&mut mock, &[1, 2], 7, SPAN, Until::Rounds(9), &mut watch);
        let played = played.expect("nobody was wrong");
        assert!(played.stopped);
        assert_eq!(played.rounds.len(), 1, "five slices of eight");
    }
}
