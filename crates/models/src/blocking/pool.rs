//! The threads of a server: started, interrupted, and joined.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::shared::SharedState;
use super::status::ThreadStatus;
use proactor::counters::Counters;
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

impl ThreadPool {
    /// Creates a pool without a thread.
    pub(super) fn new() -> ThreadPool {
        ThreadPool { workers: ConnSlab::new(), stack: STACK }
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
            let (end, mut counters) = (ThreadEnd(its), Counters::default());
            let worked = work(&end.0, &mut counters);
            let its = Arc::clone(&end.0);
            drop(end);
            its.publish(&mut counters);
            worked
        })?;
        self.workers.insert(Worker { thread, status });
        Ok(())
    }

    /// Returns the status of the thread that may serve this connection: its own, or the only one.
    pub(super) fn status(&self, conn: ConnId) -> Option<&ThreadStatus> {
        let only = || self.statuses().next().filter(|status| status.id.slot() == conn.slot());
        self.workers.get(conn).map(|worker| &*worker.status).or_else(only)
    }

    /// Returns the status of every thread.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &ThreadStatus> {
        self.workers.iter().map(|(_, worker)| &*worker.status)
    }

    /// Returns the sum of the counters of all threads.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.statuses().for_each(|status| counters += Counters::load(&status.counters));
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
            let worked = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
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
        for (_, worker) in self.workers.iter() {
            if worker.status.must_be_interrupted(drains) {
                os::interrupt(&worker.thread);
                any = true;
            }
            any |= drains && !worker.status.has_noticed();
        }
        any
    }
}

/// Reports the end of a thread, also of one that panics.
struct ThreadEnd(Arc<ThreadStatus>);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        self.0.shared.thread_ends(self.0.id);
    }
}
