//! The io_uring engine: a multishot receive per connection into provided buffers, sends in batches,
//! and one `io_uring_enter` per poll, which submits and reaps without waiting.
//!
//! An epoll client needs a call per message and reaches about 160,000 messages a second. A faster
//! server waits for such a client, and the differences between servers disappear. The engine shares
//! no code with `src/ring`, so that an error there cannot be hidden by the same error here.
//!
//! Three rules keep the kernel and this process from using the same bytes at the same time:
//!
//! 1. A receive buffer belongs to the kernel from its publication in the buffer ring until a
//!    completion names it, and to this process from then until it is published again.
//! 2. A connection's send buffer belongs to the kernel while the connection's send is in flight. A
//!    connection has at most one.
//! 3. No memory is freed while an operation is in flight: [`UringEngine`] ends all operations
//!    before it is dropped, and leaks the memory if it cannot.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::error::LoadError;
use super::streams::{EchoStreams, LoadShape};
use super::{ClientEngine, Polled};
use proactor::os;

const PAGE: usize = 4096;
/// The maximum number of bytes of one send, and of one receive buffer.
const BUFFER_MAX: usize = 64 << 10;
const BUFFER_MIN: usize = 1 << 10;
/// The maximum size of all receive buffers together: about the size of a cache.
const POOL_MAX: usize = 4 << 20;
/// The id of the only buffer group.
const GROUP: u16 = 0;
/// How long to wait for the last operations before their memory is leaked.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// An engine over its own io_uring.
#[derive(Debug)]
pub(super) struct UringEngine {
    ring: ClientRing,
    connections: Vec<UringConnection>,
    provided: ProvidedBuffers,
    /// The send buffers: `stride` bytes for each connection.
    outgoing: SharedMemory,
    stride: usize,
    /// Connections that may have operations to submit, each at most once.
    marked: Vec<usize>,
    /// Queued or submitted operations without a final completion.
    in_flight: usize,
}

#[derive(Debug)]
struct UringConnection {
    socket: TcpStream,
    /// True exactly while a send is in flight.
    sending: bool,
    /// True exactly while its multishot receive is armed.
    receiving: bool,
    ended: bool,
    marked: bool,
}

/// The operation of a completion: the upper half of the user data. The lower half is the number of
/// the connection.
#[derive(Clone, Copy)]
enum OpKind {
    Receive = 0,
    Send = 1,
}

/// Sets up a ring and its buffers for a load.
pub(super) fn open(shape: LoadShape) -> io::Result<UringEngine> {
    let entries = (2 * shape.connections).next_power_of_two().clamp(64, 4096) as u32;
    let ring = IoUring::builder()
        // Completions are processed in our own enter only: the kernel does not interrupt us.
        .setup_single_issuer()
        .setup_defer_taskrun()
        // An invalid entry does not stop the submission of the entries after it.
        .setup_submit_all()
        .setup_cqsize(4 * entries)
        .setup_clamp()
        .build(entries)?;
    let size = shape.window().next_multiple_of(64).clamp(BUFFER_MIN, BUFFER_MAX);
    let count = shape.connections.next_power_of_two().min(POOL_MAX / size).clamp(16, 4096);
    let provided = ProvidedBuffers::new(count as u16, size)?;
    let stride = match shape.window().min(BUFFER_MAX) {
        small if small < PAGE => small.next_multiple_of(64),
        large => large.next_multiple_of(PAGE),
    };
    let outgoing = SharedMemory::new(stride * shape.connections)?;
    // SAFETY: the address is that of `count` zeroed entries at a page boundary. Their memory is
    // freed after all operations have ended, or leaked (rule 3).
    unsafe {
        let submitter = ring.submitter();
        let address = provided.entries.base.as_ptr() as u64;
        submitter.register_buf_ring_with_flags(address, count as u16, GROUP, 0)
    }?;
    Ok(UringEngine {
        ring: ClientRing(ring),
        connections: Vec::with_capacity(shape.connections),
        provided,
        outgoing,
        stride,
        marked: Vec::with_capacity(shape.connections),
        in_flight: 0,
    })
}

impl UringEngine {
    /// Marks `conn` as possibly having operations to submit.
    fn mark(connections: &mut [UringConnection], marked: &mut Vec<usize>, conn: usize) {
        if !std::mem::replace(&mut connections[conn].marked, true) {
            marked.push(conn);
        }
    }

    /// Submits a multishot receive unless one is in flight.
    fn arm(&mut self, conn: usize) -> io::Result<()> {
        let connection = &mut self.connections[conn];
        if connection.receiving || connection.ended {
            return Ok(());
        }
        connection.receiving = true;
        let fd = Fd(connection.socket.as_fd().as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        // SAFETY: the entry contains no address: the kernel takes buffers from the group (rule 1).
        unsafe { self.push(entry, OpKind::Receive, conn) }
    }

    /// Queues an entry. Submits the queued entries first if the queue is full.
    ///
    /// # Safety
    /// The memory that the entry refers to is neither freed nor accessed until the operation has
    /// completed.
    unsafe fn push(&mut self, entry: squeue::Entry, kind: OpKind, conn: usize) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 32 | conn as u64);
        if self.ring.0.submission().is_full() {
            self.ring.enter()?;
        }
        // SAFETY: `push` requires what this function requires of its caller.
        unsafe { self.ring.0.submission().push(&entry) }
            .map_err(|_| io::Error::other("the submission queue stays full"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Processes all completions that have arrived.
    fn reap(&mut self, streams: &mut EchoStreams) -> Result<Polled, LoadError> {
        let UringEngine { ring, connections, provided, marked, in_flight, .. } = self;
        let mut polled = Polled::default();
        for cqe in ring.0.completion() {
            polled.any_event = true;
            let conn = (cqe.user_data() & u64::from(u32::MAX)) as usize;
            let more = cqueue::more(cqe.flags());
            *in_flight -= usize::from(!more);
            UringEngine::mark(connections, marked, conn);
            let connection = &mut connections[conn];
            let error = || io::Error::from_raw_os_error(-cqe.result());
            if cqe.user_data() >> 32 == OpKind::Send as u64 {
                connection.sending = false;
                let sent =
                    usize::try_from(cqe.result()).map_err(|_| streams.broken(conn, error()))?;
                streams.sent(conn, sent);
                continue;
            }
            connection.receiving = more;
            match cqe.result() {
                0 => {
                    connection.ended = true;
                    streams.ended(conn)?;
                }
                len @ 1.. => {
                    let id = cqueue::buffer_select(cqe.flags());
                    let id = id.filter(|&id| provided.holds(id, len as usize));
                    let id = id.expect("a completed receive names a provided buffer");
                    // SAFETY: `holds` was checked, and a completion has just named this buffer, so
                    // it belongs to this process (rule 1).
                    let bytes = unsafe { provided.bytes(id, len as usize) };
                    polled.receives += 1;
                    streams.received(conn, bytes, os::now())?;
                    // SAFETY: as above, and `bytes` is not used after this.
                    unsafe { provided.give_back(id) };
                }
                // All buffers were in use. They are returned in this poll, and the receive is armed
                // again.
                code if code == -libc::ENOBUFS => {}
                _ => return Err(streams.broken(conn, error())),
            }
        }
        provided.publish();
        Ok(polled)
    }

    /// Ends all operations in flight. Returns false if that fails.
    fn end_operations(&mut self) -> bool {
        for connection in &self.connections {
            // An error means that the socket is not connected; its operations have ended then.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        let start = os::now();
        while self.in_flight > 0 {
            if self.ring.enter().is_err() || os::now().since(start) > CANCEL_TIMEOUT {
                return false;
            }
            for cqe in self.ring.0.completion() {
                self.in_flight -= usize::from(!cqueue::more(cqe.flags()));
            }
        }
        true
    }
}

impl ClientEngine for UringEngine {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn add(&mut self, socket: TcpStream) -> io::Result<()> {
        let conn = self.connections.len();
        assert!(conn < self.marked.capacity(), "the engine was opened for fewer connections");
        let connection = UringConnection {
            socket,
            sending: false,
            receiving: false,
            ended: false,
            marked: false,
        };
        self.connections.push(connection);
        self.arm(conn)
    }

    fn send(&mut self, conn: usize, streams: &mut EchoStreams) -> Result<(), LoadError> {
        let connection = &mut self.connections[conn];
        if connection.sending {
            return Ok(());
        }
        let len = streams.outgoing(conn, os::now()).min(self.stride).min(BUFFER_MAX);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is the send buffer of `conn`, and no send of `conn` is in flight, so
        // the kernel does not read it (rule 2).
        let bytes = unsafe { self.outgoing.bytes_mut(conn * self.stride, len) };
        streams.fill(conn, bytes);
        connection.sending = true;
        let fd = Fd(connection.socket.as_fd().as_raw_fd());
        let entry = opcode::Send::new(fd, bytes.as_ptr(), len as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        // SAFETY: `sending` prevents another write to these bytes until the send has completed
        // (rule 2), and the memory is not freed before (rule 3).
        unsafe { self.push(entry, OpKind::Send, conn) }
            .map_err(LoadError::client("submit to its ring"))
    }

    fn poll(&mut self, streams: &mut EchoStreams) -> Result<Polled, LoadError> {
        let client = LoadError::client("submit to its ring");
        self.ring.enter().map_err(&client)?;
        let polled = self.reap(streams)?;
        // Submitting marks no connection, so this loop ends.
        for at in 0..self.marked.len() {
            let conn = self.marked[at];
            self.connections[conn].marked = false;
            self.arm(conn).map_err(&client)?;
            self.send(conn, streams)?;
        }
        self.marked.clear();
        Ok(polled)
    }

    fn shutdown(&mut self) -> io::Result<()> {
        self.connections
            .iter()
            .try_for_each(|connection| connection.socket.shutdown(Shutdown::Write))
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        if !self.end_operations() {
            let ProvidedBuffers { entries, buffers, .. } = &mut self.provided;
            for memory in [&mut self.outgoing, entries, buffers] {
                memory.leaked = true;
            }
        }
    }
}

struct ClientRing(IoUring);

impl std::fmt::Debug for ClientRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientRing").field("params", self.0.params()).finish()
    }
}

impl ClientRing {
    /// Submits the queued entries and reaps completions, without waiting.
    fn enter(&mut self) -> io::Result<()> {
        let queued = self.0.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS.bits();
        os::count_call();
        // SAFETY: the argument is `None`, so the kernel reads no memory of this process.
        match unsafe { self.0.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) } {
            Ok(_) => Ok(()),
            // A signal, or a full completion queue: the entries stay queued for the next enter.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The receive buffers, and the buffer ring that lends them to the kernel.
#[derive(Debug)]
struct ProvidedBuffers {
    /// `count` entries of type [`BufRingEntry`]. The ring's tail is stored in the reserved field of
    /// the first entry.
    entries: SharedMemory,
    buffers: SharedMemory,
    count: u16,
    size: usize,
    /// The position of the next returned buffer; published by [`ProvidedBuffers::publish`].
    tail: u16,
}

impl ProvidedBuffers {
    /// Allocates `count` buffers (a power of two) of `size` bytes and publishes all of them.
    fn new(count: u16, size: usize) -> io::Result<ProvidedBuffers> {
        let entries = SharedMemory::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = SharedMemory::new(usize::from(count) * size)?;
        let mut provided = ProvidedBuffers { entries, buffers, count, size, tail: 0 };
        for id in 0..count {
            // SAFETY: `id` is below `count`, and the kernel does not know of this buffer yet (rule
            // 1).
            unsafe { provided.give_back(id) };
        }
        provided.publish();
        Ok(provided)
    }

    /// Returns true if buffer `id` exists and has at least `len` bytes.
    fn holds(&self, id: u16, len: usize) -> bool {
        id < self.count && len <= self.size
    }

    /// Returns the first `len` bytes of a buffer.
    ///
    /// # Safety
    /// [`ProvidedBuffers::holds`] returns true, and a completion has named the buffer since it was
    /// last returned with [`ProvidedBuffers::give_back`].
    unsafe fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = usize::from(id) * self.size;
        // SAFETY: the range lies within `buffers` because `holds` is true, and the buffer does not
        // belong to the kernel: a completion has named it (rule 1).
        unsafe { self.buffers.bytes(start, len) }
    }

    /// Returns a buffer to the ring. The kernel sees it after the next
    /// [`ProvidedBuffers::publish`].
    ///
    /// # Safety
    /// `id` is below `count`, the buffer was not returned since a completion named it, and no
    /// reference to its bytes exists.
    unsafe fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, and `entries` is a zeroed, page-aligned allocation of
        // `count` entries, so the reference is valid. The kernel reads only the slots between its
        // head and the published tail. Each of the `count` buffers is in the ring at most once, so
        // this slot is not among them while buffer `id` is outside of the ring.
        let entry = unsafe { &mut *self.entries.base.as_ptr().cast::<BufRingEntry>().add(slot) };
        let start = usize::from(id) * self.size;
        entry.set_addr(self.buffers.base.as_ptr() as u64 + start as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Publishes the returned buffers to the kernel.
    fn publish(&self) {
        // SAFETY: `base` is the address of the ring's first entry. Its tail field has two bytes and
        // is aligned; it is accessed only by the atomic store below and by loads of the kernel.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.base.as_ptr().cast::<BufRingEntry>());
            &*tail.cast::<AtomicU16>()
        };
        // Release: a kernel thread that loads this tail also sees the entries below it.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory at a page boundary, which operations in flight may refer to.
#[derive(Debug)]
struct SharedMemory {
    base: NonNull<u8>,
    layout: Layout,
    /// If true, the memory is never freed.
    leaked: bool,
}

impl SharedMemory {
    fn new(len: usize) -> io::Result<SharedMemory> {
        let layout = Layout::from_size_align(len.max(1), PAGE).map_err(io::Error::other)?;
        // SAFETY: the size of the layout is not zero.
        let base = NonNull::new(unsafe { alloc::alloc_zeroed(layout) });
        let base = base.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedMemory { base, layout, leaked: false })
    }

    /// # Safety
    /// The range lies within the allocation, and neither this process nor the kernel writes to it
    /// during the borrow.
    unsafe fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: the allocation is initialised (zeroed) and `self` owns it. The caller
        // guarantees the range and the absence of writes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) }
    }

    /// # Safety
    /// The range lies within the allocation, and the kernel does not access it during the borrow.
    unsafe fn bytes_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        // SAFETY: as above; `&mut self` excludes other accesses of this process.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), len) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: allocated by `new` with this layout. No operation refers to the memory any
            // more, or `leaked` would be set (rule 3).
            unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
        }
    }
}
