//! The rings that processes have open, from /proc. A user sees those of the own processes, and root
//! all.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use minijinja::Value;
use serde::Serialize;

use proactor::os::procfs::{self, number};
use proactor_report::template;

/// The open rings of all visible processes.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(tag = "schema", rename = "proactor.trace.ps/1")]
pub struct OpenRings {
    /// In the order of the process ids.
    pub rings: Vec<OpenRing>,
    /// The processes of other users, whose descriptors this user may not read.
    pub unreadable: Vec<UnreadProcess>,
}

/// A process whose descriptors may not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnreadProcess {
    /// The number of the process.
    pub pid: u32,
    /// The name of the process.
    pub name: String,
}

/// A descriptor of a ring. Values that the kernel does not report are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OpenRing {
    /// The number of the process.
    pub pid: u32,
    /// The name of the process.
    pub name: String,
    /// The number of the descriptor.
    pub fd: u32,
    /// The inode of the ring: the same for all its descriptors, in any process.
    pub inode: Option<u64>,
    /// The sizes of the queues.
    pub entries: [Option<u64>; 2],
    /// Submissions since its creation, modulo 2³².
    pub submitted: Option<u64>,
    /// Submissions that the kernel has not taken yet.
    pub unsubmitted: Option<u64>,
    /// Completions since its creation, modulo 2³².
    pub completed: Option<u64>,
    /// Completions that the process has not reaped yet.
    pub unreaped: Option<u64>,
    /// Operations that wait by polling. It is not reported while another thread has the ring.
    pub polls: Option<usize>,
    /// Completions that had no space in the queue.
    pub overflowed: Option<usize>,
    /// The thread that submits for the process (`IORING_SETUP_SQPOLL`).
    pub sq_thread: Option<u64>,
    /// Registered files and buffers.
    pub registered: [Option<u64>; 2],
}

impl OpenRings {
    /// Finds the rings of one process, or of all.
    ///
    /// # Errors
    /// /proc cannot be read, or there is no such process.
    pub fn find(only: Option<u32>) -> io::Result<OpenRings> {
        let mut found = OpenRings::default();
        let mut pids: Vec<u32> = match only {
            Some(pid) => vec![pid],
            None => {
                let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
                entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
            }
        };
        pids.sort_unstable();
        for pid in pids {
            match rings_of(pid) {
                Ok(rings) => found.rings.extend(rings),
                Err(error) if only.is_some() => {
                    return Err(crate::follow::no_process(pid, "cannot see", &error));
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // Threads of the kernel have no memory, and no rings.
                    let status = procfs::read(format!("/proc/{pid}/status")).unwrap_or_default();
                    let name = procfs::field(&status, "Name").unwrap_or_default().to_owned();
                    let process = number(&status, "VmSize").map(|_| UnreadProcess { pid, name });
                    found.unreadable.extend(process);
                }
                // It has ended.
                Err(_) => {}
            }
        }
        Ok(found)
    }
}

/// The rings of a process, in the order of their descriptors.
fn rings_of(pid: u32) -> io::Result<Vec<OpenRing>> {
    let folder = format!("/proc/{pid}");
    let entries = fs::read_dir(format!("{folder}/fd"))?.filter_map(Result::ok);
    let name = || procfs::read(format!("{folder}/comm")).unwrap_or_default();
    let ring = |entry: fs::DirEntry| {
        is_ring(&entry.path()).then_some(())?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let info = procfs::read(format!("{folder}/fdinfo/{fd}"))?;
        Some(OpenRing { pid, name: name(), fd, ..parse(&info) })
    };
    let mut rings: Vec<_> = entries.filter_map(ring).collect();
    rings.sort_by_key(|ring| ring.fd);
    Ok(rings)
}

/// Whether a path in a `fd` folder is a ring.
pub(crate) fn is_ring(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
}

/// Reads the text of an `fdinfo` file.
fn parse(info: &str) -> OpenRing {
    let between =
        |from, to| Some(number(info, to)?.wrapping_sub(number(info, from)?) & 0xffff_ffff);
    let entries = |name| {
        let mask = procfs::field(info, name)?.strip_prefix("0x")?;
        u64::from_str_radix(mask, 16).ok()?.checked_add(1)
    };
    OpenRing {
        inode: number(info, "ino"),
        entries: [entries("SqMask"), entries("CqMask")],
        submitted: number(info, "SqTail"),
        unsubmitted: between("SqHead", "SqTail"),
        completed: number(info, "CqTail"),
        unreaped: between("CqHead", "CqTail"),
        polls: listed(info, "PollList:"),
        overflowed: listed(info, "CqOverflowList:"),
        sq_thread: number(info, "SqThread"),
        registered: [number(info, "UserFiles"), number(info, "UserBufs")],
        ..OpenRing::default()
    }
}

/// The number of indented lines below a heading; `None` without the heading.
fn listed(info: &str, heading: &str) -> Option<usize> {
    let mut below = info.lines().skip_while(|line| !line.starts_with(heading));
    below.next()?;
    Some(below.take_while(|line| line.starts_with(' ')).count())
}

impl fmt::Display for OpenRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&template::fill(include_str!("open_rings.txt"), Value::from_serialize(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_ring_is_read() {
        let text = "pos:\t0\nflags:\t02000002\nino:\t77\nSqMask:\t0x7\nSqHead:\t4294967295\nSqTail:\t2\n\
                    CachedSqHead:\t0\nCqMask:\t0xf\nCqHead:\t4\nCqTail:\t6\nCachedCqTail:\t6\nSQEs:\t1\n\
                    \x20   0: opcode:NOP\nCQEs:\t0\nSqThread:\t812\nSqThreadCpu:\t0\nUserFiles:\t2\n\
                    UserBufs:\t0\nPollList:\n  op=6, task_works=0\n  op=27, task_works=0\n\
                    CqOverflowList:\n  user_data=1, res=0, flags=0\nNAPI:\tdisabled\n";
        let ring = parse(text);
        assert_eq!((ring.inode, ring.entries), (Some(77), [Some(8), Some(16)]));
        assert_eq!((ring.submitted, ring.unsubmitted), (Some(2), Some(3)), "modulo 2^32");
        assert_eq!((ring.completed, ring.unreaped), (Some(6), Some(2)));
        assert_eq!((ring.polls, ring.overflowed, ring.sq_thread), (Some(2), Some(1), Some(812)));
        assert_eq!(ring.registered, [Some(2), Some(0)]);
    }

    #[test]
    fn what_the_kernel_does_not_report_is_a_dash() {
        let ring = parse("pos:\t0\nSqThread:\t-1\nUserFiles:\t0\n");
        assert_eq!((ring.submitted, ring.sq_thread, ring.entries), (None, None, [None, None]));
        assert_eq!((ring.polls, ring.overflowed), (None, None));
        let other = |pid| UnreadProcess { pid, name: "sshd".to_owned() };
        let rings = OpenRings { rings: vec![ring], unreadable: (1..=9).map(other).collect() };
        let text = rings.to_string();
        assert!(text.contains('–'), "{text}");
        let note = "9 processes of other users could not be read: 1 (sshd), 2 (sshd), 3 (sshd), ";
        assert!(text.contains(note) && text.contains("8 (sshd), … (--json lists all)"), "{text}");
        let none = OpenRings::default().to_string();
        assert_eq!(none, "no process has an io_uring open\n");
    }
}
