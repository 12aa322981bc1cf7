//! Broadcasts: the thread of a speaker writes to the sockets of the other members itself.
//!
//! 1. Each member that no other thread writes to is sent what its socket takes at once. Of a piece
//!    that it does not take whole, the rest stays *begun*: the speaker keeps the write lock.
//! 2. While pieces are begun, the speaker sleeps in a send to the first of these members, for a
//!    [period](proactor::limits::Timeouts::period) at most. Then it sends to the others what they
//!    take by now, and looks at all of them: each has a clock of its own, from the moment at which
//!    it fell short, so those that read nothing are evicted together and not one after another.
//! 3. A member that another thread writes to comes last: the speaker waits for its write lock while
//!    it holds no other. So no circle of threads waits for locks.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::member::{MayWrite, Member, StallCheck};
use super::state::ThreadState;
use proactor::buffer::SendQueue;
use proactor::calls::{AT_ONCE, Calls, SLEEPS};
use proactor::counters::Counters;
use proactor::limits::CloseReason;
use proactor::os;
use proactor::protocol::Message;

/// The messages of one speaker, and the calls and the counters of its thread.
pub(super) struct Delivery<'a, C> {
    pub(super) calls: &'a C,
    pub(super) messages: &'a [Message],
    pub(super) speaker: &'a Member,
    pub(super) counters: &'a mut Counters,
}

/// The rest of what a member is sent, and the right to write it.
struct Remainder<'m> {
    member: &'m Member,
    writer: MutexGuard<'m, MayWrite>,
    rest: SendQueue,
    /// True if its socket took some of it when it was last offered.
    took: bool,
    stall: StallCheck,
}

impl<C: Calls> Delivery<'_, C> {
    /// Writes the broadcasts to each member, in one piece, however long it takes, unless the peer
    /// acknowledges nothing: then it is evicted. Announcements alone are not written to a member
    /// that is behind, and counted.
    pub(super) fn write_to(&mut self, members: &[Arc<Member>]) {
        let (mut begun, mut locked) = (Vec::new(), Vec::new());
        for member in members {
            match member.try_lock_writer() {
                Some(writer) => begun.extend(self.begin(member, writer)),
                None if self.announces() && member.is_behind(self.calls) => member.misses(),
                None => {
                    member.waiting.fetch_add(1, Ordering::Relaxed);
                    locked.push(member);
                }
            }
        }
        self.finish(begun);
        for member in locked {
            self.speaker.does(ThreadState::locks_writer_of(member.number));
            let writer = member.lock_writer(self.calls);
            member.waiting.fetch_sub(1, Ordering::Relaxed);
            let begun = self.begin(member, writer);
            self.finish(begun.into_iter().collect());
        }
    }

    /// Returns true if all messages are announcements.
    fn announces(&self) -> bool {
        !self.messages.iter().any(|it| matches!(it, Message::Broadcast(_)))
    }

    /// Sends what the socket takes at once. Returns the rest, if there is any.
    fn begin<'m>(
        &mut self,
        member: &'m Member,
        writer: MutexGuard<'m, MayWrite>,
    ) -> Option<Remainder<'m>> {
        if *writer == MayWrite::RepliesOnly {
            return None;
        }
        if self.announces() && member.is_behind(self.calls) {
            member.misses();
            return None;
        }
        let mut rest = SendQueue::default();
        for message in self.messages {
            // The speaker delivers those to the operator.
            if let Message::Broadcast(chunk) | Message::Announce(chunk) = message {
                rest.push(chunk.clone());
            }
        }
        let mut begun = Remainder { member, writer, rest, took: true, stall: member.stall_check() };
        self.send(&mut begun, AT_ONCE);
        (!begun.rest.is_empty()).then_some(begun)
    }

    /// Sends the rest of each.
    fn finish(&mut self, mut begun: Vec<Remainder<'_>>) {
        let Some(first) = begun.first() else { return };
        let (period, mut looked) = (first.member.period(), os::now());
        begun.iter_mut().for_each(|it| self.look(it));
        while let Some((first, others)) = begun.split_first_mut() {
            self.speaker.does(ThreadState::sends_to(first.member.number));
            first.took = !self.send(first, SLEEPS);
            if !first.took || os::now().since(looked) >= period {
                looked = os::now();
                others.iter_mut().for_each(|it| it.took = !self.send(it, AT_ONCE));
                begun.iter_mut().for_each(|it| self.look(it));
                begun.sort_by_key(|it| !it.took); // The next sleep is one that ends soon.
            }
            begun.retain(|it| !it.rest.is_empty());
        }
    }

    /// Sends some of the rest, if there is any. Returns true if the socket took nothing, for a
    /// period if the send may sleep.
    fn send(&mut self, begun: &mut Remainder<'_>, sleeps: bool) -> bool {
        if begun.rest.is_empty() {
            return false;
        }
        match begun.member.send_some(self.calls, &begun.rest, usize::MAX, sleeps) {
            Ok(n) => {
                begun.rest.advance(n);
                self.counters.sends += 1;
                self.counters.sent_bytes += n as u64;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Err(error) => {
                self.give_up(begun, CloseReason::failed(&error));
                false
            }
        }
    }

    /// Looks at what the peer has acknowledged, and evicts it if that is nothing for too long.
    fn look(&self, begun: &mut Remainder<'_>) {
        let Remainder { member, rest, stall, .. } = begun;
        let sent = member.sent.load(Ordering::Relaxed);
        let stalled = (!rest.is_empty()).then(|| stall.look(sent, member.socket(), true));
        if let Some(reason) = stalled.flatten() {
            self.give_up(begun, reason);
        }
    }

    /// Breaks the connection, and forgets the rest.
    fn give_up(&self, begun: &mut Remainder<'_>, reason: CloseReason) {
        *begun.writer = MayWrite::RepliesOnly; // Nothing is written any more.
        begun.rest = SendQueue::default();
        begun.member.break_off(self.calls, reason);
    }
}
