//! The binaries by their sentences: what they say, where they say it, and how they exit.
//!
//! stdout carries one line for each listener and, if asked for, one of statistics; all else is on
//! stderr. Exit codes: 0 success, 1 failure, 2 a command line that cannot be meant.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use proactor::Model;
use proactor_models::ALL;

use support::server::{Exit, PROACTOR, REACTOR, Server};
use support::{Address, Client, Launch, Options, TIMEOUT, eventually, io_uring_refused, skip};

/// Both servers, as one begins to type them.
const SERVERS: [(&str, &[&str]); 2] = [(PROACTOR, &["serve"]), (REACTOR, &[])];

fn proactor(args: &[&str]) -> Launch {
    Launch::new(PROACTOR, &["serve"]).args(args)
}

fn reactor(args: &[&str]) -> Launch {
    Launch::new(REACTOR, args)
}

/// Fails unless it ended with this code and one line of complaint that names `value`.
fn assert_refused(exit: Exit, code: i32, value: &str) {
    assert_eq!(exit.code(), Some(code), "{exit:?}");
    assert!(exit.stdout.is_empty(), "a complaint is on stderr: {exit:?}");
    let lines = complaints(&exit.stderr);
    let first = lines.first().unwrap_or_else(|| panic!("not a word: {exit:?}"));
    assert!(first.starts_with("error: "), "{exit:?}");
    assert!(first.contains(value), "the first line names {value:?}: {exit:?}");
    if code == 1 {
        assert_eq!(lines.len(), 1, "one line says it: {exit:?}");
    }
}

/// What stands on stderr, but for the line that says which model `auto` has chosen.
fn complaints(stderr: &str) -> Vec<&str> {
    let announces = |line: &&str| line.starts_with("model: ") && line.contains(" (auto): ");
    stderr.lines().filter(|line| !announces(line)).collect()
}

// Asking about them.

#[test]
fn help_and_version_are_successes() {
    let asked: [(&str, &[&str]); 6] = [
        (PROACTOR, &["--help"]),
        (PROACTOR, &["-h"]),
        (PROACTOR, &["serve", "--help"]),
        (PROACTOR, &["help", "serve"]),
        (REACTOR, &["--help"]),
        (REACTOR, &["-h"]),
    ];
    for (program, args) in asked {
        let exit = Launch::new(program, args).run();
        assert_eq!((exit.code(), &*exit.stderr), (Some(0), ""), "{exit:?}");
        assert!(exit.stdout.join("\n").contains("Usage:"), "{exit:?}");
    }
    for (program, name) in [(PROACTOR, "proactor"), (REACTOR, "reactor")] {
        let exit = Launch::new(program, &["--version"]).run();
        assert_eq!((exit.code(), &*exit.stderr), (Some(0), ""), "{exit:?}");
        assert_eq!(exit.stdout, [format!("{name} {}", env!("CARGO_PKG_VERSION"))]);
    }
}

#[test]
fn the_help_of_a_server_names_every_option() {
    let options = [
        "--listen",
        "--model",
        "--idle-sleep",
        "--spin",
        "--sqpoll",
        "--napi",
        "--protocol",
        "--max-connections",
        "--max-memory",
        "--limits",
        "--buffer-size",
        "--buffers",
        "--kernel",
        "--without",
        "--drain-timeout",
        "--cpu",
        "--trace",
        "--trace-clock",
        "--trace-size",
        "--trace-sample",
        "--trace-trigger",
        "--stats",
        "--log",
        "--log-format",
    ];
    for (program, args) in SERVERS {
        let help = Launch::new(program, args).args(&["--help"]).run().stdout.join("\n");
        for option in options {
            assert!(help.contains(option), "{option} is missing in:\n{help}");
        }
    }
}

#[test]
fn every_option_of_every_command_is_in_the_documents() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let folder = fs::read_dir(root.join("docs")).expect("it is there");
    let files = folder.map(|file| file.expect("it is there").path());
    let files = files.filter(|path| path.extension().is_some_and(|name| name == "md"));
    let text: String = [root.join("README.md")]
        .into_iter()
        .chain(files)
        .map(|path| fs::read_to_string(path).expect("it is text"))
        .collect();
    let commands = ["serve", "connect", "load", "compare", "explain", "models", "check"];
    let commands = commands.map(|it| vec![it]);
    let views = ["show", "follow", "summary", "conn", "doctor", "diff", "export", "heatmap"];
    let views = views.into_iter().chain(["delays", "attach", "ps"]).map(|view| vec!["trace", view]);
    for command in commands.into_iter().chain(views) {
        let help = Launch::new(PROACTOR, &command).args(&["--help"]).run().stdout;
        let options = help.iter().filter_map(|line| {
            let line = line.trim_start();
            let long = if line.starts_with("--") { line } else { line.split_once(", --")?.1 };
            let is_option = line.starts_with('-');
            let name = long.trim_start_matches('-').split([' ', '=', '[']).next();
            name.filter(|&name| is_option && name != "help").map(|name| format!("--{name}"))
        });
        let options: Vec<String> = options.collect();
        assert!(!options.is_empty(), "{command:?} has options");
        for option in options {
            // As a word: --cpu is not --cpus.
            let mut found = text.split(&option).skip(1);
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
            assert!(found.any(ends), "{command:?} {option} is in no document");
        }
    }
}

#[test]
fn proactor_alone_says_what_it_can_do_and_that_this_was_no_command() {
    let exit = Launch::new(PROACTOR, &[]).run();
    assert_eq!(exit.code(), Some(2), "{exit:?}");
    assert!(exit.stderr.contains("Usage:") && exit.stderr.contains("serve"), "{exit:?}");
    assert!(exit.stderr.contains("proactor compare  "), "and what to try first: {exit:?}");
}

#[test]
fn help_to_a_closed_pipe_does_not_panic() {
    for args in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(PROACTOR)
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("the program runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(output.status.code().is_some(), "{args:?}: ended by a signal: {output:?}");
    }
}

#[test]
fn a_server_whose_log_stderr_does_not_take_serves() {
    for (program, args) in SERVERS {
        for format in ["text", "json"] {
            let full = fs::File::options().write(true).open("/dev/full").expect("full(4)");
            let log = ["--log", "trace", "--log-format", format, "--listen", "127.0.0.1:0"];
            let mut command = Command::new(program);
            command.args(args).args(log).args(["--max-connections", "999999"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(full);
            let mut server = command.spawn().expect("it runs");
            let mut line = String::new();
            let mut lines = BufReader::new(server.stdout.take().expect("it is piped"));
            lines.read_line(&mut line).expect("UTF-8");
            let address = line.split_whitespace().nth(2).expect("an address");
            Client::connect(&Address::Tcp(address.parse().expect("an address"))).ping();
            support::Process(server.id()).signal(libc::SIGTERM);
            assert_eq!(server.wait().expect("it ends").code(), Some(0), "{program} {format}");
        }
    }
}

#[test]
fn a_server_with_a_closed_stdout_does_not_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    for (at, (program, args)) in SERVERS.into_iter().enumerate() {
        let address = format!("unix:{}", folder.path().join(at.to_string()).display());
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = Command::new(program)
            .args(args)
            .args(["--listen", &address])
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        // It may go on, or end; either way without a panic.
        let ended = eventually("it serves or ends", || {
            let served = Client::try_connect(&Address::parse(&address), Options::default()).is_ok();
            let ended = child.try_wait().expect("a child can be asked").is_some();
            (served || ended).then_some(ended)
        });
        if !ended {
            support::Process(child.id()).signal(libc::SIGTERM);
        }
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

// Listening.

#[test]
fn each_listener_is_one_line_and_there_is_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("unix:{}", folder.path().join("socket").display());
    let listen = ["--listen", "127.0.0.1:0", "--listen", &unix, "--listen", "127.0.0.2:0"];
    for (args, word) in [(&["--model", "epoll"][..], "epoll"), (&["--model", "poll"], "poll")] {
        for launch in [proactor(args), reactor(args)] {
            let server = launch.args(&listen).args(&["--protocol", "upper"]).start();
            let [v4, path, other] = &server.listening[..] else { panic!("{server:?}") };
            let port = v4.address.tcp().port();
            assert_ne!(port, 0, "the port is the one that was found free");
            assert_eq!(v4.line, format!("listening on 127.0.0.1:{port} ({word}, upper)"));
            assert_eq!(path.line, format!("listening on {unix} ({word}, upper)"));
            let port = other.address.tcp().port();
            assert_eq!(other.line, format!("listening on 127.0.0.2:{port} ({word}, upper)"));
            let exit = server.terminate();
            assert_eq!((exit.code(), &exit.stdout[..]), (Some(0), &[][..]), "{exit:?}");
        }
    }
}

#[test]
fn a_listener_says_its_own_protocol_if_it_has_one() {
    for (program, args) in SERVERS {
        let server = Launch::new(program, args)
            .args(&["--listen", "127.0.0.1:0=chat", "--listen", "127.0.0.1:0"])
            .args(&["--listen", "127.0.0.1:0=reply=at your service", "--protocol", "discard"])
            .start();
        let names: Vec<&str> = server.listening.iter().map(|one| &*one.protocol).collect();
        assert_eq!(names, ["chat", "discard", "reply=at your service"]);
        let client = Client::connect(&server.listening[2].address);
        client.say(b"hello\n");
        client.hear(b"at your service\n");
        drop(client);
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn every_model_says_its_name() {
    for model in ALL.into_iter().filter(|&model| model != Model::URING).map(Model::name) {
        for launch in [proactor(&["--model", model]), reactor(&["--model", model])] {
            let server = launch.args(&["--listen", "127.0.0.1:0"]).start();
            assert_eq!(server.listening[0].model, model);
        }
    }
    match io_uring_refused() {
        Some(reason) => skip(&reason),
        None => {
            let server = proactor(&["--model", "uring", "--listen", "127.0.0.1:0"]).start();
            assert_eq!(server.listening[0].model, "io_uring");
        }
    }
}

#[test]
fn the_list_of_models_fits_the_terminal() {
    for width in [80, 120] {
        let mut command = Command::new(PROACTOR);
        let output = command.arg("models").env("COLUMNS", width.to_string()).output().unwrap();
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let most = text.lines().map(|line| line.chars().count()).max();
        assert!(most <= Some(width), "{text}");
        for word in ["level-triggered", "edge-triggered", "one-shot"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn every_model_is_listed_with_its_cost_and_whether_it_works_here() {
    let table = Launch::new(PROACTOR, &["models"]).run();
    assert_eq!((table.code(), &*table.stderr), (Some(0), ""), "{table:?}");
    let json = Launch::new(PROACTOR, &["models", "--json"]).run();
    assert_eq!((json.code(), &*json.stderr), (Some(0), ""), "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.stdout.join("\n")).expect("JSON");
    assert_eq!(json["schema"], "proactor.models/2");
    let models = json["models"].as_array().expect("a list");
    assert_eq!(models.len(), ALL.len());
    for ((row, line), model) in models.iter().zip(&table.stdout[1..]).zip(ALL) {
        assert_eq!(row["model"], model.name());
        assert!(line.starts_with(model.name()), "{line}");
        for column in ["mechanism", "calls_per_message", "limits", "since_linux"] {
            let said = row[column].as_str().expect("a few words");
            assert!(!said.is_empty() && line.contains(said), "{column} of {line}");
        }
        assert_eq!(row["usable"], row["refusal"].is_null(), "{row}");
        let ring = model == Model::URING && io_uring_refused().is_some();
        assert_eq!(row["usable"], !ring, "{row}");
        let missing = model.info().missing.iter();
        let missing = missing.map(|(ability, why)| (ability.denied().to_owned(), why.to_string()));
        let said = |entry: &serde_json::Value, what: &str| {
            entry[what].as_str().expect("a few words").to_owned()
        };
        let listed = row["missing"].as_array().expect("a list");
        let listed = listed.iter().map(|entry| (said(entry, "what"), said(entry, "why")));
        assert!(listed.eq(missing.clone()), "{row}");
        for (what, why) in missing {
            assert!(table.stdout.contains(&format!("{model} {what}: {why}")), "{table:?}");
        }
    }
}

#[test]
fn idle_sleep_is_refused_for_models_that_wait() {
    for (program, args) in SERVERS {
        let sleep = ["--model", "poll", "--idle-sleep", "1ms", "--listen", "127.0.0.1:0"];
        assert_refused(Launch::new(program, args).args(&sleep).run(), 2, "poll");
    }
}

#[test]
fn polling_is_refused_where_it_would_do_nothing() {
    for (model, option) in [("poll", "--spin=1ms"), ("epoll", "--sqpoll"), ("epoll", "--napi=1ms")]
    {
        for (program, args) in SERVERS {
            let wrong = ["--model", model, option, "--listen", "127.0.0.1:0"];
            assert_refused(Launch::new(program, args).args(&wrong).run(), 2, model);
        }
    }
    if io_uring_refused().is_none() {
        let old = ["--listen", "127.0.0.1:0", "--sqpoll", "--kernel", "5.10"];
        assert_refused(proactor(&old).run(), 1, "SQPOLL needs Linux 5.11");
    }
}

#[test]
fn a_server_that_spins_does_not_sleep_between_messages_and_sleeps_when_idle() {
    const MESSAGES: u64 = 500;
    for model in ["uring", "epoll", "epoll-et", "epoll-oneshot"] {
        if model == "uring" && io_uring_refused().is_some() {
            skip("io_uring is refused");
            continue;
        }
        let server = proactor(&["--model", model, "--listen", "127.0.0.1:0", "--spin", "100ms"]);
        let server = server.start();
        let client = Client::connect(server.address());
        client.ping();
        let before = server.process.sleeps();
        (0..MESSAGES).for_each(|_| client.ping());
        let sleeps = server.process.sleeps() - before;
        assert!(sleeps < MESSAGES / 10, "{model}: {sleeps}");
        eventually("it sleeps", || (server.process.share_of_cpu() < 0.2).then_some(()));
    }
}

#[test]
fn proactor_defaults_to_the_ring_and_reactor_to_epoll() {
    let server = reactor(&["--listen", "127.0.0.1:0"]).start();
    assert_eq!((&*server.listening[0].model, &*server.listening[0].protocol), ("epoll", "echo"));
    let server = proactor(&["--listen", "127.0.0.1:0"]).start();
    let word = if io_uring_refused().is_some() { "epoll" } else { "io_uring" };
    assert_eq!((&*server.listening[0].model, &*server.listening[0].protocol), (word, "echo"));
}

#[test]
fn the_default_address_is_port_7000_of_localhost() {
    // Another server may be there: the error then says so, and names the address too.
    let _mine = TcpListener::bind("127.0.0.1:7000");
    for (program, args) in SERVERS {
        assert_refused(Launch::new(program, args).run(), 1, "127.0.0.1:7000");
    }
}

#[test]
fn a_client_that_ends_first_receives_its_echo() {
    // As `printf hello | nc -N 127.0.0.1 PORT` does.
    for (program, args) in SERVERS {
        let server = Launch::new(program, args).args(&["--listen", "127.0.0.1:0"]).start();
        let mut stream = TcpStream::connect(server.address().tcp()).expect("it listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        stream.write_all(b"hello").expect("it takes five bytes");
        stream.shutdown(Shutdown::Write).expect("it is there");
        let mut heard = String::new();
        stream.read_to_string(&mut heard).expect("an answer and an end");
        assert_eq!(heard, "hello");
    }
}

#[test]
fn both_signals_drain() {
    for (program, args) in SERVERS {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            let server = Launch::new(program, args).args(&["--listen", "127.0.0.1:0"]).start();
            server.process.signal(signal);
            let exit = server.wait();
            assert_eq!(exit.code(), Some(0), "after signal {signal}: {exit:?}");
        }
    }
}

// Addresses.

#[test]
fn an_address_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("it has one").to_string();
    for (program, args) in SERVERS {
        let exit = Launch::new(program, args).args(&["--listen", &address]).run();
        assert_refused(exit, 1, &address);
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    for (program, args) in SERVERS {
        // 203.0.113.0/24 is kept for documentation.
        let exit = Launch::new(program, args).args(&["--listen", "203.0.113.7:0"]).run();
        assert_refused(exit, 1, "203.0.113.7:0");
    }
}

#[test]
fn a_missing_privilege_is_named() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim() == "0") {
        return skip("every port is open to all");
    }
    for (program, args) in SERVERS {
        // The user 65534 may not enter our folder, so the program is inherited as a descriptor.
        let program = fs::File::open(program).expect("the program is there");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
        let mut command = Command::new(&path);
        command.args(args).args(["--listen", "127.0.0.1:1"]);
        // SAFETY: getuid(2) touches no memory and always succeeds.
        if unsafe { libc::getuid() } == 0 {
            command.uid(65534);
        }
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&program);
        // SAFETY: between fork and exec only fcntl(2) is called, which is async-signal-safe; the
        // descriptor is open until `program` is dropped, after the child has run.
        unsafe {
            command.pre_exec(move || match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => return skip(&format!("the user 65534 may not run it: {error}")),
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(complaints(&stderr).len(), 1, "{stderr}");
        assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
        assert!(stderr.to_lowercase().contains("permission denied"), "{stderr}");
    }
}

#[test]
fn a_unix_path_left_by_the_dead_is_taken_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    for (at, (program, args)) in SERVERS.into_iter().enumerate() {
        let path = folder.path().join(at.to_string());
        let address = format!("unix:{}", path.display());
        let start = || Launch::new(program, args).args(&["--listen", &address]);

        start().start().kill();
        assert!(path.exists(), "a killed server cannot clean up");
        let server = start().start();
        Client::connect(server.address()).ping();

        assert_refused(start().run(), 1, &address);
        Client::connect(server.address()).ping();
        assert_eq!(server.terminate().code(), Some(0));

        drop(UnixListener::bind(path.with_extension("other")).expect("a path"));
        let left = format!("{address}.other");
        let server = Launch::new(program, args).args(&["--listen", &left]).start();
        Client::connect(server.address()).ping();
    }
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("letters");
    fs::write(&path, "dear all").expect("a file");
    let address = format!("unix:{}", path.display());
    for (program, args) in SERVERS {
        let exit = Launch::new(program, args).args(&["--listen", &address]).run();
        assert_refused(exit, 1, &address);
        let exit = Launch::new(program, args).args(&["--listen", &address]).run();
        assert!(exit.stderr.contains("no socket"), "it says why: {exit:?}");
        assert_eq!(fs::read_to_string(&path).expect("it is still there"), "dear all");
    }
}

#[test]
fn a_unix_path_that_cannot_be_is_named() {
    let long = format!("unix:/tmp/{}", "x".repeat(200));
    for (program, args) in SERVERS {
        for address in ["unix:/no/such/folder/socket", &long] {
            let exit = Launch::new(program, args).args(&["--listen", address]).run();
            let code = exit.code().unwrap_or_default();
            assert!([1, 2].contains(&code), "{exit:?}");
            assert_refused(exit, code, address);
        }
    }
}

// Values.

#[test]
fn a_value_that_cannot_be_meant_is_a_usage_error_and_named() {
    let wrong = [
        ("--listen", "localhost"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:70000"),
        ("--listen", "::1:7000:x"),
        ("--listen", "127.0.0.1:0=http"),
        ("--listen", "127.0.0.1:0=echo=loud"),
        ("--listen", "127.0.0.1:0="),
        ("--model", "uringg"),
        ("--idle-sleep", "0"),
        ("--idle-sleep", "a while"),
        ("--spin", "0"),
        ("--spin", "2s"),
        ("--protocol", "http"),
        ("--protocol", "chat=loud"),
        ("--kernel", "six"),
        ("--without", "IOPOLL"),
        ("--max-connections", "0"),
        ("--max-connections", "many"),
        ("--max-connections", "-1"),
        ("--buffer-size", "0"),
        ("--buffer-size", "4k?"),
        ("--buffers", "0"),
        ("--buffers", "-3"),
        ("--drain-timeout", "-1"),
        ("--drain-timeout", "NaN"),
        ("--drain-timeout", "soon"),
        ("--cpu", "first"),
        ("--kernel", "99.0"),
        ("--log", "loud"),
        ("--log-format", "xml"),
    ];
    for (program, args) in SERVERS {
        for (option, value) in wrong {
            // With the sign, so that a minus is no option.
            let assigned = format!("{option}={value}");
            let exit = Launch::new(program, args).args(&[&assigned]).run();
            assert!(!exit.stderr.contains("invalid digit"), "an error in plain words: {exit:?}");
            assert_refused(exit, 2, value);
        }
    }
}

#[test]
fn a_wrong_rate_or_network_is_refused_with_the_right_spelling() {
    for (option, right) in [
        ("--accept-rate=0/s", "100/s"),
        ("--accept-rate-per-address=10/h", "30/m"),
        ("--exempt=10.1.0.0/8", "its first address is 10.0.0.0"),
        ("--exempt=", "10.0.0.0/8"),
        ("--proxy-protocol=balancer", "10.0.0.0/8"),
        ("--silent-timeout=0s", "silent-timeout"),
    ] {
        assert_refused(proactor(&["--listen", "127.0.0.1:0", option]).run(), 2, right);
    }
    let limits = ["--model", "process", "--proxy-protocol", "--max-connections-per-address=1"];
    assert_refused(proactor(&limits).run(), 2, "process has no limits per address");
}

#[test]
fn an_option_without_effect_is_a_usage_error() {
    let exit = proactor(&["--kernel", "5.6", "--model", "epoll"]).run();
    assert_refused(exit, 2, "--kernel is only for uring");
    let exit = proactor(&["--without", "RECV_MULTISHOT", "--model", "epoll"]).run();
    assert_refused(exit, 2, "--without is only for uring");
    let exit = proactor(&["--stats=-", "--trace=-"]).run();
    assert_refused(exit, 2, "--stats and --trace");
}

#[test]
fn a_server_that_cannot_start_leaves_the_counters_of_an_earlier_one() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "earlier counters").expect("it can be written");
    let stats = format!("--stats={}", file.path().display());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (program, args) in SERVERS {
        let exit = Launch::new(program, args).args(&["--listen", &address, &stats]).run();
        assert_refused(exit, 1, "Address already in use");
        let left = fs::read_to_string(file.path()).expect("it is there");
        assert_eq!(left, "earlier counters");
    }
}

#[test]
fn more_buffers_than_there_can_be_are_a_usage_error_and_named() {
    for (program, args) in SERVERS {
        for (count, size) in [("32768", "1048576"), ("32768", "65536")] {
            let many = ["--listen", "127.0.0.1:0", "--buffers", count, "--buffer-size", size];
            assert_refused(Launch::new(program, args).args(&many).run(), 2, count);
        }
    }
}

#[test]
fn an_option_or_command_that_is_none_is_a_usage_error_and_named() {
    for (program, args) in SERVERS {
        let exit = Launch::new(program, args).args(&["--threads=4"]).run();
        assert_refused(exit, 2, "--threads");
    }
    assert_refused(Launch::new(PROACTOR, &["server"]).run(), 2, "server");
    assert_refused(Launch::new(REACTOR, &["serve"]).run(), 2, "serve");
}

#[test]
fn an_unknown_name_is_answered_with_those_that_are_known() {
    for (program, args) in SERVERS {
        let exit = Launch::new(program, args).args(&["--model", "kqueue"]).run();
        for model in ALL.map(Model::name).into_iter().chain(["auto"]) {
            assert!(exit.stderr.contains(model), "{model} is missing: {exit:?}");
        }
        let exit = Launch::new(program, args).args(&["--protocol", "http"]).run();
        for protocol in ["echo", "upper", "reply", "prefix", "discard", "chargen", "chat"] {
            assert!(exit.stderr.contains(protocol), "{protocol} is missing: {exit:?}");
        }
    }
}

#[test]
fn a_cpu_that_is_not_there_is_named() {
    for (program, args) in SERVERS {
        let args = Launch::new(program, args).args(&["--listen", "127.0.0.1:0", "--cpu", "1000"]);
        assert_refused(args.run(), 1, "CPU 1000 is not among 0");
    }
    for option in ["--server-cpu", "--client-cpu"] {
        let exit = Launch::new(PROACTOR, &["compare", option, "1000"]).run();
        assert_refused(exit, 1, "CPU 1000 is not among 0");
    }
}

#[test]
fn a_server_stays_on_the_cpu_that_it_was_given() {
    for (program, args) in SERVERS {
        let launch = Launch::new(program, args).args(&["--listen", "127.0.0.1:0", "--cpu", "0"]);
        let server = launch.start();
        let status = fs::read_to_string(format!("/proc/{}/status", server.process.0));
        let status = status.expect("the server runs");
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    }
}

// Where io_uring is refused.

#[test]
fn the_ring_asked_for_and_refused_is_a_failure_with_a_reason() {
    let exit = proactor(&["--model", "uring", "--kernel", "5.5", "--listen", "127.0.0.1:0"]).run();
    assert_refused(exit, 1, "io_uring");
}

#[test]
fn the_best_model_without_a_ring_is_epoll_and_the_reason_is_said() {
    for model in [&[][..], &["--model", "auto"]] {
        let launch = proactor(model).args(&["--kernel", "5.5", "--listen", "127.0.0.1:0"]);
        let server = launch.start();
        assert_eq!(server.listening[0].model, "epoll");
        Client::connect(server.address()).ping();
        let exit = server.terminate();
        assert_eq!(exit.code(), Some(0), "{exit:?}");
        let [line] = exit.stderr.lines().collect::<Vec<_>>()[..] else {
            panic!("one line says why: {exit:?}")
        };
        assert!(line.contains("io_uring") && line.contains("epoll"), "{exit:?}");
    }
}

#[test]
fn however_little_memory_may_be_locked_auto_serves_and_says_by_what() {
    // CAP_IPC_LOCK lifts the limit: where the test is root, the server runs as the user 65534, from
    // a folder that this user may read.
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = dir.path().join("proactor");
    // By another process: a child of a test that runs at the same time could inherit the copy while
    // it is open for writing, and then nothing can execute it (ETXTBSY).
    let copied = Command::new("cp").arg(PROACTOR).arg(&program).status().expect("cp runs");
    assert!(copied.success(), "space for a copy");
    let is_root = fs::metadata("/proc/self").expect("procfs").uid() == 0;
    for kib in [0, 8, 16, 24, 32, 48, 64, 256] {
        let mut command = Command::new("/bin/sh");
        let script = format!("ulimit -l {kib} && exec \"$0\" serve --listen 127.0.0.1:0");
        command.args(["-c", &script]).arg(&program).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if is_root {
            command.uid(65_534);
        }
        let mut server = Killed(command.spawn().expect("a shell"));
        let mut line = String::new();
        let out = server.0.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let mut said = String::new();
        let mut errors = BufReader::new(server.0.stderr.take().expect("it is piped"));
        while !said.contains("model: ") {
            let n = errors.read_line(&mut said).expect("UTF-8");
            assert!(n > 0, "with {kib} KiB: {said}");
        }
        let (model, reason) = said.split_once(" (auto): ").expect("it says which");
        if model.ends_with("model: epoll") {
            assert!(reason.starts_with("io_uring is refused: "), "with {kib} KiB: {said}");
            assert!(line.contains("(epoll, "), "with {kib} KiB: {line}");
        } else {
            assert!(line.contains("(io_uring, "), "with {kib} KiB: {line} {said}");
        }
        let address = line.split_whitespace().nth(2).expect("listening on ADDRESS");
        let address = address.parse().expect("an address");
        Client::connect(&Address::Tcp(address)).ping();
    }
}

/// A process that ends with its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_readiness_server_needs_no_ring() {
    let server = reactor(&["--kernel", "5.5", "--listen", "127.0.0.1:0"]).start();
    Client::connect(server.address()).ping();
    let exit = server.terminate();
    assert_eq!((exit.code(), &*exit.stderr), (Some(0), ""), "{exit:?}");
}

// Statistics and logs.

#[test]
fn statistics_are_one_line_with_every_counter() {
    for (program, args) in SERVERS {
        let launch = Launch::new(program, args).args(&["--listen", "127.0.0.1:0", "--stats"]);
        let server = launch.start();
        let model = match &*server.listening[0].model {
            "io_uring" => "uring",
            other => other,
        }
        .to_owned();
        let client = Client::connect(server.address());
        client.ping();
        client.finish();
        client.hear_end();
        let exit = server.drain();
        let stats = exit.stats();
        assert_eq!(stats["model"], model, "{stats}");
        assert!(!stats["detail"].is_null(), "{stats}");
        let counters = stats["counters"].as_object().expect("an object");
        let all = proactor::counters::Counters::default().named();
        let names: BTreeSet<&str> = counters.keys().map(String::as_str).collect();
        assert_eq!(names, all.iter().map(|(name, _)| *name).collect());
        let facts = ["accepted", "closed", "received_bytes", "sent_bytes"];
        assert_eq!(facts.map(|name| exit.counter(name)), [1, 1, 4, 4], "{stats}");
        let some = ["iterations", "calls", "completed", "receives", "sends"];
        assert!(some.iter().all(|name| exit.counter(name) > 0), "{stats}");
    }
}

#[test]
fn statistics_on_standard_output_are_alone_there() {
    for (program, args) in SERVERS {
        let mut command = Command::new(program);
        command.args(args).args(["--listen", "127.0.0.1:0", "--stats"]).stdin(Stdio::null());
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(server.stderr.take().expect("it is piped"));
        let mut lines = String::new();
        while !lines.contains("listening on ") {
            assert!(errors.read_line(&mut lines).expect("UTF-8") > 0, "{lines}");
        }
        support::Process(server.id()).signal(libc::SIGTERM);
        let output = server.wait_with_output().expect("it ends");
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
        assert_eq!((&stats["schema"], output.status.code()), (&"proactor.stats/2".into(), Some(0)));
    }
}

#[test]
fn statistics_and_recordings_go_to_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let [stats, trace] = ["stats.json", "run.trace"].map(|name| folder.path().join(name));
    let [stats_path, trace_path] = [&stats, &trace].map(|path| path.to_str().expect("UTF-8"));
    let files = ["--stats", "--trace"];
    let server = Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0"])
        .args(&[&format!("{}={stats_path}", files[0]), files[1], trace_path])
        .start();
    Client::connect(server.address()).ping();
    let exit = server.terminate();
    assert_eq!((exit.code(), exit.stdout.len()), (Some(0), 0), "{exit:?}");
    let stats: serde_json::Value = serde_json::from_slice(&fs::read(stats).unwrap()).unwrap();
    assert_eq!(stats["counters"]["accepted"], 1);
    assert!(fs::metadata(trace).expect("a trace").len() > 0);
}

#[test]
fn a_trace_on_standard_output_is_alone_there() {
    for model in ["epoll", "process"] {
        let mut command = Command::new(PROACTOR);
        command.args(["serve", "--listen", "127.0.0.1:0", "--trace=-", "--model", model]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = command.spawn().expect("it runs");
        let mut errors = BufReader::new(server.stderr.take().expect("it is piped"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("UTF-8");
        let address = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("{model}: {line}"));
        Client::connect(&Address::Tcp(address.parse().expect("an address"))).ping();
        support::Process(server.id()).signal(libc::SIGTERM);
        let output = server.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" recv ") && !text.contains("listening on"), "{model}: {text}");
    }
}

#[test]
fn a_log_as_json_has_an_object_on_each_line() {
    for (program, args) in SERVERS {
        let json = ["--log", "trace", "--log-format", "json", "--listen", "127.0.0.1:0"];
        let server = Launch::new(program, args).args(&json).args(&["--max-connections", "999999"]);
        let server = server.descriptors(1024).start();
        Client::connect(server.address()).ping();
        let exit = server.terminate();
        let lines: Vec<serde_json::Value> = exit
            .stderr
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        assert!(!lines.is_empty(), "{exit:?}");
        for line in &lines {
            let fields = ["time", "level", "message"];
            assert!(fields.iter().all(|name| line[name].is_string()), "{line}");
        }
        let warning = lines.iter().find(|line| line["level"] == "warn").expect("of `ulimit -n`");
        assert!(warning["message"].as_str().expect("text").contains("ulimit -n"), "{warning}");
    }
}

#[test]
fn what_a_server_logs_is_on_stderr() {
    for (program, args) in SERVERS {
        let levels = ["--log", "trace", "--listen", "127.0.0.1:0"];
        let server: Server = Launch::new(program, args).args(&levels).start();
        Client::connect(server.address()).ping();
        let exit = server.terminate();
        assert_eq!((exit.code(), exit.stdout.len()), (Some(0), 0), "{exit:?}");
    }
}

#[test]
fn a_server_that_has_nothing_to_complain_of_does_not() {
    for (program, args) in SERVERS {
        let server = Launch::new(program, args).args(&["--listen", "127.0.0.1:0"]).start();
        let client = Client::connect(server.address());
        client.ping();
        client.reset();
        Client::connect(server.address()).ping();
        let exit = server.terminate();
        assert_eq!((exit.code(), &complaints(&exit.stderr)[..]), (Some(0), &[][..]), "{exit:?}");
    }
}
