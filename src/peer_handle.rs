//! A handle of one connection, for other threads.

use std::sync::Arc;

use crate::error::SendError;
use crate::mailbox::{PostedRequest, SharedPeer};
use crate::os::ShutdownSignal;

/// Reaches a connection from any thread: [`Peer::handle`](crate::Peer::handle) returns it. Once the
/// connection finishes or breaks, it does nothing, whichever connection follows.
#[derive(Debug, Clone)]
pub struct PeerHandle {
    pub(crate) peer: Arc<SharedPeer>,
    /// How its server is reached; `None` if the model has no way to.
    pub(crate) server: Option<ShutdownSignal>,
}

impl PeerHandle {
    pub(crate) fn shared(&self) -> Arc<SharedPeer> {
        Arc::clone(&self.peer)
    }

    /// Sends `bytes` to the peer, behind what is already queued. Never waits. The connection may
    /// still close before they are sent.
    ///
    /// # Errors
    /// The connection is closed, or its peer reads too slowly; the error returns the bytes.
    pub fn send(&self, bytes: impl Into<Vec<u8>>) -> Result<(), SendError> {
        let bytes = bytes.into();
        let Some(server) = &self.server else { return Err(SendError::Closed(bytes)) };
        let bytes = self.peer.reserve(bytes)?;
        server.post(PostedRequest::Send(self.shared(), bytes))
    }

    /// Has [`Protocol::wake`](crate::Protocol::wake) called, at least once after the last of
    /// several wakes. What it is about goes through a channel of one's own.
    pub fn wake(&self) {
        if let Some(server) = self.server.as_ref().filter(|_| self.peer.wakes_first()) {
            // It is refused only when the server has ended.
            let _ = server.post(PostedRequest::Wake(self.shared()));
        }
    }

    /// Closes the connection now; what is queued is dropped.
    pub fn close(&self) {
        if let Some(server) = self.server.as_ref().filter(|_| self.peer.close()) {
            let _ = server.post(PostedRequest::Close(self.shared())); // As above.
        }
    }
}
