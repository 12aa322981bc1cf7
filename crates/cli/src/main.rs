//! The io_uring server and the tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    proactor_cli::commands::proactor()
}
