//! `proactor compare`: every I/O model under the same load, side by side.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::load::number;
use super::output::{self, Save};
use super::picks::{Candidate, Pick, picked};
use proactor::limits::Limits;
use proactor::os::Stop;
use proactor_compare::contender::Refusal;
use proactor_compare::plan::{BASELINE, Budget, MODELS, Plan, Variant};
use proactor_compare::{Doing, Progress, render};
use proactor_load::{CONNECTIONS_MAX, DEPTH_MAX, SIZE_MAX, Shape, WireChoice};
use proactor_report::units;

/// Compare I/O models under the same load, side by side.
///
/// Each model is an echo server in a process of its own, on one CPU; one client, on another CPU,
/// holds connections to all of them and drives one at a time in slices of 40 ms, so that a model
/// and the baseline, which it is compared with, are measured within a moment of each other. Every
/// reply is verified; one wrong byte voids the run.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// The models to compare, separated by commas: uring, epoll, epoll-et, poll, select,
    /// epoll-oneshot, sigio, nonblocking, coroutine, thread, process, blocking; or all. -NAME
    /// leaves one out again, as all,-process; NAME+trace is one that records into a file, as
    /// `serve --trace=FILE` does. What cannot run here is a row with its reason
    #[arg(long, value_name = "MODELS", value_delimiter = ',', default_value = MODELS)]
    models: Vec<Pick<Variant>>,

    /// The model that all others are compared with, and itself again; NAME+trace, too
    #[arg(long, value_name = "MODEL", default_value = BASELINE, value_parser = Variant::named)]
    baseline: Variant,

    /// Connections to each server; of several numbers, each makes a table
    #[arg(long, short = 'c', value_name = "N,…", value_delimiter = ',', default_value = "64",
          value_parser = number(CONNECTIONS_MAX))]
    connections: Vec<u64>,

    /// Bytes per message
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = number(SIZE_MAX))]
    size: u64,

    /// Messages that a connection sends before it awaits a reply
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(DEPTH_MAX))]
    depth: u64,

    /// How long all tables together may take, starting and connecting among it: whole seconds.
    /// With little time there are fewer rounds, and with fewer than 6 no verdicts [default: 25 to
    /// 100, by what is asked for]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: Option<u64>,

    /// Measure so many rounds per table, however long they take; a verdict needs 6
    #[arg(long, value_name = "N", conflicts_with = "time",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: Option<u32>,

    /// Idle connections to each model, to find out what one costs in memory, descriptors, threads
    /// and processes; with 0 that is left out
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(..=CONNECTIONS_MAX as u64))]
    idle: u64,

    /// What moves the client's bytes: uring, epoll, or auto (uring where it works)
    #[arg(long, value_name = "WIRE", default_value = "auto")]
    wire: WireChoice,

    /// The CPU of the servers
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    server_cpu: usize,

    /// The CPU of the client
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    client_cpu: usize,

    /// From which the order of the models and the bytes of the messages are made; drawn, unless
    /// given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Write everything, every slice included, as JSON to this file; - is standard output, instead
    /// of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    /// Runs it, and prints what came of it on standard output.
    ///
    /// # Errors
    /// The baseline cannot run, a reply was wrong, or the result cannot be written.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let plan = self.plan();
        // Before it is measured: what cannot be written is not to be learned afterwards.
        let path = self.json.as_deref().filter(|&path| path != "-");
        let save = path.map(Save::new).transpose()?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let loads = plan.loads.iter().map(|load| load.connections);
        // One idle connection more than are counted: kept open to begin with.
        let most = loads.max().unwrap_or(0).max(plan.idle + 1);
        let stop = Stop::new().context("cannot wait for Ctrl-C")?;
        stop.on_signals().context("cannot wait for Ctrl-C")?;
        let recordings = Recordings::default();
        let recipe = |Variant { model, recorded }: &Variant| {
            let mut command = Command::new(&program);
            command.args(["serve", "--listen", "127.0.0.1:0", "--protocol", "echo", "--stats"]);
            command.args(["--model", model, "--cpu", &plan.server_cpu.to_string()]);
            if most > Limits::default().connections {
                command.args(["--max-connections", &most.to_string()]);
            }
            if *recorded {
                let refused = |error| Refusal(format!("no file to record into: {error}"));
                command.arg(recordings.next().map_err(refused)?);
            }
            Ok(command)
        };
        let mut live = Live::new();
        let comparison = proactor_compare::run(&plan, &recipe, &mut |progress| {
            live.show(progress);
            stop.take() == 0
        });
        live.bar.finish_and_clear();
        let comparison = comparison?;

        let json = || serde_json::to_string_pretty(&comparison).context("cannot write the result");
        if let Some(save) = save {
            save.write(json()?.as_bytes())?;
        }
        let text = match self.json.as_deref() {
            Some(path) if path == "-" => json()?,
            _ => render::text(&comparison),
        };
        Ok(output::print(&text)?)
    }

    fn plan(&self) -> Plan {
        let shape = |&connections: &u64| Shape {
            connections: connections as usize,
            size: self.size as usize,
            depth: self.depth as usize,
        };
        let mut plan = Plan {
            baseline: self.baseline.clone(),
            models: picked(&self.models),
            loads: self.connections.iter().map(shape).collect(),
            budget: Budget::Rounds(0),
            idle: self.idle as usize,
            seed: self.seed.unwrap_or_else(drawn),
            wire: self.wire,
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
        };
        plan.budget = match (self.rounds, self.time) {
            (Some(rounds), _) => Budget::Rounds(rounds),
            (None, Some(seconds)) => Budget::Seconds(seconds),
            (None, None) => plan.default_budget(),
        };
        plan
    }
}

/// Files for those that record. They have no names, so none is left behind whatever happens.
#[derive(Default)]
struct Recordings {
    /// Open until the next is asked for: by then the server that it is for has it open, or is gone.
    last: Cell<Option<File>>,
}

impl Recordings {
    /// Has the next server record into a file of its own.
    fn next(&self) -> io::Result<String> {
        let file = tempfile::tempfile()?;
        let option = format!("--trace=/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.last.set(Some(file));
        Ok(option)
    }
}

/// A seed that is another each time, and short enough to be typed.
fn drawn() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(BASELINE) % 10_000
}

/// How it goes, on standard error: one line rewritten in place, or where that is no terminal, a
/// line every ten seconds.
struct Live {
    bar: ProgressBar,
    said: Instant,
}

const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often the line shows that it lives while nothing is told: a server may take seconds to
/// start.
const TICK: Duration = Duration::from_millis(250);

impl Live {
    fn new() -> Live {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("compare {spinner} {elapsed}  {msg}");
        bar.set_style(style.expect("the template is a constant"));
        Live { bar, said: Instant::now() }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        if io::stderr().is_terminal() {
            // Not before: what ticks is a thread of its own, and is to stay on the client's CPU.
            self.bar.enable_steady_tick(TICK);
            self.bar.set_message(line(progress));
        } else if self.said.elapsed() >= PLAIN_EVERY {
            self.said = Instant::now();
            eprintln!("compare  {}", line(progress));
        }
    }
}

fn line(progress: &Progress<'_>) -> String {
    let Progress { table: (number, tables), load, entrant, doing, left } = progress;
    let name = entrant.name();
    let what = match doing {
        Doing::Idling(connections) => {
            return format!("{name}: {connections} idle connections");
        }
        Doing::Starting => format!("{name}: starting"),
        Doing::Connecting => format!("{name}: connecting"),
        Doing::WarmingUp => format!("{name}: warming up"),
        Doing::Slice(step, rounds) => format!(
            "round {}/{rounds}  {name} {} msg/s, server {} busy",
            step.round + 1,
            units::rate(step.sample.rate()),
            units::percent(step.sample.server_busy()),
        ),
        Doing::Ending => format!("{name}: ending"),
    };
    let table = match tables {
        1 => String::new(),
        _ => format!("table {}/{tables}  ", number + 1),
    };
    let left = left.as_secs();
    format!("{table}{} × {} B  {what}  {left} s left", load.connections, load.size)
}
