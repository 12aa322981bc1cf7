//! The measurement of one load: servers are started, sampled in rounds, and stopped.
//!
//! The baseline runs during all phases; the other servers run for one phase each. A server that
//! never sleeps is stopped (SIGSTOP) during the slices of the others, because it would use their
//! CPU.

use std::io;
use std::thread;
use std::time::Duration;

use crate::capacity;
use crate::environment::Steal;
use crate::plan::{ComparisonPlan, SLICE, TIMEOUT, WARM_UP};
use crate::process_tree::{CpuClocks, CpuTicks, ProcessTree};
use crate::progress::{Activity, Monitor};
use crate::results::{Outcome, ResultTable};
use crate::sampling::{self, PhaseLimit, Round, Sample, SampleError, Sampler};
use crate::server_process::{ServerError, ServerProcess, StartCommand};
use crate::summary::{self, SPINNING};
use proactor::clock::Nanos;
use proactor::os::{self, Order};
use proactor_load::{Load, LoadError, LoadOptions, LoadShape};
use proactor_report::units::agree;

/// A server is idle when its CPU clock has not changed for this time.
const AT_REST: Duration = Duration::from_micros(200);
/// The longest wait for that: longer than a tick of the kernel's clock.
const AT_REST_LIMIT: Duration = Duration::from_millis(20);

/// The measurement of one table.
pub(crate) struct TableRun<'a> {
    plan: &'a ComparisonPlan,
    load: LoadShape,
    command: StartCommand<'a>,
    /// The participants of each phase, without the baseline.
    phases: Vec<Vec<usize>>,
    participants: Vec<Participant>,
    rounds: Vec<Round>,
    /// The CPU time that the host had taken at the end of the last round.
    steal: Option<Steal>,
}

/// A participant and its server, if that runs.
struct Participant {
    outcome: Outcome,
    server: Option<ConnectedServer>,
}

impl<'a> TableRun<'a> {
    pub(crate) fn new(
        plan: &'a ComparisonPlan,
        load: LoadShape,
        command: StartCommand<'a>,
    ) -> TableRun<'a> {
        let mut participants = Vec::new();
        for spec in plan.participants() {
            let reason = capacity::shortage(&spec.model.model, load.connections, 0);
            let outcome = Outcome { reason, ..Outcome::new(spec) };
            participants.push(Participant { outcome, server: None });
        }
        let is_possible = |at: &usize| participants[*at].outcome.reason.is_none();
        let possible: Vec<usize> = (0..participants.len()).filter(is_possible).collect();
        let phases = match possible.split_first() {
            Some((0, others)) => plan.phases(load, others),
            _ => Vec::new(), // Without the baseline there is nothing to compare with.
        };
        TableRun { plan, load, command, phases, participants, rounds: Vec::new(), steal: None }
    }

    /// Returns why the baseline cannot run, if that is known in advance.
    pub(crate) fn baseline_reason(&self) -> Option<&str> {
        self.participants[0].outcome.reason.as_deref()
    }

    /// Returns the load and the participants of each phase.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (LoadShape, &[usize])> {
        self.phases.iter().map(|phase| (self.load, phase.as_slice()))
    }

    /// Measures all phases of the table.
    pub(crate) fn measure(mut self, monitor: &mut Monitor<'_>) -> anyhow::Result<ResultTable> {
        for phase in std::mem::take(&mut self.phases) {
            if !monitor.interrupted {
                self.measure_phase(&phase, monitor)?;
            }
        }
        self.stop(0, monitor)?;
        let outcomes = self.participants.into_iter().map(|participant| participant.outcome);
        Ok(summary::table(self.load, outcomes.collect(), self.rounds))
    }

    /// Measures one phase, and stops its servers except the baseline.
    fn measure_phase(&mut self, phase: &[usize], monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        let deadline = monitor.schedule.next(self.load, phase, os::now());
        for &at in [0].iter().chain(phase) {
            if self.participants[at].server.is_none() && !monitor.interrupted {
                self.start(at, monitor)?;
            }
        }
        if !monitor.interrupted {
            let is_running = |at: &usize| self.participants[*at].server.is_some();
            let present: Vec<usize> = phase.iter().copied().filter(is_running).collect();
            let limit = monitor.schedule.limit(deadline, os::now());
            self.sample_rounds(&present, limit, monitor)?;
        }
        phase.iter().try_for_each(|&at| self.stop(at, monitor))
    }

    /// Samples the rounds of a phase.
    fn sample_rounds(
        &mut self,
        present: &[usize],
        limit: PhaseLimit,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<()> {
        let (specs, load, plan) = (self.plan.participants(), self.load, self.plan);
        let mut watch = |progress: &sampling::SampleProgress| {
            let spec = &specs[progress.sample.participant];
            monitor.report(load, spec, Activity::Sampled(*progress))
        };
        let phase = sampling::sample_phase(self, present, plan.seed, SLICE, limit, &mut watch);
        let failed = match phase {
            Ok(phase) => {
                self.rounds.extend(phase.rounds);
                phase.failed
            }
            Err(failed) => vec![failed],
        };
        failed.into_iter().try_for_each(|SampleError { participant: at, error }| {
            if error.is_wrong() && self.must_be_right(at) {
                return Err(self.participants[at].attribute(error));
            }
            let server =
                self.participants[at].server.take().expect("only running servers are sampled");
            self.leave_out(at, server.process.failed(&error), "go on")
        })
    }

    /// Starts a participant's server and connects to it. If that fails, the reason is part of the
    /// participant's outcome.
    fn start(&mut self, at: usize, monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        match self.connect(at, monitor) {
            Ok(server) => self.participants[at].server = Some(server),
            Err(error) => self.leave_out(at, error.downcast()?, "run")?,
        }
        Ok(())
    }

    /// Keeps the reason why a participant has no numbers. Without the baseline, there is nothing to
    /// compare with.
    fn leave_out(&mut self, at: usize, why: ServerError, act: &str) -> anyhow::Result<()> {
        anyhow::ensure!(at != 0, "the baseline, {}, cannot {act}: {why}", self.plan.baseline);
        self.participants[at].outcome.reason = Some(why.0);
        Ok(())
    }

    /// Returns true if a wrong reply of a participant makes the whole run void: of one of our
    /// models, or of the baseline. That of another program's server is a row that says so.
    fn must_be_right(&self, at: usize) -> bool {
        let name = &self.participants[at].outcome.spec.name;
        at == 0 || !self.plan.peers.iter().any(|peer| peer.name == *name)
    }

    /// Starts a server, connects to it, and warms it up. A [`ServerError`] concerns this
    /// participant alone; every other error ends the comparison.
    fn connect(&mut self, at: usize, monitor: &mut Monitor<'_>) -> anyhow::Result<ConnectedServer> {
        let TableRun { plan, load: shape, command, .. } = *self;
        let open = self.participants.iter().filter(|other| other.server.is_some()).count();
        let participant = &mut self.participants[at];
        let spec = participant.outcome.spec.clone();
        let connections = shape.connections;
        if let Some(reason) = capacity::shortage(&spec.model.model, connections, open * connections)
        {
            return Err(ServerError(reason).into());
        }
        let interrupted = || ServerError("interrupted before its first slice".to_owned());
        let mut report =
            |activity| monitor.report(shape, &spec, activity).then_some(()).ok_or_else(interrupted);
        report(Activity::Starting)?;
        let process = ServerProcess::start(command(&spec.model)?)?;
        participant.outcome.about = process.about.clone();
        let options = LoadOptions {
            workload: shape.into(),
            protocol: plan.protocol.clone(),
            seed: plan.seed ^ at as u64,
            engine: plan.engine,
            timeout: TIMEOUT,
        };
        let (load, meter) = match set_up(&process, &options, &mut report) {
            Ok(connected) => connected,
            Err(error) => match error.downcast()? {
                error if LoadError::is_wrong(&error) && self.must_be_right(at) => {
                    return Err(self.participants[at].attribute(error));
                }
                error => return Err(process.failed(&error).into()),
            },
        };
        monitor.engine = load.engine_name;
        if let Some(error) = &load.fallback {
            monitor.warn(format!(
                "io_uring does not work for the client ({error}): it used epoll, whose maximum rate \
                 is lower."
            ));
        }
        let mut server = ConnectedServer { load, meter, process };
        server.order(Order::Pause).map_err(|error| participant.attribute(error))?;
        Ok(server)
    }

    /// Stops a participant's server, if it runs, and keeps its counters.
    fn stop(&mut self, at: usize, monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        let must_be_right = self.must_be_right(at);
        let Participant { outcome, server } = &mut self.participants[at];
        let Some(mut server) = server.take() else { return Ok(()) };
        if at != 0 {
            monitor.report(self.load, &outcome.spec, Activity::Stopping);
        }
        let name = outcome.spec.name.clone();
        outcome.messages += server.load.messages();
        outcome.service_time = Some(server.load.latencies().percentiles());
        // If that fails, the server does not end, which is reported below.
        let _ = server.order(Order::Resume);
        let ConnectedServer { load, process, meter } = server;
        let (processes, ticks) = (meter.tree.pids.len(), meter.tree.ticks());
        outcome.user_share =
            meter.ticks.zip(ticks).and_then(|(from, to)| to.user_share_since(from));
        if process.process_tree().is_ok_and(|tree| tree.pids.len() != processes) {
            monitor.warn(format!(
                "{name} had {processes} {} at first and another number at its end: the CPU time of \
                 some is not counted.",
                agree(processes as u64, "process", "processes")
            ));
        }
        match load.close() {
            Err(error) if error.is_wrong() && must_be_right => {
                return Err(anyhow::Error::new(error).context(name));
            }
            Err(error) if error.is_wrong() => outcome.reason = Some(error.to_string()),
            Err(error) => monitor.warn(format!("{name}: {error}")),
            Ok(()) => {}
        }
        match process.stop() {
            Ok(stats) => outcome.stats = stats,
            Err(error) => monitor.warn(format!(
                "{name} did not report its counters, so its system calls are unknown: {error}"
            )),
        }
        Ok(())
    }
}

impl Sampler for TableRun<'_> {
    fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError> {
        let server = self.participants[participant].server.as_mut();
        server.expect("only running servers are sampled").sample(participant, span)
    }

    fn steal(&mut self) -> Option<f64> {
        let now = Steal::read()?;
        now.since(self.steal.replace(now)?)
    }

    fn now(&self) -> Nanos {
        os::now()
    }
}

impl Participant {
    /// Adds the name of the participant to an error that ends the comparison.
    fn attribute(&self, error: LoadError) -> anyhow::Error {
        let void = if error.is_wrong() { ": the whole run is void" } else { "" };
        anyhow::Error::new(error).context(format!("{}{void}", self.outcome.spec.name))
    }
}

/// A server process with its connections.
struct ConnectedServer {
    /// Declared before the process, so that the connections are closed first.
    load: Load,
    meter: CpuMeter,
    process: ServerProcess,
}

/// Connects to a server and warms it up, unless `report` interrupts that.
fn set_up(
    process: &ServerProcess,
    options: &LoadOptions,
    report: &mut dyn FnMut(Activity) -> Result<(), ServerError>,
) -> anyhow::Result<(Load, CpuMeter)> {
    report(Activity::Connecting)?;
    let mut load = Load::connect(&process.address, options)?;
    for _ in 0..WARM_UP {
        report(Activity::WarmingUp)?;
        load.run_for(SLICE)?;
    }
    load.clear_latencies();
    let meter = CpuMeter::start(process).map_err(unread)?;
    Ok((load, meter))
}

impl ConnectedServer {
    /// Pauses or resumes a server that spins; no other server is ever paused.
    fn order(&mut self, order: Order) -> Result<(), LoadError> {
        let what = if order == Order::Pause { "pause the server" } else { "resume the server" };
        match self.meter.spins {
            Some(_) => self.process.order(order).map_err(LoadError::client(what)),
            None => Ok(()),
        }
    }

    fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError> {
        let waited = |tree: &ProcessTree| tree.waited().unwrap_or_default();
        let before = self.meter.at_rest().map_err(unread)?;
        let idle_share = self.meter.spins.unwrap_or_else(|| before.share_since(self.meter.last));
        let waited_before = waited(&self.meter.tree);
        self.order(Order::Resume)?;
        let slice = self.load.run_for(span)?;
        self.order(Order::Pause)?;
        self.meter.last = self.meter.at_rest().map_err(unread)?;
        Ok(Sample {
            participant,
            slice,
            server_cpu: self.meter.last.cpu.saturating_sub(before.cpu),
            server_waited: waited(&self.meter.tree).saturating_sub(waited_before),
            server_idle_cpu_share: idle_share,
        })
    }
}

fn unread(error: io::Error) -> LoadError {
    LoadError::Client { what: "read the server's clock", error }
}

/// The CPU time of a server.
struct CpuMeter {
    tree: ProcessTree,
    clocks: CpuClocks,
    /// The ticks when the measurement started.
    ticks: Option<CpuTicks>,
    /// The reading at the end of the last slice.
    last: CpuReading,
    /// The CPU share of the idle server, if it spins. Such a server is paused except in its slices.
    spins: Option<f64>,
}

/// The CPU time that a server had used at a moment.
#[derive(Clone, Copy)]
struct CpuReading {
    cpu: Duration,
    at: Nanos,
}

impl CpuReading {
    fn of(clocks: &CpuClocks) -> io::Result<CpuReading> {
        Ok(CpuReading { cpu: clocks.read()?, at: os::now() })
    }

    /// Returns the share of a CPU that was used since an earlier reading.
    fn share_since(self, earlier: CpuReading) -> f64 {
        let time = self.at.since(earlier.at).as_secs_f64().max(1e-9);
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64() / time
    }
}

impl CpuMeter {
    /// Starts to measure a server that has all its connections, and therefore all its children.
    fn start(process: &ServerProcess) -> io::Result<CpuMeter> {
        let tree = process.process_tree()?;
        let clocks = tree.clocks()?;
        // A server that sleeps in poll has looked at all its descriptors before, which takes longer
        // than AT_REST with thousands of them, and its clock may lag: that is not idle CPU time.
        thread::sleep(AT_REST_LIMIT);
        let last = CpuReading::of(&clocks)?;
        let ticks = tree.ticks();
        let mut meter = CpuMeter { tree, clocks, ticks, last, spins: None };
        let before = meter.at_rest()?;
        thread::sleep(AT_REST_LIMIT);
        meter.last = CpuReading::of(&meter.clocks)?;
        let share = meter.last.share_since(before);
        meter.spins = (share > SPINNING).then_some(share);
        Ok(meter)
    }

    /// Reads the clocks once they stand still: the server has sent all replies and sleeps, and the
    /// clock of its thread, which may lag by up to a tick on another CPU, is exact. A server that
    /// does not become idle is read after [`AT_REST_LIMIT`].
    fn at_rest(&self) -> io::Result<CpuReading> {
        let start = os::now();
        let mut since = CpuReading { cpu: self.clocks.read()?, at: start };
        loop {
            thread::yield_now();
            let now = CpuReading { at: os::now(), cpu: self.clocks.read()? };
            if now.cpu != since.cpu {
                since = now;
            }
            if now.at.since(since.at) >= AT_REST || now.at.since(start) >= AT_REST_LIMIT {
                return Ok(now);
            }
        }
    }
}
