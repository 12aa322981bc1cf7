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

mod held;
pub mod kernel;
mod provided;
mod setup;
pub mod sim;
mod uring;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use crate::buffer::{Chunk, Lease, Pool, SendQueue, Size};
use crate::clock::Nanos;
use crate::keys::ConnId;

pub use uring::{Config, Uring};

/// A socket as its ring names it: a slot of the ring's own file table (a *direct descriptor*), or,
/// on a ring that has none, a file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// Which of a server's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// What may be asked. Each but [`Cancel`](Op::Cancel) has a [`Completion`] of the same name.
///
/// An `Op` is transient: what the kernel needs longer, the ring keeps.
#[derive(Debug)]
pub enum Op<'a> {
    /// Accept connections: one, or, where the ring can, until told otherwise.
    Accept {
        /// Whose.
        listener: ListenerId,
        /// Its socket; stays open until the last completion.
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
        /// Whether it need not be told at once that all of it went: see [`Ring::silent`].
        quiet: bool,
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
        target: Target,
    },
    /// Read from a descriptor that is no socket, when there is something: from a terminal, a pipe, a
    /// file. One at a time.
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
pub enum Target {
    /// The accept of a listener.
    Accept(ListenerId),
    /// The receive of a connection.
    Recv(ConnId),
    /// The send of a connection.
    Send(ConnId),
}

/// The kinds of operation that a token can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Op::Accept`]
    Accept = 1,
    /// [`Op::Recv`]
    Recv = 2,
    /// [`Op::Send`]
    Send = 3,
    /// [`Op::Shutdown`]
    Shutdown = 4,
    /// [`Op::Close`]
    Close = 5,
    /// [`Op::Cancel`] of an accept
    CancelAccept = 6,
    /// [`Op::Cancel`] of a receive
    CancelRecv = 7,
    /// [`Op::Cancel`] of a send
    CancelSend = 8,
    /// [`Op::Wake`]
    Wake = 9,
    /// The ring's own affair, a timeout for one.
    Aside = 10,
    /// The poll that goes before an accept, where one must.
    PollAccept = 11,
    /// The poll that goes before a receive, where one must.
    PollRecv = 12,
    /// The poll that goes before a send, where one must.
    PollSend = 13,
    /// [`Op::Read`]
    Read = 14,
    /// The poll that goes before a read.
    PollRead = 15,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 15] = [
        Kind::Accept,
        Kind::Recv,
        Kind::Send,
        Kind::Shutdown,
        Kind::Close,
        Kind::CancelAccept,
        Kind::CancelRecv,
        Kind::CancelSend,
        Kind::Wake,
        Kind::Aside,
        Kind::PollAccept,
        Kind::PollRecv,
        Kind::PollSend,
        Kind::Read,
        Kind::PollRead,
    ];
}

/// The 64 bits that travel with an operation as its `user_data`: what it is, and whose.
///
/// ```text
///   63       56 55              32 31                        0
///   │  kind 8  │  generation 24   │  slot 32 (or listener)    │
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Of an operation on a connection.
    pub fn of(kind: Kind, conn: ConnId) -> Token {
        let (generation, slot) = (u64::from(conn.generation()), u64::from(conn.slot()));
        Token((kind as u64) << 56 | generation << 32 | slot)
    }

    /// Of an operation on a listener, or on nothing in particular.
    pub fn at(kind: Kind, index: u32) -> Token {
        Token((kind as u64) << 56 | u64::from(index))
    }

    /// What it is.
    pub fn kind(self) -> Option<Kind> {
        Kind::ALL.get(((self.0 >> 56) as usize).checked_sub(1)?).copied()
    }

    /// Whose it is, if a connection's.
    pub fn conn(self) -> ConnId {
        ConnId::new(self.0 as u32, (self.0 >> 32) as u32 & 0xff_ffff)
    }

    /// The listener's index, if a listener's.
    pub fn listener(self) -> ListenerId {
        ListenerId(self.0 as u16)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?} {}", self.conn()),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

impl From<Target> for Token {
    fn from(target: Target) -> Token {
        match target {
            Target::Accept(listener) => Token::at(Kind::Accept, u32::from(listener.0)),
            Target::Recv(conn) => Token::of(Kind::Recv, conn),
            Target::Send(conn) => Token::of(Kind::Send, conn),
        }
    }
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
    pub before: Option<Sqe>,
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

/// What a completion means. Errno ends here.
#[derive(Debug)]
pub enum Completion {
    /// An accept came to something.
    Accept {
        /// At which listener.
        listener: ListenerId,
        /// To what.
        outcome: Accepted,
        /// Whether the accept stays in flight.
        more: bool,
    },
    /// A receive came to something.
    Recv {
        /// Whose.
        conn: ConnId,
        /// To what.
        outcome: Recv,
        /// Whether the receive stays in flight.
        more: bool,
    },
    /// A send came to an end.
    Send {
        /// Whose.
        conn: ConnId,
        /// How many bytes went, perhaps fewer than were given.
        outcome: Sent,
    },
    /// A direction was shut down; a connection that is gone counts as that.
    Shutdown {
        /// Whose.
        conn: ConnId,
    },
    /// A socket was closed.
    Close {
        /// Whose.
        conn: ConnId,
    },
    /// A cancel was carried out, or found nothing to cancel.
    Cancel {
        /// Of what.
        target: Target,
    },
    /// A read came to something; it is never [`Starved`](Recv::Starved).
    Read {
        /// To what.
        outcome: Recv,
    },
    /// The descriptor of a [`Op::Wake`] can be read, or never will be.
    Wake,
    /// The ring's own affair.
    Aside,
}

/// What an accept came to.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Socket(Socket),
    /// It was cancelled.
    Cancelled,
    /// There was no descriptor, slot or memory for one: to try again at once would be to spin.
    Exhausted(io::Error),
    /// A connection was lost before it was accepted, or the accept was interrupted.
    Failed(io::Error),
}

/// What a receive came to.
#[derive(Debug)]
pub enum Recv {
    /// Bytes.
    Data(Chunk),
    /// The peer's end.
    End,
    /// There was no buffer for it; the bytes are safe in the socket.
    Starved,
    /// It was cancelled; no byte was lost.
    Cancelled,
    /// The connection is broken.
    Failed(io::Error),
}

/// What a send came to.
#[derive(Debug)]
pub enum Sent {
    /// So many bytes went.
    Bytes(usize),
    /// It was cancelled before any went.
    Cancelled,
    /// The connection is broken.
    Failed(io::Error),
}

/// Two queues and a way into the kernel: the real one, a simulated one, one that remembers.
pub trait Ring {
    /// Whether the submission queue may lack the room for one more operation.
    fn is_full(&self) -> bool;

    /// Whether a receive of this size would have no buffer, not even of another: it is not to be
    /// pushed. A ring whose kernel picks the buffer never lacks one beforehand; its receive
    /// completes as [`Recv::Starved`].
    fn lacks_buffer(&self, _size: Size) -> bool {
        false
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

    /// A quiet send that went out whole, and how many bytes: it has no completion. To be asked, until
    /// there is none, when all is reaped; a quiet send that went otherwise completes like any.
    ///
    /// While it is not known yet how some went, because the kernel took a part of what was queued, the
    /// next enter does not sleep: who has more to send behind them would wait for ever.
    ///
    /// A ring may take no notice of quietness, and then always answers `None`.
    fn silent(&mut self) -> Option<(ConnId, usize)> {
        None
    }

    /// The buffer that the answer of a receive, or of a read, is about. Asked once for each, after the
    /// reaping.
    fn claim(&mut self, cqe: Cqe) -> Option<Lease>;

    /// Where its buffers come from.
    fn pool(&self) -> &Rc<Pool>;

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
        Some(decode(cqe, |cqe| self.claim(cqe)))
    }
}

/// What an answer means. `claim` hands over the buffer that a receive has filled.
fn decode(cqe: Cqe, claim: impl FnOnce(Cqe) -> Option<Lease>) -> Completion {
    let (token, more) = (cqe.token, cqe.more());
    let conn = token.conn();
    match token.kind() {
        Some(Kind::Accept) => {
            Completion::Accept { listener: token.listener(), outcome: accepted(cqe), more }
        }
        Some(Kind::Recv) => Completion::Recv { conn, outcome: received(cqe, claim(cqe)), more },
        Some(Kind::Send) => Completion::Send { conn, outcome: sent(cqe) },
        Some(Kind::Shutdown) => Completion::Shutdown { conn },
        Some(Kind::Close) => Completion::Close { conn },
        Some(Kind::CancelAccept) => Completion::Cancel { target: Target::Accept(token.listener()) },
        Some(Kind::CancelRecv) => Completion::Cancel { target: Target::Recv(conn) },
        Some(Kind::CancelSend) => Completion::Cancel { target: Target::Send(conn) },
        Some(Kind::Read) => Completion::Read { outcome: received(cqe, claim(cqe)) },
        Some(Kind::Wake) => Completion::Wake,
        Some(Kind::Aside | Kind::PollAccept | Kind::PollRecv | Kind::PollSend | Kind::PollRead) => {
            Completion::Aside
        }
        None => panic!("the kernel answers only what was asked: {cqe:?}"),
    }
}

fn accepted(cqe: Cqe) -> Accepted {
    match cqe.result() {
        Ok(socket) => Accepted::Socket(Socket(socket)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECANCELED) => Accepted::Cancelled,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                Accepted::Exhausted(error)
            }
            _ => Accepted::Failed(error),
        },
    }
}

fn received(cqe: Cqe, buffer: Option<Lease>) -> Recv {
    match cqe.result() {
        Ok(0) => Recv::End,
        Ok(len) => match buffer {
            Some(lease) => Recv::Data(Chunk::received(lease, len as usize)),
            None => panic!("bytes are received into a buffer: {cqe:?}"),
        },
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOBUFS) => Recv::Starved,
            // Interrupted, or refused for want of memory: as good as cancelled, to be asked again.
            Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM) => Recv::Cancelled,
            _ => Recv::Failed(error),
        },
    }
}

fn sent(cqe: Cqe) -> Sent {
    match cqe.result() {
        Ok(len) => Sent::Bytes(len as usize),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM) => Sent::Cancelled,
            _ => Sent::Failed(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Shape;

    fn decoded(kind: Kind, res: i32, flags: u32, lease: Option<Lease>) -> Completion {
        let token = Token::of(kind, ConnId::new(7, 3));
        decode(Cqe { token, res, flags }, |_| lease)
    }

    fn outcome(res: i32) -> Recv {
        let Completion::Recv { conn, outcome, more } = decoded(Kind::Recv, res, 0, None) else {
            panic!("a receive completes as one");
        };
        assert_eq!((conn, more), (ConnId::new(7, 3), false));
        outcome
    }

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for kind in Kind::ALL {
            let conn = ConnId::new(u32::MAX, 0xab_cdef);
            assert_eq!(
                (Token::of(kind, conn).kind(), Token::of(kind, conn).conn()),
                (Some(kind), conn)
            );
            assert_eq!(Token::at(kind, 65_535).listener(), ListenerId(65_535));
        }
        assert_eq!((Token(0).kind(), Token(u64::MAX).kind()), (None, None));
        assert_eq!(format!("{:?}", Token::of(Kind::Send, ConnId::new(12, 3))), "Send 12.3");
    }

    #[test]
    fn the_sizes_of_what_passes_the_border() {
        assert_eq!(size_of::<Cqe>(), 16);
        assert_eq!(size_of::<Token>(), 8);
        assert!(size_of::<Completion>() <= 56, "{}", size_of::<Completion>());
    }

    #[test]
    fn errno_ends_in_decode() {
        assert!(matches!(outcome(0), Recv::End));
        assert!(matches!(outcome(-libc::ENOBUFS), Recv::Starved));
        assert!(matches!(outcome(-libc::ECANCELED), Recv::Cancelled));
        assert!(matches!(outcome(-libc::ECONNRESET), Recv::Failed(_)));
        let Completion::Send { outcome, .. } = decoded(Kind::Send, -libc::EPIPE, 0, None) else {
            panic!("a send completes as one");
        };
        assert!(matches!(outcome, Sent::Failed(_)));
    }

    #[test]
    fn data_is_the_claimed_buffer_and_more_is_the_kernels_word() {
        let pool = Pool::new(&[Shape { bytes: 64, count: 1 }]).unwrap();
        let flags = Cqe::BUFFER | Cqe::MORE;
        let completion = decoded(Kind::Recv, 5, flags, pool.lease(Size(0)));
        let Completion::Recv { outcome: Recv::Data(chunk), more: true, .. } = completion else {
            panic!("{completion:?}");
        };
        assert_eq!(chunk.len(), 5);
    }

    #[test]
    fn a_cancel_names_its_target() {
        let completion = decoded(Kind::CancelSend, -libc::ENOENT, 0, None);
        let target = Target::Send(ConnId::new(7, 3));
        assert!(matches!(completion, Completion::Cancel { target: t } if t == target));
        assert_eq!(Token::from(target), Token::of(Kind::Send, ConnId::new(7, 3)));
    }
}
