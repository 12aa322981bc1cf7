//! `proactor trace doctor`: what is wrong, and the way out.

use std::path::PathBuf;

use anyhow::bail;

use super::{Part, digest, print};
use crate::trace::view::{Doctor, Severity};

/// Name what is wrong or costs more than it must, with evidence and the way out
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `serve --trace=FILE` has written, also if the server was killed
    file: PathBuf,

    #[command(flatten)]
    part: Part,

    /// Fail (exit status 1) if anything is wrong or costly
    #[arg(long)]
    check: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let doctor = Doctor::new(&digest(&self.file, &self.part.cut(None))?);
        print(&doctor, self.json)?;
        if self.check && doctor.is_ill() {
            let ill = doctor.findings.iter().filter(|one| one.severity != Severity::Note);
            let names: Vec<_> = ill.map(|one| one.name).collect();
            bail!("{} is not well: {}", self.file.display(), names.join(", "));
        }
        Ok(())
    }
}
