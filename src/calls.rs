//! The calls that a thread makes on behalf of a connection or a listener, and may sleep in.
//!
//! Whoever serves by calls that wait makes them here and says whose each is, so that one who
//! remembers can stand between. [`PlainCalls`] only makes them: it has no size, and costs nothing.
//! The loops have the same in their [`Selector`](crate::selector::Selector), or in their ring.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::keys::Key;
use crate::os;

/// The calls that a loop makes on sockets once a selector has reported them. By default each goes
/// straight to the kernel. The loop makes them through its selector, so that a recorder around the
/// selector sees its waits and its calls in one order.
pub trait SocketCalls {
    /// Accepts a connection of a listener: [`os::accept`].
    ///
    /// # Errors
    /// accept4(2).
    #[inline]
    fn accept(&mut self, _key: Key, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        os::accept(fd)
    }

    /// Receives: [`os::recv`].
    ///
    /// # Errors
    /// recv(2).
    #[inline]
    fn recv(&mut self, _key: Key, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        os::recv(fd, buffer)
    }

    /// Sends from one or several buffers: [`os::send_vectored`].
    ///
    /// # Errors
    /// send(2), from several buffers sendmsg(2).
    #[inline]
    fn send(
        &mut self,
        _key: Key,
        fd: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        os::send_vectored(fd, parts)
    }

    /// Shuts the outbound direction down: [`os::shutdown_write`].
    ///
    /// # Errors
    /// shutdown(2).
    #[inline]
    fn shutdown(&mut self, _key: Key, fd: BorrowedFd<'_>) -> io::Result<()> {
        os::shutdown_write(fd)
    }

    /// Closes: [`os::close`].
    #[inline]
    fn close(&mut self, _key: Key, fd: OwnedFd) {
        os::close(fd);
    }
}

/// Makes system calls that may sleep. By default each goes straight to the kernel.
///
/// Every thread has one of its own, by [`lane`](Calls::lane). The errors are those of the call.
pub trait Calls: Clone + Send + 'static {
    /// The calls of another thread or process, which is number `slot` of its kind: it is told apart
    /// from the others by that. To be asked of a clone, by the one whose calls they are.
    fn lane(&self, slot: u32) -> Self;

    /// Sleeps until something of `asked` is ready, as [`os::poll`] does.
    ///
    /// # Errors
    /// poll(2).
    #[inline]
    fn wait(&self, asked: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
        os::poll(asked, timeout)
    }

    /// Sleeps until there is one of these `events` of a connection's own socket, or its peer has
    /// hung up; answers 0 if a signal comes before.
    ///
    /// # Errors
    /// poll(2).
    #[inline]
    fn poll(&self, _key: Key, socket: BorrowedFd<'_>, events: i16) -> io::Result<usize> {
        os::poll(&mut [libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 }], None)
    }

    /// Accepts a connection whose calls wait: [`os::accept_blocking`].
    ///
    /// # Errors
    /// accept4(2).
    #[inline]
    fn accept(&self, _key: Key, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        os::accept_blocking(listener)
    }

    /// Accepts a connection whose calls do not wait: [`os::accept`].
    ///
    /// # Errors
    /// accept4(2).
    #[inline]
    fn accept_nonblocking(&self, _key: Key, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        os::accept(listener)
    }

    /// Receives, and sleeps until there is something: [`os::recv`].
    ///
    /// # Errors
    /// recv(2).
    #[inline]
    fn recv(&self, _key: Key, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        os::recv(socket, buffer)
    }

    /// Receives what is there, and does not sleep: [`os::recv_now`].
    ///
    /// # Errors
    /// recv(2).
    #[inline]
    fn recv_now(&self, _key: Key, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        os::recv_now(socket, buffer)
    }

    /// Sends, from one place or several, and sleeps while there is no room: [`os::send_vectored`].
    ///
    /// # Errors
    /// send(2), of several places sendmsg(2).
    #[inline]
    fn send(
        &self,
        _key: Key,
        socket: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        os::send_vectored(socket, parts)
    }

    /// Sends from several places what there is room for, and does not sleep: [`os::send_now`].
    ///
    /// # Errors
    /// send(2), of several places sendmsg(2).
    #[inline]
    fn send_now(
        &self,
        _key: Key,
        socket: BorrowedFd<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        os::send_now(socket, parts)
    }

    /// Shuts the outbound direction down: [`os::shutdown_write`].
    ///
    /// # Errors
    /// shutdown(2).
    #[inline]
    fn shutdown_write(&self, _key: Key, socket: BorrowedFd<'_>) -> io::Result<()> {
        os::shutdown_write(socket)
    }

    /// Shuts both directions down: [`os::shutdown_both`].
    ///
    /// # Errors
    /// shutdown(2).
    #[inline]
    fn shutdown_both(&self, _key: Key, socket: BorrowedFd<'_>) -> io::Result<()> {
        os::shutdown_both(socket)
    }

    /// Closes: [`os::close`].
    #[inline]
    fn close(&self, _key: Key, fd: OwnedFd) {
        os::close(fd);
    }

    /// Locks the right to use `file`, and sleeps while another thread has it. That somebody
    /// panicked meanwhile is not looked at: what is locked must always be whole.
    #[inline]
    fn lock<'a, T>(
        &self,
        _key: Key,
        _file: BorrowedFd<'_>,
        mutex: &'a Mutex<T>,
    ) -> MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody remembers.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainCalls;

impl Calls for PlainCalls {
    #[inline]
    fn lane(&self, _slot: u32) -> PlainCalls {
        PlainCalls
    }
}
