//! `proactor trace show` and `proactor trace follow`: the events of a trace, one per line.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Part, Selection, TimeRange};
use crate::commands::output::stdout;
use crate::commands::stderr::note;
use crate::commands::stream::await_ready;
use proactor::printable::escape;
use proactor_trace::kernel::sidecar_path;
use proactor_trace::{Filter, Follow, Header, MergedEvent, TraceFile, json_header, merged};

/// Period at which a followed file is read. A recorder writes into mapped memory: nothing could
/// wake a reader without a cost for each record.
const INTERVAL: Duration = Duration::from_millis(20);

/// Print a trace, one event per line
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// File written by `serve --trace=FILE`
    file: PathBuf,

    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: EventFormat,
}

/// Print the events of a trace while it is written, until its recorder ends
#[derive(Debug, clap::Args)]
pub(super) struct FollowArgs {
    /// Trace file, or the id of the process that writes it
    #[arg(value_name = "FILE|PID")]
    source: String,

    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    range: TimeRange,

    /// Only events from now on
    #[arg(long)]
    now: bool,

    #[command(flatten)]
    format: EventFormat,
}

/// How an event is printed.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(in crate::commands) struct EventFormat {
    /// Print the time of day (UTC), as logs have it, instead of the time since recording began
    #[arg(long, conflicts_with = "json")]
    wall: bool,

    /// Print as JSON: the header, then one object per line
    #[arg(long)]
    json: bool,
}

impl EventFormat {
    fn line(self, header: &Header, event: &MergedEvent) -> String {
        match self {
            EventFormat { json: true, .. } => event.json(header).to_string(),
            EventFormat { wall: true, .. } => event.line_of_day(header),
            _ => event.line(header),
        }
    }
}

impl ShowArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let trace = super::open(&self.file)?;
        let header = &trace.header;
        let filter = self.selection.filter(self.part.cut(&trace, None));
        let mut out = BufWriter::new(stdout()?);
        writeln!(out, "{}", head(header, trace.lost(), &trace.remarks, self.format))?;
        let mut matches = 0;
        for event in merged(&trace, &filter) {
            matches += 1;
            writeln!(out, "{}", self.format.line(header, &event))?;
        }
        out.flush()?;
        if matches == 0 { self.explain_no_match(&trace, &filter) } else { Ok(()) }
    }

    /// Reports that no event matches: an error if a selected name does not occur in the trace.
    fn explain_no_match(&self, trace: &TraceFile, filter: &Filter) -> anyhow::Result<()> {
        let file = self.file.display();
        let kernel = trace.sidecar().into_iter().flat_map(|sidecar| &sidecar.events);
        let kernel = kernel.map(|event| event.name().to_owned());
        let names = trace.events().flat_map(|event| {
            let kind = event.name().trim_matches(['<', '>']).to_lowercase();
            [Some(kind), event.op.map(|op| op.name().to_lowercase())]
        });
        let names: BTreeSet<String> = names.flatten().chain(kernel).collect();
        if let Some(op) = filter.ops.iter().find(|op| !names.contains(&op.to_lowercase())) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            bail!("{file} has no `{op}`: it has {}", names.join(", "));
        }
        let mut conns = filter.conns.iter();
        conns.try_for_each(|&conn| super::check_connection(trace, &self.file, conn))?;
        note!("note: no event matches");
        Ok(())
    }
}

impl FollowArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let source = &self.source;
        super::refuse_stdin(Path::new(source))?;
        let (file, kernel) = match source.parse() {
            Ok(pid) if !Path::new(source).exists() => proactor_trace::open_process(pid)?,
            _ => {
                let file = File::open(source).with_context(|| format!("cannot read {source}"))?;
                (file, File::open(sidecar_path(Path::new(source))).ok())
            }
        };
        let follow = Follow::new(file, self.now).and_then(|follow| match kernel {
            Some(kernel) => follow.with_kernel(kernel, self.now),
            None => Ok(follow),
        });
        let follow = follow.with_context(|| format!("cannot follow {source}"))?;
        let filter = self.selection.filter(self.range.cut(None));
        follow_to_end(follow, &filter, self.format, &mut stdout()?)
    }
}

/// Prints events until the recorder ends, or until the output is closed.
pub(in crate::commands) fn follow_to_end(
    mut follow: Follow,
    filter: &Filter,
    format: EventFormat,
    out: &mut (impl Write + AsFd),
) -> anyhow::Result<()> {
    writeln!(out, "{}", head(follow.header(), 0, &[], format))?;
    loop {
        let over = follow.is_over();
        let events = follow.poll()?;
        let passed = events.iter().filter(|event| event.passes(filter));
        let lines = passed.map(|event| format.line(follow.header(), event) + "\n");
        out.write_all(lines.collect::<String>().as_bytes())?;
        out.flush()?;
        if over && follow.is_read() {
            return Ok(());
        }
        // Without events to print, the end of the output's reader is noticed here. Nothing is asked
        // for: only errors and a closed reader end the wait early.
        if events.is_empty() && await_ready(out, 0, Some(INTERVAL))? {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
    }
}

/// Formats what precedes the events.
fn head(header: &Header, lost: u64, remarks: &[String], format: EventFormat) -> String {
    let heading = match format {
        EventFormat { json: true, .. } => {
            return escape(&json_header(header, lost, remarks).to_string()).into_owned();
        }
        EventFormat { wall: true, .. } => proactor_trace::heading("        time (UTC)"),
        _ => proactor_trace::heading("time"),
    };
    format!("{}\n{heading}", escape(&proactor_trace::title(header, lost)))
}
