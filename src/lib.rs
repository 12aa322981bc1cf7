//! # Proactor
//!
//! **A submission/completion ring loop issues accept, recv and send operations and resumes
//! per-connection state machines on completions.** Beside it stands its readiness twin; the same
//! protocols run unchanged on both, so that the two can be compared.
//!
//! | floor | modules | what they are |
//! |---|---|---|
//! | 9 | [`cli`] | the command line |
//! | 8 | [`compare`] | every model under the same load |
//! | 7 | [`model`] | the I/O models by name |
//! | 5 | [`proactor`], [`reactor`] | the ring loop, the readiness loop |
//! | 4 | [`peers`], [`limits`] | all open connections; what bounds a server |
//! | 3 | [`connection`], [`load`], [`client`], [`trace`] | one connection without a socket; the measuring client; the interactive one; what passes a ring or a selector, remembered |
//! | 2 | [`protocol`], [`ring`], [`selector`] | what to say; submission and completion; readiness |
//! | 1 | [`buffer`], [`keys`], [`counters`], [`address`], [`os`], [`report`] | memory, keys, counts, addresses, system calls, tables |
//! | 0 | [`clock`] | time |
//!
//! A module imports only from floors below its own. Read [`protocol::Echo`] first, then
//! [`connection`], [`ring`], [`proactor`], and [`ring::Uring`] with `kernel-notes.md` beside it.
#![deny(unsafe_code)]

pub mod address;
pub mod buffer;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
pub mod connection;
pub mod counters;
pub mod keys;
pub mod limits;
pub mod load;
pub mod model;
pub mod os;
pub mod peers;
pub mod proactor;
pub mod protocol;
pub mod reactor;
pub mod report;
pub mod ring;
pub mod selector;
pub mod trace;
