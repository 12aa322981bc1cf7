//! Who sees what the tasks do, and what tokio does for them, to remember it.

use std::io;
use std::os::fd::RawFd;

use tokio::runtime::Builder;

use proactor::calls::{Calls, PlainCalls};
use proactor::keys::Key;
use proactor_trace::{Call, TracedCalls};

/// Makes the calls of the tasks, and sees what tokio does in their place: it waits, and has the
/// kernel watch their sockets. By default nobody looks, and it costs nothing.
pub trait RuntimeHooks: Calls + Sync {
    /// Has the executor say when it waits.
    fn attend(&self, _executor: &mut Builder) {}

    /// A task goes on with what it awaited, or has let others go before: this may be read from, or
    /// written to.
    #[inline]
    fn ready(&self, _key: Key, _readable: bool, _writable: bool) {}

    /// tokio has the kernel watch this file, or watch it no more; `make` does it.
    ///
    /// # Errors
    /// That of `make`.
    #[inline]
    fn watch<T>(
        &self,
        _call: Call,
        _key: Key,
        _file: RawFd,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        make()
    }
}

impl RuntimeHooks for PlainCalls {}

impl RuntimeHooks for TracedCalls {
    fn attend(&self, executor: &mut Builder) {
        let (before, after) = (self.clone(), self.clone());
        // For how long at most, and how many are ready, it tells nobody.
        executor.on_thread_park(move || before.wait_begins(None));
        executor.on_thread_unpark(move || after.wait_ends(Ok(None)));
    }

    fn ready(&self, key: Key, readable: bool, writable: bool) {
        TracedCalls::ready(self, key, readable, writable);
    }

    fn watch<T>(
        &self,
        call: Call,
        key: Key,
        file: RawFd,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.made((call, false), (key, file), 0, make, |_| 0)
    }
}
