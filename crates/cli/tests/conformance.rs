//! Every I/O model, the same scenarios: what a client may rely on, whichever loop serves it.
//!
//! Each scenario runs on each model, and on io_uring at each level of kernel that the ring knows
//! how to be content with. Several are named after the traps that servers fall into: a peer that
//! never reads, a reset in mid-stream, more clients than descriptors, a pool with two buffers.
//!
//! What a model cannot do is left out by declaration: in one table, with a reason, which `proactor
//! models` prints too. What a host lacks is skipped with its reason, counted, on stderr.
//! `PROACTOR_NO_SKIPS=1` makes a skip a failure, `PROACTOR_SEED=n` plays with other bytes.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;

use std::io::{Error, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proactor::model::Ability;
use proactor::ring::kernel::Capability;
use serde_json::Value;
use support::process::{Holdings, queues};
use support::server::{PROACTOR, REACTOR, Server};
use support::{
    Address, Client, Launch, Options, Process, Random, declared, eventually, io_uring_refused,
    ipv6_missing, skip,
};

/// One way to serve.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Model {
    program: &'static str,
    /// As `--model` has it.
    name: &'static str,
    /// As the line of a listener has it.
    word: &'static str,
    /// As `--kernel` has it; none is the kernel's own level.
    kernel: Option<&'static str>,
    /// How it polls instead of sleeping: further options.
    polling: Option<&'static str>,
}

impl Model {
    const fn uring() -> Model {
        Model { program: PROACTOR, name: "uring", word: "io_uring", kernel: None, polling: None }
    }

    /// The ring as it would be on an older kernel.
    const fn kernel(kernel: &'static str) -> Model {
        Model { kernel: Some(kernel), ..Model::uring() }
    }

    const fn readiness(name: &'static str) -> Model {
        Model { program: REACTOR, name, word: name, kernel: None, polling: None }
    }

    const fn polling(self, polling: &'static str) -> Model {
        Model { polling: Some(polling), ..self }
    }

    /// Returns the model as the program declares it.
    fn declared(self) -> proactor::Model {
        proactor_models::find(self.name).expect("a model")
    }

    /// Whether it says that it cannot.
    fn missing(self, ability: Ability) -> bool {
        self.declared().info().missing(ability).is_some()
    }

    /// Itself, unless it says that it cannot do one of these.
    fn able(self, needs: &[Ability]) -> Option<Model> {
        for &ability in needs {
            if let Some(reason) = self.declared().info().missing(ability) {
                declared(&format!("{} {}: {reason}", self.name, ability.denied()));
                return None;
            }
        }
        Some(self)
    }

    /// So many clients, or one if it serves one at a time.
    fn at_once(self, clients: usize) -> usize {
        if self.missing(Ability::Crowd) { 1 } else { clients }
    }

    /// Itself, unless this host has no such thing.
    fn available(self) -> Option<Model> {
        if self.name == "uring"
            && let Some(reason) = io_uring_refused()
        {
            skip(&reason);
            return None;
        }
        Some(self)
    }

    /// A server of this protocol at a free port.
    fn serve(self, protocol: &str) -> Launch {
        self.serve_at(protocol, &["127.0.0.1:0"])
    }

    fn serve_at(self, protocol: &str, addresses: &[&str]) -> Launch {
        self.launch(Launch::new(self.program, &[]), protocol, addresses)
    }

    /// The same, by a command that has begun.
    fn launch(self, begun: Launch, protocol: &str, addresses: &[&str]) -> Launch {
        let serve: &[&str] = if self.program == PROACTOR { &["serve"] } else { &[] };
        let mut launch =
            begun.args(serve).args(&["--model", self.name, "--protocol", protocol, "--stats"]);
        if self.name == "nonblocking" {
            // It sleeps when idle, like the others, and leaves the CPU to other tests.
            launch = launch.args(&["--idle-sleep", "4ms"]);
        }
        if let Some(kernel) = self.kernel {
            launch = launch.args(&["--kernel", kernel]);
        }
        launch = launch.args(self.polling.as_slice());
        addresses.iter().fold(launch, |launch, address| launch.args(&["--listen", address]))
    }

    /// An address of 127.0.0.0/8 on which nothing else is, whatever runs beside it.
    fn own_address(self) -> String {
        let way = MODELS.iter().position(|&model| model == self).expect("one of them") as u32;
        let pid = std::process::id();
        format!("127.{}.{}.{}:7000", 64 + way, pid % 256, 1 + pid / 256 % 250)
    }
}

/// Makes a test of each scenario on each model; `needs` names what a model must be able to do. What
/// it cannot is declared in one table, [`proactor::model::ModelInfo::missing`].
macro_rules! conformance {
    ($scenarios:tt on $($place:ident: $model:expr,)+) => {
        const MODELS: &[Model] = &[$($model),+];
        mod on { $(mod $place { conformance!(@each $model, $scenarios); })+ }
    };
    (@each $model:expr, { $($scenario:ident $(needs $($ability:ident)+)?,)+ }) => {
        use crate::Model;
        $(#[test] fn $scenario() {
            let needs: &[crate::Ability] = &[$($(crate::Ability::$ability),+)?];
            if let Some(model) = $model.able(needs).and_then(Model::available) {
                crate::$scenario(model);
            }
        })+
    };
}

conformance!({
    // Bytes.
    every_byte_comes_back_however_it_was_cut,
    letters_are_raised_and_every_byte_comes_back,
    every_byte_comes_back_through_small_windows,
    many_small_messages_at_once_come_back,
    single_bytes_come_back,
    every_kind_of_listener_at_once,
    // Ends.
    a_client_that_ends_receives_everything_and_then_the_end,
    a_client_that_ends_while_its_reads_stall_receives_everything_and_then_the_end,
    a_client_that_ends_while_output_is_queued_receives_everything_and_then_the_end needs Duplex,
    a_client_that_ends_without_a_byte_receives_the_end,
    a_reader_that_stalls_gets_every_byte_when_it_goes_on,
    a_reset_in_mid_stream_affects_no_other_connection,
    every_close_is_counted_by_its_reason_and_logged_with_the_peers_address,
    thousands_come_and_go_and_nothing_stays,
    a_client_that_leaves_without_a_byte_leaves_nothing_behind,
    a_client_killed_in_mid_message_leaves_nothing,
    two_hundred_short_connections_at_once_leave_nothing,
    // Crowds and scarcity.
    a_client_that_never_reads_costs_bounded_memory_and_no_time needs Crowd,
    a_flood_does_not_delay_other_connections needs Crowd,
    an_idle_crowd_costs_nothing needs Crowd,
    a_connection_above_the_limit_is_served_when_others_leave needs Crowd,
    a_full_server_closes_silent_connections_and_says_that_it_is_full needs Crowd,
    a_member_that_only_listens_is_not_silent needs Crowd,
    an_address_has_so_many_connections_and_the_end_of_others_is_orderly needs Crowd,
    an_address_that_connects_too_often_is_closed_and_others_are_served,
    connections_above_the_accept_rate_wait_and_are_served,
    the_client_in_a_proxy_header_is_logged_and_limited_and_no_byte_is_lost,
    a_member_joins_behind_its_proxy_header needs Crowd,
    the_addresses_of_a_name_have_one_chat needs Crowd,
    more_clients_than_descriptors_spin_nothing_and_are_served_in_the_end needs Crowd,
    descriptors_that_run_out_meanwhile_spin_nothing_and_all_are_served_in_the_end needs Crowd,
    a_crowd_that_bursts_into_two_buffers_gets_every_byte,
    a_client_that_holds_every_buffer_and_reads_nothing_is_evicted needs Crowd,
    a_listener_shut_down_from_outside_is_closed_and_the_last_one_ends_the_server,
    // Chat.
    lines_reach_all_others_whole_in_order_and_never_their_speaker needs Crowd,
    a_stopped_reader_costs_the_healthy_no_line needs Crowd,
    a_slow_reader_loses_no_line needs Crowd,
    a_member_that_reads_slowly_and_steadily_stays_while_others_flood needs Crowd,
    a_line_too_long_is_answered_and_goes_no_further needs Crowd,
    the_last_line_needs_no_newline needs Crowd,
    control_characters_reach_no_other_client needs Crowd,
    each_listener_is_a_group_of_its_own needs Crowd,
    every_leave_is_announced_however_it_happens needs Crowd,
    // Other protocols.
    each_listener_says_its_own needs Crowd,
    a_pattern_without_end_keeps_to_the_pace_of_its_readers needs Crowd,
    // Time.
    a_client_that_reads_nothing_is_closed_though_no_other_waits,
    a_client_that_sends_nothing_is_idle_or_drips_is_ended_in_order_and_a_busy_one_stays,
    a_first_byte_is_awaited_behind_a_proxy_header_and_of_no_client_that_may_only_listen,
    a_client_that_vanishes_would_be_asked_for,
    // Stopping.
    a_drain_delivers_what_is_owed_and_then_the_end needs Duplex,
    a_drain_delivers_to_a_reader_that_resumes,
    a_drain_ends_idle_connections,
    a_drain_does_not_linger_for_clients_that_keep_their_half_open,
    a_drain_answers_every_request_that_had_arrived,
    a_drain_answers_requests_despite_a_flood_and_a_storm_of_connects needs Crowd,
    a_drain_does_not_reset_a_client_that_still_sends,
    a_drain_with_clients_connected_leaves_nothing,
    a_drain_in_mid_talk_delivers_whole_lines needs Crowd,
    a_drain_cuts_a_client_that_never_reads,
    a_drain_in_a_storm_of_connects_ends,
    a_second_signal_ends_at_once,
    a_server_that_was_stopped_and_continued_goes_on,
    a_server_killed_under_load_leaves_its_address_free,
} on
    uring: Model::uring(),
    uring_with_sqpoll: Model::uring().polling("--sqpoll=1ms"),
    uring_that_spins: Model::uring().polling("--spin=1ms"),
    epoll_that_spins: Model::readiness("epoll").polling("--spin=1ms"),
    uring_as_on_6_12: Model::kernel("6.12"),
    uring_as_on_6_1: Model::kernel("6.1"),
    uring_as_on_6_0: Model::kernel("6.0"),
    uring_as_on_5_19: Model::kernel("5.19"),
    uring_as_on_5_11: Model::kernel("5.11"),
    uring_as_on_5_7: Model::kernel("5.7"),
    uring_as_on_5_6: Model::kernel("5.6"),
    epoll: Model::readiness("epoll"),
    epoll_et: Model::readiness("epoll-et"),
    poll: Model::readiness("poll"),
    select: Model::readiness("select"),
    epoll_oneshot: Model::readiness("epoll-oneshot"),
    sigio: Model::readiness("sigio"),
    nonblocking: Model::readiness("nonblocking"),
    coroutine: Model::readiness("coroutine"),
    thread: Model::readiness("thread"),
    process: Model::readiness("process"),
    blocking: Model::readiness("blocking"),
);

#[test]
fn no_model_is_left_out() {
    for model in proactor_models::ALL {
        let tested = MODELS.iter().any(|tested| tested.name == model.name());
        assert!(tested, "{model} is not held against the scenarios");
    }
}

/// A model that is declared to serve one connection at a time does so: the second one waits.
#[test]
fn blocking_serves_one_connection_while_the_next_waits() {
    for model in MODELS.iter().filter(|model| model.missing(Ability::Crowd)) {
        let server = model.serve("echo").start();
        let [first, second] = [(); 2].map(|()| Client::connect(server.address()));
        first.ping();
        second.say(b"PING");
        second.hear_nothing();
        first.ping();
        server.process.assert_idle("while the next one waits");
        drop(first);
        second.hear(b"PING");
        second.ping();
        drop(second);
        server.drain();
    }
}

/// A server of one connection at a time is always full: one that never sends would end its service.
#[test]
fn blocking_closes_a_silent_connection_for_the_next() {
    for model in MODELS.iter().filter(|model| model.missing(Ability::Crowd)) {
        let server = model.serve("echo").args(&["--silent-timeout", "20ms"]).start();
        let [silent, second] = [(); 2].map(|()| Client::connect(server.address()));
        second.say(b"PING");
        silent.hear_end();
        second.hear(b"PING");
        second.hear_nothing(); // Twice the time, and it is not closed.
        second.ping();
        server.drain();
    }
}

/// What is declared to be lacking is lacking: a loop would have received more, and owed it.
#[test]
fn blocking_models_owe_no_more_than_the_last_receive() {
    /// The size of the largest buffer.
    const MOST: usize = 256 << 10;
    let bytes = Random::of_test().bytes(32 << 20);
    for model in MODELS.iter().filter(|model| model.missing(Ability::Duplex)) {
        let server = model.serve("echo").start();
        let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
        let said = client.say_until_stuck(&bytes);
        eventually_idle(server.process);
        let (ours, theirs) = (client.local(), server.address().tcp());
        let (sending, waiting) = queues(ours, theirs).expect("a connection");
        let (sent, receiving) = queues(theirs, ours).expect("a connection");
        let received = said - sending - receiving;
        assert!(receiving > 0, "it has something to receive");
        let owed = received.saturating_sub(sent + waiting);
        assert!(owed <= MOST, "{} received {received} bytes and owes {owed}", model.name);
        client.hear(&bytes[..said]);
        drop(client);
        server.drain();
    }
}

/// A full signal queue drops signals, but reports that it did (kernel-notes §24).
#[test]
fn a_queue_of_two_signals_loses_no_byte() {
    let mut random = Random::of_test();
    let server = Model::readiness("sigio").serve("echo").signals(2).start();
    thread::scope(|scope| {
        for _ in 0..24 {
            let (client, mut random) = (Client::connect(server.address()), random.branch());
            scope.spawn(move || {
                let bytes = random.bytes(64 << 10);
                client.converse(&bytes, &bytes, &mut random);
                client.finish();
                client.hear_end();
            });
        }
    });
    server.process.assert_idle("after signals were lost");
    server.drain();
}

#[test]
fn nonblocking_uses_a_whole_cpu_unless_it_sleeps() {
    let spinning = Launch::new(REACTOR, &["--model", "nonblocking", "--listen", "127.0.0.1:0"]);
    let spinning = spinning.start();
    let slept_for = |server: &Server, pings: usize| {
        let client = Client::connect(server.address());
        client.ping();
        let before = server.process.sleeps();
        (0..pings).for_each(|_| client.ping());
        server.process.sleeps() - before
    };
    // A page or a lock may be waited for, but nothing that comes from the client.
    let slept = slept_for(&spinning, 1000);
    assert!(slept < 50, "it went to sleep {slept} times");
    spinning.terminate();
    let sleeping = Model::readiness("nonblocking").serve("echo").start();
    let before = sleeping.process.sleeps();
    slept_for(&sleeping, 100);
    let rounds = || (sleeping.process.sleeps() >= before + 100).then_some(());
    eventually("it sleeps between the rounds", rounds);
    sleeping.process.assert_idle("between the rounds");
    sleeping.drain();
}

/// Returns what a server holds after it has served one connection. (The thread of a connection that
/// has just closed may still be counted.)
fn at_rest(server: &Server) -> Holdings {
    let before = server.process.descriptors();
    Client::connect(server.address()).ping();
    eventually("no connection is open", || {
        let holdings = server.process.holdings();
        (server.process.descriptors() <= before).then_some(holdings)
    })
}

/// Waits until a server holds no more than before: no descriptor, no thread, no child, no zombie.
fn eventually_nothing_stays(process: Process, before: Holdings) {
    let what = format!("no more stays than {before:?}");
    eventually(&what, || process.holdings().at_most(before).then_some(()));
}

// Bytes.

fn every_byte_comes_back_however_it_was_cut(model: Model) {
    integrity(model, "echo", Options::default(), 4, 1 << 20);
}

/// No kernel has been seen with these sets of features, but `serve --without` makes them.
#[test]
fn a_ring_without_any_one_feature_echoes_and_drains() {
    if Model::uring().available().is_none() {
        return;
    }
    for feature in Capability::all() {
        let without = format!("--without={}", feature.name()).leak();
        integrity(Model::uring().polling(without), "echo", Options::default(), 2, 256 << 10);
    }
}

#[test]
fn a_feature_that_is_left_out_is_not_used_nor_what_needs_it() {
    if Model::uring().available().is_none() {
        return;
    }
    let without = "--without=RECV_MULTISHOT,file_index_alloc,SETUP_SINGLE_ISSUER";
    let exit = Model::uring().polling(without).serve("echo").start().drain();
    let detail = exit.stats()["detail"].to_string();
    for left_out in ["multishot", "direct descriptors", "DEFER_TASKRUN"] {
        assert!(!detail.contains(left_out), "{detail}");
    }
}

fn letters_are_raised_and_every_byte_comes_back(model: Model) {
    integrity(model, "upper", Options::default(), 2, 256 << 10);
}

fn every_byte_comes_back_through_small_windows(model: Model) {
    integrity(model, "echo", Options::SMALL, 3, 64 << 10);
}

/// Several clients at once, each of which sends and receives at the same time.
fn integrity(model: Model, protocol: &str, options: Options, clients: usize, bytes: usize) {
    let mut random = Random::of_test();
    let server = model.serve(protocol).start();
    assert_eq!(server.listening[0].model, model.word);
    assert_eq!(server.listening[0].protocol, protocol);
    thread::scope(|scope| {
        for _ in 0..clients {
            let client = Client::connect_with(server.address(), options);
            let mut random = random.branch();
            scope.spawn(move || {
                let said = random.bytes(bytes);
                let heard = match protocol {
                    "upper" => said.to_ascii_uppercase(),
                    _ => said.clone(),
                };
                client.converse(&said, &heard, &mut random);
                client.finish();
                client.hear_end();
            });
        }
    });
    let exit = server.drain();
    for counter in ["received_bytes", "sent_bytes"] {
        assert_eq!(exit.counter(counter), (clients * bytes) as u64, "{counter}: {exit:?}");
    }
}

fn many_small_messages_at_once_come_back(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect(server.address());
    let messages: Vec<Vec<u8>> =
        (0..20_000).map(|n| format!("{n}:{}", "-".repeat(random.length(16))).into()).collect();
    client.converse(&messages.concat(), &messages.concat(), &mut random);
    // And each on its own, a few of them under way at a time.
    for messages in messages[..2_000].chunks(20) {
        messages.iter().for_each(|message| client.say(message));
        client.hear(&messages.concat());
    }
    drop(client);
    server.drain();
}

fn single_bytes_come_back(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect(server.address());
    let bytes = random.bytes(3_000);
    thread::scope(|scope| {
        scope.spawn(|| bytes.iter().for_each(|byte| client.say(&[*byte])));
        client.hear(&bytes);
    });
    drop(client);
    server.drain();
}

fn every_kind_of_listener_at_once(model: Model) {
    let mut random = Random::of_test();
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("unix:{}", folder.path().join("socket").display());
    let mut addresses = vec!["127.0.0.1:0", "127.0.0.1:0", &unix];
    match ipv6_missing() {
        Some(reason) => skip(&reason),
        None => addresses.push("[::1]:0"),
    }
    let server = model.serve_at("echo", &addresses).start();
    let bytes = random.bytes(200_000);
    for (listening, asked) in server.listening.iter().zip(&addresses) {
        match &listening.address {
            Address::Tcp(address) => assert_eq!(
                address.ip().to_string(),
                asked.trim_end_matches(":0").trim_matches(['[', ']']),
                "they listen in the order they were asked for"
            ),
            address => assert_eq!(address.to_string(), *asked),
        }
        Client::connect(&listening.address).ping();
        let client = Client::connect(&listening.address);
        client.converse(&bytes, &bytes, &mut random);
        client.finish();
        client.hear_end();
    }
    server.drain();
}

// Ends.

fn a_client_that_ends_receives_everything_and_then_the_end(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    // Older idle connections must not keep the others open (kernel-notes §67).
    let others = 1..model.at_once(3);
    let resting: Vec<_> = others.map(|_| Client::connect(server.address())).collect();
    resting.iter().for_each(Client::ping);
    for len in [1, 1_000, 1 << 20] {
        let client = Client::connect(server.address());
        let bytes = random.bytes(len);
        thread::scope(|scope| {
            scope.spawn(|| {
                client.say(&bytes);
                client.finish();
            });
            client.hear(&bytes);
            client.hear_end();
        });
    }
    drop(resting);
    server.drain();
}

fn a_client_that_ends_while_its_reads_stall_receives_everything_and_then_the_end(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let bytes = random.bytes(32 << 20);
    let said = client.say_until_stuck(&bytes);
    client.finish();
    client.hear(&bytes[..said]);
    client.hear_end();
    server.drain();
}

/// While the server owes more than the kernel takes.
fn a_client_that_ends_while_output_is_queued_receives_everything_and_then_the_end(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let bytes = random.bytes(32 << 20);
    let said = say_until_owed(&server, &client, &bytes);
    client.finish();
    eventually_idle(server.process);
    client.hear(&bytes[..said]);
    client.hear_end();
    server.drain();
}

/// Sends so much to an echo that the server has received all of it and holds some of it in its own
/// memory, because the kernel takes no more for a client that does not read. Returns the number of
/// bytes.
fn say_until_owed(server: &Server, client: &Client, bytes: &[u8]) -> usize {
    let (ours, theirs) = (client.local(), server.address().tcp());
    let mut said = 256 << 10;
    client.say(&bytes[..said]);
    loop {
        let owed = || {
            let ((sending, waiting), (sent, receiving)) =
                (queues(ours, theirs)?, queues(theirs, ours)?);
            (sending + receiving == 0).then(|| said.saturating_sub(sent + waiting))
        };
        let most = eventually("the server receives all of it", owed);
        if most > 0 {
            eventually_idle(server.process);
            if owed().is_some_and(|owed| owed > 32 << 10) {
                return said;
            }
        }
        client.say(&bytes[said..said + (64 << 10)]);
        said += 64 << 10;
    }
}

fn a_client_that_ends_without_a_byte_receives_the_end(model: Model) {
    let server = model.serve("echo").start();
    let client = Client::connect(server.address());
    client.finish();
    client.hear_end();
    server.drain();
}

fn a_reader_that_stalls_gets_every_byte_when_it_goes_on(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let bytes = random.bytes(12 << 20);
    let sent = client.say_until_stuck(&bytes);
    client.converse(&bytes[sent..], &bytes, &mut random);
    client.finish();
    client.hear_end();
    server.drain();
}

fn a_reset_in_mid_stream_affects_no_other_connection(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let before = at_rest(&server);
    let bytes = random.bytes(512 << 10);
    thread::scope(|scope| {
        for _ in 0..3 {
            let client = Client::connect(server.address());
            let (mut random, bytes) = (random.branch(), &bytes);
            scope.spawn(move || client.converse(bytes, bytes, &mut random));
        }
        for n in 0..40 {
            let client = Client::connect(server.address());
            client.say(&bytes[..random.length(128 << 10)]);
            if n % 2 == 0 {
                client.hear(&bytes[..1]); // It is being answered.
            }
            if n % 4 == 3 {
                client.finish();
            }
            client.reset();
        }
    });
    eventually_nothing_stays(server.process, before);
    Client::connect(server.address()).ping();
    server.drain();
}

fn every_close_is_counted_by_its_reason_and_logged_with_the_peers_address(model: Model) {
    let log = ["--log", "debug", "--log-format", "json"];
    let server = model.serve("echo").args(&log).start();
    let addresses = [true, false].map(|in_order| {
        let client = Client::connect(server.address());
        let address = client.local().to_string();
        client.ping();
        if in_order {
            client.finish();
            client.hear_end();
        } else {
            client.reset();
        }
        address
    });
    // One that comes after both, and is answered, so that both have ended.
    Client::connect(server.address()).ping();
    let exit = server.drain();
    assert_eq!(["closed", "finished", "failed"].map(|name| exit.counter(name)), [3, 2, 1]);
    let reset = Error::from_raw_os_error(libc::ECONNRESET).to_string();
    for (address, reason) in addresses.iter().zip(["finished", &reset]) {
        let lines = exit.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let of_peer = lines.filter(|line: &Value| line["peer"] == **address);
        let said: Vec<(Value, Value)> =
            of_peer.map(|line| (line["message"].clone(), line["reason"].clone())).collect();
        assert_eq!(
            said,
            [("accepted".into(), Value::Null), ("closed".into(), reason.into())],
            "{exit:?}"
        );
    }
}

fn thousands_come_and_go_and_nothing_stays(model: Model) {
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("unix:{}", folder.path().join("socket").display());
    // A connection that is not given back is missed before long.
    let launch = model.serve_at("echo", &["127.0.0.1:0", &unix]).args(&["--max-connections", "64"]);
    let server = launch.start();
    let before = at_rest(&server);
    thread::scope(|scope| {
        for _ in 0..4 {
            let [tcp, unix] = [0, 1].map(|at| &server.listening[at].address);
            scope.spawn(move || {
                for n in 0..1_250 {
                    match n % 5 {
                        // Orderly; on TCP that leaves a port in TIME_WAIT, so not too often.
                        0 => {
                            let client = Client::connect(if n % 50 == 0 { tcp } else { unix });
                            client.ping();
                            client.finish();
                            client.hear_end();
                        }
                        1 => Client::connect(unix).ping(),
                        2 => Client::connect(tcp).reset(),
                        3 => {
                            let client = Client::connect(tcp);
                            client.say(b"the reply is never read");
                            client.reset();
                        }
                        _ => {
                            let client = Client::connect(tcp);
                            client.ping();
                            client.reset();
                        }
                    }
                }
            });
        }
    });
    eventually_nothing_stays(server.process, before);
    assert_eq!(server.drain().counter("cut"), 0);
}

fn a_client_that_leaves_without_a_byte_leaves_nothing_behind(model: Model) {
    let server = model.serve("echo").start();
    let before = at_rest(&server);
    for _ in 0..3 {
        let clients = [(); 50].map(|()| Client::connect(server.address()));
        for (n, client) in clients.into_iter().enumerate() {
            if n % 10 == 0 { drop(client) } else { client.reset() }
        }
    }
    eventually_nothing_stays(server.process, before);
    Client::connect(server.address()).ping();
    server.drain();
}

/// A real one, which has no time for an orderly end.
fn a_client_killed_in_mid_message_leaves_nothing(model: Model) {
    let server = model.serve_at("upper", &["127.0.0.1:0", "127.0.0.1:0=chat"]).start();
    let before = at_rest(&server);
    let too_long = vec![b'x'; LINE_MAX + 1];
    // Each has been heard, and none of these lines has its end.
    let messages = [(&b"half a mess"[..], &b"HALF A MESS"[..]), (&too_long, TOO_LONG)];
    for _ in 0..5 {
        for (listening, (half, answer)) in server.listening.iter().zip(messages) {
            let address = listening.address.to_string();
            let mut command = Command::new(PROACTOR);
            command.args(["connect", &address]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut client = command.spawn().expect("a client starts");
            client.stdin.as_mut().expect("a pipe").write_all(half).expect("it reads");
            let mut heard = vec![0; answer.len()];
            client.stdout.as_mut().expect("a pipe").read_exact(&mut heard).expect("it is answered");
            client.kill().expect("it runs");
            client.wait().expect("a child is waited for once");
            assert!(heard == answer, "{:?}", String::from_utf8_lossy(&heard));
        }
    }
    eventually_nothing_stays(server.process, before);
    Client::connect(server.address()).finish();
    server.drain();
}

fn two_hundred_short_connections_at_once_leave_nothing(model: Model) {
    let server = model.serve("echo").start();
    let before = at_rest(&server);
    for _ in 0..2 {
        let clients: Vec<Client> = (0..200).map(|_| Client::connect(server.address())).collect();
        for client in &clients {
            client.say(b"PING");
            client.finish();
        }
        for client in &clients {
            client.hear(b"PING");
            client.hear_end();
        }
    }
    eventually_nothing_stays(server.process, before);
    assert_eq!(server.drain().counter("accepted"), 401);
}

// Crowds and scarcity.

fn a_client_that_never_reads_costs_bounded_memory_and_no_time(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let other = Client::connect(server.address());
    other.ping();
    let before = server.process.resident();
    let clients = [(); 2].map(|()| Client::connect(server.address()));
    let bytes = random.bytes(64 << 20);
    for client in &clients {
        let sent = client.say_until_stuck(&bytes);
        assert!(sent < bytes.len(), "the server takes whatever comes");
    }
    server.process.assert_idle("while two clients do not read");
    let grown = server.process.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "two clients that do not read cost {} KiB", grown >> 10);
    (0..100).for_each(|_| other.ping());
    drop(clients);
    (0..100).for_each(|_| other.ping());
    drop(other);
    server.drain();
}

fn a_flood_does_not_delay_other_connections(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let over = AtomicBool::new(false);
    let bytes = random.bytes(1 << 20);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (flooder, mut random) = (Client::connect(server.address()), random.branch());
            let (over, bytes) = (&over, &bytes);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    flooder.converse(bytes, bytes, &mut random);
                }
            });
        }
        // Some were there before, some come while it floods.
        for _ in 0..4 {
            let clients = [(); 8].map(|()| Client::connect(server.address()));
            for _ in 0..10 {
                clients.iter().for_each(|client| client.say(b"PING"));
                clients.iter().for_each(|client| client.hear(b"PING"));
            }
        }
        // The kernel makes no threads for it either (kernel-notes, trap 33).
        let threads = server.process.threads();
        assert!(threads <= 4 || model.missing(Ability::Frugality), "{threads} threads");
        over.store(true, Ordering::Relaxed);
    });
    server.drain();
}

fn an_idle_crowd_costs_nothing(model: Model) {
    let server = model.serve("echo").start();
    let clients: Vec<Client> = (0..300).map(|_| Client::connect(server.address())).collect();
    clients.iter().for_each(Client::ping);
    server.process.assert_idle("while all clients are idle");
    let hosts = server.process.threads() + server.process.children().len();
    if model.missing(Ability::Frugality) {
        assert!(hosts > clients.len(), "{hosts} threads and processes: what is declared is so");
    } else {
        assert!(hosts <= 4, "{hosts} threads and processes for idle clients");
    }
    drop(clients);
    server.drain();
}

fn a_connection_above_the_limit_is_served_when_others_leave(model: Model) {
    let server = model.serve("echo").args(&["--max-connections", "4"]).start();
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(server.address())).collect();
    for client in &clients {
        client.say(b"PING");
    }
    clients[..4].iter().for_each(|client| client.hear(b"PING"));
    clients[4].hear_nothing();
    server.process.assert_idle("while others wait to be let in");
    while clients.len() > 4 {
        drop(clients.remove(0));
        clients[3].hear(b"PING");
    }
    clients.iter().for_each(Client::ping);
    drop(clients);
    assert_eq!(server.drain().counter("accepted"), 12);
}

fn a_full_server_closes_silent_connections_and_says_that_it_is_full(model: Model) {
    let limits = ["--max-connections", "3", "--silent-timeout", "20ms"];
    let server = model.serve("echo").args(&limits).start();
    let talks = Client::connect(server.address());
    talks.ping();
    let silent = [(); 2].map(|()| Client::connect(server.address()));
    let waits = [(); 2].map(|()| Client::connect(server.address()));
    waits.iter().for_each(Client::ping);
    silent.iter().for_each(Client::hear_end);
    talks.ping();
    let exit = server.drain();
    assert_eq!(["accepted", "silent"].map(|name| exit.counter(name)), [5, 2]);
    assert!(exit.counter("full") >= 3, "{exit:?}");
    assert!(exit.stderr.contains("full: further clients wait"), "{exit:?}");
    assert!(exit.stderr.contains("peer=127.0.0.1:"), "{exit:?}");
}

fn a_member_that_only_listens_is_not_silent(model: Model) {
    let limits = ["--max-connections", "2", "--silent-timeout", "1ms"];
    let server = model.serve("chat").args(&limits).start();
    let listens = Client::connect(server.address());
    let talks = enter(server.address(), Options::default());
    listens.hear(b"* 2 joined\n");
    let waits = Client::connect(server.address());
    waits.hear_nothing();
    talks.say(b"hello\n");
    listens.hear(b"[2] hello\n");
    assert_eq!(server.drain().counter("silent"), 0);
}

fn an_address_has_so_many_connections_and_the_end_of_others_is_orderly(model: Model) {
    let file = tempfile::tempdir().expect("a directory");
    let unix = format!("unix:{}", file.path().join("s").display());
    let server = model.serve_at("echo", &["127.0.0.1:0", &unix]);
    let limits = ["--max-connections-per-address", "2", "--exempt", "127.0.0.4,10.0.0.0/8"];
    let server = server.args(&limits).start();
    let connect = |from: &str| Client::connect_from(server.address(), from);
    let mut two = [(); 2].map(|()| connect("127.0.0.2"));
    two.iter().for_each(Client::ping);
    // Its request has arrived before it is accepted: that must not reset it.
    server.process.signal(libc::SIGSTOP);
    let third = connect("127.0.0.2");
    third.say(b"PING");
    server.process.signal(libc::SIGCONT);
    third.hear_end();
    connect("127.0.0.3").ping();
    let exempt = [(); 3].map(|()| connect("127.0.0.4"));
    exempt.iter().for_each(Client::ping);
    let unix = [(); 3].map(|()| Client::connect(&server.listening[1].address));
    unix.iter().for_each(Client::ping);
    two[0].finish();
    two[0].hear_end();
    eventually("its place is given back", || {
        two[0] = connect("127.0.0.2");
        two[0].say(b"PING");
        matches!(two[0].hear_some(&mut [0; 4]), Ok(4)).then_some(())
    });
    two.iter().for_each(Client::ping);
    let exit = server.drain();
    assert!(exit.counter("address_limit") >= 1, "{exit:?}");
    let line = "its address has too many connections: one more is closed";
    assert!(exit.stderr.contains(line) && exit.stderr.contains("peer=127.0.0.2:"), "{exit:?}");
}

fn an_address_that_connects_too_often_is_closed_and_others_are_served(model: Model) {
    let limits = ["--accept-rate-per-address", "2/m", "--exempt", "127.0.0.4/32"];
    let server = model.serve("echo").args(&limits).start();
    let connect = |from: &str| Client::connect_from(server.address(), from);
    connect("127.0.0.2").ping();
    connect("127.0.0.2").hear_end();
    connect("127.0.0.3").ping();
    connect("127.0.0.2").hear_end();
    (0..3).for_each(|_| connect("127.0.0.4").ping());
    let exit = server.drain();
    assert_eq!(["accepted", "address_rate"].map(|name| exit.counter(name)), [7, 2]);
    assert!(exit.stderr.contains("its address connects too often"), "{exit:?}");
}

fn connections_above_the_accept_rate_wait_and_are_served(model: Model) {
    let server = model.serve("echo").args(&["--accept-rate", "8/s"]).start();
    let clients: Vec<Client> = (0..12).map(|_| Client::connect(server.address())).collect();
    clients.iter().for_each(|client| client.say(b"PING"));
    for client in clients {
        client.hear(b"PING");
        drop(client); // A model that serves one at a time goes on.
    }
    let exit = server.drain();
    assert_eq!(exit.counter("accepted"), 12);
    assert!(exit.counter("accept_rate") >= 1, "{exit:?}");
    assert!(exit.stderr.contains("the accept rate is reached"), "{exit:?}");
}

fn the_client_in_a_proxy_header_is_logged_and_limited_and_no_byte_is_lost(model: Model) {
    let client = |server: &Server, from: &str| {
        let client = Client::connect(server.address());
        client.say(format!("PROXY TCP4 {from} 127.0.0.1 1234 80\r\nPI").as_bytes());
        // One that is closed takes no more.
        let _ = client.say_some(b"NG");
        client
    };
    let log = ["--proxy-protocol", "--log", "info", "--log-format", "json"];
    let mut server = model.serve("echo").args(&log);
    let limits = !model.declared().info().forks();
    if limits {
        server = server.args(&["--max-connections-per-address", "1"]);
    }
    let server = server.start();
    let first = client(&server, "192.0.2.7");
    first.hear(b"PING");
    if limits && !model.missing(Ability::Crowd) {
        let second = client(&server, "192.0.2.7");
        assert_eq!(second.hear_all().0, b"", "its address has a connection");
        client(&server, "192.0.2.8").hear(b"PING");
    }
    first.finish();
    first.hear_end();
    let direct = Client::connect(server.address());
    direct.say(b"PING");
    assert_eq!(direct.hear_all().0, b"", "it has no header");
    let exit = server.drain();
    assert_eq!(exit.counter("proxy_header"), 1, "{exit:?}");
    let lines = exit.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let mut closed = lines.filter(|line: &Value| line["message"] == "closed");
    assert!(closed.any(|line| line["peer"] == "192.0.2.7:1234"), "{exit:?}");
    assert!(exit.stderr.contains("no valid PROXY header"), "{exit:?}");

    let server = model.serve("echo").args(&["--proxy-protocol=10.0.0.0/8,::1"]).start();
    assert_eq!(client(&server, "192.0.2.7").hear_all().0, b"", "it is not trusted");
    assert_eq!(server.drain().counter("proxy_header"), 1);
}

fn a_member_joins_behind_its_proxy_header(model: Model) {
    let server = model.serve("chat").args(&["--proxy-protocol"]).start();
    let enter = || {
        let client = Client::connect(server.address());
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"; // LOCAL, of version 2.
        client.say(&local[..9]);
        client.say(&local[9..]);
        client
    };
    let first = enter();
    first.say(b"x\n");
    // A first member gets nothing: another one joins until it is there.
    let second = enter();
    first.hear(b"* 2 joined\n");
    second.say(b"hello\n");
    first.hear(b"[2] hello\n");
    second.finish();
    first.hear(b"* 2 left\n");
    server.drain();
}

fn more_clients_than_descriptors_spin_nothing_and_are_served_in_the_end(model: Model) {
    let server = model.serve("echo").descriptors(40).start();
    let waiting = serve_by_and_by(&server, 64);
    assert_ne!(waiting, 0, "40 descriptors are not enough for 64 clients");
    server.drain();
}

fn descriptors_that_run_out_meanwhile_spin_nothing_and_all_are_served_in_the_end(model: Model) {
    let server = model.serve("echo").start();
    server.process.limit_descriptors(server.process.descriptors() + 20);
    // Not scarce for a ring that has a table of its own.
    serve_by_and_by(&server, 64);
    let exit = server.drain();
    // Of each kind one at once, and one for all others a minute later or at the end.
    let shortages = ["cannot accept for now", "cannot fork for now"];
    for shortage in shortages {
        let lines = exit.stderr.lines().filter(|line| line.contains(shortage));
        assert!(lines.count() <= 2, "{shortage}: {exit:?}");
    }
}

/// Serves `clients` clients, each of which stays until a dozen are served. Returns how many had to
/// wait for others to leave.
fn serve_by_and_by(server: &Server, clients: usize) -> usize {
    let mut waiting: Vec<Client> =
        (0..clients).map(|_| Client::connect(server.address())).collect();
    waiting.iter().for_each(|client| client.say(b"PING"));
    let mut served = Vec::new();
    let serve_more = |waiting: &mut Vec<Client>, served: &mut Vec<Client>| {
        let heard = waiting.extract_if(.., |client| {
            let Some(bytes) = client.hear_now(4) else { return false };
            assert_eq!(bytes, b"PING", "a client was turned away");
            true
        });
        served.extend(heard);
    };
    eventually("a dozen of them are served", || {
        serve_more(&mut waiting, &mut served);
        (served.len() >= 12).then_some(())
    });
    server.process.assert_idle("while there are more clients than descriptors");
    serve_more(&mut waiting, &mut served);
    let had_to_wait = waiting.len();
    served.iter().for_each(Client::ping);
    eventually("all are served as others leave", || {
        served.clear();
        serve_more(&mut waiting, &mut served);
        waiting.is_empty().then_some(())
    });
    served.clear();
    Client::connect(server.address()).ping();
    had_to_wait
}

fn a_crowd_that_bursts_into_two_buffers_gets_every_byte(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").args(&["--buffers", "2"]).start();
    thread::scope(|scope| {
        for _ in 0..32 {
            let (client, mut random) = (Client::connect(server.address()), random.branch());
            scope.spawn(move || {
                let bytes = random.bytes(32 << 10);
                client.converse(&bytes, &bytes, &mut random);
            });
        }
    });
    server.drain();
}

fn a_client_that_holds_every_buffer_and_reads_nothing_is_evicted(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").args(&["--buffers", "2", "--evict-timeout", "0.5"]).start();
    let greedy = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    greedy.say_until_stuck(&random.bytes(32 << 20));
    let modest = Client::connect(server.address());
    for _ in 0..10 {
        modest.ping();
    }
    drop(greedy);
    drop(modest);
    server.drain();
}

// Chat.

/// Connects clients 1, 2, … to a chat; each has received the join messages of those after it.
fn group(address: &Address, options: &[Options]) -> Vec<Client> {
    group_from(1, address, options)
}

/// The same, where the first is not the server's first.
fn group_from(first: usize, address: &Address, options: &[Options]) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for &options in options {
        let next = enter(address, options);
        let joined = format!("* {} joined\n", clients.len() + first);
        clients.iter().for_each(|client| client.hear(joined.as_bytes()));
        clients.push(next);
    }
    clients
}

/// As everybody else hears what `number` says.
fn labelled(number: usize, lines: &[u8]) -> Vec<u8> {
    let label = format!("[{number}] ").into_bytes();
    lines.split_inclusive(|&byte| byte == b'\n').flat_map(|line| [&label, line].concat()).collect()
}

/// Connects to a chat and waits until it is a member: the one thing that a chat says to the sender
/// of a line is that the line was too long.
fn enter(address: &Address, options: Options) -> Client {
    let client = Client::connect_with(address, options);
    client.say(&[&[b'x'; LINE_MAX + 1][..], b"\n"].concat());
    client.hear(TOO_LONG);
    client
}

const LINE_MAX: usize = 16 << 10;
const TOO_LONG: &[u8] = b"line too long: 16384 bytes at most\n";

fn lines_reach_all_others_whole_in_order_and_never_their_speaker(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("chat").start();
    let clients = group(server.address(), &[Options::default(); 3]);
    let says = [b'a', b'b', b'c'].map(|name| {
        let mut text = Vec::new();
        for _ in 0..400 {
            let most = if random.next().is_multiple_of(50) { LINE_MAX - 1 } else { 100 };
            text.push(name);
            text.extend_from_slice(&random.line(most));
        }
        text
    });
    let heards = [0, 1, 2].map(|at| labelled(at + 1, &says[at]));
    thread::scope(|scope| {
        for (client, text) in clients.iter().zip(&says) {
            let mut random = random.branch();
            scope.spawn(move || client.say_in_pieces(text, &mut random));
        }
        for (at, client) in clients.iter().enumerate() {
            let heards = &heards;
            scope.spawn(move || {
                let others =
                    [0, 1, 2].map(|other| if other == at { &[][..] } else { &heards[other] });
                let total = others.iter().map(|text| text.len()).sum();
                let mut heard = Vec::new();
                let mut buffer = vec![0; 64 << 10];
                while heard.len() < total {
                    let n = client.hear_some(&mut buffer).expect("more lines");
                    assert_ne!(n, 0, "the end came before all lines had");
                    heard.extend_from_slice(&buffer[..n]);
                }
                for (text, name) in others.iter().zip(b"123") {
                    let theirs = heard.split_inclusive(|&byte| byte == b'\n');
                    let theirs: Vec<_> = theirs.filter(|line| line[1] == *name).collect();
                    assert!(theirs.concat() == *text, "what {} said", *name as char);
                }
            });
        }
    });
    // A line too many would arrive before this one.
    clients[0].say(b"the last line\n");
    clients[1..].iter().for_each(|client| client.hear(b"[1] the last line\n"));
    clients[1].say(b"the very last\n");
    clients[0].hear(b"[2] the very last\n");
    drop(clients);
    server.drain();
}

fn a_stopped_reader_costs_the_healthy_no_line(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("chat").args(&["--evict-timeout", "0.5"]).start();
    let options = [Options::default(), Options::default(), Options::SMALL_RECEIVE];
    let [talker, healthy, stopped] =
        group(server.address(), &options).try_into().expect("three of them");
    let lines = lines(&mut random, 8 << 20);
    let expected = labelled(1, &lines);
    thread::scope(|scope| {
        scope.spawn(|| talker.say(&lines));
        hear_but(&healthy, &expected, b"* 3 left\n");
    });
    talker.hear(b"* 3 left\n");
    drop((talker, healthy));
    let exit = server.drain();
    assert_eq!(exit.counter("evicted"), 1, "{exit:?}");
    drop(stopped);
}

/// Every further accept fails: the listener has no use, and the server without another one neither.
fn a_listener_shut_down_from_outside_is_closed_and_the_last_one_ends_the_server(model: Model) {
    for ends_all in [false, true] {
        let server = model.serve_at("echo", &["127.0.0.1:0"; 2]).start();
        let [first, last] = [0, 1].map(|at| server.listening[at].address.clone());
        if let Err(error) = server.process.shut_down_listener(first.tcp()) {
            return skip(&format!("pidfd_getfd: {error}"));
        }
        Client::connect(&last).ping(); // The other one is served.
        let line = |address| format!("cannot accept on {address}: Invalid argument");
        let exit = if ends_all {
            server.process.shut_down_listener(last.tcp()).expect("it was permitted before");
            server.wait()
        } else {
            server.process.assert_idle("without one of its listeners");
            server.drain()
        };
        assert_eq!(exit.code(), Some(i32::from(ends_all)), "{exit:?}");
        for (address, lines) in [(&first, 1), (&last, usize::from(ends_all))] {
            assert_eq!(exit.stderr.matches(&line(address)).count(), lines, "{exit:?}");
        }
    }
}

fn a_slow_reader_loses_no_line(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("chat").start();
    let [talker, healthy, slow] =
        group(server.address(), &[Options::default(); 3]).try_into().expect("three of them");
    let lines = lines(&mut random, 6 << 20);
    let expected = labelled(1, &lines);
    thread::scope(|scope| {
        scope.spawn(|| talker.say(&lines));
        scope.spawn(|| healthy.hear(&expected));
        // It reads only when all the rest has come to a stop.
        for some in expected.chunks(2 << 20) {
            eventually_idle(server.process);
            slow.hear(some);
        }
    });
    drop((talker, healthy, slow));
    assert_eq!(server.drain().counter("evicted"), 0);
}

/// At this pace a third of its send buffer becomes free within seconds only, and TCP reports no
/// socket writable, and completes no send, before. Its peer acknowledges many times a second.
fn a_member_that_reads_slowly_and_steadily_stays_while_others_flood(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("chat").args(&["--evict-timeout", "2"]).start();
    let options =
        [Options::default(), Options { receive_buffer: Some(64 << 10), ..Options::default() }];
    let [talker, slow] = group(server.address(), &options).try_into().expect("two of them");
    let lines = lines(&mut random, 8 << 20);
    let expected = labelled(1, &lines);
    thread::scope(|scope| {
        scope.spawn(|| talker.say(&lines));
        let (slowly, at_once) = expected.split_at(1 << 20);
        for some in slowly.chunks(4000) {
            slow.hear(some);
            thread::sleep(Duration::from_millis(10)); // The pace of a reader of 400 kB/s.
        }
        slow.hear(at_once);
    });
    drop((talker, slow));
    assert_eq!(server.drain().counter("evicted"), 0);
}

/// Waits until a server has taken no CPU for a tenth of a second, which is well below the time
/// after which it gives up a reader.
fn eventually_idle(process: Process) {
    eventually("the server waits", || {
        let before = process.cpu_time();
        thread::sleep(Duration::from_millis(100));
        (process.cpu_time() == before).then_some(())
    });
}

fn lines(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut lines = random.bytes(bytes);
    for (at, byte) in lines.iter_mut().enumerate() {
        *byte = if at % 80 == 79 { b'\n' } else { b'a' + *byte % 26 };
    }
    lines.push(b'\n');
    lines
}

fn a_line_too_long_is_answered_and_goes_no_further(model: Model) {
    let server = model.serve("chat").start();
    let [speaker, listener] =
        group(server.address(), &[Options::default(); 2]).try_into().expect("two of them");
    speaker.say(b"before\n");
    speaker.say(&vec![b'x'; 5 * LINE_MAX]); // Said while it is still too long, not at its end.
    speaker.hear(TOO_LONG);
    speaker.say(b" and more\nafter\n");
    listener.hear(b"[1] before\n[1] after\n");
    let longest = [&vec![b'y'; LINE_MAX][..], b"\n"].concat();
    speaker.say(&longest);
    listener.hear(&labelled(1, &longest));
    drop((speaker, listener));
    server.drain();
}

fn the_last_line_needs_no_newline(model: Model) {
    let server = model.serve("chat").start();
    let [speaker, listener] =
        group(server.address(), &[Options::default(); 2]).try_into().expect("two of them");
    speaker.say(b"first\nand la");
    listener.hear(b"[1] first\n");
    speaker.say(b"st");
    speaker.finish();
    speaker.hear_end();
    listener.hear(b"[1] and last\n* 1 left\n");
    drop(listener);
    server.drain();
}

fn control_characters_reach_no_other_client(model: Model) {
    let server = model.serve("chat").start();
    let [speaker, listener] =
        group(server.address(), &[Options::default(); 2]).try_into().expect("two of them");
    speaker.say("\x1b[2Jgr\u{9b}üße\x07\0\tyou\r\n".as_bytes());
    listener.hear("[1] [2Jgrüße\tyou\n".as_bytes());
    drop((speaker, listener));
    server.drain();
}

fn each_listener_is_a_group_of_its_own(model: Model) {
    let server = model.serve_at("chat", &["127.0.0.1:0", "127.0.0.1:0"]).start();
    let [one, other] = [0, 1].map(|at| &server.listening[at].address);
    let clients = group(one, &[Options::default(); 2]);
    let others = group_from(3, other, &[Options::default(); 2]);
    clients[0].say(b"in one\n");
    others[0].say(b"in the other\n");
    clients[1].hear(b"[1] in one\n");
    others[1].hear(b"[3] in the other\n");
    // What they should not have heard would have come before these.
    clients[1].say(b"again\n");
    others[1].say(b"once more\n");
    clients[0].hear(b"[2] again\n");
    others[0].hear(b"[4] once more\n");
    drop((clients, others));
    server.drain();
}

/// Receives `expected` and, between any two lines of it, `other`.
fn hear_but(client: &Client, expected: &[u8], other: &[u8]) {
    let (mut heard, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while heard.len() < expected.len() + other.len() {
        match client.hear_some(&mut buffer).expect("more lines") {
            0 => panic!("the end came after {} bytes", heard.len()),
            n => heard.extend_from_slice(&buffer[..n]),
        }
    }
    let at = heard.windows(other.len()).position(|some| some == other).expect("it was said");
    assert!(at == 0 || heard[at - 1] == b'\n', "lines are whole");
    heard.drain(at..at + other.len());
    assert!(heard == expected, "all else is as it was said");
}

fn every_leave_is_announced_however_it_happens(model: Model) {
    let server = model.serve("chat").start();
    let mut clients = group(server.address(), &[Options::default(); 5]);
    let stays = clients.remove(0);
    let [quits, ends, resets, drops] = clients.try_into().expect("four of them");
    quits.say(b"bye\nquit\nnever said\n");
    stays.hear(b"[2] bye\n* 2 left\n");
    [&ends, &resets, &drops].into_iter().for_each(|client| client.hear(b"[2] bye\n* 2 left\n"));
    quits.hear_end();
    ends.finish();
    stays.hear(b"* 3 left\n");
    ends.hear_end();
    resets.hear(b"* 3 left\n");
    resets.reset();
    stays.hear(b"* 4 left\n");
    drop(drops);
    stays.hear(b"* 5 left\n");
    // A number is not given twice.
    let next = enter(server.address(), Options::default());
    stays.hear(b"* 6 joined\n");
    next.say(b"hello\n");
    stays.hear(b"[6] hello\n");
    stays.say(b"\xff\xfe\n");
    next.hear(b"[1] \xff\xfe\n");
    drop((quits, ends, stays, next));
    server.drain();
}

// Other protocols.

fn each_listener_says_its_own(model: Model) {
    let at = |protocol: &str| format!("127.0.0.1:0={protocol}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a=b").display().to_string();
    let unix = format!("unix:{}=upper", path.replace('=', "=="));
    let addresses = [
        at("echo"),
        at("chat"),
        at("reply=a=b"),
        at("prefix"),
        at("discard"),
        at("chargen"),
        unix,
        "127.0.0.1:0".to_owned(),
    ];
    let server = model.serve_at("reply", &addresses.each_ref().map(|text| &**text)).start();
    let names: Vec<&str> = server.listening.iter().map(|one| &*one.protocol).collect();
    let expected = ["echo", "chat", "reply=a=b", "prefix", "discard", "chargen", "upper", "reply"];
    assert_eq!(names, expected);
    assert_eq!(server.listening[6].address.to_string(), format!("unix:{path}"));
    let address = |at: usize| &server.listening[at].address;
    let chatters = group(address(1), &[Options::default(); 2]);
    let clients = [0, 2, 3, 4, 5, 6, 7].map(|at| Client::connect(address(at)));
    let [echo, own, prefix, discard, chargen, upper, reply] = &clients;
    clients.iter().for_each(|client| client.say(b"one\ntwo\n"));
    chatters[0].say(b"one\n");
    echo.hear(b"one\ntwo\n");
    own.hear(b"a=b\na=b\n");
    prefix.hear(b"your msg = one ===\nyour msg = two ===\n");
    upper.hear(b"ONE\nTWO\n");
    reply.hear(b"ok\nok\n");
    chatters[1].hear(b"[1] one\n");
    discard.hear_nothing();
    discard.finish();
    discard.hear_end();
    chargen.hear(&pattern(1000));
    drop((clients, chatters));
    server.drain();
}

/// So many lines of RFC 864.
fn pattern(lines: usize) -> Vec<u8> {
    let line = |n: usize| (n..n + 72).map(|at| b' ' + (at % 95) as u8).chain(*b"\r\n");
    (0..lines).flat_map(line).collect()
}

fn a_pattern_without_end_keeps_to_the_pace_of_its_readers(model: Model) {
    let server = model.serve_at("chargen", &["127.0.0.1:0", "127.0.0.1:0=echo"]).start();
    let expected = pattern(300_000);
    let never = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let [quick, other] = [(); 2].map(|()| Client::connect(server.address()));
    // An endless stream to one client does not delay the others.
    let pings = Client::connect(&server.listening[1].address);
    let memory = server.process.resident();
    thread::scope(|scope| {
        scope.spawn(|| quick.hear(&expected));
        scope.spawn(|| other.hear(&expected));
        (0..50).for_each(|_| pings.ping());
    });
    let grown = server.process.resident().saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes for a client that reads nothing");
    eventually_idle(server.process);
    never.finish();
    drop((never, quick, other, pings));
    server.drain();
}

// Stopping.

fn a_drain_delivers_what_is_owed_and_then_the_end(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let bytes = random.bytes(32 << 20);
    let said = say_until_owed(&server, &client, &bytes);
    server.process.signal(libc::SIGTERM);
    eventually("it listens no more", || {
        Client::try_connect(server.address(), Options::default()).err()
    });
    client.hear(&bytes[..said]);
    client.hear_end();
    drop(client);
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
}

fn a_drain_delivers_to_a_reader_that_resumes(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    let bytes = random.bytes(32 << 20);
    let said = client.say_until_stuck(&bytes);
    // Nothing moves now, so it can be said what the server has received.
    let (ours, theirs) = (client.local(), server.address().tcp());
    let received = || {
        let (sending, _) = queues(ours, theirs)?;
        let (_, receiving) = queues(theirs, ours)?;
        Some(said - sending - receiving)
    };
    let received = eventually("nothing moves", || {
        let before = received();
        eventually_idle(server.process);
        before.filter(|_| before == received())
    });
    server.process.signal(libc::SIGTERM);
    client.hear(&bytes[..received]);
    // Of the rest some may have been received after all, before the signal was noticed.
    let (more, end) = client.hear_all();
    end.expect("an end, and no reset");
    assert!(bytes[received..].starts_with(&more), "what comes is what was said");
    drop(client);
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
}

fn a_drain_ends_idle_connections(model: Model) {
    let server = model.serve("echo").start();
    let clients: Vec<Client> =
        (0..model.at_once(5)).map(|_| Client::connect(server.address())).collect();
    clients.iter().take(4).for_each(Client::ping);
    server.process.signal(libc::SIGTERM);
    clients.iter().for_each(Client::hear_end);
    drop(clients);
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
}

/// What the server sent is acknowledged by the kernel of a client that does nothing, also if the
/// client has not read it.
fn a_drain_does_not_linger_for_clients_that_keep_their_half_open(model: Model) {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("socket").display());
    for listen in ["127.0.0.1:0", &unix] {
        let server = model.serve_at("echo", &[listen]).start();
        let clients: Vec<Client> =
            (0..model.at_once(5)).map(|_| Client::connect(server.address())).collect();
        clients.iter().for_each(Client::ping);
        let unread = clients.first().expect("one at least");
        unread.say(b"unread");
        server.process.signal(libc::SIGTERM);
        let exit = server.wait().assert_drained();
        for counter in ["cut", "lingered", "failed"] {
            assert_eq!(exit.counter(counter), 0, "{counter}: {exit:?}");
        }
        unread.hear(b"unread");
        clients.iter().for_each(Client::hear_end);
    }
}

/// Stops the server, lets so many clients connect and send, asks it to drain, and lets it go on.
fn ask_while_stopped(server: &Server, clients: usize, requests: &[u8]) -> Vec<Client> {
    server.process.signal(libc::SIGSTOP);
    eventually("it is stopped", || server.process.is_stopped().then_some(()));
    let clients: Vec<Client> = (0..clients).map(|_| Client::connect(server.address())).collect();
    clients.iter().for_each(|client| client.say(requests));
    server.process.signal(libc::SIGTERM);
    server.process.signal(libc::SIGCONT);
    clients
}

fn a_drain_answers_every_request_that_had_arrived(model: Model) {
    let server = model.serve("echo").start();
    // Some were served before: the requests of those lie in their sockets, of the others in the
    // accept queue. A model that serves one at a time has the first, which is idle, only.
    let before: Vec<Client> =
        (0..model.at_once(20)).map(|_| Client::connect(server.address())).collect();
    before.iter().for_each(Client::ping);
    let clients = ask_while_stopped(&server, 100, b"PING");
    drop(before);
    for client in clients {
        client.hear(b"PING");
        client.hear_end();
    }
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
}

fn a_drain_answers_requests_despite_a_flood_and_a_storm_of_connects(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let (address, ended) = (server.address().clone(), AtomicBool::new(false));
    let (flood, bytes) = (Client::connect(&address), random.bytes(256 << 10));
    thread::scope(|scope| {
        // It reads everything, as fast as it sends.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) && flood.say_some(&bytes).is_ok() {
                thread::yield_now();
            }
        });
        scope.spawn(|| while matches!(flood.hear_some(&mut [0; 65536]), Ok(1..)) {});
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed)
                && let Ok(client) = Client::try_connect(&address, Options::default())
            {
                let _ = client.say_some(b"PING");
                client.reset();
            }
        });
        for client in ask_while_stopped(&server, 50, b"PING") {
            client.hear(b"PING");
            client.hear_end();
        }
        ended.store(true, Ordering::Relaxed);
        let exit = server.wait().assert_drained();
        assert_eq!(exit.counter("cut"), 0, "{exit:?}");
    });
}

fn a_drain_does_not_reset_a_client_that_still_sends(model: Model) {
    let still_sent = (0..20).any(|_| drain_under_a_client_that_sends(model));
    assert!(still_sent, "the client paused in each of 20 drains");
}

/// Returns false if the client did not send for so long that the drain may close its connection:
/// two looks, of which the second is 3 ms after the end.
fn drain_under_a_client_that_sends(model: Model) -> bool {
    const PAUSE: Duration = Duration::from_millis(1);
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let (client, ended) = (Client::connect(server.address()), AtomicBool::new(false));
    let bytes = random.bytes(1 << 20);
    let still_sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut from, mut sent_at) = (0, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                match client.say_some(&bytes[from..]) {
                    Ok(sent) => from = (from + sent) % bytes.len(),
                    Err(_) if sent_at.elapsed() >= PAUSE => return false,
                    Err(error) => panic!("a send without a pause before it: {error}"),
                }
                sent_at = Instant::now();
            }
            true
        });
        client.hear(&bytes);
        server.process.signal(libc::SIGTERM);
        let (rest, end) = client.hear_all();
        ended.store(true, Ordering::Relaxed);
        end.expect("an end, and no reset");
        assert!(rest.chunks(bytes.len()).all(|rest| bytes.starts_with(rest)));
        sender.join().expect("it was not reset while it sent")
    });
    drop(client);
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
    still_sent
}

fn a_drain_with_clients_connected_leaves_nothing(model: Model) {
    let server = model.serve("echo").start();
    let clients: Vec<Client> =
        (0..model.at_once(24)).map(|_| Client::connect(server.address())).collect();
    clients.iter().for_each(Client::ping);
    // Some idle, some in mid-message, some at their own end.
    for (n, client) in clients.iter().enumerate().filter(|(n, _)| n % 3 > 0) {
        client.say(b"half");
        if n % 3 == 2 {
            client.finish();
        }
    }
    let children = server.process.children();
    server.process.signal(libc::SIGTERM);
    for client in clients {
        // What was said may have come after the signal, and is then not answered.
        let (heard, end) = client.hear_all();
        end.expect("an end, and no reset");
        assert!(b"half".starts_with(&heard), "{heard:?}");
    }
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
    let left: Vec<&Process> = children.iter().filter(|child| child.exists()).collect();
    assert!(left.is_empty(), "orphans: {left:?}");
}

fn a_drain_in_mid_talk_delivers_whole_lines(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("chat").start();
    let [talker, listener] = group(server.address(), &[Options::default(), Options::SMALL_RECEIVE])
        .try_into()
        .expect("two of them");
    let lines = lines(&mut random, 32 << 20);
    talker.say_until_stuck(&lines);
    server.process.signal(libc::SIGTERM);
    let (heard, end) = listener.hear_all();
    end.expect("an end, and no reset");
    assert!(!heard.is_empty() && heard.ends_with(b"\n"), "the last line is whole");
    let (said, announced): (Vec<&[u8]>, Vec<&[u8]>) =
        heard.split_inclusive(|&byte| byte == b'\n').partition(|line| line.starts_with(b"[1] "));
    assert!(labelled(1, &lines).starts_with(&said.concat()), "what was said, from its beginning");
    assert!(announced.is_empty() || announced == [b"* 1 left\n"], "{announced:?}");
    drop((talker, listener));
    let exit = server.wait().assert_drained();
    assert_eq!(exit.counter("cut"), 0, "{exit:?}");
}

fn a_client_that_reads_nothing_is_closed_though_no_other_waits(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").args(&["--send-timeout", "0.4"]).start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    client.say_until_stuck(&random.bytes(32 << 20));
    eventually("it is closed", || client.say_some(b"x").is_err().then_some(()));
    let exit = server.drain();
    let counted = ["send_timeouts", "evicted", "closed"].map(|name| exit.counter(name));
    assert_eq!(counted, [1, 0, 1], "{exit:?}");
    assert!(exit.stderr.contains("acknowledged nothing of what is queued for 400ms"), "{exit:?}");
}

fn a_client_that_sends_nothing_is_idle_or_drips_is_ended_in_order_and_a_busy_one_stays(
    model: Model,
) {
    let limits =
        ["--first-byte-timeout", "0.3", "--idle-timeout", "0.4", "--receive-timeout", "0.6"];
    let server = model.serve("prefix=").args(&limits).start();
    let connect = || Client::connect(server.address());
    let ask = |client: &Client| {
        client.say(b"?\n");
        client.hear(b"? ===\n");
    };
    // The pace of a client, whose time is what the limits measure: shorter than each of them.
    let pause = || thread::sleep(Duration::from_millis(50));
    // One after the other: a model may serve one at a time.
    let busy = connect();
    for _ in 0..24 {
        ask(&busy);
        pause();
    }
    busy.say(b"?");
    busy.finish();
    assert_eq!(busy.hear_all().0, b"? ===\n");
    let mute = connect();
    mute.hear_end();
    drop(mute);
    let idle = connect();
    ask(&idle);
    idle.hear_end();
    drop(idle);
    let drips = connect();
    let mut dripped = 0;
    while drips.hear_now(1).is_none() {
        dripped += 1;
        assert!(dripped < 200, "it drips on and on");
        drips.say(b"x");
        pause(); // It is never idle.
    }
    assert!(dripped > 6, "no sooner");
    drop(drips);
    let exit = server.drain();
    let names = ["first_byte_timeouts", "idle_timeouts", "receive_timeouts", "finished", "failed"];
    assert_eq!(names.map(|name| exit.counter(name)), [1, 1, 1, 1, 0], "{exit:?}");
    // One shape of line on every model.
    for (number, text) in
        [(2, "sent nothing for 300ms"), (3, "idle for 400ms"), (4, "was incomplete for 600ms")]
    {
        let lines: Vec<&str> = exit.stderr.lines().filter(|line| line.contains(text)).collect();
        let fields = format!("{text} connection={number} peer=127.0.0.1:");
        assert!(lines.len() == 1 && lines[0].contains(&fields), "{lines:?} {exit:?}");
    }
}

fn a_first_byte_is_awaited_behind_a_proxy_header_and_of_no_client_that_may_only_listen(
    model: Model,
) {
    let limits = ["--first-byte-timeout", "0.3", "--proxy-protocol"];
    let server = model.serve("echo").args(&limits).start();
    let client = Client::connect(server.address());
    client.say(b"PROXY TCP4 192.0.2.7 127.0.0.1 1000 7000\r\n");
    client.hear_end();
    drop(client);
    let exit = server.drain();
    assert_eq!(exit.counter("first_byte_timeouts"), 1, "{exit:?}");
    assert!(exit.stderr.contains("connection=1 peer=192.0.2.7:1000"), "{exit:?}");
    let server = model.serve("chat").args(&["--first-byte-timeout", "0.1"]).start();
    let client = Client::connect(server.address());
    // Nothing happens in four times the limit, so there is no event to wait for.
    thread::sleep(Duration::from_millis(400));
    client.say(&[&[b'x'; 16 << 10][..], b"x\n"].concat());
    client.hear(b"line too long: 16384 bytes at most\n");
    drop(client);
    assert_eq!(server.drain().counter("first_byte_timeouts"), 0);
}

fn the_addresses_of_a_name_have_one_chat(model: Model) {
    let hosts = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(hosts.path(), "::1 both.test\n127.0.0.1 both.test\n").expect("it is written");
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let path = hosts.path().to_str().expect("text");
    let args = ["-rm", "sh", "-c", script, path, model.program];
    let able = Command::new("unshare").args(&args[..5]).arg("true").output();
    if !able.is_ok_and(|output| output.status.success()) || ipv6_missing().is_some() {
        return skip("no IPv6, or no name with two addresses can be made up");
    }
    let server =
        model.launch(Launch::new("unshare", &args), "chat", &["127.0.0.1:0", "both.test:0"]);
    let server = server.further_addresses(1).start();
    let [other, one, another] = [0, 1, 2].map(|at| &server.listening[at].address);
    let (alone, clients) = (Client::connect(other), [one, another].map(Client::connect));
    let ask = [&[b'x'; 16 << 10][..], b"x\n"].concat();
    for client in clients.iter().chain([&alone]) {
        client.say(&ask);
        client.hear_until(b"line too long: 16384 bytes at most\n");
    }
    clients[0].say(b"hello\n");
    clients[1].hear_until(b"] hello\n");
    assert_eq!(alone.hear_now(1), None, "another listener is another chat");
}

fn a_client_that_vanishes_would_be_asked_for(model: Model) {
    for (keepalive, timer) in [(None, "02"), (Some("off"), "00")] {
        let mut launch = model.serve("echo");
        launch = launch.args(&keepalive.map_or(vec![], |time| vec!["--keepalive", time]));
        let server = launch.start();
        let client = Client::connect(server.address());
        client.ping();
        // The ends of a connection, as `local remote state queues timer:when …`.
        let [ours, theirs] =
            [client.local(), server.address().tcp()].map(|at| format!(":{:04X}", at.port()));
        let is_running = || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of connections");
            table.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words[1].ends_with(&theirs)
                    && words[2].ends_with(&ours)
                    && words[5].starts_with(timer)
            })
        };
        eventually("only the timer of keepalive runs, or none", || is_running().then_some(()));
        drop(client);
        server.drain();
    }
}

fn a_drain_cuts_a_client_that_never_reads(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").args(&["--drain-timeout", "0.2"]).start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    client.say_until_stuck(&random.bytes(32 << 20));
    let exit = server.drain();
    assert_eq!(exit.counter("cut"), 1, "{exit:?}");
    drop(client);
}

fn a_drain_in_a_storm_of_connects_ends(model: Model) {
    let server = model.serve("echo").start();
    let address = server.address().clone();
    let (connected, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Ok(client) = Client::try_connect(&address, Options::default()) {
                    // Served, or ended, or reset because it will never be served.
                    let _ = client.say_some(b"PING");
                    let _ = client.hear_some(&mut [0; 4]);
                    client.reset();
                    connected.fetch_add(1, Ordering::Relaxed);
                    if ended.load(Ordering::Relaxed) {
                        break; // Another server may have got the port.
                    }
                }
            });
        }
        eventually("the storm is on", || (connected.load(Ordering::Relaxed) > 300).then_some(()));
        let exit = server.drain();
        ended.store(true, Ordering::Relaxed);
        assert_eq!(exit.counter("cut"), 0, "{exit:?}");
    });
}

fn a_second_signal_ends_at_once(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").args(&["--drain-timeout", "600"]).start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    client.say_until_stuck(&random.bytes(32 << 20));
    server.process.signal(libc::SIGINT);
    eventually("it listens no more", || {
        Client::try_connect(server.address(), Options::default()).err()
    });
    let exit = server.terminate();
    assert_ne!(exit.code(), Some(0), "it did not deliver what it owed: {exit:?}");
    drop(client);
}

fn a_server_that_was_stopped_and_continued_goes_on(model: Model) {
    let mut random = Random::of_test();
    let server = model.serve("echo").start();
    let client = Client::connect(server.address());
    client.ping();
    let bytes = random.bytes(1 << 20);
    thread::scope(|scope| {
        let (client, mut random, bytes) = (&client, random.branch(), &bytes);
        scope.spawn(move || client.converse(bytes, bytes, &mut random));
        for _ in 0..20 {
            server.process.signal(libc::SIGSTOP);
            eventually("it is stopped", || server.process.is_stopped().then_some(()));
            server.process.signal(libc::SIGCONT);
        }
    });
    // And from its deepest sleep.
    eventually_idle(server.process);
    server.process.signal(libc::SIGSTOP);
    eventually("it is stopped", || server.process.is_stopped().then_some(()));
    server.process.signal(libc::SIGCONT);
    client.ping();
    drop(client);
    server.drain();
}

fn a_server_killed_under_load_leaves_its_address_free(model: Model) {
    let mut random = Random::of_test();
    let address = model.own_address();
    let bytes = random.bytes(32 << 10);
    for _ in 0..3 {
        let server = model.serve_at("echo", &[&address]).start();
        let clients = [(); 10].map(|()| Client::connect(server.address()));
        clients.iter().for_each(|client| client.say(&bytes));
        clients[0].hear(&bytes);
        server.kill();
    }
    let server = model.serve_at("echo", &[&address]).start();
    Client::connect(server.address()).ping();
    server.drain();
}
