//! `proactor check`: what this machine permits, and why.

mod bounds;
mod profile;
pub(super) mod trial;

use anyhow::bail;
use minijinja::{Value, context};
use serde_json::json;

use super::{output, terminal_width};
use proactor::refusal::Evidence;
use proactor_record::sys;
use proactor_report::template;
use profile::Format;

/// Show what this machine permits: io_uring and its features, or what refuses it, the limits of a
/// server, and the fix for each problem. The exit status is 1 if io_uring cannot be used
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Print the result as JSON
    #[arg(long, conflicts_with = "seccomp_profile")]
    json: bool,

    /// Print a seccomp profile that permits what `serve` needs, and nothing else: as JSON for
    /// container engines (oci), or as a drop-in of a unit (systemd)
    #[arg(long, value_name = "FORMAT", value_enum, num_args = 0..=1, default_missing_value = "oci")]
    seccomp_profile: Option<Format>,
}

impl CheckArgs {
    /// Prints the result on standard output.
    ///
    /// # Errors
    /// io_uring cannot be used here.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        if let Some(format) = self.seccomp_profile {
            return Ok(output::print(&profile::text(format))?);
        }
        let io_uring = trial::run();
        let is_usable = io_uring["usable"] == true;
        let Evidence { disabled, seccomp, modules, .. } = Evidence::read();
        let result = json!({
            "schema": "proactor.check/1",
            "verdict": io_uring["verdict"],
            "kernel": sys::uname(),
            "io_uring_disabled": disabled,
            "seccomp_mode": seccomp,
            "security_modules": modules,
            "io_uring": io_uring,
            "limits": bounds::rows(),
        });
        if self.json {
            output::print_json(&result)?;
        } else {
            let values = context! { width => terminal_width(), ..Value::from_serialize(result) };
            output::print(&template::fill(include_str!("check/check.txt"), values))?;
        }
        if !is_usable {
            bail!("io_uring cannot be used here");
        }
        Ok(())
    }
}
