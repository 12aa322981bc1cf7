//! Buffers: a pool, shares of its buffers, and what is queued to be sent.
//!
//! A [`Pool`] owns equal-sized buffers in a few [`Size`]s. A [`Lease`] is one of them to receive
//! into; a [`Chunk`] is a view of what was received, which shares the buffer with other chunks; a
//! [`SendQueue`] is what one peer is owed. Nothing here does I/O, and nothing here knows which I/O
//! model fills the buffers: all of them share this one memory design, so that a comparison compares
//! the models.
//!
//! ```text
//!            lend                        reclaim
//!   idle ───────────► lent to a ring ───────────► leased ──┐
//!    ▲  └──────────────── lease ────────────────────▲      │ split, clone: more shares
//!    └──────────────────── the last share is dropped ──────┘
//! ```

mod chunk;
mod pages;
mod pool;
mod queue;

pub use chunk::{Chunk, Fit};
pub use pages::Pages;
pub use pool::{BufferClass, BufferId, BufferStatus, Lease, Pool, Size, Vacant};
pub use queue::{SEND_MAX, SendQueue};
