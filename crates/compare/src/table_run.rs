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
use crate::process_tree::{CpuClocks, ProcessTree};
use crate::progress::{Activity, Monitor};
use crate::results::{Outcome, ResultTable};
use crate::sampling::{self, PhaseLimit, Round, Sample, SampleError, SampleProgress, Sampler};
use crate::server_process::{ServerError, ServerProcess, StartCommand};
use crate::summary::{self, SPINNING};
use proactor::clock::Nanos;
use proactor::os;
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
    servers: Servers,
    rounds: Vec<Round>,
    engine: &'static str,
    warnings: Vec<String>,
}

/// A finished table, and what was noticed during its measurement.
pub(crate) struct TableMeasurement {
    pub(crate) table: ResultTable,
    /// The name of the client's engine.
    pub(crate) engine: &'static str,
    pub(crate) warnings: Vec<String>,
}

impl<'a> TableRun<'a> {
    pub(crate) fn new(
        plan: &'a ComparisonPlan,
        load: LoadShape,
        command: StartCommand<'a>,
    ) -> TableRun<'a> {
        let participant = |spec| {
            let mut outcome = Outcome::new(spec);
            let model = &outcome.spec.model.model;
            outcome.reason = capacity::shortage(model, load.connections, 0);
            Participant { outcome, server: None }
        };
        let participants: Vec<Participant> =
            plan.participants().into_iter().map(participant).collect();
        let is_possible = |at: &usize| participants[*at].outcome.reason.is_none();
        let phases = match is_possible(&0) {
            true => {
                let others: Vec<usize> = (1..participants.len()).filter(is_possible).collect();
                plan.phases(load, &others)
            }
            false => Vec::new(), // Without the baseline there is nothing to compare with.
        };
        let servers = Servers { participants, steal: None };
        let (rounds, warnings) = (Vec::new(), Vec::new());
        TableRun { plan, load, command, phases, servers, rounds, engine: "none", warnings }
    }

    /// Returns why the baseline cannot run, if that is known in advance.
    pub(crate) fn baseline_reason(&self) -> Option<&str> {
        self.servers.participants[0].outcome.reason.as_deref()
    }

    /// Returns the load and the participants of each phase.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (LoadShape, &[usize])> {
        self.phases.iter().map(|phase| (self.load, phase.as_slice()))
    }

    /// Measures all phases of the table.
    pub(crate) fn measure(mut self, monitor: &mut Monitor<'_>) -> anyhow::Result<TableMeasurement> {
        for phase in std::mem::take(&mut self.phases) {
            self.measure_phase(&phase, monitor)?;
            if monitor.interrupted {
                break;
            }
        }
        self.stop(0)?;
        let TableRun { load, servers, rounds, engine, warnings, .. } = self;
        let outcomes = servers.participants.into_iter().map(|participant| participant.outcome);
        let table = summary::table(load, outcomes.collect(), rounds);
        Ok(TableMeasurement { table, engine, warnings })
    }

    /// Measures one phase, and stops its servers except the baseline.
    fn measure_phase(&mut self, phase: &[usize], monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        let deadline = monitor.schedule.next(self.load, phase, os::now());
        for at in std::iter::once(0).chain(phase.iter().copied()) {
            if self.servers.participants[at].server.is_none() {
                self.start(at, monitor)?;
            }
            if monitor.interrupted {
                break;
            }
        }
        if !monitor.interrupted {
            let is_running = |at: &usize| self.servers.participants[*at].server.is_some();
            let present: Vec<usize> = phase.iter().copied().filter(is_running).collect();
            let limit = monitor.schedule.limit(deadline, os::now());
            self.sample(&present, limit, monitor)?;
        }
        for &at in phase {
            let Participant { outcome, server } = &self.servers.participants[at];
            if server.is_some() {
                monitor.report(self.load, &outcome.spec, Activity::Stopping);
            }
            self.stop(at)?;
        }
        Ok(())
    }

    /// Samples the rounds of a phase.
    fn sample(
        &mut self,
        present: &[usize],
        limit: PhaseLimit,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<()> {
        let (specs, load) = (self.plan.participants(), self.load);
        let slices = sampling::slices_per_round(present.len());
        let mut watch = |progress: &SampleProgress| {
            let activity = Activity::Sampled(*progress, expected_rounds(progress, limit, slices));
            monitor.report(load, &specs[progress.sample.participant], activity)
        };
        let servers = &mut self.servers;
        let seed = self.plan.seed;
        match sampling::sample_phase(servers, present, seed, SLICE, limit, &mut watch) {
            Ok(phase) => {
                self.rounds.extend(phase.rounds);
                for SampleError { participant, error } in phase.failed {
                    self.servers.participants[participant].fail(&error);
                }
                Ok(())
            }
            Err(SampleError { participant, error }) if error.is_wrong() => {
                Err(self.servers.participants[participant].attribute(error))
            }
            Err(SampleError { participant, error }) => {
                let baseline = &mut self.servers.participants[participant];
                baseline.fail(&error);
                let reason = baseline.outcome.reason.as_deref().unwrap_or_default();
                anyhow::bail!("the baseline, {}, cannot go on: {reason}", self.plan.baseline)
            }
        }
    }

    /// Starts a participant's server and connects to it. If that fails, the reason is part of the
    /// participant's outcome.
    fn start(&mut self, at: usize, monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        match self.connect(at, monitor) {
            Ok(server) => self.servers.participants[at].server = Some(server),
            Err(error) => {
                let ServerError(reason) = error.downcast()?;
                if at == 0 {
                    anyhow::bail!("the baseline, {}, cannot run: {reason}", self.plan.baseline);
                }
                self.servers.participants[at].outcome.reason = Some(reason);
            }
        }
        Ok(())
    }

    /// Starts a server, connects to it, and warms it up. A [`ServerError`] concerns this
    /// participant alone; every other error ends the comparison.
    fn connect(&mut self, at: usize, monitor: &mut Monitor<'_>) -> anyhow::Result<ConnectedServer> {
        let open = self.servers.participants.iter().filter(|other| other.server.is_some()).count();
        let participant = &mut self.servers.participants[at];
        let spec = participant.outcome.spec.clone();
        let connections = self.load.connections;
        if let Some(reason) = capacity::shortage(&spec.model.model, connections, open * connections)
        {
            return Err(ServerError(reason).into());
        }
        let interrupted = || ServerError("interrupted before its first slice".to_owned());
        let mut report = |activity| monitor.report(self.load, &spec, activity);
        if !report(Activity::Starting) {
            return Err(interrupted().into());
        }
        let process = ServerProcess::start((self.command)(&spec.model)?)?;
        participant.outcome.about = process.about.clone();
        let options = LoadOptions {
            shape: self.load,
            protocol: self.plan.protocol.clone(),
            seed: self.plan.seed ^ at as u64,
            engine: self.plan.engine,
            timeout: TIMEOUT,
        };
        let (load, meter) = match set_up(&process, &options, &mut report) {
            Ok(Some(connected)) => connected,
            Ok(None) => return Err(interrupted().into()),
            Err(error) if error.is_wrong() => return Err(participant.attribute(error)),
            Err(error) => return Err(process.failed(&error).into()),
        };
        self.engine = load.engine_name;
        if let Some(error) = &load.fallback {
            self.warnings.push(format!(
                "io_uring does not work for the client ({error}): it used epoll, whose maximum rate \
                 is lower."
            ));
        }
        let mut server = ConnectedServer { load, meter, process };
        if server.meter.spins.is_some() {
            server.pause().map_err(|error| participant.attribute(error))?;
        }
        Ok(server)
    }

    /// Stops a participant's server, if it runs, and keeps its counters.
    fn stop(&mut self, at: usize) -> anyhow::Result<()> {
        let Participant { outcome, server } = &mut self.servers.participants[at];
        let Some(mut server) = server.take() else { return Ok(()) };
        let name = outcome.spec.name.clone();
        outcome.messages += server.load.messages();
        outcome.service_time = Some(server.load.latencies().percentiles());
        let _ = server.resume(); // If that fails, the server does not end, which is reported below.
        let ConnectedServer { load, process, meter } = server;
        let processes = meter.tree.pids.len();
        if process.process_tree().is_ok_and(|tree| tree.pids.len() != processes) {
            self.warnings.push(format!(
                "{name} had {processes} {} at first and another number at its end: the CPU time of \
                 some is not counted.",
                agree(processes as u64, "process", "processes")
            ));
        }
        match load.close() {
            Err(error) if error.is_wrong() => return Err(anyhow::Error::new(error).context(name)),
            Err(error) => self.warnings.push(format!("{name}: {error}")),
            Ok(()) => {}
        }
        match process.stop() {
            Ok(stats) => outcome.stats = Some(stats),
            Err(error) => self.warnings.push(format!(
                "{name} did not report its counters, so its system calls are unknown: {error}"
            )),
        }
        Ok(())
    }
}

/// A participant and its server, if that runs.
struct Participant {
    outcome: Outcome,
    server: Option<ConnectedServer>,
}

impl Participant {
    /// Ends a server whose client failed, and keeps the reason.
    fn fail(&mut self, error: &LoadError) {
        self.outcome.reason = Some(match self.server.take() {
            Some(server) => server.process.failed(error).0,
            None => error.to_string(),
        });
    }

    /// Adds the name of the participant to an error that ends the comparison.
    fn attribute(&self, error: LoadError) -> anyhow::Error {
        let void = if error.is_wrong() { ": the whole run is void" } else { "" };
        anyhow::Error::new(error).context(format!("{}{void}", self.outcome.spec.name))
    }
}

/// All participants of a table.
struct Servers {
    participants: Vec<Participant>,
    steal: Option<Steal>,
}

impl Sampler for Servers {
    fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError> {
        let server = self.participants[participant].server.as_mut();
        server.expect("only running servers are sampled").sample(participant, span)
    }

    fn steal(&mut self) -> Option<f64> {
        let now = Steal::read()?;
        let before = self.steal.replace(now)?;
        now.since(before)
    }

    fn now(&self) -> Nanos {
        os::now()
    }
}

/// A server process with its connections.
struct ConnectedServer {
    /// Declared before the process, so that the connections are closed first.
    load: Load,
    meter: CpuMeter,
    process: ServerProcess,
}

/// The CPU time of a server.
struct CpuMeter {
    tree: ProcessTree,
    clocks: CpuClocks,
    /// The CPU time at the end of the last slice, and the time of that reading.
    cpu: Duration,
    at: Nanos,
    /// The CPU share of the idle server, if it spins. Such a server is paused except in its slices.
    spins: Option<f64>,
}

impl ConnectedServer {
    fn pause(&mut self) -> Result<(), LoadError> {
        self.process.pause().map_err(LoadError::client("pause the server"))
    }

    fn resume(&mut self) -> Result<(), LoadError> {
        self.process.resume().map_err(LoadError::client("resume the server"))
    }

    fn sample(&mut self, participant: usize, span: Duration) -> Result<Sample, LoadError> {
        let read = LoadError::client("read the server's clock");
        let waited = |tree: &ProcessTree| tree.waited().unwrap_or_default();
        let (before, began) = at_rest(&self.meter.clocks).map_err(&read)?;
        let idle_cpu_share = self.meter.idle_cpu_share(before, began);
        let waited_before = waited(&self.meter.tree);
        if self.meter.spins.is_some() {
            self.resume()?;
        }
        let slice = self.load.run_for(span)?;
        if self.meter.spins.is_some() {
            self.pause()?;
        }
        let (after, at) = at_rest(&self.meter.clocks).map_err(&read)?;
        (self.meter.cpu, self.meter.at) = (after, at);
        Ok(Sample {
            participant,
            slice,
            server_cpu: after.saturating_sub(before),
            server_waited: waited(&self.meter.tree).saturating_sub(waited_before),
            server_idle_cpu_share: idle_cpu_share,
        })
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
        let (before, since) = at_rest(&clocks)?;
        thread::sleep(AT_REST_LIMIT);
        let (cpu, at) = (clocks.read()?, os::now());
        let share = share(cpu.saturating_sub(before), at.since(since));
        Ok(CpuMeter { tree, clocks, cpu, at, spins: (share > SPINNING).then_some(share) })
    }

    /// Returns the share of a CPU that the server used since its last slice.
    fn idle_cpu_share(&self, cpu: Duration, now: Nanos) -> f64 {
        self.spins.unwrap_or_else(|| share(cpu.saturating_sub(self.cpu), now.since(self.at)))
    }
}

fn share(cpu: Duration, time: Duration) -> f64 {
    cpu.as_secs_f64() / time.as_secs_f64().max(1e-9)
}

/// Connects to a server and warms it up. Returns `None` if `report` interrupts that.
fn set_up(
    process: &ServerProcess,
    options: &LoadOptions,
    report: &mut dyn FnMut(Activity) -> bool,
) -> Result<Option<(Load, CpuMeter)>, LoadError> {
    if !report(Activity::Connecting) {
        return Ok(None);
    }
    let mut load = Load::connect(&process.address, options)?;
    for _ in 0..WARM_UP {
        if !report(Activity::WarmingUp) {
            return Ok(None);
        }
        load.run_for(SLICE)?;
    }
    load.clear_latencies();
    let meter = CpuMeter::start(process).map_err(LoadError::client("read the server's clock"))?;
    Ok(Some((load, meter)))
}

/// Estimates the number of rounds of a phase.
fn expected_rounds(progress: &SampleProgress, limit: PhaseLimit, slices_per_round: usize) -> u32 {
    match limit {
        PhaseLimit::Rounds(rounds) => rounds,
        PhaseLimit::Time { limit, .. } => {
            let round = match progress.round {
                0 => (SLICE * slices_per_round as u32).as_secs_f64(),
                rounds => {
                    let rounds = f64::from(rounds) + 1.0 / slices_per_round as f64;
                    progress.elapsed.as_secs_f64() / rounds
                }
            };
            ((limit.as_secs_f64() / round.max(1e-9)) as u32).max(progress.round + 1)
        }
    }
}

/// Reads a server's clocks once they stand still: the server has sent all replies and sleeps, and
/// the clock of its thread, which may lag by up to a tick on another CPU, is exact. A server that
/// does not become idle is read after [`AT_REST_LIMIT`].
fn at_rest(clocks: &CpuClocks) -> io::Result<(Duration, Nanos)> {
    let start = os::now();
    let mut since = start;
    let mut cpu = clocks.read()?;
    loop {
        thread::yield_now();
        let now = os::now();
        let again = clocks.read()?;
        if again != cpu {
            (cpu, since) = (again, now);
        }
        if now.since(since) >= AT_REST || now.since(start) >= AT_REST_LIMIT {
            return Ok((cpu, now));
        }
    }
}
