//! What a server gives up before it serves: `--user` and `--lock-down`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;

use super::wrong_usage;
use proactor::Model;
use proactor::address::{Address, FileAccess};
use proactor_lockdown::{UserSpec, forbid_files, forbid_rings};

/// The options of the lock-down.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct LockDownArgs {
    /// Run as this user, once the addresses are bound: with its groups, without capabilities, and
    /// without a way back. The files of --trace and --stats belong to it. Needs root
    #[arg(long, value_name = "NAME[:GROUP]", help_heading = "Lock-down")]
    user: Option<UserSpec>,

    /// What the server gives up before it serves: `off`, nothing; `rings`, operations of io_uring
    /// that it does not use, and further rings; `auto`, also every file and address that is not
    /// open yet, as far as this kernel can; `require`, the same, or it does not start [default:
    /// rings for uring, off for other models; auto with --user or without LEVEL]
    #[arg(long, value_name = "LEVEL", help_heading = "Lock-down", num_args = 0..=1,
          default_missing_value = "auto", hide_possible_values = true)]
    lock_down: Option<Level>,

    /// Permissions of the files of Unix sockets, for example 0660; a client needs that to write
    /// [default: what the umask leaves]
    #[arg(long, value_name = "MODE", help_heading = "Lock-down", value_parser = mode)]
    unix_mode: Option<u32>,

    /// Owner of the files of Unix sockets [default: the user of --user, or of this process]
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Lock-down")]
    unix_owner: Option<UserSpec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    Off,
    Rings,
    Auto,
    Require,
}

impl LockDownArgs {
    /// Returns the level for this model. A model without a ring pays for the filter that refuses
    /// rings with 40 ns for each of its calls, so by default it has none.
    fn level(&self, model: Model) -> Level {
        let default = match self.user {
            Some(_) => Level::Auto,
            None if model == Model::URING => Level::Rings,
            None => Level::Off,
        };
        self.lock_down.unwrap_or(default)
    }

    /// Returns whether a server of this model gives up further rings, and files.
    pub(super) fn gives_up(&self, model: Model) -> [bool; 2] {
        [self.level(model) > Level::Off, self.level(model) > Level::Rings]
    }

    /// Returns true if a ring gives up the operations that a server does not use.
    pub(super) fn restricts_rings(&self) -> bool {
        self.level(Model::URING) > Level::Off
    }

    /// Returns the user to run as, if it is named.
    pub(super) fn user(&self) -> Option<&UserSpec> {
        self.user.as_ref()
    }

    /// Returns the permissions and the owner of the files of Unix sockets.
    pub(super) fn file_access(&self) -> FileAccess {
        let owner = self.unix_owner.as_ref().or(self.user.as_ref()).map(UserSpec::ids);
        FileAccess { mode: self.unix_mode, owner }
    }

    /// Refuses the options of Unix sockets if there is no such file.
    pub(super) fn check_files<'a>(&self, mut addresses: impl Iterator<Item = &'a Address>) {
        let has_file = |it: &Address| {
            it.to_string().strip_prefix("unix:").is_some_and(|it| !it.starts_with('@'))
        };
        if (self.unix_mode.is_some() || self.unix_owner.is_some()) && !addresses.any(has_file) {
            wrong_usage("--unix-mode and --unix-owner are for files: write --listen unix:PATH");
        }
    }

    /// Refuses to record kernel events, which are files of root that are opened again and again.
    pub(super) fn check_kernel_events(&self, kernel_events: bool) {
        if kernel_events && self.level(Model::URING) > Level::Rings {
            let option = if self.user.is_some() { "--user" } else { "--lock-down" };
            wrong_usage(&format!("--kernel-events needs root and its files: leave out {option}"));
        }
    }

    /// Gives up what the level says, for good. `restricted` is the number of operations that the
    /// ring of the model permits, and `sockets` are files that may still be removed. Returns what
    /// is in force, each part in a few words.
    ///
    /// # Errors
    /// Something that the level requires is not in force.
    pub(super) fn apply(
        &self,
        model: Model,
        restricted: Option<usize>,
        sockets: &[PathBuf],
    ) -> anyhow::Result<Vec<String>> {
        let level = self.level(model);
        let mut in_force: Vec<String> = self.user.iter().map(ToString::to_string).collect();
        let mut missing = Vec::new();
        let mut give_up = |what: &str, how: Result<String, String>| match how {
            Ok(how) => in_force.push(format!("{what} ({how})")),
            Err(why) => missing.push(format!("{what}: {why}")),
        };
        if level > Level::Off && model == Model::URING {
            let how = restricted.map(|count| format!("{count} are permitted"));
            give_up("no other operations of the ring", how.ok_or("this needs Linux 5.10".into()));
        }
        if level > Level::Off {
            let how = forbid_rings(model == Model::URING);
            let how = how.map(str::to_owned).map_err(|error| error.to_string());
            give_up("no further ring", how);
        }
        if level > Level::Rings {
            give_up("no files, no connects", forbid_files(&folders_of(sockets)));
        }
        let (in_force_text, missing) = (in_force.join("; "), missing.join("; "));
        match level {
            _ if missing.is_empty() => {}
            Level::Require => bail!("--lock-down=require: {missing}"),
            Level::Auto => tracing::warn!("lock-down: not in force: {missing}"),
            Level::Rings | Level::Off => tracing::info!("lock-down: not in force: {missing}"),
        }
        if !in_force.is_empty() {
            tracing::info!("lock-down: {in_force_text}");
        }
        Ok(in_force)
    }
}

/// Parses the permissions of a file.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "write an octal number, from 0 to 0777".to_owned())
}

/// Returns the folders of files.
fn folders_of(files: &[PathBuf]) -> Vec<PathBuf> {
    let folders = files.iter().filter_map(|file| file.parent());
    folders.map(|folder| Path::new(".").join(folder)).collect()
}
