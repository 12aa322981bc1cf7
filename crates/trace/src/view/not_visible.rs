//! What a trace cannot show, though it may be wrong, and what would show it.

use serde::Serialize;

use super::stats::TraceStats;

/// Something that a trace cannot show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NotVisible {
    /// The name of it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// What would show it.
    pub shown_by: &'static str,
}

/// When it cannot be seen, its name, what it is, and what would show it.
type Hidden = (fn(&TraceStats) -> bool, &'static str, &'static str, &'static str);

const ALL: &[Hidden] = &[
    (
        |stats| stats.pauses.unexplained.is_some() && !stats.pauses.sees_delays,
        "delays",
        "how long the thread was ready and had no CPU",
        "a recording where /proc/thread-self/schedstat can be read",
    ),
    (
        |stats| stats.pauses.unexplained.is_none() && !stats.source.is_attached(),
        "threads",
        "how long each thread or child had no CPU, was stopped alone, or computed",
        "perf sched timehist",
    ),
    (
        |stats| stats.source.is_attached(),
        "program",
        "when the program reaped completions, what it did between its enters, and where it slept",
        "a recorder in the program (crates/record/examples/ring.rs); perf trace -s",
    ),
    (
        |stats| stats.is_ring() && stats.kernel.is_none() && !stats.source.is_attached(),
        "kernel",
        "when completions were posted, and what kernel threads did (io-wq, SQPOLL)",
        "serve --kernel-events, then trace delays; needs root",
    ),
    (
        |stats| (!stats.is_ring() || stats.buffers.is_none()) && !stats.source.is_attached(),
        "buffers",
        "receives that are put off until a buffer is free",
        "out_of_buffers of serve --stats",
    ),
    (
        |stats| !stats.is_ring() && stats.source.level == Some("batch"),
        "calls",
        "how long each call took",
        "serve --trace-clock=record",
    ),
    (
        |stats| stats.source.lost > 0 || stats.source.sample > 1,
        "records",
        "what the records that are not here would show",
        "a larger recording of all connections (--trace-size)",
    ),
];

/// What this trace cannot show.
pub(super) fn not_visible(stats: &TraceStats) -> Vec<NotVisible> {
    let all = ALL.iter().filter(|(is_hidden, ..)| is_hidden(stats));
    all.map(|&(_, name, what, shown_by)| NotVisible { name, what, shown_by }).collect()
}
