//! What other threads ask of the connections of a server, until its loop takes it.
//!
//! 1. A thread locks the mailbox and adds a [`PostedRequest`]. If the mailbox was empty, it
//!    then adds to the eventfd of the loop.
//! 2. The loop, which waits for the eventfd, resets it, *then* locks the mailbox and takes all.
//!
//! So nothing is left behind: what is added after the loop took all finds an empty mailbox, and
//! notifies again. What is added between the reset and the lock is taken, and one iteration finds
//! nothing. A thread that ends between the two steps of 1 leaves what it added until the next
//! notification. The lock orders all other memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::keys::{ConnId, ListenerId};

/// With more than this waiting for one connection, or for broadcasts, in bytes, no more is taken.
const WAITING_MAX: usize = 1 << 20;

/// What a thread asks of a connection.
#[derive(Debug)]
pub enum PostedRequest {
    /// To send these bytes to its peer.
    Send(Arc<SharedPeer>, Vec<u8>),
    /// To wake its protocol.
    Wake(Arc<SharedPeer>),
    /// To close it now.
    Close(Arc<SharedPeer>),
    /// To send these bytes to all peers of a listener.
    Broadcast(ListenerId, Vec<u8>),
}

/// What is asked and not taken yet.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<MailboxState>);

#[derive(Debug, Default)]
struct MailboxState {
    posted: Vec<PostedRequest>,
    /// The sum of the bytes of broadcasts.
    broadcast_bytes: usize,
    /// True once no loop takes anything any more.
    closed: bool,
}

/// Why something was not posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl Mailbox {
    /// Adds what `posted` returns, unless it is refused. Returns whether the mailbox was empty.
    pub(crate) fn post(&self, posted: impl FnOnce() -> PostedRequest) -> Result<bool, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.broadcast_bytes > WAITING_MAX {
            return Err(Refused::Full);
        }
        let was_empty = state.posted.is_empty();
        let posted = posted();
        if let PostedRequest::Broadcast(_, bytes) = &posted {
            state.broadcast_bytes += bytes.len();
        }
        state.posted.push(posted);
        Ok(was_empty)
    }

    pub(crate) fn take(&self) -> Vec<PostedRequest> {
        let mut state = self.lock();
        state.broadcast_bytes = 0;
        std::mem::take(&mut state.posted)
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        (state.closed, state.posted) = (true, Vec::new());
    }

    fn lock(&self) -> MutexGuard<'_, MailboxState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, as its handles know it.
#[derive(Debug)]
pub struct SharedPeer {
    conn: ConnId,
    /// True until it finishes or is broken.
    open: AtomicBool,
    /// True while so much is queued that it does not receive.
    congested: AtomicBool,
    /// True from a wake until the loop takes it: further wakes are the same one.
    woken: AtomicBool,
    /// Bytes that are posted and not taken.
    waiting: AtomicUsize,
}

impl SharedPeer {
    pub(crate) fn new(conn: ConnId, open: bool) -> SharedPeer {
        SharedPeer {
            conn,
            open: AtomicBool::new(open),
            congested: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns the id of the connection: of no later one in its slot.
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    // Called by other threads.

    /// Reserves space for so many bytes.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), Refused> {
        let congested = self.congested.load(Ordering::Relaxed);
        match self.open.load(Ordering::Relaxed) {
            false => Err(Refused::Closed),
            _ if congested || self.waiting.load(Ordering::Relaxed) > WAITING_MAX => {
                Err(Refused::Full)
            }
            _ => Ok(_ = self.waiting.fetch_add(bytes, Ordering::Relaxed)),
        }
    }

    /// Returns true if this is the first wake since the last one was taken.
    pub(crate) fn wakes_first(&self) -> bool {
        self.open.load(Ordering::Relaxed) && !self.woken.swap(true, Ordering::AcqRel)
    }

    // Called by the thread that serves the connection.

    /// So many bytes are taken.
    pub fn take_bytes(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A wake is taken, before the protocol is called: a later wake is another one.
    pub fn take_wake(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// Publishes whether so much is queued that handles are refused.
    pub fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Ordering::Relaxed);
    }

    /// Refuses its handles from now on.
    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }
}
