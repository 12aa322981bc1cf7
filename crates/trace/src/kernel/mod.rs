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

mod beside;
mod delays;
#[cfg(test)]
mod formats;
mod instance;
mod lack;
mod layout;
mod page;
mod point;
mod show;

pub(super) use beside::MODEL;
pub use beside::{KernelRecorder, Sidecar, sidecar_path};
pub use delays::Delays;
pub use instance::{Instance, Unavailable};
pub use lack::Missing;
pub use layout::{Field, Layout};
pub use page::{PageEntries, PageLayout};
pub use point::{KernelEvent, KernelEventKind, Tracepoint, TracepointDecoder, operation};
