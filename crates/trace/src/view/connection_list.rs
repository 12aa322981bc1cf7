//! `trace conn` without a connection: all of them, the worst first.

use std::cmp::Reverse;
use std::fmt;

use minijinja::{Value, context};
use serde::Serialize;

use super::connection::{ConnectionStats, Ending, Measure};
use super::source::Source;
use super::stats::TraceStats;
use super::text::fill;

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListOrder {
    /// Those that went wrong first, then those that were answered slowest.
    #[default]
    Worst,
    /// Those of the most bytes first, of both directions.
    Bytes,
    /// Those of the most messages first.
    Messages,
    /// Those with the slowest answer first.
    Slowest,
}

/// Connections, in an order that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.connections/2")]
pub struct ConnectionList {
    /// Of what it is made.
    pub source: Source,
    /// The begin and end of the time of an exchange.
    pub measure: Measure,
    /// The connections in this order.
    pub connections: Vec<ConnectionStats>,
    /// Connections that are left out, being none of the first.
    pub left_out: u64,
    /// Those of all that were not clean.
    pub unclean: u64,
    /// Whether the kernel's events were recorded.
    pub has_kernel: bool,
}

impl ConnectionList {
    /// Of these numbers, no more than `most` connections.
    pub fn new(stats: TraceStats, most: usize, order: ListOrder) -> ConnectionList {
        let mut conns = stats.conns;
        let errors =
            |conn: &ConnectionStats| conn.errors.values().sum::<u64>() + conn.out_of_buffers;
        let rank = |conn: &ConnectionStats| {
            let broken = matches!(conn.ending, Ending::Broken(_));
            (!conn.faults.is_empty(), broken, errors(conn), conn.slowest_ns)
        };
        match order {
            ListOrder::Worst => conns.sort_by_key(|conn| Reverse(rank(conn))),
            ListOrder::Bytes => conns.sort_by_key(|conn| Reverse(conn.bytes())),
            ListOrder::Messages => conns.sort_by_key(|conn| Reverse(conn.messages)),
            ListOrder::Slowest => conns.sort_by_key(|conn| Reverse(conn.slowest_ns)),
        }
        let unclean = conns.iter().filter(|conn| !conn.is_clean()).count() as u64;
        let left_out = conns.len().saturating_sub(most) as u64;
        conns.truncate(most);
        ConnectionList {
            source: stats.source,
            measure: stats.measure,
            connections: conns,
            left_out,
            unclean,
            has_kernel: stats.kernel.is_some(),
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
