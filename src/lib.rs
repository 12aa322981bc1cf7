//! A TCP server for protocols of your own: on io_uring, and where that is refused, on epoll.
//!
//! ```no_run
//! use proactor::{Input, Outbox, Protocol, Server};
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
//!         out.send(input.take_all()); // the receive buffer itself is sent
//!     }
//! }
//!
//! fn main() -> Result<(), proactor::Error> {
//!     Server::builder().listen("127.0.0.1:7000", |_peer| Echo).run()?;
//!     Ok(())
//! }
//! ```
//!
//! # What it is, and what it is not
//!
//! It accepts, receives, sends and closes, with limits, backpressure, half-close, broadcasts,
//! timers and a drain that loses no byte before its deadline. A protocol does no I/O, and its clock
//! is that of the server, so the same code runs on every I/O model, and in tests without a socket
//! ([`testing`]). One thread serves. It is not an async runtime, it has no TLS and no UDP, and a
//! protocol must not block.
//!
//! # Three stages
//!
//! 1. [`Builder`] says what the server will be, and opens nothing.
//! 2. [`Builder::bind`] opens the sockets: the [`Server`] knows its addresses.
//! 3. [`Server::run`] serves in the calling thread and drains on SIGINT, SIGTERM, SIGQUIT and
//!    SIGHUP. [`Server::start`] serves in a thread of its own and touches no signals; the
//!    [`Running`] server is drained and joined, or stopped when it is dropped.
//!
//! # A protocol
//!
//! A factory makes one [`Protocol`] value for each connection, in the thread that serves it; the
//! value need be neither `Send` nor `Clone`. [`Protocol::data`] takes bytes from its [`Input`];
//! what it leaves is there the next time. What it sends goes to its [`Outbox`]. A panic costs the
//! connection, not the server. Read [`protocols::Echo`] first.
//!
//! # Models
//!
//! | model | waits by | since Linux |
//! |---|---|---|
//! | [`Model::URING`] | completions of io_uring | 5.6 |
//! | [`Model::EPOLL`], [`Model::EPOLL_ET`] | epoll(7), level- and edge-triggered | 2.6 |
//! | [`Model::POLL`] | poll(2) | 2.2 |
//! | [`Model::SELECT`] | select(2) | 1.0 |
//!
//! Without [`Builder::model`], the first of [`Model::AUTO`] that this machine permits serves. The
//! crate `proactor-models` has seven more, among them threads, processes and coroutines.
//!
//! # Limits
//!
//! [`Builder::max_connections`], [`Builder::drain_timeout`], and [`Limits::max_input`] for input
//! that a protocol leaves untaken. A peer that reads nothing is not received from, and is
//! evicted when others wait for it.
//!
//! # Platform and versions
//!
//! Linux only. The version is 0.x: a minor release may break, a patch does not. The hidden modules
//! serve the other crates of this workspace and may change in any release.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("proactor is for Linux: io_uring(7), epoll(7), eventfd(2)");

// The parts of the server, for the other crates of the workspace; not an interface.
#[doc(hidden)]
pub mod address;
#[doc(hidden)]
pub mod admission;
#[doc(hidden)]
pub mod buffer;
mod builder;
#[doc(hidden)]
pub mod calls;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod connection;
#[doc(hidden)]
pub mod connection_log;
#[doc(hidden)]
pub mod console;
#[doc(hidden)]
pub mod counters;
#[doc(hidden)]
pub mod engine;
mod error;
#[doc(hidden)]
pub mod keys;
#[doc(hidden)]
pub mod lifecycle;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod loop_state;
#[doc(hidden)]
pub mod mailbox;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod memory_plan;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod network;
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
pub mod peer;
mod peer_handle;
#[doc(hidden)]
pub mod peers;
#[doc(hidden)]
pub mod polling;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod proactor;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod proxy;
#[doc(hidden)]
pub mod rate;
#[doc(hidden)]
pub mod reactor;
#[doc(hidden)]
pub mod refusal;
#[doc(hidden)]
pub mod ring;
#[doc(hidden)]
pub mod selector;
mod server;
#[doc(hidden)]
pub mod silent;
#[cfg(test)]
#[path = "../tests/skip/mod.rs"]
mod skip;
#[doc(hidden)]
pub mod status;
pub mod testing;
#[doc(hidden)]
pub mod timeouts;
#[doc(hidden)]
pub mod traced;
#[doc(hidden)]
pub mod trim;
#[doc(hidden)]
pub mod version;

/// The protocols that come with this crate: small, complete, and served by the program `proactor`.
pub mod protocols {
    pub use crate::protocol::{
        Chargen, Chat, Discard, Echo, LINE_MAX, Prefix, Reply, TOO_LONG, Talk, Upper,
    };
}

/// The parts that the server is made of. They may change in any release.
#[cfg(feature = "parts")]
pub mod parts {
    pub use crate::buffer::Pool;
    pub use crate::connection::Connection;
    pub use crate::proactor::Proactor;
    pub use crate::reactor::Reactor;
    pub use crate::ring::{Completion, Op, Ring, Uring};
    pub use crate::selector::Selector;
}

pub use address::Address;
pub use buffer::Chunk;
pub use builder::Builder;
pub use counters::Counters;
pub use error::{Error, SendError};
pub use limits::{CloseReason, Limits, Timeouts};
pub use model::Model;
pub use network::Network;
pub use peer::Peer;
pub use peer_handle::PeerHandle;
pub use protocol::{Input, Needs, Outbox, Payload, Protocol, Received, TooLong};
pub use rate::Rate;
pub use server::{Handle, Report, Running, Server};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
