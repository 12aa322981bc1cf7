//! The recorder of many writers: the threads of a server, or its child processes.
//!
//! Each has a [`Writer`] of its own, which is a *lane* of the trace. To write, it takes a number by
//! one addition to the head in the shared pages, and marks the record as complete last. No writer
//! waits for another, and one that is killed harms no other: its record is lost, and its slot in
//! the file. [`ShmLog`] has the protocol. What all writers must know stands in the header:
//! whether recording has stopped, and how many records were missed and skipped.
//!
//! Each record reads the clock: there is no iteration that many share.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::format::{Clock, Frozen, MAIN, Writers, at};
use crate::header::{About, NewLog, Settings, is_sampled};
use crate::log::Log;
use crate::record::Record;
use crate::run_delay::RunDelay;
use crate::shm_log::ShmLog;
use crate::sys;
use crate::trigger::TriggerWatch;

/// One of many writers of a trace. A clone writes into the same lane.
#[derive(Debug, Clone)]
pub struct Writer {
    shared: Arc<SharedWriter>,
    lane: u16,
}

/// What the writers of a process share; a child has a copy. The fields that each record needs come
/// first, in one cache line: after a call into the kernel it is no longer in the cache.
#[derive(Debug)]
#[repr(C, align(64))]
struct SharedWriter {
    log: ShmLog,
    /// When what needs no look for each record is next looked at, in ticks.
    check_at: AtomicU64,
    /// Each process has its own: forked children watch their own records.
    watch: Option<Box<Mutex<TriggerWatch>>>,
    sample: u32,
    /// The requests to stop or go on that were followed.
    toggles: AtomicU32,
    /// The first [block](ShmLog::block) whose pages this process has not made
    /// [present](ShmLog::populate_block).
    populated: AtomicU32,
    clock: Clock,
    /// The process that started the recording: it alone follows signals, compares the clock, and
    /// ends the trace.
    owner: u32,
    hertz: u64,
    /// When the clock is next compared with nanoseconds, in ticks.
    compare_at: AtomicU64,
    /// How often the process was continued, as far as that is recorded.
    continued: AtomicU32,
    /// The delays of the thread, if there is only one.
    delay: Option<Mutex<RunDelay>>,
}

const _: () = assert!(std::mem::offset_of!(SharedWriter, owner) <= 64);

impl Writer {
    /// Records into a file, which is emptied; it keeps the last records whatever ends the writers.
    /// Without a file it records into memory: [`bytes`](Writer::bytes) returns what the file would
    /// be. The writer returned has the main lane. [`Settings::level`] has no effect: each record
    /// reads the clock.
    ///
    /// # Errors
    /// The disk or the memory is full, the file cannot be mapped, or another recorder has it.
    ///
    /// # Panics
    /// For [one](Writers::One) writer: that is a [`Recorder`](crate::Recorder).
    pub fn new(
        file: Option<&File>,
        settings: &Settings,
        about: &About,
        writers: Writers,
    ) -> io::Result<Writer> {
        assert_ne!(writers, Writers::One, "one owner has a recorder of its own");
        let NewLog { log, clock, hertz, check_at, delay, .. } =
            NewLog::create(file, settings, about, writers)?;
        let shared = SharedWriter {
            log,
            clock,
            hertz,
            sample: settings.sample.max(1),
            owner: std::process::id(),
            toggles: AtomicU32::new(sys::toggles()),
            continued: AtomicU32::new(sys::continued()),
            populated: AtomicU32::new(u32::MAX),
            check_at: AtomicU64::new(if delay.is_some() { 0 } else { check_at }),
            compare_at: AtomicU64::new(check_at),
            delay: delay.map(Mutex::new),
            watch: TriggerWatch::new(&settings.triggers, hertz)
                .map(|watch| Box::new(Mutex::new(watch))),
        };
        let writer = Writer { shared: Arc::new(shared), lane: MAIN };
        writer.introduce();
        Ok(writer)
    }

    /// Returns a writer of another lane. The thread or child that will use it calls this: a record
    /// says which it is. A lane may be used again by a later thread or child. All slots from 65,534
    /// on share one lane.
    pub fn lane(&self, slot: u32) -> Writer {
        let lane = u16::try_from(slot).unwrap_or(MAIN).min(MAIN - 1);
        if self.shared.owner != std::process::id() {
            // A child has the mapping, and none of its pages.
            self.shared.populated.store(0, Ordering::Relaxed);
        }
        let writer = Writer { shared: Arc::clone(&self.shared), lane };
        writer.introduce();
        writer
    }

    fn introduce(&self) {
        let record = Record::lane_begin(sys::thread_id(), std::process::id());
        self.put(sys::monotonic, record);
    }

    /// Writes a record into this lane, unless it is of a connection outside the sample or recording
    /// has stopped. `nanos` is called for the time if it is the clock.
    #[inline]
    pub fn write(&self, nanos: impl FnOnce() -> u64, record: Record) {
        if self.shared.sample == 1 || !self.skips(&record) {
            self.put(nanos, record);
        }
    }

    /// Whether the record is of a connection outside the sample; then it is counted.
    #[cold]
    fn skips(&self, record: &Record) -> bool {
        let SharedWriter { log, sample, .. } = &*self.shared;
        let skips = record.sampled_conn().is_some_and(|conn| !is_sampled(conn, *sample));
        if skips {
            log.long(at::SKIPPED).fetch_add(1, Ordering::Relaxed);
        }
        skips
    }

    /// Records a mark; `number` is the caller's choice.
    pub fn mark(&self, number: u64) {
        self.put(sys::monotonic, Record::mark(number));
    }

    /// Puts the words of the record together in the caller, in registers.
    #[inline]
    fn put(&self, nanos: impl FnOnce() -> u64, record: Record) {
        let [_, id, middle, last] = Record { aux: self.lane, ..record }.words();
        self.put_words(nanos, id, middle, last);
    }

    /// Not inlined: the calls of a thread are recorded in four places, close to each other.
    #[inline(never)]
    fn put_words(&self, nanos: impl FnOnce() -> u64, id: u64, middle: u64, last: u64) {
        let shared = &*self.shared;
        let time = shared.clock.now(nanos);
        let toggles = sys::toggles();
        if toggles != shared.toggles.load(Ordering::Relaxed) {
            self.toggle(toggles, time);
        }
        if self.is_frozen() {
            shared.log.long(at::MISSED).fetch_add(1, Ordering::Relaxed);
            if shared.log.is_lost() {
                shared.log.report_loss();
            }
        } else {
            let number = shared.log.reserve();
            shared.log.write(number, [time, id, middle, last]);
            // Not before: a writer that is killed within a record costs its slot.
            if shared.log.block(number) >= shared.populated.load(Ordering::Relaxed) {
                shared.populated.store(shared.log.populate_block(number), Ordering::Relaxed);
            }
            if let Some(watch) = &shared.watch {
                self.watch(watch, &Record::from_words([time, id, middle, last]));
            }
        }
        if time >= shared.check_at.load(Ordering::Relaxed) {
            self.check(time);
        }
    }

    /// Returns the contents of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.log.bytes()
    }

    /// Whether recording has stopped, for all writers.
    #[inline]
    pub fn is_frozen(&self) -> bool {
        self.shared.log.is_frozen()
    }

    /// Stops recording, for all writers. Records that are begun are finished; further ones are
    /// counted.
    #[cold]
    pub fn freeze(&self, why: Frozen) {
        // Only the writer that stops it writes the record.
        if self.shared.log.freeze(why) {
            self.put_outside(Record::frozen(why));
        }
    }

    /// Goes on, if recording has stopped. A LOST record says how many were missed.
    #[cold]
    pub fn thaw(&self) {
        if let Some(missed) = self.shared.log.thaw() {
            self.put_outside(Record::lost(missed));
        }
    }

    /// Writes a record that belongs to no lane.
    fn put_outside(&self, record: Record) {
        let time = self.shared.clock.now(sys::monotonic);
        let log = &self.shared.log;
        log.write(log.reserve(), Record { time, ..record }.words());
    }

    #[cold]
    fn toggle(&self, asked: u32, time: u64) {
        let SharedWriter { log, toggles, continued, owner, .. } = &*self.shared;
        // Another thread may have followed this request already, and later ones too.
        let follow = |old: u32| (asked.wrapping_sub(old).cast_signed() > 0).then_some(asked);
        let Ok(before) = toggles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, follow) else {
            return;
        };
        let now = sys::continued();
        let times = now.wrapping_sub(continued.swap(now, Ordering::Relaxed));
        if times > 0 && !self.is_frozen() {
            // At the time of the record that follows: the stop lies before both.
            let record = Record { time, aux: self.lane, ..Record::continued(times.into()) };
            log.write(log.reserve(), record.words());
        }
        // Two requests at once cancel each other. In a child they have no effect.
        if asked.wrapping_sub(before).is_multiple_of(2) || *owner != std::process::id() {
            return;
        }
        if self.is_frozen() { self.thaw() } else { self.freeze(Frozen::Signal) }
    }

    /// Reads the delay, and compares the ticks with nanoseconds once more: a longer time gives a
    /// better rate.
    #[cold]
    fn check(&self, time: u64) {
        let SharedWriter { log, clock, hertz, owner, check_at, compare_at, delay, .. } =
            &*self.shared;
        let next = time.wrapping_add(*hertz);
        // Only the first of several writers for which it is due.
        let is_due = |at: &AtomicU64| {
            time >= at.load(Ordering::Relaxed) && time >= at.fetch_max(next, Ordering::Relaxed)
        };
        if is_due(compare_at) {
            log.check_file();
            if *owner == std::process::id() && *clock == Clock::Tsc {
                log.compare_clock();
            }
        }
        let delay = delay
            .as_ref()
            .map(|delay| delay.lock().unwrap_or_else(PoisonError::into_inner).read(time, *hertz));
        let (due, record) = delay.unwrap_or((next, None));
        check_at.store(due.min(next), Ordering::Relaxed);
        record.into_iter().for_each(|record| self.put(sys::monotonic, record));
    }

    #[cold]
    fn watch(&self, watch: &Mutex<TriggerWatch>, record: &Record) {
        let why = watch.lock().unwrap_or_else(PoisonError::into_inner).see(record);
        why.into_iter().for_each(|why| self.freeze(why));
    }
}

/// The records get the writer's lane, so they must be of a [kind](Record::lane) that has one: those
/// of a ring have none.
impl Log for Writer {
    #[inline]
    fn note(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.write(nanos, record);
    }
}

impl Drop for SharedWriter {
    fn drop(&mut self) {
        // A child leaves the end to its parent.
        if self.owner == std::process::id() {
            self.log.end(self.clock);
        }
    }
}

#[cfg(test)]
mod tests;
