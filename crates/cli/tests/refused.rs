//! Machines that refuse io_uring: by a filter, a sysctl or a limit, whichever of its three calls
//! fails. The server falls back or refuses with one true line, before it listens.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use support::seccomp::Filter;
use support::server::{Exit, PROACTOR, Server};
use support::{Client, Launch, Random, eventually, io_uring_refused, kernel, skip};

const CALLS: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
const ERRORS: [(&str, i32); 4] = [
    ("EPERM", libc::EPERM),
    ("ENOSYS", libc::ENOSYS),
    ("ENOMEM", libc::ENOMEM),
    ("EACCES", libc::EACCES),
];

fn serve(args: &[&str]) -> Launch {
    Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0"]).args(args)
}

/// Returns the only line on stderr.
fn only_line(exit: &Exit) -> &str {
    let lines: Vec<&str> = exit.stderr.lines().collect();
    let [line] = lines[..] else { panic!("one line: {exit:?}") };
    line
}

/// Serves one client, and drains. Returns the line that says which model, and why no better.
fn falls_back(server: Server) -> String {
    assert_eq!(server.listening[0].model, "epoll");
    Client::connect(server.address()).ping();
    let exit = server.drain();
    let line = only_line(&exit);
    let reason = line.strip_prefix("model: epoll (auto): ");
    reason.unwrap_or_else(|| panic!("it says why: {exit:?}")).to_owned()
}

/// Returns what a command says that refuses to run.
fn refuses(exit: &Exit) -> &str {
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert!(exit.stdout.is_empty(), "it does not listen: {exit:?}");
    only_line(exit).strip_prefix("error: ").unwrap_or_else(|| panic!("an error: {exit:?}"))
}

#[test]
fn whichever_call_is_denied_the_server_names_it_and_serves_without_io_uring() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    for call in CALLS {
        for (name, errno) in ERRORS {
            let filter = Filter::denying(&[call], errno);
            let reason = falls_back(serve(&[]).filtered(filter.clone()).start());
            let start = format!("io_uring is refused: {call}: {name}, most likely ");
            assert!(reason.starts_with(&start), "{call} {name}: {reason}");
            assert!(reason.contains("seccomp filter (Seccomp: 2"), "{call} {name}: {reason}");
            let exit = serve(&["--model", "uring"]).filtered(filter.clone()).run();
            assert_eq!(refuses(&exit), reason, "the same sentence");
            let checked = check(filter);
            assert_eq!(checked["verdict"], reason, "the same sentence");
            let refusal = &checked["io_uring"]["refusal"];
            assert_eq!((&refusal["call"], &refusal["error"]), (&json!(call), &json!(name)));
            assert!(["seccomp", "memlock"].map(Value::from).contains(&refusal["cause"]));
        }
    }
}

/// Returns what `check` says under a filter that leaves no io_uring.
fn check(filter: Filter) -> Value {
    let exit = Launch::new(PROACTOR, &["check", "--json"]).filtered(filter).run();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert_eq!(only_line(&exit), "error: io_uring cannot be used here");
    let checked: Value = serde_json::from_str(&exit.stdout.join("\n")).expect("JSON");
    assert_eq!(checked["schema"], "proactor.check/1");
    assert_eq!(checked["io_uring"]["usable"], false);
    checked
}

#[test]
fn a_filter_that_kills_leaves_a_server_and_is_named() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    for call in CALLS {
        let filter = Filter::killing(&[call]);
        let reason = falls_back(serve(&[]).filtered(filter.clone()).start());
        let start =
            "io_uring is refused: a trial in a child process: killed by SIGSYS, most likely";
        assert!(reason.starts_with(start), "{call}: {reason}");
        let exit = serve(&["--model", "uring"]).filtered(filter.clone()).run();
        assert_eq!(refuses(&exit), reason, "the same sentence");
        let exit = Launch::new(PROACTOR, &["models", "--json"]).filtered(filter.clone()).run();
        let models: Value = serde_json::from_str(&exit.stdout.join("\n")).expect("JSON");
        let mut models = models["models"].as_array().expect("models").iter();
        let ring = models.find(|model| model["model"] == "uring").expect("a model");
        assert_eq!(ring["refusal"], reason, "the same sentence");
        let args = ["load", "127.0.0.1:1", "--engine", "uring"];
        let exit = Launch::new(PROACTOR, &args).filtered(filter.clone()).run();
        assert!(refuses(&exit).contains(&reason), "{exit:?}");
        let checked = check(filter);
        assert_eq!(checked["verdict"], reason, "the same sentence");
        assert_eq!(checked["io_uring"]["refusal"]["cause"], "seccomp");
        assert!(!checked["io_uring"]["refusal"]["remedies"].as_array().expect("texts").is_empty());
    }
}

#[test]
fn check_says_which_features_there_are_and_what_limits_a_server() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    let exit = Launch::new(PROACTOR, &["check", "--json"]).descriptors(100).run();
    assert_eq!((exit.code(), &*exit.stderr), (Some(0), ""), "{exit:?}");
    let checked: Value = serde_json::from_str(&exit.stdout.join("\n")).expect("JSON");
    let ring = &checked["io_uring"];
    let verdict = checked["verdict"].as_str().expect("a text");
    let tier = ring["tier"].as_str().expect("a version");
    assert!(verdict.starts_with(&format!("io_uring: used, tier {tier}: ")), "{verdict}");
    let capabilities = ring["capabilities"].as_array().expect("capabilities");
    assert!(capabilities.iter().any(|it| it["name"] == "RECV_MULTISHOT"), "{checked}");
    assert!(capabilities.iter().all(|it| it["present"] == true || it["used"] == false));
    let limits = checked["limits"].as_array().expect("limits");
    let descriptors = limits.iter().find(|it| it["name"] == "descriptors").expect("a limit");
    assert_eq!(descriptors["value"], 100.0);
    assert!(descriptors["problem"].is_string() && descriptors["fix"].is_string(), "{checked}");
    let text = Launch::new(PROACTOR, &["check"]).descriptors(100).run().stdout;
    assert_eq!(text[0], verdict);
    let line = text.iter().find(|line| line.contains("fewer than 10,000 connections"));
    assert!(line.is_some(), "{text:?}");
}

#[test]
fn whichever_call_is_denied_the_load_generator_names_it_and_uses_epoll() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    let server = serve(&["--model", "epoll"]).start();
    let address = server.address().to_string();
    let load = |engine| {
        let args = [&*address, "--engine", engine, "--duration", "20ms", "--connections", "2"];
        Launch::new(PROACTOR, &["load"]).args(&args)
    };
    for call in CALLS {
        for (name, errno) in ERRORS {
            let filter = Filter::denying(&[call], errno);
            let refusal = format!("io_uring is refused: {call}: {name}, most likely ");
            let exit = load("auto").filtered(filter.clone()).run();
            assert_eq!(exit.code(), Some(0), "{exit:?}");
            let text = exit.stdout.join(" ");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(&refusal) && text.contains("it used epoll"), "{text}");
            let exit = load("uring").filtered(filter).run();
            assert!(refuses(&exit).contains(&refusal), "{exit:?}");
        }
    }
    server.drain();
}

/// The sysctl is one for all namespaces, so another file is mounted over it, for the server
/// alone; a filter does what the kernel would do.
#[test]
fn the_sysctl_that_disables_io_uring_is_named_with_its_value() {
    let sysctl = "/proc/sys/kernel/io_uring_disabled";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("sysctl");
    let file = file.to_str().expect("UTF-8");
    let mount = format!("mount --bind {file} {sysctl} && exec \"$@\"");
    let args = ["--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"];
    fs::write(file, "2\n").expect("space");
    let tried = Command::new("unshare").args(args).arg("true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip("no mount namespace, or a kernel without the sysctl");
    }
    let serve = ["--", PROACTOR, "serve", "--listen", "127.0.0.1:0"];
    for (value, words) in [("1", "1 permits it only to"), ("2", "2 permits it to no")] {
        fs::write(file, format!("{value}\n")).expect("space");
        let launch = || Launch::new("unshare", &args[..args.len() - 1]).args(&serve);
        let filter = Filter::denying(&["io_uring_setup"], libc::EPERM);
        let reason = falls_back(launch().filtered(filter.clone()).start());
        assert!(
            reason.contains(&format!("the sysctl kernel.io_uring_disabled = {words}")),
            "{reason}"
        );
        assert!(reason.contains("`sysctl kernel.io_uring_disabled=0`"), "{reason}");
        let exit = launch().args(&["--model", "uring"]).filtered(filter).run();
        assert_eq!(refuses(&exit), reason, "the same sentence");
    }
}

#[test]
fn a_limit_of_locked_memory_that_refuses_io_uring_is_named() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    let version = kernel();
    if version >= [5, 12] && !([6, 14]..[7, 2]).contains(&version) {
        return skip("rings do not count as locked memory on this kernel");
    }
    let exit = serve(&["--model", "uring"]).locked_memory(0).run();
    let refusal = refuses(&exit);
    let start =
        "io_uring is refused: io_uring_setup: ENOMEM, most likely because 0 KiB may be locked";
    assert!(refusal.starts_with(start) && refusal.contains("`ulimit -l`"), "{refusal}");
    assert_eq!(falls_back(serve(&[]).locked_memory(0).start()), refusal, "the same sentence");
}

/// Memory that an unprivileged process locks is limited, and a filter may return the same error.
#[test]
fn where_two_causes_have_one_error_both_are_named_with_their_ways_out() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    let version = kernel();
    let counts = version < [5, 12] || ([6, 14]..[7, 2]).contains(&version);
    for call in CALLS {
        let filter = Filter::denying(&[call], libc::ENOMEM);
        let reason = falls_back(serve(&[]).unprivileged().filtered(filter.clone()).start());
        assert!(reason.contains("by a seccomp filter"), "{reason}");
        assert!(reason.contains("allow io_uring_setup, io_uring_enter"), "{reason}");
        let locks = counts && call != "io_uring_enter";
        assert_eq!(reason.contains("`ulimit -l`"), locks, "{reason}");
        let args = ["check", "--json"];
        let exit = Launch::new(PROACTOR, &args).unprivileged().filtered(filter).run();
        let checked: Value = serde_json::from_str(&exit.stdout.join("\n")).expect("JSON");
        assert_eq!(checked["verdict"], reason, "the same sentence");
        let remedies = checked["io_uring"]["refusal"]["remedies"].to_string();
        assert!(remedies.contains("--seccomp-profile"), "{remedies}");
        assert_eq!(remedies.contains("LimitMEMLOCK="), locks, "{remedies}");
    }
}

/// The buffers of a server are mapped when its model is set up.
#[test]
fn however_little_address_space_there_is_one_true_line_says_what_serves() {
    let (mut served, mut refused) = (0, 0);
    for most in (16..64).map(|mib| mib << 20) {
        for model in [None, Some("uring"), Some("epoll")] {
            if let Some(reason) = io_uring_refused().filter(|_| model == Some("uring")) {
                skip(&reason);
                continue;
            }
            let asked: Vec<&str> = model.iter().flat_map(|model| ["--model", model]).collect();
            match serve(&asked).address_space(most).try_start() {
                Ok(server) => {
                    Client::connect(server.address()).ping();
                    server.drain();
                    served += 1;
                }
                // The program itself is not loaded.
                Err(exit) if exit.code() != Some(1) => {}
                Err(exit) => {
                    assert!(refuses(&exit).contains("`ulimit -v`"), "{exit:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
}

/// A server that listens has what one connection needs.
#[test]
fn however_few_descriptors_are_permitted_each_model_serves_or_refuses() {
    for model in proactor_models::ALL.map(proactor::Model::name) {
        if let Some(reason) = io_uring_refused().filter(|_| model == "uring") {
            skip(&reason);
            continue;
        }
        // With fewer than four, the program itself cannot be loaded.
        let serves: Vec<bool> = (4..28).map(|most| serves_with_descriptors(model, most)).collect();
        assert!(serves.is_sorted() && serves[0] != serves[23], "{model}: {serves:?}");
    }
}

/// What `serve` and `check` say is the same, and is said only if it serves.
#[test]
fn however_few_descriptors_are_permitted_one_true_line_says_what_serves() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    for most in 4..28 {
        let started = serve(&[]).descriptors(most).try_start();
        let checked = Launch::new(PROACTOR, &["check", "--json"]).descriptors(most).run();
        let checked: Value = serde_json::from_str(&checked.stdout.join("\n")).unwrap_or_default();
        let is_usable = match started {
            Ok(server) => {
                let is_usable = server.listening[0].model == "io_uring";
                Client::connect(server.address()).ping();
                let exit = server.drain();
                assert!(exit.stderr.starts_with("model: "), "{exit:?}");
                is_usable
            }
            Err(exit) => {
                assert!(refuses(&exit).contains("`ulimit -n`"), "with {most}: {exit:?}");
                false
            }
        };
        // With fewer, it cannot print.
        if checked == Value::Null {
            continue;
        }
        assert_eq!(checked["io_uring"]["usable"], is_usable, "with {most}: {checked}");
        if !is_usable {
            let verdict = checked["verdict"].as_str().expect("a text");
            let left = format!(": EMFILE, no descriptor is left of {most} (Seccomp: ");
            assert!(verdict.contains(&left), "/proc is read before they are short: {verdict}");
        }
    }
}

/// Returns true if a server of this model serves a chat with so many descriptors, and false if it
/// refuses. Fails if it does neither.
fn serves_with_descriptors(model: &str, most: u64) -> bool {
    let args = ["--model", model, "--protocol", "chat"];
    let server = match serve(&args).descriptors(most).try_start() {
        Ok(server) => server,
        Err(exit) => {
            assert!(refuses(&exit).contains("`ulimit -n`"), "with {most}: {exit:?}");
            return false;
        }
    };
    let client = Client::connect(server.address());
    client.say(b"quit\n");
    client.hear_end();
    server.kill();
    true
}

/// Calls that limit or protect, and that some filters deny: the server does without them.
#[test]
fn calls_that_a_server_can_do_without_are_done_without() {
    let calls = ["prlimit64", "prctl", "sched_getaffinity", "getrandom", "uname", "close_range"];
    let filters =
        [Filter::denying(&calls, libc::EPERM), Filter::denying(&["clone3"], libc::ENOSYS)];
    for model in proactor_models::ALL.map(proactor::Model::name) {
        if let Some(reason) = io_uring_refused().filter(|_| model == "uring") {
            skip(&reason);
            continue;
        }
        for filter in &filters {
            let server = serve(&["--model", model]).filtered(filter.clone()).start();
            Client::connect(server.address()).ping();
            server.drain();
        }
    }
}

#[test]
fn a_model_that_cannot_make_threads_or_processes_refuses_before_it_listens() {
    let denied = [
        ("thread", ["clone3", "clone"]),
        ("blocking", ["clone3", "clone"]),
        ("process", ["clone3", "clone"]),
        ("process", ["waitid", "wait4"]),
    ];
    for (model, calls) in denied {
        let filter = Filter::denying(&calls, libc::EPERM);
        let exit = serve(&["--model", model]).filtered(filter).run();
        assert_eq!((exit.code(), exit.stdout.len()), (Some(1), 0), "{exit:?}");
        // A child that cannot be waited for may still say that its parent has ended.
        let refusal = format!("error: {model} is refused: ");
        assert!(exit.stderr.lines().any(|line| line.starts_with(&refusal)), "{exit:?}");
    }
}

// The profile that permits io_uring.

/// Returns a profile as `check` writes it.
fn profile(format: &str) -> String {
    let args = ["check", &format!("--seccomp-profile={format}")];
    let exit = Launch::new(PROACTOR, &args).run();
    assert_eq!((exit.code(), &*exit.stderr), (Some(0), ""), "{exit:?}");
    exit.stdout.join("\n")
}

/// Serves and records an echo and a chat, and drains.
fn serves_all(model: &str, filter: Filter) {
    let dir = tempfile::tempdir().expect("a directory");
    let trace = format!("--trace={}", dir.path().join("run").display());
    let path = format!("unix:{}=chat", dir.path().join("chat").display());
    let mut args = vec!["--model", model, "--stats", &trace, "--log", "info", "--listen", &path];
    args.extend(["--lock-down=auto", "--unix-mode", "0600"]);
    let server = serve(&args).filtered(filter).start();
    let client = Client::connect(server.address());
    let bytes = Random::of_test().bytes(1 << 20);
    client.converse(&bytes, &bytes, &mut Random::of_test());
    drop(client);
    let chat = &server.listening[1].address;
    if proactor_models::find(model) != Some(proactor_models::BLOCKING) {
        let [one, other] = [(); 2].map(|()| Client::connect(chat));
        eventually("a line reaches the other", || {
            other.say(b"hello\n");
            let heard = one.hear_now(4096).unwrap_or_default();
            String::from_utf8_lossy(&heard).contains("] hello\n").then_some(())
        });
    }
    let word = if model == "uring" { "io_uring" } else { model };
    assert_eq!(server.listening[0].model, word);
    let exit = server.drain();
    assert!(!exit.stderr.contains("WARN"), "{exit:?}");
}

#[test]
fn every_model_serves_and_records_under_exactly_the_profile() {
    let profile = profile("oci");
    for kills in [true, false] {
        let filter = Filter::of_profile(&profile, kills);
        for model in proactor_models::ALL.map(proactor::Model::name) {
            if let Some(reason) = io_uring_refused().filter(|_| model == "uring") {
                skip(&reason);
                continue;
            }
            serves_all(model, filter.clone());
        }
    }
}

#[test]
fn both_formats_of_the_profile_have_the_same_calls() {
    let oci: Value = serde_json::from_str(&profile("oci")).expect("JSON");
    let names = oci["syscalls"][0]["names"].as_array().expect("names");
    let names: Vec<&str> = names.iter().map(|name| name.as_str().expect("a name")).collect();
    let systemd = profile("systemd");
    let lines = systemd.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    assert_eq!(lines.flat_map(str::split_whitespace).collect::<Vec<_>>(), names);
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "no name is listed twice");
    let none = ["ptrace", "mount", "bpf", "unshare", "setns", "keyctl", "process_vm_readv"];
    assert!(none.iter().all(|name| !names.contains(name)));

    let dir = tempfile::tempdir().expect("a directory");
    let unit = dir.path().join("proactor.service");
    fs::write(&unit, format!("{systemd}\nExecStart=/bin/true\n")).expect("space");
    match Command::new("systemd-analyze").arg("verify").arg(&unit).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), ""),
        Err(_) => skip("no systemd-analyze"),
    }
}
