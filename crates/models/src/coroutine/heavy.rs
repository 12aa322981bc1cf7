//! The permits of heavy connections.
//!
//! Between two polls of its epoll, tokio resumes every task that is ready. So that this takes no
//! longer the more connections move much, the task of a [heavy](proactor::peers::is_heavy) one
//! waits for a permit before each receive and each send. A task of the server,
//! [`give_permits`](super::TaskServer::give_permits), gives permits to as many as move
//! their [budget](proactor::peers::LightExpected::budget) together at most; then tokio polls, and
//! resumes the others first.

use std::task::{Context, Poll, Waker};

use super::state::{Permit, ServerState};
use proactor::buffer::SEND_MAX;
use proactor::keys::ConnId;

impl ServerState {
    /// Has the task of a connection wait until [`poll_permit`](ServerState::poll_permit) is ready.
    pub(super) fn await_permit(&mut self, id: ConnId) {
        self.yield_task(id);
        self.task(id).permit = Permit::Awaited;
        self.heavy.push_back(id);
        self.awaits_heavy.take().into_iter().for_each(Waker::wake);
    }

    /// Returns ready once the connection has a permit.
    pub(super) fn poll_permit(&mut self, id: ConnId, cx: &Context<'_>) -> Poll<()> {
        let task = self.task(id);
        task.waker.clone_from(cx.waker());
        if task.permit == Permit::Awaited { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Returns ready once a connection waits for a permit.
    pub(super) fn poll_heavy(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.heavy.is_empty() {
            self.awaits_heavy = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Gives permits until the operations may together move the budget, but for the last one.
    pub(super) fn give_permits(&mut self) {
        let is_scarce = self.core.peers.has_buffer_waiters();
        self.light.begin();
        let mut left = self.light.budget(is_scarce);
        while left > 0 {
            let Some(id) = self.heavy.pop_front() else { break };
            left = left.saturating_sub(self.most(id));
            let task = self.task(id);
            task.permit = Permit::Given;
            task.waker.wake_by_ref();
        }
    }

    /// Returns how many bytes the next operation of a connection moves at most. (What its last one
    /// moved says little: many slow readers can take much at once.)
    fn most(&mut self, id: ConnId) -> usize {
        let peer = self.core.peers.get_mut(id).expect("only its own task removes a connection");
        let size = self.pool.clamp(peer.connection.recv_size());
        peer.connection.outgoing().bytes().min(SEND_MAX).max(self.pool.shape(size).bytes)
    }
}
