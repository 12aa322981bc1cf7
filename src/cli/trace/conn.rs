//! `proactor trace conn`: one connection's life, or all connections, the worst first.

use std::path::PathBuf;

use anyhow::bail;

use super::{Part, digest, print};
use crate::trace::parse_conn;
use crate::trace::view::{Roster, Story};

/// Connections in the list, unless all are wanted.
const LISTED: usize = 20;

/// Tell one connection's life, with its slowest turns; or list all connections, the worst first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `serve --trace=FILE` has written, also if the server was killed
    file: PathBuf,

    /// Which: c7, or c7.1 for one tenant of slot 7 [default: list them]
    #[arg(value_parser = parse_conn)]
    conn: Option<(u32, Option<u32>)>,

    /// Every step, or every connection: fold and leave out nothing
    #[arg(long)]
    all: bool,

    /// How many of the slowest turns to name
    #[arg(long, value_name = "N", default_value_t = 3)]
    slowest: u16,

    #[command(flatten)]
    part: Part,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let cut = self.part.cut(None);
        let Some(conn) = self.conn else {
            let most = if self.all { usize::MAX } else { LISTED };
            return print(&Roster::new(digest(&self.file, &cut)?, most), self.json);
        };
        let trace = super::read(&self.file)?;
        let slowest = usize::from(self.slowest);
        let Some(story) = Story::of(&trace, &cut, conn, slowest, self.all) else {
            let generation = conn.1.map_or(String::new(), |generation| format!(".{generation}"));
            let (slot, file) = (conn.0, self.file.display());
            bail!(
                "c{slot}{generation} is not in {file}: `proactor trace conn {file}` lists who is"
            );
        };
        print(&story, self.json)
    }
}
