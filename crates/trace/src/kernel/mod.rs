//! What the kernel itself tells of io_uring: its tracepoints, read in an instance of our own.
//!
//! It takes root. It tells what no process can know: when data arrived, when a completion was
//! posted, what a thread of the kernel had to do; and it tells of any process. What it does not
//! tell is what a process made of its completions, and when. Older kernels tell less: what is not
//! known there is said ([`Lack`]), and never shown as none.
//!
//! ```text
//!   format files ─► Layout ─► Decoder ─┐
//!                                      ▼
//!   trace_pipe_raw ─► page ─► event ─► Told, in the order of time
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
pub use beside::{Beside, Listening, Scribe, beside};
pub use delays::Delays;
pub use instance::{Instance, Unavailable};
pub use lack::Lack;
pub use layout::{Field, Layout};
pub use page::{Entries, Shape};
pub use point::{Decoder, Point, Tale, Told, operation};
