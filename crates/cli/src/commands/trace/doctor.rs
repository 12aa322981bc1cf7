//! `proactor trace doctor`: the state of the loop, problems, and how to fix them.

use anyhow::bail;

use super::Look;
use proactor_trace::view::Doctor;

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
        let doctor = Doctor::new(self.look.statistics()?);
        self.look.how.print(&doctor)?;
        let names: Vec<_> = doctor.ills().map(|one| one.name).collect();
        if self.check && !names.is_empty() {
            bail!("{} has problems: {}", self.look.file.display(), names.join(", "));
        }
        Ok(())
    }
}
