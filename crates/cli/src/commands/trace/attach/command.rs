//! The command that is watched, if there is one: its start, its signals, its end, and where the
//! results go meanwhile.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context;

use super::PERIOD;
use crate::commands::output;
use crate::commands::stream::{Stream, StreamWait, await_ready};
use proactor::os::{HeldChild, ShutdownSignal, send_signal, signal_to_forward};
use proactor::printable::escape;

pub(super) struct WatchedCommand {
    stop: ShutdownSignal,
    program: Option<String>,
    child: Option<Child>,
}

impl WatchedCommand {
    /// There is none yet. This signal ends the watching.
    pub(super) fn new(stop: ShutdownSignal) -> WatchedCommand {
        WatchedCommand { stop, program: None, child: None }
    }

    /// Forks the child of a command, which waits; `None` if the command is empty.
    pub(super) fn hold(&mut self, command: &[OsString]) -> anyhow::Result<Option<HeldChild>> {
        let Some((program, args)) = command.split_first() else { return Ok(None) };
        self.program = Some(program.to_string_lossy().into_owned());
        let mut command = Command::new(program);
        command.args(args);
        Ok(Some(HeldChild::start(command).context("cannot start a process")?))
    }

    /// Lets it become its program.
    pub(super) fn start(&mut self, held: HeldChild) -> anyhow::Result<()> {
        let program = self.program.as_deref().unwrap_or_default();
        self.child = Some(held.release().with_context(|| format!("cannot run {program}"))?);
        Ok(())
    }

    /// Whether there is no command.
    pub(super) fn is_none(&self) -> bool {
        self.program.is_none()
    }

    /// Waits for a signal, at most this long. Returns whether it ends the watching: not if there
    /// is a command, which receives the signal.
    pub(super) fn await_signal(&mut self, pause: Duration) -> anyhow::Result<bool> {
        if !await_ready(&self.stop, libc::POLLIN, Some(pause))? || self.stop.take() == 0 {
            return Ok(false);
        }
        let Some(child) = &mut self.child else { return Ok(true) };
        if let Some(signal) = signal_to_forward() {
            send_signal(child, signal)?;
        }
        Ok(false)
    }

    /// Waits until the command ends. Returns its exit status, as a shell has it.
    pub(super) fn status(&mut self) -> anyhow::Result<Option<u8>> {
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                let signal = || 128 + status.signal().unwrap_or(0);
                return Ok(u8::try_from(status.code().unwrap_or_else(signal)).ok());
            }
            self.await_signal(PERIOD)?;
        }
        Ok(None)
    }

    /// Prints results: on standard error if the command has standard output for itself.
    pub(super) fn print(&self, text: &str) -> anyhow::Result<()> {
        if self.is_none() {
            return Ok(output::print(text)?);
        }
        let mut stderr = Stream::new(io::stderr(), StreamWait::UntilStopped);
        Ok(stderr.write_all(escape(text).as_bytes())?)
    }
}
