//! The submission queue entries of each operation.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};

use super::Uring;
use crate::buffer::{Lease, SendQueue, Size};
use crate::keys::ConnId;
use crate::os;
use crate::ring::kernel::Capability;
use crate::ring::memory::{Bytes, VECTOR};
use crate::ring::{AcceptId, CancelTarget, Kind, Op, Pushed, Ring, Socket, Sqe, Token};

/// Makes an entry for a socket, whichever kind of descriptor this ring's sockets are.
macro_rules! on_socket {
    ($ring:expr, $socket:expr, |$fd:ident| $entry:expr) => {
        if $ring.kernel.has(Capability::Direct) {
            let $fd = Fixed($socket.0);
            $entry
        } else {
            let $fd = Fd($socket.0 as RawFd);
            $entry
        }
    };
}

impl Uring {
    /// Queues an operation, and the entry that must precede it.
    pub(super) fn queue_op(&mut self, op: Op<'_>) -> Pushed {
        let alone = |op| Pushed { preceding: None, op };
        match op {
            Op::Accept { accept, fd } => self.queue_accept(accept, fd),
            Op::Recv { conn, socket, size } => self.queue_recv(conn, socket, size),
            Op::Send { conn, socket, queue, skip_success } => {
                self.queue_send(conn, socket, queue, skip_success)
            }
            Op::Shutdown { conn, socket } => {
                let entry = self.shutdown(socket);
                let token = Token::of(Kind::Shutdown, conn);
                alone(self.queue(entry, token, socket.0 as i32, 0, 0))
            }
            Op::Close { conn, socket } => {
                let entry = on_socket!(self, socket, |fd| opcode::Close::new(fd).build());
                self.descriptors.remove(&(socket.0 as RawFd));
                alone(self.queue(entry, Token::of(Kind::Close, conn), socket.0 as i32, 0, 0))
            }
            Op::Cancel { target } => self.queue_cancel(target),
            Op::Read { fd, lease } => self.queue_read(fd, lease),
            Op::Wake { fd } => {
                let fd = fd.as_raw_fd();
                let entry = self.poll(fd, libc::POLLIN);
                alone(self.queue(entry, Token::at(Kind::Wake, 0), fd, 0, 0))
            }
        }
    }

    fn queue_accept(&mut self, accept: AcceptId, fd: BorrowedFd<'_>) -> Pushed {
        let raw = fd.as_raw_fd();
        let poll = Token::of_accept(Kind::PollAccept, accept);
        let preceding = self.queue_poll(raw, libc::POLLIN, poll);
        let entry = self.accept(accept, fd);
        let token = Token::of_accept(Kind::Accept, accept);
        Pushed { preceding, op: self.queue(entry, token, raw, 0, 0) }
    }

    #[inline]
    fn queue_recv(&mut self, conn: ConnId, socket: Socket, size: Size) -> Pushed {
        let fd = socket.0 as i32;
        let preceding = self.queue_poll(fd, libc::POLLIN, Token::of(Kind::PollRecv, conn));
        let entry = self.recv(conn, socket, size);
        let len = self.pool.shape(size).bytes as u32;
        Pushed { preceding, op: self.queue(entry, Token::of(Kind::Recv, conn), fd, len, 0) }
    }

    #[inline]
    fn queue_send(
        &mut self,
        conn: ConnId,
        socket: Socket,
        queue: &SendQueue,
        skip_success: bool,
    ) -> Pushed {
        let fd = socket.0 as i32;
        let preceding = self.queue_poll(fd, libc::POLLOUT, Token::of(Kind::PollSend, conn));
        let skip_success =
            skip_success && queue.chunks() <= VECTOR && self.has(Capability::CqeSkip);
        let mut entry = self.send(conn, socket, queue, skip_success);
        let len = queue.iter().take(VECTOR).map(|chunk| chunk.len() as u32).sum();
        let mut flags = squeue::Flags::empty();
        if skip_success {
            flags = squeue::Flags::SKIP_SUCCESS;
            entry = entry.flags(flags);
            self.memory.skips_success(conn, len, self.queued);
        }
        let token = Token::of(Kind::Send, conn);
        Pushed { preceding, op: self.queue(entry, token, fd, len, flags.bits()) }
    }

    fn queue_read(&mut self, fd: BorrowedFd<'_>, lease: Lease) -> Pushed {
        let fd = fd.as_raw_fd();
        // On some kernels a read that waits blocks a kernel thread, or fails at once if the
        // descriptor is non-blocking (kernel-notes §34).
        let poll = Token::at(Kind::PollRead, 0);
        let preceding = Some(self.queue_linked_poll(fd, libc::POLLIN, poll));
        let (base, len) = lease.location();
        self.memory.read = Some(lease);
        // From the position of the file, if it has one.
        let entry = opcode::Read::new(Fd(fd), base.as_ptr(), len as u32).offset(u64::MAX);
        let token = Token::at(Kind::Read, 0);
        Pushed { preceding, op: self.queue(entry.build(), token, fd, len as u32, 0) }
    }

    fn queue_cancel(&mut self, target: CancelTarget) -> Pushed {
        let (kind, poll) = match target {
            CancelTarget::Accept(accept) => (
                Token::of_accept(Kind::CancelAccept, accept),
                Token::of_accept(Kind::PollAccept, accept),
            ),
            CancelTarget::Recv(conn) => {
                (Token::of(Kind::CancelRecv, conn), Token::of(Kind::PollRecv, conn))
            }
            CancelTarget::Send(conn) => {
                (Token::of(Kind::CancelSend, conn), Token::of(Kind::PollSend, conn))
            }
        };
        let preceding = (!self.has(Capability::FastPoll)).then(|| {
            let cancel = opcode::AsyncCancel::new(poll.0).build();
            self.queue(cancel, Token::at(Kind::Internal, 0), -1, 0, 0)
        });
        let cancel = opcode::AsyncCancel::new(Token::from(target).0).build();
        Pushed { preceding, op: self.queue(cancel, kind, -1, 0, 0) }
    }

    // One function for each operation, which makes its entry.

    fn accept(&mut self, accept: AcceptId, fd: BorrowedFd<'_>) -> squeue::Entry {
        let fd = Fd(fd.as_raw_fd());
        let direct = self.has(Capability::Direct);
        // A direct descriptor is not inherited; asking for it is an error (kernel-notes §7).
        let flags = if direct { 0 } else { libc::SOCK_CLOEXEC };
        // At most one completion queue of accepts happens between two enters: if the table has that
        // many free slots, no accept finds it full.
        let burst = self.ring.params().cq_entries() as usize;
        let many = self.sockets.saturating_sub(self.open) > burst;
        let memory = self.accepts.begin(accept);
        if self.has(Capability::MultishotAccept) && many && !self.accepts.with_addresses() {
            opcode::AcceptMulti::new(fd).flags(flags).allocate_file_index(direct).build()
        } else {
            let (address, len) = memory.unwrap_or((std::ptr::null_mut(), std::ptr::null_mut()));
            opcode::Accept::new(fd, address, len)
                .flags(flags)
                .file_index(direct.then(DestinationSlot::auto_target))
                .build()
        }
    }

    fn recv(&mut self, conn: ConnId, socket: Socket, size: Size) -> squeue::Entry {
        if self.has(Capability::MultishotRecv) && !self.provided.is_empty() {
            let group = u16::from(size.0);
            return on_socket!(self, socket, |fd| opcode::RecvMulti::new(fd, group).build());
        }
        if !self.provided.is_empty() {
            let (group, len) = (u16::from(size.0), self.pool.shape(size).bytes as u32);
            return on_socket!(self, socket, |fd| {
                opcode::Recv::new(fd, std::ptr::null_mut(), len).buf_group(group).build()
            })
            .flags(squeue::Flags::BUFFER_SELECT);
        }
        let lease = self.pool.lease(size).expect("`out_of_buffers` was asked");
        let (base, len) = lease.location();
        self.memory.recv(conn, lease);
        on_socket!(self, socket, |fd| opcode::Recv::new(fd, base.as_ptr(), len as u32).build())
    }

    fn send(
        &mut self,
        conn: ConnId,
        socket: Socket,
        queue: &SendQueue,
        skip_success: bool,
    ) -> squeue::Entry {
        // With skip_success, a short send must fail, or the missing completion would mean success.
        // A send that waits must not wait to send all: a slow reader would seem to take nothing
        // (kernel-notes §6).
        let mut flags = libc::MSG_NOSIGNAL;
        if skip_success {
            flags |= libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        }
        match self.memory.send(conn, queue) {
            Bytes::One(base, len) => on_socket!(self, socket, |fd| {
                opcode::Send::new(fd, base, len).flags(flags).build()
            }),
            Bytes::Many(header) => on_socket!(self, socket, |fd| {
                opcode::SendMsg::new(fd, header).flags(flags as u32).build()
            }),
        }
    }

    fn shutdown(&self, socket: Socket) -> squeue::Entry {
        if self.has(Capability::Shutdown) {
            return on_socket!(self, socket, |fd| {
                opcode::Shutdown::new(fd, libc::SHUT_WR).build()
            });
        }
        // The call does not block, so it is made here and a no-op completes for it. A kernel
        // without SHUTDOWN has no direct descriptors. The call fails only if the peer has reset.
        let _ = self.descriptor(socket).map(os::shutdown_write);
        opcode::Nop::new().build()
    }

    fn poll(&self, fd: RawFd, events: libc::c_short) -> squeue::Entry {
        opcode::PollAdd::new(Fd(fd), events as u32).build()
    }

    /// Queues a linked poll before an operation that would block a kernel thread: the operation
    /// begins when the poll has completed (kernel-notes §16).
    fn queue_poll(&mut self, fd: RawFd, events: libc::c_short, token: Token) -> Option<Sqe> {
        (!self.has(Capability::FastPoll)).then(|| self.queue_linked_poll(fd, events, token))
    }

    fn queue_linked_poll(&mut self, fd: RawFd, events: libc::c_short, token: Token) -> Sqe {
        let poll = self.poll(fd, events).flags(squeue::Flags::IO_LINK);
        self.queue(poll, token, fd, 0, squeue::Flags::IO_LINK.bits())
    }
}
