//! Standard error, whose reader may be slow, stopped or gone.
//!
//! A command waits for it at most half a second, and once. A server does not wait: its lines go
//! into a pipe of its own, which never blocks, and a thread writes them to standard error and alone
//! sleeps there. The thread starts with the first line. The model `process` forks and so has no
//! second thread: a child process is the writer, of the lines of all other processes too.
//!
//! ```text
//!   loop, thread, child ──► pipe ──► LogWriter ──► standard error
//! ```
//!
//! What the pipe or standard error does not take is dropped, and the next line is preceded by one
//! that says how many were.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::CStr;
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{panic, thread};

use super::repeats::{LineKind, Repeats};
use super::stream::{AWAIT_END, Stream, StreamWait, await_ready};
use proactor::os;
use proactor::os::process::{self, Alone};
use proactor::os::shared::SharedNumbers;

/// Bytes that the pipe holds, if the kernel permits: some thousand lines. Without that, 64 KiB.
const PIPE_SIZE: i32 = 1 << 20;

/// Prints a message on standard error. Characters that have an effect on a terminal are escaped.
macro_rules! note {
    ($($text:tt)*) => {
        $crate::commands::stderr::write(&(proactor::printable::escape(&format!($($text)*)) + "\n"))
    };
}
pub(crate) use note;

/// How long the end of a command looks at a time whether its log is written.
const LOOK: Duration = Duration::from_millis(10);

/// The name of the thread, or child, that writes.
const THREAD: &CStr = c"log";

/// The kind of a line that is never left out.
const UNIQUE: LineKind = LineKind { site: 0, message: 0 };
/// The kind of the record that ends the writer.
const END: LineKind = LineKind { site: 1, message: 0 };

/// How the lines are worded that the writer adds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wording {
    /// Returns the line that says how many were dropped.
    pub(super) dropped: fn(u64) -> String,
    /// Adds to a line how many of its kind were left out before it.
    pub(super) repeated: fn(&str, u64) -> String,
}

/// The pipe of the log of a server.
struct LogPipe {
    pipe: PipeWriter,
    /// The number of lines that were dropped since the last one that was written, and since the
    /// start, in all processes.
    dropped: SharedNumbers,
    /// True once a thread or a child writes what is in the pipe.
    has_writer: AtomicBool,
    /// Locked by the thread while it runs; `None` if a child has it.
    writer: Mutex<Option<LogWriter>>,
}

static LOG: OnceLock<LogPipe> = OnceLock::new();

/// Prints a text on standard error. A failure is not reported: there is no other place.
pub(crate) fn write(text: &str) {
    write_line(UNIQUE, text);
}

/// Prints a line, which is left out if it repeats others of its kind too often.
pub(super) fn write_line(kind: LineKind, text: &str) {
    match LOG.get() {
        Some(log) => log.write(kind, text),
        None => write_directly(text),
    }
}

/// Waits for standard error, unless it has not taken the last text either.
fn write_directly(text: &str) {
    static IS_TAKEN: AtomicBool = AtomicBool::new(true);
    let wait = if IS_TAKEN.load(Ordering::Relaxed) { AWAIT_END } else { Duration::ZERO };
    let mut stderr = Stream::new(io::stderr(), StreamWait::AtMost(wait));
    let written = stderr.write_all(text.as_bytes());
    IS_TAKEN.store(written.is_ok(), Ordering::Relaxed);
}

/// From now on this process, a server, waits for standard error no more. It is called when all is
/// set up, because the writer has the privileges of this moment. `forks` says that the server
/// forks: then a child is the writer.
///
/// # Errors
/// There can be no pipe or no child.
pub(super) fn never_wait(forks: bool, wording: Wording) -> io::Result<()> {
    let alone = forks.then(Alone::check).transpose()?;
    let (reader, pipe) = io::pipe()?;
    os::set_blocking(pipe.as_fd(), false)?;
    let _ = os::set_pipe_size(pipe.as_fd(), PIPE_SIZE);
    let stderr = Stream::new(io::stderr(), StreamWait::Forever);
    let (keep, pending) = ([reader.as_raw_fd()], BufReader::new(reader));
    let writer = LogWriter { pending, stderr, repeats: Repeats::default(), wording };
    let (dropped, writer) = (SharedNumbers::map(2)?, Mutex::new(Some(writer)));
    let log = LogPipe { pipe, dropped, has_writer: AtomicBool::new(forks), writer };
    let log = LOG.get_or_init(|| log);
    if let Some(alone) = alone {
        let mut writer = lock(&log.writer).take();
        let forked = process::fork(&alone, &keep, |_| {
            process::set_name(THREAD);
            writer.iter_mut().for_each(|it| it.run(StreamWait::Forever, false, &log.dropped));
            0
        });
        // The writer itself has none: the pipe ends when no other process is left, however that
        // comes about.
        process::keep_in_children(log.pipe.as_fd());
        if forked.is_err() {
            // The error itself is written by a thread, or at once.
            *lock(&log.writer) = writer;
            log.has_writer.store(false, Ordering::Release);
        }
        forked?;
    }
    Ok(())
}

/// Counts a line that is lost.
fn drops(dropped: &SharedNumbers) {
    dropped.iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
}

/// Returns how many lines of the log of this server were dropped.
pub(super) fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.dropped[1].load(Ordering::Relaxed))
}

/// Prints the message of a panic: in a server as an error of its log, because a panic of a protocol
/// ends one connection, and must not hold up the others.
pub(super) fn print_panic(info: &panic::PanicHookInfo<'_>) {
    let (thread, backtrace) = (thread::current(), Backtrace::capture());
    let text = format!("thread '{}' {info}", thread.name().unwrap_or("<unnamed>"));
    if backtrace.status() == BacktraceStatus::Captured {
        write(&format!("{text}\nstack backtrace:\n{backtrace}\n"));
    } else if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{text}");
    } else {
        write(&format!("{text}\n"));
    }
}

/// Writes what is left, for a bounded time. The writer ends.
pub(super) fn finish() {
    let Some(log) = LOG.get() else { return };
    // So many waits, and not one of that time: on a machine that is busy, or that was suspended,
    // the writer runs meanwhile as often as this does.
    let mut left = AWAIT_END.as_millis() / LOOK.as_millis();
    let mut await_pipe = |events| {
        while left > 0 {
            left -= 1;
            match await_ready(&log.pipe, events, Some(LOOK)) {
                Ok(false) => {}
                result => return result.is_ok(),
            }
        }
        false
    };
    // The end waits for space as the others do not.
    while let Err(error) = log.send(END, b"") {
        if error.kind() != io::ErrorKind::WouldBlock || !await_pipe(libc::POLLOUT) {
            return;
        }
    }
    match log.writer.try_lock() {
        // No thread was started, or could be.
        Ok(mut writer) if writer.is_some() => {
            let mut writer = writer.take().expect("it is some");
            writer.run(StreamWait::AtMost(AWAIT_END), false, &log.dropped);
        }
        // The pipe fails when the writer has closed it, at its end.
        _ => _ = await_pipe(0),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in front of each text in the pipe: its kind, and its length.
const HEADER: usize = 20;
/// Bytes of a text that the pipe takes whole, however many processes write: `PIPE_BUF` in all.
const TEXT_MAX: usize = libc::PIPE_BUF - HEADER;

impl LogPipe {
    fn write(&'static self, kind: LineKind, text: &str) {
        // A longer text, as a backtrace, is no line that could be left out.
        let kind = if text.len() > TEXT_MAX { UNIQUE } else { kind };
        let sent = text.as_bytes().chunks(TEXT_MAX).try_for_each(|part| self.send(kind, part));
        match sent.map_err(|error| error.kind()) {
            // The writer has ended, or was killed.
            Err(io::ErrorKind::BrokenPipe) => write_directly(text),
            Err(_) => drops(&self.dropped),
            Ok(()) => {}
        }
        if !self.has_writer.swap(true, Ordering::AcqRel) && self.start().is_err() {
            // There can be no thread for now: what standard error takes at once is written here.
            self.has_writer.store(false, Ordering::Release);
            if let Ok(mut writer) = self.writer.try_lock() {
                let wait = StreamWait::AtMost(Duration::ZERO);
                writer.iter_mut().for_each(|writer| writer.run(wait.clone(), true, &self.dropped));
            }
        }
    }

    /// Puts a record into the pipe, whole or not at all.
    fn send(&self, kind: LineKind, text: &[u8]) -> io::Result<()> {
        let (site, message) = (kind.site.to_le_bytes(), kind.message.to_le_bytes());
        let length = (text.len() as u32).to_le_bytes();
        let record = [&site[..], &message, &length, text].concat();
        (&self.pipe).write(&record).map(drop)
    }

    /// Starts the thread that writes.
    fn start(&'static self) -> io::Result<()> {
        let run = || {
            // Dropped at the end, which closes the pipe: `finish` waits for that.
            let mut writer = lock(&self.writer);
            writer.iter_mut().for_each(|it| it.run(StreamWait::Forever, false, &self.dropped));
            *writer = None;
        };
        thread::Builder::new().name(THREAD.to_string_lossy().into()).spawn(run).map(drop)
    }
}

/// Takes the lines from the pipe, and writes them to standard error.
struct LogWriter {
    pending: BufReader<PipeReader>,
    stderr: Stream<io::Stderr>,
    repeats: Repeats,
    wording: Wording,
}

impl LogWriter {
    /// Writes until the record of the end, or, if `at_once`, what is there now.
    fn run(&mut self, wait: StreamWait, at_once: bool, dropped: &SharedNumbers) {
        self.stderr.wait = wait;
        loop {
            let due = if at_once { Some(Instant::now()) } else { self.repeats.next_due() };
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let is_ready = self.is_ready(left);
            self.print_due(Some(Instant::now()), dropped);
            match is_ready.then(|| self.read()) {
                Some(Ok((END, _)) | Err(_)) => break,
                Some(Ok((kind, text))) => self.take(kind, text, dropped),
                None if at_once => return,
                None => {}
            }
        }
        self.print_due(None, dropped);
        self.print("", dropped);
    }

    fn is_ready(&self, timeout: Option<Duration>) -> bool {
        let pipe = self.pending.get_ref();
        !self.pending.buffer().is_empty()
            || await_ready(pipe, libc::POLLIN, timeout).unwrap_or(true)
    }

    fn read(&mut self) -> io::Result<(LineKind, String)> {
        let mut header = [0; HEADER];
        self.pending.read_exact(&mut header)?;
        let number = |at| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let kind = LineKind { site: number(0), message: number(8) };
        let length = u32::from_le_bytes(header[16..].try_into().expect("four bytes"));
        let mut text = vec![0; length as usize];
        self.pending.read_exact(&mut text)?;
        // A long text may be cut within a character.
        Ok((kind, String::from_utf8_lossy(&text).into_owned()))
    }

    fn take(&mut self, kind: LineKind, text: String, dropped: &SharedNumbers) {
        if kind == UNIQUE {
            self.print(&text, dropped);
        } else if let Some(text) = self.repeats.take(kind, text, Instant::now()) {
            self.print(&text, dropped);
        }
    }

    /// Prints the last of the lines that were left out and are due, or of all.
    fn print_due(&mut self, now: Option<Instant>, dropped: &SharedNumbers) {
        for (text, repeats) in self.repeats.due(now) {
            self.print(&(self.wording.repeated)(&text, repeats), dropped);
        }
    }

    fn print(&mut self, text: &str, dropped: &SharedNumbers) {
        let count = dropped[0].swap(0, Ordering::Relaxed);
        let note = if count > 0 { (self.wording.dropped)(count) } else { String::new() };
        if self.stderr.write_all((note + text).as_bytes()).is_err() {
            dropped[0].fetch_add(count, Ordering::Relaxed);
            if !text.is_empty() {
                drops(dropped);
            }
        }
    }
}
