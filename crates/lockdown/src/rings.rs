//! No further ring: io_uring gives a process that is taken over a way around filters on system
//! calls, and the kernel code that is attacked most.
#![allow(unsafe_code)]

use std::io;
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{seccomp_data, sock_filter, sock_fprog};

/// Forbids this process, and the threads and processes that it makes, to use a ring that they make
/// from now on. Returns by what: the restrictions of a task (Linux 7.0), under which a further ring
/// permits no operation, or a seccomp filter, which refuses to make one with `EPERM`.
///
/// `has_ring` says that this process has one: only then is io_uring asked for its restrictions. A
/// filter may kill what calls it.
///
/// # Errors
/// The kernel has neither, or a sandbox refuses both.
pub fn forbid_rings(has_ring: bool) -> io::Result<&'static str> {
    nix::sys::prctl::set_no_new_privs()?;
    // The restrictions are those of one thread.
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if has_ring && threads == 1 && restrict_task().is_ok() {
        return Ok("task restrictions");
    }
    filter_all_threads().map(|()| "seccomp")
}

/// Permits no operation and no registration to the rings that this thread will make. A kernel
/// before 7.0 has no registration without a ring: `EBADF` or `EINVAL`.
fn restrict_task() -> io::Result<()> {
    const IORING_REGISTER_RESTRICTIONS: libc::c_uint = 11;
    /// `struct io_uring_task_restriction` without an entry: nothing is permitted.
    const NOTHING: [u32; 4] = [0; 4];
    // SAFETY: sixteen bytes at `NOTHING` are read during the call.
    let result = unsafe {
        let (call, ring) = (libc::SYS_io_uring_register, -1);
        libc::syscall(call, ring, IORING_REGISTER_RESTRICTIONS, NOTHING.as_ptr(), 1)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has every thread fail to make a ring, with `EPERM`, in each of the processor's sets of calls.
fn filter_all_threads() -> io::Result<()> {
    /// Set in the numbers of x32; the call has the same number in 32-bit programs.
    const X32: u32 = 0x4000_0000;
    let op = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        op(BPF_LD | BPF_W | BPF_ABS, offset_of!(seccomp_data, nr) as u32, 0),
        op(BPF_ALU | BPF_AND | BPF_K, !X32, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_io_uring_setup as u32, 1),
        op(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        op(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // Without the second, kernels before 5.16 make every thread slower, as under a sandbox.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program`, and the filter that it points to, are read during the call.
    match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
