//! The kernel's io_uring tracepoints, read from a private trace instance.
//!
//! They need root. They show what no process can know about itself: when data arrived, when a
//! completion was posted, what the kernel's worker threads had to do; and they cover every process.
//! They do not show when a process handled a completion. Older kernels have fewer tracepoints: what
//! is unknown there is reported as [`Missing`], never as zero.
//!
//! ```text
//!   format files ─► Layout ─► TracepointDecoder ─┐
//!                                                ▼
//!   trace_pipe_raw ─► PageLayout ─► bytes ─► KernelEvent, in the order of time
//! ```

mod instance;
mod layout;
mod missing;
mod namespace;
mod page;
mod postings;
mod show;
mod sidecar;
mod tasks;
#[cfg(test)]
mod tests;
mod tracepoint;
mod watch;

pub use instance::Instance;
pub use layout::{Field, Layout};
pub use missing::Missing;
pub use page::{PageEntries, PageLayout};
pub use postings::Posting;
pub(crate) use postings::Postings;
pub(crate) use sidecar::MODEL;
pub use sidecar::{KernelRecorder, Sidecar, sidecar_path};
pub(super) use tasks::Tasks;
pub use tracepoint::{KernelEvent, Tracepoint, TracepointDecoder, operation, parse_event_name};
pub use watch::RingWatch;
