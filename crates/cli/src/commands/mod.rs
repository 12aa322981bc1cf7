//! The command line of `proactor` and `reactor`.
//!
//! Exit status: 0 for success, 1 for a failure, 2 for wrong usage, 130 for a comparison that was
//! interrupted. An error is one line on stderr.

mod admission;
mod check;
mod compare;
mod connect;
mod explain;
pub(crate) mod explain_options;
mod limits;
mod load;
mod lock_down;
mod log;
mod metrics;
mod models;
mod number;
pub(crate) mod output;
mod peer;
mod picks;
mod polling;
mod record;
mod repeats;
mod serve;
pub(crate) mod stderr;
pub(crate) mod stream;
mod timeouts;
mod trace;
mod variants;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use number::number;
use proactor::os::{self, ShutdownSignal};
use proactor_load::{DEPTH_MAX, LoadProtocol, LoadShape, Pattern, SIZE_MAX, Workload};
use stderr::note;

/// An io_uring TCP server, and the tools to load, compare and inspect it.
#[derive(Debug, Parser)]
#[command(name = "proactor", version, arg_required_else_help = true)]
#[command(after_help = include_str!("begin.txt"))]
struct ProactorCli {
    #[command(subcommand)]
    command: ProactorCommand,
}

#[derive(Debug, Subcommand)]
enum ProactorCommand {
    Serve(Box<serve::ServeArgs>),
    Connect(connect::ConnectArgs),
    Load(load::LoadArgs),
    Compare(compare::CompareArgs),
    Explain(explain::ExplainArgs),
    Models(models::ModelsArgs),
    Check(check::CheckArgs),
    Trace(trace::TraceArgs),
}

/// A readiness TCP server, on epoll by default: `proactor serve` without io_uring.
#[derive(Debug, Parser)]
#[command(name = "reactor", version)]
struct ReactorCli {
    #[command(flatten)]
    serve: serve::ServeArgs,
}

/// Runs `proactor` with the arguments of this process.
pub fn proactor() -> ExitCode {
    use ProactorCommand::{Check, Compare, Connect, Explain, Load, Models, Serve, Trace};
    run(|cli: ProactorCli| {
        if !matches!(cli.command, Connect(_) | Check(_) | Trace(_)) {
            check::trial::outlive();
        }
        match cli.command {
            Serve(serve) => serve.run(None),
            Connect(connect) => connect.run(),
            Load(load) => load.run(),
            Compare(compare) => compare.run(),
            Explain(explain) => explain.run(),
            Models(models) => models.run(),
            Check(check) => check.run(),
            Trace(trace) => trace.run(),
        }
    })
}

/// Runs `reactor` with the arguments of this process.
pub fn reactor() -> ExitCode {
    run(|cli: ReactorCli| {
        check::trial::outlive();
        cli.serve.run(Some(proactor::Model::EPOLL))
    })
}

/// Parses the arguments of this process, and runs the command, or prints the help.
fn run<T: Parser>(command: impl FnOnce(T) -> anyhow::Result<()>) -> ExitCode {
    // A failure leaves the default: such a write ends the process.
    let _ = proactor_record::sys::fail_large_writes();
    std::panic::set_hook(Box::new(stderr::print_panic));
    let _at_end = FinishLog;
    let result = match T::try_parse() {
        Ok(args) => command(args),
        Err(message) if message.use_stderr() => exit(&message),
        Err(help) => output::print(&help.render().to_string()).map_err(anyhow::Error::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match (error.downcast_ref::<ExitStatus>(), error.downcast_ref()) {
            (Some(&ExitStatus(status)), _) => ExitCode::from(status),
            (None, Some(message)) => exit(message),
            (None, None) => report(&error),
        },
    }
}

/// The status of a command whose result says it all: no error is printed.
#[derive(Debug, Clone, Copy)]
struct ExitStatus(u8);

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}", self.0)
    }
}

/// Finishes the log at the end of the program, also at that of a panic.
struct FinishLog;

impl Drop for FinishLog {
    fn drop(&mut self) {
        stderr::finish();
    }
}

/// Prints an error on one line. A closed standard output is not an error.
fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    /// What to do about an error that a call returned, unless the text says it.
    const WAYS_OUT: [(&str, &str, &str); 2] = [
        ("os error 24", "ulimit -n", " (raise `ulimit -n`)"),
        ("os error 12", "ulimit -v", " (raise `ulimit -v` or the memory limit of the cgroup)"),
    ];
    let text = format!("{error:#}");
    let mut ways_out = WAYS_OUT.iter();
    let found = ways_out.find(|(code, limit, _)| text.contains(code) && !text.contains(limit));
    output::print_error(&format!("{text}{}", found.map_or("", |(.., way_out)| way_out)));
    ExitCode::FAILURE
}

/// Prints wrong usage, and exits.
fn exit(message: &clap::Error) -> ! {
    let text = message.render().to_string();
    match text.strip_prefix("error: ") {
        Some(text) => output::print_error(text.trim_end()),
        None => note!("{}", text.trim_end()),
    }
    stderr::finish();
    std::process::exit(message.exit_code())
}

/// Returns a signal that SIGINT, SIGTERM, SIGQUIT and SIGHUP set.
fn stop_signal() -> anyhow::Result<ShutdownSignal> {
    let stop = ShutdownSignal::new().and_then(|stop| stop.on_signals().map(|()| stop));
    let stop = stop.context("cannot listen for signals")?;
    stream::stop_by(&stop);
    Ok(stop)
}

/// Returns the width of the terminal: `COLUMNS`, or that of standard output.
fn terminal_width() -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let terminal = || terminal_size::terminal_size_of(io::stdout());
    columns.or_else(|| terminal().map(|(width, _)| width.0.into())).filter(|&width| width > 0)
}

/// Reports wrong usage that clap cannot detect, and exits: nothing is open yet.
fn wrong_usage(wrong: &str) -> ! {
    exit(&usage_error(wrong))
}

/// Returns wrong usage as an error, for a command that may have opened something: it is closed, and
/// the file of a Unix socket is removed, before the program exits.
fn usage_error(wrong: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ArgumentConflict, format!("{wrong}\n"))
}

/// Returns the protocol of a name, if its replies can be verified.
fn load_protocol(text: &str) -> Result<LoadProtocol, String> {
    let named = crate::parse_protocol(text)?;
    let name = named.to_string();
    let fits = |it: &(Vec<u8>, Vec<u8>)| !it.0.is_empty() && !it.1.is_empty();
    if !named.example.as_ref().map_or(name == "echo", fits) {
        return Err("it has no example of a request that always has the same reply".into());
    }
    let example = named.example.map(|(request, reply)| (request.into(), reply.into()));
    Ok(LoadProtocol { name, example })
}

/// The largest seed: JSON has it as a number, which many readers keep as a double.
const SEED_MAX: u64 = (1 << 53) - 1;

/// The messages of a load.
#[derive(Debug, Clone, clap::Args)]
struct MessageArgs {
    /// What each connection does: echo, churn (connect, one message, close, again), upload (send
    /// to a server of `discard`), download (receive from one of `chargen`), or fanout (the first
    /// sends lines to a `chat`, all others receive them)
    #[arg(long, short = 'w', value_name = "WORKLOAD", default_value = "echo",
          value_parser = pattern)]
    workload: Pattern,

    /// Protocol whose replies are verified: echo, with pseudo-random bytes, or one that has an
    /// example of a request and its reply, which is sent: upper, reply, prefix
    #[arg(long, value_name = "PROTOCOL", default_value = "echo", value_parser = load_protocol)]
    protocol: LoadProtocol,

    /// Bytes per message of echo, or a range as 64..16384, from which each size is drawn; several
    /// make several tables of `compare` [default: 64]
    #[arg(long, short = 'l', visible_alias = "length", value_name = "BYTES,…",
          value_delimiter = ',', value_parser = sizes)]
    size: Vec<(usize, Option<usize>)>,

    /// Messages in flight per connection (pipelining); several make several tables of `compare`
    /// [default: 1]
    #[arg(long, value_name = "N,…", value_delimiter = ',',
          value_parser = number::<usize>(1, DEPTH_MAX as u64))]
    depth: Vec<usize>,
}

impl MessageArgs {
    /// Refuses options that do not go together, with these numbers of connections.
    fn check(&self, connections: &[usize]) {
        use Pattern::{Churn, Download, Echo, Fanout};
        let has_range = self.size.iter().any(|(_, most)| most.is_some());
        let is = |patterns: &[Pattern]| patterns.contains(&self.workload);
        refuse(&[
            (
                self.protocol.name != "echo" && !is(&[Echo, Churn]),
                "--protocol is for echo and churn",
            ),
            (!self.depth.is_empty() && !is(&[Echo, Fanout]), "--depth is for echo and fanout"),
            (has_range && !is(&[Echo, Churn]), "a range of sizes is for echo and churn"),
            (!self.size.is_empty() && is(&[Download]), "--size: the server has its own"),
            (is(&[Fanout]) && connections.contains(&1), "fanout needs --connections 2 or more"),
        ]);
    }

    /// Returns the protocol of the servers.
    fn protocol(&self) -> LoadProtocol {
        let own = |name: &str| LoadProtocol { name: name.to_owned(), example: None };
        self.workload.protocol().map_or_else(|| self.protocol.clone(), own)
    }

    /// Returns the workloads of so many connections in a closed loop, one for each size and depth.
    fn all(&self, connections: usize) -> Vec<Workload> {
        /// The bytes of a send where bytes go in one direction.
        const ONE_WAY: usize = 64 << 10;
        let pattern = self.workload;
        let default = if pattern.is_one_way() { ONE_WAY } else { 64 };
        let sizes = match (&self.protocol.example, &*self.size) {
            (None, []) => vec![(default, None)],
            (None, sizes) => sizes.to_vec(),
            (Some((request, _)), []) => vec![(request.len(), None)],
            (Some(_), _) => wrong_usage("--size is for echo: others send their example"),
        };
        let depths = if self.depth.is_empty() { &[1][..] } else { &self.depth };
        let with = |(size, size_max), depth| {
            let shape = LoadShape { connections, size, depth };
            Workload { pattern, size_max, ..shape.into() }
        };
        sizes.iter().flat_map(|&size| depths.iter().map(move |&depth| with(size, depth))).collect()
    }
}

/// Ends the program with the text of the first condition that holds.
fn refuse(conditions: &[(bool, &str)]) {
    if let Some((_, text)) = conditions.iter().find(|(holds, _)| *holds) {
        wrong_usage(text);
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    match text {
        "echo" => Ok(Pattern::Echo),
        "churn" => Ok(Pattern::Churn),
        "upload" => Ok(Pattern::Upload),
        "download" => Ok(Pattern::Download),
        "fanout" => Ok(Pattern::Fanout),
        _ => Err("use echo, churn, upload, download or fanout".to_owned()),
    }
}

/// Returns one size, or the smallest and the largest of a range.
fn sizes(text: &str) -> Result<(usize, Option<usize>), String> {
    let size = number::<usize>(1, SIZE_MAX as u64);
    let Some((least, most)) = text.split_once("..") else { return Ok((size(text)?, None)) };
    let (least, most) = (size(least)?, size(most)?);
    if least < most {
        return Ok((least, Some(most)));
    }
    Err("the second size must be larger".to_owned())
}

/// Runs this thread, and the threads it will create, on one CPU of those that it may use. The
/// kernel permits others too, but the user has excluded them (taskset(1)).
fn run_on_cpu(cpu: usize) -> anyhow::Result<()> {
    let usable = os::usable_cpus();
    if usable.is_empty() || usable.contains(&cpu) {
        return os::pin_to_cpu(cpu).with_context(|| format!("cannot run on CPU {cpu}"));
    }
    let ranges = usable.chunk_by(|one, next| one + 1 == *next).map(|range| match range {
        [first, .., last] => format!("{first}-{last}"),
        one => one[0].to_string(),
    });
    bail!("CPU {cpu} is not among {}", ranges.collect::<Vec<_>>().join(","))
}
