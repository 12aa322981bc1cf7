//! The program `reactor`: the readiness server.

use std::process::ExitCode;

fn main() -> ExitCode {
    proactor_cli::commands::reactor()
}
