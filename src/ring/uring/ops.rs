//! The submission queue entries of each operation.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::null_mut;

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};

use super::Uring;
use crate::buffer::{Lease, SendQueue, Size};
use crate::keys::ConnId;
use crate::os;
use crate::ring::kernel::{Capability, SOCKET_URING_OP_SIOCOUTQ};
use crate::ring::memory::Bytes;
use crate::ring::{AcceptId, CancelTarget, Kind, Op, Pushed, RecvMode, Ring, Socket, Sqe, Token};

impl Uring {
    /// Queues an operation, and the entry that must precede it.
    pub(super) fn queue_op(&mut self, op: Op<'_>) -> Pushed {
        let alone = |op| Pushed { preceding: None, op };
        match op {
            Op::Accept { accept, fd } => self.queue_accept(accept, fd.as_raw_fd()),
            Op::Recv { conn, socket, size, mode } => self.queue_recv(conn, socket, size, mode),
            Op::Send { conn, socket, queue, skip_success } => {
                self.queue_any_send(conn, socket, queue, skip_success)
            }
            Op::Shutdown { conn, socket } => {
                let entry = self.shutdown(socket);
                alone(self.queue(entry, Token::of(Kind::Shutdown, conn), socket.0 as i32, 0, 0))
            }
            Op::Close { conn, socket } => {
                let fd = socket.0 as RawFd;
                self.descriptors.remove(&fd);
                let entry = match self.has(Capability::Direct) {
                    true => opcode::Close::new(Fixed(socket.0)).build(),
                    false => opcode::Close::new(Fd(fd)).build(),
                };
                alone(self.queue(entry, Token::of(Kind::Close, conn), fd, 0, 0))
            }
            Op::Cancel { target } => self.queue_cancel(target),
            Op::Read { fd, lease } => self.queue_read(fd, lease),
            Op::Outq { conn, socket } => {
                let (slot, command) = (Fixed(socket.0), SOCKET_URING_OP_SIOCOUTQ);
                let entry = opcode::UringCmd16::new(slot, command).build();
                alone(self.queue(entry, Token::of(Kind::Outq, conn), socket.0 as i32, 0, 0))
            }
            Op::Wake { source, fd } => {
                let fd = fd.as_raw_fd();
                alone(self.queue(poll(fd, libc::POLLIN), Token::of_wake(source), fd, 0, 0))
            }
        }
    }

    fn queue_accept(&mut self, accept: AcceptId, fd: RawFd) -> Pushed {
        let token = Token::of_accept(Kind::Accept, accept);
        let preceding = self.queue_poll(fd, libc::POLLIN, token.with(Kind::PollAccept));
        let direct = self.has(Capability::Direct);
        // A direct descriptor is not inherited; asking for it is an error (kernel-notes §7).
        let flags = if direct { 0 } else { libc::SOCK_CLOEXEC };
        // At most one completion queue of accepts happens between two enters: if the table has that
        // many free slots, no accept finds it full.
        let many = self.sockets.saturating_sub(self.open) > self.completions() as usize;
        let entry = match self.accepts.begin(accept) {
            None if self.has(Capability::MultishotAccept) && many => {
                opcode::AcceptMulti::new(Fd(fd)).flags(flags).allocate_file_index(direct).build()
            }
            memory => {
                let (address, len) = memory.unwrap_or((null_mut(), null_mut()));
                let slot = direct.then(DestinationSlot::auto_target);
                opcode::Accept::new(Fd(fd), address, len).flags(flags).file_index(slot).build()
            }
        };
        Pushed { preceding, op: self.queue(entry, token, fd, 0, 0) }
    }

    fn queue_recv(&mut self, conn: ConnId, socket: Socket, size: Size, mode: RecvMode) -> Pushed {
        let (token, fd) = (Token::of(Kind::Recv, conn), socket.0 as RawFd);
        let poll = || self.queue_poll(fd, libc::POLLIN, token.with(Kind::PollRecv));
        let waits = mode != RecvMode::AtOnce;
        let preceding = waits.then(poll).flatten();
        let how = if waits { 0 } else { libc::MSG_DONTWAIT };
        let (group, len) = (u16::from(size.0), self.pool.shape(size).bytes as u32);
        let entry = if self.provided.is_empty() {
            let lease = self.pool.lease(size).expect("`out_of_buffers` was asked");
            let (base, len) = lease.location();
            self.memory.recv(conn, lease);
            opcode::Recv::new(Fd(fd), base.as_ptr(), len as u32).flags(how).build()
        } else if self.has(Capability::MultishotRecv) && mode == RecvMode::Many {
            opcode::RecvMulti::new(Fd(fd), group).build()
        } else {
            let recv = opcode::Recv::new(Fd(fd), null_mut(), len).flags(how).buf_group(group);
            recv.build().flags(squeue::Flags::BUFFER_SELECT)
        };
        Pushed { preceding, op: self.queue(self.on_socket(entry), token, fd, len, 0) }
    }

    /// Queues a send of one chunk on a direct descriptor with `skip_success`: the entry that
    /// [`queue_any_send`](Uring::queue_any_send) queues where the kernel has all that this server
    /// can use.
    #[inline(always)] // Once for each message.
    pub(super) fn queue_simple_send(
        &mut self,
        conn: ConnId,
        to: Socket,
        base: *const u8,
        len: u32,
    ) {
        let how = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let flags = squeue::Flags::SKIP_SUCCESS;
        let entry = opcode::Send::new(Fixed(to.0), base, len).flags(how).build().flags(flags);
        self.push_entry(entry, Token::of(Kind::Send, conn));
    }

    /// Queues a send of the first chunks of a queue.
    #[inline(never)]
    pub(super) fn queue_any_send(
        &mut self,
        conn: ConnId,
        socket: Socket,
        queue: &mut SendQueue,
        skip_success: bool,
    ) -> Pushed {
        let (token, fd) = (Token::of(Kind::Send, conn), socket.0 as RawFd);
        let preceding = self.queue_poll(fd, libc::POLLOUT, token.with(Kind::PollSend));
        let len = queue.vectored().map(|chunk| chunk.len() as u32).sum();
        let skip_success =
            skip_success && queue.bytes() == len as usize && self.has(Capability::CqeSkip);
        let (bytes, held) = self.memory.take(queue);
        let (mut how, mut flags) = (libc::MSG_NOSIGNAL, squeue::Flags::empty());
        if skip_success {
            // A short send must fail, or the missing completion would mean success. A send that
            // waits must not wait to send all: a slow reader would seem to take nothing
            // (kernel-notes §6).
            how |= libc::MSG_DONTWAIT | libc::MSG_WAITALL;
            flags = squeue::Flags::SKIP_SUCCESS;
            self.memory.send_unconfirmed(conn, held, self.queued);
        } else {
            self.memory.send(conn, held);
        }
        let entry = match bytes {
            Bytes::One(base, len) => opcode::Send::new(Fd(fd), base, len).flags(how).build(),
            Bytes::Many(header) => opcode::SendMsg::new(Fd(fd), header).flags(how as u32).build(),
        };
        let entry = self.on_socket(entry).flags(flags);
        Pushed { preceding, op: self.queue(entry, token, fd, len, flags.bits()) }
    }

    fn queue_read(&mut self, fd: BorrowedFd<'_>, lease: Lease) -> Pushed {
        let fd = fd.as_raw_fd();
        // On some kernels a read that waits blocks a kernel thread, or fails at once if the
        // descriptor is non-blocking (kernel-notes §34).
        let preceding = self.queue_linked_poll(fd, libc::POLLIN, Token::at(Kind::PollRead, 0));
        let (base, len) = lease.location();
        self.memory.read = Some(lease);
        // From the position of the file, if it has one.
        let entry = opcode::Read::new(Fd(fd), base.as_ptr(), len as u32).offset(u64::MAX).build();
        let op = self.queue(entry, Token::at(Kind::Read, 0), fd, len as u32, 0);
        Pushed { preceding: Some(preceding), op }
    }

    fn queue_cancel(&mut self, target: CancelTarget) -> Pushed {
        let token = Token::from(target);
        let (kind, poll) = match target {
            CancelTarget::Accept(_) => (Kind::CancelAccept, Kind::PollAccept),
            CancelTarget::Recv(_) => (Kind::CancelRecv, Kind::PollRecv),
            CancelTarget::Send(_) => (Kind::CancelSend, Kind::PollSend),
        };
        let behind_poll = !self.has(Capability::FastPoll);
        let internal = Token::at(Kind::Internal, 0);
        let preceding = behind_poll.then(|| self.queue_cancel_of(token.with(poll), internal));
        Pushed { preceding, op: self.queue_cancel_of(token, token.with(kind)) }
    }

    /// Queues the cancel of the operation with the token `target`.
    pub(super) fn queue_cancel_of(&mut self, target: Token, token: Token) -> Sqe {
        self.queue(opcode::AsyncCancel::new(target.0).build(), token, -1, 0, 0)
    }

    fn shutdown(&self, socket: Socket) -> squeue::Entry {
        if self.has(Capability::Shutdown) {
            let shutdown = opcode::Shutdown::new(Fd(socket.0 as RawFd), libc::SHUT_WR);
            return self.on_socket(shutdown.build());
        }
        // The call does not block, so it is made here and a no-op completes for it. A kernel
        // without SHUTDOWN has no direct descriptors. The call fails only if the peer has reset.
        let _ = self.descriptor(socket).map(|fd| os::shutdown(fd, Shutdown::Write));
        opcode::Nop::new().build()
    }

    /// Says whether the number in an entry is a slot of the ring's table or a file descriptor.
    fn on_socket(&self, entry: squeue::Entry) -> squeue::Entry {
        match self.has(Capability::Direct) {
            true => entry.flags(squeue::Flags::FIXED_FILE),
            false => entry,
        }
    }

    /// Queues a linked poll before an operation that would block a kernel thread: the operation
    /// begins when the poll has completed (kernel-notes §16).
    fn queue_poll(&mut self, fd: RawFd, events: libc::c_short, token: Token) -> Option<Sqe> {
        (!self.has(Capability::FastPoll)).then(|| self.queue_linked_poll(fd, events, token))
    }

    fn queue_linked_poll(&mut self, fd: RawFd, events: libc::c_short, token: Token) -> Sqe {
        let link = squeue::Flags::IO_LINK;
        self.queue(poll(fd, events).flags(link), token, fd, 0, link.bits())
    }
}

fn poll(fd: RawFd, events: libc::c_short) -> squeue::Entry {
    opcode::PollAdd::new(Fd(fd), events as u32).build()
}
