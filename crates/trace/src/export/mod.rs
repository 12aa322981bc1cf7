//! A trace for other tools: Perfetto's format, JSON lines, and an HTML page.
//!
//! ```text
//!   events ─► jsonl              one object per event, for jq and duckdb
//!          ─► TrackBuilder ─┬─► perfetto   tracks, slices, flows and counters, for the Perfetto UI
//!                           └─► page       one HTML file that needs nothing else
//! ```
//!
//! A `TrackBuilder` makes slices, instants and counters of the events. If many recorded,
//! it draws each thread, and the page has a row for each of the busiest. The limits
//! of both formats leave events out; the export says how many.

mod jsonl;
mod page;
mod perfetto;
mod protobuf;
mod track_event;
mod tracks;

pub use jsonl::jsonl;
pub use page::{PAGE_ROWS, page};
pub use perfetto::{PERFETTO_EVENTS, PERFETTO_TRACKS, perfetto};
