//! A descriptor that tokio watches: the one place where its promise of I/O safety is kept.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use proactor::calls::Calls;
use proactor::keys::Key;
use proactor::os;
use proactor_record::Call;

/// A descriptor in the epoll(7) of the executor, edge-triggered: what was reported is remembered
/// until it is [cleared](SocketReady::clear_ready).
#[derive(Debug)]
pub(super) struct WatchedFd(AsyncFd<OwnedFd>);

/// The memory of a report.
pub(super) type SocketReady<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

impl WatchedFd {
    /// From now on the executor, within which this is called, watches `fd` for `interest`; its key
    /// in the `calls` is `key`.
    ///
    /// # Errors
    /// epoll_ctl(2): `PermissionDenied` if it is a file, which is always readable; `fd` is closed.
    ///
    /// # Panics
    /// Outside of an executor.
    pub(super) fn new(
        fd: OwnedFd,
        interest: Interest,
        key: Key,
        calls: &impl Calls,
    ) -> io::Result<WatchedFd> {
        os::count_call(); // epoll_ctl(2), by tokio
        let whose = (key, fd.as_raw_fd());
        let watch = || {
            // SAFETY: an `OwnedFd` is open, stays open and stays the same descriptor while it is
            // owned; nothing here lends a `&mut` by which another could be put in its place.
            Ok(WatchedFd(unsafe { AsyncFd::register_with_interest(fd, interest) }?))
        };
        calls.made((Call::Watch, false), whose, 0, watch, |_| 0)
    }

    /// Returns its readiness if it is readable; if not, the task is woken when it is.
    ///
    /// # Errors
    /// The executor is shutting down.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<SocketReady<'_>>> {
        self.0.poll_read_ready(cx)
    }

    /// Returns its readiness if it is writable; if not, the task is woken when it is.
    ///
    /// # Errors
    /// The executor is shutting down.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<SocketReady<'_>>> {
        self.0.poll_write_ready(cx)
    }

    /// Waits until it is readable.
    ///
    /// # Errors
    /// The executor is shutting down.
    pub(super) async fn readable(&self) -> io::Result<SocketReady<'_>> {
        self.0.readable().await
    }

    /// Stops watching the descriptor, and closes it.
    pub(super) fn close(self, key: Key, calls: &impl Calls) {
        os::count_call(); // epoll_ctl(2), by tokio
        let (whose, unwatch) = ((key, self.as_fd().as_raw_fd()), || Ok(self.0.into_inner()));
        let fd = calls.made((Call::Unwatch, false), whose, 0, unwatch, |_| 0);
        fd.into_iter().for_each(|fd| calls.close(key, fd));
    }
}

impl AsFd for WatchedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
