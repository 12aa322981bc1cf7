//! Views and exports of recordings, and a live trace of the rings of any process.
//!
//! [`proactor_record`] writes and reads recordings. [`events()`] decodes one: each record becomes
//! an [`Event`] that knows its connection, its operation, what began it, how long that lasted and
//! what is in flight. **Every view is a function of the events**: a line for each
//! ([`MergedEvent::line`]), the counts and findings of [`view`], the formats of [`export`].
//!
//! ```text
//!   file ─► Trace ─► events() ─► Event, Event, …  ─► show, view, export
//! ```
//!
//! [`kernel`] reads the kernel's own tracepoints beside a recording, and [`WatchedRings`] those
//! of a process that records nothing.
#![deny(unsafe_code)]

mod attach;
mod event;
pub mod export;
mod follow;
pub mod kernel;
mod merged;
mod open_rings;
mod show;
mod trace_file;
pub mod view;

pub use attach::{RingEvent, RingFilter, RingRates, WatchedRings};
pub use event::{Begun, Event, Events, InFlight, Kinds, events};
pub use follow::{Follow, open_process};
pub use merged::{MergedEvent, merged, parse_name};
pub use open_rings::{OpenRing, OpenRings, UnreadProcess};
pub use proactor_record::{
    About, Call, Clock, Content, Errno, Frozen, Header, Kind, Level, Log, OpKind, Reader, Record,
    RecordKind, Recorder, Recording, Settings, StopTrigger, Trace, Unreadable, WaitMode, Writer,
    Writers, format,
};
pub use show::{Filter, heading, json, json_header, parse_conn, title};
pub use trace_file::TraceFile;
