//! The sink of records: a recorder with one owner, or one of many writers.

use crate::record::Record;

/// Takes records. `nanos` is called for the time if it is the clock and the clock is read.
pub trait Log {
    /// Begins an iteration: before the loop enters the kernel, or waits.
    #[inline]
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.note(nanos, record);
    }

    /// Records that the loop is back from the kernel, or from its wait.
    #[inline]
    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.note(nanos, record);
    }

    /// Records an event within an iteration. Events of connections outside the sample are dropped
    /// and counted.
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record);
}
