//! The kernel's events: `trace attach` on an unmodified server, and `serve --kernel-events` with a
//! recording. They need root; without it, the error messages are tested.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use proactor_trace::kernel::Sidecar;
use proactor_trace::view::{Cut, TraceStats};
use proactor_trace::{Trace, TraceFile};
use serde_json::Value;

use support::server::PROACTOR;
use support::{Client, Launch, Process, can_trace_rings, has_tracepoints, skip};

#[test]
fn a_ring_of_another_process_is_seen_at_work() {
    if !can_trace_rings() {
        return;
    }
    let server =
        Launch::new(PROACTOR, &["serve", "--model", "uring", "--listen", "127.0.0.1:0"]).start();
    let client = Client::connect(server.address());
    client.ping();
    let pid = server.process.0.to_string();
    let mut attach = Command::new(PROACTOR);
    attach.args(["trace", "attach", &pid, "--live", "--json"]).stdout(Stdio::piped());
    support::server::reset_signals(&mut attach);
    let mut attach = attach.stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(attach.stdout.take().unwrap());
    let (said, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).for_each(|line| drop(said.send(line)));
    });
    // The first event shows that it watches.
    let seen = support::eventually("something is seen", || {
        client.ping();
        lines.try_recv().ok()
    });
    let event: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&event["ring"], &event["abnormal"]), (&0.into(), &false.into()), "{seen}");
    for _ in 0..50 {
        client.ping();
    }
    Client::connect(server.address()).reset();
    client.ping();
    Process(attach.id()).signal(libc::SIGINT);
    assert!(attach.wait().unwrap().success());
    reader.join().unwrap();
    let rest: Vec<String> = lines.try_iter().collect();
    let summary: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert_eq!(
        (&summary["schema"], &summary["lost"]),
        (&"proactor.trace.attach/3".into(), &0.into())
    );
    let ops = summary["rings"][0]["ops"].as_array().unwrap();
    let op = |name: &str| {
        let find = |op: &&Value| op["op"] == name;
        ops.iter().find(find).unwrap_or_else(|| panic!("no {name} in {summary}"))
    };
    assert!(op("recv")["completed"].as_u64() >= Some(50), "{summary}");
    assert!(op("send")["submitted"].as_u64() >= Some(50), "{summary}");
    assert_eq!(op("close")["ok"], 1, "the client that left: {summary}");
    server.drain();
}

#[test]
fn kernel_events_are_recorded_in_a_sidecar_file() {
    if !can_trace_rings() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.trace");
    let option = format!("--trace={}", path.display());
    let args = ["serve", "--model", "uring", "--listen", "127.0.0.1:0", &option, "--kernel-events"];
    let server = Launch::new(PROACTOR, &args).start();
    let client = Client::connect(server.address());
    for _ in 0..200 {
        client.ping();
    }
    drop(client);
    server.drain();

    let trace = Trace::open(&path).unwrap();
    let sidecar = Sidecar::open(&path, &trace.header).unwrap().expect("the server's file");
    let file = TraceFile::new(trace.clone(), Some(sidecar));
    let delays = TraceStats::of(&file, &Cut::default()).kernel.expect("kernel events");
    assert_eq!((delays.lost, delays.unmatched), (0, 0), "{delays}");
    assert!(delays.reaping.samples >= 200 && delays.posting.samples >= 100, "{delays}");
    let run = |args: &[&str]| {
        let output = Command::new(PROACTOR).arg("trace").args(args).arg(&path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, shown) = run(&["show", "--conn", "c0"]);
    assert_eq!(code, Some(0));
    for word in ["krnl  arrive  recv", "krnl  post    recv", "r0    cqe     recv*"] {
        assert!(shown.contains(word), "no {word:?} in {shown:.2000}");
    }
    // Followed to its end, the same events are in the same order.
    let (code, followed) = run(&["follow", "--conn", "c0"]);
    let names = |lines: &str| {
        let words = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        lines.lines().skip(2).map(words).collect::<Vec<_>>()
    };
    assert_eq!((code, names(&followed)), (Some(0), names(&shown)));
    let mut exported = Command::new(PROACTOR);
    exported.args(["trace", "export", "--format", "perfetto"]);
    let exported = exported.arg(&path).output().unwrap().stdout;
    for track in [&b"kernel: data arrived"[..], b"kernel: completions posted", b"posted_ns"] {
        assert!(exported.windows(track.len()).any(|bytes| bytes == track));
    }
    let (_, page) = run(&["export", "--format", "html"]);
    for column in ["\"waited\":[", "\"took\":[", "\"asleep\":["] {
        assert!(page.contains(column), "no {column}");
    }
    let (code, shown) = run(&["show", "--json"]);
    assert!(shown.contains("\"kind\":\"post\"") && code == Some(0), "{shown:.2000}");
    assert!(shown.contains("\"posted_ns\":") && shown.contains("\"asleep_ns\":"), "{shown:.2000}");
    assert!(run(&["export", "--format", "jsonl"]).1 == shown, "the export has less or more");
    let (code, json) = run(&["delays", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["unmatched"]), (Some(0), &0.into()));
    let (_, summary) = run(&["summary"]);
    assert!(summary.contains("arrival → posted"), "{summary}");
    let (_, summary) = run(&["summary", "--json"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["kernel"], json);
    // A file of another process with the same name is not used.
    let mut other = trace.header.clone();
    other.pid += 1;
    assert!(Sidecar::open(&path, &other).unwrap().is_none());
    fs::remove_file(folder.path().join("a.trace.kernel")).unwrap();
    assert_eq!(run(&["delays"]).0, Some(1));
}

#[test]
fn a_process_without_a_ring_is_reported_at_once_and_at_the_end() {
    if !has_tracepoints() {
        return;
    }
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = sleeper.id().to_string();
    let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    support::eventually("it has become sleep(1)", || (name() == "sleep\n").then_some(()));
    let attach = ["trace", "attach", &pid, "--for", "1ms"];
    let output = Command::new(PROACTOR).args(attach).output();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let process = format!("process {pid} (sleep)");
    let last = format!("error: {process}: no operation, and no io_uring open");
    assert!(
        said.contains(&format!("{process} has no io_uring open yet: waiting for one")),
        "{said}"
    );
    assert_eq!((output.status.code(), said.lines().last()), (Some(1), Some(&*last)));
    assert!(output.stdout.is_empty());
}

#[test]
fn an_idle_server_has_no_activity_and_that_is_no_error() {
    if !can_trace_rings() {
        return;
    }
    let server =
        Launch::new(PROACTOR, &["serve", "--model", "uring", "--listen", "127.0.0.1:0"]).start();
    let client = Client::connect(server.address());
    client.ping();
    let pid = server.process.0.to_string();
    let attach = ["trace", "attach", &pid, "--for", "50ms"];
    let output = Command::new(PROACTOR).args(attach).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("no activity in ") && shown.contains("(1 ring open)"), "{shown}");
    server.drain();
}

#[test]
fn a_missing_process_is_one_line() {
    let output = Command::new(PROACTOR).args(["trace", "attach", "4194304"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(complaint, "error: there is no process 4194304\n");
}

/// Runs this command without root.
fn without_root(args: &[&str]) -> Option<Output> {
    let mut command = Command::new(PROACTOR);
    command.args(args);
    // SAFETY: geteuid(2) touches no memory and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().ok();
    if output.is_none() {
        skip("the user 65534 may not run our programs");
    }
    output
}

#[test]
fn without_kernel_events_no_file_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    // Every user may write there.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let option = format!("--trace={}", folder.path().join("a.trace").display());
    let args = ["serve", "--model", "uring", "--listen", "127.0.0.1:0", &option, "--kernel-events"];
    let Some(output) = without_root(&args) else { return };
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_privilege_is_reported_in_one_line() {
    let me = std::process::id().to_string();
    let Some(output) = without_root(&["trace", "attach", &me]) else { return };
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(1), 1), "{complaint}");
    assert!(complaint.contains("root") || complaint.contains("tracefs"), "{complaint}");
}
