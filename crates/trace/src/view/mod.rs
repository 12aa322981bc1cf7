//! What a trace comes to: views that count, follow, judge and compare.
//!
//! A [`TraceStats`] is made in one pass over the events; the summary, the doctor's findings
//! and the difference of two traces are functions of it. The timeline of a connection has a pass of
//! its own. Each view is a value that serialises, and its text is a template that is filled from
//! that value (`health.txt`, `summary.txt`, …): what people read and what programs read cannot
//! differ.
//!
//! ```text
//!   events ─► TraceStats ─┬─► Summary   what was submitted or called, its results and ages
//!                         ├─► Doctor    the state of the loop, and findings with a remedy
//!                         ├─► Diff      two of them, side by side
//!                         └─► ConnectionList    all connections, the worst first
//!          ─► TimeSeries    a row of numbers for each interval of the time
//!          ─► Heatmap   how long operations took, over the time
//!          ─► ConnectionTimeline    one connection, exchange by exchange
//! ```
//!
//! Where threads or children recorded, the statistics have [`Lanes`]: what each did with its time.
//! The difference and the exports use them.
//!
//! **Honesty.** A view says of what it is made: records that are missing, a sample, a cut. A number
//! that they make untrue is left out. An *age* is no latency: it ends when a completion was reaped,
//! and the time at which the kernel posted it is not in a trace.

mod checks;
mod connection;
mod connection_list;
mod delays;
mod diff;
mod doctor;
mod heatmap;
mod iterations;
mod lanes;
mod names;
mod not_visible;
mod ops;
mod pauses;
mod seen;
mod series;
mod source;
mod starvation;
mod stats;
mod summary;
mod text;
mod timeline;

pub use checks::{Finding, Severity};
pub use connection::{ConnectionStats, Ending, Exchange, Measure, Waits};
pub use connection_list::{ConnectionList, ListOrder};
pub use delays::Delays;
pub use diff::{Diff, DiffSide};
pub use doctor::{Doctor, Health};
pub use heatmap::{Heatmap, HeatmapRow, parse_timed};
pub use iterations::{Batches, Iterations, Moment, Occurrences};
pub use lanes::{Lanes, Phase, ThreadSpan};
pub use not_visible::NotVisible;
pub use ops::{Errors, Octave, OpRow};
pub use pauses::{Pauses, Spells};
pub use series::{SeriesRow, TimeSeries};
pub use source::{Cut, Source};
pub use starvation::Starvation;
pub use stats::TraceStats;
pub use summary::Summary;
pub use timeline::{ConnectionTimeline, Step, TimelineLine};

#[cfg(test)]
mod tests;
