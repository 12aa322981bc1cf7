//! The status of a thread, and the messages for its connection.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};

use super::group::{Member, lock};
use super::local_counters::LocalCounters;
use super::state::ThreadState;
use proactor::calls::Calls;
use proactor::connection::HARD;
use proactor::keys::ConnId;
use proactor::limits::CloseReason;
use proactor::mailbox::PostedRequest;

/// The status of a thread, which writes it. The server's main thread reads it, and leaves messages.
#[derive(Debug)]
pub(super) struct ThreadStatus {
    /// The id of the thread.
    pub(super) id: ConnId,
    pub(super) counted: LocalCounters,
    /// True once it has noticed that the server drains: it need not be interrupted any more.
    noticed: AtomicBool,
    /// True exactly while there are messages.
    called: AtomicBool,
    served: Mutex<Served>,
}

/// The connection that a thread serves.
#[derive(Debug, Default)]
struct Served {
    now: Option<Arc<Member>>,
    /// The messages to this connection, of the operator or to all peers.
    messages: Vec<u8>,
    /// What its handles ask of it.
    posted: Vec<PostedRequest>,
}

impl ThreadStatus {
    pub(super) fn new(id: ConnId) -> ThreadStatus {
        ThreadStatus {
            id,
            counted: LocalCounters::default(),
            noticed: AtomicBool::new(false),
            called: AtomicBool::new(false),
            served: Mutex::default(),
        }
    }

    // Called by its own thread.

    /// Notes that it has noticed the drain.
    pub(super) fn notice(&self) {
        self.noticed.store(true, Ordering::Release);
    }

    /// Notes that it serves a connection.
    pub(super) fn begin(&self, member: Arc<Member>) {
        lock(&self.served).now = Some(member);
    }

    /// Notes that it serves no connection any more.
    pub(super) fn end(&self) {
        let mut served = lock(&self.served);
        served.now = None;
        (served.messages, served.posted) = (Vec::new(), Vec::new());
        self.called.store(false, Ordering::Relaxed);
    }

    /// Returns true if there are messages. Called after it has published that it will
    /// [sleep](Member::does): else it could sleep while there are some.
    pub(super) fn is_called(&self) -> bool {
        fence(Ordering::SeqCst); // Pairs with the fence of `must_be_woken`.
        self.called.load(Ordering::Relaxed)
    }

    /// Takes the messages, and what handles ask.
    pub(super) fn take_messages(&self) -> Option<(Vec<u8>, Vec<PostedRequest>)> {
        if !self.called.load(Ordering::Relaxed) {
            return None;
        }
        let mut served = lock(&self.served);
        self.called.store(false, Ordering::Relaxed);
        Some((std::mem::take(&mut served.messages), std::mem::take(&mut served.posted)))
    }

    // Called by other threads.

    /// Returns true if it has noticed that the server drains.
    pub(super) fn has_noticed(&self) -> bool {
        self.noticed.load(Ordering::Acquire)
    }

    /// Looks at the connection that it serves, if there is one.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Member) -> T) -> Option<T> {
        lock(&self.served).now.as_deref().map(look)
    }

    /// Leaves what a handle asks of connection `conn`, if it serves that.
    pub(super) fn pass(&self, conn: ConnId, posted: PostedRequest) {
        let mut served = lock(&self.served);
        if served.now.as_ref().is_some_and(|member| member.id == conn) {
            served.posted.push(posted);
            self.called.store(true, Ordering::Relaxed);
        }
    }

    /// Leaves a message for the connection that it serves, if that is `wanted`. Returns whether it
    /// will be sent; `None` if there is no such connection.
    pub(super) fn post(
        &self,
        calls: &impl Calls,
        wanted: impl Fn(&Member) -> bool,
        line: &[u8],
    ) -> Option<bool> {
        let mut served = lock(&self.served);
        let Served { now, messages, .. } = &mut *served;
        let member = now.as_ref().filter(|member| wanted(member))?;
        if !member.is_open() {
            return Some(false);
        }
        if messages.len() + line.len() > HARD {
            tracing::warn!("evicted: too much is queued for it");
            member.break_off(calls, CloseReason::QueueFull);
            return Some(false);
        }
        messages.extend_from_slice(line);
        self.called.store(true, Ordering::Relaxed);
        Some(true)
    }

    /// Returns true if it writes to another connection. That has a time limit, which an interrupt
    /// would restart (kernel-notes §30).
    pub(super) fn sends_to_another(&self) -> bool {
        self.look(|member| matches!(member.state(), ThreadState::SendsTo(_))).unwrap_or(false)
    }

    /// Returns true if it sleeps for its own peer and there are messages: then it has to be
    /// interrupted. A thread that sleeps for another connection, or in a send, looks afterwards; an
    /// interrupt would restart its time limit.
    pub(super) fn must_be_woken(&self) -> bool {
        if !self.called.load(Ordering::Relaxed) {
            return false;
        }
        fence(Ordering::SeqCst); // Either it sees the messages, or this sees that it sleeps.
        self.look(|member| member.state().may_be_woken()).unwrap_or(false)
    }
}
