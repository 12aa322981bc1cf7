//! The threads: begun, woken, and every one of them joined.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::hall::Hall;
use super::slate::Slate;
use proactor::counters::Counters;
use proactor::keys::{ConnId, Keys};
use proactor::os;

/// A thread's stack. Address space: the kernel gives memory for what is touched.
const STACK: usize = 256 << 10;

/// The threads of a server.
#[derive(Debug)]
pub(super) struct Crew {
    hands: Keys<Hand>,
    /// The stack of those who will be added.
    pub(super) stack: usize,
}

#[derive(Debug)]
struct Hand {
    thread: JoinHandle<io::Result<()>>,
    slate: Arc<Slate>,
}

impl Crew {
    /// Nobody.
    pub(super) fn new() -> Crew {
        Crew { hands: Keys::new(), stack: STACK }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.hands.len()
    }

    /// What who is added next will be known by.
    pub(super) fn next_id(&self) -> ConnId {
        self.hands.next_id()
    }

    /// Has a thread do `work`, which keeps its slate.
    ///
    /// # Errors
    /// There can be no more threads; `work` is dropped.
    pub(super) fn add<W>(&mut self, hall: &Arc<Hall>, work: W) -> io::Result<()>
    where
        W: FnOnce(&Hall, &Slate) -> io::Result<()> + Send + 'static,
    {
        let id = self.next_id();
        let slate = Arc::new(Slate::new(id));
        let (its, hall) = (Arc::clone(&slate), Arc::clone(hall));
        let thread = thread::Builder::new().stack_size(self.stack).spawn(move || {
            let ending = Ending(hall, id);
            let worked = work(&ending.0, &its);
            drop(ending);
            its.tally.calls.set(os::calls());
            worked
        })?;
        self.hands.insert(Hand { thread, slate });
        Ok(())
    }

    /// What each of them lets the others know.
    pub(super) fn slates(&self) -> impl Iterator<Item = &Slate> {
        self.hands.iter().map(|(_, hand)| &*hand.slate)
    }

    /// What those have counted who are here.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.slates().for_each(|slate| counters += slate.tally.counters());
        counters
    }

    /// Joins those who have ended; answers what they counted.
    ///
    /// # Errors
    /// The first of theirs.
    ///
    /// # Panics
    /// If one of them did: a mistake in a protocol is not hidden.
    pub(super) fn reap(&mut self, hall: &Hall) -> io::Result<Counters> {
        let (mut counters, mut failed) = (Counters::default(), Ok(()));
        for id in hall.take_ended() {
            let Hand { thread, slate } = self.hands.remove(id).expect("a thread ends once");
            let worked = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counters += slate.tally.counters();
            failed = failed.and(worked);
        }
        failed.map(|()| counters)
    }

    /// Interrupts the calls of those who have not noticed that the server drains; answers whether
    /// there are any. One may have looked just before, and go to sleep just after: so again. Who
    /// writes to another is left alone, and notices when that is over.
    pub(super) fn wake(&self) -> bool {
        self.interrupt(|slate| !slate.has_noticed() && !slate.sends_to_another());
        self.slates().any(|slate| !slate.has_noticed())
    }

    /// Interrupts those who sleep for their own peer and have mail; answers whether there are any.
    pub(super) fn call(&self) -> bool {
        self.interrupt(Slate::is_to_be_woken)
    }

    fn interrupt(&self, whom: impl Fn(&Slate) -> bool) -> bool {
        let mut any = false;
        for (_, hand) in self.hands.iter().filter(|(_, hand)| whom(&hand.slate)) {
            os::interrupt(&hand.thread);
            any = true;
        }
        any
    }
}

/// Says that a thread ends, however that comes about.
struct Ending(Arc<Hall>, ConnId);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ends(self.1);
    }
}
