//! The header of a trace: written before the first record, with the clock's rate, and read again.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::format::{
    BYTE_ORDER, Clock, DEFER_TASKRUN, Frozen, HEADER, Level, MAGIC, MAIN, MAJOR, MARGIN, MINOR,
    Numbers, RECORD, TEXT, Writers, tables,
};
use crate::record::Record;
use crate::run_delay::{PERIOD, RunDelay};
use crate::shm_log::ShmLog;
use crate::sys;
use crate::trigger::StopTrigger;

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
    /// One connection of so many is recorded, from its begin to its end. Records of no connection
    /// are always written.
    pub sample: u32,
    /// What stops the recording.
    pub triggers: Vec<StopTrigger>,
    /// The clock; `None` takes the best of this machine. A simulator has its own nanoseconds.
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

/// What the header says of the recording program.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The I/O model's name.
    pub model: String,
    /// What the model uses of the kernel, in a few words.
    pub detail: String,
    /// The ring's descriptor, if it is one.
    pub ring_fd: Option<i32>,
    /// The `IORING_SETUP_*` flags of the ring.
    pub setup_flags: u32,
    /// The number of the loop, if there are several.
    pub lane: u32,
    /// The process, if it is not this one.
    pub pid: Option<u32>,
    /// Whether one thread does everything, and begins the recording: its delays are recorded too,
    /// where the kernel counts them.
    pub one_thread: bool,
    /// More lines, by name: no `=` in a name, no newline in either.
    pub more: Vec<(String, String)>,
}

/// A log whose header is written.
#[derive(Debug)]
pub(crate) struct NewLog {
    pub(crate) log: ShmLog,
    pub(crate) clock: Clock,
    /// How many ticks a second has.
    pub(crate) hertz: u64,
    /// The time before the first record, in ticks; 0 with a simulator's clock.
    pub(crate) begun: u64,
    /// When the file is first checked, and the clock compared; never with a simulator's clock.
    pub(crate) check_at: u64,
    /// The delays of the thread, if they are recorded.
    pub(crate) delay: Option<RunDelay>,
}

impl NewLog {
    /// Writes a header into a file, which is emptied, or into memory.
    ///
    /// # Errors
    /// The file cannot have its size, or cannot be mapped.
    pub(crate) fn create(
        file: Option<&File>,
        settings: &Settings,
        about: &About,
        writers: Writers,
    ) -> io::Result<NewLog> {
        // A record's number stands in its slot modulo 2^32.
        let records = (settings.bytes / RECORD as u64).clamp(4096, 1 << 31);
        let capacity = 1 << records.ilog2();
        let clock = settings.clock.unwrap_or_else(Clock::best);
        // Each of many writers reads the clock itself.
        let level = if writers == Writers::One { settings.level } else { Level::Record };
        let is_real = clock == Clock::Tsc || settings.clock.is_none();
        let delay = (about.one_thread && is_real).then(RunDelay::of_this_thread).flatten();
        let text = text(settings, about, delay.is_some());
        // First, for the memory may take a while: the wall clock is read at the begin.
        let mut log = ShmLog::new(file, capacity, writers)?;
        let mut numbers = Numbers {
            byte_order: BYTE_ORDER,
            major: MAJOR,
            minor: MINOR,
            record: RECORD as u32,
            header: HEADER as u32,
            capacity: capacity.into(),
            clock: clock as u32,
            level: level as u32,
            hertz: 1_000_000_000,
            wall_nanos: sys::wall_clock(),
            pid: about.pid.unwrap_or_else(std::process::id),
            ring_fd: about.ring_fd.unwrap_or(-1),
            lane: about.lane,
            sample: settings.sample.max(1),
            text_len: text.len() as u32,
            writers: writers as u32,
            setup: about.setup_flags,
            ..Numbers::default()
        };
        let pair = || sys::together(sys::cycles, sys::monotonic);
        let (mut begun, mut check_at) = (0, u64::MAX);
        if clock == Clock::Tsc {
            let (tick, nanos) = pair();
            std::thread::sleep(CALIBRATION);
            let (last_tick, last_nanos) = pair();
            let span = last_nanos.saturating_sub(nanos).max(1);
            let ticks = last_tick.wrapping_sub(tick);
            numbers.hertz = (u128::from(ticks) * 1_000_000_000 / u128::from(span)).max(1) as u64;
            (numbers.first_tick, numbers.first_nanos) = (tick, nanos);
            (numbers.last_tick, numbers.last_nanos) = (last_tick, nanos + span);
            begun = sys::cycles();
            check_at = begun + numbers.hertz;
        } else if settings.clock.is_none() {
            // The same pair twice: a tick is a nanosecond, and the trace begins now.
            let nanos = sys::monotonic();
            (numbers.first_tick, numbers.first_nanos) = (nanos, nanos);
            (numbers.last_tick, numbers.last_nanos) = (nanos, nanos);
            check_at = nanos + numbers.hertz;
        }
        numbers.write(|at, bytes| log.put(at, bytes));
        log.put(TEXT, text.as_bytes());
        // Last: a reader that sees the magic sees a complete header.
        log.put(0, &MAGIC);
        Ok(NewLog { log, clock, hertz: numbers.hertz, begun, check_at, delay })
    }
}

/// The `key=value` lines of the header, as many as fit.
fn text(settings: &Settings, about: &About, has_delays: bool) -> String {
    let About { model, detail, more, .. } = about;
    let (uname, version) = (sys::uname(), env!("CARGO_PKG_VERSION"));
    let mut text = format!("model={model}\ndetail={detail}\nuname={uname}\nversion={version}\n");
    text.push_str(&format!("host={}\n", sys::host()));
    if has_delays {
        text.push_str(&format!("delays={}\n", PERIOD.as_micros()));
    }
    for trigger in &settings.triggers {
        text.push_str(&format!("trigger={trigger}\n"));
    }
    for (name, value) in more {
        text.push_str(&format!("{name}={}\n", value.replace('\n', " ")));
    }
    text.push_str(&tables());
    text.truncate(text.floor_char_boundary(HEADER - TEXT));
    text
}

/// Whether a connection is in the sample. Fibonacci hashing: neighbours are spread.
pub(crate) fn is_sampled(conn: u64, sample: u32) -> bool {
    ((conn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32).is_multiple_of(sample.max(1))
}

/// The reason why bytes cannot be read as a trace.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// They do not begin as a trace does.
    #[error("this is not a trace: it does not begin with the bytes `proactrc`")]
    Foreign,
    /// They end within the header, after so many bytes.
    #[error("the trace ends after {0} bytes: its header alone has {HEADER}")]
    Short(usize),
    /// A machine of the other byte order wrote them.
    #[error("the trace is of a machine of the other byte order: read it on such a machine")]
    ByteOrder,
    /// They have another major version of the format: this one.
    #[error(
        "the trace is of format {0}, and this reads format {MAJOR}: read it with the version of \
         proactor that wrote it"
    )]
    Version(u16),
    /// A number in the header is impossible: its name and value.
    #[error("the trace is damaged: its header says {0} {1}")]
    Nonsense(&'static str, u64),
    /// While it was followed, another recording began in the file, or it was cut short.
    #[error(
        "the file was cut short, or another recording has begun in it: start `trace follow` again"
    )]
    Replaced,
}

/// The header of a trace: the program, the time, the machine and the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The major and minor version of the format.
    pub version: (u16, u16),
    /// The number of slots.
    pub capacity: u64,
    /// The clock; `None` if this version does not know it.
    pub clock: Option<Clock>,
    /// How often it was read.
    pub level: Option<Level>,
    /// Ticks a second, as measured at the start.
    pub hertz: u64,
    /// Two moments in ticks and in nanoseconds of the monotonic clock: the start, and the last at
    /// which the two were compared.
    pub pairs: [(u64, u64); 2],
    /// The wall clock at the start: nanoseconds since 1970.
    pub wall_nanos: u64,
    /// The number of the process.
    pub pid: u32,
    /// The ring's descriptor in that process, if it was a ring.
    pub ring_fd: Option<i32>,
    /// The `IORING_SETUP_*` flags of the ring; `None` in a recording of format 1.0.
    pub setup_flags: Option<u32>,
    /// The number of the loop, if there are several.
    pub lane: u32,
    /// Which writers the trace has.
    pub writers: Writers,
    /// One connection of so many was recorded.
    pub sample: u32,
    /// How many records were ever written.
    pub head: u64,
    /// Records not written because recording had stopped.
    pub missed: u64,
    /// Records not written because they were of connections outside of the sample.
    pub skipped: u64,
    /// The reason why recording has stopped, if it has.
    pub frozen: Option<Frozen>,
    /// Whether the recorder was closed in order.
    pub ended: bool,
    /// The `key=value` lines of the text.
    pub text: Vec<(String, String)>,
}

impl Header {
    /// From the first bytes of a trace.
    ///
    /// # Errors
    /// They are not a trace, or not one that this version reads.
    pub fn parse(bytes: &[u8]) -> Result<Header, Unreadable> {
        if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if bytes.len() < HEADER {
            return Err(Unreadable::Short(bytes.len()));
        }
        let numbers = Numbers::read(bytes);
        let nonsense = |what, number| Err(Unreadable::Nonsense(what, number));
        match numbers.byte_order {
            BYTE_ORDER => {}
            order if order.swap_bytes() == BYTE_ORDER => return Err(Unreadable::ByteOrder),
            order => return nonsense("byte order", order.into()),
        }
        if numbers.major != MAJOR {
            return Err(Unreadable::Version(numbers.major));
        }
        let sizes =
            [("record size", numbers.record, RECORD), ("header size", numbers.header, HEADER)];
        let wrong = sizes.into_iter().find(|(_, size, right)| *size as usize != *right);
        if let Some((what, size, _)) = wrong {
            return nonsense(what, size.into());
        }
        let capacity = numbers.capacity;
        if !capacity.is_power_of_two() || capacity > 1 << 40 {
            return nonsense("capacity", capacity);
        }
        let Some(writers) = Writers::from_number(numbers.writers) else {
            return nonsense("writers", numbers.writers.into());
        };
        Ok(Header {
            version: (numbers.major, numbers.minor),
            capacity,
            clock: Clock::from_number(numbers.clock),
            level: Level::from_number(numbers.level),
            hertz: numbers.hertz,
            pairs: [
                (numbers.first_tick, numbers.first_nanos),
                (numbers.last_tick, numbers.last_nanos),
            ],
            wall_nanos: numbers.wall_nanos,
            pid: numbers.pid,
            ring_fd: Some(numbers.ring_fd).filter(|fd| *fd >= 0),
            setup_flags: (numbers.minor >= 1).then_some(numbers.setup),
            lane: numbers.lane,
            writers,
            sample: numbers.sample.max(1),
            head: numbers.head,
            missed: numbers.missed,
            skipped: numbers.skipped,
            frozen: Frozen::from_number(numbers.frozen),
            ended: numbers.ended != 0,
            text: lines(bytes, numbers.text_len as usize),
        })
    }

    /// The value of this key in the text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// The I/O model's name.
    pub fn model(&self) -> &str {
        self.get("model").unwrap_or("unknown")
    }

    /// Whether the ring posts completions only within an enter (`IORING_SETUP_DEFER_TASKRUN`).
    pub fn defers(&self) -> bool {
        self.setup_flags.is_some_and(|flags| flags & DEFER_TASKRUN != 0)
    }

    /// A moment in nanoseconds since recording began.
    pub fn nanos(&self, tick: u64) -> u64 {
        let [(first, from), (last, to)] = self.pairs;
        let since = u128::from(tick.saturating_sub(first));
        let (ticks, nanos) = (last.saturating_sub(first), to.saturating_sub(from));
        let nanos = match self.clock {
            Some(Clock::Tsc) if ticks > 0 && nanos > 0 => {
                since * u128::from(nanos) / u128::from(ticks)
            }
            Some(Clock::Tsc) => since * 1_000_000_000 / u128::from(self.hertz.max(1)),
            Some(Clock::Nanos) | None => since,
        };
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The name of a lane, the same in every view: `r0` of several loops; with many writers `main`
    /// for the thread that started the recording, `t3` and `p3` for threads and processes, and `-`
    /// for none.
    pub fn lane_name(&self, lane: Option<u16>) -> String {
        match (self.writers, lane) {
            (Writers::One, _) => format!("r{}", self.lane),
            (_, None) => "-".to_owned(),
            (_, Some(MAIN)) => "main".to_owned(),
            (Writers::Threads, Some(lane)) => format!("t{lane}"),
            (Writers::Processes, Some(lane)) => format!("p{lane}"),
        }
    }

    /// The smallest number of a record that is not overwritten when `head` records have been
    /// written or, with many writers, begun. One owner may be half a [`MARGIN`] ahead of its head.
    pub(crate) fn oldest(&self, head: u64) -> u64 {
        let margin = if self.writers == Writers::One { MARGIN } else { 0 };
        head.saturating_add(margin).saturating_sub(self.capacity).min(head)
    }

    /// Whether `record`, found in the slot of `number`, is that record and complete. With one
    /// owner, all below the head are.
    pub(crate) fn is_whole(&self, number: u64, record: &Record) -> bool {
        self.writers == Writers::One || (record.kind != 0 && record.iteration == number as u32)
    }

    /// The number of a record that stands behind the one before `next`. One of many writers says
    /// its own: records of several lanes are in the order of their times.
    pub fn number(&self, next: u64, record: &Record) -> u64 {
        match self.writers {
            Writers::One => next,
            _ => next.saturating_add_signed(
                record.iteration.wrapping_sub(next as u32).cast_signed().into(),
            ),
        }
    }
}

/// The lines of the header's text; those without `=` are left out.
fn lines(bytes: &[u8], len: usize) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&bytes[TEXT..TEXT + len.min(HEADER - TEXT)]);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
