//! `proactor trace attach`: the io_uring activity of any process.

mod command;
mod rates;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::commands::output::cannot_write;
use crate::commands::stderr::note;
use crate::commands::{ExitStatus, number, stop_signal};
use command::WatchedCommand;
use proactor_report::units;
use proactor_trace::kernel::{RingWatch, Tracepoint, parse_event_name};
use proactor_trace::{RingFilter, WatchedRings};
use rates::RateTable;

/// Period at which the kernel events are read.
const PERIOD: Duration = Duration::from_millis(50);
/// What is said before it starts.
const COST: &str = "note: each enter, submission, arrival and completion takes more time while it \
                    is watched: docs/truth.md says how much a busy server loses";
/// Bytes for the events of one period, for all CPUs together.
const BUFFER: usize = 64 << 20;

/// Watch the io_uring activity of any process, of all, or of a command from its first operation,
/// through kernel tracepoints; then print its operations, errors, latencies and anomalies. Needs
/// root
#[derive(Debug, clap::Args)]
#[command(override_usage = "proactor trace attach [OPTIONS] <PID>\n       \
                            proactor trace attach [OPTIONS] --all\n       \
                            proactor trace attach [OPTIONS] -- <COMMAND>...")]
pub(super) struct AttachArgs {
    /// Process id, or the id of one of its threads
    #[arg(value_parser = number::<u32>(1, 1 << 22),
          required_unless_present_any = ["command", "all"])]
    pid: Option<u32>,

    /// Command to start. It has standard output for itself: the results go to standard error. Its
    /// exit status is that of this program
    #[arg(last = true, conflicts_with = "pid")]
    command: Vec<OsString>,

    /// Watch all processes
    #[arg(short, long, conflicts_with_all = ["pid", "command", "follow"])]
    all: bool,

    /// Watch the child processes that it starts as well
    #[arg(short, long)]
    follow: bool,

    /// Watch this long, for example 5s [default: until SIGINT, or until the process ends]
    #[arg(long = "for", value_name = "TIME", value_parser = units::parse_positive_duration)]
    span: Option<Duration>,

    /// Print each event when it happens, one per line
    #[arg(long)]
    live: bool,

    /// Print only events of this operation or kind: recv, submit, post. Repeatable; implies --live
    #[arg(long, value_name = "NAME", value_parser = parse_event_name)]
    op: Vec<String>,

    /// Print only failed completions and rejected submissions; implies --live
    #[arg(long)]
    errors: bool,

    /// Print only completions later than this after the submission; implies --live
    #[arg(long, value_name = "TIME", value_parser = units::parse_positive_duration)]
    slower: Option<Duration>,

    /// Print only requests that were handed to a worker thread (io-wq): that, and their
    /// completions; implies --live
    #[arg(long)]
    punted: bool,

    /// Record the operations into this file, which all views read; those of the second ring into
    /// FILE.1, and so on. Implies --files
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Show the file of each operation, and a table of files. Costs one more event per operation
    #[arg(long)]
    files: bool,

    /// Print the rates of the operations each time this has passed, for example 1s. On a terminal
    /// the table stays in its place
    #[arg(long, value_name = "TIME", value_parser = units::parse_positive_duration,
          conflicts_with_all = ["live", "op", "errors", "slower", "punted"])]
    interval: Option<Duration>,

    /// Print as JSON: with --live or --interval one object per line; the summary at the end
    #[arg(long)]
    json: bool,
}

impl AttachArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut command = WatchedCommand::new(stop_signal()?);
        let held = command.hold(&self.command)?;
        let id = held.as_ref().map(|held| held.pid()).or(self.pid);
        let mut rings = id.map_or_else(|| Ok(WatchedRings::of_all()), WatchedRings::new)?;
        let has_files = self.files || self.output.is_some();
        let files = has_files.then_some(Tracepoint::FileGet);
        let points: Vec<_> = Tracepoint::OF_RINGS.into_iter().chain(files).collect();
        let mut watch = RingWatch::new(&points, BUFFER)?;
        if let Some(path) = &self.output {
            rings.record_into(path).with_context(|| cannot_write(path))?;
        }
        // After the watch: a thread that comes later has an event.
        rings.begin(self.follow)?;
        rings.missing = watch.missing();
        rings.missing.iter().for_each(|missing| note!("note: {missing}"));
        note!("{COST}");
        match held {
            Some(held) => command.start(held)?,
            None => self.announce(&rings),
        }
        let begin = Instant::now();
        let watched = self.watch(&mut rings, &mut watch, &mut command);
        rings.watched = begin.elapsed();
        // The summary is printed even if the output of the live lines failed.
        drop(watch);
        self.output.iter().for_each(|path| note_recordings(path, rings.end_recordings()));
        watched?;
        let failure = rings.nothing_to_watch();
        if self.json {
            command.print(&format!("{}\n", rings.json()))?;
        } else if failure.is_none() {
            command.print(&rings.summary())?;
        }
        match (command.status()?, failure) {
            (Some(status), failure) => {
                failure.iter().for_each(|why| note!("note: {why}"));
                if status == 0 { Ok(()) } else { Err(anyhow::Error::msg(ExitStatus(status))) }
            }
            (None, Some(why)) => bail!(why),
            (None, None) => Ok(()),
        }
    }

    fn filter(&self) -> RingFilter {
        let ops = self.op.clone();
        RingFilter { ops, errors: self.errors, slower: self.slower, punted: self.punted }
    }

    fn announce(&self, rings: &WatchedRings) {
        if !self.all && rings.open_rings() == Some(0) {
            note!("{} has no io_uring open yet: waiting for one …", rings.label());
        }
        if self.span.is_none() {
            note!("watching {} until SIGINT (Ctrl-C) …", rings.label());
        }
    }

    /// Reads events until the time is over, a signal, or the end of the process.
    fn watch(
        &self,
        rings: &mut WatchedRings,
        watch: &mut RingWatch,
        command: &mut WatchedCommand,
    ) -> anyhow::Result<()> {
        let filter = self.filter();
        let is_live = self.live || !filter.is_empty();
        let deadline = self.span.map(|span| Instant::now() + span);
        let mut table = self.interval.map(|interval| RateTable::new(interval, self.json));
        if is_live && !self.json {
            command.print(&format!("{}\n", WatchedRings::heading()))?;
        }
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let pause = left.map_or(PERIOD, |left| left.min(PERIOD));
            let is_stopped = command.await_signal(pause)?;
            let over = is_stopped || left.is_some_and(|left| left.is_zero()) || !rings.is_alive();
            let events = if over { watch.finish()? } else { watch.poll()? };
            rings.note_losses(watch.lost().context("cannot read the number of lost events")?);
            let seen = events.iter().filter_map(|event| rings.observe(event));
            let seen = seen.filter(|event| is_live && event.passes(&filter));
            let lines = seen.map(|event| match self.json {
                true => format!("{}\n", event.json()),
                false => event.text() + "\n",
            });
            command.print(&lines.collect::<String>())?;
            table.as_mut().map_or(Ok(()), |table| table.show(rings, command, over))?;
            if over {
                rings.end();
                return Ok(());
            }
            // If the kernel refuses it, they are only slower.
            let _ = watch.exclude(&rings.busy_strangers(), rings.addresses());
        }
    }
}

/// Says what was recorded, and what not.
fn note_recordings(path: &Path, (files, failure): (usize, Option<io::Error>)) {
    let path = path.display();
    match files {
        0 => note!("no ring was seen: {path} has no recording of this run"),
        1 => note!("recorded {path}: read it with `proactor trace summary {path}`"),
        _ => note!("recorded {path} and {path}.1 to {path}.{}, a ring in each", files - 1),
    }
    failure.iter().for_each(|why| note!("note: the other rings are not recorded: {why}"));
}
