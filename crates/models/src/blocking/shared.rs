//! What all threads of a server share, and the connections that they serve.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::member::{AdmittedPeer, Member, Origin, lock};
use proactor::buffer::BufferClass;
use proactor::keys::ConnId;
use proactor::lifecycle::Stage;
use proactor::limits::Limits;
use proactor::memory::{Memory, SharedBytes};
use proactor::os::{self, EventFd, ShutdownSignal};

/// The connections of a server, by the slots of their threads: a thread serves one at a time.
pub(super) type Members = BTreeMap<u32, Arc<Member>>;

/// What all threads of a server share.
#[derive(Debug)]
pub(super) struct SharedState {
    stage: AtomicU8,
    /// The buffer sizes of each connection.
    pub(super) buffers: Vec<BufferClass>,
    /// The limits of each connection.
    pub(super) limits: Limits,
    /// True if the server serves one connection at a time: it is always full.
    pub(super) one_by_one: bool,
    /// What the connections of all threads hold.
    held: Arc<AtomicUsize>,
    /// By which handles reach the connections.
    pub(super) signal: ShutdownSignal,
    /// Notified by each thread as it ends, and by a first message to the operator.
    pub(super) event: EventFd,
    members: Mutex<Members>,
    /// How many connections were ever accepted: the number of the last.
    accepted: AtomicU64,
    /// The threads that have ended, or are about to.
    ended: Mutex<Vec<ConnId>>,
    /// True if there is an operator console.
    pub(super) has_operator: bool,
    /// Lines to the operator that were not printed yet, and how many messages were dropped because
    /// too much was waiting.
    operator_messages: Mutex<(Vec<u8>, u64)>,
}

/// With more than this waiting to be printed, in bytes, messages are dropped.
const OPERATOR_MESSAGES_MAX: usize = 1 << 20;

impl SharedState {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(
        buffers: Vec<BufferClass>,
        limits: Limits,
        signal: ShutdownSignal,
    ) -> io::Result<SharedState> {
        Ok(SharedState {
            stage: AtomicU8::new(Stage::Serving as u8),
            buffers,
            limits,
            one_by_one: false,
            held: Arc::default(),
            signal,
            event: EventFd::new()?,
            members: Mutex::default(),
            accepted: AtomicU64::new(0),
            ended: Mutex::default(),
            has_operator: false,
            operator_messages: Mutex::default(),
        })
    }

    /// Returns the account of the calling thread.
    pub(super) fn memory(&self) -> Memory {
        Memory::shared(self.limits.queues, self.held.clone())
    }

    /// Returns what the connections hold, in bytes.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns true if the connections hold all that they may.
    pub(super) fn memory_is_full(&self) -> bool {
        self.held() >= self.limits.queues
    }

    /// Returns the account of what is left for the thread of a connection.
    pub(super) fn left_bytes(&self) -> SharedBytes {
        SharedBytes::new(self.limits.queues, Arc::clone(&self.held))
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Serving as u8 => Stage::Serving,
            stage if stage == Stage::Draining as u8 => Stage::Draining,
            _ => Stage::Cutting,
        }
    }

    /// Advances to a stage; never back.
    pub(super) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Adds a connection, which the thread with this id will serve.
    ///
    /// # Errors
    /// The socket takes no timeout.
    pub(super) fn enter(
        self: &Arc<Self>,
        id: ConnId,
        origin: &Arc<Origin>,
        socket: OwnedFd,
        peer: AdmittedPeer,
    ) -> io::Result<Membership> {
        let timeouts = self.limits.timeouts;
        os::set_send_timeout(socket.as_fd(), timeouts.period())?;
        let mut members = self.members();
        let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let origin = Arc::clone(origin);
        let messages = self.left_bytes();
        let member = Arc::new(Member::new(id, number, origin, socket, peer, (timeouts, messages)));
        members.insert(id.slot(), Arc::clone(&member));
        Ok(Membership { shared: Arc::clone(self), member })
    }

    /// Removes a connection for which there is no thread, as if it had not entered.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn undo_enter(&self, membership: Membership) -> io::Result<OwnedFd> {
        // Another thread may be about to write to the member, which keeps a descriptor of its own.
        let socket = membership.member.socket().try_clone_to_owned()?;
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        Ok(socket)
    }

    /// Locks the list of connections. What is done with it must not sleep.
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    /// Notes that a thread is about to end.
    pub(super) fn thread_ends(&self, key: ConnId) {
        lock(&self.ended).push(key);
        self.event.notify();
    }

    /// Returns the threads that have ended since the last call.
    pub(super) fn take_ended(&self) -> Vec<ConnId> {
        self.event.take();
        std::mem::take(&mut lock(&self.ended))
    }

    /// Queues whole lines for the operator, if there is one.
    pub(super) fn to_operator(&self, lines: &[u8]) {
        if !self.has_operator {
            return;
        }
        let mut queued = lock(&self.operator_messages);
        let (waiting, lost) = &mut *queued;
        let first = waiting.is_empty() && *lost == 0;
        if waiting.len() < OPERATOR_MESSAGES_MAX {
            waiting.extend_from_slice(lines);
        } else {
            *lost += 1;
        }
        drop(queued);
        if first {
            self.event.notify();
        }
    }

    /// Returns the messages to the operator since the last call, and how many were dropped.
    pub(super) fn take_operator_messages(&self) -> (Vec<u8>, u64) {
        std::mem::take(&mut *lock(&self.operator_messages))
    }
}

/// A place among the connections. When it is dropped, no other thread begins to write to the
/// socket.
#[derive(Debug)]
pub(super) struct Membership {
    shared: Arc<SharedState>,
    /// The connection in this place.
    pub(super) member: Arc<Member>,
}

impl Membership {
    /// Adds to `others` the other connections of its group; with `earlier_only`, those that
    /// joined before.
    pub(super) fn others(&self, earlier_only: bool, others: &mut Vec<Arc<Member>>) {
        let (me, group) = (self.member.number, self.member.group());
        let wanted = |other: &&Arc<Member>| {
            let joined = if earlier_only { other.number < me } else { other.number != me };
            joined && other.group() == group
        };
        others.extend(self.shared.members().values().filter(wanted).cloned());
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.members().remove(&self.member.id.slot());
    }
}
