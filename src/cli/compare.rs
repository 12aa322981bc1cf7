//! `proactor compare`: every I/O model under the same load, side by side.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::load::number;
use crate::compare::plan::{BASELINE, Budget, MODELS, Plan};
use crate::compare::{self, Progress, render};
use crate::load::{CONNECTIONS_MAX, DEPTH_MAX, SIZE_MAX, Shape, WireChoice};
use crate::model::Choice;
use crate::os::Stop;
use crate::report::units;

/// Compare I/O models under the same load, side by side.
///
/// Each model is an echo server in a process of its own, on one CPU; one client, on another CPU,
/// holds connections to all of them and drives one at a time in slices of 40 ms, so that a model
/// and epoll, which it is compared with, are measured within a moment of each other. Every reply is
/// verified; one wrong byte voids the run.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// The models to compare with epoll, separated by commas
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = model,
          default_values_t = MODELS.map(str::to_owned))]
    models: Vec<String>,

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

    /// For how long to measure, all tables together: whole seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 25,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,

    /// Measure so many rounds per table, however long they take; a verdict needs 6
    #[arg(long, value_name = "N", conflicts_with = "time",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: Option<u32>,

    /// What moves the client's bytes: uring, epoll, or auto (uring where it works)
    #[arg(long, value_name = "WIRE", default_value = "auto")]
    wire: WireChoice,

    /// The CPU of the servers
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    server_cpu: usize,

    /// The CPU of the client
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    client_cpu: usize,

    /// From which the order of the models and the bytes of the messages are made; drawn, unless given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Write everything, every slice included, as JSON to this file; - is standard output, instead of
    /// the text
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
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let recipe = |model: &str| {
            let mut command = Command::new(&program);
            command.args(["serve", "--listen", "127.0.0.1:0", "--protocol", "echo", "--stats"]);
            command.args(["--model", model, "--cpu", &plan.server_cpu.to_string()]);
            command
        };
        let stop = Stop::new().context("cannot wait for Ctrl-C")?;
        stop.on_signals().context("cannot wait for Ctrl-C")?;
        let mut live = Live::new();
        let comparison = compare::run(&plan, &recipe, &mut |progress| {
            live.show(progress);
            stop.take() == 0
        });
        live.bar.finish_and_clear();
        let comparison = comparison?;

        let json = || serde_json::to_vec_pretty(&comparison).context("cannot write the result");
        if let Some(path) = self.json.as_deref().filter(|&path| path != "-") {
            fs::write(path, json()?).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let output = match self.json.as_deref() {
            Some(path) if path == "-" => json()?,
            _ => render::text(&comparison).into_bytes(),
        };
        io::stdout().write_all(&output).context("cannot write the result")
    }

    fn plan(&self) -> Plan {
        let shape = |&connections: &u64| Shape {
            connections: connections as usize,
            size: self.size as usize,
            depth: self.depth as usize,
        };
        Plan {
            models: self.models.clone(),
            loads: self.connections.iter().map(shape).collect(),
            budget: self.rounds.map_or(Budget::Seconds(self.time), Budget::Rounds),
            seed: self.seed.unwrap_or_else(drawn),
            wire: self.wire,
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
        }
    }
}

/// Reads a model's name. `all` is kept for the day when there are models that only `all` names.
fn model(name: &str) -> Result<String, String> {
    match name.parse()? {
        Choice::Model(model) => Ok(model.name().to_owned()),
        Choice::Auto => Err("name the model itself".to_owned()),
    }
}

/// A seed that is another each time, and short enough to be typed.
fn drawn() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(BASELINE) % 10_000
}

/// How it goes, on standard error: one line rewritten in place, or where that is no terminal, a line
/// every ten seconds.
struct Live {
    bar: ProgressBar,
    said: Instant,
}

const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl Live {
    fn new() -> Live {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("compare  {msg}");
        bar.set_style(style.expect("the template is a constant"));
        Live { bar, said: Instant::now() }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        let Progress { table: (number, tables), load, entrant, step, rounds, left } = progress;
        let line = || {
            let table = match tables {
                1 => String::new(),
                _ => format!("table {}/{tables}  ", number + 1),
            };
            format!(
                "{table}{} × {} B  round {}/{rounds}  {} {} msg/s, server {} busy  {} s left",
                load.connections,
                load.size,
                step.round + 1,
                entrant.name(),
                units::rate(step.sample.rate()),
                units::percent(step.sample.server_busy()),
                left.as_secs()
            )
        };
        if io::stderr().is_terminal() {
            self.bar.set_message(line());
            self.bar.tick();
        } else if self.said.elapsed() >= PLAIN_EVERY {
            self.said = Instant::now();
            eprintln!("compare  {}", line());
        }
    }
}
