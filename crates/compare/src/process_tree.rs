//! A process and its descendants, as `/proc` shows them.
//!
//! The CPU clock of a process counts its threads, but not its children. A server that forks a child
//! for each connection does nearly all of its work in the children.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use proactor::os::CpuClock;

/// A process and its descendants at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessTree {
    /// The root is first, and parents precede their children.
    pub(crate) pids: Vec<u32>,
    /// The threads of all processes.
    threads: usize,
}

impl ProcessTree {
    /// Collects the current tree of `root`. This reads a file for each thread, so it must not be
    /// called during a slice.
    ///
    /// # Errors
    /// The root has ended. A child that ends during the call is left out.
    pub(crate) fn of(root: u32) -> io::Result<ProcessTree> {
        // In most kernels since 4.2 (CONFIG_PROC_CHILDREN, proc(5)).
        let listed = Path::new("/proc/thread-self/children").exists();
        ProcessTree::collect(
            root,
            if listed { ChildLookup::Listed } else { ChildLookup::Scanned(parents()?) },
        )
    }

    fn collect(root: u32, lookup: ChildLookup) -> io::Result<ProcessTree> {
        let mut tree = ProcessTree { pids: vec![root], threads: 0 };
        let mut at = 0;
        while let Some(&pid) = tree.pids.get(at) {
            match lookup.children(pid) {
                Ok((threads, children)) => {
                    tree.threads += threads;
                    tree.pids.extend(children);
                    at += 1;
                }
                Err(error) if pid == root => return Err(error),
                Err(_) => drop(tree.pids.remove(at)),
            }
        }
        Ok(tree)
    }

    /// Returns the CPU clocks of all processes.
    ///
    /// # Errors
    /// A process has ended.
    pub(crate) fn clocks(&self) -> io::Result<CpuClocks> {
        self.pids
            .iter()
            .map(|&pid| CpuClock::of_process(pid))
            .collect::<io::Result<_>>()
            .map(CpuClocks)
    }

    /// Returns how long the root was runnable while another process had its CPU. Returns `None` if
    /// the kernel does not report it, and for more than one thread: the threads also wait for each
    /// other, which the counter does not distinguish.
    pub(crate) fn waited(&self) -> Option<Duration> {
        if self.threads != 1 {
            return None;
        }
        parse_waited(&fs::read_to_string(format!("/proc/{}/schedstat", self.pids[0])).ok()?)
    }

    /// Returns the memory and the kernel objects of all processes.
    ///
    /// # Errors
    /// A process has ended, or the kernel has no `smaps_rollup` (before Linux 4.14).
    pub(crate) fn footprint(&self) -> io::Result<Footprint> {
        let mut sum = Footprint::default();
        for pid in &self.pids {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let (maps, status) = (read("smaps_rollup")?, read("status")?);
            let number = |text, key| parse_number(text, key).unwrap_or(0) as f64;
            sum.memory += number(&maps, "Pss:") * 1024.0;
            sum.page_tables += number(&status, "VmPTE:") * 1024.0;
            sum.threads += number(&status, "Threads:");
            sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64;
            sum.processes += 1.0;
        }
        Ok(sum)
    }
}

/// The CPU clocks of a process tree.
#[derive(Debug, Clone)]
pub(crate) struct CpuClocks(Vec<CpuClock>);

impl CpuClocks {
    /// Returns the sum of all clocks.
    ///
    /// # Errors
    /// A process has ended and was reaped.
    pub(crate) fn read(&self) -> io::Result<Duration> {
        self.0.iter().map(|clock| clock.read()).sum()
    }
}

/// The memory and the kernel objects of a process tree, or the part of one connection in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Footprint {
    /// Bytes of memory: the proportional set size, in which a page that n processes share counts
    /// 1/n in each.
    pub memory: f64,
    /// Bytes of page tables, which belong to the kernel.
    pub page_tables: f64,
    /// The open file descriptors.
    pub descriptors: f64,
    /// The number of threads.
    pub threads: f64,
    /// The number of processes.
    pub processes: f64,
}

impl Footprint {
    /// Returns the growth from `self` to `later`, for each of the `connections` that were opened
    /// between. A smaller value counts as no growth.
    pub(crate) fn growth(self, later: Footprint, connections: usize) -> Footprint {
        let each = |from: f64, to: f64| (to - from).max(0.0) / connections as f64;
        Footprint {
            memory: each(self.memory, later.memory),
            page_tables: each(self.page_tables, later.page_tables),
            descriptors: each(self.descriptors, later.descriptors),
            threads: each(self.threads, later.threads),
            processes: each(self.processes, later.processes),
        }
    }
}

/// How the children of a process are found.
enum ChildLookup {
    /// The kernel lists them in `/proc/PID/task/TID/children`.
    Listed,
    /// By a list of all processes with their parents, if the kernel has no such files.
    Scanned(Vec<(u32, u32)>),
}

impl ChildLookup {
    /// Returns the number of threads of a process, and the children of all threads.
    fn children(&self, pid: u32) -> io::Result<(usize, Vec<u32>)> {
        let (mut threads, mut pids) = (0, Vec::new());
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads += 1;
            if let ChildLookup::Listed = self {
                // A thread that has just ended has no children.
                let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        if let ChildLookup::Scanned(parents) = self {
            let own = parents.iter().filter(|(_, parent)| *parent == pid);
            pids.extend(own.map(|(child, _)| *child));
        }
        Ok((threads, pids))
    }
}

/// Returns every process with its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent =
        |pid: &u32| parse_number(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "PPid:");
    Ok(pids.filter_map(|pid| Some((pid, parent(&pid)? as u32))).collect())
}

/// Parses `on-CPU-ns waited-ns slices`.
fn parse_waited(schedstat: &str) -> Option<Duration> {
    let nanos = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// Returns the number after `key` at the start of a line.
fn parse_number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;
    use proactor::os::{self, Order};

    /// A shell and its descendants, killed on drop.
    struct Shell(Child);

    impl Shell {
        fn run(script: &str) -> Shell {
            use std::os::unix::process::CommandExt;
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).process_group(0).stdout(Stdio::null());
            Shell(command.spawn().expect("a shell"))
        }

        /// Waits until the tree has this many processes.
        fn tree(&self, processes: usize) -> ProcessTree {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let tree = ProcessTree::of(self.0.id()).expect("it runs");
                if tree.pids.len() == processes {
                    return tree;
                }
                assert!(Instant::now() < deadline, "it has {} processes", tree.pids.len());
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
        // The shell and its child sleep; the child of the child uses a CPU.
        let shell = Shell::run("( ( while :; do :; done ) & wait ) & wait");
        let tree = shell.tree(3);
        let (all, own) = (tree.clocks().expect("all run"), CpuClock::of_process(shell.0.id()));
        let own = own.expect("it runs");
        let much = Duration::from_millis(50);
        let deadline = Instant::now() + Duration::from_secs(20);
        while all.read().expect("all run") < own.read().expect("it runs") + much {
            assert!(Instant::now() < deadline, "the busy child is not counted");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_paused_group_uses_no_cpu() {
        let mut shell = Shell::run("( while :; do :; done ) & wait");
        let clocks = shell.tree(2).clocks().expect("both run");
        os::order_group(&mut shell.0, Order::Pause).expect("it runs");
        // The group stops after a moment; then the clocks stand still.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let before = clocks.read().expect("both exist");
            (0..2000).for_each(|_| std::thread::yield_now());
            if clocks.read().expect("both exist") == before {
                break;
            }
            assert!(Instant::now() < deadline, "it still runs");
        }
        let before = clocks.read().expect("both exist");
        os::order_group(&mut shell.0, Order::Resume).expect("it exists");
        while clocks.read().expect("both exist") == before {
            assert!(Instant::now() < deadline, "it does not run again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn both_lookups_find_the_same_tree() {
        let shell = Shell::run("( sleep 100 & sleep 100 & wait ) & wait");
        let listed = shell.tree(4);
        let scanned =
            ProcessTree::collect(shell.0.id(), ChildLookup::Scanned(parents().expect("procfs")));
        let sorted = |tree: ProcessTree| {
            let mut pids = tree.pids;
            pids.sort_unstable();
            pids
        };
        assert_eq!(sorted(scanned.expect("it runs")), sorted(listed));
    }

    #[test]
    fn a_footprint_is_the_sum_over_all_processes() {
        let shell = Shell::run("sleep 100 & sleep 100 & wait");
        let one = Shell::run("read x < /dev/zero");
        let (three, one) = (shell.tree(3).footprint(), one.tree(1).footprint());
        let (three, one) = (three.expect("all run"), one.expect("it runs"));
        assert_eq!((three.processes, three.threads), (3.0, 3.0));
        assert_eq!((one.processes, one.threads), (1.0, 1.0));
        assert!(three.memory > 0.0 && three.page_tables > one.page_tables, "{three:?} {one:?}");
        assert!(three.descriptors >= 9.0, "{three:?}");
        assert_eq!(three.growth(three, 1), Footprint::default());
    }

    #[test]
    fn the_waiting_time_is_read_from_schedstat() {
        assert_eq!(parse_waited("123 4567 89\n"), Some(Duration::from_nanos(4567)));
        assert_eq!(parse_waited("123"), None);
    }

    #[test]
    fn waiting_for_its_own_threads_is_not_waiting_for_others() {
        let shell = Shell::run("sleep 100 & wait");
        assert_eq!(shell.tree(2).waited(), None);
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_tree() {
        assert!(ProcessTree::of(u32::MAX).is_err());
    }
}
