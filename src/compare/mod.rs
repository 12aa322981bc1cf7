//! Every I/O model under the same load, side by side, and what may be said of the outcome.
//!
//! ```text
//!   plan ── contender × n ── rounds ── summary ── render
//!   what    a process each   slices,   medians,   a table and
//!           with N verified  pairs     intervals, sentences
//!           connections                verdicts
//! ```
//!
//! The measuring and the telling are apart: [`run`] makes a [`Comparison`], which holds every slice
//! as it was measured, and [`render::text`] and the JSON are made from that alone.

pub mod contender;
pub mod environment;
pub mod plan;
pub mod render;
pub mod rounds;
pub mod summary;
pub mod verdict;

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::clock::Nanos;
use crate::load::{self, Failure, Load, Shape};
use crate::os::{self, CpuClock};
use contender::{Refusal, Server, Stats};
use environment::{Environment, Steal};
use plan::{Budget, Entrant, Plan, SLICE, WARM_UP};
use rounds::{Arena, Round, Sample, Step, Until};
use summary::Row;

/// The shape of the JSON, and its version.
pub const SCHEMA: &str = "proactor.compare/1";

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server sleeps when its clock has stood still for so long.
const AT_REST: Duration = Duration::from_micros(200);
/// How long to wait for that: longer than a tick of the kernel's.
const AT_REST_LIMIT: Duration = Duration::from_millis(20);

/// All that was found out.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// On which machine.
    pub environment: Environment,
    /// What was to be done.
    pub plan: Plan,
    /// What moved the client's bytes.
    pub wire: &'static str,
    /// One for each load.
    pub tables: Vec<Heat>,
    /// What is to be said of the numbers, as advice.
    pub warnings: Vec<String>,
}

/// One load, all models.
#[derive(Debug, Serialize)]
pub struct Heat {
    /// Connections, …
    pub connections: usize,
    /// … bytes per message, …
    pub size: usize,
    /// … messages outstanding per connection.
    pub depth: usize,
    /// Who took part: a turn's `entrant` is an index into this.
    pub entrants: Vec<Entrant>,
    /// Every slice, by phase and round. Those of the warm-up are not kept.
    pub rounds: Vec<Round>,
    /// What each server was and counted.
    pub servers: Vec<Outcome>,
    /// A row for each entrant.
    pub rows: Vec<Row>,
    /// What could not be told apart here, of rates.
    pub rate_floor: Option<f64>,
    /// The same of CPU per message.
    pub cpu_floor: Option<f64>,
    /// The host took so much of the CPUs in so many of the rounds that nothing may be said.
    pub is_disturbed: bool,
}

/// What became of one server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Why it was not measured, or not to the end.
    pub reason: Option<String>,
    /// What it said of itself.
    pub about: String,
    /// What it told at its end.
    pub stats: Option<Stats>,
    /// Messages of its whole life, the warm-up among them: those that `stats` is about.
    pub messages: u64,
    /// Service times in a closed loop.
    pub service_time: Option<crate::report::histogram::Percentiles>,
}

/// How to start the server of a model: a command that keeps to what [`contender`] has agreed.
pub type Recipe<'a> = &'a dyn Fn(&str) -> Command;

/// Where a comparison is, between two slices.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Which load, from 0, of how many.
    pub table: (usize, usize),
    /// What it is.
    pub load: Shape,
    /// Who had the last slice.
    pub entrant: &'a Entrant,
    /// The last slice.
    pub step: Step,
    /// How many rounds it will be about.
    pub rounds: u32,
    /// How long the rest will take, about.
    pub left: Duration,
}

/// Makes a comparison. `watch` is shown each slice, and ends the measuring by answering false: what
/// was measured until then is told.
///
/// # Errors
/// The baseline cannot run, the client cannot, or somebody's reply was wrong: that voids all.
pub fn run(
    plan: &Plan,
    recipe: Recipe<'_>,
    watch: &mut dyn FnMut(&Progress<'_>) -> bool,
) -> anyhow::Result<Comparison> {
    let environment = Environment::read();
    let mut warnings = environment.warnings();
    if environment.cpus > 1 {
        os::pin_to_cpu(plan.client_cpu)
            .with_context(|| format!("cannot pin the client to CPU {}", plan.client_cpu))?;
    }
    let mut comparison = Comparison {
        schema: SCHEMA,
        environment,
        plan: plan.clone(),
        wire: "none",
        tables: Vec::new(),
        warnings: Vec::new(),
    };
    for (number, &shape) in plan.loads.iter().enumerate() {
        let mut heat = Running::new(plan, shape, recipe);
        let stopped = heat.run((number, plan.loads.len()), watch)?;
        comparison.wire = heat.wire;
        for warning in std::mem::take(&mut heat.warnings) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        comparison.tables.push(heat.finish());
        if stopped {
            warnings.push(
                "it was interrupted: what is told is what was measured until then.".to_owned(),
            );
            break;
        }
    }
    for heat in &comparison.tables {
        warnings.extend(heat.warnings());
    }
    comparison.warnings = warnings;
    Ok(comparison)
}

/// A heat that is being measured.
struct Running<'a> {
    plan: &'a Plan,
    shape: Shape,
    recipe: Recipe<'a>,
    entrants: Vec<Entrant>,
    outcomes: Vec<Outcome>,
    rounds: Vec<Round>,
    wire: &'static str,
    warnings: Vec<String>,
}

impl<'a> Running<'a> {
    fn new(plan: &'a Plan, shape: Shape, recipe: Recipe<'a>) -> Running<'a> {
        let entrants = plan.entrants();
        Running {
            plan,
            shape,
            recipe,
            outcomes: vec![Outcome::default(); entrants.len()],
            entrants,
            rounds: Vec::new(),
            wire: "none",
            warnings: Vec::new(),
        }
    }

    /// Plays all phases; answers whether it was told to stop.
    fn run(
        &mut self,
        table: (usize, usize),
        watch: &mut dyn FnMut(&Progress<'_>) -> bool,
    ) -> anyhow::Result<bool> {
        let challengers: Vec<usize> = (1..self.entrants.len()).collect();
        let phases = self.plan.phases(self.shape, &challengers);
        for (number, phase) in phases.iter().enumerate() {
            let mut stage = Stage::new(self.entrants.len());
            let mut present = Vec::new();
            for entrant in std::iter::once(0).chain(phase.iter().copied()) {
                match self.enter(&mut stage, entrant)? {
                    Ok(()) if entrant != 0 => present.push(entrant),
                    Ok(()) => {}
                    Err(Refusal(reason)) if entrant == 0 => {
                        anyhow::bail!("the baseline, {}, cannot run: {reason}", self.name(0));
                    }
                    Err(Refusal(reason)) => self.outcomes[entrant].reason = Some(reason),
                }
            }
            let until = match self.plan.budget {
                Budget::Rounds(rounds) => Until::Rounds(rounds),
                Budget::Seconds(seconds) => {
                    let share = (table.1 * phases.len()) as u32;
                    Until::Elapsed(Duration::from_secs(seconds) / share)
                }
            };
            let later = (phases.len() - number - 1) + (table.1 - table.0 - 1) * phases.len();
            let (entrants, shape) = (&self.entrants, self.shape);
            let mut watch = |step: &Step| {
                let (rounds, left) = outlook(step, until, rounds::slices(present.len()));
                let whole = step.elapsed + left;
                watch(&Progress {
                    table,
                    load: shape,
                    entrant: &entrants[step.entrant],
                    step: *step,
                    rounds,
                    left: left + whole * later as u32,
                })
            };
            let played =
                rounds::play(&mut stage, &present, self.plan.seed, SLICE, until, &mut watch)
                    .map_err(|failure| stage.blame(failure, &self.entrants))?;
            self.rounds.extend(played.rounds);
            for (entrant, failure) in played.failed {
                self.outcomes[entrant].reason = Some(failure.to_string());
                stage.stands[entrant] = None;
            }
            self.leave(stage)?;
            if played.stopped {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts an entrant's server, connects to it, and warms it up. The inner error is its own
    /// affair, the outer one voids all.
    fn enter(&mut self, stage: &mut Stage, entrant: usize) -> anyhow::Result<Result<(), Refusal>> {
        let server = match Server::start((self.recipe)(&self.entrants[entrant].model)) {
            Ok(server) => server,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.outcomes[entrant].about = server.about().to_owned();
        let options = load::Options {
            shape: self.shape,
            seed: self.plan.seed ^ entrant as u64,
            wire: self.plan.wire,
            patience: PATIENCE,
        };
        let stand = || -> Result<Stand, Failure> {
            let clock = server.cpu_clock().map_err(Failure::client("read the server's clock"))?;
            let mut load = Load::connect(server.address(), &options)?;
            for _ in 0..WARM_UP {
                load.run_for(SLICE)?;
            }
            load.clear_latencies();
            let (cpu, at) = at_rest(clock).map_err(Failure::client("read the server's clock"))?;
            Ok(Stand { server: None, load, clock, cpu, at })
        };
        match stand() {
            Ok(mut stand) => {
                self.wire = stand.load.wire();
                if let Some(error) = stand.load.fallback() {
                    let warning = format!(
                        "io_uring does not work for the client ({error}); it used epoll, which is at \
                         its end at a lower rate."
                    );
                    if !self.warnings.contains(&warning) {
                        self.warnings.push(warning);
                    }
                }
                stand.server = Some(server);
                stage.stands[entrant] = Some(stand);
                Ok(Ok(()))
            }
            Err(failure) if failure.is_wrong() => {
                Err(stage.blame(failure, &self.entrants).context(self.name(entrant)))
            }
            Err(failure) => Ok(Err(Refusal(failure.to_string()))),
        }
    }

    /// Parts from every server and takes what it has counted.
    fn leave(&mut self, stage: Stage) -> anyhow::Result<()> {
        for (entrant, stand) in stage.stands.into_iter().enumerate() {
            let Some(Stand { server: Some(server), load, .. }) = stand else { continue };
            let name = self.entrants[entrant].name();
            let outcome = &mut self.outcomes[entrant];
            outcome.messages += load.messages();
            outcome.service_time = Some(load.latencies().percentiles());
            match load.part() {
                Err(failure) if failure.is_wrong() => {
                    return Err(anyhow::Error::new(failure).context(name));
                }
                Err(failure) => self.warnings.push(format!("{name}: {failure}")),
                Ok(()) => {}
            }
            match server.stop() {
                Ok(stats) => add_stats(&mut outcome.stats, stats),
                Err(refusal) => self.warnings.push(format!(
                    "{name} did not tell its counters, so its system calls are not known: {refusal}"
                )),
            }
        }
        Ok(())
    }

    fn name(&self, entrant: usize) -> String {
        self.entrants[entrant].name()
    }

    fn finish(self) -> Heat {
        summary::heat(self.shape, self.entrants, self.rounds, self.outcomes)
    }
}

/// The baseline has a life in each phase: its counters add up.
fn add_stats(to: &mut Option<Stats>, stats: Stats) {
    match to {
        Some(before) => before.counters.calls += stats.counters.calls,
        None => *to = Some(stats),
    }
}

/// About how many rounds there will be, and how long they will yet take.
fn outlook(step: &Step, until: Until, slices_per_round: usize) -> (u32, Duration) {
    let round = SLICE * slices_per_round as u32;
    match until {
        Until::Rounds(rounds) => (rounds, (round * rounds).saturating_sub(step.elapsed)),
        Until::Elapsed(limit) => {
            let rounds = (limit.as_nanos() / round.as_nanos().max(1)) as u32;
            (rounds.max(step.round + 1), limit.saturating_sub(step.elapsed))
        }
    }
}

/// The servers that are open, each with its connections.
struct Stage {
    stands: Vec<Option<Stand>>,
    steal: Option<Steal>,
    /// Who had the last slice: the one to blame if it failed.
    current: usize,
}

/// One server, and the connections to it.
struct Stand {
    load: Load,
    /// `None` only while it is being set up. Declared after the load: connections go first.
    server: Option<Server>,
    clock: CpuClock,
    /// Its CPU time at the end of its last slice, …
    cpu: Duration,
    /// … and when that was.
    at: Nanos,
}

impl Stage {
    fn new(entrants: usize) -> Stage {
        let stands = (0..entrants).map(|_| None).collect();
        Stage { stands, steal: None, current: 0 }
    }

    /// The failure, with the name of whom it happened to.
    fn blame(&self, failure: Failure, entrants: &[Entrant]) -> anyhow::Error {
        let void = if failure.is_wrong() { ": the whole run is void" } else { "" };
        anyhow::Error::new(failure).context(format!("{}{void}", entrants[self.current].name()))
    }
}

impl Arena for Stage {
    fn slice(&mut self, entrant: usize, span: Duration) -> Result<Sample, Failure> {
        self.current = entrant;
        let stand = self.stands[entrant].as_mut().expect("only who has entered has a turn");
        let read = Failure::client("read the server's clock");
        let (before, began) = at_rest(stand.clock).map_err(&read)?;
        let between = began.since(stand.at).as_secs_f64();
        let unasked = before.saturating_sub(stand.cpu).as_secs_f64();
        let waited = || stand.server.as_ref().and_then(Server::waited).unwrap_or_default();
        let waited_before = waited();
        let slice = stand.load.run_for(span)?;
        let (after, at) = at_rest(stand.clock).map_err(&read)?;
        let server_waited = waited().saturating_sub(waited_before);
        (stand.cpu, stand.at) = (after, at);
        Ok(Sample {
            slice,
            server_cpu: after.saturating_sub(before),
            server_waited,
            server_idle_cpu_share: if between > 0.0 { unasked / between } else { 0.0 },
        })
    }

    fn steal(&mut self) -> Option<f64> {
        let now = Steal::read()?;
        let before = self.steal.replace(now)?;
        now.since(before)
    }

    fn now(&self) -> Nanos {
        os::now()
    }
}

/// Reads a server's clock once it stands still, which it does when all replies are out and the
/// server sleeps: before that, the clock of a thread on another CPU lags by up to a tick. One that
/// does not come to rest is read as it is; what it uses unasked is then told as such.
fn at_rest(clock: CpuClock) -> std::io::Result<(Duration, Nanos)> {
    let start = os::now();
    let mut since = start;
    let mut cpu = clock.read()?;
    loop {
        thread::yield_now();
        let now = os::now();
        let again = clock.read()?;
        if again != cpu {
            (cpu, since) = (again, now);
        }
        if now.since(since) >= AT_REST || now.since(start) >= AT_REST_LIMIT {
            return Ok((cpu, now));
        }
    }
}

#[cfg(test)]
mod tests;
