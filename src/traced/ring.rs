//! A ring that is recorded: each primitive is passed on and noted.
//!
//! `submit` and `next` are the trait's own methods on top of these. So every push, enter and reap
//! of a loop passes here, also a flush within an iteration, and the counts can be compared with
//! the kernel's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use proactor_record::{Kind, Log, Record, WaitMode};

use super::{Traced, minus_errno};
use crate::buffer::{Chunk, Lease, Pool, Size};
use crate::keys::{ConnId, ListenerId};
use crate::os::Clock;
use crate::ring::{AcceptId, Completion, Cqe, Entered, Op, Pushed, Ring, Socket, Sqe, Token, Wait};

impl<R: Ring> Ring for Traced<R> {
    fn is_full(&self) -> bool {
        self.inner.is_full()
    }

    fn out_of_buffers(&self, size: Size) -> bool {
        self.inner.out_of_buffers(size)
    }

    fn push(&mut self, op: Op<'_>) -> Pushed {
        let pushed = self.inner.push(op);
        if let Some(preceding) = pushed.preceding {
            self.note_sqe(preceding);
        }
        self.note_sqe(pushed.op);
        pushed
    }

    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        let mode = match wait {
            Wait::No => WaitMode::None,
            Wait::Completion => WaitMode::Endless,
            Wait::Until(_) => WaitMode::Until,
        };
        let pending = (self.queued - self.taken) as u32;
        let begin = Record::enter_begin(self.queued, pending, mode);
        self.log.begin_iteration(|| self.inner.now().0, begin);
        let entered = self.inner.enter(wait);
        let end = match &entered {
            Ok(entered) => {
                if let Some(own) = entered.own {
                    self.note_sqe(own);
                }
                self.taken += u64::from(entered.submitted);
                let Entered { submitted, lent, overflow, .. } = *entered;
                Record::enter_end(submitted as i32, self.reaped, lent, overflow)
            }
            Err(error) => Record::enter_end(minus_errno(error), self.reaped, 0, false),
        };
        self.position = 0;
        self.log.end_iteration(|| self.inner.now().0, end);
        entered
    }

    fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.inner.reap()?;
        let record = Record::completed(cqe.token.0, cqe.res, cqe.flags, self.position);
        self.reaped += 1;
        self.position = self.position.saturating_add(1);
        self.log.note(|| self.inner.now().0, record);
        Some(cqe)
    }

    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        let (conn, bytes) = self.inner.next_implied()?;
        let record = Record::implied(Token::of(Kind::Send, conn).0, bytes as u32);
        self.log.note(|| self.inner.now().0, record);
        Some((conn, bytes))
    }

    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        self.inner.take_buffer(cqe)
    }

    fn decode(&mut self, cqe: Cqe) -> Completion {
        self.inner.decode(cqe)
    }

    fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        self.inner.take_back(conn)
    }

    fn trim(&mut self) {
        self.inner.trim();
    }

    fn has_multishot(&self) -> bool {
        self.inner.has_multishot()
    }

    fn has_outq(&self) -> bool {
        self.inner.has_outq()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.inner.pool()
    }

    fn accepts(&self) -> u16 {
        self.inner.accepts()
    }

    fn waiting(&self, listener: ListenerId, fd: BorrowedFd<'_>) -> usize {
        self.inner.waiting(listener, fd)
    }

    fn peer_address(&self, accept: AcceptId, socket: Socket) -> Option<SocketAddr> {
        self.inner.peer_address(accept, socket)
    }

    fn descriptor(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        self.inner.descriptor(socket)
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }
}

impl<R: Ring> Traced<R> {
    fn note_sqe(&mut self, sqe: Sqe) {
        let record = Record::submitted(sqe.token.0, sqe.opcode, sqe.fd, sqe.len, sqe.flags);
        self.queued += 1;
        self.log.note(|| self.inner.now().0, record);
    }
}
