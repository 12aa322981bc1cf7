//! The system calls that std has no word for. This file and those of its folder call libc for
//! sockets, polling, signals and processes, and no other does.
//!
//! Every call goes through `syscall!`, which turns `-1` into an [`io::Error`] and counts: what
//! `compare` reports as *system calls per message* was counted here, at the call.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::clock::Nanos;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// How many system calls this thread has made in this house: those of this file, and those of its
/// ring.
pub fn calls() -> u64 {
    CALLS.get()
}

/// Counts a system call that is made elsewhere.
pub fn count_call() {
    CALLS.set(CALLS.get() + 1);
}

/// Calls libc: `-1` becomes the [`io::Error`] of `errno`, and the call is counted.
macro_rules! syscall {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        count_call();
        // SAFETY: each use says why its arguments are valid for the call's duration, just above.
        let answer = unsafe { libc::$name($($arg),*) };
        if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }};
}

// After the macro, which they use.
mod io_signals;
pub mod probe;
pub mod process;
pub mod shared;
mod signal;

pub use io_signals::IoSignals;
pub use signal::{Bell, Stop, allow_interrupts, count_usr2, interrupt, usr2};

// Time.

/// The monotonic clock.
pub fn now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written to during the call; this clock is always there. Not a system call:
    // the vDSO answers.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The CPU's counter of cycles, where there is one that can be read without the kernel.
///
/// Whether it ticks evenly, and on all CPUs alike, is for [`cycles_are_even`] to say.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 CPU has the instruction, and it touches no memory.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return now().0;
}

/// Whether [`cycles`] can serve as a clock: it ticks at one rate, also in deep sleep, and the kernel
/// itself trusts it to be the same on all CPUs (`constant_tsc`, `nonstop_tsc`, clocksource `tsc`).
pub fn cycles_are_even() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let cpus = read("/proc/cpuinfo");
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    cfg!(target_arch = "x86_64")
        && source.trim() == "tsc"
        && has("constant_tsc")
        && has("nonstop_tsc")
}

/// The wall clock: nanoseconds since 1970.
pub fn wall_clock() -> Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Nanos(since.map_or(0, |span| span.as_nanos() as u64))
}

/// This thread's number, as gettid(2) has it.
pub fn thread_id() -> u32 {
    // SAFETY: takes nothing and never fails. Not counted: no server makes it but to be recorded.
    unsafe { libc::gettid() as u32 }
}

/// What kernel this is: its name, release, version and machine, as uname(2) has them.
pub fn uname() -> String {
    // SAFETY: all-zero is a valid utsname: five empty names.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is written to during the call, and each name is ended by a zero.
    if unsafe { libc::uname(&mut names) } == -1 {
        return "unknown".to_owned();
    }
    let fields = [&names.sysname[..], &names.release, &names.version, &names.machine];
    let text = |field: &[libc::c_char]| -> String {
        let bytes = field.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect::<Vec<u8>>();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    fields.map(text).join(" ")
}

/// A tracefs(5) that is mounted nowhere: it is seen through this descriptor, and gone with it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENODEV` from a kernel without tracing; `ENOSYS` before 5.2.
pub fn private_tracefs() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let own = |fd: libc::c_long| {
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
    };
    let none = std::ptr::null::<libc::c_char>();
    // 1: close on exec. The name is read during the call.
    let context = own(syscall!(syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1))?);
    let fd = context.as_raw_fd();
    // No name and no value: it is told to make the file system as it is by default.
    syscall!(syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0))?;
    // 1: close on exec.
    Ok(own(syscall!(syscall(libc::SYS_fsmount, fd, 1, 0))?))
}

// Files.

/// A file in memory, without a name: it is gone with its last descriptor and mapping. `name` is what
/// `/proc/PID/fd` shows.
///
/// # Errors
/// memfd_create(2); Linux 3.17 and newer have it.
pub fn memory_file(name: &std::ffi::CStr) -> io::Result<std::fs::File> {
    // The name ends with a zero and is read during the call.
    let fd = syscall!(memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { std::fs::File::from_raw_fd(fd) })
}

/// Locks a file for this open file description, so long as any descriptor of it is open. Answers
/// whether nobody else has it: fcntl(2), `F_OFD_SETLK`, since Linux 3.15 (kernel-notes §51).
///
/// # Errors
/// The file is not open for writing; its filesystem knows no locks.
pub fn lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    let whole = whole_file();
    // `whole` is read during the call.
    match syscall!(fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole)) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether another open file description, of any process, has [locked](lock) this file. It is asked
/// without taking the lock: `F_OFD_GETLK`.
///
/// # Errors
/// fcntl(2).
pub fn is_locked(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut whole = whole_file();
    // `whole` is read and written to during the call.
    syscall!(fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut whole))?;
    Ok(whole.l_type != libc::F_UNLCK as libc::c_short)
}

/// A lock on all of a file, for writing.
fn whole_file() -> libc::flock {
    // SAFETY: all-zero is a valid flock: from 0, to the end, of no process, as OFD locks want it.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    whole.l_whence = libc::SEEK_SET as libc::c_short;
    whole
}

// Limits.

/// Raises the soft limit of open descriptors to the hard one, and answers it.
///
/// # Errors
/// The limits cannot be read; that they cannot be raised is no error.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // `limit` is written to during the call.
    syscall!(getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // `raised` is read during the call.
        if syscall!(setrlimit(libc::RLIMIT_NOFILE, &raised)).is_ok() {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

/// Keeps the calling thread, and those it will create, on one CPU.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // `set` is read during the call.
    syscall!(sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))?;
    Ok(())
}

/// The CPUs that the calling thread may use, in order; none if the kernel does not tell.
pub fn usable_cpus() -> Vec<usize> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // `set` is written to during the call, and no further than it is long.
    if syscall!(sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set)).is_err() {
        return Vec::new();
    }
    // SAFETY: each number is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

// Sockets. Whether a call waits is up to the socket.

/// Accepts a connection, non-blocking and closed on exec.
///
/// # Errors
/// `WouldBlock` if none waits; else accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    accept_with(listener, libc::SOCK_NONBLOCK)
}

/// Accepts a connection whose calls wait, closed on exec. Whether this one waits is up to
/// `listener`.
///
/// # Errors
/// `WouldBlock` if none waits and `listener` does not block; else accept4(2).
pub fn accept_blocking(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    accept_with(listener, 0)
}

fn accept_with(listener: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), flags | libc::SOCK_CLOEXEC);
    // The peer's address is not asked for: both pointers may be null.
    let fd = syscall!(accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives into `buffer`; zero is the peer's end.
///
/// # Errors
/// `WouldBlock` if nothing is there; else recv(2).
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    recv_with(socket, buffer, 0)
}

/// Receives what is there into `buffer`, and does not wait, whatever the socket.
///
/// # Errors
/// `WouldBlock` if nothing is there; else recv(2).
pub fn recv_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    recv_with(socket, buffer, libc::MSG_DONTWAIT)
}

fn recv_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // `buffer` is writable for its length.
    let n = syscall!(recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags))?;
    Ok(n as usize)
}

/// Sends `bytes`, or the first part of them. No signal is raised.
///
/// # Errors
/// `WouldBlock` if there is no room; else send(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL;
    // `bytes` is readable for its length.
    let n = syscall!(send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags))?;
    Ok(n as usize)
}

/// Sends `parts` one after the other, or the first part of all that. No signal is raised.
///
/// # Errors
/// `WouldBlock` if there is no room; else sendmsg(2).
pub fn send_vectored(socket: BorrowedFd<'_>, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    send_message(socket, parts, libc::MSG_NOSIGNAL)
}

fn send_message(
    socket: BorrowedFd<'_>,
    parts: &[io::IoSlice<'_>],
    flags: libc::c_int,
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid msghdr: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts.as_ptr().cast_mut().cast(); // IoSlice is laid out as iovec: std's promise
    header.msg_iovlen = parts.len();
    // `header` and all it points to are readable during the call.
    let n = syscall!(sendmsg(socket.as_raw_fd(), &header, flags))?;
    Ok(n as usize)
}

/// Reads from whatever it is, blocking if that does; zero is its end.
///
/// # Errors
/// read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // `buffer` is writable for its length.
    let n = syscall!(read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()))?;
    Ok(n as usize)
}

/// Whether a read would not wait just now: there are bytes, the end, or an error. Files always say
/// so.
///
/// # Errors
/// poll(2).
pub fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    Ok(poll(&mut asked, Some(Duration::ZERO))? > 0)
}

/// As [`send_vectored`], but never waits, whether the socket blocks or not.
///
/// # Errors
/// As [`send_vectored`].
pub fn send_now(socket: BorrowedFd<'_>, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    send_message(socket, parts, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
}

/// Shuts the sending direction down.
///
/// # Errors
/// shutdown(2): `NotConnected` if the peer has reset.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    syscall!(shutdown(socket.as_raw_fd(), libc::SHUT_WR)).map(drop)
}

/// Shuts both directions down: whoever sleeps in a call on it, in any thread, wakes, and nobody
/// will sleep on it again.
///
/// # Errors
/// shutdown(2): `NotConnected` if the peer has reset.
pub fn shutdown_both(socket: BorrowedFd<'_>) -> io::Result<()> {
    syscall!(shutdown(socket.as_raw_fd(), libc::SHUT_RDWR)).map(drop)
}

/// How long a receive on it may sleep before it fails with `WouldBlock`; at least a microsecond.
///
/// # Errors
/// setsockopt(2), never on a socket.
pub fn set_receive_timeout(socket: BorrowedFd<'_>, span: Duration) -> io::Result<()> {
    set_timeout(socket, libc::SO_RCVTIMEO, span)
}

/// How long a send on it may sleep before it answers what it has sent or, if that is nothing,
/// fails with `WouldBlock`; at least a microsecond.
///
/// # Errors
/// setsockopt(2), never on a socket.
pub fn set_send_timeout(socket: BorrowedFd<'_>, span: Duration) -> io::Result<()> {
    set_timeout(socket, libc::SO_SNDTIMEO, span)
}

fn set_timeout(socket: BorrowedFd<'_>, which: libc::c_int, span: Duration) -> io::Result<()> {
    // Zero would be for ever.
    let span = span.max(Duration::from_micros(1));
    let time = libc::timeval {
        tv_sec: span.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(span.subsec_micros() as i32),
    };
    let (time, size) = ((&raw const time).cast(), size_of::<libc::timeval>() as libc::socklen_t);
    // `time` lives on this frame, is `size` bytes and is read during the call.
    syscall!(setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, which, time, size)).map(drop)
}

/// How many bytes that were sent the other end has not taken yet: over TCP, has not acknowledged.
///
/// # Errors
/// ioctl(2), never on a stream socket.
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SIOCOUTQ has TIOCOUTQ's number; `bytes` is written to during the call.
    syscall!(ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes))?;
    Ok(bytes as usize)
}

/// Has calls on it return rather than wait.
///
/// # Errors
/// fcntl(2), never on an open descriptor.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = syscall!(fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
    syscall!(fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)).map(drop)
}

/// Has calls on it wait.
///
/// # Errors
/// fcntl(2), never on an open descriptor.
pub fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = syscall!(fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
    syscall!(fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK)).map(drop)
}

/// Closes a descriptor, as dropping it does, but counted.
pub fn close(fd: OwnedFd) {
    count_call();
    drop(fd);
}

// Readiness. A signal is no error: nothing is ready.

/// A new epoll(7) instance.
///
/// # Errors
/// No descriptor is left.
pub fn epoll_create() -> io::Result<OwnedFd> {
    let fd = syscall!(epoll_create1(libc::EPOLL_CLOEXEC))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds, modifies or removes an interest (`EPOLL_CTL_*`).
///
/// # Errors
/// epoll_ctl(2).
pub fn epoll_ctl(
    epoll: BorrowedFd<'_>,
    operation: libc::c_int,
    fd: BorrowedFd<'_>,
    mut event: libc::epoll_event,
) -> io::Result<()> {
    // `event` is read during the call.
    syscall!(epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event)).map(drop)
}

/// Replaces `events` by what is ready, as much as fits its capacity.
///
/// # Errors
/// epoll_wait(2).
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut Vec<libc::epoll_event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    events.clear();
    let (room, timeout) = (events.capacity() as libc::c_int, milliseconds(timeout));
    // There is room for so many events where the vector's begin.
    let n = unless_interrupted(syscall!(epoll_wait(
        epoll.as_raw_fd(),
        events.as_mut_ptr(),
        room,
        timeout
    )))?;
    // SAFETY: the kernel has written the first `n` events, and `n` is at most the capacity.
    unsafe { events.set_len(n) };
    Ok(())
}

/// Fills in what is ready of each; answers of how many anything is. If of none, what was filled in
/// means nothing.
///
/// # Errors
/// poll(2).
pub fn poll(asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    let (count, timeout) = (asked.len() as libc::nfds_t, milliseconds(timeout));
    // `asked` is readable and writable for its length.
    unless_interrupted(syscall!(poll(asked.as_mut_ptr(), count, timeout)))
}

/// The first descriptor that select(2) cannot watch.
pub const SELECT_LIMIT: RawFd = libc::FD_SETSIZE as RawFd;

/// A set of descriptors for select(2).
#[derive(Clone)]
pub struct FdSet(libc::fd_set);

impl FdSet {
    /// Takes a descriptor in or out.
    ///
    /// # Panics
    /// If it is not below [`SELECT_LIMIT`].
    pub fn set(&mut self, fd: RawFd, member: bool) {
        assert!((0..SELECT_LIMIT).contains(&fd), "select(2) cannot name descriptor {fd}");
        // SAFETY: `fd` is a bit of the set, checked above.
        unsafe {
            if member { libc::FD_SET(fd, &mut self.0) } else { libc::FD_CLR(fd, &mut self.0) }
        }
    }

    /// Whether it is a member.
    pub fn has(&self, fd: RawFd) -> bool {
        // SAFETY: `fd` is a bit of the set, checked first.
        (0..SELECT_LIMIT).contains(&fd) && unsafe { libc::FD_ISSET(fd, &self.0) }
    }
}

impl std::fmt::Debug for FdSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..SELECT_LIMIT).filter(|&fd| self.has(fd))).finish()
    }
}

impl Default for FdSet {
    fn default() -> FdSet {
        // SAFETY: all-zero is the empty set.
        FdSet(unsafe { std::mem::zeroed() })
    }
}

/// Leaves in the sets, of the descriptors below `below`, those that are ready; answers how many
/// members are left in both together.
///
/// # Errors
/// select(2).
pub fn select(
    below: usize,
    read: &mut FdSet,
    write: &mut FdSet,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let time = timeout.map_or(std::ptr::null_mut(), |span| {
        let micros = span.as_nanos().div_ceil(1000);
        time.tv_sec = (micros / 1_000_000).try_into().unwrap_or(libc::time_t::MAX);
        time.tv_usec = (micros % 1_000_000) as libc::suseconds_t;
        &raw mut time
    });
    let below = libc::c_int::try_from(below).unwrap_or(SELECT_LIMIT).min(SELECT_LIMIT);
    // The sets are writable; `time` is null or lives on this frame.
    let none = std::ptr::null_mut();
    let n = unless_interrupted(syscall!(select(below, &mut read.0, &mut write.0, none, time)))?;
    if n == 0 {
        // After a signal the sets are as they were: nothing is ready.
        (*read, *write) = (FdSet::default(), FdSet::default());
    }
    Ok(n)
}

/// Does nothing for so long, or until a signal comes.
///
/// # Errors
/// nanosleep(2), never for a span that a [`Duration`] can be.
pub fn sleep(span: Duration) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: span.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(span.subsec_nanos() as i32),
    };
    // `time` is read during the call; what would be left of it is not asked for.
    unless_interrupted(syscall!(nanosleep(&time, std::ptr::null_mut()))).map(drop)
}

fn unless_interrupted(answer: io::Result<libc::c_int>) -> io::Result<usize> {
    match answer {
        Ok(n) => Ok(n as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

/// Rounds a timeout up to whole milliseconds for poll(2) and its kin; `None` is -1, for ever.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |span| {
        let up = span.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(up).unwrap_or(libc::c_int::MAX)
    })
}

// Measuring: what load and compare ask of the kernel.

/// A clock that counts the CPU time, user and system, that a thread or a process has used.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// That of whichever thread reads it.
    pub const THIS_THREAD: CpuClock = CpuClock(libc::CLOCK_THREAD_CPUTIME_ID);

    /// That of another process: all its threads, the kernel's io-wq workers among them. It lags by
    /// up to a tick for a thread that is running on another CPU, and is exact once that sleeps.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of_process(pid: u32) -> io::Result<CpuClock> {
        let pid =
            libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        let mut clock: libc::clockid_t = 0;
        count_call();
        // SAFETY: `clock` is written to during the call. This one answers the error itself, and
        // leaves errno alone.
        match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
            0 => Ok(CpuClock(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// How much CPU time has been used.
    ///
    /// # Errors
    /// The process has been waited for: it is no more.
    pub fn read(self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // `time` is written to during the call.
        syscall!(clock_gettime(self.0, &mut time))?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

/// Asks a child to end (SIGTERM). A child that has ended already is left alone, so that no stranger
/// with its number is ever asked.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn terminate(child: &mut std::process::Child) -> io::Result<()> {
    // Until it has been waited for, and `&mut` says that nobody does so meanwhile, the number is
    // its own.
    if child.try_wait()?.is_none() {
        syscall!(kill(child.id() as libc::pid_t, libc::SIGTERM))?;
    }
    Ok(())
}

/// What a process group may be told, whether it wants to hear it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Use no CPU until resumed (SIGSTOP). It takes effect a little later.
    Pause,
    /// Go on (SIGCONT).
    Resume,
    /// End at once (SIGKILL).
    Kill,
}

/// Tells it to a child and to all that it has forked. The child must lead a process group of its
/// own (`Command::process_group(0)`); one that has ended already is left alone, with its group.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn order_group(child: &mut std::process::Child, order: Order) -> io::Result<()> {
    let signal = match order {
        Order::Pause => libc::SIGSTOP,
        Order::Resume => libc::SIGCONT,
        Order::Kill => libc::SIGKILL,
    };
    // As in `terminate`: until it has been waited for, the group's number is its own.
    if child.try_wait()?.is_none() {
        syscall!(kill(-(child.id() as libc::pid_t), signal))?;
    }
    Ok(())
}

/// Has the kernel kill the child that this command will start as soon as the thread that starts it
/// ends, however that comes about: no child is left behind by a parent that was killed.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let set_up = move || {
        // Takes numbers alone.
        syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before that; then nobody would tell.
        let now = std::os::unix::process::parent_id();
        if now == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls, both async-signal-safe, and
    // touches no memory but its own copy of `parent`; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(set_up) };
}

#[cfg(test)]
pub(crate) mod testing {
    //! What tests do to their own threads, and nobody else should.

    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// Sends the calling thread signals that do nothing but interrupt, until `enough`. The answer
    /// is to be joined by the same thread.
    pub(crate) fn interrupt_me(enough: Arc<AtomicBool>) -> JoinHandle<()> {
        allow_interrupts().unwrap();
        // SAFETY: a thread can always name itself.
        let me = unsafe { libc::pthread_self() };
        thread::spawn(move || {
            while !enough.load(Ordering::Relaxed) {
                // SAFETY: that thread lives: it joins this one.
                unsafe { libc::pthread_kill(me, signal::INTERRUPT) };
                thread::yield_now();
            }
        })
    }

    /// Has the calling thread told that more signals came than can be queued.
    pub(crate) fn overflow_my_signals() {
        // SAFETY: a thread can always name itself; the signal is blocked, so it does not end it.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGIO) }, 0);
    }

    /// The same open file under the lowest free descriptor from `least` on.
    pub(crate) fn duplicate_from(fd: BorrowedFd<'_>, least: RawFd) -> OwnedFd {
        // No pointers.
        let fd = syscall!(fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least)).unwrap();
        // SAFETY: the kernel has just given us this descriptor.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}
