//! `trace conn` without a connection: all of them, the worst first.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::connection::{ConnectionStats, Ending, Measure};
use super::source::Source;
use super::stats::TraceStats;
use super::summary::span;
use proactor_report::{Align, Table, units};

/// Connections, the worst first: those that went wrong, then those that were answered slowest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionList {
    /// `proactor.trace.connections/2`
    pub schema: &'static str,
    /// Of what it is made.
    pub source: Source,
    /// From what to what a turn is timed.
    pub measure: Measure,
    /// Connections.
    pub connections: Vec<ConnectionStats>,
    /// Connections that are left out, being none of the worst.
    pub left_out: u64,
    /// Those of all that were not clean.
    pub unclean: u64,
}

impl ConnectionList {
    /// Of these numbers, no more than `most` connections.
    pub fn new(digest: TraceStats, most: usize) -> ConnectionList {
        let mut lives = digest.lives;
        let errors =
            |life: &ConnectionStats| life.errors.values().sum::<u64>() + life.out_of_buffers;
        let rank = |life: &ConnectionStats| {
            let broken = matches!(life.ending, Ending::Broken(_));
            (!life.faults.is_empty(), broken, errors(life), life.slowest_ns)
        };
        lives.sort_by_key(|life| Reverse(rank(life)));
        let unclean = lives.iter().filter(|life| !life.is_clean()).count() as u64;
        let left_out = lives.len().saturating_sub(most) as u64;
        lives.truncate(most);
        ConnectionList {
            schema: "proactor.trace.connections/2",
            source: digest.source,
            measure: digest.measure,
            connections: lives,
            left_out,
            unclean,
        }
    }
}

impl fmt::Display for ConnectionList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Align::{Left, Right};
        writeln!(f, "{}\n", self.source)?;
        if self.connections.is_empty() {
            return f.write_str("no connection is in it");
        }
        let mut table = Table::new(&[
            ("conn", Left),
            ("opened", Right),
            ("lived", Right),
            ("msgs in", Right),
            ("in", Right),
            ("out", Right),
            ("answered: mean", Right),
            ("slowest", Right),
            ("receives", Right),
            ("ENOBUFS", Right),
            ("short", Right),
            ("ended", Left),
        ]);
        for life in &self.connections {
            let opened = life.accepted_ns.unwrap_or(life.first_ns);
            let some = |n: u64| if n == 0 { String::new() } else { units::count(n) };
            table.row([
                format!("c{}", life.conn),
                format!("{:.6} s", opened as f64 / 1e9),
                units::span(Duration::from_nanos(life.lived_ns())),
                units::count(life.messages),
                units::bytes(life.bytes_in as f64),
                units::bytes(life.bytes_out as f64),
                span(life.exchanges_ns.checked_div(life.exchanges)),
                span(life.slowest_ns),
                units::count(life.receives),
                some(life.out_of_buffers),
                some(life.short),
                ended(life),
            ]);
        }
        writeln!(f, "{table}")?;
        if self.left_out > 0 {
            writeln!(f, "… and {} more (--all shows them)", units::count(self.left_out))?;
        }
        let unclean = match self.unclean {
            0 => "all clean".to_owned(),
            n => format!("{} not clean", units::count(n)),
        };
        write!(f, "{unclean}; answered: {}", self.measure.words())
    }
}

/// How it ended, in a few words.
pub(super) fn ended(life: &ConnectionStats) -> String {
    if !life.faults.is_empty() {
        return format!("OUT OF ORDER: {}", life.faults.join("; "));
    }
    match &life.ending {
        Ending::Open if life.in_flight.is_empty() => "open".to_owned(),
        Ending::Open => format!("open, {} in flight", life.in_flight),
        Ending::PeerFirst => "clean, peer first".to_owned(),
        Ending::WeFirst => "clean, we first".to_owned(),
        Ending::Broken(errno) if life.closed_ns.is_some() => format!("broken: {errno}, closed"),
        Ending::Broken(errno) => format!("broken: {errno}, not closed"),
    }
}
