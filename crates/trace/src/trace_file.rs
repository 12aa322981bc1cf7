//! A trace, with what the kernel's events in the file beside it add to it.

use std::ops::Deref;
use std::path::Path;

use proactor_record::{Trace, Unreadable};

use crate::event::{Decoder, Events};
use crate::kernel::{Postings, Sidecar};

/// A trace, and the kernel's events about the same ring if they were recorded.
#[derive(Debug, Clone)]
pub struct TraceFile {
    trace: Trace,
    kernel: Option<(Sidecar, Postings)>,
}

impl TraceFile {
    /// Matches a trace with the kernel's events, if there are any.
    pub fn new(trace: Trace, sidecar: Option<Sidecar>) -> TraceFile {
        let kernel = sidecar.map(|sidecar| {
            let postings = Postings::of(&trace, &sidecar);
            (sidecar, postings)
        });
        TraceFile { trace, kernel }
    }

    /// Reads the file at a path, and the file beside it.
    ///
    /// # Errors
    /// One of them cannot be read, or is not a trace.
    pub fn open(path: &Path) -> Result<TraceFile, Unreadable> {
        let trace = Trace::open(path)?;
        let sidecar = Sidecar::open(path, &trace.header)?;
        Ok(TraceFile::new(trace, sidecar))
    }

    /// Reads a trace from memory, which has no file beside it.
    ///
    /// # Errors
    /// The bytes are not a trace.
    pub fn from_bytes(bytes: &[u8]) -> Result<TraceFile, Unreadable> {
        Trace::from_bytes(bytes).map(TraceFile::from)
    }

    /// The kernel's events, if they were recorded.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.kernel.as_ref().map(|(sidecar, _)| sidecar)
    }

    /// Returns the events, in the order in which they were recorded.
    pub fn events(&self) -> Events<'_> {
        let Trace { header, records, first, .. } = &self.trace;
        let postings = self.kernel.as_ref().map(|(_, postings)| postings);
        Events::new(header, records, *first, Decoder::new(*first)).with_postings(postings)
    }
}

impl Deref for TraceFile {
    type Target = Trace;

    fn deref(&self) -> &Trace {
        &self.trace
    }
}

impl From<Trace> for TraceFile {
    fn from(trace: Trace) -> TraceFile {
        TraceFile::new(trace, None)
    }
}
