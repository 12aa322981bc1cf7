//! The readiness loop at work on real sockets: every scenario by every selector.
//!
//! A [`RunningReactor`] runs in a thread of its own and ends with what must hold after every
//! scenario: it drained, all connections are closed, and no buffer is missing. What a single
//! iteration may do is checked with a loop that the test runs itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::panic;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::buffer::BufferClass;
use crate::peer::Factory;
use crate::peers::HEAVY_BYTES;
use crate::protocol::testing::Broadcast;
use crate::protocol::{Echo, Input, Outbox};
use crate::selector::{Epoll, Key, Poll, Select, Sigio, Spin, Trigger};

/// Space enough for every scenario that is not about the lack of it.
const PLENTY: &[BufferClass] =
    &[BufferClass { bytes: 4096, count: 256 }, BufferClass { bytes: 65536, count: 64 }];

struct RunningReactor {
    address: SocketAddr,
    stop: ShutdownSignal,
    thread: JoinHandle<(Ended, Counters, bool)>,
}

/// An echo server in a thread.
fn serve<S: Selector + 'static>(
    selector: fn() -> S,
    buffers: &'static [BufferClass],
    limits: Limits,
) -> RunningReactor {
    let (listener, address) = listener();
    let stop = ShutdownSignal::new().unwrap();
    let asked = stop.clone();
    let thread = thread::spawn(move || {
        let pool = Pool::new(buffers).unwrap();
        let mut reactor = Reactor::new(selector(), Rc::clone(&pool), limits, asked).unwrap();
        reactor.listen(ListenerId(0), listener, Factory::of(|_| Echo)).unwrap();
        let ended = reactor.run(None).unwrap();
        let counters = reactor.counters();
        drop(reactor);
        (ended, counters, pool.is_whole())
    });
    RunningReactor { address, stop, thread }
}

impl RunningReactor {
    /// Asks it to drain, and checks that it did.
    fn end(self) -> Counters {
        self.stop.request();
        let (ended, counters, whole) = self.thread.join().unwrap();
        assert_eq!(ended, Ended::Drained);
        assert!(whole, "a buffer is missing");
        assert_eq!(counters.accepted, counters.closed, "a connection was left");
        counters
    }
}

/// A loop that the test runs itself, an iteration at a time.
fn stepwise<S: Selector, P: Protocol + Clone + Send + Sync>(
    selector: fn() -> S,
    protocol: P,
    buffers: &[BufferClass],
    limits: Limits,
) -> (Reactor<S, P>, SocketAddr) {
    let (listener, address) = listener();
    let pool = Pool::new(buffers).unwrap();
    let mut reactor =
        Reactor::new(selector(), pool, limits, ShutdownSignal::new().unwrap()).unwrap();
    reactor.listen(ListenerId(0), listener, Factory::of(move |_| protocol.clone())).unwrap();
    (reactor, address)
}

fn run_until<S: Selector, P: Protocol>(
    reactor: &mut Reactor<S, P>,
    done: impl Fn(&Counters) -> bool,
) {
    while !done(&reactor.counters()) {
        assert!(reactor.run_once().unwrap().is_continue());
    }
}

/// What a level-triggered selector would report now.
fn reports<S: Selector, P>(reactor: &mut Reactor<S, P>) -> Vec<Ready> {
    let mut reports = Vec::new();
    if reactor.selector.trigger() != Trigger::Edge {
        reactor.selector.wait(&mut reports, Some(Duration::ZERO)).unwrap();
    }
    reports.into_iter().map(Ready::of).collect()
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
    // Connections inherit a small buffer, so that sends are short.
    SockRef::from(&listener).set_send_buffer_size(16 << 10).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    with_timeout(TcpStream::connect(address).unwrap())
}

/// A client with a small receive buffer: sends to it soon have to wait.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    with_timeout(socket.into())
}

fn with_timeout(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Bytes with a period of a prime number, so that a misplaced one is noticed.
fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// Sends `bytes` and then the end, from a thread.
fn send_all(stream: &TcpStream, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Has an echo answer, so that it has been accepted and read from.
fn ping(mut stream: &TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Receives, and sends nothing.
#[derive(Clone)]
struct Sink;

impl Protocol for Sink {
    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
    }
}

// Bytes.

fn a_client_that_ends_receives_everything_and_then_the_end<S: Selector + 'static>(
    selector: fn() -> S,
) {
    let server = serve(selector, PLENTY, Limits::default());
    for len in [0, 1, 4096, 100_000] {
        let client = connect(server.address);
        let sent = send_all(&client, text(len));
        assert_eq!(read_all(&client), text(len), "{len} bytes");
        sent.join().unwrap();
    }
    let counters = server.end();
    assert_eq!((counters.received_bytes, counters.sent_bytes), (104_097, 104_097));
}

fn bytes_and_the_end_may_come_together<S: Selector>(selector: fn() -> S) {
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let mut client = connect(address);
    run_until(&mut reactor, |counters| counters.accepted == 1);
    client.write_all(b"all there is").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    run_until(&mut reactor, |counters| counters.closed == 1);
    assert_eq!(read_all(&client), b"all there is");
}

fn a_late_reader_loses_nothing<S: Selector + 'static>(selector: fn() -> S) {
    let server = serve(selector, PLENTY, Limits::default());
    let client = connect_narrow(server.address);
    let sent = send_all(&client, text(1 << 20));
    ping(&connect(server.address)); // While the first waits to be read, another is served.
    assert_eq!(read_all(&client), text(1 << 20));
    sent.join().unwrap();
    server.end();
}

// Crowds and scarcity.

fn a_connection_above_the_limit_is_served_when_others_leave<S: Selector>(selector: fn() -> S) {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, limits);
    let clients: Vec<_> = (0..4).map(|_| connect(address)).collect();
    for mut client in &clients {
        client.write_all(b"ping").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    while reactor.counters().closed < 4 {
        assert!(reactor.run_once().unwrap().is_continue());
        assert!(reactor.connections() <= 2, "beyond the limit");
    }
    clients.iter().for_each(|client| assert_eq!(read_all(client), b"ping"));
}

fn a_reset_affects_no_other_connection<S: Selector + 'static>(selector: fn() -> S) {
    let server = serve(selector, PLENTY, Limits::default());
    let (idle, owed, other) =
        (connect(server.address), connect_narrow(server.address), connect(server.address));
    [&idle, &owed, &other].into_iter().for_each(ping);
    let sent = send_all(&other, text(1 << 20));
    (&owed).write_all(&text(100_000)).unwrap(); // More than fits, and it reads none.
    reset(owed);
    reset(idle);
    assert_eq!(read_all(&other), text(1 << 20));
    sent.join().unwrap();
    server.end();
}

fn sixteen_clients_share_two_buffers<S: Selector>(selector: fn() -> S) {
    const TWO: &[BufferClass] = &[BufferClass { bytes: 1024, count: 2 }];
    let (mut reactor, address) = stepwise(selector, Echo, TWO, Limits::default());
    let late = connect_narrow(address);
    let sent = send_all(&late, text(100_000));
    // It reads nothing yet, is owed both buffers, and would fill a third.
    run_until(&mut reactor, |counters| counters.out_of_buffers > 0);
    if reactor.state.peers.has_marked() {
        // In the last pass it was out of buffers.
        assert!(reactor.run_once().unwrap().is_continue());
    }
    assert!(!reactor.state.peers.has_marked(), "an empty pool wakes no connection");
    let is_asked = reports(&mut reactor)
        .iter()
        .any(|report| report.readable && matches!(KeyOwner::from(report.key), KeyOwner::Conn(_)));
    assert!(!is_asked, "it has sent, and nothing waits for more");
    let others: Vec<_> = (0..15).map(|_| connect_narrow(address)).collect();
    thread::scope(|scope| {
        for other in &others {
            scope.spawn(move || {
                let sent = send_all(other, text(100_000));
                assert!(read_all(other) == text(100_000), "some of it was lost");
                sent.join().unwrap();
            });
        }
        scope.spawn(|| assert!(read_all(&late) == text(100_000), "some of it was lost"));
        run_until(&mut reactor, |counters| counters.closed == 16);
    });
    sent.join().unwrap();
    assert_eq!(reactor.counters().evicted, 0);
    assert!(reactor.pool.is_whole());
}

/// A selector that cannot watch the first connection that comes.
struct Choosy<S> {
    selector: S,
    refused: bool,
}

impl<S: Selector> Selector for Choosy<S> {
    fn trigger(&self) -> Trigger {
        self.selector.trigger()
    }

    fn add(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        if matches!(KeyOwner::from(key), KeyOwner::Conn(_)) && !self.refused {
            self.refused = true;
            return Err(io::Error::other("cannot watch this one"));
        }
        self.selector.add(fd, key, interest)
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.selector.modify(fd, key, interest)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.selector.remove(fd)
    }

    fn wait(&mut self, reports: &mut Vec<ReadyEvent>, timeout: Option<Duration>) -> io::Result<()> {
        self.selector.wait(reports, timeout)
    }

    fn longest_wait(&self) -> Option<Duration> {
        self.selector.longest_wait()
    }
}

fn an_unwatchable_socket_is_refused_alone<S: Selector>(selector: fn() -> S) {
    let (mut plain, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let choosy = Choosy { selector: selector(), refused: false };
    let stop = ShutdownSignal::new().unwrap();
    let mut reactor =
        Reactor::new(choosy, Rc::clone(&plain.pool), Limits::default(), stop).unwrap();
    let fd = plain.state.listeners[0].fd.take().unwrap();
    reactor.listen(ListenerId(0), fd, Factory::of(|_| Echo)).unwrap();
    let first = connect(address);
    run_until(&mut reactor, |counters| counters.refused == 1);
    assert_eq!(read_all(&first), b"");
    let second = connect(address);
    (&second).write_all(b"ping").unwrap();
    run_until(&mut reactor, |counters| counters.sent_bytes == 4);
    let counters = reactor.counters();
    assert_eq!((counters.accepted, counters.closed, counters.refused), (2, 1, 1));
}

// What it costs.

/// A wait, a receive, a send.
fn a_message_costs_three_calls<S: Selector>(selector: fn() -> S) {
    a_message_costs(3, selector);
}

/// And it is armed again.
#[test]
fn a_message_by_oneshot_costs_four_calls() {
    in_time(|| a_message_costs(4, || Epoll::new(Trigger::Oneshot).unwrap()));
}

/// The wait is three: for a signal, to take it, and to look at what it is about.
#[test]
fn a_message_by_signals_costs_five_calls() {
    in_time(|| a_message_costs(5, || Sigio::new().unwrap()));
}

fn a_message_costs<S: Selector>(calls: u64, selector: fn() -> S) {
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let client = connect(address);
    let mut exchange = |length: usize| {
        (&client).write_all(&text(length)).unwrap();
        let before = reactor.counters();
        run_until(&mut reactor, |now| now.sent_bytes == before.sent_bytes + length as u64);
        (&client).read_exact(&mut vec![0; length]).unwrap();
        let after = reactor.counters();
        assert!(
            !reactor.state.peers.has_marked() && reports(&mut reactor).is_empty(),
            "it would spin"
        );
        (after.iterations - before.iterations, after.calls - before.calls)
    };
    exchange(1); // Its accept.
    let costs: Vec<_> = (0..100).map(|_| exchange(1000)).collect();
    assert_eq!(costs, [(1, calls); 100]);
}

fn an_iteration_reads_no_more_than_its_share<S: Selector>(selector: fn() -> S) {
    const SMALL: &[BufferClass] = &[BufferClass { bytes: 64, count: 4 }];
    let (mut reactor, address) = stepwise(selector, Sink, SMALL, Limits::default());
    let client = connect(address);
    run_until(&mut reactor, |counters| counters.accepted == 1);
    (&client).write_all(&text(64_000)).unwrap();
    while reactor.counters().received_bytes < 64_000 {
        let before = reactor.counters().receives;
        assert!(reactor.run_once().unwrap().is_continue());
        assert!(reactor.counters().receives - before <= PASSES as u64, "a flood owns the loop");
    }
}

/// The first send that falls short may be that at a report.
fn a_small_reply_that_is_not_taken_is_watched<S: Selector>(selector: fn() -> S) {
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let mut client = connect_narrow(address);
    let mut written = 0;
    loop {
        client.write_all(&text(64)).unwrap();
        written += 64;
        run_until(&mut reactor, |counters| counters.received_bytes == written);
        if reactor.counters().sent_bytes < written {
            break;
        }
        assert!(reactor.state.next_timer().is_none(), "nothing is late");
    }
    reactor.state.run_timers();
    assert!(reactor.state.next_timer().is_some(), "the time limit of a send runs");
}

fn an_iteration_accepts_no_more_than_its_share<S: Selector>(selector: fn() -> S) {
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let clients: Vec<TcpStream> = (0..ACCEPTS + 10).map(|_| connect(address)).collect();
    while reactor.counters().accepted < clients.len() as u64 {
        let before = reactor.counters().accepted;
        assert!(reactor.run_once().unwrap().is_continue());
        let accepted = reactor.counters().accepted - before;
        assert!(accepted <= ACCEPTS as u64, "{accepted} connections in an iteration");
    }
}

fn an_iteration_moves_no_more_of_heavy_connections_than_their_budget<S: Selector>(
    selector: fn() -> S,
) {
    const SHAPES: &[BufferClass] =
        &[BufferClass { bytes: 2048, count: 64 }, BufferClass { bytes: 256 << 10, count: 64 }];
    let (mut reactor, address) = stepwise(selector, Sink, SHAPES, Limits::default());
    let clients = [(); 16].map(|()| connect(address));
    run_until(&mut reactor, |counters| counters.accepted == 16);
    let sends = clients.each_ref().map(|client| send_all(client, text(2 << 20)));
    let mut most = 0;
    while reactor.counters().received_bytes < 16 << 21 {
        let before = reactor.counters().received_bytes;
        assert!(reactor.run_once().unwrap().is_continue());
        most = most.max(reactor.counters().received_bytes - before);
    }
    // Each is light at first.
    let bound = HEAVY_BYTES + (256 << 10) + 16 * PASSES * 2048;
    assert!(most <= bound as u64, "{most} bytes in an iteration");
    sends.into_iter().for_each(|send| send.join().unwrap());
}

// Talk.

/// Three members of a group, the last of them with a small kernel buffer.
fn three<S: Selector>(selector: fn() -> S) -> (Reactor<S, Broadcast>, [TcpStream; 2], TcpStream) {
    let (mut reactor, address) = stepwise(selector, Broadcast, PLENTY, Limits::default());
    let clients = [connect(address), connect(address)];
    let narrow = connect_narrow(address);
    run_until(&mut reactor, |counters| counters.accepted == 3);
    (reactor, clients, narrow)
}

fn a_line_reaches_all_others_and_not_its_speaker<S: Selector>(selector: fn() -> S) {
    let (mut reactor, [a, b], c) = three(selector);
    (&a).write_all(b"good morn").unwrap();
    run_until(&mut reactor, |counters| counters.received_bytes == 9);
    (&a).write_all(b"ing\n").unwrap();
    run_until(&mut reactor, |counters| counters.sent_bytes == 2 * 13);
    (&b).write_all(b"hello\n").unwrap();
    run_until(&mut reactor, |counters| counters.sent_bytes == 2 * 13 + 2 * 6);
    [&a, &b, &c].into_iter().for_each(|client| client.shutdown(Shutdown::Write).unwrap());
    run_until(&mut reactor, |counters| counters.closed == 3);
    assert_eq!(
        [&a, &b, &c].map(read_all).map(|received| String::from_utf8(received).unwrap()),
        ["hello\n", "good morning\n", "good morning\nhello\n"]
    );
    assert!(reactor.pool.is_whole());
}

// Stopping.

fn a_drain_delivers_what_is_owed_and_then_the_end<S: Selector>(selector: fn() -> S) {
    let (mut reactor, [speaker, listener], late) = three(selector);
    let lines = b"sixteen letters\n".repeat(8192);
    let said = {
        let (mut speaker, lines) = (speaker.try_clone().unwrap(), lines.clone());
        thread::spawn(move || speaker.write_all(&lines).unwrap())
    };
    let received = thread::spawn({
        let len = lines.len();
        move || (&listener).read_exact(&mut vec![0; len]).map(|()| listener).unwrap()
    });
    run_until(&mut reactor, |counters| counters.received_bytes == lines.len() as u64);
    said.join().unwrap();
    let owed = |reactor: &mut Reactor<_, _>| -> usize {
        let peers = &mut reactor.state.peers;
        let ids = peers.ids(None).into_iter();
        ids.map(|id| peers.get_mut(id).unwrap().connection.outgoing().bytes()).sum()
    };
    assert!(owed(&mut reactor) > 0, "else this shows nothing");
    reactor.state.lifecycle.shutdown.request();
    assert!(reactor.run_once().unwrap().is_continue(), "bytes are owed");
    let late = thread::spawn(move || read_all(&late));
    let leavers = thread::spawn(move || {
        read_all(&speaker);
        drop(speaker);
        read_all(&received.join().unwrap());
    });
    assert_eq!(reactor.run(None).unwrap(), Ended::Drained);
    assert!(late.join().unwrap() == lines, "some of it was lost");
    leavers.join().unwrap();
    assert!(reactor.pool.is_whole() && reactor.counters().cut == 0);
}

/// Does not end when the server drains.
#[derive(Clone)]
struct Stays;

impl Protocol for Stays {
    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
    }

    fn drain(&mut self, _: &mut Outbox<'_>) {}
}

fn a_drain_cuts_a_client_that_stays<S: Selector>(selector: fn() -> S) {
    let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
    let (mut reactor, address) = stepwise(selector, Stays, PLENTY, limits);
    let stays = connect(address);
    run_until(&mut reactor, |counters| counters.accepted == 1);
    reactor.state.lifecycle.shutdown.request();
    assert_eq!(reactor.run(None).unwrap(), Ended::Drained);
    assert_eq!(reactor.counters().cut, 1);
    assert_eq!(read_all(&stays), b"");
}

fn a_second_request_ends_at_once<S: Selector>(selector: fn() -> S) {
    let (mut reactor, address) = stepwise(selector, Echo, PLENTY, Limits::default());
    let _stays = connect(address);
    run_until(&mut reactor, |counters| counters.accepted == 1);
    reactor.state.lifecycle.shutdown.request();
    assert!(reactor.run_once().unwrap().is_continue());
    reactor.state.lifecycle.shutdown.request();
    assert_eq!(reactor.run(None).unwrap(), Ended::AtOnce);
}

/// Runs a scenario in a thread of its own: one that hangs fails instead.
fn in_time(scenario: impl FnOnce() + Send + 'static) {
    let (done, outcome) = mpsc::channel();
    let thread = thread::spawn(move || {
        scenario();
        let _ = done.send(());
    });
    if outcome.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    thread.join().unwrap_or_else(|failure| panic::resume_unwind(failure));
}

/// Every scenario by one selector.
macro_rules! scenarios {
    ($($module:ident: $selector:expr $(; $more:ident)*,)+) => {
        $(mod $module {
            use super::*;

            scenarios!(@ $selector; $($more)*
                a_client_that_ends_receives_everything_and_then_the_end
                bytes_and_the_end_may_come_together
                a_late_reader_loses_nothing
                a_connection_above_the_limit_is_served_when_others_leave
                a_reset_affects_no_other_connection
                sixteen_clients_share_two_buffers
                an_unwatchable_socket_is_refused_alone
                an_iteration_reads_no_more_than_its_share
                a_small_reply_that_is_not_taken_is_watched
                an_iteration_accepts_no_more_than_its_share
                an_iteration_moves_no_more_of_heavy_connections_than_their_budget
                a_line_reaches_all_others_and_not_its_speaker
                a_drain_delivers_what_is_owed_and_then_the_end
                a_drain_cuts_a_client_that_stays
                a_second_request_ends_at_once
            );
        })+
    };
    (@ $selector:expr; $($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                in_time(|| super::$scenario(|| $selector));
            }
        )*
    };
}

scenarios! {
    epoll_level: Epoll::new(Trigger::Level).unwrap(); a_message_costs_three_calls,
    epoll_edge: Epoll::new(Trigger::Edge).unwrap(); a_message_costs_three_calls,
    epoll_oneshot: Epoll::new(Trigger::Oneshot).unwrap(),
    poll: Poll::new(); a_message_costs_three_calls,
    select: Select::new(); a_message_costs_three_calls,
    sigio: Sigio::new().unwrap(),
    spin: Spin::new(None),
    spin_and_sleep: Spin::new(Some(Duration::from_millis(1))),
}
