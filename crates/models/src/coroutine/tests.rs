//! What only the coroutine server does; that it serves as the others do is tested by
//! `tests/conformance.rs`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Wake, Waker};
use std::thread;

use super::state::TaskState;
use super::*;
use proactor::buffer::{BufferClass, Chunk};
use proactor::calls::PlainCalls;
use proactor::keys::Key;
use proactor::peer::{AcceptedPeer, Made, Peer};
use proactor::peers::{HEAVY_BYTES, LIGHT};
use proactor::protocol::testing::Broadcast;
use proactor::protocol::{Echo, Input, Outbox, Protocol};

const BUFFERS: &[BufferClass] = &[BufferClass { bytes: 64, count: 64 }];

/// A server of one listener, and what stops it.
fn server(
    factory: Factory,
    limits: Limits,
) -> (Coroutines<PlainCalls>, Rc<Pool>, SocketAddr, ShutdownSignal) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, pool) = (ShutdownSignal::new().unwrap(), Pool::new(BUFFERS).unwrap());
    let asked = stop.clone();
    let mut coroutines = Coroutines::new(PlainCalls, Rc::clone(&pool), limits, asked).unwrap();
    coroutines.listen(ListenerId(0), listener.into(), factory).unwrap();
    (coroutines, pool, address, stop)
}

/// Fails a test that hangs, instead of hanging with it.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match waits.recv_timeout(Duration::from_secs(60)) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap_or_else(|cause| resume_unwind(cause)),
    }
}

#[test]
fn a_drain_leaves_no_connection_and_no_buffer_behind() {
    in_time(|| {
        let (mut coroutines, pool, address, stop) =
            server(Factory::shared(|_: &Peer| Echo), Limits::default());
        let clients = thread::spawn(move || {
            let clients = [(); 8].map(|()| TcpStream::connect(address).unwrap());
            for mut client in &clients {
                client.write_all(&[b'x'; 1000]).unwrap();
                client.read_exact(&mut [0; 1000]).unwrap();
            }
            stop.request();
            for mut client in &clients {
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "the end");
            }
        });
        assert_eq!(coroutines.run(None).unwrap(), Ended::Drained);
        clients.join().unwrap();
        let counters = coroutines.counters();
        assert_eq!((counters.accepted, counters.closed, counters.cut), (8, 8, 0));
        assert_eq!((counters.received_bytes, counters.sent_bytes), (8000, 8000));
        drop(coroutines);
        assert!(pool.is_whole() && Rc::strong_count(&pool) == 1, "a task or a buffer was left");
    });
}

#[test]
fn a_second_request_ends_at_once_and_frees_everything() {
    in_time(|| {
        let (mut coroutines, pool, address, stop) =
            server(Factory::shared(|_: &Peer| Echo), Limits::default());
        let client = thread::spawn(move || {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            stop.request();
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "it drains");
            stop.request();
            client
        });
        assert_eq!(
            coroutines.run(None).unwrap(),
            Ended::AtOnce,
            "a connection that stays does not delay it"
        );
        client.join().unwrap();
        drop(coroutines);
        assert!(pool.is_whole() && Rc::strong_count(&pool) == 1, "a task or a buffer was left");
    });
}

/// Discards its input, and notes the number of the connection.
#[derive(Clone)]
struct Noted(Arc<Mutex<Vec<u64>>>, u64);

impl Protocol for Noted {
    fn data(&mut self, input: &mut Input<'_>, _: &mut Outbox<'_>) {
        input.take_all();
        self.0.lock().unwrap().push(self.1);
    }
}

/// Serves until each client has received the end.
fn run_until_ended(
    coroutines: &mut Coroutines<PlainCalls>,
    clients: Vec<TcpStream>,
    stop: ShutdownSignal,
) {
    let clients = thread::spawn(move || {
        for mut client in clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        stop.request();
    });
    coroutines.run(None).unwrap();
    clients.join().unwrap();
}

#[test]
fn a_flood_is_read_from_no_more_than_its_share_at_a_time() {
    in_time(|| {
        let received = Arc::<Mutex<Vec<u64>>>::default();
        let noted = Arc::clone(&received);
        let (mut coroutines, _, address, stop) = server(
            Factory::shared(move |peer: &Peer| Noted(Arc::clone(&noted), peer.id())),
            Limits::default(),
        );
        // All is there before the server looks: 200 buffers of the one, one of the other.
        let clients = [64 * 200, 1].into_iter().map(|length| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(&vec![b'x'; length]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        let clients = clients.collect();
        run_until_ended(&mut coroutines, clients, stop);
        let received = std::mem::take(&mut *received.lock().unwrap());
        let before = received.iter().position(|&number| number == 2).expect("it is received from");
        assert_eq!(received.len(), 201);
        assert!(before <= 2, "{before} receives from the first before the second");
    });
}

#[test]
fn a_storm_of_connects_delays_no_message_by_more_than_its_share() {
    in_time(|| {
        let events = Arc::<Mutex<Vec<u64>>>::default();
        let noted = Arc::clone(&events);
        let made = move |peer: &Peer| {
            noted.lock().unwrap().push(0); // An accept; data have the number of a connection.
            Noted(Arc::clone(&noted), peer.id())
        };
        let (mut coroutines, _, address, stop) = server(Factory::shared(made), Limits::default());
        // All wait in the queue of accepts before the server looks.
        let clients: Vec<TcpStream> =
            (0..4 * ACCEPTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for mut client in &clients {
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        run_until_ended(&mut coroutines, clients, stop);
        let events = std::mem::take(&mut *events.lock().unwrap());
        let accepts = events.split(|&event| event != 0).map(<[u64]>::len).max();
        assert_eq!(accepts, Some(ACCEPTS), "accepts in a row");
    });
}

#[test]
fn a_protocol_that_panics_costs_its_connection_and_no_other() {
    in_time(|| {
        struct Wrong;
        impl Protocol for Wrong {
            fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
                assert_ne!(input.peek(), b"panic", "as this test has it");
                out.send(input.take_all());
            }
        }
        let (mut coroutines, _, address, stop) =
            server(Factory::shared(|_: &Peer| Wrong), Limits::default());
        let clients = thread::spawn(move || {
            let [mut wrong, mut other] = [(); 2].map(|()| TcpStream::connect(address).unwrap());
            wrong.write_all(b"panic").unwrap();
            assert!(matches!(wrong.read(&mut [0]), Ok(0) | Err(_)), "it is closed");
            other.write_all(b"x").unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 1);
            drop(other);
            stop.request();
        });
        assert_eq!(coroutines.run(None).unwrap(), Ended::Drained);
        clients.join().unwrap();
        assert_eq!(Engine::counters(&coroutines).panicked, 1);
    });
}

/// An alarm that passed unneeded must not stand for the next one.
#[test]
fn an_alarm_that_is_not_needed_any_more_is_forgotten() {
    let (coroutines, ..) = server(Factory::shared(|_: &Peer| Echo), Limits::default());
    let shared = Rc::clone(&coroutines.server);
    coroutines.runtime.block_on(async {
        let mut keeper = pin!(Rc::clone(&shared).run_timers());
        let mut poll = |due| {
            shared.state().due = due;
            let mut cx = Context::from_waker(Waker::noop());
            assert!(keeper.as_mut().poll(&mut cx).is_pending());
            shared.state().alarm
        };
        let later = Some(os::now() + Duration::from_secs(60));
        assert_eq!(poll(later), later);
        assert_eq!(poll(None), None);
    });
}

/// The state of a server without a listener.
fn broadcast_state() -> ServerState {
    let (pool, stop) = (Pool::new(BUFFERS).unwrap(), ShutdownSignal::new().unwrap());
    ServerState::new(pool, Limits::default(), stop)
}

fn open(server: &mut ServerState) -> ConnId {
    let made: Made<Box<dyn Protocol>> = (Box::new(Broadcast), AcceptedPeer::default());
    server.core.peers.open(made, ListenerId(0), TaskState::new(None))
}

/// Has the task of a connection wait: its socket is watched by an executor that never looks at it.
/// Returns what the console shows that it awaits.
fn wait(server: &mut ServerState, id: ConnId, waker: &Waker) -> String {
    let executor = Builder::new_current_thread().enable_io().build().unwrap();
    let _guard = executor.enter();
    let (socket, both) = (UnixStream::pair().unwrap().0, Interest::READABLE | Interest::WRITABLE);
    let socket = watched::watch(socket.into(), both, Key(0), &PlainCalls).unwrap();
    let cx = &mut Context::from_waker(waker);
    let step = server.poll_step(&PlainCalls, &socket, id, &mut true, cx);
    assert!(step.is_pending(), "nothing is ready");
    shown(server, id)
}

fn shown(server: &mut ServerState, id: ConnId) -> String {
    server.core.peers.get_mut(id).unwrap().driver.socket_info().doing.join(", ")
}

#[test]
fn a_marked_task_is_woken_and_the_running_one_is_not() {
    struct WakeCount(AtomicU32);
    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let wakes = Arc::new(WakeCount(AtomicU32::new(0)));
    let waker = Waker::from(Arc::clone(&wakes));
    let woken = || wakes.0.swap(0, Ordering::Relaxed);
    let mut server = broadcast_state();
    let ids = [(); 3].map(|()| open(&mut server));
    ids.iter().for_each(|&id| assert_eq!(wait(&mut server, id, &waker), "awaits read"));
    server.settle(None);
    woken();
    server.core.peers.received(ids[0], Chunk::from("to both others"));
    server.settle(Some(ids[0]));
    assert_eq!(woken(), 2);
    assert_eq!(wait(&mut server, ids[1], &waker), "awaits read, awaits write");
    assert_eq!(wait(&mut server, ids[0], &waker), "awaits read");
}

#[test]
fn a_task_shows_what_it_awaits() {
    let mut server = broadcast_state();
    let ids = [(); 2].map(|()| open(&mut server));
    server.settle(None);
    assert_eq!(shown(&mut server, ids[0]), "yields");
    assert_eq!(wait(&mut server, ids[0], Waker::noop()), "awaits read");
    server.core.peers.received(ids[1], Chunk::from("to the other"));
    server.settle(Some(ids[1]));
    assert_eq!(wait(&mut server, ids[0], Waker::noop()), "awaits read, awaits write");
    server.yield_task(ids[0]);
    assert_eq!(shown(&mut server, ids[0]), "yields");
}

#[test]
fn heavy_connections_move_a_bounded_number_of_bytes_between_two_polls() {
    const CONNECTIONS: usize = 64;
    const OWED: usize = 128 << 10;
    let mut server = broadcast_state();
    let ids = [(); CONNECTIONS].map(|()| open(&mut server));
    let talker = open(&mut server);
    server.core.peers.received(talker, Chunk::from(vec![b'x'; OWED]));
    server.settle(Some(talker));
    ids.iter().for_each(|&id| server.await_permit(id));
    let permitted = |server: &mut ServerState| -> Vec<bool> {
        server.give_permits();
        let cx = Context::from_waker(Waker::noop());
        ids.iter().map(|&id| server.poll_permit(id, &cx).is_ready()).collect()
    };
    // Those that wait longest are first, and in the end each has had a permit.
    for round in 1..=CONNECTIONS * OWED / HEAVY_BYTES {
        let had = round * HEAVY_BYTES / OWED;
        let expected: Vec<bool> = (0..CONNECTIONS).map(|at| at < had).collect();
        assert_eq!(permitted(&mut server), expected, "after {round} rounds");
    }
    assert!(server.poll_heavy(&Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn a_heavy_connection_awaits_a_permit_for_each_operation() {
    let mut server = broadcast_state();
    let [id, other] = [(); 2].map(|()| open(&mut server));
    let executor = Builder::new_current_thread().enable_io().build().unwrap();
    let _guard = executor.enter();
    let (socket, both) = (UnixStream::pair().unwrap().0, Interest::READABLE | Interest::WRITABLE);
    let socket = watched::watch(socket.into(), both, Key(0), &PlainCalls).unwrap();
    server.core.peers.received(other, Chunk::from(vec![b'x'; LIGHT + 1]));
    server.settle(Some(other));
    let sends = |server: &mut ServerState| {
        let step = poll_fn(|cx| server.poll_step(&PlainCalls, &socket, id, &mut true, cx));
        executor.block_on(async { matches!(step.await, TaskStep::Send(_)) })
    };
    for _ in 0..2 {
        assert!(!sends(&mut server), "its socket is ready, and it has no permit");
        server.await_permit(id);
        server.give_permits();
        assert!(sends(&mut server), "the permit is for one");
    }
}
