//! `proactor trace doctor`: the state of the loop, problems, and how to fix them.

use anyhow::bail;

use super::Look;
use proactor_trace::view::{Doctor, Severity};

/// Judge the loop: its numbers, problems and avoidable costs, with evidence and a remedy
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    look: Look,

    /// Exit with status 1 if there is a problem or an avoidable cost
    #[arg(long)]
    check: bool,
}

impl DoctorArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let doctor = Doctor::new(&self.look.statistics()?);
        self.look.how.print(&doctor)?;
        if self.check && doctor.is_ill() {
            let ill = doctor.findings.iter().filter(|one| one.severity != Severity::Note);
            let names: Vec<_> = ill.map(|one| one.name).collect();
            bail!("{} has problems: {}", self.look.file.display(), names.join(", "));
        }
        Ok(())
    }
}
