//! The system calls that std does not have: sockets, polling, signals and processes.
//!
//! Calls go through `syscall!`, which makes `-1` an [`io::Error`] and counts: what
//! `compare` reports as *system calls per message* was counted here, at the call.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::clock::Nanos;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Returns the number of system calls of this thread, through `os` and through its ring.
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
mod accept;
pub mod cgroup;
mod child;
mod clock;
mod io_signals;
pub mod probe;
pub mod process;
pub mod procfs;
mod readiness;
pub mod shared;
mod signal;
mod socket;

pub use accept::AcceptFailure;
pub use child::{HeldChild, Order, await_end, die_with_parent, order, send_signal, start_on_cpu};
pub use clock::Clock;
pub use io_signals::IoSignals;
pub use proactor_record::sys::memory_file;
pub use readiness::{
    Alarm, FdSet, SELECT_LIMIT, epoll_create, epoll_ctl, epoll_wait, is_readable, poll, select,
    sleep,
};
pub use signal::{
    EventFd, ShutdownSignal, allow_interrupts, count_usr2, ignore_stray_signals, interrupt,
    record_stops, refuse_signal, signal_thread, signal_to_forward,
};
pub(crate) use socket::{PeerName, canonical, empty_msghdr};
pub use socket::{
    accept, close, limit_unsent, peer_addr, read, recv, send, set_blocking, set_keepalive,
    set_pipe_size, set_receive_timeout, set_send_timeout, shutdown, unsent, waiting, write,
};

// Time.

/// Reads the monotonic clock.
pub fn now() -> Nanos {
    Nanos(proactor_record::sys::monotonic())
}

/// A tracefs(5) that is mounted nowhere: it is seen through this descriptor, and gone with it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENODEV` from a kernel without tracing; `ENOSYS` before 5.2.
pub fn private_tracefs() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let own = |fd: libc::c_long| {
        // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
        unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
    };
    let none = std::ptr::null::<libc::c_char>();
    // 1: close on exec. The name is read during the call.
    let context = own(syscall!(syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1))?);
    let fd = context.as_raw_fd();
    // No name and no value: the file system gets its defaults.
    syscall!(syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0))?;
    // 1: close on exec.
    Ok(own(syscall!(syscall(libc::SYS_fsmount, fd, 1, 0))?))
}

/// Opens a path without its file (`O_PATH`), of a symbolic link the link itself. std cannot: with
/// musl, it takes this flag for a mode of access and drops it.
///
/// # Errors
/// open(2).
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // The path ends with a zero and is read during the call.
    let fd = syscall!(open(path.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC))?;
    // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// Limits.

/// Raises the soft limit of open descriptors to the hard one, and returns it. Where a filter denies
/// the call, the limit is taken to be 1024, the usual one: a lower one shows when an accept fails.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = match descriptor_limits() {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!("the limit of descriptors cannot be read ({error}): 1024 is assumed");
            return 1024;
        }
    };
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // `raised` is read during the call.
        if syscall!(setrlimit(libc::RLIMIT_NOFILE, &raised)).is_ok() {
            limit = raised;
        }
    }
    limit.rlim_cur
}

/// Returns the soft limit of open descriptors; `None` if it cannot be read.
pub fn descriptor_limit() -> Option<u64> {
    descriptor_limits().ok().map(|limits| limits.rlim_cur)
}

fn descriptor_limits() -> io::Result<libc::rlimit> {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // `limits` is written to during the call.
    syscall!(getrlimit(libc::RLIMIT_NOFILE, &mut limits))?;
    Ok(limits)
}

/// Gives free memory of the heap back to the kernel, where the C library can.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Limits the heaps among which the C library divides threads, where it does, to one for each
/// usable CPU: each keeps some of what is freed.
pub fn limit_heaps() {
    /// That limit, by its number in mallopt(3).
    #[cfg(target_env = "gnu")]
    const HEAPS_MAX: libc::c_int = -8;
    #[cfg(target_env = "gnu")]
    if let count @ 1..=i32::MAX = usable_cpus().len() as i32 {
        // SAFETY: mallopt(3) may be called at any time.
        unsafe { libc::mallopt(HEAPS_MAX, count) };
    }
}

/// Returns the memory that this process may use: that of the machine, of its cgroup and those above
/// it, or its address space (`ulimit -v`), whichever is least.
pub fn usable_memory() -> u64 {
    // SAFETY: no memory is involved.
    let machine = unsafe { [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|it| libc::sysconf(it)) };
    let machine = machine.into_iter().map(|it| u64::try_from(it).unwrap_or(1 << 24)).product();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // `limit` is written to during the call.
    let asked = syscall!(getrlimit(libc::RLIMIT_AS, &mut limit));
    let space = asked.map_or(u64::MAX, |_| limit.rlim_cur);
    let group = cgroup::memory_limit().map_or(u64::MAX, |(bytes, _)| bytes);
    space.min(group).min(machine)
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

/// Returns the version of Landlock that this kernel and its configuration provide.
///
/// # Errors
/// `ENOSYS` without it, `EOPNOTSUPP` if it is disabled at boot; a filter may deny the call.
pub fn landlock_version() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // No ruleset is made: the call takes no memory.
    let version = syscall!(syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION))?;
    Ok(version as u32)
}

/// The CPUs that the calling thread may use, in order; none if the kernel does not say.
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
        // SAFETY: `clock` is written to during the call. This one returns the error itself, and
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

/// Returns the CPU time that this process and those of its children that were waited for have used,
/// in user and in kernel mode.
pub fn cpu_times() -> [Duration; 2] {
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let used = |whose: libc::c_int| {
        // SAFETY: all-zero is a valid rusage, to be filled by the call.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // `usage` is written to during the call, which fails for no such `whose`.
        let _ = syscall!(getrusage(whose, &mut usage));
        [time(usage.ru_utime), time(usage.ru_stime)]
    };
    let [own, children] = [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].map(used);
    [own[0] + children[0], own[1] + children[1]]
}

#[cfg(any(test, feature = "testing"))]
pub mod testing {
    //! Changes that tests make to their own threads.

    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// Sends the calling thread signals that do nothing but interrupt, until `enough`. The answer
    /// must be joined by the same thread.
    pub fn interrupt_me(enough: Arc<AtomicBool>) -> JoinHandle<()> {
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

    /// Reports to the calling thread that more signals came than can be queued.
    pub fn overflow_my_signals() {
        // SAFETY: a thread can always name itself; the signal is blocked, so it does not end it.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGIO) }, 0);
    }

    /// The same open file under the lowest free descriptor from `least` on.
    pub fn duplicate_from(fd: std::os::fd::BorrowedFd<'_>, least: RawFd) -> OwnedFd {
        // No pointers.
        let fd = syscall!(fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least)).unwrap();
        // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}
