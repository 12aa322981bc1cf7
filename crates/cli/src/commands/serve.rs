//! `proactor serve`, and the whole of `reactor`.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};

use super::admission::AdmissionArgs;
use super::metrics::{self, MetricsAddress};
use super::output::{self, Destination};
use super::stderr::note;
use super::stream::{self, Stream, StreamWait};
use super::{limits, polling, record, timeouts};
use super::{lock_down, log, number, refuse, run_on_cpu, stop_signal, usage_error, wrong_usage};
use crate::parse_protocol;
use proactor::address::{Address, BoundSocket};
use proactor::buffer::{BufferClass, Pool};
use proactor::console::{Console, ListenerInfo};
use proactor::limits::{Ended, Limits};
use proactor::memory_plan::{classes, default_buffers};
use proactor::model::{self, Ability, EngineOptions, PreparedModel};
use proactor::printable::escape;
use proactor::proxy::ProxyGate;
use proactor::ring::kernel::{self, Capability, Version};
use proactor::{Model, os};
use proactor_compare::{STATS_SCHEMA, ServerStats};
use proactor_models::registry::NamedProtocol;
use proactor_models::{Choice, Listening, NONBLOCKING, Service, choose, serve};
use proactor_report::units;

/// Run a server until SIGTERM, SIGINT, SIGQUIT or SIGHUP
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Address to listen on, optionally with the protocol of this listener: HOST:PORT, [IPV6]:PORT,
    /// unix:PATH or unix:@NAME; port 0 selects a free port. A host name makes a listener for each
    /// of its addresses; [::] takes IPv4 too, unless 0.0.0.0 has a listener of its own. Write `==`
    /// for a literal `=` in a path. Repeatable
    #[arg(long, value_name = "ADDR[=PROTOCOL]", default_value = "127.0.0.1:7000")]
    listen: Vec<Listen>,

    /// I/O model: blocking, process, nonblocking, select, poll, thread, sigio, epoll, epoll-et,
    /// epoll-oneshot, coroutine, uring, or auto (the best that works on this machine); see
    /// `proactor models` [default: auto; for `reactor`: epoll]
    #[arg(long, value_name = "MODEL", value_parser = choose)]
    model: Option<Choice>,

    /// Only for nonblocking: sleep this long after a pass over all sockets that did nothing, for
    /// example 1ms; without it, the server uses a whole CPU
    #[arg(long, value_name = "TIME", value_parser = units::parse_positive_duration)]
    idle_sleep: Option<Duration>,

    /// Protocol of listeners without `=PROTOCOL`: echo, upper, discard, chargen, chat, talk (with
    /// the operator; implies --console), reply[=TEXT] (replies to each line with TEXT, by default
    /// `ok`) or prefix[=TEXT] (replies with TEXT, by default `your msg = `, the line and ` ===`)
    #[arg(long, value_name = "PROTOCOL", default_value = "echo", value_parser = parse_protocol)]
    protocol: NamedProtocol,

    /// Size of the smallest receive buffers: a multiple of 64. Connections that receive much use
    /// larger buffers, of 16 and 128 times this size
    #[arg(long, value_name = "BYTES", default_value = "2048", value_parser = buffer_size)]
    buffer_size: usize,

    /// Number of the smallest buffers; of the larger ones there are an eighth and a 32nd of this
    /// [default: --max-connections, from 1024 to 8192, in an eighth of --max-memory]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1, 32_768))]
    buffers: Option<u32>,

    /// Read operator commands from stdin: list, say, kick, stats, drain, quit; `help` explains
    /// them
    #[arg(long)]
    console: bool,

    /// Serve /metrics for Prometheus, /healthz and /readyz over HTTP at this address: PORT of
    /// 127.0.0.1, HOST:PORT, or unix:PATH. Whatever can connect there reads counters, limits,
    /// version and model, no addresses and no data of clients; there is no TLS and no password
    #[arg(long, value_name = "ADDR")]
    metrics: Option<MetricsAddress>,

    /// Only for uring: use no io_uring feature newer than this kernel version, 5.6 or later
    #[arg(long, value_name = "X.Y")]
    kernel: Option<Version>,

    /// Only for uring: do not use these features of io_uring, nor those that need them: names of
    /// `check`, separated by commas, as RECV_MULTISHOT
    #[arg(long, value_name = "FEATURE,…", value_delimiter = ',')]
    without: Vec<Capability>,

    /// Time to wait for connections to finish on shutdown before they are closed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = up_to_a_day)]
    drain_timeout: Duration,

    /// Maximum user memory of the server, for example 512M: buffers, connections, queues and input
    /// that waits. The kernel's socket memory is not part of it; see --limits [default: a quarter
    /// of the memory of the machine or of its cgroup]
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Limits")]
    max_memory: Option<u64>,

    #[command(flatten)]
    timeouts: timeouts::TimeoutArgs,

    /// Print every limit with its value and its reason, and exit
    #[arg(long, help_heading = "Limits")]
    limits: bool,

    /// Only with --limits: print them as JSON
    #[arg(long, requires = "limits", help_heading = "Limits")]
    json: bool,

    /// Run on this CPU only, a usable one (see taskset(1))
    #[arg(long, value_name = "CPU", value_parser = number::<usize>(0, 65_535))]
    cpu: Option<usize>,

    #[command(flatten)]
    polling: polling::PollingArgs,

    #[command(flatten)]
    lock_down: lock_down::LockDownArgs,

    #[command(flatten)]
    record: record::RecordArgs,

    /// At the end, write the counters as one line of JSON to FILE; - and no FILE are standard
    /// output, and the lines "listening on" then go to stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    stats: Option<PathBuf>,

    #[command(flatten)]
    log: log::LogArgs,

    #[command(flatten)]
    admission: AdmissionArgs,
}

/// What is open before the server is set up.
#[derive(Debug, Default)]
struct Opened {
    listeners: Vec<Listening>,
    /// What an operator reads of the listeners.
    infos: Vec<ListenerInfo>,
    /// The listening sockets of the metrics.
    metrics: Vec<BoundSocket>,
}

/// An address to listen on, and its protocol if it has its own.
#[derive(Debug, Clone)]
struct Listen {
    address: Address,
    protocol: Option<NamedProtocol>,
}

impl FromStr for Listen {
    type Err = String;

    /// `ADDR` or `ADDR=PROTOCOL`. The first single `=` is the separator. Before it, `==` means `=`;
    /// after it, every character means itself.
    fn from_str(text: &str) -> Result<Listen, String> {
        // No argument contains the byte that stands for `==`.
        let text = text.replace("==", "\0");
        let both = text.split_once('=').map(|(address, protocol)| (address, Some(protocol)));
        let (address, protocol) = both.unwrap_or((&text, None));
        let protocol = protocol.map(|it| parse_protocol(&it.replace('\0', "=="))).transpose()?;
        Ok(Listen { address: address.replace('\0', "=").parse()?, protocol })
    }
}

impl ServeArgs {
    /// Runs the server. `default` is the model without `--model`.
    pub(super) fn run(self, default: Option<Model>) -> anyhow::Result<()> {
        self.log.start();
        self.record.handle_signals()?;
        self.cpu.map_or(Ok(()), run_on_cpu)?;
        let asked = self.model.unwrap_or(default);
        let asked = asked.or(self.polling.implied_model());
        let console = self.wants_console();
        let results = [("--stats", self.stats.as_deref()), ("--trace", self.record.path())];
        let stdout_is_taken = output::check_destinations(&results);
        self.lock_down.check_kernel_events(self.record.kernel_events());
        let metrics = self.metrics.iter().map(|MetricsAddress(address)| address);
        let addresses = self.listen.iter().map(|listen| &listen.address).chain(metrics);
        self.lock_down.check_files(addresses);
        // Before anything is opened. What `auto` finds is checked again below.
        let options = self.options(asked, console)?;
        asked.map_or(Ok(()), |model| self.check_model(model, &options))?;
        let early = self.listen_as_root()?;
        let prepared = self.set_up(asked, &options)?;
        if self.limits {
            let gives_up = self.lock_down.gives_up(prepared.model);
            return limits::print(&prepared, &options, gives_up, self.json);
        }
        let (model, detail) = (prepared.model, prepared.detail.clone());
        let stop = stop_signal()?;
        stream::bound_waits();
        let Opened { mut listeners, infos, metrics } = early.map_or_else(|| self.listen(), Ok)?;
        ProxyGate::wrap(&options.limits, listeners.iter_mut().map(|(_, factory)| factory));
        // Now, so that a server that cannot listen empties no file.
        let stats = self.stats.as_deref().map(Destination::open).transpose()?;
        let (trace, mut trace_output) = self.record.prepare(model)?;
        let sockets = listeners.iter().map(|(socket, _)| socket).chain(&metrics);
        let (files, restricted) = (socket_files(sockets), prepared.restricted);
        let shown: Vec<Address> = metrics.iter().map(|socket| socket.address.clone()).collect();
        let monitor = (!metrics.is_empty()).then(|| metrics::monitor(metrics, &prepared));
        let (monitor, _files) = monitor.transpose().context("cannot serve metrics")?.unzip();
        let mut lock_down = || self.lock_down.apply(model, restricted, &files);
        // A thread of before would keep what is given up. A model that forks has none, and looks
        // at /proc until it serves.
        let locked = (!model.info().forks()).then(&mut lock_down).transpose()?;
        let attended = console.is_some();
        let console = console.map(|_| open_console(infos.clone())).transpose();
        let console = console.context("cannot open the console")?;
        self.log.never_wait(model.info().forks())?;
        let service = Service { listeners, stop, console, monitor, trace };
        let mut in_force = Vec::new();
        let served = serve(prepared, service, || {
            trace_output.start(model);
            in_force = locked.map_or_else(lock_down, Ok).map_err(io::Error::other)?;
            announce_listeners(&infos, &shown, model, stdout_is_taken);
            Ok(())
        });
        trace_output.finish();
        let (ended, counters) = served.with_context(|| format!("{model} failed"))?;
        if let Some(to) = stats {
            let (schema, model) = (STATS_SCHEMA.to_owned(), model.name().to_owned());
            let lock_down = in_force;
            let counted = ServerStats { schema, model, detail, lock_down, counters };
            to.write(&(serde_json::to_string(&counted)? + "\n"))?;
        }
        if counters.cut > 0 {
            let (cut, end) = (units::plural(counters.cut, "connection"), "closed before the end");
            self.log.print(&format!("drain timeout: {cut} {end}"));
        }
        // Only a complete drain is a success.
        match ended {
            Ended::Drained => Ok(()),
            Ended::AtOnce if attended => bail!("stopped at once"),
            Ended::AtOnce => bail!("stopped at once by a second signal"),
        }
    }

    /// Refuses options that do not fit to each other or to this machine.
    fn check(&self, asked: Option<Model>, console: Option<&str>) {
        let named = self.model.flatten();
        if let Some(model) = named.filter(|model| *model != Model::URING) {
            let only =
                |option| format!("{option} is only for uring: {model} does not use io_uring");
            refuse(&[
                (self.kernel.is_some(), &only("--kernel")),
                (!self.without.is_empty(), &only("--without")),
            ]);
        }
        let newest = kernel::SINCE.iter().map(|(since, _)| *since).chain(Version::running());
        if let Some((version, newest)) = self.kernel.zip(newest.max())
            && version > newest
        {
            let known = format!("{newest} is the newest known");
            wrong_usage(&format!("--kernel {version} does not exist: {known}"));
        }
        if let Some((model, why)) = asked.zip(console)
            && let Some(reason) = model.info().missing(Ability::Console)
        {
            wrong_usage(&format!("{why} does not work with {model}: {reason}"));
        }
        if let Some(model) = asked.filter(|model| model.info().forks())
            && self.admission.limits_proxied_addresses()
        {
            wrong_usage(&format!(
                "{model} has no limits per address with --proxy-protocol: each header is read in a \
                 process of its own"
            ));
        }
    }

    /// Refuses options that do not fit to this model.
    ///
    /// # Errors
    /// Wrong usage, which is no exit: the addresses of `--user` may be bound.
    fn check_model(&self, model: Model, options: &EngineOptions) -> anyhow::Result<()> {
        if self.idle_sleep.is_some() && model != NONBLOCKING {
            let wrong = format!("--idle-sleep is only for nonblocking: {model} sleeps by itself");
            bail!(usage_error(&wrong));
        }
        if let Some(wrong) = self.polling.wrong_for(model) {
            bail!(usage_error(&wrong));
        }
        self.record.check(model)?;
        let plan = options.memory_plan(model);
        if let Some(asked) = self.max_memory.filter(|&asked| (asked as usize) < plan.total()) {
            let [asked, needed] = [asked as f64, plan.total() as f64].map(units::bytes);
            let connections = units::plural(plan.connections as u64, "connection");
            bail!(usage_error(&format!(
                "--max-memory of {asked}: {connections} of {model} need {needed}; lower \
                 --max-connections or --buffers"
            )));
        }
        Ok(())
    }

    /// Returns what the engine is built for.
    fn options(
        &self,
        asked: Option<Model>,
        console: Option<&str>,
    ) -> anyhow::Result<EngineOptions> {
        self.check(asked, console);
        let mut limits = Limits::default();
        self.admission.apply(&mut limits);
        (limits.connections, limits.drain) = (self.connections()?, self.drain_timeout);
        self.timeouts.apply(&mut limits);
        limits.memory = self.max_memory.map(|asked| asked as usize);
        let mut options = EngineOptions {
            buffers: self.buffer_classes(&limits),
            limits,
            kernel: self.kernel,
            without: self.without.clone(),
            restrict: self.lock_down.restricts_rings(),
            idle_sleep: self.idle_sleep,
            polling: self.polling.polling(),
        };
        if self.admission.max_connections.is_none() {
            let plan = options.memory_plan(asked.unwrap_or(Model::URING));
            options.limits.connections = plan.connections_that_fit(&options.limits);
        }
        Ok(options)
    }

    /// Sets the model up. Reports the choice of `auto`.
    fn set_up(
        &self,
        asked: Option<Model>,
        options: &EngineOptions,
    ) -> anyhow::Result<PreparedModel> {
        let spare = spare_descriptors(self.listen.len() + self.metrics_descriptors());
        let spare = spare.context("cannot serve")?;
        let prepared = model::set_up(asked, options)?;
        drop(spare);
        let PreparedModel { model, detail, reason, .. } = &prepared;
        self.check_model(*model, options)?;
        if asked.is_none() {
            let reason = if reason.is_empty() { detail } else { reason };
            self.log.print(&format!("model: {model} (auto): {reason}"));
        }
        Ok(prepared)
    }

    /// Opens the listeners and becomes the user of `--user`, if there is one, before a ring is made
    /// or a file is opened.
    fn listen_as_root(&self) -> anyhow::Result<Option<Opened>> {
        let Some(user) = self.lock_down.user().filter(|_| !self.limits) else { return Ok(None) };
        let opened = self.listen()?;
        user.assume()?;
        Ok(Some(opened))
    }

    /// Opens the listeners of the command line. Returns them, and what an operator reads of them.
    fn listen(&self) -> anyhow::Result<Opened> {
        let all: Vec<&Address> = self.listen.iter().map(|listen| &listen.address).collect();
        let access = self.lock_down.file_access();
        let mut opened = Opened::default();
        for Listen { address, protocol } in &self.listen {
            let protocol = protocol.as_ref().unwrap_or(&self.protocol);
            let sockets = address.listen_all(&all, &access);
            for socket in sockets.with_context(|| format!("cannot listen on {address}"))? {
                let (address, name) = (socket.address.to_string(), protocol.to_string());
                if !socket.address.is_local() {
                    self.log.print(&format!("{address} can be reached from other machines"));
                }
                opened.listeners.push((socket, protocol.factory.clone()));
                opened.infos.push(ListenerInfo { address, protocol: name });
            }
        }
        if let Some(MetricsAddress(address)) = &self.metrics {
            let sockets = address.listen_all(&[address], &access);
            opened.metrics =
                sockets.with_context(|| format!("cannot serve metrics on {address}"))?;
            for BoundSocket { address, .. } in
                opened.metrics.iter().filter(|it| !it.address.is_local())
            {
                self.log.print(&format!("metrics on {address} can be reached from other machines"));
            }
        }
        Ok(opened)
    }

    /// Returns how many descriptors the metrics take at most.
    fn metrics_descriptors(&self) -> usize {
        self.metrics.as_ref().map_or(0, |_| MetricsAddress::DESCRIPTORS)
    }

    /// Returns the option that needs a console, if there is one.
    fn wants_console(&self) -> Option<&'static str> {
        let talks = |it: &Listen| it.protocol.as_ref().unwrap_or(&self.protocol).needs_console;
        let talks = self.listen.iter().any(talks);
        if self.console { Some("--console") } else { talks.then_some("the protocol talk") }
    }

    /// Returns the maximum number of connections, lowered to the limit of descriptors.
    fn connections(&self) -> anyhow::Result<usize> {
        /// The standard streams, the ring, the shutdown signal, the selector, and some spare.
        const RESERVE: usize = 16;
        let descriptors = os::raise_descriptor_limit() as usize;
        let reserve = RESERVE + self.listen.len() + self.metrics_descriptors();
        let most = descriptors.saturating_sub(reserve).max(1);
        let asked = self.admission.max_connections.map(|asked| asked as usize);
        if asked.is_some_and(|asked| asked > most) {
            tracing::warn!("`ulimit -n` of {descriptors} allows only {most} connections");
        }
        Ok(asked.unwrap_or(Limits::default().connections).min(most))
    }

    /// Returns the buffers of the pool.
    fn buffer_classes(&self, limits: &Limits) -> Vec<BufferClass> {
        let (bytes, count) = match self.buffers {
            None if self.buffer_size == 2048 => return default_buffers(limits),
            count => (self.buffer_size, count.unwrap_or(1024) as usize),
        };
        let classes = classes(bytes, count);
        let all: usize = classes.iter().map(|class| class.bytes * class.count).sum();
        if all > Pool::BYTES_MAX {
            let all = format!("{} with the larger buffers", units::bytes(all as f64));
            let wrong = format!("--buffers {count} of {bytes} B make {all}: the maximum is 2 GiB");
            wrong_usage(&wrong);
        }
        classes
    }
}

/// Takes the descriptors that a server opens once its model is set up. While they are held, a model
/// that would leave too few is refused, and nothing was said of it.
pub(super) fn spare_descriptors(listeners: usize) -> io::Result<Vec<io::PipeReader>> {
    /// The shutdown signal, the log, what the engine adds, and a first connection.
    const OTHERS: usize = 9;
    let (first, _) = io::pipe()?;
    (1..OTHERS + listeners).try_fold(vec![first], |mut spare, _| {
        spare.push(spare[0].try_clone()?);
        Ok(spare)
    })
}

/// Opens the standard streams as a console. It prompts if both are terminals.
fn open_console(listeners: Vec<ListenerInfo>) -> io::Result<Console> {
    let (input, stdout) = (io::stdin(), io::stdout());
    let prompts = input.is_terminal() && output::draws(&stdout);
    let output = Stream::new(io::stdout(), StreamWait::Forever);
    Console::new(input.as_fd().try_clone_to_owned()?, output, prompts, listeners)
}

/// Returns the files of Unix sockets, which are removed at the end.
fn socket_files<'a>(sockets: impl Iterator<Item = &'a BoundSocket>) -> Vec<PathBuf> {
    let path = |socket: &BoundSocket| match &socket.address {
        Address::Unix(path) => Some(path.clone()),
        _ => None,
    };
    sockets.filter(|socket| socket.file.is_some()).filter_map(path).collect()
}

/// Prints one line for each listener, and for each of the `metrics`. An output that is closed or
/// full does not stop the server.
fn announce_listeners(
    listeners: &[ListenerInfo],
    metrics: &[Address],
    model: Model,
    on_stderr: bool,
) {
    let line =
        |it: &ListenerInfo| format!("listening on {} ({model}, {})\n", it.address, it.protocol);
    let metrics = metrics.iter().map(|address| metrics::announcement(address) + "\n");
    let text: String = listeners.iter().map(line).chain(metrics).collect();
    if on_stderr {
        return note!("{}", text.trim_end());
    }
    let out = Stream::stdout(StreamWait::AtMost(Duration::ZERO));
    if let Err(error) = out.and_then(|mut out| out.write_all(escape(&text).as_bytes())) {
        tracing::warn!(%error, "the lines \"listening on\" are not complete");
    }
}

fn buffer_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(bytes) if bytes % 64 == 0 && (64..=1 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("write a multiple of 64, from 64 to 1048576".to_owned()),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    record::size(text, 16 << 20, 64 << 40)
}

/// Parses a duration of at most one day.
fn up_to_a_day(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if time <= Duration::from_secs(86_400) => Ok(time),
        _ => Err(format!("invalid duration `{text}`: the maximum is 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_single_equals_sign_separates_address_and_protocol() {
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
            ("127.0.0.1=echo", r#"invalid address "127.0.0.1""#),
            ("=echo", r#"invalid address """#),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
