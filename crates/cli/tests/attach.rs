//! `trace attach` on processes that do not stay what they were: short-lived threads, other
//! programs, children, strangers, PID namespaces. They need root.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use io_uring::{IoUring, opcode, types};
use proactor_trace::kernel::{Instance, Sidecar, Tracepoint};
use proactor_trace::view::{Cut, TraceStats};
use proactor_trace::{Clock, Trace, TraceFile};
use serde_json::Value;

use support::server::{PROACTOR, reset_signals};
use support::terminal::Terminal;
use support::{
    Address, Client, Launch, Process, can_trace_rings, eventually, io_uring_refused, skip,
};

/// A running `proactor trace attach --json`, which watches already.
struct Attach(Child);

impl Attach {
    fn start(args: &[&str]) -> Attach {
        let mut command = Command::new(PROACTOR);
        command.args(["trace", "attach", "--json"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        reset_signals(&mut command);
        let mut attach = Attach(command.spawn().expect("it runs"));
        let mut lines = BufReader::new(attach.0.stderr.take().expect("a pipe"));
        let mut said = String::new();
        while !said.contains("until SIGINT") {
            assert_ne!(lines.read_line(&mut said).expect("text"), 0, "it ended: {said}");
        }
        attach
    }

    /// Interrupts it, and returns its summary.
    fn finish(self) -> Value {
        Process(self.0.id()).signal(libc::SIGINT);
        summary(&self.0.wait_with_output().expect("it ends"))
    }
}

/// The summary at the end of the output.
fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("no output: {output:?}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// A count of an operation, of all rings together.
fn count(summary: &Value, op: &str, name: &str) -> u64 {
    let rings = summary["rings"].as_array().expect("rings").iter();
    let ops = rings.flat_map(|ring| ring["ops"].as_array().expect("operations"));
    ops.filter(|row| row["op"] == op).map(|row| row[name].as_u64().expect("a count")).sum()
}

fn nops(count: u64) {
    let mut ring = IoUring::new(8).expect("a ring");
    for _ in 0..count {
        let nop = opcode::Nop::new().build();
        // SAFETY: the operation has no buffers.
        unsafe { ring.submission().push(&nop) }.expect("an empty queue");
        ring.submit_and_wait(1).expect("it submits");
        assert_eq!(ring.completion().next().expect("a completion").result(), 0);
    }
}

/// The number of the calling thread.
fn this_thread() -> String {
    // SAFETY: gettid(2) touches no memory and cannot fail.
    unsafe { libc::gettid() }.to_string()
}

#[test]
fn every_operation_of_short_lived_threads_is_counted() {
    if !can_trace_rings() {
        return;
    }
    // The threads of this one: other tests have rings in this process as well.
    let attach = Attach::start(&["-f", &this_thread()]);
    for _ in 0..20 {
        std::thread::spawn(|| nops(100)).join().expect("it does not panic");
    }
    let summary = attach.finish();
    assert_eq!(count(&summary, "nop", "completed"), 2000, "{summary}");
    assert_eq!(summary["lost"], 0);
    // Each nop has an enter of its own.
    let enters = summary["rings"].as_array().expect("rings").iter();
    let enters: u64 = enters.map(|ring| ring["enters"].as_u64().expect("a count")).sum();
    assert!(enters >= 2000, "{summary}");
}

fn uring_server() -> support::server::Server {
    Launch::new(PROACTOR, &["serve", "--model", "uring", "--listen", "127.0.0.1:0"]).start()
}

#[test]
fn rings_of_other_processes_are_not_shown_whatever_their_addresses() {
    if !can_trace_rings() {
        return;
    }
    let server = uring_server();
    let client = Client::connect(server.address());
    client.ping();
    let attach = Attach::start(&[&server.process.0.to_string()]);
    client.ping();
    // Enough to be excluded as a busy stranger.
    for _ in 0..40 {
        nops(20);
    }
    client.ping();
    let summary = attach.finish();
    let rings = summary["rings"].as_array().expect("rings");
    assert_eq!((rings.len(), count(&summary, "nop", "submitted")), (1, 0), "{summary}");
    // The first completion has no submission that was seen.
    assert!(count(&summary, "recv", "completed") >= 1, "{summary}");
    server.drain();
}

/// The folders of the trace instances of a process.
fn instances(pid: u32) -> Vec<PathBuf> {
    static TRACEFS: OnceLock<OwnedFd> = OnceLock::new();
    let open = || proactor::os::private_tracefs().expect("there are tracepoints");
    let folder = format!("/proc/self/fd/{}/instances", TRACEFS.get_or_init(open).as_raw_fd());
    let folders = fs::read_dir(folder).expect("instances").map(|it| it.expect("one").path());
    folders.filter(|path| path.to_string_lossy().contains(&format!("-{pid}-"))).collect()
}

#[test]
fn arrivals_are_seen_however_many_strangers_are_excluded() {
    if !can_trace_rings() {
        return;
    }
    let server = uring_server();
    // After a loss, which a busy machine may bring, nothing is measured.
    let watched = (0..20).map(|_| watch_among_strangers(&server));
    let summary = { watched }.find(|summary| summary["lost"] == 0).expect("no loss, once");
    let ops = summary["rings"][0]["ops"].as_array().expect("operations");
    let recv = ops.iter().find(|op| op["op"] == "recv").expect("receives");
    assert!(recv["arrival_to_cqe"]["samples"].as_u64() >= Some(20), "{summary}");
    server.drain();
}

/// Watches the server while a client has 20 replies, after two busy strangers were excluded.
fn watch_among_strangers(server: &support::server::Server) -> Value {
    let attach = Attach::start(&[&server.process.0.to_string()]);
    let pid = attach.0.id();
    let client = Client::connect(server.address());
    client.ping();
    for _ in 0..2 {
        let stranger = move || {
            let own = this_thread();
            let lists = |path: PathBuf| fs::read_to_string(path.join("set_event_notrace_pid"));
            let is_excluded = |path| lists(path).is_ok_and(|list| list.lines().any(|it| it == own));
            eventually("the stranger is excluded", || {
                nops(20);
                instances(pid).into_iter().any(is_excluded).then_some(())
            });
        };
        std::thread::spawn(stranger).join().expect("it does not panic");
    }
    for _ in 0..20 {
        client.ping();
    }
    attach.finish()
}

/// A shell that waits for a line before it runs these commands; `$P` is the program.
fn shell(script: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("read line; {script}")]).env("P", PROACTOR);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    reset_signals(&mut shell);
    shell.spawn().expect("a shell")
}

/// Lets the shell continue; returns a client of the server that it starts, and the further output.
fn connect(shell: &mut Child) -> (Client, Lines<BufReader<ChildStdout>>) {
    shell.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    first_client(shell)
}

/// Returns a client of the server that this program starts, and the further output.
fn first_client(shell: &mut Child) -> (Client, Lines<BufReader<ChildStdout>>) {
    let mut output = BufReader::new(shell.stdout.take().expect("a pipe")).lines();
    let address = output.find_map(|line| {
        let line = line.expect("text");
        let place = line.find("127.0.0.1:")?;
        line[place..].split([' ', ',']).next()?.parse().ok()
    });
    let address: std::net::SocketAddr = address.expect("an address");
    (Client::connect(&Address::Tcp(address)), output)
}

#[test]
fn a_program_that_another_one_becomes_is_seen() {
    if !can_trace_rings() {
        return;
    }
    let mut shell = shell("exec $P serve --model uring --listen 127.0.0.1:0");
    let attach = Attach::start(&[&shell.id().to_string()]);
    let (client, _output) = connect(&mut shell);
    client.ping();
    let summary = attach.finish();
    shell.kill().expect("it runs");
    shell.wait().expect("it ends");
    assert!(count(&summary, "recv", "completed") >= 1, "{summary}");
    let process = &summary["processes"][0];
    assert_eq!(
        (&process["name"], &summary["rings"][0]["name"]),
        (&"proactor".into(), &"proactor".into())
    );
}

#[test]
fn a_child_is_seen_if_it_is_followed_and_is_else_named() {
    if !can_trace_rings() {
        return;
    }
    for follow in [true, false] {
        let mut shell = shell("$P serve --model uring --listen 127.0.0.1:0 & read line; kill $!");
        let id = shell.id().to_string();
        let args = if follow { vec!["-f", &id] } else { vec![&*id] };
        let attach = Attach::start(&args);
        let (client, _output) = connect(&mut shell);
        client.ping();
        Process(attach.0.id()).signal(libc::SIGINT);
        let output = attach.0.wait_with_output().expect("it ends");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
        let summary = summary(&output);
        assert_eq!(output.status.success(), follow, "{output:?}");
        assert_eq!(summary["rings"].as_array().expect("rings").is_empty(), !follow);
        if follow {
            assert_eq!(summary["processes"][0]["name"], "proactor", "{summary}");
        }
    }
}

#[test]
fn a_process_without_operations_is_not_said_to_be_something_else() {
    if !can_trace_rings() {
        return;
    }
    let mut shell = shell("$P serve --model uring --listen 127.0.0.1:0 & read line; kill $!");
    let id = shell.id().to_string();
    let mut command = Command::new(PROACTOR);
    command.args(["trace", "attach", &id]).stderr(Stdio::piped()).stdout(Stdio::null());
    reset_signals(&mut command);
    let mut attach = command.spawn().expect("it runs");
    let mut log = BufReader::new(attach.stderr.take().expect("a pipe")).lines();
    let watches = |line: std::io::Result<String>| line.expect("text").contains("until SIGINT");
    assert!(log.any(watches));
    let (client, _output) = connect(&mut shell);
    client.ping();
    Process(attach.id()).signal(libc::SIGINT);
    let last = log.last().expect("a line").expect("text");
    assert!(last.contains("(proactor) has rings: -f watches children"), "{last}");
    drop(shell.stdin.take());
    assert_eq!(attach.wait().expect("it ends").code(), Some(1));
    shell.wait().expect("it ends");
}

/// A shell in a PID namespace of its own, as [`shell`]; `None`, with a skip, if there are none.
fn contained(script: &str) -> Option<Child> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
    let probe = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skip("no PID namespaces (unshare)");
        return None;
    }
    command.arg(format!("read line; {script}")).env("P", PROACTOR);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    reset_signals(&mut command);
    Some(command.spawn().expect("unshare runs"))
}

#[test]
fn a_process_in_a_pid_namespace_is_seen_from_within() {
    if !can_trace_rings() {
        return;
    }
    // The number of the shell shows that the namespace is another one: it is 1.
    let script = "$P serve --model uring --listen 127.0.0.1:0 & server=$!; read line; \
                  test $$ = 1 && $P trace attach --json --for 500ms $server; read line; kill $server; wait";
    let Some(mut shell) = contained(script) else { return };
    let (client, mut output) = connect(&mut shell);
    let mut stdin = shell.stdin.take().expect("a pipe");
    stdin.write_all(b"\n").expect("it reads");
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let ping = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            client.ping();
        }
        stdin.write_all(b"\n").expect("it reads");
    });
    let summary = output.find(|line| line.as_ref().is_ok_and(|line| line.starts_with('{')));
    is_over.store(true, Ordering::Relaxed);
    ping.join().expect("it does not panic");
    shell.wait().expect("it ends");
    let summary = summary.expect("a summary").expect("text");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert!(count(&summary, "recv", "completed") > 0, "{summary}");
    assert_eq!(summary["rings"].as_array().expect("rings").len(), 1, "{summary}");
}

#[test]
fn kernel_events_are_recorded_in_a_pid_namespace() {
    if !can_trace_rings() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.trace");
    let script = format!(
        "$P serve --model uring --listen 127.0.0.1:0 --trace={} --kernel-events & server=$!; \
         read line; kill $server; wait",
        path.display()
    );
    let Some(mut shell) = contained(&script) else { return };
    let (client, _output) = connect(&mut shell);
    for _ in 0..50 {
        client.ping();
    }
    drop(client);
    drop(shell.stdin.take());
    shell.wait().expect("it ends");
    let trace = Trace::open(&path).expect("a trace");
    let sidecar = Sidecar::open(&path, &trace.header).expect("readable").expect("a sidecar");
    let trace = TraceFile::new(trace, Some(sidecar));
    let delays = TraceStats::of(&trace, &Cut::default()).kernel.expect("kernel events");
    assert!(delays.reaping.samples >= 50 && delays.unmatched == 0, "{delays}");
}

#[test]
fn an_instance_of_a_killed_watcher_is_removed_by_the_next() {
    if !can_trace_rings() {
        return;
    }
    let mut attach = Attach::start(&[&std::process::id().to_string()]);
    let pid = attach.0.id();
    assert!(!instances(pid).is_empty());
    attach.0.kill().expect("it runs");
    attach.0.wait().expect("it ends");
    assert!(!instances(pid).is_empty(), "nothing could remove it");
    drop(Instance::new(&[Tracepoint::SubmitReq, Tracepoint::Complete], Clock::Nanos, 1 << 20));
    assert!(instances(pid).is_empty());
}

/// `trace attach` with these arguments, and a command.
fn attach_command(args: &[&str], command: &[&str]) -> Command {
    let mut attach = Command::new(PROACTOR);
    attach.args(["trace", "attach"]).args(args).arg("--").args(command);
    attach.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    reset_signals(&mut attach);
    attach
}

#[test]
fn a_command_is_watched_from_its_first_operation() {
    if !can_trace_rings() {
        return;
    }
    let serve = [PROACTOR, "serve", "--model", "uring", "--listen", "127.0.0.1:0"];
    let mut attach = attach_command(&["--json"], &serve).spawn().expect("it runs");
    let (client, _output) = first_client(&mut attach);
    client.ping();
    drop(client);
    // The command receives it, and drains.
    Process(attach.id()).signal(libc::SIGTERM);
    let output = attach.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary: Value = serde_json::from_str(text.lines().last().expect("text")).expect("JSON");
    let ring = &summary["rings"][0];
    assert!(ring["entries"].is_array(), "its creation: {summary}");
    let count = |op, name| count(&summary, op, name);
    assert!(count("accept", "submitted") > 0 && count("recv", "completed") > 0, "{summary}");
    assert!(ring["ops"].as_array().expect("rows").iter().all(|op| op["op"].is_string()));
}

#[test]
fn the_exit_status_of_a_command_and_its_output_are_its_own() {
    if !can_trace_rings() {
        return;
    }
    for (script, status) in [("echo out; exit 7", 7), ("echo out; kill -TERM $$", 128 + 15)] {
        let output = attach_command(&[], &["sh", "-c", script]).output().expect("it runs");
        assert_eq!((output.status.code(), &*output.stdout), (Some(status), &b"out\n"[..]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("(sh): no operation until it ended"), "{said}");
    }
    let output = attach_command(&[], &["/nonexistent"]).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    let last = error.lines().last().expect("a line");
    assert!(last.starts_with("error: cannot run /nonexistent: No such file"), "{error}");
}

#[test]
fn a_command_receives_each_signal_once() {
    if !can_trace_rings() {
        return;
    }
    let script = "trap 'echo caught' INT; echo ready; until read line; do :; done; echo over; \
                  exit 5";
    // A signal of another process is forwarded.
    let mut attach = attach_command(&[], &["sh", "-c", script]);
    let mut attach = attach.stdin(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(attach.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "ready");
    Process(attach.id()).signal(libc::SIGINT);
    assert_eq!(next(), "caught");
    attach.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
    assert_eq!(attach.wait().expect("it ends").code(), Some(5));
    // A terminal sends Ctrl-C to both.
    let args = ["--ctty", PROACTOR, "trace", "attach", "--", "sh", "-c", script];
    let mut terminal = Terminal::start("setsid", &args);
    terminal.see("ready");
    // A second signal that comes before a shell has run its trap has no effect: ten times.
    let status = format!("/proc/{}/status", terminal.process().0);
    let sleeps = || -> u64 {
        let status = fs::read_to_string(&status).expect("it runs");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse().expect("a number")
    };
    for _ in 0..10 {
        terminal.press("\x03");
        terminal.see("caught");
        // It wakes and sleeps again: it has handled its signal.
        let before = sleeps();
        eventually("it sleeps again", || (sleeps() >= before + 3).then_some(()));
    }
    terminal.press("x\r");
    let rest = terminal.see("over");
    assert!(!rest.contains("caught"), "{rest}");
    assert_eq!(terminal.wait(), Some(5));
}

#[test]
fn only_selected_events_are_printed() {
    if !can_trace_rings() {
        return;
    }
    let id = this_thread();
    let selections: [(&[&str], usize); 5] = [
        (&["--op", "nop"], 20),
        (&["--op", "reject"], 0),
        (&["--slower", "1h"], 0),
        (&["--errors"], 0),
        (&["--punted"], 0),
    ];
    for (args, printed) in selections {
        let attach = Attach::start(&[args, &["-f", &id]].concat());
        std::thread::spawn(|| nops(10)).join().expect("it does not panic");
        Process(attach.0.id()).signal(libc::SIGINT);
        let output = attach.0.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.lines().count(), printed + 1, "{args:?}: {text}");
        assert_eq!(count(&summary(&output), "nop", "completed"), 10);
    }
    let wrong = Command::new(PROACTOR).args(["trace", "attach", "1", "--op", "x"]).output();
    assert_eq!(wrong.expect("it runs").status.code(), Some(2));
}

#[test]
fn the_file_of_an_operation_is_named() {
    if !can_trace_rings() {
        return;
    }
    let attach = Attach::start(&["--files", "--op", "read", "-f", &this_thread()]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let fd = file.as_raw_fd();
    let read = move || {
        let (mut ring, mut byte) = (IoUring::new(8).expect("a ring"), [0u8; 1]);
        let read = opcode::Read::new(types::Fd(fd), byte.as_mut_ptr(), 1).build();
        // SAFETY: the buffer is there until the operation has ended.
        unsafe { ring.submission().push(&read) }.expect("an empty queue");
        ring.submit_and_wait(1).expect("it submits");
    };
    std::thread::spawn(read).join().expect("it does not panic");
    // It stays open until it has been read.
    Process(attach.0.id()).signal(libc::SIGINT);
    let output = attach.0.wait_with_output().expect("it ends");
    let summary = summary(&output);
    let path = file.path().to_str().expect("text");
    let row = &summary["files"][0];
    assert_eq!((&row["name"], &row["fd"]), (&path.into(), &fd.into()), "{summary}");
    assert_eq!((&row["operations"], &row["completed"]), (&1.into(), &1.into()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let posted = text.lines().find(|line| line.contains("\"post\"")).expect("its completion");
    assert!(posted.contains(path), "{text}");
}

#[test]
fn all_processes_have_a_row_each() {
    if !can_trace_rings() {
        return;
    }
    if fs::read_link("/proc/self/ns/pid").is_ok_and(|it| it.as_os_str() != "pid:[4026531836]") {
        return skip("this is a PID namespace");
    }
    let servers = [uring_server(), uring_server()];
    let attach = Attach::start(&["--all"]);
    for server in &servers {
        let client = Client::connect(server.address());
        client.ping();
    }
    let summary = attach.finish();
    for server in &servers {
        let rows = summary["processes"].as_array().expect("processes");
        let row = rows.iter().find(|row| row["pid"] == server.process.0).expect("its row");
        assert_eq!((&row["name"], &row["rings"]), (&"proactor".into(), &1.into()), "{summary}");
        assert!(row["completed"].as_u64() > Some(0) && row["enters"].as_u64() > Some(0), "{row}");
    }
    servers.into_iter().for_each(|server| drop(server.drain()));
}

#[test]
fn rates_are_printed_again_and_again() {
    if !can_trace_rings() {
        return;
    }
    let id = this_thread();
    let attach = Attach::start(&["-f", &id, "--interval", "100ms"]);
    let mut attach = attach.0;
    let mut lines = BufReader::new(attach.stdout.take().expect("a pipe")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    };
    let begin = next();
    assert_eq!(begin["schema"], "proactor.trace.attach.rates/1");
    std::thread::spawn(|| nops(10)).join().expect("it does not panic");
    let mut completed = 0;
    let seen = |rates: &Value| rates["completed"].as_u64().expect("a count");
    while completed < 10 {
        completed += seen(&next());
    }
    assert_eq!((completed, seen(&next())), (10, 0));
    Process(attach.id()).signal(libc::SIGINT);
    let last = lines.last().expect("the summary").expect("text");
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(count(&last, "nop", "completed"), 10);
    assert!(attach.wait().expect("it ends").success());
    // On a terminal the table stays in its place.
    let mut terminal = Terminal::start(PROACTOR, &["trace", "attach", &id, "--interval", "50ms"]);
    terminal.see("submitted/s");
    terminal.see("\x1b[");
    terminal.see("A\x1b[J");
    terminal.process().signal(libc::SIGINT);
}

#[test]
fn rings_are_listed_without_root() {
    if let Some(why) = io_uring_refused() {
        return skip(&why);
    }
    let mut ring = IoUring::new(8).expect("a ring");
    let nop = opcode::Nop::new().build();
    // SAFETY: the operation has no buffers.
    unsafe { ring.submission().push(&nop) }.expect("an empty queue");
    ring.submit_and_wait(1).expect("it submits");
    let id = std::process::id().to_string();
    let output = Command::new(PROACTOR).args(["trace", "ps", &id, "--json"]).output();
    let listed: Value = serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
    assert_eq!(listed["schema"], "proactor.trace.ps/1");
    let rings = listed["rings"].as_array().expect("rings");
    let ours = rings.iter().find(|it| it["fd"] == ring.as_raw_fd()).expect("our ring");
    if ours["submitted"].is_null() {
        return skip("the kernel does not report the queues of a ring");
    }
    let counts = ["submitted", "completed", "unreaped"].map(|name| ours[name].as_u64());
    assert_eq!((counts, &ours["entries"][0]), ([Some(1); 3], &8.into()));
    let text = Command::new(PROACTOR).args(["trace", "ps"]).output().expect("it runs").stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(text.lines().any(|line| line.trim_start().starts_with(&*format!("{id} "))), "{text}");
}

#[test]
fn a_recording_has_what_the_summary_counts() {
    if !can_trace_rings() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nops.trace");
    let attach = Attach::start(&[&this_thread(), "--output", path.to_str().expect("UTF-8")]);
    nops(500);
    let summary = attach.finish();
    assert_eq!(count(&summary, "nop", "completed"), 500, "{summary}");
    let show = |view: &str| {
        let output = Command::new(PROACTOR).args(["trace", view, "--json"]).arg(&path).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let recorded = show("summary");
    let nop = recorded["ops"].as_array().expect("operations").iter().find(|op| op["op"] == "nop");
    let nop = nop.unwrap_or_else(|| panic!("no nop in {recorded}"));
    assert_eq!((&nop["begun"], &nop["ok"], &nop["unseen"]), (&500.into(), &500.into(), &0.into()));
    for view in ["doctor", "conn", "heatmap"] {
        show(view);
    }
    for format in ["html", "perfetto", "jsonl"] {
        let export = Command::new(PROACTOR)
            .args(["trace", "export", "--format", format])
            .arg(&path)
            .output();
        let export = export.expect("it runs");
        assert!(export.status.success() && !export.stdout.is_empty(), "{format}: {export:?}");
    }
}
