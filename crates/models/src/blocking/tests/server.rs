//! The whole server, where a scenario of the programs cannot reach it.

use super::*;

type Serving = (SocketAddr, ShutdownSignal, JoinHandle<(Ended, Counters)>);

/// A server of this listener, for the calling thread.
fn server_of<P: Protocol + Clone + Send + Sync>(
    listener: TcpListener,
    stop: ShutdownSignal,
    style: Style,
    protocol: P,
) -> Blocking<PlainCalls> {
    // Long: a connection that is cut would not have ended by itself.
    let mut limits = Limits::default();
    (limits.drain, limits.timeouts.evict) = (Duration::from_secs(60), Some(EVICT));
    let mut server = Blocking::new(PlainCalls, style, BUFFERS.to_vec(), limits, stop).unwrap();
    let factory = Factory::shared(move |_: &Peer| protocol.clone());
    server.listen(ListenerId(0), listener.into(), factory).unwrap();
    server
}

/// A server that does not run.
pub(super) fn resting_server() -> Blocking<PlainCalls> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    server_of(listener, ShutdownSignal::new().unwrap(), Style::Threads, Echo)
}

fn serve<P: Protocol + Clone + Send + Sync>(style: Style, protocol: P, stack: usize) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), ShutdownSignal::new().unwrap());
    let asked = stop.clone();
    let thread = thread::spawn(move || {
        let mut server = server_of(listener, asked, style, protocol);
        server.threads.stack = stack;
        (server.run(None).unwrap(), Engine::counters(&server))
    });
    (address, stop, thread)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[test]
fn a_connection_without_a_thread_waits_for_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), ShutdownSignal::new().unwrap());
    let mut server = server_of(listener, stop.clone(), Style::Threads, Echo);
    server.threads.stack = 1 << 60;
    let mut clients = [(); 3].map(|()| connect(address));
    while server.counters.refused < 2 {
        assert!(server.run_once().unwrap().is_continue());
    }
    let Counters { accepted, closed, .. } = server.counters;
    assert_eq!((accepted, closed), (1, 0), "the others wait in the kernel's queue");
    server.threads.stack = 256 << 10;
    let serving = thread::spawn(move || (server.run(None).unwrap(), Engine::counters(&server)));
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    drop(clients);
    stop.request();
    let (ended, counters) = serving.join().unwrap();
    let Counters { accepted, closed, refused, .. } = counters;
    assert_eq!((ended, accepted, closed, refused), (Ended::Drained, 3, 3, 2));
}

#[test]
fn a_connection_that_waits_for_a_thread_is_closed_by_a_drain() {
    let (address, stop, server) = serve(Style::Threads, Echo, 1 << 60);
    let mut client = connect(address);
    // The first try is over when the client is accepted; the listener is closed later.
    client.write_all(b"x").unwrap();
    stop.request();
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    let (ended, counters) = server.join().unwrap();
    assert_eq!((ended, counters.accepted), (Ended::Drained, counters.closed));
    assert_eq!(counters.cut, 0, "the drain has not waited for its deadline");
}

/// Broadcasts what it receives, and stays when its peer has ended, to receive broadcasts.
#[derive(Clone)]
struct Stay;

impl Protocol for Stay {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.broadcast(input.take_all());
    }

    fn end(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {}
}

/// Kicks a connection just before its thread makes such a call: the call fails then.
#[derive(Clone)]
struct Kicks(Call, Arc<Member>);

impl Calls for Kicks {
    fn lane(&self, _: u32) -> Kicks {
        self.clone()
    }

    fn made<T>(
        &self,
        (call, _): (Call, bool),
        _: (Key, RawFd),
        _: usize,
        make: impl FnOnce() -> io::Result<T>,
        _: impl FnOnce(&T) -> i32,
    ) -> io::Result<T> {
        if call == self.0 {
            self.1.break_off(&PlainCalls, CloseReason::Kicked);
        }
        make()
    }
}

#[test]
fn a_connection_that_another_thread_breaks_is_counted_by_the_reason_of_that_thread() {
    let kick_before = |call, make: fn() -> Box<dyn Protocol>| {
        let shared = shared();
        let (membership, mut peer) = enter_at(&shared, &origin_of(make));
        peer.write_all(b"x").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let status = ThreadStatus::new(membership.member.id, Arc::clone(&shared));
        let calls = Kicks(call, Arc::clone(&membership.member));
        let mut counters = Counters::default();
        serve_connection(&calls, &status, membership, &mut counters, &mut || {});
        let Counters { kicked, failed, closed, .. } = counters;
        assert_eq!((kicked, failed, closed), (1, 0, 1), "{call:?}");
    };
    kick_before(Call::Recv, || Box::new(Echo));
    kick_before(Call::Send, || Box::new(Generous));
    kick_before(Call::Poll, || Box::new(Stay));
}

#[test]
fn a_half_closed_connection_still_receives_broadcasts_without_spinning() {
    let (address, stop, server) = serve(Style::Threads, Stay, 1 << 20);
    let [mut listener, mut speaker] = [(); 2].map(|()| connect(address));
    // Both are there once each has received from the other.
    speaker.write_all(b"1").unwrap();
    let received_first = receive(&mut listener, 1);
    listener.write_all(b"2").unwrap();
    assert_eq!((received_first, receive(&mut speaker, 1)), (b"1".to_vec(), b"2".to_vec()));
    listener.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..100 {
        speaker.write_all(b"x").unwrap();
        assert_eq!(receive(&mut listener, 1), b"x");
    }
    stop.request();
    assert_eq!(receive_all(&mut listener), b"");
    drop((listener, speaker));
    let (ended, counters) = server.join().unwrap();
    assert_eq!((ended, counters.accepted, counters.closed), (Ended::Drained, 2, 2));
    assert!(counters.iterations < 1000, "no thread spins: {counters:?}");
}

#[test]
fn a_drain_does_not_restart_the_send_timeout_of_a_stalled_client() {
    let (address, stop, server) = serve(Style::Threads, Stay, 1 << 20);
    let [mut listener, mut speaker] = [(); 2].map(|()| connect(address));
    speaker.write_all(b"1").unwrap();
    assert_eq!(receive(&mut listener, 1), b"1");
    // Until its thread sleeps in a send to the listener.
    speaker.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while speaker.write(&vec![0; HIGH]).is_ok() {}
    stop.request();
    let (ended, counters) = server.join().unwrap();
    assert_eq!((ended, counters.closed, counters.cut), (Ended::Drained, 2, 0));
}

#[test]
fn a_second_request_ends_at_once_whatever_sleeps() {
    for style in [Style::OneByOne, Style::Threads] {
        let (address, stop, server) = serve(style, Echo, 1 << 20);
        let mut client = connect(address);
        client.write_all(b"PING").unwrap();
        assert_eq!(receive(&mut client, 4), b"PING");
        client.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        while client.write(&vec![0; HIGH]).is_ok() {}
        stop.request();
        stop.request();
        assert_eq!(server.join().unwrap().0, Ended::AtOnce);
    }
}

#[test]
fn a_server_without_connections_drains() {
    for style in [Style::OneByOne, Style::Threads] {
        let (_, stop, server) = serve(style, Broadcast, 1 << 20);
        stop.request();
        let (ended, counters) = server.join().unwrap();
        assert_eq!((ended, counters.accepted), (Ended::Drained, 0));
    }
}

/// A protocol with a mistake.
#[derive(Clone)]
struct Mistake;

impl Protocol for Mistake {
    fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {
        panic!("a mistake");
    }
}

#[test]
fn a_panic_in_a_protocol_costs_its_connection_and_no_other() {
    for style in [Style::OneByOne, Style::Threads] {
        let (address, stop, server) = serve(style, Mistake, 1 << 20);
        for _ in 0..2 {
            let mut client = connect(address);
            client.write_all(b"x").unwrap();
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "it is closed");
        }
        stop.request();
        let (ended, counters) = server.join().unwrap();
        assert_eq!((ended, counters.closed, counters.panicked), (Ended::Drained, 2, 2));
    }
}
