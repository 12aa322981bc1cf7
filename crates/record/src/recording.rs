//! Where and how a program records: the start of a recorder on a file.

use std::fs::File;
use std::io;

use crate::format::Writers;
use crate::header::{About, Settings};
use crate::recorder::Recorder;
use crate::writer::Writer;

/// Where to record, and how.
#[derive(Debug)]
pub struct Recording {
    /// The file, which is emptied.
    pub file: File,
    /// How it is recorded.
    pub settings: Settings,
}

impl Recording {
    /// Starts a recording of one owner.
    ///
    /// # Errors
    /// The file cannot have its size, or cannot be mapped.
    pub fn start(&self, about: &About) -> io::Result<Recorder> {
        Recorder::new(Some(&self.file), &self.settings, about).map_err(refused)
    }

    /// Starts a recording of many writers. The writer returned has the main lane.
    ///
    /// # Errors
    /// The file cannot have its size, or cannot be mapped.
    pub fn start_for(&self, about: &About, writers: Writers) -> io::Result<Writer> {
        Writer::new(Some(&self.file), &self.settings, about, writers).map_err(refused)
    }
}

fn refused(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot record: {error}"))
}
