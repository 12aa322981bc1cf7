//! Submission and completion: how to ask a kernel that answers when it is done.
//!
//! A [`Ring`] is two queues and a way into the kernel. Its primitive methods face the
//! kernel: [`push`](Ring::push) returns what was queued, and [`reap`](Ring::reap) returns what the
//! kernel wrote, bit for bit. The typed half ([`submit`](Ring::submit), [`next`](Ring::next),
//! [`Completion`]) is shared code on top. So a simulated kernel runs under the code of production,
//! and a ring that records sees exactly what the kernel sees.
//!
//! ```text
//!   Op ──push──► Sqe ─┐                        ┌─ Cqe ──reap──► Completion
//!                     ▼        enter           │
//!              submission queue ──► kernel ──► completion queue
//! ```
//!
//! **One operation of a kind is in flight per connection.** So the pair {kind, connection} *is*
//! the operation's identity ([`Token`]), and no table is needed that leads from an id to an
//! operation. It also keeps the bytes in order: two sends in flight on one socket may be reordered
//! (kernel-notes §13).

mod accepts;
mod completion;
pub mod kernel;
mod memory;
mod provided;
mod restrict;
mod setup;
mod token;
mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::address::LISTEN_BACKLOG;
use crate::buffer::{Chunk, Lease, Pool, SendQueue, Size};
use crate::clock::Nanos;
use crate::keys::{ConnId, ListenerId};
use crate::os::{self, Clock};

pub use completion::{Completion, Recv, Sent};
pub use memory::VECTOR;
pub use provided::WIDEST;
pub use token::{Kind, Token};
pub use uring::{Config, Uring};

use completion::decode;

/// A socket of a ring: a slot of the ring's own file table (a *direct descriptor*), or a file
/// descriptor where the kernel has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// One of the accepts that a listener keeps in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AcceptId {
    /// The listener of the accept.
    pub listener: ListenerId,
    /// The number of the accept, below [`Ring::accepts`].
    pub slot: u16,
}

/// An operation to submit. It completes as the [`Completion`] of the same name.
///
/// An `Op` is transient: the ring keeps what the kernel needs longer.
#[derive(Debug)]
pub enum Op<'a> {
    /// Accepts one connection; or, where the kernel can, one after another until cancelled.
    Accept {
        /// The accept; none of this name is in flight.
        accept: AcceptId,
        /// The listening socket; stays open until the last completion.
        fd: BorrowedFd<'a>,
    },
    /// Receives into a buffer of `size`.
    Recv {
        /// The connection of the operation.
        conn: ConnId,
        /// The socket of the connection.
        socket: Socket,
        /// The size of buffer, which the ring's pool has.
        size: Size,
        /// How often it completes, and whether it waits.
        mode: RecvMode,
    },
    /// Sends the first chunks of a queue, as many as one operation takes.
    Send {
        /// The connection of the operation.
        conn: ConnId,
        /// The socket of the connection.
        socket: Socket,
        /// The queue: not empty. Until the send completes, the ring holds a share of each chunk, or
        /// has [taken](SendQueue::take_only) the only one.
        queue: &'a mut SendQueue,
        /// If true, a send of all the bytes posts no completion: see [`Ring::next_implied`].
        skip_success: bool,
    },
    /// Shuts the outbound direction down.
    Shutdown {
        /// The connection of the operation.
        conn: ConnId,
        /// The socket of the connection.
        socket: Socket,
    },
    /// Closes a socket. No other operation of the connection may be in flight.
    Close {
        /// The connection of the operation.
        conn: ConnId,
        /// The socket of the connection.
        socket: Socket,
    },
    /// Cancels an operation in flight. Both complete, in either order.
    Cancel {
        /// The operation to cancel.
        target: CancelTarget,
    },
    /// Reads from a terminal, a pipe or a file, when it has input. One read is in flight at a time.
    Read {
        /// The descriptor; stays open until the completion.
        fd: BorrowedFd<'a>,
        /// The buffer to read into, which the completion returns.
        lease: Lease,
    },
    /// Asks how many bytes that the socket took its peer has not acknowledged (`SIOCOUTQ`).
    Outq {
        /// The connection of the operation.
        conn: ConnId,
        /// The socket of the connection, a direct descriptor.
        socket: Socket,
    },
    /// Waits until a descriptor is readable: how a signal reaches the loop.
    Wake {
        /// Whose descriptor it is; one wait for each is in flight.
        source: WakeSource,
        /// The descriptor; stays open until the completion.
        fd: BorrowedFd<'a>,
    },
}

/// Whose descriptor an [`Op::Wake`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum WakeSource {
    /// That of the shutdown signal.
    Shutdown,
    /// That of a [monitor](crate::status::ServerMonitor).
    Monitor,
}

/// How often a receive completes, and whether it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvMode {
    /// It waits, and completes again and again until it is cancelled; once where the kernel cannot.
    Many,
    /// It waits, and completes once.
    Once,
    /// It completes as [`Recv::Nothing`] if nothing is there.
    AtOnce,
}

/// The operation that an [`Op::Cancel`] cancels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelTarget {
    /// An accept of a listener.
    Accept(AcceptId),
    /// The receive of a connection.
    Recv(ConnId),
    /// The send of a connection.
    Send(ConnId),
}

/// A queued submission: the part of its 64 bytes that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sqe {
    /// The `user_data` of the entry.
    pub token: Token,
    /// The operation: an `IORING_OP_*`.
    pub opcode: u8,
    /// The flags, each an `IOSQE_*`.
    pub flags: u8,
    /// The file, or the slot of a direct descriptor.
    pub fd: i32,
    /// Bytes to send, capacity to receive into, or zero.
    pub len: u32,
}

/// The submissions that an [`Op`] was queued as.
#[derive(Debug, Clone, Copy)]
pub struct Pushed {
    /// A linked poll, where the operation would otherwise block a kernel thread; before a cancel,
    /// the cancel of that poll.
    pub preceding: Option<Sqe>,
    /// The entry of the operation.
    pub op: Sqe,
}

/// A completion queue entry, as the kernel wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cqe {
    /// The `user_data` of the operation.
    pub token: Token,
    /// A count, a descriptor, or minus an errno.
    pub res: i32,
    /// `IORING_CQE_F_*`, and the buffer's id in the upper half.
    pub flags: u32,
}

impl Sqe {
    /// Returns true if a success posts no completion.
    pub fn skips_success(self) -> bool {
        self.flags & proactor_record::format::SKIP_SUCCESS != 0
    }
}

impl Cqe {
    /// The buffer's id is in the upper sixteen bits of the flags.
    pub const BUFFER: u32 = 1;
    /// The operation stays in flight and completes again.
    pub const MORE: u32 = 2;

    /// Returns true if the operation stays in flight. Nothing else says so (kernel-notes §2).
    pub fn more(self) -> bool {
        self.flags & Cqe::MORE != 0
    }

    /// Returns true if it is a receive that brought bytes.
    pub fn brought_bytes(self) -> bool {
        self.token.is(Kind::Recv) && self.res > 0
    }

    /// Returns the id of the buffer that the kernel picked, if it picked one.
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

/// How long [`Ring::enter`] may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It does not sleep.
    No,
    /// Until an operation completes.
    Completion,
    /// Until an operation completes, or until this time.
    Until(Nanos),
}

/// What an [`enter`](Ring::enter) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entered {
    /// Submissions that the kernel took.
    pub submitted: u32,
    /// Buffers that were lent to the kernel just before.
    pub lent: u32,
    /// True if completions wait outside a full completion queue.
    pub overflow: bool,
    /// A submission of the ring itself that was queued: a timeout.
    pub own: Option<Sqe>,
}

/// Two queues and a way into a kernel: the real one, a simulated one, or one that is recorded.
pub trait Ring {
    /// Returns true if the submission queue may lack the space for one more operation.
    fn is_full(&self) -> bool;

    /// Returns true if no buffer is free for a receive, of this size or another: then a receive
    /// must not be pushed. If the kernel picks the buffer, this is always false, and a receive
    /// without a buffer completes as [`Recv::NoBuffer`].
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
        Some(if any_size { pool.most_plentiful() } else { pool.nearest(preferred) })
    }

    /// Queues an operation; the queue must not be full. Returns what was queued.
    fn push(&mut self, op: Op<'_>) -> Pushed;

    /// Queues the send [`Op::Send`]; the queue must not be full. Returns true if a success posts no
    /// completion.
    fn push_send(
        &mut self,
        conn: ConnId,
        socket: Socket,
        queue: &mut SendQueue,
        skip_success: bool,
    ) -> bool {
        self.push(Op::Send { conn, socket, queue, skip_success }).op.skips_success()
    }

    /// Lends the kernel the idle buffers, submits what is queued, and sleeps as `wait` allows.
    ///
    /// # Errors
    /// The kernel refuses the ring as a whole, and the loop cannot continue. An operation that
    /// fails completes with its error; a signal, or a temporary lack of memory, is no error.
    fn enter(&mut self, wait: Wait) -> io::Result<Entered>;

    /// Returns the next completion queue entry.
    fn reap(&mut self) -> Option<Cqe>;

    /// Returns a connection whose send with `skip_success` sent all its bytes, and how many: such a
    /// send posts no completion. Called when all completions are reaped, until it returns `None`. A
    /// send that is short or fails completes like any other.
    ///
    /// If the kernel took only a part of the queue, the result of some sends is not known yet; then
    /// the next enter does not sleep, because more bytes may be queued behind them.
    ///
    /// A ring may ignore `skip_success`, and then always returns `None`.
    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        None
    }

    /// Returns the buffer that a receive or a read has filled. Called once for each such
    /// completion, after it was reaped.
    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease>;

    /// Returns the chunk that a send has taken from its queue, where it is put back before the
    /// result is reported. Called for each completion of a send, after it was reaped; a ring that
    /// takes nothing returns `None`.
    fn take_back(&mut self, _conn: ConnId) -> Option<Chunk> {
        None
    }

    /// Gives the pages of lent buffers back to the kernel, if none of them can hold bytes.
    fn trim(&mut self) {}

    /// Returns true if a receive of [`RecvMode::Many`] completes more than once.
    fn has_multishot(&self) -> bool {
        false
    }

    /// Returns true if the ring has the operation [`Op::Outq`]. It has it wherever its sockets are
    /// direct descriptors, but of a Unix socket it fails.
    fn has_outq(&self) -> bool {
        false
    }

    /// Returns the pool of its buffers.
    fn pool(&self) -> &Rc<Pool>;

    /// Returns how many accepts a listener keeps in flight: one, or several where each brings the
    /// address of one connection, so that a burst of connections needs few enters.
    fn accepts(&self) -> u16 {
        1
    }

    /// Returns how many connections wait to be accepted by a listener, or a larger number if the
    /// kernel does not count them.
    fn waiting(&self, _listener: ListenerId, fd: BorrowedFd<'_>) -> usize {
        os::waiting(fd, LISTEN_BACKLOG as usize)
    }

    /// Returns the address of the peer whose connection this accept has just completed with, if the
    /// ring knows it: until the accept is issued again. A Unix socket has none.
    fn peer_address(&self, _accept: AcceptId, _socket: Socket) -> Option<SocketAddr> {
        None
    }

    /// Returns the file descriptor of a socket, if it has one.
    fn descriptor(&self, _socket: Socket) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Returns the ring's clock.
    fn clock(&self) -> Clock {
        Clock::default()
    }

    /// Returns the time of the ring's clock.
    fn now(&self) -> Nanos {
        self.clock().now()
    }

    /// Queues an operation, and submits others first if the queue is full.
    ///
    /// # Errors
    /// Those of [`enter`](Ring::enter).
    fn submit(&mut self, op: Op<'_>) -> io::Result<Pushed> {
        if self.is_full() {
            self.make_space()?;
        }
        Ok(self.push(op))
    }

    /// Submits what is queued until the queue is not full.
    ///
    /// # Errors
    /// Those of [`enter`](Ring::enter).
    #[cold]
    fn make_space(&mut self) -> io::Result<()> {
        while self.is_full() {
            self.enter(Wait::No)?;
        }
        Ok(())
    }

    /// Returns the next completion.
    fn next(&mut self) -> Option<Completion> {
        let cqe = self.reap()?;
        Some(self.decode(cqe))
    }

    /// Returns the meaning of a completion that was reaped. Called once for each, unless it is a
    /// receive whose bytes are [taken](Ring::received).
    fn decode(&mut self, cqe: Cqe) -> Completion {
        decode(cqe, |cqe| self.take_buffer(cqe))
    }

    /// Returns the bytes that a receive brought, if it is one: most completions are. It is
    /// [`decode`](Ring::decode) without the other cases.
    #[inline(always)]
    fn received(&mut self, cqe: Cqe) -> Chunk {
        let lease = self.take_buffer(cqe).expect("bytes are received into a buffer");
        Chunk::received(lease, cqe.res as usize)
    }
}
