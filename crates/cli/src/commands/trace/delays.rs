//! `proactor trace delays`: where the time of a completion goes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::commands::output::stdout;
use proactor_trace::Trace;
use proactor_trace::kernel::{Beside, Delays, beside};

/// Show where the time of completions went, as `serve --trace=FILE --kernel-events` recorded it:
/// arrival, posted, reaped, handled
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What was recorded; what the kernel told stands beside it in FILE.kernel
    file: PathBuf,

    /// As one object of JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let trace = super::open(&self.file)?;
        let Some(delays) = delays(&self.file, &trace)? else {
            bail!(
                "nothing of the kernel's is there: record with `serve --trace=FILE --kernel-events`"
            );
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

/// What the kernel's side of a recording comes to; `None` if there is none.
pub(super) fn delays(file: &Path, trace: &Trace) -> anyhow::Result<Option<Delays>> {
    let told = Beside::open(file, &trace.header)
        .with_context(|| format!("cannot read {}", beside(file).display()))?;
    Ok(told.map(|told| Delays::of(trace, &told)))
}
