//! A strace for io_uring: what any process does with its rings, by the kernel's tracepoints.
//!
//! The process does not have to cooperate. [`WatchedRings`] receives the [events](KernelEvent) of
//! all rings, selects those of the process, and matches submissions, arrivals and completions.
//!
//! ```text
//!   RingWatch ─► KernelEvent ─► Tasks: whose thread? ─► RingState ─► RingEvent, summary
//! ```

mod files;
mod hash;
mod log;
mod rates;
mod requests;
mod rings;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::follow::no_process;
use super::kernel::{KernelEvent, Missing, Tasks, Tracepoint};
use super::open_rings::OpenRings;
use files::Files;
use hash::FastMap;
use log::{LoggedRing, RingLogs};
use proactor::os::procfs;
pub use rates::RingRates;
use rings::{Certainty, MatchedCompletion, RingState, SeenCompletion};

/// From so many submissions of a stranger between two reads on, it is worth excluding.
const BUSY: u32 = 200;

/// The processes or the thread whose rings are watched.
#[derive(Debug, Default)]
pub struct WatchedRings {
    /// As it was named: a process, or a thread. Without one, all processes are watched.
    id: Option<u32>,
    /// The process of this thread, if one thread is watched.
    process_of_thread: Option<u32>,
    name: String,
    /// The process by the kernel's number, which differs in a PID namespace.
    process: i32,
    tasks: Tasks,
    rings: Vec<RingState>,
    /// The indices of `rings`, by address.
    indices: FastMap<u64, usize>,
    /// The same before events were lost: a ring is known again when its own thread uses it.
    unconfirmed: FastMap<u64, usize>,
    /// By thread: whether an enter was not counted yet, and the ring that it used last.
    callers: FastMap<i32, (bool, Option<usize>)>,
    /// Child processes that are not watched, and that have used a ring.
    unwatched: BTreeMap<i32, String>,
    files: Files,
    /// The recordings of the rings, if there are any.
    logs: Option<RingLogs>,
    /// The counts of all rings when [`WatchedRings::rates`] was last called.
    before: RingState,
    /// By thread of another process, its submissions since the last call of `busy_strangers`.
    strangers: FastMap<i32, u32>,
    /// The time of the first event, in nanoseconds.
    first: Option<u64>,
    /// How long they were watched.
    pub watched: Duration,
    /// How many events the kernel lost.
    lost: u64,
    /// How many more times events are read that may have a gap.
    gap: u8,
    /// What the kernel does not trace. The counts of it are shown as unknown.
    pub missing: Vec<Missing>,
}

/// An event of a watched ring, with the request that it belongs to.
#[derive(Debug)]
pub struct RingEvent {
    /// Nanoseconds since the first event.
    at: u64,
    /// The index of the ring.
    ring: usize,
    /// With the operation of its request.
    event: KernelEvent,
    completion: Option<SeenCompletion>,
    /// The descriptor that the request uses, and its name.
    file: Option<(i32, Rc<str>)>,
}

/// A selection of events. An empty one selects all.
#[derive(Debug, Clone, Default)]
pub struct RingFilter {
    /// Only these operations or kinds of events, by name: `recv`, `post`.
    pub ops: Vec<String>,
    /// Only failed completions and rejected submissions.
    pub errors: bool,
    /// Only completions that are later than this after the submission.
    pub slower: Option<Duration>,
    /// Only requests that were handed to a worker thread (io-wq).
    pub punted: bool,
}

impl RingFilter {
    /// Whether it selects all events.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && !self.errors && self.slower.is_none() && !self.punted
    }
}

impl WatchedRings {
    /// Names a running process, or one of its threads. Nothing is watched yet.
    ///
    /// # Errors
    /// It does not exist, or is not visible.
    pub fn new(id: u32) -> io::Result<WatchedRings> {
        let status = fs::read_to_string(format!("/proc/{id}/status"));
        let status = status.map_err(|error| no_process(id, "cannot see", &error))?;
        let name = procfs::field(&status, "Name").unwrap_or_default().to_owned();
        let process = procfs::number(&status, "Tgid").and_then(|number| number.try_into().ok());
        let process_of_thread = process.filter(|process| *process != id);
        Ok(WatchedRings { id: Some(id), process_of_thread, name, ..WatchedRings::default() })
    }

    /// Names all processes, also those that will start.
    pub fn of_all() -> WatchedRings {
        WatchedRings::default()
    }

    /// Starts to watch, with the children that it will have if `with_children`. Call it when events
    /// are recorded already.
    ///
    /// # Errors
    /// It has ended, or its threads cannot be found.
    pub fn begin(&mut self, with_children: bool) -> io::Result<()> {
        let Some(id) = self.id else { return self.tasks.add_all() };
        self.tasks.with_children = with_children;
        self.tasks.with_threads = self.process_of_thread.is_none() || with_children;
        let process = self.process_of_thread.unwrap_or(id);
        let only = self.process_of_thread.map(|_| id);
        let added = self.tasks.add_process(process, only);
        self.process = added.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_process(id, "cannot see", &error),
            _ => error,
        })?;
        Ok(())
    }

    /// Whether the process, or a watched child, still runs.
    pub fn is_alive(&self) -> bool {
        let Some(id) = self.id else { return true };
        let is_alive = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The state follows the name, which may contain any characters.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        let children = self.tasks.processes().into_iter().filter_map(|it| self.number_here(it));
        is_alive(&id) || self.tasks.with_children && { children }.any(|pid| is_alive(&pid))
    }

    /// The number of a process in the PID namespace of this program, if it is known.
    fn number_here(&self, process: i32) -> Option<u32> {
        let Some(id) = self.id else { return u32::try_from(process).ok() };
        let (named, number) = (self.process_of_thread.unwrap_or(id), self.process);
        match process == number {
            true => Some(named),
            // In a PID namespace the two numbers differ.
            false => (named as i32 == number).then_some(process as u32),
        }
    }

    /// The number of open rings of the process, or of all; `None` if this user may not see them.
    /// Idle rings have no events.
    pub fn open_rings(&self) -> Option<usize> {
        let process = self.process_of_thread.or(self.id);
        let found = OpenRings::find(process).ok()?;
        (!found.rings.is_empty() || found.unreadable.is_empty()).then_some(found.rings.len())
    }

    /// What is watched, in words: `process 123 (nginx)`.
    pub fn label(&self) -> String {
        let Some(id) = self.id else { return "all processes".to_owned() };
        let name = self.current_name();
        match self.process_of_thread {
            Some(process) => format!("thread {id} ({name}) of process {process}"),
            None => format!("process {id} ({name})"),
        }
    }

    /// The present name, which execve(2) changes.
    fn current_name(&self) -> &str {
        match self.tasks.name(self.process) {
            name if self.process_of_thread.is_none() && !name.is_empty() => name,
            _ => &self.name,
        }
    }

    /// Why there is nothing to watch, as a sentence; `None` if a ring was seen or is open.
    pub fn nothing_to_watch(&self) -> Option<String> {
        if !self.rings.is_empty() {
            return None;
        }
        let why = match self.open_rings() {
            _ if self.lost > 0 => "no operation was seen, but events were lost".to_owned(),
            _ if !self.unwatched.is_empty() => {
                let mut names =
                    self.unwatched.iter().map(|(child, name)| format!("{child} ({name})"));
                let (first, more) = (names.next().unwrap_or_default(), names.count());
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!(
                    "no operation of its own, but its child process {first}{more} has rings: \
                         -f watches children"
                )
            }
            _ if !self.is_alive() => "no operation until it ended".to_owned(),
            Some(0) => "no operation, and no io_uring open".to_owned(),
            _ => return None,
        };
        Some(format!("{}: {why}", self.label()))
    }

    /// Notes how many events the kernel has lost so far. Call it before the events that were read
    /// are observed. After a loss, requests in flight are forgotten, and nothing is concluded from
    /// the events of this and of the next reading, where the gap is.
    pub fn note_losses(&mut self, lost: u64) {
        self.gap = if lost > self.lost { 2 } else { self.gap.saturating_sub(1) };
        if self.gap == 0 && self.lost == lost {
            return;
        }
        self.lost = lost;
        self.logs.iter_mut().for_each(|logs| logs.lost(lost));
        self.rings.iter_mut().for_each(RingState::forget_requests);
        self.unconfirmed.extend(self.indices.drain());
        // Threads that were created in the gap are known while they run.
        if self.id.is_none() {
            let _ = self.tasks.add_all();
        } else if self.process_of_thread.is_none() {
            let processes = self.tasks.processes().into_iter();
            let pids: Vec<_> = processes.filter_map(|it| self.number_here(it)).collect();
            pids.into_iter().for_each(|pid| drop(self.tasks.add_process(pid, None)));
        }
    }

    /// Threads of other processes that submit much and have no watched ring. Call it from time to
    /// time: it forgets the counts.
    pub fn busy_strangers(&mut self) -> Vec<i32> {
        self.files.forget_recent();
        let counts = self.strangers.drain();
        counts.filter(|(_, count)| *count >= BUSY).map(|(thread, _)| thread).collect()
    }

    /// The addresses of the rings.
    pub fn addresses(&self) -> Vec<u64> {
        self.indices.keys().chain(self.unconfirmed.keys()).copied().collect()
    }

    /// Adds an event; `None` if its ring belongs to another process, or to one that is not known
    /// yet, or if it is of no ring.
    pub fn observe(&mut self, event: &KernelEvent) -> Option<RingEvent> {
        match event.tracepoint {
            Tracepoint::NewTask | Tracepoint::Rename => {
                self.tasks.observe(event);
                return None;
            }
            Tracepoint::Enter => {
                self.enter(event.thread);
                return None;
            }
            // A new ring may have the address of a former one.
            Tracepoint::Create => {
                self.indices.remove(&event.ring);
                self.unconfirmed.remove(&event.ring);
            }
            _ => {}
        }
        let ring = match self.indices.get(&event.ring) {
            Some(&at) => at,
            None => self.add_ring(event)?,
        };
        // Data may arrive in the time of a thread that is in an enter of another ring.
        if event.tracepoint != Tracepoint::TaskAdd
            && let Some((pending @ true, last)) = self.callers.get_mut(&event.thread)
        {
            (*pending, *last) = (false, Some(ring));
            self.rings[ring].enters += 1;
        }
        let first = *self.first.get_or_insert(event.time);
        let at = event.time.saturating_sub(first);
        let mut event = *event;
        let names_requests = !self.missing.contains(&Missing::Request);
        if event.tracepoint == Tracepoint::FileGet {
            let process = self.rings[ring].process;
            let file = self.files.begin(process, self.number_here(process), event.own[0] as i32);
            self.rings[ring].set_file(&event, file);
            if let (Some(logs), Some(number)) = (&mut self.logs, self.rings[ring].number(&event)) {
                logs.file(ring, number, event.own[0] as i32);
            }
            return None;
        }
        let has_files = !self.files.is_empty();
        let file = has_files.then(|| self.rings[ring].file(&event)).flatten();
        let certainty = Certainty { names_requests, has_gap: self.gap > 0 };
        let completion = self.rings[ring].observe(&mut event, certainty);
        if let Some(SeenCompletion::Matched(MatchedCompletion { file: Some(file), .. })) =
            completion
        {
            self.files.complete(file, event.result());
        }
        let file = file.map(|at| self.files.get(at)).map(|file| (file.fd, Rc::clone(&file.name)));
        let seen = RingEvent { at, ring, event, completion, file };
        self.record(&seen);
        Some(seen)
    }

    /// Records what is observed from now on, each ring in a file of its own.
    ///
    /// # Errors
    /// The first file cannot be written to.
    pub fn record_into(&mut self, path: &Path) -> io::Result<()> {
        self.logs = Some(RingLogs::new(path)?);
        Ok(())
    }

    /// Ends the recordings. Returns the number of files, and why there are not more.
    pub fn end_recordings(&mut self) -> (usize, Option<io::Error>) {
        self.logs.take().map_or((0, None), RingLogs::finish)
    }

    fn record(&mut self, seen: &RingEvent) {
        let Some(mut logs) = self.logs.take() else { return };
        let (at, RingState { process, name, .. }) = (seen.ring, &self.rings[seen.ring]);
        let ring = LoggedRing { at, pid: self.number_here(*process), name, time: seen.at };
        match (seen.completion, seen.event.tracepoint) {
            (Some(completion), _) => {
                let fd = seen.file.as_ref().map(|(fd, _)| *fd);
                logs.completed(&ring, &seen.event, completion, fd);
            }
            (None, Tracepoint::SubmitReq | Tracepoint::ReqFailed) => {
                let number = self.rings[at].begun(&seen.event);
                let opcode = seen.event.opcode;
                number.into_iter().for_each(|number| logs.submitted(&ring, opcode, number));
            }
            _ => {}
        }
        self.logs = Some(logs);
    }

    /// Counts an enter when the next event of its thread shows its ring. One that does nothing is
    /// counted for the ring that the thread used last.
    fn enter(&mut self, thread: i32) {
        if self.tasks.watched(thread).is_none() {
            return;
        }
        let (pending, last) = self.callers.entry(thread).or_default();
        if let (true, Some(ring)) = (*pending, *last) {
            self.rings[ring].enters += 1;
        }
        *pending = true;
    }

    /// Adds the ring of an event if it belongs to a watched process. Only these events, and
    /// completions of requests, run in a thread of the ring's own process: data arrives in any
    /// thread's time, and rings post messages to one another.
    fn add_ring(&mut self, event: &KernelEvent) -> Option<usize> {
        use Tracepoint::{CqringWait, Create, LocalWorkRun, ReqFailed, SubmitReq};
        let own = [Create, SubmitReq, ReqFailed, CqringWait, LocalWorkRun];
        let completes = event.tracepoint == Tracepoint::Complete
            && !self.missing.contains(&Missing::Request)
            && !event.is_message();
        if !own.contains(&event.tracepoint) && !completes {
            return None;
        }
        self.tasks.meet(event.thread);
        let Some(task) = self.tasks.watched(event.thread) else {
            *self.strangers.entry(event.thread).or_default() += 1;
            if let Some(task) = self.tasks.known(event.thread) {
                self.unwatched.entry(task.process).or_insert_with(|| task.name.clone());
            }
            return None;
        };
        let known = self.unconfirmed.remove(&event.ring);
        let at = known.unwrap_or(self.rings.len());
        if known.is_none() {
            self.rings.push(RingState::new(task.process, event.thread, task.name.clone()));
        }
        self.indices.insert(event.ring, at);
        Some(at)
    }

    /// Ends the watching: the last enters are counted.
    pub fn end(&mut self) {
        for (pending, last) in self.callers.values_mut() {
            if let (true, Some(ring)) = (std::mem::take(pending), *last) {
                self.rings[ring].enters += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
