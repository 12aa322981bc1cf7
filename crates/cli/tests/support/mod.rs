//! What the tests of the binaries share: a server that cannot outlive its test, clients that cannot
//! hang, and what `/proc` says of a process.
//!
//! No test sleeps to let something happen. It waits for an event (a line, a byte, an end), or asks
//! a question again and again until a deadline ([`eventually`]). A deadline that passes is a
//! failure with a sentence.

pub(crate) mod client;
pub(crate) mod lanes;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod seccomp;
pub(crate) mod server;
pub(crate) mod simulated;
#[path = "../../../../tests/skip/mod.rs"]
mod skip;
pub(crate) mod terminal;

use proactor_trace::Clock;
use proactor_trace::kernel::{Instance, Tracepoint};

pub(crate) use client::{Client, Options};
pub(crate) use process::Process;
pub(crate) use random::Random;
pub(crate) use server::{Address, Launch};
use skip::leave_out;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take before it counts as hung.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says that a case is left out for want of something on this host, and what.
pub(crate) fn skip(reason: &str) {
    skip::skip(reason);
}

/// Says that a case is left out because a model is declared to be unable to do it, and why.
pub(crate) fn declared(reason: &str) {
    leave_out("declared", reason);
}

/// Why this host has no io_uring for us, if so.
pub(crate) fn io_uring_refused() -> Option<String> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    // In a thread of its own: the end of a ring interrupts system calls of the thread that had it.
    let probe = || std::thread::spawn(probe_io_uring).join().expect("the probe does not panic");
    REFUSED.get_or_init(probe).clone()
}

fn probe_io_uring() -> Option<String> {
    let mut params = [0u64; 15]; // 120 bytes, as `struct io_uring_params`
    // SAFETY: the kernel reads and writes 120 bytes at `params`, which live through the call; what
    // it answers is a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if fd == -1 {
        return Some(format!("io_uring is refused: {}", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just given us this descriptor, and no other code knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    None
}

/// Whether the kernel's tracepoints are available; if not, counts a skip.
pub(crate) fn has_tracepoints() -> bool {
    static REFUSED: OnceLock<Option<io::Error>> = OnceLock::new();
    let ask = || Instance::new(Tracepoint::ALL, Clock::Nanos, 1 << 20).err();
    let refused = REFUSED.get_or_init(ask);
    refused.iter().for_each(|why| skip(&why.to_string()));
    refused.is_none()
}

/// Whether there are rings and tracepoints; if not, counts a skip.
pub(crate) fn can_trace_rings() -> bool {
    match io_uring_refused() {
        Some(why) => {
            skip(&why);
            false
        }
        None => has_tracepoints(),
    }
}

/// Why this host has no IPv6, if so.
pub(crate) fn ipv6_missing() -> Option<String> {
    let error = std::net::TcpListener::bind("[::1]:0").err()?;
    Some(format!("no IPv6: {error}"))
}

/// The running kernel's version, as `[6, 1]`.
pub(crate) fn kernel() -> [u32; 2] {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("proc(5)");
    let mut numbers = release.split(|one: char| !one.is_ascii_digit());
    [(); 2].map(|()| numbers.next().and_then(|one| one.parse().ok()).expect("a version"))
}

/// Returns a pipe that takes nothing more until it is read. Writers wait, unless it is
/// `nonblocking`.
pub(crate) fn full_pipe(nonblocking: bool) -> (io::PipeReader, OwnedFd) {
    use std::io::Write;
    let (reader, writer) = io::pipe().expect("a pipe");
    // The flag is of the open file: the pipe is opened again, so that `writer` has it not.
    let again = std::fs::File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let mut again = again.expect("a pipe can be opened");
    for piece in [&[b'x'; 4096][..], b"x"] {
        while again.write(piece).is_ok() {}
    }
    (reader, if nonblocking { again.into() } else { writer.into() })
}
