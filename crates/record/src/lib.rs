//! A flight recorder for event loops: the last records of what a loop did, in a file that survives
//! the process.
//!
//! A program writes [`Record`]s of 32 bytes, one for each operation, completion, call and wait. A
//! [`Recorder`] has one owner and needs no atomic operation for a record; a [`Writer`] is one of
//! many, threads or forked children, that write into one file. Both keep the file mapped, so that
//! what was written is there whatever ends the process. [`Trace`] reads such a file, or what is
//! left of one; [`Reader`] reads it while it is written. `docs/trace-format.md` describes the file.
//!
//! ```text
//!   loop ─► Recorder or Writer ─► file ─► Trace or Reader ─► Record ─► Content
//! ```
//!
//! The crate depends on std, libc, `memmap2`, `thiserror` and the facade `tracing`, and knows no
//! ring and no selector: any program can embed it.
//!
//! ```
//! use proactor_record::{About, Call, Log, Content, Record, Recorder, Settings, Trace};
//!
//! let about = About { model: "example".to_owned(), ..About::default() };
//! let mut log = Recorder::new(None, &Settings::default(), &about)?;
//! log.note(|| 0, Record::call_begin(Call::Recv, false, 7, 3, 2048));
//! log.note(|| 0, Record::call_end(Call::Recv, false, 7, 3, 64));
//! let trace = Trace::from_bytes(log.bytes()).expect("a trace");
//! assert!(matches!(trace.records[1].payload(), Content::CallEnd { result: Ok(64), .. }));
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod errno;
pub mod format;
mod header;

mod log;
mod lost_file;
mod reader;
mod record;
mod recorder;
mod recording;
mod run_delay;
mod shm_log;
pub mod sys;
mod trigger;
mod writer;

pub use errno::Errno;
pub use format::{Call, Clock, Frozen, Kind, Level, OpKind, RecordKind, WaitMode, Writers};
pub use header::{About, Header, Settings, Unreadable};

pub use log::Log;
pub use lost_file::survive_lost_files;
pub use reader::{Reader, Trace};
pub use record::{Content, Pairing, Record};
pub use recorder::Recorder;
pub use recording::Recording;
pub use trigger::StopTrigger;
pub use writer::Writer;
