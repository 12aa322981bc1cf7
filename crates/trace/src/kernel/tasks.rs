//! Which process a thread belongs to, by the kernel's events: a thread may have ended long before
//! its events are read, and /proc only knows those that run.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::instance::{INITIAL_NAMESPACE, pid_namespace};
use super::namespace::thread_numbers;
use super::{KernelEvent, Tracepoint};

/// `CLONE_THREAD`: the new task is a thread of its parent's process.
const CLONE_THREAD: u64 = 0x10000;

/// A thread of a known process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    /// The process that it belongs to, by the kernel's number.
    pub(crate) process: i32,
    /// The name of the thread.
    pub(crate) name: String,
    /// Whether its rings are watched. Children may be known only to say that they have some.
    pub(crate) is_watched: bool,
}

/// The known threads, by the kernel's number.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    tasks: HashMap<i32, Task>,
    /// Whether new threads are watched: not if one thread is.
    pub(crate) with_threads: bool,
    /// Whether new processes are watched.
    pub(crate) with_children: bool,
    /// Whether all threads are watched.
    all: bool,
}

impl Tasks {
    /// Adds the running threads of a process, or only one of them. Call it when new threads have
    /// events already: those that are older are found here. Returns the kernel's number of the
    /// process.
    pub(crate) fn add_process(&mut self, pid: u32, only: Option<u32>) -> io::Result<i32> {
        let threads = thread_numbers(pid)?;
        let find = |id: u32| {
            let found = threads.iter().find(|(thread, _)| *thread == id as i32);
            found.map(|(_, number)| *number).ok_or(io::ErrorKind::NotFound)
        };
        let (process, only) = (find(pid)?, only.map(find).transpose()?);
        let is_wanted = |number| only.is_none_or(|only| number == only);
        for (thread, number) in threads.into_iter().filter(|(_, number)| is_wanted(*number)) {
            let name = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"));
            let name = name.unwrap_or_default().trim().to_owned();
            self.tasks.insert(number, Task { process, name, is_watched: true });
        }
        Ok(process)
    }

    /// Adds the running threads of all processes, and from now on all others.
    pub(crate) fn add_all(&mut self) -> io::Result<()> {
        if pid_namespace() != INITIAL_NAMESPACE {
            let why = "this is a PID namespace, and the processes outside of it cannot be named: \
                       run it outside of the container";
            return Err(io::Error::other(why));
        }
        (self.with_threads, self.with_children, self.all) = (true, true, true);
        let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            // It may have ended.
            let _ = self.add_process(pid, None);
        }
        Ok(())
    }

    /// Learns from an event, if it is about threads.
    pub(crate) fn observe(&mut self, event: &KernelEvent) {
        let Some((number, name)) = event.task() else { return };
        if event.tracepoint == Tracepoint::Rename {
            self.tasks.entry(number).and_modify(|task| task.name = name);
            return;
        }
        self.meet(event.thread);
        let Some(parent) = self.tasks.get(&event.thread) else {
            // The number belonged to a thread that has ended.
            self.tasks.remove(&number);
            return;
        };
        let is_thread = event.own[1] & CLONE_THREAD != 0;
        let with_it = if is_thread { self.with_threads } else { self.with_children };
        let process = if is_thread { parent.process } else { number };
        let task = Task { process, name, is_watched: parent.is_watched && with_it };
        self.tasks.insert(number, task);
    }

    /// Adds a thread that is not known, if all are watched: its creation was lost.
    pub(crate) fn meet(&mut self, thread: i32) {
        if self.all {
            let unknown = || Task { process: thread, name: String::new(), is_watched: true };
            self.tasks.entry(thread).or_insert_with(unknown);
        }
    }

    /// A thread of a watched process.
    pub(crate) fn watched(&self, thread: i32) -> Option<&Task> {
        self.tasks.get(&thread).filter(|task| task.is_watched)
    }

    /// A thread of a watched process or of a descendant.
    pub(crate) fn known(&self, thread: i32) -> Option<&Task> {
        self.tasks.get(&thread)
    }

    /// The name of a process: that of its first thread.
    pub(crate) fn name(&self, process: i32) -> &str {
        self.tasks.get(&process).map_or("", |task| &task.name)
    }

    /// The processes with watched threads.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let watched = self.tasks.values().filter(|task| task.is_watched);
        let mut all: Vec<_> = watched.map(|task| task.process).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        let mut tasks = Tasks { with_threads: true, ..Tasks::default() };
        let task = Task { process: 10, name: "server".to_owned(), is_watched: true };
        tasks.tasks.insert(10, task);
        tasks
    }

    fn clone(parent: i32, child: i32, flags: u64) -> KernelEvent {
        let name = u64::from_ne_bytes(*b"worker\0\0");
        task_event(parent, Tracepoint::NewTask, [child as u64, flags, name, 0])
    }

    fn task_event(thread: i32, tracepoint: Tracepoint, own: [u64; 4]) -> KernelEvent {
        let (request, user_data, opcode) = (0, 0, None);
        KernelEvent { time: 0, thread, ring: 0, request, user_data, opcode, tracepoint, own }
    }

    #[test]
    fn a_thread_that_has_ended_is_known_and_a_child_process_only_if_followed() {
        let mut tasks = tasks();
        tasks.observe(&clone(10, 11, CLONE_THREAD));
        tasks.observe(&clone(11, 12, CLONE_THREAD));
        tasks.observe(&clone(12, 13, 0));
        let worker = Task { process: 10, name: "worker".to_owned(), is_watched: true };
        assert_eq!((tasks.watched(12), tasks.watched(13)), (Some(&worker), None));
        assert_eq!(tasks.known(13).map(|task| task.process), Some(13));
        tasks.with_children = true;
        tasks.observe(&clone(12, 14, 0));
        tasks.observe(&clone(14, 15, CLONE_THREAD));
        assert_eq!(tasks.watched(15).map(|task| task.process), Some(14));
        assert_eq!(tasks.processes(), [10, 14]);
    }

    #[test]
    fn a_number_that_a_stranger_reuses_is_no_longer_ours() {
        let mut tasks = tasks();
        tasks.observe(&clone(10, 11, CLONE_THREAD));
        tasks.observe(&clone(99, 11, 0));
        assert_eq!(tasks.known(11), None);
    }

    #[test]
    fn a_new_program_has_its_own_name() {
        let mut tasks = tasks();
        let name = u64::from_ne_bytes(*b"nginx\0\0\0");
        tasks.observe(&task_event(10, Tracepoint::Rename, [10, name, 0, 0]));
        assert_eq!(tasks.name(10), "nginx");
        // That of a stranger is not kept.
        tasks.observe(&task_event(99, Tracepoint::Rename, [99, name, 0, 0]));
        assert_eq!(tasks.known(99), None);
    }

    #[test]
    fn a_thread_whose_creation_was_not_seen_is_met_if_all_are_watched() {
        let mut tasks = Tasks { all: true, with_threads: true, with_children: true, ..tasks() };
        tasks.observe(&clone(99, 100, CLONE_THREAD));
        tasks.observe(&clone(99, 101, 0));
        let process = |thread| tasks.watched(thread).map(|task| task.process);
        assert_eq!([99, 100, 101].map(process), [Some(99), Some(99), Some(101)]);
        assert_eq!(tasks.watched(102), None);
        tasks.meet(102);
        assert!(tasks.watched(102).is_some());
    }

    #[test]
    fn the_threads_of_this_process_are_found() {
        let mut tasks = Tasks::default();
        let me = std::process::id();
        let process = tasks.add_process(me, None).expect("this process runs");
        assert_eq!(tasks.watched(process).map(|task| task.process), Some(process));
        assert!(tasks.add_process(u32::MAX, None).is_err());
        let mut tasks = Tasks::default();
        assert!(tasks.add_process(me, Some(u32::MAX)).is_err() && tasks.tasks.is_empty());
        tasks.add_process(me, Some(me)).expect("its first thread");
        assert_eq!(tasks.tasks.len(), 1);
    }
}
