//! What `/proc` says of a process.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::eventually;

/// The resources of a process that it may forget to release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holdings {
    descriptors: usize,
    /// Without those that the kernel added.
    threads: usize,
    /// The children, zombies included.
    children: usize,
}

impl Holdings {
    /// Whether they are no more than those in any respect.
    pub(crate) fn at_most(self, those: Holdings) -> bool {
        self.descriptors <= those.descriptors
            && self.threads <= those.threads
            && self.children <= those.children
    }
}

/// The name of the thread, or child process, that writes the log.
const LOG_WRITER: &str = "log";

/// A process of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Whether it has ended and was not waited for; none if it is no more.
    pub(crate) fn is_zombie(self) -> Option<bool> {
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        Some(fields.starts_with('Z'))
    }

    /// How many descriptors it and its children have open.
    pub(crate) fn descriptors(self) -> usize {
        let count = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
        let own = count(self.0).expect("the server runs");
        // A child may have ended meanwhile.
        own + self.children().iter().filter_map(|child| count(child.0).ok()).sum::<usize>()
    }

    /// What it holds now.
    pub(crate) fn holdings(self) -> Holdings {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).expect("the server runs");
        // The kernel's own, which work for a ring, go when they like; that of the log comes so.
        let own = tasks.filter(|task| {
            let comm = task.as_ref().map(|task| fs::read_to_string(task.path().join("comm")));
            comm.is_ok_and(|comm| {
                comm.is_ok_and(|comm| !comm.starts_with("iou-") && comm.trim() != LOG_WRITER)
            })
        });
        let (threads, children) = (own.count(), self.children().len());
        Holdings { descriptors: self.descriptors(), threads, children }
    }

    /// Whether there is such a process, dead and not waited for included.
    pub(crate) fn exists(self) -> bool {
        fs::exists(format!("/proc/{}", self.0)).expect("/proc is readable")
    }

    /// The resident memory of it and its children in bytes; of what they share, each its share.
    pub(crate) fn resident(self) -> usize {
        let kib: usize = match &*self.children() {
            [] => kib(&self.status("VmRSS:")),
            children => {
                let all = children.iter().chain([&self]);
                let rollups = all.filter_map(|process| process.read("smaps_rollup"));
                let shares = rollups.filter_map(|rollup| field(&rollup, "Pss:").map(|at| kib(&at)));
                shares.sum()
            }
        };
        kib << 10
    }

    /// How many threads it has, those that the kernel added included.
    pub(crate) fn threads(self) -> usize {
        self.status("Threads:").parse().expect("a number")
    }

    /// Its children, those that have ended and were not waited for included; without the writer of
    /// the log.
    pub(crate) fn children(self) -> Vec<Process> {
        self.all_children().filter(|(_, name)| name != LOG_WRITER).map(|(child, _)| child).collect()
    }

    /// Waits until it has no more children than this, living or dead.
    pub(crate) fn eventually_children(self, count: usize) -> Vec<Process> {
        eventually(&format!("{count} children"), || {
            Some(self.children()).filter(|children| children.len() == count)
        })
    }

    /// Whether it has a child that writes the log.
    pub(crate) fn has_log_writer(self) -> bool {
        self.all_children().any(|(_, name)| name == LOG_WRITER)
    }

    fn all_children(self) -> impl Iterator<Item = (Process, String)> {
        let processes = fs::read_dir("/proc").expect("/proc is mounted");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(move |pid: u32| {
            // `pid (name) state parent …`; one that has just ended has no parent.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
            let is_child = rest.split(' ').nth(1) == Some(&*self.0.to_string());
            is_child.then(|| (Process(pid), name.to_owned()))
        })
    }

    /// Whether a signal has stopped it.
    pub(crate) fn is_stopped(self) -> bool {
        self.status("State:").starts_with('T')
    }

    /// The time that it has had a CPU, its children and those it has waited for included: to a
    /// hundredth of a second for each.
    pub(crate) fn cpu_time(self) -> Duration {
        let all = self.children();
        let children: u64 = all.iter().filter_map(|child| child.ticks(2)).sum();
        Duration::from_millis((self.ticks(4).expect("the server runs") + children) * 10)
    }

    /// The first of: ticks in user mode, in the kernel; the same of children waited for.
    fn ticks(self, first: usize) -> Option<u64> {
        let stat = self.read("stat")?;
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = fields.split(' ').skip(11).take(first);
        Some(ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum())
    }

    /// How often its main thread has gone to sleep.
    pub(crate) fn sleeps(self) -> u64 {
        self.status("voluntary_ctxt_switches:").parse().expect("a number")
    }

    /// The part of one CPU that it takes, over a third of a second. Time is what is observed here:
    /// this sleep waits for nothing.
    pub(crate) fn share_of_cpu(self) -> f64 {
        let (begin, before) = (Instant::now(), self.cpu_time());
        std::thread::sleep(Duration::from_millis(300));
        let used = self.cpu_time().saturating_sub(before); // A child may just be between the two.
        used.as_secs_f64() / begin.elapsed().as_secs_f64()
    }

    /// Fails if it is busy. What waits takes nothing; what spins takes whatever it is given, which
    /// is a third of a CPU at least while two tests and their servers share two.
    pub(crate) fn assert_idle(self, while_: &str) {
        let share = self.share_of_cpu();
        assert!(share < 0.2, "{while_}, the server takes {:.0}% of a CPU", share * 100.0);
    }

    /// Allows it no more than this many descriptors from now on.
    pub(crate) fn limit_descriptors(self, most: usize) {
        let pid = i32::try_from(self.0).expect("a pid is small");
        let limit = libc::rlimit { rlim_cur: most as u64, rlim_max: most as u64 };
        // SAFETY: prlimit(2) reads `limit` during the call and is given nothing to write to. The
        // pid is that of a child which its `Server` has not waited for.
        let answer =
            unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(answer, 0, "prlimit: {}", std::io::Error::last_os_error());
    }

    /// Shuts down its listening socket of this address, through a duplicate.
    ///
    /// # Errors
    /// This host lets no process take a descriptor of its child (pidfd_getfd(2)).
    pub(crate) fn shut_down_listener(self, address: SocketAddr) -> std::io::Result<()> {
        let owned = |fd: libc::c_long| match fd {
            -1 => Err(std::io::Error::last_os_error()),
            // SAFETY: the kernel has just given us this descriptor.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        };
        // SAFETY: pidfd_open(2) touches no memory of ours.
        let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, self.0, 0) })?;
        let files = fs::read_dir(format!("/proc/{}/fd", self.0)).expect("the server runs");
        let numbers = files.filter_map(|file| file.ok()?.file_name().to_str()?.parse::<i32>().ok());
        for number in numbers {
            let pid = process.as_raw_fd();
            // SAFETY: pidfd_getfd(2) touches no memory of ours.
            let fd = match owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pid, number, 0) }) {
                // The server has closed it since it was listed: a connection of before.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
                answer => answer?,
            };
            let socket = SockRef::from(&fd);
            let local = || socket.local_addr().ok()?.as_socket();
            if socket.is_listener().unwrap_or(false) && local() == Some(address) {
                return socket.shutdown(std::net::Shutdown::Both);
            }
        }
        panic!("the server does not listen on {address}");
    }

    /// Sends it a signal.
    pub(crate) fn signal(self, signal: i32) {
        self.send(signal, 1);
    }

    /// Sends a signal to all of its group, which it must lead.
    pub(crate) fn signal_group(self, signal: i32) {
        self.send(signal, -1);
    }

    fn send(self, signal: i32, sign: i32) {
        let pid = sign * i32::try_from(self.0).expect("a pid is small");
        // SAFETY: kill(2) touches no memory of ours. The pid is that of a child which its `Server`
        // has not waited for, or of a child of that, which the test keeps alive: so it cannot have
        // been given to another process.
        let answer = unsafe { libc::kill(pid, signal) };
        assert_eq!(answer, 0, "kill: {}", std::io::Error::last_os_error());
    }

    /// Sends a signal to one of its threads.
    pub(crate) fn signal_thread(self, thread: i32, signal: i32) {
        // SAFETY: tgkill(2) touches no memory of ours; the pid is that of a child as above, and a
        // thread that is not of it gets nothing.
        let answer = unsafe { libc::syscall(libc::SYS_tgkill, self.0, thread, signal) };
        assert_eq!(answer, 0, "tgkill: {}", std::io::Error::last_os_error());
    }

    fn status(self, name: &str) -> String {
        let status = self.read("status").expect("the server runs");
        field(&status, name).unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// A file of it; none if it is no more.
    fn read(self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).ok()
    }
}

/// What stands behind `name`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

fn kib(text: &str) -> usize {
    text.trim_end_matches(" kB").parse().expect("a number")
}

/// What the kernel holds for one end of an IPv4 connection: bytes that the other end has not
/// acknowledged, and bytes that its process has not received.
pub(crate) fn queues(local: SocketAddr, peer: SocketAddr) -> Option<(usize, usize)> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => panic!("IPv4 only"),
    };
    let ends = format!(" {} {} ", hex(local), hex(peer));
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let line = table.lines().find(|line| line.contains(&ends))?;
    let (sending, receiving) = line.split_whitespace().nth(4)?.split_once(':')?;
    let bytes = |hex| usize::from_str_radix(hex, 16).expect("a hexadecimal number");
    Some((bytes(sending), bytes(receiving)))
}
