//! A trace for other tools: Perfetto's format, JSON lines, and a page of its own.
//!
//! ```text
//!   events ─► jsonl     one object an event, for jq and duckdb
//!          ─► Scene ─┬─► perfetto   tracks, slices, flows and counters, for the Perfetto UI
//!                    └─► page       one HTML file that needs nothing else
//! ```
//!
//! A `Scene` turns events into what can be drawn: slices that nest, instants, counters.
//! Where many recorded, its `Threads` draw what each of them does, and the page's `Swim` has a lane
//! for each of the busiest. Neither format sees a record. What does not fit is left out, and what
//! was left out is said in the export itself.

mod columns;
mod jsonl;
mod page;
mod perfetto;
mod protobuf;
mod scene;
mod swim;
mod threads;

use std::collections::HashSet;

pub use jsonl::jsonl;
pub use page::{PAGE_LANES, page};
pub use perfetto::{PERFETTO_TRACKS, perfetto};

use super::view::Life;
use proactor::keys::ConnId;

/// The connections of a list.
fn ids(lives: &[Life]) -> HashSet<ConnId> {
    lives.iter().map(|life| life.conn).collect()
}
