//! The kernel's numbers of threads. In a PID namespace, as in a container, threads have other
//! numbers, and events have the kernel's. A signal that is ignored has no effect but an event, and
//! that event has the number of the thread that the signal was for.

use std::fs;
use std::io;

use super::instance::{INITIAL_NAMESPACE, Instance, pid_namespace};
use super::tracepoint::Tracepoint;
use proactor::os::procfs;
use proactor::os::signal_thread;
use proactor_record::Clock;

/// Signals that are ignored by default.
const IGNORED: [i32; 3] = [libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD];
/// The size of the buffers for the events, of all CPUs together.
const BYTES: usize = 1 << 20;

/// Returns the threads of a process, each with its number here and the kernel's number.
///
/// # Errors
/// The process does not exist or is not visible; or the kernel's numbers cannot be found.
pub(super) fn thread_numbers(pid: u32) -> io::Result<Vec<(i32, i32)>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    let threads = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut threads: Vec<i32> = threads.collect();
    threads.sort_unstable();
    match pid_namespace() {
        INITIAL_NAMESPACE => Ok(threads.into_iter().map(|thread| (thread, thread)).collect()),
        _ => numbers_by_signal(pid, &threads),
    }
}

/// Finds the kernel's numbers of threads in a PID namespace.
fn numbers_by_signal(pid: u32, threads: &[i32]) -> io::Result<Vec<(i32, i32)>> {
    let mut instance = Instance::new(&[Tracepoint::Signal], Clock::Nanos, BYTES)?;
    // The first is from this thread to itself: it shows which events are of this sender.
    let me = std::process::id();
    let mut sent = Vec::new();
    for (pid, thread) in [(me, me as i32)].into_iter().chain(threads.iter().map(|&it| (pid, it))) {
        // A thread may end at any time.
        if let Some(signal) = ignored_signal(pid, thread)
            && signal_thread(pid as i32, thread, signal).is_ok()
        {
            sent.push((thread, signal));
        }
    }
    let events = instance.finish()?;
    let sender = events.iter().find(|event| event.own[1] as i32 == event.thread);
    let ours = events.iter().filter(|event| sender.is_some_and(|it| it.thread == event.thread));
    let numbers: Vec<_> = ours.map(|event| (event.own[0] as i32, event.own[1] as i32)).collect();
    let same = |(sent, event): (&(i32, i32), &(i32, i32))| sent.1 == event.0;
    if sent.len() < 2 || sent.len() != numbers.len() || !sent.iter().zip(&numbers).all(same) {
        let why = format!(
            "this is a PID namespace, and the kernel's numbers of the threads of process {pid} \
             cannot be found: run it outside of the container"
        );
        return Err(io::Error::other(why));
    }
    let both = sent.iter().zip(numbers).map(|((thread, _), (_, number))| (*thread, number));
    Ok(both.skip(1).collect())
}

/// A signal that has no effect on a thread: it is neither handled nor blocked, and no debugger sees
/// it.
fn ignored_signal(pid: u32, thread: i32) -> Option<i32> {
    let status = procfs::read(format!("/proc/{pid}/task/{thread}/status"))?;
    let mask = |name| u64::from_str_radix(procfs::field(&status, name)?, 16).ok();
    let (caught, blocked) = (mask("SigCgt")?, mask("SigBlk")?);
    let is_free = |signal: &i32| (caught | blocked) >> (signal - 1) & 1 == 0;
    let is_traced = procfs::number(&status, "TracerPid") != Some(0);
    IGNORED.into_iter().find(|signal| is_free(signal) && !is_traced)
}
