//! Where output goes: results to standard output or a file, messages to stderr.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::stream::{Stream, StreamWait, is_server};
use super::{stderr, wrong_usage};
use proactor::printable::escape;

/// Prints an error on stderr, with a red `error:` on a terminal.
pub(crate) fn print_error(error: &str) {
    let (red, plain) =
        if shows_colours(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    stderr::write(&format!("{red}error:{plain} {}\n", escape(error)));
}

/// Returns true if this stream is a terminal that shows colours (`NO_COLOR`, `TERM=dumb`).
fn shows_colours(stream: &impl IsTerminal) -> bool {
    draws(stream) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns true if this stream is a terminal that knows escape sequences (`TERM=dumb`).
pub(super) fn draws(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Frames of a progress line per second.
const FRAMES: u8 = 20;

/// Returns a progress line on stderr; it prints nothing if that is not a terminal. One that is
/// stopped (Ctrl-S) loses frames.
pub(super) fn progress(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    let frames = Stream::new(io::stderr(), StreamWait::AtMost(Duration::ZERO));
    let target = match draws(&io::stderr()) {
        true => ProgressDrawTarget::term(Term::read_write_pair(io::stdin(), frames), FRAMES),
        false => ProgressDrawTarget::hidden(),
    };
    ProgressBar::with_draw_target(None, target).with_style(style)
}

/// Returns standard output.
///
/// # Errors
/// It is closed.
pub(super) fn stdout() -> io::Result<Stream<io::Stdout>> {
    Stream::stdout(StreamWait::of_result())
}

/// Prints a complete result. Characters that have an effect on a terminal are escaped.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> io::Result<()> {
    print_raw(&escape(text))
}

fn print_raw(text: &str) -> io::Result<()> {
    stdout()?.write_all(text.as_bytes())
}

/// Prints a result on a terminal in the place of the last one, which has so many lines.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn overwrite(lines: usize, text: &str) -> io::Result<()> {
    let up = if lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
    print_raw(&(up + &escape(text)))
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
    print_raw(&words.iter().fold(escape(text).into_owned(), colour))
}

/// The destination of a result: a file, or standard output for `-`. A file is opened before the
/// result is made, so that an unwritable path fails before the work and not after it.
pub(super) struct Destination {
    /// `None` for standard output.
    file: Option<Stream<File>>,
    path: PathBuf,
}

impl Destination {
    /// Opens the destination. A file is created, or emptied.
    ///
    /// # Errors
    /// The file cannot be written; the error names it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Destination> {
        let mut options = File::options();
        // The open(2) of a pipe with a name waits for a reader, whatever signal comes.
        options.custom_flags(if is_server() { libc::O_NONBLOCK } else { 0 });
        options.write(true).create(true).truncate(true);
        let file = (!is_stdout(path)).then(|| options.open(path)).transpose();
        let file = file.with_context(|| cannot_write(path))?;
        // It may be a pipe.
        let file = file.map(|file| Stream::new(file, StreamWait::of_result()));
        Ok(Destination { file, path: path.to_owned() })
    }

    /// Writes the whole result.
    ///
    /// # Errors
    /// The write fails; the error names the destination.
    pub(super) fn write(self, text: &str) -> anyhow::Result<()> {
        let Some(mut file) = self.file else { return Ok(print_raw(text)?) };
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
