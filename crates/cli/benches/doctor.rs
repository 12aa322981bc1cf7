//! The score of `trace doctor`: does it find the faults that are there, and nothing in servers that
//! are well?
//!
//! ```console
//! $ cargo bench -p proactor-cli --bench doctor
//! ```
//!
//! Servers of all models are recorded for half a second each: healthy ones under several loads, and
//! those with one fault that is injected. The runs are two halves: no load, and no size of a fault
//! that has one, is in both. The thresholds of the checks are fixed on the first (`--first`), and
//! scores are given of the second. A load by which a check was mended belongs to the first from
//! then on. A finding that is wrong or costly in a healthy run is a false alarm; in a run with a
//! fault, every one that the fault does not bring with it. A run in which other programs use the
//! CPUs is repeated, unless they are usual there (`--busy`): a server that has no CPU is a finding.
//!
//! This program is also the server, with a protocol that computes for long. What a server that is
//! in order does not do is written into its recording. The status is 3 if there is a false alarm,
//! or a fault is missed that should be visible, and 4 if a run was left out because others
//! disturbed it. Quotas need root and a cgroup with the controller `cpu`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use proactor::buffer::BufferClass;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Limits;
use proactor::os::{self, ShutdownSignal};
use proactor::peer::Factory;
use proactor::polling::Polling;
use proactor::proactor::Proactor;
use proactor::protocol::Echo;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Config, Uring};
use proactor::traced::Traced;
use proactor::{Input, Needs, Outbox, Protocol};
use proactor_compare::disturbance::HostState;
use proactor_trace::format::{HEADER, MAY_SLEEP, RECORD};
use proactor_trace::view::{Cut, Doctor, Severity, TraceStats};
use proactor_trace::{About, Call, Kind, RecordKind, Recorder, Settings, Trace};

/// Set for a server or a client, which this program is too: what it is.
const ROLE: &str = "PROACTOR_DOCTOR_BENCH";
/// The models of which one thread does everything.
const LOOPS: [&str; 9] = [
    "nonblocking",
    "select",
    "poll",
    "sigio",
    "epoll",
    "epoll-et",
    "epoll-oneshot",
    "coroutine",
    "uring",
];
/// The models with many threads or processes.
const THREADS: [&str; 3] = ["thread", "process", "blocking"];
/// It serves one connection at a time.
const ONE_AT_A_TIME: &str = "blocking";
/// How often a run is made, until none disturbs it.
const REPEATS: usize = 6;
/// How long a server is under load.
const TIME: &str = "500ms";

/// What is done to a server, beside its load.
#[derive(Debug, Clone, Copy)]
enum Injected {
    /// Nothing but its options.
    Nothing,
    /// It is stopped so often, for so long.
    Stops(u32, Duration),
    /// Its share of a CPU, in percent.
    Quota(u32),
    /// So many descriptors are left.
    Descriptors(u64),
    /// Clients that send much, end, and read nothing.
    Unread,
    /// Another client of one connection sends much.
    Heavy,
    /// The queue of completions holds so few.
    Queue(u32),
    /// In the recording: the end of an operation is missing, or is an error.
    Leak,
    Error,
}

/// A run, and what is true of it.
#[derive(Debug, Clone)]
struct Case {
    /// The fault; empty if it is healthy.
    fault: &'static str,
    /// The finding that it is; `None` if the doctor says that it cannot be seen.
    finding: Option<&'static str>,
    /// What else the fault brings with it.
    also: &'static [&'static str],
    model: &'static str,
    serve: Vec<String>,
    load: Vec<String>,
    injected: Injected,
}

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("proactor") => proactor_cli::main_with(|registry| {
            _ = registry.add("slow", |_peer| Slow { seen: 0, every: 200, span: 20 });
            _ = registry.add("slower", |_peer| Slow { seen: 0, every: 50, span: 8 });
        }),
        Ok(queue) => serve_with_queue(queue.parse().expect("a number")),
        Err(_) => score(),
    }
}

fn score() -> ExitCode {
    let [is_first, is_busy] =
        ["--first", "--busy"].map(|name| std::env::args().any(|arg| arg == name));
    let cases: Vec<Case> = healthy(is_first).into_iter().chain(faulty(is_first)).collect();
    let (mut rows, mut disturbed, begin) = (Vec::<Row>::new(), 0, Instant::now());
    for case in &cases {
        let found = match undisturbed(case, is_busy) {
            Ok(found) => found,
            Err(why) => {
                disturbed += u32::from(why.is_some());
                let why = why.unwrap_or("it cannot be injected here".to_owned());
                println!("left out: {}: {why}", case.name());
                continue;
            }
        };
        let row = match rows.iter_mut().find(|row| row.fault == case.fault) {
            Some(row) => row,
            None => {
                rows.push(Row::new(case));
                rows.last_mut().expect("it was pushed")
            }
        };
        row.add(case, &found);
    }
    let (runs, seconds) = (rows.iter().map(|row| row.runs).sum::<u32>(), begin.elapsed().as_secs());
    let uname = proactor_record::sys::uname();
    let kernel = uname.split(' ').nth(1).unwrap_or_default();
    println!("\n{runs} runs in {seconds} s, {disturbed} left out as disturbed, Linux {kernel}\n");
    println!("| fault | finding | runs | found | false alarms |");
    println!("|---|---|---:|---:|---:|");
    rows.iter().for_each(Row::print);
    ExitCode::from(match rows.iter().all(Row::holds) {
        false => 3,
        true if disturbed > 0 => 4,
        true => 0,
    })
}

/// The runs of one fault, or the healthy ones.
#[derive(Debug)]
struct Row {
    fault: &'static str,
    finding: Option<&'static str>,
    runs: u32,
    found: u32,
    false_alarms: u32,
}

impl Row {
    fn new(case: &Case) -> Row {
        let Case { fault, finding, .. } = *case;
        Row { fault, finding, runs: 0, found: 0, false_alarms: 0 }
    }

    /// Counts what was found in a run: names, and whether each is wrong or costly.
    fn add(&mut self, case: &Case, found: &[(&'static str, bool)]) {
        self.runs += 1;
        let is_found = |&(name, _): &(&str, bool)| Some(name) == case.finding;
        let is_false = |&&(name, bad): &&(&str, bool)| {
            bad && Some(name) != case.finding && !case.also.contains(&name)
        };
        let false_alarms: Vec<_> = found.iter().filter(is_false).map(|(name, _)| *name).collect();
        let is_missed = case.finding.is_some() && !found.iter().any(is_found);
        self.found += u32::from(!is_missed);
        self.false_alarms += false_alarms.len() as u32;
        if is_missed || !false_alarms.is_empty() {
            let missed = if is_missed { "missed " } else { "" };
            println!("{missed}{}: {}", case.name(), false_alarms.join(", "));
        }
    }

    fn print(&self) {
        let Row { fault, finding, runs, found, false_alarms } = self;
        let (fault, finding, found) = match (fault.is_empty(), finding) {
            (true, _) => ("none: healthy", "–".to_owned(), "–".to_owned()),
            (_, Some(name)) => (*fault, format!("`{name}`"), format!("{found}")),
            (_, None) => (*fault, "not visible, and said".to_owned(), "–".to_owned()),
        };
        println!("| {fault} | {finding} | {runs} | {found} | {false_alarms} |");
    }

    fn holds(&self) -> bool {
        self.false_alarms == 0 && self.found == self.runs
    }
}

impl Case {
    fn name(&self) -> String {
        let fault = if self.fault.is_empty() { "healthy" } else { self.fault };
        let options = [&self.serve[..], &self.load].concat().join(" ");
        format!("{fault}: {} {options}", self.model)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn case(model: &'static str, serve: &str, load: &str) -> Case {
    let (serve, load) = (words(serve), words(load));
    let (fault, finding, also, injected) = ("", None, &[][..], Injected::Nothing);
    Case { fault, finding, also, model, serve, load, injected }
}

/// Every model under loads that it should bear.
fn healthy(is_first: bool) -> Vec<Case> {
    let loads: &[&str] = match is_first {
        true => &[
            "-c 1 -l 64",
            "-c 16 -l 64",
            "-c 64 -l 64",
            "-c 16 -l 16384",
            "-c 64 -l 1024 --depth 8",
            "-c 4 -l 131072",
            "-c 8 -w churn",
            "-c 32 -l 64 --rate 5000",
            "-c 16 -l 2048 --rate 2000 --arrivals bursts",
        ],
        false => &[
            "-c 2 -l 256",
            "-c 40 -l 128",
            "-c 100 -l 32",
            "-c 8 -l 32768",
            "-c 24 -l 700 --depth 12",
            "-c 12 -l 200000",
            "-c 20 -w churn",
            "-c 20 -l 3000 --rate 1500 --arrivals bursts",
        ],
    };
    let models = LOOPS.into_iter().chain(THREADS).filter(|&model| model != ONE_AT_A_TIME);
    let mut all: Vec<Case> =
        models.flat_map(|model| loads.iter().map(move |load| case(model, "", load))).collect();
    all.push(case(ONE_AT_A_TIME, "", ["-c 1 -l 64", "-c 1 -l 4096"][usize::from(!is_first)]));
    all
}

fn faulty(is_first: bool) -> Vec<Case> {
    let variant = usize::from(!is_first);
    let load = ["-c 32 -l 64", "-c 16 -l 512"][variant];
    let one = ["-c 1 -l 64", "-c 1 -l 512"][variant];
    let slow = ["--protocol slow", "--protocol slower"][variant];
    let mut all = Vec::new();
    let mut add = |fault, finding, also, injected, case: Case| {
        all.push(Case { fault, finding, also, injected, ..case });
    };
    use Injected::*;
    let few = ["--buffers 8 --buffer-size 64", "--buffers 32 --buffer-size 128"][variant];
    for crowd in [["-c 200 -l 4096", "-c 300 -l 8192"], ["-c 100 -l 1024", "-c 200 -l 2048"]] {
        let case = case("uring", few, crowd[variant]);
        add("too few buffers", Some("no-buffers"), &["disarmed"], Nothing, case);
    }
    for queue in [[2, 4], [8, 16]] {
        let case = case("uring", "", ["-c 64 -l 64", "-c 100 -l 256"][variant]);
        let also = &["disarmed"];
        add("a tiny completion queue", Some("cq-overflow"), also, Queue(queue[variant]), case);
    }
    for model in LOOPS {
        let case = case(model, slow, load);
        add("a protocol that computes for 8 or 20 ms", Some("stalls"), &[], Nothing, case);
    }
    for model in LOOPS.into_iter().chain(THREADS) {
        let stops = Stops([4, 3][variant], Duration::from_millis([50, 30][variant]));
        let load = if model == ONE_AT_A_TIME { one } else { load };
        let is_seen = model != "process";
        let name = if is_seen { "SIGSTOP for 30 or 50 ms" } else { "SIGSTOP of a parent" };
        add(name, is_seen.then_some("stopped"), &["no-cpu"], stops, case(model, "", load));
    }
    for model in LOOPS {
        let quota = Quota([20, 35][variant]);
        add("a CPU quota", Some("no-cpu"), &[], quota, case(model, "", load));
    }
    for model in THREADS {
        let load = if model == ONE_AT_A_TIME { one } else { load };
        let (quota, also) = (Quota([20, 35][variant]), &["stalls"][..]);
        add("a CPU quota, threads or processes", None, also, quota, case(model, "", load));
        let case = case(model, slow, load);
        add("a protocol that computes, threads or processes", None, &[], Nothing, case);
    }
    for model in ["epoll", "poll", "coroutine", "thread"] {
        let spare = Descriptors([4, 9][variant]);
        let case = case(model, "", load);
        add("no descriptor for a connection", Some("accepts-refused"), &["errors"], spare, case);
    }
    all.extend(faulty_in_part(variant));
    all
}

/// Those with a fault of some connections or operations only.
fn faulty_in_part(variant: usize) -> Vec<Case> {
    let load = ["-c 32 -l 64", "-c 16 -l 512"][variant];
    let mut all = Vec::new();
    let mut add = |fault, finding, also, injected, case: Case| {
        all.push(Case { fault, finding, also, injected, ..case });
    };
    use Injected::*;
    for model in ["uring", "epoll", "thread"] {
        let heavy = case(model, "", ["-c 9 -l 64 --rate 900", "-c 12 -l 100 --rate 600"][variant]);
        add("one connection has the bytes (a note)", Some("one-heavy"), &[], Heavy, heavy);
    }
    for kernel in ["--kernel 5.11", "--without RECV_MULTISHOT"] {
        let case = case("uring", kernel, load);
        add("one-shot receives (a note)", Some("one-shot"), &[], Nothing, case);
    }
    for model in ["uring", "epoll", "coroutine"] {
        let load = ["-c 4 -l 64 -t 1700ms", "-c 6 -l 100 -t 1900ms"][variant];
        let unread = case(model, "", load);
        add("clients that end and do not read", Some("never-closed"), &[], Unread, unread);
    }
    for model in ["uring", "epoll", "thread"] {
        let errors = case(model, "", load);
        add("an operation fails (recorded so)", Some("errors"), &[], Error, errors);
    }
    let leak = case("uring", "", load);
    add("a leaked operation (recorded so)", Some("out-of-order"), &[], Leak, leak);
    let rare = ["-c 4 -l 64 --rate 300", "-c 3 -l 200 --rate 200"][variant];
    let asleep = case("uring", "--sqpoll=1ms", rare);
    add("a polling kernel thread that sleeps", None, &[], Nothing, asleep);
    all
}

/// Makes a run that nothing disturbs, within some tries. The error is what disturbed the last one;
/// `None` if the fault cannot be injected.
fn undisturbed(case: &Case, is_busy: bool) -> Result<Vec<(&'static str, bool)>, Option<String>> {
    // The clients share the CPUs with the server: their time on them is no cause.
    const ON: Duration = Duration::from_secs(1);
    let cpus = os::usable_cpus();
    let mut why = None;
    for _ in 0..REPEATS {
        let folder = tempfile::tempdir().expect("a folder");
        let before = HostState::read(&cpus);
        let found = run(case, folder.path()).ok_or(None)?;
        why = HostState::read(&cpus).since(&before).cause(ON, ON).filter(|_| !is_busy);
        if why.is_none() {
            return Ok(found);
        }
    }
    Err(why)
}

/// Makes the recording of a run. Returns its findings, and which are wrong or costly; `None` if the
/// fault cannot be injected.
fn run(case: &Case, folder: &Path) -> Option<Vec<(&'static str, bool)>> {
    let file = folder.join("trace");
    let group = match case.injected {
        Injected::Quota(percent) => Some(Group::new(percent)?),
        _ => None,
    };
    let mut server = Server::start(case, &file)?;
    if let Some(group) = &group {
        fs::write(group.0.join("cgroup.procs"), server.0.id().to_string()).ok()?;
    }
    let address = server.address();
    if let Injected::Descriptors(spare) = case.injected {
        server.leave_descriptors(spare);
    }
    let heavy = matches!(case.injected, Injected::Heavy).then(|| words("-c 1 -l 65536"));
    let start = |options: &Vec<String>| {
        let mut load = this_program("proactor");
        load.args(["load", &address.to_string(), "-t", TIME, "--timeout", "1s"]).args(options);
        load.spawn().expect("a client")
    };
    let loads: Vec<Child> = heavy.iter().chain([&case.load]).map(start).collect();
    let pid = server.0.id() as libc::pid_t;
    let unread = match case.injected {
        Injected::Unread => (0..3).map(|_| unread(address)).collect(),
        Injected::Stops(times, span) => {
            // How long it serves and how long it is stopped is the fault: nothing waits for it.
            for _ in 0..times {
                thread::sleep(Duration::from_millis(60));
                signal(pid, libc::SIGSTOP);
                thread::sleep(span);
                signal(pid, libc::SIGCONT);
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    for mut load in loads {
        load.wait().expect("it is a child");
    }
    // What the clients leave behind is not part of the run.
    signal(pid, if unread.is_empty() { libc::SIGTERM } else { libc::SIGKILL });
    server.0.wait().expect("it is a child");
    let mut bytes = fs::read(&file).expect("the recording");
    edit(&mut bytes, case.injected);
    let trace = Trace::from_bytes(&bytes).expect("a recording");
    let doctor = Doctor::new(TraceStats::of(&trace, &Cut::default()));
    let stats = &doctor.health.stats;
    assert!(stats.messages > 0, "{} is not served: {:?}", case.model, case.serve);
    let findings = doctor.findings.iter();
    Some(findings.map(|one| (one.name, one.severity != Severity::Note)).collect())
}

/// Writes what a server that works does not do into its recording.
fn edit(bytes: &mut [u8], injected: Injected) {
    const CQE: u8 = RecordKind::Cqe as u8;
    const IMPLIED: u8 = RecordKind::Implied as u8;
    const CALL_END: u8 = RecordKind::CallEnd as u8;
    let (slots, _) = bytes[HEADER..].as_chunks_mut::<RECORD>();
    // The kind of an operation is the last byte of its token; a call has a byte of its own.
    let is_send = |slot: &&mut [u8; RECORD]| {
        [CQE, IMPLIED].contains(&slot[28]) && slot[15] == Kind::Send as u8
    };
    let receives = |slot: &[u8; RECORD]| match slot[28] {
        CQE => slot[15] == Kind::Recv as u8,
        CALL_END => slot[29] & !MAY_SLEEP == Call::Recv as u8,
        _ => false,
    };
    let is_message = |slot: &&mut [u8; RECORD]| {
        let [.., high] = slot[16..20] else { return false };
        receives(slot) && slot[16..20] != [0; 4] && high == 0
    };
    match injected {
        Injected::Error => {
            let slot = slots.iter_mut().filter(is_message).nth(40).expect("a receive");
            slot[16..20].copy_from_slice(&(-libc::EIO).to_ne_bytes());
        }
        Injected::Leak => {
            let slot = slots.iter_mut().filter(is_send).nth(40).expect("a send");
            slot[28] = RecordKind::Mark as u8;
        }
        _ => {}
    }
}

/// A cgroup with a quota. It is removed when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new(percent: u32) -> Option<Group> {
        let name = format!("proactor-doctor-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let root = if v1.exists() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = Group(root.join(name));
        fs::create_dir(&group.0).ok()?;
        let quota = percent * 1000;
        let set = match v1.exists() {
            true => fs::write(group.0.join("cpu.cfs_quota_us"), quota.to_string()),
            false => fs::write(group.0.join("cpu.max"), format!("{quota} 100000")),
        };
        set.ok().map(|()| group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A server under test.
struct Server(Child);

impl Server {
    fn start(case: &Case, file: &Path) -> Option<Server> {
        if let Injected::Queue(queue) = case.injected {
            let mut command = this_program(&queue.to_string());
            return command.arg(file).stdout(Stdio::piped()).spawn().ok().map(Server);
        }
        let mut command = this_program("proactor");
        command.args(["serve", "--model", case.model, "--listen", "127.0.0.1:0", "--log", "off"]);
        command.arg("--trace").arg(file).args(&case.serve).stdout(Stdio::piped());
        command.spawn().ok().map(Server)
    }

    fn address(&mut self) -> SocketAddr {
        let mut lines = BufReader::new(self.0.stdout.take().expect("a pipe")).lines();
        let address = lines.find_map(|line| {
            let line = line.expect("text");
            line.strip_prefix("listening on ")?.split(' ').next()?.parse().ok()
        });
        address.expect("the server says where it listens")
    }

    /// Takes its right to more than so many further descriptors.
    fn leave_descriptors(&self, spare: u64) {
        let pid = self.0.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64;
        let limit = libc::rlimit { rlim_cur: open + spare, rlim_max: open + spare };
        // SAFETY: `limit` is read during the call, and nothing is written.
        let set =
            unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "the limit of a child can be lowered");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program as a server or a client, which ends with it.
fn this_program(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    os::die_with_parent(&mut command);
    command
}

fn signal(pid: libc::pid_t, signal: i32) {
    // SAFETY: takes two numbers; the process is a child that was not waited for.
    unsafe { libc::kill(pid, signal) };
}

/// A client that sends as much as goes, ends, and reads nothing.
fn unread(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("the server listens");
    client.set_write_timeout(Some(Duration::from_millis(50))).expect("no zero");
    while client.write(&[b'x'; 1 << 16]).is_ok() {}
    client.shutdown(Shutdown::Write).expect("it is connected");
    client
}

/// Echoes, and computes for `span` milliseconds with one message of `every`.
struct Slow {
    seen: u32,
    every: u32,
    span: u64,
}

impl Protocol for Slow {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        out.send(input.take_all());
        self.seen += 1;
        if self.seen.is_multiple_of(self.every) {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(self.span) {}
        }
    }
}

/// Serves until the parent ends, with a completion queue of this size.
fn serve_with_queue(queue: u32) -> ExitCode {
    let file = std::env::args_os().nth(1).expect("a file");
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(file);
    let file = file.expect("a file that can be written");
    let (kernel, connections) = (Kernel::detect().expect("io_uring"), 256);
    let buffers = vec![BufferClass { count: 1024, bytes: 2048 }];
    let config =
        Config { kernel, connections, buffers, addresses: true, polling: Polling::default() };
    let ring = Uring::with_completions(config, queue).expect("a ring");
    let about = About { model: "uring".to_owned(), one_thread: true, ..About::default() };
    let log = Recorder::new(Some(&file), &Settings::default(), &about).expect("a recorder");
    let stop = ShutdownSignal::new().expect("a descriptor");
    stop.on_signals().expect("the signals of a process");
    let mut limits = Limits::default();
    (limits.connections, limits.drain) = (connections, Duration::from_secs(1));
    let mut server = Proactor::new(Traced::new(ring, log), limits, stop).expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("listening on {} ", listener.local_addr().expect("it is bound"));
    server.listen(ListenerId(0), listener.into(), Factory::of(|_| Echo)).expect("a socket");
    server.run(None).map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
}
