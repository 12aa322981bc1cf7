//! The fairness trial: do hostile clients delay the others?
//!
//! ```console
//! $ cargo bench -p proactor-cli --bench fairness -- --model uring --model epoll
//! ```
//!
//! With 50 pingers, each of which sends 64 B every 10 ms, there are 60 slow readers (each sends as
//! much as it can and reads 4 kB every 200 ms, with the segments of an Ethernet), 8 floods, or a
//! storm of connects. The server has one CPU, all clients another one, on which the pingers have
//! real-time priority. The p99 of the pingers with hostile clients that act is compared with their
//! p99 while the same clients are connected and idle; both are the median of the runs, which
//! alternate.
//!
//! A virtual machine that is not given a CPU for 10 ms delays fifty pings, whatever its server
//! does. So a thread on each CPU, before which no other runs, sleeps for a millisecond again and
//! again. A run in which one of them was woken more than 2 ms late says nothing of the server, and
//! is repeated, at most ten times. And other programs of the machine get little of the server's
//! CPU: its nice value is -20. These priorities need root, and are said if they are missing.
//!
//! The bound is three times the idle p99, and 1 ms. The status is 3 if it does not hold; and 4 if
//! that cannot be decided, since most runs were disturbed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proactor::os;
use socket2::{Domain, SockRef, Socket, Type};

const PINGERS: usize = 50;
const EVERY: Duration = Duration::from_millis(10);
const MESSAGE: usize = 64;
/// A thread of the highest priority that wakes so late was kept waiting by the machine.
const LATE: Duration = Duration::from_millis(2);
/// What a ping may take more than three times its idle p99.
const MORE: Duration = Duration::from_millis(1);
const REPEATS: usize = 10;
/// The segments of an Ethernet.
const SEGMENT: u32 = 1448;
const MODELS: [&str; 10] = [
    "uring",
    "uring 6.12",
    "uring 6.1",
    "uring 6.0",
    "uring 5.19",
    "uring 5.11",
    "uring 5.7",
    "uring 5.6",
    "epoll",
    "coroutine",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hostile {
    SlowReaders,
    Floods,
    FloodsThatNeverRead,
    Storm,
}

impl Hostile {
    const ALL: [(Hostile, &str, usize); 4] = [
        (Hostile::SlowReaders, "60 slow readers", 60),
        (Hostile::Floods, "8 floods", 8),
        (Hostile::FloodsThatNeverRead, "8 floods, unread", 8),
        (Hostile::Storm, "a storm of connects", 0),
    ];
}

/// What the command line asks.
struct Options {
    models: Vec<String>,
    runs: usize,
    seconds: f64,
}

fn main() -> ExitCode {
    let options = options();
    let [server_cpu, client_cpu, ..] = os::usable_cpus()[..] else {
        println!("skipped: the trial needs two CPUs");
        return ExitCode::SUCCESS;
    };
    run(&options, server_cpu, client_cpu)
}

fn options() -> Options {
    let mut options = Options { models: Vec::new(), runs: 5, seconds: 1.0 };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match &*arg {
            "--model" => options.models.push(value()),
            "--runs" => options.runs = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            _ => panic!("unknown option {arg}: use --model \"NAME [KERNEL]\", --runs, --seconds"),
        }
    }
    if options.models.is_empty() {
        options.models = MODELS.map(str::to_owned).to_vec();
    }
    options
}

fn run(options: &Options, server_cpu: usize, client_cpu: usize) -> ExitCode {
    os::raise_descriptor_limit();
    println!("server on CPU {server_cpu}, clients on CPU {client_cpu}, {} runs", options.runs);
    println!(
        "{:12} {:20} {:>9} {:>9} {:>6} {:>9}",
        "model", "hostile clients", "idle p99", "p99", "ratio", "disturbed"
    );
    let (mut holds, mut known, cpus) = (true, true, [server_cpu, client_cpu]);
    for model in &options.models {
        for (hostile, name, clients) in Hostile::ALL {
            let (mut idle, mut active, mut disturbed) = (Vec::new(), Vec::new(), 0);
            for _ in 0..options.runs {
                for (acts, times) in [(false, &mut idle), (true, &mut active)] {
                    let run = undisturbed(|| {
                        trial(model, cpus, options.seconds, (hostile, clients), acts)
                    });
                    disturbed += usize::from(run.late > LATE);
                    times.push(run.p99);
                }
            }
            let [idle, active] = [idle, active].map(median);
            let verdict = match (disturbed > options.runs, active <= 3 * idle + MORE) {
                (true, _) => " disturbed",
                (false, false) => " unfair",
                (false, true) => "",
            };
            let ratio = active.as_secs_f64() / idle.as_secs_f64();
            println!(
                "{model:12} {name:20} {:>6.2} ms {:>6.2} ms {ratio:>6.1} {disturbed:>9}{verdict}",
                1e3 * idle.as_secs_f64(),
                1e3 * active.as_secs_f64()
            );
            holds &= verdict != " unfair";
            known &= verdict != " disturbed";
        }
    }
    let (verdict, status) = match (holds, known) {
        (false, _) => ("the bound does not hold", ExitCode::from(3)),
        (true, false) => ("undecided: most runs were disturbed", ExitCode::from(4)),
        (true, true) => ("the bound holds", ExitCode::SUCCESS),
    };
    println!("{verdict}");
    status
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Repeats a run that was disturbed. Returns the one that was disturbed least.
fn undisturbed(run: impl Fn() -> Run) -> Run {
    let mut best = run();
    for _ in 0..REPEATS {
        if best.late <= LATE {
            break;
        }
        let again = run();
        if again.late < best.late {
            best = again;
        }
    }
    best
}

/// One run, with a server of its own.
struct Run {
    /// The p99 of the pingers.
    p99: Duration,
    /// How late a thread of the highest priority was woken at most.
    late: Duration,
}

fn trial(
    model: &str,
    [server_cpu, client_cpu]: [usize; 2],
    seconds: f64,
    (hostile, clients): (Hostile, usize),
    acts: bool,
) -> Run {
    // The server inherits the CPU and the nice value of this thread.
    os::pin_to_cpu(server_cpu).expect("a usable CPU");
    set_nice(-20);
    let (mut server, address) = serve(model);
    set_nice(0);
    os::pin_to_cpu(client_cpu).expect("a usable CPU");
    let ends = AtomicBool::new(false);
    let hostile_clients: Vec<TcpStream> = (0..clients).map(|_| connect(address)).collect();
    let pingers: Vec<TcpStream> = (0..PINGERS).map(|_| connect(address)).collect();
    let run = thread::scope(|scope| {
        let probes = [server_cpu, client_cpu].map(|cpu| {
            let ends = &ends;
            scope.spawn(move || latest_wake(cpu, ends))
        });
        if acts {
            scope.spawn(|| act(hostile, &hostile_clients, address, &ends));
        }
        let p99 = scope.spawn(|| ping(&pingers, seconds)).join().expect("the pingers work");
        ends.store(true, Ordering::Relaxed);
        let late = probes.map(|probe| probe.join().expect("it only sleeps"));
        Run { p99, late: late[0].max(late[1]) }
    });
    server.kill().expect("the server runs");
    server.wait().expect("it is waited for once");
    run
}

/// Sleeps for a millisecond again and again, with the highest priority on a CPU. Returns how late
/// it was woken at most.
fn latest_wake(cpu: usize, ends: &AtomicBool) -> Duration {
    const SLEEP: Duration = Duration::from_millis(1);
    os::pin_to_cpu(cpu).expect("a usable CPU");
    set_real_time_priority(99);
    let mut latest = Duration::ZERO;
    while !ends.load(Ordering::Relaxed) {
        let begin = Instant::now();
        thread::sleep(SLEEP);
        latest = latest.max(begin.elapsed() - SLEEP);
    }
    latest
}

/// Sets the nice value of this thread; with the highest, also the shortest slice, so that it runs
/// as soon as it is woken (Linux 6.12; before, the slice is ignored).
fn set_nice(nice: i32) {
    let slice = if nice < 0 { Duration::from_micros(100) } else { Duration::ZERO };
    // struct sched_attr: size and policy, flags, nice and priority, runtime, deadline, period.
    let attr: [u64; 6] = [48, 0, u64::from(nice as u32), slice.as_nanos() as u64, 0, 0];
    // SAFETY: `attr` is as long as its first four bytes say, and read during the call.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attr.as_ptr(), 0) } != 0 {
        println!("skipped: nice {nice}: {}", io::Error::last_os_error());
    }
}

fn set_real_time_priority(sched_priority: i32) {
    let priority = libc::sched_param { sched_priority };
    // SAFETY: `priority` is read during the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) } != 0 {
        println!("skipped: real-time priority: {}", io::Error::last_os_error());
    }
}

fn serve(model: &str) -> (Child, SocketAddr) {
    let (model, kernel) = model.split_once(' ').map_or((model, None), |(a, b)| (a, Some(b)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_proactor"));
    command.args(["serve", "--model", model, "--listen", "127.0.0.1:0"]);
    command.args(kernel.map(|kernel| ["--kernel", kernel]).into_iter().flatten());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.spawn().expect("a process");
    let mut lines = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let address = lines.find_map(|line| {
        let line = line.expect("text");
        line.strip_prefix("listening on ")?.split(' ').next()?.parse().ok()
    });
    (server, address.expect("the server says where it listens"))
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.set_tcp_mss(SEGMENT).expect("a size of segments");
    socket.set_tcp_nodelay(true).expect("a TCP socket");
    socket.connect(&address.into()).expect("the server listens");
    socket.set_nonblocking(true).expect("a socket");
    socket.into()
}

/// Returns what was moved; nothing if the call would wait.
fn moved(result: io::Result<usize>) -> Option<usize> {
    result.ok().filter(|&n| n > 0)
}

/// What the hostile clients do, in one thread, until the end.
fn act(hostile: Hostile, clients: &[TcpStream], address: SocketAddr, ends: &AtomicBool) {
    let (bytes, mut space) = (vec![b'x'; 64 << 10], vec![0; 64 << 10]);
    let mut reads_at = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        if hostile == Hostile::Storm {
            if let Ok(client) = TcpStream::connect(address) {
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            }
            continue;
        }
        let reads = hostile == Hostile::SlowReaders && reads_at <= Instant::now();
        if reads {
            reads_at += Duration::from_millis(200);
        }
        let mut progress = false;
        for mut client in clients {
            progress |= moved(client.write(&bytes)).is_some();
            if reads {
                let _ = client.read(&mut space[..4000]);
            } else if hostile == Hostile::Floods {
                progress |= moved(client.read(&mut space)).is_some();
            }
        }
        if !progress {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Sends a message on each connection every 10 ms, with real-time priority if that is permitted.
/// Returns the p99 of the round trips; one that is not over at the end counts as it is.
fn ping(pingers: &[TcpStream], seconds: f64) -> Duration {
    set_real_time_priority(1);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    // When each sends next, and when it sent what it awaits.
    let gap = EVERY / PINGERS as u32;
    let mut state: Vec<(Instant, Option<Instant>)> =
        (0..PINGERS).map(|at| (begin + gap * at as u32, None)).collect();
    let mut times = Vec::new();
    let mut space = [0; MESSAGE];
    let (mut polled, mut now) = (Vec::new(), begin);
    while now < end {
        for (mut pinger, (next, sent)) in pingers.iter().zip(&mut state) {
            if let Some(at) = *sent
                && let Some(n) = moved(pinger.read(&mut space))
            {
                assert_eq!(n, MESSAGE, "a reply is one segment");
                times.push(at.elapsed());
                (*sent, *next) = (None, (*next + EVERY).max(Instant::now()));
            } else if sent.is_none() && *next <= now {
                *sent = Some(Instant::now());
                pinger.write_all(&[b'x'; MESSAGE]).expect("there is space");
            }
        }
        polled.clear();
        let fd = |pinger: &TcpStream| (pinger.as_raw_fd(), libc::POLLIN);
        polled.extend(pingers.iter().map(fd).map(|(fd, events)| libc::pollfd {
            fd,
            events,
            revents: 0,
        }));
        let next = state.iter().filter(|(_, sent)| sent.is_none()).map(|(next, _)| *next).min();
        let left = next.unwrap_or(end).min(end).saturating_duration_since(Instant::now());
        os::poll(&mut polled, Some(left)).expect("descriptors that are open");
        now = Instant::now();
    }
    times.extend(state.iter().filter_map(|(_, sent)| *sent).map(|at| at.elapsed()));
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
