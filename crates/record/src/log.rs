//! The sink of records: a recorder with one owner, or one of many writers.

use crate::record::Record;
use crate::recorder::Recorder;
use crate::writer::Writer;

/// Takes records. `nanos` is called for the time if it is the clock and the clock is read.
pub trait Log {
    /// Begins an iteration: before the loop enters the kernel, or waits.
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record);

    /// Records that the loop is back from the kernel, or from its wait.
    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record);

    /// Records an event within an iteration. Events of connections outside the sample are dropped
    /// and counted.
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record);
}

impl Log for Recorder {
    #[inline]
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::begin_iteration(self, nanos, record);
    }

    #[inline]
    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::end_iteration(self, nanos, record);
    }

    #[inline]
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::note(self, nanos, record);
    }
}

/// The records get the writer's lane, so they must be of a [kind](Record::lane) that has one: those
/// of a ring have none.
impl Log for Writer {
    #[inline]
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(nanos, record);
    }

    #[inline]
    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(nanos, record);
    }

    #[inline]
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(nanos, record);
    }
}
