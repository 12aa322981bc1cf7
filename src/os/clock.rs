//! The clock that a server reads: the system's, or one that a test sets.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::now;
use crate::clock::Nanos;

/// A monotonic clock; by default the system's.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Rc<Simulated>>);

/// A clock that stands still until it is set.
#[derive(Debug)]
struct Simulated {
    start: Instant,
    now: Cell<Nanos>,
}

impl Clock {
    /// A clock that shows zero until it is set; its clones show the same.
    pub fn simulated() -> Clock {
        Clock(Some(Rc::new(Simulated { start: Instant::now(), now: Cell::default() })))
    }

    /// Sets a simulated clock; the system's goes on as it does.
    pub fn set(&self, now: Nanos) {
        self.0.iter().for_each(|clock| clock.now.set(now));
    }

    /// Returns the time since some moment.
    pub fn now(&self) -> Nanos {
        self.0.as_ref().map_or_else(now, |clock| clock.now.get())
    }

    /// Returns the time as the standard library has it.
    pub fn instant(&self) -> Instant {
        let simulated = |clock: &Rc<Simulated>| clock.start + clock.now.get().since(Nanos(0));
        self.0.as_ref().map_or_else(Instant::now, simulated)
    }
}
