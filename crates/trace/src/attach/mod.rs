//! A strace for io_uring: what any process does with its rings, by the kernel's tracepoints.
//!
//! The process does not have to cooperate. [`WatchedProcess`] receives the [events](KernelEvent) of
//! all rings, selects those of the process, and matches submissions, arrivals and completions.
//! A request is identified by its address where the kernel traces it, and by its user data
//! otherwise. If several requests in flight have the same user data, the latest is taken.

mod rings;
mod view;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::follow::no_process;
use super::kernel::{KernelEvent, Missing, Tracepoint};
use rings::{MatchedCompletion, RingState};

/// A process whose rings are watched.
#[derive(Debug, Default)]
pub struct WatchedProcess {
    pid: u32,
    name: String,
    /// By thread, whether it belongs to the process. Each is looked up once.
    threads: HashMap<i32, bool>,
    rings: Vec<RingState>,
    /// The indices of `rings`, by address.
    indices: HashMap<u64, usize>,
    /// The time of the first event, in nanoseconds.
    first: Option<u64>,
    /// How long the process was watched.
    pub watched: Duration,
    /// How many events the kernel lost.
    pub lost: u64,
    /// What the kernel does not trace. The counts of it are shown as unknown.
    pub missing: Vec<Missing>,
}

/// An event of a ring of the process, with the request that it belongs to.
#[derive(Debug)]
pub struct RingEvent {
    /// Nanoseconds since the first event.
    at: u64,
    /// The index of the ring.
    ring: usize,
    /// With the operation of its request.
    event: KernelEvent,
    matched: Option<MatchedCompletion>,
}

impl WatchedProcess {
    /// Watches a running process.
    ///
    /// # Errors
    /// The process does not exist, or is not visible.
    pub fn new(pid: u32) -> io::Result<WatchedProcess> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        let name = name.map_err(|error| no_process(pid, "cannot see", &error))?;
        Ok(WatchedProcess { pid, name: name.trim().to_owned(), ..WatchedProcess::default() })
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the name, which may contain any characters.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// The number of its open rings. Idle rings have no events.
    pub fn open_rings(&self) -> usize {
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return 0 };
        let is_ring = |path: PathBuf| {
            fs::read_link(path).is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
        };
        files.filter_map(Result::ok).filter(|file| is_ring(file.path())).count()
    }

    /// The process in words: `process 123 (nginx)`.
    pub fn label(&self) -> String {
        format!("process {} ({})", self.pid, self.name)
    }

    /// Why there is nothing to watch, as a sentence; `None` if a ring was seen or is open.
    pub fn nothing_to_watch(&self) -> Option<String> {
        let why = match self.open_rings() {
            _ if !self.rings.is_empty() => return None,
            _ if !self.is_alive() => "has ended without io_uring activity",
            0 => "has no io_uring open",
            _ => return None,
        };
        Some(format!("{} {why}", self.label()))
    }

    /// Adds an event; `None` if its ring belongs to another process, or to one that is not known
    /// yet.
    pub fn observe(&mut self, event: &KernelEvent) -> Option<RingEvent> {
        let ring = match self.indices.get(&event.ring) {
            // A new ring may have the address of a former one.
            Some(&at) if event.tracepoint != Tracepoint::Create => at,
            _ => self.add_ring(event)?,
        };
        let first = *self.first.get_or_insert(event.time);
        let at = event.time.saturating_sub(first);
        let mut event = *event;
        let matched = self.rings[ring].observe(&mut event);
        Some(RingEvent { at, ring, event, matched })
    }

    /// Adds the ring of an event if it belongs to the process. Only these events run in a thread of
    /// the ring's own process: data arrives in any thread's time, and rings post messages to one
    /// another.
    fn add_ring(&mut self, event: &KernelEvent) -> Option<usize> {
        use Tracepoint::{CqringWait, Create, LocalWorkRun, SubmitReq};
        let own = [Create, SubmitReq, CqringWait, LocalWorkRun].contains(&event.tracepoint);
        if !own || !self.owns(event.thread) {
            return None;
        }
        self.indices.insert(event.ring, self.rings.len());
        let name = format!("/proc/{}/task/{}/comm", self.pid, event.thread);
        let name = fs::read_to_string(name).unwrap_or_default().trim().to_owned();
        self.rings.push(RingState::new(event.thread, name));
        Some(self.rings.len() - 1)
    }

    fn owns(&mut self, thread: i32) -> bool {
        let path = format!("/proc/{}/task/{thread}", self.pid);
        *self.threads.entry(thread).or_insert_with(|| fs::exists(path).unwrap_or(false))
    }

    /// Forgets the threads of other processes, because the kernel reuses their numbers. Call it
    /// from time to time.
    pub fn forget_foreign_threads(&mut self) {
        self.threads.retain(|_, ours| *ours);
    }
}

#[cfg(test)]
mod tests;
