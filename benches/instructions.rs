//! The user instructions of a message in both loops, counted by callgrind: `cargo bench --bench
//! instructions`.
//!
//! Unlike a time, a count is the same on a busy machine. An echo of 64 bytes is served over TCP,
//! with all defaults, in the thread of its clients: in each round they send one message on each
//! connection, and then the server runs its iterations. So every connection is ready; a ring takes
//! some 20 of them in an iteration. Only the iterations are counted. The difference of two lengths
//! leaves out what happens once. From the counts at 64 connections and at one follow the cost of a
//! message and that of an iteration.
//!
//! It fails above a bound by more than [`SLACK`]. The bounds hold for the compiler below.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::process::{Command, ExitCode};

use proactor::buffer::Pool;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::Ended;
use proactor::model::EngineOptions;
use proactor::os::ShutdownSignal;
use proactor::peer::Factory;
use proactor::proactor::Proactor;
use proactor::protocol::{Echo, Protocol};
use proactor::reactor::Reactor;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Config, Uring};
use proactor::selector::{Epoll, Trigger};

/// The compiler by which the bounds were found: another one inlines otherwise.
const COMPILER: &str = "rustc 1.95.0";
/// The instructions of a message at 64 connections, and at one.
const BOUNDS: [(&str, [f64; 2]); 2] = [("epoll", [315.0, 412.0]), ("uring", [500.0, 800.0])];
const CONNECTIONS: [usize; 2] = [64, 1];
/// How far a count may exceed its bound.
const SLACK: f64 = 1.03;
/// The two numbers of rounds.
const LENGTHS: [u64; 2] = [200, 1200];
const MESSAGE: [u8; 64] = [7; 64];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    if let [_, mode, model, connections, rounds] = &args[..]
        && mode == "--serve"
    {
        serve(model, connections.parse().expect("a number"), rounds.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = find_tools() {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let within = BOUNDS.map(|(model, bounds)| compare(model, bounds));
    if within == [true; 2] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// # Errors
/// There is no valgrind, or the compiler is another one.
fn find_tools() -> Result<(), String> {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        output.map_err(|error| format!("{program}: {error}"))
    };
    version("valgrind")?;
    let compiler = String::from_utf8_lossy(&version("rustc")?.stdout).into_owned();
    match compiler.starts_with(COMPILER) {
        true => Ok(()),
        false => Err(format!("the bounds hold for {COMPILER}, not for {}", compiler.trim_end())),
    }
}

/// Counts the instructions of a model, and prints them. Returns whether they are within the bounds.
fn compare(model: &str, bounds: [f64; 2]) -> bool {
    if model == "uring"
        && let Err(refusal) = Kernel::detect()
    {
        println!("skipped: {refusal}");
        return true;
    }
    let counts = CONNECTIONS.map(|connections| {
        let [short, long] = LENGTHS.map(|rounds| count(model, connections, rounds));
        let messages = ((LENGTHS[1] - LENGTHS[0]) * connections as u64) as f64;
        [long.0 - short.0, long.1 - short.1].map(|difference| difference as f64 / messages)
    });
    // Two equations: instructions = message + iterations x iteration.
    let [[many, many_iterations], [one, iterations]] = counts;
    let iteration = (one - many) / (iterations - many_iterations);
    let message = one - iterations * iteration;
    println!("{model}: {message:.0} instructions for a message, {iteration:.0} for an iteration");
    let mut within = true;
    for ((connections, [count, _]), bound) in CONNECTIONS.into_iter().zip(counts).zip(bounds) {
        let exceeds = count > bound * SLACK;
        let verdict = if exceeds { ": TOO MANY" } else { "" };
        println!("  {connections:2} connections: {count:.0}, bound {bound:.0} and 3 %{verdict}");
        within &= !exceeds;
    }
    within
}

/// Returns the instructions and the iterations of so many rounds, and of what happens once.
fn count(model: &str, connections: usize, rounds: u64) -> (u64, u64) {
    // Kept for a look at it with callgrind_annotate(1), until the next count.
    let profile = env::temp_dir().join(format!("proactor-instructions.{model}.{connections}"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--toggle-collect=*instructions::iterate*"]);
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.arg(env::current_exe().expect("its own path"));
    valgrind.args(["--serve", model, &connections.to_string(), &rounds.to_string()]);
    let output = valgrind.output().expect("valgrind runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&profile).expect("a profile");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let iterations = String::from_utf8_lossy(&output.stdout).trim().parse();
    (total.and_then(|total| total.parse().ok()).expect("a total"), iterations.expect("a number"))
}

fn serve(model: &str, connections: usize, rounds: u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    match model {
        "epoll" => pass_messages(reactor(), listener, connections, rounds, Reactor::run_once),
        _ => pass_messages(proactor(), listener, connections, rounds, Proactor::run_once),
    }
}

/// Passes one message of every connection in each round, and prints the number of iterations.
fn pass_messages<E: Engine<Box<dyn Protocol>>>(
    mut server: E,
    listener: TcpListener,
    connections: usize,
    rounds: u64,
    run_once: impl Fn(&mut E) -> io::Result<ControlFlow<Ended>>,
) {
    let address = listener.local_addr().expect("bound");
    server.listen(ListenerId(0), listener.into(), Factory::shared(|_| Echo)).expect("a listener");
    let mut clients = Vec::new();
    while clients.len() < connections {
        clients.push(TcpStream::connect(address).expect("the server listens"));
        while server.counters().accepted < clients.len() as u64 {
            iterate(&mut server, &run_once);
        }
    }
    for round in 0..rounds {
        clients.iter_mut().for_each(|client| client.write_all(&MESSAGE).expect("it is read"));
        while server.counters().receives < (round + 1) * connections as u64 {
            iterate(&mut server, &run_once);
        }
        // A ring sends in the iteration after the receive: what it received in this round waits.
        if round > 0 {
            clients.iter_mut().for_each(|client| client.read_exact(&mut [0; 64]).expect("a reply"));
        }
    }
    println!("{}", server.counters().iterations);
}

/// The part that is counted.
#[inline(never)]
fn iterate<E>(server: &mut E, run_once: impl Fn(&mut E) -> io::Result<ControlFlow<Ended>>) {
    assert!(run_once(server).expect("the server serves").is_continue());
}

fn reactor() -> Reactor<Epoll, Box<dyn Protocol>> {
    let EngineOptions { limits, buffers, .. } = EngineOptions::default();
    let selector = Epoll::new(Trigger::Level).expect("a selector");
    let pool = Pool::new(&buffers).expect("memory");
    Reactor::new(selector, pool, limits, ShutdownSignal::new().expect("a descriptor"))
        .expect("a server")
}

fn proactor() -> Proactor<Uring, Box<dyn Protocol>> {
    let EngineOptions { limits, buffers, polling, .. } = EngineOptions::default();
    let (kernel, connections) = (Kernel::detect().expect("io_uring"), limits.connections);
    let ring = Uring::new(Config { kernel, connections, buffers, addresses: true, polling });
    let stop = ShutdownSignal::new().expect("a descriptor");
    Proactor::new(ring.expect("a ring"), limits, stop).expect("a server")
}
