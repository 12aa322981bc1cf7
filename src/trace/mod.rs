//! What passes a ring or a selector, remembered.
//!
//! [`Traced`] goes around a [`Ring`](crate::ring::Ring) or a [`Selector`](crate::selector::Selector)
//! and is one itself: the loops do not know it. Off is another type, not a branch: a
//! `Proactor<Uring, P>` has no instruction of this module. It writes [`Record`]s with a
//! [`Recorder`], into a file that survives the process. [`Trace`] reads such a file, or what is
//! left of one, and [`Trace::events`] tells what happened: **every view is a function of that**: a line for
//! each, or, in [`view`], what they come to.
//!
//! ```text
//!   loop ─► Traced<R> ─► R          file ─► Trace ─► Event, Event, …  ─► show, view, export
//!              │                     ▲
//!              └─► Recorder ─────────┘
//! ```

mod attach;
mod event;
pub mod export;
mod follow;
pub mod format;
pub mod kernel;
mod map;
mod reader;
mod recorder;
mod ring;
mod selector;
mod show;
mod trigger;
pub mod view;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;

use crate::selector::Key;

pub use attach::{Attached, Line};
pub use event::{Event, Events, Happened, Op};
pub use follow::{Follow, open_process};
pub use format::{Call, Clock, Frozen, Level, Patience, Record, What};
pub use reader::{Header, Trace, Unreadable};
pub use recorder::{About, Recorder, Settings};
pub use show::{Filter, heading, json, json_header, line, parse_conn, title};
pub use trigger::Trigger;

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
        Recorder::create(&self.file, &self.settings, about)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot record: {error}")))
    }
}

/// A ring or a selector whose traffic is recorded.
#[derive(Debug)]
pub struct Traced<T> {
    inner: T,
    log: Recorder,
    /// Submissions ever queued, and ever taken; completions ever reaped, and those since the last
    /// enter.
    queued: u64,
    taken: u64,
    reaped: u64,
    position: u16,
    /// Of a selector: by descriptor, the key of what it watches.
    watched: HashMap<RawFd, Key>,
}

impl<T> Traced<T> {
    /// Records what passes `inner`.
    pub fn new(inner: T, log: Recorder) -> Traced<T> {
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
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.log
    }
}
