//! A browser without a window: Chromium or Chrome, whichever is here, or `PROACTOR_BROWSER`.

use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::Process;

/// A browser to be started, for five minutes at most. Its profile goes with it.
pub(crate) struct Browser {
    /// Its command line, to be added to.
    pub(crate) command: Command,
    _profile: tempfile::TempDir,
}

/// `None` if there is none.
pub(crate) fn find() -> Option<Browser> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let (asked, path) = (env::var("PROACTOR_BROWSER"), env::var_os("PATH")?);
    let is_here = |name: &&str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let program = asked.iter().map(String::as_str).chain(names).find(is_here)?;
    let profile = tempfile::tempdir().unwrap();
    // timeout(1) ends all of its processes, also when it is asked to before the time.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "300", program, "--headless", "--no-sandbox", "--disable-gpu"]);
    command.args(["--disable-quic", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--enable-logging=stderr"]);
    command.args([
        "--window-size=1200,900",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]);
    command.arg(user_data(profile.path()));
    Some(Browser { command, _profile: profile })
}

fn user_data(folder: &Path) -> String {
    format!("--user-data-dir={}", folder.display())
}

impl Browser {
    /// Opens a page, and keeps it open until the value is dropped.
    pub(crate) fn open(mut self, address: &str) -> Open {
        self.command.args(["--remote-debugging-port=0", address]);
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        Open { child: self.command.spawn().unwrap(), _browser: self }
    }
}

/// A browser that runs.
pub(crate) struct Open {
    child: Child,
    _browser: Browser,
}

impl Drop for Open {
    fn drop(&mut self) {
        Process(self.child.id()).signal(libc::SIGTERM);
        let _ = self.child.wait();
    }
}
