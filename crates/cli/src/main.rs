//! The program `proactor`: the io_uring server and its tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    proactor_cli::commands::proactor()
}
