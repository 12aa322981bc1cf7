//! `proactor models`: every I/O model, its cost, and whether it works on this machine.

use serde::Serialize;

use super::{output, terminal_width};
use crate::explain::fold;
use proactor_models::model::{Ability, About, Model};
use proactor_report::{Align, Table};

/// List the I/O models: how each waits, its system calls, and whether it works on this machine
#[derive(Debug, clap::Args)]
pub(super) struct ModelsArgs {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Models {
    schema: &'static str,
    models: Vec<ModelRow>,
}

#[derive(Debug, Serialize)]
struct ModelRow {
    model: &'static str,
    mechanism: &'static str,
    calls_per_message: &'static str,
    limits: &'static str,
    since_linux: &'static str,
    usable: bool,
    /// Why the model does not work here.
    refusal: Option<String>,
    missing: Vec<MissingFeature>,
}

/// A feature that a model does not have.
#[derive(Debug, Serialize)]
struct MissingFeature {
    what: &'static str,
    why: &'static str,
}

impl ModelsArgs {
    /// Prints the table on standard output.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let rows = Model::ALL.map(row);
        if self.json {
            let models = Models { schema: "proactor.models/2", models: rows.into() };
            return Ok(output::print(&(serde_json::to_string_pretty(&models)? + "\n"))?);
        }
        let mut table = table(&rows);
        terminal_width().inspect(|&width| table.fit(width));
        let mut text = format!("{table}\n\n");
        for row in &rows {
            let refusal = row.refusal.iter().map(|why| format!("does not work here: {why}"));
            let missing = row.missing.iter().map(|it| format!("{}: {}", it.what, it.why));
            for remark in refusal.chain(missing) {
                text += &wrapped(&format!("{} {remark}", row.model));
            }
        }
        Ok(output::print(&text)?)
    }
}

/// Wraps a sentence to the terminal.
fn wrapped(sentence: &str) -> String {
    let words: Vec<String> = sentence.split(' ').map(str::to_owned).collect();
    fold(&words, " ", terminal_width().unwrap_or(usize::MAX)).join("\n  ") + "\n"
}

fn row(model: Model) -> ModelRow {
    let About { mechanism, calls, limits, since } = model.about();
    let refusal = model.refusal();
    ModelRow {
        model: model.name(),
        mechanism,
        calls_per_message: calls,
        limits,
        since_linux: since,
        usable: refusal.is_none(),
        refusal,
        missing: Ability::ALL
            .into_iter()
            .filter_map(|it| model.missing(it).map(|why| MissingFeature { what: it.denied(), why }))
            .collect(),
    }
}

fn table(rows: &[ModelRow]) -> Table {
    let columns = ["model", "how it waits", "calls per message", "limits", "Linux", "here"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for row in rows {
        let here = if row.usable { "yes" } else { "no" };
        let words =
            [row.model, row.mechanism, row.calls_per_message, row.limits, row.since_linux, here];
        table.row(words.map(str::to_owned));
    }
    table
}
