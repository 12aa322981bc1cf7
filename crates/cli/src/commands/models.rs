//! `proactor models`: every I/O model, its cost, and whether it works on this machine.

use serde_json::{Value, json};

use super::{output, terminal_width};
use crate::explain::wrap;
use proactor::Model;
use proactor_models::{ALL, refusal};
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
            let models = ALL.map(object);
            return output::print_json(&json!({ "schema": "proactor.models/2", "models": models }));
        }
        let width = terminal_width();
        let columns = ["model", "how it waits", "calls per message", "limits", "Linux", "here"];
        let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
        width.inspect(|&width| table.fit(width));
        let mut remarks = String::new();
        for model in ALL {
            let (about, refusal) = (model.info(), refusal(model));
            let here = if refusal.is_none() { "yes" } else { "no" };
            let cells = [about.mechanism, about.calls, about.limits, about.since, here];
            table.row([model.name()].into_iter().chain(cells).map(str::to_owned));
            let refusal = refusal.iter().map(|why| format!("does not work here: {why}"));
            let missing =
                about.missing.iter().map(|(what, why)| format!("{}: {why}", what.denied()));
            for remark in refusal.chain(missing) {
                let words = format!("{} {remark}", model.name());
                let lines = wrap(&words, width.unwrap_or(usize::MAX));
                remarks += &(lines.replace('\n', "\n  ") + "\n");
            }
        }
        Ok(output::print(&format!("{table}\n\n{remarks}"))?)
    }
}

/// Returns a model as JSON.
fn object(model: Model) -> Value {
    let (about, refusal) = (model.info(), refusal(model));
    let missing = about.missing.iter();
    let missing = missing.map(|(what, why)| json!({ "what": what.denied(), "why": why }));
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
