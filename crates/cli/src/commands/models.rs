//! `proactor models`: every I/O model, its cost, and whether it works on this machine.

use serde_json::{Value, json};

use super::{output, terminal_width};
use crate::explain::fold;
use proactor_models::model::{Ability, Model};
use proactor_report::{Align, Table};

/// List the I/O models: how each waits, its system calls, and whether it works on this machine
#[derive(Debug, clap::Args)]
pub(super) struct ModelsArgs {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

impl ModelsArgs {
    /// Prints the table on standard output.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        if self.json {
            let models = Model::ALL.map(object);
            let list = json!({ "schema": "proactor.models/2", "models": models });
            return Ok(output::print(&(serde_json::to_string_pretty(&list)? + "\n"))?);
        }
        let width = terminal_width();
        let columns = ["model", "how it waits", "calls per message", "limits", "Linux", "here"];
        let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
        width.inspect(|&width| table.fit(width));
        let mut remarks = String::new();
        for model in Model::ALL {
            let (about, refusal) = (model.about(), model.refusal());
            let here = if refusal.is_none() { "yes" } else { "no" };
            let cells = [about.mechanism, about.calls, about.limits, about.since, here];
            table.row([model.name()].into_iter().chain(cells).map(str::to_owned));
            let refusal = refusal.iter().map(|why| format!("does not work here: {why}"));
            let missing = missing(model).map(|(what, why)| format!("{what}: {why}"));
            for remark in refusal.chain(missing) {
                let words = format!("{} {remark}", model.name());
                let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
                let lines = fold(&words, " ", width.unwrap_or(usize::MAX));
                remarks += &(lines.join("\n  ") + "\n");
            }
        }
        Ok(output::print(&format!("{table}\n\n{remarks}"))?)
    }
}

/// Returns the features that a model does not have, and why.
fn missing(model: Model) -> impl Iterator<Item = (&'static str, &'static str)> {
    Ability::ALL.into_iter().filter_map(move |it| Some((it.denied(), model.missing(it)?)))
}

/// Returns a model as JSON.
fn object(model: Model) -> Value {
    let (about, refusal) = (model.about(), model.refusal());
    let missing = missing(model).map(|(what, why)| json!({ "what": what, "why": why }));
    json!({
        "model": model.name(),
        "mechanism": about.mechanism,
        "calls_per_message": about.calls,
        "limits": about.limits,
        "since_linux": about.since,
        "usable": refusal.is_none(),
        "refusal": refusal,
        "missing": missing.collect::<Vec<_>>(),
    })
}
