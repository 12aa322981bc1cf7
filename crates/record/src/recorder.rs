//! The recorder of one owner: the last records, in pages that survive the process.
//!
//! The owner writes with plain stores and publishes its head with one release store a batch: before
//! it enters the kernel, when it is back, and every 64 records between. A reader trusts what lies
//! between the head and a margin behind it ([`MARGIN`]); what came before was overwritten, and is
//! counted by its number. So no record is lost silently: it is there, or overwritten (`head`), or
//! was not written because recording had stopped (`missed`, and a LOST record where it goes on), or
//! was of a connection outside the sample (`skipped`).

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;

use crate::format::{Clock, Frozen, Level, MARGIN, Writers, at};
use crate::header::{About, NewLog, Settings, is_sampled};
use crate::log::Log;
use crate::record::Record;
use crate::run_delay::RunDelay;
use crate::shm_log::ShmLog;
use crate::sys;
use crate::trigger::TriggerWatch;

/// The most records between two publications.
const BATCH: u64 = MARGIN / 2;

/// A flight recorder with one owner.
#[derive(Debug)]
pub struct Recorder {
    log: ShmLog,
    /// Records ever written; those of them that are published.
    head: u64,
    published: u64,
    clock: Clock,
    /// Whether the clock is read for each record, not only for each batch.
    each: bool,
    /// The time of the last enter or wait, in ticks.
    now: u64,
    iteration: u32,
    sample: u32,
    watch: Option<TriggerWatch>,
    frozen: bool,
    /// Whether a record needs more than to be written.
    is_special: bool,
    /// Records not written because recording had stopped, and because of the sample.
    missed: u64,
    skipped: u64,
    /// The requests to stop or go on that were followed, and how often the process was continued.
    toggles: u32,
    continued: u32,
    /// When the file and the delay are next checked, and when the clock is compared with
    /// nanoseconds, in ticks.
    check_at: u64,
    compare_at: u64,
    hertz: u64,
    delay: Option<RunDelay>,
}

impl Recorder {
    /// Records into a file, which is emptied; it keeps the last records whatever ends the process.
    /// Without a file it records into memory: [`bytes`](Recorder::bytes) returns what the file
    /// would be.
    ///
    /// # Errors
    /// The disk or the memory is full, the file cannot be mapped, or another recorder has it.
    pub fn new(file: Option<&File>, settings: &Settings, about: &About) -> io::Result<Recorder> {
        let NewLog { log, clock, hertz, begun, check_at, delay } =
            NewLog::create(file, settings, about, Writers::One)?;
        Ok(Recorder {
            log,
            head: 0,
            published: 0,
            clock,
            each: settings.level == Level::Record,
            now: begun,
            iteration: 0,
            sample: settings.sample.max(1),
            watch: TriggerWatch::new(&settings.triggers, hertz),
            frozen: false,
            // There is no time until an iteration begins.
            is_special: true,
            missed: 0,
            skipped: 0,
            toggles: sys::toggles(),
            continued: sys::continued(),
            check_at: if delay.is_some() { 0 } else { check_at },
            compare_at: check_at,
            hertz,
            delay,
        })
    }

    fn note_specially(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        if self.sample > 1
            && let Some(conn) = record.sampled_conn()
            && !is_sampled(conn, self.sample)
        {
            self.skipped += 1;
            return;
        }
        if self.each || self.iteration == 0 {
            self.now = self.clock.now(nanos);
        }
        self.put(record);
    }

    /// Records what was seen elsewhere, at its own time in ticks of this trace's clock.
    pub fn write_at(&mut self, time: u64, record: Record) {
        let iteration = std::mem::replace(&mut self.iteration, record.iteration);
        self.now = time;
        self.put(record);
        self.iteration = iteration;
        if self.head - self.published >= BATCH {
            self.publish();
        }
    }

    /// The time of the last record, in ticks.
    pub fn last_time(&self) -> u64 {
        self.now
    }

    /// Returns the contents of the file.
    pub fn bytes(&mut self) -> &[u8] {
        self.publish();
        self.log.owned_bytes()
    }

    /// The number of records ever written, with those that were overwritten.
    pub fn written(&self) -> u64 {
        self.head
    }

    /// Stops recording. The records written so far are kept; further ones are counted.
    #[cold]
    pub fn freeze(&mut self, why: Frozen) {
        if !self.frozen {
            self.write(Record::frozen(why));
            self.publish();
            self.frozen = self.log.freeze(why);
            self.is_special = true;
        }
    }

    /// Goes on, if recording has stopped. A LOST record says how many were missed.
    #[cold]
    pub fn thaw(&mut self) {
        self.publish();
        if let Some(missed) = self.log.thaw() {
            self.frozen = false;
            self.write(Record::lost(missed));
            self.publish();
        }
    }

    #[cold]
    fn toggle(&mut self, toggles: u32) {
        let requests = toggles.wrapping_sub(std::mem::replace(&mut self.toggles, toggles));
        let continued = sys::continued();
        let times = continued.wrapping_sub(std::mem::replace(&mut self.continued, continued));
        if times > 0 {
            self.put(Record::continued(times.into()));
        }
        match self.frozen {
            _ if requests.is_multiple_of(2) => {} // Two requests at once cancel each other.
            true => self.thaw(),
            false => self.freeze(Frozen::Signal),
        }
    }

    #[inline]
    fn put(&mut self, record: Record) {
        if self.frozen {
            self.missed += 1;
            return;
        }
        self.write(record);
        let Recorder { now: time, iteration, ref mut watch, .. } = *self;
        if let Some(watch) = watch
            && let Some(why) = watch.see(&Record { time, iteration, ..record })
        {
            self.freeze(why);
        }
    }

    #[inline]
    fn write(&mut self, record: Record) {
        self.log
            .write_owned(self.head, Record { time: self.now, iteration: self.iteration, ..record });
        self.head += 1;
    }

    /// Publishes all that was written.
    #[inline]
    pub fn publish(&mut self) {
        self.log.long(at::MISSED).store(self.missed, Ordering::Relaxed);
        self.log.long(at::SKIPPED).store(self.skipped, Ordering::Relaxed);
        self.log.publish(self.head);
        self.published = self.head;
        if self.log.is_frozen() != self.frozen {
            self.lose_file();
        }
    }

    /// Looks at what needs no look in each iteration.
    #[cold]
    fn check(&mut self) {
        if self.now >= self.compare_at {
            self.compare_at = self.now.wrapping_add(self.hertz);
            if self.clock == Clock::Tsc {
                self.log.compare_clock();
            }
            self.log.check_file();
        }
        self.check_at = self.compare_at;
        if let Some(delay) = &mut self.delay {
            let (next, record) = delay.read(self.now, self.hertz);
            self.check_at = next.min(self.compare_at);
            record.into_iter().for_each(|record| self.put(record));
        }
    }

    /// Stops recording: the log was stopped by the [loss](crate::lost_file) of its file.
    #[cold]
    fn lose_file(&mut self) {
        (self.frozen, self.is_special) = (true, true);
        self.log.report_loss();
    }
}

impl Log for Recorder {
    #[inline]
    fn begin_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.iteration = self.iteration.wrapping_add(1);
        self.now = self.clock.now(nanos);
        let toggles = sys::toggles();
        if toggles != self.toggles {
            self.toggle(toggles);
        }
        self.put(record);
        self.publish();
        let Recorder { sample, each, frozen, ref watch, .. } = *self;
        self.is_special = sample > 1 || each || frozen || watch.is_some();
    }

    #[inline]
    fn end_iteration(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.now = self.clock.now(nanos);
        self.put(record);
        self.publish();
        if self.now >= self.check_at {
            self.check();
        }
    }

    #[inline]
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        if self.is_special {
            self.note_specially(nanos, record);
        } else {
            self.write(record);
        }
        if self.head - self.published >= BATCH {
            self.publish();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.publish();
        self.log.end(self.clock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::format::{RecordKind, WaitMode};
    use crate::reader::Trace;
    use crate::record::Content;

    const MILLI: u64 = 1_000_000;

    /// A loop whose delay is in this file: it is read after iterations that end at these
    /// milliseconds, in each of which the delay grows by three milliseconds. Returns what was
    /// recorded of it.
    fn delays(file: File, ends: &[u64]) -> Vec<(u64, Content)> {
        let settings = Settings { clock: Some(Clock::Nanos), bytes: 0, ..Settings::default() };
        let mut log = Recorder::new(None, &settings, &About::default()).expect("memory");
        let kernel = file.try_clone().expect("a descriptor");
        (log.delay, log.check_at) = (Some(RunDelay::of(file)), 0);
        for (nth, end) in (1..).zip(ends) {
            let text = format!("9 {} 9\n", nth * 3 * MILLI);
            kernel.write_all_at(text.as_bytes(), 0).expect("space");
            log.begin_iteration(|| end * MILLI, Record::enter_begin(0, 0, WaitMode::Endless));
            log.end_iteration(|| end * MILLI, Record::enter_end(0, 0, 0, false));
        }
        let trace = Trace::from_bytes(log.bytes()).expect("a trace");
        assert_eq!(
            trace.records.iter().filter(|one| one.is(RecordKind::EnterEnd)).count(),
            ends.len()
        );
        let all = trace.records.iter().map(|one| (one.time / MILLI, one.payload()));
        all.filter(|(_, what)| matches!(what, Content::Delayed { .. })).collect()
    }

    #[test]
    fn a_delay_is_read_after_an_iteration_at_most_each_period() {
        let file = sys::memory_file(c"schedstat").expect("memory");
        let delayed =
            |nanos: u64, window| Content::Delayed { nanos: nanos * MILLI, window: window * MILLI };
        // The second is too early; the third has the delays of two.
        let recorded = delays(file, &[1, 2, 4, 9]);
        assert_eq!(recorded, [(4, delayed(6, 3)), (9, delayed(3, 5))]);
    }

    #[test]
    fn a_delay_that_can_no_longer_be_read_is_not_recorded_and_all_else_is() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let unreadable = File::options().write(true).open(file.path()).expect("a file");
        assert_eq!(delays(unreadable, &[1, 4, 9]), []);
    }
}
