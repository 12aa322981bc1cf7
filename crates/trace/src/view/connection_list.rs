//! `trace conn` without a connection: all of them, the worst first.

use std::cmp::Reverse;
use std::fmt;

use serde::Serialize;

use super::connection::{ConnectionStats, Ending, Measure};
use super::source::Source;
use super::stats::TraceStats;
use super::text::{some, span};
use proactor_report::{Align, Table, units};

/// Connections, the worst first: those that went wrong, then those that were answered slowest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionList {
    /// The name and version of this JSON: `proactor.trace.connections/2`.
    pub schema: &'static str,
    /// Of what it is made.
    pub source: Source,
    /// The begin and end of the time of an exchange.
    pub measure: Measure,
    /// The connections in this order.
    pub connections: Vec<ConnectionStats>,
    /// Connections that are left out, being none of the worst.
    pub left_out: u64,
    /// Those of all that were not clean.
    pub unclean: u64,
}

impl ConnectionList {
    /// Of these numbers, no more than `most` connections.
    pub fn new(stats: TraceStats, most: usize) -> ConnectionList {
        let mut conns = stats.conns;
        let errors =
            |conn: &ConnectionStats| conn.errors.values().sum::<u64>() + conn.out_of_buffers;
        let rank = |conn: &ConnectionStats| {
            let broken = matches!(conn.ending, Ending::Broken(_));
            (!conn.faults.is_empty(), broken, errors(conn), conn.slowest_ns)
        };
        conns.sort_by_key(|conn| Reverse(rank(conn)));
        let unclean = conns.iter().filter(|conn| !conn.is_clean()).count() as u64;
        let left_out = conns.len().saturating_sub(most) as u64;
        conns.truncate(most);
        ConnectionList {
            schema: "proactor.trace.connections/2",
            source: stats.source,
            measure: stats.measure,
            connections: conns,
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
        let columns =
            "opened, lived, msgs in, in, out, answered: mean, slowest, receives, ENOBUFS, short";
        let columns: Vec<_> = columns.split(", ").map(|name| (name, Right)).collect();
        let mut table = Table::new(&[&[("conn", Left)], &columns[..], &[("ended", Left)]].concat());
        for conn in &self.connections {
            let opened = conn.accepted_ns.unwrap_or(conn.first_ns);
            table.row([
                format!("c{}", conn.conn),
                format!("{:.6} s", opened as f64 / 1e9),
                units::nanos(conn.lived_ns()),
                units::count(conn.messages),
                units::bytes(conn.bytes_in as f64),
                units::bytes(conn.bytes_out as f64),
                span(conn.exchanges_ns.checked_div(conn.exchanges)),
                span(conn.slowest_ns),
                units::count(conn.receives),
                some(conn.out_of_buffers),
                some(conn.short),
                ended(conn),
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
pub(super) fn ended(conn: &ConnectionStats) -> String {
    if !conn.faults.is_empty() {
        return format!("OUT OF ORDER: {}", conn.faults.join("; "));
    }
    match &conn.ending {
        Ending::Open if conn.in_flight.is_empty() => "open".to_owned(),
        Ending::Open => format!("open, {} in flight", conn.in_flight),
        Ending::PeerFirst => "clean, peer first".to_owned(),
        Ending::WeFirst => "clean, we first".to_owned(),
        Ending::Broken(errno) if conn.closed_ns.is_some() => format!("broken: {errno}, closed"),
        Ending::Broken(errno) => format!("broken: {errno}, not closed"),
    }
}
