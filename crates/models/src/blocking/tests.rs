//! The pieces of the server on pairs of sockets.

mod server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use server::resting_server;

use super::broadcast::Delivery;
use super::member::{Member, StallCheck};
use super::shared::Membership;
use super::state::ThreadState;
use super::*;
use proactor::SendError;
use proactor::buffer::Chunk;
use proactor::calls::PlainCalls;
use proactor::console::Inspect;
use proactor::keys::{ConnId, Key};
use proactor::limits::{Limits, Timeouts};
use proactor::memory::SHARE_MAX as HIGH;
use proactor::peer::{Factory, Peer};
use proactor::protocol::testing::Broadcast;
use proactor::protocol::{Chargen, Echo, Input, Message, Outbox, Protocol};
use proactor_record::Call;

const BUFFERS: &[BufferClass] =
    &[BufferClass { bytes: 4096, count: 256 }, BufferClass { bytes: 65536, count: 8 }];

/// A listener whose protocols `make` makes.
fn origin_of<P: Protocol>(make: impl Fn() -> P + Send + Sync + 'static) -> Arc<Origin> {
    let (listener, address) = (ListenerId(0), Arc::new("127.0.0.1:1".parse().unwrap()));
    Arc::new(Origin { listener, address, factory: Factory::shared(move |_: &Peer| make()) })
}

/// A server without a thread.
fn shared() -> Arc<SharedState> {
    shared_with(EVICT)
}

fn shared_with(evict: Duration) -> Arc<SharedState> {
    let signal = ShutdownSignal::new().unwrap();
    let mut limits = Limits::default();
    limits.timeouts.evict = Some(evict);
    Arc::new(SharedState::new(BUFFERS.to_vec(), limits, signal).unwrap())
}

/// How long a member may take nothing while others wait for it, in these tests.
const EVICT: Duration = Duration::from_millis(400);

/// A message of a member to the others.
fn broadcast(text: impl Into<Chunk>) -> Message {
    Message::Broadcast(text.into())
}

/// Writes these messages of `speaker` to `member`.
fn write(member: &Arc<Member>, messages: &[Message], speaker: &Member, counters: &mut Counters) {
    let others = std::slice::from_ref(member);
    Delivery { calls: &PlainCalls, messages, speaker, counters }.write_to(others);
}

/// Returns a connection of a server, and the other end of its socket.
fn enter(shared: &Arc<SharedState>) -> (Membership, UnixStream) {
    enter_at(shared, &origin_of(|| Echo))
}

fn enter_at(shared: &Arc<SharedState>, origin: &Arc<Origin>) -> (Membership, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    theirs.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let free = (0..).find(|slot| !shared.members().contains_key(slot)).unwrap();
    (shared.enter(ConnId::new(free, 0), origin, ours.into(), (None, None)).unwrap(), theirs)
}

/// Serves a connection in a thread, which returns what was counted. Returns its peer.
fn host<P: Protocol>(
    make: impl Fn() -> P + Send + Sync + 'static,
) -> (UnixStream, JoinHandle<Counters>) {
    let shared = shared();
    let (membership, peer) = enter_at(&shared, &origin_of(make));
    (peer, thread::spawn(move || serve_here(&shared, membership)))
}

/// Serves a connection in this thread. Returns what was counted.
fn serve_here(shared: &Arc<SharedState>, membership: Membership) -> Counters {
    let status = ThreadStatus::new(membership.member.id, Arc::clone(shared));
    let mut counters = Counters::default();
    let drains = shared.stage() != Stage::Serving;
    serve_connection(&PlainCalls, &status, membership, &mut counters, &mut || {
        assert!(drains, "no drain")
    });
    assert_eq!(Counters::load(&status.counters), counters);
    counters.calls = os::calls();
    counters
}

fn receive(peer: &mut impl Read, bytes: usize) -> Vec<u8> {
    let mut received = vec![0; bytes];
    peer.read_exact(&mut received).unwrap();
    received
}

fn receive_all(peer: &mut impl Read) -> Vec<u8> {
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    received
}

// One connection.

#[test]
fn a_message_costs_two_calls() {
    let calls = |messages: u64| {
        let (mut peer, host) = host(|| Echo);
        for _ in 0..messages {
            peer.write_all(b"PING").unwrap();
            assert_eq!(receive(&mut peer, 4), b"PING");
        }
        drop(peer);
        let counters = host.join().unwrap();
        assert_eq!((counters.receives, counters.sends), (messages, messages));
        assert_eq!((counters.received_bytes, counters.sent_bytes), (4 * messages, 4 * messages));
        counters.calls
    };
    assert_eq!(calls(110) - calls(10), 200);
}

#[test]
fn a_client_that_ends_receives_its_replies_and_then_the_end() {
    let (mut peer, host) = host(|| Echo);
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8 ^ (n >> 9) as u8).collect();
    let mut writer = peer.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert!(receive_all(&mut peer) == bytes);
    writing.join().unwrap();
    assert_eq!(host.join().unwrap().closed, 1);
}

/// Sends a byte for each receive, and keeps every chunk.
#[derive(Default)]
struct Hoard(Vec<Chunk>);

impl Protocol for Hoard {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let chunk = input.take_all().into_chunk();
        self.0.push(chunk);
        out.send("+");
    }
}

#[test]
fn a_protocol_that_keeps_every_buffer_is_still_served() {
    let (mut peer, host) = host(Hoard::default);
    for _ in 0..50 {
        peer.write_all(b"x").unwrap();
        assert_eq!(receive(&mut peer, 1), b"+");
    }
    drop(peer);
    let counters = host.join().unwrap();
    assert!(counters.out_of_buffers > 0 && counters.receives == 50, "{counters:?}");
}

/// On a server, most threads receive a request before they notice the drain.
#[test]
fn a_request_that_had_arrived_when_the_drain_began_is_answered() {
    let shared = shared();
    let (membership, mut peer) = enter(&shared);
    peer.write_all(b"PING").unwrap();
    shared.advance(Stage::Draining);
    let host = thread::spawn(move || serve_here(&shared, membership));
    assert_eq!(receive_all(&mut peer), b"PING");
    drop(peer);
    host.join().unwrap();
}

#[test]
fn an_endless_sender_still_receives_the_end() {
    let (mut peer, host) = host(|| Chargen);
    receive(&mut peer, 1_000_000);
    peer.write_all(b"thrown away").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    receive_all(&mut peer);
    assert_eq!(host.join().unwrap().received_bytes, 11);
}

/// Finishes after its first input.
#[derive(Clone)]
struct Curt;

impl Protocol for Curt {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        input.take_all();
        out.send("bye");
        out.finish();
    }
}

#[test]
fn a_finished_connection_discards_until_the_peer_ends_or_the_linger_time() {
    let (mut peer, curt) = host(|| Curt);
    peer.write_all(b"first").unwrap();
    assert_eq!(receive_all(&mut peer), b"bye");
    peer.write_all(b"late").unwrap();
    drop(peer);
    assert_eq!(curt.join().unwrap().received_bytes, 9);
    let (mut peer, curt) = host(|| Curt);
    peer.write_all(b"first").unwrap();
    assert_eq!(receive_all(&mut peer), b"bye");
    let counters = curt.join().unwrap(); // And the peer is still there.
    assert_eq!(counters.closed, 1);
    drop(peer);
}

/// Sends a byte a millisecond after each receive, once.
#[derive(Clone)]
struct Once;

impl Protocol for Once {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        input.take_all();
        out.set_timer(Duration::from_millis(1));
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        out.send("+");
    }
}

#[test]
fn a_receive_sleeps_without_a_timeout_once_the_timer_has_expired() {
    let (mut peer, host) = host(|| Once);
    peer.write_all(b"x").unwrap();
    assert_eq!(receive(&mut peer, 1), b"+");
    peer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(peer.read(&mut [0]).is_err(), "nothing comes");
    drop(peer);
    let counters = host.join().unwrap();
    assert!(counters.iterations < 15, "it spins: {counters:?}");
}

/// Owes its peer a lot for each input.
struct Generous;

impl Protocol for Generous {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        input.take_all();
        out.send(vec![0; 16 * HIGH]);
    }
}

#[test]
fn the_handle_of_a_connection_that_is_owed_too_much_is_refused() {
    let (made, handles) = std::sync::mpsc::channel();
    let factory = Factory::shared(move |peer: &Peer| {
        made.send(peer.handle()).unwrap();
        Generous
    });
    let (listener, address) = (ListenerId(0), Arc::new("127.0.0.1:1".parse().unwrap()));
    let (shared, origin) = (shared(), Arc::new(Origin { listener, address, factory }));
    let (membership, mut peer) = enter_at(&shared, &origin);
    let serving = thread::spawn(move || serve_here(&shared, membership));
    let handle = handles.recv().unwrap();
    handle.send("x").unwrap();
    peer.write_all(b"x").unwrap();
    let refused = (0..5000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        matches!(handle.send("x"), Err(SendError::Full(_)))
    });
    assert!(refused, "its peer reads nothing");
    receive(&mut peer, 16 * HIGH);
    let taken = (0..5000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        handle.send("x").is_ok()
    });
    assert!(taken, "nothing is owed");
    drop(peer);
    serving.join().unwrap();
}

// Groups.

#[test]
fn a_new_member_is_announced_to_earlier_members_then_reaches_all() {
    let shared = shared();
    let members = [(); 3].map(|()| enter(&shared));
    let seen = |earlier_only| {
        let mut others = Vec::new();
        members[1].0.others(earlier_only, &mut others);
        let mut numbers: Vec<u64> = others.iter().map(|other| other.number).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!((seen(true), seen(false)), (vec![1], vec![1, 3]));
    let [first, second, third] = members;
    drop((first, third));
    let mut others = Vec::new();
    second.0.others(false, &mut others);
    assert!(others.is_empty());
    assert_eq!(enter(&shared).0.member.number, 4, "a number is not given twice");
}

#[test]
fn pieces_of_several_senders_never_interleave() {
    const SPEAKERS: u8 = 4;
    const PIECES: usize = 40;
    /// More than the socket takes at once.
    const PIECE: usize = 400_000;
    let (membership, mut peer) = enter(&shared());
    thread::scope(|scope| {
        for speaker in 0..SPEAKERS {
            let member = Arc::clone(&membership.member);
            scope.spawn(move || {
                let piece = vec![b'a' + speaker; PIECE];
                let mut counters = Counters::default();
                for _ in 0..PIECES {
                    let sent = [broadcast(piece.clone())];
                    write(&member, &sent, &member, &mut counters);
                }
                assert_eq!(counters.sent_bytes, (PIECES * PIECE) as u64);
            });
        }
        for _ in 0..PIECES * usize::from(SPEAKERS) {
            let piece = receive(&mut peer, PIECE);
            let stranger = piece.iter().position(|byte| *byte != piece[0]);
            assert_eq!(stranger, None, "within a piece of {:?}", piece[0] as char);
        }
    });
}

#[test]
fn a_client_that_takes_nothing_is_evicted_and_its_thread_wakes() {
    let shared = shared();
    let (membership, _peer) = enter(&shared);
    let speaker = Arc::clone(&membership.member);
    let speaking = thread::spawn(move || {
        let (many, mut counters) = ([broadcast(vec![b'x'; 16 << 20])], Counters::default());
        write(&speaker, &many, &speaker, &mut counters);
        // Nothing more is sent to it, and none is tried.
        let calls = os::calls();
        write(&speaker, &[broadcast("more")], &speaker, &mut counters);
        assert_eq!(os::calls(), calls);
        assert_eq!(speaker.broken_off.get(), Some(&CloseReason::Stalled(EVICT)));
    });
    let counters = serve_here(&shared, membership);
    speaking.join().unwrap();
    assert_eq!((counters.evicted, counters.closed), (1, 1));
}

#[test]
fn members_that_read_nothing_are_given_up_together() {
    const IDLERS: usize = 12;
    /// More than the socket of a member takes at once: each falls short at this piece.
    const PIECE: usize = 1 << 20;
    let shared = shared();
    let idlers = [(); IDLERS].map(|()| enter(&shared));
    let [(reader, mut peer), (speaker, _mouth)] = [(); 2].map(|()| enter(&shared));
    let mut members: Vec<Arc<Member>> =
        idlers.iter().map(|(idler, _)| Arc::clone(&idler.member)).collect();
    members.push(Arc::clone(&reader.member));
    let piece = [broadcast(vec![b'x'; PIECE])];
    let reading = thread::spawn(move || receive(&mut peer, PIECE));
    let (before, mut counters) = (os::now(), Counters::default());
    let speaker = &*speaker.member;
    Delivery { calls: &PlainCalls, messages: &piece, speaker, counters: &mut counters }
        .write_to(&members);
    let took = os::now().since(before);
    assert!(took < EVICT * IDLERS as u32 / 2, "one after another, within {took:?}");
    assert!(reading.join().unwrap() == vec![b'x'; PIECE]);
    let reasons = idlers.each_ref().map(|(idler, _)| idler.member.broken_off.get().copied());
    assert_eq!(reasons, [Some(CloseReason::Stalled(EVICT)); IDLERS]);
    assert_eq!(reader.member.broken_off.get(), None);
}

#[test]
fn a_member_that_reads_nothing_holds_up_no_line_to_another() {
    let shared = shared_with(Duration::from_secs(3600));
    let [(idler, idle), (locked, _peer), (free, mut ear), (speaker, _mouth)] =
        [(); 4].map(|()| enter(&shared));
    while os::send(idler.member.socket(), &[io::IoSlice::new(&[0; 512])], libc::MSG_DONTWAIT)
        .is_ok()
    {}
    let members = [&idler, &locked, &free].map(|it| Arc::clone(&it.member));
    thread::scope(|scope| {
        let writer = locked.member.lock_writer(&PlainCalls); // As of a thread that writes to it.
        scope.spawn(|| {
            let (messages, mut counters) = ([broadcast("news")], Counters::default());
            let (messages, counters) = (&messages[..], &mut counters);
            let speaker = &*speaker.member;
            Delivery { calls: &PlainCalls, messages, speaker, counters }.write_to(&members);
        });
        assert_eq!(receive(&mut ear, 4), b"news");
        assert_eq!(locked.member.waiting.load(Ordering::Relaxed), 1, "its own thread looks");
        drop((writer, idle));
    });
    assert_eq!(locked.member.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn announcements_do_not_wait_for_a_member_that_reads_nothing() {
    let shared = shared();
    let [(idler, peer), (speaker, _mouth)] = [(); 2].map(|()| enter(&shared));
    let idler = &idler.member;
    while os::send(idler.socket(), &[io::IoSlice::new(&[0; 512])], libc::MSG_DONTWAIT).is_ok() {}
    let announce = |speaker: &Member| {
        let announcement = [Message::Announce(Chunk::from(&b"* joined"[..]))];
        write(idler, &announcement, speaker, &mut Counters::default());
    };
    announce(&speaker.member);
    thread::scope(|scope| {
        let _writer = idler.lock_writer(&PlainCalls); // As of a thread that writes to it.
        let writing = scope.spawn(|| announce(&speaker.member));
        while !writing.is_finished() {
            assert_eq!(idler.waiting.load(Ordering::Relaxed), 0, "it waits for the lock");
            thread::yield_now();
        }
    });
    assert_eq!((idler.take_missed(), idler.broken_off.get()), (2, None));
    drop(peer);
}

#[test]
fn a_waiting_thread_shows_the_connection_it_waits_for() {
    let shared = shared();
    let [(listener, mut peer), (speaker, _)] = [(); 2].map(|()| enter(&shared));
    let (listener, speaker) = (&listener.member, &speaker.member);
    thread::scope(|scope| {
        let writer = listener.lock_writer(&PlainCalls);
        scope.spawn(move || {
            let (many, mut counters) = ([broadcast(vec![b'x'; 4 << 20])], Counters::default());
            write(listener, &many, speaker, &mut counters);
        });
        let shows = |doing| {
            while speaker.state() != doing {
                thread::yield_now();
            }
        };
        shows(ThreadState::locks_writer_of(1));
        drop(writer);
        shows(ThreadState::sends_to(1));
        receive(&mut peer, 4 << 20);
    });
    assert_eq!(listener.sent.load(Ordering::Relaxed), 4 << 20);
}

#[test]
fn a_member_that_reads_no_replies_is_evicted_for_a_waiting_sender() {
    let shared = shared();
    let (membership, mut peer) = enter(&shared);
    let member = Arc::clone(&membership.member);
    let own = thread::spawn(move || serve_here(&shared, membership));
    // Until its own thread holds the write lock and sleeps.
    peer.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while peer.write(&[0; 4096]).is_ok() {}
    let mut counters = Counters::default();
    write(&member, &[broadcast("news")], &member, &mut counters);
    assert_eq!((own.join().unwrap().evicted, counters), (1, Counters::default()));
}

#[test]
fn a_client_that_takes_nothing_times_out_and_a_slow_one_does_not() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[0; 4096]).is_ok() {}
    let limits = Timeouts::default();
    let mut stall = StallCheck::new(limits);
    let mut over = || stall.look(0, ours.as_fd(), true);
    for _ in 0..20 {
        assert_eq!(over(), None, "it takes some");
        receive(&mut theirs, 4096);
    }
    assert_eq!([(); 4].map(|()| over()), [None; 4]);
    assert_eq!(over(), Some(CloseReason::Stalled(limits.evict.unwrap())), "it took none since");
}

#[test]
fn a_send_blocks_for_a_bounded_time_and_not_again_after_a_cut() {
    let mut server = resting_server();
    let (membership, _peer) = enter(&server.shared);
    let piece = vec![0; 16 << 20];
    let (queue, mut stall) = (queue(&piece), StallCheck::new(server.shared.limits.timeouts));
    let mut send = || membership.member.send(&PlainCalls, &queue, usize::MAX, &mut stall, || true);
    let error = loop {
        if let Err(error) = send() {
            break error;
        }
    };
    assert_eq!(error, CloseReason::Stalled(EVICT));
    assert_eq!(server.cut(), 1);
    assert_eq!(send(), Err(CloseReason::Failed(libc::EPIPE)));
    assert_eq!(os::recv(membership.member.socket(), &mut [0], 0).unwrap(), 0);
}

fn queue(bytes: &[u8]) -> proactor::buffer::SendQueue {
    let mut queue = proactor::buffer::SendQueue::default();
    queue.push(bytes.to_vec().into());
    queue
}

// Messages of the operator.

#[test]
fn messages_are_for_the_connection_served_now_and_not_the_next() {
    let mut server = resting_server();
    let shared = Arc::clone(&server.shared);
    let mut post = |line: &[u8]| server.send(None, line.to_vec());
    assert_eq!(post(b"not served\n"), []);
    let (first, _peer) = enter(&shared);
    assert_eq!([post(b"one\n"), post(b"all\n")], [[true]; 2]);
    assert_eq!(first.member.take_messages().unwrap().0, b"one\nall\n");
    assert!(first.member.take_messages().is_none() && !first.member.is_called());
    post(b"too late\n");
    drop(first);
    let (second, _peer) = enter(&shared);
    assert!(second.member.take_messages().is_none() && !second.member.is_called());
    assert_eq!(second.member.number, 2);
    second.member.open.store(false, Ordering::Relaxed);
    assert_eq!(post(b"too late\n"), [false]);
}

#[test]
fn only_a_thread_that_waits_for_its_own_peer_is_woken_for_its_outbox() {
    let shared = shared();
    let (membership, _peer) = enter(&shared);
    let status = ThreadStatus::new(membership.member.id, shared);
    let interrupted = |drains, doing| {
        membership.member.does(doing);
        status.must_be_interrupted(drains)
    };
    let woken = |doing| interrupted(false, doing);
    assert!(!woken(ThreadState::RECEIVES), "it has none");
    membership.member.post(&PlainCalls, b"news\n");
    assert!(woken(ThreadState::RECEIVES) && woken(ThreadState::STAYS));
    let others = [ThreadState::SENDS, ThreadState::sends_to(2), ThreadState::RUNS];
    assert_eq!(others.map(woken), [false; 3]);
    // For a drain every thread is, except one that writes to another connection.
    assert_eq!(others.map(|doing| interrupted(true, doing)), [true, false, true]);
}

#[test]
fn too_many_operator_messages_evict_the_connection() {
    let (membership, mut peer) = enter(&shared());
    let member = &membership.member;
    assert!(member.post(&PlainCalls, &vec![b'x'; HIGH]));
    assert!(!member.post(&PlainCalls, b"x"));
    assert_eq!(member.broken_off.get(), Some(&CloseReason::QueueFull));
    assert_eq!(receive_all(&mut peer), b"");
}

#[test]
fn operator_messages_are_bounded_and_the_dropped_ones_counted() {
    let mut shared = Arc::into_inner(shared()).unwrap();
    shared.to_operator(b"no operator\n");
    shared.has_operator = true;
    assert_eq!(shared.take_operator_messages(), (vec![], 0));
    let line = vec![b'x'; 1 << 16];
    (0..20).for_each(|_| shared.to_operator(&line));
    let (lines, lost) = shared.take_operator_messages();
    assert_eq!((lines.len() / line.len(), lost), (16, 4));
    assert_eq!(shared.event.take(), 1, "notified once");
    shared.to_operator(b"more\n");
    assert_eq!(
        (shared.event.take(), shared.take_operator_messages()),
        (1, (b"more\n".to_vec(), 0))
    );
}

// Threads.

#[test]
fn a_sleeping_thread_is_signalled_until_it_has_noticed() {
    let shared = shared();
    let mut threads = ThreadPool::new();
    os::allow_interrupts().unwrap();
    let (membership, _peer) = enter(&shared);
    let serve_it = |status: &ThreadStatus, counters: &mut Counters| {
        serve_connection(&PlainCalls, status, membership, counters, &mut || status.notice());
        Ok(())
    };
    threads.add(&shared, serve_it).unwrap();
    shared.advance(Stage::Draining);
    while threads.interrupt(true) {
        thread::yield_now();
    }
    drop(_peer);
    while threads.len() > 0 {
        threads.reap(&shared, &mut Counters::default()).unwrap();
        thread::yield_now();
    }
}

#[test]
fn a_thread_that_cannot_start_frees_its_slot() {
    let shared = shared();
    let mut threads = ThreadPool::new();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    threads.stack = 1 << 60;
    assert!(threads.add(&shared, |_, _| unreachable!()).is_err());
    threads.stack = 1 << 20;
    let work = move |_: &ThreadStatus, counters: &mut Counters| {
        gone.recv().unwrap();
        counters.iterations += 7;
        Ok(())
    };
    threads.add(&shared, work).unwrap();
    let mut counters = Counters::default();
    threads.reap(&shared, &mut counters).unwrap();
    assert_eq!((threads.len(), counters.iterations), (1, 0), "no thread has ended");
    go.send(()).unwrap();
    while threads.len() > 0 {
        threads.reap(&shared, &mut counters).unwrap();
        thread::yield_now();
    }
    assert_eq!(counters.iterations, 7);
}
