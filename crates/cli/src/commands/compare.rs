//! `proactor compare`: every I/O model under the same load, side by side.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::load::{ONE_WAY_RATE, OPEN_DEPTH, arrivals, rate};
use super::output::{self, Destination, GREEN, RED};
use super::picks::{self, Pick, picked};
use super::stderr::note;
use super::{
    ExitStatus, MessageArgs, SEED_MAX, number, peer, refuse, run_on_cpu, stop_signal, variants,
    wrong_usage,
};
use proactor::limits::Limits;
use proactor::os;
use proactor_compare::gate::Gate;
use proactor_compare::plan::{
    BASELINE, CROWD_FROM, ComparisonPlan, Extent, MODELS, ModelSpec, OfferedRate, OpenLoop,
    PeerServer, PlannedLoad, Rules,
};
use proactor_compare::progress::{Activity, Progress};
use proactor_compare::render;
use proactor_compare::results::{Comparison, GateVerdict};
use proactor_compare::server_process::{ServerCommand, ServerError};
use proactor_load::{Arrivals, CONNECTIONS_MAX, EngineChoice, LoadShape, Workload};
use proactor_report::units;

/// Compare I/O models under the same load, side by side.
///
/// Each model is a server in its own process, on one CPU. One client, on another CPU, loads one at
/// a time in short slices. A block has fresh servers for the baseline, for the baseline again (A/A)
/// and for each model; it gives one ratio of each, and all blocks an interval and a word. Every
/// reply is verified; one wrong byte makes the run void. Takes less than a minute.
///
/// Status: 0 done, 1 nothing was measured, 2 wrong usage, 3 a condition does not hold, 4 it is
/// undecided, 130 interrupted.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompareArgs {
    /// Models to compare, separated by commas, or all: blocking, process, nonblocking, select,
    /// poll, thread, sigio, epoll, epoll-et, epoll-oneshot, coroutine, uring. -NAME removes one,
    /// as in all,-process; NAME+trace records into a file, as `serve --trace=FILE` does, and
    /// uring@5.6 uses no io_uring feature newer than that kernel. A model that does not work here
    /// is a row with the reason
    #[arg(long, value_name = "MODELS", value_delimiter = ',', default_value = MODELS)]
    models: Vec<Pick>,

    /// Model that the others are compared with, and that is also measured against itself;
    /// NAME+trace is possible, and the name of a peer
    #[arg(long, value_name = "MODEL", default_value = BASELINE)]
    baseline: String,

    /// Compare io_uring with less of it: a row for each of the `features` that a server uses here,
    /// without it and those that need it; or for each of the `kernels` that brought some, without
    /// what came later. The baseline is uring
    #[arg(long, value_name = "BY", num_args = 0..=1, require_equals = true,
          default_missing_value = "features", value_parser = ["features", "kernels"],
          conflicts_with_all = ["models", "baseline"])]
    ablate: Option<String>,

    /// Server of another program that is compared too, by the command that starts it: as in
    /// 'mine=./server --port {port}', with a free port in the place of {port}. Without {port}, it
    /// writes "listening on ADDRESS" on standard output. It speaks the same protocol as the
    /// models; the option may be repeated
    #[arg(long = "peer", value_name = "NAME=COMMAND", value_parser = peer::parse)]
    peers: Vec<PeerServer>,

    /// Connections per server; several numbers make several tables
    #[arg(long, short = 'c', value_name = "N,…", value_delimiter = ',', default_value = "64",
          value_parser = number::<usize>(1, CONNECTIONS_MAX as u64))]
    connections: Vec<usize>,

    #[command(flatten)]
    messages: MessageArgs,

    /// Open loop: send so many messages a second to each server over all connections, at planned
    /// times: 50k, or 70% of what the slowest serves in a closed loop. Several make several tables.
    /// Each connection may then have 1024 messages in flight, unless --depth says otherwise
    #[arg(long, short = 'R', value_name = "RATE,…", value_delimiter = ',',
          value_parser = offered_rate)]
    rate: Vec<OfferedRate>,

    /// Planned times of an open loop: constant, poisson (random, as independent clients send), or
    /// bursts (ten times as often in the first 10 ms of each 100 ms) [default: constant]
    #[arg(long, value_name = "KIND", value_parser = arrivals, requires = "rate")]
    arrivals: Option<Arrivals>,

    /// Open so many more connections to each server, which are idle after their first message
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    idle_connections: usize,

    /// Open so many more connections to each server that send much and read a kilobyte every 10 ms
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    slow_readers: usize,

    /// Time for all tables together: 30s, 2m. As many blocks are measured as fit, and fewer than 12
    /// give no verdict [default: 20 blocks, or as many as fit into a minute but at least 12]
    #[arg(long, value_name = "TIME", value_parser = total_time)]
    time: Option<Duration>,

    /// Number of blocks per table, without a time limit; a verdict needs 12
    #[arg(long, value_name = "N", conflicts_with = "time",
          value_parser = number::<u32>(1, 100_000))]
    blocks: Option<u32>,

    /// Narrow intervals, within a quarter of an hour; needed from 1000 connections on
    #[arg(long)]
    full: bool,

    /// Percent by which CPU time per message may differ and still be *within*: at most 5
    #[arg(long, value_name = "PERCENT", default_value = "2", value_parser = margin)]
    cpu_margin: f64,

    /// The same for the rate
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = margin)]
    rate_margin: f64,

    /// Percent of the runs in which all intervals enclose the true ratios: 95, or 99, which needs
    /// 15 blocks
    #[arg(long, value_name = "PERCENT", default_value = "95", value_parser = ["95", "99"])]
    confidence: String,

    /// Idle connections per model, to measure memory, descriptors, threads and processes of one
    /// connection; 0 skips this [default: 1000 for echo and churn, else 0]
    #[arg(long, value_name = "N", value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    idle: Option<usize>,

    /// I/O engine of the client: uring, epoll, or auto (uring where it works)
    #[arg(long, alias = "wire", value_name = "ENGINE", default_value = "auto")]
    engine: EngineChoice,

    /// Condition on a ratio: 'uring cpu <= 0.97 epoll', or 'uring rate >= 1.05 epoll'; status 3 if
    /// it does not hold under a load, 4 if that is undecided. May be repeated
    #[arg(long, value_name = "CONDITION")]
    require: Vec<Gate>,

    /// Condition on the service times, or in an open loop on the times from plan to reply:
    /// 'p99 <= 2ms' for all models, or 'uring p99.9 <= 10ms'
    #[arg(long, value_name = "CONDITION")]
    slo: Vec<Gate>,

    /// CPU of the servers, a usable one (see taskset(1)) [default: the first]
    #[arg(long, value_name = "CPU", value_parser = number::<usize>(0, 65_535))]
    server_cpu: Option<usize>,

    /// CPU of the client, a usable one [default: another, if there are two]
    #[arg(long, value_name = "CPU", value_parser = number::<usize>(0, 65_535))]
    client_cpu: Option<usize>,

    /// Seed of the model order and of the message bytes [default: random]
    #[arg(long, value_name = "N", value_parser = number::<u64>(0, SEED_MAX))]
    seed: Option<u64>,

    /// Write the full result, with every slice, as JSON to this file; - is standard output, instead
    /// of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a line of comma-separated values for each row to this file; - is standard output,
    /// instead of the text
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Write the text as Markdown to this file; - is standard output, instead of the text
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write the times of each row to this file, as an interval log of HdrHistogram; - is standard
    /// output, instead of the text
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
}

/// A form in which a comparison is written into a file.
type Form = fn(&Comparison) -> anyhow::Result<String>;

impl CompareArgs {
    /// Runs the comparison, and prints the result on standard output.
    ///
    /// # Errors
    /// The baseline cannot run, a reply was wrong, or the result cannot be written.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.check_names();
        let plan = self.plan();
        let gates: Vec<&Gate> = self.require.iter().chain(&self.slo).collect();
        if let Some(wrong) = gates.iter().find_map(|gate| gate.wrong_name(&plan)) {
            wrong_usage(&format!("--require, --slo: {wrong}"));
        }
        try_cpus(&plan)?;
        // Opened before the measurement: an unwritable path fails at once.
        let to = self.destinations()?;
        let stop = stop_signal()?;
        // A trace file has no name, so none remains after a crash. It stays open until the next is
        // created: by then its server has opened it, or has ended.
        let trace = Cell::new(None);
        let start = |spec: &ModelSpec| server_command(&plan, spec, &trace);
        let bar = output::progress("compare {spinner} {elapsed}  {msg}");
        let mut printed = Instant::now();
        let comparison = proactor_compare::run(&plan, &start, &mut |progress| {
            if output::draws(&io::stderr()) {
                // Only now, when this thread is pinned: the thread of the spinner must stay on the
                // CPU of the client.
                bar.enable_steady_tick(TICK);
                bar.set_message(line(progress));
            } else if printed.elapsed() >= PLAIN_EVERY {
                printed = Instant::now();
                note!("compare  {}", line(progress));
            }
            stop.take() == 0
        });
        bar.finish_and_clear();
        let mut comparison = comparison?;
        comparison.gates = gates.iter().flat_map(|gate| gate.judge(&comparison)).collect();

        for (file, form) in to {
            file.write(&form(&comparison)?)?;
        }
        if !self.files().any(|(path, _)| output::is_stdout(path)) {
            let words = [("faster", GREEN), ("slower", RED)];
            output::print_coloured(&render::text(&comparison), &words)?;
        }
        match comparison {
            it if it.interrupted => Err(anyhow::Error::msg(ExitStatus(130))),
            it if it.is_empty() => Err(anyhow::anyhow!("nothing was measured: {}", reasons(&it))),
            it => match it.gates.iter().map(|gate| gate.verdict).max() {
                Some(GateVerdict::Fails) => Err(anyhow::Error::msg(ExitStatus(3))),
                Some(GateVerdict::Undecided) => Err(anyhow::Error::msg(ExitStatus(4))),
                Some(GateVerdict::Holds) | None => Ok(()),
            },
        }
    }

    /// Returns the files that are asked for.
    fn files(&self) -> impl Iterator<Item = (&Path, Form)> {
        let forms: [(&Option<PathBuf>, Form); 4] = [
            // On one line: it has a histogram for each server of each block.
            (&self.json, |it| Ok(serde_json::to_string(it)? + "\n")),
            (&self.csv, |it| Ok(render::csv(it))),
            (&self.markdown, |it| Ok(render::markdown(it))),
            (&self.hdr, |it| Ok(render::interval_log(it))),
        ];
        forms.into_iter().filter_map(|(path, form)| Some((path.as_deref()?, form)))
    }

    /// Opens these files.
    ///
    /// # Errors
    /// One cannot be written.
    fn destinations(&self) -> anyhow::Result<Vec<(Destination, Form)>> {
        let stdout = self.files().filter(|(path, _)| output::is_stdout(path)).count();
        refuse(&[(stdout > 1, "--json, --csv, --markdown, --hdr: one may be standard output")]);
        self.files().map(|(path, form)| Ok((Destination::open(path)?, form))).collect()
    }

    /// Returns the loads: each number of connections with each size, depth and rate.
    fn loads(&self) -> Vec<PlannedLoad> {
        let (idle_connections, slow_readers) = (self.idle_connections, self.slow_readers);
        let with_others = |load| Workload { idle_connections, slow_readers, ..load };
        let closed = self.connections.iter().flat_map(|&it| self.messages.all(it)).map(with_others);
        let open = |closed: Workload, rate| {
            let depth =
                if self.messages.depth.is_empty() { OPEN_DEPTH } else { closed.shape.depth };
            let arrivals = self.arrivals.unwrap_or_default();
            PlannedLoad { closed, open: Some(OpenLoop { rate, arrivals, depth }) }
        };
        match &*self.rate {
            [] => closed.map(PlannedLoad::from).collect(),
            rates => closed.flat_map(|it| rates.iter().map(move |&rate| open(it, rate))).collect(),
        }
    }

    /// Returns the baseline: a model, or a peer.
    fn baseline(&self) -> ModelSpec {
        let name = if self.ablate.is_some() { "uring" } else { self.baseline.as_str() };
        match picks::named(name) {
            Ok(model) => model,
            Err(_) if self.peers.iter().any(|peer| peer.name == name) => unvaried(name),
            Err(wrong) => wrong_usage(&format!("--baseline: {wrong}, or of --peer")),
        }
    }

    /// Ends the program if two peers have one name: only the first would be measured.
    fn check_names(&self) {
        let mut names = HashSet::new();
        if let Some(twice) = self.peers.iter().find(|peer| !names.insert(&peer.name)) {
            wrong_usage(&format!("--peer: two are named {:?}", twice.name));
        }
    }

    fn plan(&self) -> ComparisonPlan {
        let usable = os::usable_cpus();
        let server_cpu = self.server_cpu.or(usable.first().copied()).unwrap_or(0);
        let another = usable.into_iter().find(|&cpu| cpu != server_cpu);
        let client_cpu = self.client_cpu.or(another).unwrap_or(server_cpu);
        if client_cpu == server_cpu {
            wrong_usage(&format!(
                "the servers and the client would share CPU {server_cpu}, and each would measure \
                 the other: use two (--server-cpu, --client-cpu, taskset(1))"
            ));
        }
        let others = self.idle_connections + self.slow_readers;
        if !self.full
            && let Some(crowd) =
                self.connections.iter().map(|it| it + others).find(|&it| it >= CROWD_FROM)
        {
            wrong_usage(&format!(
                "{crowd} connections need --full: from {CROWD_FROM} on, each model is measured with \
                 a baseline of its own, which takes minutes"
            ));
        }
        self.messages.check(&self.connections);
        let has_idle = self.messages.workload.protocol().is_none();
        let protocol = self.messages.protocol();
        refuse(&[
            (self.idle > Some(0) && !has_idle, "--idle is for echo and churn"),
            (self.idle_connections > 0 && !has_idle, "--idle-connections is for echo and churn"),
            (
                self.slow_readers > 0 && protocol.name != "echo",
                "--slow-readers need a server of echo",
            ),
            (!self.rate.is_empty() && self.messages.workload.is_one_way(), ONE_WAY_RATE),
        ]);
        let peers = self.peers.iter().map(|peer| unvaried(&peer.name));
        let models = match self.ablate.as_deref() {
            None => picked(&self.models),
            Some("kernels") => variants::of_kernels(),
            Some(_) => variants::of_features(),
        };
        ComparisonPlan {
            baseline: self.baseline(),
            models: models.into_iter().chain(peers).collect(),
            peers: self.peers.clone(),
            protocol,
            loads: self.loads(),
            extent: self.extent(),
            rules: self.rules(),
            idle: self.idle.unwrap_or(if has_idle { 1000 } else { 0 }),
            // Short enough to type.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(BASELINE) % 10_000),
            engine: self.engine,
            server_cpu,
            client_cpu,
        }
    }

    fn rules(&self) -> Rules {
        let confidence = if self.confidence == "99" { 0.99 } else { 0.95 };
        let (cpu_margin, rate_margin) = (self.cpu_margin, self.rate_margin);
        Rules { confidence, cpu_margin, rate_margin }
    }

    fn extent(&self) -> Extent {
        let extent = if self.full { Extent::FULL } else { Extent::DEFAULT };
        match (self.blocks, self.time) {
            (Some(blocks), _) => extent.of_blocks(blocks),
            (None, Some(time)) => extent.of_seconds(time.as_secs_f64().ceil() as u64),
            (None, None) => Extent { least: self.rules().blocks_min(), ..extent },
        }
    }
}

/// Returns a server by its name alone.
fn unvaried(name: &str) -> ModelSpec {
    ModelSpec { model: name.to_owned(), ..ModelSpec::default() }
}

/// Returns the command that starts the server of a model, or of a peer. `trace` keeps the file of
/// its recording.
fn server_command(
    plan: &ComparisonPlan,
    spec: &ModelSpec,
    trace: &Cell<Option<File>>,
) -> Result<ServerCommand, ServerError> {
    if let Some(why) = variants::is_none(spec) {
        return Err(ServerError(why));
    }
    let ModelSpec { model, kernel, without, recorded } = spec;
    if let Some(peer) = plan.peers.iter().find(|peer| peer.name == *model) {
        return peer::command(peer, plan.server_cpu);
    }
    // The program that runs, also when its file has been replaced since.
    let mut command = Command::new("/proc/self/exe");
    command.args(["serve", "--listen", "127.0.0.1:0", "--protocol", &plan.protocol.name]);
    command.args(["--model", model, "--cpu", &plan.server_cpu.to_string()]);
    command.args(kernel.iter().flat_map(|kernel| ["--kernel", kernel]));
    command.args(without.iter().flat_map(|feature| ["--without", feature.name()]));
    // The mask of this thread has the CPU of the client alone.
    os::start_on_cpu(&mut command, plan.server_cpu);
    // The pipe of standard output, by its path: the first line stays there too.
    command.arg("--stats=/proc/self/fd/1");
    let loads = plan.loads.iter().map(|load| load.closed.all_connections());
    let most = loads.max().unwrap_or(0).max(plan.idle + 1);
    if most > Limits::default().connections {
        command.args(["--max-connections", &most.to_string()]);
    }
    if *recorded {
        let failed = |error| ServerError(format!("cannot create a trace file: {error}"));
        let file = tempfile::tempfile().map_err(failed)?;
        // As /proc numbers this process, which may be otherwise than in its namespace.
        let own = std::fs::read_link("/proc/self").map_err(|error| {
            ServerError(format!("cannot read /proc, which names a trace file: {error}"))
        })?;
        let (own, fd) = (own.display(), file.as_raw_fd());
        command.arg(format!("--trace=/proc/{own}/fd/{fd}"));
        trace.set(Some(file));
    }
    Ok(command.into())
}

/// Returns why no model has a number, each reason once.
fn reasons(comparison: &Comparison) -> String {
    let rows = comparison.tables.iter().flat_map(|table| &table.participants);
    let all: BTreeSet<String> = rows
        .filter_map(|row| Some(format!("{}: {}", row.spec.name, row.reason.as_ref()?)))
        .collect();
    all.into_iter().collect::<Vec<_>>().join("; ")
}

/// Names a CPU that cannot be used before anything is measured. The try is made by a thread of its
/// own, since the comparison counts the CPUs that this one may use.
fn try_cpus(plan: &ComparisonPlan) -> anyhow::Result<()> {
    [plan.server_cpu, plan.client_cpu].into_iter().try_for_each(|cpu| {
        thread::scope(|scope| {
            let tried = thread::Builder::new().spawn_scoped(scope, || run_on_cpu(cpu));
            let tried = tried.context("cannot start a thread (see `ulimit -u`)")?;
            tried.join().expect("no panic")
        })
    })
}

/// Parses a margin in percent: a share of one.
fn margin(text: &str) -> Result<f64, String> {
    match text.trim_end_matches([' ', '%']).parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 5.0 => Ok(percent / 100.0),
        _ => Err("it is more than 0 and at most 5: a larger difference is not *within*".to_owned()),
    }
}

/// Parses a rate, or a share of the slowest server's.
fn offered_rate(text: &str) -> Result<OfferedRate, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return rate(text).map(OfferedRate::PerSecond);
    };
    match percent.trim_end().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 200.0 => {
            Ok(OfferedRate::OfSlowest(percent / 100.0))
        }
        _ => Err("a share of the slowest server's rate is more than 0 and at most 200%".to_owned()),
    }
}

/// Parses the time of a comparison.
fn total_time(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if (1..=86_400).contains(&time.as_secs()) => Ok(time),
        _ => Err(format!("invalid time `{text}`: write 1s to 24h")),
    }
}

/// Period of the lines of progress, if standard error is not a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// Period of the spinner. A server may take seconds to start.
const TICK: Duration = Duration::from_millis(250);

fn line(progress: &Progress<'_>) -> String {
    let Progress { table: (table, tables), block: (block, blocks), .. } = progress;
    let Progress { load, participant, activity, left, .. } = progress;
    let name = &participant.name;
    let what = match activity {
        Activity::MeasuringIdle(idle) => return format!("{name}: {idle} idle connections"),
        Activity::Starting => format!("{name}: starting"),
        Activity::Sampled(sample) => format!(
            "{name} {} msg/s, {:.2} µs",
            units::rate(sample.slice.rate()),
            sample.cpu_per_message() * 1e6,
        ),
    };
    let block = match blocks {
        0 => "trial".to_owned(),
        _ => format!("block {}/{blocks}", block + 1),
    };
    let table = match tables {
        1 => String::new(),
        _ => format!("table {}/{tables}  ", table + 1),
    };
    let left = left.as_secs();
    let LoadShape { connections, size, .. } = load.shape;
    format!("{table}{connections} × {size} B  {block}  {what}  {left} s left")
}
