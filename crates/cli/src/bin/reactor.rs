//! The readiness server: what to compare with.

use std::process::ExitCode;

fn main() -> ExitCode {
    proactor_cli::commands::reactor()
}
