//! The flight recorder: the last so many records, in pages that survive the process.
//!
//! One owner writes, with plain stores, and publishes how far it has come with one release store a
//! batch: before it goes into the kernel, when it is back, and every 64 records between. A reader
//! takes what lies between the head and a margin behind it ([`MARGIN`]); what came before was
//! overwritten, and is counted by its number. So a record is never silently lost: it is there, or
//! overwritten (`head`), or was not written because recording had stopped (`missed`, and a LOST
//! record where it begins again), or was of a connection that was not sampled (`skipped`).

use std::fs::File;
use std::io;

use super::format::{Clock, Frozen, Level, MARGIN, Record, What, Writers, at};
use super::map::Map;
use super::preface::{About, Preface, Settings, is_sampled};
use super::trigger::Watch;
use proactor::keys::ConnId;
use proactor::os;

/// Records between two publications, at most.
const BATCH: u64 = MARGIN / 2;

/// A flight recorder.
pub struct Recorder {
    map: Map,
    /// Records ever written; those of them that are published.
    head: u64,
    published: u64,
    clock: Clock,
    /// Read for each record, not only for each batch.
    each: bool,
    /// The time of the last enter or wait, in ticks.
    now: u64,
    turn: u32,
    sample: u32,
    watch: Option<Watch>,
    frozen: bool,
    /// Whether more is to be done for a record than to write it.
    is_special: bool,
    /// Not written while it was frozen: since then, and ever.
    missing: u64,
    missed: u64,
    skipped: u64,
    /// SIGUSR2s that have been heeded.
    heeded: u32,
    /// When the clock is next compared with nanoseconds, in ticks.
    compare_at: u64,
    hertz: u64,
}

impl Recorder {
    /// Into a file, which is emptied; it keeps the last records whatever becomes of the process.
    ///
    /// # Errors
    /// There is no room for it, or it is no file that can be mapped.
    pub fn create(file: &File, settings: &Settings, about: &About) -> io::Result<Recorder> {
        Recorder::on(Some(file), settings, about)
    }

    /// Into memory: [`bytes`](Recorder::bytes) are what the file would be.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn in_memory(settings: &Settings, about: &About) -> io::Result<Recorder> {
        Recorder::on(None, settings, about)
    }

    fn on(file: Option<&File>, settings: &Settings, about: &About) -> io::Result<Recorder> {
        let Preface { map, clock, hertz, begun } =
            Preface::write(file, settings, about, Writers::One)?;
        Ok(Recorder {
            map,
            head: 0,
            published: 0,
            clock,
            each: settings.level == Level::Record,
            now: begun,
            turn: 0,
            sample: settings.sample.max(1),
            watch: Watch::new(&settings.triggers, hertz),
            frozen: false,
            // It has no time until a turn begins.
            is_special: true,
            missing: 0,
            missed: 0,
            skipped: 0,
            heeded: os::usr2(),
            compare_at: if clock == Clock::Tsc { begun + hertz } else { u64::MAX },
            hertz,
        })
    }

    /// A new turn begins: before going into the kernel, or into a wait. `nanos` is asked if that is
    /// the clock.
    #[inline]
    pub fn begin_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.turn = self.turn.wrapping_add(1);
        self.tick(nanos);
        let asked = os::usr2();
        if asked != self.heeded {
            self.toggle(asked);
        }
        self.put(record);
        self.publish();
        self.look_for_specials();
    }

    /// It is back.
    #[inline]
    pub fn end_turn(&mut self, nanos: impl FnOnce() -> u64, record: Record) {
        self.tick(nanos);
        self.put(record);
        self.publish();
        if self.now >= self.compare_at {
            self.compare();
        }
    }

    /// Something within a turn, of whoever it is; a connection's is left out if that is not one of
    /// the sample.
    #[inline]
    pub fn note(&mut self, conn: Option<ConnId>, nanos: impl FnOnce() -> u64, record: Record) {
        if self.is_special {
            self.note_specially(conn, nanos, record);
        } else {
            self.write(record);
        }
        if self.head - self.published >= BATCH {
            self.publish();
        }
    }

    fn note_specially(
        &mut self,
        conn: Option<ConnId>,
        nanos: impl FnOnce() -> u64,
        record: Record,
    ) {
        if self.sample > 1
            && let Some(conn) = conn
            && !is_sampled(conn, self.sample)
        {
            self.skipped += 1;
            return;
        }
        if self.each || self.turn == 0 {
            self.tick(nanos);
        }
        self.put(record);
    }

    /// Something that another clock reader saw, at its time, in the ticks of this trace's clock.
    pub fn write_at(&mut self, time: u64, record: Record) {
        let turn = std::mem::replace(&mut self.turn, record.turn);
        self.now = time;
        self.put(record);
        self.turn = turn;
        if self.head - self.published >= BATCH {
            self.publish();
        }
    }

    /// When the last record was written, in ticks.
    pub fn last_time(&self) -> u64 {
        self.now
    }

    /// A remark of one's own.
    pub fn mark(&mut self, nanos: impl FnOnce() -> u64, number: u64) {
        self.note(None, nanos, Record { what: What::Mark as u8, id: number, ..Record::default() });
    }

    /// All of it, as the file has it.
    pub fn bytes(&mut self) -> &[u8] {
        self.publish();
        self.map.bytes()
    }

    /// Records ever written, those that were overwritten since among them.
    pub fn written(&self) -> u64 {
        self.head
    }

    /// Whether it has stopped.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Stops. What it has is kept; what comes is counted.
    #[cold]
    pub fn freeze(&mut self, why: Frozen) {
        if self.frozen {
            return;
        }
        tracing::warn!("recording has stopped {why}; SIGUSR2 starts it again");
        self.write(Record { what: What::Freeze as u8, aux: why as u16, ..Record::default() });
        self.map.set(at::FROZEN, &(why as u32).to_ne_bytes());
        self.frozen = true;
        self.look_for_specials();
        self.publish();
    }

    /// Goes on, if it has stopped. A record says how many were missed.
    #[cold]
    pub fn thaw(&mut self) {
        if !std::mem::take(&mut self.frozen) {
            return;
        }
        tracing::warn!("recording goes on; SIGUSR2 stops it");
        let id = std::mem::take(&mut self.missing);
        self.map.set(at::FROZEN, &0u32.to_ne_bytes());
        self.look_for_specials();
        self.write(Record { what: What::Lost as u8, id, ..Record::default() });
        self.publish();
    }

    #[inline]
    fn look_for_specials(&mut self) {
        let timeless = self.turn == 0;
        let Recorder { sample, each, frozen, ref watch, .. } = *self;
        self.is_special = sample > 1 || each || frozen || timeless || watch.is_some();
    }

    #[cold]
    fn toggle(&mut self, asked: u32) {
        // Two signals at once are two changes.
        let odd = asked.wrapping_sub(self.heeded) % 2 == 1;
        self.heeded = asked;
        match (odd, self.frozen) {
            (true, false) => self.freeze(Frozen::Signal),
            (true, true) => self.thaw(),
            (false, _) => {}
        }
    }

    /// Compares the ticks with nanoseconds once more: over a longer time they are known better.
    #[cold]
    fn compare(&mut self) {
        let (tick, nanos) = (os::cycles(), os::now().0);
        self.compare_at = tick.wrapping_add(self.hertz);
        self.map.set(at::LAST_TICK, &tick.to_ne_bytes());
        self.map.set(at::LAST_NANOS, &nanos.to_ne_bytes());
    }

    #[inline]
    fn tick(&mut self, nanos: impl FnOnce() -> u64) {
        self.now = match self.clock {
            Clock::Tsc => os::cycles(),
            Clock::Nanos => nanos(),
        };
    }

    #[inline]
    fn put(&mut self, record: Record) {
        if self.frozen {
            self.missing += 1;
            self.missed += 1;
            return;
        }
        self.write(record);
        if self.watch.is_some() {
            self.watch();
        }
    }

    #[inline]
    fn write(&mut self, record: Record) {
        self.map.write(self.head, Record { time: self.now, turn: self.turn, ..record });
        self.head += 1;
    }

    /// Whether the last record is one to stop at.
    fn watch(&mut self) {
        let record = self.map.read(self.head - 1);
        if let Some(watch) = &mut self.watch
            && let Some(why) = watch.see(&record)
        {
            self.freeze(why);
        }
    }

    /// Shows readers all that was written.
    #[inline]
    pub fn publish(&mut self) {
        self.map.set(at::MISSED, &self.missed.to_ne_bytes());
        self.map.set(at::SKIPPED, &self.skipped.to_ne_bytes());
        self.map.publish(self.head);
        self.published = self.head;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.clock == Clock::Tsc {
            self.compare();
        }
        self.publish();
        self.map.set(at::ENDED, &1u32.to_ne_bytes());
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("written", &self.head)
            .field("clock", &self.clock)
            .field("frozen", &self.frozen)
            .finish_non_exhaustive()
    }
}
