//! `proactor trace show`: prints a trace, one event per line.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;

use super::Selection;
use crate::commands::output::stdout;
use proactor_trace::Header;
use proactor_trace::kernel::{self, Beside, Told};

/// Print a trace, one event per line
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File written by `serve --trace=FILE`
    file: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// Print as JSON: the header, then one object per line
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let trace = super::open(&self.file)?;
        let (header, filter) = (&trace.header, self.selection.filter());
        let mut out = BufWriter::new(stdout());
        if self.json {
            writeln!(out, "{}", proactor_trace::json_header(header, trace.lost(), &trace.remarks))?;
        } else {
            writeln!(out, "{}", proactor_trace::title(header, trace.lost()))?;
            writeln!(out, "{}", proactor_trace::heading())?;
        }
        // The kernel events are merged in, in the order of time.
        let beside = Beside::open(&self.file, header)
            .with_context(|| format!("cannot read {}", kernel::beside(&self.file).display()))?;
        let told = beside.as_ref().map_or(&[][..], |beside| &beside.told);
        let mut told = told.iter().filter(|told| told.passes(header, &filter)).peekable();
        for event in trace.events().filter(|event| filter.passes(event)) {
            while let Some(told) = told.next_if(|told| header.nanos(told.time) <= event.at) {
                self.write_told(&mut out, header, told)?;
            }
            if self.json {
                writeln!(out, "{}", proactor_trace::json(header, &event))?;
            } else {
                writeln!(out, "{}", proactor_trace::line(header, &event))?;
            }
        }
        for told in told {
            self.write_told(&mut out, header, told)?;
        }
        out.flush()?;
        Ok(())
    }

    fn write_told(&self, out: &mut impl Write, header: &Header, told: &Told) -> io::Result<()> {
        if self.json {
            writeln!(out, "{}", told.json(header))
        } else {
            writeln!(out, "{}", told.line(header))
        }
    }
}
