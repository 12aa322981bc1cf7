//! Machines that refuse io_uring: by a filter, a sysctl or a limit, whichever of its three calls
//! fails. The server falls back or refuses with one true line, before it listens.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::process::Command;

use support::seccomp::Filter;
use support::server::{Exit, PROACTOR, Server};
use support::{Client, Launch, io_uring_refused, kernel, skip};

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
            let exit = serve(&["--model", "uring"]).filtered(filter).run();
            assert_eq!(refuses(&exit), reason, "the same sentence");
        }
    }
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
        let refusal = refuses(&exit);
        assert!(refusal.starts_with(&format!("{model} is refused: ")), "{refusal}");
    }
}
