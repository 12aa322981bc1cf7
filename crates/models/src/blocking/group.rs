//! Those who hear one another, when each of them has a thread.
//!
//! There is no queue between two threads: who speaks writes to each listener's socket itself, and
//! sleeps while one of them reads nothing. That is this model's character. So that a line stays a
//! line, each socket has a *writer*, a lock that whoever writes to it holds until a piece is written
//! whole; and so that nobody sleeps for ever, a send sleeps [`SOFT`] at most.
//!
//! Nobody holds two locks, so there is no circle of threads that wait for locks. There may be one
//! of threads that write to peers who do not read because they write: it lasts until one of them
//! has been evicted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use super::local_counters::{Count, LocalCounters};
use super::state::ThreadState;
use proactor::buffer::SendQueue;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::os;
use proactor::peers::SOFT;
use proactor::protocol::Message;

/// Everyone at one listener.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Mutex<Slab<Arc<Member>>>,
    /// How many have ever come to the server: the number of the last.
    accepted: Arc<AtomicU64>,
    /// Its listener's number.
    listener: ListenerId,
}

impl Group {
    /// The group of this listener of a server to which so many have come.
    pub(super) fn new(accepted: Arc<AtomicU64>, listener: ListenerId) -> Group {
        Group { members: Mutex::default(), accepted, listener }
    }

    /// Lets in who has come, and is to be known by this id.
    ///
    /// # Errors
    /// Its socket takes no timeout.
    pub(super) fn enter(self: &Arc<Self>, id: ConnId, socket: OwnedFd) -> io::Result<Membership> {
        os::set_send_timeout(socket.as_fd(), SOFT)?;
        let mut members = lock(&self.members);
        let (number, key) =
            (self.accepted.fetch_add(1, Ordering::Relaxed) + 1, members.vacant_key());
        let member = Arc::new(Member {
            socket,
            id,
            number,
            listener: self.listener,
            accepted: os::now(),
            received: Count::default(),
            sent: Count::default(),
            owed: Count::default(),
            open: AtomicBool::new(true),
            state: AtomicU64::new(ThreadState::Runs.into()),
            writer: Mutex::new(MayWrite::Anything),
            waiting: AtomicUsize::new(0),
            broken_off: AtomicBool::new(false),
        });
        members.insert(Arc::clone(&member));
        Ok(Membership { group: Arc::clone(self), key, member })
    }

    /// Wakes everyone for good; answers how many there are.
    pub(super) fn cut(&self, calls: &impl Calls) -> u64 {
        let members = lock(&self.members);
        for (_, member) in &*members {
            // It fails only if the peer has reset, and that wakes too.
            let _ = calls.shutdown_both(member.key(), member.socket());
        }
        members.len() as u64
    }
}

/// A listener in a group. Dropped, it is given up: nobody writes there any more.
#[derive(Debug)]
pub(super) struct Membership {
    group: Arc<Group>,
    key: usize,
    /// Who sits here.
    pub(super) member: Arc<Member>,
}

impl Membership {
    /// Adds to `others` who else is here; if only the `earlier_only`, of those who came before.
    pub(super) fn others(&self, earlier_only: bool, others: &mut Vec<Arc<Member>>) {
        let (members, me) = (lock(&self.group.members), self.member.number);
        let heard =
            |other: &Arc<Member>| if earlier_only { other.number < me } else { other.number != me };
        let members = members.iter().map(|(_, member)| member);
        others.extend(members.filter(|other| heard(other)).cloned());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        lock(&self.group.members).remove(self.key);
    }
}

/// A connection's socket, as those see it who write to it.
#[derive(Debug)]
pub(super) struct Member {
    socket: OwnedFd,
    /// What its thread knows it by.
    pub(super) id: ConnId,
    /// The how-manieth it is that came to the server, from 1.
    pub(super) number: u64,
    /// The number of its listener.
    pub(super) listener: ListenerId,
    /// When it was accepted.
    pub(super) accepted: Nanos,
    /// Bytes received from it, by its own thread.
    pub(super) received: Count,
    /// Bytes sent to it, by whoever has the pen.
    pub(super) sent: Count,
    /// Bytes that its own thread has to send.
    pub(super) owed: Count,
    /// Whether what is said to it will be sent.
    open: AtomicBool,
    /// What its own thread does.
    state: AtomicU64,
    /// Held by whoever writes, until it has written what is to stay together.
    writer: Mutex<MayWrite>,
    /// How many wait for the pen to write what they say.
    waiting: AtomicUsize,
    /// True once it was broken off by somebody else than its own thread.
    broken_off: AtomicBool,
}

/// What may be written to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayWrite {
    /// Replies and what others say.
    Anything,
    /// Nothing that others say: it says no more, or is gone.
    RepliesOnly,
}

impl Member {
    /// Its socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its socket, to close.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Whose its calls are.
    pub(super) fn key(&self) -> Key {
        KeyOwner::Conn(self.id).into()
    }

    /// The right to write to it.
    pub(super) fn lock_writer(&self, calls: &impl Calls) -> MutexGuard<'_, MayWrite> {
        calls.lock(self.key(), self.socket(), &self.writer)
    }

    /// Whether another thread broke it off: its own is to close it.
    pub(super) fn is_broken_off(&self) -> bool {
        self.broken_off.load(Ordering::Acquire)
    }

    /// Its own thread tells what it is about to do.
    pub(super) fn does(&self, state: ThreadState) {
        self.state.store(state.into(), Ordering::Relaxed);
    }

    /// What its own thread does.
    pub(super) fn state(&self) -> ThreadState {
        self.state.load(Ordering::Relaxed).into()
    }

    /// Its own thread tells whether what is said to it will be sent.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Whether what is said to it will be sent.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for the pen.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Sends some of the first `most` bytes of `queue`, which are not none. The caller has the pen.
    ///
    /// # Errors
    /// `WouldBlock` if it took nothing for [`SOFT`], `Interrupted`; else send(2).
    pub(super) fn send(
        &self,
        calls: &impl Calls,
        queue: &SendQueue,
        most: usize,
    ) -> io::Result<usize> {
        let (key, socket) = (self.key(), self.socket());
        let (sent, _) = queue.offer(most, |parts| calls.send(key, socket, parts));
        sent.inspect(|&n| self.sent.add(n as u64))
    }

    /// Writes what `speaker` said, all of it in one piece, however long the listener sleeps, unless
    /// it takes nothing at all: then it is evicted. Called by the speaker's thread, whose calls and
    /// counted these are.
    pub(super) fn hear(
        &self,
        calls: &impl Calls,
        messages: &[Message],
        speaker: &Member,
        counted: &LocalCounters,
    ) {
        speaker.does(ThreadState::LocksWriterOf(self.number));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut writer = self.lock_writer(calls);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        speaker.does(ThreadState::SendsTo(self.number));
        let mut queue = SendQueue::new();
        if *writer == MayWrite::Anything {
            for message in messages {
                match message {
                    Message::Broadcast(chunk) => queue.push(chunk.clone()),
                    Message::Operator(_) => {} // It was told by who speaks.
                }
            }
        }
        let mut stall = StallCheck::default();
        while !queue.is_empty() {
            match self.send(calls, &queue, usize::MAX) {
                Ok(n) => {
                    queue.advance(n);
                    stall = StallCheck::default();
                    counted.sends.add(1);
                    counted.sent_bytes.add(n as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stall.is_over(self.socket()) {
                        tracing::warn!(
                            "evicted: others wait, and it takes nothing of what is said"
                        );
                        counted.evicted.add(1);
                        return self.give_up(calls, &mut writer);
                    }
                }
                Err(_) => return self.give_up(calls, &mut writer),
            }
        }
    }

    /// Breaks it off, by who has the pen; nothing is written any more.
    fn give_up(&self, calls: &impl Calls, writer: &mut MayWrite) {
        *writer = MayWrite::RepliesOnly;
        self.break_off(calls);
    }

    /// Breaks it off, from another thread than its own. That wakes whoever sleeps in a call for it.
    pub(super) fn break_off(&self, calls: &impl Calls) {
        self.broken_off.store(true, Ordering::Release);
        let _ = calls.shutdown_both(self.key(), self.socket());
    }
}

/// What is left of it with one who takes nothing: a send that came to nothing for [`SOFT`] is
/// forgiven once, and as often as the peer has taken some of what was sent before.
#[derive(Debug, Default)]
pub(super) struct StallCheck {
    /// What the peer had not taken at the last look.
    unsent: Option<usize>,
}

impl StallCheck {
    /// Whether it is over, after another send that came to nothing.
    pub(super) fn is_over(&mut self, socket: BorrowedFd<'_>) -> bool {
        let unsent = os::unsent(socket).unwrap_or(usize::MAX);
        self.unsent.replace(unsent).is_some_and(|before| unsent >= before)
    }
}

/// Locks. That somebody panicked meanwhile spoils nothing: what is locked is always whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
