//! # Proactor
//!
//! **A submission/completion ring loop issues accept, recv and send operations and resumes
//! per-connection state machines on completions.** Beside it stands its readiness twin; the same
//! protocols run unchanged on both, so that the two can be compared.
//!
//! Read [`protocol::Echo`] first, then
//! [`connection`], [`ring`], [`proactor`], and [`ring::Uring`] with `kernel-notes.md` beside it.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("proactor is for Linux: io_uring(7), epoll(7), signalfd(2) and eventfd(2)");

pub mod address;
pub mod buffer;
mod builder;
pub mod calls;
pub mod clock;
pub mod connection;
pub mod connection_log;
pub mod console;
pub mod counters;
pub mod engine;
mod error;
pub mod keys;
pub mod lifecycle;
pub mod limits;
pub mod model;
pub mod os;
pub mod peer;
pub mod peers;
pub mod proactor;
pub mod protocol;
pub mod reactor;
pub mod ring;
pub mod selector;
mod server;
pub mod traced;

pub use address::Address;
pub use buffer::Chunk;
pub use builder::Builder;
pub use error::Error;
pub use limits::{CloseReason, Limits};
pub use model::Model;
pub use peer::Peer;
pub use protocol::{Input, Needs, Outbox, Payload, Protocol, Received, TooLong};
pub use server::{Handle, Report, Running, Server, Stats};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
