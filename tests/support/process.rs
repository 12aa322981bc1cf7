//! What `/proc` says of a process.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A process of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// How many descriptors it has open.
    pub(crate) fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).expect("the server runs").count()
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(self) -> usize {
        let kib: usize = self.status("VmRSS:").trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// How many threads it has, those that the kernel added included.
    pub(crate) fn threads(self) -> usize {
        self.status("Threads:").parse().expect("a number")
    }

    /// Whether a signal has stopped it.
    pub(crate) fn is_stopped(self) -> bool {
        self.status("State:").starts_with('T')
    }

    /// The time that it has had a CPU: to a hundredth of a second.
    pub(crate) fn cpu_time(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("the server runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The part of one CPU that it takes, over a third of a second. Time is what is observed here:
    /// this sleep waits for nothing.
    pub(crate) fn share_of_cpu(self) -> f64 {
        let (begin, before) = (Instant::now(), self.cpu_time());
        std::thread::sleep(Duration::from_millis(300));
        (self.cpu_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
    }

    /// Fails if it is busy. What waits takes nothing; what spins takes whatever it is given, which
    /// is a third of a CPU at least while two tests and their servers share two.
    pub(crate) fn assert_quiet(self, while_: &str) {
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

    /// Sends it a signal.
    pub(crate) fn signal(self, signal: i32) {
        let pid = i32::try_from(self.0).expect("a pid is small");
        // SAFETY: kill(2) touches no memory of ours. The pid is that of a child which its `Server`
        // has not waited for, so it cannot have been given to another process.
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

    fn status(self, field: &str) -> String {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    }
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
