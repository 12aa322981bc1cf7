//! The events of a trace while it is written: from another process, or from another thread of this
//! one; with the kernel's events of the file beside it, if there is one.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::PathBuf;

use proactor_record::{Reader, Unreadable};

use super::event::{Decoder, Events};
use super::kernel::{MODEL, Sidecar};
use super::merged::MergedEvent;

/// The kernel's events come later than the recording's, by some reads. So long they are waited for.
const READS: u64 = 10;

/// A position in a trace that is being written.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    decoder: Decoder,
    /// The file of the kernel's events.
    kernel: Option<Reader>,
    /// The events that wait for earlier ones of the other file, each with the read that found it.
    held: Vec<(u64, MergedEvent)>,
    reads: u64,
}

impl Follow {
    /// Begins with the oldest record that there is; or, if `from_now`, with the next one written.
    ///
    /// # Errors
    /// The file cannot be read, or is not a trace.
    pub fn new(file: File, from_now: bool) -> Result<Follow, Unreadable> {
        let reader = Reader::new(file, from_now)?;
        let decoder = Decoder::new(reader.first());
        Ok(Follow { reader, decoder, kernel: None, held: Vec::new(), reads: 0 })
    }

    /// With the kernel's events in this file, if it belongs to the trace.
    ///
    /// # Errors
    /// The file cannot be read, or is not a trace.
    pub fn with_kernel(mut self, file: File, from_now: bool) -> Result<Follow, Unreadable> {
        let reader = Reader::new(file, from_now)?;
        self.kernel = Sidecar::belongs(self.header(), reader.header()).then_some(reader);
        Ok(self)
    }

    /// Returns what has happened since the last call: complete iterations only, while the recorder
    /// writes. With the kernel's events, in the order of time and some calls later.
    ///
    /// # Errors
    /// A file cannot be read, is no longer a trace, or is another one.
    pub fn poll(&mut self) -> Result<Vec<MergedEvent>, Unreadable> {
        let next = self.reader.first();
        let records = self.reader.poll()?;
        let decoder = std::mem::take(&mut self.decoder);
        let mut events = Events::new(self.reader.header(), &records, next, decoder);
        let own: Vec<_> = events.by_ref().map(|one| MergedEvent::Own(Box::new(one))).collect();
        self.decoder = events.decoder;
        let Some(kernel) = &mut self.kernel else { return Ok(own) };
        let records = kernel.poll_all()?;
        let events = Sidecar::decode(self.reader.header(), &records).map(MergedEvent::Kernel);
        self.reads += 1;
        self.held.extend(events.chain(own).map(|event| (self.reads, event)));
        Ok(self.release())
    }

    /// Returns the events that are not later than any that was found some reads ago.
    fn release(&mut self) -> Vec<MergedEvent> {
        let is_old = |read: u64| read + READS <= self.reads;
        let old = self.held.iter().filter(|(read, _)| is_old(*read));
        let is_over = |reader: &Reader| reader.is_over() && reader.is_read();
        let until = match is_over(&self.reader) && self.kernel.as_ref().is_none_or(is_over) {
            true => Some(u64::MAX),
            false => old.map(|(_, event)| event.at()).max(),
        };
        let Some(until) = until else { return Vec::new() };
        // Of two at the same time, the kernel's was put first.
        self.held.sort_by_key(|(_, event)| event.at());
        let count = self.held.partition_point(|(_, event)| event.at() <= until);
        self.held.drain(..count).map(|(_, event)| event).collect()
    }

    /// Whether all events have been returned.
    pub fn is_read(&self) -> bool {
        self.reader.is_read() && self.held.is_empty()
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
/// open, whatever its name, and also if it has none any more. Also opens the file of the kernel's
/// events, if there is one.
///
/// # Errors
/// There is no such process, its files may not be read, or none of them is a trace.
pub fn open_process(pid: u32) -> io::Result<(File, Option<File>)> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let explain = |error| no_process(pid, "cannot read the files of", &error);
    let (mut own, mut kernel) = (None, None);
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let path = entry?.path();
        // Opening a pipe could block; only regular files can be traces.
        if !fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let reader = file.try_clone().map_err(Unreadable::from);
        let Ok(reader) = reader.and_then(|file| Reader::new(file, true)) else { continue };
        let place = if reader.header().model() == MODEL { &mut kernel } else { &mut own };
        place.get_or_insert(file);
    }
    if let Some(own) = own {
        return Ok((own, kernel));
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
