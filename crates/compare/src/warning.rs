//! What makes the numbers of a comparison doubtful, displayed with advice.

use std::fmt;

use serde::{Serialize, Serializer};

use proactor_report::stats::VALUES_MIN;
use proactor_report::units::{agree, percent, plural};

/// A warning. In JSON it is its text.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// Client and servers share one CPU.
    OneCpu,
    /// No CPU is left for other programs.
    TwoCpus,
    /// The CPU frequency is not constant.
    Governor(String),
    /// The share of the last ten seconds in which a task waited for a CPU.
    CpuPressure(f64),
    /// The client cannot use io_uring.
    ClientFallback {
        /// The error of the setup.
        error: String,
    },
    /// A server had another number of processes at its end.
    ProcessesChanged {
        /// The name of the participant.
        name: String,
        /// The number of processes after the warm-up.
        processes: usize,
    },
    /// A server did not close its connections.
    NotClosed {
        /// The name of the participant.
        name: String,
        /// The error of the client.
        error: String,
    },
    /// A server did not report its counters.
    NoCounters {
        /// The name of the participant.
        name: String,
        /// The reason of the server's end.
        error: String,
    },
    /// The comparison was interrupted.
    Interrupted,
    /// A warning about one table.
    Table {
        /// The connections of the table's load.
        connections: usize,
        /// The warning about it.
        warning: TableWarning,
    },
}

/// A warning about one table. The lists are the names of participants.
#[derive(Debug, Clone, PartialEq)]
pub enum TableWarning {
    /// There are too few rounds for a verdict.
    FewRounds(usize),
    /// These participants have too few rounds for a verdict.
    FewRoundsOf(Vec<String>),
    /// The noise floor of the rate is high.
    NoiseFloor(f64),
    /// The host took so much CPU time, more than this share, that no verdict is valid.
    Disturbed(f64),
    /// The host took this share of the CPU time.
    Steal(f64),
    /// Another program used the CPU of these servers.
    CpuContention(Vec<String>),
    /// The client did not keep these servers busy.
    ClientBound {
        /// The names of the participants.
        names: Vec<String>,
        /// True if another engine of the client would be faster.
        has_faster_engine: bool,
    },
    /// These servers use CPU time while they are idle.
    Spinning(Vec<String>),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::OneCpu => f.write_str(
                "only one CPU is usable, and the client shares it with the servers: rates mean \
                 little here. Use two CPUs.",
            ),
            Warning::TwoCpus => f.write_str(
                "there are two CPUs, one for the servers and one for the client: every other \
                 program affects the numbers.",
            ),
            Warning::Governor(governor) => write!(
                f,
                "the CPU governor is `{governor}`: the CPU frequency follows the load. Set \
                 `performance` for steadier numbers."
            ),
            Warning::CpuPressure(share) => write!(
                f,
                "in {} of the last ten seconds a task waited for a CPU: this machine is not idle.",
                percent(*share)
            ),
            Warning::ClientFallback { error } => write!(
                f,
                "io_uring does not work for the client ({error}): it used epoll, whose maximum \
                 rate is lower."
            ),
            Warning::ProcessesChanged { name, processes } => write!(
                f,
                "{name} had {processes} {} at first and another number at its end: the CPU time \
                 of some is not counted.",
                agree(*processes as u64, "process", "processes")
            ),
            Warning::NotClosed { name, error } => write!(f, "{name}: {error}"),
            Warning::NoCounters { name, error } => write!(
                f,
                "{name} did not report its counters, so its system calls are unknown: {error}"
            ),
            Warning::Interrupted => {
                f.write_str("interrupted: the results are what was measured until then.")
            }
            Warning::Table { connections, warning } => {
                write!(f, "at {} {warning}", plural(*connections as u64, "connection"))
            }
        }
    }
}

impl fmt::Display for TableWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableWarning::FewRounds(rounds) => write!(
                f,
                "there {} {}; a verdict needs {VALUES_MIN}. Use more --time or --rounds.",
                agree(*rounds as u64, "is", "are"),
                plural(*rounds as u64, "round")
            ),
            TableWarning::FewRoundsOf(names) => write!(
                f,
                "there were fewer than {VALUES_MIN} rounds of {}, which therefore have no verdict. \
                 Use more --time or --rounds.",
                names.join(", ")
            ),
            TableWarning::NoiseFloor(floor) => write!(
                f,
                "the baseline differs from itself by up to {}: smaller differences of msg/s cannot \
                 be found. Use a quieter machine, or more --time.",
                percent(*floor)
            ),
            TableWarning::Disturbed(limit) => write!(
                f,
                "the host took more than {} of the CPU time in over a quarter of the rounds: no \
                 verdict is valid. Repeat the run when the host is idle.",
                percent(*limit)
            ),
            TableWarning::Steal(share) => write!(
                f,
                "the host took {} of the CPU time: expect wide intervals.",
                percent(*share)
            ),
            TableWarning::CpuContention(names) => write!(
                f,
                "another program used the CPU of busy servers ({}): their msg/s are too low. Stop \
                 other programs.",
                names.join(", ")
            ),
            TableWarning::ClientBound { names, has_faster_engine } => write!(
                f,
                "the client did not keep all servers busy ({}): their msg/s, marked ≥, are those \
                 of the client, and only CPU per message is compared. Use more --connections{}.",
                names.join(", "),
                if *has_faster_engine { ", or --engine uring" } else { "" }
            ),
            TableWarning::Spinning(names) => write!(
                f,
                "{} used CPU time while idle, which adds to its own CPU per message. A server that \
                 does so from the start is stopped during the slices of the others.",
                names.join(", ")
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
