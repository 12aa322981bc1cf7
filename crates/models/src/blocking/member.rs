//! A connection as other threads see it: a member of a broadcast group whose members have a thread
//! each.
//!
//! There is no queue between two threads: a speaker [writes](super::broadcast) to the socket of
//! each listener itself, and sleeps while one of them reads nothing. That is the character of this
//! model. So that lines stay whole, each socket has a *write lock*, which a thread holds until a
//! whole piece is written. So that no thread sleeps forever, a send sleeps for a
//! [period](Timeouts::period) at most, and then what the peer has acknowledged is looked at.
//!
//! A thread that waits for a lock holds none, so no circle of threads waits for locks. There may be
//! a circle of threads that write to peers which do not read because they write: it lasts until one
//! of these is evicted.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use super::state::ThreadState;
use proactor::address::Address;
use proactor::admission::Admitted;
use proactor::buffer::SendQueue;
use proactor::calls::{Calls, SLEEPS};
use proactor::clock::Nanos;
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::limits::{CloseReason, Timeouts};
use proactor::mailbox::PostedRequest;
use proactor::memory::SharedBytes;
use proactor::os::{self, ShutdownSignal};
use proactor::peer::{Factory, Made, Peer, ProxiedPeer};
use proactor::protocol::Protocol;
use proactor::timeouts::LookState;

/// A listener, as the threads of its connections need it.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) listener: ListenerId,
    pub(super) address: Arc<Address>,
    pub(super) factory: Factory,
}

/// The address of a peer, and the place of its connection.
pub(super) type AdmittedPeer = (Option<SocketAddr>, Option<Arc<Admitted>>);

/// The socket of a connection, as other threads see it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    /// The id of its thread.
    pub(super) id: ConnId,
    /// Its number among all connections of the server, from 1.
    pub(super) number: u64,
    origin: Arc<Origin>,
    /// The address of its peer, and its place among the connections of that address.
    pub(super) peer: AdmittedPeer,
    /// Where its client is announced, if a PROXY header names it.
    proxied: OnceLock<Arc<OnceLock<ProxiedPeer>>>,
    /// When it was accepted.
    pub(super) accepted: Nanos,
    /// Bytes received from it, by its own thread.
    pub(super) received: AtomicU64,
    /// Bytes sent to it, by the holder of the write lock.
    pub(super) sent: AtomicU64,
    /// Bytes that its own thread has to send.
    pub(super) owed: AtomicU64,
    /// True while messages to it will be sent.
    pub(super) open: AtomicBool,
    /// The [`ThreadState`] of its own thread.
    state: AtomicU64,
    /// The write lock: held until a whole piece is written.
    writer: Mutex<MayWrite>,
    /// How many threads wait for the write lock, to write a broadcast.
    pub(super) waiting: AtomicUsize,
    /// Announcements that were dropped because it was behind.
    missed: AtomicU32,
    timeouts: Timeouts,
    /// Why another thread has broken the connection, once one has: its own has to close it.
    pub(super) broken_off: OnceLock<CloseReason>,
    messages: Mutex<Messages>,
    /// True exactly while there are messages.
    called: AtomicBool,
}

/// What its thread has to take.
#[derive(Debug)]
pub(super) struct Messages {
    /// The messages to this connection, of the operator or to all peers.
    pub(super) bytes: SharedBytes,
    /// What its handles ask of it.
    pub(super) posted: Vec<PostedRequest>,
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
    /// The connection with this number, whose thread has this id.
    pub(super) fn new(
        id: ConnId,
        number: u64,
        origin: Arc<Origin>,
        socket: OwnedFd,
        peer: AdmittedPeer,
        (timeouts, bytes): (Timeouts, SharedBytes),
    ) -> Member {
        Member {
            timeouts,
            socket,
            id,
            number,
            origin,
            peer,
            proxied: OnceLock::new(),
            accepted: os::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            open: AtomicBool::new(true),
            state: AtomicU64::new(ThreadState::RUNS.0),
            writer: Mutex::new(MayWrite::Anything),
            waiting: AtomicUsize::new(0),
            missed: AtomicU32::new(0),
            broken_off: OnceLock::new(),
            messages: Mutex::new(Messages { bytes, posted: Vec::new() }),
            called: AtomicBool::new(false),
        }
    }

    /// Makes the protocol of the connection, in its own thread.
    pub(super) fn make_protocol(&self, signal: &ShutdownSignal) -> Made<Box<dyn Protocol>> {
        let (origin, reach) = (&*self.origin, Some((self.id, signal)));
        let make = origin.factory.for_worker(0);
        let (protocol, mut accepted) =
            Peer::with(self.number, &origin.address, self.peer.0, reach, make);
        accepted.allow_silence = self.allow_silence();
        accepted.proxied.iter().for_each(|client| _ = self.proxied.set(Arc::clone(client)));
        (protocol, accepted)
    }

    /// Returns the number of its listener.
    pub(super) fn listener(&self) -> ListenerId {
        self.origin.listener
    }

    /// Returns its broadcast group.
    pub(super) fn group(&self) -> ListenerId {
        self.origin.factory.group.unwrap_or(self.origin.listener)
    }

    /// Returns true if it has never sent a byte, and should have.
    pub(super) fn is_silent(&self) -> bool {
        let header = self.client().map_or(0, |client| client.header as u64);
        !self.allow_silence() && self.received.load(Ordering::Relaxed) <= header
    }

    /// Returns true if its peer may only listen.
    pub(super) fn allow_silence(&self) -> bool {
        self.origin.factory.allow_silence
    }

    /// Returns the client that a PROXY header has named.
    pub(super) fn client(&self) -> Option<&ProxiedPeer> {
        self.proxied.get()?.get()
    }

    /// Returns the socket of the connection.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the key of its calls.
    pub(super) fn key(&self) -> Key {
        KeyOwner::Conn(self.id).into()
    }

    /// Locks the right to write to the socket.
    pub(super) fn lock_writer(&self, calls: &impl Calls) -> MutexGuard<'_, MayWrite> {
        calls.lock(self.key(), self.socket(), &self.writer)
    }

    /// Locks the right to write to the socket, unless another thread has it.
    pub(super) fn try_lock_writer(&self) -> Option<MutexGuard<'_, MayWrite>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Publishes what its own thread is about to do.
    pub(super) fn does(&self, state: ThreadState) {
        self.state.store(state.0, Ordering::Relaxed);
    }

    /// Returns what its own thread does.
    pub(super) fn state(&self) -> ThreadState {
        ThreadState(self.state.load(Ordering::Relaxed))
    }

    /// Sends some of the first `most` bytes of `queue`, which is not empty. Returns how many: none
    /// if a signal came, or if the socket took nothing for a [period](Timeouts::period). The caller
    /// holds the write lock.
    ///
    /// # Errors
    /// A time limit is over, or the send fails.
    pub(super) fn send(
        &self,
        calls: &impl Calls,
        queue: &SendQueue,
        most: usize,
        stall: &mut StallCheck,
        is_waited_for: impl FnOnce() -> bool,
    ) -> Result<usize, CloseReason> {
        match self.send_some(calls, queue, most, SLEEPS) {
            Ok(n) => Ok(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let sent = self.sent.load(Ordering::Relaxed);
                stall.look(sent, self.socket(), is_waited_for()).map_or(Ok(0), Err)
            }
            Err(error) => Err(CloseReason::failed(&error)),
        }
    }

    /// Sends some of the first `most` bytes of `queue`, which is not empty: what the socket takes
    /// at once, or after a [period](Timeouts::period) at most. The caller holds the write lock.
    ///
    /// # Errors
    /// send(2).
    pub(super) fn send_some(
        &self,
        calls: &impl Calls,
        queue: &SendQueue,
        most: usize,
        sleeps: bool,
    ) -> io::Result<usize> {
        let (key, socket) = (self.key(), self.socket());
        let n = queue.offer(most, |parts| calls.send(key, socket, parts, sleeps)).0?;
        add(&self.sent, n);
        Ok(n)
    }

    /// Returns true if its socket takes no more for now: announcements do not wait for it.
    pub(super) fn is_behind(&self, calls: &impl Calls) -> bool {
        let writable = calls.poll(self.key(), self.socket(), libc::POLLOUT, Some(Duration::ZERO));
        matches!(writable, Ok(0))
    }

    /// Counts an announcement that is dropped.
    pub(super) fn misses(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many announcements were dropped since the last call.
    pub(super) fn take_missed(&self) -> u32 {
        self.missed.swap(0, Ordering::Relaxed)
    }

    /// Returns how long a send sleeps at most, which is the time between two looks.
    pub(super) fn period(&self) -> Duration {
        self.timeouts.period()
    }

    /// Returns the state of a look at its peer before the first.
    pub(super) fn stall_check(&self) -> StallCheck {
        StallCheck::new(self.timeouts)
    }

    /// Breaks the connection from another thread. This wakes a thread that sleeps in a call on its
    /// socket.
    pub(super) fn break_off(&self, calls: &impl Calls, reason: CloseReason) {
        let _ = self.broken_off.set(reason); // The first reason stays.
        let _ = calls.shutdown(self.key(), self.socket(), Shutdown::Both);
    }

    /// Leaves what a handle asks.
    pub(super) fn pass(&self, posted: PostedRequest) {
        let mut messages = lock(&self.messages);
        messages.posted.push(posted);
        self.called.store(true, Ordering::Relaxed);
    }

    /// Leaves a message. Returns whether it will be sent.
    pub(super) fn post(&self, calls: &impl Calls, line: &[u8]) -> bool {
        let mut messages = lock(&self.messages);
        if !self.open.load(Ordering::Relaxed) {
            return false;
        }
        if !messages.bytes.extend(line) {
            self.break_off(calls, CloseReason::QueueFull);
            return false;
        }
        self.called.store(true, Ordering::Relaxed);
        true
    }

    /// Takes the messages, and what handles ask, in its own thread.
    pub(super) fn take_messages(&self) -> Option<(Vec<u8>, Vec<PostedRequest>)> {
        if !self.called.load(Ordering::Relaxed) {
            return None;
        }
        let mut messages = lock(&self.messages);
        self.called.store(false, Ordering::Relaxed);
        Some((messages.bytes.take(), std::mem::take(&mut messages.posted)))
    }

    /// Returns true if there are messages. Called after it has published that it will
    /// [sleep](Member::does): else it could sleep while there are some.
    pub(super) fn is_called(&self) -> bool {
        fence(Ordering::SeqCst); // Pairs with the fence of `must_be_woken`.
        self.called.load(Ordering::Relaxed)
    }

    /// Returns true if its thread sleeps for its own peer and there are messages: then it has to
    /// be interrupted. A thread that sleeps for another connection, or in a send, looks afterwards;
    /// an interrupt would restart its time limit.
    pub(super) fn must_be_woken(&self) -> bool {
        if !self.called.load(Ordering::Relaxed) {
            return false;
        }
        fence(Ordering::SeqCst); // Either it sees the messages, or this sees that it sleeps.
        self.state().may_be_woken()
    }
}

/// Decides when a peer that acknowledges nothing is given up, by the sends that took a
/// period without a result.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallCheck {
    limits: Timeouts,
    progress: LookState,
}

impl StallCheck {
    pub(super) fn new(limits: Timeouts) -> StallCheck {
        StallCheck { limits, progress: LookState::default() }
    }

    /// Looks at the peer after a send without a result. Returns the limit that is over, if one is.
    pub(super) fn look(
        &mut self,
        sent: u64,
        socket: BorrowedFd<'_>,
        is_waited_for: bool,
    ) -> Option<CloseReason> {
        let outq = os::unsent(socket).ok();
        self.progress.look_at_output(&self.limits, sent, outq, is_waited_for)
    }
}

/// Adds to a number that one thread at a time changes and any may read. This costs no more than
/// without other threads: a load, an addition, a store.
pub(super) fn add(count: &AtomicU64, n: usize) {
    count.store(count.load(Ordering::Relaxed) + n as u64, Ordering::Relaxed);
}

/// Locks a mutex. A panic of another holder is ignored: what is locked is always whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
