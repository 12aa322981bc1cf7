//! Children that std starts: to end them, to stop them for a while, to leave none behind.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::{count_call, poll};

/// Asks a child to end (SIGTERM). A child that has ended already is left alone, so that no stranger
/// with its number is ever asked.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn terminate(child: &mut Child) -> io::Result<()> {
    // Until it has been waited for, and `&mut` excludes that meanwhile, the number is
    // its own.
    if child.try_wait()?.is_none() {
        syscall!(kill(child.id() as libc::pid_t, libc::SIGTERM))?;
    }
    Ok(())
}

/// A signal for a process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Use no CPU until resumed (SIGSTOP). It takes effect a little later.
    Pause,
    /// Go on after a pause (SIGCONT).
    Resume,
    /// End at once (SIGKILL).
    Kill,
}

/// Sends it to a child and to all that it has forked. The child must lead a process group of its
/// own (`Command::process_group(0)`); one that has ended already is left alone, with its group.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn order_group(child: &mut Child, order: Order) -> io::Result<()> {
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

/// Waits until a child ends. Returns its exit status, or `None` if it still runs after `timeout`.
///
/// # Errors
/// The kernel has no pidfd_open(2) (before Linux 5.3), or no descriptor is left.
pub fn await_end(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    // A child that has not been waited for keeps its number. The descriptor is readable once the
    // child has ended.
    let fd = syscall!(syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0))?;
    // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
    let process = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let fd = process.as_raw_fd();
        poll(&mut [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }], Some(left))?;
        let status = child.try_wait()?;
        if status.is_some() || left.is_zero() {
            return Ok(status);
        }
    }
}

/// Has the kernel kill the child that this command will start as soon as the thread that starts it
/// ends, however that comes about: no child is left behind by a parent that was killed.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let set_up = move || {
        // Takes numbers alone.
        syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before that; then no signal comes.
        let now = std::os::unix::process::parent_id();
        if now == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls, both async-signal-safe, and
    // touches no memory but its own copy of `parent`; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(set_up) };
}
