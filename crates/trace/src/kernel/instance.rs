//! A trace instance of our own: the kernel's tracepoints of io_uring, in buffers that nobody else
//! reads, on a clock that the recorder's ticks can be laid beside.
//!
//! What else is traced on the machine is not touched, and the instance is gone when this is
//! dropped; one that a killed process left behind is removed by the next that comes.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::lack::Lack;
use super::page::Shape;
use super::point::{Decoder, Point, Told};
use crate::format::Clock;
use proactor::os;

/// The most that a page may be: a buffer's pages are all of one size, which can be chosen since
/// 6.8.
const PAGE: usize = 64 << 10;

/// Why the kernel's tracepoints are not to be had.
#[derive(Debug)]
pub enum Unavailable {
    /// Only root may.
    NotRoot,
    /// The kernel was built without tracing, or there is none to be seen here.
    NoTracefs(io::Error),
    /// The kernel was built without this, or is too old to have it.
    NoPoint(&'static str),
    /// It does not have the clock that the trace has.
    NoClock(&'static str),
    /// Something else: what was done, and what became of it.
    Failed(String, io::Error),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::NotRoot => {
                f.write_str("the kernel shows its tracepoints to root only: run it with sudo")
            }
            Unavailable::NoTracefs(error) => write!(
                f,
                "this kernel shows no tracepoints here (tracefs: {error}): it needs CONFIG_FTRACE, \
                 and a container needs CAP_SYS_ADMIN"
            ),
            Unavailable::NoPoint(name) => {
                write!(f, "this kernel has no tracepoint {name} that this can read")
            }
            Unavailable::NoClock(name) => {
                write!(f, "this kernel's tracing has no clock {name}, which the trace has")
            }
            Unavailable::Failed(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for Unavailable {}

/// A trace instance of our own.
#[derive(Debug)]
pub struct Instance {
    folder: PathBuf,
    cpus: Vec<Cpu>,
    shape: Shape,
    decoder: Decoder,
    /// What was asked for and is not to be had.
    lacks: Vec<Lack>,
    clock: Clock,
    /// Told, and not yet given on: something earlier may still come from another CPU.
    held: Vec<Told>,
    /// Before when all has come.
    settled: u64,
    page: Vec<u8>,
    /// Pages that said that events before them were missed.
    gaps: u64,
    /// Keeps the file system there, if it is mounted nowhere. Last: the others lie in it.
    _tracefs: Option<OwnedFd>,
}

#[derive(Debug)]
struct Cpu {
    /// Not there any more when the instance is to go: an open one would keep it.
    pipe: Option<File>,
    folder: PathBuf,
}

impl Instance {
    /// Begins to record these points, on every CPU, in buffers of so many bytes for all of them
    /// together.
    ///
    /// # Errors
    /// See [`Unavailable`].
    pub fn new(points: &[Point], clock: Clock, bytes: usize) -> Result<Instance, Unavailable> {
        let (root, tracefs) = tracefs()?;
        remove_left_behind(&root);
        let header = header_page(&root)?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let folder = root.join("instances").join(name);
        fs::create_dir(&folder).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Unavailable::NotRoot,
            _ => Unavailable::Failed("make a trace instance".to_owned(), error),
        })?;
        // From here on dropping it removes the folder.
        let mut instance = Instance {
            folder,
            cpus: Vec::new(),
            shape: header,
            decoder: Decoder::default(),
            lacks: Vec::new(),
            clock,
            held: Vec::new(),
            settled: 0,
            page: vec![0; PAGE],
            gaps: 0,
            _tracefs: tracefs,
        };
        instance.set_up(points, bytes)?;
        Ok(instance)
    }

    fn set_up(&mut self, points: &[Point], bytes: usize) -> Result<(), Unavailable> {
        // All points begin at one moment: enabling each takes its time, and a submission would be
        // told of whose completion is not.
        self.set("tracing_on", "0")?;
        let clock = match self.clock {
            Clock::Tsc => "x86-tsc",
            Clock::Nanos => "mono",
        };
        self.set("trace_clock", clock).map_err(|_| Unavailable::NoClock(clock))?;
        // What there is no room for is dropped and counted; what is there is never overwritten.
        self.set("options/overwrite", "0")?;
        let cpus = self.folder.join("per_cpu");
        let listed = fs::read_dir(&cpus)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(|error| Unavailable::Failed(format!("read {}", cpus.display()), error))?;
        let each = ((bytes >> 10) / listed.len().max(1)).max(256);
        self.set("buffer_size_kb", &each.to_string())?;
        for entry in listed {
            let folder = entry.path();
            let path = folder.join("trace_pipe_raw");
            let mut how = OpenOptions::new();
            let pipe = how.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
            let explain = |error| Unavailable::Failed(format!("open {}", path.display()), error);
            self.cpus.push(Cpu { pipe: Some(pipe.map_err(explain)?), folder });
        }
        points.iter().try_for_each(|&point| self.watch(point))?;
        if !self.decoder.has_flags() {
            self.lacks.push(Lack::Flags);
        }
        self.set("tracing_on", "1")
    }

    /// Learns how a point's events look, and has them recorded.
    fn watch(&mut self, point: Point) -> Result<(), Unavailable> {
        let names = point.names();
        let group = self.folder.join("events/io_uring");
        let known = names.iter().find_map(|name| {
            let format = fs::read_to_string(group.join(name).join("format")).ok()?;
            self.decoder.learn(point, &format).then_some(*name)
        });
        match known {
            Some(name) => self.set(&format!("events/io_uring/{name}/enable"), "1"),
            // Without these two nothing can be said; without another, less.
            None if matches!(point, Point::Submit | Point::Complete) => {
                Err(Unavailable::NoPoint(names[0]))
            }
            None => {
                self.lacks.extend(Lack::of(point));
                Ok(())
            }
        }
    }

    /// What was asked for and this kernel does not tell.
    pub fn lacks(&self) -> &[Lack] {
        &self.lacks
    }

    fn set(&self, file: &str, value: &str) -> Result<(), Unavailable> {
        let path = self.folder.join(file);
        fs::write(&path, value).map_err(|error| {
            Unavailable::Failed(format!("write {value} to {}", path.display()), error)
        })
    }

    /// What was told since this was last called, in the order of time. What is so new that
    /// something older may still come from another CPU is held back until the next time.
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn poll(&mut self) -> io::Result<Vec<Told>> {
        let now = match self.clock {
            Clock::Tsc => os::cycles(),
            Clock::Nanos => os::now().0,
        };
        self.drain()?;
        let settled = std::mem::replace(&mut self.settled, now);
        let rest = self.held.partition_point(|told| told.time < settled);
        let rest = self.held.split_off(rest);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// Stops recording, and answers all that was told and not yet given.
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn finish(&mut self) -> io::Result<Vec<Told>> {
        fs::write(self.folder.join("tracing_on"), "0")?;
        self.drain()?;
        Ok(std::mem::take(&mut self.held))
    }

    /// How many events there was no room for. To be asked before the instance is dropped.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn lost(&self) -> io::Result<u64> {
        let mut lost = self.gaps;
        for cpu in &self.cpus {
            lost += lost_of(&fs::read_to_string(cpu.folder.join("stats"))?);
        }
        Ok(lost)
    }

    /// Reads every buffer to its end.
    fn drain(&mut self) -> io::Result<()> {
        for cpu in &self.cpus {
            let Some(mut pipe) = cpu.pipe.as_ref() else { continue };
            loop {
                match pipe.read(&mut self.page) {
                    Ok(0) => break,
                    Ok(len) => {
                        let (entries, missed) = self.shape.read(&self.page[..len]);
                        self.gaps += u64::from(missed > 0);
                        let decode = |(time, bytes)| self.decoder.decode(time, bytes);
                        self.held.extend(entries.filter_map(decode));
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => break,
                        io::ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        // Stable: what one CPU told keeps its order.
        self.held.sort_by_key(|told| told.time);
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.cpus.iter_mut().for_each(|cpu| cpu.pipe = None);
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!("the trace instance {} is left behind: {error}", self.folder.display());
        }
    }
}

/// What a CPU's `stats` say was lost: overwritten, dropped, or not written since a buffer was busy.
fn lost_of(stats: &str) -> u64 {
    let counted = ["overrun", "commit overrun", "dropped events"];
    let values = stats.lines().filter_map(|line| line.split_once(':'));
    let lost = values.filter(|(name, _)| counted.contains(&name.trim()));
    lost.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

/// What our instances' names begin with; then come the process, and a number.
const PREFIX: &str = "proactor-";

/// Where tracefs is: where it is mounted, or else mounted for this process alone.
fn tracefs() -> Result<(PathBuf, Option<OwnedFd>), Unavailable> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "tracefs").then(|| PathBuf::from(place))
    });
    match mounted {
        Some(place) if place.join("instances").is_dir() => return Ok((place, None)),
        _ => {}
    }
    match os::private_tracefs() {
        Ok(fd) => Ok((PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), Some(fd))),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Unavailable::NotRoot),
        Err(error) => Err(Unavailable::NoTracefs(error)),
    }
}

/// Removes the instances of processes that are no more. One that is in use cannot be removed.
fn remove_left_behind(root: &Path) {
    let Ok(entries) = fs::read_dir(root.join("instances")) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// How the pages of a buffer begin.
fn header_page(root: &Path) -> Result<Shape, Unavailable> {
    let path = root.join("events/header_page");
    // At once: this file has nothing to say to a second read(2).
    let mut text = [0; 4096];
    let len = File::open(&path).and_then(|mut file| file.read(&mut text));
    let len = len.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Unavailable::NotRoot,
        _ => Unavailable::Failed(format!("read {}", path.display()), error),
    })?;
    Shape::parse(&String::from_utf8_lossy(&text[..len])).ok_or(Unavailable::NoPoint("header_page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_lost_is_counted() {
        let stats = "entries: 4\noverrun: 3\ncommit overrun: 2\nbytes: 100\noldest event ts: 1.5\n\
                     now ts: 12.1\ndropped events: 10\nread events: 77\n";
        assert_eq!(lost_of(stats), 15);
        assert_eq!(lost_of("overrun: x\n:\n"), 0);
    }
}
