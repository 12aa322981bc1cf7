//! A server under test: started, listened to, and never left behind.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use super::seccomp::Filter;
use super::{Process, TIMEOUT};

/// The one that serves on io_uring, with the tools.
pub(crate) const PROACTOR: &str = env!("CARGO_BIN_EXE_proactor");
/// The one that serves by readiness.
pub(crate) const REACTOR: &str = env!("CARGO_BIN_EXE_reactor");

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// An IPv4 or IPv6 address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// As `--listen` has it.
    pub(crate) fn parse(text: &str) -> Address {
        match text.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(text.parse().unwrap_or_else(|_| panic!("no address: {text}"))),
        }
    }

    /// Returns the IP address.
    pub(crate) fn tcp(&self) -> SocketAddr {
        match self {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{} is no IP address", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Has the command take SIGINT and SIGQUIT, which a shell ignores in what it runs in the
/// background: these tests may be.
pub(crate) fn reset_signals(command: &mut Command) {
    // SAFETY: between fork and exec only signal(2) is called, which is async-signal-safe and
    // touches no memory.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

/// A command line to be.
#[derive(Debug)]
pub(crate) struct Launch {
    command: Command,
    listeners: usize,
    line: String,
    /// Of how many lines its stdout is read, and whether it is closed behind them.
    reads: Option<(usize, bool)>,
}

impl Launch {
    /// Of this program, with these arguments.
    pub(crate) fn new(program: &str, args: &[&str]) -> Launch {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        reset_signals(&mut command);
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and
        // touches no memory.
        unsafe {
            command.pre_exec(|| {
                // If the thread of the test dies, the server does too, however that came about.
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        let line = program.rsplit('/').next().expect("a name").to_owned();
        Launch { command, listeners: 0, line, reads: None }.args(args)
    }

    /// With these arguments too.
    pub(crate) fn args(mut self, args: &[&str]) -> Launch {
        for arg in args {
            // Statistics behind the line of each listener: the same pipe, by its path.
            let arg = if *arg == "--stats" { &"--stats=/proc/self/fd/1" } else { arg };
            self.command.arg(arg);
            self.listeners += usize::from(*arg == "--listen");
            self.line = format!("{} {arg}", self.line);
        }
        self
    }

    /// Listening at so many addresses more than it was given: a name has several.
    pub(crate) fn further_addresses(mut self, count: usize) -> Launch {
        self.listeners += count;
        self
    }

    /// With a pipe to type into.
    pub(crate) fn typed(mut self) -> Launch {
        self.command.stdin(Stdio::piped());
        self
    }

    /// With this to read from.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Launch {
        self.command.stdin(stdin);
        self
    }

    /// With this to write its log to, which is not read.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Launch {
        self.command.stderr(stderr);
        self
    }

    /// Reads the standard output only until the addresses are known. Then it is closed, or stays
    /// open and unread.
    pub(crate) fn unheard(mut self, closed: bool) -> Launch {
        self.reads = Some((self.listeners.max(1), closed));
        self
    }

    /// Allowed no more than this many descriptors, of which the standard streams are three: others
    /// that this process has inherited itself are closed.
    pub(crate) fn descriptors(self, most: u64) -> Launch {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
        // SAFETY: takes numbers alone.
        let inherits_none = self.before_exec(move || unsafe { libc::close_range(3, !0, flags) });
        inherits_none.limited(libc::RLIMIT_NOFILE, most, most)
    }

    /// Allowed no more than this many bytes of address space.
    pub(crate) fn address_space(self, most: u64) -> Launch {
        self.limited(libc::RLIMIT_AS, most, most)
    }

    /// Allowed this many descriptors, and more if it asks.
    pub(crate) fn raisable_descriptors(self, soft: u64, hard: u64) -> Launch {
        self.limited(libc::RLIMIT_NOFILE, soft, hard)
    }

    /// As the user of this number, which is allowed no more than this many processes and threads.
    pub(crate) fn user_with_processes(mut self, user: u32, most: u64) -> Launch {
        self.command.uid(user).gid(user);
        self.limited(libc::RLIMIT_NPROC, most, most)
    }

    /// Allowed to write files up to this size.
    pub(crate) fn file_size(self, most: u64) -> Launch {
        self.limited(libc::RLIMIT_FSIZE, most, most)
    }

    /// On this CPU, as taskset(1) would start it.
    pub(crate) fn on_cpu(self, cpu: usize) -> Launch {
        // SAFETY: all-zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `cpu` is one of this machine's, of which there are fewer than CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: `set` is read during the call.
        self.before_exec(move || unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) })
    }

    /// As a user without privileges, if the test has any.
    pub(crate) fn unprivileged(mut self) -> Launch {
        // SAFETY: geteuid(2) touches no memory and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            self.command.uid(65_534).gid(65_534);
        }
        self
    }

    /// As the leader of a group of processes, as a shell would start it.
    pub(crate) fn in_a_group_of_its_own(mut self) -> Launch {
        self.command.process_group(0);
        self
    }

    /// With this signal ignored, as some programs leave SIGCHLD, nohup(1) SIGHUP, and a shell
    /// SIGINT of what a script runs in the background.
    pub(crate) fn ignoring(self, signal: i32) -> Launch {
        // SAFETY: signal(2) touches no memory.
        self.before_exec(move || match unsafe { libc::signal(signal, libc::SIG_IGN) } {
            libc::SIG_ERR => -1,
            _ => 0,
        })
    }

    /// With every signal blocked, as a thread of some runtimes leaves them to what it starts.
    pub(crate) fn with_signals_blocked(self) -> Launch {
        // SAFETY: `every` is written to and read during the calls.
        self.before_exec(|| unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut every);
            libc::sigprocmask(libc::SIG_SETMASK, &every, std::ptr::null_mut())
        })
    }

    /// Allowed to lock no more than this many bytes. Without CAP_IPC_LOCK, which would lift the
    /// limit: a root process gives it up, and others have none to give.
    pub(crate) fn locked_memory(self, most: u64) -> Launch {
        const CAP_IPC_LOCK: i32 = 14;
        let limited = self.limited(libc::RLIMIT_MEMLOCK, most, most);
        limited.before_exec(|| {
            // SAFETY: takes numbers alone.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
            0
        })
    }

    /// Under a filter of system calls, as a container would start it. It must be the last that is
    /// said: what follows might be filtered.
    pub(crate) fn filtered(self, filter: Filter) -> Launch {
        self.before_exec(move || filter.install())
    }

    /// Calls this between fork and exec: -1 is a failure, whose reason is in errno.
    fn before_exec(mut self, set: impl Fn() -> i32 + Send + Sync + 'static) -> Launch {
        // SAFETY: what the functions above pass makes system calls alone, which are
        // async-signal-safe, and captures plain values.
        unsafe {
            self.command.pre_exec(move || match set() {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        self
    }

    /// Allowed no more than this many signals in its queue.
    pub(crate) fn signals(self, most: u64) -> Launch {
        self.limited(libc::RLIMIT_SIGPENDING, most, most)
    }

    fn limited(self, resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> Launch {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: setrlimit(2) reads `limit`, a value of the closure's own.
        self.before_exec(move || unsafe { libc::setrlimit(resource, &limit) })
    }

    /// Starts it and waits until it says that it listens, once for each address.
    pub(crate) fn start(self) -> Server {
        self.try_start().unwrap_or_else(|exit| panic!("`{}` does not listen: {exit:?}", exit.line))
    }

    /// The same; what it said if it ends instead.
    pub(crate) fn try_start(self) -> Result<Server, Exit> {
        let listeners = self.listeners.max(1);
        let mut server = self.spawn();
        let forks = server.command.contains("--model process");
        for _ in 0..listeners {
            match server.line() {
                Some(line) => server.listening.push(Listening::parse(line)),
                None => return Err(server.wait()),
            }
        }
        if forks {
            // Its name, which it sets by itself, distinguishes it from the other children.
            super::eventually("a log", || server.process.has_log_writer().then_some(()));
        }
        Ok(server)
    }

    /// Starts it and waits until it has ended by itself.
    pub(crate) fn run(self) -> Exit {
        self.spawn().wait()
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(mut self) -> Server {
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.line));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let stderr = child.stderr.take();
        let (said, lines) = channel();
        let (most, close) = self.reads.unwrap_or((usize::MAX, true));
        let mut stdout = BufReader::new(stdout);
        let unread = (!close).then(|| stdout.get_ref().as_fd().try_clone_to_owned());
        let unread = unread.transpose().expect("a descriptor is left");
        std::thread::spawn(move || {
            for line in stdout.by_ref().lines().map_while(Result::ok).take(most) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stderr.map_or(Ok(0), |mut stderr| stderr.read_to_end(&mut text));
            read.expect("stderr is readable");
            String::from_utf8_lossy(&text).into_owned()
        });
        Server {
            process: Process(child.id()),
            typed: child.stdin.take(),
            child,
            _unread: unread,
            lines,
            complaints: Some(complaints),
            listening: Vec::new(),
            command: self.line,
        }
    }
}

/// The line that says where and how a server listens.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    /// The whole line as printed.
    pub(crate) line: String,
    /// The address that it names.
    pub(crate) address: Address,
    /// On which I/O model.
    pub(crate) model: String,
    /// The protocol that it names.
    pub(crate) protocol: String,
}

impl Listening {
    fn parse(line: String) -> Listening {
        let parts = || {
            let (address, how) = line.strip_prefix("listening on ")?.split_once(" (")?;
            let (model, protocol) = how.strip_suffix(')')?.split_once(", ")?;
            Some((Address::parse(address), model.to_owned(), protocol.to_owned()))
        };
        let (address, model, protocol) =
            parts().unwrap_or_else(|| panic!("not the line of a listener: {line:?}"));
        Listening { line, address, model, protocol }
    }
}

/// A server that runs. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// What `/proc` knows of it.
    pub(crate) process: Process,
    /// Where and how it listens.
    pub(crate) listening: Vec<Listening>,
    child: Child,
    /// What is typed goes here.
    typed: Option<ChildStdin>,
    /// Keeps the standard output open and unread.
    _unread: Option<OwnedFd>,
    lines: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
    command: String,
}

impl Server {
    /// Where its first listener is.
    pub(crate) fn address(&self) -> &Address {
        &self.listening[0].address
    }

    /// Asks it to drain, and waits for its end.
    pub(crate) fn terminate(self) -> Exit {
        self.process.signal(libc::SIGTERM);
        self.wait()
    }

    /// Ends it as a drain should end: with success, every connection closed, and no complaint of
    /// a panic.
    pub(crate) fn drain(self) -> Exit {
        self.terminate().assert_drained()
    }

    /// Ends it the hard way.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server runs");
        self.child.wait().expect("a child is waited for once");
    }

    /// Waits until it has ended.
    pub(crate) fn wait(mut self) -> Exit {
        let deadline = Instant::now() + TIMEOUT;
        let mut stdout = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => stdout.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("`{}` did not end within {TIMEOUT:?}", self.command)
                }
            }
        }
        let stderr = self.complaints.take().expect("joined once").join().expect("stderr was read");
        let status = self.child.wait().expect("a child is waited for once");
        let exit = Exit { line: self.command.clone(), status, stdout, stderr };
        assert!(!exit.stderr.contains("panicked at"), "a panic: {exit:?}");
        exit
    }

    /// Types lines at its console.
    pub(crate) fn type_in(&mut self, lines: &str) {
        let typed = self.typed.as_mut().expect("its stdin is a pipe");
        typed.write_all(lines.as_bytes()).expect("it reads what is typed");
    }

    /// Ends what is typed.
    pub(crate) fn end_typing(&mut self) {
        drop(self.typed.take());
    }

    /// The next lines that it says, which must be these.
    #[track_caller]
    pub(crate) fn assert_says(&self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.line().as_deref(), Some(*expected), "`{}`", self.command);
        }
    }

    /// The next line that it says; none if it ends.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(TIMEOUT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("`{}` said nothing within {TIMEOUT:?}", self.command)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let (true, Some(complaints)) = (std::thread::panicking(), self.complaints.take()) {
            eprintln!("stderr of `{}`:\n{}", self.command, complaints.join().unwrap_or_default());
        }
    }
}

/// How a program ended.
pub(crate) struct Exit {
    /// The command line of it.
    pub(crate) line: String,
    /// The exit status of it.
    pub(crate) status: ExitStatus,
    /// What it said on stdout, apart from where it listens.
    pub(crate) stdout: Vec<String>,
    /// What it said on stderr.
    pub(crate) stderr: String,
}

impl Exit {
    /// Its exit code; none if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails unless it ended as a drain should.
    pub(crate) fn assert_drained(self) -> Exit {
        assert_eq!(self.code(), Some(0), "a drain ends with success: {self:?}");
        if !self.stdout.is_empty() {
            let (accepted, closed) = (self.counter("accepted"), self.counter("closed"));
            assert_eq!(accepted, closed, "every connection is closed once: {self:?}");
        }
        self
    }

    /// One of the counters that `--stats` printed.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let stats = self.stats();
        stats["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {stats}"))
    }

    /// The line that `--stats` printed.
    pub(crate) fn stats(&self) -> Value {
        let [line] = &self.stdout[..] else { panic!("one line of statistics: {self:?}") };
        let stats: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(stats["schema"], "proactor.stats/2", "{stats}");
        stats
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "`{}` ended with {}; stdout: {:?}; stderr:",
            self.line, self.status, self.stdout
        )?;
        let lines: Vec<&str> = self.stderr.lines().collect();
        lines[lines.len().saturating_sub(30)..].iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
