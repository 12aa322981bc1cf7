//! `proactor explain`: one message through each model, in pictures of what really happened.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::explain::{self, Terrain};
use crate::model::{Choice, Model};
use crate::os;

/// Show one message going through each I/O model: the system calls in order, who waits, who copies
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which models, as uring,epoll; see `proactor models` [default: all]
    #[arg(long, value_name = "MODELS", default_value = "all", value_parser = models)]
    models: Models,

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

/// Those that were named; a type of its own, or clap would take it for a repeated option.
#[derive(Debug, Clone)]
struct Models(Vec<Model>);

impl Args {
    /// Records, prints, and writes what was asked for.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let terrain =
            Terrain { size: self.size as usize, runs: self.runs as usize, cpus: two_cpus() };
        let live = io::stderr().is_terminal();
        let report = explain::run(&self.models.0, terrain, |model| {
            if live {
                eprint!("\r\x1b[Krecording {model}");
            }
        });
        if live {
            eprint!("\r\x1b[K");
        }
        let report = report.context("nothing can be recorded")?;
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            write!(out, "{}", explain::text(&report))?;
        }
        if let Some(path) = &self.svg {
            save(path, &explain::svg(&report))?;
        }
        if let Some(path) = &self.html {
            save(path, &explain::html(&report))?;
        }
        if report.models.iter().all(|row| row.scene.is_none()) {
            bail!("no model could be recorded");
        }
        Ok(())
    }
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One for the server and one for the client, if there are two that we may use.
fn two_cpus() -> Option<(usize, usize)> {
    match os::usable_cpus()[..] {
        [server, client, ..] => Some((server, client)),
        _ => None,
    }
}

fn models(text: &str) -> Result<Models, String> {
    if text == "all" {
        return Ok(Models(Model::ALL.into()));
    }
    let one = |name: &str| match name.parse::<Choice>()? {
        Choice::Model(model) => Ok(model),
        Choice::Auto => Err("auto is no model of its own: name one, or all".to_owned()),
    };
    text.split(',').map(one).collect::<Result<Vec<_>, String>>().map(Models)
}
