//! Sockets: to accept, receive, send and shut down. Whether a call waits is up to the socket.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockAddrStorage, SockRef, TcpKeepalive};

use super::count_call;

/// Accepts a connection, closed on exec; `flags` is 0 or `SOCK_NONBLOCK`. Whether this call waits
/// is up to `listener`.
///
/// # Errors
/// `WouldBlock` if none waits and `listener` does not block; else accept4(2).
pub fn accept(listener: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<OwnedFd> {
    let (none, flags) = (std::ptr::null_mut(), flags | libc::SOCK_CLOEXEC);
    // The peer's address is not asked for: both pointers may be null.
    let fd = syscall!(accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns how many connections wait to be accepted; `most`, if some do and the kernel counts them
/// for TCP alone (kernel-notes §81).
pub fn waiting(listener: BorrowedFd<'_>, most: usize) -> usize {
    // SAFETY: all-zero is a valid tcp_info, to be filled by the call.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let (fd, into) = (listener.as_raw_fd(), (&raw mut info).cast());
    // `info` is written to during the call, and no further than `len`.
    match syscall!(getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &mut len)) {
        Ok(_) => info.tcpi_unacked as usize,
        Err(_) if super::is_readable(listener).unwrap_or(false) => most,
        Err(_) => 0,
    }
}

/// Receives into `buffer`; zero is the peer's end. With `MSG_DONTWAIT` among the flags it does not
/// wait, whatever the socket.
///
/// # Errors
/// `WouldBlock` if nothing is there; else recv(2).
#[inline]
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // `buffer` is writable for its length.
    let n = syscall!(recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags))?;
    Ok(n as usize)
}

/// Sends `parts` one after the other, or the first part of all that; one alone by send(2), which
/// has less to copy. With `MSG_DONTWAIT` among the flags it does not wait, whatever the socket. No
/// signal is raised.
///
/// # Errors
/// `WouldBlock` if there is no space; else send(2), sendmsg(2).
#[inline]
pub fn send(
    socket: BorrowedFd<'_>,
    parts: &[io::IoSlice<'_>],
    flags: libc::c_int,
) -> io::Result<usize> {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_NOSIGNAL | flags);
    let n = match parts {
        // `part` is readable for its length.
        [part] => syscall!(send(fd, part.as_ptr().cast(), part.len(), flags)),
        parts => {
            let mut header = empty_msghdr();
            header.msg_iov = parts.as_ptr().cast_mut().cast(); // IoSlice has iovec's layout.
            header.msg_iovlen = parts.len() as _; // its type differs between C libraries
            // `header` and all it points to are readable during the call.
            syscall!(sendmsg(fd, &header, flags))
        }
    };
    n.map(|n| n as usize)
}

/// Memory that the kernel writes the address of a peer to, when an accept completes.
///
/// The memory is *lent* to the kernel from [`lend`](PeerName::lend) until
/// [`take_back`](PeerName::take_back): this process neither reads nor writes it then. A value that
/// is lent must not be dropped; the ring, its only user, forgets it if the accept cannot be ended.
#[derive(Debug)]
pub(crate) struct PeerName {
    name: NonNull<(SockAddrStorage, libc::socklen_t)>,
    lent: bool,
}

impl PeerName {
    pub(crate) fn new() -> PeerName {
        let name = Box::new((SockAddrStorage::zeroed(), 0));
        PeerName { name: NonNull::from(Box::leak(name)), lent: false }
    }

    /// Returns where the kernel writes the address, and its length.
    pub(crate) fn lend(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        assert!(!self.lent, "an address is written by one accept at a time");
        self.lent = true;
        let name = self.name.as_ptr();
        // SAFETY: `name` is allocated until `drop`, and the kernel does not use it yet.
        unsafe {
            (*name).1 = size_of::<SockAddrStorage>() as libc::socklen_t;
            ((&raw mut (*name).0).cast(), &raw mut (*name).1)
        }
    }

    /// The accept has completed, or was never submitted.
    pub(crate) fn take_back(&mut self) {
        self.lent = false;
    }

    /// Returns the address that the last accept wrote, if it is an IP address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        if self.lent {
            return None;
        }
        // SAFETY: `name` is allocated until `drop`, and the kernel is done with it, as it is not
        // lent. It holds what `new` initialized, which is no address, or what the last accept
        // wrote: an address of the kind that its first field names, and its length. An accept that
        // failed wrote no address, and `lend` left the length of the whole storage.
        let address = unsafe {
            SockAddr::new(self.name.as_ptr().cast::<SockAddrStorage>().read(), self.name.as_ref().1)
        };
        address.as_socket().map(canonical)
    }
}

impl Drop for PeerName {
    fn drop(&mut self) {
        // SAFETY: `name` was made from a `Box` by `new`, and is not used again.
        drop(unsafe { Box::from_raw(self.name.as_ptr()) });
    }
}

/// Returns a message header without a name, buffers and control data. Some C libraries have private
/// padding fields in it, so that a literal cannot be written.
pub(crate) fn empty_msghdr() -> libc::msghdr {
    // SAFETY: a `msghdr` consists of integers and raw pointers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

/// Reads from whatever it is, blocking if that does; zero is its end.
///
/// # Errors
/// read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // `buffer` is writable for its length.
    let n = syscall!(read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()))?;
    Ok(n as usize)
}

/// Writes to whatever it is, blocking if that does.
///
/// # Errors
/// write(2).
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // `bytes` is readable for its length.
    let n = syscall!(write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()))?;
    Ok(n as usize)
}

/// Shuts a direction down, or both: then every thread that sleeps in a call on it wakes, and no
/// thread will sleep on it again.
///
/// # Errors
/// shutdown(2): `NotConnected` if the peer has reset.
pub fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) -> io::Result<()> {
    count_call();
    SockRef::from(&socket).shutdown(how)
}

/// Limits how long a receive on it may sleep before it fails with `WouldBlock`, at least a
/// microsecond, or ends the limit.
///
/// # Errors
/// setsockopt(2), never on a socket.
pub fn set_receive_timeout(socket: BorrowedFd<'_>, span: Option<Duration>) -> io::Result<()> {
    count_call();
    SockRef::from(&socket).set_read_timeout(span.map(|span| span.max(SHORTEST)))
}

/// Limits how long a send on it may sleep before it returns what it has sent or, if that is
/// nothing, fails with `WouldBlock`; at least a microsecond.
///
/// # Errors
/// setsockopt(2), never on a socket.
pub fn set_send_timeout(socket: BorrowedFd<'_>, span: Duration) -> io::Result<()> {
    count_call();
    SockRef::from(&socket).set_write_timeout(Some(span.max(SHORTEST)))
}

/// The shortest timeout: zero would mean none.
const SHORTEST: Duration = Duration::from_micros(1);

/// Has the kernel find out whether the peers of the TCP connections that `listener` accepts are
/// still there: each inherits what is set here. A peer that sends nothing for `idle` is asked, and
/// the connection fails after twice that time without a reply; also, with `gives_up`, if what is
/// sent is not acknowledged for that time. Does nothing at what is no TCP socket.
///
/// # Errors
/// setsockopt(2).
pub fn set_keepalive(
    listener: BorrowedFd<'_>,
    idle: Duration,
    gives_up: Option<Duration>,
) -> io::Result<()> {
    /// Questions until the connection fails.
    const PROBES: u32 = 3;
    let socket = SockRef::from(&listener);
    if !socket.domain().is_ok_and(|domain| domain != Domain::UNIX) {
        return Ok(());
    }
    let second = Duration::from_secs(1);
    let asks = TcpKeepalive::new().with_time(idle.max(second)).with_retries(PROBES);
    socket.set_tcp_keepalive(&asks.with_interval((idle / PROBES).max(second)))?;
    socket.set_tcp_user_timeout(gives_up)
}

/// Limits the bytes that sockets accepted from `listener` take and have not sent. Does nothing at
/// what is no TCP socket.
///
/// # Errors
/// setsockopt(2).
pub fn limit_unsent(listener: BorrowedFd<'_>, most: u32) -> io::Result<()> {
    let socket = SockRef::from(&listener);
    if socket.domain().is_ok_and(|domain| domain != Domain::UNIX) {
        socket.set_tcp_notsent_lowat(most)?;
    }
    Ok(())
}

/// How many bytes that were sent the other end has not taken yet: over TCP, has not acknowledged.
///
/// # Errors
/// ioctl(2), never on a stream socket.
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SIOCOUTQ has TIOCOUTQ's number; `bytes` is written to during the call.
    syscall!(ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes))?;
    Ok(bytes as usize)
}

/// Has calls on it wait, or return instead.
///
/// # Errors
/// fcntl(2), never on an open descriptor.
pub fn set_blocking(fd: BorrowedFd<'_>, blocks: bool) -> io::Result<()> {
    let flags = syscall!(fcntl(fd.as_raw_fd(), libc::F_GETFL))? & !libc::O_NONBLOCK;
    let flags = if blocks { flags } else { flags | libc::O_NONBLOCK };
    syscall!(fcntl(fd.as_raw_fd(), libc::F_SETFL, flags)).map(drop)
}

/// Asks for a pipe that holds so many bytes.
///
/// # Errors
/// fcntl(2): `EPERM` if this user has too much in pipes.
pub fn set_pipe_size(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    // Numbers alone.
    syscall!(fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes)).map(drop)
}

/// Closes a descriptor, as dropping it does, but counted.
pub fn close(fd: OwnedFd) {
    count_call();
    drop(fd);
}
/// Returns the address of a socket's peer, if it is an IP address (getpeername(2)).
pub fn peer_addr(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&socket).peer_addr().ok()?.as_socket().map(canonical)
}

/// Returns an address of IPv4 as such: a socket of IPv6 has it as `::ffff:127.0.0.1`.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_accepted_socket_inherits_the_keepalive_of_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        limit_unsent(listener.as_fd(), 12_345).unwrap();
        let (idle, gives_up) = (Duration::from_secs(300), Duration::from_secs(600));
        set_keepalive(listener.as_fd(), idle, Some(gives_up)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = accept(listener.as_fd(), 0).unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 12_345);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), idle / 3);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(gives_up));
    }
}
