//! Addresses to listen on and to connect to: TCP over IPv4 and IPv6, and Unix sockets.

mod socket_file;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::os::canonical;
pub use socket_file::{FileAccess, SocketFile};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// An address as a user writes it: `127.0.0.1:7000`, `[::1]:7000`, `localhost:7000`, or
/// `unix:/run/echo.sock`; `unix:@echo` is a name without a file, in the abstract namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A host and a port; port 0 listens on a free one.
    Tcp(SocketAddr),
    /// A name that has several addresses, all with the same port. A server listens on each of them,
    /// a client connects to the first that accepts.
    Name(String, Vec<SocketAddr>),
    /// The path of a Unix stream socket, or `@` and its name in the abstract namespace.
    Unix(PathBuf),
}

/// Maximum connections in the accept queue; the kernel lowers it to `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// How long a killed server may keep its address. The kernel frees a ring some milliseconds after
/// its process, and until then an accept in flight holds the listener.
const RELEASE_TIME: Duration = Duration::from_millis(500);

impl Address {
    /// Opens the listening sockets of an address, which may be a name with several. They get the
    /// same port, also for port 0. An address of a name that this machine does not have is left
    /// out: `localhost` is often `::1` too where IPv6 is switched off.
    ///
    /// The file of a Unix socket has its access before a client can connect.
    ///
    /// `all` is every address of the server: `[::]` takes the connections of IPv4 too, as Linux
    /// does by default, unless `0.0.0.0` with the same port is among them.
    ///
    /// # Errors
    /// Those of [`listen`](Address::listen), for any of the addresses.
    pub fn listen_all(
        &self,
        all: &[&Address],
        access: &FileAccess,
    ) -> io::Result<Vec<BoundSocket>> {
        /// How often a free port is selected: another process may have it at another address.
        const PORTS: usize = 16;
        let both = |it: &SocketAddr| {
            let v4 = SocketAddr::from(([0; 4], it.port()));
            !all.iter().any(|other| other.each().contains(&v4))
        };
        let Address::Name(_, found) = self else {
            let only_v6 = self.each().first().is_some_and(|it| !both(it));
            return self.listen_retrying(only_v6, access).map(|socket| vec![socket]);
        };
        for _ in 1..PORTS {
            match listen_each(found, both) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && found[0].port() == 0 => {}
                bound => return bound,
            }
        }
        listen_each(found, both)
    }

    /// Opens a listening socket: blocking, and closed on exec. Of a name with several addresses it
    /// is the first that can be used.
    ///
    /// `SO_REUSEADDR` is set, so that a server can be started again at once; `[::]` takes the
    /// connections of IPv4 too. `TCP_NODELAY` is set; accepted sockets inherit it (kernel-notes
    /// §17). The file of a Unix socket without a listener is replaced; that of a listener, or any
    /// other file, is not. A listener is asked by one connection, without waiting (kernel-notes
    /// §76).
    ///
    /// # Errors
    /// `EADDRINUSE`, with the process that listens there if it is known; `EACCES`, `EADDRNOTAVAIL`
    /// and others.
    pub fn listen(&self) -> io::Result<BoundSocket> {
        let access = FileAccess::default();
        let (first, mut others) = match self {
            Address::Name(_, found) => (&Address::Tcp(found[0]), found[1..].iter()),
            one => (one, [].iter()),
        };
        let bound = first.listen_retrying(false, &access);
        bound.or_else(|error| {
            others
                .find_map(|it| Address::Tcp(*it).listen_retrying(false, &access).ok())
                .ok_or(error)
        })
    }

    fn listen_retrying(&self, only_v6: bool, access: &FileAccess) -> io::Result<BoundSocket> {
        let (begin, is_tcp) = (Instant::now(), matches!(self, Address::Tcp(_)));
        let is_releasing = || begin.elapsed() < RELEASE_TIME && self.owner().is_none();
        // Each try at a path would connect to what listens there.
        while !is_tcp && !self.listening_sockets().is_empty() && is_releasing() {
            std::thread::sleep(RELEASE_TIME / 25);
        }
        let error = loop {
            match self.try_listen(only_v6, access) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                Err(_) if is_tcp && is_releasing() => std::thread::sleep(RELEASE_TIME / 25),
                Err(error) => break error,
                bound => return bound,
            }
        };
        let show = if is_tcp { "ss -ltnp" } else { "ss -lxnp" };
        let text = match self.owner() {
            Some(owner) => format!("{error}: {owner} listens there (see `{show}`)"),
            None => format!("{error}: `{show}` shows the process"),
        };
        Err(io::Error::new(error.kind(), text))
    }

    /// Connects a blocking socket. Of a name with several addresses each is tried in order, for an
    /// equal share of the time that is left.
    ///
    /// # Errors
    /// connect(2); `TimedOut` if the server does not accept the connection into its queue in time.
    /// Of a name, the error of each address.
    pub fn connect(&self, timeout: Duration) -> io::Result<OwnedFd> {
        let begin = Instant::now();
        if let Address::Name(_, found) = self {
            let mut errors = Vec::new();
            for (tried, address) in found.iter().enumerate() {
                let left = timeout.saturating_sub(begin.elapsed()).max(Duration::from_micros(1));
                match Address::Tcp(*address).connect(left / (found.len() - tried) as u32) {
                    Err(error) => errors.push((address, error)),
                    connected => return connected,
                }
            }
            let kind = errors.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
            let texts = errors.iter().map(|(address, error)| format!("{address}: {error}"));
            return Err(io::Error::new(kind, texts.collect::<Vec<_>>().join("; ")));
        }
        let (socket, address) = (self.socket()?, self.to_sockaddr()?);
        if let Address::Tcp(_) = self {
            return socket.connect_timeout(&address, timeout).map(|()| socket.into());
        }
        loop {
            // A Unix socket has nothing to poll for until it is connected.
            let left = timeout.saturating_sub(begin.elapsed()).max(Duration::from_micros(1));
            socket.set_write_timeout(Some(left))?;
            match socket.connect(&address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let text = "timed out: the server accepts no connection";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                connected => break connected?,
            }
        }
        socket.set_write_timeout(None)?;
        Ok(socket.into())
    }

    /// Returns true if no other machine can connect: a loopback address, or a Unix socket.
    pub fn is_local(&self) -> bool {
        self.each().iter().all(|address| address.ip().to_canonical().is_loopback())
    }

    /// Returns the IP addresses: one, or those of a name; none of a Unix socket.
    fn each(&self) -> &[SocketAddr] {
        match self {
            Address::Tcp(address) => std::slice::from_ref(address),
            Address::Name(_, found) => found,
            Address::Unix(_) => &[],
        }
    }

    fn socket(&self) -> io::Result<Socket> {
        let domain = self.each().first().map_or(Domain::UNIX, |it| Domain::for_address(*it));
        Socket::new(domain, Type::STREAM, None)
    }

    fn to_sockaddr(&self) -> io::Result<SockAddr> {
        match self {
            Address::Tcp(address) => Ok(SockAddr::from(*address)),
            Address::Name(_, found) => Ok(SockAddr::from(found[0])),
            Address::Unix(path) => match path.as_os_str().as_bytes() {
                [b'@', name @ ..] => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())),
                _ => SockAddr::unix(path),
            },
        }
    }

    /// Returns where a listening socket listens; a Unix socket without a name is `unix:`.
    pub fn of_listener(socket: BorrowedFd<'_>) -> Address {
        let address = SockRef::from(&socket).local_addr().ok();
        let tcp = address.as_ref().and_then(|address| address.as_socket());
        tcp.map(Address::Tcp).unwrap_or_else(|| {
            Address::Unix(address.as_ref().and_then(path_of).unwrap_or_default())
        })
    }

    fn try_listen(&self, only_v6: bool, access: &FileAccess) -> io::Result<BoundSocket> {
        let (socket, name) = (self.socket()?, self.to_sockaddr()?);
        let file = match self {
            Address::Tcp(_) | Address::Name(..) => {
                socket.set_reuse_address(true)?;
                if self.each()[0].is_ipv6() {
                    socket.set_only_v6(only_v6)?;
                }
                socket.set_tcp_nodelay(true)?;
                None
            }
            Address::Unix(path) if path.as_os_str().as_bytes().starts_with(b"@") => None,
            Address::Unix(path) => Some(path),
        };
        let (bind, listen) = (|| socket.bind(&name), || socket.listen(LISTEN_BACKLOG));
        let file = match file {
            Some(path) => Some(SocketFile::make(path, access, || self.is_dead(), bind, listen)?),
            None => bind().and_then(|()| listen()).map(|()| None)?,
        };
        let address = Address::of_listener(socket.as_fd());
        Ok(BoundSocket { address, fd: socket.into(), file, follows: false })
    }

    /// Returns true if nothing listens at the path of a Unix socket: asked by a connection that
    /// waits for nothing.
    fn is_dead(&self) -> io::Result<bool> {
        let probe = self.socket()?;
        probe.set_nonblocking(true)?;
        // It listens, also if its queue is full: `WouldBlock`.
        let answer = probe.connect(&self.to_sockaddr()?).map_err(|error| error.kind());
        Ok(answer == Err(io::ErrorKind::ConnectionRefused))
    }

    /// Returns the process that listens here, as `nginx (pid 4711)`; `None` if there is none, or if
    /// it belongs to another user. The number is left out where `/proc` is that of another PID
    /// namespace, which has other numbers.
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
        let own = fs::read_link("/proc/self").ok()?;
        Some(match own.as_os_str() == std::process::id().to_string().as_str() {
            true if pid == std::process::id() => format!("{} itself (pid {pid})", name.trim()),
            true => format!("{} (pid {pid})", name.trim()),
            false => name.trim().to_owned(),
        })
    }

    /// Returns the sockets that listen here, as /proc/PID/fd names them.
    fn listening_sockets(&self) -> Vec<PathBuf> {
        let (tables, end) = match self {
            Address::Unix(path) => (&["/proc/net/unix"][..], path.display().to_string()),
            tcp => {
                let port = tcp.each()[0].port();
                (&["/proc/net/tcp", "/proc/net/tcp6"][..], format!(":{port:04X}"))
            }
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

/// Listens on each of the addresses of a name, on the same port. `both` returns whether an address
/// takes IPv4 and IPv6.
fn listen_each(
    found: &[SocketAddr],
    both: impl Fn(&SocketAddr) -> bool,
) -> io::Result<Vec<BoundSocket>> {
    let (mut bound, mut missing): (Vec<BoundSocket>, _) = (Vec::new(), None);
    for address in found {
        let mut address = *address;
        match bound.first().map(|socket| &socket.address) {
            Some(Address::Tcp(first)) if address.port() == 0 => address.set_port(first.port()),
            _ => {}
        }
        let only_v6 = !both(&address);
        match Address::Tcp(address).listen_retrying(only_v6, &FileAccess::default()) {
            Ok(socket) => bound.push(BoundSocket { follows: !bound.is_empty(), ..socket }),
            Err(error) if is_missing(&error) => missing = Some(error),
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{address}: {error}")));
            }
        }
    }
    match missing {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Whether this machine does not have an address, or not even its address family.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// Returns the path of a Unix socket, or `@` and its name in the abstract namespace.
fn path_of(address: &SockAddr) -> Option<PathBuf> {
    let name = address.as_abstract_namespace().map(|name| [b"@", name].concat());
    let name = name.map(|name| OsStr::from_bytes(&name).into());
    name.or_else(|| address.as_pathname().map(Path::to_owned))
}

/// Returns the address of the peer of a socket: `127.0.0.1:50312`, or `unix` for a Unix socket
/// without a name. `None` after the peer is gone (getpeername(2)).
pub fn of_peer(socket: BorrowedFd<'_>) -> Option<String> {
    let address = SockRef::from(&socket).peer_addr().ok()?;
    Some(match (address.as_socket(), path_of(&address)) {
        (Some(address), _) => canonical(address).to_string(),
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
    /// True for a further address of the same name: its connections are in the group of the first.
    pub follows: bool,
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
        let path = text.strip_prefix("unix:").filter(|path| !matches!(*path, "" | "@"));
        if let Some(path) = path {
            return Ok(Address::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Tcp(address));
        }
        let invalid = |why: &str| format!("invalid address {text:?}: {why}");
        if let Some(why) = misspelled(text) {
            return Err(invalid(&why));
        }
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in text.to_socket_addrs().map_err(|error| invalid(&error.to_string()))? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        match found[..] {
            [] => Err(invalid("the host has no address")),
            [one] => Ok(Address::Tcp(one)),
            _ => Ok(Address::Name(text.to_owned(), found)),
        }
    }
}

/// Returns the right spelling of an address that cannot be `HOST:PORT`.
fn misspelled(text: &str) -> Option<String> {
    let port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_too_large = |port: &str| port.parse::<u16>().is_err();
    let too_large = |port: &str| format!("port {port} is not in 0 to 65535");
    if let Some((_, url)) = text.split_once("://") {
        let host = url.split('/').next().unwrap_or_default();
        return Some(format!("it is a URL: write {host}"));
    }
    let Some((host, last)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
        return Some(match text {
            "" => "write HOST:PORT or unix:PATH".to_owned(),
            path if path.contains('/') => format!("write unix:{path}"),
            number if port(number) && is_too_large(number) => too_large(number),
            number if port(number) => format!("write 127.0.0.1:{number}"),
            host => format!("the port is missing: write {host}:7000"),
        });
    };
    Some(match host {
        "unix" if last == "@" => "the name is missing: write unix:@echo".to_owned(),
        "unix" => "the path is missing: write unix:/run/echo.sock".to_owned(),
        path if path.contains('/') => format!("write unix:{text}"),
        host if host.parse::<Ipv6Addr>().is_ok() => format!("write [{host}]:{last}"),
        _ if text.parse::<Ipv6Addr>().is_ok() => {
            format!("the port is missing: write [{text}]:7000")
        }
        _ if !port(last) => format!("{last:?} is not a port: write a number from 0 to 65535"),
        _ if is_too_large(last) => too_large(last),
        "" | "*" => format!("write 0.0.0.0:{last} or [::]:{last} for every interface"),
        _ => return None,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Name(name, _) => f.write_str(name),
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
        let localhost: Address = "localhost:80".parse().unwrap();
        assert!(localhost.each().iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn an_invalid_address_is_named_with_the_right_spelling() {
        for (wrong, right) in [
            ("", "HOST:PORT"),
            ("7000", "127.0.0.1:7000"),
            ("70000", "0 to 65535"),
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
            ("http://localhost:7000/metrics", "write localhost:7000"),
            ("unix:", "unix:/run/echo.sock"),
            ("unix:@", "unix:@echo"),
        ] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")) && error.contains(right), "{error}");
        }
    }

    #[test]
    fn an_address_in_use_is_reported_with_the_process() {
        let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let error = listener.address.listen().expect_err("it is in use").to_string();
        let process = format!("itself (pid {})", std::process::id());
        assert!(error.contains(&process) && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn port_zero_becomes_a_free_port() {
        let listener = "127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
        let Address::Tcp(address) = listener.address else { panic!("TCP stays TCP") };
        assert_ne!(address.port(), 0);
    }

    /// A name with these addresses, as if a resolver had returned them.
    fn name(found: &[&str]) -> Address {
        Address::Name("name".to_owned(), found.iter().map(|it| it.parse().unwrap()).collect())
    }

    const SECONDS: Duration = Duration::from_secs(20);

    #[test]
    fn a_server_listens_on_all_addresses_of_a_name_on_one_port() {
        // TEST-NET-1 is on no machine.
        let name = name(&["192.0.2.1:0", "127.0.0.1:0", "127.0.0.2:0"]);
        let bound = name.listen_all(&[&name], &FileAccess::default()).unwrap();
        let port = bound[0].address.each()[0].port();
        let addresses: Vec<_> = bound.iter().map(|socket| socket.address.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1", "127.0.0.2"].map(|ip| format!("{ip}:{port}")));
        bound.iter().for_each(|socket| drop(socket.address.connect(SECONDS).unwrap()));
        let taken = super::tests::name(&["127.0.0.3:0", &format!("127.0.0.2:{port}")]);
        let error = taken.listen_all(&[&taken], &FileAccess::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.2:{port}: ")), "{error}");
    }

    #[test]
    fn a_client_tries_each_address_of_a_name() {
        let listener = Address::Tcp("127.0.0.2:0".parse().unwrap()).listen().unwrap();
        let port = listener.address.each()[0].port();
        let other = format!("127.0.0.1:{port}");
        let both = name(&[&other, &format!("127.0.0.2:{port}")]);
        let client = both.connect(SECONDS).unwrap();
        assert_eq!(of_peer(client.as_fd()), Some(format!("127.0.0.2:{port}")));
        drop(listener);
        let error = both.connect(SECONDS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("{other}: ")), "{error}");
        assert!(error.to_string().contains(&format!("; 127.0.0.2:{port}: ")), "{error}");
    }

    #[test]
    fn every_address_of_ipv6_takes_ipv4_unless_another_listener_has_it() {
        let any: Address = "[::]:0".parse().unwrap();
        let Ok(mut bound) = any.listen_all(&[&any], &FileAccess::default()) else { return };
        let port = bound.pop().unwrap().address.each()[0].port();
        let [any, v4] = [format!("[::]:{port}"), format!("0.0.0.0:{port}")]
            .map(|text| text.parse::<Address>().unwrap());
        let client: Address = format!("127.0.0.1:{port}").parse().unwrap();
        let alone = any.listen_all(&[&any], &FileAccess::default()).unwrap();
        assert!(client.connect(SECONDS).is_ok());
        drop(alone);
        let _both =
            [&any, &v4].map(|it| it.listen_all(&[&any, &v4], &FileAccess::default()).unwrap());
        let mapped: Address = "[::ffff:127.0.0.1]:0".parse().unwrap();
        let listener = std::net::TcpListener::from(mapped.listen().unwrap().fd);
        let port = listener.local_addr().unwrap().port();
        let client = Address::Tcp(([127, 0, 0, 1], port).into()).connect(SECONDS).unwrap();
        let (served, peer) = listener.accept().unwrap();
        let own = SockRef::from(&client).local_addr().unwrap().as_socket().unwrap();
        assert_eq!((of_peer(served.as_fd()), canonical(peer)), (Some(own.to_string()), own));
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

    /// A listener at `path` whose queue is full, and the connections in it.
    fn full_listener(path: &Path) -> (Socket, Vec<Socket>) {
        let (listener, mut waiting) =
            (Socket::new(Domain::UNIX, Type::STREAM, None).unwrap(), vec![]);
        listener.bind(&SockAddr::unix(path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            if client.connect(&SockAddr::unix(path).unwrap()).is_err() {
                return (listener, waiting);
            }
            waiting.push(client);
        }
    }

    /// Runs `call` in a thread, because it may never return.
    fn returns<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(call()));
        receive.recv_timeout(Duration::from_secs(20)).expect("it waits for a full queue")
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_in_use_and_a_connect_to_it_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (address, full) = (Address::Unix(path.clone()), full_listener(&path));
        let same = address.clone();
        let error = returns(move || same.listen()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let error = returns(move || address.connect(Duration::from_millis(50))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(path.exists());
        drop(full);
    }

    #[test]
    fn a_live_path_is_asked_by_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        // By another name, under which /proc does not show its process.
        let address =
            Address::Unix(dir.path().join("../").join(dir.path().file_name().unwrap()).join("s"));
        assert_eq!(address.listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), 1);
    }

    #[test]
    fn a_server_removes_no_file_but_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let [path, new] = ["s", "s.new"].map(|name| dir.path().join(name));
        let first = Address::Unix(path.clone()).listen().unwrap();
        fs::remove_file(&path).unwrap();
        let second = Address::Unix(path.clone()).listen().unwrap();
        drop(first);
        assert!(second.address.connect(Duration::from_secs(20)).is_ok());
        let third = Address::Unix(new.clone()).listen().unwrap();
        fs::rename(&new, &path).unwrap();
        drop(second);
        assert!(third.address != Address::Unix(path.clone()) && path.exists());
    }

    #[test]
    fn a_symbolic_link_to_a_dead_or_missing_socket_is_named_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["s", "link"].map(|name| dir.path().join(name));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = Address::Unix(link.clone()).listen().unwrap_err().to_string();
        let named = format!("a symbolic link to {}", path.display());
        assert!(error.contains(&named) && link.is_symlink() && path.exists(), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = Address::Unix(link.clone()).listen().unwrap_err().to_string();
        let named = format!("{named}, which does not exist");
        assert!(error.contains(&named) && link.is_symlink() && !path.exists(), "{error}");
    }

    #[test]
    fn a_name_in_the_abstract_namespace_has_no_file() {
        let text = format!("unix:@proactor-{}", std::process::id());
        let address: Address = text.parse().unwrap();
        let listener = address.listen().unwrap();
        assert_eq!(listener.address.to_string(), text);
        assert!(listener.file.is_none() && !Path::new(&text["unix:".len()..]).exists());
        assert_eq!(address.listen().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let client = address.connect(Duration::from_secs(20)).unwrap();
        assert_eq!(of_peer(client.as_fd()), Some(text));
    }
}
