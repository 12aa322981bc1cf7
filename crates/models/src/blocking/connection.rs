//! One connection, driven by calls that wait.
//!
//! ```text
//!        ┌─────────────────────────────────────────────┐
//!        ▼                                             │
//!   write what is owed ──► tell the others ──► read ───┘
//!      sleeps while           sleeps while     sleeps until
//!      its peer reads         one of them      something comes
//!      nothing                reads nothing
//! ```
//!
//! The thread's listener in this loop *is* the connection's state. What the loops remember in
//! interests and operations in flight is here one question: may it sleep? In a receive it may if
//! nothing is left to write. Who always has more to say (`refill`) never does: it looks whether
//! something came, and goes on writing.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::group::{MayWrite, Member, Membership, StallCheck};
use super::shared::SharedState;
use super::state::ThreadState;
use super::status::ThreadStatus;
use proactor::buffer::{Chunk, Pool};
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::connection::{Connection, Context};
use proactor::lifecycle::Stage;
use proactor::os;
use proactor::peers::LINGER;
use proactor::protocol::{Message, Protocol};

/// Buffers of each size that a connection has of its own: one that it receives into and, rarely,
/// a few that its protocol keeps.
const BUFFERS: usize = 4;

/// A connection and its thread's view of it.
pub(super) struct ConnectionThread<'a, P, C> {
    calls: &'a C,
    shared: &'a SharedState,
    status: &'a ThreadStatus,
    member: &'a Member,
    membership: &'a Membership,
    /// Called as soon as it is seen that the server drains, once.
    noticed: Option<&'a mut dyn FnMut()>,
    connection: Connection<P>,
    pool: Rc<Pool>,
    /// Its messages have not been delivered to the others.
    context: Context,
    /// Empty but while they are told: its capacity is kept.
    others: Vec<Arc<Member>>,
    /// Until when it discards what still comes, once it has shut its direction down.
    lingers: Option<Nanos>,
}

/// Serves `protocol` to who sits on `membership` until one of them has had enough. What is counted stands
/// on the `status`; the `calls` are this thread's. `noticed` is called as soon as it is seen that
/// the server drains.
pub(super) fn serve_connection<P: Protocol, C: Calls>(
    calls: &C,
    shared: &SharedState,
    status: &ThreadStatus,
    membership: Membership,
    protocol: P,
    noticed: &mut dyn FnMut(),
) {
    let member = Arc::clone(&membership.member);
    status.begin(Arc::clone(&member));
    match Pool::few(&shared.buffers, BUFFERS) {
        Ok(pool) => {
            let mut context = Context { max_input: shared.max_input, ..Context::default() };
            let connection = Connection::open(protocol, member.number, &mut context);
            ConnectionThread {
                calls,
                shared,
                status,
                member: &member,
                membership: &membership,
                noticed: Some(noticed),
                connection,
                pool,
                context,
                others: Vec::new(),
                lingers: None,
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

/// Closes its socket. Should somebody still be about to write to it, the peer sees the end now and
/// the descriptor goes when they have seen that there is nobody.
fn close(calls: &impl Calls, member: Arc<Member>) {
    match Arc::try_unwrap(member) {
        Ok(member) => calls.close(member.key(), member.into_socket()),
        Err(shared) => {
            let _ = calls.shutdown_both(shared.key(), shared.socket());
            release(calls, shared);
        }
    }
}

/// Whoever is the last to let go of a member closes its socket.
fn release(calls: &impl Calls, member: Arc<Member>) {
    if let Some(member) = Arc::into_inner(member) {
        calls.close(member.key(), member.into_socket());
    }
}

impl<P: Protocol, C: Calls> ConnectionThread<'_, P, C> {
    fn run(mut self) {
        // Who comes later does not hear that it came, whichever thread is first.
        self.tell_to(true);
        loop {
            self.status.counted.turns.add(1);
            self.status.counted.calls.set(os::calls());
            self.notice();
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

    /// Takes what the operator says to its peer, and tells the operator how it is.
    fn take_messages(&mut self) {
        if let Some(messages) = self.status.take_messages() {
            let broken = self.connection.is_broken();
            self.connection.deliver(messages.into());
            if self.connection.is_broken() && !broken {
                tracing::warn!("evicted: it is owed too much");
                self.status.counted.evicted.add(1);
            }
        }
        self.member.owed.set(self.connection.outgoing().bytes() as u64);
        self.member.set_open(self.connection.is_open());
    }

    /// Tells that it sleeps for its own peer; answers whether it must not, because it is called.
    fn is_called_before(&self, sleep: ThreadState) -> bool {
        self.member.does(sleep);
        self.shared.has_operator && self.status.is_called()
    }

    /// Sees what the server and the others have decided meanwhile.
    fn notice(&mut self) {
        let stage = self.shared.stage();
        if stage != Stage::Serving
            && let Some(noticed) = self.noticed.take()
        {
            noticed();
            self.connection.drain(&mut self.context);
        }
        if stage == Stage::Cutting || self.member.is_broken_off() {
            self.connection.broken();
        }
    }

    /// Writes all that is owed now, in one piece, however long the peer sleeps. What its protocol
    /// says because it is sent is written the next time.
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
                    // Who waits for itself alone may do so for as long as it likes.
                    if self.member.is_waited_for() && stall.is_over(self.member.socket()) {
                        tracing::warn!("evicted: others wait, and it takes nothing of its replies");
                        self.status.counted.evicted.add(1);
                        self.connection.broken();
                    }
                }
                Err(_) => self.connection.broken(),
            }
            self.notice();
        }
        if self.connection.is_broken() {
            // Whoever has waited for the pen need not write in vain.
            *writer = MayWrite::RepliesOnly;
        }
        drop(writer);
        self.tell();
    }

    /// Receives once; sleeps until something comes, unless there is more to write.
    fn receive(&mut self) {
        if let Some(until) = self.lingers {
            let left = until.since(os::now());
            if left.is_zero() {
                return self.connection.broken();
            }
            // What it says of a socket that it cannot be said of, the receive will say too.
            let _ = os::set_receive_timeout(self.member.socket(), left);
        }
        if self.connection.outgoing().is_empty() {
            let sleep =
                if self.lingers.is_some() { ThreadState::Lingers } else { ThreadState::Receives };
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
            // A signal; nothing came, and there is more to write; it lingered too long, which is
            // seen above.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.connection.broken(),
        }
        self.tell();
    }

    /// A chunk of what comes; none is the peer's end.
    fn fill(&mut self) -> io::Result<Option<Chunk>> {
        let sleeps = self.connection.outgoing().is_empty();
        let (calls, key, socket) = (self.calls, self.member.key(), self.member.socket());
        let recv = |buffer: &mut [u8]| match sleeps {
            true => calls.recv(key, socket, buffer),
            false => calls.recv_now(key, socket, buffer),
        };
        let Some(mut lease) = self.pool.lease(self.connection.recv_size()) else {
            // Its protocol keeps them all. Nobody else would ever let go of one.
            self.status.counted.out_of_buffers.add(1);
            let mut buffer = vec![0; self.shared.buffers[0].bytes];
            let n = recv(&mut buffer)?;
            buffer.truncate(n);
            return Ok((n > 0).then(|| Chunk::from(buffer)));
        };
        let n = recv(lease.bytes_mut().expect("a new lease is the only one"))?;
        Ok((n > 0).then(|| Chunk::received(lease, n)))
    }

    /// Says to the others, and to the operator, what was said to them.
    fn tell(&mut self) {
        self.tell_to(false);
    }

    fn tell_to(&mut self, earlier_only: bool) {
        for message in &self.context.messages {
            if let Message::Operator(lines) = message {
                self.shared.tell_operator(lines);
            }
        }
        if self.context.messages.iter().any(|message| matches!(message, Message::Broadcast(_))) {
            self.membership.others(earlier_only, &mut self.others);
        }
        for other in self.others.drain(..) {
            other.hear(self.calls, &self.context.messages, self.member, &self.status.counted);
            release(self.calls, other);
        }
        self.context.messages.clear();
    }

    /// Says no more: all that was owed has been sent, and what still comes is discarded.
    fn shut_down(&mut self) {
        *self.member.lock_writer(self.calls) = MayWrite::RepliesOnly;
        // It fails only if the peer has reset, and then a read will tell.
        let _ = self.calls.shutdown_write(self.member.key(), self.member.socket());
        self.connection.shut_down();
        self.lingers = Some(os::now() + LINGER);
    }

    /// Has neither to read nor to write, and is there for what others say until the server drains
    /// or the peer is gone.
    fn wait_for_the_others(&mut self) {
        if self.is_called_before(ThreadState::Stays) {
            return;
        }
        // Hang-ups and errors are always reported.
        let gone = self.calls.poll(self.member.key(), self.member.socket(), 0);
        self.member.does(ThreadState::Runs);
        if !matches!(gone, Ok(0)) {
            self.connection.broken();
        }
    }

    fn leave(mut self) {
        self.member.set_open(false);
        *self.member.lock_writer(self.calls) = MayWrite::RepliesOnly;
        self.connection.close(&mut self.context);
        if !self.context.messages.is_empty() {
            // Whoever tells the others may have to wait; the peer need not.
            let _ = self.calls.shutdown_both(self.member.key(), self.member.socket());
            self.tell();
        }
    }
}
