//! Reading a trace, or whatever the bytes are that claim to be one.
//!
//! Nothing in a file is believed that could do harm: a reader is given what is left after a crash,
//! a half copy, a file of something else. It answers an [`Unreadable`] that says what is wrong, or
//! the records that are there and, in [`Trace::remarks`], what is missing.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::event::{ABSENT, Events};
use super::format::{
    BYTE_ORDER, Clock, Frozen, HEADER, Level, MAGIC, MAIN, MAJOR, MARGIN, RECORD, Record, TEXT,
    What, Writers, at, part,
};

/// Why bytes cannot be read as a trace.
#[derive(Debug)]
pub enum Unreadable {
    /// The file cannot be read.
    Io(io::Error),
    /// It does not begin as a trace does.
    Foreign,
    /// It ends within the header, after so many bytes.
    Short(usize),
    /// It was written by a machine of the other byte order.
    ByteOrder,
    /// Of another major version: which.
    Version(u16),
    /// A number in the header cannot be: which, and what it is.
    Nonsense(&'static str, u64),
    /// While it was followed, somebody else began to record into it.
    Replaced,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Io(error) => error.fmt(f),
            Unreadable::Foreign => {
                f.write_str("this is no trace: it does not begin with the bytes `proactrc`")
            }
            Unreadable::Short(len) => {
                write!(f, "the trace ends after {len} bytes: its header alone has {HEADER}")
            }
            Unreadable::ByteOrder => f.write_str(
                "the trace is of a machine of the other byte order: read it on one of its kind",
            ),
            Unreadable::Version(major) => write!(
                f,
                "the trace is of format {major}, and this reads format {MAJOR}: read it with the \
                 version of proactor that wrote it"
            ),
            Unreadable::Nonsense(what, value) => {
                write!(f, "the trace is damaged: its header says {what} {value}")
            }
            Unreadable::Replaced => {
                f.write_str("another recording has begun in this file: follow that one anew")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Unreadable {
        Unreadable::Io(error)
    }
}

/// Who recorded, when, where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The format's version.
    pub version: (u16, u16),
    /// How many records it can hold.
    pub capacity: u64,
    /// What ticks; `None` if this reader does not know it.
    pub clock: Option<Clock>,
    /// How often it was read.
    pub level: Option<Level>,
    /// Ticks a second, as measured at the start.
    pub hertz: u64,
    /// Two moments in ticks and in nanoseconds of the monotonic clock: the begin, and the last at
    /// which the two were compared.
    pub pairs: [(u64, u64); 2],
    /// The wall clock at the begin: nanoseconds since 1970.
    pub wall_nanos: u64,
    /// Who.
    pub pid: u32,
    /// The ring's descriptor in that process, if it was a ring.
    pub ring_fd: Option<i32>,
    /// Which of several loops.
    pub lane: u32,
    /// Who wrote into it.
    pub writers: Writers,
    /// One connection of so many was recorded.
    pub sample: u32,
    /// Records ever written.
    pub head: u64,
    /// Records not written because recording had stopped.
    pub missed: u64,
    /// Records not written because they were of connections outside of the sample.
    pub skipped: u64,
    /// Why recording has stopped, if it has.
    pub frozen: Option<Frozen>,
    /// Whether the recorder was closed in peace.
    pub ended: bool,
    /// The `key=value` lines.
    pub text: Vec<(String, String)>,
}

impl Header {
    /// From the first bytes of a trace.
    ///
    /// # Errors
    /// They are none; or they are, and cannot be read by this.
    pub fn parse(bytes: &[u8]) -> Result<Header, Unreadable> {
        if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        if bytes.len() < HEADER {
            return Err(Unreadable::Short(bytes.len()));
        }
        let u16_at = |at| u16::from_ne_bytes(part(bytes, at));
        let u32_at = |at| u32::from_ne_bytes(part(bytes, at));
        let u64_at = |at| u64::from_ne_bytes(part(bytes, at));
        match u32_at(at::BYTE_ORDER) {
            BYTE_ORDER => {}
            order if order.swap_bytes() == BYTE_ORDER => return Err(Unreadable::ByteOrder),
            order => return Err(Unreadable::Nonsense("byte order", u64::from(order))),
        }
        if u16_at(at::MAJOR) != MAJOR {
            return Err(Unreadable::Version(u16_at(at::MAJOR)));
        }
        for (what, at, right) in
            [("record size", at::RECORD, RECORD), ("header size", at::HEADER, HEADER)]
        {
            if u32_at(at) as usize != right {
                return Err(Unreadable::Nonsense(what, u64::from(u32_at(at))));
            }
        }
        let capacity = u64_at(at::CAPACITY);
        if !capacity.is_power_of_two() || capacity > 1 << 40 {
            return Err(Unreadable::Nonsense("capacity", capacity));
        }
        let fd = u32_at(at::RING_FD) as i32;
        let small = |at| u8::try_from(u32_at(at)).ok();
        let Some(writers) = small(at::WRITERS).and_then(Writers::from_number) else {
            return Err(Unreadable::Nonsense("writers", u64::from(u32_at(at::WRITERS))));
        };
        Ok(Header {
            version: (u16_at(at::MAJOR), u16_at(at::MINOR)),
            capacity,
            clock: small(at::CLOCK).and_then(Clock::from_number),
            level: small(at::LEVEL).and_then(Level::from_number),
            hertz: u64_at(at::HERTZ),
            pairs: [
                (u64_at(at::FIRST_TICK), u64_at(at::FIRST_NANOS)),
                (u64_at(at::LAST_TICK), u64_at(at::LAST_NANOS)),
            ],
            wall_nanos: u64_at(at::WALL_NANOS),
            pid: u32_at(at::PID),
            ring_fd: (fd >= 0).then_some(fd),
            lane: u32_at(at::LANE),
            writers,
            sample: u32_at(at::SAMPLE).max(1),
            head: u64_at(at::HEAD),
            missed: u64_at(at::MISSED),
            skipped: u64_at(at::SKIPPED),
            frozen: small(at::FROZEN).and_then(Frozen::from_number),
            ended: u32_at(at::ENDED) != 0,
            text: text(bytes, u32_at(at::TEXT_LEN) as usize),
        })
    }

    /// What the text says of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.text.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// The I/O model's name.
    pub fn model(&self) -> &str {
        self.get("model").unwrap_or("unknown")
    }

    /// A moment in nanoseconds since the trace began.
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

    /// What a lane is called in every view: `r0` of several loops, `main` who began a trace of many
    /// writers, and `t3` and `p3` their threads and processes. Nobody's is `-`.
    pub fn lane_name(&self, lane: Option<u16>) -> String {
        match (self.writers, lane) {
            (Writers::One, _) => format!("r{}", self.lane),
            (_, None) => "-".to_owned(),
            (_, Some(MAIN)) => "main".to_owned(),
            (Writers::Threads, Some(lane)) => format!("t{lane}"),
            (Writers::Processes, Some(lane)) => format!("p{lane}"),
        }
    }

    /// The least number of a record that is not overwritten when `head` have been written, or begun
    /// where there are many writers. One owner may be half a margin ahead of its head, also when
    /// that has not yet gone round.
    pub(super) fn oldest(&self, head: u64) -> u64 {
        let margin = if self.writers == Writers::One { MARGIN } else { 0 };
        head.saturating_add(margin).saturating_sub(self.capacity).min(head)
    }

    /// Whether that is record `number`, written to its end. With one owner, all below the head are.
    pub(super) fn is_whole(&self, number: u64, record: &Record) -> bool {
        self.writers == Writers::One || (record.what != 0 && record.turn == number as u32)
    }
}

/// The lines of the header's text, those without `=` left out.
fn text(bytes: &[u8], len: usize) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&bytes[TEXT..TEXT + len.min(HEADER - TEXT)]);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A trace that has been read: its header, and the records that are there, oldest first.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Who recorded, and how.
    pub header: Header,
    /// What was recorded. Where some are absent in between stands a LOST record of this reader's.
    pub records: Vec<Record>,
    /// The first record's number: as many were overwritten before it.
    pub first: u64,
    /// What is wrong with the file, a sentence each. Nothing, if all is well.
    pub remarks: Vec<String>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no trace.
    pub fn open(path: &Path) -> Result<Trace, Unreadable> {
        Trace::from_file(&File::open(path)?)
    }

    /// Reads an open file, from where it stands.
    ///
    /// # Errors
    /// It cannot be read, or is no trace.
    pub fn from_file(mut file: &File) -> Result<Trace, Unreadable> {
        // The header first: a foreign file may be long, or never end.
        let mut bytes = vec![0; HEADER];
        let mut len = 0;
        while len < HEADER {
            match file.read(&mut bytes[len..])? {
                0 => break,
                n => len += n,
            }
        }
        bytes.truncate(len);
        let header = Header::parse(&bytes)?;
        file.take(header.capacity * RECORD as u64).read_to_end(&mut bytes)?;
        if header.writers != Writers::One && !header.ended {
            settle(file, &mut bytes[HEADER..], HEADER as u64)?;
        }
        // What was overwritten while it was read, by a recorder that lives, is not to be believed.
        let mut now = [0; HEADER];
        let stale = match file.read_exact_at(&mut now, 0).map(|()| Header::parse(&now)) {
            Ok(Ok(now)) => now.oldest(now.head),
            _ => 0,
        };
        Trace::since(&bytes, stale)
    }

    /// Reads a trace from memory. Any bytes will do: they are a trace, in part a trace, or none.
    ///
    /// # Errors
    /// They are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Trace, Unreadable> {
        Trace::since(bytes, 0)
    }

    /// The records from this number on, or from the oldest that is there.
    fn since(bytes: &[u8], number: u64) -> Result<Trace, Unreadable> {
        let header = Header::parse(bytes)?;
        let (slots, torn) = bytes[HEADER..].as_chunks::<RECORD>();
        let mut remarks = Vec::new();
        if (slots.len() as u64) < header.capacity || !torn.is_empty() {
            remarks.push(format!(
                "the file is cut short: {} of {} slots are there",
                slots.len(),
                header.capacity
            ));
        }
        let first = header.oldest(header.head).max(number).min(header.head);
        let mut records = collect(slots, &header, first);
        if header.writers != Writers::One {
            // Each lane's are in order; those of two may be out of it by what lies between reading
            // the clock and reserving a number.
            records.sort_by_key(|record| record.time);
        }
        let strange = records.iter().filter(|one| What::from_number(one.what).is_none()).count();
        if strange > 0 {
            remarks.push(format!("{strange} records are of no kind that this reader knows"));
        }
        Ok(Trace { header, records, first, remarks })
    }

    /// How many records are not here, of those that there would have been. Those that a file which
    /// is cut short lacks are not among them.
    pub fn lost(&self) -> u64 {
        let unwritten = match self.header.writers {
            Writers::One => 0,
            _ => self.absent(),
        };
        self.first.saturating_add(self.header.missed).saturating_add(unwritten)
    }

    /// How many are not in the file that should be.
    pub(super) fn absent(&self) -> u64 {
        let absent = |one: &&Record| one.what == What::Lost as u8 && one.aux == ABSENT;
        self.records.iter().filter(absent).map(|one| one.id).fold(0, u64::saturating_add)
    }

    /// What happened, in the order in which it was recorded.
    pub fn events(&self) -> Events<'_> {
        Events::new(&self.header, &self.records, self.first)
    }
}

/// The records from number `first` to the head, with a LOST record in place of those whose slots
/// are not there, or are not written.
fn collect(slots: &[[u8; RECORD]], header: &Header, first: u64) -> Vec<Record> {
    let (mask, head) = (header.capacity - 1, header.head);
    let mut records = Vec::with_capacity(slots.len().min((head - first) as usize));
    let (mut number, mut absent) = (first, 0);
    let mut time = header.pairs[0].0;
    while number < head {
        let slot = slots.get((number & mask) as usize);
        match slot.map(Record::from_bytes).filter(|record| header.is_whole(number, record)) {
            Some(record) => {
                records.extend(absence(&mut absent, number, time));
                time = record.time;
                records.push(record);
                number += 1;
            }
            None if slot.is_some() => {
                absent += 1;
                number += 1;
            }
            None => {
                // Nor are those behind it, to the end of the file.
                let next = (number | mask).saturating_add(1).min(head);
                absent += next - number;
                number = next;
            }
        }
    }
    records.extend(absence(&mut absent, number, time));
    records
}

/// A LOST record for so many before `number`, if there are any.
pub(super) fn absence(absent: &mut u64, number: u64, time: u64) -> Option<Record> {
    let id = std::mem::take(absent);
    // Where each says its number, so does this one: that of the first that is lost.
    let (what, turn) = (What::Lost as u8, number.wrapping_sub(id) as u32);
    (id > 0).then(|| Record { what, id, time, turn, aux: ABSENT, ..Record::default() })
}

/// Reads the slots again that were read from `at` on, while many write there. A record that was
/// whole at the first look is whole at the second, unless its slot is written anew: one whose last
/// word has changed meanwhile is taken for unfinished.
pub(super) fn settle(file: &File, slots: &mut [u8], at: u64) -> io::Result<()> {
    /// Bytes at a time.
    const PART: usize = 1 << 20;
    let mut again = vec![0; PART.min(slots.len())];
    for (n, part) in slots.chunks_mut(PART).enumerate() {
        let again = &mut again[..part.len()];
        if let Err(error) = file.read_exact_at(again, at + (n * PART) as u64) {
            // A pipe is read once: nobody writes into what has come through it.
            let cannot = [io::ErrorKind::NotSeekable, io::ErrorKind::UnexpectedEof];
            return if cannot.contains(&error.kind()) { Ok(()) } else { Err(error) };
        }
        for (slot, again) in part.chunks_exact_mut(RECORD).zip(again.chunks_exact(RECORD)) {
            const LAST: usize = RECORD - 8;
            let same = slot[LAST..] == again[LAST..];
            slot.copy_from_slice(again);
            if !same {
                slot[LAST..].fill(0);
            }
        }
    }
    Ok(())
}
