//! Where and how a program records: the start of a recorder on a file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::format::Writers;
use crate::header::{About, Settings};
use crate::recorder::Recorder;
use crate::sys;
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
        let recorder = Recorder::new(Some(&self.file), &self.settings, about);
        recorder.map_err(|error| self.refused(&error))
    }

    /// Starts a recording of many writers. The writer returned has the main lane.
    ///
    /// # Errors
    /// The file cannot have its size, or cannot be mapped.
    pub fn start_for(&self, about: &About, writers: Writers) -> io::Result<Writer> {
        let writer = Writer::new(Some(&self.file), &self.settings, about, writers);
        writer.map_err(|error| self.refused(&error))
    }

    /// Names the file and its size in an error, and removes the file if it is empty.
    fn refused(&self, error: &io::Error) -> io::Error {
        let name = sys::file_name(&self.file);
        let identity = |file: fs::Metadata| (file.dev(), file.ino());
        let is_named = || {
            let file = self.file.metadata().ok().filter(|file| file.len() == 0).map(identity);
            file.is_some() && file == fs::symlink_metadata(&name).ok().map(identity)
        };
        // A file that another recorder has locked may be empty for a moment.
        if error.kind() != io::ErrorKind::ResourceBusy && is_named() {
            // Where it cannot be removed, it stays empty.
            let _ = fs::remove_file(&name);
        }
        let size = self.settings.bytes;
        io::Error::new(error.kind(), format!("cannot record {size} bytes into {name}: {error}"))
    }
}
