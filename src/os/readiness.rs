//! Readiness: epoll, poll and select. A signal is no error: nothing is ready.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::count_call;
use crate::clock::Nanos;

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
#[inline]
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut Vec<libc::epoll_event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    events.clear();
    let (space, timeout) = (events.capacity() as libc::c_int, milliseconds(timeout));
    // There is space for so many events where the vector's begin.
    let n = unless_interrupted(syscall!(epoll_wait(
        epoll.as_raw_fd(),
        events.as_mut_ptr(),
        space,
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

/// Whether a read would not wait just now: there are bytes, the end, or an error. Files always say
/// so.
///
/// # Errors
/// poll(2).
pub fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    Ok(poll(&mut asked, Some(Duration::ZERO))? > 0)
}

/// A timer that is waited for as any descriptor is: readable from its moment on.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// Creates a timer that is not set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Alarm> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        let fd = syscall!(timerfd_create(libc::CLOCK_MONOTONIC, flags))?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Alarm(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sets it to this moment of [`now`](super::now), which may be over; `None` is never.
    pub fn set(&self, at: Option<Nanos>) {
        // Zero would switch it off.
        let Nanos(at) = at.map_or(Nanos(0), |Nanos(at)| Nanos(at.max(1)));
        let [zero, at] = [0, at].map(|nanos| libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as _,
            tv_nsec: (nanos % 1_000_000_000) as _,
        });
        let timer = libc::itimerspec { it_interval: zero, it_value: at };
        // `timer` is read during the call, which never fails on a timer.
        let (fd, none) = (self.0.as_raw_fd(), std::ptr::null_mut());
        let _ = syscall!(timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &timer, none));
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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

/// Leaves in the sets, of the descriptors below `below`, those that are ready; returns how many
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
        time.tv_sec = (micros / 1_000_000).min(LONGEST) as _;
        time.tv_usec = (micros % 1_000_000) as _;
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

/// The longest timeout, in seconds: 68 years fit every `time_t`.
const LONGEST: u128 = i32::MAX as u128;

/// Sleeps for this time, or until a signal comes.
///
/// # Errors
/// nanosleep(2), never for a span that a [`Duration`] can be.
pub fn sleep(span: Duration) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: u128::from(span.as_secs()).min(LONGEST) as _,
        tv_nsec: span.subsec_nanos() as _,
    };
    // `time` is read during the call; what would be left of it is not asked for.
    unless_interrupted(syscall!(nanosleep(&time, std::ptr::null_mut()))).map(drop)
}

#[inline]
fn unless_interrupted(answer: io::Result<libc::c_int>) -> io::Result<usize> {
    answer.map(|n| n as usize).or_else(zero_if_interrupted)
}

#[cold]
fn zero_if_interrupted(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
}

/// Rounds a timeout up to whole milliseconds for poll(2) and others; `None` is -1, no limit.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |span| {
        let up = span.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(up).unwrap_or(libc::c_int::MAX)
    })
}
