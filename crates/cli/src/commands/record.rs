//! The tracing options of `serve`, and the thread that prints a trace.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};

use super::output::{is_stdout, stdout};
use super::trace::follow_to_end;
use super::{number, wrong_usage};
use proactor::Model;
use proactor::os;
use proactor::os::process::{self, Alone, Pid};
use proactor_record::sys;
use proactor_trace::kernel::{Instance, KernelRecorder, sidecar_path};
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
    /// overwritten
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size,
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

/// A recording that is ready to start.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The recording, for the model.
    pub(super) recording: Recording,
    /// The same file, opened again to print it.
    live: Option<File>,
    /// Records the kernel events.
    kernel: Option<KernelRecorder>,
}

impl RecordArgs {
    /// Returns true for `--trace=-`.
    pub(super) fn prints_on_stdout(&self) -> bool {
        matches!(&self.trace, Some(Some(path)) if is_stdout(path))
    }

    /// Creates the trace file, if there is a recording.
    ///
    /// # Errors
    /// The file cannot be created, or kernel events cannot be recorded.
    pub(super) fn prepare(&self, model: Model) -> anyhow::Result<Option<Prepared>> {
        let Some(path) = &self.trace else {
            os::refuse_usr2(
                "SIGUSR2 ignored: this server does not record; start it with --trace\n",
            )?;
            return Ok(None);
        };
        let path = path.as_deref().filter(|path| !is_stdout(path));
        if let Some(wrong) = self.conflict(model) {
            wrong_usage(&wrong);
        }
        // Before the file is created, so that a failure leaves no file.
        let tracepoints = self.kernel_events.then(|| KernelRecorder::prepare(None)).transpose()?;
        let (file, live) = match path {
            Some(path) => {
                (create(path).with_context(|| format!("cannot write {}", path.display()))?, None)
            }
            None => {
                let file =
                    os::memory_file(c"proactor.trace").context("cannot allocate the trace")?;
                // Opened again, so that it sees the lock of the recorder.
                let live = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
                    .context("cannot read the trace in memory: use --trace=FILE")?;
                (file, Some(live))
            }
        };
        os::count_usr2()?;
        let settings = Settings {
            bytes: self.trace_size,
            level: self.trace_clock,
            sample: self.trace_sample,
            triggers: self.trace_trigger.clone(),
            clock: None,
        };
        let kernel = path.zip(tracepoints);
        let kernel = kernel.map(|(path, points)| start(path, points, &settings)).transpose()?;
        Ok(Some(Prepared { recording: Recording { file, settings }, live, kernel }))
    }

    /// Returns the conflict between the options, if there is one.
    fn conflict(&self, model: Model) -> Option<String> {
        if self.kernel_events && model != Model::URING {
            return Some(format!("--kernel-events is only for uring: {model} has no ring"));
        }
        if self.kernel_events && (self.trace == Some(None) || self.prints_on_stdout()) {
            return Some("--kernel-events needs a trace file: write --trace=FILE".to_owned());
        }
        let old = self.trace_trigger.iter().find(|one| matches!(one, StopTrigger::Age { .. }))?;
        let vague = model != Model::URING && model.info().has_iterations();
        (vague && self.trace_clock == Level::Batch).then(|| {
            format!(
                "--trace-trigger '{old}' needs the duration of each call, and with {model} the clock \
                 is read once per batch: add --trace-clock record"
            )
        })
    }
}

/// Starts the recording of kernel events.
fn start(path: &Path, points: Instance, settings: &Settings) -> anyhow::Result<KernelRecorder> {
    let path = sidecar_path(path);
    let file = create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(KernelRecorder::start(points, file, settings)?)
}

/// Prints the trace until the recorder ends.
#[derive(Debug)]
pub(super) enum Printer {
    Thread(JoinHandle<anyhow::Result<()>>),
    /// A child process, because a server with a second thread cannot fork. It ends with its parent.
    Process(Pid),
}

impl Printer {
    /// Starts the printer for this model; `None` if nothing is printed.
    ///
    /// # Errors
    /// The thread or the process cannot be created.
    pub(super) fn start(
        live: Option<File>,
        to_stdout: bool,
        model: Model,
    ) -> io::Result<Option<Printer>> {
        let Some(live) = live else { return Ok(None) };
        if model.info().forks() {
            let keep = [live.as_raw_fd()];
            let child = |_| match print(live, to_stdout) {
                Ok(()) => 0,
                Err(error) => {
                    warn(&error);
                    1
                }
            };
            return process::fork(&Alone::check()?, &keep, child).map(Printer::Process).map(Some);
        }
        let name = std::thread::Builder::new().name("trace".to_owned());
        name.spawn(move || print(live, to_stdout)).map(Printer::Thread).map(Some)
    }

    /// Waits until everything is printed. A failure is not a failure of the server.
    pub(super) fn finish(self) {
        let printed = match self {
            Printer::Thread(thread) => thread.join().expect("the printer does not panic"),
            Printer::Process(pid) => match process::wait(pid) {
                // A printer that failed has reported the reason.
                Ok(status) if status.signal().is_some() => {
                    Err(anyhow!("the printer ended: {status}"))
                }
                waited => waited.map(drop).map_err(anyhow::Error::from),
            },
        };
        printed.unwrap_or_else(|error| warn(&error));
    }
}

fn print(live: File, to_stdout: bool) -> anyhow::Result<()> {
    let (follow, all) = (Follow::new(live, false)?, Filter::default());
    match to_stdout {
        true => follow_to_end(follow, &all, false, &mut stdout()),
        false => follow_to_end(follow, &all, false, &mut io::stderr()),
    }
}

fn warn(error: &anyhow::Error) {
    tracing::warn!("the printed trace is incomplete: {error:#}");
}

impl Prepared {
    /// Returns the recording, the file to print, and the recorder of kernel events.
    pub(super) fn split(
        prepared: Option<Prepared>,
    ) -> (Option<Recording>, Option<File>, Option<KernelRecorder>) {
        prepared.map_or((None, None, None), |one| (Some(one.recording), one.live, one.kernel))
    }
}

fn create(path: &Path) -> io::Result<File> {
    // Not truncated here: only after the checks below, by the recorder.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // The recorder takes the lock again; this check reports the name of the file.
    if !sys::lock(file.as_fd())? {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another server is recording into it",
        ));
    }
    Ok(file)
}

fn level(text: &str) -> Result<Level, String> {
    let found = Level::ALL.iter().find(|level| level.name() == text);
    found.copied().ok_or_else(|| "write batch or record".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("invalid size `{text}`: write 64M or 1G, from 128K to 64G");
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if (128 << 10..=64 << 30).contains(&bytes) { Ok(bytes) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_their_unit() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("131072"), Ok(128 << 10));
        for wrong in ["", "M", "-1M", "64m", "127K", "65G", "99999999999999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
