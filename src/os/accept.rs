//! What a failed accept means: the one classification, for a ring and for accept4(2).

use std::io;

/// Why an accept brought no connection.
#[derive(Debug)]
pub enum AcceptFailure {
    /// No connection waits, or the accept was cancelled.
    NoConnection,
    /// There is no descriptor, slot or memory for a connection, or the reason is unknown: the next
    /// accept would fail as well, but a later one may succeed.
    RetryLater(io::Error),
    /// The socket does not listen, or must not: every further accept would fail.
    Lasting(io::Error),
    /// A connection was lost before it was accepted, or the accept was interrupted: the next
    /// accept may succeed.
    Lost(io::Error),
}

impl From<io::Error> for AcceptFailure {
    fn from(error: io::Error) -> AcceptFailure {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ECANCELED) => AcceptFailure::NoConnection,
            Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EPERM) => {
                AcceptFailure::Lasting(error)
            }
            Some(
                libc::EINTR
                | libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ETIMEDOUT,
            ) => AcceptFailure::Lost(error),
            _ => AcceptFailure::RetryLater(error),
        }
    }
}
