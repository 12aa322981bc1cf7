//! The command line of `proactor` and `reactor`.
//!
//! Exit status: 0 for success, 1 for a failure, 2 for wrong usage. An error is one line on stderr.

mod compare;
mod connect;
mod explain;
mod load;
mod models;
mod output;
mod picks;
mod record;
mod serve;
mod trace;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands to try first, shown below the help.
const BEGIN: &str = "\
To begin with:
  proactor compare   io_uring, epoll, poll and select under the same load, here, in half a minute
  proactor explain   one message through each of twelve I/O models: who waits, who copies
  proactor serve     an echo server on 127.0.0.1:7000; `proactor connect 127.0.0.1:7000` talks to it";

/// An io_uring TCP server, and the tools to load, compare and inspect it.
#[derive(Debug, Parser)]
#[command(name = "proactor", version, arg_required_else_help = true, after_help = BEGIN)]
struct Proactor {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Connect(connect::Args),
    Load(load::Args),
    Compare(compare::Args),
    Explain(explain::Args),
    Models(models::Args),
    Trace(trace::Args),
}

/// A readiness TCP server, on epoll by default: `proactor serve` without io_uring.
#[derive(Debug, Parser)]
#[command(name = "reactor", version)]
struct Reactor {
    #[command(flatten)]
    serve: serve::Args,
}

/// Runs `proactor` with the arguments of this process.
pub fn proactor() -> ExitCode {
    finish(match Proactor::parse().command {
        Command::Serve(serve) => serve.run(proactor_models::model::Choice::Auto),
        Command::Connect(connect) => {
            return connect.run().unwrap_or_else(|error| finish(Err(error)));
        }
        Command::Load(load) => load.run(),
        Command::Compare(compare) => compare.run(),
        Command::Explain(explain) => explain.run(),
        Command::Models(models) => models.run(),
        Command::Trace(trace) => trace.run(),
    })
}

/// Runs `reactor` with the arguments of this process.
pub fn reactor() -> ExitCode {
    let epoll = proactor_models::model::Choice::Model(proactor_models::model::Model::Epoll);
    finish(Reactor::parse().serve.run(epoll))
}

/// Reports wrong usage that clap cannot detect, and exits as clap does.
fn wrong_usage(wrong: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{wrong}\n")).exit()
}

/// Prints an error on one line. A closed standard output is not an error.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let broken_pipe = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
