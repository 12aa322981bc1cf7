//! Hooks into the calls of a parent and its children, so that a trace can record them.
//!
//! Each loop numbers its own connections, and there is one loop in the parent and one in each child
//! that relays. A trace of all processes uses the names that the parent gave: to a client, in every
//! process, and to the link to its child, at both ends.

use std::collections::HashMap;
use std::fmt;

use super::{LISTENERS, SHUTDOWN};
use proactor::calls::{Calls, PlainCalls};
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::selector::{Poll, Selector};
use proactor::traced::{Traced, TracedCalls};
use proactor_record::{Log, Record, Writer};

/// Makes the calls of a parent and of its children: each child has a [lane](Calls::lane) of its
/// own. The default methods record nothing and cost nothing.
pub(crate) trait ForkHooks: Calls + fmt::Debug {
    /// The selector of a loop that relays: poll(2).
    type Selector: Selector + fmt::Debug;

    /// Returns a selector whose calls are recorded as these are.
    fn selector(&self) -> Self::Selector;

    /// Names the next connection of the loop, `conn`, for all processes.
    #[inline]
    fn name(_selector: &mut Self::Selector, _conn: ConnId, _whose: KeyOwner) {}
}

impl ForkHooks for PlainCalls {
    type Selector = Poll;

    fn selector(&self) -> Poll {
        Poll::new()
    }
}

impl ForkHooks for TracedCalls {
    type Selector = Traced<Poll, RenamingLog>;

    fn selector(&self) -> Traced<Poll, RenamingLog> {
        let log = self.writer().clone();
        Traced::new(Poll::new(), RenamingLog { log, names: HashMap::new() })
    }

    fn name(selector: &mut Traced<Poll, RenamingLog>, conn: ConnId, whose: KeyOwner) {
        selector.recorder().names.insert(conn.slot(), whose);
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
