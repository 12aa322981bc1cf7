//! `proactor trace attach`: the io_uring activity of any process.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::commands::stderr::note;
use crate::commands::stream::await_ready;
use crate::commands::{number, output, stop_signal};
use proactor::os::ShutdownSignal;
use proactor_report::units;
use proactor_trace::kernel::{Instance, Tracepoint};
use proactor_trace::{Clock, WatchedProcess};

/// Period at which the kernel events are read.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes for the events of one period, for all CPUs together.
const BUFFER: usize = 64 << 20;

/// Watch the io_uring activity of any process through kernel tracepoints, then print its
/// operations, results, latencies and anomalies. Needs root
#[derive(Debug, clap::Args)]
pub(super) struct AttachArgs {
    /// Process id
    #[arg(value_parser = number::<u32>(1, 1 << 22))]
    pid: u32,

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
        let mut attached = WatchedProcess::new(self.pid)?;
        let stop = stop_signal()?;
        let mut instance = Instance::new(Tracepoint::ALL, Clock::Nanos, BUFFER)?;
        attached.missing = instance.missing().to_vec();
        instance.missing().iter().for_each(|missing| note!("note: {missing}"));
        if attached.open_rings() == 0 {
            note!("{} has no io_uring open yet: waiting for one …", attached.label());
        }
        if self.span.is_none() {
            note!("watching process {} until SIGINT (Ctrl-C) …", self.pid);
        }
        let begin = Instant::now();
        let watched = self.watch(&mut attached, &mut instance, &stop);
        attached.watched = begin.elapsed();
        stop.take(); // Another signal ends the wait for a reader.
        // The summary is printed even if the output of the live lines failed.
        attached.lost = instance.lost().context("cannot read the number of lost events")?;
        drop(instance);
        watched?;
        let failure = attached.nothing_to_watch();
        if self.json {
            output::print(&format!("{}\n", attached.json()))?;
        } else if failure.is_none() {
            output::print(&attached.summary())?;
        }
        failure.map_or(Ok(()), |why| bail!(why))
    }

    /// Reads events until the time is over, a signal, or the end of the process.
    fn watch(
        &self,
        attached: &mut WatchedProcess,
        instance: &mut Instance,
        stop: &ShutdownSignal,
    ) -> anyhow::Result<()> {
        let deadline = self.span.map(|span| Instant::now() + span);
        if self.live && !self.json {
            output::print(&format!("{}\n", WatchedProcess::heading()))?;
        }
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let pause = left.map_or(INTERVAL, |left| left.min(INTERVAL));
            let over = await_ready(stop, libc::POLLIN, Some(pause))?
                || left.is_some_and(|left| left.is_zero())
                || !attached.is_alive();
            let events = if over { instance.finish()? } else { instance.poll()? };
            attached.forget_foreign_threads();
            let seen = events.iter().filter_map(|event| attached.observe(event));
            let seen = seen.filter(|_| self.live);
            let lines = seen.map(|event| match self.json {
                true => format!("{}\n", event.json()),
                false => event.text() + "\n",
            });
            output::print(&lines.collect::<String>())?;
            if over {
                return Ok(());
            }
        }
    }
}
