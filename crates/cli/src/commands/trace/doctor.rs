//! `proactor trace doctor`: what is wrong, and the way out.

use anyhow::bail;

use super::Look;
use proactor_trace::view::{Doctor, Severity};

/// Name what is wrong or costs more than it must, with evidence and the way out
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    look: Look,

    /// Fail (exit status 1) if anything is wrong or costly
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let doctor = Doctor::new(&self.look.digest()?);
        self.look.how.print(&doctor)?;
        if self.check && doctor.is_ill() {
            let ill = doctor.findings.iter().filter(|one| one.severity != Severity::Note);
            let names: Vec<_> = ill.map(|one| one.name).collect();
            bail!("{} is not well: {}", self.look.file.display(), names.join(", "));
        }
        Ok(())
    }
}
