//! The tracing options of `serve`, and what writes a trace beside the server.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context, bail, ensure};

use super::output::{cannot_write, is_stdout};
use super::stream::{Stream, StreamWait};
use super::trace::{EventFormat, follow_to_end};
use super::{number, usage_error};
use proactor::os::process::{self, Alone};
use proactor::os::shared::SharedNumbers;
use proactor::{Model, os};
use proactor_record::sys;
use proactor_trace::kernel::{KernelRecorder, sidecar_path};
use proactor_trace::{Filter, Follow, Level, Recording, Settings, StopTrigger};

/// The tracing options of a server.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct RecordArgs {
    /// Record every submission, completion, wait and system call into FILE (read it with
    /// `proactor trace`; it survives SIGKILL), or print them: on stderr without FILE, on standard
    /// output if FILE is -. SIGUSR2 stops the recording, and starts it again
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    trace: Option<Option<PathBuf>>,

    /// Read the clock once per `batch` (before and after each wait) or for each `record`. The
    /// models coroutine, thread, process and blocking have no batches: each record has its time
    #[arg(long, value_name = "LEVEL", default_value = "batch", value_parser = level,
          requires = "trace")]
    trace_clock: Level,

    /// Size of the trace: 64M holds two million records. When it is full, the oldest are
    /// overwritten. Rounded down to a power of two
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = trace_size,
          requires = "trace")]
    trace_size: u64,

    /// Record one connection of N, from accept to close
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1, 1 << 31),
          requires = "trace")]
    trace_sample: u32,

    /// Stop recording at the first: p99>1ms (the latency of operations), error, overflow (of the
    /// completion queue) or signal (SIGUSR2), so that the events before it are kept. Repeatable
    #[arg(long, value_name = "WHAT", requires = "trace")]
    trace_trigger: Vec<StopTrigger>,

    /// Also record kernel events into FILE.kernel: when data arrived, when each completion was
    /// posted, the work of kernel threads. Needs root
    #[arg(long, requires = "trace")]
    kernel_events: bool,
}

impl RecordArgs {
    /// Returns the destination of the recording, if it is named.
    pub(super) fn path(&self) -> Option<&Path> {
        self.trace.as_ref()?.as_deref()
    }

    /// Returns true if kernel events are recorded too.
    pub(super) fn kernel_events(&self) -> bool {
        self.kernel_events
    }

    /// From now on SIGUSR2 stops and starts the recording, what has no meaning is ignored or says
    /// so, and a recording that cannot be written stops alone, without the server.
    ///
    /// # Errors
    /// sigaction(2), never for these signals.
    pub(super) fn handle_signals(&self) -> io::Result<()> {
        os::ignore_stray_signals()?;
        os::refuse_signal(libc::SIGUSR1)?;
        if self.trace.is_none() {
            return os::refuse_signal(libc::SIGUSR2);
        }
        proactor_record::survive_lost_files()?;
        os::record_stops()?;
        os::count_usr2()
    }

    /// Creates the trace file, if there is a recording.
    ///
    /// # Errors
    /// The file cannot be created, or kernel events cannot be recorded.
    pub(super) fn prepare(&self, model: Model) -> anyhow::Result<(Option<Recording>, TraceOutput)> {
        let mut output = TraceOutput::default();
        if self.trace.is_none() {
            return Ok((None, output));
        }
        let path = self.file();
        self.check(model)?;
        // Before the file is created, so that a failure leaves no file.
        let tracepoints = self.kernel_events.then(|| KernelRecorder::prepare(None)).transpose()?;
        let file = match path {
            Some(path) => create(path)?,
            None => {
                let file =
                    os::memory_file(c"proactor.trace").context("cannot allocate the trace")?;
                // Opened again, so that it sees the lock of the recorder.
                let live = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let live = live.context("cannot read the trace in memory: use --trace=FILE")?;
                output.live = Some((live, self.path().is_some()));
                file
            }
        };
        let bytes = 1 << self.trace_size.ilog2();
        if bytes < self.trace_size {
            let (asked, rounded) = (self.trace_size, "is rounded down to a power of two");
            tracing::warn!("--trace-size {asked} {rounded}: {bytes} bytes");
        }
        let settings = Settings {
            bytes,
            level: self.trace_clock,
            sample: self.trace_sample,
            triggers: self.trace_trigger.clone(),
            clock: None,
        };
        if let Some((path, tracepoints)) = path.zip(tracepoints) {
            let file = create(&sidecar_path(path))?;
            output.kernel = Some(KernelRecorder::start(tracepoints, file, &settings)?);
        }
        Ok((Some(Recording { file, settings }), output))
    }

    /// Returns the file of the recording, if it has one.
    fn file(&self) -> Option<&Path> {
        self.path().filter(|path| !is_stdout(path))
    }

    /// Refuses options that do not fit to each other, or to the model.
    ///
    /// # Errors
    /// Wrong usage.
    pub(super) fn check(&self, model: Model) -> anyhow::Result<()> {
        if self.kernel_events && model != Model::URING {
            let wrong = format!("--kernel-events is only for uring: {model} has no ring");
            bail!(usage_error(&wrong));
        }
        if self.kernel_events && self.file().is_none() {
            bail!(usage_error("--kernel-events needs a trace file: write --trace=FILE"));
        }
        let mut triggers = self.trace_trigger.iter();
        let vague = self.trace_clock == Level::Batch
            && model != Model::URING
            && model.info().has_iterations();
        if let Some(old) = triggers.find(|one| vague && matches!(one, StopTrigger::Age { .. })) {
            let wrong = format!(
                "--trace-trigger '{old}' needs the duration of each call, and with {model} the clock \
                 is read once per batch: add --trace-clock record"
            );
            bail!(usage_error(&wrong));
        }
        Ok(())
    }
}

/// What prints a trace, and what records the kernel events, while the server runs.
#[derive(Default)]
pub(super) struct TraceOutput {
    /// The trace to print, and whether standard output is the destination.
    live: Option<(File, bool)>,
    kernel: Option<KernelRecorder>,
    printer: Option<Printer>,
}

/// Waits for the end of the printing, which is that of the recorder: from then on, the printer does
/// not wait long for a reader.
type Printer = Box<dyn FnOnce()>;

/// A number that becomes one when the recording has ended, also for a child process.
type RecordingEnd = Arc<SharedNumbers>;

impl TraceOutput {
    /// Starts the printer for this model, if the trace is printed. Its failure is not a failure of
    /// the server.
    pub(super) fn start(&mut self, model: Model) {
        let Some((live, to_stdout)) = self.live.take() else { return };
        let start = if model.info().forks() { print_in_child } else { print_in_thread };
        let warn = |error: &io::Error| tracing::warn!("cannot print the trace: {error}");
        let started = SharedNumbers::map(1).map(Arc::new).and_then(|end| {
            let wait = start(live, to_stdout, end.clone())?;
            let finish = move || {
                end[0].store(1, Ordering::Release);
                wait();
            };
            Ok(Box::new(finish) as Printer)
        });
        self.printer = started.inspect_err(warn).ok();
    }

    /// Waits until everything is printed and recorded.
    pub(super) fn finish(self) {
        if let Some(Err(error)) = self.kernel.map(KernelRecorder::finish) {
            tracing::warn!("the recording of kernel events is incomplete: {error:#}");
        }
        self.printer.into_iter().for_each(|wait| wait());
    }
}

fn print_in_thread(live: File, to_stdout: bool, end: RecordingEnd) -> io::Result<Printer> {
    let thread = thread::Builder::new().name("trace".to_owned());
    let thread = thread.spawn(move || print(live, to_stdout, end))?;
    Ok(Box::new(move || assert!(thread.join().is_ok(), "the printer does not panic")))
}

/// Prints in a child process, because a server with a second thread cannot fork. It ends with its
/// parent.
fn print_in_child(live: File, to_stdout: bool, end: RecordingEnd) -> io::Result<Printer> {
    let keep = [live.as_raw_fd()];
    let child = move |_| u8::from(!print(live, to_stdout, end));
    let child = process::fork(&Alone::check()?, &keep, child)?;
    Ok(Box::new(move || match process::wait(child) {
        // A printer that failed has reported the reason.
        Ok(status) if status.signal().is_none() => {}
        Ok(status) => warn_incomplete(&format!("the printer ended: {status}")),
        Err(error) => warn_incomplete(&error.to_string()),
    }))
}

/// Prints a trace to its end. Reports a failure, and returns false then.
fn print(live: File, to_stdout: bool, end: RecordingEnd) -> bool {
    let (waits, all) = (StreamWait::UntilSet(end), Filter::default());
    let print = |follow| match to_stdout {
        true => follow_to_end(follow, &all, EventFormat::default(), &mut Stream::stdout(waits)?),
        false => follow_to_end(
            follow,
            &all,
            EventFormat::default(),
            &mut Stream::new(io::stderr(), waits),
        ),
    };
    let printed = Follow::new(live, false).map_err(anyhow::Error::from).and_then(print);
    printed.inspect_err(|error| warn_incomplete(&format!("{error:#}"))).is_ok()
}

fn warn_incomplete(why: &str) {
    tracing::warn!("the printed trace is incomplete: {why}");
}

/// Creates a file that no other server records into.
fn create(path: &Path) -> anyhow::Result<File> {
    let create = || {
        // Not truncated here: only after the checks below, by the recorder.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        ensure!(file.metadata()?.is_file(), "not a regular file");
        // The recorder takes the lock again; this check reports the name of the file.
        ensure!(sys::lock(file.as_fd())?, "another server is recording into it");
        Ok(file)
    };
    create().with_context(|| cannot_write(path))
}

fn level(text: &str) -> Result<Level, String> {
    let found = Level::ALL.iter().find(|level| level.name() == text);
    found.copied().ok_or_else(|| "write batch or record".to_owned())
}

fn trace_size(text: &str) -> Result<u64, String> {
    size(text, 128 << 10, 64 << 30)
}

/// Parses a number of bytes, as `64M`.
pub(super) fn size(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let mut units = [("K", 10), ("M", 20), ("G", 30)].into_iter();
    let with_unit = units.find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = with_unit.unwrap_or((text, 0));
    let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
    let bytes = bytes.filter(|bytes| (least..=most).contains(bytes));
    bytes.ok_or_else(|| {
        let [least, most] = [least, most].map(short_size);
        format!("invalid size `{text}`: write 64M or 1G, from {least} to {most}")
    })
}

/// Formats a number of bytes as it may be written: `64M`.
fn short_size(bytes: u64) -> String {
    let unit = match bytes.trailing_zeros() {
        30.. => ("G", 30),
        20.. => ("M", 20),
        10.. => ("K", 10),
        _ => ("", 0),
    };
    format!("{}{}", bytes >> unit.1, unit.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_their_unit() {
        assert_eq!(trace_size("64M"), Ok(64 << 20));
        assert_eq!(trace_size("131072"), Ok(128 << 10));
        for wrong in ["", "M", "-1M", "64m", "127K", "65G", "99999999999999999999G"] {
            assert!(trace_size(wrong).is_err(), "{wrong}");
        }
    }
}
