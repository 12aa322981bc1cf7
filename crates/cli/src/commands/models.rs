//! `proactor models`: every I/O model, its cost, and whether it works on this machine.

use minijinja::{Value, context};
use serde_json::json;

use super::{output, terminal_width};
use proactor::Model;
use proactor_models::{ALL, facts, refusal};
use proactor_report::template;

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
        let models = json!({ "schema": "proactor.models/2", "models": ALL.map(object) });
        if self.json {
            return output::print_json(&models);
        }
        let values = context! { width => terminal_width(), ..Value::from_serialize(models) };
        Ok(output::print(&template::fill(include_str!("models.txt"), values))?)
    }
}

/// Returns a model as JSON.
fn object(model: Model) -> serde_json::Value {
    let (about, facts, refusal) = (model.info(), facts(model), refusal(model));
    let missing = about.missing.iter();
    let missing = missing.map(|(what, why)| json!({ "what": what.denied(), "why": why }));
    json!({
        "model": model.name(),
        "mechanism": about.mechanism,
        "calls_per_message": facts.calls,
        "limits": facts.limits,
        "since_linux": facts.since,
        "usable": refusal.is_none(),
        "refusal": refusal,
        "missing": missing.collect::<Vec<_>>(),
    })
}
