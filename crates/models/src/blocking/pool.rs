//! The threads: begun, woken, and every one of them joined.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::shared::SharedState;
use super::status::ThreadStatus;
use proactor::counters::Counters;
use proactor::keys::{ConnId, ConnSlab};
use proactor::os;

/// A thread's stack. Address space: the kernel gives memory for what is touched.
const STACK: usize = 256 << 10;

/// The threads of a server.
#[derive(Debug)]
pub(super) struct ThreadPool {
    workers: ConnSlab<Worker>,
    /// The stack of those who will be added.
    pub(super) stack: usize,
}

#[derive(Debug)]
struct Worker {
    thread: JoinHandle<io::Result<()>>,
    status: Arc<ThreadStatus>,
}

impl ThreadPool {
    /// Nobody.
    pub(super) fn new() -> ThreadPool {
        ThreadPool { workers: ConnSlab::new(), stack: STACK }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// What who is added next will be known by.
    pub(super) fn next_id(&self) -> ConnId {
        self.workers.next_id()
    }

    /// Has a thread do `work`, which keeps its status.
    ///
    /// # Errors
    /// There can be no more threads; `work` is dropped.
    pub(super) fn add<W>(&mut self, shared: &Arc<SharedState>, work: W) -> io::Result<()>
    where
        W: FnOnce(&SharedState, &ThreadStatus) -> io::Result<()> + Send + 'static,
    {
        let id = self.next_id();
        let status = Arc::new(ThreadStatus::new(id));
        let (its, shared) = (Arc::clone(&status), Arc::clone(shared));
        let thread = thread::Builder::new().stack_size(self.stack).spawn(move || {
            let ending = Ending(shared, id);
            let worked = work(&ending.0, &its);
            drop(ending);
            its.counted.calls.set(os::calls());
            worked
        })?;
        self.workers.insert(Worker { thread, status });
        Ok(())
    }

    /// What each of them lets the others know.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &ThreadStatus> {
        self.workers.iter().map(|(_, worker)| &*worker.status)
    }

    /// What those have counted who are here.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.statuses().for_each(|status| counters += status.counted.snapshot());
        counters
    }

    /// Joins those who have ended; answers what they counted.
    ///
    /// # Errors
    /// The first of theirs.
    ///
    /// # Panics
    /// If one of them did: a mistake in a protocol is not hidden.
    pub(super) fn reap(&mut self, shared: &SharedState) -> io::Result<Counters> {
        let (mut counters, mut failed) = (Counters::default(), Ok(()));
        for id in shared.take_ended() {
            let Worker { thread, status } = self.workers.remove(id).expect("a thread ends once");
            let worked = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counters += status.counted.snapshot();
            failed = failed.and(worked);
        }
        failed.map(|()| counters)
    }

    /// Interrupts the calls of those who have not noticed that the server drains; answers whether
    /// there are any. One may have looked just before, and go to sleep just after: so again. Who
    /// writes to another is left alone, and notices when that is over.
    pub(super) fn interrupt_unaware(&self) -> bool {
        self.interrupt(|status| !status.has_noticed() && !status.sends_to_another());
        self.statuses().any(|status| !status.has_noticed())
    }

    /// Interrupts those who sleep for their own peer and have mail; answers whether there are any.
    pub(super) fn interrupt_receivers(&self) -> bool {
        self.interrupt(ThreadStatus::is_to_be_woken)
    }

    fn interrupt(&self, whom: impl Fn(&ThreadStatus) -> bool) -> bool {
        let mut any = false;
        for (_, worker) in self.workers.iter().filter(|(_, worker)| whom(&worker.status)) {
            os::interrupt(&worker.thread);
            any = true;
        }
        any
    }
}

/// Says that a thread ends, however that comes about.
struct Ending(Arc<SharedState>, ConnId);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.thread_ends(self.1);
    }
}
