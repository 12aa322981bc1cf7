//! Children that std starts: to end them, to stop them for a while, to leave none behind.
#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;
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

/// Sends a signal to a child, unless it has ended.
///
/// # Errors
/// The child cannot be waited for, or be signalled.
pub fn send_signal(child: &mut Child, signal: libc::c_int) -> io::Result<()> {
    if child.try_wait()?.is_none() {
        syscall!(kill(child.id() as libc::pid_t, signal))?;
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
pub fn start_on_cpu(command: &mut Command, cpu: usize) {
    // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe,
    // on a set of its own; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || super::pin_to_cpu(cpu)) };
}

/// Has the kernel kill the child that this command will start as soon as the thread that starts it
/// ends, however that comes about: no child is left behind by a parent that was killed.
pub fn die_with_parent(command: &mut Command) {
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

/// A child that has been forked and waits: it becomes its program when it is released. If its
/// parent ends before that, it ends as well.
#[derive(Debug)]
pub struct HeldChild {
    pid: u32,
    release: io::PipeWriter,
    /// Starts the child, and waits until it has become its program.
    starter: JoinHandle<io::Result<Child>>,
}

impl HeldChild {
    /// Forks the child of a command.
    ///
    /// # Errors
    /// There is no descriptor, thread or process left.
    pub fn start(mut command: Command) -> io::Result<HeldChild> {
        let (mut pids, pid_writer) = io::pipe()?;
        let (released, release) = io::pipe()?;
        let [pid_fd, wait_fd, end_fd] =
            [pid_writer.as_raw_fd(), released.as_raw_fd(), release.as_raw_fd()];
        let hold = move || {
            let (pid, mut byte) = (std::process::id().to_ne_bytes(), 0u8);
            // Without its own copy of the writer, the child notices the end of its parent.
            syscall!(close(end_fd))?;
            // Programs of this project ignore it, and an ignored signal stays so.
            // SAFETY: the default action calls nothing.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
            // The bytes are four and one, and are there during the calls.
            syscall!(write(pid_fd, pid.as_ptr().cast(), pid.len()))?;
            let read = syscall!(read(wait_fd, (&raw mut byte).cast(), 1))?;
            if read == 1 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec the closure makes four system calls, all async-signal-safe,
        // and touches no memory but its own; it neither allocates nor takes a lock.
        unsafe { command.pre_exec(hold) };
        let start = move || {
            let child = command.spawn();
            // The child has its copies of both.
            drop((pid_writer, released));
            child
        };
        let starter = std::thread::Builder::new().name("start".to_owned()).spawn(start)?;
        let mut pid = [0; 4];
        match pids.read_exact(&mut pid) {
            Ok(()) => Ok(HeldChild { pid: u32::from_ne_bytes(pid), release, starter }),
            // Nothing was forked.
            Err(error) => Err(starter.join().ok().and_then(Result::err).unwrap_or(error)),
        }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it become its program.
    ///
    /// # Errors
    /// execve(2): there is no such program, or it may not be run.
    ///
    /// # Panics
    /// Panics if the thread that started it did.
    pub fn release(mut self) -> io::Result<Child> {
        self.release.write_all(&[1])?;
        self.starter.join().expect("the starter does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_held_child_becomes_its_program_when_it_is_released() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/stat").stdout(Stdio::piped());
        let held = HeldChild::start(command).unwrap();
        let pid = held.pid();
        let exe = || std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(exe(), std::env::current_exe().unwrap());
        let output = held.release().unwrap().wait_with_output().unwrap();
        assert!(output.stdout.starts_with(format!("{pid} (cat) ").as_bytes()), "{output:?}");
        let held = HeldChild::start(Command::new("/nonexistent")).unwrap();
        assert_eq!(held.release().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_held_child_ends_if_it_is_not_released() {
        let held = HeldChild::start(Command::new("true")).unwrap();
        let HeldChild { release, starter, .. } = held;
        drop(release);
        assert!(starter.join().unwrap().is_err());
    }
}
