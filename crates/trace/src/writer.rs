//! A flight recorder that many write into: the threads of a server, or its children.
//!
//! Each has a [`Writer`] of its own, which is a *lane* of the trace. To write, it reserves a number
//! by one addition to the head in the shared pages, and marks the record as written last. Nobody
//! waits for anybody, and nobody who dies in the middle of it harms the others: its record is one
//! that is lost, and its place in the file. What all of them have to know stands in the header: whether it has stopped, what
//! was missed and skipped.
//!
//! Each record reads the clock: there is no turn that many share.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{Clock, Frozen, MAIN, Record, What, Writers, at};
use super::map::Common;
use super::preface::{About, Preface, Settings, is_sampled};
use super::trigger::Watch;
use proactor::keys::ConnId;
use proactor::os;

/// One of many who write into a trace. A clone writes into the same lane.
#[derive(Debug, Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    lane: u16,
}

/// What the writers of a process share; a child has a copy. What each record needs comes first, in
/// one cache line: after a call into the kernel, it is far away.
#[derive(Debug)]
#[repr(C, align(64))]
struct Shared {
    map: Common,
    /// When the clock is next compared with nanoseconds, in ticks.
    compare_at: AtomicU64,
    /// Of one process: the children of a fork each watch for themselves.
    watch: Option<Box<Mutex<Watch>>>,
    sample: u32,
    /// SIGUSR2s that have been heeded.
    heeded: AtomicU32,
    /// How far this process has the pages [at hand](Common::fetch), in [windows](Common::window).
    at_hand: AtomicU32,
    clock: Clock,
    /// The process that began: it alone heeds signals, compares the clock, and ends the trace.
    owner: u32,
    hertz: u64,
}

const _: () = assert!(std::mem::offset_of!(Shared, owner) <= 64);

impl Writer {
    /// Into a file, which is emptied; it keeps the last records whatever becomes of who writes.
    /// This is the main lane. [`Settings::level`] is not heeded: each record reads the clock.
    ///
    /// # Errors
    /// There is no room for it, or it is no file that can be mapped.
    ///
    /// # Panics
    /// If there is to be [one](Writers::One) writer: that is a [`Recorder`](super::Recorder).
    pub fn create(
        file: &File,
        settings: &Settings,
        about: &About,
        writers: Writers,
    ) -> io::Result<Writer> {
        Writer::on(Some(file), settings, about, writers)
    }

    /// Into memory: [`bytes`](Writer::bytes) are what the file would be.
    ///
    /// # Errors
    /// There is no memory for it.
    ///
    /// # Panics
    /// As of [`create`](Writer::create).
    pub fn in_memory(settings: &Settings, about: &About, writers: Writers) -> io::Result<Writer> {
        Writer::on(None, settings, about, writers)
    }

    fn on(
        file: Option<&File>,
        settings: &Settings,
        about: &About,
        writers: Writers,
    ) -> io::Result<Writer> {
        assert_ne!(writers, Writers::One, "one owner has a recorder of its own");
        let Preface { map, clock, hertz, begun } = Preface::write(file, settings, about, writers)?;
        let compare_at = if clock == Clock::Tsc { begun + hertz } else { u64::MAX };
        let shared = Shared {
            map: Common::new(map)?,
            clock,
            hertz,
            sample: settings.sample.max(1),
            owner: std::process::id(),
            heeded: AtomicU32::new(os::usr2()),
            at_hand: AtomicU32::new(u32::MAX),
            compare_at: AtomicU64::new(compare_at),
            watch: Watch::new(&settings.triggers, hertz).map(|watch| Box::new(Mutex::new(watch))),
        };
        let writer = Writer { shared: Arc::new(shared), lane: MAIN };
        writer.introduce();
        Ok(writer)
    }

    /// A writer of another lane, to be made by the thread or in the child that will use it: a
    /// record says which that is. Lanes may be used again, one after the other. Of those beyond
    /// 65,534, all have the same.
    pub fn lane(&self, slot: u32) -> Writer {
        let lane = u16::try_from(slot).unwrap_or(MAIN).min(MAIN - 1);
        if self.shared.owner != std::process::id() {
            // A child has the mapping, and none of its pages.
            self.shared.at_hand.store(0, Ordering::Relaxed);
        }
        let writer = Writer { shared: Arc::clone(&self.shared), lane };
        writer.introduce();
        writer
    }

    /// Its lane.
    pub fn number(&self) -> u16 {
        self.lane
    }

    fn introduce(&self) {
        let (id, flags) = (u64::from(os::thread_id()), std::process::id());
        self.put(now, Record { what: What::Lane as u8, id, flags, ..Record::default() });
    }

    /// Writes a record into this lane, unless it is of a connection outside of the sample or
    /// recording has stopped. `nanos` is asked for the time if that is the clock.
    #[inline]
    pub fn write(&self, conn: Option<ConnId>, nanos: impl FnOnce() -> u64, record: Record) {
        if self.shared.sample == 1 || !self.skips(conn) {
            self.put(nanos, record);
        }
    }

    /// Whether this is of a connection outside of the sample; then it is counted.
    #[cold]
    fn skips(&self, conn: Option<ConnId>) -> bool {
        let Shared { map, sample, .. } = &*self.shared;
        let skips = conn.is_some_and(|conn| !is_sampled(conn, *sample));
        if skips {
            map.long(at::SKIPPED).fetch_add(1, Ordering::Relaxed);
        }
        skips
    }

    /// A remark of one's own.
    pub fn mark(&self, number: u64) {
        self.put(now, Record { what: What::Mark as u8, id: number, ..Record::default() });
    }

    /// Puts the record together where it is made, in registers.
    #[inline]
    fn put(&self, nanos: impl FnOnce() -> u64, record: Record) {
        let [_, id, middle, last] = Record { aux: self.lane, ..record }.words();
        self.put_words(nanos, id, middle, last);
    }

    /// Not in line: whoever records calls does so in four places, one soon after the other.
    #[inline(never)]
    fn put_words(&self, nanos: impl FnOnce() -> u64, id: u64, middle: u64, last: u64) {
        let shared = &*self.shared;
        let time = match shared.clock {
            Clock::Tsc => os::cycles(),
            Clock::Nanos => nanos(),
        };
        let asked = os::usr2();
        if asked != shared.heeded.load(Ordering::Relaxed) {
            self.toggle(asked);
        }
        if self.is_frozen() {
            shared.map.long(at::MISSED).fetch_add(1, Ordering::Relaxed);
        } else {
            let number = shared.map.reserve();
            shared.map.write(number, [time, id, middle, last]);
            // Not before: who is killed in the middle of a record costs its slot.
            if shared.map.window(number) >= shared.at_hand.load(Ordering::Relaxed) {
                self.fetch(number);
            }
            if let Some(watch) = &shared.watch {
                self.watch(watch, &Record::from_words([time, id, middle, last]));
            }
        }
        if time >= shared.compare_at.load(Ordering::Relaxed) {
            self.compare(time);
        }
    }

    /// All of it, as the file has it.
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.map.bytes()
    }

    /// Records ever begun, those that were overwritten since among them.
    pub fn written(&self) -> u64 {
        self.shared.map.long(at::HEAD).load(Ordering::Acquire)
    }

    /// Whether it has stopped, for all who write.
    #[inline]
    pub fn is_frozen(&self) -> bool {
        self.shared.map.short(at::FROZEN).load(Ordering::Relaxed) != 0
    }

    /// Stops, for all who write. What they have begun is finished; what comes is counted.
    #[cold]
    pub fn freeze(&self, why: Frozen) {
        let frozen = self.shared.map.short(at::FROZEN);
        // Whoever stops it writes the record, and nobody else does.
        let stops =
            frozen.compare_exchange(0, why as u32, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if stops {
            self.say(Record { what: What::Freeze as u8, aux: why as u16, ..Record::default() });
            tracing::warn!("recording has stopped {why}; SIGUSR2 starts it again");
        }
    }

    /// Goes on, if it has stopped. A record says how many were missed.
    #[cold]
    pub fn thaw(&self) {
        let map = &self.shared.map;
        if map.short(at::FROZEN).swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        let missed = map.long(at::MISSED).load(Ordering::Relaxed);
        let id = missed - map.long(at::TOLD).swap(missed, Ordering::Relaxed).min(missed);
        self.say(Record { what: What::Lost as u8, id, ..Record::default() });
        tracing::warn!("recording goes on; SIGUSR2 stops it");
    }

    /// Writes what is no lane's.
    fn say(&self, record: Record) {
        let time = match self.shared.clock {
            Clock::Tsc => os::cycles(),
            Clock::Nanos => now(),
        };
        let map = &self.shared.map;
        map.write(map.reserve(), Record { time, ..record }.words());
    }

    #[cold]
    fn fetch(&self, number: u64) {
        let Shared { map, at_hand, .. } = &*self.shared;
        // Where that cannot be, it is not asked for again.
        let next = if map.fetch(number) { map.window(number) + 1 } else { u32::MAX };
        at_hand.store(next, Ordering::Relaxed);
    }

    #[cold]
    fn toggle(&self, asked: u32) {
        let Shared { heeded, owner, .. } = &*self.shared;
        // Another may have heeded this one, and later ones too.
        let newer = |heeded: u32| asked.wrapping_sub(heeded).cast_signed() > 0;
        let heed = |before| newer(before).then_some(asked);
        let Ok(before) = heeded.fetch_update(Ordering::Relaxed, Ordering::Relaxed, heed) else {
            return;
        };
        // Two signals at once are two changes. In a child, they are its own and mean nothing.
        if asked.wrapping_sub(before).is_multiple_of(2) || *owner != std::process::id() {
            return;
        }
        if self.is_frozen() { self.thaw() } else { self.freeze(Frozen::Signal) }
    }

    /// Compares the ticks with nanoseconds once more: over a longer time they are known better.
    #[cold]
    fn compare(&self, time: u64) {
        let Shared { map, hertz, owner, compare_at, .. } = &*self.shared;
        let due = compare_at.load(Ordering::Relaxed);
        let next = time.wrapping_add(*hertz);
        let first = time >= due
            && compare_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first && *owner == std::process::id() {
            compare(map);
        }
    }

    #[cold]
    fn watch(&self, watch: &Mutex<Watch>, record: &Record) {
        let why = watch.lock().unwrap_or_else(PoisonError::into_inner).see(record);
        why.into_iter().for_each(|why| self.freeze(why));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // In a child it is the parent's still.
        if self.owner == std::process::id() {
            if self.clock == Clock::Tsc {
                compare(&self.map);
            }
            self.map.short(at::ENDED).store(1, Ordering::Release);
        }
    }
}

fn compare(map: &Common) {
    // Side by side: who reads one of a pair and the other of the next has all times wrong.
    let (ticks, nanos) = (os::cycles(), os::now().0);
    map.long(at::LAST_TICK).store(ticks, Ordering::Relaxed);
    map.long(at::LAST_NANOS).store(nanos, Ordering::Relaxed);
}

fn now() -> u64 {
    os::now().0
}

#[cfg(test)]
mod tests;
