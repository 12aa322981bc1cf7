//! `proactor trace export`: converts a trace for other tools.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::Part;
use crate::commands::output::{is_stdout, stdout};
use crate::commands::stderr::note;
use crate::commands::{number, wrong_usage};
use proactor_report::units;
use proactor_trace::export::{PAGE_ROWS, PERFETTO_EVENTS, PERFETTO_TRACKS, jsonl, page, perfetto};
use proactor_trace::{Filter, TraceFile};

/// Convert a trace for other tools: the Perfetto UI, jq, a browser
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// File written by `serve --trace=FILE`
    file: PathBuf,

    /// Output format [default: by the name of the output: .pftrace, .jsonl, .html]
    #[arg(long, value_enum)]
    format: Option<ExportFormat>,

    /// Output file; - is standard output [default: -]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Number of connections with their own track, the worst first [default: 200; html: 48]
    #[arg(long, value_name = "N", value_parser = number::<usize>(0, u64::MAX))]
    connections: Option<usize>,

    /// Number of events, the last ones, in a file for Perfetto [default: 1000000]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1, u64::MAX))]
    events: Option<usize>,

    #[command(flatten)]
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Tracks, slices, flows and counters for ui.perfetto.dev
    Perfetto,
    /// One JSON object per line: the header, then the events
    Jsonl,
    /// One self-contained page
    Html,
}

impl ExportArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let format = self.format();
        if self.events.is_some() && format != ExportFormat::Perfetto {
            wrong_usage("--events is for Perfetto: use --since and --until");
        }
        let trace = super::open(&self.file)?;
        let notes = match &self.output {
            Some(path) if !is_stdout(path) => {
                refuse_the_same(&self.file, path)?;
                let cannot = || format!("cannot write {}", path.display());
                let file = File::create(path).with_context(cannot)?;
                let notes = self.write(&trace, format, &file).with_context(cannot)?;
                let size = units::bytes(file.metadata().with_context(cannot)?.len() as f64);
                let viewer = match format {
                    ExportFormat::Perfetto => "; open it in https://ui.perfetto.dev",
                    ExportFormat::Jsonl => "",
                    ExportFormat::Html => "; open it in a browser",
                };
                note!("wrote {} ({size}){viewer}", path.display());
                notes
            }
            _ if format == ExportFormat::Perfetto && io::stdout().is_terminal() => {
                bail!("standard output is a terminal: name a file with -o, or redirect it")
            }
            _ => self.write(&trace, format, stdout()?)?,
        };
        notes.iter().for_each(|note| note!("note: {note}"));
        Ok(())
    }

    /// Returns the output format, from the option or from the name of the output.
    fn format(&self) -> ExportFormat {
        let name = self.output.as_ref().and_then(|path| path.extension()?.to_str());
        match (self.format, name) {
            (Some(format), _) => format,
            (None, Some("pftrace" | "perfetto-trace")) => ExportFormat::Perfetto,
            (None, Some("jsonl" | "ndjson")) => ExportFormat::Jsonl,
            (None, Some("html" | "htm")) => ExportFormat::Html,
            (None, _) => wrong_usage("unknown output format: add --format perfetto, jsonl or html"),
        }
    }

    /// Writes the output. Returns notes about omitted content.
    fn write(
        &self,
        trace: &TraceFile,
        format: ExportFormat,
        out: impl Write,
    ) -> anyhow::Result<Vec<String>> {
        let (mut out, cut) = (BufWriter::new(out), self.part.cut(trace, None));
        let notes = match format {
            ExportFormat::Perfetto => {
                let most = self.connections.unwrap_or(PERFETTO_TRACKS);
                perfetto(trace, &cut, most, self.events.unwrap_or(PERFETTO_EVENTS), &mut out)?
            }
            ExportFormat::Jsonl => {
                let (since, until) = (cut.since, cut.until);
                let filter = Filter { since, until, ..Filter::default() };
                jsonl(trace, &filter, &mut out)?;
                Vec::new()
            }
            ExportFormat::Html => {
                let name = self.file.file_name().unwrap_or_default().to_string_lossy();
                page(trace, &cut, self.connections.unwrap_or(PAGE_ROWS), &name, &mut out)?
            }
        };
        out.flush()?;
        Ok(notes)
    }
}

/// Rejects an output that is the trace itself.
fn refuse_the_same(input: &Path, output: &Path) -> anyhow::Result<()> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    if let (Ok(one), Ok(other)) = (identity(input), identity(output))
        && one == other
    {
        bail!("{} is the trace itself: use another output file", output.display());
    }
    Ok(())
}
