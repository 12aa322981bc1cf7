//! The log lines of connections: the same for every engine.

use std::net::SocketAddr;

use crate::address::Address;
use crate::counters::Counters;
use crate::limits::CloseReason;

/// Logs that connection `number` was accepted.
pub fn accepted(number: u64, listener: &Address, addr: Option<SocketAddr>) {
    let peer = addr.map(tracing::field::display);
    tracing::debug!(connection = number, peer, %listener, "accepted");
}

/// Logs why connection `number` is about to be closed, if that is for a warning.
pub fn warn(number: u64, addr: Option<SocketAddr>, reason: CloseReason) {
    if reason.is_eviction() || reason.is_timeout() || reason == CloseReason::Panicked {
        let peer = addr.map(tracing::field::display);
        tracing::warn!(connection = number, peer, "{reason}");
    }
}

/// Counts and logs that connection `number` was closed, and why; `bytes` were received and sent.
pub fn closed(
    counters: &mut Counters,
    number: u64,
    addr: Option<SocketAddr>,
    bytes: [u64; 2],
    reason: CloseReason,
) {
    counters.close(reason);
    let (peer, [received, sent]) = (addr.map(tracing::field::display), bytes);
    tracing::info!(connection = number, peer, received, sent, %reason, "closed");
}
