//! `proactor explain`: the system calls of one message in each model, as recorded.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::output::{self, Destination};
use super::picks::{self, Pick, picked};
use super::{terminal_width, wrong_usage};
use crate::explain::{self, ExplainOptions};
use proactor::Model;
use proactor_compare::plan::ModelSpec;

/// Show the system calls of a message in each I/O model: where it waits, and what copies
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Models to show, separated by commas, or all; -NAME removes one, as in all,-process. See
    /// `proactor models`
    #[arg(long, value_name = "MODELS", value_delimiter = ',', default_value = "all",
          value_parser = picks::unrecorded)]
    models: Vec<Pick>,

    #[command(flatten)]
    options: ExplainOptions,

    /// Write a self-contained HTML page to this file; - is standard output, instead of the text
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the picture as SVG to this file; - is standard output, instead of the text
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print the recorded calls as JSON instead of the text
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    /// Records the models, then prints and writes the results.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let model = |spec: ModelSpec| proactor_models::find(&spec.model);
        let models: Vec<Model> = picked(&self.models).into_iter().filter_map(model).collect();
        if models.is_empty() {
            wrong_usage("--models selects no model");
        }
        let [svg, html] = [&self.svg, &self.html].map(Option::as_deref);
        let json = self.json.then_some(Path::new("-"));
        let results = [("--svg", svg), ("--html", html), ("--json", json)];
        let stdout_is_taken = output::check_destinations(&results);
        let svg = svg.map(Destination::open).transpose()?;
        let html = html.map(Destination::open).transpose()?;
        let live = output::progress("recording {msg}");
        let report = explain::run(&models, self.options, |done| {
            live.set_message(format!("{:.0} %", 100.0 * done));
        });
        live.finish_and_clear();
        let report = report.context("cannot record")?;
        svg.map_or(Ok(()), |to| to.write(&explain::svg(&report)))?;
        html.map_or(Ok(()), |to| to.write(&explain::html(&report)))?;
        // The status says what was recorded, though the reader of the output has ended.
        let printed = if self.json {
            output::print_json(&report)
        } else if !stdout_is_taken {
            let text = explain::text(&report, terminal_width().unwrap_or(100));
            output::print(&text).map_err(anyhow::Error::from)
        } else {
            Ok(())
        };
        if report.models.iter().all(|it| it.single.is_none()) {
            bail!("no model could be recorded");
        }
        printed
    }
}
