//! A server in a process of its own: started, found, asked to end, and never left behind.
//!
//! What is agreed with it is two lines on its standard output: first `listening on ADDRESS (…)`,
//! and after SIGTERM, as its last, its counters as JSON. Its log, on standard error, is kept for
//! the case that it does not come that far.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::family::Family;
use super::stats::{STATS_SCHEMA, ServerStats};
use proactor::address::Address;
use proactor::os::{self, Order};

/// How long a server may take to listen, and how long to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server that has ended, or should have, may take to be gone.
const PARTING: Duration = Duration::from_millis(500);
/// How many lines of its log are kept.
const LOG_LINES: usize = 8;

/// Why there is no server: one line, for its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// A running server. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    log: Log,
    address: Address,
    about: String,
}

impl Server {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, ends at once, or does not say in time where it listens; the last line
    /// of its log says why.
    pub fn start(mut command: Command) -> Result<Server, Refusal> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C at the terminal is for us alone: we end our servers ourselves.
        command.process_group(0);
        os::die_with_parent(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.spawn().map_err(|error| Refusal(format!("cannot start {program}: {error}")))?;
        let (to, lines) = mpsc::channel();
        let output = child.stdout.take();
        thread::spawn(move || {
            let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
            // Whoever no longer listens has what he wanted; reading on keeps the pipe from filling.
            lines.map_while(Result::ok).for_each(|line| drop(to.send(line)));
        });
        let log = Log::of(child.stderr.take());
        let address = Address::Unix(std::path::PathBuf::new());
        let mut server = Server { child, lines, log, address, about: String::new() };
        match server.await_line(parse_listening) {
            Ok((address, about)) => {
                server.address = address;
                server.about = about;
                Ok(server)
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(Refusal(format!("did not listen within {} s", PATIENCE.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(server.last_words()),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it said of itself beside that.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Its processes and threads, as they are now.
    ///
    /// # Errors
    /// It has ended, or the kernel does not tell.
    pub fn family(&self) -> io::Result<Family> {
        Family::of(self.child.id())
    }

    /// Has all of it use no CPU until it is resumed: one that never sleeps would take it from the
    /// others.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn pause(&mut self) -> io::Result<()> {
        os::order_group(&mut self.child, Order::Pause)
    }

    /// Has it go on.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn resume(&mut self) -> io::Result<()> {
        os::order_group(&mut self.child, Order::Resume)
    }

    /// Ends it, since it failed its client, who says `how`; answers that with what is known of the
    /// server: how it ended, if it had, and its last words.
    pub fn failed(mut self, how: &dyn fmt::Display) -> Refusal {
        let ended = await_end(&mut self.child, PARTING).ok().flatten();
        let _ = kill(&mut self.child);
        let words = self.log.last_word();
        Refusal(match (ended, words) {
            (Some(status), Some(words)) => format!("the server ended ({status}): {words}; {how}"),
            (Some(status), None) => format!("the server ended ({status}): {how}"),
            (None, Some(words)) => format!("{how}; the server said: {words}"),
            (None, None) => how.to_string(),
        })
    }

    /// Asks it to end and takes what it has counted.
    ///
    /// # Errors
    /// It ends, or is ended, without a word.
    pub fn stop(mut self) -> Result<ServerStats, Refusal> {
        os::terminate(&mut self.child)
            .map_err(|error| Refusal(format!("cannot be asked to end: {error}")))?;
        let stats = self.await_line(|line| {
            serde_json::from_str::<ServerStats>(line)
                .ok()
                .filter(|stats| stats.schema == STATS_SCHEMA)
        });
        match stats {
            Ok(stats) => Ok(stats),
            Err(RecvTimeoutError::Timeout) => {
                Err(Refusal(format!("did not end within {} s of SIGTERM", PATIENCE.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.last_words()),
        }
    }

    /// The first line that means something; others are passed over.
    fn await_line<T>(&self, meant: impl Fn(&str) -> Option<T>) -> Result<T, RecvTimeoutError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(found) = meant(&self.lines.recv_timeout(left)?) {
                return Ok(found);
            }
        }
    }

    /// Why it ended: its last error, or last line at all, on standard error, or else its exit
    /// status.
    fn last_words(&mut self) -> Refusal {
        // Its standard output is closed: it is ending, or will not say more.
        let status = end(&mut self.child);
        Refusal(match (self.log.last_word(), status) {
            (Some(line), _) => line,
            (None, Ok(status)) => format!("ended without a word: {status}"),
            (None, Err(error)) => format!("ended without a word: {error}"),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, or does so now; there is nobody to tell if even that fails.
        let _ = end(&mut self.child);
    }
}

/// Kills a child, and all that it has forked, unless it ends by itself presently; waits for it.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    match await_end(child, PARTING)? {
        Some(status) => Ok(status),
        None => kill(child),
    }
}

/// How it ended, if it does so within `patience`.
fn await_end(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a child, and all that it has forked, and waits for it.
fn kill(child: &mut Child) -> io::Result<ExitStatus> {
    os::order_group(child, Order::Kill)?;
    child.wait()
}

/// The last lines of a server's standard error, while it still writes.
#[derive(Debug)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Disconnected once nobody can write any more.
    open: Receiver<()>,
}

impl Log {
    fn of(from: Option<impl Read + Send + 'static>) -> Log {
        let lines = Arc::new(Mutex::new(VecDeque::with_capacity(LOG_LINES)));
        let (to, open) = mpsc::channel();
        let kept = lines.clone();
        thread::spawn(move || {
            let lines = from.into_iter().flat_map(|from| BufReader::new(from).lines());
            for line in lines.map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LOG_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            drop(to);
        });
        Log { lines, open }
    }

    /// Its last error, or else its last line at all. Of a server that has ended: what is still in
    /// the pipe is waited for, though not for ever, since somebody else may hold it open.
    fn last_word(&self) -> Option<String> {
        let _ = self.open.recv_timeout(PARTING);
        let log = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = log.iter().rev().map(|line| line.trim()).filter(|line| !line.is_empty());
        let error = lines.clone().find_map(|line| line.strip_prefix("error: "));
        error.or_else(|| lines.next()).map(|line| bare(line).to_owned())
    }
}

/// A line of a log without its time and level.
fn bare(line: &str) -> &str {
    let levels = [" ERROR ", " WARN ", " INFO "];
    levels.iter().find_map(|level| line.split_once(level)).map_or(line, |(_, text)| text.trim())
}

/// Reads `listening on 127.0.0.1:7000 (io_uring, echo)`: the address, and what is in the brackets.
fn parse_listening(line: &str) -> Option<(Address, String)> {
    let rest = line.trim().strip_prefix("listening on ")?;
    let (address, about) = match rest.split_once(" (") {
        Some((address, about)) => (address, about.strip_suffix(')').unwrap_or(about)),
        None => (rest, ""),
    };
    Some((address.parse().ok()?, about.to_owned()))
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
    fn the_first_line_says_where_it_listens() {
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
    fn a_server_that_cannot_run_says_why() {
        let refusal = Server::start(shell(
            "echo starting >&2; echo 'error: no such model: x' >&2; echo 'try --help' >&2; exit 2",
        ));
        assert_eq!(refusal.expect_err("it exits"), Refusal("no such model: x".to_owned()));
        let refusal = Server::start(shell("exit 3")).expect_err("it exits").to_string();
        assert_eq!(refusal, "ended without a word: exit status: 3");
        let refusal = Server::start(Command::new("/no/such/program")).expect_err("there is none");
        assert!(refusal.0.starts_with("cannot start /no/such/program: "), "{refusal}");
    }

    #[test]
    fn a_server_tells_its_counters_at_its_end() {
        let server = Server::start(shell(
            r#"trap 'echo "{\"schema\":\"proactor.stats/2\",\"model\":\"m\",\"detail\":\"d\",\"counters\":{\"calls\":7}}"; exit 0' TERM
               echo 'listening on 127.0.0.1:9 (m, echo)'; while :; do sleep 0.01; done"#,
        ));
        let server = server.expect("it listens");
        assert_eq!(server.about(), "m, echo");
        server.family().and_then(|all| all.clocks()?.read()).expect("it runs");
        let stats = server.stop().expect("it tells");
        assert_eq!((stats.model.as_str(), stats.counters.calls), ("m", 7));
    }

    #[test]
    fn a_server_that_will_not_end_is_killed() {
        let script =
            "trap '' TERM; echo 'listening on 127.0.0.1:9 (m)'; while :; do sleep 0.01; done";
        let server = Server::start(shell(script)).expect("it listens");
        let clocks = server.family().and_then(|all| all.clocks()).expect("it runs");
        drop(server);
        clocks.read().expect_err("it was killed and waited for");
    }

    #[test]
    fn a_server_that_fails_is_quoted() {
        let listens = "echo 'listening on 127.0.0.1:9 (m)'";
        let failed = |script: &str| {
            let server = Server::start(shell(&format!("{listens}; {script}")));
            server.expect("it listens").failed(&"no reply").0
        };
        assert_eq!(
            failed("echo 'T  WARN nobody is served any more' >&2; exec sleep 100"),
            "no reply; the server said: nobody is served any more"
        );
        assert_eq!(failed("exec sleep 100"), "no reply");
        assert_eq!(
            failed("echo 'error: out of luck' >&2; exit 3"),
            "the server ended (exit status: 3): out of luck; no reply"
        );
        assert_eq!(failed("kill -9 $$"), "the server ended (signal: 9 (SIGKILL)): no reply");
    }

    #[test]
    fn what_a_server_has_forked_ends_with_it() {
        let script = "sleep 100 & echo \"listening on 127.0.0.1:9 ($!)\"; wait";
        let server = Server::start(shell(script)).expect("it listens");
        assert_eq!(server.family().expect("it runs").processes(), 2);
        let child = server.about().parse().expect("the child's number");
        drop(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        // A killed orphan is its new parent's to wait for: until then it is there, without memory.
        while Family::of(child).and_then(|child| child.footprint()).is_ok_and(|has| has.memory > 0)
        {
            assert!(Instant::now() < deadline, "its child lives on");
            thread::yield_now();
        }
    }
}
