//! `proactor trace conn`: one connection, or the list of all.

use super::{Look, unknown_connection};
use crate::commands::number;
use proactor_trace::parse_conn;
use proactor_trace::view::{ConnectionList, ConnectionTimeline};

/// Connections in the list without `--all`.
const LISTED: usize = 20;

/// Show the timeline of one connection and its slowest exchanges, or list all, the worst first
#[derive(Debug, clap::Args)]
pub(super) struct ConnArgs {
    #[command(flatten)]
    look: Look,

    /// Connection: c7, or c7.1 for one connection that used slot 7 [default: list all]
    #[arg(value_parser = parse_conn)]
    conn: Option<(u32, Option<u32>)>,

    /// Show every step, or list every connection, without folding
    #[arg(long)]
    all: bool,

    /// Number of slowest exchanges to show
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number::<usize>(0, 65_535))]
    slowest: usize,
}

impl ConnArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let Look { file, how } = &self.look;
        let Some(conn) = self.conn else {
            let most = if self.all { usize::MAX } else { LISTED };
            return how.print(&ConnectionList::new(self.look.statistics()?, most));
        };
        let trace = super::read(file)?;
        let cut = how.cut(None);
        let timeline = ConnectionTimeline::of(&trace, &cut, conn, self.slowest, self.all);
        how.print(&timeline.ok_or_else(|| unknown_connection(file, conn))?)
    }
}
