//! Sockets that were accepted and whose connections were not admitted: each is shut down, so that
//! its peer receives the end, and then closed. No connection has them: their operations have ids of
//! their own.

use std::collections::BTreeMap;
use std::io;

use crate::keys::ConnId;
use crate::ring::{Op, Ring, Socket};

/// The sockets of connections that were not admitted.
#[derive(Debug, Default)]
pub(super) struct RefusedSockets {
    /// Those that are not closed.
    open: BTreeMap<ConnId, Socket>,
    /// Those whose next operation is not submitted: the shutdown or, if true, the close.
    next: Vec<(ConnId, bool)>,
}

impl RefusedSockets {
    /// Adds a socket, and the id of its operations.
    pub(super) fn add(&mut self, id: ConnId, socket: Socket) {
        self.open.insert(id, socket);
        self.next.push((id, false));
    }

    /// A shutdown has completed. Returns whether it was one of these.
    pub(super) fn shut_down(&mut self, id: ConnId) -> bool {
        let ours = self.open.contains_key(&id);
        if ours {
            self.next.push((id, true));
        }
        ours
    }

    /// A close has completed. Returns whether it was one of these.
    pub(super) fn closed(&mut self, id: ConnId) -> bool {
        self.open.remove(&id).is_some()
    }

    /// Submits their next operations.
    pub(super) fn submit(&mut self, ring: &mut impl Ring) -> io::Result<()> {
        if self.next.is_empty() {
            return Ok(());
        }
        for (conn, closes) in self.next.drain(..) {
            let socket = self.open[&conn];
            ring.submit(match closes {
                false => Op::Shutdown { conn, socket },
                true => Op::Close { conn, socket },
            })?;
        }
        Ok(())
    }

    /// Returns true if all are closed.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
