//! A load as it is played: servers are set up, driven in rounds, and parted from.
//!
//! The baseline stays for the whole of it; challengers come and go by phases. A server that never
//! sleeps is stopped (SIGSTOP) while others have their turn: it would take their CPU.

use std::io;
use std::thread;
use std::time::Duration;

use super::contender::{Refusal, Server};
use super::environment::Steal;
use super::family::{Clocks, Family};
use super::plan::{Entrant, Plan, SLICE, WARM_UP};
use super::rounds::{self, Arena, Round, Sample, Step, Until};
use super::schedule::Schedule;
use super::{Doing, Heat, Outcome, PATIENCE, Progress, Recipe, Watch, room, summary};
use proactor::clock::Nanos;
use proactor::os;
use proactor_load::{Load, LoadError, LoadShape};

/// A server sleeps when its clock has stood still for so long.
const AT_REST: Duration = Duration::from_micros(200);
/// How long to wait for that: longer than a tick of the kernel's.
const AT_REST_LIMIT: Duration = Duration::from_millis(20);
/// A server that uses more of a CPU than this while nobody asks anything of it spins.
pub(super) const SPINNING: f64 = 0.05;

/// A heat that is being measured.
pub(super) struct Running<'a> {
    plan: &'a Plan,
    shape: LoadShape,
    recipe: Recipe<'a>,
    /// Which load, from 0, of how many.
    table: (usize, usize),
    /// Who is open at the same time, beside the baseline.
    phases: Vec<Vec<usize>>,
    entrants: Vec<Entrant>,
    outcomes: Vec<Outcome>,
    rounds: Vec<Round>,
    wire: &'static str,
    warnings: Vec<String>,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        shape: LoadShape,
        recipe: Recipe<'a>,
        table: (usize, usize),
    ) -> Running<'a> {
        let entrants = plan.entrants();
        let mut outcomes = vec![Outcome::default(); entrants.len()];
        for (entrant, outcome) in entrants.iter().zip(&mut outcomes) {
            outcome.reason = room::shortage(&entrant.model.model, shape.connections, 0);
        }
        let challengers = (1..entrants.len()).filter(|&at| outcomes[at].reason.is_none());
        let phases = match outcomes[0].reason {
            Some(_) => Vec::new(), // Without the baseline there is nothing to compare with.
            None => plan.phases(shape, &challengers.collect::<Vec<_>>()),
        };
        Running {
            plan,
            shape,
            recipe,
            table,
            phases,
            entrants,
            outcomes,
            rounds: Vec::new(),
            wire: "none",
            warnings: Vec::new(),
        }
    }

    /// Why the baseline cannot run, where that is known beforehand.
    pub(super) fn hopeless(&self) -> Option<&str> {
        self.outcomes[0].reason.as_deref()
    }

    /// What is to be played: who is open at the same time, beside the baseline.
    pub(super) fn phases(&self) -> impl Iterator<Item = (LoadShape, &[usize])> {
        self.phases.iter().map(|phase| (self.shape, phase.as_slice()))
    }

    /// What moved the client's bytes.
    pub(super) fn wire(&self) -> &'static str {
        self.wire
    }

    /// What is to be said of how it went.
    pub(super) fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn finish(self) -> Heat {
        summary::heat(self.shape, self.entrants, self.rounds, self.outcomes)
    }

    /// Plays all phases; answers whether it was told to stop.
    pub(super) fn run(
        &mut self,
        schedule: &mut Schedule,
        watch: Watch<'_>,
    ) -> anyhow::Result<bool> {
        let mut stage = Stage::new(self.entrants.len());
        let mut stopped = false;
        for phase in std::mem::take(&mut self.phases) {
            stopped = self.phase(&mut stage, &phase, schedule, watch)?;
            if stopped {
                break;
            }
        }
        self.leave(&mut stage, 0)?;
        Ok(stopped)
    }

    /// Plays one phase, and parts from all but the baseline; answers whether it was told to stop.
    fn phase(
        &mut self,
        stage: &mut Stage,
        phase: &[usize],
        schedule: &mut Schedule,
        watch: Watch<'_>,
    ) -> anyhow::Result<bool> {
        let share = schedule.next(self.shape, phase, os::now());
        let (table, load) = (self.table, self.shape);
        let mut present = Vec::new();
        let mut stopped = false;
        for entrant in std::iter::once(0).chain(phase.iter().copied()) {
            if stage.stands[entrant].is_some() {
                continue;
            }
            let who = &self.entrants[entrant].clone();
            let mut tell = |doing| {
                let left = schedule.left(os::now());
                stopped |= !watch(&Progress { table, load, entrant: who, doing, left });
                !stopped
            };
            match self.enter(stage, entrant, &mut tell)? {
                Ok(()) if entrant != 0 => present.push(entrant),
                Ok(()) => {}
                Err(Refusal(reason)) if entrant == 0 => {
                    anyhow::bail!("the baseline, {}, cannot run: {reason}", self.name(0));
                }
                Err(Refusal(reason)) => self.outcomes[entrant].reason = Some(reason),
            }
            if stopped {
                break;
            }
        }
        if !stopped {
            stopped =
                self.play(stage, &present, schedule.until(share, os::now()), schedule, watch)?;
        }
        for &entrant in phase {
            let (doing, left) = (Doing::Ending, schedule.left(os::now()));
            let who = &self.entrants[entrant];
            if stage.stands[entrant].is_some() {
                stopped |= !watch(&Progress { table, load, entrant: who, doing, left });
            }
            self.leave(stage, entrant)?;
        }
        Ok(stopped)
    }

    /// Plays the rounds of those who are present; answers whether it was told to stop.
    fn play(
        &mut self,
        stage: &mut Stage,
        present: &[usize],
        until: Until,
        schedule: &Schedule,
        watch: Watch<'_>,
    ) -> anyhow::Result<bool> {
        let (table, entrants, load) = (self.table, &self.entrants, self.shape);
        let slices = rounds::slices(present.len());
        let mut watch = |step: &Step| {
            let (doing, left) =
                (Doing::Slice(*step, rounds(step, until, slices)), schedule.left(os::now()));
            watch(&Progress { table, load, entrant: &entrants[step.entrant], doing, left })
        };
        let played = rounds::play(stage, present, self.plan.seed, SLICE, until, &mut watch);
        let played = match played {
            Ok(played) => played,
            Err(failure) if failure.is_wrong() => return Err(stage.blame(failure, entrants)),
            Err(failure) => {
                let reason = stage.failed(0, &failure);
                anyhow::bail!("the baseline, {}, cannot go on: {reason}", self.name(0));
            }
        };
        self.rounds.extend(played.rounds);
        for (entrant, failure) in played.failed {
            let reason = stage.failed(entrant, &failure);
            self.outcomes[entrant].reason = Some(reason);
        }
        Ok(played.stopped)
    }

    /// Starts an entrant's server, connects to it, and warms it up; `tell` is told of each and says
    /// whether to go on. The inner error is its own affair, the outer one voids all.
    fn enter(
        &mut self,
        stage: &mut Stage,
        entrant: usize,
        tell: &mut dyn FnMut(Doing) -> bool,
    ) -> anyhow::Result<Result<(), Refusal>> {
        stage.current = entrant;
        let model = &self.entrants[entrant].model;
        let open = stage.stands.iter().flatten().count() * self.shape.connections;
        if let Some(reason) = room::shortage(&model.model, self.shape.connections, open) {
            return Ok(Err(Refusal(reason)));
        }
        let interrupted = || Refusal("it was interrupted before its turn".to_owned());
        if !tell(Doing::Starting) {
            return Ok(Err(interrupted()));
        }
        let server = match (self.recipe)(model).and_then(Server::start) {
            Ok(server) => server,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.outcomes[entrant].about = server.about().to_owned();
        let options = proactor_load::LoadOptions {
            shape: self.shape,
            seed: self.plan.seed ^ entrant as u64,
            engine: self.plan.engine,
            timeout: PATIENCE,
        };
        match set_up(&server, &options, tell) {
            Ok(Some(mut stand)) => {
                self.tell_wire(&stand.load);
                stand.server = Some(server);
                if stand.spins.is_some() {
                    let paused = stand.pause();
                    paused.map_err(|error| stage.blame(error, &self.entrants))?;
                }
                stage.stands[entrant] = Some(stand);
                Ok(Ok(()))
            }
            Ok(None) => Ok(Err(interrupted())),
            Err(failure) if failure.is_wrong() => Err(stage.blame(failure, &self.entrants)),
            Err(failure) => Ok(Err(server.failed(&failure))),
        }
    }

    fn tell_wire(&mut self, load: &Load) {
        self.wire = load.engine();
        let Some(error) = load.fallback() else { return };
        let warning = format!(
            "io_uring does not work for the client ({error}); it used epoll, which is at its end at a \
             lower rate."
        );
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Parts from a server, if it is there, and takes what it has counted.
    fn leave(&mut self, stage: &mut Stage, entrant: usize) -> anyhow::Result<()> {
        let Some(mut stand) = stage.stands[entrant].take() else { return Ok(()) };
        let name = self.name(entrant);
        let outcome = &mut self.outcomes[entrant];
        outcome.messages += stand.load.messages();
        outcome.service_time = Some(stand.load.latencies().percentiles());
        let _ = stand.resume(); // One that cannot be resumed will not end either, which is told then.
        let Stand { load, server: Some(server), family, .. } = stand else { return Ok(()) };
        if server.family().is_ok_and(|now| now.processes() != family.processes()) {
            self.warnings.push(format!(
                "{name} had {} processes at first and another number at its end: the CPU of some is \
                 not counted.",
                family.processes()
            ));
        }
        match load.close() {
            Err(failure) if failure.is_wrong() => {
                return Err(anyhow::Error::new(failure).context(name));
            }
            Err(failure) => self.warnings.push(format!("{name}: {failure}")),
            Ok(()) => {}
        }
        match server.stop() {
            Ok(stats) => outcome.stats = Some(stats),
            Err(refusal) => self.warnings.push(format!(
                "{name} did not tell its counters, so its system calls are not known: {refusal}"
            )),
        }
        Ok(())
    }

    fn name(&self, entrant: usize) -> String {
        self.entrants[entrant].name()
    }
}

/// Connects to a server and warms it up. `None` if `tell` says not to go on.
fn set_up(
    server: &Server,
    options: &proactor_load::LoadOptions,
    tell: &mut dyn FnMut(Doing) -> bool,
) -> Result<Option<Stand>, LoadError> {
    let read = LoadError::client("read the server's clock");
    if !tell(Doing::Connecting) {
        return Ok(None);
    }
    let mut load = Load::connect(server.address(), options)?;
    for _ in 0..WARM_UP {
        if !tell(Doing::WarmingUp) {
            return Ok(None);
        }
        load.run_for(SLICE)?;
    }
    load.clear_latencies();
    // From here on its children are those that it will have: there are all connections.
    let family = server.family().map_err(&read)?;
    let clocks = family.clocks().map_err(&read)?;
    let (before, since) = at_rest(&clocks).map_err(&read)?;
    thread::sleep(AT_REST_LIMIT);
    let (cpu, at) = (clocks.read().map_err(&read)?, os::now());
    let share = cpu.saturating_sub(before).as_secs_f64() / at.since(since).as_secs_f64().max(1e-9);
    let spins = (share > SPINNING).then_some(share);
    Ok(Some(Stand { load, server: None, family, clocks, cpu, at, spins }))
}

/// About how many rounds there will be.
fn rounds(step: &Step, until: Until, slices_per_round: usize) -> u32 {
    match until {
        Until::Rounds(rounds) => rounds,
        Until::Elapsed { limit, .. } => {
            let played = f64::from(step.round) + 1.0 / slices_per_round as f64;
            let round = (SLICE * slices_per_round as u32).as_secs_f64();
            let round = match step.round {
                0 => round,
                _ => step.elapsed.as_secs_f64() / played,
            };
            ((limit.as_secs_f64() / round.max(1e-9)) as u32).max(step.round + 1)
        }
    }
}

/// The servers that are open, each with its connections.
struct Stage {
    stands: Vec<Option<Stand>>,
    steal: Option<Steal>,
    /// Who had the last turn: the one to blame if it failed.
    current: usize,
}

/// One server, and the connections to it.
struct Stand {
    load: Load,
    /// `None` only while it is being set up. Declared after the load: connections go first.
    server: Option<Server>,
    family: Family,
    clocks: Clocks,
    /// Its CPU time at the end of its last slice, …
    cpu: Duration,
    /// … and when that was.
    at: Nanos,
    /// How much of a CPU it uses while nobody asks anything of it, if it spins: then it is paused
    /// but for its slices.
    spins: Option<f64>,
}

impl Stand {
    fn pause(&mut self) -> Result<(), LoadError> {
        let paused = self.server.as_mut().map_or(Ok(()), Server::pause);
        paused.map_err(LoadError::client("pause the server"))
    }

    fn resume(&mut self) -> Result<(), LoadError> {
        let resumed = self.server.as_mut().map_or(Ok(()), Server::resume);
        resumed.map_err(LoadError::client("resume the server"))
    }

    fn slice(&mut self, span: Duration) -> Result<Sample, LoadError> {
        let read = LoadError::client("read the server's clock");
        let (before, began) = at_rest(&self.clocks).map_err(&read)?;
        let between = began.since(self.at).as_secs_f64();
        let unasked = before.saturating_sub(self.cpu).as_secs_f64();
        let waited = |family: &Family| family.waited().unwrap_or_default();
        let waited_before = waited(&self.family);
        if self.spins.is_some() {
            self.resume()?;
        }
        let slice = self.load.run_for(span)?;
        if self.spins.is_some() {
            self.pause()?;
        }
        let (after, at) = at_rest(&self.clocks).map_err(&read)?;
        let server_waited = waited(&self.family).saturating_sub(waited_before);
        (self.cpu, self.at) = (after, at);
        Ok(Sample {
            slice,
            server_cpu: after.saturating_sub(before),
            server_waited,
            server_idle_cpu_share: match self.spins {
                Some(share) => share,
                None if between > 0.0 => unasked / between,
                None => 0.0,
            },
        })
    }
}

impl Stage {
    fn new(entrants: usize) -> Stage {
        let stands = (0..entrants).map(|_| None).collect();
        Stage { stands, steal: None, current: 0 }
    }

    /// Ends a server that failed its client; answers why, in one line.
    fn failed(&mut self, entrant: usize, failure: &LoadError) -> String {
        match self.stands[entrant].take().and_then(|stand| stand.server) {
            Some(server) => server.failed(failure).0,
            None => failure.to_string(),
        }
    }

    /// The failure, with the name of whom it happened to.
    fn blame(&self, failure: LoadError, entrants: &[Entrant]) -> anyhow::Error {
        let void = if failure.is_wrong() { ": the whole run is void" } else { "" };
        anyhow::Error::new(failure).context(format!("{}{void}", entrants[self.current].name()))
    }
}

impl Arena for Stage {
    fn slice(&mut self, entrant: usize, span: Duration) -> Result<Sample, LoadError> {
        self.current = entrant;
        let stand = self.stands[entrant].as_mut().expect("only who has entered has a turn");
        stand.slice(span)
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

/// Reads a server's clocks once they stand still, which they do when all replies are out and the
/// server sleeps: before that, the clock of a thread on another CPU lags by up to a tick. One that
/// does not come to rest is read as it is; what it uses unasked is then told as such.
fn at_rest(clocks: &Clocks) -> io::Result<(Duration, Nanos)> {
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
