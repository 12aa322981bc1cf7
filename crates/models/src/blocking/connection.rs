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
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::broadcast::Delivery;
use super::member::{MayWrite, Member, StallCheck, add};
use super::pool::ThreadStatus;
use super::shared::Membership;
use super::state::ThreadState;
use crate::driver::ConnectionDriver;
use proactor::buffer::Pool;
use proactor::calls::Calls;
use proactor::connection_log;
use proactor::counters::Counters;
use proactor::lifecycle::Stage;
use proactor::limits::CloseReason;
use proactor::mailbox::PostedRequest;
use proactor::protocol::Message;

/// Buffers of each size for one connection: one that it receives into and, rarely, a few that its
/// protocol keeps.
const BUFFERS: usize = 4;

/// A connection, and what its thread knows of it.
struct ConnectionThread<'a, C> {
    status: &'a ThreadStatus,
    member: &'a Member,
    membership: &'a Membership,
    /// Called once, as soon as the thread sees that the server drains.
    noticed: Option<&'a mut dyn FnMut()>,
    /// Its messages were not delivered to the other members yet.
    driver: ConnectionDriver<'a, C>,
    /// Empty except during a delivery: its capacity is kept.
    others: Vec<Arc<Member>>,
}

/// Serves one member until the connection ends. The `counters` and the `calls` are those of this
/// thread. `noticed` is called as soon as the thread sees that the server drains.
pub(super) fn serve_connection<C: Calls>(
    calls: &C,
    status: &ThreadStatus,
    membership: Membership,
    counters: &mut Counters,
    noticed: &mut dyn FnMut(),
) {
    let (member, shared) = (Arc::clone(&membership.member), &status.shared);
    match Pool::few(&shared.buffers, BUFFERS) {
        Ok(pool) => {
            let whose = (member.key(), member.socket(), member.number);
            let made = member.make_protocol(&shared.signal);
            let mut limits = shared.limits.clone();
            if shared.one_by_one && !member.allow_silence() {
                let first_byte = &mut limits.timeouts.first_byte;
                *first_byte = [*first_byte, limits.silent_timeout].into_iter().flatten().min();
            }
            let account = (&limits, shared.memory());
            let driver = ConnectionDriver::open(calls, whose, made, account, pool, counters);
            ConnectionThread {
                status,
                member: &member,
                membership: &membership,
                noticed: Some(noticed),
                driver,
                others: Vec::new(),
            }
            .run();
        }
        Err(error) => {
            tracing::warn!("a connection is refused: {error}");
            connection_log::closed(counters, member.number, None, [0, 0], CloseReason::Refused);
            counters.refused += 1;
        }
    }
    status.publish(counters);
    drop(membership);
    close(calls, member);
}

/// Closes the socket of a member. If another thread is about to write to it, the peer receives the
/// end now, and that thread closes the descriptor.
fn close(calls: &impl Calls, member: Arc<Member>) {
    if Arc::strong_count(&member) > 1 {
        let _ = calls.shutdown(member.key(), member.socket(), Shutdown::Both);
    }
    release(calls, member);
}

/// The last owner of a member closes its socket.
fn release(calls: &impl Calls, member: Arc<Member>) {
    if let Some(member) = Arc::into_inner(member) {
        calls.close(member.key(), member.socket);
    }
}

impl<C: Calls> ConnectionThread<'_, C> {
    fn run(mut self) {
        // Later members do not receive this, whichever thread is first.
        self.deliver(true);
        loop {
            self.driver.counters.iterations += 1;
            self.notice();
            self.deliver(false);
            self.take_messages();
            if !self.driver.connection.outgoing().is_empty() {
                self.send();
            }
            if self.driver.connection.holds_input() {
                self.driver.connection.resume_input(&mut self.driver.context);
                continue; // What it sends is delivered, and sent, first.
            }
            if self.driver.connection.wants_shutdown() {
                *self.member.lock_writer(self.driver.calls) = MayWrite::RepliesOnly;
                self.driver.shut_down();
            } else if self.driver.connection.is_finished() {
                return self.leave();
            } else if self.driver.connection.wants_recv() {
                self.receive();
            } else if self.driver.connection.outgoing().is_empty() {
                self.wait_for_the_others();
            }
        }
    }

    /// Takes the messages to the peer and what handles ask, and publishes the state for the console
    /// and the handles.
    fn take_messages(&mut self) {
        if let Some((bytes, posted)) = self.member.take_messages() {
            if !bytes.is_empty() {
                self.driver.deliver(bytes.into());
            }
            posted.into_iter().for_each(|posted| self.take_posted(posted));
        }
        let missed = self.member.take_missed();
        if missed > 0 {
            self.driver.connection.has_missed(missed, &mut self.driver.context);
        }
        self.publish_owed();
        self.publish_open(self.driver.connection.is_open());
    }

    fn take_posted(&mut self, posted: PostedRequest) {
        match posted {
            PostedRequest::Send(peer, bytes) => {
                peer.take_bytes(bytes.len());
                self.driver.deliver(bytes.into());
            }
            PostedRequest::Wake(peer) => {
                peer.take_wake();
                self.driver.connection.wake(&mut self.driver.context);
                self.deliver(false);
            }
            // The thread that passes requests does these.
            PostedRequest::Close(_) | PostedRequest::Broadcast(..) => {}
        }
    }

    fn publish_open(&self, open: bool) {
        self.member.open.store(open, Ordering::Relaxed);
        self.driver.accepted.shared.iter().filter(|_| !open).for_each(|shared| _ = shared.close());
    }

    fn publish_owed(&mut self) {
        let connection = &self.driver.connection;
        self.member.owed.store(connection.outgoing().bytes() as u64, Ordering::Relaxed);
        let handles = self.driver.accepted.shared.iter();
        handles.for_each(|shared| shared.set_congested(connection.is_congested()));
    }

    /// Publishes that it sleeps for its own peer. Returns true if it must not, because there are
    /// messages.
    fn is_called_before(&self, sleep: ThreadState) -> bool {
        self.member.does(sleep);
        self.member.is_called()
    }

    /// Publishes what was counted, notes what the server and other threads have decided meanwhile,
    /// and runs the timer if it expires.
    fn notice(&mut self) {
        self.driver.run_timer();
        self.status.publish(self.driver.counters);
        let stage = self.status.shared.stage();
        if stage != Stage::Serving
            && let Some(noticed) = self.noticed.take()
        {
            noticed();
            self.driver.take_last_input();
        }
        self.driver.drain_if_taken();
        if stage == Stage::Cutting {
            self.driver.break_off(CloseReason::Cut);
        } else if let Some(&reason) = self.member.broken_off.get() {
            self.driver.break_off(reason);
        }
    }

    /// A call on the socket failed. If another thread has shut the socket down, its reason counts.
    fn fail(&mut self, reason: CloseReason) {
        self.notice();
        self.driver.break_off(reason);
    }

    /// Writes everything that is queued now, in one piece, however long the peer sleeps. What the
    /// protocol adds meanwhile is written next time.
    fn send(&mut self) {
        let (member, calls) = (self.member, self.driver.calls);
        member.does(ThreadState::LOCKS_WRITER);
        let mut writer = member.lock_writer(calls);
        member.does(ThreadState::SENDS);
        let mut owed = self.driver.connection.outgoing().bytes();
        let mut stall = StallCheck::new(self.status.shared.limits.timeouts);
        self.notice();
        while owed > 0 && !self.driver.connection.is_broken() {
            // While no other thread waits, the peer may take as long as it likes.
            let is_waited_for = || member.waiting.load(Ordering::Relaxed) > 0;
            let queue = self.driver.connection.outgoing();
            match member.send(calls, queue, owed, &mut stall, is_waited_for) {
                Ok(0) => {}
                Ok(n) => {
                    owed -= n;
                    self.driver.sent(n);
                    self.publish_owed();
                }
                Err(reason) => self.fail(reason),
            }
            self.notice();
        }
        if self.driver.connection.is_broken() {
            // A thread that waits for the write lock need not write any more.
            *writer = MayWrite::RepliesOnly;
        }
        drop(writer);
        self.deliver(false);
    }

    /// Receives once; sleeps until bytes arrive, unless there is more to write.
    fn receive(&mut self) {
        let at_once = self.driver.takes_last_input();
        let sleeps = !at_once && self.driver.connection.outgoing().is_empty();
        if sleeps {
            let state = match self.driver.connection.is_open() {
                true => ThreadState::RECEIVES,
                false => ThreadState::LINGERS,
            };
            if !self.driver.limit_receive() || self.is_called_before(state) {
                return; // Its timer expires, or there are messages.
            }
        }
        let received = self.driver.recv(sleeps);
        self.member.does(ThreadState::RUNS);
        self.notice();
        let timed_out = received.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock);
        add(&self.member.received, self.driver.received(received));
        self.look(timed_out);
        self.deliver(false);
    }

    fn look(&mut self, timed_out: bool) {
        let Member { received, sent, .. } = self.member;
        let bytes = || [received, sent].map(|count| count.load(Ordering::Relaxed));
        self.driver.look(false, timed_out, bytes); // A send looks itself.
    }

    /// Delivers the messages to the operator and to the other members; with `earlier_only`, to
    /// those that joined before.
    fn deliver(&mut self, earlier_only: bool) {
        let ConnectionDriver { calls, context, counters, .. } = &mut self.driver;
        let mut broadcasts = false;
        for message in &context.messages {
            match message {
                Message::Operator(lines) => self.status.shared.to_operator(lines),
                Message::Broadcast(_) | Message::Announce(_) => broadcasts = true,
            }
        }
        if broadcasts {
            self.status.publish(counters);
            self.membership.others(earlier_only, &mut self.others);
        }
        let (messages, speaker) = (&*context.messages, self.member);
        Delivery { calls: *calls, messages, speaker, counters }.write_to(&self.others);
        self.others.drain(..).for_each(|other| release(*calls, other));
        context.messages.clear();
    }

    /// Has neither to read nor to write: waits for messages of others, until the server drains or
    /// the peer is gone.
    fn wait_for_the_others(&mut self) {
        let (timer, look) = (self.driver.time_left(), self.driver.look_period());
        let left = [timer, look].into_iter().flatten().min();
        if left == Some(Duration::ZERO) || self.is_called_before(ThreadState::STAYS) {
            return;
        }
        // poll(2) always reports hang-ups and errors.
        let gone = self.driver.calls.poll(self.member.key(), self.member.socket(), 0, left);
        self.member.does(ThreadState::RUNS);
        match gone {
            Ok(0) => self.look(true),
            _ => self.fail(CloseReason::Failed(libc::ECONNRESET)),
        }
    }

    fn leave(mut self) {
        let Member { received, sent, .. } = self.member;
        self.publish_open(false);
        *self.member.lock_writer(self.driver.calls) = MayWrite::RepliesOnly;
        let [received, sent] = [received, sent].map(|count| count.load(Ordering::Relaxed));
        self.driver.close([received, sent]);
        if !self.driver.context.messages.is_empty() {
            // A delivery may have to wait; the peer must not.
            let _ =
                self.driver.calls.shutdown(self.member.key(), self.member.socket(), Shutdown::Both);
            self.deliver(false);
        }
    }
}
