//! A server child process: spawned, stopped by SIGTERM, and killed on drop.
//!
//! The server writes two lines on standard output: `listening on ADDRESS (…)` when it is ready, and
//! after SIGTERM its counters as JSON. A server of another program need not write either: it may be
//! started with the port where it listens, and may have no counters. The log on standard error is a
//! file in memory, whose end explains a failure.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::plan::ModelSpec;
use crate::process_tree::ProcessTree;
use crate::stats_line::{STATS_SCHEMA, ServerStats};
use proactor::address::Address;
use proactor::os::{self, Order};

/// The time limit for a server to listen, and for it to end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a process that is expected to end, before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait between two attempts to connect to a server that was started with its port.
const CONNECT_EVERY: Duration = Duration::from_millis(10);
/// The number of log lines at the end that may explain a failure.
const LOG_LINES: usize = 8;

/// Returns the command that starts the server of a model, or why there is none.
pub type StartCommand<'a> = &'a dyn Fn(&ModelSpec) -> Result<ServerCommand, ServerError>;

/// A command that starts a server.
#[derive(Debug)]
pub struct ServerCommand {
    /// The program and its arguments.
    pub command: Command,
    /// Where the server listens, if it was started with a port. Without it, the server writes
    /// `listening on ADDRESS` on standard output.
    pub address: Option<Address>,
    /// True if the server writes its counters at its end.
    pub has_counters: bool,
}

impl From<Command> for ServerCommand {
    /// A server of this program, which writes both lines.
    fn from(command: Command) -> ServerCommand {
        ServerCommand { command, address: None, has_counters: true }
    }
}

/// Why a server is not available, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub String);

impl ServerError {
    /// Returns a function that makes the error of an action that failed.
    pub(crate) fn cannot(what: &str) -> impl Fn(io::Error) -> ServerError {
        move |error| ServerError(format!("cannot {what}: {error}"))
    }
}

/// A running server process. It is killed and reaped on drop.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    lines: Receiver<String>,
    has_counters: bool,
    /// What the server wrote to its standard error.
    log: File,
    /// The address of the listener.
    pub(crate) address: Address,
    /// The server's description of itself.
    pub(crate) about: String,
}

impl ServerProcess {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// The server cannot be started, ends, or does not listen in time. The error is the last line
    /// of its log, if there is one.
    pub fn start(start: impl Into<ServerCommand>) -> Result<ServerProcess, ServerError> {
        let ServerCommand { mut command, address, has_counters } = start.into();
        let start = format!("start {}", command.get_program().display());
        let cannot = ServerError::cannot(&start);
        let log = os::memory_file(c"server-log").map_err(&cannot)?;
        let to = log.try_clone().map_err(&cannot)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(to);
        // Its own group, so that Ctrl-C at the terminal does not end the server.
        command.process_group(0);
        os::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(&cannot)?;
        let (to, lines) = mpsc::channel();
        let output = child.stdout.take();
        let read = thread::Builder::new().spawn(move || {
            let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            // Reads on even if the receiver is gone, so that the pipe does not fill.
            lines.map_while(Result::ok).for_each(|line| drop(to.send(line)));
        });
        if let Err(error) = read {
            let _ = kill(&mut child);
            return Err(ServerError::cannot("start a thread (see `ulimit -u`)")(error));
        }
        let (about, unknown) = (String::new(), Address::Unix(std::path::PathBuf::new()));
        let is_known = address.is_some();
        let address = address.unwrap_or(unknown);
        let mut server = ServerProcess { child, lines, has_counters, log, address, about };
        if is_known {
            server.await_connection()?;
        } else {
            (server.address, server.about) = server.await_line("listen", "", parse_listening)?;
        }
        Ok(server)
    }

    /// Waits until the server accepts a connection at its address.
    fn await_connection(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + TIMEOUT;
        while proactor_load::connect(&self.address, TIMEOUT).is_err() {
            if os::await_end(&mut self.child, CONNECT_EVERY).ok().flatten().is_some() {
                return Err(self.exit_error());
            }
            if Instant::now() >= deadline {
                let (address, limit) = (&self.address, TIMEOUT.as_secs());
                return Err(ServerError(format!("did not listen on {address} within {limit} s")));
            }
        }
        Ok(())
    }

    /// Returns the current processes and threads of the server.
    ///
    /// # Errors
    /// The server has ended, or `/proc` cannot be read.
    pub(crate) fn process_tree(&self) -> io::Result<ProcessTree> {
        ProcessTree::of(self.child.id())
    }

    /// Signals all processes of the server.
    ///
    /// # Errors
    /// The processes cannot be signalled.
    pub fn order(&mut self, order: Order) -> io::Result<()> {
        os::order(&mut self.child, order)
    }

    /// Ends a server whose client failed with `error`. Returns that error together with the exit
    /// status, if the server has ended, and the last line of its log.
    pub fn failed(mut self, error: &dyn fmt::Display) -> ServerError {
        let ended = os::await_end(&mut self.child, EXIT_TIMEOUT).ok().flatten();
        let _ = kill(&mut self.child);
        ServerError(match (ended, self.last_line()) {
            (Some(status), Some(line)) => format!("the server ended ({status}): {line}; {error}"),
            (Some(status), None) => format!("the server ended ({status}): {error}"),
            (None, Some(line)) => format!("{error}; the server said: {line}"),
            (None, None) => error.to_string(),
        })
    }

    /// Stops the server with SIGTERM and returns its counters; kills one that has none, with its
    /// descendants.
    ///
    /// # Errors
    /// A server that has counters ends, or is killed, without writing them.
    pub fn stop(mut self) -> Result<Option<ServerStats>, ServerError> {
        if !self.has_counters {
            // It has nothing to say at its end; SIGTERM would end its shell alone.
            kill(&mut self.child).map_err(ServerError::cannot("end it"))?;
            return Ok(None);
        }
        os::order(&mut self.child, Order::Terminate)
            .map_err(ServerError::cannot("send SIGTERM"))?;
        let stats = self.await_line("end", " of SIGTERM", |line| {
            let stats = serde_json::from_str::<ServerStats>(line).ok();
            stats.filter(|stats| stats.schema == STATS_SCHEMA)
        });
        stats.map(Some)
    }

    /// Waits for the first line that `parse` accepts. `act` and `since` say what the server did not
    /// do if the line does not come in time.
    fn await_line<T>(
        &mut self,
        act: &str,
        since: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ServerError> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = match self.lines.recv_timeout(left) {
                Ok(line) => parse(&line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.exit_error()),
                Err(RecvTimeoutError::Timeout) => {
                    let limit = TIMEOUT.as_secs();
                    return Err(ServerError(format!("did not {act} within {limit} s{since}")));
                }
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Returns why the server ended: the last line of its log, or else its exit status.
    fn exit_error(&mut self) -> ServerError {
        // Its standard output is closed, so it is about to end.
        let status = end(&mut self.child).map_or_else(|error| error.to_string(), |s| s.to_string());
        let line = self.last_line();
        ServerError(line.unwrap_or_else(|| format!("ended without a message: {status}")))
    }

    /// Returns the last error of the log, or else its last line.
    fn last_line(&self) -> Option<String> {
        // Opened anew: the offset of `log` is that of the server.
        let bytes = fs::read(format!("/proc/self/fd/{}", self.log.as_raw_fd())).ok()?;
        let log = String::from_utf8_lossy(&bytes);
        let mut lines = log.lines().rev().take(LOG_LINES).map(str::trim);
        let error = lines.clone().find_map(|line| line.strip_prefix("error: "));
        let last = error.or_else(|| lines.find(|line| !line.is_empty()));
        last.map(|line| message(line).to_owned())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // An error cannot be reported from here.
        let _ = end(&mut self.child);
    }
}

/// Waits for a child to end. Kills it and its descendants if it does not end in time.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    match os::await_end(child, EXIT_TIMEOUT) {
        Ok(Some(status)) => Ok(status),
        Ok(None) | Err(_) => kill(child),
    }
}

/// Kills a child and its descendants, and reaps the child.
fn kill(child: &mut Child) -> io::Result<ExitStatus> {
    os::order(child, Order::Kill)?;
    child.wait()
}

/// Returns a line of a log without time and level.
fn message(line: &str) -> &str {
    let levels = [" ERROR ", " WARN ", " INFO "];
    levels.iter().find_map(|level| line.split_once(level)).map_or(line, |(_, text)| text.trim())
}

/// Parses `listening on 127.0.0.1:7000 (io_uring, echo)` into the address and the description.
fn parse_listening(line: &str) -> Option<(Address, String)> {
    let rest = line.trim().strip_prefix("listening on ")?;
    let (address, about) = rest.split_once(" (").unwrap_or((rest, ""));
    Some((address.parse().ok()?, about.strip_suffix(')').unwrap_or(about).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_first_line_names_the_address() {
        let parsed = parse_listening("listening on 127.0.0.1:7000 (io_uring, echo)");
        let (address, about) = parsed.expect("a well-formed line");
        assert_eq!(
            (address.to_string().as_str(), about.as_str()),
            ("127.0.0.1:7000", "io_uring, echo")
        );
        assert!(parse_listening("listening on [::1]:9 (epoll (edge), echo)").is_some());
        assert!(parse_listening("listening on 127.0.0.1:1").is_some());
        assert!(parse_listening("running 1 test").is_none());
        assert!(parse_listening("listening on nothing at all").is_none());
    }

    #[test]
    fn a_server_that_cannot_run_reports_why() {
        let error = ServerProcess::start(shell(
            "echo starting >&2; echo 'error: no such model: x' >&2; echo 'try --help' >&2; exit 2",
        ));
        assert_eq!(error.expect_err("it exits"), ServerError("no such model: x".to_owned()));
        let error = ServerProcess::start(shell("exit 3")).expect_err("it exits").to_string();
        assert_eq!(error, "ended without a message: exit status: 3");
        let error =
            ServerProcess::start(Command::new("/no/such/program")).expect_err("there is none");
        assert!(error.0.starts_with("cannot start /no/such/program: "), "{error}");
    }

    #[test]
    fn a_server_reports_its_counters_at_its_end() {
        let server = ServerProcess::start(shell(
            r#"trap 'echo "{\"schema\":\"proactor.stats/2\",\"model\":\"m\",\"detail\":\"d\",\"counters\":{\"calls\":7}}"; exit 0' TERM
               echo 'listening on 127.0.0.1:9 (m, echo)'; while :; do sleep 0.01; done"#,
        ));
        let server = server.expect("it listens");
        assert_eq!(server.about, "m, echo");
        // A `sleep` of the script may end between two of the steps.
        let cpu = || server.process_tree().and_then(|tree| tree.clocks()?.read()).ok();
        (0..100).find_map(|_| cpu()).expect("it runs");
        let stats = server.stop().expect("it ends").expect("it reports them");
        assert_eq!((stats.model.as_str(), stats.counters.calls), ("m", 7));
    }

    #[test]
    fn a_server_with_a_given_port_needs_no_line_and_no_counters() {
        // The script has the listener as its standard input, so it is reached without any line.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let address = listener.local_addr().expect("it is bound").to_string();
        let start = |script: &str, address: &str| {
            let address = Some(address.parse().expect("an address"));
            let command = ServerCommand { command: shell(script), address, has_counters: false };
            ServerProcess::start(command)
        };
        let server = start("sleep 100 & wait", &address).expect("its port accepts");
        assert_eq!(server.address.to_string(), address);
        let child = || Some(server.process_tree().ok()?.pids.get(1)?.folder);
        let child = std::iter::repeat_with(child).flatten().next().expect("it repeats");
        assert_eq!(server.stop().expect("it ends"), None);
        // The child of the shell ends too; a process that has ended has no program.
        while fs::read_link(format!("/proc/{child}/exe")).is_ok() {
            thread::yield_now();
        }
        drop(listener);
        let error = start("echo 'error: in use' >&2; exit 4", &address).expect_err("it ends");
        assert_eq!(error.0, "in use");
    }

    #[test]
    fn a_server_that_does_not_end_is_killed() {
        let script =
            "trap '' TERM; echo 'listening on 127.0.0.1:9 (m)'; while :; do sleep 0.01; done";
        let server = ServerProcess::start(shell(script)).expect("it listens");
        let clocks = server.process_tree().and_then(|tree| tree.clocks()).expect("it runs");
        drop(server);
        clocks.read().expect_err("it was killed and reaped");
    }

    #[test]
    fn a_server_that_fails_is_quoted() {
        let listens = "echo 'listening on 127.0.0.1:9 (m)'";
        let failed = |script: &str| {
            let server = ServerProcess::start(shell(&format!("{listens}; {script}")));
            server.expect("it listens").failed(&"no reply").0
        };
        assert_eq!(
            failed("echo 'T  WARN no connection is served' >&2; exec sleep 100"),
            "no reply; the server said: no connection is served"
        );
        assert_eq!(failed("exec sleep 100"), "no reply");
        assert_eq!(
            failed("echo 'error: out of luck' >&2; exit 3"),
            "the server ended (exit status: 3): out of luck; no reply"
        );
        assert_eq!(failed("kill -9 $$"), "the server ended (signal: 9 (SIGKILL)): no reply");
    }

    #[test]
    fn descendants_of_a_server_end_with_it() {
        let script = "sleep 100 & echo \"listening on 127.0.0.1:9 ($!)\"; wait";
        let server = ServerProcess::start(shell(script)).expect("it listens");
        assert_eq!(server.process_tree().expect("it runs").pids.len(), 2);
        let child = server.about.parse().expect("the child's number");
        drop(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        // A killed orphan exists, without memory, until its new parent reaps it.
        while ProcessTree::of(child)
            .and_then(|child| child.footprint())
            .is_ok_and(|has| has.memory > 0.0)
        {
            assert!(Instant::now() < deadline, "its child is still alive");
            thread::yield_now();
        }
    }
}
