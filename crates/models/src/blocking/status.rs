//! What a thread lets the others know of itself, and what it is told.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};

use super::group::{Member, lock};
use super::local_counters::LocalCounters;
use super::state::ThreadState;
use proactor::calls::Calls;
use proactor::connection::HARD;
use proactor::keys::ConnId;

/// A thread's status. It writes there itself; the server's own thread reads, and leaves mail.
#[derive(Debug)]
pub(super) struct ThreadStatus {
    /// The thread's, as its server has it.
    pub(super) id: ConnId,
    pub(super) counted: LocalCounters,
    /// True once it has noticed that the server drains: it need not be woken any more.
    noticed: AtomicBool,
    /// True exactly while there is mail.
    called: AtomicBool,
    served: Mutex<Served>,
}

/// Whom a thread serves.
#[derive(Debug, Default)]
struct Served {
    now: Option<Arc<Member>>,
    /// What the operator says to who is served now.
    messages: Vec<u8>,
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

    // By its thread.

    /// It has noticed that the server drains.
    pub(super) fn notice(&self) {
        self.noticed.store(true, Ordering::Release);
    }

    /// It begins to serve.
    pub(super) fn begin(&self, member: Arc<Member>) {
        lock(&self.served).now = Some(member);
    }

    /// It serves nobody any more.
    pub(super) fn end(&self) {
        let mut served = lock(&self.served);
        served.now = None;
        served.messages.clear();
        self.called.store(false, Ordering::Relaxed);
    }

    /// Whether there is mail. To be asked after it has told that it will [sleep](Member::does),
    /// lest it sleeps while nobody calls.
    pub(super) fn is_called(&self) -> bool {
        fence(Ordering::SeqCst); // That of `call` is its other half.
        self.called.load(Ordering::Relaxed)
    }

    /// What the operator says to who is served.
    pub(super) fn take_messages(&self) -> Option<Vec<u8>> {
        if !self.called.load(Ordering::Relaxed) {
            return None;
        }
        let mut served = lock(&self.served);
        self.called.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut served.messages))
    }

    // By others.

    /// Whether it has noticed that the server drains.
    pub(super) fn has_noticed(&self) -> bool {
        self.noticed.load(Ordering::Acquire)
    }

    /// Looks at whom it serves, if it serves anybody.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Member) -> T) -> Option<T> {
        lock(&self.served).now.as_deref().map(look)
    }

    /// Leaves mail for whom it serves, if that is the one of this number, or anyone. Answers
    /// whether it will be sent; none if there is no such one.
    pub(super) fn post(
        &self,
        calls: &impl Calls,
        number: Option<u64>,
        line: &[u8],
    ) -> Option<bool> {
        let mut served = lock(&self.served);
        let Served { now, messages, .. } = &mut *served;
        let member = now.as_ref().filter(|member| number.is_none_or(|it| it == member.number))?;
        if !member.is_open() {
            return Some(false);
        }
        if messages.len() + line.len() > HARD {
            tracing::warn!("evicted: it is owed too much");
            member.break_off(calls);
            return Some(false);
        }
        messages.extend_from_slice(line);
        self.called.store(true, Ordering::Relaxed);
        Some(true)
    }

    /// Whether it writes to another's socket. That has a bounded time, which an interrupt would
    /// begin anew (kernel-notes §30).
    pub(super) fn sends_to_another(&self) -> bool {
        self.look(|member| matches!(member.state(), ThreadState::SendsTo(_))).unwrap_or(false)
    }

    /// Whether it sleeps for its own peer and there is messages: then it is to be woken. Who sleeps for
    /// another, or in a send, looks when that is over; interrupted, its stall would begin anew.
    pub(super) fn is_to_be_woken(&self) -> bool {
        if !self.called.load(Ordering::Relaxed) {
            return false;
        }
        fence(Ordering::SeqCst); // Either it sees the mail, or we see that it sleeps.
        self.look(|member| member.state().may_be_woken()).unwrap_or(false)
    }
}
