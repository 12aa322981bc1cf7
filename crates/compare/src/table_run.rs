//! The measurement of one load: a trial, then blocks of fresh servers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::block::{MeasuredBlock, Orders, Sample, slice_length};
use crate::capacity;
use crate::connected_server::{ConnectedServer, Spins};
use crate::disturbance::HostState;
use crate::plan::{CROWD_FROM, ComparisonPlan, OPEN_SLICE, PlannedLoad, SLICE, TIMEOUT};
use crate::progress::{Activity, Monitor};
use crate::results::{Outcome, ResultTable, Slowest};
use crate::server_process::{ServerError, ServerProcess, StartCommand};
use crate::summary;
use crate::verdict::Judge;
use proactor::clock::Nanos;
use proactor::os::{self, Order};
use proactor_load::{LoadError, LoadOptions, Workload};
use proactor_report::units::agree;

/// Of the planned blocks, one in this many may be repeated.
const REPEATED: u32 = 4;

/// The measurement of one table.
pub(crate) struct TableRun<'a> {
    plan: &'a ComparisonPlan,
    planned: PlannedLoad,
    /// What the client does now: in a trial that is to find a rate, a closed loop.
    load: Workload,
    slowest: Option<Slowest>,
    command: StartCommand<'a>,
    outcomes: Vec<Outcome>,
    /// What the trial found, for each participant.
    spins: Vec<Option<Spins>>,
    /// The participants whose servers are open at the same time, and the time of their block.
    groups: Vec<(Vec<usize>, Duration)>,
    /// The length of a slice.
    span: Duration,
    orders: Orders,
    blocks: Vec<MeasuredBlock>,
    /// When the comparison began.
    origin: Nanos,
}

/// The servers that are open, by their participants.
type Servers = BTreeMap<usize, ConnectedServer>;

impl<'a> TableRun<'a> {
    pub(crate) fn new(
        plan: &'a ComparisonPlan,
        number: usize,
        command: StartCommand<'a>,
        origin: Nanos,
    ) -> TableRun<'a> {
        let planned = plan.loads[number];
        let load = planned.measured(None).unwrap_or(planned.closed);
        let outcome = |spec| {
            let mut outcome = Outcome::new(spec);
            outcome.reason =
                capacity::shortage(&outcome.spec.model.model, load.all_connections(), 0);
            outcome
        };
        let outcomes: Vec<Outcome> = plan.participants().into_iter().map(outcome).collect();
        let possible = (1..outcomes.len()).filter(|&at| outcomes[at].reason.is_none());
        let groups = ComparisonPlan::groups(load, &possible.collect::<Vec<_>>());
        TableRun {
            plan,
            planned,
            load,
            slowest: None,
            command,
            spins: vec![None; outcomes.len()],
            outcomes,
            groups: groups.into_iter().map(|group| (group, Duration::ZERO)).collect(),
            // A closed loop whose rate an open one has a share of needs more than a glance.
            span: if planned.open.is_some() { OPEN_SLICE } else { SLICE },
            orders: Orders::new(plan.seed ^ (number as u64) << 32),
            blocks: Vec::new(),
            origin,
        }
    }

    /// Returns why the baseline cannot run, if that is known in advance.
    pub(crate) fn baseline_reason(&self) -> Option<&str> {
        self.outcomes[0].reason.as_deref()
    }

    /// Returns the number of rows that are compared with the baseline.
    pub(crate) fn rows(&self) -> usize {
        self.outcomes[1..].iter().filter(|outcome| outcome.reason.is_none()).count()
    }

    /// Returns the time of one block of every group.
    pub(crate) fn cost(&self) -> Duration {
        self.groups.iter().map(|(_, cost)| *cost).sum()
    }

    /// Measures a block of one round that does not count. It shows which models can run, how long a
    /// slice must be, and what a block takes.
    pub(crate) fn try_out(&mut self, monitor: &mut Monitor<'_>) -> anyhow::Result<()> {
        let mut rates: Vec<(f64, usize)> = Vec::new();
        let mut overheads = Vec::new();
        for at in 0..self.groups.len() {
            let began = os::now();
            let Some(block) = self.measure_block(at, 1, monitor)? else { continue };
            let samples = || block.rounds.iter().flatten();
            let slices = samples().map(|sample| sample.slice);
            rates.extend(samples().map(|sample| (sample.slice.rate(), sample.participant)));
            let overhead = os::now().since(began).saturating_sub(slices.map(|it| it.wall).sum());
            overheads.push((at, overhead, samples().count()));
        }
        rates.sort_by(|one, other| one.0.total_cmp(&other.0));
        let slowest = rates
            .first()
            .map(|&(rate, at)| Slowest { model: self.outcomes[at].spec.name.clone(), rate });
        for outcome in &mut self.outcomes {
            // Of the trial, only a reason and the server's description of itself are kept.
            let Outcome { spec, reason, about, .. } = std::mem::take(outcome);
            *outcome = Outcome { reason, about, ..Outcome::new(spec) };
        }
        let slowest_rate = slowest.as_ref().map(|it| it.rate);
        if let Some(load) = self.planned.measured(slowest_rate).filter(|it| *it != self.load) {
            (self.load, self.slowest) = (load, slowest);
        }
        self.span = slice_length(&self.load, slowest_rate.unwrap_or(f64::INFINITY));
        for (at, overhead, servers) in overheads {
            // A slice ends with the last reply.
            let slices = self.span.mul_f64(1.05) * servers as u32 * self.plan.extent.rounds;
            self.groups[at].1 = overhead + slices;
        }
        Ok(())
    }

    /// Measures so many blocks of each group, and repeats those that are void.
    pub(crate) fn measure(
        mut self,
        number: u32,
        judge: &Judge,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<ResultTable> {
        let groups: Vec<usize> = (0..self.groups.len()).collect();
        let mut planned: Vec<usize> = (0..number).flat_map(|_| groups.clone()).collect();
        let mut repeats = planned.len() as u32 / REPEATED;
        planned.reverse();
        monitor.block = (0, planned.len());
        while let Some(group) = planned.pop().filter(|_| !monitor.interrupted) {
            let cost = self.groups[group].1;
            monitor.schedule.begin(cost, os::now());
            let Some(mut block) = self.measure_block(group, self.plan.extent.rounds, monitor)?
            else {
                continue;
            };
            block.number = self.blocks.len() as u32;
            monitor.block.0 += 1;
            if block.void.is_some() && repeats > 0 {
                repeats -= 1;
                planned.push(group);
                monitor.schedule.add(cost);
                monitor.block.1 += 1;
            }
            self.blocks.push(block);
        }
        let table = summary::table(self.load, self.span, self.outcomes, self.blocks, judge);
        Ok(ResultTable { slowest: self.slowest, ..table })
    }

    /// Measures a block of one group. Returns `None` if there is nothing to measure in it, or the
    /// comparison was interrupted.
    fn measure_block(
        &mut self,
        group: usize,
        rounds: u32,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<Option<MeasuredBlock>> {
        let members = self.groups[group].0.clone();
        let mut servers = Servers::new();
        for at in self.orders.next(&members) {
            if self.outcomes[at].reason.is_none() && !monitor.interrupted {
                self.start(at, &mut servers, monitor)?;
            }
        }
        let is_complete = servers.contains_key(&0) && servers.len() > 1 && !monitor.interrupted;
        let mut block = match is_complete {
            true => self.sample_rounds(&mut servers, rounds, monitor)?,
            false => None,
        };
        if let Some(block) = &mut block {
            block.servers = servers.iter().map(|(&at, server)| server.used(at)).collect();
        }
        for (at, server) in servers {
            self.stop(at, server, monitor)?;
        }
        Ok(block.filter(|block| block.rounds.iter().flatten().any(|it| it.participant != 0)))
    }

    /// Samples the rounds of a block.
    fn sample_rounds(
        &mut self,
        servers: &mut Servers,
        rounds: u32,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<Option<MeasuredBlock>> {
        let cpus = [self.plan.server_cpu, self.plan.client_cpu];
        let before = HostState::read(&cpus);
        let began_ns = os::now().since(self.origin).as_nanos() as u64;
        let mut block = MeasuredBlock { began_ns, ..MeasuredBlock::default() };
        for _ in 0..rounds {
            let mut slices = Vec::new();
            let present: Vec<usize> = servers.keys().copied().collect();
            for at in self.orders.next(&present) {
                let Some(sample) = self.sample(at, servers)? else { continue };
                slices.push(sample);
                if !monitor.report(self.load, &self.outcomes[at].spec, Activity::Sampled(sample)) {
                    return Ok(None);
                }
            }
            block.rounds.push(slices);
        }
        let disturbance = HostState::read(&cpus).since(&before);
        let slices = || block.rounds.iter().flatten().map(|sample| sample.slice);
        let (on, wall) = (slices().map(|it| it.cpu).sum(), slices().map(|it| it.wall).sum());
        block.steal = disturbance.steal;
        block.void = disturbance.cause(on, wall);
        Ok(Some(block))
    }

    /// Samples one participant. Returns `None` if it failed, which ends nothing but its own part.
    fn sample(&mut self, at: usize, servers: &mut Servers) -> anyhow::Result<Option<Sample>> {
        let server = servers.get_mut(&at).expect("only running servers are sampled");
        match server.sample(at, self.span, self.origin) {
            Ok(sample) => Ok(Some(sample)),
            Err(error) if error.is_wrong() && self.must_be_right(at) => {
                Err(self.attribute(at, error))
            }
            Err(error) => {
                let server = servers.remove(&at).expect("it was sampled");
                self.leave_out(at, server.process.failed(&error), "go on")?;
                Ok(None)
            }
        }
    }

    /// Starts a participant's server and connects to it. If that fails, the reason is part of the
    /// participant's outcome.
    fn start(
        &mut self,
        at: usize,
        servers: &mut Servers,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<()> {
        match self.connect(at, servers.len(), monitor) {
            Ok(server) => drop(servers.insert(at, server)),
            Err(error) if monitor.interrupted && error.is::<ServerError>() => {}
            Err(error) => self.leave_out(at, error.downcast()?, "run")?,
        }
        Ok(())
    }

    /// Keeps the reason why a participant has no numbers. Without the baseline, there is nothing to
    /// compare with.
    fn leave_out(&mut self, at: usize, why: ServerError, act: &str) -> anyhow::Result<()> {
        anyhow::ensure!(at != 0, "the baseline, {}, cannot {act}: {why}", self.plan.baseline);
        self.outcomes[at].reason = Some(why.0);
        Ok(())
    }

    /// Returns true if a wrong reply of a participant makes the whole run void: of one of our
    /// models, or of the baseline. That of another program's server is a row that says so.
    fn must_be_right(&self, at: usize) -> bool {
        let name = &self.outcomes[at].spec.name;
        at == 0 || !self.plan.peers.iter().any(|peer| peer.name == *name)
    }

    /// Adds the name of a participant to an error that ends the comparison.
    fn attribute(&self, at: usize, error: LoadError) -> anyhow::Error {
        let void = if error.is_wrong() { ": the whole run is void" } else { "" };
        anyhow::Error::new(error).context(format!("{}{void}", self.outcomes[at].spec.name))
    }

    /// Starts a server beside the `open` ones, connects to it, and drives it for the lead-in. A
    /// [`ServerError`] concerns this participant alone; every other error ends the comparison.
    fn connect(
        &mut self,
        at: usize,
        open: usize,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<ConnectedServer> {
        let TableRun { plan, load: workload, command, .. } = *self;
        let spec = self.outcomes[at].spec.clone();
        let connections = workload.all_connections();
        if let Some(reason) = capacity::shortage(&spec.model.model, connections, open * connections)
        {
            return Err(ServerError(reason).into());
        }
        if !monitor.report(workload, &spec, Activity::Starting) {
            return Err(ServerError("interrupted before its first slice".to_owned()).into());
        }
        let process = ServerProcess::start(command(&spec.model)?)?;
        self.outcomes[at].about = process.about.clone();
        let options = LoadOptions {
            workload,
            protocol: plan.protocol.clone(),
            seed: plan.seed ^ at as u64,
            engine: plan.engine,
            timeout: TIMEOUT,
        };
        let (load, meter) = match ConnectedServer::connect(&process, &options, self.spins[at]) {
            Ok(connected) => connected,
            Err(error) => match error.downcast()? {
                error if LoadError::is_wrong(&error) && self.must_be_right(at) => {
                    return Err(self.attribute(at, error));
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
        self.spins[at] = Some(meter.spins);
        let mut server = ConnectedServer { load, meter, process };
        server.order(Order::Pause).map_err(|error| self.attribute(at, error))?;
        Ok(server)
    }

    /// Stops a server, and keeps its counters.
    fn stop(
        &mut self,
        at: usize,
        mut server: ConnectedServer,
        monitor: &mut Monitor<'_>,
    ) -> anyhow::Result<()> {
        let must_be_right = self.must_be_right(at);
        let outcome = &mut self.outcomes[at];
        let name = outcome.spec.name.clone();
        outcome.messages += server.load.messages();
        // If that fails, the server does not end, which is reported below.
        let _ = server.order(Order::Resume);
        let ConnectedServer { load, process, meter } = server;
        let processes = meter.tree.pids.len();
        if process.process_tree().is_ok_and(|tree| tree.pids.len() != processes) {
            monitor.warn(format!(
                "{name} had {processes} {} at first and another number at its end: the CPU time of \
                 some is not counted.",
                agree(processes as u64, "process", "processes")
            ));
        }
        let closed = if self.load.all_connections() < CROWD_FROM {
            load.close()
        } else {
            load.reset();
            Ok(())
        };
        match closed {
            Err(error) if error.is_wrong() && must_be_right => {
                return Err(anyhow::Error::new(error).context(name));
            }
            Err(error) if error.is_wrong() => outcome.reason = Some(error.to_string()),
            Err(error) => monitor.warn(format!("{name}: {error}")),
            Ok(()) => {}
        }
        match process.stop() {
            Ok(stats) => outcome.add_stats(stats),
            Err(error) => monitor.warn(format!(
                "{name} did not report its counters, so its system calls are unknown: {error}"
            )),
        }
        Ok(())
    }
}
