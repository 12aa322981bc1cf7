//! The loop of production on a simulated kernel: hundreds of seeds, each another interleaving.
//!
//! Each test is a scenario that is played for many seeds on both tiers. A seed that fails prints
//! the command that replays it. `SIM_SEEDS=N` says how many seeds the main scenario is played for
//! (the others take their share of it), `SIM_SEED=S` plays that one only.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proactor::PeerHandle;
use proactor::buffer::{BufferClass, Pool, Size};
use proactor::clock::Nanos;
use proactor::connection::LEASES_HIGH;
use proactor::console::Console;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::lifecycle::ACCEPT_PAUSE;
use proactor::limits::{Ended, Limits};
use proactor::memory::SHARE_MAX as HIGH;
use proactor::os::ShutdownSignal;
use proactor::peer::{Factory, Peer};
use proactor::peers::{LAST_INPUT, LINGER};
use proactor::proactor::Proactor;
use proactor::protocol::{Chat, Echo, Input, Outbox, Protocol, Upper};
use proactor::ring::Ring;
use proactor_sim::{
    Client, ClientId, Dice, Fault, FaultCounts, Faults, Reads, Reset, Setup, Sim, Tier,
};

/// Seeds of the main scenario, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 400;
const LISTENER: ListenerId = ListenerId(0);
/// How long a peer may acknowledge nothing while others wait, unless a scenario says otherwise.
const EVICT: Duration = Duration::from_secs(10);

/// Plays `scenario` for its share of the seeds on both tiers, and asserts that each of the
/// `expected` faults happened.
fn play(
    name: &str,
    share: f64,
    expected: &[Fault],
    scenario: impl Fn(&mut Dice, Setup, &mut FaultCounts),
) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..((seeds as f64 * share) as u64).max(1),
    };
    let mut counts = FaultCounts::default();
    for seed in seeds.clone() {
        let played = catch_unwind(AssertUnwindSafe(|| {
            for tier in [Tier::Multishot, Tier::OneShot] {
                let mut dice = Dice::new(!seed);
                let setup = Setup {
                    seed,
                    tier,
                    sockets: 64,
                    entries: [2, 8, 256][dice.below(3)],
                    socket_buffer: [200, 4096, 65_536][dice.below(3)],
                    window: [200, 4096, 65_536][dice.below(3)],
                    outq: true,
                    faults: Faults::NONE,
                };
                scenario(&mut dice, setup, &mut counts);
            }
        }));
        if let Err(panic) = played {
            eprintln!(
                "replay: SIM_SEED={seed} cargo test --test simulation -- {name} --exact --nocapture"
            );
            resume_unwind(panic);
        }
    }
    for &fault in expected {
        let fired = counts[fault] > 0 || seeds.end - seeds.start < 50;
        assert!(fired, "{fault:?} never happened: {counts:?}");
    }
}

/// Defines a test that plays a scenario; the command that replays a seed names the test.
macro_rules! scenario {
    ($name:ident, $share:expr, $expected:expr, $scenario:expr) => {
        #[test]
        fn $name() {
            play(stringify!($name), $share, $expected, $scenario);
        }
    };
}

/// A server on a simulated kernel, and what the test needs to observe it.
struct World<P> {
    server: Proactor<Sim, P>,
    stop: ShutdownSignal,
    pool: Rc<Pool>,
    limits: Limits,
}

impl<P: Protocol> World<P> {
    fn new(
        setup: Setup,
        shapes: &[(usize, usize)],
        limits: Limits,
        make: impl Fn(&Peer) -> P + Send + Sync + 'static,
    ) -> World<P> {
        let shapes: Vec<BufferClass> =
            shapes.iter().map(|&(bytes, count)| BufferClass { bytes, count }).collect();
        let pool = Pool::new(&shapes).unwrap();
        let stop = ShutdownSignal::new().unwrap();
        let sim = Sim::new(setup, Rc::clone(&pool));
        let mut server = Proactor::new(sim, limits.clone(), stop.clone()).unwrap();
        server
            .listen(LISTENER, File::open("/dev/null").unwrap().into(), Factory::of(make))
            .unwrap();
        World { server, stop, pool, limits }
    }

    fn sim(&mut self) -> &mut Sim {
        self.server.ring_mut()
    }

    fn now(&self) -> Nanos {
        self.server.ring().now()
    }

    fn client(&self, id: ClientId) -> &Client {
        self.server.ring().client(id)
    }

    fn client_mut(&mut self, id: ClientId) -> &mut Client {
        self.sim().client_mut(id)
    }

    fn connect(&mut self, reads: Reads) -> ClientId {
        self.sim().connect(LISTENER, reads)
    }

    fn connect_many(&mut self, count: usize) -> Vec<ClientId> {
        (0..count).map(|_| self.connect(Reads::AtOnce)).collect()
    }

    /// A client that says `bytes` and then ends.
    fn send_and_end(&mut self, reads: Reads, bytes: &[u8]) -> ClientId {
        let id = self.connect(reads);
        self.client_mut(id).send(bytes);
        self.client_mut(id).finish();
        id
    }

    fn ask_to_stop(&mut self) {
        self.stop.request();
        self.sim().wake();
    }

    /// Runs the loop until the condition holds.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..200_000 {
            if is_so(self) {
                return;
            }
            let ended = self.server.run_once().unwrap();
            assert!(ended.is_continue(), "the server ended without a request");
            assert!(self.server.connections() <= self.limits.connections, "the limit holds");
        }
        panic!("it takes too long until {what}\n{:?}", self.server.ring());
    }

    fn until_done(&mut self, clients: &[ClientId]) {
        self.until("all clients have received all", |world| {
            clients.iter().all(|&id| world.client(id).is_done())
        });
    }

    fn until_idle(&mut self) {
        self.until("nothing more can happen", |world| world.server.ring().is_idle());
    }

    /// Runs `count` iterations, or fewer if nothing more can happen.
    fn iterate(&mut self, count: usize) {
        for _ in 0..count {
            if !self.server.ring().is_idle() {
                assert!(self.server.run_once().unwrap().is_continue());
            }
        }
    }

    /// Runs the loop until the server ends.
    fn run_to_end(&mut self) -> Ended {
        for _ in 0..200_000 {
            if let ControlFlow::Break(ended) = self.server.run_once().unwrap() {
                self.sim().finish_clients();
                return ended;
            }
        }
        panic!("it does not end\n{:?}", self.server.ring());
    }

    /// Drains the server, and asserts that every buffer, socket and connection is released. All
    /// clients read or have left, so the drain waits only for data in flight.
    fn drain(mut self, counts: &mut FaultCounts) {
        let asked = self.now();
        self.ask_to_stop();
        assert_eq!(self.run_to_end(), Ended::Drained);
        assert!(self.now().since(asked) < LINGER, "it took {:?}", self.now().since(asked));
        assert_eq!((self.server.connections(), self.server.ring().open_sockets()), (0, 0));
        let counters = self.server.counters();
        assert_eq!(counters.accepted, counters.closed);
        self.leave(counts);
    }

    fn leave(mut self, counts: &mut FaultCounts) {
        *counts += self.sim().fault_counts();
        drop(self.server);
        assert!(self.pool.is_whole(), "a buffer was lost: {:?}", self.pool);
    }
}

/// Random bytes for one client.
fn speech(dice: &mut Dice, len: usize) -> Vec<u8> {
    (0..len).map(|_| dice.roll() as u8).collect()
}

/// Asserts that a client received all that was expected and then the end, or, if it was reset, a
/// prefix of it.
#[track_caller]
fn assert_received(client: &Client, expected: &[u8]) {
    let received = client.received();
    assert_eq!(expected.get(..received.len()), Some(received), "byte for byte");
    match client.was_reset() {
        None => assert_eq!((received.len(), client.received_end()), (expected.len(), true)),
        Some(by) => assert_eq!(by, Reset::ByClient, "a server resets no client that reads"),
    }
}

fn some_reads(dice: &mut Dice) -> Reads {
    match dice.below(3) {
        0 => Reads::Paced { bytes: 500, every: Duration::from_micros(300) },
        _ => Reads::AtOnce,
    }
}

/// Faults that cost no connection, and after which nothing waits for the clock.
fn some_faults_that_pass(dice: &mut Dice) -> Faults {
    Faults::some(dice).without_resets().with(Fault::AcceptExhausted, 0)
}

/// Without limits of time: a client that does not read stays.
fn limits(connections: usize) -> Limits {
    let mut limits = Limits::default();
    limits.connections = connections;
    (limits.timeouts.send, limits.timeouts.evict) = (None, None);
    limits
}

/// With the time limits that a server has by default.
fn limits_of_time() -> Limits {
    let mut limits = Limits::default();
    limits.connections = CONNECTIONS;
    limits
}

const CONNECTIONS: usize = 60;
const SMALL: &[(usize, usize)] = &[(256, 48), (2048, 8)];

scenario!(
    echo_survives_every_fault,
    1.0,
    &Fault::ALL.into_iter().filter(|fault| !fault.is_special()).collect::<Vec<_>>(),
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice);
        let limits = limits(dice.between(2, 11));
        let count = dice.between(1, 20);
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let len = [0, 1, 100, 5000, 30_000][dice.below(5)];
                let (reads, bytes) = (some_reads(dice), speech(dice, len));
                (world.send_and_end(reads, &bytes), bytes)
            })
            .collect();
        let ids: Vec<_> = clients.iter().map(|&(id, _)| id).collect();
        world.until_done(&ids);
        for (id, sent) in &clients {
            assert_received(world.client(*id), sent);
        }
        let counters = world.server.counters();
        assert_eq!((counters.accepted, counters.evicted), (count as u64, 0));
        world.drain(counts);
    }
);

scenario!(
    a_half_close_delivers_every_byte_and_then_the_end,
    0.25,
    &[Fault::ShortSend, Fault::Late],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets();
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let sent = speech(dice, 40_000);
        // The end is there long before the reader has taken the first byte.
        let slow = Reads::Paced { bytes: 2000, every: Duration::from_millis(1) };
        let id = world.send_and_end(slow, &sent);
        world.until_done(&[id]);
        assert_eq!(world.client(id).was_reset(), None);
        assert_received(world.client(id), &sent);
        world.drain(counts);
    }
);

scenario!(
    upper_raises_in_place_and_spoils_nothing_that_is_being_sent,
    0.25,
    &[Fault::ShortRecv],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets();
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Upper);
        let sent = b"all the world's a stage; ".repeat(dice.between(1, 400));
        let clients: Vec<_> = (0..5).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&clients);
        for id in clients {
            assert_received(world.client(id), &sent.to_ascii_uppercase());
        }
        world.drain(counts);
    }
);

/// Line `n` of client `of`, of a length that differs.
fn line(of: usize, n: usize, dice: &mut Dice) -> Vec<u8> {
    let len = dice.between(0, 40) * dice.between(0, 8);
    format!("{of} {n} {}\n", "x".repeat(len)).into_bytes()
}

/// By sender, the numbers of the lines in `received`. Every line must be whole.
fn by_sender(received: &[u8]) -> HashMap<usize, Vec<usize>> {
    let mut numbers: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut labels: HashMap<&str, &str> = HashMap::new();
    let mut events = HashSet::new();
    for line in received.split_inclusive(|&byte| byte == b'\n') {
        let text = std::str::from_utf8(line).unwrap();
        let text = text.strip_suffix('\n').expect("every line is whole");
        if text.ends_with(" joined or left") {
            continue; // Those that were not announced, because it was behind.
        }
        if text.starts_with("* ") {
            assert!(events.insert(text), "announced once: {text:?}");
            continue;
        }
        let (label, text) = text.split_once(' ').expect("a label");
        let of = text.split(' ').next().unwrap();
        assert_eq!(*labels.entry(label).or_insert(of), of, "a label is one speaker's");
        let mut words = text.split(' ');
        let (of, n) = (words.next().unwrap(), words.next().unwrap());
        let tail = words.next().expect("a line has three words");
        assert!(words.next().is_none() && tail.bytes().all(|byte| byte == b'x'), "{text:?}");
        numbers.entry(of.parse().unwrap()).or_default().push(n.parse().unwrap());
    }
    numbers
}

/// The lines of a chat without their labels, and without join and leave messages.
fn spoken(received: &[u8]) -> Vec<u8> {
    let lines = received.split_inclusive(|&byte| byte == b'\n').filter(|line| line[0] == b'[');
    lines
        .flat_map(|line| line.splitn(2, |&byte| byte == b' ').nth(1).unwrap_or_default())
        .copied()
        .collect()
}

scenario!(
    every_line_reaches_every_member_whole_once_and_in_order,
    0.5,
    &[Fault::RecvReset, Fault::SendReset, Fault::ShortRecv, Fault::NoBuffers],
    |dice, mut setup, counts| {
        let faults = Faults::some(dice);
        setup.faults = Faults::NONE;
        // Plenty of buffers: without free ones, others would wait for a slow reader and evict it.
        let mut world =
            World::new(setup, &[(256, 400)], limits(CONNECTIONS), |peer| Chat::new(peer.id()));
        let clients: Vec<_> =
            (0..dice.between(2, 8)).map(|_| world.connect(some_reads(dice))).collect();
        let count = clients.len();
        world.until("all are there", |world| world.server.connections() == count);
        world.sim().set_faults(faults);
        let mut bytes = vec![0; count];
        let mut lines = vec![0; count];
        for (of, &id) in clients.iter().enumerate() {
            lines[of] = dice.between(0, 60);
            for n in 0..lines[of] {
                let line = line(of, n, dice);
                world.client_mut(id).send(&line);
                bytes[of] += line.len();
            }
        }
        world.until("the server has received all that it will", |world| {
            let taken: usize = clients.iter().map(|&id| world.client(id).taken()).sum();
            taken as u64 == world.server.counters().received_bytes
                && clients.iter().zip(&bytes).all(|(&id, &bytes)| {
                    let client = world.client(id);
                    client.was_reset().is_some() || client.taken() == bytes
                })
        });
        world.sim().set_faults(faults.without_resets());
        world.ask_to_stop();
        assert_eq!(world.run_to_end(), Ended::Drained);
        let stayed = |of: usize| world.client(clients[of]).was_reset().is_none();
        for of in (0..count).filter(|&of| stayed(of)) {
            let received = by_sender(world.client(clients[of]).received());
            assert!(!received.contains_key(&of), "no client receives its own lines");
            for from in (0..count).filter(|&from| from != of) {
                let numbers = received.get(&from).cloned().unwrap_or_default();
                let all = numbers.len() == lines[from] || !stayed(from);
                assert!(all, "{of} received {} of {from}'s {} lines", numbers.len(), lines[from]);
                assert!(numbers.iter().copied().eq(0..numbers.len()), "in order, once");
            }
        }
        assert_eq!(world.server.counters().evicted, 0);
        world.leave(counts);
    }
);

scenario!(lines_stay_in_their_group, 0.05, &[], |dice, setup, counts| {
    let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |peer| Chat::new(peer.id()));
    let other = File::open("/dev/null").unwrap();
    world
        .server
        .listen(ListenerId(1), other.into(), Factory::of(|peer| Chat::new(peer.id())))
        .unwrap();
    let groups = [0, 1]
        .map(|group| [0; 3].map(|_| world.sim().connect(ListenerId(group), some_reads(dice))));
    world.until("all are there", |world| world.server.connections() == 6);
    for (group, name) in groups.iter().zip(["this", "that"]) {
        for &id in group {
            world.client_mut(id).send(format!("{name} group\n").as_bytes());
        }
    }
    world.until_idle();
    for (group, line) in groups.iter().zip(["this group\n", "that group\n"]) {
        for &id in group {
            assert_eq!(spoken(world.client(id).received()), line.repeat(2).as_bytes());
        }
    }
    world.drain(counts);
});

// A client that reads nothing is no longer received from, and loses nothing.
scenario!(
    backpressure_bounds_what_is_owed,
    0.2,
    &[
        Fault::DataAfterCancel,
        Fault::CancelFirst,
        Fault::TargetFirst,
        Fault::CancelTooLate,
        Fault::CancelFoundNothing,
    ],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets();
        setup.faults =
            setup.faults.with(Fault::DataAfterCancel, 300).with(Fault::CancelTooLate, 100);
        let (size, count) = [(1024, 1024), (16 << 10, 256)][dice.below(2)];
        // What one batch may add: what happens while the loop is not looking.
        let batch = 64;
        let bound = HIGH + batch * size.min(setup.socket_buffer);
        let sent = speech(dice, 3 * HIGH);
        let mut world = World::new(setup, &[(size, count)], limits(CONNECTIONS), |_| Echo);
        let id = world.send_and_end(Reads::Never, &sent);
        world.until_idle();
        let leased = count - world.pool.idle(Size(0)) - world.pool.lent(Size(0));
        assert!(leased <= LEASES_HIGH + batch, "it holds {leased} buffers");
        let (owed, taken) = (world.client(id).owed_most(), world.client(id).taken());
        assert!(owed <= bound && taken < sent.len(), "{owed} are owed, {bound} may be");
        world.client_mut(id).set_reads(Reads::AtOnce);
        world.until_done(&[id]);
        assert_received(world.client(id), &sent);
        assert!(world.client(id).owed_most() <= bound);
        world.drain(counts);
    }
);

scenario!(
    a_client_that_never_reads_stays_while_no_other_waits,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let mut limits = limits_of_time();
        limits.timeouts.send = None;
        let mut world = World::new(setup, &[(1024, 400)], limits, |_| Echo);
        let idler = world.send_and_end(Reads::Never, &speech(dice, 400_000));
        world.until("time has passed", |world| world.now() > Nanos(0) + 2 * EVICT);
        let sent = speech(dice, 10_000);
        let others: Vec<_> = (0..8).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&others);
        others.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.until("time has passed", |world| world.now() > Nanos(0) + 4 * EVICT);
        let counters = world.server.counters();
        assert_eq!((counters.evicted, world.server.connections()), (0, 1));
        world.client_mut(idler).reset();
        world.drain(counts);
    }
);

/// Returns how many buffers a ring has that is given so many: where each receive that waits holds
/// one, it has some more than connections.
fn buffers(setup: &Setup, count: usize) -> usize {
    if setup.tier == Tier::OneShot { CONNECTIONS + count } else { count }
}

// Bulk never takes what the light need.
scenario!(
    as_many_slow_readers_as_buffers_delay_no_other_client,
    0.2,
    &[],
    |dice, mut setup, counts| {
        setup.faults = Faults::NONE;
        setup.socket_buffer = 4096;
        let shapes = [(1024, buffers(&setup, 32)), (4096, 4)];
        let mut world = World::new(setup, &shapes, limits(CONNECTIONS), |_| Echo);
        let sent = speech(dice, 20_000);
        let slow: Vec<_> = (0..40).map(|_| world.connect(Reads::Never)).collect();
        slow.iter().for_each(|&id| world.client_mut(id).send(&sent));
        world.until_idle();
        let pinger = world.connect(Reads::AtOnce);
        world.until("it is connected", |world| world.server.connections() == 41);
        for n in 1..20 {
            world.client_mut(pinger).send(b"PING");
            let before = world.server.counters().iterations;
            world.until("it has its reply", |world| world.client(pinger).received().len() == 4 * n);
            let iterations = world.server.counters().iterations - before;
            assert!(iterations <= 8, "a reply took {iterations} iterations");
        }
        assert_eq!(world.server.counters().evicted, 0);
        for &id in &slow {
            world.client_mut(id).finish();
            world.client_mut(id).set_reads(Reads::AtOnce);
        }
        world.until_done(&slow);
        slow.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.client_mut(pinger).finish();
        world.drain(counts);
    }
);

scenario!(
    clients_that_never_read_keep_no_buffer_that_others_wait_for,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        setup.socket_buffer = 4096;
        let shapes = [(1024, buffers(&setup, 8))];
        let mut world = World::new(setup, &shapes, limits(CONNECTIONS), |_| Echo);
        let idlers: Vec<_> = (0..12).map(|_| world.connect(Reads::Never)).collect();
        for &idler in &idlers {
            world.client_mut(idler).send(&speech(dice, 40_000));
        }
        world.iterate(dice.below(200));
        let sent = speech(dice, 10_000);
        let others: Vec<_> = (0..8).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&others);
        others.iter().for_each(|&id| assert_received(world.client(id), &sent));
        assert_eq!(world.server.counters().evicted, 0);
        idlers.iter().for_each(|&id| world.client_mut(id).set_reads(Reads::AtOnce));
        idlers.iter().for_each(|&id| world.client_mut(id).finish());
        world.drain(counts);
    }
);

scenario!(a_single_client_may_use_the_whole_pool, 0.1, &[], |dice, mut setup, counts| {
    setup.faults = Faults::some(dice).without_resets();
    (setup.socket_buffer, setup.window) = (4096, 4096);
    let mut world = World::new(setup, &[(1024, 8)], limits(CONNECTIONS), |_| Echo);
    let sent = speech(dice, 50_000);
    let id = world.send_and_end(Reads::Never, &sent);
    world.until_idle();
    world.client_mut(id).set_reads(Reads::AtOnce);
    world.until_done(&[id]);
    assert_received(world.client(id), &sent);
    world.drain(counts);
});

scenario!(
    a_member_that_reads_slowly_and_steadily_stays_while_others_flood,
    0.01,
    &[],
    |_, mut setup, counts| {
        // As TCP's autotuning has it on a fast network: sends complete seconds apart, those to the
        // slowest reader further apart than the time of an eviction.
        (setup.socket_buffer, setup.window) = (4 << 20, 512 << 10);
        let mut world =
            World::new(setup, &[(2048, 400)], limits_of_time(), |peer| Chat::new(peer.id()));
        let every = Duration::from_millis(50);
        // 100 kB/s, 400 kB/s and 1 MB/s, on average.
        let readers =
            [10_000, 40_000, 100_000].map(|bytes| world.connect(Reads::Paced { bytes, every }));
        let talker = world.connect(Reads::AtOnce);
        world.until("all are there", |world| world.server.connections() == 4);
        let lines = [&[b'x'; 999][..], b"\n"].concat().repeat(10_000);
        world.client_mut(talker).send(&lines);
        world.until_idle();
        let heard = readers.map(|id| spoken(world.client(id).received()) == lines);
        assert_eq!((world.server.counters().evicted, heard), (0, [true; 3]));
        assert!(world.now() > Nanos(0) + 2 * EVICT, "{:?}", world.now());
        world.drain(counts);
    }
);

scenario!(
    a_slow_reader_that_makes_progress_is_not_evicted,
    0.25,
    &[],
    |dice, mut setup, counts| {
        setup.faults = Faults::NONE;
        // It opens its window in each third of the time, at the latest.
        (setup.socket_buffer, setup.window) = (1024, 200);
        let mut world = World::new(setup, &[(1024, 4)], limits_of_time(), |_| Echo);
        let sent = speech(dice, 30_000);
        let slow = Reads::Paced { bytes: 40_000, every: EVICT / 3 };
        let mut all = vec![world.send_and_end(slow, &sent)];
        all.extend((0..4).map(|_| world.send_and_end(Reads::AtOnce, &sent)));
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        assert_eq!(world.server.counters().evicted, 0);
        world.drain(counts);
    }
);

scenario!(
    thirty_two_clients_share_two_buffers_without_a_storm,
    0.25,
    &[Fault::Late],
    |dice, mut setup, counts| {
        setup.faults = Faults::NONE.with(Fault::Late, [0, 100][dice.below(2)]);
        let mut world = World::new(setup, &[(256, 2)], limits(CONNECTIONS), |_| Echo);
        let sent = speech(dice, 3000);
        let all: Vec<_> = (0..32).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        let counters = world.server.counters();
        // Every connection waits for a buffer once at first. After that, each receive that brought
        // bytes used a buffer that came back.
        let most = 32 + 2 * counters.receives;
        assert!(
            counters.out_of_buffers <= most,
            "out of buffers {} times, {most} at most",
            counters.out_of_buffers
        );
        assert_eq!(counters.evicted, 0);
        assert!(world.now() < Nanos(0) + EVICT, "no connection waited for the clock");
        world.drain(counts);
    }
);

scenario!(
    a_receive_without_a_buffer_waits_for_bytes_or_fails_at_once_and_no_byte_is_lost,
    0.25,
    &[Fault::Late],
    |dice, mut setup, counts| {
        (setup.tier, setup.outq) = (Tier::OneShotLent, dice.below(2) == 0);
        setup.faults = some_faults_that_pass(dice).with(Fault::Late, [0, 100][dice.below(2)]);
        let mut world = World::new(setup, &[(256, 2)], limits(CONNECTIONS), |_| Echo);
        let idle = world.connect_many(8);
        let sent = speech(dice, 3000);
        let all: Vec<_> = (0..24).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.until_idle(); // The idle ones cause no storm.
        idle.iter().for_each(|&id| world.client_mut(id).send(&sent));
        world.until("they are served", |world| {
            idle.iter().all(|&id| world.client(id).received() == sent)
        });
        assert_eq!(world.server.counters().evicted, 0);
        world.drain(counts);
    }
);

scenario!(
    accepts_that_bring_no_socket_cost_themselves_only,
    0.1,
    &[Fault::AcceptBogus],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice).with(Fault::AcceptBogus, 500);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let sent = speech(dice, 2000);
        let all: Vec<_> = (0..20).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.until("all have left", |world| world.server.connections() == 0);
        let counters = world.server.counters();
        assert_eq!((counters.finished, counters.accepted - counters.failed), (20, 20));
        world.drain(counts);
    }
);

/// Sends much for little.
struct Generous;

impl Protocol for Generous {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        input.take_all();
        out.send(vec![b'x'; 20_000]);
    }
}

scenario!(
    newcomers_are_accepted_slowly_while_the_memory_is_full_and_all_are_served,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        (setup.socket_buffer, setup.window) = (200, 200);
        let mut limits = limits(CONNECTIONS);
        limits.queues = 128 << 10;
        let mut world = World::new(setup, SMALL, limits, |_| Generous);
        let full: Vec<_> = (0..12).map(|_| world.connect(Reads::Never)).collect();
        full.iter().for_each(|&id| world.client_mut(id).send(b"x"));
        world.until_idle();
        let (before, begun) = (world.server.counters(), world.now());
        let newcomers = world.connect_many(10);
        newcomers.iter().for_each(|&id| world.client_mut(id).send(b"x"));
        world.until("they are served", |world| {
            newcomers.iter().all(|&id| world.client(id).received().len() == 20_000)
        });
        let pauses = world.server.counters().memory_full - before.memory_full;
        assert!(pauses >= 5, "{pauses} pauses");
        let least = ACCEPT_PAUSE * (pauses as u32 - 1);
        assert!(world.now().since(begun) >= least, "{:?}", world.now().since(begun));
        newcomers.iter().chain(&full).for_each(|&id| world.client_mut(id).reset());
        world.until("all have left", |world| world.server.connections() == 0);
        world.drain(counts);
    }
);

scenario!(
    no_connection_waits_while_there_is_a_buffer_of_any_size,
    0.25,
    &[],
    |dice, mut setup, counts| {
        setup.faults = Faults::NONE.with(Fault::Late, [0, 100][dice.below(2)]);
        setup.socket_buffer = 4096;
        // It takes all that there are of one size: the large, which it learns to want, or the
        // small.
        let shapes = [[(256, 60), (2048, 4)], [(256, 2), (2048, 60)]][dice.below(2)];
        let mut world = World::new(setup, &shapes, limits(CONNECTIONS), |_| Echo);
        let idler = world.connect(Reads::Never);
        world.client_mut(idler).send(&speech(dice, 50_000));
        world.until_idle();
        let sent = speech(dice, 20_000);
        let all: Vec<_> = (0..12).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        let counters = world.server.counters();
        assert_eq!(counters.evicted, 0);
        assert!(counters.out_of_buffers <= 13 + counters.receives, "{counters:?}");
        assert!(
            world.now() < Nanos(0) + EVICT,
            "no connection waited for the clock: {:?}",
            world.now()
        );
        world.client_mut(idler).reset();
        world.drain(counts);
    }
);

scenario!(
    resets_leave_nothing_behind_and_affect_no_other_connection,
    0.25,
    &[Fault::SocketReused],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets();
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        for _ in 0..5 {
            let sent = speech(dice, 5000);
            let all: Vec<_> = (0..8).map(|_| world.send_and_end(some_reads(dice), &sent)).collect();
            let (leave, stay) = all.split_at(4);
            for &id in leave {
                let received = dice.below(2000);
                world.until("it has received some", |world| {
                    world.client(id).received().len() >= received
                });
                world.client_mut(id).reset();
            }
            world.until_done(stay);
            all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        }
        world.until("all have left", |world| world.server.connections() == 0);
        world.drain(counts);
    }
);

scenario!(
    an_accept_without_descriptors_pauses_and_recovers,
    0.1,
    &[Fault::AcceptExhausted],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets().with(Fault::AcceptExhausted, 0);
        let faults = setup.faults;
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let early = world.connect(Reads::AtOnce);
        world.until("one is served", |world| world.server.connections() == 1);
        world.sim().set_faults(faults.with(Fault::AcceptExhausted, 1000));
        let sent = speech(dice, 3000);
        let late: Vec<_> = (0..5).map(|_| world.send_and_end(Reads::AtOnce, &sent)).collect();
        let (before, pauses) = (world.now(), 8);
        world.until("some time has passed", |world| world.now() > before + pauses * ACCEPT_PAUSE);
        let refused = world.server.counters().refused;
        assert!((2..=u64::from(pauses) + 1).contains(&refused), "{refused} in {pauses} pauses");
        world.client_mut(early).send(&sent);
        world.client_mut(early).finish();
        world.until("the present connections are served meanwhile", |world| {
            world.client(early).is_done() && world.server.connections() == 0
        });
        assert_received(world.client(early), &sent);
        world.sim().set_faults(faults);
        world.until_done(&late);
        late.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.drain(counts);
    }
);

scenario!(
    a_listener_that_is_shut_down_is_closed_and_the_last_one_ends_the_server,
    0.25,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let other = ListenerId(1);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let null = File::open("/dev/null").unwrap().into();
        world.server.listen(other, null, Factory::of(|_| Echo)).unwrap();
        world.iterate(dice.below(4));
        world.sim().shut_down(other);
        let sent = speech(dice, 1000);
        let served = world.send_and_end(Reads::AtOnce, &sent);
        world.until_done(&[served]);
        assert_received(world.client(served), &sent);
        world.until_idle();
        if dice.below(2) == 0 {
            return world.drain(counts);
        }
        world.sim().shut_down(LISTENER);
        let error = (0..10_000).find_map(|_| world.server.run_once().err());
        let error = error.expect("no listener is left").to_string();
        assert!(error.starts_with("cannot accept on "), "{error}");
        world.leave(counts);
    }
);

scenario!(
    a_full_socket_table_costs_only_the_connections_that_do_not_fit,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.sockets = 8;
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let early: Vec<_> = world.connect_many(8);
        world.until("the table is full", |world| world.server.connections() == 8);
        let late = world.connect_many(3);
        world.until("one is turned away", |world| {
            late.iter().any(|&id| world.client(id).was_reset().is_some())
        });
        let sent = speech(dice, 1000);
        let before = world.now();
        for &id in early.iter().chain(&late) {
            world.client_mut(id).send(&sent);
            world.client_mut(id).finish();
        }
        world.until_done(&early);
        early.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.until_done(&late);
        // A close ends the pause: what waits is not left to the clock.
        assert!(world.now() < before + ACCEPT_PAUSE, "{:?}", world.now());
        assert!(late.iter().any(|&id| world.client(id).received() == sent), "a slot is free again");
        world.drain(counts);
    }
);

scenario!(
    a_connection_above_the_limit_waits_and_is_served,
    0.25,
    &[Fault::CancelFirst, Fault::TargetFirst, Fault::AcceptAborted],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets();
        let limits = limits(dice.between(1, 4));
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let sent = speech(dice, 1500);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend((0..10).map(|_| world.send_and_end(some_reads(dice), &sent)));
            let some = all.len() - 5;
            world.until_done(&all[..some]);
        }
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), &sent));
        assert_eq!(world.server.counters().accepted, 40);
        world.drain(counts);
    }
);

scenario!(a_sender_runs_at_the_speed_of_the_slowest_reader, 0.1, &[], |dice, mut setup, counts| {
    /// More than may be queued for both senders.
    const LINES: usize = 5000;
    setup.faults = some_faults_that_pass(dice).with(Fault::NoBuffers, 0).with(Fault::ShortSend, 0);
    setup.socket_buffer = 4096;
    let mut world =
        World::new(setup, &[(1024, 400)], limits(CONNECTIONS), |peer| Chat::new(peer.id()));
    let talkers = [0; 2].map(|_| world.connect(Reads::AtOnce));
    let slow = Reads::Paced { bytes: 8000, every: Duration::from_millis(5) };
    let listeners = [slow, Reads::AtOnce].map(|reads| world.connect(reads));
    world.until("all are there", |world| world.server.connections() == 4);
    for (of, talker) in talkers.into_iter().enumerate() {
        let lines: Vec<u8> = (0..LINES).flat_map(|n| line(of, n, dice)).collect();
        world.client_mut(talker).send(&lines);
    }
    world.until_idle();
    for listener in listeners {
        let received = by_sender(world.client(listener).received());
        for of in 0..2 {
            assert!(received[&of].iter().copied().eq(0..LINES), "every line, once, in order");
        }
    }
    // Two talk: each may have filled its socket buffer before it was throttled. The labels at most
    // double what they say, and are in no buffer of the pool.
    let most = world.server.ring().queue_most();
    let bound = HIGH + 2 * 2 * 64 * 1024;
    assert!(most <= bound, "{most} were owed, {bound} may be");
    assert_eq!(world.server.counters().evicted, 0);
    world.drain(counts);
});

scenario!(
    a_member_that_never_reads_is_evicted_when_its_group_waits,
    0.1,
    &[],
    |dice, mut setup, counts| {
        let faults = some_faults_that_pass(dice);
        setup.faults = faults.with(Fault::NoBuffers, 0).with(Fault::ShortSend, 0);
        setup.socket_buffer = 4096;
        let mut world =
            World::new(setup, &[(1024, 400)], limits_of_time(), |peer| Chat::new(peer.id()));
        let [talker, idler, listener] =
            [Reads::AtOnce, Reads::Never, Reads::AtOnce].map(|reads| world.connect(reads));
        world.until("all are there", |world| world.server.connections() == 3);
        // More than may be owed before others wait.
        let lines: Vec<u8> = (0..10_000).flat_map(|n| line(0, n, dice)).collect();
        assert!(lines.len() > HIGH);
        world.client_mut(talker).send(&lines);
        // Either it is evicted while others wait, or it leaves by itself.
        let leaves = dice.chance(500);
        if leaves {
            let at = world.now() + EVICT / 2;
            world.client_mut(idler).reset_at(at);
        }
        world.until("all is received", |world| {
            let received = world.client(listener).received();
            let labels = 10_000 * "[1] ".len();
            received.len() >= lines.len() + labels && spoken(received).len() == lines.len()
        });
        assert_eq!(spoken(world.client(listener).received()), lines);
        let announced = |world: &World<_>| {
            let received = String::from_utf8_lossy(world.client(listener).received());
            received.matches(" left\n").count()
        };
        world.until("its leave is announced", |world| announced(world) > 0);
        assert_eq!(announced(&world), 1, "once");
        assert_eq!(world.server.counters().evicted, u64::from(!leaves));
        assert!(world.now() < Nanos(0) + 2 * EVICT, "{:?}", world.now());
        world.drain(counts);
    }
);

scenario!(
    a_drain_delivers_what_is_owed,
    0.25,
    &[Fault::SpuriousWake],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        setup.socket_buffer = 4096;
        let limits = limits(6);
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let sent = speech(dice, 6000);
        // More clients than are served: a drain ends those in the backlog as well.
        let all: Vec<_> = (0..dice.between(1, 9)).map(|_| world.connect(Reads::Never)).collect();
        let served = all.len().min(6);
        world.until("they are served", |world| world.server.connections() == served);
        all.iter().for_each(|&id| world.client_mut(id).send(&sent));
        let received = dice.below(served * sent.len() / 2) as u64;
        world
            .until("some was received", |world| world.server.counters().received_bytes >= received);
        let asked = world.now();
        world.ask_to_stop();
        for &id in &all {
            world.client_mut(id).set_reads(some_reads(dice));
        }
        assert_eq!(world.run_to_end(), Ended::Drained);
        assert!(world.now().since(asked) < LINGER, "{:?}", world.now().since(asked));
        assert_eq!(world.server.counters().cut, 0);
        for &id in &all {
            let client = world.client(id);
            assert!(sent.starts_with(client.received()));
            assert_eq!(client.was_reset(), None, "the end comes in order");
        }
        let echoed: usize = all.iter().map(|&id| world.client(id).received().len()).sum();
        assert!(echoed as u64 >= received, "{echoed} of {received}: what was received is answered");
        world.leave(counts);
    }
);

scenario!(a_drain_closes_the_backlog_at_once, 0.1, &[], |dice, mut setup, counts| {
    setup.faults = some_faults_that_pass(dice).with(Fault::MultishotEnded, 0);
    setup.faults = setup.faults.with(Fault::Overflow, 0);
    setup.socket_buffer = 4096;
    let limits = limits(2);
    let mut world = World::new(setup, &[(1024, 100)], limits, |_| Echo);
    for _ in 0..2 {
        let id = world.connect(Reads::Never);
        world.client_mut(id).send(&speech(dice, 20_000));
    }
    let waiting = world.connect_many(3);
    world.until_idle();
    let in_backlog = 3 - world.sim().waiting();
    // Accepting has stopped: a new client stays in the kernel's queue.
    world.connect_many(2);
    world.until_idle();
    assert_eq!(world.sim().waiting(), 5 - in_backlog);
    let asked = world.now();
    world.ask_to_stop();
    while !waiting[..in_backlog].iter().all(|&id| world.client(id).is_done()) {
        assert!(world.server.run_once().unwrap().is_continue(), "others are owed something");
    }
    assert!(world.now().since(asked) < EVICT, "{:?}", world.now().since(asked));
    waiting[..in_backlog].iter().for_each(|&id| assert_received(world.client(id), b""));
    assert_eq!(world.run_to_end(), Ended::Drained);
    world.leave(counts);
});

scenario!(
    the_drain_deadline_cuts_a_client_that_does_not_read,
    0.25,
    &[Fault::CancelFirst, Fault::TargetFirst],
    |dice, mut setup, counts| {
        setup.faults = Faults::some(dice).without_resets().with(Fault::NoBuffers, 0);
        (setup.socket_buffer, setup.window) = (1024, setup.window.min(4096));
        let drain = Duration::from_millis(700);
        let mut limits = limits(4);
        limits.drain = drain;
        let mut world = World::new(setup, &[(256, 400)], limits.clone(), |_| Echo);
        let sent = speech(dice, 20_000);
        let all: Vec<_> = (0..dice.between(3, 9)).map(|_| world.connect(Reads::Never)).collect();
        all.iter().for_each(|&id| world.client_mut(id).send(&sent));
        world.until_idle();
        // A client that connects while the server is asked to stop is cut with the rest.
        for _ in 0..dice.below(8) {
            let id = world.connect(Reads::AtOnce);
            world.client_mut(id).be_stubborn();
        }
        let asked = world.now();
        world.ask_to_stop();
        assert_eq!(world.run_to_end(), Ended::Drained);
        let took = world.now().since(asked);
        let most = limits.drain + Duration::from_millis(100);
        assert!(limits.drain <= took && took < most, "it took {took:?}");
        assert!(world.server.counters().cut >= 3);
        world.leave(counts);
    }
);

// What is in a socket, in the accept queue or above the limit when the server is asked to stop, and
// no more of a flood than the last input.
scenario!(
    a_drain_answers_every_request_that_had_arrived,
    0.25,
    &[Fault::Late, Fault::DataAfterCancel, Fault::NoBuffers],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let mut limits = limits(dice.between(2, 20));
        limits.silent_timeout = None;
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let early = world.connect_many(dice.below(10));
        world.iterate(dice.below(30));
        let late = world.connect_many(dice.below(10));
        let clients: Vec<ClientId> = early.into_iter().chain(late).collect();
        let requests: Vec<Vec<u8>> =
            clients.iter().map(|_| speech(dice, dice.clone().between(1, 150))).collect();
        for (&id, request) in clients.iter().zip(&requests) {
            world.client_mut(id).send(request);
            world.client_mut(id).send_all();
        }
        let flood = world.connect(Reads::AtOnce);
        let (asked, endless) = (world.now(), vec![b'x'; 2 * LAST_INPUT as usize]);
        world.client_mut(flood).send(&endless);
        world.ask_to_stop();
        // Those that come later delay nothing.
        world.connect_many(dice.below(10));
        assert_eq!(world.run_to_end(), Ended::Drained);
        assert!(world.now().since(asked) < LINGER, "{:?}", world.now().since(asked));
        for (&id, request) in clients.iter().zip(&requests) {
            assert_received(world.client(id), request);
        }
        let answered = world.client(flood).received().len();
        // What came before the server knew that it is asked, and the last receive, come on top.
        assert!(answered <= LAST_INPUT as usize + 65_536 + 2048, "{answered} of a flood");
        assert_eq!(world.server.counters().cut, 0);
        world.leave(counts);
    }
);

scenario!(
    a_last_listener_that_fails_during_a_drain_ends_no_connection,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice).with(Fault::NoMemory, 0);
        let mut world = World::new(setup, SMALL, limits(4), |_| Echo);
        let sent = speech(dice, 3000);
        let served: Vec<_> = (0..4).map(|_| world.connect(Reads::Never)).collect();
        world.until("they are served", |world| world.server.connections() == 4);
        served.iter().for_each(|&id| world.client_mut(id).send(&sent));
        world.until("all is received", |world| {
            served.iter().all(|&id| world.client(id).taken() == sent.len())
        });
        // They wait for a connection to close, and their listener fails meanwhile.
        world.connect_many(3);
        world.ask_to_stop();
        world.iterate(dice.below(6));
        world.sim().shut_down(LISTENER);
        served.iter().for_each(|&id| world.client_mut(id).set_reads(Reads::AtOnce));
        assert_eq!(world.run_to_end(), Ended::Drained);
        served.iter().for_each(|&id| assert_received(world.client(id), &sent));
        assert_eq!(world.server.counters().cut, 0);
        world.leave(counts);
    }
);

// Iterations are counted, and not time.
scenario!(
    a_light_connection_is_served_in_the_next_iterations_during_floods,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = Faults::NONE;
        // One enter in an iteration.
        (setup.socket_buffer, setup.entries) = (65_536, 256);
        let shapes = [(256, 64), (4096, 64)];
        let mut world = World::new(setup, &shapes, limits(CONNECTIONS), |_| Echo);
        let pinger = world.connect(Reads::AtOnce);
        let floods: Vec<_> =
            (0..dice.between(1, 16)).map(|_| world.connect(Reads::AtOnce)).collect();
        for &flood in &floods {
            world.client_mut(flood).send(&vec![b'x'; 400_000]);
        }
        world.until("the floods have grown", |world| {
            floods.iter().all(|&id| world.client(id).taken() > 10_000)
        });
        for round in 1..20 {
            let taken =
                |world: &World<_>| floods.iter().map(|&id| world.client(id).taken()).collect();
            world.client_mut(pinger).send(b"x");
            world.client_mut(pinger).send_all();
            let mut iterations = 0;
            while world.client(pinger).received().len() < round {
                let before: Vec<usize> = taken(&world);
                assert!(world.server.run_once().unwrap().is_continue());
                for (before, after) in before.into_iter().zip(taken(&world) as Vec<usize>) {
                    assert!(after - before <= 4096, "{} bytes at once", after - before);
                }
                iterations += 1;
                // It is also played when the simulator reports the bytes, and the client reads.
                assert!(iterations <= 40, "it waits for the floods");
            }
        }
        floods.iter().for_each(|&id| world.client_mut(id).finish());
        world.client_mut(pinger).finish();
        world.until_done(&floods);
        world.drain(counts);
    }
);

/// Has the client do something, drains an echo, and returns how long that takes.
fn drain_of_one(
    dice: &mut Dice,
    mut setup: Setup,
    counts: &mut FaultCounts,
    reads: Reads,
    prepare: impl Fn(&mut World<Echo>, ClientId),
    meanwhile: impl Fn(&mut World<Echo>, ClientId),
) -> Duration {
    setup.faults = Faults::some(dice).without_resets();
    let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
    let id = world.connect(reads);
    world.client_mut(id).be_stubborn();
    world.until("it is served", |world| world.server.connections() == 1);
    prepare(&mut world, id);
    let asked = world.now();
    world.ask_to_stop();
    while world.server.run_once().unwrap().is_continue() {
        assert_ne!(world.client(id).was_reset(), Some(Reset::ByServer));
        meanwhile(&mut world, id);
    }
    world.sim().finish_clients();
    assert!(world.client(id).received_end() || reads == Reads::Never);
    assert_eq!(world.server.counters().cut, 0);
    let took = world.now().since(asked);
    world.leave(counts);
    took
}

fn assert_lingered(took: Duration) {
    assert!(LINGER <= took && took < LINGER + Duration::from_millis(100), "{took:?}");
}

scenario!(
    a_drain_does_not_wait_for_an_idle_client_that_has_acknowledged_everything,
    0.1,
    &[],
    |dice, setup, counts| {
        let speaks = dice.below(2) == 0;
        let prepare = |world: &mut World<Echo>, id| {
            if speaks {
                world.client_mut(id).send(b"hello");
                world.until("it is served", |world| world.client(id).received() == b"hello");
            }
        };
        let took = drain_of_one(dice, setup, counts, Reads::AtOnce, prepare, |_, _| {});
        assert!(took < LINGER / 4, "{took:?}");
    }
);

scenario!(
    a_client_that_has_not_acknowledged_everything_is_given_the_linger_time,
    0.1,
    &[],
    |dice, mut setup, counts| {
        (setup.window, setup.socket_buffer) = (200, 4096);
        let bytes = speech(dice, 3000); // More than the window, and less than the socket takes.
        let prepare = |world: &mut World<Echo>, id| {
            world.client_mut(id).send(&bytes);
            world.until("it is sent", |world| world.server.counters().sent_bytes == 3000);
        };
        let took = drain_of_one(dice, setup, counts, Reads::Never, prepare, |_, _| {});
        assert_lingered(took);
    }
);

scenario!(
    a_client_that_sends_after_the_end_is_given_the_linger_time_and_is_not_reset,
    0.1,
    &[],
    |dice, setup, counts| {
        let left = Cell::new(1000usize);
        let sends = |world: &mut World<Echo>, id| {
            let is_sent_the_end = world.client(id).is_sent_the_end();
            if is_sent_the_end && left.replace(left.get().saturating_sub(1)) > 0 {
                world.client_mut(id).send(b"!");
                world.client_mut(id).send_all();
            }
        };
        let took = drain_of_one(dice, setup, counts, Reads::AtOnce, |_, _| {}, sends);
        assert_lingered(took);
    }
);

scenario!(a_second_stop_ends_at_once, 0.1, &[], |dice, mut setup, counts| {
    setup.faults = Faults::some(dice).without_resets();
    let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
    for _ in 0..5 {
        let id = world.connect(Reads::Never);
        world.client_mut(id).send(&speech(dice, 8000));
        world.client_mut(id).be_stubborn(); // Else the drain may end as the second stop is asked.
    }
    world.until("one is served", |world| world.server.counters().received_bytes > 0);
    world.iterate(dice.below(40));
    let first = world.now();
    world.ask_to_stop();
    for _ in 0..dice.below(40) {
        let drained = world.server.run_once().unwrap() == ControlFlow::Break(Ended::Drained);
        if drained || world.now().since(first) >= LINGER {
            return world.leave(counts); // It was quicker, or is about to be.
        }
    }
    let asked = world.now();
    world.ask_to_stop();
    assert_eq!(world.run_to_end(), Ended::AtOnce);
    assert!(world.now().since(asked) < Duration::from_millis(10));
    world.leave(counts);
});

/// Replies to the first bytes that it receives, and ends.
#[derive(Debug, Clone)]
struct Curt;

impl Protocol for Curt {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        input.take_all();
        out.send("no");
        out.finish();
    }
}

scenario!(
    a_server_that_closes_first_loses_none_of_its_last_bytes,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Curt);
        let all: Vec<_> = (0..6).map(|_| world.connect(some_reads(dice))).collect();
        all.iter().for_each(|&id| world.client_mut(id).send(&speech(dice, 50_000)));
        world.until_done(&all);
        all.iter().for_each(|&id| assert_received(world.client(id), b"no"));
        world.until("all have left", |world| world.server.connections() == 0);
        assert!(world.now() < Nanos(0) + LINGER, "the end was received, not waited out");
        world.drain(counts);
    }
);

/// Ends a connection that was idle for this time.
struct Idle(Instant);

const IDLE: Duration = Duration::from_secs(30);

impl Protocol for Idle {
    fn open(&mut self, out: &mut Outbox<'_>) {
        self.0 = out.now();
        out.set_timer(IDLE);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        self.0 = out.now();
        out.set_timer(IDLE);
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        let idle = out.now() - self.0;
        assert!(idle >= IDLE && idle < IDLE + Duration::from_secs(1), "{idle:?}");
        out.send("idle");
        out.finish();
    }
}

scenario!(
    a_timer_expires_for_its_own_connection_at_its_time,
    0.25,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Idle(Instant::now()));
        let mut first = world.connect_many(8);
        // Some leave before their timers expire; others take their slots.
        for id in first.split_off(4) {
            world.client_mut(id).send(b"x");
            world.client_mut(id).finish();
        }
        world.until("half have left", |world| world.server.connections() == 4);
        let start = world.now();
        let later = world.connect_many(4);
        later.iter().for_each(|&id| world.client_mut(id).send(b"hello"));
        world.until_done(&first);
        world.until_done(&later);
        assert!(world.now() >= start + IDLE);
        first.iter().for_each(|&id| assert_received(world.client(id), b"idle"));
        later.iter().for_each(|&id| assert_received(world.client(id), b"helloidle"));
        world.drain(counts);
    }
);

/// What another thread has to answer: the line, where the answer goes, and the handle to wake.
type Job = (Vec<u8>, Arc<Mutex<Vec<Vec<u8>>>>, PeerHandle);

/// Has each line answered elsewhere, and receives nothing until it is.
struct Ask {
    jobs: Arc<Mutex<Vec<Job>>>,
    answers: Arc<Mutex<Vec<Vec<u8>>>>,
    me: PeerHandle,
}

impl Protocol for Ask {
    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        if let Some(line) = input.line(100) {
            let job = (line.to_ascii_uppercase(), Arc::clone(&self.answers), self.me.clone());
            self.jobs.lock().unwrap().push(job);
            out.pause();
        }
    }

    fn wake(&mut self, out: &mut Outbox<'_>) {
        for answer in self.answers.lock().unwrap().drain(..) {
            out.send(answer);
            out.resume();
        }
    }
}

scenario!(
    each_wake_reaches_its_own_connection_however_late_it_is,
    0.25,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
        let shared = Arc::clone(&jobs);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), move |peer| Ask {
            jobs: Arc::clone(&shared),
            answers: Arc::default(),
            me: peer.handle(),
        });
        let mut stale: Vec<PeerHandle> = Vec::new();
        let (mut clients, mut expected) = (Vec::new(), Vec::new());
        for round in 0..40 {
            if round % 4 == 0 {
                let lines = format!("a{round}\nb{round}\n");
                expected.push(lines.to_ascii_uppercase().into_bytes());
                clients.push(world.send_and_end(Reads::AtOnce, lines.as_bytes()));
            }
            world.iterate(dice.below(8));
            // Some jobs are done, in any order; the descriptor of the wake is read later.
            for _ in 0..dice.below(3) {
                let mut jobs = jobs.lock().unwrap();
                let count = jobs.len();
                if count > 0 {
                    let (answer, to, peer) = jobs.swap_remove(dice.below(count));
                    to.lock().unwrap().push(answer);
                    (0..=dice.below(2)).for_each(|_| peer.wake());
                    stale.push(peer);
                }
            }
            // Those of connections that have closed reach no other one in their slots.
            for peer in stale.iter().filter(|_| dice.below(4) == 0) {
                peer.wake();
            }
            world.iterate(dice.below(4));
            world.sim().wake();
        }
        let mut rounds = 0..10_000;
        while !clients.iter().all(|&id| world.client(id).is_done()) {
            assert!(rounds.next().is_some(), "a wake was lost");
            for (answer, to, peer) in jobs.lock().unwrap().drain(..) {
                to.lock().unwrap().push(answer);
                peer.wake();
                world.sim().wake();
            }
            world.iterate(20);
        }
        for (&id, expected) in clients.iter().zip(&expected) {
            assert_received(world.client(id), expected);
        }
        assert!(stale.iter().all(|peer| peer.send("late").is_err()));
        world.drain(counts);
    }
);

scenario!(
    a_linger_timer_does_not_affect_the_next_connection_in_its_slot,
    0.1,
    &[],
    |dice, mut setup, counts| {
        // A pause of the accepts would let the linger time pass before all are there.
        setup.faults = some_faults_that_pass(dice).with(Fault::NoMemory, 0);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Curt);
        let mut first = world.connect_many(6);
        let stubborn = first[0];
        world.client_mut(stubborn).be_stubborn();
        first.iter().for_each(|&id| world.client_mut(id).send(b"hello"));
        world.until_done(&first);
        world.until("all but one have left", |world| world.server.connections() == 1);
        // They reuse the slots of the clients that ended, and stay idle past the old linger timers.
        let next = world.connect_many(5);
        world.until("they are served", |world| world.server.connections() == 6);
        world.until("the stubborn one is closed", |world| world.server.connections() == 5);
        assert!(world.now() >= Nanos(0) + LINGER);
        world.until_idle();
        next.iter().for_each(|&id| world.client_mut(id).send(b"hello"));
        first.extend(&next);
        world.until_done(&first);
        next.iter().for_each(|&id| assert_received(world.client(id), b"no"));
        world.drain(counts);
    }
);

scenario!(the_same_seed_is_the_same_run, 0.02, &[], |dice, mut setup, counts| {
    setup.faults = Faults::some(dice);
    let sent = speech(dice, 5000);
    let runs = [(); 2].map(|()| {
        let mut world = World::new(setup.clone(), SMALL, limits(CONNECTIONS), |_| Echo);
        let all: Vec<_> = (0..9).map(|_| world.send_and_end(Reads::AtOnce, &sent)).collect();
        world.until_done(&all);
        let run = (world.now(), world.server.counters(), *world.server.ring().fault_counts());
        world.drain(counts);
        run
    });
    assert_eq!(runs[0], runs[1]);
});

// A console.

fn some_faults_that_read_badly(dice: &mut Dice) -> Faults {
    some_faults_that_pass(dice).with(Fault::ShortRead, 300).with(Fault::ReadInterrupted, 100)
}

/// Attaches an operator console; its output goes to the file.
fn with_console<P: Protocol>(world: &mut World<P>) -> File {
    let answers = tempfile::tempfile().unwrap();
    let input = File::open("/dev/null").unwrap().into(); // Not read by the simulated kernel.
    let output = answers.try_clone().unwrap();
    world.server.set_console(Console::new(input, output, false, Vec::new()).unwrap()).unwrap();
    answers
}

fn text_of(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

scenario!(
    what_is_typed_is_done_however_it_is_read,
    0.2,
    &[Fault::ShortRead, Fault::ReadInterrupted],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_read_badly(dice);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let answers = with_console(&mut world);
        let clients = world.connect_many(3);
        world.until("all are there", |world| world.server.connections() == 3);
        let lines: String = (0..20).map(|n| format!("line {n}\n")).collect();
        let typed: String = lines.lines().map(|line| format!("say {line}\n")).collect();
        let mut typed = typed.as_bytes();
        while !typed.is_empty() {
            let (piece, rest) = typed.split_at(dice.between(1, typed.len()));
            world.sim().type_in(piece);
            world.iterate(dice.below(20));
            typed = rest;
        }
        world.until("all is received", |world| {
            clients.iter().all(|&id| world.client(id).received().len() >= lines.len())
        });
        for &id in &clients {
            assert_eq!(world.client(id).received(), lines.as_bytes());
        }
        world.sim().type_in(b"kick 2\nlist\n3 alone");
        world.sim().end_input();
        world.until("one is gone, and one has the message", |world| {
            let received = |&&id: &&ClientId| world.client(id).received().ends_with(b"alone\n");
            world.server.connections() == 2 && clients.iter().filter(received).count() == 1
        });
        world.drain(counts);
        let text = text_of(answers);
        assert!(
            text.starts_with("sent to 3 connections\n") && text.contains("kicked 2\n"),
            "{text}"
        );
    }
);

scenario!(drain_ends_the_server_and_quit_ends_it_at_once, 0.1, &[], |dice, mut setup, counts| {
    setup.faults = some_faults_that_read_badly(dice);
    let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
    let answers = with_console(&mut world);
    let bytes = speech(dice, 5000);
    let client = world.send_and_end(Reads::AtOnce, &bytes);
    world.until_done(&[client]);
    world.until("it has left", |world| world.server.connections() == 0);
    // Both stay, so that the server still drains when the second line is read.
    let stay = world.connect_many(2);
    stay.into_iter().for_each(|id| world.client_mut(id).be_stubborn());
    world.until("all are there", |world| world.server.connections() == 2);
    let quits = dice.chance(500);
    world.sim().type_in(if quits { b"drain\nquit\n" } else { b"drain\ndrain\n" });
    let ended = world.run_to_end();
    assert_eq!(ended, if quits { Ended::AtOnce } else { Ended::Drained });
    world.leave(counts);
    let text = text_of(answers);
    let both = "draining: 2 connections to finish\n";
    assert!(text.starts_with(both), "{text}");
    assert!(quits || text.ends_with("draining already\n"), "{text}");
});

scenario!(
    a_failed_console_input_costs_no_connection_a_byte,
    0.05,
    &[Fault::ReadFailed],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice).with(Fault::ReadFailed, 1000);
        let mut world = World::new(setup, SMALL, limits(CONNECTIONS), |_| Echo);
        let answers = with_console(&mut world);
        world.sim().type_in(b"quit\n");
        let bytes = speech(dice, 5000);
        let client = world.send_and_end(Reads::AtOnce, &bytes);
        world.until_done(&[client]);
        assert_received(world.client(client), &bytes);
        world.drain(counts);
        assert_eq!(text_of(answers), "");
    }
);

scenario!(
    a_full_server_closes_the_oldest_silent_connection_when_its_time_is_over,
    0.1,
    &[],
    |dice, setup, counts| {
        let mut world = World::new(setup, SMALL, limits(3), |_| Echo);
        let time = world.limits.silent_timeout.unwrap();
        let mut begin = Nanos(0);
        let [oldest, younger, talks] = [1, 2, 3].map(|count| {
            let id = world.connect(Reads::AtOnce);
            world.until("it is served", |world| world.server.connections() == count);
            begin = if count == 1 { world.now() } else { begin };
            id
        });
        world.client_mut(talks).send(b"x");
        let waits = world.send_and_end(Reads::AtOnce, &speech(dice, 1000));
        world.until("the oldest is closed", |world| world.client(oldest).received_end());
        let took = world.now().since(begin);
        let second = Duration::from_secs(1);
        assert!(took + second > time && took < time + second, "{took:?}");
        assert!(!world.client(younger).received_end() && !world.client(talks).received_end());
        assert_eq!(world.server.counters().silent, 1, "one at a time");
        world.until_done(&[waits]);
        for id in [talks, oldest, younger] {
            assert_eq!(world.client(id).was_reset(), None);
        }
        assert!(!world.client(talks).received_end());
        world.drain(counts);
    }
);

scenario!(
    connections_are_accepted_at_the_accept_rate_and_none_is_lost,
    0.1,
    &[],
    |dice, mut setup, counts| {
        setup.faults = some_faults_that_pass(dice);
        let mut limits = limits(CONNECTIONS);
        limits.accept_rate = Some("10/s".parse().unwrap());
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let sent = speech(dice, 100);
        let clients: Vec<_> = (0..30).map(|_| world.send_and_end(Reads::AtOnce, &sent)).collect();
        let begin = world.now();
        world.until_done(&clients);
        let took = world.now().since(begin);
        let expected = Duration::from_secs(2);
        assert!(took >= expected && took < expected + Duration::from_millis(500), "{took:?}");
        clients.iter().for_each(|&id| assert_received(world.client(id), &sent));
        world.drain(counts);
    }
);

scenario!(
    connections_beyond_the_limit_of_their_address_receive_the_end_and_leave_nothing,
    0.25,
    &[],
    |dice, mut setup, counts| {
        if setup.seed % 2 == 0 {
            return; // This kernel reports no address.
        }
        setup.faults = some_faults_that_pass(dice);
        let mut limits = limits(CONNECTIONS);
        limits.connections_per_address = Some(2);
        let mut world = World::new(setup, SMALL, limits, |_| Echo);
        let [one, two] = [(); 2].map(|()| world.connect(Reads::AtOnce));
        world.client_mut(one).send(b"x");
        world.until("they are served", |world| {
            world.client(one).received() == b"x" && world.server.connections() == 2
        });
        let refused = world.connect_many(dice.between(1, 20));
        world.until("the others have their end", |world| {
            refused.iter().all(|&id| world.client(id).is_done())
        });
        for &id in &refused {
            assert_eq!(
                (world.client(id).received(), world.client(id).was_reset()),
                (&b""[..], None)
            );
        }
        assert_eq!(world.server.counters().address_limit, refused.len() as u64);
        world.client_mut(two).finish();
        world.until("a place is free", |world| world.server.connections() == 1);
        let next = world.send_and_end(Reads::AtOnce, b"PING");
        world.until_done(&[next]);
        assert_received(world.client(next), b"PING");
        world.drain(counts);
    }
);
