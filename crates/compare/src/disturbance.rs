//! What disturbed a block: causes that no model can influence.
//!
//! A block is void only for such a cause, which is found before any ratio is computed: to leave out
//! what looks wrong would make differences of what is left. So the CPU time of the kernel's own
//! threads is no cause, because a server may be what they work for.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use minijinja::context;

use crate::machine_cpu::TICKS_PER_SECOND;
use crate::process_stat::ProcessStat;
use proactor::clock::Nanos;
use proactor::os::procfs;
use proactor::os::{self, cgroup};
use proactor_report::template;

/// A larger share of the two CPUs' time that the host, or other programs, took makes a block void.
const TAKEN_MAX: f64 = 0.02;
/// A client that was off its CPU for a larger share of the slices makes a block void.
const CLIENT_OFF_MAX: f64 = 0.05;

/// The state of the machine at one moment.
#[derive(Debug, Clone)]
pub struct HostState {
    at: Nanos,
    cpus: Vec<usize>,
    steal: Option<Steal>,
    /// How often a quota has stopped the groups of this process.
    throttled: u64,
    /// The programs outside the comparison, by their process.
    others: HashMap<u32, ProcessStat>,
}

/// What happened between two states.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Disturbance {
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
    pub fn read(cpus: &[usize]) -> HostState {
        let stat = fs::read_to_string("/proc/stat").ok();
        let throttled = cgroup::values("cpu", "cpu.stat", "cpu.stat").into_iter();
        HostState {
            at: os::now(),
            cpus: cpus.to_vec(),
            steal: stat.and_then(|stat| Steal::parse(&stat, cpus)),
            throttled: throttled
                .filter_map(|(_, text)| procfs::number(&text, "nr_throttled"))
                .sum(),
            others: others(),
        }
    }

    /// Returns what happened since an earlier state.
    pub fn since(&self, earlier: &HostState) -> Disturbance {
        let wall = self.at.since(earlier.at).as_secs_f64().max(1e-9) * self.cpus.len() as f64;
        let here = self.others.iter().filter(|(_, now)| self.cpus.contains(&now.cpu));
        let used = here.map(|(pid, now)| {
            // Else it was started since.
            let before = earlier.others.get(pid).map_or(0, |other| other.ticks.all());
            (now.ticks.all().saturating_sub(before), &now.name)
        });
        let all: u64 = used.clone().map(|(ticks, _)| ticks).sum();
        let first = used.max().map(|(_, name)| name.clone()).unwrap_or_default();
        Disturbance {
            steal: self.steal.zip(earlier.steal).and_then(|(now, before)| now.since(before)),
            throttled: self.throttled.saturating_sub(earlier.throttled),
            others: (all as f64 / TICKS_PER_SECOND / wall, first),
        }
    }
}

impl Disturbance {
    /// Returns why a block does not count, if it does not. The client was on its CPU for `on` of
    /// the `wall` time of the slices.
    pub fn cause(&self, on: Duration, wall: Duration) -> Option<String> {
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

/// Returns all other programs: neither this process, nor one that it has started, nor a thread of
/// the kernel. Nothing is known of processes that `/proc` hides.
fn others() -> HashMap<u32, ProcessStat> {
    let own = fs::read_link("/proc/self").ok().and_then(|own| own.to_str()?.parse::<u32>().ok());
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, ProcessStat::parse(&text)?))
    };
    let mut all: HashMap<u32, ProcessStat> = pids.filter_map(read).collect();
    let is_ours = |pid: u32| {
        let parent = |pid: &u32| all.get(pid).map(|stat| stat.parent).filter(|&up| up != 0);
        std::iter::successors(Some(pid), parent).any(|pid| Some(pid) == own)
    };
    let ours: Vec<u32> = all.keys().copied().filter(|&pid| is_ours(pid)).collect();
    all.retain(|pid, stat| !stat.is_kernel && !ours.contains(pid));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_stat::CpuTicks;

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
    fn a_program_outside_the_comparison_is_seen_and_its_own_children_are_not() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("a program");
        let pids = others();
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        assert!(!pids.contains_key(&std::process::id()) && !pids.contains_key(&child.id()));
        assert!(!pids.values().any(|other| other.name.starts_with("kworker")), "{pids:?}");
    }

    #[test]
    fn of_a_program_that_comes_from_another_cpu_only_the_time_since_counts() {
        let mut before = state(1, 3, 0);
        before.others.insert(8, other("rustc", 7, 9000));
        let mut after = state(2, 3, 0);
        after.others.insert(8, other("rustc", 1, 9004));
        assert_eq!(after.since(&before).cause(SECOND, SECOND), None, "2 % of two CPUs");
        after.others.insert(9, other("cc", 7, 500));
        assert_eq!(after.since(&before).cause(SECOND, SECOND), None, "it runs elsewhere");
        after.others.insert(10, other("ld", 0, 50));
        let cause = after.since(&before).cause(SECOND, SECOND).expect("it was started since");
        assert!(cause.contains("`ld`"), "{cause}");
    }

    fn other(name: &str, cpu: usize, user: u64) -> ProcessStat {
        let ticks = CpuTicks { user, system: 0 };
        ProcessStat { name: name.to_owned(), parent: 1, is_kernel: false, cpu, ticks }
    }

    fn state(seconds: u64, throttled: u64, ticks: u64) -> HostState {
        HostState {
            at: Nanos(seconds * 1_000_000_000),
            cpus: vec![0, 1],
            steal: Some(Steal { stolen: ticks / 10, all: 200 * seconds }),
            throttled,
            others: HashMap::from([(7, other("make", 0, ticks))]),
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
