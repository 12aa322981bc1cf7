//! The io_uring wire: a multishot receive per connection into provided buffers, sends in batches,
//! one enter per turn that submits, fetches what has completed, and never sleeps.
//!
//! It exists because an epoll client is at its end near 160,000 messages a second, with a call for
//! each: a faster server then sleeps and waits for it, and the differences between servers shrink.
//! It has nothing in common with `src/ring` on purpose: a mistake there must not hide here.
//!
//! Three rules keep the kernel and us from touching the same bytes:
//!
//! 1. A receive buffer belongs to the kernel from its publication in the buffer ring until a
//!    completion names it, and to us from then until it is published again.
//! 2. A connection's send buffer belongs to the kernel while its one send is in flight.
//! 3. No memory is freed while an operation is in flight: [`UringWire`] ends them all before it
//!    goes, and leaks the memory if that does not succeed.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::crowd::{Crowd, Shape};
use super::failure::Failure;
use super::socket::Socket;
use super::{Found, Wire};
use proactor::os;

const PAGE: usize = 4096;
/// Bytes that one send moves at most, and that one receive buffer holds at most.
const BUFFER_MAX: usize = 64 << 10;
const BUFFER_MIN: usize = 1 << 10;
/// All receive buffers together: about what stays in a cache.
const POOL_MAX: usize = 4 << 20;
/// The only group of receive buffers.
const GROUP: u16 = 0;
/// How long the last operations may take to end before their memory is given up.
const FAREWELL: Duration = Duration::from_secs(1);

/// A wire over an io_uring of its own.
#[derive(Debug)]
pub(super) struct UringWire {
    ring: Ring,
    lines: Vec<Line>,
    provided: Provided,
    /// `stride` bytes for each connection, to send from.
    outgoing: Memory,
    stride: usize,
    /// Connections that may have something to submit, each once.
    marked: Vec<usize>,
    /// Operations submitted that have not completed for the last time.
    in_flight: usize,
}

/// A connection.
#[derive(Debug)]
struct Line {
    socket: Socket,
    /// True exactly while a send is in flight.
    sending: bool,
    /// True exactly while its multishot receive is armed.
    receiving: bool,
    ended: bool,
    marked: bool,
}

/// What completed: the upper half of the user data; the lower half says whose.
#[derive(Clone, Copy)]
enum Kind {
    Receive = 0,
    Send = 1,
}

/// Sets up a ring for this shape, and its buffers.
pub(super) fn open(shape: Shape) -> io::Result<UringWire> {
    let entries = (2 * shape.connections).next_power_of_two().clamp(64, 4096) as u32;
    let ring = IoUring::builder()
        // Completions are fetched by our enter and at no other time: no interrupts between.
        .setup_single_issuer()
        .setup_defer_taskrun()
        // One entry that is refused does not hold up those after it.
        .setup_submit_all()
        .setup_cqsize(4 * entries)
        .setup_clamp()
        .build(entries)?;
    let size = shape.window().next_multiple_of(64).clamp(BUFFER_MIN, BUFFER_MAX);
    let count = shape.connections.next_power_of_two().min(POOL_MAX / size).clamp(16, 4096);
    let provided = Provided::new(count as u16, size)?;
    let stride = match shape.window().min(BUFFER_MAX) {
        small if small < PAGE => small.next_multiple_of(64),
        large => large.next_multiple_of(PAGE),
    };
    let outgoing = Memory::new(stride * shape.connections)?;
    // SAFETY: `provided` holds `count` entries at a page border, and its memory outlives the ring
    // or is leaked with it (rule 3).
    unsafe {
        let submitter = ring.submitter();
        submitter.register_buf_ring_with_flags(provided.address(), count as u16, GROUP, 0)
    }?;
    Ok(UringWire {
        ring: Ring(ring),
        lines: Vec::with_capacity(shape.connections),
        provided,
        outgoing,
        stride,
        marked: Vec::with_capacity(shape.connections),
        in_flight: 0,
    })
}

impl UringWire {
    /// Has `conn` looked at before the next enter.
    fn mark(lines: &mut [Line], marked: &mut Vec<usize>, conn: usize) {
        if !std::mem::replace(&mut lines[conn].marked, true) {
            marked.push(conn);
        }
    }

    fn arm(&mut self, conn: usize) -> io::Result<()> {
        let line = &mut self.lines[conn];
        if line.receiving || line.ended {
            return Ok(());
        }
        line.receiving = true;
        let fd = Fd(line.socket.as_fd().as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        // SAFETY: the entry names no memory: the kernel takes its buffers from the group (rule 1).
        unsafe { self.push(entry, Kind::Receive, conn) }
    }

    /// Queues an entry; makes room by submitting those before it.
    ///
    /// # Safety
    /// What the entry points to stays valid, and untouched by us, until it has completed.
    unsafe fn push(&mut self, entry: squeue::Entry, kind: Kind, conn: usize) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 32 | conn as u64);
        if self.ring.0.submission().is_full() {
            self.ring.enter()?;
        }
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.ring.0.submission().push(&entry) }
            .map_err(|_| io::Error::other("its submission queue stays full"))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Takes what has completed.
    fn reap(&mut self, crowd: &mut Crowd) -> Result<Found, Failure> {
        let UringWire { ring, lines, provided, marked, in_flight, .. } = self;
        let mut found = Found::default();
        for cqe in ring.0.completion() {
            found.anything = true;
            let conn = (cqe.user_data() & u64::from(u32::MAX)) as usize;
            let more = cqueue::more(cqe.flags());
            *in_flight -= usize::from(!more);
            UringWire::mark(lines, marked, conn);
            let line = &mut lines[conn];
            let error = || io::Error::from_raw_os_error(-cqe.result());
            if cqe.user_data() >> 32 == Kind::Send as u64 {
                line.sending = false;
                let sent =
                    usize::try_from(cqe.result()).map_err(|_| crowd.broken(conn, error()))?;
                crowd.sent(conn, sent);
                continue;
            }
            line.receiving = more;
            match cqe.result() {
                0 => {
                    line.ended = true;
                    crowd.ended(conn)?;
                }
                len @ 1.. => {
                    let id = cqueue::buffer_select(cqe.flags());
                    let id = id.filter(|&id| provided.holds(id, len as usize));
                    let id = id.expect("a receive names the provided buffer that it filled");
                    // SAFETY: a completion has just named this buffer: it is ours (rule 1).
                    let bytes = unsafe { provided.bytes(id, len as usize) };
                    found.receives += 1;
                    crowd.received(conn, bytes, os::now())?;
                    // SAFETY: as before; `bytes` is not used after this.
                    unsafe { provided.give_back(id) };
                }
                // All buffers were taken. They are given back in this turn, and it is armed again.
                code if code == -libc::ENOBUFS => {}
                _ => return Err(crowd.broken(conn, error())),
            }
        }
        provided.publish();
        Ok(found)
    }

    /// Ends every operation that is in flight; answers whether that succeeded.
    fn farewell(&mut self) -> bool {
        for line in &self.lines {
            // A socket that is shut already says so; its operations have ended then.
            let _ = line.socket.shutdown(Shutdown::Both);
        }
        let start = os::now();
        while self.in_flight > 0 {
            if self.ring.enter().is_err() || os::now().since(start) > FAREWELL {
                return false;
            }
            for cqe in self.ring.0.completion() {
                self.in_flight -= usize::from(!cqueue::more(cqe.flags()));
            }
        }
        true
    }
}

impl Wire for UringWire {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn adopt(&mut self, socket: Socket) -> io::Result<()> {
        let conn = self.lines.len();
        assert!(conn < self.marked.capacity(), "no more connections than it was opened for");
        let line = Line { socket, sending: false, receiving: false, ended: false, marked: false };
        self.lines.push(line);
        self.arm(conn)
    }

    fn send(&mut self, conn: usize, crowd: &mut Crowd) -> Result<(), Failure> {
        let line = &mut self.lines[conn];
        if line.sending {
            return Ok(());
        }
        let len = crowd.outgoing(conn, os::now()).min(self.stride).min(BUFFER_MAX);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the range is this connection's own, and since no send is in flight the kernel
        // does not read it (rule 2).
        let bytes = unsafe { self.outgoing.bytes_mut(conn * self.stride, len) };
        crowd.fill(conn, bytes);
        line.sending = true;
        let fd = Fd(line.socket.as_fd().as_raw_fd());
        let entry = opcode::Send::new(fd, bytes.as_ptr(), len as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        // SAFETY: `sending` keeps us from writing there again before it has completed (rule 2), and
        // the memory is not freed before (rule 3).
        unsafe { self.push(entry, Kind::Send, conn) }.map_err(Failure::client("submit to its ring"))
    }

    fn turn(&mut self, crowd: &mut Crowd) -> Result<Found, Failure> {
        let client = Failure::client("enter its ring");
        self.ring.enter().map_err(&client)?;
        let found = self.reap(crowd)?;
        // Submitting may not mark anyone, so this comes to its end.
        for at in 0..self.marked.len() {
            let conn = self.marked[at];
            self.lines[conn].marked = false;
            self.arm(conn).map_err(&client)?;
            self.send(conn, crowd)?;
        }
        self.marked.clear();
        Ok(found)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| line.socket.shutdown(Shutdown::Write))
    }
}

impl Drop for UringWire {
    fn drop(&mut self) {
        if !self.farewell() {
            self.outgoing.leak();
            self.provided.entries.leak();
            self.provided.buffers.leak();
        }
    }
}

/// The ring itself.
struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("params", self.0.params()).finish()
    }
}

impl Ring {
    /// Submits what is queued and fetches what has completed, without waiting.
    fn enter(&mut self) -> io::Result<()> {
        let queued = self.0.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS.bits();
        os::count_call();
        // SAFETY: no argument is passed along, so the kernel reads none.
        match unsafe { self.0.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) } {
            Ok(_) => Ok(()),
            // A signal, or completions that must be reaped first: what is queued stays queued.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Receive buffers, and the ring by which they are lent to the kernel.
#[derive(Debug)]
struct Provided {
    /// `count` entries of [`BufRingEntry`]. The tail lies in a field of the first that no entry
    /// uses.
    entries: Memory,
    buffers: Memory,
    count: u16,
    size: usize,
    /// Where the next buffer is put; published by [`Provided::publish`].
    tail: u16,
}

impl Provided {
    /// `count` buffers (a power of two) of `size` bytes, all of them published.
    fn new(count: u16, size: usize) -> io::Result<Provided> {
        let entries = Memory::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = Memory::new(usize::from(count) * size)?;
        let mut provided = Provided { entries, buffers, count, size, tail: 0 };
        for id in 0..count {
            // SAFETY: the kernel does not know of this buffer yet: it is ours (rule 1).
            unsafe { provided.give_back(id) };
        }
        provided.publish();
        Ok(provided)
    }

    /// Where the entries begin.
    fn address(&self) -> u64 {
        self.entries.base.as_ptr() as u64
    }

    /// Whether there is such a buffer, and it is that long.
    fn holds(&self, id: u16, len: usize) -> bool {
        id < self.count && len <= self.size
    }

    /// The first bytes of a buffer.
    ///
    /// # Safety
    /// [`Provided::holds`] it, and a completion has named it since it was last given back.
    unsafe fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = usize::from(id) * self.size;
        // SAFETY: it lies within the buffers, and is not the kernel's now, by the caller's promise.
        unsafe { self.buffers.bytes(start, len) }
    }

    /// Puts a buffer into the ring; the kernel sees it from the next [`Provided::publish`] on.
    ///
    /// # Safety
    /// `id` is below `count`, it was not given back since a completion named it, and nobody uses
    /// its bytes any more.
    unsafe fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, a power of two; the allocation is zeroed and aligned to
        // a page, so an entry may be there. The kernel reads only slots below the published
        // tail, and at most `count` buffers are ever beyond its head, so it does not read
        // this one.
        let entry = unsafe { &mut *self.entries.base.as_ptr().cast::<BufRingEntry>().add(slot) };
        let start = usize::from(id) * self.size;
        entry.set_addr(self.buffers.base.as_ptr() as u64 + start as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back.
    fn publish(&self) {
        // SAFETY: the base is that of the ring's first entry, whose tail field is two bytes,
        // aligned, and accessed by nobody but by atomic stores here and the kernel's loads.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.base.as_ptr().cast::<BufRingEntry>());
            &*tail.cast::<AtomicU16>()
        };
        // Release: whoever sees the tail sees the entries below it.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed bytes that begin where a page does, and that the kernel may know of.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    layout: Layout,
    leaked: bool,
}

impl Memory {
    fn new(len: usize) -> io::Result<Memory> {
        let layout = Layout::from_size_align(len.max(1), PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout is not of size zero.
        let base = NonNull::new(unsafe { alloc::alloc_zeroed(layout) });
        let base = base.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { base, layout, leaked: false })
    }

    /// # Safety
    /// The range lies within, and neither we nor the kernel write to it while it is borrowed.
    unsafe fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: initialised (zeroed) memory of ours; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(start), len) }
    }

    /// # Safety
    /// The range lies within, and the kernel does not use it while it is borrowed.
    unsafe fn bytes_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` keeps ourselves away.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), len) }
    }

    /// It is never freed.
    fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: allocated with this very layout; by rule 3 the kernel does not use it any
            // more.
            unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) };
        }
    }
}
