//! `proactor trace ps`: the rings that processes have open.

use crate::commands::{number, output};
use proactor_trace::OpenRings;

/// List the rings that processes have open, with what is in their queues. Without root, those of
/// the own processes
#[derive(Debug, clap::Args)]
pub(super) struct PsArgs {
    /// Only this process
    #[arg(value_parser = number::<u32>(1, 1 << 22))]
    pid: Option<u32>,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl PsArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let rings = OpenRings::find(self.pid)?;
        if self.json {
            return output::print_json(&rings);
        }
        Ok(output::print(&rings.to_string())?)
    }
}
