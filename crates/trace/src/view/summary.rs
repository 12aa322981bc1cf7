//! `trace summary`: what was asked, what came of it, and how old it was.

use std::fmt;

use minijinja::context;
use proactor_record::Errno;
use serde::Serialize;

use super::delays::Delays;
use super::ops::{Octave, OpRow};
use super::stats::TraceStats;
use super::text::fill;

/// What a trace comes to, operation by operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.summary/2")]
pub struct Summary {
    /// All numbers of the trace.
    #[serde(flatten)]
    pub stats: TraceStats,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aborted = Errno(libc::ECANCELED).to_string();
        let is_aborted = self.stats.ops.iter().any(|row| row.errors.contains_key(&aborted));
        let aborted = is_aborted.then_some(aborted);
        let delays = self.stats.kernel.as_ref().map(Delays::to_string);
        let charted = charted(&self.stats);
        let values = context! { charted, aborted, delays, ..self.stats.values() };
        f.write_str(&fill(include_str!("summary.txt"), values))
    }
}

/// The operation whose ages are drawn: that which takes the most time, of those whose time is their
/// own.
fn charted(stats: &TraceStats) -> Option<&OpRow> {
    let time = |row: &&OpRow| -> u128 {
        let each = |one: &Octave| u128::from(one.from_ns.max(500)) * u128::from(one.count);
        row.octaves.iter().map(each).sum()
    };
    let own = |row: &&OpRow| !row.octaves.is_empty() && !row.waits_for_others();
    stats.ops.iter().filter(own).max_by_key(time)
}
