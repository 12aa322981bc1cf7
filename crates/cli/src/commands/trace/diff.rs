//! `proactor trace diff`: compares two traces.

use std::path::PathBuf;

use anyhow::anyhow;

use super::{How, statistics};
use proactor_trace::view::Diff;

/// Compare two traces per message, for example of two models or two versions
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// First trace
    a: PathBuf,

    /// Second trace
    b: PathBuf,

    #[command(flatten)]
    how: How,
}

impl DiffArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let cut = self.how.cut(None);
        let (a, b) = (statistics(&self.a, &cut)?, statistics(&self.b, &cut)?);
        self.how.print(&Diff::new(a, b).map_err(|why| anyhow!(why))?)
    }
}
