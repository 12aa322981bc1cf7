//! What passes a ring or a selector, remembered.
//!
//! [`Traced`] goes around a [`Ring`](proactor::ring::Ring) or a
//! [`Selector`](proactor::selector::Selector) and is one itself: the loops do not know it. Off is
//! another type, not a branch: a `Proactor<Uring, P>` has no instruction of this module. It writes
//! [`Record`]s with a [`Recorder`], into a file that survives the process. [`TracedCalls`] does the
//! same for the [calls](proactor::calls::Calls) of threads and child processes: each has a [`Writer`],
//! and all of them write into one file. [`Trace`] reads such a file, or what is
//! left of one, and [`Trace::events`] tells what happened: **every view is a function of that**: a
//! line for each, or, in [`view`], what they come to.
//!
//! ```text
//!   loop ─► Traced<R> ─► R          file ─► Trace ─► Event, Event, …  ─► show, view, export
//!              │                     ▲
//!              └─► Recorder ─────────┘
//! ```
#![deny(unsafe_code)]

mod attach;
mod calls;
mod event;
pub mod export;
mod follow;
pub mod format;
pub mod kernel;
mod log;
mod map;
mod preface;
mod reader;
mod recorder;
mod ring;
mod selector;
mod show;
mod trigger;
pub mod view;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use proactor::selector::Key;

pub use attach::{RingEvent, WatchedProcess};
pub use calls::TracedCalls;
pub use event::{Event, Events, Happened, Op};
pub use follow::{Follow, open_process};
pub use format::{Call, Clock, Frozen, Level, Patience, Record, What, Writers};
pub use log::Log;
pub use preface::{About, Settings};
pub use reader::{Header, Trace, Unreadable};
pub use recorder::Recorder;
pub use show::{Filter, heading, json, json_header, line, parse_conn, title};
pub use trigger::Trigger;
pub use writer::Writer;

/// Where to record, and how.
#[derive(Debug)]
pub struct Recording {
    /// Into this file.
    pub file: File,
    /// How.
    pub settings: Settings,
}

impl Recording {
    /// Begins, and says in the file who records.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn start(&self, about: &About) -> io::Result<Recorder> {
        Recorder::create(&self.file, &self.settings, about).map_err(refused)
    }

    /// The same, where many are to write: as the main lane.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn start_for(&self, about: &About, writers: Writers) -> io::Result<Writer> {
        Writer::create(&self.file, &self.settings, about, writers).map_err(refused)
    }
}

fn refused(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot record: {error}"))
}

/// A ring or a selector whose traffic is recorded; a selector's also by one of many who write.
#[derive(Debug)]
pub struct Traced<T, L = Recorder> {
    inner: T,
    log: L,
    /// Submissions ever queued, and ever taken; completions ever reaped, and those since the last
    /// enter.
    queued: u64,
    taken: u64,
    reaped: u64,
    position: u16,
    /// Of a selector: by descriptor, the key of what it watches.
    watched: HashMap<RawFd, Key>,
}

impl<T, L> Traced<T, L> {
    /// Records what passes `inner`.
    pub fn new(inner: T, log: L) -> Traced<T, L> {
        let watched = HashMap::new();
        Traced { inner, log, queued: 0, taken: 0, reaped: 0, position: 0, watched }
    }

    /// What is recorded.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// What is recorded, to play with.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The recorder.
    pub fn recorder(&mut self) -> &mut L {
        &mut self.log
    }
}
