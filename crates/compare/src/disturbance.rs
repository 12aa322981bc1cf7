//! What disturbed a block: causes that no model can influence.
//!
//! A block is void only for such a cause, which is found before any ratio is computed: to leave out
//! what looks wrong would make differences of what is left. So the CPU time of the kernel's own
//! threads is no cause, because a server may be what they work for.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use minijinja::context;

use proactor::clock::Nanos;
use proactor::os::procfs;
use proactor::os::{self, cgroup};
use proactor_report::template;

/// A larger share of the two CPUs' time that the host, or other programs, took makes a block void.
const TAKEN_MAX: f64 = 0.02;
/// A client that was off its CPU for a larger share of the slices makes a block void.
const CLIENT_OFF_MAX: f64 = 0.05;
/// The ticks of `/proc` in a second, on every architecture of today.
const TICKS: f64 = 100.0;
/// Of the flags in `/proc/PID/stat`: a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The state of the machine at one moment.
#[derive(Debug, Clone)]
pub(crate) struct HostState {
    at: Nanos,
    cpus: Vec<usize>,
    steal: Option<Steal>,
    /// How often a quota has stopped the groups of this process.
    throttled: u64,
    /// The CPU time in ticks of each program outside the comparison that last ran on these CPUs.
    others: HashMap<u32, Other>,
}

/// A program outside the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    name: String,
    ticks: u64,
}

/// What happened between two states.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Disturbance {
    /// The share of the CPUs' time that the host took.
    pub(crate) steal: Option<f64>,
    /// How often a quota stopped this process or its servers.
    throttled: u64,
    /// The share of the CPUs' time that other programs used, and the name of the first of them.
    others: (f64, String),
}

impl HostState {
    /// Reads the state of the CPUs of the servers and the client. This reads a file for each
    /// process of the machine, so it must not be called during a slice.
    pub(crate) fn read(cpus: &[usize]) -> HostState {
        let stat = fs::read_to_string("/proc/stat").ok();
        let throttled = cgroup::values("cpu", "cpu.stat", "cpu.stat").into_iter();
        HostState {
            at: os::now(),
            cpus: cpus.to_vec(),
            steal: stat.and_then(|stat| Steal::parse(&stat, cpus)),
            throttled: throttled
                .filter_map(|(_, text)| procfs::number(&text, "nr_throttled"))
                .sum(),
            others: others(cpus),
        }
    }

    /// Returns what happened since an earlier state.
    pub(crate) fn since(&self, earlier: &HostState) -> Disturbance {
        let wall = self.at.since(earlier.at).as_secs_f64().max(1e-9) * self.cpus.len() as f64;
        let used = self.others.iter().map(|(pid, now)| {
            let before = earlier.others.get(pid).map_or(0, |other| other.ticks);
            (now.ticks.saturating_sub(before), &now.name)
        });
        let all: u64 = used.clone().map(|(ticks, _)| ticks).sum();
        let first = used.max().map(|(_, name)| name.clone()).unwrap_or_default();
        Disturbance {
            steal: self.steal.zip(earlier.steal).and_then(|(now, before)| now.since(before)),
            throttled: self.throttled.saturating_sub(earlier.throttled),
            others: (all as f64 / TICKS / wall, first),
        }
    }
}

impl Disturbance {
    /// Returns why a block does not count, if it does not. The client was on its CPU for `on` of
    /// the `wall` time of the slices.
    pub(crate) fn cause(&self, on: Duration, wall: Duration) -> Option<String> {
        let off = 1.0 - on.as_secs_f64() / wall.as_secs_f64().max(1e-9);
        let values = context! {
            steal => self.steal.filter(|&share| share > TAKEN_MAX),
            throttled => self.throttled,
            others => Some(self.others.0).filter(|&share| share > TAKEN_MAX),
            name => self.others.1,
            off => Some(off).filter(|&share| share > CLIENT_OFF_MAX),
        };
        let causes = template::fill(include_str!("disturbance.txt"), values);
        causes.lines().next().map(str::to_owned)
    }
}

/// The time of some CPUs that the host took from this virtual machine, and the total, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steal {
    stolen: u64,
    all: u64,
}

impl Steal {
    /// Parses the lines `cpuN user nice system idle iowait irq softirq steal …` of these CPUs. The
    /// fields after `steal` are included in `user` and `nice`.
    fn parse(stat: &str, cpus: &[usize]) -> Option<Steal> {
        let mut sum = Steal { stolen: 0, all: 0 };
        for cpu in cpus {
            let fields = stat.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")))?;
            let ticks = fields.split_whitespace().map_while(|tick| tick.parse::<u64>().ok());
            let ticks: Vec<u64> = ticks.collect();
            sum.stolen += ticks.get(7)?;
            sum.all += ticks[..8].iter().sum::<u64>();
        }
        Some(sum)
    }

    /// Returns the share since `earlier`, or `None` if no time has passed.
    fn since(self, earlier: Steal) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        Some(self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64)
    }
}

/// Returns the programs that last ran on one of these CPUs: neither this process, nor one that it
/// has started, nor a thread of the kernel. Nothing is known of processes that `/proc` hides.
fn others(cpus: &[usize]) -> HashMap<u32, Other> {
    let own = fs::read_link("/proc/self").ok().and_then(|own| own.to_str()?.parse::<u32>().ok());
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, ProgramStat::parse(&text)?))
    };
    let all: HashMap<u32, ProgramStat> = pids.filter_map(read).collect();
    let is_ours = |pid: u32| {
        let parent = |pid: &u32| all.get(pid).map(|stat| stat.parent).filter(|&up| up != 0);
        std::iter::successors(Some(pid), parent).any(|pid| Some(pid) == own)
    };
    let is_other = |(pid, stat): &(&u32, &ProgramStat)| {
        !stat.is_kernel && cpus.contains(&stat.cpu) && !is_ours(**pid)
    };
    let found = all.iter().filter(is_other);
    found.map(|(&pid, stat)| (pid, Other { name: stat.name.clone(), ticks: stat.ticks })).collect()
}

/// The fields of `/proc/PID/stat` (proc_pid_stat(5)) that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProgramStat {
    name: String,
    parent: u32,
    is_kernel: bool,
    ticks: u64,
    cpu: usize,
}

impl ProgramStat {
    /// Parses a line. The name, in parentheses, may contain spaces and parentheses.
    fn parse(stat: &str) -> Option<ProgramStat> {
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first field after the name is number 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(ProgramStat {
            name: head.split_once('(')?.1.to_owned(),
            parent: number(4)? as u32,
            is_kernel: number(9)? & PF_KTHREAD != 0,
            ticks: number(14)? + number(15)?,
            cpu: number(39)? as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn steal_is_the_share_of_the_host_in_the_ticks_of_both_cpus() {
        let at = |text| Steal::parse(text, &[0, 2]).expect("a line for each");
        let before =
            at("cpu  9 9 9 9\ncpu0 100 0 50 800 10 0 5 35 7 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n");
        let after = at("cpu0 150 0 80 810 10 0 5 45 9 0\ncpu2 0 0 0 100 0 0 0 0 0 0\n");
        assert_eq!(after.since(before), Some(0.05));
        assert_eq!(before.since(before), None);
        assert_eq!(Steal::parse("cpu0 1 2 3", &[0]), None, "old kernels have fewer fields");
        assert_eq!(Steal::parse("cpu0 1 2 3 4 5 6 7 8", &[1]), None);
    }

    #[test]
    fn a_line_of_a_process_has_its_cpu_and_whether_it_is_of_the_kernel() {
        let line = |flags: u64| {
            let after = "0 20 0 1 0 9 5 6 1 2 3 4 5 6 0 0 0 0 0 0 0 17 1 0 0";
            format!("7 (a) (b) S 3 7 7 0 -1 {flags} 1 0 0 0 250 50 0 {after}")
        };
        let stat = ProgramStat::parse(&line(0x0040_0100)).expect("a line");
        let expected = ProgramStat {
            name: "a) (b".to_owned(),
            parent: 3,
            is_kernel: false,
            ticks: 300,
            cpu: 1,
        };
        assert_eq!(stat, expected);
        assert!(ProgramStat::parse(&line(0x0020_8040)).expect("a line").is_kernel);
        assert_eq!(ProgramStat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_program_outside_the_comparison_is_seen_and_its_own_children_are_not() {
        let cpus = os::usable_cpus();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("a program");
        let pids = others(&cpus);
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        assert!(!pids.contains_key(&std::process::id()) && !pids.contains_key(&child.id()));
        assert!(!pids.values().any(|other| other.name.starts_with("kworker")), "{pids:?}");
    }

    fn state(seconds: u64, throttled: u64, ticks: u64) -> HostState {
        let other = Other { name: "make".to_owned(), ticks };
        HostState {
            at: Nanos(seconds * 1_000_000_000),
            cpus: vec![0, 1],
            steal: Some(Steal { stolen: ticks / 10, all: 200 * seconds }),
            throttled,
            others: HashMap::from([(7, other)]),
        }
    }

    #[test]
    fn each_cause_makes_a_block_void_and_names_itself() {
        let cause = |later: HostState, on| later.since(&state(1, 3, 0)).cause(on, SECOND);
        assert_eq!(cause(state(2, 3, 0), SECOND), None);
        assert_eq!(cause(state(2, 3, 4), SECOND), None, "2 % of two CPUs are permitted");
        let says = |later, on| cause(later, on).expect("a cause");
        assert!(says(state(2, 3, 9), SECOND).contains("`make`"));
        assert!(says(state(2, 3, 200), SECOND).starts_with("the host took 10 %"));
        assert!(says(state(2, 4, 0), SECOND).contains("quota"));
        let off = says(state(2, 3, 0), SECOND * 9 / 10);
        assert!(off.contains("client") && off.contains("10 %"), "{off}");
    }

    #[test]
    fn this_machine_can_be_read() {
        let (before, after) = (HostState::read(&[0]), HostState::read(&[0]));
        assert!(before.steal.is_some(), "{before:?}");
        let _ = after.since(&before).cause(SECOND, SECOND);
    }
}
