//! How long a thread was ready to run and had no CPU, as the kernel counts it for each thread.
//!
//! A loop that is delayed within an enter looks to its own clock as if it slept. The kernel knows
//! better, and its number is read without privileges: /proc/thread-self/schedstat. One reading
//! takes a microsecond, so there is one at most each [`PERIOD`], after an iteration. Each iteration
//! that is longer ends with one, and the reading before it is less than a period before its begin.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::record::Record;

/// The least time between two readings.
pub(crate) const PERIOD: Duration = Duration::from_millis(2);
/// What is less is not recorded: a thread that is preempted once.
const LEAST: Duration = Duration::from_micros(500);

/// The delay of one thread.
#[derive(Debug)]
pub(crate) struct RunDelay {
    file: File,
    /// The last reading, in nanoseconds, and its time in ticks; `None` before the first.
    nanos: u64,
    at: Option<u64>,
}

impl RunDelay {
    /// That of the calling thread; `None` where the kernel does not count it.
    pub(crate) fn of_this_thread() -> Option<RunDelay> {
        let file = File::open("/proc/thread-self/schedstat").ok()?;
        let nanos = read(&file)?;
        Some(RunDelay { file, nanos, at: None })
    }

    /// That which is read in this file.
    #[cfg(test)]
    pub(crate) fn of(file: File) -> RunDelay {
        RunDelay { file, nanos: 0, at: None }
    }

    /// Reads it. Returns when it is next to be read, in ticks, and a record if it has grown by much
    /// since the last reading.
    pub(crate) fn read(&mut self, now: u64, hertz: u64) -> (u64, Option<Record>) {
        let next = now.saturating_add((PERIOD.as_secs_f64() * hertz as f64) as u64);
        let (Some(nanos), before) = (read(&self.file), self.at.replace(now)) else {
            return (u64::MAX, None);
        };
        let grown = nanos.saturating_sub(std::mem::replace(&mut self.nanos, nanos));
        // What was counted before the first iteration belongs to none.
        let ticks = before.map(|before| u128::from(now.saturating_sub(before)));
        let is_much = u128::from(grown) >= LEAST.as_nanos();
        let record = ticks.filter(|_| is_much).map(|ticks| {
            let micros = ticks * 1_000_000 / u128::from(hertz.max(1));
            Record::delayed(grown, u32::try_from(micros).unwrap_or(u32::MAX))
        });
        (next, record)
    }
}

/// The second number: time on the CPU, time ready without one, times on the CPU.
fn read(file: &File) -> Option<u64> {
    let mut text = [0; 80];
    let len = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..len]).ok()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[test]
    fn a_delay_is_recorded_with_the_time_since_the_last_reading_and_a_short_one_is_not() {
        let file = sys::memory_file(c"schedstat").expect("memory");
        let mut delay = RunDelay::of(file);
        // Ticks of a microsecond.
        let mut read = |nanos: u64, now| {
            delay.file.write_all_at(format!("99 {nanos} 9\n").as_bytes(), 0).expect("memory");
            delay.read(now, 1_000_000)
        };
        assert_eq!(read(9_000_000, 1_000), (3_000, None), "there is no reading before it");
        assert_eq!(read(9_400_000, 4_000), (6_000, None), "half a millisecond is usual");
        let record = Record::delayed(3_000_000, 5_000);
        assert_eq!(read(12_400_000, 9_000), (11_000, Some(record)));
    }
}
