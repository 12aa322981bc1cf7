//! `proactor trace diff`: two traces side by side.

use std::path::PathBuf;

use anyhow::anyhow;

use super::{How, digest};
use proactor_trace::view::Diff;

/// Lay two traces side by side, each number per message: two models, or two versions
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The one
    a: PathBuf,

    /// The other
    b: PathBuf,

    #[command(flatten)]
    how: How,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let cut = self.how.cut(None);
        let (a, b) = (digest(&self.a, &cut)?, digest(&self.b, &cut)?);
        self.how.print(&Diff::new(a, b).map_err(|why| anyhow!(why))?)
    }
}
