//! What the recorder needs of the machine: clocks, a thread's number, a file in memory, a lock on a
//! file.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// The monotonic clock, in nanoseconds.
#[inline]
pub fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written to during the call; this clock exists on every Linux. Not a system
    // call: the vDSO answers.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The CPU's time stamp counter, where there is one that can be read without the kernel; elsewhere
/// the monotonic clock. [`cycles_are_even`] says whether it can serve as a clock.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 CPU has the instruction, and it touches no memory.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return monotonic();
}

/// Reads two clocks at one moment, as nearly as that can be: the thread may be interrupted between
/// the two, so the closest of some tries counts.
pub fn together(mut ticks: impl FnMut() -> u64, mut nanos: impl FnMut() -> u64) -> (u64, u64) {
    let tries = (0..4).map(|_| {
        let (before, ticks, after) = (nanos(), ticks(), nanos());
        (after - before, (ticks, before + (after - before) / 2))
    });
    tries.min_by_key(|(distance, _)| *distance).expect("there are some").1
}

/// Whether [`cycles`] can serve as a clock: it ticks at one rate, also in deep sleep, and the
/// kernel itself trusts it to be the same on all CPUs (`constant_tsc`, `nonstop_tsc`, clocksource
/// `tsc`).
pub fn cycles_are_even() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let cpus = read("/proc/cpuinfo");
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    cfg!(target_arch = "x86_64")
        && source.trim() == "tsc"
        && has("constant_tsc")
        && has("nonstop_tsc")
}

/// The wall clock: nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |span| span.as_nanos() as u64)
}

/// The calling thread's number, as gettid(2) returns it.
pub fn thread_id() -> u32 {
    // SAFETY: takes no argument and never fails.
    unsafe { libc::gettid() as u32 }
}

/// The kernel: its name, release, version and machine, as uname(2) returns them.
pub fn uname() -> String {
    let Some(names) = names() else { return "unknown".to_owned() };
    [&names.sysname[..], &names.release, &names.version, &names.machine].map(text).join(" ")
}

/// The name of this host.
pub(crate) fn host() -> String {
    names().map_or("unknown".to_owned(), |names| text(&names.nodename))
}

fn names() -> Option<libc::utsname> {
    // SAFETY: all-zero is a valid utsname: empty names.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is written to during the call, and each name ends with a zero.
    (unsafe { libc::uname(&mut names) } == 0).then_some(names)
}

fn text(field: &[libc::c_char]) -> String {
    field.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
}

/// A file in memory, without a name: it is gone with its last descriptor and mapping. `name` is
/// what `/proc/PID/fd` shows.
///
/// # Errors
/// memfd_create(2); Linux 3.17 and newer have it.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name ends with a zero and is read during the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and no other value owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes a write beyond the limit of a file's size (`ulimit -f`) fail with `EFBIG`, instead of
/// ending the process by SIGXFSZ.
///
/// # Errors
/// signal(2), never for this signal.
pub fn fail_large_writes() -> io::Result<()> {
    // SAFETY: an ignored signal calls nothing.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The path of an open file, as `/proc` has it, for a message.
pub(crate) fn file_name(file: &File) -> String {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.map_or("a file".to_owned(), |path| path.display().to_string())
}

/// How often recording was asked to stop or to go on; and two more each time the process was
/// continued, so that a record asks for one number.
static TOGGLES: AtomicU32 = AtomicU32::new(0);
/// How often the process was continued.
static CONTINUED: AtomicU32 = AtomicU32::new(0);

/// Asks every recorder of this process to stop, or to go on if it has stopped. A recorder does so
/// at its next iteration, a writer at its next record. Async-signal-safe, so that the handler of a
/// signal can call it.
pub fn toggle_recording() {
    TOGGLES.fetch_add(1, Ordering::Release);
}

/// Has every recorder of this process record that SIGCONT came: the process was stopped until now.
/// Async-signal-safe.
pub fn note_continued() {
    CONTINUED.fetch_add(1, Ordering::Relaxed);
    // Two requests cancel each other.
    TOGGLES.fetch_add(2, Ordering::Release);
}

/// What [`toggle_recording`] and [`note_continued`] have counted together.
#[inline]
pub(crate) fn toggles() -> u32 {
    TOGGLES.load(Ordering::Acquire)
}

/// How often [`note_continued`] was called.
pub(crate) fn continued() -> u32 {
    CONTINUED.load(Ordering::Relaxed)
}

/// Locks a file for this open file description, as long as any descriptor of it is open. Returns
/// false if another one has it: fcntl(2), `F_OFD_SETLK`, since Linux 3.15.
///
/// # Errors
/// The file is not open for writing, or its filesystem has no locks.
pub fn lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    match whole_file(file, libc::F_OFD_SETLK) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether another open file description, of any process, has [locked](lock) this file. The query
/// does not take the lock: `F_OFD_GETLK`.
///
/// # Errors
/// fcntl(2).
pub(crate) fn is_locked(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(whole_file(file, libc::F_OFD_GETLK)?.l_type != libc::F_UNLCK as libc::c_short)
}

/// Calls fcntl(2) with a lock on all of a file, for writing. Returns what it has made of the lock.
fn whole_file(file: BorrowedFd<'_>, command: libc::c_int) -> io::Result<libc::flock> {
    // SAFETY: all-zero is a valid flock: from 0, to the end, of no process, as OFD locks want it.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    whole.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: `file` is open, and `whole` is read and written to during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut whole) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(whole),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_interruption_between_two_clocks_does_not_count() {
        let (now, reads) = (Cell::new(1000), Cell::new(0));
        let read = || {
            // For a second, before the third read of all.
            let passes = if reads.replace(reads.get() + 1) == 2 { 1_000_000_000 } else { 10 };
            now.set(now.get() + passes);
            now.get()
        };
        let (ticks, nanos) = together(read, read);
        assert_eq!(ticks, nanos);
        assert!(ticks > 1_000_000_000, "it is one of the later tries");
    }
}
