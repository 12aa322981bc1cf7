//! Counters of a thread, which other threads may read.

use std::sync::atomic::{AtomicU64, Ordering};

use proactor::counters::Counters;

/// A number that one thread at a time changes and any thread may read. Counting costs no more than
/// without other threads: a load, an addition, a store.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn add(&self, n: u64) {
        self.set(self.get() + n);
    }
}

/// The [`Counters`] of a thread, as far as this model has them.
#[derive(Debug, Default)]
pub(super) struct LocalCounters {
    pub(super) iterations: Count,
    pub(super) calls: Count,
    pub(super) completed: Count,
    pub(super) accepted: Count,
    pub(super) closed: Count,
    pub(super) refused: Count,
    pub(super) receives: Count,
    pub(super) received_bytes: Count,
    pub(super) sends: Count,
    pub(super) sent_bytes: Count,
    pub(super) out_of_buffers: Count,
    pub(super) evicted: Count,
    pub(super) panicked: Count,
}

impl LocalCounters {
    /// Returns what was counted until now.
    pub(super) fn snapshot(&self) -> Counters {
        Counters {
            iterations: self.iterations.get(),
            calls: self.calls.get(),
            completed: self.completed.get(),
            accepted: self.accepted.get(),
            closed: self.closed.get(),
            refused: self.refused.get(),
            receives: self.receives.get(),
            received_bytes: self.received_bytes.get(),
            sends: self.sends.get(),
            sent_bytes: self.sent_bytes.get(),
            out_of_buffers: self.out_of_buffers.get(),
            evicted: self.evicted.get(),
            panicked: self.panicked.get(),
            ..Counters::default()
        }
    }
}
