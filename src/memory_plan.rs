//! The user memory that a server may use, and what each part of it may.
//!
//! The memory of the kernel's sockets is not part of it: the kernel bounds that itself
//! (`net.ipv4.tcp_mem`).

use std::sync::OnceLock;

use crate::buffer::BufferClass;
use crate::limits::Limits;
use crate::os;

/// What a server uses without a connection: the program, its tables and its rings.
const FIXED: usize = 24 << 20;
/// The least limit where none is given.
const MEMORY_MIN: u64 = 64 << 20;
/// The least that is left for what is queued and for input that is not taken.
const QUEUES_MIN: usize = 8 << 20;

/// What each part of a server's user memory may use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The program, its tables and its rings.
    pub fixed: usize,
    /// The buffers of the pool that all connections share.
    pub pool: usize,
    /// Each connection: its state, its stack if it has one, and little that is queued.
    pub connection: usize,
    /// How many connections there may be.
    pub connections: usize,
    /// What is queued for all peers, and input that protocols have not taken.
    pub queues: usize,
}

/// Returns the limit where none is given: a quarter of what this process may use. The rest is for
/// the kernel, whose socket buffers may take as much again, and for other programs.
pub fn default_memory() -> usize {
    static DEFAULT: OnceLock<usize> = OnceLock::new();
    *DEFAULT.get_or_init(|| (os::usable_memory() / 4).max(MEMORY_MIN) as usize)
}

/// Returns the buffers where none are named: as many of the smallest as connections, within bounds
/// and within an eighth of the memory, and fewer of the larger ones.
pub fn default_buffers(limits: &Limits) -> Vec<BufferClass> {
    /// The bytes of one, with its part of the larger ones.
    const EACH: usize = SMALLEST + 16 * SMALLEST / 8 + 128 * SMALLEST / 32;
    const SMALLEST: usize = 2 << 10;
    let memory = limits.memory.unwrap_or_else(default_memory);
    let count = limits.connections.clamp(1024, 8192).min((memory / 8 / EACH).max(128));
    classes(SMALLEST, count)
}

/// Returns buffers of three sizes, for messages, for pages and for bulk transfers: `count` of the
/// smallest, which have so many bytes.
pub fn classes(bytes: usize, count: usize) -> Vec<BufferClass> {
    let classes = [(1, 1), (16, 8), (128, 32)]
        .map(|(larger, fewer)| BufferClass { bytes: bytes * larger, count: count / fewer });
    let fits = |class: &BufferClass| class.count > 0 && class.bytes <= 1 << 20;
    classes.into_iter().filter(fits).collect()
}

impl MemoryPlan {
    /// Divides the memory that `limits` permit, for a model that uses so much for each
    /// connection. At least as much is planned as so many connections need.
    pub fn new(limits: &Limits, buffers: &[BufferClass], connection: usize) -> MemoryPlan {
        let memory = limits.memory.unwrap_or_else(default_memory);
        let pool = buffers.iter().map(|class| class.bytes * class.count).sum();
        let connections = limits.connections;
        let plan = MemoryPlan { fixed: FIXED, pool, connection, connections, queues: 0 };
        let queues = memory.saturating_sub(plan.total()).max(QUEUES_MIN);
        MemoryPlan { queues, ..plan }
    }

    /// Returns how many connections there may be by default: as many as fit three quarters of the
    /// memory, at least one. What is queued has the rest.
    pub fn connections_that_fit(&self, limits: &Limits) -> usize {
        let memory = limits.memory.unwrap_or_else(default_memory);
        let left = (memory - memory / 4).saturating_sub(self.fixed + self.pool);
        (left / self.connection).clamp(1, self.connections)
    }

    /// Returns the sum: the user memory that the server uses at most.
    pub fn total(&self) -> usize {
        self.fixed + self.pool + self.connection * self.connections + self.queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_connections_do_not_need_is_left_for_the_queues() {
        let buffers = [BufferClass { bytes: 2048, count: 1024 }];
        let limits = Limits { memory: Some(256 << 20), connections: 1000, ..Limits::default() };
        let plan = MemoryPlan::new(&limits, &buffers, 4096);
        assert_eq!((plan.pool, plan.total()), (2 << 20, 256 << 20));
        let limits = Limits { memory: Some(1), ..limits };
        let plan = MemoryPlan::new(&limits, &buffers, 4096);
        assert_eq!(plan.queues, QUEUES_MIN);
        assert!(plan.total() > FIXED + 4096 * 1000);
    }
}
