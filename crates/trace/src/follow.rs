//! The events of a trace while it is written: from another process, or from another thread of this
//! one.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::PathBuf;

use proactor_record::{Reader, Unreadable};

use super::event::{Decoder, Event, Events};
use super::kernel;

/// A position in a trace that is being written.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    decoder: Decoder,
}

impl Follow {
    /// Begins with the oldest record that there is; or, if `from_now`, with the next one written.
    ///
    /// # Errors
    /// The file cannot be read, or is not a trace.
    pub fn new(file: File, from_now: bool) -> Result<Follow, Unreadable> {
        let reader = Reader::new(file, from_now)?;
        let decoder = Decoder::new(reader.first());
        Ok(Follow { reader, decoder })
    }

    /// Returns what has happened since the last call: complete iterations only, while the recorder
    /// writes.
    ///
    /// # Errors
    /// The file cannot be read, is no longer a trace, or is another one.
    pub fn poll(&mut self) -> Result<Vec<Event>, Unreadable> {
        let next = self.reader.first();
        let records = self.reader.poll()?;
        let decoder = std::mem::take(&mut self.decoder);
        let mut events = Events::new(self.reader.header(), &records, next, decoder);
        let all = events.by_ref().collect();
        self.decoder = events.decoder;
        Ok(all)
    }
}

/// What the reader knows: its header, what is lost, and whether nothing more comes.
impl Deref for Follow {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

/// Opens the trace that a process is writing: it is found among the files that the process has
/// open, whatever its name, and also if it has none any more.
///
/// # Errors
/// There is no such process, its files may not be read, or none of them is a trace.
pub fn open_process(pid: u32) -> io::Result<File> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let explain = |error| no_process(pid, "cannot read the files of", &error);
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let path = entry?.path();
        // Opening a pipe could block; only regular files can be traces.
        if !fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let reader = file.try_clone().map_err(Unreadable::from);
        // The kernel's events have a file of their own beside the recording.
        let is_model = |reader: &Reader| reader.header().model() != kernel::MODEL;
        if reader.and_then(|file| Reader::new(file, true)).is_ok_and(|reader| is_model(&reader)) {
            return Ok(file);
        }
    }
    let why = format!("process {pid} does not record: start it with `serve --trace`");
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

/// Returns the error of a file in the /proc folder of a process.
pub(crate) fn no_process(pid: u32, cannot: &str, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => format!("there is no process {pid}"),
        _ => format!("{cannot} process {pid}: {error}"),
    };
    io::Error::new(error.kind(), why)
}
