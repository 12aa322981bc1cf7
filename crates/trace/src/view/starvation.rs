//! How long connections waited for a buffer: from a receive that found none to the next that did.

use std::collections::HashMap;

use proactor::keys::ConnId;
use proactor_record::{Errno, OpKind};
use serde::Serialize;

use super::pauses::Spells;
use crate::event::Event;

/// The waits of all connections for buffers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Starvation {
    /// The waits, of which several may be at a time.
    #[serde(flatten)]
    pub waits: Spells,
    /// How long the connections were open, all together, in nanoseconds.
    pub open_ns: u64,
}

impl Starvation {
    /// The share of their time in which connections waited.
    pub fn share(&self) -> f64 {
        if self.open_ns == 0 { 0.0 } else { self.waits.total_ns as f64 / self.open_ns as f64 }
    }
}

/// Follows the receives of all connections.
#[derive(Debug, Default)]
pub(super) struct StarvationCounter {
    all: Starvation,
    /// Since when each connection is open, and since when it waits.
    open: HashMap<ConnId, (u64, Option<u64>)>,
}

impl StarvationCounter {
    pub(super) fn see(&mut self, event: &Event) {
        let Some(conn) = event.conn else { return };
        let (_, waits) = self.open.entry(conn).or_insert((event.at, None));
        match event.result_of(OpKind::receives) {
            Some(Err(Errno(libc::ENOBUFS))) => drop(waits.get_or_insert(event.at)),
            Some(_) => {
                if let Some(since) = waits.take() {
                    self.all.waits.add(since, Some(conn), event.at);
                }
            }
            None => {}
        }
        if event.result_of(OpKind::closes).is_some() {
            self.close(conn, event.at);
        }
    }

    fn close(&mut self, conn: ConnId, at: u64) {
        let Some((since, waits)) = self.open.remove(&conn) else { return };
        self.all.open_ns = self.all.open_ns.saturating_add(at.saturating_sub(since));
        if let Some(since) = waits {
            self.all.waits.add(since, Some(conn), at);
        }
    }

    /// Returns the waits of a part that ends at `until`.
    pub(super) fn finish(mut self, until: u64) -> Starvation {
        for conn in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(conn, until);
        }
        self.all
    }
}
