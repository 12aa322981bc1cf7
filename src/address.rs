//! Where to listen and where to connect: TCP over IPv4 and IPv6, and Unix sockets.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// An address as a user writes it: `127.0.0.1:7000`, `[::1]:7000`, `localhost:7000`, or
/// `unix:/run/echo.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port; port 0 listens on a free one.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// How many connections may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long an address may still be taken by a server that was killed. A ring outlives its process
/// for some milliseconds, and until it is taken apart an accept in flight holds the listener.
const AFTERLIFE: Duration = Duration::from_millis(500);

impl Address {
    /// A socket that listens here, in blocking mode and closed on exec.
    ///
    /// `SO_REUSEADDR` is set, so that a server can be started again at once; IPv6 means IPv6 only.
    /// `TCP_NODELAY` is set and is inherited by what is accepted (kernel-notes §17). The file of a
    /// dead Unix socket is replaced; that of a live one, or any other file, is not.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL` and whatever else stands against it.
    pub fn listen(&self) -> io::Result<Listener> {
        let begin = Instant::now();
        loop {
            match self.try_listen() {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < AFTERLIFE =>
                {
                    std::thread::sleep(AFTERLIFE / 25);
                }
                result => return result,
            }
        }
    }

    fn try_listen(&self) -> io::Result<Listener> {
        let (socket, address) = match self {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.set_tcp_nodelay(true)?;
                (socket, SockAddr::from(*address))
            }
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                remove_if_dead(path)?;
                (socket, SockAddr::unix(path)?)
            }
        };
        socket.bind(&address)?;
        socket.listen(BACKLOG)?;
        let address = match self {
            Address::Tcp(_) => {
                Address::Tcp(socket.local_addr()?.as_socket().expect("bound to an IP address"))
            }
            Address::Unix(path) => Address::Unix(path.clone()),
        };
        Ok(Listener { fd: socket.into(), file: SocketFile::of(&address), address })
    }
}

/// The address of a socket's peer, as a user reads it: `127.0.0.1:50312`, or `unix` for one that
/// has no name. `None` if it has no peer any more (getpeername(2)).
pub fn of_peer(socket: BorrowedFd<'_>) -> Option<String> {
    let address = SockRef::from(&socket).peer_addr().ok()?;
    Some(match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "unix".to_owned(),
    })
}

/// A listening socket and where it listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// The address with the port that it got.
    pub address: Address,
    /// Removes the file of a Unix socket when it is dropped.
    pub file: Option<SocketFile>,
}

/// The file of a Unix socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl SocketFile {
    fn of(address: &Address) -> Option<SocketFile> {
        match address {
            Address::Unix(path) => Some(SocketFile(path.clone())),
            Address::Tcp(_) => None,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed or replaced; that is its owner's affair.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes a Unix socket's file to which nobody listens any more. What is no socket is refused, and
/// not touched.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            let what = "something is there that is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(_) => return Ok(()), // most likely there is none; bind says if there is more to it
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()), // bind says that it is in use
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(format!("no path in {text:?}: write unix:/run/echo.sock")),
                path => Ok(Address::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        let wrong = |why: &str| {
            format!("no address {text:?} ({why}): write 127.0.0.1:7000, [::1]:7000 or unix:PATH")
        };
        if text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(wrong("it ends in no port"));
        }
        let mut found = text.to_socket_addrs().map_err(|error| wrong(&error.to_string()))?;
        found.next().map(Address::Tcp).ok_or_else(|| wrong("no such host"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["127.0.0.1:7000", "[::1]:0", "unix:/tmp/a.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!(matches!("localhost:80".parse(), Ok(Address::Tcp(_))));
    }

    #[test]
    fn what_is_no_address_is_named() {
        for wrong in ["", "7000", "127.0.0.1", "127.0.0.1:99999", "[::1]", "unix:"] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn port_zero_becomes_a_real_one() {
        let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let Address::Tcp(address) = listener.address else { panic!("TCP stays TCP") };
        assert_ne!(address.port(), 0);
    }

    #[test]
    fn a_dead_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("s"));
        let mut listener = address.listen().unwrap();
        assert_eq!(address.listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        std::mem::forget(listener.file.take());
        drop(listener);
        let listener = address.listen().expect("its server is dead");
        drop(listener);
        assert!(!dir.path().join("s").exists(), "the file goes with its listener");
        std::fs::write(dir.path().join("s"), "a file").unwrap();
        let error = address.listen().expect_err("a file that is no socket is not touched");
        assert!(error.to_string().contains("no socket"), "{error}");
    }
}
