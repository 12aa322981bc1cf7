//! `proactor trace health`: how the loop does.

use super::Look;
use proactor_trace::view::Health;

/// How a server's loop does: system calls per message, batches, queues, buffers, and a verdict
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    look: Look,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.look.how.print(&Health::new(self.look.digest()?))
    }
}
