//! Standard output and standard error that do not take what is written: no server waits for them,
//! and no command panics.

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Output, Stdio};

use proactor::Model;
use proactor_models::ALL;

use support::seccomp::Filter;
use support::server::{PROACTOR, REACTOR};
use support::{
    Address, Client, Launch, Options, Process, eventually, full_pipe, io_uring_refused, terminal,
};

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The device /dev/full: a full disk.
    Full,
    /// A stream that was closed before.
    Closed,
    /// A pipe whose reader has ended.
    ReaderGone,
    /// A full pipe that is not read.
    Unread,
    /// The same, and another process has made it non-blocking.
    UnreadNonblocking,
    /// A terminal whose window was closed.
    TerminalGone,
    /// A terminal that is stopped (Ctrl-S).
    TerminalStopped,
}

use Wrong::*;

const EACH: [Wrong; 7] =
    [Full, Closed, ReaderGone, Unread, UnreadNonblocking, TerminalGone, TerminalStopped];

/// A stream to write to, and what keeps it in its state.
struct BadStream {
    /// `None` if it is closed.
    stream: Option<OwnedFd>,
    _keeps: Option<OwnedFd>,
}

impl Wrong {
    fn stream(self) -> BadStream {
        let open = |stream: OwnedFd| BadStream { stream: Some(stream), _keeps: None };
        match self {
            Full => open(File::options().write(true).open("/dev/full").expect("full(4)").into()),
            Closed => BadStream { stream: None, _keeps: None },
            ReaderGone => open(std::io::pipe().expect("a pipe").1.into()),
            Unread | UnreadNonblocking => {
                let (reader, stream) = full_pipe(self == UnreadNonblocking);
                BadStream { stream: Some(stream), _keeps: Some(reader.into()) }
            }
            TerminalGone => open(terminal::open().1),
            TerminalStopped => {
                let (master, slave) = terminal::open();
                // SAFETY: takes numbers alone.
                assert_eq!(unsafe { libc::tcflow(slave.as_raw_fd(), libc::TCOOFF) }, 0);
                BadStream { stream: Some(slave), _keeps: Some(master) }
            }
        }
    }

    /// Whether a write would wait.
    fn waits(self) -> bool {
        matches!(self, Unread | UnreadNonblocking | TerminalStopped)
    }
}

/// Makes this one the standard stream of that number.
fn set_stream(command: &mut Command, number: i32, bad: &BadStream) {
    let stream = bad.stream.as_ref().map(|stream| stream.try_clone().expect("a descriptor"));
    let stream = stream.map(Stdio::from);
    let is_closed = stream.is_none();
    let stream = stream.unwrap_or_else(Stdio::null);
    match number {
        1 => command.stdout(stream),
        _ => command.stderr(stream),
    };
    if is_closed {
        // SAFETY: close(2) is async-signal-safe, and the descriptor is one that exec would pass on.
        unsafe {
            command.pre_exec(move || {
                libc::close(number);
                Ok(())
            })
        };
    }
}

/// Waits for an end; sends SIGTERM as long as there is none, if the command `waits`.
fn end_of(mut child: std::process::Child, waits: bool, what: &str) -> ExitStatus {
    let mut asked = 0;
    eventually(what, || {
        asked += 1;
        if waits && asked % 100 == 0 {
            Process(child.id()).signal(libc::SIGTERM);
        }
        child.try_wait().expect("a child can be asked")
    })
}

// Servers.

fn models() -> impl Iterator<Item = Model> {
    ALL.into_iter().filter(|model| *model != Model::URING || io_uring_refused().is_none())
}

/// Serves ten clients with these streams, and ends. Returns the status.
fn serve_ten(model: Model, args: &[&str], stdout: &BadStream, stderr: &BadStream) -> ExitStatus {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    let mut command = Command::new(PROACTOR);
    command.args(["serve", "--model", model.name(), "--listen", &address]).args(args);
    // A line for each accept and each close, and a warning.
    command.args(["--log", "debug", "--max-connections", "999999"]).stdin(Stdio::null());
    set_stream(&mut command, 1, stdout);
    set_stream(&mut command, 2, stderr);
    let server = command.spawn().expect("it runs");
    for _ in 0..10 {
        let client = eventually("it serves", || {
            Client::try_connect(&Address::parse(&address), Options::default()).ok()
        });
        client.ping();
        client.finish();
        client.hear_end();
    }
    Process(server.id()).signal(libc::SIGTERM);
    end_of(server, false, "the end after SIGTERM")
}

fn every_model_serves(wrong: Wrong) {
    // They mostly wait.
    std::thread::scope(|scope| {
        for model in models() {
            scope.spawn(move || {
                let (stdout, stderr) = (wrong.stream(), wrong.stream());
                let status = serve_ten(model, &[], &stdout, &stderr);
                assert_eq!(status.code(), Some(0), "{model}, {wrong:?}");
            });
        }
    });
}

#[test]
fn a_full_disk_stops_no_server() {
    every_model_serves(Full);
}

#[test]
fn closed_streams_stop_no_server() {
    every_model_serves(Closed);
}

#[test]
fn readers_that_have_ended_stop_no_server() {
    every_model_serves(ReaderGone);
}

#[test]
fn pipes_that_are_not_read_stop_no_server() {
    every_model_serves(Unread);
}

#[test]
fn pipes_that_are_full_and_do_not_block_stop_no_server() {
    every_model_serves(UnreadNonblocking);
}

#[test]
fn a_terminal_that_is_gone_stops_no_server() {
    every_model_serves(TerminalGone);
}

#[test]
fn a_terminal_that_is_stopped_stops_no_server() {
    every_model_serves(TerminalStopped);
}

/// The statistics and a printed recording, on streams that are wrong in each way at once.
fn results_delay_no_end(model: &str) {
    let model = proactor_models::find(model).expect("a model");
    let results = |wrong: Wrong| {
        let (stdout, stderr) = (wrong.stream(), wrong.stream());
        let status = serve_ten(model, &["--stats=-"], &stdout, &stderr);
        let expected = Some(if wrong == ReaderGone { 0 } else { 1 });
        assert_eq!(status.code(), expected, "{model}, {wrong:?}");
        // The status of a server is not that of its recording.
        for trace in ["--trace", "--trace=-"] {
            let status = serve_ten(model, &[trace], &stdout, &stderr);
            assert_eq!(status.code(), Some(0), "{model}, {trace}, {wrong:?}");
        }
    };
    std::thread::scope(|scope| EACH.map(|wrong| drop(scope.spawn(move || results(wrong)))));
}

#[test]
fn results_that_are_not_taken_delay_no_end_of_a_loop() {
    results_delay_no_end("epoll");
}

#[test]
fn results_that_are_not_taken_delay_no_end_of_threads() {
    results_delay_no_end("thread");
}

#[test]
fn results_that_are_not_taken_delay_no_end_of_processes() {
    results_delay_no_end("process");
}

/// Returns how many lines a log says could not be written.
fn dropped_lines(text: &str) -> usize {
    let note = " lines of the log could not be written";
    let dropped = text.lines().filter_map(|line| {
        let (_, count) = line.strip_suffix(note)?.split_once(" WARN ")?;
        Some(count.replace(',', "").parse::<usize>().expect("a number"))
    });
    dropped.sum()
}

/// Returns how many lines of a log are of the begin or the end of a connection.
fn connection_lines(text: &str) -> usize {
    text.lines().filter(|line| line.contains("accepted connection=")).count()
        + text.lines().filter(|line| line.contains("closed connection=")).count()
}

#[test]
fn the_line_after_those_that_were_dropped_says_how_many() {
    /// More lines than wait in the pipe: one for each accept, and one for each close.
    const CLIENTS: usize = 8000;
    let (mut reader, full) = full_pipe(false);
    let log = ["--log", "debug", "--listen", "127.0.0.1:0"];
    let server = Launch::new(REACTOR, &log).stderr(full).start();
    for _ in 0..CLIENTS {
        let client = Client::connect(server.address());
        client.finish();
        client.hear_end();
    }
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(server.terminate().code(), Some(0));
    let text = read.join().expect("no panic").expect("UTF-8");
    let (dropped, written) = (dropped_lines(&text), connection_lines(&text));
    assert!(dropped > 0 && dropped + written == 2 * CLIENTS, "{dropped} + {written}");
}

#[test]
fn children_that_cannot_write_their_log_serve_on_and_are_counted() {
    /// Their lines do not fit into the pipe of the log.
    const CLIENTS: usize = 600;
    let (mut reader, full) = full_pipe(false);
    let log = ["--model", "process", "--protocol", "chat", "--log", "debug"];
    let launch = Launch::new(REACTOR, &log).args(&["--listen", "127.0.0.1:0"]).stderr(full);
    let server = launch.filtered(Filter::keeping_pipes_small()).start();
    let [one, other] = [(); 2].map(|()| Client::connect(server.address()));
    one.hear(b"* 2 joined\n");
    for _ in 0..CLIENTS {
        let client = Client::connect(server.address());
        client.say(b"quit\n");
        client.hear_end();
    }
    one.say(b"last\n");
    let mut heard = String::new();
    while !heard.contains("[1] last\n") {
        let mut bytes = [0; 4096];
        let n = other.hear_some(&mut bytes).expect("a line");
        heard += str::from_utf8(&bytes[..n]).expect("UTF-8");
    }
    drop((one, other));
    let read = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map(|_| text)
    });
    assert_eq!(server.terminate().code(), Some(0));
    let text = read.join().expect("no panic").expect("a pipe");
    let text = String::from_utf8(text).expect("UTF-8");
    // A child that ends after the request to drain has a line of that too.
    let (dropped, written) = (dropped_lines(&text), connection_lines(&text));
    assert!(dropped > 0 && dropped + written >= 2 * (CLIENTS + 2), "{dropped} + {written}");
}

#[test]
fn a_server_that_cannot_print_where_it_listens_warns() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    let stdout = Unread.stream();
    let mut command = Command::new(REACTOR);
    command.args(["--listen", &address]).stdin(Stdio::null()).stderr(Stdio::piped());
    set_stream(&mut command, 1, &stdout);
    let mut server = command.spawn().expect("it runs");
    let mut stderr = server.stderr.take().expect("it is piped");
    let mut bytes = [0; 4096];
    let n = stderr.read(&mut bytes).expect("a line");
    let line = String::from_utf8_lossy(&bytes[..n]);
    assert!(line.contains("WARN the lines \"listening on\" are not complete"), "{line}");
    Process(server.id()).signal(libc::SIGTERM);
    assert_eq!(end_of(server, false, "SIGTERM").code(), Some(0));
}

#[test]
fn a_pipe_for_statistics_that_has_no_reader_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo(1)");
    assert!(made.success());
    let stats = format!("--stats={}", path.display());
    let exit = Launch::new(REACTOR, &["--listen", "127.0.0.1:0"]).args(&[&stats]).run();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert!(exit.stderr.starts_with(&format!("error: cannot write {}", path.display())));
}

#[test]
fn a_console_whose_output_does_not_block_goes_on() {
    const TIMES: usize = 100;
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    let (mut reader, stdout) = full_pipe(true);
    let mut command = Command::new(REACTOR);
    command.args(["--console", "--listen", &address]).stdin(Stdio::piped()).stdout(stdout);
    let mut server = command.stderr(Stdio::piped()).spawn().expect("it runs");
    drop(command);
    let mut typed = server.stdin.take().expect("it is piped");
    let lines = "help\n".repeat(TIMES) + "drain\n";
    std::io::Write::write_all(&mut typed, lines.as_bytes()).expect("it reads");
    // It drains while nothing is read, and what is printed is left for half a second.
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("UTF-8");
    let output = server.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("the output is closed"), "{stderr}");
    let helps = text.lines().filter(|line| line.trim_start_matches('x').starts_with("list "));
    assert_eq!(helps.count(), TIMES, "{text}");
}

#[test]
fn a_log_that_repeats_itself_is_short_and_says_how_often() {
    for format in ["text", "json"] {
        let args = ["--model", "process", "--log-format", format, "--listen", "127.0.0.1:0"];
        let server = Launch::new(REACTOR, &args).start();
        for _ in 0..50 {
            let client = Client::connect(server.address());
            client.ping();
            let child = server.process.eventually_children(1)[0];
            child.signal(libc::SIGKILL);
            let _ = client.hear_all();
            server.process.eventually_children(0);
        }
        let exit = server.terminate();
        let died = exit.stderr.lines().filter(|line| line.contains("a child died"));
        let [first, last] = died.collect::<Vec<_>>()[..] else { panic!("{exit:?}") };
        assert!(!first.contains("repeated"), "{exit:?}");
        let count = if format == "json" { "\"repeated\":49}" } else { " repeated=49" };
        assert!(last.ends_with(count), "{exit:?}");
    }
}

// Other commands.

/// A recording and an address where nothing listens, as arguments.
struct Files {
    _folder: tempfile::TempDir,
    trace: String,
    out: String,
    none: String,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let (trace, out, none) = (path("run.trace"), path("out.jsonl"), path("none"));
        let args = ["--model", "epoll", "--trace", &trace, "--listen", "127.0.0.1:0"];
        let server = Launch::new(REACTOR, &args).start();
        let client = Client::connect(server.address());
        (0..500).for_each(|_| client.ping());
        drop(client);
        assert_eq!(server.terminate().code(), Some(0));
        Files { _folder: folder, trace, out, none }
    }

    /// Commands whose product is their output.
    fn products(&self) -> Vec<Vec<&str>> {
        let trace = &*self.trace;
        let mut commands = vec![
            vec!["--help"],
            vec!["--version"],
            vec!["serve", "--help"],
            vec!["models"],
            vec!["models", "--json"],
            vec!["explain", "--models", "epoll", "--runs", "1"],
            vec!["explain", "--models", "epoll", "--runs", "1", "--json"],
            vec!["explain", "--models", "epoll", "--runs", "1", "--svg", "-"],
            vec!["explain", "--models", "epoll", "--runs", "1", "--html=-"],
            vec!["trace", "export", trace, "--format", "jsonl"],
            vec!["trace", "export", trace, "--format", "html"],
            vec!["trace", "export", trace, "--format", "perfetto", "-o", "-"],
            vec!["trace", "diff", trace, trace],
        ];
        for view in ["show", "follow", "summary", "conn", "doctor"] {
            commands.push(vec!["trace", view, trace]);
            commands.push(vec!["trace", view, trace, "--json"]);
        }
        commands
    }
}

fn run(args: &[&str], number: i32, bad: &BadStream, waits: bool) -> Output {
    let mut command = Command::new(PROACTOR);
    command.args(args).stdin(Stdio::null());
    // Not read before the end: it is short.
    let mut other = tempfile::tempfile().expect("a file");
    let its = other.try_clone().expect("a descriptor");
    if number == 1 {
        command.stderr(its)
    } else {
        command.stdout(its)
    };
    set_stream(&mut command, number, bad);
    let child = command.spawn().expect("it runs");
    let status = end_of(child, waits, &format!("{args:?}"));
    let mut text = Vec::new();
    std::io::Seek::rewind(&mut other).expect("a file");
    other.read_to_end(&mut text).expect("a file");
    match number {
        1 => Output { status, stdout: Vec::new(), stderr: text },
        _ => Output { status, stdout: text, stderr: Vec::new() },
    }
}

#[test]
fn a_result_that_is_not_taken_is_a_failure_that_names_standard_output() {
    let files = Files::new();
    for args in files.products() {
        let is_refused = args.contains(&"perfetto");
        for wrong in EACH.into_iter().filter(|wrong| !wrong.waits()) {
            let output = run(&args, 1, &wrong.stream(), false);
            let (code, stderr) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
            assert!(!stderr.contains("panicked"), "{args:?}, {wrong:?}: {stderr}");
            match wrong {
                ReaderGone => assert_eq!((code, &*stderr), (Some(0), ""), "{args:?}"),
                TerminalGone if is_refused => assert_eq!(code, Some(1), "{args:?}: {stderr}"),
                _ => {
                    let begins = "error: cannot write to standard output: ";
                    assert_eq!(code, Some(1), "{args:?}, {wrong:?}: {stderr}");
                    assert!(stderr.starts_with(begins), "{args:?}, {wrong:?}: {stderr}");
                    assert_eq!(stderr.lines().count(), 1, "{args:?}, {wrong:?}: {stderr}");
                }
            }
        }
        for wrong in EACH.into_iter().filter(|wrong| wrong.waits()) {
            // It waits for a reader, and SIGTERM ends that.
            let output = run(&args, 1, &wrong.stream(), true);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!stderr.contains("panicked"), "{args:?}, {wrong:?}: {stderr}");
            assert_ne!(output.status.code(), Some(0), "{args:?}, {wrong:?}: {stderr}");
        }
    }
}

#[test]
fn an_output_that_does_not_block_gets_every_byte() {
    let files = Files::new();
    for args in files.products().into_iter().filter(|args| args[0] != "explain") {
        let expected = Command::new(PROACTOR).args(&args).output().expect("it runs");
        let (mut reader, stream) = full_pipe(true);
        let mut command = Command::new(PROACTOR);
        let child = command.args(&args).stdout(stream).stderr(Stdio::piped()).spawn();
        drop(command);
        let child = child.expect("it runs");
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("a pipe");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), expected.status.code(), "{args:?}: {output:?}");
        let bytes = &bytes[bytes.iter().position(|&byte| byte != b'x').unwrap_or(0)..];
        assert!(bytes == expected.stdout, "{args:?}: {} bytes", bytes.len());
    }
}

#[test]
fn a_message_that_is_not_taken_changes_no_command() {
    let files = Files::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let server = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let (trace, none, out) = (&*files.trace, &*files.none, &*files.out);
    let absent = format!("unix:{none}");
    let commands: [&[&str]; 25] = [
        &[],
        &["serve", "--fnord"],
        &["serve", "--listen", &format!("{absent}/none")],
        &["serve", "--listen", &server],
        &["connect", "-v", &server],
        &["connect", "-v", &server, &absent],
        &["load", &absent],
        &["load", &server, "-c", "1", "--duration", "50ms"],
        &["compare", "--server-cpu", "65535"],
        &["compare", "--models", "epoll", "--blocks", "0"],
        &["compare", "--models", "poll", "--baseline", "poll", "--blocks", "1", "--idle", "0"],
        &["explain", "--models", "epoll,-epoll"],
        &["models", "--fnord"],
        &["trace"],
        &["trace", "show", none],
        &["trace", "show", trace, "--since", "1h"],
        &["trace", "follow", none],
        &["trace", "summary", none],
        &["trace", "conn", trace, "c7"],
        &["trace", "doctor", none],
        &["trace", "diff", trace, none],
        &["trace", "export", trace, "-o", out],
        &["trace", "export", trace, "-o", out, "--format", "html", "--connections", "0"],
        &["trace", "delays", trace],
        &["trace", "attach", "4194304"],
    ];
    for args in commands {
        let heard = Command::new(PROACTOR).args(args).stdin(Stdio::null()).output();
        let heard = heard.expect("it runs");
        let finishes = heard.status.success();
        assert!(finishes || !heard.stderr.is_empty(), "{args:?} has no message: {heard:?}");
        // They mostly wait.
        let status = heard.status;
        let same = |wrong: Wrong| {
            let output = run(args, 2, &wrong.stream(), false);
            assert_eq!(output.status, status, "{args:?}, {wrong:?}");
        };
        std::thread::scope(|scope| EACH.map(|wrong| drop(scope.spawn(move || same(wrong)))));
    }
}

#[test]
fn a_load_and_a_connection_end_by_a_signal_while_their_output_is_not_read() {
    let server = Launch::new(REACTOR, &["--listen", "127.0.0.1:0"]).start();
    let address = server.address().to_string();
    let commands: [&[&str]; 4] = [
        &["load", &address, "-c", "1", "--duration", "50ms"],
        &["load", &address, "-c", "1", "--duration", "50ms", "--json"],
        &["connect", &address, "--parts", "hello"],
        &["compare", "--models", "poll", "--baseline", "poll", "--blocks", "1", "--idle", "0"],
    ];
    for args in commands {
        for wrong in EACH.into_iter().filter(|wrong| wrong.waits()) {
            run(args, 1, &wrong.stream(), true);
        }
    }
    server.drain();
}

#[test]
fn dash_is_standard_output_and_no_recording() {
    let files = Files::new();
    let trace = &*files.trace;
    // As in a folder with a file of that name, which is another one.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(trace, folder.path().join("-")).expect("a copy");
    let run = |args: &[&str]| {
        let mut command = Command::new(PROACTOR);
        command.args(args).current_dir(folder.path()).stdin(Stdio::null());
        command.output().expect("it runs")
    };
    let outputs: [&[&str]; 4] = [
        &["explain", "--models", "epoll", "--runs", "1", "--html=-"],
        &["explain", "--models", "epoll", "--runs", "1", "--svg", "-"],
        &["compare", "--models", "poll", "--baseline", "poll", "--blocks", "1", "--json", "-"],
        &["trace", "export", trace, "--format", "html", "-o", "-"],
    ];
    for args in outputs {
        let output = run(args);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}: {output:?}");
    }
    let views = ["show", "follow", "summary", "conn", "doctor", "delays"];
    let mut inputs: Vec<Vec<&str>> = views.map(|view| vec!["trace", view, "-"]).into();
    inputs.push(vec!["trace", "diff", "-", trace]);
    inputs.push(vec!["trace", "diff", trace, "-"]);
    inputs.push(vec!["trace", "export", "-", "--format", "html"]);
    for args in inputs {
        let output = run(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: `-` is not a file"), "{args:?}: {stderr}");
    }
    assert!(run(&["trace", "summary", "./-"]).status.success());
    let entries = std::fs::read_dir(folder.path()).expect("a folder");
    assert_eq!(entries.count(), 1, "no command has made a file");
}

// Terminals.

/// What a command prints at a terminal of this kind, with standard error there too.
fn at_terminal(kind: &str, command: &mut Command) -> String {
    let (master, slave) = terminal::open();
    let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
    command.env("TERM", kind).env_remove("NO_COLOR").stdin(Stdio::null());
    let mut child = command.stdout(end()).stderr(end()).spawn().expect("it runs");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(slave);
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    // A read fails when no process has the terminal any more.
    while let Ok(n @ 1..) = File::from(master.try_clone().expect("a descriptor")).read(&mut piece) {
        bytes.extend_from_slice(&piece[..n]);
    }
    child.wait().expect("a child is waited for once");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_terminal_without_escape_sequences_gets_none() {
    let files = Files::new();
    let server = Launch::new(REACTOR, &["--listen", "127.0.0.1:0"]).start();
    let address = server.address().to_string();
    let commands: [&[&str]; 7] = [
        &["explain", "--models", "epoll", "--runs", "20"],
        &["load", &address, "-c", "1", "--duration", "200ms"],
        &["compare", "--models", "poll", "--baseline", "poll", "--blocks", "1", "--idle", "0"],
        &["models"],
        &["trace", "doctor", &files.trace],
        &["trace", "show", &files.none],
        &["serve", "--console", "--fnord"],
    ];
    let mut sequences = 0;
    for args in commands {
        let plain = at_terminal("dumb", Command::new(PROACTOR).args(args));
        assert!(!plain.is_empty() && !plain.contains('\x1b'), "{args:?}: {plain:?}");
        let able = at_terminal("xterm", Command::new(PROACTOR).args(args));
        sequences += usize::from(able.contains('\x1b'));
    }
    assert!(sequences >= 4, "others get some");
    server.drain();
}

#[test]
fn text_of_others_has_no_effect_on_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    // The name of a process is that of its file.
    let program = folder.path().join("a\x1b[31mb");
    std::fs::copy(REACTOR, &program).expect("a copy");
    let program = program.to_str().expect("UTF-8");
    let server = Launch::new(program, &["--listen", "127.0.0.1:0"]).start();
    let (address, pid) = (server.address().to_string(), server.process.0.to_string());
    let path = "no\u{9b}31m\x1b[2J\u{202e}file";
    let commands: [&[&str]; 5] = [
        &["serve", "--listen", &address],
        &["trace", "attach", &pid, "--for", "10ms"],
        &["trace", "show", path],
        &["load", &format!("unix:{path}")],
        &["serve", path],
    ];
    for args in commands {
        let text = at_terminal("dumb", Command::new(PROACTOR).args(args));
        assert!(!text.contains(['\x1b', '\u{9b}', '\u{202e}']), "{args:?}: {text:?}");
        assert!(text.contains("error: "), "{args:?}: {text:?}");
    }
    server.drain();
}

#[test]
fn what_a_server_sends_has_no_effect_on_the_terminal_of_a_client() {
    let sent = "a\x1b[2Jb\x07\u{9b}31mgrüße\tc\r\n";
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let server = Launch::new(REACTOR, &listen).start();
    let [one, other] = [0, 1].map(|at| server.listening[at].address.to_string());
    let connect = |addresses: &[&str]| {
        let mut command = Command::new(PROACTOR);
        command.arg("connect").args(addresses).args(["--parts", sent]);
        command
    };
    let shown = "a\\x1b[2Jb\\x07\u{fffd}\\x9b31mgrüße\tc\r\n";
    assert_eq!(at_terminal("xterm", &mut connect(&[&one])), shown);
    let text = at_terminal("xterm", &mut connect(&[&one, &other]));
    assert!(text.contains(&format!("[2] {shown}")) && !text.contains('\x1b'), "{text:?}");
    // Another output gets every byte.
    let output = connect(&[&one]).output().expect("it runs");
    assert_eq!(output.stdout, sent.as_bytes());
    server.drain();
}
