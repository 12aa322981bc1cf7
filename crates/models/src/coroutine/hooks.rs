//! Hooks into tokio, so that a trace can record what it does for the tasks.

use tokio::runtime::Builder;

use proactor::calls::{Calls, PlainCalls};
use proactor::keys::Key;
use proactor::traced::TracedCalls;

/// Makes the calls of the tasks, and is called where tokio waits for them and resumes them. The
/// default methods do nothing and cost nothing.
pub(crate) trait RuntimeHooks: Calls + Sync {
    /// Registers for the waits of the executor.
    fn watch_waits(&self, _executor: &mut Builder) {}

    /// A task resumes because a descriptor is readable or writable, or after it has yielded.
    #[inline]
    fn ready(&self, _key: Key, _readable: bool, _writable: bool) {}
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
}
