//! Reading a trace, or whatever bytes claim to be one, also while it is written.
//!
//! Nothing in a file is believed that could do harm: a reader is given what is left after a crash,
//! half a copy, a file of something else. [`Trace`] reads all there is and returns an
//! [`Unreadable`] that says what is wrong, or the records that are there and, in
//! [`Trace::remarks`], what is missing. [`Reader`] is the same decoder with a position: it returns
//! what was written since it was last asked. It maps nothing and takes no lock, so it does not
//! disturb the recorder. Bytes in memory are read as a file in memory: there is one way to read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::format::{ABSENT, HEADER, RECORD, RecordKind, Writers};
use crate::header::{Header, Unreadable};
use crate::record::Record;
use crate::sys;

/// How long a record that was begun may take until it is given up as lost: its writer was killed,
/// or stopped.
const GRACE: Duration = Duration::from_secs(1);
/// Records read at a time.
const CHUNK: u64 = 16_384;

/// A trace that has been read: its header, and the records that are there, oldest first.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The header of the trace.
    pub header: Header,
    /// The records. Where some are absent stands a LOST record of this reader.
    pub records: Vec<Record>,
    /// The first record's number: as many were overwritten before it.
    pub first: u64,
    /// What is wrong with the file, a sentence each. Empty if all is well.
    pub remarks: Vec<String>,
}

impl Trace {
    /// Reads the file at a path.
    ///
    /// # Errors
    /// It cannot be read, or is not a trace.
    pub fn open(path: &Path) -> Result<Trace, Unreadable> {
        Trace::from_file(&File::open(path)?)
    }

    /// Reads an open file; of a pipe, what comes through it.
    ///
    /// # Errors
    /// It cannot be read, or is not a trace.
    pub fn from_file(file: &File) -> Result<Trace, Unreadable> {
        if file.metadata()?.is_file() {
            return Trace::read(file.try_clone()?, slots(file.metadata()?.len()));
        }
        // The header first: something else may be long, or never end.
        let mut bytes = Vec::new();
        file.take(HEADER as u64).read_to_end(&mut bytes)?;
        let header = Header::parse(&bytes)?;
        let mut whole = sys::memory_file(c"trace")?;
        whole.write_all(&bytes)?;
        // Only the slots that were ever written: a large recording may have few records.
        let used = header.head.min(header.capacity).saturating_mul(RECORD as u64);
        let copied = io::copy(&mut file.take(used), &mut whole)?;
        let slots = if copied == used { header.capacity } else { copied / RECORD as u64 };
        Trace::read(whole, slots)
    }

    /// Reads a trace from memory. Any bytes are accepted: they are a trace, a part of one, or none.
    ///
    /// # Errors
    /// They are not a trace.
    pub fn from_bytes(bytes: &[u8]) -> Result<Trace, Unreadable> {
        Header::parse(bytes)?;
        let mut file = sys::memory_file(c"trace")?;
        file.write_all(bytes)?;
        Trace::read(file, slots(bytes.len() as u64))
    }

    /// Reads a file that stands for so many slots.
    fn read(file: File, slots: u64) -> Result<Trace, Unreadable> {
        let mut reader = Reader { begins_late: true, ..Reader::new(file, false)? };
        let header = reader.header.clone();
        let mut remarks = Vec::new();
        if slots < header.capacity {
            let all = header.capacity;
            remarks.push(format!("the file is cut short: {slots} of {all} slots are there"));
        }
        while reader.next < header.head {
            reader.read_some(header.head, true)?;
        }
        let Reader { held: mut records, first, .. } = reader;
        let first = first.min(header.head);
        if header.writers != Writers::One {
            // Each lane's records are in order. Those of two lanes may be out of order by the time
            // between reading the clock and taking a number.
            records.sort_by_key(|record| record.time);
        }
        let unknown = records.iter().filter(|one| one.kind().is_none()).count();
        if unknown > 0 {
            remarks.push(format!("{unknown} records are of kinds that this version does not know"));
        }
        Ok(Trace { header, records, first, remarks })
    }

    /// How many records are missing of those that should have been written. Those that a file
    /// which is cut short lacks are not counted.
    pub fn lost(&self) -> u64 {
        let unwritten = if self.header.writers == Writers::One { 0 } else { self.absent() };
        self.first.saturating_add(self.header.missed).saturating_add(unwritten)
    }

    /// The time of the last record, since recording began.
    pub fn end(&self) -> Duration {
        let last = self.records.last().map_or(0, |record| self.header.nanos(record.time));
        Duration::from_nanos(last)
    }

    /// How many records are not in the file that should be.
    pub fn absent(&self) -> u64 {
        let absent = |one: &&Record| one.is_absence();
        self.records.iter().filter(absent).map(|one| one.id).fold(0, u64::saturating_add)
    }
}

impl Record {
    /// Whether a reader put it in place of records that are not in the file.
    pub(crate) fn is_absence(&self) -> bool {
        self.is(RecordKind::Lost) && self.aux == ABSENT
    }

    /// The number of the record behind this one, which has `number`: an absence stands for as many
    /// as it says.
    pub fn next_number(&self, number: u64) -> u64 {
        number.saturating_add(if self.is_absence() { self.id } else { 1 })
    }
}

/// A position in a trace, which may still be written.
#[derive(Debug)]
pub struct Reader {
    file: File,
    header: Header,
    /// The number of the next record to read.
    next: u64,
    /// Records that were read and not yet returned, and the number of the first of them.
    held: Vec<Record>,
    first: u64,
    /// Whether the trace begins behind what is overwritten during the read, so that it has no gap.
    /// A reader that follows reports such records as lost.
    begins_late: bool,
    lost: u64,
    /// The time of the last record read, in ticks.
    time: u64,
    /// With many writers: where the head was when, and the number below which every record has had
    /// [its time](GRACE).
    marked: (u64, u64),
    settled: u64,
    /// The slots of records that were given up, with the number and the kind found there.
    dead: HashMap<u64, (u32, u8)>,
}

impl Reader {
    /// Begins with the oldest record that there is; or, if `from_now`, with the next one written.
    ///
    /// # Errors
    /// The file cannot be read, or is not a trace.
    pub fn new(file: File, from_now: bool) -> Result<Reader, Unreadable> {
        let header = read_header(&file)?;
        let next = if from_now { header.head } else { header.oldest(header.head) };
        Ok(Reader {
            next,
            held: Vec::new(),
            first: next,
            begins_late: false,
            lost: 0,
            time: header.pairs[0].0,
            marked: (sys::monotonic(), header.head),
            settled: 0,
            dead: HashMap::new(),
            file,
            header,
        })
    }

    /// The header, as it was last read.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the next record that [`poll`](Reader::poll) returns.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many records were overwritten before they were read or, with many writers, not written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns what was written since the last call: complete iterations only, while the recorder
    /// writes.
    ///
    /// # Errors
    /// The file cannot be read, is no longer a trace, or is another one.
    pub fn poll(&mut self) -> Result<Vec<Record>, Unreadable> {
        let over = self.read_on()?;
        let whole = if self.header.writers == Writers::One {
            self.complete_iterations(over)
        } else {
            // Between two calls records are out of order by microseconds.
            self.held.sort_by_key(|record| record.time);
            self.held.len()
        };
        Ok(self.release(whole))
    }

    /// Returns what was written since the last call, of a recorder without iterations.
    ///
    /// # Errors
    /// As [`poll`](Reader::poll).
    pub fn poll_all(&mut self) -> Result<Vec<Record>, Unreadable> {
        self.read_on()?;
        Ok(self.release(self.held.len()))
    }

    /// Reads what was written into the records held. Returns whether nothing more comes.
    fn read_on(&mut self) -> Result<bool, Unreadable> {
        // Before the head is read: nothing comes behind it once the recorder has ended.
        let over = self.is_over();
        self.look()?;
        while self.next < self.header.head && self.held.len() < CHUNK as usize {
            let before = self.next;
            self.read_some(self.header.head, over)?;
            if self.next == before {
                break;
            }
        }
        Ok(over)
    }

    /// Returns the first records held.
    fn release(&mut self, count: usize) -> Vec<Record> {
        let records: Vec<Record> = self.held.drain(..count).collect();
        for record in &records {
            self.first = record.next_number(self.header.number(self.first, record));
        }
        records
    }

    /// How many of the records held belong to iterations that are complete.
    fn complete_iterations(&self, over: bool) -> usize {
        let rests = (over || self.header.frozen.is_some()) && self.next >= self.header.head;
        let begins =
            |record: &Record| record.is(RecordKind::EnterBegin) || record.is(RecordKind::WaitBegin);
        match self.held.iter().rposition(begins) {
            _ if rests => self.held.len(),
            Some(at) => at + 1,
            None if self.held.len() >= CHUNK as usize => self.held.len(),
            None => 0,
        }
    }

    /// Whether nothing more will be written: the recorder was closed, or its process has ended.
    /// There may be records that were not read yet.
    pub fn is_over(&self) -> bool {
        // A recorder has the file locked. Where there are no locks, the process says it.
        let runs = || {
            let process = || fs::exists(format!("/proc/{}", self.header.pid)).unwrap_or(true);
            sys::is_locked(self.file.as_fd()).unwrap_or_else(|_| process())
        };
        self.header.ended || !runs()
    }

    /// Whether all records have been returned.
    pub fn is_read(&self) -> bool {
        self.next >= self.header.head && self.held.is_empty()
    }

    /// Reads on: to the number `until`, to the last slot, a chunk, or to a record that is not yet
    /// complete. If recording is `over`, such a record is lost.
    fn read_some(&mut self, until: u64, over: bool) -> Result<(), Unreadable> {
        self.skip_to(self.header.oldest(self.header.head));
        if self.next >= until {
            return Ok(());
        }
        let slot = self.next & (self.header.capacity - 1);
        let last = (until - self.next).min(self.header.capacity - slot);
        let count = last.min(CHUNK) as usize;
        let mut bytes = vec![0; count * RECORD];
        let at = HEADER as u64 + slot * RECORD as u64;
        let there = read_at(&self.file, &mut bytes, at)? / RECORD;
        if self.header.writers != Writers::One && !self.header.ended {
            self.settle(&mut bytes[..there * RECORD], at)?;
        }
        // Records that were overwritten during the read are not trusted.
        self.look()?;
        let first = self.next;
        self.skip_to(self.header.oldest(self.header.head));
        let stale = ((self.next - first) as usize).min(count);
        let (records, _) = bytes[..there * RECORD].as_chunks::<RECORD>();
        for (at, slot) in records.iter().enumerate().skip(stale) {
            let (number, record) = (first + at as u64, Record::from_bytes(slot));
            if self.header.is_whole(number, &record) {
                self.time = record.time;
                self.held.push(record);
            } else if over {
                self.lose(number, 1);
            } else if number < self.settled || self.is_dead(number, &record) {
                let last = (record.iteration, record.kind);
                self.dead.insert(number & (self.header.capacity - 1), last);
                self.lose(number, 1);
            } else {
                return Ok(());
            }
            self.next = number + 1;
        }
        if there < count && self.next < first + last {
            // The file ends here: nothing stands behind, up to its last slot.
            self.lose(self.next, first + last - self.next);
            self.next = first + last;
        }
        Ok(())
    }

    /// Reads slots again that were read from `at` on, while many write. A record that was complete
    /// at the first look is so at the second, unless its slot is being written anew: where the last
    /// word has changed, the slot is taken for unfinished.
    fn settle(&self, slots: &mut [u8], at: u64) -> io::Result<()> {
        const LAST: usize = RECORD - 8;
        let mut again = vec![0; slots.len()];
        let there = read_at(&self.file, &mut again, at)?;
        let pairs = slots.chunks_exact_mut(RECORD).zip(again[..there].chunks_exact(RECORD));
        for (slot, again) in pairs {
            let same = slot[LAST..] == again[LAST..];
            slot.copy_from_slice(again);
            if !same {
                slot[LAST..].fill(0);
            }
        }
        Ok(())
    }

    /// Whether the reader has waited for this record already, a lap ago or more: the slot has not
    /// changed since, and so no writer uses it any more.
    fn is_dead(&self, number: u64, record: &Record) -> bool {
        let last = self.dead.get(&(number & (self.header.capacity - 1)));
        last == Some(&(record.iteration, record.kind))
    }

    /// Reads the header again.
    fn look(&mut self) -> Result<(), Unreadable> {
        let header = read_header(&self.file).map_err(|error| match error {
            // Emptied by the next recorder.
            Unreadable::Foreign | Unreadable::Short(_) => Unreadable::Replaced,
            error => error,
        })?;
        let identity = |header: &Header| (header.wall_nanos, header.pid, header.capacity);
        if identity(&header) != identity(&self.header) || header.head < self.next {
            return Err(Unreadable::Replaced);
        }
        self.header = header;
        let now = sys::monotonic();
        if Duration::from_nanos(now.saturating_sub(self.marked.0)) >= GRACE {
            self.settled = self.marked.1;
            self.marked = (now, self.header.head);
        }
        Ok(())
    }

    /// Gives up the records before `oldest`.
    fn skip_to(&mut self, oldest: u64) {
        if self.next >= oldest {
            return;
        }
        if self.begins_late {
            self.held.clear();
            (self.first, self.lost) = (oldest, 0);
        } else {
            self.lose(self.next, oldest - self.next);
        }
        self.next = oldest;
    }

    /// Counts `many` records from `number` on as lost, and holds a record that says so.
    fn lose(&mut self, number: u64, many: u64) {
        self.lost = self.lost.saturating_add(many);
        match self.held.last_mut() {
            // It may be the file's own, which has any number.
            Some(last) if last.is_absence() => last.id = last.id.saturating_add(many),
            _ => self.held.push(Record::absent(many, number, self.time)),
        }
    }
}

/// How many slots a file of this length has.
fn slots(len: u64) -> u64 {
    len.saturating_sub(HEADER as u64) / RECORD as u64
}

fn read_header(file: &File) -> Result<Header, Unreadable> {
    let mut bytes = [0; HEADER];
    let len = read_at(file, &mut bytes, 0)?;
    Header::parse(&bytes[..len])
}

/// Reads from this offset on, as far as the file goes.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], at + len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}
