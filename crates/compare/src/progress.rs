//! The progress of a comparison, and its interruption.

use std::time::Duration;

use crate::block::Sample;
use crate::plan::ParticipantSpec;
use crate::schedule::Schedule;
use proactor::os;
use proactor_load::Workload;

/// The state of a comparison.
#[derive(Debug)]
pub struct Progress<'a> {
    /// The number of the current table, from 0, and the number of tables.
    pub table: (usize, usize),
    /// The number of the current block of the table, from 0, and the number of blocks; 0 blocks
    /// during the trial, which does not count.
    pub block: (usize, usize),
    /// The load of the table.
    pub load: Workload,
    /// The participant that is measured.
    pub participant: &'a ParticipantSpec,
    /// What is done with the participant.
    pub activity: Activity,
    /// The estimated remaining time.
    pub left: Duration,
}

/// The current activity with one participant.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "it is passed by reference, once per slice")]
pub enum Activity {
    /// This many idle connections are about to be opened and measured.
    MeasuringIdle(usize),
    /// The server is about to be started, connected to, and driven for the lead-in.
    Starting,
    /// A slice has ended.
    Sampled(Sample),
}

/// Receives the progress. The comparison is interrupted if it returns false.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress<'_>) -> bool;

/// A comparison in progress: its time, its interruption, and what was noticed.
pub(crate) struct Monitor<'a> {
    pub(crate) watch: Watch<'a>,
    pub(crate) schedule: Schedule,
    /// The number of the current table, from 0, and the number of tables.
    pub(crate) table: (usize, usize),
    /// The number of the current block, from 0, and the number of blocks.
    pub(crate) block: (usize, usize),
    pub(crate) interrupted: bool,
    /// The name of the client's engine.
    pub(crate) engine: &'static str,
    pub(crate) warnings: Vec<String>,
}

impl Monitor<'_> {
    /// Reports an activity. Returns false if the comparison is interrupted.
    pub(crate) fn report(
        &mut self,
        load: Workload,
        participant: &ParticipantSpec,
        activity: Activity,
    ) -> bool {
        let left = self.schedule.left(os::now());
        let (table, block) = (self.table, self.block);
        let progress = Progress { table, block, load, participant, activity, left };
        self.interrupted |= !(self.watch)(&progress);
        !self.interrupted
    }

    /// Adds a warning, unless the comparison has it already.
    pub(crate) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
