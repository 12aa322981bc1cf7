//! `proactor trace`: reads recordings.

mod attach;
mod events;
mod export;
mod ps;
mod views;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde::Serialize;

pub(super) use events::{EventFormat, follow_to_end};

use super::output::{self, RED, YELLOW};
use super::stderr::note;
use super::{number, wrong_usage};
use proactor_record::Errno;
use proactor_report::units;
use proactor_trace::kernel::{Sidecar, sidecar_path};
use proactor_trace::view::{Cut, Doctor, ListOrder, Severity, TraceStats, parse_timed};
use proactor_trace::{Filter, Trace, TraceFile, parse_conn, parse_name};

/// A slot of connections, and the generation of one of them.
type Conn = (u32, Option<u32>);

/// Inspect a recording of `serve --trace`, or the rings of any process
#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    #[command(subcommand)]
    view: TraceView,
}

#[derive(Debug, Subcommand)]
enum TraceView {
    Show(events::ShowArgs),
    Follow(events::FollowArgs),
    /// Summarise a trace per operation: counts, results, latencies
    Summary {
        #[command(flatten)]
        look: Look,

        /// Only this connection: c7, or c7.1 for one connection that used slot 7
        #[arg(long, value_name = "CONN", value_parser = parse_conn)]
        conn: Option<Conn>,

        /// A row for each interval of this length: rates, calls, replies, connections
        #[arg(long, value_name = "TIME", value_parser = units::parse_positive_duration)]
        every: Option<Duration>,
    },
    /// Show the timeline of one connection and its slowest exchanges, or list all, the worst first
    Conn {
        #[command(flatten)]
        look: Look,

        /// Connection: c7, or c7.1 for one connection that used slot 7 [default: list all]
        #[arg(value_parser = parse_conn)]
        conn: Option<Conn>,

        /// Order of the list: worst, bytes, messages or slowest first
        #[arg(long, value_name = "ORDER", default_value = "worst", value_parser = order,
              conflicts_with = "conn")]
        sort: ListOrder,

        /// Show every step, or list every connection, without folding
        #[arg(long)]
        all: bool,

        /// Number of slowest exchanges to show
        #[arg(long, value_name = "N", default_value_t = 3,
              value_parser = number::<usize>(0, 65_535))]
        slowest: usize,
    },
    /// Show when operations took how long: a map of time and duration
    Heatmap {
        #[command(flatten)]
        look: Look,

        /// What took the time: reply (from a receive to its reply), enter, wait, send …
        /// [default: reply]
        #[arg(long, value_name = "NAME", value_parser = parse_timed)]
        op: Option<String>,
    },
    /// Judge the loop: its numbers, problems and avoidable costs, with evidence and a remedy
    #[command(alias = "health")]
    Doctor {
        #[command(flatten)]
        look: Look,

        /// Exit with status 3 if there is a finding at least this bad (wrong or costly), and with
        /// 4 if nothing can be said
        #[arg(long, value_name = "SEVERITY", value_parser = severity)]
        fail_on: Option<Severity>,

        /// Do not look for the finding of this name. Repeatable
        #[arg(long, value_name = "NAME", value_parser = finding)]
        ignore: Vec<String>,
    },
    /// Compare two traces per message, for example of two models or two versions
    Diff {
        /// First trace
        a: PathBuf,

        /// Second trace
        b: PathBuf,

        /// Another trace of the first kind: what differs from it as well is no difference
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,

        #[command(flatten)]
        how: How,
    },
    Export(export::ExportArgs),
    /// Show the delays of completions, from arrival to posted, reaped and handled, as recorded by
    /// `serve --trace=FILE --kernel-events`
    Delays {
        /// File written by `serve --trace=FILE --kernel-events`; the kernel events are in
        /// FILE.kernel
        file: PathBuf,

        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    Attach(attach::AttachArgs),
    Ps(ps::PsArgs),
}

impl TraceArgs {
    /// Runs the view; it prints on standard output.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match &self.view {
            TraceView::Show(show) => show.run(),
            TraceView::Follow(follow) => follow.run(),
            TraceView::Summary { look, conn, every } => views::summary(look, *conn, *every),
            TraceView::Conn { look, conn: Some(conn), all, slowest, .. } => {
                views::connection(look, *conn, *all, *slowest)
            }
            TraceView::Conn { look, all, sort, .. } => views::connections(look, *all, *sort),
            TraceView::Heatmap { look, op } => views::heatmap(look, op.as_deref()),
            TraceView::Doctor { look, fail_on, ignore } => views::doctor(look, *fail_on, ignore),
            TraceView::Diff { a, b, against, how } => views::diff(a, b, against.as_deref(), how),
            TraceView::Export(export) => export.run(),
            TraceView::Delays { file, json } => views::delays(file, *json),
            TraceView::Attach(attach) => attach.run(),
            TraceView::Ps(ps) => ps.run(),
        }
    }
}

/// Fails for `-`: a recording is read from a file, and not from its begin to its end.
fn refuse_stdin(path: &Path) -> anyhow::Result<()> {
    ensure!(!output::is_stdout(path), "`-` is not a file: name that of the recording (or `./-`)");
    Ok(())
}

/// Reads a trace from a file, with the kernel's events beside it.
fn read(path: &Path) -> anyhow::Result<TraceFile> {
    refuse_stdin(path)?;
    let cannot = |path: &Path| format!("cannot read {}", path.display());
    let trace = Trace::open(path).with_context(|| cannot(path))?;
    let sidecar = Sidecar::open(path, &trace.header);
    let sidecar = sidecar.with_context(|| cannot(&sidecar_path(path)))?;
    Ok(TraceFile::new(trace, sidecar))
}

/// Reads a trace, and reports its defects on stderr.
fn open(path: &Path) -> anyhow::Result<TraceFile> {
    let trace = read(path)?;
    trace.remarks.iter().for_each(|remark| note!("note: {remark}"));
    Ok(trace)
}

/// Fails if no event of a trace belongs to the connection.
fn check_connection(trace: &TraceFile, file: &Path, conn: Conn) -> anyhow::Result<()> {
    let only = Filter { conns: vec![conn], ..Filter::default() };
    if trace.events().any(|event| only.passes(&event)) {
        return Ok(());
    }
    let (slot, file) = (conn.0, file.display());
    let generation = conn.1.map_or(String::new(), |generation| format!(".{generation}"));
    bail!(
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

/// The selected part, and the output format.
#[derive(Debug, clap::Args)]
struct How {
    #[command(flatten)]
    part: Part,

    /// Print as JSON
    #[arg(long, display_order = LAST)]
    json: bool,
}

impl How {
    /// Returns the statistics of the selected part. They contain the defects of the trace: every
    /// view begins with them.
    fn statistics(&self, file: &Path) -> anyhow::Result<TraceStats> {
        let trace = read(file)?;
        Ok(TraceStats::of(&trace, &self.part.cut(&trace, None)))
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

/// The selected part of a recording that is read as a whole.
#[derive(Debug, clap::Args)]
struct Part {
    #[command(flatten)]
    range: TimeRange,

    /// Only the last part of the recording, of this length
    #[arg(long, value_name = "TIME", value_parser = units::parse_positive_duration,
          conflicts_with_all = ["since", "until"], display_order = LAST)]
    last: Option<Duration>,
}

impl Part {
    /// Returns the selected part of this trace.
    fn cut(&self, trace: &Trace, conn: Option<Conn>) -> Cut {
        let since = self.last.map(|last| trace.end().saturating_sub(last));
        let cut = self.range.cut(conn);
        Cut { since: since.or(cut.since), ..cut }
    }
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
    /// Returns the part. An empty range is wrong usage.
    fn cut(&self, conn: Option<Conn>) -> Cut {
        let TimeRange { since, until } = *self;
        if let Some((since, until)) = since.zip(until).filter(|(since, until)| since >= until) {
            wrong_usage(&format!("--since {since:?} is not before --until {until:?}"));
        }
        Cut { since, until, conn }
    }
}

/// The selected events of a trace.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Only this connection: c7, or c7.1 for one connection that used slot 7. Repeatable
    #[arg(long, value_name = "CONN", value_parser = parse_conn)]
    conn: Vec<Conn>,

    /// Only this operation, system call or kind of record: recv, send, cqe, enter … Repeatable
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    op: Vec<String>,

    /// Only this result: an error name (ECONNRESET), a number, ok or error. Repeatable
    #[arg(long, value_name = "RESULT", value_parser = result)]
    result: Vec<String>,

    /// Only abnormal events: failures, overflows, drops
    #[arg(long)]
    abnormal: bool,
}

impl Selection {
    /// Returns the filter of these events in a range of time.
    fn filter(&self, Cut { since, until, .. }: Cut) -> Filter {
        let (conns, ops, results) = (self.conn.clone(), self.op.clone(), self.result.clone());
        Filter { conns, ops, results, since, until, abnormal: self.abnormal }
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

/// Parses a severity that is a problem or a cost.
fn severity(text: &str) -> Result<Severity, String> {
    match text {
        "wrong" => Ok(Severity::Wrong),
        "costly" => Ok(Severity::Costly),
        _ => Err("write wrong or costly".to_owned()),
    }
}

/// Parses the name of a finding.
fn finding(text: &str) -> Result<String, String> {
    let names: Vec<_> = Doctor::names().collect();
    let is_known = names.contains(&text);
    is_known
        .then(|| text.to_owned())
        .ok_or_else(|| format!("the findings are {}", names.join(", ")))
}

/// Parses the order of a list.
fn order(text: &str) -> Result<ListOrder, String> {
    match text {
        "worst" => Ok(ListOrder::Worst),
        "bytes" => Ok(ListOrder::Bytes),
        "messages" => Ok(ListOrder::Messages),
        "slowest" => Ok(ListOrder::Slowest),
        _ => Err("write worst, bytes, messages or slowest".to_owned()),
    }
}
