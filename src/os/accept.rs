//! What a failed accept means: the one classification, for a ring and for accept4(2).

use std::io;

/// Why an accept brought no connection.
#[derive(Debug)]
pub enum AcceptFailure {
    /// No connection waits, or the accept was cancelled.
    NoConnection,
    /// There is no descriptor, slot or memory for a connection, or the listener itself fails: the
    /// next accept would fail as well.
    RetryLater(io::Error),
    /// A connection was lost before it was accepted, or the accept was interrupted: the next
    /// accept may succeed.
    Lost(io::Error),
}

impl From<io::Error> for AcceptFailure {
    fn from(error: io::Error) -> AcceptFailure {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ECANCELED) => AcceptFailure::NoConnection,
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EBADF
                | libc::EINVAL
                | libc::ENOTSOCK,
            ) => AcceptFailure::RetryLater(error),
            _ => AcceptFailure::Lost(error),
        }
    }
}
