//! `trace conn` without a connection: all of them, the worst first.

use std::cmp::Reverse;
use std::fmt;

use minijinja::{Value, context};
use serde::Serialize;

use super::connection::{ConnectionStats, Ending, Measure};
use super::source::Source;
use super::stats::TraceStats;
use super::text::fill;

/// Connections, the worst first: those that went wrong, then those that were answered slowest.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.connections/2")]
pub struct ConnectionList {
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
        let head = self.source.to_string();
        let values = context! { head, ..Value::from_serialize(self) };
        f.write_str(&fill(include_str!("connection_list.txt"), values))
    }
}
