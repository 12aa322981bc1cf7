//! `proactor trace summary`: counts and latencies per operation.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::delays::delays;
use super::{Look, check_connection, read};
use proactor_trace::kernel::Delays;
use proactor_trace::view::{Summary, TraceStats};

/// Summarise a trace per operation: counts, results, latencies
#[derive(Debug, clap::Args)]
pub(super) struct SummaryArgs {
    #[command(flatten)]
    look: Look,

    /// Only this connection: c7, or c7.1 for one connection that used slot 7
    #[arg(long, value_name = "CONN", value_parser = proactor_trace::parse_conn)]
    conn: Option<(u32, Option<u32>)>,
}

/// The summary, followed by the delays of the kernel.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<Value>,
    #[serde(skip)]
    delays: Option<Delays>,
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary.fmt(f)?;
        self.delays.as_ref().map_or(Ok(()), |delays| write!(f, "\n\n{delays}"))
    }
}

impl SummaryArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let Look { file, how } = &self.look;
        let cut = how.cut(self.conn);
        let trace = read(file)?;
        self.conn.map_or(Ok(()), |conn| check_connection(&trace, file, conn))?;
        // Only for the whole recording: kernel events cannot be selected by time or connection.
        let is_whole = cut.since.is_none() && cut.until.is_none() && cut.conn.is_none();
        let delays = if is_whole { delays(file, &trace)? } else { None };
        let kernel = delays.as_ref().map(Delays::json);
        let summary = Summary::new(TraceStats::of(&trace, &cut));
        how.print(&Whole { summary, kernel, delays })
    }
}
