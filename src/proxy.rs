//! The PROXY protocol, versions 1 and 2: a balancer names the client in front of its first byte.
//!
//! A [`ProxyGate`] wraps the factory of a listener: the protocol of a connection is made when the
//! header is complete, for the address that it names. No engine knows of it. What the connection
//! has received behind the header is passed on as it is.
//!
//! Specification: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::admission::{Admission, Admitted};
use crate::limits::{CloseReason, Limits};
use crate::network::Network;
use crate::peer::{Factory, MakeProtocol, Peer, ProxiedPeer};
use crate::protocol::{Input, Outbox, Protocol};

/// How long a connection may take to send its header. The specification asks for three seconds at
/// least.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest header of version 2, in bytes: as in nginx.
pub const HEADER_MAX: usize = 4096;

/// The beginning of a header of version 2, and of one of version 1.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY: &[u8] = b"PROXY ";
/// The longest header of version 1, its newline included.
const LINE_MAX: usize = 107;

/// The client that a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedClient {
    /// The balancer itself, as for its health checks, or a client whose address it does not know.
    Balancer,
    /// A client with an IP address.
    Ip(SocketAddr),
    /// A client of a Unix socket.
    Unix,
}

/// Reads the header at the beginning of `bytes`. Returns its length and the client, or `None` if it
/// is not complete.
///
/// # Errors
/// It is no header, with the reason.
pub fn parse(bytes: &[u8]) -> Result<Option<(usize, NamedClient)>, &'static str> {
    let begins = |with: &[u8]| {
        let len = with.len().min(bytes.len());
        bytes[..len] == with[..len]
    };
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(PROXY) {
        parse_line(bytes)
    } else {
        Err("the connection does not begin with one")
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<(usize, NamedClient)>, &'static str> {
    let Some(&[command, kind, high, low]) = bytes.get(12..16).and_then(<[u8]>::as_array) else {
        return Ok(None);
    };
    if !matches!(command, 0x20 | 0x21) {
        return Err("its version or command is unknown");
    }
    if kind >> 4 > 3 || kind & 15 > 2 {
        return Err("its address family or protocol is unknown");
    }
    let len = 16 + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_MAX {
        return Err("it is longer than 4096 bytes");
    }
    let Some(addresses) = bytes.get(16..len) else { return Ok(None) };
    // The source, the destination, both ports; TLVs follow.
    let ip = |bytes: usize| -> Result<(&[u8], u16), &'static str> {
        let port = addresses.get(2 * bytes..2 * bytes + 2).zip(addresses.get(2 * bytes + 2..));
        let port = port.filter(|(_, rest)| rest.len() >= 2).map(|(port, _)| [port[0], port[1]]);
        let port = port.ok_or("its addresses are too short")?;
        Ok((&addresses[..bytes], u16::from_be_bytes(port)))
    };
    let client = match kind {
        _ if command == 0x20 => NamedClient::Balancer, // LOCAL
        0x11 | 0x12 => {
            let (address, port) = ip(4)?;
            let address: [u8; 4] = address.try_into().expect("of this length");
            NamedClient::Ip(SocketAddr::new(Ipv4Addr::from(address).into(), port))
        }
        0x21 | 0x22 => {
            let (address, port) = ip(16)?;
            let address: [u8; 16] = address.try_into().expect("of this length");
            NamedClient::Ip(SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port))
        }
        0x31 | 0x32 if addresses.len() < 216 => return Err("its addresses are too short"),
        0x31 | 0x32 => NamedClient::Unix,
        _ => NamedClient::Balancer, // UNSPEC
    };
    Ok(Some((len, client)))
}

fn parse_line(bytes: &[u8]) -> Result<Option<(usize, NamedClient)>, &'static str> {
    let first = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = first.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_MAX { Ok(None) } else { Err("its line is too long") };
    };
    const WRONG: &str = "its line is malformed";
    let line = str::from_utf8(&bytes[PROXY.len()..end]).map_err(|_| WRONG)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let client = match fields[..] {
        ["UNKNOWN", ..] => NamedClient::Balancer,
        [kind @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let ip = |text: &str| text.parse::<IpAddr>().map_err(|_| WRONG);
            let port = |text: &str| text.parse::<u16>().map_err(|_| WRONG);
            let (from, to, from_port, _) = (ip(from)?, ip(to)?, port(from_port)?, port(to_port)?);
            if [from, to].iter().any(|ip| ip.is_ipv4() != (kind == "TCP4")) {
                return Err(WRONG);
            }
            NamedClient::Ip(SocketAddr::new(from.to_canonical(), from_port))
        }
        _ => return Err(WRONG),
    };
    Ok(Some((end + 2, client)))
}

/// What the connections behind balancers have in common.
#[derive(Debug, Clone)]
pub struct ProxyGate {
    /// From where headers are taken; from everywhere if there is none.
    trusted: Arc<[Network]>,
    /// Admits the clients, by the addresses that the headers name.
    admission: Admission,
}

impl ProxyGate {
    /// Has each connection of these factories begin with a header, if `limits` say so.
    pub fn wrap<'a>(limits: &Limits, factories: impl IntoIterator<Item = &'a mut Factory>) {
        let Some(trusted) = &limits.proxy_protocol else { return };
        let direct = Limits { proxy_protocol: None, ..limits.clone() };
        let gate = ProxyGate { trusted: trusted[..].into(), admission: Admission::new(&direct) };
        for factory in factories {
            let gate = gate.clone();
            *factory = factory.wrapped(move |peer, make| gate.protocol(peer, make));
        }
    }

    /// Returns the protocol of a connection that the balancer at the address of `peer` has opened.
    fn protocol(&self, peer: &Peer, make: Rc<RefCell<MakeProtocol>>) -> ProxiedProtocol {
        let trusts = |addr: SocketAddr| {
            self.trusted.is_empty() || self.trusted.iter().any(|it| it.contains(addr.ip()))
        };
        // A Unix socket has no address, but permissions.
        let trusted = peer.addr().is_none_or(trusts);
        let (named, peer) = (peer.proxied(), peer.another(peer.addr()));
        let admission = self.admission.clone();
        ProxiedProtocol::Header(HeaderReader { peer, named, make, admission, trusted })
    }
}

/// The protocol of a connection behind a balancer.
enum ProxiedProtocol {
    /// The header is not complete.
    Header(HeaderReader),
    /// That of the client, and its place among those of its address.
    Client(Box<dyn Protocol>, #[expect(dead_code, reason = "given back on drop")] Option<Admitted>),
    /// The connection closes without a header.
    Closed,
}

struct HeaderReader {
    peer: Peer,
    /// Where the client is announced to the engine.
    named: Arc<OnceLock<ProxiedPeer>>,
    make: Rc<RefCell<MakeProtocol>>,
    admission: Admission,
    trusted: bool,
}

impl HeaderReader {
    /// Reads the header, if it is complete. Returns the protocol of the client.
    ///
    /// # Errors
    /// The connection is closed for this reason, which was logged.
    fn read(
        &self,
        input: &mut Input<'_>,
        out: &Outbox<'_>,
    ) -> Result<Option<ProxiedProtocol>, CloseReason> {
        let Some((header, client)) = parse(input.peek()).map_err(|why| self.refuse(why))? else {
            return Ok(None);
        };
        input.take(header).expect("it is complete");
        let addr = match client {
            NamedClient::Balancer => self.peer.addr(),
            NamedClient::Ip(addr) => Some(addr),
            NamedClient::Unix => None,
        };
        let _ = self.named.set(ProxiedPeer { addr, header }); // Once for each connection.
        let limited = addr.filter(|_| client != NamedClient::Balancer);
        let admitted = self.admission.admit(limited, out.server_now())?;
        let protocol = (self.make.borrow_mut())(&self.peer.another(addr));
        Ok(Some(ProxiedProtocol::Client(protocol, admitted)))
    }

    fn refuse(&self, why: &str) -> CloseReason {
        let peer = self.peer.addr().map(tracing::field::display);
        tracing::warn!(peer, why, "a connection is closed: no valid PROXY header");
        CloseReason::ProxyHeader
    }
}

impl Protocol for ProxiedProtocol {
    fn open(&mut self, out: &mut Outbox<'_>) {
        match self {
            ProxiedProtocol::Client(protocol, _) => protocol.open(out),
            ProxiedProtocol::Header(reader) if reader.trusted => out.set_timer(HEADER_TIMEOUT),
            ProxiedProtocol::Header(reader) => {
                out.close_as(reader.refuse("it does not come from a trusted network"));
                *self = ProxiedProtocol::Closed;
            }
            ProxiedProtocol::Closed => {}
        }
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        match self {
            ProxiedProtocol::Client(protocol, _) => protocol.data(input, out),
            ProxiedProtocol::Header(reader) => match reader.read(input, out) {
                Ok(None) => {}
                Ok(Some(client)) => {
                    out.clear_timer();
                    *self = client;
                    self.open(out);
                }
                Err(reason) => {
                    out.close_as(reason);
                    *self = ProxiedProtocol::Closed;
                }
            },
            ProxiedProtocol::Closed => {}
        }
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        match self {
            ProxiedProtocol::Client(protocol, _) => protocol.end(input, out),
            // A health check connects and sends nothing.
            ProxiedProtocol::Header(reader) if !input.is_empty() => {
                out.close_as(reader.refuse("the connection ends within it"));
            }
            _ => out.finish(),
        }
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        match self {
            ProxiedProtocol::Client(protocol, _) => protocol.timer(out),
            ProxiedProtocol::Header(reader) => {
                out.close_as(reader.refuse("it is not complete in time"));
            }
            ProxiedProtocol::Closed => {}
        }
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        if let ProxiedProtocol::Client(protocol, _) = self {
            protocol.wake(out);
        }
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        if let ProxiedProtocol::Client(protocol, _) = self {
            protocol.refill(out);
        }
    }

    fn missed(&mut self, count: u32, out: &mut Outbox<'_>) {
        if let ProxiedProtocol::Client(protocol, _) = self {
            protocol.missed(count, out);
        }
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        match self {
            ProxiedProtocol::Client(protocol, _) => protocol.drain(out),
            _ => out.finish(),
        }
    }

    fn close(&mut self, reason: CloseReason, out: &mut Outbox<'_>) {
        if let ProxiedProtocol::Client(protocol, _) = self {
            protocol.close(reason, out);
        }
    }
}

/// Returns a header of version 2 with these addresses and TLVs.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn header(command: u8, kind: u8, addresses: &[u8]) -> Vec<u8> {
    let len = (addresses.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, kind], &len, addresses].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Echo;
    use crate::testing::{Driver, every_split_of};

    const V4: &[u8] = &[10, 1, 2, 3, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    fn named(bytes: &[u8]) -> Option<NamedClient> {
        let (len, client) = parse(bytes).unwrap_or_else(|why| panic!("{why}: {bytes:?}"))?;
        assert_eq!(len, bytes.len());
        (0..len).for_each(|cut| assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}"));
        Some(client)
    }

    fn ip(text: &str) -> Option<NamedClient> {
        Some(NamedClient::Ip(text.parse().unwrap()))
    }

    #[test]
    fn a_header_names_its_client() {
        assert_eq!(named(&header(0x21, 0x11, V4)), ip("10.1.2.3:4660"));
        let tlvs = [V4, &[3, 0, 4, 1, 2, 3, 4, 0xee, 0, 0]].concat();
        assert_eq!(named(&header(0x21, 0x11, &tlvs)), ip("10.1.2.3:4660"));
        let addresses: Vec<u8> = (0..36).collect();
        let v6 = "[1:203:405:607:809:a0b:c0d:e0f]:8225";
        assert_eq!(named(&header(0x21, 0x21, &addresses)), ip(v6));
        let local = Some(NamedClient::Balancer);
        assert_eq!(named(&header(0x20, 0, &[])), local);
        assert_eq!(named(&header(0x20, 0x11, V4)), local, "LOCAL");
        assert_eq!(named(&header(0x21, 0, &[7; 9])), local, "UNSPEC");
        assert_eq!(named(&header(0x21, 0x31, &[b'x'; 216])), Some(NamedClient::Unix));
        assert_eq!(named(b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n"), ip("1.2.3.4:1234"));
        assert_eq!(named(b"PROXY TCP6 ::1 ::2 1 65535\r\n"), ip("[::1]:1"));
        assert_eq!(named(b"PROXY UNKNOWN\r\n"), local);
        assert_eq!(named(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), local);
    }

    #[test]
    fn what_is_no_header_is_refused_with_the_reason() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
        for (wrong, why) in [
            (&b"GET / HTTP/1.1"[..], "begin"),
            (b"x", "begin"),
            (b"PROXX", "begin"),
            (b"\r\n\r\n\0\r\nQUIx", "begin"),
            (&header(0x11, 0x11, V4), "version"),
            (&header(0x22, 0x11, V4), "version"),
            (&header(0x21, 0x41, V4), "address family"),
            (&header(0x21, 0x13, V4), "address family"),
            (&header(0x21, 0x11, &V4[..11]), "too short"),
            (&header(0x21, 0x21, &[0; 35]), "too short"),
            (&header(0x21, 0x31, &[0; 215]), "too short"),
            (&header(0x21, 0x11, &[0; 4081]), "longer"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1234\r\n", "malformed"),
            (b"PROXY TCP4 ::1 ::2 1 2\r\n", "malformed"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", "malformed"),
            (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "malformed"),
            (b"PROXY \xff\r\n", "malformed"),
            (&long, "too long"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(why), "{error}: {wrong:?}");
        }
    }

    /// Has the protocols of a factory await a header.
    fn behind(mut factory: Factory, change: impl FnOnce(&mut Limits)) -> Factory {
        let mut limits = Limits { proxy_protocol: Some(Vec::new()), ..Limits::default() };
        change(&mut limits);
        ProxyGate::wrap(&limits, [&mut factory]);
        factory
    }

    /// Sends the address of its peer, and then what it receives.
    fn address_and_echo() -> Factory {
        struct AddressAndEcho(String);

        impl Protocol for AddressAndEcho {
            fn open(&mut self, out: &mut Outbox<'_>) {
                out.send(format!("{} ", self.0));
            }

            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                out.send(input.take_all());
            }
        }

        Factory::shared(|peer: &Peer| AddressAndEcho(format!("{:?}", peer.addr())))
    }

    /// A call that is not passed on would be silently lost: each has a default.
    #[test]
    fn every_call_is_passed_on_to_the_protocol_of_the_client() {
        let methods = |source: &'static str, start: &str| {
            let body = &source[source.find(start).unwrap()..];
            let body = &body[..body.find("\n}\n").unwrap()];
            let names = body.split("    fn ").skip(1).map(|it| &it[..it.find('(').unwrap()]);
            names.filter(|it| !["needs", "allow_silence"].contains(it)).collect::<Vec<_>>()
        };
        let declared = methods(include_str!("protocol/mod.rs"), "pub trait Protocol");
        assert!(declared.len() > 8);
        assert_eq!(
            methods(include_str!("proxy.rs"), "impl Protocol for ProxiedProtocol"),
            declared
        );
    }

    #[test]
    fn no_byte_is_lost_wherever_the_bytes_are_cut() {
        for (header, client) in [
            (header(0x21, 0x11, V4), "Some(10.1.2.3:4660)"),
            (b"PROXY TCP6 ::1 ::2 1 65535\r\n".to_vec(), "Some([::1]:1)"),
            (header(0x20, 0, &[]), "None"),
        ] {
            let factory = behind(address_and_echo(), |_| {});
            let done = every_split_of(&factory, &[&header[..], b"hello, world"].concat());
            assert_eq!(String::from_utf8(done.sent).unwrap(), format!("{client} hello, world"));
            assert!(done.finished && !done.broken);
        }
    }

    #[test]
    fn a_connection_without_a_header_is_closed_and_its_protocol_is_not_made() {
        let panics = Factory::shared(|_: &Peer| -> Echo { panic!("no header has come") });
        let factory = behind(panics, |_| {});
        let mut driver = Driver::of(&factory);
        driver.receive(b"PING");
        assert!(driver.take().broken);
        let mut driver = Driver::of(&factory);
        driver.receive(b"PROXY TCP4");
        driver.advance(HEADER_TIMEOUT - Duration::from_nanos(1));
        assert!(!driver.take().broken);
        driver.advance(Duration::from_nanos(1));
        assert!(driver.take().broken, "the header takes too long");
        let mut driver = Driver::of(&factory);
        driver.receive(b"PROXY TCP4");
        driver.end();
        assert!(driver.take().broken);
        let mut driver = Driver::of(&factory);
        driver.end();
        assert!(driver.take().finished, "a health check connects only");
        let mut driver = Driver::of(&factory);
        driver.drain();
        assert!(driver.take().finished);
    }

    #[test]
    fn clients_are_limited_by_the_addresses_in_their_headers() {
        let limit = |limits: &mut Limits| limits.connections_per_address = Some(1);
        let factory = behind(address_and_echo(), limit);
        let connect = |from: &str| {
            let mut driver = Driver::of(&factory);
            driver.receive(format!("PROXY TCP4 {from} 5.6.7.8 1 2\r\n").as_bytes());
            (driver.take().broken, driver)
        };
        let (first, second, other) = (connect("1.1.1.1"), connect("1.1.1.1"), connect("1.1.1.2"));
        assert_eq!([first.0, second.0, other.0], [false, true, false]);
        drop(first);
        assert!(!connect("1.1.1.1").0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_nothing_behind_a_header(
            head in prop::sample::select(vec![&b""[..], SIGNATURE, PROXY, b"PROXY TCP4 1.1.1.1 "]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            command in 0x1fu8..0x23,
            kind in any::<u8>(),
        ) {
            let any = [head, &bytes].concat();
            let likely = header(command, kind, &bytes);
            for bytes in [&any, &likely] {
                if let Ok(Some((len, client))) = parse(bytes) {
                    prop_assert!(len <= bytes.len().min(HEADER_MAX));
                    prop_assert_eq!(parse(&bytes[..len]), Ok(Some((len, client))));
                    prop_assert_eq!(parse(&bytes[..len - 1]), Ok(None));
                }
            }
        }
    }
}
