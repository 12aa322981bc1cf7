//! A process and its descendants, as `/proc` shows them.
//!
//! The CPU clock of a process counts its threads, but not its children. A server that forks a child
//! for each connection does nearly all of its work in the children.

use std::fs;
use std::io;
use std::ops::Sub;
use std::path::Path;
use std::time::Duration;

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

    /// Returns the number of processes, including the root.
    pub(crate) fn processes(&self) -> usize {
        self.pids.len()
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
            sum.memory += parse_number(&maps, "Pss:").unwrap_or(0) * 1024;
            sum.page_tables += parse_number(&status, "VmPTE:").unwrap_or(0) * 1024;
            sum.threads += parse_number(&status, "Threads:").unwrap_or(0);
            sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
            sum.processes += 1;
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

/// The memory and the kernel objects of a process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// The proportional set size in bytes: a page that n processes share counts 1/n in each.
    pub(crate) memory: u64,
    /// The size of the page tables in bytes.
    pub(crate) page_tables: u64,
    /// The open file descriptors.
    pub(crate) descriptors: u64,
    /// The number of threads.
    pub(crate) threads: u64,
    /// The number of processes.
    pub(crate) processes: u64,
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

/// The difference to an earlier footprint; a smaller value counts as zero.
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
                if tree.processes() == processes {
                    return tree;
                }
                assert!(Instant::now() < deadline, "it has {} processes", tree.processes());
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
        assert_eq!((three.processes, three.threads), (3, 3));
        assert_eq!((one.processes, one.threads), (1, 1));
        assert!(three.memory > 0 && three.page_tables > one.page_tables, "{three:?} {one:?}");
        assert!(three.descriptors >= 9, "{three:?}");
        assert_eq!((three - three), Footprint::default());
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
