//! What other threads ask of the connections.

use super::Peers;
use crate::keys::ConnId;
use crate::limits::CloseReason;
use crate::mailbox::PostedRequest;
use crate::protocol::{Message, Protocol};

/// The sender of a broadcast that is no connection.
const NO_CONNECTION: ConnId = ConnId::new(u32::MAX, 0);

impl<P: Protocol, D> Peers<P, D> {
    /// Does what other threads ask, in their order. What is asked of a connection that was removed
    /// does nothing.
    pub fn take_posted(&mut self, posted: Vec<PostedRequest>) {
        for one in posted {
            match one {
                PostedRequest::Send(peer, bytes) => {
                    peer.take_bytes(bytes.len());
                    self.send_to(peer.conn, bytes.into());
                }
                PostedRequest::Wake(peer) => {
                    peer.take_wake();
                    self.step(peer.conn, |peer, context| peer.connection.wake(context));
                }
                PostedRequest::Close(peer) => self.broken(peer.conn, CloseReason::Handle),
                PostedRequest::Broadcast(listener, bytes) => {
                    self.context.messages.push(Message::Broadcast(bytes.into()));
                    self.deliver_messages(NO_CONNECTION, listener);
                }
            }
        }
    }
}
