//! The connections that have been seen, and what they have moved.

use std::collections::HashSet;

use proactor::keys::ConnId;
use proactor_record::OpKind;

use crate::event::Event;

/// The connections that are seen, those of them that are open, and their traffic: that of a link
/// between a parent and its child is none.
#[derive(Debug, Default)]
pub(super) struct SeenConnections {
    pub(super) totals: Totals,
    /// Connections open at a time, at most.
    pub(super) open_max: u64,
    all: HashSet<ConnId>,
    open: HashSet<ConnId>,
}

/// What there was up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Connections that were seen.
    pub(super) opened: u64,
    /// Those of them that were closed.
    pub(super) closed: u64,
    /// Receives that brought bytes.
    pub(super) messages: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Totals {
    /// How many connections are open.
    pub(super) fn open(self) -> u64 {
        self.opened - self.closed
    }
}

impl SeenConnections {
    pub(super) fn see(&mut self, event: &Event) {
        let Some(conn) = event.conn else { return };
        let totals = &mut self.totals;
        if self.all.insert(conn) {
            self.open.insert(conn);
            totals.opened += 1;
            self.open_max = self.open_max.max(self.open.len() as u64);
        }
        if let Some(Ok(n @ 1..)) = event.result_of(OpKind::receives) {
            totals.messages += 1;
            totals.bytes_in += u64::from(n);
        }
        if let Some(Ok(n)) = event.result_of(OpKind::sends) {
            totals.bytes_out += u64::from(n);
        }
        if event.result_of(OpKind::closes).is_some() && self.open.remove(&conn) {
            totals.closed += 1;
        }
    }
}
