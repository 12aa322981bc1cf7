//! `proactor load`: put a server under load, and verify every byte it says.

use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use proactor::address::Address;
use proactor::os::{self, Stop};
use proactor_load::summary::Summary;
use proactor_load::{
    CONNECTIONS_MAX, DEPTH_MAX, Load, Options, SIZE_MAX, Shape, Slice, WireChoice,
};
use proactor_report::units;

/// Put an echo server under load and verify every byte it says.
///
/// A closed loop: each connection sends its next message when a reply has come back, so what is
/// measured is the server's ceiling. The latencies are service times; they do not show how long a
/// message would have waited at a fixed rate.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Where the server listens: 127.0.0.1:7000, [::1]:7000 or unix:PATH
    #[arg(value_name = "ADDR", required_unless_present = "address")]
    addr: Option<Address>,

    /// The same, as rust_echo_bench would have it
    #[arg(long, short = 'a', value_name = "ADDR", conflicts_with = "addr")]
    address: Option<Address>,

    /// For how long: seconds, or with a unit (500ms, 2m)
    #[arg(long, short = 't', value_name = "TIME", default_value = "5", value_parser = units::parse_positive_duration)]
    duration: Duration,

    /// Connections
    #[arg(long, short = 'c', visible_alias = "number", value_name = "N", default_value_t = 64,
          value_parser = number(CONNECTIONS_MAX))]
    connections: u64,

    /// Bytes per message
    #[arg(long, short = 'l', visible_alias = "length", value_name = "BYTES", default_value_t = 64,
          value_parser = number(SIZE_MAX))]
    size: u64,

    /// Messages that a connection sends before it awaits a reply
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number(DEPTH_MAX))]
    depth: u64,

    /// What moves the bytes: uring, epoll, or auto (uring where it works). Both spin: they use
    /// their CPU whole
    #[arg(long, value_name = "WIRE", default_value = "auto")]
    wire: WireChoice,

    /// Keep the client on this CPU
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,

    /// How long a connection may be silent while it is owed a reply, before the run has failed
    #[arg(long, value_name = "TIME", default_value = "5", value_parser = units::parse_positive_duration)]
    patience: Duration,

    /// From which the bytes of the messages are made
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Tell the result as JSON
    #[arg(long)]
    json: bool,
}

/// Reads a number between one and `max`.
pub(super) fn number(max: usize) -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(1..=max as u64)
}

impl Args {
    /// Runs it, and prints what came of it on standard output.
    ///
    /// # Errors
    /// The server cannot be reached, or a reply was wrong, late or missing: the first of these.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let address = self.addr.as_ref().or(self.address.as_ref()).context("no address")?;
        let shape = Shape {
            connections: self.connections as usize,
            size: self.size as usize,
            depth: self.depth as usize,
        };
        let options = Options { shape, seed: self.seed, wire: self.wire, patience: self.patience };
        if let Some(cpu) = self.cpu {
            os::pin_to_cpu(cpu).with_context(|| format!("cannot pin the client to CPU {cpu}"))?;
        }
        let stop = Stop::new().context("cannot wait for Ctrl-C")?;
        stop.on_signals().context("cannot wait for Ctrl-C")?;

        let mut load = Load::connect(address, &options)?;
        let live = live(self.duration);
        let slice = load.run(self.duration, &mut |so_far: &Slice| {
            live.set_position(so_far.wall.as_millis() as u64);
            live.set_message(format!(
                "{} msg/s, {} replies verified",
                units::rate(so_far.rate()),
                units::count(so_far.messages)
            ));
            stop.take() == 0
        });
        live.finish_and_clear();
        let slice = slice?;
        let summary = Summary::new(&load, address.to_string(), self.seed, self.wire, slice);
        // Before it is told: a byte that comes after the last reply makes all of it void.
        load.part()?;
        let text = match self.json {
            true => serde_json::to_string_pretty(&summary)? + "\n",
            false => summary.text(),
        };
        Ok(output::print(&text)?)
    }
}

/// A line on standard error that says how it goes; nothing where that is no terminal.
fn live(span: Duration) -> ProgressBar {
    let bar = ProgressBar::new(span.as_millis() as u64);
    let style = ProgressStyle::with_template("load  {bar:24} {elapsed_precise}  {msg}");
    bar.set_style(style.expect("the template is a constant"));
    bar
}
