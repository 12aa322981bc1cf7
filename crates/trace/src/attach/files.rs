//! The files of a watched process, by descriptor, with the counts of their operations.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::view::Errors;
use proactor_record::Errno;

/// So many files are listed at most; the rest is one row, with the descriptor -1.
const MAX_FILES: usize = 10_000;

/// The files that operations used.
#[derive(Debug, Default)]
pub(super) struct Files {
    rows: Vec<FileCounts>,
    indices: HashMap<(i32, i32, Rc<str>), usize>,
    /// By process and descriptor, those that were found recently. A descriptor may be reused.
    recent: HashMap<(i32, i32), usize>,
    /// The names of sockets by inode, and whether they were read recently.
    sockets: HashMap<u64, String>,
    has_read_sockets: bool,
}

/// A file, and what was done with it.
#[derive(Debug)]
pub(super) struct FileCounts {
    /// The process, by the kernel's number.
    pub(super) process: i32,
    pub(super) fd: i32,
    /// Its path, or the addresses of a socket. Empty if it was closed before it was read.
    pub(super) name: Rc<str>,
    /// Operations that used it.
    pub(super) operations: u64,
    pub(super) completed: u64,
    pub(super) errors: Errors,
}

impl Files {
    /// Counts an operation on a descriptor. Returns the index of its file. `pid` is the number of
    /// the process here.
    pub(super) fn begin(&mut self, process: i32, pid: Option<u32>, fd: i32) -> usize {
        let at = match self.recent.get(&(process, fd)) {
            Some(&at) => at,
            None => self.add(process, pid, fd),
        };
        self.rows[at].operations += 1;
        at
    }

    fn add(&mut self, process: i32, pid: Option<u32>, fd: i32) -> usize {
        let name: Rc<str> = pid.map_or(String::new(), |pid| self.name(pid, fd)).into();
        let (process, fd, name) = match self.rows.len() < MAX_FILES {
            true => (process, fd, name),
            false => (0, -1, "(other files)".into()),
        };
        let key = (process, fd, Rc::clone(&name));
        let at = *self.indices.entry(key).or_insert(self.rows.len());
        if at == self.rows.len() {
            let (operations, completed, errors) = (0, 0, Errors::new());
            self.rows.push(FileCounts { process, fd, name, operations, completed, errors });
        }
        self.recent.insert((process, fd), at);
        at
    }

    /// Counts a completion of an operation on it.
    pub(super) fn complete(&mut self, at: usize, result: Option<Result<u32, Errno>>) {
        self.rows[at].completed += 1;
        if let Some(Err(error)) = result {
            *self.rows[at].errors.entry(error.to_string()).or_default() += 1;
        }
    }

    /// Forgets which descriptors are open. Call it from time to time.
    pub(super) fn forget_recent(&mut self) {
        self.recent.clear();
        self.has_read_sockets = false;
    }

    /// Whether there are none: the descriptors are not traced.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn get(&self, at: usize) -> &FileCounts {
        &self.rows[at]
    }

    /// All, with the most operations first.
    pub(super) fn rows(&self) -> Vec<&FileCounts> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|row| Reverse(row.operations));
        rows
    }

    /// The name of an open file; empty if there is none.
    fn name(&mut self, pid: u32, fd: i32) -> String {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        let link = link.to_string_lossy().into_owned();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let Some(inode) = inode.and_then(|inode| inode.parse().ok()) else { return link };
        if !self.sockets.contains_key(&inode) && !self.has_read_sockets {
            self.sockets = sockets(pid);
            self.has_read_sockets = true;
        }
        self.sockets.get(&inode).cloned().unwrap_or(link)
    }
}

/// The sockets in the network namespace of a process: their addresses by inode.
fn sockets(pid: u32) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    for (file, label) in [("tcp", "TCP"), ("tcp6", "TCP"), ("udp", "UDP"), ("udp6", "UDP")] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| inet_socket(label, line)));
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    found.extend(text.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(6);
        let inode = columns.next()?.parse().ok()?;
        Some((inode, format!("unix {}", columns.next().unwrap_or(""))))
    }));
    found
}

/// The inode and the addresses in a line of `/proc/net/tcp`.
fn inet_socket(label: &str, line: &str) -> Option<(u64, String)> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let (local, remote) = (address(columns.get(1)?)?, address(columns.get(2)?)?);
    let inode = columns.get(9)?.parse().ok()?;
    let name = match remote.port() {
        0 => format!("{label} {local}"),
        _ => format!("{label} {local}->{remote}"),
    };
    Some((inode, name))
}

/// Parses an address such as `0100007F:1B58`: words in the machine's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words = host.as_bytes().chunks(8).map(|word| {
        u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes)
    });
    let words: Vec<_> = words.collect::<Option<_>>()?;
    if host.len() != 8 * words.len() {
        return None;
    }
    let ip: IpAddr = match words[..] {
        [word] => Ipv4Addr::from(word).into(),
        [_, _, _, _] => Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn open_files_have_names_and_closed_ones_have_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("one");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (pid, mut files) = (std::process::id(), Files::default());
        let mut name = |fd| {
            let at = files.begin(1, Some(pid), fd);
            files.get(at).name.to_string()
        };
        let (local, peer) = (client.local_addr().expect("one"), client.peer_addr().expect("one"));
        assert_eq!(name(client.as_raw_fd()), format!("TCP {local}->{peer}"));
        assert_eq!(name(listener.as_raw_fd()), format!("TCP {peer}"));
        assert_eq!(name(file.as_file().as_raw_fd()), file.path().to_string_lossy());
        assert_eq!(name(1 << 20), "");
    }

    #[test]
    fn a_reused_descriptor_is_another_file() {
        let (pid, mut files) = (std::process::id(), Files::default());
        let file = tempfile::NamedTempFile::new().expect("a file");
        let fd = file.as_file().as_raw_fd();
        let first = files.begin(1, Some(pid), fd);
        files.complete(first, Some(Err(Errno(5))));
        drop(file);
        files.forget_recent();
        let second = files.begin(1, Some(pid), fd);
        assert_ne!(first, second);
        assert_eq!(files.get(first).errors["EIO"], 1);
        assert_eq!(files.rows().len(), 2);
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let mut files = Files::default();
        for fd in 0..2 * MAX_FILES as i32 {
            files.begin(1, None, fd);
        }
        let rows = files.rows();
        assert_eq!((rows.len(), rows[0].operations), (MAX_FILES + 1, MAX_FILES as u64));
        assert_eq!((rows[0].fd, &*rows[0].name), (-1, "(other files)"));
    }

    #[test]
    fn addresses_are_read_in_the_order_of_this_machine() {
        let ip = |ip: &str| ip.parse().ok();
        if cfg!(target_endian = "little") {
            assert_eq!(address("0100007F:1B58"), ip("127.0.0.1:7000"));
            assert_eq!(address("00000000000000000000000001000000:0050"), ip("[::1]:80"));
        }
        for wrong in ["", ":", "0100007F", "01:50", "0100007G:50", "0100007F:12345"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}
