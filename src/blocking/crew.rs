//! The threads: begun, woken, and every one of them joined.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use slab::Slab;

use super::hall::Hall;
use crate::counters::Counters;
use crate::os;

/// A thread's stack. Address space: the kernel gives memory for what is touched.
const STACK: usize = 256 << 10;

/// The threads of a server.
#[derive(Debug)]
pub(super) struct Crew {
    hands: Slab<Hand>,
    /// The stack of those who will be added.
    pub(super) stack: usize,
}

#[derive(Debug)]
struct Hand {
    thread: JoinHandle<io::Result<Counters>>,
    /// True once it has noticed that the server drains: it need not be woken any more.
    noticed: Arc<AtomicBool>,
}

impl Crew {
    /// Nobody.
    pub(super) fn new() -> Crew {
        Crew { hands: Slab::new(), stack: STACK }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.hands.len()
    }

    /// Has a thread do `work`, which calls what it is given as soon as it sees that the server
    /// drains.
    ///
    /// # Errors
    /// There can be no more threads; `work` is dropped.
    pub(super) fn add<W>(&mut self, hall: &Arc<Hall>, work: W) -> io::Result<()>
    where
        W: FnOnce(&Hall, &mut dyn FnMut()) -> io::Result<Counters> + Send + 'static,
    {
        let place = self.hands.vacant_entry();
        let noticed = Arc::new(AtomicBool::new(false));
        let (notice, hall, key) = (Arc::clone(&noticed), Arc::clone(hall), place.key());
        let thread = thread::Builder::new().stack_size(self.stack).spawn(move || {
            let ending = Ending(hall, key);
            let worked = work(&ending.0, &mut || notice.store(true, Ordering::Release));
            drop(ending);
            worked.map(|counters| Counters { calls: os::calls(), ..counters })
        })?;
        place.insert(Hand { thread, noticed });
        Ok(())
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
        for key in hall.take_ended() {
            match self.hands.remove(key).thread.join() {
                Ok(Ok(counted)) => counters += counted,
                Ok(Err(error)) => failed = failed.and(Err(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failed.map(|()| counters)
    }

    /// Interrupts the calls of those who have not noticed that the server drains; answers whether
    /// there are any. One may have looked just before, and go to sleep just after: so again.
    pub(super) fn wake(&self) -> bool {
        let asleep = |hand: &&Hand| !hand.noticed.load(Ordering::Acquire);
        self.hands.iter().map(|(_, hand)| hand).filter(asleep).fold(false, |_, hand| {
            os::interrupt(&hand.thread);
            true
        })
    }
}

/// Says that a thread ends, however that comes about.
struct Ending(Arc<Hall>, usize);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ends(self.1);
    }
}
