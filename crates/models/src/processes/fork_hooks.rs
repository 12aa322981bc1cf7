//! Who sees what a parent and its children do, to remember it.
//!
//! Each loop numbers its own connections, and there is one in the parent and one in each child that
//! relays. In a trace of them all they have the names that the parent gave: a client's, in
//! whichever process, and that of the link to its child, at either end.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use super::{LISTENERS, SHUTDOWN};
use proactor::calls::{Calls, PlainCalls, SocketCalls};
use proactor::keys::{ConnId, Key, KeyOwner, ListenerId};
use proactor::selector::{Poll, Selector};
use proactor::traced::{Traced, TracedCalls};
use proactor_record::{Call, Log, Record, Writer};

/// Makes the calls of a parent and of its children: each child has a [lane](Calls::lane) of its
/// own. By default nobody looks, and it costs nothing.
pub trait ForkHooks: Calls + fmt::Debug {
    /// By what whoever relays waits: it asks poll(2).
    type Selector: Selector + SocketCalls + fmt::Debug;

    /// For the loop of whoever's calls these are.
    fn selector(&self) -> Self::Selector;

    /// The next connection of the loop, `conn`, is known as `whose` to all.
    #[inline]
    fn name(_selector: &mut Self::Selector, _conn: ConnId, _whose: KeyOwner) {}

    /// A call that makes, tells or reaps a child; `make` makes it, and `res` says what its answer
    /// comes to. `file` is what the child is given, or -1.
    ///
    /// # Errors
    /// That of `make`.
    #[inline]
    fn made<T>(
        &self,
        _call: Call,
        (_whose, _file): (KeyOwner, RawFd),
        make: impl FnOnce() -> io::Result<T>,
        _res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        make()
    }
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
        Traced::new(Poll::new(), RenamingLog { log, names: Vec::new() })
    }

    fn name(selector: &mut Traced<Poll, RenamingLog>, conn: ConnId, whose: KeyOwner) {
        selector.recorder().name(conn, whose);
    }

    fn made<T>(
        &self,
        call: Call,
        (whose, file): (KeyOwner, RawFd),
        make: impl FnOnce() -> io::Result<T>,
        res: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        TracedCalls::made(self, (call, false), (whose.into(), file), 0, make, res)
    }
}

/// Writes into a lane, with the names that all know.
#[derive(Debug)]
pub struct RenamingLog {
    log: Writer,
    /// By the slot in the loop.
    names: Vec<KeyOwner>,
}

impl RenamingLog {
    fn name(&mut self, conn: ConnId, whose: KeyOwner) {
        let slot = conn.slot() as usize;
        if self.names.len() <= slot {
            self.names.resize(slot + 1, KeyOwner::Shutdown);
        }
        self.names[slot] = whose;
    }

    /// Whose it is to all that is this to the loop.
    fn known(&self, whose: KeyOwner) -> KeyOwner {
        match whose {
            KeyOwner::Conn(conn) => self.names.get(conn.slot() as usize).copied().unwrap_or(whose),
            KeyOwner::External(SHUTDOWN) => KeyOwner::Shutdown,
            KeyOwner::External(guest) if guest >= LISTENERS => {
                KeyOwner::Listener(ListenerId((guest - LISTENERS) as u16))
            }
            KeyOwner::Listener(_)
            | KeyOwner::Shutdown
            | KeyOwner::Console
            | KeyOwner::External(_)
            | KeyOwner::Link(_) => whose,
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
