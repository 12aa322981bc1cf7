//! A process and its descendants, as `/proc` shows them.
//!
//! The CPU clock of a process counts its threads, but not its children. A server that forks a child
//! for each connection does nearly all of its work in the children.

use std::fs;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::process_stat::{CpuTicks, ProcessStat};
use proactor::os::{CpuClock, procfs};

/// A process by its two numbers, which differ in a PID namespace that has the `/proc` of an outer
/// one, as some containers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessNumbers {
    /// Its folder in `/proc`.
    pub(crate) folder: u32,
    /// Its number for system calls.
    pub(crate) id: u32,
}

/// A process and its descendants at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessTree {
    /// The root is first, and parents precede their children.
    pub(crate) pids: Vec<ProcessNumbers>,
    /// The threads of all processes.
    threads: u64,
}

impl ProcessTree {
    /// Collects the current tree of `root`: this process, or a child of it. This reads a file for
    /// each process of the machine, so it must not be called during a slice.
    ///
    /// # Errors
    /// The root has ended, or `/proc` cannot be read, or does not show it.
    pub(crate) fn of(root: u32) -> io::Result<ProcessTree> {
        // Most kernels also list the children of each thread (CONFIG_PROC_CHILDREN); each has this.
        let entries = fs::read_dir("/proc")?.flatten();
        let folders = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        // A process may have ended since.
        let all: Vec<ProcessStatus> = folders.filter_map(ProcessStatus::read).collect();
        let own = fs::read_link("/proc/self")?.to_str().and_then(|own| own.parse::<u32>().ok());
        let is_root = |it: &&ProcessStatus| match own == Some(std::process::id()) {
            true => it.numbers.folder == root,
            // Another namespace may have a process of the same number.
            false => {
                it.numbers.id == root && [it.parent, it.numbers.folder].map(Some).contains(&own)
            }
        };
        let root = all.iter().find(is_root).ok_or_else(|| {
            io::Error::other(format!("process {root} has ended, or this /proc does not show it"))
        })?;
        let mut tree = ProcessTree { pids: vec![root.numbers], threads: root.threads };
        let mut at = 0;
        while let Some(&ProcessNumbers { folder, .. }) = tree.pids.get(at) {
            for child in all.iter().filter(|it| it.parent == folder) {
                tree.pids.push(child.numbers);
                tree.threads += child.threads;
            }
            at += 1;
        }
        Ok(tree)
    }

    /// Returns the CPU clocks of all processes.
    ///
    /// # Errors
    /// A process has ended.
    pub(crate) fn clocks(&self) -> io::Result<CpuClocks> {
        let clocks = self.pids.iter().map(|pid| CpuClock::of_process(pid.id));
        Ok(CpuClocks(clocks.collect::<io::Result<_>>()?))
    }

    /// Returns how long the root was runnable while another process had its CPU. Returns `None` if
    /// the kernel does not report it, and for more than one thread: the threads also wait for each
    /// other, which the counter does not distinguish.
    pub(crate) fn waited(&self) -> Option<Duration> {
        if self.threads != 1 {
            return None;
        }
        parse_waited(&fs::read_to_string(format!("/proc/{}/schedstat", self.pids[0].folder)).ok()?)
    }

    /// Returns the CPU time of all processes in user mode and in the kernel, in ticks of the clock.
    /// Most kernels sample which of the two a process is in at each tick.
    pub(crate) fn ticks(&self) -> Option<CpuTicks> {
        let mut sum = CpuTicks::default();
        for pid in &self.pids {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.folder)).ok()?;
            sum += ProcessStat::parse(&stat)?.ticks;
        }
        Some(sum)
    }

    /// Returns the context switches of all threads, voluntary and not. Those of a thread that has
    /// ended are not among them.
    pub(crate) fn switches(&self) -> Option<u64> {
        let mut sum = 0;
        for pid in &self.pids {
            for task in fs::read_dir(format!("/proc/{}/task", pid.folder)).ok()?.flatten() {
                let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
                sum += procfs::number(&status, "voluntary_ctxt_switches:")?;
                sum += procfs::number(&status, "nonvoluntary_ctxt_switches:")?;
            }
        }
        Some(sum)
    }

    /// Returns the memory and the kernel objects of all processes.
    ///
    /// # Errors
    /// A process has ended, or the kernel has no `smaps_rollup` (before Linux 4.14).
    pub(crate) fn footprint(&self) -> io::Result<Footprint> {
        let machine = fs::read_to_string("/proc/meminfo")?;
        let kernel = ["SUnreclaim:", "KernelStack:"].map(|key| procfs::number(&machine, key));
        let kernel_memory = kernel.into_iter().flatten().sum::<u64>() as f64 * 1024.0;
        let mut sum = Footprint { kernel_memory, ..Footprint::default() };
        for pid in self.pids.iter().map(|pid| pid.folder) {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let (maps, status) = (read("smaps_rollup")?, read("status")?);
            let number = |text, key| procfs::number(text, key).unwrap_or(0) as f64;
            // The share of the program's files changes whenever another process maps them.
            sum.memory += (number(&maps, "Pss:") - number(&maps, "Pss_File:")) * 1024.0;
            sum.page_tables += number(&status, "VmPTE:") * 1024.0;
            sum.threads += number(&status, "Threads:");
            sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64;
            sum.processes += 1.0;
        }
        Ok(sum)
    }
}

/// What `/proc` says of a process.
struct ProcessStatus {
    numbers: ProcessNumbers,
    /// The folder of its parent.
    parent: u32,
    threads: u64,
}

impl ProcessStatus {
    fn read(folder: u32) -> Option<ProcessStatus> {
        let text = fs::read_to_string(format!("/proc/{folder}/status")).ok()?;
        // Its number in each namespace that it is in, the innermost last; since Linux 4.1.
        let id = procfs::field(&text, "NSpid:")
            .and_then(|all| all.split_whitespace().last()?.parse().ok());
        Some(ProcessStatus {
            numbers: ProcessNumbers { folder, id: id.unwrap_or(folder) },
            parent: procfs::number(&text, "PPid:").unwrap_or(0) as u32,
            threads: procfs::number(&text, "Threads:").unwrap_or(0),
        })
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
    /// Bytes of memory, without the pages of files: the proportional set size, in which a page that
    /// n processes share counts 1/n in each.
    pub memory: f64,
    /// Bytes of page tables, which belong to the kernel.
    pub page_tables: f64,
    /// Bytes of the kernel's memory, of the whole machine: slabs that cannot be reclaimed, and
    /// stacks. Its growth has the other ends of the connections in it.
    pub kernel_memory: f64,
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
            kernel_memory: each(self.kernel_memory, later.kernel_memory),
            descriptors: each(self.descriptors, later.descriptors),
            threads: each(self.threads, later.threads),
            processes: each(self.processes, later.processes),
        }
    }
}

/// Parses `on-CPU-ns waited-ns slices`.
fn parse_waited(schedstat: &str) -> Option<Duration> {
    let nanos = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
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
            command.args(["-c", script]).process_group(0).stdout(Stdio::piped());
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
            let _ = os::order(&mut self.0, Order::Kill);
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
        os::order(&mut shell.0, Order::Pause).expect("it runs");
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
        os::order(&mut shell.0, Order::Resume).expect("it exists");
        while clocks.read().expect("both exist") == before {
            assert!(Instant::now() < deadline, "it does not run again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_tree_has_the_processes_that_were_started() {
        let script = "sleep 100 & echo $!; sh -c 'sleep 100 & echo $!; wait' & echo $!; wait";
        let mut shell = Shell::run(script);
        let output = BufReader::new(shell.0.stdout.take().expect("it is piped"));
        let lines = output.lines().take(3).map(|line| line.expect("a line"));
        let mut started: Vec<u32> = lines.map(|line| line.parse().expect("a number")).collect();
        let ProcessTree { pids, threads } = shell.tree(4);
        let mut pids: Vec<u32> = pids.iter().map(|pid| pid.folder).collect();
        assert_eq!((pids[0], threads), (shell.0.id(), 4));
        pids[1..].sort_unstable();
        started.sort_unstable();
        assert_eq!(pids[1..], started);
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
        assert!(three.descriptors >= 9.0 && three.kernel_memory > 0.0, "{three:?}");
        assert_eq!(three.growth(three, 1), Footprint::default());
    }

    #[test]
    fn the_switches_of_all_threads_are_counted() {
        let mut own = ProcessTree::of(std::process::id()).expect("it runs");
        // The children that other tests start end at any time.
        own.pids.truncate(1);
        let before = own.switches().expect("a number of this process");
        std::thread::sleep(Duration::from_millis(1));
        assert!(own.switches().expect("a number of this process") > before);
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
