//! A ring that remembers: the primitives pass through, and are noted.
//!
//! `submit` and `next` are the trait's own, on top of these. So every push, enter and reap of a
//! loop comes by here, a flush in the middle of a turn included, and the counts can be held against
//! the kernel's.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::Traced;
use super::format::{Patience, Record, What};
use proactor::buffer::{Lease, Pool, Size};
use proactor::clock::Nanos;
use proactor::keys::ConnId;
use proactor::ring::{Cqe, Entered, Kind, Op, Pushed, Ring, Socket, Sqe, Token, Wait};

impl<R: Ring> Ring for Traced<R> {
    fn is_full(&self) -> bool {
        self.inner.is_full()
    }

    fn out_of_buffers(&self, size: Size) -> bool {
        self.inner.out_of_buffers(size)
    }

    #[inline]
    fn push(&mut self, op: Op<'_>) -> Pushed {
        let pushed = self.inner.push(op);
        if let Some(preceding) = pushed.preceding {
            self.note_sqe(preceding);
        }
        self.note_sqe(pushed.op);
        pushed
    }

    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        let patience = match wait {
            Wait::No => Patience::None,
            Wait::Completion => Patience::Endless,
            Wait::Until(_) => Patience::Until,
        };
        let begin = Record {
            what: What::EnterBegin as u8,
            id: self.queued,
            res: (self.queued - self.taken) as i32,
            aux: patience as u16,
            ..Record::default()
        };
        self.log.begin_turn(|| self.inner.now().0, begin);
        let entered = self.inner.enter(wait);
        let mut end = Record { what: What::EnterEnd as u8, id: self.reaped, ..Record::default() };
        match &entered {
            Ok(entered) => {
                if let Some(own) = entered.own {
                    self.note_sqe(own);
                }
                self.taken += u64::from(entered.submitted);
                end.res = entered.submitted as i32;
                end.flags = u32::from(entered.overflow) | entered.lent.min(0xff_ffff) << 8;
            }
            Err(error) => end.res = -error.raw_os_error().unwrap_or(libc::EIO),
        }
        self.position = 0;
        self.log.end_turn(|| self.inner.now().0, end);
        entered
    }

    #[inline]
    fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.inner.reap()?;
        let record = Record {
            what: What::Cqe as u8,
            id: cqe.token.0,
            res: cqe.res,
            flags: cqe.flags,
            aux: self.position,
            ..Record::default()
        };
        self.reaped += 1;
        self.position = self.position.saturating_add(1);
        self.log.note(owner(cqe.token), || self.inner.now().0, record);
        Some(cqe)
    }

    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        let (conn, bytes) = self.inner.next_implied()?;
        let (id, res) = (Token::of(Kind::Send, conn).0, bytes as i32);
        let record = Record { what: What::Silent as u8, id, res, ..Record::default() };
        self.log.note(Some(conn), || self.inner.now().0, record);
        Some((conn, bytes))
    }

    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        self.inner.take_buffer(cqe)
    }

    fn pool(&self) -> &Rc<Pool> {
        self.inner.pool()
    }

    fn sockets(&self) -> usize {
        self.inner.sockets()
    }

    fn descriptor(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor(socket)
    }

    fn now(&self) -> Nanos {
        self.inner.now()
    }
}

impl<R: Ring> Traced<R> {
    #[inline]
    fn note_sqe(&mut self, sqe: Sqe) {
        let record = Record {
            what: What::Sqe as u8,
            id: sqe.token.0,
            res: sqe.len as i32,
            flags: sqe.fd as u32,
            op: sqe.opcode,
            aux: u16::from(sqe.flags),
            ..Record::default()
        };
        self.queued += 1;
        self.log.note(owner(sqe.token), || self.inner.now().0, record);
    }
}

/// Whose connection's operation that is, if any's.
pub(super) fn owner(token: Token) -> Option<ConnId> {
    match token.kind()? {
        Kind::Accept
        | Kind::CancelAccept
        | Kind::PollAccept
        | Kind::Wake
        | Kind::Internal
        | Kind::Read
        | Kind::PollRead => None,
        Kind::Recv
        | Kind::Send
        | Kind::Shutdown
        | Kind::Close
        | Kind::CancelRecv
        | Kind::CancelSend
        | Kind::PollRecv
        | Kind::PollSend => Some(token.conn()),
    }
}
