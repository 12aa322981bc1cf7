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
        if let Err(refused) = self.peer.reserve(bytes.len()) {
            return Err(SendError::new(refused, bytes));
        }
        send(server, bytes, |bytes| PostedRequest::Send(self.shared(), bytes))
    }

    /// Has [`Protocol::wake`](crate::Protocol::wake) called, at least once after the last of
    /// several wakes. What it is about goes through a channel of one's own.
    pub fn wake(&self) {
        if let Some(server) = self.server.as_ref().filter(|_| self.peer.wakes_first()) {
            // It is refused only when the server has ended.
            let _ = server.post(|| PostedRequest::Wake(self.shared()));
        }
    }

    /// Closes the connection now; what is queued is dropped.
    pub fn close(&self) {
        let server = self.server.iter();
        server.for_each(|server| _ = server.post(|| PostedRequest::Close(self.shared())));
    }
}

/// Posts `bytes`, or returns them.
pub(crate) fn send(
    server: &ShutdownSignal,
    bytes: Vec<u8>,
    posted: impl FnOnce(Vec<u8>) -> PostedRequest,
) -> Result<(), SendError> {
    let mut bytes = Some(bytes);
    let post = || posted(bytes.take().expect("it is posted once"));
    server.post(post).map_err(|refused| SendError::new(refused, bytes.unwrap_or_default()))
}
