//! What `proactor explain` records, as the command line and the report have it.

use serde::Serialize;

use super::number::number;

/// The options of a recording.
#[derive(Debug, Clone, Copy, Serialize, clap::Args)]
pub struct ExplainOptions {
    /// Bytes per message
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = number::<usize>(1, 2048))]
    pub size: usize,

    /// Connections in the first picture, with one message on each, sent at once; 1 omits it
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number::<usize>(1, 8))]
    pub connections: usize,

    /// Bytes of the large message in the last picture; 0 omits it
    #[arg(long, value_name = "BYTES", default_value_t = 65_536,
          value_parser = number::<usize>(0, 131_072))]
    pub large: usize,

    /// Runs to record per model and picture; the run with the median time is shown
    #[arg(long, value_name = "N", default_value_t = 51, value_parser = number::<usize>(1, 10_000))]
    pub runs: usize,
}
