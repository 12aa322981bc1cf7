//! Where output goes: results to standard output or a file, messages to stderr.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::wrong_usage;
use proactor::os;

/// Prints a line on stderr, as `eprintln!`. A failure is ignored: it cannot be reported either.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use note;

/// Prints an error on stderr, with a red `error:` on a terminal.
pub(crate) fn print_error(error: &str) {
    let (red, plain) =
        if shows_colours(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    note!("{red}error:{plain} {error}");
}

/// Returns true if this stream is a terminal that shows colours (`NO_COLOR`, `TERM=dumb`).
fn shows_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Waits until a file is ready, has failed or is closed. Returns false after the timeout.
pub(crate) fn await_ready(
    file: &impl AsFd,
    events: libc::c_short,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    loop {
        let ready = os::poll(&mut [libc::pollfd { fd, events, revents: 0 }], timeout)? > 0;
        // Without a timeout, nothing ready means that a signal interrupted the call.
        if ready || timeout.is_some() {
            return Ok(ready);
        }
    }
}

/// Returns a progress line on stderr; it prints nothing if that is not a terminal.
pub(super) fn progress(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    ProgressBar::no_length().with_style(style)
}

/// Standard output; its errors name it. It is flushed at each line end.
pub(super) struct Stdout(StdoutLock<'static>);

/// Locks standard output for the rest of the process.
pub(super) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

/// Prints a complete result.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a result as JSON.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_json(result: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&(serde_json::to_string_pretty(result)? + "\n"))?)
}

/// The colours of verdicts, as parameters of the escape sequence SGR.
pub(super) const GREEN: u8 = 32;
pub(super) const RED: u8 = 31;
pub(super) const YELLOW: u8 = 33;

/// Prints a result, with colours for these words on a terminal.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_coloured(text: &str, words: &[(&str, u8)]) -> io::Result<()> {
    if !shows_colours(&io::stdout()) {
        return print(text);
    }
    let colour = |text: String, &(word, colour): &(&str, u8)| {
        text.replace(word, &format!("\x1b[{colour}m{word}\x1b[0m"))
    };
    print(&words.iter().fold(text.to_owned(), colour))
}

impl AsFd for Stdout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

/// Adds the name of the stream to an error. The kind stays, so that a broken pipe is recognised.
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => error,
        kind => io::Error::new(kind, format!("cannot write to standard output: {error}")),
    }
}

/// The destination of a result: a file, or standard output for `-`. A file is opened before the
/// result is made, so that an unwritable path fails before the work and not after it.
pub(super) struct Destination {
    /// `None` for standard output.
    file: Option<File>,
    path: PathBuf,
}

impl Destination {
    /// Opens the destination. A file is created, or emptied.
    ///
    /// # Errors
    /// The file cannot be written; the error names it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Destination> {
        let file = (!is_stdout(path)).then(|| File::create(path)).transpose();
        let file = file.with_context(|| cannot_write(path))?;
        Ok(Destination { file, path: path.to_owned() })
    }

    /// Writes the whole result.
    ///
    /// # Errors
    /// The write fails; the error names the destination.
    pub(super) fn write(self, text: &str) -> anyhow::Result<()> {
        let Some(mut file) = self.file else { return Ok(print(text)?) };
        file.write_all(text.as_bytes()).with_context(|| cannot_write(&self.path))
    }
}

/// Returns the error of a file that cannot be written.
pub(super) fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Returns true for `-`: standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Rejects two results in one file, or on standard output. Returns true if standard output has one.
pub(super) fn check_destinations(options: &[(&'static str, Option<&Path>)]) -> bool {
    let place = |path: &Path| match path {
        path if is_stdout(path) => Some("standard output".to_owned()),
        // A device, as /dev/null, takes any number of results.
        path if path.exists() && !path.is_file() => None,
        path => std::path::absolute(path).ok().map(|path| path.display().to_string()),
    };
    let mut places = HashMap::new();
    for &(option, path) in options {
        let Some(place) = path.and_then(place) else { continue };
        if let Some(other) = places.insert(place.clone(), option) {
            wrong_usage(&format!("{other} and {option} cannot both write to {place}"));
        }
    }
    options.iter().filter_map(|(_, path)| *path).any(is_stdout)
}
