//! `proactor trace attach`: the io_uring activity of any process.

mod command;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::commands::stderr::note;
use crate::commands::{ExitStatus, number, stop_signal};
use command::WatchedCommand;
use proactor_report::units;
use proactor_trace::WatchedRings;
use proactor_trace::kernel::{RingWatch, Tracepoint};

/// Period at which the kernel events are read.
const PERIOD: Duration = Duration::from_millis(50);
/// Bytes for the events of one period, for all CPUs together.
const BUFFER: usize = 64 << 20;

/// Watch the io_uring activity of any process, or of a command from its first operation, through
/// kernel tracepoints; then print its operations, errors, latencies and anomalies. Needs root
#[derive(Debug, clap::Args)]
#[command(override_usage = "proactor trace attach [OPTIONS] <PID>\n       \
                            proactor trace attach [OPTIONS] -- <COMMAND>...")]
pub(super) struct AttachArgs {
    /// Process id, or the id of one of its threads
    #[arg(value_parser = number::<u32>(1, 1 << 22), required_unless_present = "command")]
    pid: Option<u32>,

    /// Command to start. It has standard output for itself: the results go to standard error. Its
    /// exit status is that of this program
    #[arg(last = true, conflicts_with = "pid")]
    command: Vec<OsString>,

    /// Watch the child processes that it starts as well
    #[arg(short, long)]
    follow: bool,

    /// Watch this long, for example 5s [default: until SIGINT, or until the process ends]
    #[arg(long = "for", value_name = "TIME", value_parser = units::parse_positive_duration)]
    span: Option<Duration>,

    /// Print each event when it happens, one per line
    #[arg(long)]
    live: bool,

    /// Print as JSON: with --live one object per line; the summary at the end
    #[arg(long)]
    json: bool,
}

impl AttachArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut command = WatchedCommand::new(stop_signal()?);
        let held = command.hold(&self.command)?;
        let id = held.as_ref().map(|held| held.pid()).or(self.pid).expect("clap requires one");
        let mut rings = WatchedRings::new(id)?;
        let mut watch = RingWatch::new(&Tracepoint::OF_RINGS, BUFFER)?;
        // After the watch: a thread that comes later has an event.
        rings.begin(self.follow)?;
        rings.missing = watch.missing();
        rings.missing.iter().for_each(|missing| note!("note: {missing}"));
        match held {
            Some(held) => command.start(held)?,
            None => self.announce(&rings),
        }
        let begin = Instant::now();
        let watched = self.watch(&mut rings, &mut watch, &mut command);
        rings.watched = begin.elapsed();
        // The summary is printed even if the output of the live lines failed.
        drop(watch);
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

    fn announce(&self, rings: &WatchedRings) {
        if rings.open_rings() == 0 {
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
        let deadline = self.span.map(|span| Instant::now() + span);
        if self.live && !self.json {
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
            let seen = seen.filter(|_| self.live);
            let lines = seen.map(|event| match self.json {
                true => format!("{}\n", event.json()),
                false => event.text() + "\n",
            });
            command.print(&lines.collect::<String>())?;
            if over {
                rings.end();
                return Ok(());
            }
            // If the kernel refuses it, they are only slower.
            let _ = watch.exclude(&rings.busy_strangers(), rings.addresses());
        }
    }
}
