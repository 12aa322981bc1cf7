//! `proactor trace delays`: the delays between arrival and handling of a completion.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::commands::output::stdout;
use proactor_trace::Trace;
use proactor_trace::kernel::{Delays, Sidecar, sidecar_path};

/// Show the delays of completions, from arrival to posted, reaped and handled, as recorded by
/// `serve --trace=FILE --kernel-events`
#[derive(Debug, clap::Args)]
pub(super) struct DelaysArgs {
    /// File written by `serve --trace=FILE --kernel-events`; the kernel events are in FILE.kernel
    file: PathBuf,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl DelaysArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let trace = super::open(&self.file)?;
        let Some(delays) = delays(&self.file, &trace)? else {
            bail!("no kernel events: record with `serve --trace=FILE --kernel-events`");
        };
        let mut out = stdout();
        if self.json {
            writeln!(out, "{}", delays.json())?;
        } else {
            writeln!(out, "{}\n\n{delays}", proactor_trace::title(&trace.header, trace.lost()))?;
        }
        Ok(())
    }
}

/// Returns the delays of a recording; `None` if it has no kernel events.
pub(super) fn delays(file: &Path, trace: &Trace) -> anyhow::Result<Option<Delays>> {
    let sidecar = Sidecar::open(file, &trace.header)
        .with_context(|| format!("cannot read {}", sidecar_path(file).display()))?;
    Ok(sidecar.map(|sidecar| Delays::of(trace, &sidecar)))
}
