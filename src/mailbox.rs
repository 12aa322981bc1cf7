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

use crate::error::SendError;
use crate::keys::{ConnId, ListenerId};

/// With more than this waiting for one connection, or for broadcasts, in bytes of memory, no more
/// is taken.
const WAITING_MAX: usize = 1 << 20;

/// Returns the memory that a request with so many bytes takes.
fn memory(bytes: usize) -> usize {
    bytes + size_of::<PostedRequest>()
}

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

impl PostedRequest {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            PostedRequest::Send(_, bytes) | PostedRequest::Broadcast(_, bytes) => bytes,
            PostedRequest::Wake(_) | PostedRequest::Close(_) => Vec::new(),
        }
    }
}

/// What is asked and not taken yet.
#[derive(Debug, Default)]
pub struct Mailbox(Mutex<MailboxState>);

#[derive(Debug, Default)]
struct MailboxState {
    posted: Vec<PostedRequest>,
    /// The memory that broadcasts take.
    broadcasts: usize,
    /// True once no loop takes anything any more.
    closed: bool,
}

impl Mailbox {
    /// Adds a request. Returns whether the mailbox was empty. What connections are asked for is
    /// limited for each of them: only a broadcast is refused while there is a loop.
    ///
    /// # Errors
    /// No loop takes it, or too many broadcasts wait.
    pub(crate) fn post(&self, request: PostedRequest) -> Result<bool, SendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SendError::Closed(request.into_bytes()));
        }
        if let PostedRequest::Broadcast(_, bytes) = &request {
            if state.broadcasts > WAITING_MAX {
                return Err(SendError::Full(request.into_bytes()));
            }
            state.broadcasts += memory(bytes.len());
        }
        let was_empty = state.posted.is_empty();
        state.posted.push(request);
        Ok(was_empty)
    }

    pub(crate) fn take(&self) -> Vec<PostedRequest> {
        let mut state = self.lock();
        state.broadcasts = 0;
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
#[derive(Debug, Default)]
pub struct SharedPeer {
    /// The id of the connection: of no later one in its slot.
    pub conn: ConnId,
    /// True until it finishes, is broken, or a handle closes it.
    open: AtomicBool,
    /// True while so much is queued that it does not receive.
    congested: AtomicBool,
    /// True from a wake until the loop takes it: further wakes are the same one.
    woken: AtomicBool,
    /// The memory of the bytes that are posted and not taken.
    waiting: AtomicUsize,
}

impl SharedPeer {
    pub(crate) fn new(conn: ConnId, open: bool) -> SharedPeer {
        SharedPeer { conn, open: open.into(), ..SharedPeer::default() }
    }

    // Called by other threads.

    /// Reserves memory for `bytes`, which will be posted.
    pub(crate) fn reserve(&self, bytes: Vec<u8>) -> Result<Vec<u8>, SendError> {
        if !self.open.load(Ordering::Relaxed) {
            return Err(SendError::Closed(bytes));
        }
        let waiting = self.waiting.load(Ordering::Relaxed);
        if self.congested.load(Ordering::Relaxed) || waiting > WAITING_MAX {
            return Err(SendError::Full(bytes));
        }
        self.waiting.fetch_add(memory(bytes.len()), Ordering::Relaxed);
        Ok(bytes)
    }

    /// Returns true if this is the first wake since the last one was taken.
    pub(crate) fn wakes_first(&self) -> bool {
        self.open.load(Ordering::Relaxed) && !self.woken.swap(true, Ordering::AcqRel)
    }

    // Called by all threads.

    /// Refuses its handles from now on. Returns true if it did not already.
    pub fn close(&self) -> bool {
        self.open.swap(false, Ordering::Relaxed)
    }

    // Called by the thread that serves the connection.

    /// A request with so many bytes is taken.
    pub fn take_bytes(&self, bytes: usize) {
        self.waiting.fetch_sub(memory(bytes), Ordering::Relaxed);
    }

    /// A wake is taken, before the protocol is called: a later wake is another one.
    pub fn take_wake(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// Publishes whether so much is queued that handles are refused.
    pub fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Ordering::Relaxed);
    }
}
