//! `proactor explain`: one message through each model, in pictures of what really happened.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::output::{self, Save};
use super::picks::{Pick, picked};
use super::wrong_usage;
use crate::explain::{self, Terrain};
use proactor::os;
use proactor_models::model::Model;

/// Show one message going through each I/O model: the system calls in order, who waits, who copies
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which models, as uring,epoll; see `proactor models`. -NAME leaves one out again, as
    /// all,-process
    #[arg(long, value_name = "MODELS", value_delimiter = ',', default_value = "all")]
    models: Vec<Pick<Model>>,

    /// Bytes of the message
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2048))]
    size: u32,

    /// How many messages to record of each model; the one of median time is shown
    #[arg(long, value_name = "N", default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,

    /// Write the picture as a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the picture as SVG, for a document
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Records, prints, and writes what was asked for.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let terrain =
            Terrain { size: self.size as usize, runs: self.runs as usize, cpus: two_cpus() };
        let models = picked(&self.models);
        if models.is_empty() {
            wrong_usage("--models leaves no model over");
        }
        let save = |path: &Option<PathBuf>| path.as_deref().map(Save::new).transpose();
        let (svg, html) = (save(&self.svg)?, save(&self.html)?);
        let live = io::stderr().is_terminal();
        let report = explain::run(&models, terrain, |model| {
            if live {
                eprint!("\r\x1b[Krecording {model}");
            }
        });
        if live {
            eprint!("\r\x1b[K");
        }
        let report = report.context("nothing can be recorded")?;
        if let Some(file) = svg {
            file.write(explain::svg(&report).as_bytes())?;
        }
        if let Some(file) = html {
            file.write(explain::html(&report).as_bytes())?;
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(&report)? + "\n",
            false => explain::text(&report),
        };
        output::print(&text)?;
        if report.models.iter().all(|row| row.scene.is_none()) {
            bail!("no model could be recorded");
        }
        Ok(())
    }
}

/// One for the server and one for the client, if there are two that we may use.
fn two_cpus() -> Option<(usize, usize)> {
    match os::usable_cpus()[..] {
        [server, client, ..] => Some((server, client)),
        _ => None,
    }
}
