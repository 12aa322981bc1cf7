//! A private trace instance: the kernel's io_uring tracepoints in their own buffers, on a clock
//! that can be compared with the recorder's ticks.
//!
//! Other tracing on the machine is not affected. Dropping the instance removes it; an instance that
//! a killed process left behind is removed when the next one is created.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::missing::Missing;
use super::page::PageLayout;
use super::tracepoint::{KernelEvent, Tracepoint, TracepointDecoder};
use proactor::os;
use proactor_record::{Clock, sys};

/// The largest page that can be read. All pages of a buffer have one size, configurable since 6.8.
const PAGE: usize = 64 << 10;

const NOT_ROOT: &str = "the kernel's tracepoints need root, or CAP_DAC_OVERRIDE and a mounted \
                        tracefs: run it with sudo";

/// An error in words: what cannot be done, and why.
pub(super) fn cannot(action: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {action}: {error}"))
}

/// The error of an action that needs root.
fn needs_root(action: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), NOT_ROOT),
        _ => cannot(action, error),
    }
}

fn no_tracepoint(name: &str) -> io::Error {
    io::Error::other(format!("this kernel has no tracepoint {name} in a known format"))
}

/// A private trace instance.
#[derive(Debug)]
pub struct Instance {
    folder: PathBuf,
    /// The trace buffer of each CPU. Dropped before the folder is removed: an open pipe would keep
    /// the instance alive.
    pipes: Vec<File>,
    page_layout: PageLayout,
    decoder: TracepointDecoder,
    /// Requested tracepoints and fields that this kernel does not have.
    missing: Vec<Missing>,
    /// The clock of the events' times.
    pub(super) clock: Clock,
    /// Events that were read and not yet returned: another CPU may still deliver an earlier one.
    pending: Vec<KernelEvent>,
    /// Every event before this time has been read.
    settled: u64,
    /// Pages that report missed events before them.
    gaps: u64,
    /// Keeps a private mount of tracefs alive. Last, because the other fields use files in it.
    _tracefs: Option<OwnedFd>,
}

impl Instance {
    /// Starts to record these tracepoints on every CPU, into buffers of `bytes` in total.
    ///
    /// # Errors
    /// The tracepoints are not available; the error says why: they need root, a kernel with tracing
    /// and the recording's clock, and a known format.
    pub fn new(tracepoints: &[Tracepoint], clock: Clock, bytes: usize) -> io::Result<Instance> {
        let (root, tracefs) = tracefs()?;
        remove_left_behind(&root);
        let page_layout = page_layout(&root)?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{}-{number}", pid_namespace(), std::process::id());
        let folder = root.join("instances").join(name);
        fs::create_dir(&folder).map_err(|error| needs_root("make a trace instance", error))?;
        // From here on, dropping the value removes the folder.
        let mut instance = Instance {
            folder,
            pipes: Vec::new(),
            page_layout,
            decoder: TracepointDecoder::default(),
            missing: Vec::new(),
            clock,
            pending: Vec::new(),
            settled: 0,
            gaps: 0,
            _tracefs: tracefs,
        };
        instance.set_up(tracepoints, bytes)?;
        Ok(instance)
    }

    fn set_up(&mut self, tracepoints: &[Tracepoint], bytes: usize) -> io::Result<()> {
        // All tracepoints start at one moment. Enabling them one by one would record submissions
        // without their completions.
        self.set("tracing_on", "0")?;
        let clock = match self.clock {
            Clock::Tsc => "x86-tsc",
            Clock::Nanos => "mono",
        };
        self.set("trace_clock", clock).map_err(|_| {
            let why = "this kernel's tracing does not have the recording's clock";
            io::Error::other(format!("{why} ({clock})"))
        })?;
        // Fewer and longer reads, where the kernel can (6.8).
        let _ = self.set("buffer_subbuf_size_kb", "64");
        // A full buffer drops new events and counts them; it never overwrites old ones.
        self.set("options/overwrite", "0")?;
        let cpus = cpus(&self.folder);
        let cpus = cpus.map_err(|error| needs_root("list the buffers of the CPUs", error))?;
        let each = ((bytes >> 10) / cpus.len().max(1)).max(256);
        self.set("buffer_size_kb", &each.to_string())?;
        for cpu in cpus {
            let path = cpu.join("trace_pipe_raw");
            let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
            let explain = |error| cannot(&format!("open {}", path.display()), error);
            self.pipes.push(pipe.map_err(explain)?);
        }
        tracepoints.iter().try_for_each(|&tracepoint| self.enable(tracepoint))?;
        let has = [self.decoder.has_flags(), self.decoder.names_requests()];
        let fields = Missing::FIELDS.into_iter().zip(has).filter(|(_, has)| !has);
        self.missing.extend(fields.map(|(field, _)| field));
        self.set("tracing_on", "1")
    }

    /// Learns the format of a tracepoint and enables it.
    fn enable(&mut self, tracepoint: Tracepoint) -> io::Result<()> {
        let group = format!("events/{}", tracepoint.group());
        let known = tracepoint.names().find(|name| {
            let format = fs::read_to_string(self.folder.join(format!("{group}/{name}/format")));
            format.is_ok_and(|format| self.decoder.learn(tracepoint, &format))
        });
        match known {
            Some(name) => self.set(&format!("{group}/{name}/enable"), "1"),
            // These two are required; the others are optional.
            None if matches!(tracepoint, Tracepoint::SubmitReq | Tracepoint::Complete) => {
                Err(no_tracepoint(tracepoint.name()))
            }
            None => {
                self.missing.extend(Missing::of(tracepoint));
                Ok(())
            }
        }
    }

    /// Records no events any more in the time of these threads and of their children. The kernel
    /// forgets a thread that ends, so that its number can be reused.
    pub(super) fn exclude(&self, threads: &[i32]) -> io::Result<()> {
        self.set("options/event-fork", "1")?;
        // Written once for each: the list is appended to, but not by fs::write(3), which truncates.
        let path = self.folder.join("set_event_notrace_pid");
        let mut file = OpenOptions::new().append(true).open(path)?;
        threads.iter().try_for_each(|thread| file.write_all(format!("{thread} ").as_bytes()))
    }

    /// Records the arrivals of these rings only, or of all if there are none.
    pub(super) fn limit_arrivals(&self, rings: &[u64]) -> io::Result<()> {
        let one = |ring: &u64| format!("ctx == {ring:#x}");
        let filter = rings.iter().map(one).collect::<Vec<_>>().join(" || ");
        let none = rings.is_empty().then_some("0");
        self.set("events/io_uring/io_uring_task_add/filter", none.unwrap_or(&filter))
    }

    /// Requested tracepoints and fields that this kernel does not have.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.folder.join(file);
        let explain = |error| needs_root(&format!("write {value} to {}", path.display()), error);
        fs::write(&path, value).map_err(explain)
    }

    /// Returns the events since the last call, in the order of time. The newest are kept until the
    /// next call, because another CPU may still deliver an earlier one.
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn poll(&mut self) -> io::Result<Vec<KernelEvent>> {
        self.poll_at(self.now())
    }

    /// The present time of its clock.
    pub(super) fn now(&self) -> u64 {
        self.clock.now(sys::monotonic)
    }

    /// As [`poll`](Instance::poll), at this time, which is now or a little earlier.
    pub(super) fn poll_at(&mut self, now: u64) -> io::Result<Vec<KernelEvent>> {
        self.drain(now)?;
        let settled = std::mem::replace(&mut self.settled, now);
        let settled = self.pending.partition_point(|event| event.time < settled);
        Ok(self.pending.drain(..settled).collect())
    }

    /// Stops recording and returns all remaining events.
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn finish(&mut self) -> io::Result<Vec<KernelEvent>> {
        fs::write(self.folder.join("tracing_on"), "0")?;
        self.drain(u64::MAX)?;
        Ok(std::mem::take(&mut self.pending))
    }

    /// Returns how many events were dropped because a buffer was full.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn lost(&self) -> io::Result<u64> {
        cpus(&self.folder)?.iter().try_fold(self.gaps, |lost, cpu| {
            Ok(lost + lost_of(&fs::read_to_string(cpu.join("stats"))?))
        })
    }

    /// Reads what the buffers hold from before `until`. Events that come meanwhile are left for the
    /// next call: they may come faster than they can be read.
    fn drain(&mut self, until: u64) -> io::Result<()> {
        let mut page = vec![0; PAGE];
        for mut pipe in &self.pipes {
            let mut last = 0;
            while last < until {
                let len = match pipe.read(&mut page) {
                    Ok(0) => break,
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                let (entries, missed) = self.page_layout.read(&page[..len]);
                self.gaps += u64::from(missed > 0);
                let entries = entries.inspect(|(time, _)| last = *time);
                let decode = |(time, bytes)| self.decoder.decode(time, bytes);
                self.pending.extend(entries.filter_map(decode));
            }
        }
        // A stable sort: events of one CPU keep their order.
        self.pending.sort_by_key(|event| event.time);
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.pipes.clear();
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!("cannot remove the trace instance {}: {error}", self.folder.display());
        }
    }
}

/// The folders of the CPUs' buffers.
fn cpus(instance: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(instance.join("per_cpu"))?.map(|entry| Ok(entry?.path())).collect()
}

/// The number of lost events in a CPU's `stats`: overwritten, dropped, or not written to a busy
/// buffer.
fn lost_of(stats: &str) -> u64 {
    let counted = ["overrun", "commit overrun", "dropped events"];
    let values = stats.lines().filter_map(|line| line.split_once(':'));
    let lost = values.filter(|(name, _)| counted.contains(&name.trim()));
    lost.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

/// The prefix of an instance's name. The PID namespace, the process id and a number follow.
const PREFIX: &str = "proactor-";

/// Returns the path of tracefs: an existing mount, or a private one for this process.
fn tracefs() -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounted = mounts.find(|mount| mount.get(2) == Some(&"tracefs"));
    let place = mounted.map(|mount| PathBuf::from(mount[1]));
    if let Some(place) = place.filter(|place| place.join("instances").is_dir()) {
        return Ok((place, None));
    }
    let fd = os::private_tracefs().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(error.kind(), NOT_ROOT),
        _ => io::Error::other(format!(
            "no tracepoints are available here (tracefs: {error}): the kernel needs CONFIG_FTRACE, \
             and a container needs CAP_SYS_ADMIN"
        )),
    })?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), Some(fd)))
}

/// The number of the first PID namespace of a machine.
pub(super) const INITIAL_NAMESPACE: u64 = 0xefff_fffc;

/// The number of the PID namespace of this process.
pub(super) fn pid_namespace() -> u64 {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number = link.to_str().and_then(|link| link.strip_prefix("pid:[")?.strip_suffix(']'));
    number.and_then(|number| number.parse().ok()).unwrap_or(INITIAL_NAMESPACE)
}

/// Removes the instances of processes that have ended. An instance in use cannot be removed, but
/// one that is being made can.
fn remove_left_behind(root: &Path) {
    let Ok(entries) = fs::read_dir(root.join("instances")) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let mut parts = rest.split('-').map(|part| part.parse::<u64>().ok());
        let (namespace, process) = (parts.next().flatten(), parts.next().flatten());
        // Processes of other namespaces are not visible here.
        let is_left = match (namespace, process) {
            (Some(namespace), Some(pid)) if namespace == pid_namespace() => {
                !Path::new(&format!("/proc/{pid}")).exists()
            }
            _ => entry
                .metadata()
                .and_then(|data| data.modified())
                .is_ok_and(|made| made.elapsed().is_ok_and(|age| age > Duration::from_secs(10))),
        };
        if is_left {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Reads the layout of a buffer's pages.
fn page_layout(root: &Path) -> io::Result<PageLayout> {
    let path = root.join("events/header_page");
    // In one read(2): this file returns nothing to a second one.
    let mut text = [0; 4096];
    let len = File::open(&path).and_then(|mut file| file.read(&mut text));
    let len = len.map_err(|error| needs_root(&format!("read {}", path.display()), error))?;
    let layout = PageLayout::parse(&String::from_utf8_lossy(&text[..len]));
    layout.ok_or_else(|| no_tracepoint("header_page"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{event, learn};
    use std::io::Seek;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_reader_of_a_buffer_that_is_filled_meanwhile_returns() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut buffer = tempfile::tempfile().expect("a file");
        let bytes = event("6.18", Tracepoint::CqringWait, &[]);
        for time in (100..=1000_u64).step_by(100) {
            // An entry with its length in the next word, on a page of its own.
            let len = bytes.len() as u32 + 4;
            let head = [&time.to_ne_bytes()[..], &u64::from(len + 4).to_ne_bytes()].concat();
            let mut page = [&head[..], &[0; 4], &len.to_ne_bytes(), &bytes].concat();
            page.resize(PAGE, 0);
            buffer.write_all(&page).expect("space");
        }
        buffer.rewind().expect("a file");
        let header = ["u64 timestamp;\toffset:0", "u64 commit;\toffset:8", "char data;\toffset:16"];
        let header =
            header.map(|field| format!("\tfield: {field};\tsize:8;\tsigned:0;\n")).concat();
        let mut instance = Instance {
            folder: folder.path().to_owned(),
            pipes: vec![buffer.try_clone().expect("a descriptor")],
            page_layout: PageLayout::parse(&header).expect("a header"),
            decoder: learn("6.18").0,
            missing: Vec::new(),
            clock: Clock::Nanos,
            pending: Vec::new(),
            settled: 0,
            gaps: 0,
            _tracefs: None,
        };
        let times = |events: Vec<KernelEvent>| -> Vec<u64> {
            events.into_iter().map(|event| event.time).collect()
        };
        assert!(instance.poll_at(450).expect("readable").is_empty());
        // Up to the first event that is not from before.
        assert_eq!(buffer.stream_position().expect("a file"), 5 * PAGE as u64);
        assert_eq!(times(instance.poll_at(650).expect("readable")), [100, 200, 300, 400]);
        let rest: Vec<u64> = (500..=1000).step_by(100).collect();
        assert_eq!(times(instance.finish().expect("readable")), rest);
    }

    #[test]
    fn every_kind_of_lost_event_is_counted() {
        let stats = "entries: 4\noverrun: 3\ncommit overrun: 2\nbytes: 100\noldest event ts: 1.5\n\
                     now ts: 12.1\ndropped events: 10\nread events: 77\n";
        assert_eq!(lost_of(stats), 15);
        assert_eq!(lost_of("overrun: x\n:\n"), 0);
    }
}
