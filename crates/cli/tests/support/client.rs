//! A client that never hangs: an operation that takes longer than [`TIMEOUT`] fails with a message.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, Random, TIMEOUT};

/// What a client's socket is like before it connects.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// `SO_RCVBUF`: how much the kernel takes for a client that does not read.
    pub(crate) receive_buffer: Option<usize>,
    /// `SO_SNDBUF`: the size of the send buffer.
    pub(crate) send_buffer: Option<usize>,
    /// The address that it connects from, if not the usual one.
    pub(crate) from: Option<IpAddr>,
}

impl Options {
    /// Both as small as the kernel makes them.
    pub(crate) const SMALL: Options =
        Options { receive_buffer: Some(1), send_buffer: Some(1), from: None };
    /// A small one for what comes.
    pub(crate) const SMALL_RECEIVE: Options =
        Options { receive_buffer: Some(4096), send_buffer: None, from: None };
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
}

impl Client {
    /// Connects to a server.
    pub(crate) fn connect(address: &Address) -> Client {
        Client::connect_with(address, Options::default())
    }

    /// Connects with a socket like this.
    pub(crate) fn connect_with(address: &Address, options: Options) -> Client {
        Client::try_connect(address, options)
            .unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// Connects from this address.
    pub(crate) fn connect_from(address: &Address, from: &str) -> Client {
        let from = Some(from.parse().expect("an IP address"));
        Client::connect_with(address, Options { from, ..Options::default() })
    }

    /// Connects, or returns none if there is no listener.
    pub(crate) fn try_connect(address: &Address, options: Options) -> io::Result<Client> {
        let (domain, address) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = options.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(from) = options.from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.connect(&address)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Client { socket })
    }

    /// Returns the local address.
    pub(crate) fn local(&self) -> SocketAddr {
        let address = self.socket.local_addr().expect("a connected socket has an address");
        address.as_socket().expect("an IP address")
    }

    /// Sends all of it.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.say_some(&bytes[sent..]).unwrap_or_else(|error| {
                panic!("sent {sent} of {} bytes, then: {}", bytes.len(), describe(&error))
            });
        }
    }

    /// Sends all of it, cut at random.
    pub(crate) fn say_in_pieces(&self, mut bytes: &[u8], random: &mut Random) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(random.length(256 << 10).min(bytes.len()));
            self.say(piece);
            bytes = rest;
        }
    }

    /// Sends until nothing is taken for a moment. Returns the number of bytes sent.
    pub(crate) fn say_until_stuck(&self, bytes: &[u8]) -> usize {
        let moment = Some(Duration::from_millis(100));
        self.socket.set_write_timeout(moment).expect("a timeout can be set");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.say_some(&bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("sent {sent} bytes, then: {error}"),
            }
        }
        self.socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        sent
    }

    /// Calls send(2) one time.
    pub(crate) fn say_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match (&self.socket).write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Receives exactly these bytes.
    pub(crate) fn hear(&self, expected: &[u8]) {
        let mut buffer = vec![0; (64 << 10).min(expected.len())];
        let mut heard = 0;
        while heard < expected.len() {
            let most = buffer.len().min(expected.len() - heard);
            let n = match self.hear_some(&mut buffer[..most]) {
                Ok(0) => panic!("the end came after {heard} of {} bytes", expected.len()),
                Ok(n) => n,
                Err(error) => {
                    panic!("heard {heard} of {} bytes, then: {}", expected.len(), describe(&error))
                }
            };
            if let Some(at) = (0..n).find(|&at| buffer[at] != expected[heard + at]) {
                panic!(
                    "byte {} of {} is {:?} and should be {:?}",
                    heard + at,
                    expected.len(),
                    buffer[at] as char,
                    expected[heard + at] as char
                );
            }
            heard += n;
        }
    }

    /// Receives once; nothing is the end.
    pub(crate) fn hear_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.socket).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Receives until these bytes have come.
    pub(crate) fn hear_until(&self, expected: &[u8]) {
        let (mut heard, mut some) = (Vec::new(), [0; 1]);
        while !heard.ends_with(expected) {
            assert_eq!(self.hear_some(&mut some).expect("more bytes"), 1, "the end came");
            heard.extend(some);
        }
    }

    /// Receives up to so many bytes of those that are there already; none if there are none.
    pub(crate) fn hear_now(&self, most: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; most];
        self.socket.set_nonblocking(true).expect("a mode can be set");
        let result = self.hear_some(&mut buffer);
        self.socket.set_nonblocking(false).expect("a mode can be set");
        match result {
            Ok(n) => {
                buffer.truncate(n);
                Some(buffer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("hearing: {error}"),
        }
    }

    /// Fails if anything comes, or the end, within a moment.
    pub(crate) fn hear_nothing(&self) {
        let moment = Some(Duration::from_millis(50));
        self.socket.set_read_timeout(moment).expect("a timeout can be set");
        let mut byte = [0];
        match self.hear_some(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("nothing was to come, and there is: {other:?} {byte:?}"),
        }
        self.socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
    }

    /// Receives until the end; what came before a reset too, with the error.
    pub(crate) fn hear_all(&self) -> (Vec<u8>, io::Result<()>) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match self.hear_some(&mut buffer) {
                Ok(0) => return (all, Ok(())),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    /// Receives the end, and nothing before it.
    pub(crate) fn hear_end(&self) {
        let mut byte = [0];
        match self.hear_some(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("the end was to come, and there is {:?}", byte[0] as char),
            Err(error) => panic!("the end was to come, and: {}", describe(&error)),
        }
    }

    /// Sends, cut at random, and receives at the same time.
    pub(crate) fn converse(&self, say: &[u8], hear: &[u8], random: &mut Random) {
        let mut pieces = random.branch();
        std::thread::scope(|scope| {
            scope.spawn(move || self.say_in_pieces(say, &mut pieces));
            self.hear(hear);
        });
    }

    /// Says a few bytes and hears them again: it is served.
    pub(crate) fn ping(&self) {
        self.say(b"PING");
        self.hear(b"PING");
    }

    /// Says no more; still listens.
    pub(crate) fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the connection is there");
    }

    /// Leaves with a reset; on a Unix socket, which has none, just leaves.
    pub(crate) fn reset(self) {
        // Refused for a Unix socket.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => format!("nothing more within {TIMEOUT:?}"),
        _ => error.to_string(),
    }
}
