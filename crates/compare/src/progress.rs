//! The progress of a comparison, and its interruption.

use std::time::Duration;

use crate::plan::ParticipantSpec;
use crate::sampling::SampleProgress;
use crate::schedule::Schedule;
use proactor::os;
use proactor_load::LoadShape;

/// The state of a comparison.
#[derive(Debug)]
pub struct Progress<'a> {
    /// The number of the current table, from 0, and the number of tables.
    pub table: (usize, usize),
    /// The load of the table.
    pub load: LoadShape,
    /// The participant that is measured.
    pub participant: &'a ParticipantSpec,
    /// What is done with the participant.
    pub activity: Activity,
    /// The estimated remaining time.
    pub left: Duration,
}

/// The current activity with one participant.
#[derive(Debug, Clone, Copy)]
pub enum Activity {
    /// This many idle connections are about to be opened and measured.
    MeasuringIdle(usize),
    /// The server is about to be started.
    Starting,
    /// The connections are about to be opened.
    Connecting,
    /// The server is about to be driven for a slice that does not count.
    WarmingUp,
    /// A slice has ended; the number is the expected number of rounds.
    Sampled(SampleProgress, u32),
    /// The server is about to be stopped.
    Stopping,
}

/// Receives the progress. The comparison is interrupted if it returns false.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress<'_>) -> bool;

/// Reports the progress, and remembers an interruption.
pub(crate) struct Monitor<'a> {
    watch: Watch<'a>,
    pub(crate) schedule: Schedule,
    pub(crate) table: (usize, usize),
    pub(crate) interrupted: bool,
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(watch: Watch<'a>, schedule: Schedule, tables: usize) -> Monitor<'a> {
        Monitor { watch, schedule, table: (0, tables), interrupted: false }
    }

    /// Reports an activity. Returns false if the comparison is interrupted.
    pub(crate) fn report(
        &mut self,
        load: LoadShape,
        participant: &ParticipantSpec,
        activity: Activity,
    ) -> bool {
        let left = self.schedule.left(os::now());
        let progress = Progress { table: self.table, load, participant, activity, left };
        self.interrupted |= !(self.watch)(&progress);
        !self.interrupted
    }
}
