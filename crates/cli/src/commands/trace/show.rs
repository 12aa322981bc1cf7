//! `proactor trace show`: prints a trace, one event per line.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;

use super::Selection;
use crate::commands::output::stdout;
use proactor_trace::Header;
use proactor_trace::kernel::{KernelEvent, Sidecar, sidecar_path};

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
        let sidecar = Sidecar::open(&self.file, header)
            .with_context(|| format!("cannot read {}", sidecar_path(&self.file).display()))?;
        let events = sidecar.as_ref().map_or(&[][..], |sidecar| &sidecar.events);
        let mut kernel = events.iter().filter(|event| event.passes(header, &filter)).peekable();
        for event in trace.events().filter(|event| filter.passes(event)) {
            while let Some(earlier) = kernel.next_if(|one| header.nanos(one.time) <= event.at) {
                self.write_kernel(&mut out, header, earlier)?;
            }
            if self.json {
                writeln!(out, "{}", proactor_trace::json(header, &event))?;
            } else {
                writeln!(out, "{}", proactor_trace::line(header, &event))?;
            }
        }
        for event in kernel {
            self.write_kernel(&mut out, header, event)?;
        }
        out.flush()?;
        Ok(())
    }

    fn write_kernel(
        &self,
        out: &mut impl Write,
        header: &Header,
        event: &KernelEvent,
    ) -> io::Result<()> {
        if self.json {
            writeln!(out, "{}", event.json(header))
        } else {
            writeln!(out, "{}", event.line(header))
        }
    }
}
