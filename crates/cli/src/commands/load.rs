//! `proactor load`: put a server under load, and verify every reply.

use std::time::Duration;

use anyhow::Context;

use super::{MessageArgs, SEED_MAX, number, output, run_on_cpu, stop_signal};
use proactor::address::Address;
use proactor_load::summary::LoadSummary;
use proactor_load::{CONNECTIONS_MAX, EngineChoice, Load, LoadOptions, LoadSlice};
use proactor_report::units;

/// Put a server under load, and verify every byte of its replies.
///
/// The load is a closed loop: a connection sends its next message when a reply has arrived, so the
/// rate is the maximum of the server. The latencies are service times; they do not contain the time
/// that a message would wait at a fixed rate.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoadArgs {
    /// Address of the server: HOST:PORT, [IPV6]:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ADDR", required_unless_present = "address")]
    addr: Option<Address>,

    /// Address of the server, as an option (the spelling of rust_echo_bench)
    #[arg(long, short = 'a', value_name = "ADDR", conflicts_with = "addr")]
    address: Option<Address>,

    /// Duration of the measurement: 5s, 500ms, 2m
    #[arg(long, short = 't', value_name = "TIME", default_value = "5s",
          value_parser = units::parse_positive_duration)]
    duration: Duration,

    /// Number of connections
    #[arg(long, short = 'c', visible_alias = "number", value_name = "N", default_value_t = 64,
          value_parser = number::<usize>(1, CONNECTIONS_MAX as u64))]
    connections: usize,

    #[command(flatten)]
    messages: MessageArgs,

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

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl LoadArgs {
    /// Runs the load, and prints the result on standard output.
    ///
    /// # Errors
    /// The server cannot be reached, or a reply was wrong, late or missing. The first failure is
    /// returned.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let address = self.addr.as_ref().or(self.address.as_ref()).context("no address")?;
        let options = LoadOptions {
            shape: self.messages.shape(self.connections),
            protocol: self.messages.protocol.clone(),
            seed: self.seed,
            engine: self.engine,
            timeout: self.timeout,
        };
        self.cpu.map_or(Ok(()), run_on_cpu)?;
        let stop = stop_signal()?;
        let mut load = Load::connect(address, &options)?;
        let live = output::progress("load  {bar:24} {elapsed_precise}  {msg}");
        live.set_length(self.duration.as_millis() as u64);
        let slice = load.run(self.duration, &mut |so_far: &LoadSlice| {
            live.set_position(so_far.wall.as_millis() as u64);
            let (rate, count) = (units::rate(so_far.rate()), units::count(so_far.messages));
            live.set_message(format!("{rate} msg/s, {count} replies verified"));
            stop.take() == 0
        });
        live.finish_and_clear();
        let slice = slice?;
        let summary = LoadSummary::new(&load, address.to_string(), self.seed, slice);
        // Before the result is printed: a byte after the last reply makes it void.
        load.close()?;
        match self.json {
            true => output::print_json(&summary),
            false => Ok(output::print(&summary.text())?),
        }
    }
}
