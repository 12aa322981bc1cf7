//! From blocks to results: ratios, verdicts and warnings. Pure functions.

use std::time::Duration;

use minijinja::context;

use crate::block::{MeasuredBlock, Sample, ServerUse};
use crate::connected_server::SPINNING;
use crate::machine_cpu;
use crate::percentile;
use crate::plan::CONTROL;
use crate::process_stat::CpuTicks;
use crate::results::{CountsPerMessage, Measured, OpenMeasured, Outcome, ResultTable};
use crate::verdict::{Judge, Ratio, Verdict};
use proactor_load::{LoadSlice, Workload};
use proactor_report::stats;
use proactor_report::template;
use proactor_report::units::{self, plural};

/// A client that waited for less of its CPU time than this, while more than this share of its
/// connections had an unread reply, set the rate. (A client that is merely always busy, with one
/// reply after another as they come, does not: the messages wait for the server.)
const CLIENT_WAITS_MIN: f64 = 0.05;
const UNREAD_MAX: f64 = 0.5;
/// A server that waited for its CPU for more of its median slice than this was disturbed.
const WAITING_MAX: f64 = 0.05;
/// The change of the machine's own speed within a run from which on it is said.
const SPEED_CHANGE_MAX: f64 = 1.10;
/// A server that sends nothing for this long in half of the blocks stalls: longer than a tick of
/// any kernel's clock at which another process may take its CPU.
const STALL: Duration = Duration::from_millis(5);

/// A server that takes longer by more than this for the messages of its slices, or to which more
/// than that of them could not be sent, does not hold the rate of an open loop.
const BEHIND: f64 = 1.05;
const UNSENT_MAX: f64 = 0.01;
/// If more messages than this are sent late, latencies are those of the client too.
const LATE_MAX: f64 = 0.01;

/// Makes the results of a load.
pub(crate) fn table(
    load: Workload,
    slice: Duration,
    mut participants: Vec<Outcome>,
    blocks: Vec<MeasuredBlock>,
    judge: &Judge,
) -> ResultTable {
    for (at, outcome) in participants.iter_mut().enumerate() {
        if outcome.reason.is_none() {
            outcome.measured = measured(&blocks, at, outcome, judge);
            if let Some(measured) = outcome.measured.as_mut().filter(|_| load.offer.is_some()) {
                measured.open = Some(open_measured(&used(&blocks, at), at, slice));
            }
            if outcome.measured.is_none() {
                outcome.reason = Some("no block was completed".to_owned());
            }
        }
    }
    let is_bound = |outcome: &Outcome| outcome.measured.as_ref().is_some_and(|m| m.is_client_bound);
    let baseline_bound = participants.first().is_some_and(is_bound);
    for measured in participants.iter_mut().filter_map(|outcome| outcome.measured.as_mut()) {
        // If the client set the rate of either side, the ratio says nothing.
        if let Some(rate) = &mut measured.rate_ratio
            && (baseline_bound || measured.is_client_bound)
        {
            (rate.interval, rate.verdict) = (None, Verdict::ClientBound);
        }
    }
    let speeds: Vec<f64> = valid(&blocks).filter_map(|block| cpu_of(block, 0)).collect();
    let speed_change = stats::quantile(&speeds, 0.9).zip(stats::quantile(&speeds, 0.1));
    let speed_change = speed_change.map(|(slow, fast)| slow / fast);
    ResultTable { load, slowest: None, slice, participants, blocks, speed_change }
}

fn valid(blocks: &[MeasuredBlock]) -> impl Iterator<Item = &MeasuredBlock> {
    blocks.iter().filter(|block| block.void.is_none())
}

/// Returns the valid blocks of a participant, or all of its blocks if none is valid.
fn used(blocks: &[MeasuredBlock], at: usize) -> Vec<&MeasuredBlock> {
    let has = |block: &&MeasuredBlock| block.slices(at).next().is_some();
    let its: Vec<&MeasuredBlock> = valid(blocks).filter(has).collect();
    if its.is_empty() { blocks.iter().filter(has).collect() } else { its }
}

/// Returns the CPU time per message in a block: the median over the rounds, in seconds.
fn cpu_of(block: &MeasuredBlock, participant: usize) -> Option<f64> {
    stats::median(&block.slices(participant).map(Sample::cpu_per_message).collect::<Vec<_>>())
}

/// Returns the messages and the CPU and wall seconds of all slices in a block.
fn totals(block: &MeasuredBlock, participant: usize) -> (f64, f64, f64) {
    block.slices(participant).fold((0.0, 0.0, 0.0), |(messages, cpu, wall), sample| {
        let cpu = cpu + sample.server_cpu.as_secs_f64();
        (messages + sample.slice.messages as f64, cpu, wall + sample.slice.seconds())
    })
}

/// The logarithms of what a block says of a participant, relative to the baseline.
struct Logs {
    /// CPU time per message: the median over the rounds, which leaves out a disturbed round.
    cpu: f64,
    /// Messages over time: what a server waited for must show here.
    rate: f64,
    /// By how much more the CPU time of all rounds exceeds that of the median round.
    bursts: f64,
}

impl Logs {
    fn of(block: &MeasuredBlock, at: usize) -> Option<Logs> {
        let ratios: Vec<f64> = block
            .rounds
            .iter()
            .filter_map(|round| {
                let cost = |at| {
                    let sample = round.iter().find(|sample| sample.participant == at);
                    sample.map(Sample::cpu_per_message)
                };
                Some((cost(at)? / cost(0)?).ln())
            })
            .collect();
        let cpu = stats::median(&ratios)?;
        let (row, base) = (totals(block, at), totals(block, 0));
        let rate = (row.0 / row.2).ln() - (base.0 / base.2).ln();
        let excess = |(messages, cpu, _): (f64, f64, f64), at| {
            Some((cpu / messages / cpu_of(block, at)?).ln())
        };
        let bursts = excess(row, at)? - excess(base, 0)?;
        let logs = Logs { cpu, rate, bursts };
        [cpu, rate, bursts].iter().all(|log| log.is_finite()).then_some(logs)
    }
}

/// Returns the numbers of the participant `at`, or `None` if it has no slice.
fn measured(
    blocks: &[MeasuredBlock],
    at: usize,
    outcome: &Outcome,
    judge: &Judge,
) -> Option<Measured> {
    let logs: Vec<Logs> = valid(blocks).filter_map(|block| Logs::of(block, at)).collect();
    let mut measured = numbers(&used(blocks, at), at)?;
    measured.counted = counted(outcome);
    if at > 0 {
        let ratio =
            |of: fn(&Logs) -> f64, margin| judge.ratio(logs.iter().map(of).collect(), margin);
        let bursts = ratio(|log| log.bursts, 0.0).and_then(|excess| excess.interval);
        measured.cost_in_bursts = bursts.is_some_and(|excess| excess.low > 1.0);
        measured.rate_ratio = ratio(|log| log.rate, judge.rules.rate_margin);
        measured.cpu_ratio = ratio(|log| log.cpu, judge.rules.cpu_margin);
        if let Some(Ratio { verdict: verdict @ Verdict::Within, .. }) = &mut measured.cpu_ratio
            && measured.cost_in_bursts
        {
            *verdict = Verdict::NotShown;
        }
    }
    Some(measured)
}

/// Returns what these blocks say of a participant, without the ratios.
fn numbers(used: &[&MeasuredBlock], at: usize) -> Option<Measured> {
    let samples: Vec<&Sample> = used.iter().flat_map(|block| block.slices(at)).collect();
    let all = |of: fn(&Sample) -> f64| samples.iter().map(|it| of(it)).collect::<Vec<f64>>();
    let median = |of: fn(&Sample) -> f64| stats::median(&all(of));
    let sum = |of: fn(&Sample) -> f64| all(of).iter().sum::<f64>();
    let messages = sum(|it| it.slice.messages as f64);
    let costs: Vec<f64> = used.iter().filter_map(|block| cpu_of(block, at)).collect();
    let longest = |block: &&MeasuredBlock| block.slices(at).map(|it| it.slice.longest_gap).max();
    let waits: Vec<f64> = used.iter().filter_map(longest).map(|it| it.as_secs_f64()).collect();
    let on_cpu = sum(|it| it.slice.cpu.min(it.slice.wall).as_secs_f64());
    let client_waiting = sum(|it| it.slice.idle.as_secs_f64()) / on_cpu.max(1e-9);
    let unread_share = stats::mean(&all(|it| it.slice.unread_share));
    let servers = || used.iter().flat_map(|block| &block.servers).filter(|it| it.participant == at);
    let mut ticks = CpuTicks::default();
    servers().for_each(|server| ticks += server.ticks);
    let switches: Option<u64> = servers().map(|server| server.switches).sum();
    let times: Vec<&[(u64, u64)]> = servers().map(ServerUse::times).collect();
    let connections = servers().map(|it| it.connection_messages).filter(|(_, most)| *most > 0);
    let fairness: Vec<f64> = connections.map(|(least, most)| least as f64 / most as f64).collect();
    let cpu_us = stats::median(&costs)? * 1e6;
    Some(Measured {
        blocks: used.len(),
        rate: messages / sum(|it| it.slice.seconds()),
        cpu_us,
        cpu_user_us: ticks.user_share().map(|share| share * cpu_us),
        machine_us: machine_cpu::per_message(&samples),
        server_busy: median(Sample::server_busy)?,
        server_waiting: median(Sample::server_waiting)?,
        client_waiting,
        unread_share,
        fairness: stats::median(&fairness),
        is_client_bound: client_waiting < CLIENT_WAITS_MIN && unread_share > UNREAD_MAX,
        longest_wait: Duration::from_secs_f64(stats::median(&waits)?),
        is_spinning: median(|sample| sample.server_idle_cpu_share)? > SPINNING,
        switches_per_message: switches.map(|switches| switches as f64 / messages.max(1.0)),
        p50: percentile::of(&times, 0.5),
        p99: percentile::of(&times, 0.99),
        p99_9: percentile::of(&times, 0.999),
        ..Measured::default()
    })
}

/// Returns what these blocks of an open loop say of a participant.
fn open_measured(used: &[&MeasuredBlock], at: usize, slice: Duration) -> OpenMeasured {
    let samples = || used.iter().flat_map(|block| block.slices(at)).map(|sample| sample.slice);
    let sum = |of: fn(&LoadSlice) -> f64| samples().map(|it| of(&it)).sum::<f64>();
    let offered = sum(|it| it.offered as f64).max(1.0);
    let (late, unsent) = (sum(|it| it.late as f64), sum(|it| it.unsent as f64));
    let planned = slice.as_secs_f64() * samples().count() as f64;
    let p99 = |of: fn(&ServerUse) -> &[(u64, u64)]| {
        let servers = used.iter().flat_map(|block| &block.servers);
        let servers = servers.filter(|it| it.participant == at);
        percentile::of(&servers.map(of).collect::<Vec<_>>(), 0.99)
    };
    OpenMeasured {
        is_behind: sum(LoadSlice::seconds) > BEHIND * planned || unsent / offered > UNSENT_MAX,
        late_share: late / offered,
        unsent_share: unsent / offered,
        service_p99: p99(|server| &server.service_times),
        offer_lag_p99: p99(|server| &server.offer_lags),
    }
}

/// Returns what the servers of a participant counted, per message.
fn counted(outcome: &Outcome) -> Option<CountsPerMessage> {
    let counters = outcome.stats.as_ref()?.counters;
    let each = |count: u64| count as f64 / outcome.messages.max(1) as f64;
    Some(CountsPerMessage {
        calls: each(counters.calls),
        iterations: each(counters.iterations),
        submitted: each(counters.submitted),
        completed: each(counters.completed),
    })
}

impl ResultTable {
    /// Returns the connections of the load, and the rate of an open loop.
    pub(crate) fn place(&self) -> String {
        let connections = plural(self.load.shape.connections as u64, "connection");
        match self.load.offer {
            Some(offer) => format!("{connections} and {} msg/s", units::rate(offer.rate)),
            None => connections,
        }
    }

    /// Returns the times of a participant in each valid block, by which its loop is judged.
    pub(crate) fn times(&self, participant: usize) -> Vec<&[(u64, u64)]> {
        let servers = valid(&self.blocks).flat_map(|block| &block.servers);
        let its = servers.filter(|server| server.participant == participant);
        its.map(ServerUse::times).collect()
    }

    /// Returns the number of valid and of void blocks; of a table of pairs, those of one pair.
    pub(crate) fn block_counts(&self) -> (usize, usize) {
        let most = (1..self.participants.len()).map(|at| {
            let of = |void: bool| {
                let blocks = self.blocks.iter().filter(|block| block.void.is_some() == void);
                blocks.filter(|block| block.slices(at).next().is_some()).count()
            };
            (of(false), of(true))
        });
        most.max().unwrap_or_default()
    }

    /// Returns the ratios of the control whose intervals do not enclose 1.
    pub(crate) fn control_misses(&self) -> bool {
        let control = self.participants.get(CONTROL).and_then(|it| it.measured.as_ref());
        let ratios = control.into_iter().flat_map(|it| [&it.cpu_ratio, &it.rate_ratio]);
        let intervals = ratios.flatten().filter_map(|ratio| ratio.interval);
        intervals.into_iter().any(|interval| !interval.encloses_one())
    }
}

/// Returns the warnings about a table. `engine` is the name of the client's engine.
pub(crate) fn warnings(table: &ResultTable, engine: &str) -> Vec<String> {
    let measured = |property: fn(&Measured) -> bool| -> Vec<&str> {
        let rows = table.participants.iter();
        let rows = rows.filter(|row| row.measured.as_ref().is_some_and(property));
        rows.map(|row| row.spec.name.as_str()).collect()
    };
    let void: Vec<&str> = table.blocks.iter().filter_map(|it| it.void.as_deref()).collect();
    let values = context! {
        engine,
        blocks => table.blocks.len(),
        void => void.len(),
        cause => void.first(),
        speed_change => table.speed_change.filter(|&change| change > SPEED_CHANGE_MAX),
        waiting => measured(|measured| measured.server_waiting > WAITING_MAX),
        bound => measured(|measured| measured.is_client_bound),
        stalled => measured(|measured| measured.longest_wait > STALL),
        stall => STALL.as_nanos() as u64,
        spinning => measured(|measured| measured.is_spinning),
        behind => measured(|measured| measured.open.is_some_and(|it| it.is_behind)),
        late => measured(|measured| measured.open.is_some_and(|it| it.late_share > LATE_MAX)),
    };
    let load = table.place();
    let text = template::fill(include_str!("warnings.txt"), values);
    text.lines().map(|warning| format!("at {load} {warning}")).collect()
}
