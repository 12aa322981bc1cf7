//! Writes to streams whose readers may be slow, stopped or gone.
//!
//! Another process may share the open file, so its flags are left alone: a stream that does not
//! block (node and ssh make such) is waited for, and one that blocks is written to in pieces that a
//! pipe takes at once when it is ready for writing.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::closed::stdout_was_closed;
use proactor::os::shared::SharedNumbers;
use proactor::os::{self, ShutdownSignal};

/// The time that a program waits at its end for a stream that takes nothing.
pub(crate) const AWAIT_END: Duration = Duration::from_millis(500);

/// How long a write waits for a stream that takes nothing.
#[derive(Debug, Clone)]
pub(crate) enum StreamWait {
    Forever,
    /// Until the signal that stops the command, and [`AWAIT_END`] more.
    UntilStopped,
    AtMost(Duration),
    /// Until this number is set, and [`AWAIT_END`] more.
    UntilSet(Arc<SharedNumbers>),
}

/// The signal that stops this command, if it handles signals.
static STOP: OnceLock<ShutdownSignal> = OnceLock::new();
/// Set in a server: only a bounded wait is one that its end can afford.
static IS_SERVER: AtomicBool = AtomicBool::new(false);

/// Lets this signal end the waits of this command.
pub(super) fn stop_by(signal: &ShutdownSignal) {
    let _ = STOP.set(signal.clone());
}

/// From now on, results wait for a bounded time.
pub(super) fn bound_waits() {
    IS_SERVER.store(true, Ordering::Relaxed);
}

/// Returns true in a server.
pub(super) fn is_server() -> bool {
    IS_SERVER.load(Ordering::Relaxed)
}

impl StreamWait {
    /// Returns the wait of a result of this command.
    pub(super) fn of_result() -> StreamWait {
        if is_server() { StreamWait::AtMost(AWAIT_END) } else { StreamWait::UntilStopped }
    }
}

/// A stream that is written to without a buffer: a file, or a standard stream.
#[derive(Debug)]
pub(crate) struct Stream<F> {
    file: F,
    /// What its errors begin with.
    cannot: &'static str,
    pub(super) wait: StreamWait,
}

impl Stream<io::Stdout> {
    /// Writes to standard output; its errors name it.
    ///
    /// # Errors
    /// It is closed.
    pub(crate) fn stdout(wait: StreamWait) -> io::Result<Stream<io::Stdout>> {
        let cannot = "cannot write to standard output: ";
        match stdout_was_closed() {
            true => Err(named(cannot, &io::Error::other("it is closed"))),
            false => Ok(Stream { file: io::stdout(), cannot, wait }),
        }
    }
}

impl<F: AsFd> Stream<F> {
    /// Writes to this file.
    pub(super) fn new(file: F, wait: StreamWait) -> Stream<F> {
        Stream { file, cannot: "", wait }
    }

    /// Returns true if nothing but the reader ends a wait: then the write itself may sleep.
    fn may_sleep(&self) -> bool {
        match self.wait {
            StreamWait::Forever => true,
            StreamWait::UntilStopped => STOP.get().is_none(),
            _ => false,
        }
    }

    /// Waits until the file takes bytes, or has failed.
    fn await_takes(&self) -> io::Result<()> {
        let deadline = match self.wait {
            StreamWait::AtMost(time) => Some(Instant::now() + time),
            _ => None,
        };
        let stop = STOP.get().filter(|_| matches!(self.wait, StreamWait::UntilStopped));
        let fd = self.as_raw_fd();
        // A negative descriptor is left out.
        let stop = stop.map_or(-1, |stop| stop.as_fd().as_raw_fd());
        loop {
            let mut asked = [
                libc::pollfd { fd, events: libc::POLLOUT, revents: 0 },
                libc::pollfd { fd: stop, events: libc::POLLIN, revents: 0 },
            ];
            let (timeout, is_last) = match &self.wait {
                StreamWait::UntilSet(set) => (Some(AWAIT_END), set[0].load(Ordering::Acquire) > 0),
                _ => (deadline.map(|at| at.saturating_duration_since(Instant::now())), false),
            };
            let (ready, [file, _]) = (os::poll(&mut asked, timeout)? > 0, asked);
            let over = is_last || deadline.is_some_and(|at| at <= Instant::now());
            match ready {
                true if file.revents != 0 => return Ok(()),
                // It is full for the moment, or for good.
                true if os::poll(&mut asked[..1], Some(AWAIT_END))? > 0 => return Ok(()),
                true => return Err(io::Error::other("stopped by a signal while it is not read")),
                false if over => return Err(io::Error::new(io::ErrorKind::TimedOut, "not read")),
                false => {} // A signal has interrupted the call, or there is time left.
            }
        }
    }
}

impl<F: AsFd> Write for Stream<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = if self.may_sleep() { bytes } else { piece(bytes) };
        loop {
            let written = self.await_takes().and_then(|()| os::write(self.as_fd(), piece));
            match written {
                // Another process has taken the space: it is waited for again, if at all.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && !matches!(self.wait, StreamWait::AtMost(Duration::ZERO)) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|error| named(self.cannot, &error)),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds the name of the stream to an error. The kind stays, so that a broken pipe is recognised.
fn named(cannot: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{cannot}{error}"))
}

impl<F: AsFd> AsRawFd for Stream<F> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<F: AsFd> AsFd for Stream<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns what a pipe takes at once: whole lines, if they are short.
fn piece(bytes: &[u8]) -> &[u8] {
    let piece = &bytes[..bytes.len().min(libc::PIPE_BUF)];
    if piece.len() == bytes.len() {
        return piece;
    }
    let lines = piece.iter().rposition(|&byte| byte == b'\n').map(|at| &piece[..=at]);
    lines.unwrap_or(piece)
}

/// Waits until a file is ready, has failed or is closed. Returns false after the timeout.
pub(crate) fn await_ready(
    file: &impl AsFd,
    events: libc::c_short,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    loop {
        let ready = os::poll(&mut [libc::pollfd { fd, events, revents: 0 }], timeout)? > 0;
        // Without a timeout, nothing ready means that a signal interrupted the call.
        if ready || timeout.is_some() {
            return Ok(ready);
        }
    }
}
