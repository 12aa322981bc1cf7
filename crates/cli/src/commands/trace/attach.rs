//! `proactor trace attach`: what any process does with its rings.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::commands::output::stdout;
use proactor::os::{self, Stop};
use proactor_report::units;
use proactor_trace::kernel::{Instance, Point};
use proactor_trace::{Attached, Clock};

/// How long between two looks at what the kernel told.
const INTERVAL: Duration = Duration::from_millis(50);
/// Bytes for what it tells meanwhile, of all CPUs together.
const BUFFER: usize = 64 << 20;

/// Watch what a process does with io_uring, ours or any other, by the kernel's tracepoints: then
/// show its operations, results, latencies and what stands out. Takes root
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The process
    pid: u32,

    /// For so long, as 5s; without it until SIGINT, or until the process ends
    #[arg(long = "for", value_name = "DURATION", value_parser = units::parse_positive_duration)]
    span: Option<Duration>,

    /// One line an event, while they happen
    #[arg(long)]
    live: bool,

    /// As JSON: with --live one object a line, and at the end the summary
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut attached = Attached::new(self.pid)?;
        let stop = Stop::new().and_then(|stop| stop.on_signals().map(|()| stop));
        let stop = stop.context("cannot listen for signals")?;
        let mut instance = Instance::new(&Point::ALL, Clock::Nanos, BUFFER)?;
        attached.set_lacks(instance.lacks());
        instance.lacks().iter().for_each(|lack| eprintln!("note: {lack}"));
        let deadline = self.span.map(|span| Instant::now() + span);
        if attached.open_rings() == 0 {
            eprintln!("{} has no io_uring open yet: waiting for one …", attached.who());
        }
        if self.span.is_none() {
            eprintln!("watching process {} until SIGINT (Ctrl-C) …", self.pid);
        }
        let begin = Instant::now();
        let watched = self.watch(&mut attached, &mut instance, &stop, deadline);
        attached.set_watched(begin.elapsed());
        // What was seen is shown even if nobody reads the lines any more.
        attached.set_lost(instance.lost().context("the kernel does not say what was lost")?);
        drop(instance);
        watched?;
        let mut out = stdout();
        let silence = attached.silence();
        if self.json {
            writeln!(out, "{}", attached.json())?;
        } else if silence.is_none() {
            write!(out, "{}", attached.summary())?;
        }
        silence.map_or(Ok(()), |why| bail!(why))
    }

    /// Until the deadline, a signal, or the end of the process.
    fn watch(
        &self,
        attached: &mut Attached,
        instance: &mut Instance,
        stop: &Stop,
        deadline: Option<Instant>,
    ) -> anyhow::Result<()> {
        let mut out = stdout();
        if self.live && !self.json {
            writeln!(out, "{}", Attached::heading())?;
            out.flush()?;
        }
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let over = wait(stop, left.map_or(INTERVAL, |left| left.min(INTERVAL)))?
                || left.is_some_and(|left| left.is_zero())
                || !attached.is_alive();
            let told = if over { instance.finish()? } else { instance.poll()? };
            attached.forget_strangers();
            let mut text = String::new();
            for line in told.iter().filter_map(|told| attached.see(told)) {
                if self.live {
                    text.push_str(&if self.json { line.json().to_string() } else { line.text() });
                    text.push('\n');
                }
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            if over {
                return Ok(());
            }
        }
    }
}

/// Sleeps so long, or until somebody asks to stop: whether that was it.
fn wait(stop: &Stop, span: Duration) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let fd = stop.as_fd().as_raw_fd();
    let mut asked = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    Ok(os::poll(&mut asked, Some(span))? > 0)
}
