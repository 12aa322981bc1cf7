//! `proactor serve`, and all of `reactor`.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::output;
use super::record::{self, Prepared, Printer};
use super::wrong_usage;
use proactor::address::{Address, Listener, SocketFile};
use proactor::buffer::{Pool, Shape};
use proactor::console::{Console, Place};
use proactor::counters::Counters;
use proactor::limits::{Ended, Limits};
use proactor::os::{self, Stop};
use proactor::protocol::Any;
use proactor::ring::kernel::Version;
use proactor_models::model::{self, Ability, Choice, Chosen, Engine, Model, Service, Terms};
use proactor_report::units;
use proactor_trace::kernel::Scribe;

/// Serve a protocol to whoever connects, until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 takes a free one. Repeatable.
    /// The first single `=` ends the address, and all behind it is what this listener says, as
    /// for --protocol; write an `=` within a path as `==`
    #[arg(long, value_name = "ADDR[=PROTOCOL]", default_value = "127.0.0.1:7000")]
    listen: Vec<Listen>,

    /// How to wait: uring, epoll, epoll-et, poll, select, epoll-oneshot, sigio, nonblocking,
    /// coroutine, thread, process, blocking, or auto, the best that this machine permits; see
    /// `proactor models` [default: auto; of `reactor`: epoll]
    #[arg(long, value_name = "MODEL")]
    model: Option<Choice>,

    /// Of nonblocking: sleep so long after a round in which nothing moved, as 1ms; without it, a
    /// CPU burns
    #[arg(long, value_name = "DURATION", value_parser = units::parse_positive_duration)]
    idle_sleep: Option<Duration>,

    /// What listeners say that do not name their own: echo, upper, discard, chargen, chat, talk
    /// (to the operator, at the console, which it turns on), reply[=TEXT] (each line is
    /// answered with TEXT [ok] and a newline) or prefix[=TEXT] (with TEXT [`your msg = `], the
    /// line, ` ===` and a newline)
    #[arg(long, value_name = "PROTOCOL", default_value = "echo")]
    protocol: Any,

    /// Connections served at a time; who comes beyond waits [default: 10000, or what `ulimit -n`
    /// leaves room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: Option<u32>,

    /// Bytes in each of the smallest buffers; a multiple of 64. Larger ones, of 16 and 128 times
    /// the size, serve those who send much
    #[arg(long, value_name = "BYTES", default_value = "2048", value_parser = buffer_size)]
    buffer_size: usize,

    /// How many of the smallest buffers; of the larger ones there are an eighth and a 32nd as many
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    buffers: u32,

    /// Let an operator type commands: list, say, kick, stats, drain, quit; `help` explains them.
    /// On io_uring connections are ordinary descriptors then, for their addresses to be known
    #[arg(long)]
    console: bool,

    /// Use only what io_uring had in this kernel version, down to 5.6
    #[arg(long, value_name = "X.Y")]
    kernel: Option<Version>,

    /// Seconds that a drain may take before who is left is cut off
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    drain_timeout: Duration,

    /// Stay on this CPU
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,

    #[command(flatten)]
    record: record::Args,

    /// At the end, print what was counted, as one line of JSON
    #[arg(long)]
    stats: bool,

    /// What to say on stderr: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: tracing_subscriber::filter::LevelFilter,
}

/// An address, and what is said there if it was named.
#[derive(Debug, Clone)]
struct Listen {
    address: Address,
    protocol: Option<Any>,
}

impl FromStr for Listen {
    type Err = String;

    /// `ADDR` or `ADDR=PROTOCOL`. The first `=` that is not doubled divides; before it, `==`
    /// stands for `=`, and behind it everything stands for itself.
    fn from_str(text: &str) -> Result<Listen, String> {
        let (mut address, mut rest) = (String::new(), text);
        loop {
            let Some((before, after)) = rest.split_once('=') else {
                address.push_str(rest);
                return Ok(Listen { address: address.parse()?, protocol: None });
            };
            address.push_str(before);
            let Some(after) = after.strip_prefix('=') else {
                let protocol = Some(after.parse()?);
                return Ok(Listen { address: address.parse()?, protocol });
            };
            address.push('=');
            rest = after;
        }
    }
}

/// What `--stats` prints.
#[derive(Debug, Serialize)]
struct Stats {
    schema: &'static str,
    model: &'static str,
    detail: String,
    counters: Counters,
}

/// What is listened at.
struct Open<'a> {
    listeners: Vec<(OwnedFd, Any)>,
    /// With the ports that they got.
    addresses: Vec<(Address, &'a Any)>,
    /// Of Unix sockets: gone with this.
    files: Vec<SocketFile>,
}

impl Args {
    /// Serves. `default` is the model if none was named.
    pub(super) fn run(self, default: Choice) -> anyhow::Result<()> {
        self.begin()?;
        let (choice, console) = (self.model.unwrap_or(default), self.wants_console());
        check_console(choice, console);
        let limits = Limits { connections: self.connections()?, drain: self.drain_timeout };
        let buffers = self.shapes();
        self.check_buffers(&buffers);
        let engine = self.set_up(choice, console.is_some(), &limits, &buffers)?;
        let chosen = engine.chosen();
        let stop = Stop::new().and_then(|stop| stop.on_signals().map(|()| stop));
        let stop = stop.context("cannot listen for signals")?;
        let Open { listeners, addresses, files } = self.listen()?;
        let attended = console.is_some();
        let console = console.map(|_| open_console(&addresses)).transpose();
        let console = console.context("there can be no console")?;
        let (trace, live, scribe) = Prepared::split(self.record.prepare(chosen.model)?);
        let idle_sleep = self.idle_sleep;
        let service = Service { listeners, buffers, limits, stop, idle_sleep, console, trace };
        let mut printer = Ok(None);
        let ready = || {
            printer = Printer::start(live, chosen.model);
            announce_listeners(&addresses, chosen.model);
        };
        let served = model::serve(engine, service, ready);
        drop(files);
        finish_trace(scribe, printer);
        let (ended, counters) = served.with_context(|| format!("{} failed", chosen.model))?;
        self.conclude(ended, &chosen, counters, attended)
    }

    /// What is said aside goes to stderr, and all stays on the CPU that was asked for.
    fn begin(&self) -> anyhow::Result<()> {
        tracing_subscriber::fmt()
            .with_max_level(self.log)
            .with_writer(io::stderr)
            .with_target(false)
            .init();
        if let Some(cpu) = self.cpu {
            os::pin_to_cpu(cpu).with_context(|| format!("cannot stay on CPU {cpu}"))?;
        }
        Ok(())
    }

    /// The model, set up, and announced if it was not named.
    fn set_up(
        &self,
        choice: Choice,
        addressable: bool,
        limits: &Limits,
        buffers: &[Shape],
    ) -> anyhow::Result<Engine> {
        let terms = Terms { ceiling: self.kernel, addressable };
        let engine = Engine::set_up(choice, terms, limits, buffers)?;
        let model = engine.chosen().model;
        if self.idle_sleep.is_some() && model != Model::Nonblocking {
            wrong_usage(&format!("--idle-sleep is for nonblocking: {model} sleeps by itself"));
        }
        announce_choice(choice, &engine);
        Ok(engine)
    }

    /// Listens wherever it was asked to.
    fn listen(&self) -> anyhow::Result<Open<'_>> {
        let (listeners, addresses, files) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = Open { listeners, addresses, files };
        for Listen { address, protocol } in &self.listen {
            let Listener { fd, address, file } =
                address.listen().with_context(|| format!("cannot listen on {address}"))?;
            let protocol = protocol.as_ref().unwrap_or(&self.protocol);
            open.listeners.push((fd, protocol.clone()));
            open.addresses.push((address, protocol));
            open.files.extend(file);
        }
        Ok(open)
    }

    /// Tells how it ended: well only if it drained.
    fn conclude(
        &self,
        ended: Ended,
        chosen: &Chosen,
        counters: Counters,
        attended: bool,
    ) -> anyhow::Result<()> {
        if self.stats {
            print_stats(chosen, counters)?;
        }
        if counters.cut > 0 {
            eprintln!("drain timeout: {} connections were cut off", counters.cut);
        }
        match ended {
            Ended::Drained => Ok(()),
            Ended::AtOnce if attended => bail!("stopped at once"),
            Ended::AtOnce => bail!("stopped at once by a second signal"),
        }
    }

    /// What wants a console, if anything does.
    fn wants_console(&self) -> Option<&'static str> {
        let mut said = self.listen.iter().map(|it| it.protocol.as_ref().unwrap_or(&self.protocol));
        let talks = said.any(|protocol| matches!(protocol, Any::Talk(_)));
        if self.console { Some("--console") } else { talks.then_some("the console of talk") }
    }

    /// The limit of connections that the limit of descriptors leaves room for.
    fn connections(&self) -> anyhow::Result<usize> {
        /// Standard streams, ring, stop, selector, and a few to spare.
        const RESERVE: usize = 16;
        let descriptors = os::raise_descriptor_limit().context("cannot read `ulimit -n`")? as usize;
        let room = descriptors.saturating_sub(RESERVE + self.listen.len()).max(1);
        let Some(asked) = self.max_connections else {
            return Ok(Limits::default().connections.min(room));
        };
        if asked as usize > room {
            tracing::warn!("`ulimit -n` of {descriptors} leaves room for {room} connections");
        }
        Ok(room.min(asked as usize))
    }

    /// That there are to be more buffers than can be is wrong usage.
    fn check_buffers(&self, buffers: &[Shape]) {
        let bytes: usize = buffers.iter().map(|shape| shape.bytes * shape.count).sum();
        if bytes > Pool::BYTES_MAX {
            wrong_usage(&format!(
                "--buffers {} of {} B, and the larger ones, are {} in all: less than 2 GiB are to \
                 be had",
                self.buffers,
                self.buffer_size,
                units::bytes(bytes as f64)
            ));
        }
    }

    /// The pool: a size for messages, one for pages, one for bulk.
    fn shapes(&self) -> Vec<Shape> {
        let (bytes, count) = (self.buffer_size, self.buffers as usize);
        [(1, 1), (16, 8), (128, 32)]
            .into_iter()
            .map(|(larger, fewer)| Shape { bytes: bytes * larger, count: count / fewer })
            .filter(|shape| shape.count > 0 && shape.bytes <= 1 << 20)
            .collect()
    }
}

/// The standard streams as a console; it prompts if both are terminals.
fn open_console(addresses: &[(Address, &Any)]) -> io::Result<Console> {
    let (input, output) = (io::stdin(), io::stdout());
    let prompts = input.is_terminal() && output.is_terminal();
    let output = File::from(output.as_fd().try_clone_to_owned()?);
    let place = |(address, protocol): &(Address, &Any)| Place {
        address: address.to_string(),
        protocol: protocol.to_string(),
    };
    let places = addresses.iter().map(place).collect();
    Console::new(input.as_fd().try_clone_to_owned()?, output, prompts, places)
}

fn announce_choice(choice: Choice, engine: &Engine) {
    if choice == Choice::Auto {
        let chosen = engine.chosen();
        let reason = Some(engine.reason()).filter(|reason| !reason.is_empty());
        let reason = reason.unwrap_or_else(|| chosen.describe());
        eprintln!("model: {} (auto): {reason}", chosen.model);
    }
}

/// One line for each listener. That nobody reads them does not stop a server.
fn announce_listeners(addresses: &[(Address, &Any)], model: Model) {
    let mut out = io::stdout().lock();
    for (address, protocol) in addresses {
        let _ = writeln!(out, "listening on {address} ({model}, {protocol})");
    }
    let _ = out.flush();
}

/// That a model has no console, and something wants one, is wrong usage.
fn check_console(choice: Choice, console: Option<&str>) {
    if let (Choice::Model(model), Some(why)) = (choice, console)
        && let Some(reason) = model.lacks(Ability::Console)
    {
        wrong_usage(&format!("{why} is not for {model}: {reason}"));
    }
}

/// Waits for whoever writes what was recorded; that one could not is no failure of the server.
fn finish_trace(scribe: Option<Scribe>, printer: io::Result<Option<Printer>>) {
    if let Some(Err(error)) = scribe.map(Scribe::finish) {
        tracing::warn!("what the kernel told was not recorded to its end: {error:#}");
    }
    match printer {
        Ok(printer) => printer.into_iter().for_each(Printer::finish),
        Err(error) => tracing::warn!("the trace is not printed: {error}"),
    }
}

fn print_stats(chosen: &Chosen, counters: Counters) -> anyhow::Result<()> {
    let stats = Stats {
        schema: "proactor.stats/1",
        model: chosen.model.name(),
        detail: chosen.describe(),
        counters,
    };
    Ok(output::print(&(serde_json::to_string(&stats)? + "\n"))?)
}

fn buffer_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if bytes % 64 == 0 && (64..=1 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("a multiple of 64, from 64 to 1048576".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "seconds, from 0 to 86400, as 5 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_single_sign_divides_an_address_from_its_protocol() {
        let cases = [
            ("127.0.0.1:80", "127.0.0.1:80", None),
            ("127.0.0.1:80=chat", "127.0.0.1:80", Some("chat")),
            ("[::1]:80=reply=a==b", "[::1]:80", Some("reply=a==b")),
            ("unix:/p=chat", "unix:/p", Some("chat")),
            ("unix:/a==b", "unix:/a=b", None),
            ("unix:/a==b=prefix=> ", "unix:/a=b", Some("prefix=> ")),
            ("unix:/a===echo", "unix:/a=", Some("echo")),
            ("unix:/a====b", "unix:/a==b", None),
        ];
        for (text, address, protocol) in cases {
            let listen: Listen = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(listen.address.to_string(), address, "{text}");
            let found = listen.protocol.map(|protocol| protocol.to_string());
            assert_eq!(found.as_deref(), protocol, "{text}");
        }
        for (text, named) in [
            ("127.0.0.1:80=http", r#"no protocol "http""#),
            ("127.0.0.1:80=", r#"no protocol """#),
            ("unix:/a=b", r#"no protocol "b""#),
            ("127.0.0.1=echo", r#"no address "127.0.0.1""#),
            ("=echo", r#"no address """#),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
