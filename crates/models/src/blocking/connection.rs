//! One connection, driven by calls that wait.
//!
//! ```text
//!        ┌─────────────────────────────────────────────┐
//!        ▼                                             │
//!   write what is owed ──► deliver to others ► read ────┘
//!      sleeps while           sleeps while     sleeps until
//!      its peer reads         one of them      something comes
//!      nothing                reads nothing
//! ```
//!
//! The position of the thread in this loop *is* the state of the connection. What the loops keep in
//! interests and operations in flight is one question here: may it sleep? In a receive it may if
//! nothing is left to write. A protocol that refills without end never lets it sleep: it polls its
//! input and goes on writing.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::group::{MayWrite, Member, Membership, StallCheck};
use super::shared::SharedState;
use super::state::ThreadState;
use super::status::ThreadStatus;
use proactor::buffer::{Chunk, Pool};
use proactor::calls::Calls;
use proactor::connection::{Connection, Context};
use proactor::connection_log;
use proactor::lifecycle::Stage;
use proactor::limits::CloseReason;
use proactor::mailbox::{PostedRequest, SharedPeer};
use proactor::os::{self, Clock};
use proactor::peer::Made;
use proactor::protocol::{Message, Protocol};

/// Buffers of each size for one connection: one that it receives into and, rarely, a few that its
/// protocol keeps.
const BUFFERS: usize = 4;

/// A connection, and what its thread knows of it.
pub(super) struct ConnectionThread<'a, P, C> {
    calls: &'a C,
    shared: &'a SharedState,
    status: &'a ThreadStatus,
    member: &'a Member,
    membership: &'a Membership,
    /// Called once, as soon as the thread sees that the server drains.
    noticed: Option<&'a mut dyn FnMut()>,
    connection: Connection<P>,
    /// Why it is closed, once it is.
    reason: CloseReason,
    pool: Rc<Pool>,
    /// Its messages were not delivered to the other members yet.
    context: Context,
    /// Empty except during a delivery: its capacity is kept.
    others: Vec<Arc<Member>>,
    /// What its handles know of it, if it has any.
    handles: Option<Arc<SharedPeer>>,
}

/// Serves one member, by the protocol that `make` makes, until the connection ends. The counters
/// are in `status`; the `calls` are those of this thread. `noticed` is called as soon as the thread
/// sees that the server drains.
pub(super) fn serve_connection<P: Protocol, C: Calls>(
    calls: &C,
    shared: &SharedState,
    status: &ThreadStatus,
    membership: Membership,
    make: impl FnOnce(&Member) -> Made<P>,
    noticed: &mut dyn FnMut(),
) {
    let member = Arc::clone(&membership.member);
    status.begin(Arc::clone(&member));
    connection_log::accepted(member.number, member.listener);
    match Pool::few(&shared.buffers, BUFFERS) {
        Ok(pool) => {
            let mut context = Context::new(shared.max_input, Clock::default());
            let (protocol, handles) = make(&member);
            let connection = Connection::open(protocol, &mut context);
            ConnectionThread {
                calls,
                shared,
                status,
                member: &member,
                membership: &membership,
                noticed: Some(noticed),
                connection,
                reason: CloseReason::Finished,
                pool,
                context,
                others: Vec::new(),
                handles,
            }
            .run();
        }
        Err(error) => {
            tracing::warn!("a connection is refused: {error}");
            status.counted.refused.add(1);
        }
    }
    status.counted.closed.add(1);
    status.end();
    drop(membership);
    close(calls, member);
}

/// Closes the socket of a member. If another thread is about to write to it, the peer receives the
/// end now, and that thread closes the descriptor.
fn close(calls: &impl Calls, member: Arc<Member>) {
    match Arc::try_unwrap(member) {
        Ok(member) => calls.close(member.key(), member.into_socket()),
        Err(shared) => {
            let _ = calls.shutdown_both(shared.key(), shared.socket());
            release(calls, shared);
        }
    }
}

/// The last owner of a member closes its socket.
fn release(calls: &impl Calls, member: Arc<Member>) {
    if let Some(member) = Arc::into_inner(member) {
        calls.close(member.key(), member.into_socket());
    }
}

impl<P: Protocol, C: Calls> ConnectionThread<'_, P, C> {
    fn run(mut self) {
        // Later members do not receive this, whichever thread is first.
        self.deliver(true);
        loop {
            self.status.counted.iterations.add(1);
            self.status.counted.calls.set(os::calls());
            self.notice();
            self.deliver(false);
            self.take_messages();
            if !self.connection.outgoing().is_empty() {
                self.send();
            }
            if self.connection.wants_shutdown() {
                self.shut_down();
            } else if self.connection.is_finished() {
                return self.leave();
            } else if self.connection.wants_recv() {
                self.receive();
            } else if self.connection.outgoing().is_empty() {
                self.wait_for_the_others();
            }
        }
    }

    /// Takes the messages to the peer and what handles ask, and publishes the state for the console
    /// and the handles.
    fn take_messages(&mut self) {
        if let Some((messages, posted)) = self.status.take_messages() {
            let broken = self.connection.is_broken();
            if !messages.is_empty() {
                self.connection.deliver(messages.into());
            }
            posted.into_iter().for_each(|posted| self.take_posted(posted));
            if self.connection.is_broken() && !broken {
                self.reason = CloseReason::QueueFull;
                tracing::warn!("evicted: too much is queued for it");
                self.status.counted.evicted.add(1);
            }
        }
        self.member.owed.set(self.connection.outgoing().bytes() as u64);
        self.member.set_open(self.connection.is_open());
        let closed = self.handles.iter().filter(|_| !self.connection.is_open());
        closed.for_each(|shared| shared.close());
    }

    fn take_posted(&mut self, posted: PostedRequest) {
        match posted {
            PostedRequest::Send(peer, bytes) => {
                peer.take_bytes(bytes.len());
                self.connection.deliver(bytes.into());
            }
            PostedRequest::Wake(peer) => {
                peer.take_wake();
                self.connection.wake(&mut self.context);
                self.deliver(false);
            }
            // The thread that passes requests does these.
            PostedRequest::Close(_) | PostedRequest::Broadcast(..) => {}
        }
    }

    /// Publishes that it sleeps for its own peer. Returns true if it must not, because there are
    /// messages.
    fn is_called_before(&self, sleep: ThreadState) -> bool {
        self.member.does(sleep);
        self.status.is_called()
    }

    fn break_connection(&mut self, reason: CloseReason) {
        if !self.connection.is_broken() {
            self.reason = reason;
            self.connection.broken();
        }
    }

    /// Notes what the server and other threads have decided meanwhile, and runs the timer if it
    /// expires.
    fn notice(&mut self) {
        if self.connection.arm_timer(os::now).is_some() {
            self.connection.run_timer(os::now(), &mut self.context);
        }
        let stage = self.shared.stage();
        if stage != Stage::Serving
            && let Some(noticed) = self.noticed.take()
        {
            noticed();
            self.connection.drain(&mut self.context);
        }
        if stage == Stage::Cutting {
            self.break_connection(CloseReason::Cut);
        } else if let Some(reason) = self.member.broken_off() {
            self.break_connection(reason);
        }
    }

    /// Writes everything that is queued now, in one piece, however long the peer sleeps. What the
    /// protocol adds meanwhile is written next time.
    fn send(&mut self) {
        self.member.does(ThreadState::LocksWriter);
        let mut writer = self.member.lock_writer(self.calls);
        self.member.does(ThreadState::Sends);
        let mut owed = self.connection.outgoing().bytes();
        let mut stall = StallCheck::default();
        self.notice();
        while owed > 0 && !self.connection.is_broken() {
            match self.member.send(self.calls, self.connection.outgoing(), owed) {
                Ok(n) => {
                    owed -= n;
                    stall = StallCheck::default();
                    self.status.counted.sends.add(1);
                    self.status.counted.sent_bytes.add(n as u64);
                    self.connection.sent(n, &mut self.context);
                    self.member.owed.set(self.connection.outgoing().bytes() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // While no other thread waits, the peer may take as long as it likes.
                    if self.member.is_waited_for() && stall.is_over(self.member.socket()) {
                        tracing::warn!("evicted: others wait for it, and it reads nothing");
                        self.status.counted.evicted.add(1);
                        self.break_connection(CloseReason::Stalled);
                    }
                }
                Err(error) => self.break_connection(CloseReason::failed(&error)),
            }
            self.notice();
        }
        if self.connection.is_broken() {
            // A thread that waits for the write lock need not write any more.
            *writer = MayWrite::RepliesOnly;
        }
        drop(writer);
        self.deliver(false);
    }

    /// Receives once; sleeps until bytes arrive, unless there is more to write.
    fn receive(&mut self) {
        if self.connection.outgoing().is_empty() {
            let lingers = !self.connection.is_open();
            let sleep = if lingers { ThreadState::Lingers } else { ThreadState::Receives };
            match self.time_left() {
                Some(Duration::ZERO) => return, // Its timer expires.
                // If this fails, the receive fails with the same error.
                Some(left) => _ = os::set_receive_timeout(self.member.socket(), left),
                None => {}
            }
            if self.is_called_before(sleep) {
                return;
            }
        }
        let received = self.fill();
        self.member.does(ThreadState::Runs);
        self.notice();
        match received {
            Ok(None) => self.connection.ended(&mut self.context),
            Ok(Some(chunk)) => {
                self.status.counted.receives.add(1);
                self.status.counted.received_bytes.add(chunk.len() as u64);
                self.member.received.add(chunk.len() as u64);
                self.connection.received(chunk, &mut self.context);
            }
            // A signal; or nothing came while there is more to write; or a timer expires, which is
            // looked at above.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.break_connection(CloseReason::failed(&error)),
        }
        self.deliver(false);
    }

    /// Returns the received bytes, or `None` at the peer's end.
    fn fill(&mut self) -> io::Result<Option<Chunk>> {
        let sleeps = self.connection.outgoing().is_empty();
        let (calls, key, socket) = (self.calls, self.member.key(), self.member.socket());
        let recv = |buffer: &mut [u8]| match sleeps {
            true => calls.recv(key, socket, buffer),
            false => calls.recv_now(key, socket, buffer),
        };
        let Some(mut lease) = self.pool.lease(self.connection.recv_size()) else {
            // The protocol keeps them all, and no other thread could free one.
            self.status.counted.out_of_buffers.add(1);
            let mut buffer = vec![0; self.shared.buffers[0].bytes];
            let n = recv(&mut buffer)?;
            buffer.truncate(n);
            return Ok((n > 0).then(|| Chunk::from(buffer)));
        };
        let n = recv(lease.bytes_mut().expect("a new lease is the only one"))?;
        Ok((n > 0).then(|| Chunk::received(lease, n)))
    }

    /// Delivers the messages to the operator and to the other members; with `earlier_only`, to
    /// those that joined before.
    fn deliver(&mut self, earlier_only: bool) {
        for message in &self.context.messages {
            if let Message::Operator(lines) = message {
                self.shared.to_operator(lines);
            }
        }
        if self.context.messages.iter().any(|message| matches!(message, Message::Broadcast(_))) {
            self.membership.others(earlier_only, &mut self.others);
        }
        for other in self.others.drain(..) {
            other.write_broadcasts(
                self.calls,
                &self.context.messages,
                self.member,
                &self.status.counted,
            );
            release(self.calls, other);
        }
        self.context.messages.clear();
    }

    /// Shuts the outbound direction down: everything is sent, and further input is discarded.
    fn shut_down(&mut self) {
        *self.member.lock_writer(self.calls) = MayWrite::RepliesOnly;
        // It fails only if the peer has reset the connection, which a read will report.
        let _ = self.calls.shutdown_write(self.member.key(), self.member.socket());
        self.connection.shut_down(&mut self.context);
    }

    /// Returns how long it may sleep: until its timer expires.
    fn time_left(&mut self) -> Option<Duration> {
        self.connection.arm_timer(os::now).map(|due| due.since(os::now()))
    }

    /// Has neither to read nor to write: waits for messages of others, until the server drains or
    /// the peer is gone.
    fn wait_for_the_others(&mut self) {
        let left = self.time_left();
        if left == Some(Duration::ZERO) {
            return;
        }
        if self.is_called_before(ThreadState::Stays) {
            return;
        }
        // poll(2) always reports hang-ups and errors.
        let gone = self.calls.poll(self.member.key(), self.member.socket(), 0, left);
        self.member.does(ThreadState::Runs);
        if !matches!(gone, Ok(0)) {
            self.break_connection(CloseReason::Failed(libc::ECONNRESET));
        }
    }

    fn leave(mut self) {
        let Member { number, received, sent, .. } = self.member;
        let reason = self.context.failure.unwrap_or(self.reason);
        connection_log::closed(*number, received.get(), sent.get(), reason);
        self.member.set_open(false);
        self.handles.iter().for_each(|shared| shared.close());
        *self.member.lock_writer(self.calls) = MayWrite::RepliesOnly;
        self.connection.close(reason, &mut self.context);
        self.status.counted.panicked.add(self.context.panicked);
        if !self.context.messages.is_empty() {
            // A delivery may have to wait; the peer must not.
            let _ = self.calls.shutdown_both(self.member.key(), self.member.socket());
            self.deliver(false);
        }
    }
}
