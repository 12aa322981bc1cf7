//! Compares I/O models under the same load, and states what the measurement shows.
//!
//! ```text
//!   plan ── capacity ── server_process × n ── sampling ── summary ── render
//!   models  what        a process per model,  slices,     medians,   a table and
//!   loads   cannot      with N verified       pairs       intervals, sentences,
//!           run here    connections                       verdicts   or JSON
//! ```
//!
//! A `table_run` measures one load, phase by phase; the `schedule` gives each phase its time;
//! `idle` measures the cost of an idle connection. A model that fails is a row with its reason, and
//! the other models go on. Only a failure of the baseline ends the comparison.
//!
//! [`run`] measures and returns a [`Comparison`] with every slice. The text and the JSON are made
//! of that value alone ([`render::text`]).
#![deny(unsafe_code)]

mod capacity;
pub mod environment;
pub mod idle;
pub mod plan;
mod process_tree;
pub mod progress;
pub mod render;
pub mod results;
pub mod sampling;
mod schedule;
pub mod server_process;
mod stats_line;
pub mod summary;
mod table_run;
pub mod verdict;

use anyhow::Context;

pub use capacity::tasks_left;
use environment::Environment;
use plan::ComparisonPlan;
use proactor::os;
use progress::{Monitor, Watch};
use results::Comparison;
use schedule::Schedule;
use server_process::StartCommand;
pub use stats_line::{STATS_SCHEMA, ServerStats};
use table_run::TableRun;

/// Makes a comparison. `watch` receives the progress; if it returns false, the measurement ends and
/// the result is what was measured until then.
///
/// # Errors
/// The baseline or the client cannot run, or a server sent a wrong reply.
pub fn run(
    plan: &ComparisonPlan,
    command: StartCommand<'_>,
    watch: Watch<'_>,
) -> anyhow::Result<Comparison> {
    let environment = Environment::read();
    os::pin_to_cpu(plan.client_cpu)
        .with_context(|| format!("cannot pin the client to CPU {}", plan.client_cpu))?;
    let runs: Vec<TableRun<'_>> =
        plan.loads.iter().map(|&load| TableRun::new(plan, load, command)).collect();
    let impossible: Option<Vec<&str>> = runs.iter().map(TableRun::baseline_reason).collect();
    if let Some(reason) = impossible.iter().flatten().next() {
        anyhow::bail!("the baseline, {}, cannot run: {reason}", plan.baseline);
    }
    let phases = runs.iter().flat_map(TableRun::phases);
    let mut monitor = Monitor {
        watch,
        schedule: Schedule::new(plan.budget, phases, os::now()),
        table: (0, runs.len()),
        interrupted: false,
        engine: "none",
        warnings: environment.warnings(),
    };
    let mut tables = Vec::new();
    for (number, run) in runs.into_iter().enumerate() {
        if !monitor.interrupted {
            monitor.table.0 = number;
            tables.push(run.measure(&mut monitor)?);
        }
    }
    let idle =
        (plan.idle > 0 && !monitor.interrupted).then(|| idle::measure(plan, command, &mut monitor));
    let Monitor { engine, mut warnings, interrupted, .. } = monitor;
    if interrupted {
        warnings.push("interrupted: the results are what was measured until then.".to_owned());
    }
    for table in &tables {
        warnings.extend(summary::warnings(table, engine));
    }
    let plan = plan.clone();
    Ok(Comparison { environment, plan, engine, tables, idle, warnings })
}

#[cfg(test)]
mod tests;
