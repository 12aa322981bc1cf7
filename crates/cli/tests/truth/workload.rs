//! A server on the kernel's ring that is recorded, and what befalls it: crowds, slow readers,
//! resets.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use proactor::buffer::BufferClass;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::{Ended, Limits};
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::polling::Polling;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::kernel::{Capability, Kernel};
use proactor::ring::{Config, Uring};
use proactor::traced::Traced;
use proactor_trace::kernel::{Instance, KernelEvent, Missing, Tracepoint};
use proactor_trace::{About, Clock, Recorder, Settings, Trace};

use crate::oracle::Evidence;
use crate::support::{Address, Client, TIMEOUT};

/// A server, and how much is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct TruthLoad {
    /// What it may use.
    pub(crate) kernel: Kernel,
    /// The buffers of the server.
    pub(crate) buffers: Vec<BufferClass>,
    /// Completions that its queue holds, if not as many as usual.
    pub(crate) completions: Option<u32>,
    /// Messages that each of 64 clients says and hears, at the least.
    pub(crate) rounds: usize,
    /// Clients that come for a moment, and those that leave with a reset.
    pub(crate) short_connections: usize,
}

impl TruthLoad {
    /// Plays it. `points` are asked of the kernel, if any.
    pub(crate) fn play(&self, points: &[Tracepoint]) -> Evidence {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = ShutdownSignal::new().expect("a descriptor is left");
        let ours = stop.clone();
        let (workload, points) = (self.clone(), points.to_vec());
        let server = thread::spawn(move || workload.serve(listener, stop, &points));
        self.befall(address);
        ours.request();
        server.join().expect("the server does not panic")
    }

    /// The thread that serves.
    fn serve(
        &self,
        listener: TcpListener,
        stop: ShutdownSignal,
        points: &[Tracepoint],
    ) -> Evidence {
        let clock = Clock::best();
        let make = |bytes| Instance::new(points, clock, bytes).expect("tracing was tried before");
        let mut instance = (!points.is_empty()).then(|| make(192 << 20));
        let (kernel, connections) = (self.kernel, 256);
        let buffers = self.buffers.clone();
        let config =
            Config { kernel, connections, buffers, addresses: true, polling: Polling::default() };
        let ring = match self.completions {
            Some(completions) => Uring::with_completions(config, completions),
            None => Uring::new(config),
        };
        let ring = ring.expect("a ring was made before");
        let fd = ring.as_raw_fd();
        let settings = Settings { bytes: 64 << 20, clock: Some(clock), ..Settings::default() };
        let log = Recorder::new(None, &settings, &About::default()).expect("memory");
        let mut limits = Limits::default();
        // Before 5.17 a timer is an operation, which could complete behind the last look.
        (limits.timeouts.send, limits.timeouts.evict) = (None, None);
        (limits.connections, limits.drain) = (connections, Duration::from_secs(10));
        let ring = Traced::new(ring, log);
        let mut server = Proactor::new(ring, limits, stop).expect("space for a submission");
        server.listen(ListenerId(0), listener.into(), Factory::of(|_| Echo)).expect("a socket");
        assert_eq!(server.run(None).expect("the ring serves"), Ended::Drained);
        // What follows is not recorded: dropping the ring cancels what is left.
        let events = instance.as_mut().map(|one| one.finish().expect("the buffers are readable"));
        // KernelEvent apart, overflowing completions keep their place; both since 5.19.
        let is_traced =
            |one: &Instance| !one.missing().contains(&Missing::Tracepoint(Tracepoint::CqeOverflow));
        let ordered = self.completions.is_none() || instance.as_ref().is_none_or(is_traced);
        let kernel_lost = instance.map_or(0, |one| one.lost().expect("the kernel counts"));
        let trace = Trace::from_bytes(server.ring_mut().recorder().bytes()).expect("a trace");
        Evidence {
            lost: trace.lost(),
            records: trace.records,
            tails: tails(fd),
            kernel: events.map(|events| of_ring(events, fd)),
            kernel_lost,
            deferred: kernel.has(Capability::DeferTaskrun),
            ordered,
        }
    }

    /// The clients, those that come and go beside those that stay.
    fn befall(&self, address: SocketAddr) {
        let to = Address::Tcp(address);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| crowd(address, 16, self.rounds));
            }
            scope.spawn(|| (0..self.short_connections).for_each(|n| short_connection(&to, n)));
            scope.spawn(|| (0..3).for_each(|_| slow_reader(&to)));
        });
    }
}

/// Clients that speak in turn.
fn crowd(address: SocketAddr, clients: usize, rounds: usize) {
    let connect = |_| {
        let client = TcpStream::connect(address).expect("the server listens");
        client.set_nodelay(true).expect("a TCP socket");
        client.set_read_timeout(Some(TIMEOUT)).expect("no zero");
        client
    };
    let mut clients: Vec<_> = (0..clients).map(connect).collect();
    let mut answer = [0; 64];
    for round in 0..rounds {
        let message = [round as u8; 64];
        clients.iter_mut().for_each(|client| client.write_all(&message).expect("it is read"));
        for client in &mut clients {
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, message);
        }
    }
}

/// A short connection: it leaves with a reset, or with an orderly end.
fn short_connection(to: &Address, n: usize) {
    let client = Client::connect(to);
    client.say(&[n as u8; 3000]);
    if n.is_multiple_of(2) {
        client.finish();
        let (heard, end) = client.hear_all();
        assert_eq!((heard.len(), end.is_ok()), (3000, true));
    } else {
        client.reset();
    }
}

/// A client that sends until nothing more is taken, and then reads: the server cancels its receive,
/// and starts it again.
fn slow_reader(to: &Address) {
    let client = Client::connect(to);
    let bytes: Vec<u8> = (0..32usize << 20).map(|n| (n / 251) as u8).collect();
    let said = client.say_until_stuck(&bytes);
    client.hear(&bytes[..said]);
    client.finish();
    client.hear_end();
}

/// The kernel's events of the ring that this thread created with this descriptor.
pub(crate) fn of_ring(events: Vec<KernelEvent>, ring_fd: RawFd) -> Vec<KernelEvent> {
    // SAFETY: gettid(2) touches no memory and cannot fail.
    let me = unsafe { libc::gettid() };
    let is_creation = |event: &&KernelEvent| {
        let fd = event.own[0] as RawFd;
        event.tracepoint == Tracepoint::Create && fd == ring_fd && event.thread == me
    };
    let ring = events.iter().rev().find(is_creation).expect("an event of the ring's creation").ring;
    events.into_iter().filter(|event| event.ring == ring).collect()
}

/// How many submissions were ever taken off a ring's queue, and completions put into it; `None` on
/// a kernel that does not say (5.10, for one).
pub(crate) fn tails(ring: RawFd) -> Option<(u32, u32)> {
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{ring}")).expect("it is open");
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().parse().expect("a number"))
    };
    Some((value("SqTail:")?, value("CqTail:")?))
}
