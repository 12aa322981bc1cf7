//! Reports of measurements: units, statistics, histograms and tables. Everything here is a pure
//! function; nothing measures and nothing prints.
#![deny(unsafe_code)]

pub mod histogram;
pub mod stats;
pub mod table;
pub mod template;
pub mod units;

pub use histogram::Latencies;
pub use stats::Interval;
pub use table::{Align, Table};

/// The text of a table cell without a value.
pub const NOTHING: &str = "–";
