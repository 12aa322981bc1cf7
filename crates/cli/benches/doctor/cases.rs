//! The runs, and what is true of each: two halves, which share no load and no size of a fault.

use std::time::Duration;

use crate::run::Report;
use Injected::*;

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

/// What is done to a server, beside its load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Injected {
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
    /// The kernel is given a wrong socket for each send of this number, and refuses it.
    Refused(u32),
    /// In the recording: the end of an operation is missing.
    Leak,
    /// In the recording: an operation has failed.
    Error,
}

/// What the doctor should say of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Truth {
    Healthy,
    /// It has a finding of this name.
    Finding(&'static str),
    /// It says that this is not visible.
    Hidden(&'static str),
}

/// A run, and what is true of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// What is wrong, or that nothing is.
    pub(crate) fault: &'static str,
    pub(crate) truth: Truth,
    /// What else the fault brings with it.
    also: &'static [&'static str],
    pub(crate) model: &'static str,
    pub(crate) serve: Vec<String>,
    pub(crate) load: Vec<String>,
    pub(crate) injected: Injected,
}

impl Truth {
    /// Whether the doctor said it.
    pub(crate) fn is_in(self, report: &Report) -> bool {
        match self {
            Truth::Healthy => true,
            Truth::Finding(name) => report.findings.iter().any(|one| one.name == name),
            Truth::Hidden(name) => report.not_visible.iter().any(|one| one == name),
        }
    }
}

impl Case {
    fn new(model: &'static str, serve: &str, load: &str) -> Case {
        let (serve, load) = (words(serve), words(load));
        let (fault, truth) = ("none: healthy", Truth::Healthy);
        Case { fault, truth, also: &[], model, serve, load, injected: Nothing }
    }

    fn with(self, fault: &'static str, truth: Truth, injected: Injected) -> Case {
        Case { fault, truth, injected, ..self }
    }

    fn and(self, also: &'static [&'static str]) -> Case {
        Case { also, ..self }
    }

    pub(crate) fn name(&self) -> String {
        let options = [&self.serve[..], &self.load].concat().join(" ");
        format!("{}: {} {options}", self.fault, self.model)
    }

    /// Whether the fault brings this finding with it.
    pub(crate) fn explains(&self, name: &str) -> bool {
        matches!(self.truth, Truth::Finding(truth) if truth == name) || self.also.contains(&name)
    }
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// All runs of a half.
pub(crate) fn all(is_first: bool) -> Vec<Case> {
    let half = usize::from(!is_first);
    let of = [healthy, of_the_ring, of_loops, of_threads, of_clients, of_operations];
    of.iter().flat_map(|cases| cases(half)).collect()
}

/// Every model under loads that it should bear.
fn healthy(half: usize) -> Vec<Case> {
    let loads: &[&str] = [
        &[
            "-c 1 -l 64",
            "-c 16 -l 64",
            "-c 64 -l 64",
            "-c 16 -l 16384",
            "-c 64 -l 1024 --depth 8",
            "-c 4 -l 131072",
            "-c 8 -w churn",
            "-c 32 -l 64 --rate 5000",
            "-c 16 -l 2048 --rate 2000 --arrivals bursts",
        ][..],
        &[
            "-c 2 -l 256",
            "-c 40 -l 128",
            "-c 100 -l 32",
            "-c 8 -l 32768",
            "-c 24 -l 700 --depth 12",
            "-c 12 -l 200000",
            "-c 20 -w churn",
            "-c 20 -l 3000 --rate 1500 --arrivals bursts",
        ],
    ][half];
    let models = LOOPS.into_iter().chain(THREADS).filter(|&model| model != ONE_AT_A_TIME);
    let mut all: Vec<Case> =
        models.flat_map(|model| loads.iter().map(move |load| Case::new(model, "", load))).collect();
    all.push(Case::new(ONE_AT_A_TIME, "", ["-c 1 -l 64", "-c 1 -l 4096"][half]));
    // With the events of the kernel there is more that could be found.
    for load in [["-c 12 -l 64", "-c 6 -w churn"], ["-c 28 -l 900", "-c 10 -w churn"]][half] {
        all.push(Case::new("uring", "--kernel-events", load));
    }
    all
}

/// Loads and a slow protocol, which many faults share.
const LOADS: [&str; 2] = ["-c 32 -l 64", "-c 16 -l 512"];
const ONE: [&str; 2] = ["-c 1 -l 64", "-c 1 -l 512"];
const SLOW: [&str; 2] = ["--protocol slow", "--protocol slower"];

fn load_of(model: &str, half: usize) -> &'static str {
    if model == ONE_AT_A_TIME { ONE[half] } else { LOADS[half] }
}

fn of_the_ring(half: usize) -> Vec<Case> {
    let mut all = Vec::new();
    let ring = |serve, load| Case::new("uring", serve, load);
    let few = ["--buffers 8 --buffer-size 64", "--buffers 32 --buffer-size 128"][half];
    for crowd in [["-c 200 -l 4096", "-c 300 -l 8192"], ["-c 100 -l 1024", "-c 200 -l 2048"]] {
        let case = ring(few, crowd[half]).and(&["disarmed"]);
        all.push(case.with("too few buffers", Truth::Finding("no-buffers"), Nothing));
    }
    let queues = [
        &[("-c 64 -l 64", 2), ("-c 64 -l 64", 8), ("-c 100 -l 256", 4), ("-c 100 -l 256", 16)][..],
        &[("-c 120 -l 700", 32), ("-c 200 -l 150", 64)],
    ];
    for &(load, queue) in queues[half] {
        // A completion that waits outside the queue holds its buffer.
        let case = ring("", load).and(&["disarmed", "no-buffers"]);
        let fault = "a completion queue that overflows";
        all.push(case.with(fault, Truth::Finding("cq-overflow"), Queue(queue)));
    }
    for kernel in ["--kernel 5.11", "--without RECV_MULTISHOT"] {
        let fault = "one-shot receives (a note)";
        let case = ring(kernel, LOADS[half]);
        all.push(case.with(fault, Truth::Finding("one-shot"), Nothing));
    }
    for every in [[40, 100], [150, 300]] {
        let case = ring("", LOADS[half]);
        let fault = "operations that the kernel refuses";
        all.push(case.with(fault, Truth::Finding("errors"), Refused(every[half])));
    }
    for load in [["-c 8 -w churn", "-c 3 -w churn"], ["-c 20 -w churn", "-c 5 -w churn"]][half] {
        let case = ring("--kernel-events --protocol bye", load);
        let fault = "operations that worker threads do (io-wq)";
        all.push(case.with(fault, Truth::Finding("punted"), Nothing));
    }
    let rare = ["-c 4 -l 64 --rate 300", "-c 3 -l 200 --rate 200"][half];
    let fault = "a polling kernel thread that sleeps (SQPOLL)";
    all.push(ring("--sqpoll=1ms", rare).with(fault, Truth::Hidden("kernel"), Nothing));
    all
}

fn of_loops(half: usize) -> Vec<Case> {
    let mut all = Vec::new();
    for model in LOOPS {
        let slow = Case::new(model, SLOW[half], LOADS[half]);
        let fault = "a protocol that computes for 8 or 20 ms";
        all.push(slow.with(fault, Truth::Finding("stalls"), Nothing));
        let limited = Case::new(model, "", LOADS[half]);
        all.push(limited.with("a CPU quota", Truth::Finding("no-cpu"), Quota([20, 35][half])));
    }
    all
}

fn of_threads(half: usize) -> Vec<Case> {
    let mut all = Vec::new();
    let stops = |model, times, millis, load| {
        let stops = Stops(times, Duration::from_millis(millis));
        let case = Case::new(model, "", load).and(&["no-cpu"]);
        match model {
            "process" => {
                case.with("SIGSTOP of a parent of processes", Truth::Hidden("threads"), stops)
            }
            _ => case.with("SIGSTOP for 20 to 50 ms", Truth::Finding("stopped"), stops),
        }
    };
    for model in LOOPS.into_iter().chain(THREADS) {
        let load =
            if model == ONE_AT_A_TIME { ONE[half] } else { ["-c 32 -l 64", "-c 20 -l 300"][half] };
        all.push(stops(model, [4, 5][half], [50, 20][half], load));
    }
    if half == 0 {
        // It was missed in the other half once.
        all.push(stops("thread", 3, 30, "-c 16 -l 512"));
    }
    for model in THREADS {
        let load = load_of(model, half);
        let (limited, slow) = (Case::new(model, "", load), Case::new(model, SLOW[half], load));
        let fault = "a CPU quota, threads or processes";
        let case = limited.and(&["stalls"]);
        all.push(case.with(fault, Truth::Hidden("threads"), Quota([20, 35][half])));
        let fault = "a protocol that computes, threads or processes";
        all.push(slow.with(fault, Truth::Hidden("threads"), Nothing));
    }
    all
}

fn of_clients(half: usize) -> Vec<Case> {
    let mut all = Vec::new();
    for model in ["epoll", "poll", "coroutine", "thread"] {
        let case = Case::new(model, "", LOADS[half]).and(&["errors"]);
        let fault = "no descriptor for a connection";
        let spare = Descriptors([4, 9][half]);
        all.push(case.with(fault, Truth::Finding("accepts-refused"), spare));
    }
    for model in ["uring", "epoll", "thread"] {
        let load = ["-c 9 -l 64 --rate 900", "-c 12 -l 100 --rate 600"][half];
        let fault = "one connection has the bytes (a note)";
        all.push(Case::new(model, "", load).with(fault, Truth::Finding("one-heavy"), Heavy));
    }
    for model in ["uring", "epoll", "coroutine"] {
        let load = ["-c 4 -l 64 -t 1700ms", "-c 6 -l 100 -t 1900ms"][half];
        let fault = "clients that end and do not read";
        all.push(Case::new(model, "", load).with(fault, Truth::Finding("never-closed"), Unread));
    }
    all
}

fn of_operations(half: usize) -> Vec<Case> {
    let mut all = Vec::new();
    for model in ["uring", "epoll", "thread"] {
        let fault = "an operation fails (recorded so)";
        all.push(Case::new(model, "", LOADS[half]).with(fault, Truth::Finding("errors"), Error));
    }
    let (fault, leak) = ("a leaked operation (recorded so)", Case::new("uring", "", LOADS[half]));
    all.push(leak.with(fault, Truth::Finding("out-of-order"), Leak));
    all
}
