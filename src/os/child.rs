//! Children that std starts: to end them, to stop them for a while, to leave none behind.
#![allow(unsafe_code)]

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use super::count_call;

/// A signal for a child, or for its process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Order {
    /// End when your work is done: for the child alone.
    Terminate = libc::SIGTERM,
    /// Use no CPU until resumed. It takes effect a little later.
    Pause = libc::SIGSTOP,
    /// Go on after a pause.
    Resume = libc::SIGCONT,
    /// End at once, whatever is left to do.
    Kill = libc::SIGKILL,
}

/// Sends it to a child and, but for [`Order::Terminate`], to all that it has forked: the child must
/// lead a process group of its own (`Command::process_group(0)`). One that has ended already is
/// left alone, with its group, so that no stranger with its number is ever asked.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn order(child: &mut Child, order: Order) -> io::Result<()> {
    // Until it has been waited for, and `&mut` excludes that meanwhile, the number is its own, and
    // that of its group.
    if child.try_wait()?.is_none() {
        let pid = child.id() as libc::pid_t;
        syscall!(kill(if order == Order::Terminate { pid } else { -pid }, order as libc::c_int))?;
    }
    Ok(())
}

/// Waits until a child ends. Returns its exit status, or `None` if it still runs after `timeout`.
///
/// # Errors
/// The child cannot be waited for.
pub fn await_end(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has the child that this command will start run on one CPU, instead of those of the thread that
/// starts it. If that is impossible, the child does not start.
pub fn start_on_cpu(command: &mut std::process::Command, cpu: usize) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe,
    // on a set of its own; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || super::pin_to_cpu(cpu)) };
}

/// Has the kernel kill the child that this command will start as soon as the thread that starts it
/// ends, however that comes about: no child is left behind by a parent that was killed.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let set_up = move || {
        // Takes numbers alone. A filter that denies it is no reason not to start.
        let _ = syscall!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL));
        // The parent may have died before that; then no signal comes.
        let now = std::os::unix::process::parent_id();
        if now == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls, both async-signal-safe, and
    // touches no memory but its own copy of `parent`; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(set_up) };
}
