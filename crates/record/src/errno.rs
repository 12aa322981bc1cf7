//! Errors of the kernel: their names, and what an error means for the operation that has it.
//!
//! These are the only lists of errors: what counts as a failure, what passes and what is a want of
//! resources is the same for a trigger, a view and a live trace.

use std::fmt;

/// An error number, shown by its name: `ECONNRESET`; one without a name here as `errno 999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name)),)*] };
}

/// The errors that a socket, a ring or a selector may return.
const NAMES: &[(i32, &str)] = names! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV ENOTDIR
    EINVAL ENFILE EMFILE EFBIG ENOSPC EROFS EPIPE ERANGE EDEADLK ENOSYS ETIME EOVERFLOW EBADFD
    ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN
    ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ECANCELED
};

impl Errno {
    /// The name, if the error has one here.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }

    /// The error with this name, in capitals or not.
    pub fn from_name(name: &str) -> Option<Errno> {
        let is_named = |(_, one): &&(i32, &str)| one.eq_ignore_ascii_case(name);
        NAMES.iter().find(is_named).map(|(number, _)| Errno(*number))
    }

    /// Whether a loop in good order meets this error: the socket is empty or full (`EAGAIN`), a
    /// signal came (`EINTR`), no buffer was free (`ENOBUFS`), a timer ended (`ETIME`), or an
    /// operation was cancelled (`ECANCELED`) or could not be any more (`ENOENT`, `EALREADY`).
    /// Any other error is a failure.
    pub fn is_expected(self) -> bool {
        use libc::{EAGAIN, EALREADY, ECANCELED, EINTR, ENOBUFS, ENOENT, ETIME};
        [EAGAIN, EINTR, ENOBUFS, ETIME, ECANCELED, ENOENT, EALREADY].contains(&self.0)
    }

    /// Whether the same operation may succeed later: a connection does not break of this error.
    /// `ENOMEM` is among them, though it is a failure.
    pub fn is_transient(self) -> bool {
        use libc::{EAGAIN, ECANCELED, EINTR, ENOBUFS, ENOMEM};
        [EINTR, EAGAIN, ENOMEM, ENOBUFS, ECANCELED].contains(&self.0)
    }

    /// Whether descriptors or memory were short.
    pub fn is_shortage(self) -> bool {
        matches!(self.0, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    }

    /// Whether the peer has broken the connection.
    pub fn is_reset(self) -> bool {
        matches!(self.0, libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("errno {}", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_by_its_name() {
        assert_eq!(Errno(libc::ECONNRESET).to_string(), "ECONNRESET");
        assert_eq!(Errno(4095).to_string(), "errno 4095");
        assert_eq!(format!("{:>8}", Errno(libc::EPIPE)), "   EPIPE");
        assert_eq!(Errno::from_name("epipe"), Some(Errno(libc::EPIPE)));
        assert_eq!(Errno::from_name("EOF"), None);
    }
}
