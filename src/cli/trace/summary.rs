//! `proactor trace summary`: what was asked, what came of it, how old it was.

use std::path::PathBuf;

use super::{Part, digest, print};
use crate::trace::view::Summary;

/// Count a trace, operation by operation: how many, what came of them, how old they were
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `serve --trace=FILE` has written, also if the server was killed
    file: PathBuf,

    /// Only this connection: c7, or c7.1 for one tenant of slot 7
    #[arg(long, value_name = "CONN", value_parser = crate::trace::parse_conn)]
    conn: Option<(u32, Option<u32>)>,

    #[command(flatten)]
    part: Part,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        print(&Summary::new(digest(&self.file, &self.part.cut(self.conn))?), self.json)
    }
}
