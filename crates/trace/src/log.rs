//! Where records go: to a recorder of one's own, or to one that many write into.

use super::format::Record;
use super::recorder::Recorder;
use super::writer::Writer;
use proactor::keys::ConnId;

/// Takes records. `nanos` is asked for the time if that is the clock and it is read.
pub trait Log {
    /// A new turn begins: before going into the kernel, or into a wait.
    fn begin_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record);

    /// It is back.
    fn end_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record);

    /// Something within a turn, of whoever it is; a connection's is left out if that is not one of
    /// the sample.
    fn note(&mut self, conn: Option<ConnId>, nanos: impl FnOnce() -> u64, record: Record);
}

impl Log for Recorder {
    #[inline]
    fn begin_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::begin_turn(self, nanos, record);
    }

    #[inline]
    fn end_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::end_turn(self, nanos, record);
    }

    #[inline]
    fn note(&mut self, conn: Option<ConnId>, nanos: impl FnOnce() -> u64, record: Record) {
        Recorder::note(self, conn, nanos, record);
    }
}

/// Its lane stands in each record, which must be of a [kind](Record::lane) that has one: those of a
/// ring have not.
impl Log for Writer {
    #[inline]
    fn begin_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(None, nanos, record);
    }

    #[inline]
    fn end_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(None, nanos, record);
    }

    #[inline]
    fn note(&mut self, conn: Option<ConnId>, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(conn, nanos, record);
    }
}
