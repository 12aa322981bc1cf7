//! # Proactor
//!
//! **A submission/completion ring loop issues accept, recv and send operations and resumes
//! per-connection state machines on completions.** Beside it stands its readiness twin; the same
//! protocols run unchanged on both, so that the two can be compared.
//!
//! | floor | modules | what they are |
//! |---|---|---|
//! | 9 | [`cli`] | the command line |
//! | 8 | [`compare`], [`explain`] | every model under the same load; one message through each |
//! | 7 | [`model`] | the I/O models by name |
//! | 6 | [`processes`] | a child for each connection, and the parent that relays |
//! | 5 | [`proactor`], [`reactor`], [`coroutine`], [`blocking`] | the ring loop; the readiness loop; a task for each connection; calls that wait |
//! | 4 | [`peers`], [`limits`] | all open connections; what bounds a server |
//! | 3 | [`connection`], [`console`], [`load`], [`client`], [`trace`] | one connection without a socket; the operator's language; the measuring client; the interactive one; what passes a ring, a selector or a call, remembered |
//! | 2 | [`protocol`], [`ring`], [`selector`], [`calls`] | what to say; submission and completion; readiness; calls that may sleep |
//! | 1 | [`buffer`], [`keys`], [`counters`], [`address`], [`os`], [`report`] | memory, keys, counts, addresses, system calls, tables |
//! | 0 | [`clock`] | time |
//!
//! A module imports only from floors below its own. Read [`protocol::Echo`] first, then
//! [`connection`], [`ring`], [`proactor`], and [`ring::Uring`] with `kernel-notes.md` beside it.
#![deny(unsafe_code)]

pub mod address;
pub mod blocking;
pub mod buffer;
pub mod calls;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
pub mod connection;
pub mod console;
pub mod coroutine;
pub mod counters;
pub mod explain;
pub mod keys;
pub mod limits;
pub mod load;
pub mod model;
pub mod os;
pub mod peers;
pub mod proactor;
pub mod processes;
pub mod protocol;
pub mod reactor;
pub mod report;
pub mod ring;
pub mod selector;
pub mod trace;
