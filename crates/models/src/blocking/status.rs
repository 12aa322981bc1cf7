//! The status of a thread, which the thread that waits for the end looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::group::{Member, lock};
use super::shared::SharedState;
use proactor::counters::{Counters, LiveCounters};
use proactor::keys::ConnId;
use proactor::os;

/// The status of a thread, which writes it. The server's main thread reads it.
#[derive(Debug)]
pub(super) struct ThreadStatus {
    /// The id of the thread.
    pub(super) id: ConnId,
    pub(super) shared: Arc<SharedState>,
    pub(super) counters: LiveCounters,
    /// True once it has noticed that the server drains: it need not be interrupted any more.
    noticed: AtomicBool,
    /// The connection that it serves.
    served: Mutex<Option<Arc<Member>>>,
}

impl ThreadStatus {
    pub(super) fn new(id: ConnId, shared: Arc<SharedState>) -> ThreadStatus {
        let (noticed, served) = (AtomicBool::new(false), Mutex::new(None));
        ThreadStatus { id, shared, counters: LiveCounters::default(), noticed, served }
    }

    // Called by its own thread.

    /// Publishes what it has counted.
    pub(super) fn publish(&self, counters: &mut Counters) {
        counters.calls = os::calls();
        counters.store(&self.counters);
    }

    /// Notes that it has noticed the drain.
    pub(super) fn notice(&self) {
        self.noticed.store(true, Ordering::Release);
    }

    /// Notes which connection it serves, if any.
    pub(super) fn serve(&self, member: Option<Arc<Member>>) {
        *lock(&self.served) = member;
    }

    // Called by other threads.

    /// Returns true if it has noticed that the server drains.
    pub(super) fn has_noticed(&self) -> bool {
        self.noticed.load(Ordering::Acquire)
    }

    /// Looks at the connection that it serves, if there is one.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Member) -> T) -> Option<T> {
        lock(&self.served).as_deref().map(look)
    }

    /// Returns true if it has to be interrupted: because it has not noticed that the server
    /// `drains`, or for a message. While it writes to another connection it is left alone: that
    /// has a time limit, which an interrupt would restart (kernel-notes §30).
    pub(super) fn must_be_interrupted(&self, drains: bool) -> bool {
        let unaware = drains && !self.has_noticed();
        let it = |member: &Member| match unaware {
            true => !member.state().sends_to_another(),
            false => member.must_be_woken(),
        };
        self.look(it).unwrap_or(unaware)
    }
}
