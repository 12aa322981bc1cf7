//! The accepts of a ring: which are in flight, and the memory for the addresses of their peers.
//!
//! A direct descriptor has no address that could be asked for later, and an accept that completes
//! many times has no memory for many addresses (kernel-notes §37). So where addresses are wanted,
//! several accepts are in flight for each listener; each completes once and has memory of its own.

use std::net::SocketAddr;

use super::AcceptId;
use crate::os::PeerName;

/// Accepts in flight for each listener, where each completes once.
pub(super) const ACCEPTS: u16 = 8;

/// The accepts of a ring.
#[derive(Debug)]
pub(super) struct Accepts {
    with_addresses: bool,
    /// Every accept ever issued.
    all: Vec<Accept>,
}

#[derive(Debug)]
struct Accept {
    id: AcceptId,
    in_flight: bool,
    /// Where the kernel writes the peer's address, if addresses are wanted.
    name: Option<PeerName>,
}

impl Accepts {
    pub(super) fn new(with_addresses: bool) -> Accepts {
        Accepts { with_addresses, all: Vec::new() }
    }

    pub(super) fn with_addresses(&self) -> bool {
        self.with_addresses
    }

    /// Marks an accept as in flight. Returns where the kernel may write the peer's address and its
    /// length, until the completion is reaped.
    pub(super) fn begin(
        &mut self,
        id: AcceptId,
    ) -> Option<(*mut libc::sockaddr, *mut libc::socklen_t)> {
        let at = self.all.iter().position(|accept| accept.id == id).unwrap_or_else(|| {
            let name = self.with_addresses.then(PeerName::new);
            self.all.push(Accept { id, in_flight: false, name });
            self.all.len() - 1
        });
        let accept = &mut self.all[at];
        debug_assert!(!accept.in_flight, "{id:?} is in flight already");
        accept.in_flight = true;
        accept.name.as_mut().map(PeerName::lend)
    }

    /// Marks an accept as ended: its last completion was reaped.
    pub(super) fn end(&mut self, id: AcceptId) {
        if let Some(accept) = self.all.iter_mut().find(|accept| accept.id == id) {
            accept.in_flight = false;
            if let Some(name) = &mut accept.name {
                name.take_back();
            }
        }
    }

    /// Returns the address that the kernel wrote for an accept that has ended.
    pub(super) fn address(&self, id: AcceptId) -> Option<SocketAddr> {
        self.all.iter().find(|accept| accept.id == id)?.name.as_ref()?.address()
    }

    /// Returns the accepts that are in flight.
    pub(super) fn in_flight(&self) -> Vec<AcceptId> {
        self.all.iter().filter(|accept| accept.in_flight).map(|accept| accept.id).collect()
    }
}
