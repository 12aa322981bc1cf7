//! Addresses to listen on and to connect to: TCP over IPv4 and IPv6, and Unix sockets.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::error::Error;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// An address as a user writes it: `127.0.0.1:7000`, `[::1]:7000`, `localhost:7000`, or
/// `unix:/run/echo.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A host and a port; port 0 listens on a free one.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// Maximum connections in the accept queue; the kernel lowers it to `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;

/// How long a killed server may keep its address. The kernel frees a ring some milliseconds after
/// its process, and until then an accept in flight holds the listener.
const RELEASE_TIME: Duration = Duration::from_millis(500);

impl Address {
    /// Opens a listening socket: blocking, and closed on exec.
    ///
    /// `SO_REUSEADDR` is set, so that a server can be started again at once; IPv6 means IPv6 only.
    /// `TCP_NODELAY` is set; accepted sockets inherit it (kernel-notes §17). The file of a
    /// Unix socket without a listener is replaced; that of a listener, or any other file, is not.
    ///
    /// # Errors
    /// `EADDRINUSE`, with the process that listens there if it is known; `EACCES`, `EADDRNOTAVAIL`
    /// and others.
    pub fn listen(&self) -> io::Result<BoundSocket> {
        let begin = Instant::now();
        loop {
            let error = match self.try_listen() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
                result => return result,
            };
            let show = if matches!(self, Address::Tcp(_)) { "ss -ltnp" } else { "ss -lxnp" };
            let text = match self.owner() {
                Some(owner) => format!("{error}: {owner} listens there (see `{show}`)"),
                None if begin.elapsed() < RELEASE_TIME => {
                    std::thread::sleep(RELEASE_TIME / 25);
                    continue;
                }
                None => format!("{error}: `{show}` shows the process"),
            };
            return Err(io::Error::new(error.kind(), text));
        }
    }

    /// Returns where a listening socket listens; a Unix socket without a name is `unix:`.
    pub fn of_listener(socket: BorrowedFd<'_>) -> Address {
        let address = SockRef::from(&socket).local_addr().ok();
        let tcp = address.as_ref().and_then(|address| address.as_socket());
        tcp.map(Address::Tcp).unwrap_or_else(|| {
            let path = address.as_ref().and_then(|address| address.as_pathname());
            Address::Unix(path.map(Path::to_owned).unwrap_or_default())
        })
    }

    fn try_listen(&self) -> io::Result<BoundSocket> {
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
        socket.listen(LISTEN_BACKLOG)?;
        let file = match self {
            Address::Unix(path) => Some(SocketFile(path.clone())),
            Address::Tcp(_) => None,
        };
        Ok(BoundSocket { address: Address::of_listener(socket.as_fd()), fd: socket.into(), file })
    }

    /// Returns the process that listens here, as `nginx (pid 4711)`; `None` if there is none, or if
    /// it belongs to another user.
    fn owner(&self) -> Option<String> {
        let sockets = self.listening_sockets();
        let holds = |pid: &u32| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            files
                .filter_map(|file| fs::read_link(file.path()).ok())
                .any(|target| sockets.contains(&target))
        };
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        let pid = pids.find(|pid| !sockets.is_empty() && holds(pid))?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("{} (pid {pid})", name.trim()))
    }

    /// Returns the sockets that listen here, as /proc/PID/fd names them.
    fn listening_sockets(&self) -> Vec<PathBuf> {
        let (tables, end) = match self {
            Address::Tcp(address) => {
                (&["/proc/net/tcp", "/proc/net/tcp6"][..], format!(":{:04X}", address.port()))
            }
            Address::Unix(path) => (&["/proc/net/unix"][..], path.display().to_string()),
        };
        let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
        let inode = |line: &str| {
            let field: Vec<&str> = line.split_whitespace().collect();
            // The state LISTEN of TCP; the flag SO_ACCEPTCON of a Unix socket.
            let inode = match *field.get(3)? {
                "0A" if field[1].ends_with(&end) => field.get(9)?,
                "00010000" if line.ends_with(&end) => field.get(6)?,
                _ => return None,
            };
            Some(format!("socket:[{inode}]").into())
        };
        tables.flat_map(|table| table.lines().filter_map(inode).collect::<Vec<_>>()).collect()
    }
}

/// Returns the address of the peer of a socket: `127.0.0.1:50312`, or `unix` for a Unix socket
/// without a name. `None` after the peer is gone (getpeername(2)).
pub fn of_peer(socket: BorrowedFd<'_>) -> Option<String> {
    let address = SockRef::from(&socket).peer_addr().ok()?;
    Some(match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "unix".to_owned(),
    })
}

/// A listening socket and its address.
#[derive(Debug)]
pub struct BoundSocket {
    /// The socket that listens.
    pub fd: OwnedFd,
    /// The bound address, with the real port.
    pub address: Address,
    /// Removes the file of a Unix socket when it is dropped.
    pub file: Option<SocketFile>,
}

/// The file of a Unix socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed or replaced it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the file of a Unix socket without a listener. Any other file is an error, and stays.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            let what = "the file exists and is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(_) => return Ok(()), // most likely there is no file; bind reports other errors
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()), // bind reports that it is in use
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Address, Error> {
        text.parse().map_err(|reason| Error::Address { text: text.to_owned(), reason })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        let invalid = |why: &str| format!("invalid address {text:?}: {why}");
        if let Some(why) = misspelled(text) {
            return Err(invalid(&why));
        }
        let mut found = text.to_socket_addrs().map_err(|error| invalid(&error.to_string()))?;
        found.next().map(Address::Tcp).ok_or_else(|| invalid("the host has no address"))
    }
}

/// Returns the right spelling of an address that cannot be `HOST:PORT`.
fn misspelled(text: &str) -> Option<String> {
    let port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((host, last)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
        return Some(match text {
            "" => "write HOST:PORT or unix:PATH".to_owned(),
            path if path.contains('/') => format!("write unix:{path}"),
            number if port(number) => format!("write 127.0.0.1:{number}"),
            host => format!("the port is missing: write {host}:7000"),
        });
    };
    Some(match host {
        "unix" => "the path is missing: write unix:/run/echo.sock".to_owned(),
        path if path.contains('/') => format!("write unix:{text}"),
        host if host.parse::<Ipv6Addr>().is_ok() => format!("write [{host}]:{last}"),
        _ if text.parse::<Ipv6Addr>().is_ok() => {
            format!("the port is missing: write [{text}]:7000")
        }
        _ if !port(last) => format!("{last:?} is not a port: write a number from 0 to 65535"),
        _ if last.parse::<u16>().is_err() => format!("port {last} is not in 0 to 65535"),
        "" | "*" => format!("write 0.0.0.0:{last} or [::]:{last} for every interface"),
        _ => return None,
    })
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
    fn an_address_is_displayed_as_it_is_parsed() {
        for text in ["127.0.0.1:7000", "[::1]:0", "unix:/tmp/a.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!(matches!("localhost:80".parse(), Ok(Address::Tcp(_))));
    }

    #[test]
    fn an_invalid_address_is_named_with_the_right_spelling() {
        for (wrong, right) in [
            ("", "HOST:PORT"),
            ("7000", "127.0.0.1:7000"),
            ("127.0.0.1", "127.0.0.1:7000"),
            ("localhost", "localhost:7000"),
            ("[::1]", "[::1]:7000"),
            ("127.0.0.1:99999", "0 to 65535"),
            ("127.0.0.1:http", "0 to 65535"),
            (":7000", "0.0.0.0:7000"),
            ("*:7000", "[::]:7000"),
            ("::1:7000", "[::1]:7000"),
            ("2001:db8::1", "[2001:db8::1]:7000"),
            ("/tmp/x.sock", "unix:/tmp/x.sock"),
            ("unix:", "unix:/run/echo.sock"),
        ] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")) && error.contains(right), "{error}");
        }
    }

    #[test]
    fn an_address_in_use_is_reported_with_the_process() {
        let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let error = listener.address.listen().expect_err("it is in use").to_string();
        let process = format!("(pid {})", std::process::id());
        assert!(error.contains(&process) && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn port_zero_becomes_a_free_port() {
        let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let Address::Tcp(address) = listener.address else { panic!("TCP stays TCP") };
        assert_ne!(address.port(), 0);
    }

    #[test]
    fn a_unix_socket_without_listener_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("s"));
        let mut listener = address.listen().unwrap();
        assert_eq!(address.listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        std::mem::forget(listener.file.take());
        drop(listener);
        let listener = address.listen().expect("it has no listener");
        drop(listener);
        assert!(!dir.path().join("s").exists(), "the file goes with its listener");
        fs::write(dir.path().join("s"), "a file").unwrap();
        let error = address.listen().expect_err("a file that is no socket is not touched");
        assert!(error.to_string().contains("no socket"), "{error}");
    }
}
