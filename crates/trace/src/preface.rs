//! What a trace begins with: its header, written before the first record, and the clock's rate.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::format::{
    BYTE_ORDER, Clock, HEADER, Level, MAGIC, MAJOR, MINOR, RECORD, TEXT, Writers, at, tables,
};
use super::map::Map;
use super::trigger::Trigger;
use proactor::keys::ConnId;
use proactor::os;

/// How long ticks and nanoseconds are compared before the first record.
const CALIBRATION: Duration = Duration::from_millis(5);

/// How a recorder records.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes for records; rounded down to a power of two, and to no less than 4096 records
    /// and no more than 2³¹.
    pub bytes: u64,
    /// How often the clock is read.
    pub level: Level,
    /// One connection of so many is recorded, all of its life; what is no connection's, always.
    pub sample: u32,
    /// What to stop at.
    pub triggers: Vec<Trigger>,
    /// What ticks; `None` takes the best there is. A simulator's ring has its own nanoseconds.
    pub clock: Option<Clock>,
}

impl Default for Settings {
    /// 64 MiB, all connections, a clock per batch, no trigger.
    fn default() -> Settings {
        Settings {
            bytes: 64 << 20,
            level: Level::Batch,
            sample: 1,
            triggers: Vec::new(),
            clock: None,
        }
    }
}

/// What a trace says of who made it.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The I/O model's name.
    pub model: String,
    /// What it uses of the kernel, in a few words.
    pub detail: String,
    /// The ring's descriptor, if it is one.
    pub ring_fd: Option<i32>,
    /// Which of several loops.
    pub lane: u32,
    /// More to be said, by name: no `=` in a name, no newline in either.
    pub more: Vec<(String, String)>,
}

/// A map whose header is written.
#[derive(Debug)]
pub(super) struct Preface {
    pub(super) map: Map,
    pub(super) clock: Clock,
    /// Ticks a second.
    pub(super) hertz: u64,
    /// The time before the first record, in ticks; 0 of a simulator's clock.
    pub(super) begun: u64,
}

impl Preface {
    /// Into a file, which is emptied, or into memory.
    ///
    /// # Errors
    /// There is no room for it, or it is no file that can be mapped.
    pub(super) fn write(
        file: Option<&File>,
        settings: &Settings,
        about: &About,
        writers: Writers,
    ) -> io::Result<Preface> {
        // A record's number stands in its slot modulo 2^32.
        let records = (settings.bytes / RECORD as u64).clamp(4096, 1 << 31);
        let capacity = 1 << records.ilog2();
        let clock = settings.clock.unwrap_or_else(Clock::best);
        let map = Map::new(file, capacity, writers)?;
        let mut preface = Preface { map, clock, hertz: 1_000_000_000, begun: 0 };
        if clock == Clock::Tsc {
            preface.calibrate();
        }
        if settings.clock.is_none() && clock == Clock::Nanos {
            // The same pair twice: where the trace begins, and that a tick is a nanosecond.
            let nanos = os::now().0;
            preface.pairs([nanos; 4]);
        }
        preface.describe(settings, about, writers);
        Ok(preface)
    }

    /// Finds out how fast the counter ticks.
    fn calibrate(&mut self) {
        let (tick, nanos) = (os::cycles(), os::now().0);
        std::thread::sleep(CALIBRATION);
        let (ticks, span) = (os::cycles().wrapping_sub(tick), (os::now().0 - nanos).max(1));
        self.hertz = (u128::from(ticks) * 1_000_000_000 / u128::from(span)).max(1) as u64;
        self.begun = os::cycles();
        self.pairs([tick, nanos, tick.wrapping_add(ticks), nanos + span]);
    }

    fn pairs(&mut self, numbers: [u64; 4]) {
        let places = [at::FIRST_TICK, at::FIRST_NANOS, at::LAST_TICK, at::LAST_NANOS];
        for (at, number) in places.into_iter().zip(numbers) {
            self.map.set(at, &number.to_ne_bytes());
        }
    }

    fn describe(&mut self, settings: &Settings, about: &About, writers: Writers) {
        let mut text = format!(
            "model={}\ndetail={}\nuname={}\nversion={}\n",
            about.model,
            about.detail,
            os::uname(),
            env!("CARGO_PKG_VERSION"),
        );
        for trigger in &settings.triggers {
            text.push_str(&format!("trigger={trigger}\n"));
        }
        for (name, value) in &about.more {
            text.push_str(&format!("{name}={}\n", value.replace('\n', " ")));
        }
        text.push_str(&tables());
        while text.len() > HEADER - TEXT {
            text.pop();
        }
        // Of many writers each reads the clock for itself.
        let level = if writers == Writers::One { settings.level } else { Level::Record };
        let map = &mut self.map;
        let (capacity, pid) = (map.capacity(), std::process::id());
        map.set(at::BYTE_ORDER, &BYTE_ORDER.to_ne_bytes());
        map.set(at::MAJOR, &MAJOR.to_ne_bytes());
        map.set(at::MINOR, &MINOR.to_ne_bytes());
        map.set(at::RECORD, &(RECORD as u32).to_ne_bytes());
        map.set(at::HEADER, &(HEADER as u32).to_ne_bytes());
        map.set(at::CAPACITY, &capacity.to_ne_bytes());
        map.set(at::CLOCK, &(self.clock as u32).to_ne_bytes());
        map.set(at::LEVEL, &(level as u32).to_ne_bytes());
        map.set(at::HERTZ, &self.hertz.to_ne_bytes());
        map.set(at::WALL_NANOS, &os::wall_clock().0.to_ne_bytes());
        map.set(at::PID, &pid.to_ne_bytes());
        map.set(at::RING_FD, &about.ring_fd.unwrap_or(-1).to_ne_bytes());
        map.set(at::LANE, &about.lane.to_ne_bytes());
        map.set(at::SAMPLE, &settings.sample.max(1).to_ne_bytes());
        map.set(at::TEXT_LEN, &(text.len() as u32).to_ne_bytes());
        map.set(at::WRITERS, &(writers as u32).to_ne_bytes());
        map.set(TEXT, text.as_bytes());
        // Last: whoever sees the magic sees a whole header.
        map.set(0, &MAGIC);
    }
}

/// Whether a connection is one of the sample. Fibonacci hashing: neighbours are not alike.
pub(super) fn is_sampled(conn: ConnId, sample: u32) -> bool {
    let number = u64::from(conn.generation()) << 32 | u64::from(conn.slot());
    ((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32).is_multiple_of(sample.max(1))
}
