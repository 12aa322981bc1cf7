//! Processes: fork, signal and wait for them.
//!
//! A child that [`fork`] makes owns nothing of its parent's but what it was given: it closes all
//! other descriptors, takes no signal before it has said how, dies with its parent, and ends by
//! _exit(2), so that no destructor and no buffered output of the parent runs a second time.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use super::child::Order;
use super::count_call;
use super::signal::{
    SIGNALLED, STOP, ShutdownSignal, add, blocked_signals, change_mask, dispose, set_of,
};

/// That this process has one thread: what makes it sound to fork and go on as before.
///
/// A lock that another thread held would stay locked in the child forever, the allocator's among
/// them (kernel-notes §40).
#[derive(Debug)]
pub struct Alone(PhantomData<*const ()>);

impl Alone {
    /// Checks that it has one. The holder of the result starts no thread.
    ///
    /// # Errors
    /// There are others, or `/proc` does not say.
    pub fn check() -> io::Result<Alone> {
        let tasks = std::fs::read_dir("/proc/self/task");
        let tasks = tasks.map_err(|error| {
            io::Error::other(format!("cannot count the threads in /proc/self/task: {error}"))
        })?;
        match tasks.count() {
            1 => Ok(Alone(PhantomData)),
            count => Err(io::Error::other(format!(
                "a process of {count} threads cannot fork and go on: serve from one that has one"
            ))),
        }
    }
}

/// The number of a child that has not been waited for: it is unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pid(libc::pid_t);

impl Pid {
    /// As the kernel has it.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Forks. `child` runs in the new process, which keeps its standard streams and the descriptors of
/// `keep`, and ends with the status that is answered (101 after a panic, 1 if it could not be set
/// up). It is killed when the parent ends, however that comes about; it ignores SIGINT,
/// SIGQUIT and SIGHUP, which a terminal sends to all, and of other signals takes none before
/// [`Signals::deliver`].
///
/// `child` must not use a descriptor that is not kept: it is closed, whatever value owns it.
///
/// # Errors
/// fork(2): `EAGAIN` or `ENOMEM` if there can be no more processes for now.
pub fn fork(_: &Alone, keep: &[RawFd], child: impl FnOnce(Signals) -> u8) -> io::Result<Pid> {
    let parent = std::process::id();
    // SAFETY: all-zero is a valid set of signals, to be filled by the call.
    let mut every: libc::sigset_t = unsafe { std::mem::zeroed() };
    // `every` is written to during the call.
    syscall!(sigfillset(&mut every))?;
    // Held back until the child's handlers are its own: the parent's would write into the parent's
    // eventfd. kernel-notes §44
    let before = change_mask(libc::SIG_SETMASK, &every)?;
    // The process has one thread: `Alone` was checked, and its holder starts no other. So
    // no lock is held by a thread that the child lacks, and all memory is as this thread left it.
    let forked = syscall!(fork());
    if let Ok(0) = forked {
        be_child(parent, keep, before, child)
    }
    change_mask(libc::SIG_SETMASK, &before)?;
    forked.map(Pid)
}

/// What the child does. It never returns: the frames above it are the parent's.
fn be_child(
    parent: u32,
    keep: &[RawFd],
    mask: libc::sigset_t,
    child: impl FnOnce(Signals) -> u8,
) -> ! {
    let live = || match set_up(parent, keep) {
        Ok(()) => child(Signals { mask }),
        Err(error) => {
            tracing::warn!("a child cannot be set up: {error}");
            1
        }
    };
    let status = catch_unwind(AssertUnwindSafe(live)).unwrap_or(101);
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(status.into()) }
}

/// What every child keeps; -1 for nothing.
static KEPT: AtomicI32 = AtomicI32::new(-1);

/// Lets every child that is forked from now on keep this descriptor, the pipe of the log.
pub fn keep_in_children(fd: BorrowedFd<'static>) {
    KEPT.store(fd.as_raw_fd(), Ordering::Release);
}

fn set_up(parent: u32, keep: &[RawFd]) -> io::Result<()> {
    SIGNALLED.store(-1, Ordering::Release);
    // Takes numbers alone. Where a filter denies it, the child outlives a parent that is killed, as
    // long as its client stays.
    let _ = syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
    // The parent may have died before that; then no signal comes. kernel-notes §42
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::other("its parent has died"));
    }
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        dispose(signal, libc::SIG_IGN, 0)?;
    }
    close_others(keep);
    Ok(())
}

/// Sets the name of this process that ps(1) shows. Through `/proc`, where the name belongs to root
/// once the process has changed its user, only if a filter denies the call.
pub fn set_name(name: &std::ffi::CStr) {
    // The name ends with a zero, and is read during the call.
    if syscall!(prctl(libc::PR_SET_NAME, name.as_ptr())).is_err() {
        let _ = std::fs::write("/proc/self/comm", name.to_bytes());
    }
}

// Descriptors.

/// Closes all descriptors but the standard streams, those of `keep` and the one that all keep.
fn close_others(keep: &[RawFd]) {
    let kept = Some(KEPT.load(Ordering::Acquire)).filter(|&fd| fd > 2);
    let mut keep: Vec<RawFd> = keep.iter().copied().chain(kept).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        close_range(from, fd - 1);
        from = from.max(fd + 1);
    }
    close_range(from, RawFd::MAX);
}

/// Closes `first..=last`, by close_range(2) or, before 5.9, one by one.
fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // Takes numbers alone. Whatever owned the descriptors is never dropped: the child does not
    // return to it. By its number: older C libraries have no such function.
    let (from, to, none) = (first as libc::c_uint, last as libc::c_uint, 0 as libc::c_uint);
    if syscall!(syscall(libc::SYS_close_range, from, to, none)).is_err() {
        close_each(first, last);
    }
}

/// Closes those of `first..=last` that are open.
fn close_each(first: RawFd, last: RawFd) {
    // `Alone` has seen that there is a /proc.
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let open = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open: Vec<RawFd> = open.filter(|fd| (first..=last).contains(fd)).collect();
    for fd in open {
        // A number alone; `EBADF` is that of the folder that was read, closed by now.
        let _ = syscall!(close(fd));
    }
}

// Asking a child to drain.

/// True once this process was asked to drain.
static ASKED_TO_DRAIN: AtomicBool = AtomicBool::new(false);
/// Whose calls are to return then; -1 for none.
static UNBLOCKED: AtomicI32 = AtomicI32::new(-1);

/// The signals of a child, held back.
#[derive(Debug)]
pub struct Signals {
    mask: libc::sigset_t,
}

/// How a child notices that it was asked to drain.
#[derive(Debug)]
pub enum Wake<'a> {
    /// The socket ceases to block: a call that sleeps returns, interrupted, and one that was about
    /// to begin answers `WouldBlock`. So none is missed, however close the signal came
    /// (kernel-notes §43). It must stay open until the process ends.
    Unblock(BorrowedFd<'a>),
    /// This is asked, the first time.
    Ask(&'a ShutdownSignal),
}

impl Signals {
    /// From now on SIGTERM asks this process to drain, in this way, and signals come through.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn deliver(self, wake: Wake<'_>) -> io::Result<()> {
        match wake {
            Wake::Unblock(socket) => UNBLOCKED.store(socket.as_raw_fd(), Ordering::Release),
            Wake::Ask(stop) => {
                // The handler's descriptor is its own and is never closed.
                let fd = stop.as_fd().try_clone_to_owned()?;
                SIGNALLED.store(std::os::fd::IntoRawFd::into_raw_fd(fd), Ordering::Release);
            }
        }
        let handler = on_terminate as extern "C" fn(libc::c_int);
        dispose(libc::SIGTERM, handler as libc::sighandler_t, 0)?;
        change_mask(libc::SIG_SETMASK, &self.mask)?;
        // A program that blocks it and stops its server in another way has children too.
        change_mask(libc::SIG_UNBLOCK, &set_of(&[libc::SIGTERM])?).map(drop)
    }
}

/// Returns whether this process was asked to drain.
pub fn is_asked_to_drain() -> bool {
    ASKED_TO_DRAIN.load(Ordering::Acquire)
}

/// Async-signal-safe: loads and stores, fcntl(2), write(2); errno stays what it was.
extern "C" fn on_terminate(_: libc::c_int) {
    if ASKED_TO_DRAIN.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: a thread's errno is always there.
    let errno = unsafe { *libc::__errno_location() };
    let socket = UNBLOCKED.load(Ordering::Acquire);
    if socket >= 0 {
        // SAFETY: numbers alone. The socket is open until the process ends, says `Wake`.
        unsafe { libc::fcntl(socket, libc::F_SETFL, libc::O_NONBLOCK) };
    }
    let stop = SIGNALLED.load(Ordering::Acquire);
    if stop >= 0 {
        add(stop, STOP);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Sends a child SIGTERM, so that it drains.
///
/// # Errors
/// kill(2), never for a child that has not been waited for.
pub fn terminate(child: Pid) -> io::Result<()> {
    // Numbers alone.
    syscall!(kill(child.0, libc::SIGTERM)).map(drop)
}

/// Sends an order to a child, and not to what it has forked.
///
/// # Errors
/// kill(2), never for a child that has not been waited for.
pub fn order(child: Pid, order: Order) -> io::Result<()> {
    // Numbers alone.
    syscall!(kill(child.0, order as libc::c_int)).map(drop)
}

/// Ends a child at once.
///
/// # Errors
/// kill(2), never for a child that has not been waited for.
pub fn kill(child: Pid) -> io::Result<()> {
    // Numbers alone.
    syscall!(kill(child.0, libc::SIGKILL)).map(drop)
}

// Waiting for children.

/// A signalfd(2) that is readable when children have ended.
#[derive(Debug)]
pub struct Deaths(OwnedFd);

impl Deaths {
    /// Blocks SIGCHLD in this thread for good, and has children wait to be waited for, even if
    /// this process began with SIGCHLD ignored.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Deaths> {
        dispose(libc::SIGCHLD, libc::SIG_DFL, 0)?;
        blocked_signals(&[libc::SIGCHLD]).map(Deaths)
    }

    /// Takes the signal. However many children have ended, there is one (kernel-notes §41);
    /// [`ended`] returns them.
    pub fn take(&self) {
        // SAFETY: all-zero is a valid value: they are numbers.
        let mut came: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        // `came` is writable for its length. That nothing was there is no harm.
        let size = size_of::<libc::signalfd_siginfo>();
        let _ = syscall!(read(self.0.as_raw_fd(), (&raw mut came).cast(), size));
    }
}

impl AsFd for Deaths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child of this process, of any code in it, that has ended and was not waited for.
///
/// # Errors
/// waitid(2), never for lack of children.
pub fn ended() -> io::Result<Option<Pid>> {
    // SAFETY: all-zero is a valid value: numbers, and pointers that are not followed.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // `info` is written to during the call.
    match syscall!(waitid(libc::P_ALL, 0, &mut info, how)) {
        // SAFETY: the call has filled it in for a child, or left it zero: then there is none.
        Ok(_) => Ok(Some(unsafe { info.si_pid() }).filter(|&pid| pid != 0).map(Pid)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for a child if it has ended: its number is of no use from then on.
///
/// # Errors
/// waitpid(2): there is no such child.
pub fn reap(child: Pid) -> io::Result<Option<ExitStatus>> {
    wait_for(child, libc::WNOHANG)
}

/// Waits until a child has ended: its number is of no use from then on.
///
/// # Errors
/// waitpid(2): there is no such child.
pub fn wait(child: Pid) -> io::Result<ExitStatus> {
    loop {
        match wait_for(child, 0) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wait_for(child: Pid, how: libc::c_int) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // `status` is written to during the call.
    let pid = syscall!(waitpid(child.0, &mut status, how))?;
    Ok((pid == child.0).then(|| ExitStatus::from_raw(status)))
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::duplicate_from;
    use super::*;

    #[test]
    fn a_process_of_many_threads_may_not_fork() {
        // The harness has a thread for itself, and another for the test.
        let error = Alone::check().expect_err("there are two at least");
        assert!(error.to_string().contains("threads cannot fork"), "{error}");
    }

    #[test]
    fn those_in_a_range_are_closed_and_no_others() {
        let stop = ShutdownSignal::new().unwrap();
        // Where no other code of this process has any.
        let raw = |least| std::os::fd::IntoRawFd::into_raw_fd(duplicate_from(stop.as_fd(), least));
        for close in [close_range, close_each] {
            let [below, first, last] = [700, 701, 720].map(raw);
            assert_eq!([below, first, last], [700, 701, 720], "the numbers are free");
            let above = raw(721);
            close(first, last);
            let is_open = |fd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap();
            assert_eq!([below, first, last, above].map(is_open), [true, false, false, true]);
            close(below, above);
            assert_eq!([below, above].map(is_open), [false, false]);
        }
    }
}
