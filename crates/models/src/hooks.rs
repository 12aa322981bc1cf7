//! Hooks into the calls of coroutines and of processes, so that a trace can record them.
//!
//! Each loop of a process numbers its own connections, and there is one loop in the parent and one
//! in each child that relays. A trace of all processes uses the names that the parent gave: to a
//! client, in every process, and to the link to its child, at both ends.

use std::collections::HashMap;
use std::fmt;

use proactor::calls::{Calls, PlainCalls};
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId, MONITOR};
use proactor::selector::{Poll, Selector};
use proactor::traced::{Traced, TracedCalls};
use proactor_record::{Log, Record, Writer};
use tokio::runtime::Builder;

// The external descriptors that the loop of a parent watches.
pub(crate) const SHUTDOWN: u32 = MONITOR + 1;
pub(crate) const CHILD_EXITS: u32 = MONITOR + 2;
pub(crate) const LISTENERS: u32 = MONITOR + 3;

/// Makes the calls of a model. The default methods record nothing and cost nothing.
pub(crate) trait CallHooks: Calls + Sync + fmt::Debug {
    /// The selector of a loop that relays: poll(2).
    type Selector: Selector + fmt::Debug;

    /// Returns a selector whose calls are recorded as these are.
    fn selector(&self) -> Self::Selector;

    /// Names the next connection of the loop, `conn`, for all processes.
    #[inline]
    fn name(_selector: &mut Self::Selector, _conn: ConnId, _whose: KeyOwner) {}

    /// Registers for the waits of the executor.
    fn watch_waits(&self, _executor: &mut Builder) {}

    /// A task resumes because a descriptor is readable or writable, or after it has yielded.
    #[inline]
    fn ready(&self, _key: Key, _readable: bool, _writable: bool) {}
}

impl CallHooks for PlainCalls {
    type Selector = Poll;

    fn selector(&self) -> Poll {
        Poll::new()
    }
}

impl CallHooks for TracedCalls {
    type Selector = Traced<Poll, RenamingLog>;

    fn selector(&self) -> Traced<Poll, RenamingLog> {
        let log = self.writer().clone();
        Traced::new(Poll::new(), RenamingLog { log, names: HashMap::new() })
    }

    fn name(selector: &mut Traced<Poll, RenamingLog>, conn: ConnId, whose: KeyOwner) {
        selector.recorder().names.insert(conn.slot(), whose);
    }

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

/// Writes to a lane, with the names that all processes use.
#[derive(Debug)]
pub(crate) struct RenamingLog {
    log: Writer,
    /// The names, by the slot in the loop.
    names: HashMap<u32, KeyOwner>,
}

impl RenamingLog {
    /// Returns the name, for all processes, of what this loop calls so.
    fn known(&self, whose: KeyOwner) -> KeyOwner {
        match whose {
            KeyOwner::Conn(conn) => self.names.get(&conn.slot()).copied().unwrap_or(whose),
            KeyOwner::External(SHUTDOWN) => KeyOwner::Shutdown,
            KeyOwner::External(number) if number >= LISTENERS => {
                KeyOwner::Listener(ListenerId((number - LISTENERS) as u16))
            }
            other => other,
        }
    }
}

impl Log for RenamingLog {
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.log.begin_iteration(nanos, record);
    }

    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.log.end_iteration(nanos, record);
    }

    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        let owner = self.known(Key(record.id).into());
        self.log.note(nanos, Record { id: Key::from(owner).0, ..record });
    }
}
