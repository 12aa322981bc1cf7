//! `proactor trace health`: the state of the event loop.

use super::Look;
use proactor_trace::view::Health;

/// Show the state of the event loop: system calls per message, batches, queues, buffers, a verdict
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    look: Look,
}

impl HealthArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.look.how.print(&Health::new(self.look.statistics()?))
    }
}
