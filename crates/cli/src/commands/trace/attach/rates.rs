//! The table of rates, again and again: below one another, or in one place on a terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::command::WatchedCommand;
use crate::commands::output;
use proactor_trace::WatchedRings;

pub(super) struct RateTable {
    interval: Duration,
    is_json: bool,
    /// When the next one is due.
    due: Instant,
    /// The begin of the interval.
    since: Instant,
    /// The lines of the last one, which the next one overwrites.
    lines: usize,
}

impl RateTable {
    pub(super) fn new(interval: Duration, is_json: bool) -> RateTable {
        let now = Instant::now();
        RateTable { interval, is_json, due: now + interval, since: now, lines: 0 }
    }

    /// Prints the rates if an interval has passed, or at the end.
    pub(super) fn show(
        &mut self,
        rings: &mut WatchedRings,
        command: &WatchedCommand,
        is_last: bool,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        if now < self.due && !is_last {
            return Ok(());
        }
        let rates = rings.rates(now - self.since);
        self.since = now;
        while self.due <= now {
            self.due += self.interval;
        }
        if self.is_json {
            return command.print(&format!("{}\n", rates.json()));
        }
        let text = rates.text();
        // A command may print between two of them.
        if command.is_none() && output::draws(&io::stdout()) && io::stdout().is_terminal() {
            output::overwrite(self.lines, &text)?;
            self.lines = text.lines().count();
            return Ok(());
        }
        command.print(&text)
    }
}
