//! Submission and completion: how to ask a kernel that answers when it is done.
//!
//! A [`Ring`] is two queues and a way into the kernel. Its primitive methods stand exactly at the
//! kernel's border: what [`push`](Ring::push) answers is what was queued, what
//! [`reap`](Ring::reap) answers is what the kernel said, bit for bit. The typed half
//! ([`submit`](Ring::submit), [`next`](Ring::next), [`Completion`]) is shared code on top. So a
//! simulated kernel plays under the code that runs in production, and a ring that remembers what
//! passes through it remembers the truth.
//!
//! ```text
//!   Op ──push──► Sqe ─┐                        ┌─ Cqe ──reap──► Completion
//!                     ▼        enter           │
//!              submission queue ──► kernel ──► completion queue
//! ```
//!
//! **One operation of a kind is in flight per connection.** So the pair {kind, connection} *is*
//! the operation's identity ([`Token`]), and there is no table of what is in flight. It also keeps
//! the bytes in order: two sends in flight on one socket may be reordered (kernel-notes §13).

mod accepts;
mod completion;
mod held;
pub mod kernel;
mod provided;
mod setup;
mod token;
mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::buffer::{Lease, Pool, SendQueue, Size};
use crate::clock::Nanos;
use crate::keys::{ConnId, ListenerId};

pub use completion::{Completion, Recv, Sent};
pub use held::VECTOR;
pub use token::{Kind, Token};
pub use uring::{Config, Uring};

use completion::decode;

/// A socket as its ring names it: a slot of the ring's own file table (a *direct descriptor*), or,
/// on a ring that has none, a file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// One of the accepts that a listener keeps in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AcceptId {
    /// The listener.
    pub listener: ListenerId,
    /// The number of the accept, below [`Ring::accepts`].
    pub slot: u16,
}

/// What may be asked. Each but [`Cancel`](Op::Cancel) has a [`Completion`] of the same name.
///
/// An `Op` is transient: what the kernel needs longer, the ring keeps.
#[derive(Debug)]
pub enum Op<'a> {
    /// Accept connections: one, or, where the ring can, until told otherwise.
    Accept {
        /// The accept; none of this name is in flight.
        accept: AcceptId,
        /// The listening socket; stays open until the last completion.
        fd: BorrowedFd<'a>,
    },
    /// Receive: once, or, where the ring can, until told otherwise.
    Recv {
        /// Whose.
        conn: ConnId,
        /// From where.
        socket: Socket,
        /// Into buffers of this size, if the ring's pool has it.
        size: Size,
    },
    /// Send what is owed, as much of it as the ring takes in one operation.
    Send {
        /// Whose.
        conn: ConnId,
        /// To where.
        socket: Socket,
        /// What is owed: not empty. The ring holds shares of what it sends until it is sent.
        queue: &'a SendQueue,
        /// Whether it need not be told at once that all of it went: see [`Ring::next_implied`].
        skip_success: bool,
    },
    /// Shut the outbound direction down.
    Shutdown {
        /// Whose.
        conn: ConnId,
        /// Which.
        socket: Socket,
    },
    /// Close. Nothing else of this connection may be in flight.
    Close {
        /// Whose.
        conn: ConnId,
        /// Which.
        socket: Socket,
    },
    /// Cancel what is in flight. It still completes, and so does the cancel: in either order.
    Cancel {
        /// What.
        target: CancelTarget,
    },
    /// Read from a descriptor that is no socket, when there is something: from a terminal, a pipe,
    /// a file. One at a time.
    Read {
        /// Which; stays open until the completion.
        fd: BorrowedFd<'a>,
        /// Into this buffer, which comes back with the completion.
        lease: Lease,
    },
    /// Tell when a file descriptor can be read: how a signal reaches the loop.
    Wake {
        /// Which; stays open until the completion.
        fd: BorrowedFd<'a>,
    },
}

/// What a [`Op::Cancel`] cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelTarget {
    /// An accept of a listener.
    Accept(AcceptId),
    /// The receive of a connection.
    Recv(ConnId),
    /// The send of a connection.
    Send(ConnId),
}

/// A submission as it was queued: the part of its 64 bytes that is worth remembering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sqe {
    /// Travels with it.
    pub token: Token,
    /// `IORING_OP_*`.
    pub opcode: u8,
    /// `IOSQE_*`.
    pub flags: u8,
    /// The file, or the slot of a direct descriptor.
    pub fd: i32,
    /// Bytes to send, room to receive into, or zero.
    pub len: u32,
}

/// What one [`Op`] became.
#[derive(Debug, Clone, Copy)]
pub struct Pushed {
    /// A poll that goes before, where a kernel thread would else be blocked.
    pub preceding: Option<Sqe>,
    /// The operation.
    pub op: Sqe,
}

/// The kernel's sixteen bytes, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cqe {
    /// Whose answer.
    pub token: Token,
    /// A count, a descriptor, or minus an errno.
    pub res: i32,
    /// `IORING_CQE_F_*`, and the buffer's id in the upper half.
    pub flags: u32,
}

impl Cqe {
    /// The buffer's id is in the upper sixteen bits of the flags.
    pub const BUFFER: u32 = 1;
    /// The operation stays in flight: it will complete again.
    pub const MORE: u32 = 2;

    /// Whether the operation stays in flight. The *only* sign of it (kernel-notes §2).
    pub fn more(self) -> bool {
        self.flags & Cqe::MORE != 0
    }

    /// The buffer that the kernel picked, if it picked one.
    pub fn buffer(self) -> Option<u16> {
        (self.flags & Cqe::BUFFER != 0).then_some((self.flags >> 16) as u16)
    }

    fn result(self) -> io::Result<u32> {
        if self.res >= 0 {
            Ok(self.res as u32)
        } else {
            Err(io::Error::from_raw_os_error(-self.res))
        }
    }
}

/// For how long [`Ring::enter`] may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until something completes.
    Completion,
    /// Until something completes, or this moment has come.
    Until(Nanos),
}

/// What an [`enter`](Ring::enter) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entered {
    /// Submissions that the kernel took.
    pub submitted: u32,
    /// Buffers that it was lent just before.
    pub lent: u32,
    /// Whether completions had to wait outside a full completion queue.
    pub overflow: bool,
    /// A submission of the ring's own that went along: nothing is submitted unseen.
    pub own: Option<Sqe>,
}

/// Two queues and a way into the kernel: the real one, a simulated one, one that remembers.
pub trait Ring {
    /// Whether the submission queue may lack the room for one more operation.
    fn is_full(&self) -> bool;

    /// Whether a receive of this size would have no buffer, not even of another: it is not to be
    /// pushed. A ring whose kernel picks the buffer never lacks one beforehand; its receive
    /// completes as [`Recv::NoBuffer`].
    fn out_of_buffers(&self, _size: Size) -> bool {
        false
    }

    /// Returns the size of buffer for a receive of a connection that prefers `preferred`, or takes
    /// `any_size` that is plentiful; `None` if there is no buffer for it.
    fn buffer_for(&self, preferred: Size, any_size: bool) -> Option<Size> {
        if self.out_of_buffers(preferred) {
            return None;
        }
        let pool = self.pool();
        Some(if any_size { pool.largest_free() } else { pool.nearest(preferred) })
    }

    /// Queues an operation, for which there must be room. Answers what was queued.
    fn push(&mut self, op: Op<'_>) -> Pushed;

    /// Lends the kernel the idle buffers, submits what is queued, and sleeps as `wait` allows.
    ///
    /// # Errors
    /// The kernel refuses the ring as a whole: nothing can go on. What an operation fails with is
    /// its completion's affair; an interruption by a signal, or a lack of memory that passes, is
    /// no error.
    fn enter(&mut self, wait: Wait) -> io::Result<Entered>;

    /// The kernel's next answer, as it came.
    fn reap(&mut self) -> Option<Cqe>;

    /// A quiet send that went out whole, and how many bytes: it has no completion. To be asked,
    /// until there is none, when all is reaped; a quiet send that went otherwise completes like
    /// any.
    ///
    /// While it is not known yet how some went, because the kernel took a part of what was queued,
    /// the next enter does not sleep: who has more to send behind them would wait for ever.
    ///
    /// A ring may take no notice of quietness, and then always answers `None`.
    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        None
    }

    /// The buffer that the answer of a receive, or of a read, is about. Asked once for each, after
    /// the reaping.
    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease>;

    /// Where its buffers come from.
    fn pool(&self) -> &Rc<Pool>;

    /// Returns how many accepts a listener keeps in flight: one if an accept completes many times,
    /// more if each completes once, so that a burst of connections needs few enters.
    fn accepts(&self) -> u16 {
        1
    }

    /// Returns the address of the peer whose connection this accept has just completed with, if the
    /// ring knows it: until the accept is issued again. A Unix socket has none.
    fn peer_address(&self, _accept: AcceptId, _socket: Socket) -> Option<SocketAddr> {
        None
    }

    /// How many sockets it can hold at a time.
    fn sockets(&self) -> usize;

    /// The descriptor that a socket is, on a ring where it is one: to ask the kernel about it.
    fn descriptor(&self, _socket: Socket) -> Option<BorrowedFd<'_>> {
        None
    }

    /// What time it is.
    fn now(&self) -> Nanos;

    /// Queues an operation, making room if need be.
    ///
    /// # Errors
    /// Those of [`enter`](Ring::enter).
    fn submit(&mut self, op: Op<'_>) -> io::Result<()> {
        while self.is_full() {
            self.enter(Wait::No)?;
        }
        self.push(op);
        Ok(())
    }

    /// The next completion, if there is one.
    fn next(&mut self) -> Option<Completion> {
        let cqe = self.reap()?;
        Some(decode(cqe, |cqe| self.take_buffer(cqe)))
    }
}
