//! A broadcast group whose members have a thread each.
//!
//! There is no queue between two threads: a speaker writes to the socket of each listener itself,
//! and sleeps while one of them reads nothing. That is the character of this model. So that lines
//! stay whole, each socket has a *write lock*, which a thread holds until a whole piece is written.
//! So that no thread sleeps forever, a send sleeps for [`SOFT`] at most.
//!
//! No thread holds two locks, so no circle of threads waits for locks. There may be a circle of
//! threads that write to peers which do not read because they write: it lasts until one of these is
//! evicted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use slab::Slab;

use super::local_counters::{Count, LocalCounters};
use super::state::ThreadState;
use proactor::buffer::SendQueue;
use proactor::calls::Calls;
use proactor::clock::Nanos;
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::limits::CloseReason;
use proactor::os;
use proactor::peers::SOFT;
use proactor::protocol::Message;

/// The connections of one listener.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Mutex<Slab<Arc<Member>>>,
    /// How many connections the server has ever accepted: the number of the last.
    accepted: Arc<AtomicU64>,
    /// The number of the listener.
    listener: ListenerId,
}

impl Group {
    /// Creates the group of a listener; `accepted` is shared by all groups of the server.
    pub(super) fn new(accepted: Arc<AtomicU64>, listener: ListenerId) -> Group {
        Group { members: Mutex::default(), accepted, listener }
    }

    /// Adds a connection, whose thread has this id.
    ///
    /// # Errors
    /// The socket takes no timeout.
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
            broken_off: OnceLock::new(),
        });
        members.insert(Arc::clone(&member));
        Ok(Membership { group: Arc::clone(self), key, member })
    }

    /// Wakes every thread of the group for good. Returns how many connections there are.
    pub(super) fn cut(&self, calls: &impl Calls) -> u64 {
        let members = lock(&self.members);
        for (_, member) in &*members {
            // It fails only if the peer has reset the connection, and that wakes the thread too.
            let _ = calls.shutdown_both(member.key(), member.socket());
        }
        members.len() as u64
    }
}

/// A place in a group. When it is dropped, no other thread writes to the socket any more.
#[derive(Debug)]
pub(super) struct Membership {
    group: Arc<Group>,
    key: usize,
    /// The connection in this place.
    pub(super) member: Arc<Member>,
}

impl Membership {
    /// Adds to `others` the other members; with `earlier_only`, those that joined before.
    pub(super) fn others(&self, earlier_only: bool, others: &mut Vec<Arc<Member>>) {
        let (members, me) = (lock(&self.group.members), self.member.number);
        let members = members.iter().map(|(_, member)| member);
        let wanted = |number: u64| if earlier_only { number < me } else { number != me };
        others.extend(members.filter(|other| wanted(other.number)).cloned());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        lock(&self.group.members).remove(self.key);
    }
}

/// The socket of a connection, as other threads see it.
#[derive(Debug)]
pub(super) struct Member {
    socket: OwnedFd,
    /// The id of its thread.
    pub(super) id: ConnId,
    /// Its number among all connections of the server, from 1.
    pub(super) number: u64,
    /// The number of its listener.
    pub(super) listener: ListenerId,
    /// When it was accepted.
    pub(super) accepted: Nanos,
    /// Bytes received from it, by its own thread.
    pub(super) received: Count,
    /// Bytes sent to it, by the holder of the write lock.
    pub(super) sent: Count,
    /// Bytes that its own thread has to send.
    pub(super) owed: Count,
    /// True while messages to it will be sent.
    open: AtomicBool,
    /// The [`ThreadState`] of its own thread.
    state: AtomicU64,
    /// The write lock: held until a whole piece is written.
    writer: Mutex<MayWrite>,
    /// How many threads wait for the write lock, to write a broadcast.
    waiting: AtomicUsize,
    /// Why another thread has broken the connection, once one has.
    broken_off: OnceLock<CloseReason>,
}

/// What may be written to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MayWrite {
    /// Both replies and broadcasts may be written.
    Anything,
    /// No broadcast is written any more: the connection finishes, or is gone.
    RepliesOnly,
}

impl Member {
    /// Returns the socket of the connection.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the socket, to close it.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Returns the key of its calls.
    pub(super) fn key(&self) -> Key {
        KeyOwner::Conn(self.id).into()
    }

    /// Locks the right to write to the socket.
    pub(super) fn lock_writer(&self, calls: &impl Calls) -> MutexGuard<'_, MayWrite> {
        calls.lock(self.key(), self.socket(), &self.writer)
    }

    /// Returns why another thread broke the connection: its own has to close it.
    pub(super) fn broken_off(&self) -> Option<CloseReason> {
        self.broken_off.get().copied()
    }

    /// Publishes what its own thread is about to do.
    pub(super) fn does(&self, state: ThreadState) {
        self.state.store(state.into(), Ordering::Relaxed);
    }

    /// Returns what its own thread does.
    pub(super) fn state(&self) -> ThreadState {
        self.state.load(Ordering::Relaxed).into()
    }

    /// Publishes whether messages to it will be sent.
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Returns true if messages to it will be sent.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns true if another thread waits for the write lock.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Sends some of the first `most` bytes of `queue`, which is not empty. The caller holds the
    /// write lock.
    ///
    /// # Errors
    /// `WouldBlock` if the peer took nothing for [`SOFT`], `Interrupted`; else send(2).
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

    /// Writes the broadcasts of `speaker`, in one piece, however long the peer sleeps, unless it
    /// takes nothing at all: then it is evicted. Called by the thread of the speaker, which owns
    /// the calls and the counters.
    pub(super) fn write_broadcasts(
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
                // The speaker delivers those to the operator.
                if let Message::Broadcast(chunk) = message {
                    queue.push(chunk.clone());
                }
            }
        }
        let mut stall = StallCheck::default();
        while !queue.is_empty() {
            let failed = match self.send(calls, &queue, usize::MAX) {
                Ok(n) => {
                    queue.advance(n);
                    stall = StallCheck::default();
                    counted.sends.add(1);
                    counted.sent_bytes.add(n as u64);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !stall.is_over(self.socket()) {
                        continue;
                    }
                    tracing::warn!("evicted: others wait for it, and it reads nothing");
                    counted.evicted.add(1);
                    CloseReason::Stalled
                }
                Err(error) => CloseReason::failed(&error),
            };
            *writer = MayWrite::RepliesOnly; // Nothing is written any more.
            return self.break_off(calls, failed);
        }
    }

    /// Breaks the connection from another thread. This wakes a thread that sleeps in a call on its
    /// socket.
    pub(super) fn break_off(&self, calls: &impl Calls, reason: CloseReason) {
        let _ = self.broken_off.set(reason); // The first reason stays.
        let _ = calls.shutdown_both(self.key(), self.socket());
    }
}

/// Decides when a peer that takes nothing is given up: at the second send that fails for [`SOFT`]
/// without any progress between.
#[derive(Debug, Default)]
pub(super) struct StallCheck {
    /// Bytes that the peer had not taken at the last look.
    unsent: Option<usize>,
}

impl StallCheck {
    /// Returns true if the peer is given up, after another send that timed out.
    pub(super) fn is_over(&mut self, socket: BorrowedFd<'_>) -> bool {
        let unsent = os::unsent(socket).unwrap_or(usize::MAX);
        self.unsent.replace(unsent).is_some_and(|before| unsent >= before)
    }
}

/// Locks a mutex. A panic of another holder is ignored: what is locked is always whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
