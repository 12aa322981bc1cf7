//! `proactor trace`: reads recordings.

mod attach;
mod conn;
mod delays;
mod diff;
mod doctor;
mod export;
mod follow;
mod show;
mod summary;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use serde::Serialize;

pub(super) use follow::follow_to_end;

use super::output::{self, RED, YELLOW, note};
use super::wrong_usage;
use proactor_record::Errno;
use proactor_report::units;
use proactor_trace::view::{Cut, TraceStats};
use proactor_trace::{Filter, Trace, parse_conn};

/// Inspect a recording of `serve --trace`, or the rings of any process
#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    #[command(subcommand)]
    view: TraceView,
}

#[derive(Debug, Subcommand)]
enum TraceView {
    Show(show::ShowArgs),
    Follow(follow::FollowArgs),
    Summary(summary::SummaryArgs),
    Conn(conn::ConnArgs),
    #[command(alias = "health")]
    Doctor(doctor::DoctorArgs),
    Diff(diff::DiffArgs),
    Export(export::ExportArgs),
    Delays(delays::DelaysArgs),
    Attach(attach::AttachArgs),
}

impl TraceArgs {
    /// Runs the view; it prints on standard output.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match &self.view {
            TraceView::Show(show) => show.run(),
            TraceView::Follow(follow) => follow.run(),
            TraceView::Summary(summary) => summary.run(),
            TraceView::Conn(conn) => conn.run(),
            TraceView::Doctor(doctor) => doctor.run(),
            TraceView::Diff(diff) => diff.run(),
            TraceView::Export(export) => export.run(),
            TraceView::Delays(delays) => delays.run(),
            TraceView::Attach(attach) => attach.run(),
        }
    }
}

/// Reads a trace from a file.
fn read(path: &Path) -> anyhow::Result<Trace> {
    Trace::open(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a trace, and reports its defects on stderr.
fn open(path: &Path) -> anyhow::Result<Trace> {
    let trace = read(path)?;
    trace.remarks.iter().for_each(|remark| note!("note: {remark}"));
    Ok(trace)
}

/// Fails if no event of a trace belongs to the connection.
fn check_connection(trace: &Trace, file: &Path, conn: (u32, Option<u32>)) -> anyhow::Result<()> {
    let only = Filter { conns: vec![conn], ..Filter::default() };
    let is_in = proactor_trace::events(trace).any(|event| only.passes(&event));
    if is_in { Ok(()) } else { Err(unknown_connection(file, conn)) }
}

/// Returns the error for a connection that is not in a trace.
fn unknown_connection(file: &Path, (slot, generation): (u32, Option<u32>)) -> anyhow::Error {
    let generation = generation.map_or(String::new(), |generation| format!(".{generation}"));
    let file = file.display();
    anyhow!(
        "c{slot}{generation} is not in {file}: `proactor trace conn {file}` lists the connections"
    )
}

/// Places these options after the options of the view in the help.
const LAST: usize = 500;

/// The arguments that most views share.
#[derive(Debug, clap::Args)]
struct Look {
    /// File written by `serve --trace=FILE`
    file: PathBuf,

    #[command(flatten)]
    how: How,
}

impl Look {
    /// Returns the statistics of the selected part.
    fn statistics(&self) -> anyhow::Result<TraceStats> {
        statistics(&self.file, &self.how.cut(None))
    }
}

/// The selected part, and the output format.
#[derive(Debug, clap::Args)]
struct How {
    #[command(flatten)]
    part: TimeRange,

    /// Print as JSON
    #[arg(long, display_order = LAST)]
    json: bool,
}

impl How {
    fn cut(&self, conn: Option<(u32, Option<u32>)>) -> Cut {
        self.part.cut(conn)
    }

    /// Prints a view as text, or as JSON.
    fn print(&self, view: &(impl Display + Serialize)) -> anyhow::Result<()> {
        if self.json {
            return output::print_json(view);
        }
        // Severities of `trace doctor`.
        Ok(output::print_coloured(&format!("{view}\n"), &[("WRONG ", RED), ("COSTLY ", YELLOW)])?)
    }
}

/// Returns the statistics of a trace. They contain its defects: every view begins with them.
fn statistics(path: &Path, cut: &Cut) -> anyhow::Result<TraceStats> {
    Ok(TraceStats::of(&read(path)?, cut))
}

/// The selected range of time.
#[derive(Debug, clap::Args)]
struct TimeRange {
    /// Only events at or after this time, from the start of the recording: 0.2s, 40ms
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, display_order = LAST)]
    since: Option<Duration>,

    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, display_order = LAST)]
    until: Option<Duration>,
}

impl TimeRange {
    fn cut(&self, conn: Option<(u32, Option<u32>)>) -> Cut {
        self.check();
        Cut { since: self.since, until: self.until, conn }
    }

    /// Rejects an empty range.
    fn check(&self) {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            wrong_usage(&format!("--since {since:?} is not before --until {until:?}"));
        }
    }
}

/// The selected events of a trace.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Only this connection: c7, or c7.1 for one connection that used slot 7. Repeatable
    #[arg(long, value_name = "CONN", value_parser = parse_conn)]
    conn: Vec<(u32, Option<u32>)>,

    /// Only this operation, system call or kind of record: recv, send, cqe, enter … Repeatable
    #[arg(long, value_name = "NAME")]
    op: Vec<String>,

    /// Only this result: an error name (ECONNRESET), a number, ok or error. Repeatable
    #[arg(long, value_name = "RESULT", value_parser = result)]
    result: Vec<String>,

    #[command(flatten)]
    part: TimeRange,

    /// Only abnormal events: failures, overflows, drops
    #[arg(long)]
    abnormal: bool,
}

impl Selection {
    fn filter(&self) -> Filter {
        self.part.check();
        Filter {
            conns: self.conn.clone(),
            ops: self.op.clone(),
            results: self.result.clone(),
            since: self.part.since,
            until: self.part.until,
            abnormal: self.abnormal,
        }
    }
}

/// Parses a result of `--result`.
fn result(text: &str) -> Result<String, String> {
    match text {
        "ok" | "error" => Ok(text.to_owned()),
        _ if text.parse::<u32>().is_ok() || Errno::from_name(text).is_some() => Ok(text.to_owned()),
        _ => Err("write ok, error, a number (0 is the end of a stream) or an error name as \
                  ECONNRESET"
            .to_owned()),
    }
}
