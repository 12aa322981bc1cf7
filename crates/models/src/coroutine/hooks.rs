//! Hooks into the calls of the tasks and into tokio, so that a trace can record them.

use std::io;
use std::os::fd::RawFd;

use tokio::runtime::Builder;

use proactor::calls::{Calls, PlainCalls};
use proactor::keys::Key;
use proactor::traced::TracedCalls;
use proactor_record::Call;

/// Makes the calls of the tasks, and is called where tokio acts for them: it waits, and has the
/// kernel watch their sockets. The default methods do nothing and cost nothing.
pub trait RuntimeHooks: Calls + Sync {
    /// Registers for the waits of the executor.
    fn watch_waits(&self, _executor: &mut Builder) {}

    /// A task resumes because a descriptor is readable or writable, or after it has yielded.
    #[inline]
    fn ready(&self, _key: Key, _readable: bool, _writable: bool) {}

    /// The executor adds this file to its epoll, or removes it; `make` makes the call.
    ///
    /// # Errors
    /// The error of `make`.
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
    fn watch_waits(&self, executor: &mut Builder) {
        let (before, after) = (self.clone(), self.clone());
        // tokio reports neither the timeout nor how many descriptors are ready.
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
