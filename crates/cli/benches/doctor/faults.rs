//! Protocols and a ring that have faults.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::buffer::{Chunk, Lease, Pool, Size};
use proactor::keys::{ConnId, ListenerId};
use proactor::os::Clock;
use proactor::ring::{AcceptId, Completion, Cqe, Entered, Op, Pushed, Ring, Socket, Uring, Wait};
use proactor::{Input, Needs, Outbox, Protocol};

/// Echoes, and computes for `span` milliseconds with one message of `every`.
pub(crate) struct Slow {
    pub(crate) seen: u32,
    pub(crate) every: u32,
    pub(crate) span: u64,
}

impl Protocol for Slow {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        self.seen += 1;
        if self.seen.is_multiple_of(self.every) {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(self.span) {}
        }
    }
}

/// Echoes one message, and ends its direction: a shutdown(2), which a ring gives to io-wq.
pub(crate) struct Bye;

impl Protocol for Bye {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        out.finish();
    }
}

/// A ring that gives the kernel a socket which is none, for one send of `every`.
pub(crate) struct Refusing {
    pub(crate) ring: Uring,
    pub(crate) every: u32,
    pub(crate) sends: u32,
}

impl Ring for Refusing {
    fn push(&mut self, op: Op<'_>) -> Pushed {
        self.ring.push(match op {
            Op::Send { conn, socket, queue, skip_success } => {
                self.sends += 1;
                let is_wrong = self.every > 0 && self.sends.is_multiple_of(self.every);
                let socket = if is_wrong { Socket(i32::MAX as u32) } else { socket };
                Op::Send { conn, socket, queue, skip_success }
            }
            op => op,
        })
    }

    fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    fn out_of_buffers(&self, size: Size) -> bool {
        self.ring.out_of_buffers(size)
    }

    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        self.ring.enter(wait)
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring.reap()
    }

    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        self.ring.next_implied()
    }

    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        self.ring.take_buffer(cqe)
    }

    fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        self.ring.take_back(conn)
    }

    fn decode(&mut self, cqe: Cqe) -> Completion {
        self.ring.decode(cqe)
    }

    fn received(&mut self, cqe: Cqe) -> Chunk {
        self.ring.received(cqe)
    }

    fn trim(&mut self) {
        self.ring.trim();
    }

    fn has_multishot(&self) -> bool {
        self.ring.has_multishot()
    }

    fn has_outq(&self) -> bool {
        self.ring.has_outq()
    }

    fn pool(&self) -> &Rc<Pool> {
        self.ring.pool()
    }

    fn accepts(&self) -> u16 {
        self.ring.accepts()
    }

    fn waiting(&self, listener: ListenerId, fd: BorrowedFd<'_>) -> usize {
        self.ring.waiting(listener, fd)
    }

    fn peer_address(&self, accept: AcceptId, socket: Socket) -> Option<SocketAddr> {
        self.ring.peer_address(accept, socket)
    }

    fn descriptor(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        self.ring.descriptor(socket)
    }

    fn clock(&self) -> Clock {
        self.ring.clock()
    }
}
