//! Where results go: standard output, and files that are asked for.

use std::fs::File;
use std::io::{self, StdoutLock, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Standard output, whose errors have its name. It is flushed by line, unless it is wrapped.
pub(super) struct Output(StdoutLock<'static>);

/// Standard output, from now on ours alone.
pub(super) fn stdout() -> Output {
    Output(io::stdout().lock())
}

/// Prints all of a result.
///
/// # Errors
/// Standard output does not take it.
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

/// The same error, of the same kind: whether it is a broken pipe is still to be seen.
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => error,
        kind => io::Error::new(kind, format!("cannot write to standard output: {error}")),
    }
}

/// A file for what is to come: opened before that is made, for nobody wants to learn afterwards
/// that it cannot be kept.
pub(super) struct Save {
    path: PathBuf,
    file: File,
}

impl Save {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// It cannot be written; the error names it.
    pub(super) fn new(path: &Path) -> anyhow::Result<Save> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Save { path: path.to_owned(), file })
    }

    /// Writes all that there is to be in it.
    ///
    /// # Errors
    /// There is no room; the error names the file.
    pub(super) fn write(mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let wrote = self.file.write_all(bytes);
        wrote.with_context(|| format!("cannot write {}", self.path.display()))
    }
}
