//! The command line of Proactor: the commands `proactor` and `reactor`, the interactive client,
//! and `explain`.
#![deny(unsafe_code)]
// The macros of std panic where the stream cannot be written, and sleep where it is not read.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod client;
mod closed;
pub mod commands;
pub mod explain;

use std::process::ExitCode;
use std::sync::OnceLock;

use proactor_models::registry::{NamedProtocol, Registry};

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Runs the commands of `proactor` with further protocols: `configure` adds them to those that the
/// program knows by name. They are then served on all models, recorded, and measured like these.
pub fn main_with(configure: impl FnOnce(&mut Registry)) -> ExitCode {
    let mut registry = Registry::builtin();
    configure(&mut registry);
    let set = REGISTRY.set(registry);
    assert!(set.is_ok(), "a program has one `main_with`, called before all else");
    commands::proactor()
}

/// Returns the protocol of a name, as a user writes it.
pub(crate) fn parse_protocol(name: &str) -> Result<NamedProtocol, String> {
    REGISTRY.get_or_init(Registry::builtin).find(name)
}
