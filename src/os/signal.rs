//! Signals: how a loop is asked to stop, and how a thread that sleeps in a call is woken.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

use super::count_call;
use crate::error::SendError;
use crate::mailbox::{Mailbox, PostedRequest};

/// A counter (an eventfd) that one thread waits for as for any descriptor, and any may add to.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Creates a counter at zero.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<EventFd> {
        let fd = syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds one to the counter.
    pub fn notify(&self) {
        count_call();
        add(self.0.as_raw_fd(), 1);
    }

    /// Returns the counter, and sets it to zero.
    pub fn take(&self) -> u64 {
        let mut count = 0u64;
        // `count` is eight writable bytes, all that an eventfd ever writes.
        match syscall!(read(self.0.as_raw_fd(), (&raw mut count).cast(), 8)) {
            Ok(_) => count,
            Err(_) => 0, // It was not: the eventfd does not block.
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reaches a loop from any thread: an [`EventFd`], which signal handlers write to, and what is
/// asked of its connections. Its clones reach the same loop.
#[derive(Debug, Clone)]
pub struct ShutdownSignal(Arc<Reached>);

#[derive(Debug)]
struct Reached {
    event: EventFd,
    mailbox: Mailbox,
}

/// What is added to the eventfd to ask a loop to stop.
pub(super) const STOP: u64 = 1;
/// What is added to it to make the loop run one iteration, without a request.
const WAKE: u64 = 1 << 32;

/// Where the signal handlers write to; -1 before [`ShutdownSignal::on_signals`].
pub(super) static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

impl ShutdownSignal {
    /// A counter at zero.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<ShutdownSignal> {
        let reached = Reached { event: EventFd::new()?, mailbox: Mailbox::default() };
        Ok(ShutdownSignal(Arc::new(reached)))
    }

    /// From now on SIGTERM, SIGINT, SIGQUIT, SIGHUP and SIGXCPU ask this one to stop. Of several,
    /// the last is asked. SIGINT and SIGQUIT stay ignored if they are, as in the background of a
    /// script; SIGHUP and SIGXCPU keep any other disposition than the default, as that of nohup(1).
    /// A signal that was blocked by the parent is unblocked in this thread: call it before there
    /// are others.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn on_signals(&self) -> io::Result<()> {
        // The handler's descriptor is its own and is never closed: a signal may come at any time.
        let fd = self.0.event.0.try_clone()?;
        SIGNALLED.store(std::os::fd::IntoRawFd::into_raw_fd(fd), Ordering::Release);
        // Async-signal-safe: atomic operations, one write(2).
        ASKED.store(NOT_ASKED, Ordering::Release);
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            if disposition(signal)? != libc::SIG_IGN {
                handle_with_sender(signal)?;
            }
        }
        for signal in [libc::SIGHUP, libc::SIGXCPU] {
            if disposition(signal)? == libc::SIG_DFL {
                handle_with_sender(signal)?;
            }
        }
        handle_with_sender(libc::SIGTERM)
    }

    /// Asks to stop: the first time to drain, the second to end at once.
    pub fn request(&self) {
        add(self.0.event.0.as_raw_fd(), STOP);
    }

    /// How often it was asked since this was last called; not at all, if it was only woken.
    pub fn take(&self) -> u64 {
        let times = self.0.event.take() % WAKE;
        answer_refused(); // After the event: a signal that comes now wakes the loop again.
        times
    }

    /// Asks something of the connections, and wakes the loop, unless it is refused.
    pub(crate) fn post(&self, request: PostedRequest) -> Result<(), SendError> {
        if self.0.mailbox.post(request)? {
            add(self.0.event.0.as_raw_fd(), WAKE);
        }
        Ok(())
    }

    /// Returns what [`take`](ShutdownSignal::take) does, and what was asked of the connections. In
    /// this order: else the loop would sleep while something is asked.
    pub fn take_all(&self) -> (u64, Vec<PostedRequest>) {
        let times = self.take();
        (times, self.0.mailbox.take())
    }

    /// Refuses all that is asked of connections from now on.
    pub fn refuse_posts(&self) {
        self.0.mailbox.close();
    }
}

impl AsFd for ShutdownSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// From now on SIGUSR2 stops and starts the recording instead of ending the process. It wakes the
/// loop whose [`ShutdownSignal`] receives [signals](ShutdownSignal::on_signals), whichever thread
/// gets the signal, and also if it comes just before the loop sleeps (kernel-notes §52).
///
/// # Errors
/// sigaction(2), never for this signal.
pub fn count_usr2() -> io::Result<()> {
    // Async-signal-safe: an addition, a load, one write(2).
    handle(libc::SIGUSR2, on_usr2)
}

/// From now on a recording says when SIGCONT came: the process was stopped until then.
///
/// # Errors
/// sigaction(2), never for this signal.
pub fn record_stops() -> io::Result<()> {
    // Async-signal-safe: an addition.
    extern "C" fn on_continued(_: libc::c_int) {
        proactor_record::sys::note_continued();
    }
    dispose(libc::SIGCONT, on_continued as *const () as libc::sighandler_t, libc::SA_RESTART)
}

/// A signal without a meaning that has come and was not answered: SIGUSR1, SIGUSR2.
static UNANSWERED: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

/// Lets the log answer SIGUSR1 or SIGUSR2, instead of the end of the process. The loop that is
/// asked to stop by [signals](ShutdownSignal::on_signals) writes the line: a handler could sleep
/// in a write to a pipe that is not read.
///
/// # Errors
/// sigaction(2), never for these signals.
pub fn refuse_signal(signal: libc::c_int) -> io::Result<()> {
    // Async-signal-safe: a store, a load, one write(2).
    extern "C" fn on_refused(signal: libc::c_int) {
        UNANSWERED[usize::from(signal == libc::SIGUSR2)].store(true, Ordering::Release);
        add(SIGNALLED.load(Ordering::Acquire), WAKE);
    }
    handle(signal, on_refused)
}

/// Logs an answer to each signal without a meaning that has come.
fn answer_refused() {
    if UNANSWERED[0].swap(false, Ordering::AcqRel) {
        tracing::warn!("SIGUSR1 ignored: it has no meaning here");
    }
    if UNANSWERED[1].swap(false, Ordering::AcqRel) {
        tracing::warn!("SIGUSR2 ignored: this server does not record; start it with --trace");
    }
}

extern "C" fn on_usr2(_: libc::c_int) {
    proactor_record::sys::toggle_recording();
    add(SIGNALLED.load(Ordering::Acquire), WAKE);
}

/// Ignores the signals that end a process by default, that have no meaning for a server, and that
/// are not sent for a fault of its own: timers, SIGIO, SIGPWR, SIGSTKFLT, SIGXFSZ (a write beyond
/// the limit fails) and the real-time signals. One that has another disposition keeps it.
///
/// # Errors
/// sigaction(2), never for these signals.
pub fn ignore_stray_signals() -> io::Result<()> {
    let named = [
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXFSZ,
    ];
    for signal in named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        if disposition(signal)? == libc::SIG_DFL {
            dispose(signal, libc::SIG_IGN, 0)?;
        }
    }
    Ok(())
}

/// Which signals have asked to stop: a `NOT_ASKED`, `HUNG_UP` or `ENDED`.
static ASKED: AtomicU8 = AtomicU8::new(NOT_ASKED);
const NOT_ASKED: u8 = 0;
/// SIGHUP or SIGXCPU alone.
const HUNG_UP: u8 = 1;
/// SIGTERM, SIGINT or SIGQUIT.
const ENDED: u8 = 2;

/// The last signal that asked to stop, and that another process sent; zero if the terminal did.
static LAST: AtomicI32 = AtomicI32::new(0);

/// The last signal that asked to stop, if children have not received it as well: a terminal sends
/// its signals to all processes in the foreground.
pub fn signal_to_forward() -> Option<libc::c_int> {
    Some(LAST.load(Ordering::Acquire)).filter(|signal| *signal != 0)
}

/// A terminal that closes, its shell and a service manager each send a SIGHUP of their own, before
/// or behind SIGTERM, and the kernel repeats SIGXCPU: only two of the other signals are a second
/// request.
extern "C" fn on_signal(signal: libc::c_int, info: *const libc::siginfo_t, _: *const libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the information on its signal.
    let is_of_terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    LAST.store(if is_of_terminal { 0 } else { signal }, Ordering::Release);
    let asks = if [libc::SIGHUP, libc::SIGXCPU].contains(&signal) { HUNG_UP } else { ENDED };
    match (ASKED.fetch_max(asks, Ordering::AcqRel), asks) {
        (NOT_ASKED, _) | (ENDED, ENDED) => add(SIGNALLED.load(Ordering::Acquire), STOP),
        _ => {}
    }
}

pub(super) fn add(fd: RawFd, number: u64) {
    // SAFETY: `number` is eight readable bytes. write(2) is async-signal-safe; errno may change, so
    // a handler that could interrupt a failed call would have to save it: here std has read
    // errno before any code of ours runs, or restarts the call for EINTR.
    unsafe { libc::write(fd, (&raw const number).cast(), 8) };
}

/// Has `handler`, which is async-signal-safe, handle a signal. Calls that it interrupts are not
/// restarted: no flags. The signal is unblocked in this thread, and those that it creates: a mask
/// survives exec (kernel-notes §71).
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    dispose(signal, handler as libc::sighandler_t, 0)?;
    change_mask(libc::SIG_UNBLOCK, &set_of(&[signal])?).map(drop)
}

/// As [`handle`], by [`on_signal`].
fn handle_with_sender(signal: libc::c_int) -> io::Result<()> {
    dispose(signal, on_signal as *const () as libc::sighandler_t, libc::SA_SIGINFO)?;
    change_mask(libc::SIG_UNBLOCK, &set_of(&[signal])?).map(drop)
}

/// Returns the disposition of a signal.
fn disposition(signal: libc::c_int) -> io::Result<libc::sighandler_t> {
    // SAFETY: all-zero is a valid sigaction, to be filled by the call.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // `action` is written to during the call; nothing is set.
    syscall!(sigaction(signal, std::ptr::null(), &mut action))?;
    Ok(action.sa_sigaction)
}

/// Sets the disposition of a signal: a handler as of [`handle`], `SIG_IGN` or `SIG_DFL`.
pub(super) fn dispose(
    signal: libc::c_int,
    disposition: libc::sighandler_t,
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (disposition, flags);
    // `action` is read during the call; what was there before is not asked for.
    syscall!(sigaction(signal, &action, std::ptr::null_mut())).map(drop)
}

/// Changes this thread's mask of signals, and returns the old one; `how` is a `SIG_*`.
pub(super) fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    // SAFETY: all-zero is a valid set of signals, to be filled by the call.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    count_call();
    // SAFETY: `set` is read and `before` is written to during the call. It returns its error.
    match unsafe { libc::pthread_sigmask(how, set, &mut before) } {
        0 => Ok(before),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Returns a signalfd(2) of these signals, and blocks them in this thread for good.
///
/// # Errors
/// No descriptor is left.
pub(super) fn blocked_signals(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = set_of(signals)?;
    change_mask(libc::SIG_BLOCK, &set)?;
    // `set` is read during the call.
    let fd = syscall!(signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the set of these signals.
pub(super) fn set_of(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: all-zero is a valid set of signals.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // `set` is written to during the calls; the numbers are those of signals.
    syscall!(sigemptyset(&mut set))?;
    for &signal in signals {
        syscall!(sigaddset(&mut set, signal))?;
    }
    Ok(set)
}

// Waking a thread that sleeps in a call.

/// From now on [`interrupt`] ends the call that a thread sleeps in: its signal gets a handler, for
/// the whole process, that does nothing.
///
/// # Errors
/// sigaction(2), never for this signal.
pub fn allow_interrupts() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    handle(INTERRUPT, nothing)
}

/// Ends the call that a thread sleeps in with `Interrupted`; if it sleeps in none just then,
/// the signal has no effect. So a caller interrupts a thread again and again, until the thread says
/// that it has noticed. Does nothing before [`allow_interrupts`].
pub fn interrupt<T>(thread: &std::thread::JoinHandle<T>) {
    use std::os::unix::thread::JoinHandleExt;
    count_call();
    // SAFETY: the thread is named by a handle through which it can still be joined, so its name is
    // its own even if it has ended; then nothing is sent.
    unsafe { libc::pthread_kill(thread.as_pthread_t() as _, INTERRUPT) };
}

/// Sends a signal to a thread of a process.
///
/// # Errors
/// tgkill(2): there is no such thread, or it is not permitted.
pub fn signal_thread(process: i32, thread: i32, signal: libc::c_int) -> io::Result<()> {
    // Takes numbers alone.
    syscall!(syscall(libc::SYS_tgkill, process, thread, signal)).map(drop)
}

/// Unhandled it is ignored, no program waits for it, and one too many means nothing: it is the
/// signal that Go's runtime took for the same purpose.
pub(super) const INTERRUPT: libc::c_int = libc::SIGURG;

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::keys::ConnId;
    use crate::mailbox::SharedPeer;

    #[test]
    fn a_loop_does_not_sleep_while_something_is_asked() {
        const POSTS: usize = 200_000;
        let signal = ShutdownSignal::new().unwrap();
        let post = signal.clone();
        let peer = Arc::new(SharedPeer::new(ConnId::new(0, 0), true));
        let poster = thread::spawn(move || {
            for _ in 0..POSTS {
                assert_eq!(post.post(PostedRequest::Wake(Arc::clone(&peer))), Ok(()));
            }
        });
        let mut taken = 0;
        while taken < POSTS {
            let events = libc::POLLIN;
            let mut asked = [libc::pollfd { fd: signal.as_fd().as_raw_fd(), events, revents: 0 }];
            let ready = crate::os::poll(&mut asked, Some(Duration::from_secs(10))).unwrap();
            assert_eq!(ready, 1, "it sleeps, and {} are left", POSTS - taken);
            let (times, posted) = signal.take_all();
            assert_eq!(times, 0);
            taken += posted.len();
        }
        poster.join().unwrap();
    }
}
