//! A small message beside hostile clients, on the real ring of every tier: it is answered within a
//! few iterations, and an iteration moves a bounded number of bytes. So its time does not depend on
//! how many clients send or read how much, and nothing here is measured by a clock.

mod skip;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;

use proactor::buffer::{Pool, SEND_MAX};
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Ended;
use proactor::model::EngineOptions;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::peers::HEAVY_BYTES_WITH_LIGHT;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::reactor::Reactor;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Config, Uring};
use proactor::selector::{Epoll, Trigger};
use socket2::SockRef;

/// One receive and one send of the ping; the send of a ring is submitted in the next iteration, and
/// where its success posts a completion a further one may pass.
const ITERATIONS: u64 = 3;
/// The most that heavy connections move in an iteration while light ones are resumed: the budget,
/// and the last of them receives a buffer and sends.
const MOVED: usize = HEAVY_BYTES_WITH_LIGHT + (256 << 10) + SEND_MAX;
/// On a ring, receives that were submitted before their connections were heavy complete as well: a
/// multishot one fills up to 32 of the smallest buffers.
const MOVED_BY_RING: usize = MOVED + HOSTILE * 32 * 2048;
const PINGS: u64 = 150;
const HOSTILE: usize = 40;

/// What hostile clients do with the replies to all that they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    Read,
    ReadSlowly,
    Unread,
}

/// A server that the test runs, an iteration at a time.
struct Server {
    run_once: Box<dyn FnMut() -> Counters>,
    /// As of the end of the last iteration.
    counters: Counters,
    address: SocketAddr,
}

impl Server {
    fn run_once(&mut self) {
        self.counters = (self.run_once)();
    }

    fn moved(&self) -> u64 {
        self.counters.received_bytes + self.counters.sent_bytes
    }
}

fn serve(kernel: Option<Kernel>) -> Server {
    let EngineOptions { limits, buffers, polling, .. } = EngineOptions::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), ShutdownSignal::new().unwrap());
    let run_once = match kernel {
        Some(kernel) => {
            let connections = limits.connections;
            let config = Config { kernel, connections, buffers, addresses: true, polling };
            let ring = Uring::new(config).unwrap();
            let engine = Proactor::new(ring, limits, stop).unwrap();
            listening(engine, listener, Proactor::run_once)
        }
        None => {
            let (selector, pool) = (Epoll::new(Trigger::Level).unwrap(), Pool::new(&buffers));
            let engine = Reactor::new(selector, pool.unwrap(), limits, stop).unwrap();
            listening(engine, listener, Reactor::run_once)
        }
    };
    Server { run_once, counters: Counters::default(), address }
}

/// Has an engine listen. Returns what runs an iteration of it, and returns what was counted.
fn listening<E: Engine<Echo> + 'static>(
    mut engine: E,
    listener: TcpListener,
    run_once: impl Fn(&mut E) -> io::Result<ControlFlow<Ended>> + 'static,
) -> Box<dyn FnMut() -> Counters> {
    engine.listen(ListenerId(0), listener.into(), Factory::of(|_| Echo)).unwrap();
    Box::new(move || {
        assert!(run_once(&mut engine).unwrap().is_continue());
        engine.counters()
    })
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    SockRef::from(&client).set_tcp_nodelay(true).unwrap();
    client
}

/// Sends all that the sockets take, and reads some of what has come.
fn act(clients: &mut [TcpStream], replies: Replies) {
    let (bytes, mut space) = ([b'x'; 64 << 10], [0; 64 << 10]);
    for client in clients {
        while client.write(&bytes).is_ok() {}
        match replies {
            Replies::Read => while client.read(&mut space).is_ok_and(|n| n > 0) {},
            Replies::ReadSlowly => drop(client.read(&mut space[..4000])),
            Replies::Unread => {}
        }
    }
}

/// Returns the most iterations that a ping took, and the most bytes that one iteration moved.
fn attack(mut server: Server, replies: Replies) -> (u64, u64) {
    let mut hostile: Vec<TcpStream> = (0..HOSTILE).map(|_| connect(server.address)).collect();
    let mut pinger = connect(server.address);
    // It ends the wait of an iteration, also where nothing completes when the reply has been sent.
    let mut ticker = connect(server.address);
    let mut reply = [0; 64];
    let (mut slowest, mut largest) = (0, 0);
    for ping in 0..PINGS {
        act(&mut hostile, replies);
        pinger.write_all(&[b'p'; 64]).unwrap();
        let begin = server.counters.iterations;
        loop {
            let before = server.moved();
            ticker.write_all(b"t").unwrap();
            server.run_once();
            let moved = server.moved() - before;
            if ping > PINGS / 2 {
                largest = largest.max(moved);
            }
            match pinger.read(&mut reply) {
                Ok(n) => break assert_eq!((n, reply), (64, [b'p'; 64])),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        if ping > 0 {
            // Before the first, all of them are accepted.
            slowest = slowest.max(server.counters.iterations - begin);
        }
    }
    // There are more buffers than connections: to have used up what a ring was lent is no lack.
    assert_eq!(server.counters.out_of_buffers, 0);
    (slowest, largest)
}

#[test]
fn a_small_message_is_answered_within_a_few_iterations() {
    let detected = Kernel::detect();
    if let Err(refusal) = &detected {
        skip::skip(&refusal.to_string());
    }
    let tiers = ["6.15", "6.12", "6.1", "6.0", "5.19", "5.11", "5.7", "5.6"];
    let lowered = detected.iter().flat_map(|kernel| {
        tiers.map(|tier| kernel.lowered_to(tier.parse().unwrap()).map(|kernel| (tier, kernel)))
    });
    let rings = lowered.map(|ring| ring.map(|(tier, kernel)| (tier, Some(kernel))).unwrap());
    for (tier, kernel) in rings.chain([("epoll", None)]) {
        for replies in [Replies::Read, Replies::ReadSlowly, Replies::Unread] {
            let (iterations, moved) = attack(serve(kernel), replies);
            println!("{tier} {replies:?}: {iterations} iterations, {moved} B in one");
            assert!(iterations <= ITERATIONS, "{tier} {replies:?}: {iterations} iterations");
            let most = if kernel.is_some() { MOVED_BY_RING } else { MOVED } as u64;
            assert!(moved <= most, "{tier} {replies:?}: {moved} B");
        }
    }
}
