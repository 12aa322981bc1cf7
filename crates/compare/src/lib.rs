//! Compares I/O models under the same load, and states what the measurement shows.
//!
//! ```text
//!   plan ── capacity ── trial ── block × n ── summary ── render
//!   models  what        which    fresh        ratios,    a table and
//!   loads   cannot      models   servers,     intervals, sentences,
//!           run here    can      slices       verdicts   or JSON
//! ```
//!
//! A `table_run` measures one load: a trial, from which the number of blocks follows, and then the
//! blocks (`block`); `disturbance` decides whether one counts. `idle` measures the cost of an idle
//! connection. A model that fails is a row with its reason, and the other models go on. Only a
//! failure of the baseline ends the comparison.
//!
//! [`run`] measures and returns a [`Comparison`] with every slice. The text and the JSON are made
//! of that value alone ([`render::text`]).
#![deny(unsafe_code)]

pub mod block;
mod capacity;
mod connected_server;
pub mod disturbance;
pub mod environment;
pub mod gate;
pub mod idle;
mod machine_cpu;
pub mod percentile;
pub mod plan;
mod process_stat;
mod process_tree;
pub mod progress;
pub mod render;
pub mod results;
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
use std::time::Duration;
use table_run::TableRun;
use verdict::Judge;

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
    let origin = os::now();
    let tables = 0..plan.loads.len();
    let mut runs: Vec<TableRun<'_>> =
        tables.map(|number| TableRun::new(plan, number, command, origin)).collect();
    if let Some(reason) = runs.iter().find_map(TableRun::baseline_reason) {
        anyhow::bail!("the baseline, {}, cannot run: {reason}", plan.baseline);
    }
    let mut monitor = Monitor {
        watch,
        schedule: Schedule::new(Duration::from_secs(plan.extent.seconds)),
        table: (0, runs.len()),
        block: (0, 0),
        interrupted: false,
        engine: "none",
        warnings: environment.warnings(),
    };
    for (number, run) in runs.iter_mut().enumerate() {
        monitor.table.0 = number;
        run.try_out(&mut monitor)?;
    }
    let each: Duration = runs.iter().map(TableRun::cost).sum();
    let idle_cost = idle::cost(plan);
    let blocks = plan.extent.blocks(os::now().since(origin) + idle_cost, each);
    monitor.schedule = Schedule::new(each * blocks + idle_cost);
    let rows: usize = runs.iter().map(TableRun::rows).sum();
    let judge = Judge { rules: plan.rules, intervals: rows * METRICS };
    let mut tables = Vec::new();
    for (number, run) in runs.into_iter().enumerate() {
        monitor.table.0 = number;
        if !monitor.interrupted || tables.is_empty() {
            tables.push(run.measure(blocks, &judge, &mut monitor)?);
        }
    }
    let idle =
        (plan.idle > 0 && !monitor.interrupted).then(|| idle::measure(plan, command, &mut monitor));
    let Monitor { engine, mut warnings, interrupted, .. } = monitor;
    for table in &tables {
        warnings.extend(summary::warnings(table, engine));
    }
    let (plan, intervals) = (plan.clone(), judge.intervals);
    Ok(Comparison {
        environment,
        plan,
        engine,
        intervals,
        tables,
        gates: Vec::new(),
        idle,
        interrupted,
        warnings,
    })
}

/// Each row has two ratios: CPU time per message, and the rate.
const METRICS: usize = 2;

#[cfg(test)]
mod tests;
