//! What a server says of itself at a moment, and what may ask it.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::buffer::BufferStatus;
use crate::counters::Counters;
use crate::lifecycle::{Lifecycle, Stage};

/// A server at a moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// What it has counted.
    pub counters: Counters,
    /// The connections that were accepted and are not closed, those of the backlog among them.
    pub open: usize,
    /// The most that it serves at a time.
    pub max_connections: usize,
    /// How far it is on its way to its end.
    pub stage: Stage,
    /// The bytes that are queued, or wait as input.
    pub memory: usize,
    /// The most that may be.
    pub max_memory: usize,
    /// The buffers, by size; none if each connection has its own.
    pub buffers: Vec<BufferStatus>,
}

impl Status {
    /// The status of a server with these limits, which holds nothing.
    pub fn new(counters: Counters, open: usize, lifecycle: &Lifecycle) -> Status {
        let limits = &lifecycle.limits;
        Status {
            counters,
            open,
            max_connections: limits.connections,
            stage: lifecycle.stage(),
            memory: 0,
            max_memory: limits.queues,
            buffers: Vec::new(),
        }
    }
}

/// What watches a server from within its loop, as one more descriptor that the loop waits for.
pub trait ServerMonitor: fmt::Debug + Send {
    /// Readable while there is something to do; always the same descriptor.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Does one thing and does not wait: between two of them, connections are served. Returns false
    /// if there was nothing to do. `status` returns the status of the server now.
    fn serve(&mut self, stage: Stage, status: &dyn Fn() -> Status) -> bool;
}
