//! `proactor load`: put a server under load, and verify every reply.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use super::output::{Destination, is_stdout};
use super::{MessageArgs, SEED_MAX, number, output, refuse, run_on_cpu, stop_signal};
use proactor::address::Address;
use proactor::os::ShutdownSignal;
use proactor_load::ramp::{Ramp, RampPlan};
use proactor_load::summary::LoadSummary;
use proactor_load::{Arrivals, CONNECTIONS_MAX, EngineChoice, Load, LoadOptions, LoadSlice};
use proactor_load::{Offer, Pattern, RATE_MAX, Workload};
use proactor_report::units;

/// Put a server under load, and verify every byte of its replies.
///
/// Without --rate the load is a closed loop: a connection sends its next message when a reply has
/// arrived, so the rate is the maximum of the server. The latencies are service times; they do not
/// contain the time that a message would wait at a fixed rate, and hide a server that stops.
///
/// With --rate it is an open loop: each message is sent at its planned time, or as soon as possible
/// after it, whatever the server does. The latencies begin at the planned time.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoadArgs {
    /// Address of the server: HOST:PORT, [IPV6]:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ADDR", required_unless_present = "address")]
    addr: Option<Address>,

    /// Address of the server, as an option (the spelling of rust_echo_bench)
    #[arg(long, short = 'a', value_name = "ADDR", conflicts_with = "addr")]
    address: Option<Address>,

    /// Duration of the measurement, or of each step of --ramp: 500ms, 2m [default: 5s, or 1s for a
    /// step]
    #[arg(long, short = 't', value_name = "TIME", value_parser = units::parse_positive_duration)]
    duration: Option<Duration>,

    /// Number of connections
    #[arg(long, short = 'c', visible_alias = "number", value_name = "N", default_value_t = 64,
          value_parser = number::<usize>(1, CONNECTIONS_MAX as u64))]
    connections: usize,

    #[command(flatten)]
    messages: MessageArgs,

    /// Open loop: send so many messages a second over all connections, at planned times: 50000,
    /// 50k, 1.5M. Each connection may then have 1024 messages in flight, unless --depth says
    /// otherwise
    #[arg(long, short = 'R', value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,

    /// Open loops of rising rate, from A to B messages a second, until the server does not hold
    /// one: find the knee, twice
    #[arg(long, value_name = "A:B", value_parser = ramp, conflicts_with = "rate")]
    ramp: Option<(f64, f64)>,

    /// Planned times of an open loop: constant, poisson (random, as independent clients send), or
    /// bursts (ten times as often in the first 10 ms of each 100 ms) [default: constant]
    #[arg(long, value_name = "KIND", value_parser = arrivals)]
    arrivals: Option<Arrivals>,

    /// Open so many more connections, which are idle after their first message
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    idle: usize,

    /// Open so many more connections that send much and read a kilobyte every 10 ms
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = number::<usize>(0, CONNECTIONS_MAX as u64))]
    slow_readers: usize,

    /// I/O engine of the client: uring, epoll, or auto (uring where it works). Both busy-poll, so
    /// that the client uses a whole CPU
    #[arg(long, alias = "wire", value_name = "ENGINE", default_value = "auto")]
    engine: EngineChoice,

    /// Run the client on this CPU, a usable one (see taskset(1))
    #[arg(long, value_name = "CPU", value_parser = number::<usize>(0, 65_535))]
    cpu: Option<usize>,

    /// Fail if a connection waits longer than this for a reply
    #[arg(long, alias = "patience", value_name = "TIME", default_value = "5s",
          value_parser = units::parse_positive_duration)]
    timeout: Duration,

    /// Seed of the message bytes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u64>(0, SEED_MAX))]
    seed: u64,

    /// Write the latencies to FILE as an interval log of HdrHistogram (format V2, nanoseconds)
    #[arg(long, value_name = "FILE", conflicts_with = "ramp")]
    hdr: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The messages in flight of a connection in an open loop.
pub(super) const OPEN_DEPTH: usize = 1024;

impl LoadArgs {
    /// Runs the load, and prints the result on standard output.
    ///
    /// # Errors
    /// The server cannot be reached, or a reply was wrong, late or missing. The first failure is
    /// returned.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let address = self.addr.as_ref().or(self.address.as_ref()).context("no address")?;
        self.check();
        let arrivals = self.arrivals.unwrap_or_default();
        let options = LoadOptions {
            workload: self.workload(arrivals),
            protocol: self.messages.protocol(),
            seed: self.seed,
            engine: self.engine,
            timeout: self.timeout,
        };
        self.cpu.map_or(Ok(()), run_on_cpu)?;
        let stop = stop_signal()?;
        let load = Load::connect(address, &options)?;
        match self.ramp {
            Some((from, to)) => {
                self.find_knee(load, address, RampPlan { from, to, arrivals }, &stop)
            }
            None => self.measure(load, address, &stop),
        }
    }

    fn is_open(&self) -> bool {
        self.rate.is_some() || self.ramp.is_some()
    }

    /// Refuses options that do not go together.
    fn check(&self) {
        let pattern = self.messages.workload;
        let is_echoed = self.messages.protocol().name == "echo";
        self.messages.check(&[self.connections]);
        refuse(&[
            (self.messages.size.len() > 1, "--size: several are for compare"),
            (self.messages.depth.len() > 1, "--depth: several are for compare"),
            (self.arrivals.is_some() && !self.is_open(), "--arrivals needs --rate or --ramp"),
            (self.is_open() && pattern.is_one_way(), ONE_WAY_RATE),
            (self.ramp.is_some() && pattern == Pattern::Fanout, "--ramp is for echo and churn"),
            (self.idle > 0 && pattern.protocol().is_some(), "--idle is for echo and churn"),
            (self.slow_readers > 0 && !is_echoed, "--slow-readers need a server of echo"),
            (self.hdr.as_deref().is_some_and(is_stdout), "--hdr needs a file"),
            (self.hdr.is_some() && pattern.is_one_way(), "--hdr needs a workload with latencies"),
        ]);
    }

    fn workload(&self, arrivals: Arrivals) -> Workload {
        let mut workload = Workload {
            idle_connections: self.idle,
            slow_readers: self.slow_readers,
            offer: self.rate.map(|rate| Offer { rate, arrivals }),
            ..self.messages.all(self.connections)[0]
        };
        if self.is_open() && self.messages.depth.is_empty() {
            workload.shape.depth = OPEN_DEPTH;
        }
        workload
    }

    fn measure(
        &self,
        mut load: Load,
        address: &Address,
        stop: &ShutdownSignal,
    ) -> anyhow::Result<()> {
        let duration = self.duration.unwrap_or(Duration::from_secs(5));
        let hdr = self.hdr.as_deref().map(Destination::open).transpose()?;
        let start = SystemTime::now();
        let live = output::progress("load  {bar:24} {msg}");
        live.set_length(duration.as_millis() as u64);
        let slice = load.run(duration, &mut |so_far: &LoadSlice| {
            live.set_position(so_far.wall.as_millis() as u64);
            let (rate, count) = (units::rate(so_far.rate()), units::count(so_far.messages));
            let left = duration.saturating_sub(so_far.wall).as_secs_f64();
            live.set_message(format!("{left:.0} s left  {rate} msg/s, {count} replies verified"));
            stop.take() == 0
        });
        live.finish_and_clear();
        let slice = slice?;
        let summary = LoadSummary::new(&load, address.to_string(), self.seed, slice);
        let log = load.interval_log(start, slice.wall);
        // Before the result is printed: a byte after the last reply makes it void.
        load.close()?;
        hdr.map_or(Ok(()), |file| file.write(&log))?;
        match self.json {
            true => output::print_json(&summary),
            false => Ok(output::print(&summary.text())?),
        }
    }

    fn find_knee(
        &self,
        mut load: Load,
        address: &Address,
        plan: RampPlan,
        stop: &ShutdownSignal,
    ) -> anyhow::Result<()> {
        let step = self.duration.unwrap_or(Duration::from_secs(1));
        let live = output::progress("ramp  {msg}");
        let ramp = Ramp::run(&mut load, address.to_string(), plan, step, &mut |steps, now| {
            let rate = units::rate(now.offered as f64 / now.seconds());
            let pass = steps.last().map_or(1, |step| step.pass);
            let n = steps.len() + 1;
            live.set_message(format!("pass {pass} of 2, step {n}: {rate} msg/s offered"));
            stop.take() == 0
        });
        live.finish_and_clear();
        let ramp = ramp?;
        load.close()?;
        match self.json {
            true => output::print_json(&ramp),
            false => Ok(output::print(&ramp.text())?),
        }
    }
}

/// Why an open loop is refused.
pub(super) const ONE_WAY_RATE: &str = "bytes in one direction have no --rate";

/// Returns a rate that an open loop can have.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = units::parse_rate(text)?;
    let most = format!("{} messages a second at most", units::rate(RATE_MAX));
    (rate <= RATE_MAX).then_some(rate).ok_or(most)
}

/// Returns the first and the last rate of a ramp.
fn ramp(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once(':').ok_or("write two rates, as 1k:200k")?;
    let (from, to) = (rate(from)?, rate(to)?);
    (from < to).then_some((from, to)).ok_or_else(|| "the second rate must be higher".to_owned())
}

pub(super) fn arrivals(text: &str) -> Result<Arrivals, String> {
    match text {
        "constant" => Ok(Arrivals::Constant),
        "poisson" => Ok(Arrivals::Poisson),
        "bursts" => Ok(Arrivals::Bursts),
        _ => Err("use constant, poisson or bursts".to_owned()),
    }
}
