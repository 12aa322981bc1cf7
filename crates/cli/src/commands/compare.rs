//! `proactor compare`: every I/O model under the same load, side by side.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::output::{self, Destination, GREEN, RED};
use super::picks::{self, Pick, picked};
use super::stderr::note;
use super::{MessageArgs, SEED_MAX, number, peer, run_on_cpu, stop_signal, wrong_usage};
use proactor::limits::Limits;
use proactor::os;
use proactor_compare::plan::{BASELINE, Budget, ComparisonPlan, MODELS, ModelSpec, PeerServer};
use proactor_compare::progress::{Activity, Progress};
use proactor_compare::render;
use proactor_compare::server_process::ServerError;
use proactor_load::{CONNECTIONS_MAX, EngineChoice};
use proactor_report::units;

/// Compare I/O models under the same load, side by side.
///
/// Each model is a server in its own process, on one CPU. One client, on another CPU, is
/// connected to all servers and loads one at a time in slices of 40 ms, so that a model and the
/// baseline are measured shortly after each other. Every reply is verified; one wrong byte makes
/// the run void.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompareArgs {
    /// Models to compare, separated by commas, or all: blocking, process, nonblocking, select,
    /// poll, thread, sigio, epoll, epoll-et, epoll-oneshot, coroutine, uring. -NAME removes one,
    /// as in all,-process; NAME+trace records into a file, as `serve --trace=FILE` does. A model
    /// that does not work here is a row with the reason
    #[arg(long, value_name = "MODELS", value_delimiter = ',', default_value = MODELS)]
    models: Vec<Pick>,

    /// Model that the others are compared with, and that is also measured against itself;
    /// NAME+trace is possible, and the name of a peer
    #[arg(long, value_name = "MODEL", default_value = BASELINE)]
    baseline: String,

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

    /// Time for all tables together, with start and connect: 30s, 2m. Less time means
    /// fewer rounds, and fewer than 6 rounds give no verdict [default: 25 s to 100 s, depending on
    /// the tables]
    #[arg(long, value_name = "TIME", value_parser = total_time)]
    time: Option<Duration>,

    /// Number of rounds per table, without a time limit; a verdict needs 6
    #[arg(long, value_name = "N", conflicts_with = "time",
          value_parser = number::<u32>(1, 1_000_000))]
    rounds: Option<u32>,

    /// Idle connections per model, to measure memory, descriptors, threads and processes of one
    /// connection; 0 skips this
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    idle: usize,

    /// I/O engine of the client: uring, epoll, or auto (uring where it works)
    #[arg(long, alias = "wire", value_name = "ENGINE", default_value = "auto")]
    engine: EngineChoice,

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
}

impl CompareArgs {
    /// Runs the comparison, and prints the result on standard output.
    ///
    /// # Errors
    /// The baseline cannot run, a reply was wrong, or the result cannot be written.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.check_names();
        let plan = self.plan();
        try_cpus(&plan)?;
        // Opened before the measurement: an unwritable path fails at once.
        let to = self.json.as_deref().map(Destination::open).transpose()?;
        let program = std::env::current_exe().context("cannot find the file of this program")?;
        let loads = plan.loads.iter().map(|load| load.connections);
        let most = loads.max().unwrap_or(0).max(plan.idle + 1);
        let stop = stop_signal()?;
        // A trace file has no name, so none remains after a crash. It stays open until the next is
        // created: by then its server has opened it, or has ended.
        let trace = Cell::new(None);
        let start = |ModelSpec { model, recorded }: &ModelSpec| {
            if let Some(peer) = plan.peers.iter().find(|peer| peer.name == *model) {
                return peer::command(peer, plan.server_cpu);
            }
            let mut command = Command::new(&program);
            command.args(["serve", "--listen", "127.0.0.1:0", "--protocol", &plan.protocol.name]);
            command.args(["--model", model, "--cpu", &plan.server_cpu.to_string()]);
            // The mask of this thread has the CPU of the client alone.
            os::start_on_cpu(&mut command, plan.server_cpu);
            // The pipe of standard output, by its path: the first line stays there too.
            command.arg("--stats=/proc/self/fd/1");
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
        };
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
        let comparison = comparison?;

        if let Some(to) = to {
            to.write(&(serde_json::to_string_pretty(&comparison)? + "\n"))?;
        }
        if !self.json.as_deref().is_some_and(output::is_stdout) {
            let words = [("faster", GREEN), ("slower", RED)];
            output::print_coloured(&render::text(&comparison), &words)?;
        }
        Ok(())
    }

    /// Returns the baseline: a model, or a peer.
    fn baseline(&self) -> ModelSpec {
        let name = self.baseline.as_str();
        match picks::named(name) {
            Ok(model) => model,
            Err(_) if self.peers.iter().any(|peer| peer.name == name) => name.into(),
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
        let peers = self.peers.iter().map(|peer| peer.name.as_str().into());
        let mut plan = ComparisonPlan {
            baseline: self.baseline(),
            models: picked(&self.models).into_iter().chain(peers).collect(),
            peers: self.peers.clone(),
            protocol: self.messages.protocol.clone(),
            loads: self.connections.iter().map(|&it| self.messages.shape(it, 1)).collect(),
            budget: Budget::Rounds(0),
            idle: self.idle,
            // Short enough to type.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(BASELINE) % 10_000),
            engine: self.engine,
            server_cpu,
            client_cpu: self.client_cpu.or(another).unwrap_or(server_cpu),
        };
        plan.budget = match (self.rounds, self.time) {
            (Some(rounds), _) => Budget::Rounds(rounds),
            (None, Some(time)) => Budget::Seconds(time.as_secs_f64().ceil() as u64),
            (None, None) => plan.default_budget(),
        };
        plan
    }
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
    let Progress { table: (number, tables), load, participant, activity, left } = progress;
    let name = &participant.name;
    let what = match activity {
        Activity::MeasuringIdle(idle) => return format!("{name}: {idle} idle connections"),
        Activity::Starting => format!("{name}: starting"),
        Activity::Connecting => format!("{name}: connecting"),
        Activity::WarmingUp => format!("{name}: warming up"),
        Activity::Sampled(after) => format!(
            "round {}/{}  {name} {} msg/s, server {} busy",
            after.round + 1,
            after.rounds,
            units::rate(after.sample.rate()),
            units::percent(after.sample.server_busy()),
        ),
        Activity::Stopping => format!("{name}: stopping"),
    };
    let table = match tables {
        1 => String::new(),
        _ => format!("table {}/{tables}  ", number + 1),
    };
    let left = left.as_secs();
    format!("{table}{} × {} B  {what}  {left} s left", load.connections, load.size)
}
