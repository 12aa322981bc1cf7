//! The log lines of connections: the same for every engine.

use crate::keys::ListenerId;
use crate::limits::CloseReason;

/// Logs that connection `number` was accepted.
pub fn accepted(number: u64, listener: ListenerId) {
    tracing::debug!(connection = number, %listener, "accepted");
}

/// Logs that connection `number` was closed, and why.
pub fn closed(number: u64, received: u64, sent: u64, reason: CloseReason) {
    tracing::info!(connection = number, received, sent, %reason, "closed");
}
