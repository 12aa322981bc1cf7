//! The kernel's ring: `io_uring(7)`.
//!
//! Which operations it uses is decided once, by what the kernel was seen to do ([`Kernel`]). On a
//! new one: one receive per connection stays armed (*multishot*), and one accept per listener if no
//! address is wanted, else several (`accepts.rs`); the kernel picks a buffer when data are there
//! (*provided*), sockets are slots of the ring's own table (*direct descriptors*), and completions
//! are made in batches when the loop asks for them (`DEFER_TASKRUN`). On the oldest (5.6): accept
//! once, receive once into a buffer of ours, and where a waiting receive would block a kernel
//! thread, a poll goes before it. Either way one [`enter`](Ring::enter) submits everything and
//! sleeps.
//!
//! **The ring holds the memory that the kernel uses.** It has a share of a send's chunks until the
//! completion is reaped, and of the buffer of a one-shot receive (`memory.rs`). Provided buffers
//! are the pool's, of which the ring holds a share; dropping the ring cancels what is in flight and
//! waits for it. So memory safety does not depend on the loop.
#![allow(unsafe_code)]

mod ops;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::accepts::{ACCEPTS, Accepts};
use super::completion::decode;
use super::kernel::{Capability, Kernel};
use super::memory::InFlightMemory;
use super::provided::ProvidedRing;
use super::setup::{set_up, setup_flags};
use super::{
    AcceptId, Completion, Cqe, Entered, Kind, Op, Pushed, Ring, Socket, Sqe, Token, Wait,
    WakeSource, restrict,
};
use crate::buffer::{BufferClass, Chunk, Lease, Pool, SendQueue, Size};
use crate::clock::Nanos;
use crate::keys::ConnId;
use crate::os;
use crate::polling::{BusyPoll, Polling};
use crate::refusal::{MMAP, REGISTER, Refusal};

/// How a ring is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The capabilities that may be used.
    pub kernel: Kernel,
    /// Connections at a time, for the size of the tables.
    pub connections: usize,
    /// The buffers, smallest first.
    pub buffers: Vec<BufferClass>,
    /// Whether accepts bring the addresses of peers. Then each accept completes once; otherwise one
    /// accept completes many times where the kernel can, and the peer of a direct descriptor has no
    /// address.
    pub addresses: bool,
    /// Whether the ring polls, or the kernel for it.
    pub polling: Polling,
}

/// The errors of an enter after which the loop goes on.
const TEMPORARY: [i32; 4] = [libc::EINTR, libc::ETIME, libc::EBUSY, libc::EAGAIN];

/// The token of a timeout operation.
const TIMER: (Kind, u32) = (Kind::Internal, 1);

/// A ring of the kernel: io_uring(7).
pub struct Uring {
    ring: IoUring,
    kernel: Kernel,
    restricted: Option<usize>,
    pool: Rc<Pool>,
    /// One for each buffer size; empty if the ring picks the buffers, not the kernel.
    provided: Vec<ProvidedRing>,
    memory: InFlightMemory,
    /// The length of the submission queue.
    entries: u64,
    /// Submissions ever queued, ever taken by the kernel, and ever ended: by the last completion,
    /// or by an implied success.
    queued: u64,
    taken: u64,
    ended: u64,
    /// With more queued the submission queue may be full: some operations take two entries.
    queued_most: u64,
    /// True if completions wait outside the queue.
    overflow: bool,
    /// True if the result of a send with `skip_success` was not known when it was asked for last.
    /// An enter does not change it: `submit` enters too, and asks for no result.
    unconfirmed_sends: bool,
    /// Sockets accepted and not closed.
    open: usize,
    /// How many sockets may be open.
    sockets: usize,
    /// The open sockets, if they are file descriptors: dropping the ring closes them.
    descriptors: BTreeSet<RawFd>,
    accepts: Accepts,
    /// True if a send of one chunk is one entry on a direct descriptor that may skip its success.
    sends_simply: bool,
    /// When the earliest timeout operation in flight comes due.
    timer: Option<Nanos>,
    /// Read by the kernel while the timeout operation is submitted.
    timespec: Box<Timespec>,
    /// The flags of every enter.
    enter_flags: EnterFlags,
    polling: Polling,
    busy_poll: Option<BusyPoll>,
}

impl Uring {
    /// Sets up a ring for the calling thread; no other thread may use it.
    ///
    /// # Errors
    /// io_uring_setup(2) and io_uring_register(2) fail. If locked memory is short, smaller queues
    /// are tried first.
    ///
    /// # Panics
    /// If there are more than 65,536 provided buffers.
    pub fn new(config: Config) -> io::Result<Uring> {
        // Twice the connections: a receive and a send of each.
        let completions = (2 * config.connections.min(8192)).clamp(1024, 8192) as u32;
        Uring::with_completions(config, completions)
    }

    /// Sets up a ring whose completion queue has this length, rounded up to a power of two; at most
    /// 16 times the submission queue, and at least its length. A short queue is no error: what it
    /// cannot hold waits outside, which costs system calls (kernel-notes §8).
    ///
    /// # Errors
    /// As [`new`](Uring::new).
    ///
    /// # Panics
    /// As [`new`](Uring::new).
    pub fn with_completions(config: Config, completions: u32) -> io::Result<Uring> {
        let Config { kernel, connections, mut buffers, addresses, polling } = config;
        let completions = completions.max(1).next_power_of_two();
        if !kernel.has(Capability::BufferRing) {
            // Every waiting receive holds a buffer: there must be one for each connection.
            buffers[0].count = buffers[0].count.max(connections + 64);
        }
        let pool = Pool::new(&buffers).map_err(|error| Refusal::of(MMAP, &error))?;
        if !kernel.has(Capability::BufferRing) {
            // Else they would be scarce as soon as most connections wait to receive.
            pool.set_reserve(Size::SMALLEST, 32);
        }
        let (ring, provided) = set_up(kernel, &pool, completions, polling)?;
        let refused = |error| Refusal::of(REGISTER, &error);
        let mut sockets = usize::MAX;
        if kernel.has(Capability::Direct) {
            // Space for a whole completion queue of accepts above the limit: then no accept finds
            // the table full, which would lose its connection (kernel-notes §7).
            let limit = os::raise_descriptor_limit() as usize;
            sockets = (connections + completions as usize).min(limit);
            ring.submitter().register_files_sparse(sockets as u32).map_err(refused)?;
        }
        let restricted = restrict::enable(kernel, &ring).map_err(refused)?;
        let entries = u64::from(ring.params().sq_entries());
        // GETEVENTS always: deferred work is run, and an overflow flushed, only with it
        // (kernel-notes §5, §8).
        let mut enter_flags = EnterFlags::GETEVENTS;
        enter_flags.set(EnterFlags::NO_IOWAIT, kernel.has(Capability::NoIowait));
        Ok(Uring {
            ring,
            kernel,
            restricted,
            pool,
            provided,
            memory: InFlightMemory::default(),
            entries,
            queued: 0,
            taken: 0,
            ended: 0,
            queued_most: entries - 2,
            overflow: false,
            unconfirmed_sends: false,
            open: 0,
            sockets,
            descriptors: BTreeSet::new(),
            accepts: Accepts::new(addresses),
            sends_simply: [Capability::Direct, Capability::CqeSkip, Capability::FastPoll]
                .into_iter()
                .all(|capability| kernel.has(capability)),
            timer: None,
            timespec: Box::new(Timespec::new()),
            enter_flags,
            polling,
            busy_poll: polling.spin.map(BusyPoll::new),
        })
    }

    /// The `IORING_SETUP_*` flags that the ring was made with.
    pub fn setup_flags(&self) -> u32 {
        setup_flags(self.kernel, self.polling)
    }

    /// Returns the number of operations that the ring permits; `None` if it permits all.
    pub fn restricted(&self) -> Option<usize> {
        self.restricted
    }

    /// Returns the length of the completion queue.
    pub fn completions(&self) -> u32 {
        self.ring.params().cq_entries()
    }

    /// Returns how many operations have not ended.
    fn in_flight(&self) -> u64 {
        self.queued - self.ended
    }

    fn has(&self, capability: Capability) -> bool {
        self.kernel.has(capability)
    }

    fn queue(&mut self, entry: squeue::Entry, token: Token, fd: i32, len: u32, flags: u8) -> Sqe {
        let opcode = entry.get_opcode() as u8;
        debug_assert!(restrict::permits(self.kernel, token.kind(), opcode), "{token:?}: {opcode}");
        self.push_entry(entry, token);
        Sqe { token, opcode, flags, fd, len }
    }

    #[inline(always)] // Once for each message.
    fn push_entry(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.0);
        // SAFETY: what the entry points to lives until its completion is reaped: chunks and leases
        // are in `memory`, provided buffers are lent and so unused here, the timespec is read at
        // submission and stays; `drop` waits for the rest.
        unsafe { self.ring.submission().push(&entry) }
            .expect("there is space: `is_full` was checked");
        self.queued += 1;
    }

    /// Lends the kernel idle buffers of each size. Returns how many.
    #[inline(never)] // Of few messages each.
    fn lend(&mut self) -> u32 {
        self.provided.iter_mut().map(|ring| ring.lend(&self.pool)).sum()
    }

    /// Queues a timeout operation, for kernels whose wait has no timeout of its own.
    fn queue_timer(&mut self, at: Nanos) -> Option<Sqe> {
        if self.timer.is_some_and(|timer| timer <= at) || self.is_full() {
            return None;
        }
        *self.timespec = Timespec::from(at.since(self.now()));
        let timeout = opcode::Timeout::new(&*self.timespec).build();
        self.timer = Some(at);
        Some(self.queue(timeout, Token::at(TIMER.0, TIMER.1), -1, 0, 0))
    }

    /// Polls for a while, and then sleeps as `wait` says. Returns how many entries were taken.
    #[cold]
    fn spin(&mut self, mut busy_poll: BusyPoll, wait: Wait) -> io::Result<u32> {
        let (mut submitted, now) = (0, os::now);
        let until = if let Wait::Until(at) = wait { Some(at) } else { None };
        busy_poll.wait(now, until, |sleeps| {
            let timeout = until.filter(|_| sleeps && self.has(Capability::ExtArg));
            submitted += self.call(u32::from(sleeps), timeout.map(|at| at.since(now())))?;
            Ok(!self.ring.completion().is_empty())
        })?;
        self.busy_poll = Some(busy_poll);
        Ok(submitted)
    }

    /// Enters the kernel: io_uring_enter(2). Returns how many entries it has taken.
    #[inline(always)] // Once for each iteration.
    fn call(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<u32> {
        let queued = (self.queued - self.taken) as u32;
        let mut flags = self.enter_flags;
        if self.polling.sqpoll.is_some() {
            flags |= self.sqpoll_flags();
            if want == 0 && !flags.intersects(EnterFlags::SQ_WAKEUP | EnterFlags::SQ_WAIT) {
                return Ok(self.taken_by_thread());
            }
        }
        os::count_call();
        let time = timeout.map(Timespec::from);
        let args = time.as_ref().map(|time| SubmitArgs::new().timespec(time));
        if args.is_some() {
            flags |= EnterFlags::EXT_ARG;
        }
        // SAFETY: both structures live through the call, and are passed if the flags say so.
        let answer =
            unsafe { self.ring.submitter().enter(queued, want, flags.bits(), args.as_ref()) };
        let submitted = match answer {
            // A signal came, the timeout expired, completions must be reaped first, or memory is
            // short for the moment. What was queued is still queued.
            Err(error) if TEMPORARY.contains(&error.raw_os_error().unwrap_or(0)) => 0,
            answer => answer?,
        };
        if self.polling.sqpoll.is_some() {
            return Ok(self.taken_by_thread());
        }
        self.taken_until(self.taken + submitted as u64);
        Ok(submitted as u32)
    }

    /// The kernel has taken so many submissions.
    #[inline(always)]
    fn taken_until(&mut self, taken: u64) {
        (self.taken, self.queued_most) = (taken, taken + self.entries - 2);
        self.overflow = self.ring.submission().cq_overflow();
        // A failed send may be among the completions that wait outside the queue.
        self.memory.taken(if self.overflow { 0 } else { taken });
    }

    /// A kernel thread takes what is queued. Returns the flags of an enter that is necessary: to
    /// wake the thread, or to wait for space in the queue; completions that wait outside of theirs
    /// need one too.
    #[cold]
    fn sqpoll_flags(&mut self) -> EnterFlags {
        // Either the thread sees the tail of the queue before it sleeps, or its sleep is seen here
        // (kernel-notes §96).
        fence(Ordering::SeqCst);
        let queue = self.ring.submission();
        let mut flags = EnterFlags::empty();
        flags.set(EnterFlags::SQ_WAKEUP, queue.need_wakeup() || queue.cq_overflow());
        flags.set(EnterFlags::SQ_WAIT, queue.is_full());
        flags
    }

    /// Counts what the kernel thread has taken since it was counted last.
    #[cold]
    fn taken_by_thread(&mut self) -> u32 {
        let before = self.taken;
        let waiting = self.ring.submission().len() as u64;
        self.taken_until(self.queued - waiting);
        (self.taken - before) as u32
    }

    /// Frees what the ended operation held, unless it is a receive.
    fn release(&mut self, cqe: Cqe) {
        match cqe.token.kind() {
            Some(Kind::Send) => self.memory.sent(cqe.token.conn()),
            Some(Kind::Accept) => {
                if !cqe.more() {
                    self.accepts.end(cqe.token.accept());
                }
                if cqe.res >= 0 {
                    self.open += 1;
                    if !self.has(Capability::Direct) {
                        self.descriptors.insert(cqe.res);
                    }
                }
            }
            Some(Kind::Close) => self.open -= 1,
            Some(Kind::Internal) => self.timer = self.timer.filter(|&at| at > os::now()),
            _ => {}
        }
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Ring for Uring {
    fn is_full(&self) -> bool {
        // The kernel takes entries only during an enter, which says how many.
        self.queued > self.queued_most
    }

    fn out_of_buffers(&self, _: Size) -> bool {
        self.provided.is_empty() && self.pool.unfilled_in_all() == 0
    }

    fn push(&mut self, op: Op<'_>) -> Pushed {
        self.queue_op(op)
    }

    #[inline(always)] // Once for each message.
    fn push_send(
        &mut self,
        conn: ConnId,
        socket: Socket,
        queue: &mut SendQueue,
        skip_success: bool,
    ) -> bool {
        if skip_success
            && self.sends_simply
            && let Some((base, len)) = self.memory.send_only(conn, queue, self.queued)
        {
            self.queue_simple_send(conn, socket, base, len);
            return true;
        }
        self.queue_any_send(conn, socket, queue, skip_success).op.skips_success()
    }

    #[inline(always)] // Once for each iteration: its result need not be in memory.
    fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        let lent = if self.pool.take_low() { self.lend() } else { 0 };
        let mut own = None;
        let (want, timeout) = match wait {
            Wait::No => (0, None),
            _ if self.unconfirmed_sends => (0, None),
            Wait::Completion => (1, None),
            Wait::Until(at) if self.has(Capability::ExtArg) => (1, Some(at.since(self.now()))),
            Wait::Until(at) => {
                own = self.queue_timer(at);
                (u32::from(self.timer.is_some()), None)
            }
        };
        let submitted = match self.busy_poll {
            Some(busy_poll) if want > 0 => self.spin(busy_poll, wait)?,
            _ => self.call(want, timeout)?,
        };
        Ok(Entered { submitted, lent, overflow: self.overflow, own })
    }

    /// With deferred task work, the kernel fills a buffer only while this thread is in an enter: if
    /// no completion waits then, no lent buffer is filled.
    fn trim(&mut self) {
        if self.ring.completion().is_empty()
            && !self.overflow
            && self.kernel.has(Capability::DeferTaskrun)
        {
            self.pool.trim_lent();
        }
    }

    #[inline]
    fn reap(&mut self) -> Option<Cqe> {
        let entry = self.ring.completion().next()?;
        let token = Token(entry.user_data());
        let cqe = Cqe { token, res: entry.result(), flags: entry.flags() };
        self.ended += u64::from(!cqe.more());
        Some(cqe)
    }

    fn decode(&mut self, cqe: Cqe) -> Completion {
        self.release(cqe);
        decode(cqe, |cqe| self.take_buffer(cqe))
    }

    #[inline]
    fn next_implied(&mut self) -> Option<(ConnId, usize)> {
        let implied = self.memory.next_implied();
        match implied {
            Some(_) => self.ended += 1,
            None => self.unconfirmed_sends = self.memory.has_unconfirmed(),
        }
        implied
    }

    #[inline]
    fn take_buffer(&mut self, cqe: Cqe) -> Option<Lease> {
        match cqe.buffer() {
            // SAFETY: a completion names this buffer, so the kernel does not use it any more.
            Some(id) => unsafe { self.pool.reclaim(crate::buffer::BufferId(u32::from(id))) },
            None if cqe.token.kind() == Some(Kind::Read) => self.memory.read.take(),
            None => self.memory.received(cqe.token.conn()),
        }
    }

    fn take_back(&mut self, conn: ConnId) -> Option<Chunk> {
        self.memory.take_back(conn)
    }

    fn has_multishot(&self) -> bool {
        self.has(Capability::MultishotRecv)
    }

    fn has_outq(&self) -> bool {
        self.has(Capability::Direct) && self.has(Capability::SocketCommands)
    }

    fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    fn accepts(&self) -> u16 {
        // Only as many as find a free slot: without one, the kernel takes the connection and loses
        // it (kernel-notes §7). Behind a poll, an accept may block a kernel thread: one is enough.
        let several = self.accepts.with_addresses()
            && self.has(Capability::FastPoll)
            && self.sockets.saturating_sub(self.open) > usize::from(ACCEPTS);
        if several { ACCEPTS } else { 1 }
    }

    fn peer_address(&self, accept: AcceptId, socket: Socket) -> Option<SocketAddr> {
        match self.accepts.with_addresses() {
            true => self.accepts.address(accept),
            false => self.descriptor(socket).and_then(os::peer_addr),
        }
    }

    fn descriptor(&self, socket: Socket) -> Option<BorrowedFd<'_>> {
        let fd = socket.0 as RawFd;
        // SAFETY: the kernel gave this descriptor to this ring, which alone closes it, and takes it
        // out of `descriptors` before it does; `self` is borrowed as long as the answer is.
        self.descriptors.contains(&fd).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

impl Drop for Uring {
    /// Cancels the operations in flight and waits for them: the kernel must not write to memory
    /// that is freed (kernel-notes §9). An operation that does not end in time keeps its memory
    /// forever.
    fn drop(&mut self) {
        let wait = Duration::from_millis(100);
        for _ in 0..20 {
            while self.next().is_some() {}
            while self.next_implied().is_some() {}
            if self.in_flight() == 0 {
                break;
            }
            if self.is_full() {
                let _ = self.call(0, None);
            }
            self.cancel_everything();
            let timeout = self.has(Capability::ExtArg).then_some(wait);
            if self.call(u32::from(timeout.is_some()), timeout).is_err() {
                break;
            }
            if timeout.is_none() {
                std::thread::yield_now();
            }
        }
        for fd in std::mem::take(&mut self.descriptors) {
            // SAFETY: the kernel gave this descriptor to this ring, which alone knows it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        if self.in_flight() > 0 {
            tracing::error!(in_flight = self.in_flight(), "operations outlive their ring");
            std::mem::forget(Rc::clone(&self.pool));
            std::mem::forget(std::mem::take(&mut self.memory));
            std::mem::forget(std::mem::take(&mut self.provided));
            std::mem::forget(std::mem::replace(&mut self.accepts, Accepts::new(false)));
            return;
        }
        self.provided.iter().for_each(|provided| provided.unregister(&self.ring));
    }
}

impl Uring {
    fn cancel_everything(&mut self) {
        if self.is_full() {
            return;
        }
        if self.has(Capability::CancelAny) {
            let any = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.queue(any, Token::at(Kind::Internal, 0), -1, 0, 0);
            return;
        }
        // An old kernel cancels by token only. Shutting a socket down ends the operations on it.
        for &fd in &self.descriptors {
            os::count_call();
            // SAFETY: no memory is involved.
            unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        }
        let accepts = self.accepts.in_flight().into_iter().flat_map(|accept| {
            [Kind::Accept, Kind::PollAccept].map(|kind| Token::of_accept(kind, accept))
        });
        let others = [(Kind::Read, 0), (Kind::PollRead, 0), TIMER];
        let others = others.map(|(kind, index)| Token::at(kind, index));
        let wakes = [WakeSource::Shutdown, WakeSource::Monitor].map(Token::of_wake);
        for token in accepts.chain(others).chain(wakes) {
            if !self.is_full() {
                self.queue_cancel_of(token, Token::at(Kind::Internal, 0));
            }
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("fd", &self.ring.as_raw_fd())
            .field("kernel", &self.kernel)
            .field("in_flight", &self.in_flight())
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(size_of::<cqueue::Entry>() == size_of::<Cqe>());

#[cfg(test)]
mod rare;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::ptr::null_mut;

    use io_uring::types;

    use super::*;
    use crate::skip;

    /// A ring for one connection of this kernel, without what is in `missing`.
    fn ring(missing: &[Capability]) -> Result<Uring, String> {
        let kernel = Kernel::detect().map_err(|refusal| refusal.to_string())?;
        let kernel = missing.iter().fold(kernel, |kernel, &one| kernel.without(one));
        let buffers = vec![BufferClass { bytes: 4096, count: 8 }];
        let config = Config {
            kernel,
            connections: 1,
            buffers,
            addresses: false,
            polling: Polling::default(),
        };
        Uring::new(config).map_err(|error| error.to_string())
    }

    /// Queues an entry that the kernel refuses as it takes it, and not as it runs it.
    pub(super) fn queue_refused(ring: &mut Uring) {
        let cancel = opcode::AsyncCancel::new(0).build().flags(squeue::Flags::BUFFER_SELECT);
        ring.queue(cancel, Token::at(Kind::Internal, 7), -1, 0, 0);
    }

    /// From now on an enter of this thread that submits `count` entries fails with this error.
    pub(super) fn fail_enter(count: u32, errno: i32) {
        use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
        let op = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
        let load = |at: usize| op(BPF_LD | BPF_W | BPF_ABS, at as u32, 0);
        let equal = |k: u32, jf| op(BPF_JMP | BPF_JEQ | BPF_K, k, jf);
        let arg = std::mem::offset_of!(libc::seccomp_data, args) + size_of::<u64>();
        let low = if cfg!(target_endian = "big") { 4 } else { 0 };
        let mut filter = [
            load(std::mem::offset_of!(libc::seccomp_data, nr)),
            equal(libc::SYS_io_uring_enter as u32, 3),
            load(arg + low),
            equal(count, 1),
            op(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
            op(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let program = libc::sock_fprog { len: 6, filter: filter.as_mut_ptr() };
        // SAFETY: takes numbers alone.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: `program` and the filter that it points to are read during the call.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
    }

    /// Returns the result of an operation that the loop does not know.
    fn result_of(ring: &mut Uring, entry: squeue::Entry) -> i32 {
        // SAFETY: none of the entries below names memory that the kernel writes to, and the names
        // of files are constants.
        unsafe { ring.ring.submission().push(&entry) }.unwrap();
        ring.ring.submit_and_wait(1).unwrap();
        ring.ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_permits_its_own_operations_flags_and_registrations_and_no_others() {
        let lowered: [&[Capability]; 3] = [
            &[],
            &[Capability::Direct, Capability::BufferRing, Capability::MultishotRecv],
            &[Capability::Shutdown, Capability::ExtArg, Capability::FastPoll],
        ];
        for missing in lowered {
            let mut ring = match ring(missing) {
                Ok(ring) if ring.restricted().is_some() => ring,
                Ok(_) => return skip::skip("this kernel cannot restrict a ring"),
                Err(refusal) => return skip::skip(&refusal),
            };
            let (kernel, bad, root) = (ring.kernel, types::Fd(-1), c"/".as_ptr());
            for kind in Kind::ALL.iter().copied() {
                for entry in entries_of(kind) {
                    let permitted = restrict::permits(kernel, Some(kind), entry.get_opcode() as u8);
                    let is_refused = result_of(&mut ring, entry) == -libc::EACCES;
                    // Another kind may need the same operation.
                    assert!(!(permitted && is_refused), "{kind:?} with {kernel:?}");
                }
            }
            for entry in [
                opcode::OpenAt::new(bad, root).build(),
                opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
                opcode::Connect::new(bad, std::ptr::null(), 0).build(),
                opcode::Write::new(bad, std::ptr::null(), 0).build(),
                opcode::Fsync::new(bad).build(),
                opcode::UnlinkAt::new(bad, root).build(),
                opcode::PollAdd::new(bad, 0).build().flags(squeue::Flags::IO_DRAIN),
                opcode::PollAdd::new(bad, 0).build().flags(squeue::Flags::ASYNC),
            ] {
                let text = format!("{entry:?} with {kernel:?}");
                assert_eq!(result_of(&mut ring, entry), -libc::EACCES, "{text}");
            }
            let more = ring.ring.submitter().register_files_sparse(1).unwrap_err();
            assert_eq!(more.raw_os_error(), Some(libc::EACCES));
            let fewer = ring.ring.submitter().register_restrictions(&mut []).unwrap_err();
            assert_eq!(fewer.raw_os_error(), Some(libc::EACCES));
        }
    }

    /// Entries of the operations of this kind on a descriptor that is not open.
    fn entries_of(kind: Kind) -> Vec<squeue::Entry> {
        let (bad, null) = (types::Fd(-1), null_mut());
        let poll = || opcode::PollAdd::new(bad, 0).build().flags(squeue::Flags::IO_LINK);
        match kind {
            Kind::Accept => vec![opcode::Accept::new(bad, null_mut(), null_mut()).build()],
            Kind::Recv => vec![opcode::Recv::new(bad, null, 0).build()],
            Kind::Send => vec![
                opcode::Send::new(bad, null, 0).build(),
                opcode::SendMsg::new(bad, std::ptr::null()).build(),
            ],
            Kind::Shutdown => vec![opcode::Shutdown::new(bad, 0).build()],
            Kind::Close => vec![opcode::Close::new(bad).build()],
            Kind::CancelAccept | Kind::CancelRecv | Kind::CancelSend | Kind::Internal => {
                vec![opcode::AsyncCancel::new(0).build()]
            }
            Kind::Wake => vec![opcode::PollAdd::new(bad, 0).build()],
            Kind::PollAccept | Kind::PollRecv | Kind::PollSend | Kind::PollRead => vec![poll()],
            Kind::Read => vec![opcode::Read::new(bad, null, 0).build()],
            Kind::Outq => vec![opcode::UringCmd16::new(bad, 1).build()],
        }
    }

    #[test]
    fn an_enter_for_space_in_the_queue_leaves_an_unconfirmed_send_unconfirmed() {
        let kernel = match Kernel::detect() {
            Ok(kernel) if kernel.has(Capability::CqeSkip) => kernel,
            Ok(_) => return skip::skip("every send posts its completion"),
            Err(refusal) => return skip::skip(&refusal.to_string()),
        };
        let kernel = kernel.without(Capability::Direct);
        let buffers = vec![BufferClass { bytes: 4096, count: 8 }];
        let config = Config {
            kernel,
            connections: 1,
            buffers,
            addresses: false,
            polling: Polling::default(),
        };
        let mut ring = Uring::new(config).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (conn, socket) = (ConnId::default(), Socket(ours.as_raw_fd() as u32));
        let mut queue = SendQueue::default();
        queue.push(Chunk::from("x"));
        ring.submit(Op::Send { conn, socket, queue: &mut queue, skip_success: true }).unwrap();
        assert_eq!(ring.next_implied(), None, "the last enter did not take it");
        ring.enter(Wait::No).unwrap(); // As `submit` does while the queue is full.
        let deadline = os::now() + Duration::from_secs(2);
        ring.enter(Wait::Until(deadline)).unwrap();
        assert!(os::now() < deadline, "it sleeps, and the next bytes of the connection wait");
        assert_eq!(ring.next_implied(), Some((conn, 1)));
    }
}
