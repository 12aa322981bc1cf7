//! `proactor trace health`: how the loop does.

use std::path::PathBuf;

use super::{Part, digest, print};
use crate::trace::view::Health;

/// How a server's loop does: system calls per message, batches, queues, buffers, and a verdict
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `serve --trace=FILE` has written, also if the server was killed
    file: PathBuf,

    #[command(flatten)]
    part: Part,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        print(&Health::new(digest(&self.file, &self.part.cut(None))?), self.json)
    }
}
