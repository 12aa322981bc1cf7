//! What a program inherits from its parent, and which signals end it.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;

use std::collections::BTreeSet;

use proactor::Model;
use proactor_models::ALL;

use support::server::{PROACTOR, REACTOR};
use support::{Client, Launch, Options, Random, io_uring_refused, skip};

/// A server of each model that works here, as two programs run it.
fn servers() -> impl Iterator<Item = Launch> {
    let works = |model: &Model| *model != Model::URING || io_uring_refused().is_none();
    let proactor = ALL.into_iter().filter(works).map(|model| {
        Launch::new(PROACTOR, &["serve", "--model", model.name(), "--listen", "127.0.0.1:0"])
    });
    proactor.chain([Launch::new(REACTOR, &["--listen", "127.0.0.1:0"])])
}

#[test]
fn signals_that_the_parent_has_blocked_drain_a_server_of_every_model() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for launch in servers() {
            let server = launch.with_signals_blocked().start();
            let client = Client::connect(server.address());
            client.ping();
            server.process.signal(signal);
            client.hear_end();
            drop(client);
            server.wait().assert_drained();
        }
    }
}

#[test]
fn what_the_parent_ignores_stays_ignored() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        for launch in servers() {
            let server = launch.ignoring(signal).start();
            server.process.signal(signal);
            Client::connect(server.address()).ping();
            server.drain();
        }
    }
}

#[test]
fn a_hangup_drains_a_server_of_every_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    for launch in servers() {
        let server = launch.args(&["--listen", &format!("unix:{}", socket.display())]).start();
        let client = Client::connect(server.address());
        client.ping();
        server.process.signal(libc::SIGHUP);
        client.hear_end();
        drop(client);
        server.wait().assert_drained();
        assert!(!socket.exists());
    }
}

#[test]
fn a_hangup_before_or_behind_another_request_does_not_end_a_drain() {
    let (hup, term) = (libc::SIGHUP, libc::SIGTERM);
    for [signal, second] in [[hup, hup], [term, hup], [hup, term], [libc::SIGXCPU, libc::SIGQUIT]] {
        let server = Launch::new(REACTOR, &["--listen", "127.0.0.1:0"]).start();
        let idle = Client::connect(server.address());
        idle.ping();
        let stuck = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
        let bytes = Random::of_test().bytes(32 << 20);
        stuck.say_until_stuck(&bytes);
        server.process.signal(signal);
        idle.hear_end();
        server.process.signal(second);
        let (heard, end) = stuck.hear_all();
        end.expect("an end, and no reset");
        assert!(heard.len() > 64 << 10 && bytes.starts_with(&heard));
        drop(stuck);
        server.wait().assert_drained();
    }
}

/// As `docs/serve.md` has them.
#[test]
fn no_signal_but_those_of_a_fault_ends_a_server_of_any_model_at_once() {
    let faults = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGABRT,
    ];
    let drains =
        [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGXCPU, libc::SIGKILL];
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    for launch in servers() {
        let server = launch.start();
        let client = Client::connect(server.address());
        client.ping();
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| !(32..=33).contains(signal)) {
            if faults.contains(&signal) || drains.contains(&signal) {
                continue;
            }
            server.process.signal(signal);
            if stops.contains(&signal) {
                server.process.signal(libc::SIGCONT);
            }
            client.ping();
        }
        server.process.signal(libc::SIGQUIT);
        client.hear_end();
        drop(client);
        server.wait().assert_drained();
    }
}

#[test]
fn signals_without_a_meaning_are_answered_and_end_no_server() {
    for launch in servers() {
        let server = launch.start();
        let client = Client::connect(server.address());
        client.ping();
        for signal in [libc::SIGUSR1, libc::SIGUSR2] {
            server.process.signal(signal);
            client.ping();
        }
        drop(client);
        let exit = server.drain();
        let signals = exit.stderr.lines().filter_map(|line| line.split_once(" WARN SIG"));
        let ignored = signals.map(|(_, text)| text).filter(|text| text.contains(" ignored: "));
        // In their own order: the thread that takes both may be another than the one that replies.
        let ignored: BTreeSet<&str> = ignored.collect();
        let [one, two] = ignored.into_iter().collect::<Vec<_>>()[..] else { panic!("{exit:?}") };
        assert!(one.starts_with("USR1 ") && one.contains("no meaning"), "{exit:?}");
        assert!(two.starts_with("USR2 ") && two.contains("--trace"), "{exit:?}");
    }
}

// Limits.

#[test]
fn a_server_of_every_model_raises_its_limit_of_descriptors() {
    for launch in servers() {
        let launch = launch.args(&["--max-connections", "999999"]);
        let server = launch.raisable_descriptors(64, 512).start();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.0));
        let limits = limits.expect("the server runs");
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let files: Vec<&str> = files.expect("proc(5)").split_whitespace().collect();
        assert_eq!(files, ["512", "512", "files"]);
        let exit = server.drain();
        assert!(exit.stderr.contains("`ulimit -n` of 512 allows only "), "{exit:?}");
    }
}

#[test]
fn a_load_raises_its_limit_of_descriptors() {
    let server = Launch::new(REACTOR, &["--listen", "127.0.0.1:0"]).start();
    let address = server.address().to_string();
    let args = ["load", &address, "-c", "100", "--duration", "50ms"];
    let exit = Launch::new(PROACTOR, &args).raisable_descriptors(64, 512).run();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    server.drain();
}

#[test]
fn a_comparison_raises_its_limit_of_descriptors_and_that_of_its_servers() {
    let args = ["compare", "--models", "poll", "-c", "100", "--blocks", "1", "--idle", "0"];
    let exit = Launch::new(PROACTOR, &args).raisable_descriptors(64, 1024).run();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    assert!(!exit.stdout.concat().contains("not measured"), "{exit:?}");
}

#[test]
fn a_cpu_that_the_parent_excludes_is_not_used() {
    let [other, .., mine] = proactor::os::usable_cpus()[..] else {
        return skip("only one CPU is usable");
    };
    let other = &*other.to_string();
    let cases: [(&str, &[&str]); 5] = [
        (PROACTOR, &["serve", "--listen", "127.0.0.1:0", "--cpu", other]),
        (REACTOR, &["--listen", "127.0.0.1:0", "--cpu", other]),
        (PROACTOR, &["load", "127.0.0.1:1", "--cpu", other]),
        (PROACTOR, &["compare", "--blocks", "1", "--server-cpu", other]),
        (PROACTOR, &["compare", "--blocks", "1", "--client-cpu", other]),
    ];
    for (program, args) in cases {
        let exit = match Launch::new(program, args).on_cpu(mine).try_start() {
            Ok(server) => panic!("it serves on CPU {other}: {server:?}"),
            Err(exit) => exit,
        };
        assert_eq!(exit.code(), Some(1), "{exit:?}");
        let expected = format!("error: CPU {other} is not among {mine}\n");
        assert_eq!(exit.stderr, expected, "{exit:?}");
    }
}
