//! A child for each connection: what may become of processes, and must not.
//!
//! `tests/conformance.rs` asks of this model what it asks of all; here it is about children that
//! are killed, signals that reach a whole group, and parents that go first.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;

use std::collections::BTreeSet;
use std::thread;

use support::server::{PROACTOR, REACTOR};
use support::{Address, Client, Launch, Options, Process, Random, eventually};

fn serve(listen: &[&str]) -> Launch {
    let launch = Launch::new(REACTOR, &["--model", "process", "--stats"]);
    listen.iter().fold(launch, |launch, listen| launch.args(&["--listen", listen]))
}

const ECHO: &str = "127.0.0.1:0=echo";
const CHAT: &str = "127.0.0.1:0=chat";
const TOO_LONG: &[u8] = b"line too long: 16384 bytes at most\n";
/// The line that [`enter`] sends.
const ENTERED: usize = (16 << 10) + 2;

/// Connects to a chat, and is in it: the one thing that it answers to its speaker is that a line
/// was too long.
fn enter(address: &Address) -> Client {
    let client = Client::connect(address);
    client.say(&[&[b'x'; ENTERED - 1][..], b"\n"].concat());
    client.hear(TOO_LONG);
    client
}

fn assert_no_zombie(children: &[Process]) {
    for child in children {
        assert_eq!(child.is_zombie(), Some(false), "{child:?} is running");
    }
}

// What a child is.

#[test]
fn a_child_has_its_connection_and_nothing_else_of_its_parents() {
    let server = serve(&[ECHO, CHAT]).start();
    let before = server.process.descriptors();
    let chatter = enter(&server.listening[1].address);
    let in_group = server.process.eventually_children(1);
    let client = Client::connect(server.address());
    client.ping();
    let both = server.process.eventually_children(2);
    let alone = both.iter().find(|child| child.0 != in_group[0].0).expect("another");
    let streams = 3 + 1;
    assert_eq!(alone.descriptors(), streams + 1, "the standard streams, the log, and a socket");
    // Its client, its line, what stops it and the handler's copy of that.
    assert_eq!(in_group[0].descriptors(), streams + 4);
    // The parent has its end of the line, and no client.
    assert_eq!(server.process.descriptors(), before + 5 + 8 + 1);
    drop((chatter, client));
    server.process.eventually_children(0);
    eventually("back to where it began", || (server.process.descriptors() == before).then_some(()));
    server.drain();
}

#[test]
fn a_message_costs_its_child_two_calls() {
    let server = serve(&[ECHO]).start();
    let client = Client::connect(server.address());
    (0..1000).for_each(|_| client.ping());
    client.finish();
    client.hear_end();
    drop(client);
    let exit = server.drain();
    let calls = exit.counter("calls");
    assert!((2000..2100).contains(&calls), "{calls} calls: {exit:?}");
    assert_eq!(exit.counter("received_bytes"), 4000);
}

// Children that end before their time.

#[test]
fn a_child_killed_in_mid_message_affects_no_other_connection() {
    let server = serve(&[CHAT]).start();
    let first = enter(server.address());
    let second = enter(server.address());
    first.hear(b"* 2 joined\n");
    let before: BTreeSet<u32> = server.process.children().iter().map(|child| child.0).collect();
    let third = enter(server.address());
    [&first, &second].iter().for_each(|other| other.hear(b"* 3 joined\n"));
    let children = server.process.eventually_children(3);
    let of_third = children.iter().find(|child| !before.contains(&child.0)).expect("the third");
    third.say(b"heard\n");
    [&first, &second].iter().for_each(|other| other.hear(b"[3] heard\n"));
    third.say(b"also\nnever to be hea");
    [&first, &second].iter().for_each(|other| other.hear(b"[3] also\n"));
    of_third.signal(libc::SIGKILL);
    [&first, &second].iter().for_each(|other| other.hear(b"* 3 left\n"));
    assert_no_zombie(&server.process.eventually_children(2));
    let _ = third.hear_all(); // The end, or a reset.
    first.say(b"still here\n");
    second.hear(b"[1] still here\n");
    let fourth = enter(server.address());
    first.hear(b"* 4 joined\n");
    second.hear(b"* 4 joined\n");
    drop((first, second, third, fourth));
    let exit = server.drain();
    let deaths: Vec<&str> = exit.stderr.lines().collect();
    assert!(deaths.len() == 1 && deaths[0].contains("SIGKILL"), "{exit:?}");
    // What it had counted before its last message is not lost with it.
    let sure = 4 * ENTERED + "heard\n".len() + "still here\n".len();
    assert!(exit.counter("received_bytes") >= sure as u64, "{exit:?}");
}

/// A child logs the end of its connection itself; for one that cannot, its parent does.
#[test]
fn the_connection_of_a_killed_child_has_its_line_in_the_log() {
    let server = serve(&[ECHO]).args(&["--log", "info", "--log-format", "json"]).start();
    let killed = Client::connect(server.address());
    killed.ping();
    server.process.eventually_children(1)[0].signal(libc::SIGKILL);
    let _ = killed.hear_all(); // The end, or a reset.
    Client::connect(server.address()).ping();
    server.process.eventually_children(0);
    let exit = server.drain();
    let closed = exit.stderr.lines().filter(|line| line.contains(r#""message":"closed""#));
    let mut reasons: Vec<(bool, bool)> = closed
        .map(|line| (line.contains(r#""connection":1,"#), line.contains("connection abort")))
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, [(false, false), (true, true)], "{}", exit.stderr);
}

#[test]
fn children_killed_all_at_once_are_all_reaped() {
    let server = serve(&[ECHO]).args(&["--max-connections", "50"]).start();
    for _ in 0..3 {
        let clients = [(); 50].map(|()| Client::connect(server.address()));
        clients.iter().for_each(Client::ping);
        server.process.signal(libc::SIGSTOP);
        eventually("it is stopped", || server.process.is_stopped().then_some(()));
        // Their signals are one by the time that it goes on.
        for child in server.process.children() {
            child.signal(libc::SIGKILL);
        }
        server.process.signal(libc::SIGCONT);
        server.process.eventually_children(0);
    }
    Client::connect(server.address()).ping();
    assert_eq!(server.drain().counter("received_bytes"), 4 * 151);
}

#[test]
fn two_hundred_short_connections_at_once_leave_nothing() {
    let server = serve(&[ECHO, CHAT]).start();
    let before = server.process.descriptors();
    thread::scope(|scope| {
        for n in 0..200 {
            let address = &server.listening[n % 2].address;
            scope.spawn(move || match n % 4 {
                0 => Client::connect(address).ping(),
                1 => Client::connect(address).say(b"hello\n"),
                2 => Client::connect(address).reset(),
                _ => {
                    let client = Client::connect(address);
                    client.say(b"bye\nquit\n");
                    let (_, end) = client.hear_all();
                    end.expect("an end, and no reset");
                }
            });
        }
    });
    server.process.eventually_children(0);
    assert_eq!(server.process.descriptors(), before);
    assert_eq!(server.drain().counter("accepted"), 200);
}

#[test]
fn a_server_started_with_sigchld_ignored_reaps_its_children() {
    let server = serve(&[ECHO]).ignoring(libc::SIGCHLD).start();
    for _ in 0..10 {
        Client::connect(server.address()).ping();
    }
    server.process.eventually_children(0);
    server.drain();
}

#[test]
fn a_child_of_other_code_is_left_to_be_waited_for() {
    // The shell's child becomes the server's, and nothing waits for it.
    let script = format!(
        "true & exec {PROACTOR} serve --model process --stats=/proc/self/fd/1 --listen {ECHO}"
    );
    let server = Launch::new("/bin/sh", &["-c", &script]).start();
    let strangers = server.process.children();
    assert_eq!(strangers.len(), 1);
    eventually("the stranger is dead", || strangers[0].is_zombie().filter(|&dead| dead));
    for _ in 0..10 {
        Client::connect(server.address()).ping();
    }
    server.process.eventually_children(1);
    server.drain();
}

// Chat groups.

#[test]
fn every_flooding_client_receives_all_the_others() {
    const CLIENTS: usize = 3;
    let mut random = Random::of_test();
    let server = serve(&[CHAT]).start();
    let mut clients = Vec::new();
    for n in 1..=CLIENTS {
        let client = enter(server.address());
        let joined = format!("* {n} joined\n");
        clients.iter().for_each(|other: &Client| other.hear(joined.as_bytes()));
        clients.push(client);
    }
    // Far more than all that is between: both ends of a line have something to say all the time.
    let line = [&[b'-'; 1000][..], b"\n"].concat();
    let lines = 6 << 10;
    let text = line.repeat(lines);
    let heard = (CLIENTS - 1) * lines * (line.len() + "[1] ".len());
    thread::scope(|scope| {
        for client in &clients {
            let mut random = random.branch();
            let text = &text;
            scope.spawn(move || client.say_in_pieces(text, &mut random));
            scope.spawn(move || {
                let (mut buffer, mut left, mut rest) = (vec![0; 256 << 10], heard, Vec::new());
                while left > 0 {
                    let n = client.hear_some(&mut buffer).expect("more lines");
                    assert!(n > 0 && n <= left, "{n} bytes of {left}");
                    left -= n;
                    rest.extend_from_slice(&buffer[..n]);
                    let whole = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                    for line in rest.drain(..whole).collect::<Vec<u8>>().split(|&b| b == b'\n') {
                        assert!(line.is_empty() || line.len() == 1004, "lines are whole");
                    }
                }
            });
        }
    });
    drop(clients);
    assert_eq!(server.drain().counter("evicted"), 0);
}

#[test]
fn a_connection_without_descriptors_for_its_link_waits_until_others_leave() {
    let server = serve(&[CHAT]).start();
    server.process.limit_descriptors(server.process.descriptors() + 5);
    let clients: Vec<Client> = (0..8).map(|_| Client::connect(server.address())).collect();
    let ask = [&[b'x'; ENTERED - 1][..], b"\n"].concat();
    clients.iter().for_each(|client| client.say(&ask));
    // Each takes one descriptor for good and three for a moment.
    for client in clients {
        let mut heard = Vec::new();
        // Others may have come meanwhile: their coming stands before or behind it.
        while !heard.windows(TOO_LONG.len()).any(|some| some == TOO_LONG) {
            let mut some = [0; 256];
            let n = client.hear_some(&mut some).expect("an answer");
            assert_ne!(n, 0, "a client was turned away");
            heard.extend_from_slice(&some[..n]);
        }
    }
    let exit = server.drain();
    assert!(exit.counter("refused") > 0, "it had to wait: {exit:?}");
    assert_eq!(exit.counter("accepted"), 8);
}

#[test]
fn a_connection_without_a_process_waits_until_another_ends() {
    // A user that has no other processes, which would count.
    const USER: u32 = 61_237;
    // SAFETY: geteuid(2) touches no memory and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return support::skip("not root: the other processes of the user count");
    }
    let args = ["--model", "process", "--listen", ECHO];
    // The parent, the writer of its log, and one child.
    let server = Launch::new(REACTOR, &args).user_with_processes(USER, 3).start();
    let first = Client::connect(server.address());
    first.ping();
    let before = server.process.descriptors();
    let second = Client::connect(server.address());
    second.say(b"x");
    eventually("it is accepted", || (server.process.descriptors() > before).then_some(()));
    first.finish();
    first.hear_end();
    second.hear(b"x");
    drop((first, second));
    let exit = server.drain();
    let lines: Vec<&str> = exit.stderr.lines().collect();
    assert!(lines[0].contains("cannot fork for now error=Resource temporarily"), "{exit:?}");
    // Once more if it was tried meanwhile: lines that repeat are counted.
    assert!(lines.len() <= 2, "{exit:?}");
}

// Signals.

#[test]
fn a_key_at_the_terminal_reaches_all_and_all_is_delivered() {
    // Ctrl-C and the end of a terminal go to the whole group; a service manager may send SIGTERM to
    // all of it.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        let mut random = Random::of_test();
        let server = serve(&[ECHO, CHAT]).in_a_group_of_its_own().start();
        let idle = Client::connect(server.address());
        idle.ping();
        let chatters = [(); 2].map(|()| enter(&server.listening[1].address));
        let stuck = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
        let bytes = random.bytes(32 << 20);
        stuck.say_until_stuck(&bytes);
        server.process.eventually_children(4);
        server.process.signal_group(signal);
        idle.hear_end();
        for chatter in chatters {
            let (_, end) = chatter.hear_all();
            end.expect("an end, and no reset");
        }
        drop(idle);
        let (heard, end) = stuck.hear_all();
        end.expect("an end, and no reset");
        assert!(heard.len() > 64 << 10 && bytes.starts_with(&heard));
        drop(stuck);
        let exit = server.wait().assert_drained();
        assert_eq!(exit.counter("cut"), 0, "{exit:?}");
    }
}

#[test]
fn a_child_that_is_signalled_drains_and_the_others_stay() {
    let server = serve(&[ECHO]).start();
    let one = Client::connect(server.address());
    one.ping();
    let of_one = server.process.eventually_children(1)[0];
    let other = Client::connect(server.address());
    other.ping();
    of_one.signal(libc::SIGTERM);
    one.hear_end();
    drop(one);
    server.process.eventually_children(1);
    other.ping();
    drop(other);
    let exit = server.drain();
    assert_eq!(exit.stderr, "", "it ended well");
}

#[test]
fn signals_at_any_moment_are_noticed() {
    // However close to a call that sleeps, or to the fork, the signal comes.
    for _ in 0..40 {
        let server = serve(&[ECHO, CHAT]).start();
        let clients = [0, 1, 0, 1].map(|at| Client::connect(&server.listening[at].address));
        clients[0].say(b"PING");
        clients[1].say(b"hello\n");
        server.process.signal(libc::SIGTERM);
        for client in &clients {
            let _ = client.hear_all(); // A client that was not yet accepted is reset.
        }
        drop(clients);
        assert_eq!(server.wait().assert_drained().counter("cut"), 0);
    }
}

#[test]
fn a_stopped_client_is_cut_at_the_deadline() {
    let server = serve(&[ECHO, CHAT]).args(&["--drain-timeout", "0.2"]).start();
    let clients = [0, 1].map(|at| Client::connect(&server.listening[at].address));
    clients[0].ping();
    for child in server.process.eventually_children(2) {
        child.signal(libc::SIGSTOP);
        eventually("it is stopped", || child.is_stopped().then_some(()));
    }
    assert_eq!(server.drain().counter("cut"), 2);
    drop(clients);
}

#[test]
fn a_second_signal_takes_the_children_along() {
    let mut random = Random::of_test();
    let server = serve(&[ECHO, CHAT]).args(&["--drain-timeout", "600"]).start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    client.say_until_stuck(&random.bytes(32 << 20));
    let children = server.process.eventually_children(1);
    server.process.signal(libc::SIGTERM);
    eventually("it listens no more", || {
        Client::try_connect(server.address(), Options::default()).err()
    });
    let exit = server.terminate();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert_eq!(children[0].is_zombie(), None, "it was waited for");
    assert_eq!(exit.counter("accepted"), exit.counter("closed"));
}

#[test]
fn no_child_outlives_a_parent_that_was_killed() {
    let server = serve(&[ECHO, CHAT]).start();
    let clients: Vec<Client> =
        (0..20).map(|n| Client::connect(&server.listening[n % 2].address)).collect();
    let children = server.process.eventually_children(20);
    server.kill();
    for client in &clients {
        let _ = client.hear_all(); // The end, or a reset; it comes.
    }
    for child in children {
        eventually("the child is gone", || child.is_zombie().is_none_or(|dead| dead).then_some(()));
    }
}

#[test]
fn a_connection_that_waits_for_its_child_when_the_server_drains_has_its_line_in_the_log() {
    let args = ["--log", "info", "--log-format", "json", "--drain-timeout", "0.2"];
    let server = serve(&[CHAT]).args(&args).start();
    let before = server.process.descriptors();
    server.process.limit_descriptors(before + 1); // For its socket, and not for its link.
    let client = Client::connect(server.address());
    let accepted = || (server.process.descriptors() > before).then_some(());
    eventually("it is accepted", accepted);
    server.process.limit_descriptors(3); // A drain closes the listener, which would do.
    let exit = server.drain();
    client.hear_end();
    assert_eq!((exit.counter("accepted"), exit.counter("closed")), (1, 1));
    let closed = exit.stderr.lines().filter(|line| line.contains(r#""message":"closed""#));
    let reasons: Vec<bool> = closed.map(|line| line.contains("for want of resources")).collect();
    assert_eq!(reasons, [true], "{}", exit.stderr);
}

/// What the listener receives last.
const LAST: &[u8] = b"[1] last";

#[test]
fn a_stopped_child_is_killed_and_its_group_goes_on() {
    let server = serve(&[CHAT]).args(&["--evict-timeout", "1s"]).start();
    let (speaker, listener) = (enter(server.address()), enter(server.address()));
    let before = server.process.eventually_children(2);
    let stopped = enter(server.address());
    let all = server.process.eventually_children(3);
    let child = all.iter().find(|child| before.iter().all(|other| other.0 != child.0)).unwrap();
    child.signal(libc::SIGSTOP);
    // More than links and sockets hold. A pause of the whole group is longer than the timeout of a
    // client.
    let mut line = [&[b'x'; 10_000][..], b"\n"].concat().repeat(2_000);
    line.extend(b"last\n");
    let begin = std::time::Instant::now();
    let in_time = || assert!(begin.elapsed() < std::time::Duration::from_secs(40), "it waits");
    let speak = || {
        let mut sent = 0;
        while sent < line.len() {
            in_time();
            match speaker.say_some(&line[sent..]) {
                Ok(n) => sent += n,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        speaker.finish();
    };
    let mut heard = Vec::new();
    thread::scope(|scope| {
        scope.spawn(speak);
        let mut buffer = vec![0; 1 << 16];
        while !heard.windows(LAST.len()).any(|text| text == LAST) {
            in_time();
            heard.drain(..heard.len().saturating_sub(LAST.len() - 1));
            match listener.hear_some(&mut buffer) {
                Ok(0) => panic!("the listener is disconnected"),
                Ok(n) => heard.extend_from_slice(&buffer[..n]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    });
    eventually("it is killed", || (!child.exists()).then_some(()));
    drop((stopped, listener));
    let exit = server.drain();
    assert_eq!(exit.counter("evicted"), 1, "{exit:?}");
    let lines: Vec<&str> = exit.stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].contains("its process does not run: killed"), "{lines:?}");
    assert!(lines[0].contains("connection=3 peer=127.0.0.1:"), "{lines:?}");
}
