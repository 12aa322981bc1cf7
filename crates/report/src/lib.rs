//! Reports of measurements: units, statistics, histograms and texts with tables. Everything here
//! is a pure function; nothing measures and nothing prints.
#![deny(unsafe_code)]

pub mod histogram;
mod interval_log;
pub mod stats;
pub mod template;
pub mod units;

pub use histogram::Latencies;
pub use interval_log::interval_log;
pub use stats::Interval;

/// The text of a table cell without a value.
pub const NOTHING: &str = "–";
