//! Names of errno values.

use std::fmt;

/// An error number. It is displayed by its name, as `ECONNRESET`; a number that is not in the table
/// below is displayed as `errno 999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! names {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name)),)*] };
}

/// The errors that operations on sockets, rings and selectors return.
const NAMES: &[(i32, &str)] = names! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV ENOTDIR
    EINVAL ENFILE EMFILE EFBIG ENOSPC EROFS EPIPE ERANGE EDEADLK ENOSYS ETIME EOVERFLOW EBADFD
    ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN
    ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ECANCELED
};

impl Errno {
    /// Returns the error of this name, in any case.
    pub fn from_name(name: &str) -> Option<Errno> {
        let found = NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(number, _)| Errno(*number))
    }

    /// Returns the symbolic name, if the table has it.
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
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
    fn an_error_is_displayed_by_its_name() {
        assert_eq!(Errno(libc::ECONNRESET).to_string(), "ECONNRESET");
        assert_eq!(Errno(4095).to_string(), "errno 4095");
        assert_eq!(format!("{:>8}", Errno(libc::EPIPE)), "   EPIPE");
    }
}
