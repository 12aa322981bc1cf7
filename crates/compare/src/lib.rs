//! Every I/O model under the same load, side by side, and what may be said of the outcome.
//!
//! ```text
//!   plan ── room ── contender × n ── rounds ── summary ── render
//!   what    what    a process each   slices,   medians,   a table and
//!           cannot  with N verified  pairs     intervals, sentences
//!           be      connections                verdicts
//! ```
//!
//! A `heat` is one load, played phase by phase; the `schedule` gives each phase its time; `idle`
//! finds out what a connection costs that does nothing. Whatever befalls a model is in its row,
//! with its reason, and the others go on; only without the baseline there is nothing to compare
//! with.
//!
//! The measuring and the telling are apart: [`run`] makes a [`Comparison`], which holds every slice
//! as it was measured, and [`render::text`] and the JSON are made from that alone.
#![deny(unsafe_code)]

pub mod contender;
pub mod environment;
pub mod family;
mod heat;
pub mod idle;
pub mod plan;
pub mod render;
pub mod room;
pub mod rounds;
pub mod schedule;
mod stats;
pub mod summary;
pub mod verdict;

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use contender::{Refusal, Server};
use environment::Environment;
use heat::Running;
use idle::Idle;
use plan::{Entrant, Plan, Role, Variant};
use proactor::os;
use proactor_load::LoadShape;
use rounds::{Round, Step};
use schedule::Schedule;
pub use stats::{STATS_SCHEMA, ServerStats};
use summary::Row;

/// The shape of the JSON, and its version. 2 has `idle`, and a plan's seconds are of the whole
/// comparison; before, they were of the slices alone.
/// A plan names its baseline, and a model may be `NAME+trace`.
pub const SCHEMA: &str = "proactor.compare/2";

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// What an idle connection costs, if that was to be found out.
    pub idle: Option<Idle>,
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
    pub stats: Option<ServerStats>,
    /// Messages of its whole life, the warm-up among them: those that `stats` is about.
    pub messages: u64,
    /// Service times in a closed loop.
    pub service_time: Option<proactor_report::histogram::Percentiles>,
}

/// How to start the server of a model: a command that keeps to what [`contender`] has agreed, or why
/// there is none.
pub type Recipe<'a> = &'a dyn Fn(&Variant) -> Result<Command, Refusal>;

/// Where a comparison is.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Which load, from 0, of how many.
    pub table: (usize, usize),
    /// What it is.
    pub load: LoadShape,
    /// Whose turn it is.
    pub entrant: &'a Entrant,
    /// What is done with it.
    pub doing: Doing,
    /// How long the rest will take, about.
    pub left: Duration,
}

/// What is done with a server.
#[derive(Debug, Clone, Copy)]
pub enum Doing {
    /// So many idle connections are about to be opened, and looked at.
    Idling(usize),
    /// It is about to be started.
    Starting,
    /// Its connections are about to be opened.
    Connecting,
    /// It is driven, and what it does is not counted.
    WarmingUp,
    /// It has had a slice; and of how many rounds, about, this one is.
    Slice(Step, u32),
    /// It is about to be asked to end.
    Ending,
}

/// Who is shown how it goes, and answers whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress<'_>) -> bool;

/// Makes a comparison. `watch` is shown what is done, each slice among it, and ends the measuring
/// by answering false: what was measured until then is told.
///
/// # Errors
/// The baseline cannot run, the client cannot, or somebody's reply was wrong: that voids all.
pub fn run(plan: &Plan, recipe: Recipe<'_>, watch: Watch<'_>) -> anyhow::Result<Comparison> {
    let environment = Environment::read();
    let mut warnings = environment.warnings();
    if environment.cpus > 1 {
        os::pin_to_cpu(plan.client_cpu)
            .with_context(|| format!("cannot pin the client to CPU {}", plan.client_cpu))?;
    }
    let tables = plan.loads.len();
    let heat = |(number, &load)| Running::new(plan, load, recipe, (number, tables));
    let heats: Vec<Running<'_>> = plan.loads.iter().enumerate().map(heat).collect();
    if let Some(Some(reason)) = heats.iter().map(Running::hopeless).min_by_key(Option::is_some) {
        anyhow::bail!("the baseline, {}, cannot run: {reason}", plan.baseline);
    }
    let phases = heats.iter().flat_map(Running::phases);
    let mut schedule = Schedule::new(plan.budget, phases, os::now());
    let mut comparison = Comparison {
        schema: SCHEMA,
        environment,
        plan: plan.clone(),
        wire: "none",
        tables: Vec::new(),
        idle: None,
        warnings: Vec::new(),
    };
    let mut stopped = false;
    for mut heat in heats {
        stopped = heat.run(&mut schedule, watch)?;
        comparison.wire = heat.wire();
        for warning in heat.warnings() {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        comparison.tables.push(heat.finish());
        if stopped {
            break;
        }
    }
    if plan.idle > 0 && !stopped {
        (comparison.idle, stopped) = idle_costs(plan, recipe, watch);
    }
    if stopped {
        warnings
            .push("it was interrupted: what is told is what was measured until then.".to_owned());
    }
    for heat in &comparison.tables {
        warnings.extend(heat.warnings(comparison.wire));
    }
    comparison.warnings = warnings;
    Ok(comparison)
}

/// What an idle connection costs each model; and whether `watch` ended that.
fn idle_costs(plan: &Plan, recipe: Recipe<'_>, watch: Watch<'_>) -> (Option<Idle>, bool) {
    let load = LoadShape { connections: plan.idle, size: idle::MESSAGE.len(), depth: 1 };
    let table = (plan.loads.len().saturating_sub(1), plan.loads.len());
    let (mut rows, mut stopped) = (Vec::new(), false);
    for entrant in plan.entrants().iter().filter(|entrant| entrant.role != Role::Again) {
        let (doing, left) = (Doing::Idling(plan.idle), Duration::ZERO);
        stopped = !watch(&Progress { table, load, entrant, doing, left });
        if stopped {
            break;
        }
        let cost = match room::shortage(&entrant.model.model, plan.idle, 0) {
            Some(reason) => Err(Refusal(reason)),
            None => recipe(&entrant.model)
                .and_then(Server::start)
                .and_then(|server| idle::measure(server, plan.idle, PATIENCE)),
        };
        let reason = cost.as_ref().err().map(Refusal::to_string);
        rows.push(idle::Row { model: entrant.model.to_string(), reason, cost: cost.ok() });
    }
    (Some(Idle { connections: plan.idle, rows }), stopped)
}

#[cfg(test)]
mod tests;
