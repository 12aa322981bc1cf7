//! Signals about descriptors: readiness, reported by a real-time signal (fcntl(2), `F_SETSIG`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::count_call;
use super::signal::blocked_signals;

// Of fcntl(2), what libc has no name for.

const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// The argument of `F_SETOWN_EX`: `struct f_owner_ex`.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

thread_local! {
    /// Which real-time signals this thread's [`IoSignals`] have, as bits from SIGRTMIN on.
    static SIGNALS_TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// A real-time signal by which descriptors report changes to one thread; a
/// signalfd(2) to wait for it.
#[derive(Debug)]
pub struct IoSignals {
    fd: OwnedFd,
    signal: libc::c_int,
    /// The one that made it: it stays there.
    thread: libc::pid_t,
    here: std::marker::PhantomData<*const ()>,
}

impl IoSignals {
    /// Takes a signal that no other of this thread has, and blocks it and SIGIO in this thread for
    /// good: unblocked, one that is still under way would end the process.
    ///
    /// # Errors
    /// No descriptor is left, or no signal.
    pub fn new() -> io::Result<IoSignals> {
        let taken = SIGNALS_TAKEN.get();
        let signal = libc::SIGRTMIN() + taken.trailing_ones() as libc::c_int;
        if signal > libc::SIGRTMAX() {
            return Err(io::Error::other("every real-time signal of this thread is taken"));
        }
        let fd = blocked_signals(&[signal, libc::SIGIO])?;
        // Takes no memory.
        let thread = syscall!(gettid())?;
        SIGNALS_TAKEN.set(taken | 1 << taken.trailing_ones());
        Ok(IoSignals { fd, signal, thread, here: std::marker::PhantomData })
    }

    /// Makes `fd` send the signal to this thread at every change. Returns whether it will: not
    /// every kind of file does.
    ///
    /// # Errors
    /// fcntl(2).
    pub fn attach(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let fd = fd.as_raw_fd();
        let owner = Owner { kind: F_OWNER_TID, id: self.thread };
        // Numbers alone.
        syscall!(fcntl(fd, F_SETSIG, self.signal))?;
        // `owner` is read during the call.
        syscall!(fcntl(fd, F_SETOWN_EX, &owner))?;
        // Numbers alone.
        let flags = syscall!(fcntl(fd, libc::F_GETFL))?;
        syscall!(fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC))?;
        Ok(syscall!(fcntl(fd, libc::F_GETFL))? & libc::O_ASYNC != 0)
    }

    /// Has `fd` send no more. What it has sent may still come.
    ///
    /// # Errors
    /// fcntl(2), never on an open descriptor.
    pub fn detach(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        // Numbers alone.
        let flags = syscall!(fcntl(fd, libc::F_GETFL))?;
        syscall!(fcntl(fd, libc::F_SETFL, flags & !libc::O_ASYNC)).map(drop)
    }

    /// Adds the descriptors of the signals that came, as many as one read takes. Returns whether
    /// there were more than the kernel could queue: then others have been lost.
    ///
    /// # Errors
    /// read(2), never on an open descriptor.
    pub fn take(&self, named: &mut Vec<RawFd>) -> io::Result<bool> {
        /// Signals in one read.
        const MANY: usize = 64;
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        // SAFETY: all-zero is a valid value of each: they are numbers.
        let mut came: [libc::signalfd_siginfo; MANY] = unsafe { std::mem::zeroed() };
        // `came` is writable for its length; a signalfd writes whole ones.
        let read = syscall!(read(self.fd.as_raw_fd(), came.as_mut_ptr().cast(), MANY * SIZE));
        let bytes = match read {
            Ok(bytes) => bytes as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let mut overflowed = false;
        for signal in &came[..bytes / SIZE] {
            if signal.ssi_signo == libc::SIGIO as u32 {
                overflowed = true;
            } else {
                named.push(signal.ssi_fd);
            }
        }
        Ok(overflowed)
    }
}

impl AsFd for IoSignals {
    /// Readable while signals are waiting to be taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for IoSignals {
    fn drop(&mut self) {
        let bit = 1 << (self.signal - libc::SIGRTMIN());
        SIGNALS_TAKEN.set(SIGNALS_TAKEN.get() & !bit);
    }
}
