//! All of a server: its process and those that it has forked, as `/proc` tells of them.
//!
//! The clock of a process counts its threads and not its children. A server that forks one for
//! each connection does nearly all of its work in them: without them it would look like a miracle.

use std::fs;
use std::io;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

use proactor::os::CpuClock;

/// A process and its descendants, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The root first, parents before their children.
    pids: Vec<u32>,
    /// Threads of all of them.
    threads: usize,
}

impl Family {
    /// That of `root`, now. It costs a file for each thread, so it is asked outside of what is
    /// measured.
    ///
    /// # Errors
    /// The process is no more. A child that ends meanwhile is no error: it is not in it.
    pub fn of(root: u32) -> io::Result<Family> {
        // Built into most kernels since 4.2 (CONFIG_PROC_CHILDREN, proc(5)).
        let told = Path::new("/proc/thread-self/children").exists();
        Family::collect(root, if told { Kin::Told } else { Kin::Sought(parents()?) })
    }

    fn collect(root: u32, kin: Kin) -> io::Result<Family> {
        let mut family = Family { pids: vec![root], threads: 0 };
        let mut at = 0;
        while let Some(&pid) = family.pids.get(at) {
            match kin.children(pid) {
                Ok((threads, children)) => {
                    family.threads += threads;
                    family.pids.extend(children);
                    at += 1;
                }
                Err(error) if pid == root => return Err(error),
                Err(_) => drop(family.pids.remove(at)),
            }
        }
        Ok(family)
    }

    /// Their numbers, the root's first.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// How many processes there are, the root among them.
    pub fn processes(&self) -> usize {
        self.pids.len()
    }

    /// The CPU clocks of all.
    ///
    /// # Errors
    /// One of them is no more.
    pub fn clocks(&self) -> io::Result<Clocks> {
        self.pids
            .iter()
            .map(|&pid| CpuClock::of_process(pid))
            .collect::<io::Result<_>>()
            .map(Clocks)
    }

    /// For how long the root was ready to run while something *else* had the CPU. `None` where the
    /// kernel does not tell, and of more than one thread: those wait for each other too, and nobody
    /// tells the one from the other.
    pub fn waited(&self) -> Option<Duration> {
        if self.threads != 1 {
            return None;
        }
        parse_waited(&fs::read_to_string(format!("/proc/{}/schedstat", self.pids[0])).ok()?)
    }

    /// What it holds of the machine's memory and tables.
    ///
    /// # Errors
    /// One of them is no more, or the kernel does not tell (`smaps_rollup`: Linux 4.14).
    pub fn footprint(&self) -> io::Result<Footprint> {
        let mut sum = Footprint::default();
        for pid in &self.pids {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let (maps, status) = (read("smaps_rollup")?, read("status")?);
            sum.memory += parse_number(&maps, "Pss:").unwrap_or(0) * 1024;
            sum.page_tables += parse_number(&status, "VmPTE:").unwrap_or(0) * 1024;
            sum.threads += parse_number(&status, "Threads:").unwrap_or(0);
            sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
            sum.processes += 1;
        }
        Ok(sum)
    }
}

/// The CPU clocks of a family.
#[derive(Debug, Clone)]
pub struct Clocks(Vec<CpuClock>);

impl Clocks {
    /// How much CPU time all of them have used.
    ///
    /// # Errors
    /// One of them has ended and was waited for.
    pub fn read(&self) -> io::Result<Duration> {
        self.0.iter().map(|clock| clock.read()).sum()
    }
}

/// What a server holds, all its processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Proportional set size in bytes: a page that n processes share counts 1/n for each.
    pub memory: u64,
    /// Bytes of page tables.
    pub page_tables: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Processes.
    pub processes: u64,
}

/// From where it is known who is whose child.
enum Kin {
    /// From each thread's own list, `/proc/PID/task/TID/children`.
    Told,
    /// Where the kernel has no such lists: from everybody's parent.
    Sought(Vec<(u32, u32)>),
}

impl Kin {
    /// How many threads a process has, and the children of all of them.
    fn children(&self, pid: u32) -> io::Result<(usize, Vec<u32>)> {
        let (mut threads, mut pids) = (0, Vec::new());
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads += 1;
            if let Kin::Told = self {
                // A thread that has ended meanwhile has none.
                let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        if let Kin::Sought(parents) = self {
            let own = parents.iter().filter(|(_, parent)| *parent == pid);
            pids.extend(own.map(|(child, _)| *child));
        }
        Ok((threads, pids))
    }
}

/// Every process and its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent =
        |pid: &u32| parse_number(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "PPid:");
    Ok(pids.filter_map(|pid| Some((pid, parent(&pid)? as u32))).collect())
}

/// Reads `on-CPU-ns waited-ns slices`.
fn parse_waited(schedstat: &str) -> Option<Duration> {
    let nanos = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The number behind `key` at the beginning of a line.
fn parse_number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What `self` has more than `earlier`; in each respect zero if it has less.
impl Sub for Footprint {
    type Output = Footprint;

    fn sub(self, earlier: Footprint) -> Footprint {
        Footprint {
            memory: self.memory.saturating_sub(earlier.memory),
            page_tables: self.page_tables.saturating_sub(earlier.page_tables),
            descriptors: self.descriptors.saturating_sub(earlier.descriptors),
            threads: self.threads.saturating_sub(earlier.threads),
            processes: self.processes.saturating_sub(earlier.processes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;
    use proactor::os::{self, Order};

    /// A shell, and all that it starts; ended with the test.
    struct Shell(Child);

    impl Shell {
        fn run(script: &str) -> Shell {
            use std::os::unix::process::CommandExt;
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).process_group(0).stdout(Stdio::null());
            Shell(command.spawn().expect("a shell"))
        }

        /// Its family, once it has so many members.
        fn family(&self, members: usize) -> Family {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let family = Family::of(self.0.id()).expect("it runs");
                if family.processes() == members {
                    return family;
                }
                assert!(Instant::now() < deadline, "it has {} members", family.processes());
                std::thread::yield_now();
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = os::order_group(&mut self.0, Order::Kill);
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_cpu_time_of_children_and_their_children_is_counted() {
        // The shell sleeps; its child sleeps too; its child's child burns.
        let shell = Shell::run("( ( while :; do :; done ) & wait ) & wait");
        let family = shell.family(3);
        let (all, own) = (family.clocks().expect("all run"), CpuClock::of_process(shell.0.id()));
        let own = own.expect("it runs");
        let much = Duration::from_millis(50);
        let deadline = Instant::now() + Duration::from_secs(20);
        while all.read().expect("all run") < own.read().expect("it runs") + much {
            assert!(Instant::now() < deadline, "the child that burns is not counted");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_group_that_is_paused_uses_no_cpu() {
        let mut shell = Shell::run("( while :; do :; done ) & wait");
        let clocks = shell.family(2).clocks().expect("both run");
        os::order_group(&mut shell.0, Order::Pause).expect("it runs");
        // It stops a little later: then two looks, far apart for a CPU, are the same.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let before = clocks.read().expect("they are there");
            (0..2000).for_each(|_| std::thread::yield_now());
            if clocks.read().expect("they are there") == before {
                break;
            }
            assert!(Instant::now() < deadline, "it was paused and goes on");
        }
        let before = clocks.read().expect("they are there");
        os::order_group(&mut shell.0, Order::Resume).expect("it is there");
        while clocks.read().expect("they are there") == before {
            assert!(Instant::now() < deadline, "it was resumed and stands still");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_family_is_the_same_however_it_is_found() {
        let shell = Shell::run("( sleep 100 & sleep 100 & wait ) & wait");
        let told = shell.family(4);
        let sought = Family::collect(shell.0.id(), Kin::Sought(parents().expect("procfs")));
        let sorted = |family: Family| {
            let mut pids = family.pids;
            pids.sort_unstable();
            pids
        };
        assert_eq!(sorted(sought.expect("it runs")), sorted(told));
    }

    #[test]
    fn what_a_family_holds_is_the_sum_of_its_members() {
        let shell = Shell::run("sleep 100 & sleep 100 & wait");
        let one = Shell::run("read x < /dev/zero");
        let (three, one) = (shell.family(3).footprint(), one.family(1).footprint());
        let (three, one) = (three.expect("all run"), one.expect("it runs"));
        assert_eq!((three.processes, three.threads), (3, 3));
        assert_eq!((one.processes, one.threads), (1, 1));
        assert!(three.memory > 0 && three.page_tables > one.page_tables, "{three:?} {one:?}");
        assert!(three.descriptors >= 9, "{three:?}");
        assert_eq!((three - three), Footprint::default());
    }

    #[test]
    fn the_time_it_waited_for_a_cpu_is_in_schedstat() {
        assert_eq!(parse_waited("123 4567 89\n"), Some(Duration::from_nanos(4567)));
        assert_eq!(parse_waited("123"), None);
    }

    #[test]
    fn waiting_for_its_own_threads_is_not_waiting_for_others() {
        let shell = Shell::run("sleep 100 & wait");
        assert_eq!(shell.family(2).waited(), None);
    }

    #[test]
    fn a_process_that_is_no_more_has_no_family() {
        assert!(Family::of(u32::MAX).is_err());
    }
}
