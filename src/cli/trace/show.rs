//! `proactor trace show`: one line an event.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::Selection;
use crate::trace;
use crate::trace::export::jsonl;

/// Show a trace, one line an event
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `serve --trace=FILE` has written, also if the server was killed
    file: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// As JSON: the header, then one object a line
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let trace = super::open(&self.file)?;
        let (header, filter) = (&trace.header, self.selection.filter());
        let mut out = BufWriter::new(io::stdout().lock());
        if self.json {
            jsonl(&trace, &filter, &mut out)?;
        } else {
            writeln!(out, "{}", trace::title(header, trace.lost()))?;
            for event in trace.events().filter(|event| filter.passes(event)) {
                writeln!(out, "{}", trace::line(header, &event))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}
