//! `proactor trace show`: prints a trace, one event per line.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::Selection;
use crate::commands::output::{note, stdout};
use proactor_trace::kernel::{KernelEvent, Sidecar, sidecar_path};
use proactor_trace::{Filter, Header, Trace};

/// Print a trace, one event per line
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// File written by `serve --trace=FILE`
    file: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// Print as JSON: the header, then one object per line
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
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
        let mut matches = 0;
        let mut kernel = events.iter().filter(|event| event.passes(header, &filter)).peekable();
        for event in proactor_trace::events(&trace).filter(|event| filter.passes(event)) {
            while let Some(earlier) = kernel.next_if(|one| header.nanos(one.time) <= event.at) {
                matches += 1;
                self.write_kernel(&mut out, header, earlier)?;
            }
            matches += 1;
            if self.json {
                writeln!(out, "{}", proactor_trace::json(header, &event))?;
            } else {
                writeln!(out, "{}", proactor_trace::line(header, &event))?;
            }
        }
        for event in kernel {
            matches += 1;
            self.write_kernel(&mut out, header, event)?;
        }
        out.flush()?;
        if matches == 0 { self.explain_no_match(&trace, &filter, events) } else { Ok(()) }
    }

    /// Reports that no event matches: an error if a selected name does not occur in the trace.
    fn explain_no_match(
        &self,
        trace: &Trace,
        filter: &Filter,
        kernel: &[KernelEvent],
    ) -> anyhow::Result<()> {
        let file = self.file.display();
        let ops = proactor_trace::events(trace).filter_map(|event| event.op.map(|op| op.name()));
        let kinds =
            proactor_trace::events(trace).map(|event| event.name().trim_matches(['<', '>']));
        let names = ops.chain(kinds).map(str::to_lowercase);
        let kernel = kernel.iter().map(|event| event.kind.name().to_owned());
        let names: BTreeSet<String> = names.chain(kernel).collect();
        if let Some(op) = filter.ops.iter().find(|op| !names.contains(&op.to_lowercase())) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            bail!("{file} has no `{op}`: it has {}", names.join(", "));
        }
        let mut conns = filter.conns.iter();
        conns.try_for_each(|&conn| super::check_connection(trace, &self.file, conn))?;
        note!("note: no event matches");
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
