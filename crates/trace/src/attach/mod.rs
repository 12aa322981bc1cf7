//! What any process does with its rings, as the kernel tells: a strace for io_uring.
//!
//! The process need not know of it. [`Attached`] is fed what the kernel [told](Told) of all rings,
//! picks out those of the process, and joins what belongs together: a submission, what it waited
//! for, its completions. Requests are known by their address where that is told, else by the user
//! data that travels with them, of which the latest in flight is taken if several have the same.

mod findings;
mod rings;
mod view;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::kernel::{Lack, Tale, Told};
use proactor_report::units;
use rings::{Done, Ring};

/// A process that is watched.
#[derive(Debug)]
pub struct Attached {
    pid: u32,
    name: String,
    /// Whether a thread is one of the process: asked once of each.
    threads: HashMap<i32, bool>,
    rings: Vec<Ring>,
    /// Their numbers, by address.
    known: HashMap<u64, usize>,
    /// When the first was told, in nanoseconds.
    first: Option<u64>,
    /// For how long it was watched.
    watched: Duration,
    lost: u64,
    /// What the kernel does not tell.
    lacks: Vec<Lack>,
}

/// Something that was told of a ring of the process, joined with what it belongs to.
#[derive(Debug)]
pub struct Line {
    /// Nanoseconds since the first that was told.
    at: u64,
    ring: usize,
    told: Told,
    /// The operation, if it is about one.
    opcode: Option<u8>,
    done: Option<Done>,
}

impl Attached {
    /// A process that runs.
    ///
    /// # Errors
    /// It does not, or is not ours to see.
    pub fn new(pid: u32) -> io::Result<Attached> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!("there is no process {pid}"),
                _ => format!("process {pid} is not to be seen: {error}"),
            };
            io::Error::new(error.kind(), why)
        })?;
        Ok(Attached {
            pid,
            name: name.trim().to_owned(),
            threads: HashMap::new(),
            rings: Vec::new(),
            known: HashMap::new(),
            first: None,
            watched: Duration::ZERO,
            lost: 0,
            lacks: Vec::new(),
        })
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state stands behind the name, which may contain anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// How many rings it has open. More than are seen if some of them rest.
    pub fn open_rings(&self) -> usize {
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return 0 };
        let is_ring = |path: PathBuf| {
            fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
        };
        files.filter_map(Result::ok).filter(|file| is_ring(file.path())).count()
    }

    /// Who it is: `process 123 (nginx)`.
    pub fn who(&self) -> String {
        format!("process {} ({})", self.pid, self.name)
    }

    /// Why nothing is to be shown, as a sentence; `None` if something was told of its rings.
    pub fn silence(&self) -> Option<String> {
        let open = match self.open_rings() {
            _ if !self.rings.is_empty() => return None,
            _ if !self.is_alive() => "it has ended".to_owned(),
            0 => "it has no io_uring open".to_owned(),
            n => format!("it has {} open, which rested", units::plural(n as u64, "ring")),
        };
        Some(format!("nothing was told of a ring of {}: {open}", self.who()))
    }

    /// It was watched for so long, whatever happened meanwhile.
    pub fn set_watched(&mut self, watched: Duration) {
        self.watched = watched;
    }

    /// So many events were lost since the begin.
    pub fn set_lost(&mut self, lost: u64) {
        self.lost = lost;
    }

    /// The kernel does not tell these: what they would count is shown as unknown.
    pub fn set_lacks(&mut self, lacks: &[Lack]) {
        self.lacks = lacks.to_vec();
    }

    /// Takes in what the kernel told; `None` if it is about another process's ring, or about one
    /// of which it is not known yet whose it is.
    pub fn see(&mut self, told: &Told) -> Option<Line> {
        let ring = match self.known.get(&told.ring) {
            // An address may be a new ring's.
            Some(&at) if !matches!(told.what, Tale::Created { .. }) => at,
            _ => self.adopt(told)?,
        };
        let first = *self.first.get_or_insert(told.time);
        let at = told.time.saturating_sub(first);
        let told = self.rings[ring].named(told);
        let (opcode, done) = self.rings[ring].see(&told);
        Some(Line { at, ring, told, opcode, done })
    }

    /// A ring that is new to us, if it is the process's: of these events only, the thread is one of
    /// the ring's own process. (Data arrive in anybody's time, and rings send one another
    /// messages.)
    fn adopt(&mut self, told: &Told) -> Option<usize> {
        let own = matches!(
            told.what,
            Tale::Created { .. }
                | Tale::Submitted { .. }
                | Tale::Waited { .. }
                | Tale::Worked { .. }
        );
        if !own || !self.owns(told.thread) {
            return None;
        }
        self.known.insert(told.ring, self.rings.len());
        let name = format!("/proc/{}/task/{}/comm", self.pid, told.thread);
        let name = fs::read_to_string(name).unwrap_or_default();
        self.rings.push(Ring::new(told.thread, name.trim().to_owned()));
        Some(self.rings.len() - 1)
    }

    fn owns(&mut self, thread: i32) -> bool {
        let pid = self.pid;
        *self
            .threads
            .entry(thread)
            .or_insert_with(|| fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(false))
    }

    /// Asks anew of threads that were not its: numbers are given again. To be called now and then.
    pub fn forget_strangers(&mut self) {
        self.threads.retain(|_, ours| *ours);
    }
}

#[cfg(test)]
mod tests;
