//! A descriptor that tokio watches: the one place where its promise of I/O safety is kept.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use proactor::calls::Calls;
use proactor::keys::Key;
use proactor::os;
use proactor_record::Call;

/// A descriptor in the epoll(7) of the executor, edge-triggered: what was reported is remembered
/// until it is cleared.
pub(super) type WatchedFd = AsyncFd<OwnedFd>;

/// The memory of a report.
pub(super) type SocketReady<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

/// From now on the executor, within which this is called, watches `fd` for `interest`; its key in
/// the `calls` is `key`.
///
/// # Errors
/// epoll_ctl(2): `PermissionDenied` if it is a file, which is always readable; `fd` is closed.
///
/// # Panics
/// Outside of an executor.
pub(super) fn watch(
    fd: OwnedFd,
    interest: Interest,
    key: Key,
    calls: &impl Calls,
) -> io::Result<WatchedFd> {
    os::count_call(); // epoll_ctl(2), by tokio
    let whose = (key, fd.as_raw_fd());
    // SAFETY: an `OwnedFd` is open, stays open and stays the same descriptor while it is owned;
    // nothing here lends a `&mut` by which another could be put in its place.
    let watch = || Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?);
    calls.made((Call::Watch, false), whose, 0, watch, |_| 0)
}

/// Stops watching the descriptor, and closes it.
pub(super) fn close(watched: WatchedFd, key: Key, calls: &impl Calls) {
    os::count_call(); // epoll_ctl(2), by tokio
    let (whose, unwatch) = ((key, watched.as_raw_fd()), || Ok(watched.into_inner()));
    let fd = calls.made((Call::Unwatch, false), whose, 0, unwatch, |_| 0);
    fd.into_iter().for_each(|fd| calls.close(key, fd));
}
