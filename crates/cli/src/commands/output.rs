//! Destinations of results: standard output and files.

use std::fs::File;
use std::io::{self, StdoutLock, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Standard output; its errors name it. It is flushed at each line end.
pub(super) struct Output(StdoutLock<'static>);

/// Locks standard output for the rest of the process.
pub(super) fn stdout() -> Output {
    Output(io::stdout().lock())
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

impl Write for Output {
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

/// The file of a result. It is opened before the result is made, so that an unwritable path fails
/// before the work and not after it.
pub(super) struct Save {
    path: PathBuf,
    file: File,
}

impl Save {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// The file cannot be written; the error names it.
    pub(super) fn new(path: &Path) -> anyhow::Result<Save> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Save { path: path.to_owned(), file })
    }

    /// Writes the whole content.
    ///
    /// # Errors
    /// The write fails; the error names the file.
    pub(super) fn write(mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let wrote = self.file.write_all(bytes);
        wrote.with_context(|| format!("cannot write {}", self.path.display()))
    }
}
