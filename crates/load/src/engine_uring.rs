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

use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use memmap2::{MmapMut, MmapRaw};

use super::error::{LoadError, Result};
use super::streams::ReplyStreams;
use super::{ClientEngine, Polled};
use proactor::os;
use proactor::refusal::{ENTER, REGISTER, Refusal, SETUP};
use proactor::version::Version;

/// The first kernel with `DEFER_TASKRUN`; multishot receives came just before.
const OLDEST: Version = Version { major: 6, minor: 1 };
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
pub(super) struct UringEngine {
    ring: IoUring,
    connections: Vec<UringConnection>,
    provided: ManuallyDrop<ProvidedBuffers>,
    /// The send buffers: `stride` bytes for each connection.
    outgoing: ManuallyDrop<MmapRaw>,
    stride: usize,
    /// Connections that may have operations to submit: one for each completion of this poll.
    completed: Vec<usize>,
    /// Queued or submitted operations without a final completion.
    in_flight: usize,
}

struct UringConnection {
    socket: TcpStream,
    /// True exactly while a send is in flight.
    sending: bool,
    /// True exactly while its multishot receive is armed.
    receiving: bool,
    ended: bool,
}

/// The operation of a completion: the lowest bit of the user data. The others are the number of the
/// connection.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;

impl UringEngine {
    /// Sets up a ring for so many connections, with buffers of about `buffer` bytes.
    ///
    /// # Errors
    /// The error of the first call that is refused: all three of io_uring are made here, so that
    /// none is found to be refused when the connections are open.
    pub(super) fn open(connections: usize, buffer: usize) -> io::Result<UringEngine> {
        Refusal::remembered()?;
        let refused = |call| move |error| io::Error::from(Refusal::of(call, &error));
        let entries = (2 * connections).next_power_of_two().clamp(64, 4096) as u32;
        let mut ring = IoUring::builder()
            // Completions are processed in our own enter only: the kernel does not interrupt us.
            .setup_single_issuer()
            .setup_defer_taskrun()
            // An invalid entry does not stop the submission of the entries after it.
            .setup_submit_all()
            .setup_cqsize(4 * entries)
            .setup_clamp()
            .build(entries)
            .map_err(|error| match Version::running() {
                Some(version) if version < OLDEST => {
                    io::Error::other(format!("the load generator needs io_uring of Linux {OLDEST}"))
                }
                _ => refused(SETUP)(error),
            })?;
        let size = buffer.next_multiple_of(64).clamp(BUFFER_MIN, BUFFER_MAX);
        let count = connections.next_power_of_two().min(POOL_MAX / size).clamp(16, 4096);
        let provided = ProvidedBuffers::new(count as u16, size)?;
        let align = if buffer < PAGE { 64 } else { PAGE };
        let stride = buffer.min(BUFFER_MAX).next_multiple_of(align);
        // SAFETY: the address is that of `count` zeroed entries at a page boundary. Their memory is
        // unmapped after all operations have ended, or never (rule 3).
        unsafe {
            let address = provided.entries.as_mut_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, count as u16, GROUP, 0)
        }
        .map_err(refused(REGISTER))?;
        enter(&mut ring).map_err(refused(ENTER))?;
        Ok(UringEngine {
            ring,
            connections: Vec::with_capacity(connections),
            provided: ManuallyDrop::new(provided),
            outgoing: ManuallyDrop::new(shared_memory(stride * connections)?),
            stride,
            completed: Vec::with_capacity(4 * entries as usize),
            in_flight: 0,
        })
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
        unsafe { self.push(entry, RECEIVE, conn) }
    }

    /// Queues an entry. Submits the queued entries first if the queue is full.
    ///
    /// # Safety
    /// The memory that the entry refers to is neither freed nor accessed until the operation has
    /// completed.
    unsafe fn push(&mut self, entry: squeue::Entry, op: u64, conn: usize) -> io::Result<()> {
        let entry = entry.user_data((conn as u64) << 1 | op);
        if self.ring.submission().is_full() {
            enter(&mut self.ring)?;
        }
        // SAFETY: `push` requires what this function requires of its caller.
        unsafe { self.ring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the submission queue stays full"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Processes all completions that have arrived.
    fn reap(&mut self, streams: &mut ReplyStreams) -> Result<Polled> {
        let UringEngine { ring, connections, provided, completed, in_flight, .. } = self;
        let mut polled = Polled::default();
        completed.clear();
        for cqe in ring.completion() {
            polled.any_event = true;
            let conn = (cqe.user_data() >> 1) as usize;
            let more = cqueue::more(cqe.flags());
            *in_flight -= usize::from(!more);
            completed.push(conn);
            let connection = &mut connections[conn];
            let error = || io::Error::from_raw_os_error(-cqe.result());
            if cqe.user_data() & 1 == SEND {
                connection.sending = false;
                let sent = cqe.result().try_into();
                streams.sent(conn, sent.map_err(|_| streams.broken(conn, error()))?);
                continue;
            }
            connection.receiving = more;
            match cqe.result() {
                0 => {
                    connection.ended = true;
                    streams.ended(conn, os::now())?;
                }
                len @ 1.. => {
                    let id = cqueue::buffer_select(cqe.flags());
                    let id = id.expect("a completed receive names a provided buffer");
                    // SAFETY: a completion has just named this buffer, so it belongs to this
                    // process (rule 1).
                    let bytes = unsafe { provided.bytes(id, len as usize) };
                    polled.receives += 1;
                    streams.received(conn, bytes, os::now())?;
                    // SAFETY: as above: `id` was checked, and `bytes` is not used after this.
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
}

impl ClientEngine for UringEngine {
    fn open(&mut self, conn: usize, socket: TcpStream) -> io::Result<()> {
        assert!(conn < self.connections.capacity(), "the engine was opened for fewer connections");
        let connection = UringConnection { socket, sending: false, receiving: false, ended: false };
        match self.connections.get_mut(conn) {
            Some(ended) => {
                assert!(!ended.sending && !ended.receiving, "its operations have ended");
                *ended = connection;
            }
            None => self.connections.push(connection),
        }
        self.arm(conn)
    }

    fn send(&mut self, conn: usize, streams: &mut ReplyStreams) -> Result {
        let connection = &mut self.connections[conn];
        if connection.sending {
            return Ok(());
        }
        let len = streams.outgoing(conn, os::now()).min(self.stride).min(BUFFER_MAX);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is the send buffer of `conn`, and no send of `conn` is in flight, so
        // the kernel does not read it (rule 2). `&mut self` excludes other access by this process.
        let bytes = unsafe {
            let start = self.outgoing.as_mut_ptr().add(conn * self.stride);
            std::slice::from_raw_parts_mut(start, len)
        };
        streams.fill(conn, bytes);
        connection.sending = true;
        let fd = Fd(connection.socket.as_fd().as_raw_fd());
        let entry = opcode::Send::new(fd, bytes.as_ptr(), len as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        // SAFETY: `sending` prevents another write to these bytes until the send has completed
        // (rule 2), and the memory is not freed before (rule 3).
        unsafe { self.push(entry, SEND, conn) }.map_err(LoadError::client("submit to its ring"))
    }

    fn poll(&mut self, streams: &mut ReplyStreams) -> Result<Polled> {
        let client = LoadError::client("submit to its ring");
        enter(&mut self.ring).map_err(&client)?;
        let polled = self.reap(streams)?;
        for at in 0..self.completed.len() {
            let conn = self.completed[at];
            self.arm(conn).map_err(&client)?;
            self.send(conn, streams)?;
        }
        Ok(polled)
    }

    fn is_sending(&self, conn: usize) -> bool {
        self.connections.get(conn).is_some_and(|connection| connection.sending)
    }

    fn socket(&self, conn: usize) -> &TcpStream {
        &self.connections[conn].socket
    }
}

impl Drop for UringEngine {
    /// Ends all operations in flight, and leaks the memory if that fails.
    fn drop(&mut self) {
        for connection in &self.connections {
            // An error means that the socket is not connected; its operations have ended then.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        let start = os::now();
        while self.in_flight > 0 {
            if enter(&mut self.ring).is_err() || os::now().since(start) > CANCEL_TIMEOUT {
                return;
            }
            for cqe in self.ring.completion() {
                self.in_flight -= usize::from(!cqueue::more(cqe.flags()));
            }
        }
        // SAFETY: no operation refers to the memory any more (rule 3), and nothing uses the fields
        // after this.
        unsafe {
            ManuallyDrop::drop(&mut self.provided);
            ManuallyDrop::drop(&mut self.outgoing);
        }
    }
}

/// Submits the queued entries and reaps completions, without waiting.
fn enter(ring: &mut IoUring) -> io::Result<()> {
    let queued = ring.submission().len() as u32;
    let flags = EnterFlags::GETEVENTS.bits();
    os::count_call();
    // SAFETY: the argument is `None`, so the kernel reads no memory of this process.
    match unsafe { ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) } {
        Ok(_) => Ok(()),
        // A signal, or a full completion queue: the entries stay queued for the next enter.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The receive buffers, and the buffer ring that lends them to the kernel.
#[derive(Debug)]
struct ProvidedBuffers {
    /// `count` entries of type [`BufRingEntry`]. The ring's tail is stored in the reserved field of
    /// the first entry.
    entries: MmapRaw,
    buffers: MmapRaw,
    count: u16,
    size: usize,
    /// The position of the next returned buffer; published by [`ProvidedBuffers::publish`].
    tail: u16,
}

impl ProvidedBuffers {
    /// Allocates `count` buffers (a power of two) of `size` bytes and publishes all of them.
    fn new(count: u16, size: usize) -> io::Result<ProvidedBuffers> {
        let entries = shared_memory(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = shared_memory(usize::from(count) * size)?;
        let mut provided = ProvidedBuffers { entries, buffers, count, size, tail: 0 };
        for id in 0..count {
            // SAFETY: `id` is below `count`, and the kernel does not know of this buffer yet (rule
            // 1).
            unsafe { provided.give_back(id) };
        }
        provided.publish();
        Ok(provided)
    }

    /// Returns the first `len` bytes of a buffer.
    ///
    /// # Safety
    /// A completion has named the buffer since it was last returned with
    /// [`ProvidedBuffers::give_back`].
    unsafe fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.size, "{len} bytes of buffer {id} do not exist");
        let start = usize::from(id) * self.size;
        // SAFETY: the range lies within the zeroed `buffers` as was just checked, and the buffer
        // does not belong to the kernel: a completion has named it (rule 1).
        unsafe { std::slice::from_raw_parts(self.buffers.as_ptr().add(start), len) }
    }

    /// Returns a buffer to the ring. The kernel sees it after the next
    /// [`ProvidedBuffers::publish`].
    ///
    /// # Safety
    /// `id` is below `count`, the buffer was not returned since a completion named it, and no
    /// reference to its bytes exists.
    unsafe fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, and `entries` is a zeroed, page-aligned mapping of
        // `count` entries, so the reference is valid. The kernel reads only the slots between its
        // head and the published tail. Each of the `count` buffers is in the ring at most once, so
        // this slot is not among them while buffer `id` is outside of the ring.
        let entry = unsafe { &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(slot) };
        let start = usize::from(id) * self.size;
        entry.set_addr(self.buffers.as_ptr() as u64 + start as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Publishes the returned buffers to the kernel.
    fn publish(&self) {
        // SAFETY: `base` is the address of the ring's first entry. Its tail field has two bytes and
        // is aligned; it is accessed only by the atomic store below and by loads of the kernel.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.as_mut_ptr().cast::<BufRingEntry>());
            &*tail.cast::<AtomicU16>()
        };
        // Release: a kernel thread that loads this tail also sees the entries below it.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Maps zeroed memory at a page boundary, which operations in flight may refer to. It is accessed
/// by address only: a reference to all of it would cover bytes that the kernel writes.
fn shared_memory(len: usize) -> io::Result<MmapRaw> {
    MmapMut::map_anon(len).map(MmapRaw::from)
}
