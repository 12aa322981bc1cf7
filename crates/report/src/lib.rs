//! What measurements look like: units, statistics, histograms and tables. Pure functions from
//! numbers to text; nothing here measures, and nothing here prints.
#![deny(unsafe_code)]

pub mod errno;
pub mod histogram;
pub mod stats;
pub mod table;
pub mod units;

pub use errno::Errno;
pub use histogram::Latencies;
pub use stats::Interval;
pub use table::{Align, Table};

/// Stands in a table where there is no number to show.
pub const NOTHING: &str = "–";
