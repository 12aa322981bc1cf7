//! The threads of a server: started, interrupted, and joined.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::shared::SharedState;
use proactor::counters::{self, Counters, LiveCounters};
use proactor::keys::{ConnId, ConnSlab};
use proactor::os;

/// The size of a stack: address space, of which the kernel allocates what is touched.
const STACK: usize = 256 << 10;

/// The threads of a server.
#[derive(Debug)]
pub(super) struct ThreadPool {
    workers: ConnSlab<Worker>,
    /// The stack size of new threads.
    pub(super) stack: usize,
}

#[derive(Debug)]
struct Worker {
    thread: JoinHandle<io::Result<()>>,
    status: Arc<ThreadStatus>,
}

/// The status of a thread, which writes it. The server's main thread reads it.
#[derive(Debug)]
pub(super) struct ThreadStatus {
    /// The id of the thread.
    pub(super) id: ConnId,
    pub(super) shared: Arc<SharedState>,
    pub(super) counters: LiveCounters,
    /// True once it has noticed that the server drains: it need not be interrupted any more.
    noticed: AtomicBool,
}

impl ThreadStatus {
    pub(super) fn new(id: ConnId, shared: Arc<SharedState>) -> ThreadStatus {
        let noticed = AtomicBool::new(false);
        ThreadStatus { id, shared, counters: counters::live(), noticed }
    }

    /// Publishes what it has counted.
    pub(super) fn publish(&self, counters: &mut Counters) {
        counters.calls = os::calls();
        counters.store(&self.counters);
    }

    /// Notes that it has noticed the drain.
    pub(super) fn notice(&self) {
        self.noticed.store(true, Ordering::Release);
    }

    /// Returns true if it has not noticed that the server drains.
    fn is_unaware(&self) -> bool {
        !self.noticed.load(Ordering::Acquire)
    }

    /// Returns true if it has to be interrupted: because it has not noticed that the server
    /// `drains`, or for a message. While it writes to another connection it is left alone: that
    /// has a time limit, which an interrupt would restart (kernel-notes §30).
    pub(super) fn must_be_interrupted(&self, drains: bool) -> bool {
        let unaware = drains && self.is_unaware();
        match self.shared.members().get(&self.id.slot()) {
            Some(member) if unaware => !member.state().sends_to_another(),
            Some(member) => member.must_be_woken(),
            None => unaware,
        }
    }
}

impl ThreadPool {
    /// Creates a pool without a thread.
    pub(super) fn new() -> ThreadPool {
        ThreadPool { workers: ConnSlab::default(), stack: STACK }
    }

    /// Returns the number of threads.
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Returns the id that the next thread will have.
    pub(super) fn next_id(&self) -> ConnId {
        self.workers.next_id()
    }

    /// Starts a thread that does `work`, with a status of its own.
    ///
    /// # Errors
    /// No thread can be started; `work` is dropped.
    pub(super) fn add<W>(&mut self, shared: &Arc<SharedState>, work: W) -> io::Result<()>
    where
        W: FnOnce(&ThreadStatus, &mut Counters) -> io::Result<()> + Send + 'static,
    {
        let status = Arc::new(ThreadStatus::new(self.next_id(), Arc::clone(shared)));
        let its = Arc::clone(&status);
        let thread = thread::Builder::new().stack_size(self.stack).spawn(move || {
            let mut counters = Counters::default();
            let worked = catch_unwind(AssertUnwindSafe(|| work(&its, &mut counters)));
            its.shared.thread_ends(its.id);
            its.publish(&mut counters);
            worked.unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        self.workers.insert(Worker { thread, status });
        Ok(())
    }

    /// Returns the sum of the counters of all threads.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let statuses = self.workers.iter().map(|(_, worker)| &worker.status);
        statuses.for_each(|status| counters += Counters::load(&status.counters));
        counters
    }

    /// Joins the threads that have ended, and adds what they have counted to `counters`.
    ///
    /// # Errors
    /// The first error of a thread.
    ///
    /// # Panics
    /// If a thread panicked: a mistake in a protocol is not hidden.
    pub(super) fn reap(&mut self, shared: &SharedState, counters: &mut Counters) -> io::Result<()> {
        let mut failed = Ok(());
        for id in shared.take_ended() {
            let Worker { thread, status } = self.workers.remove(id).expect("a thread ends once");
            let worked = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            *counters += Counters::load(&status.counters);
            failed = failed.and(worked);
        }
        failed
    }

    /// Interrupts the threads that must be, because they have not noticed that the server `drains`
    /// or for a message. Returns true if there are any: one may have looked just before, and gone
    /// to sleep just after, so this is repeated.
    pub(super) fn interrupt(&self, drains: bool) -> bool {
        let mut any = false;
        for (_, Worker { thread, status }) in self.workers.iter() {
            if status.must_be_interrupted(drains) {
                os::interrupt(thread);
                any = true;
            }
            any |= drains && status.is_unaware();
        }
        any
    }
}
