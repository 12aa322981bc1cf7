//! What a server gives up before it serves: its user, operations of its ring, further rings, files.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proactor::Model;
use proactor_models::{ALL, PROCESS};
use tempfile::TempDir;

use support::seccomp::Filter;
use support::server::{PROACTOR, Server};
use support::{Address, Client, Launch, Process, io_uring_refused, skip};

const OTHER: u32 = 65_534;

/// A server of each model that works here.
fn servers() -> impl Iterator<Item = (Model, Launch)> {
    let works = |model: &Model| *model != Model::URING || io_uring_refused().is_none();
    ALL.into_iter().filter(works).map(|model| (model, serve(&["--model", model.name()])))
}

fn serve(args: &[&str]) -> Launch {
    Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0"]).args(args)
}

/// A folder that every user may enter.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("procfs").uid() == 0
}

/// A line of the status of a process.
fn status(process: Process, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0)).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("proc(5)").trim().replace('\t', " ")
}

/// Ends a server. Returns what it gave up, without the means.
fn given_up(server: Server) -> Vec<String> {
    let stats = server.drain().stats();
    let parts = stats["lock_down"].as_array().expect("a list").iter();
    let text = |part: &serde_json::Value| part.as_str().expect("a text").to_owned();
    parts.map(|part| text(part).split(" (").next().expect("one").to_owned()).collect()
}

const RING: &str = "no other operations of the ring";
const RINGS: &str = "no further ring";
const FILES: &str = "no files, no connects";

#[test]
fn a_server_of_every_model_gives_up_rings_files_and_addresses_and_serves() {
    for (model, launch) in servers() {
        let folder = open_folder();
        let [socket, trace] = ["socket", "trace"].map(|name| folder.path().join(name));
        let unix = format!("unix:{}", socket.display());
        let launch = launch.args(&["--listen", &unix, "--stats", "--lock-down=require"]);
        let launch = launch.args(&["--trace", trace.to_str().expect("UTF-8")]);
        let server = match launch.try_start() {
            Ok(server) => server,
            Err(exit) if exit.stderr.contains("Landlock") => return skip(&exit.stderr),
            Err(exit) => panic!("{exit:?}"),
        };
        Client::connect(&Address::Unix(socket.clone())).ping();
        let client = Client::connect(server.address());
        client.ping();
        for _ in 0..2 {
            server.process.signal(libc::SIGUSR2); // Stops the recording, and starts it again.
            client.ping();
        }
        assert_eq!(status(server.process, "NoNewPrivs:"), "1", "{model}");
        for child in server.process.eventually_children(usize::from(model == PROCESS)) {
            assert_eq!(status(child, "NoNewPrivs:"), "1", "{model}");
        }
        drop(client);
        let ring = (model == Model::URING).then_some(RING);
        assert_eq!(given_up(server), Vec::from_iter(ring.into_iter().chain([RINGS, FILES])));
        assert!(!socket.exists(), "{model}: the file is removed");
        let summary = Launch::new(PROACTOR, &["trace", "summary", trace.to_str().unwrap()]).run();
        assert_eq!(summary.code(), Some(0), "{model}: {summary:?}");
    }
}

#[test]
fn a_console_and_a_printed_recording_go_on_after_the_lock_down() {
    for model in ["epoll", "process"] {
        let args = ["--model", model, "--lock-down", "--trace"];
        let server = serve(&args).start();
        Client::connect(server.address()).ping();
        let exit = server.drain();
        assert!(exit.stderr.contains("recv"), "{exit:?}");
    }
    let mut server = serve(&["--lock-down", "--console"]).typed().start();
    server.type_in("stats\nquit\n");
    let exit = server.wait();
    assert!(exit.stdout.concat().contains("accepted"), "{exit:?}");
}

#[test]
fn by_default_a_server_on_a_ring_gives_up_others_and_if_asked_each_does_or_nothing() {
    for asked in [&["--stats"][..], &["--stats", "--lock-down", "rings"]] {
        for (model, launch) in servers() {
            let has_ring = model == Model::URING;
            let ring = has_ring.then_some(RING);
            let rings = (has_ring || asked.len() > 1).then_some(RINGS);
            let server = launch.args(asked).start();
            Client::connect(server.address()).ping();
            assert_eq!(given_up(server), Vec::from_iter(ring.into_iter().chain(rings)), "{model}");
        }
    }
    let server = serve(&["--stats", "--lock-down", "off"]).start();
    assert_eq!(status(server.process, "NoNewPrivs:"), "0");
    assert_eq!(status(server.process, "Seccomp:"), "0");
    assert_eq!(given_up(server), Vec::<String>::new());
}

#[test]
fn what_is_not_in_force_is_said_and_if_required_refused() {
    let landlock = |errno| Filter::denying(&["landlock_create_ruleset"], errno);
    let cases = [
        (landlock(libc::ENOSYS), format!("{FILES}: Landlock needs Linux 5.13")),
        (landlock(libc::EOPNOTSUPP), format!("{FILES}: Landlock is not enabled")),
        (Filter::denying(&["seccomp", "io_uring_register"], libc::EPERM), format!("{RINGS}: Op")),
    ];
    for (filter, what) in cases {
        let launch = || serve(&["--model", "epoll"]).filtered(filter.clone());
        let server = launch().args(&["--lock-down"]).start();
        Client::connect(server.address()).ping();
        let exit = server.drain();
        assert!(exit.stderr.contains(&format!("not in force: {what}")), "{exit:?}");
        let server = launch().args(&["--lock-down", "rings"]).start();
        Client::connect(server.address()).ping();
        assert_eq!(server.drain().stderr, "");
        let exit = launch().args(&["--lock-down=require"]).run();
        assert_eq!(exit.code(), Some(1), "{exit:?}");
        let expected = format!("error: --lock-down=require: {what}");
        assert!(exit.stderr.starts_with(&expected), "{exit:?}");
        assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    }
}

// The user.

#[test]
fn a_server_of_every_model_becomes_another_user_with_all_its_threads_and_children() {
    if !is_root() {
        return skip("only root can become another user");
    }
    for (model, launch) in servers() {
        let (roots, theirs) = (open_folder(), open_folder());
        std::os::unix::fs::chown(theirs.path(), Some(OTHER), Some(OTHER)).expect("root may");
        let [socket, stats] = [roots.path().join("s"), theirs.path().join("stats")];
        let unix = format!("unix:{}", socket.display());
        let stats_arg = format!("--stats={}", stats.display());
        let args = ["--user", "65534:65534", &stats_arg, "--listen", &unix];
        let server = launch.args(&args).start();
        Client::connect(&Address::Unix(socket.clone())).ping();
        let client = Client::connect(server.address());
        client.ping();
        let children = server.process.eventually_children(usize::from(model == PROCESS));
        for process in children.into_iter().chain([server.process]) {
            assert_eq!(status(process, "Uid:"), "65534 65534 65534 65534", "{model}");
            assert_eq!(status(process, "CapPrm:"), "0000000000000000", "{model}");
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", server.process.0)).expect("it runs");
        for task in tasks {
            let path = task.expect("a thread").path().join("status");
            let Ok(status) = fs::read_to_string(path) else { continue }; // It has ended.
            assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{model}");
        }
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid()).expect("a file");
        assert_eq!([owner(&socket), owner(&stats)], [OTHER; 2], "{model}");
        drop(client);
        let exit = server.drain();
        assert!(exit.stderr.contains("the file of a Unix socket stays"), "{model}: {exit:?}");
    }
}

#[test]
fn a_user_that_cannot_be_taken_is_refused_in_one_line() {
    let exit = serve(&["--user", "no-such-user"]).run();
    assert_eq!(exit.code(), Some(2), "{exit:?}");
    assert!(exit.stderr.contains(r#"there is no user "no-such-user""#), "{exit:?}");
    let user = if is_root() { "1:1" } else { "0:0" };
    let exit = serve(&["--user", user]).unprivileged().run();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert!(exit.stderr.starts_with("error: cannot become user "), "{exit:?}");
    assert!(exit.stderr.contains("--user needs root"), "{exit:?}");
    assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    let exit = serve(&["--lock-down", "--trace=/dev/null", "--kernel-events"]).run();
    assert_eq!(exit.code(), Some(2), "{exit:?}");
    assert!(exit.stderr.contains("leave out --lock-down"), "{exit:?}");
}

// Addresses.

#[test]
fn an_address_that_other_machines_reach_is_named() {
    let reached = |address: &str| {
        let exit = Launch::new(PROACTOR, &["serve", "--listen", address]).start().drain();
        exit.stderr.contains("can be reached from other machines")
    };
    let folder = open_folder();
    let unix = format!("unix:{}", folder.path().join("s").display());
    let found = ["0.0.0.0:0", "127.0.0.1:0", "127.9.9.9:0", &unix].map(reached);
    assert_eq!(found, [true, false, false, false]);
    let server = Launch::new(PROACTOR, &["serve", "--lock-down=off"]).try_start();
    let text = match server {
        Ok(server) => server.address().to_string(),
        Err(exit) => exit.stderr, // Another test, or another server, has the port.
    };
    assert!(text.contains("127.0.0.1:7000"), "the default is loopback: {text}");
}

#[test]
fn the_file_of_a_unix_socket_has_the_permissions_and_the_owner_that_are_named() {
    let folder = open_folder();
    let path = folder.path().join("s");
    let unix = format!("unix:{}", path.display());
    let server = serve(&["--listen", &unix, "--unix-mode", "0620"]).start();
    assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o620);
    server.drain();
    if is_root() {
        let server = serve(&["--listen", &unix, "--unix-owner", "65534:0"]).start();
        let meta = fs::metadata(&path).expect("a file");
        assert_eq!((meta.uid(), meta.gid()), (OTHER, 0));
        server.drain();
    }
    for (args, why) in [
        (["--unix-mode", "0660"], "write --listen unix:PATH"),
        (["--unix-owner", "0:0"], "write --listen unix:PATH"),
        (["--unix-mode", "0999"], "an octal number"),
        (["--unix-mode", "4755"], "an octal number"),
    ] {
        let exit = serve(&args).run();
        assert_eq!(exit.code(), Some(2), "{exit:?}");
        assert!(exit.stderr.contains(why), "{exit:?}");
    }
}

#[test]
fn of_two_programs_that_begin_at_once_on_the_path_of_a_dead_server_one_serves() {
    let folder = open_folder();
    let path = folder.path().join("s");
    let unix = format!("unix:{}", path.display());
    for round in 0..20 {
        drop(std::os::unix::net::UnixListener::bind(&path).expect("no file is left"));
        let both = [(); 2].map(|()| Launch::new(PROACTOR, &["serve", "--listen", &unix]).spawn());
        let (served, refused): (Vec<_>, Vec<_>) =
            both.into_iter().partition(|server| server.line().is_some());
        assert_eq!((served.len(), refused.len()), (1, 1), "round {round}");
        for server in refused {
            let exit = server.wait();
            assert!(exit.stderr.contains("in use"), "{exit:?}");
        }
        for server in served {
            Client::connect(&Address::Unix(path.clone())).ping();
            server.drain();
        }
        assert!(!path.exists(), "round {round}");
    }
}
