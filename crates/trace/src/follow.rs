//! Reading a trace while it is written: from another process, or from another thread of this one.
//!
//! The follower reads the file (pread(2)), and maps nothing: it disturbs nobody. It takes what lies
//! between its own place and the head, looks at the head again, and gives up what was overwritten
//! meanwhile; that is counted in a LOST record of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use super::event::{self, ABSENT, Decoder, Event};
use super::format::{HEADER, RECORD, Record, What, Writers};
use super::kernel;
use super::reader::{Header, Unreadable, absence, settle};
use proactor::clock::Nanos;
use proactor::os;

/// How long a record that was begun may take to be written, before it is held to be lost: its
/// writer was killed, or stopped.
const GRACE: Duration = Duration::from_secs(1);
/// Records read at a time.
const CHUNK: u64 = 16_384;

/// A place in a trace that is being written.
#[derive(Debug)]
pub struct Follow {
    file: File,
    header: Header,
    /// The number of the next record to read.
    next: u64,
    /// Read, not yet decoded: a turn that is not over.
    held: Vec<Record>,
    /// The number of the first of those.
    number: u64,
    decoder: Decoder,
    lost: u64,
    /// When the last of those was that were read, in ticks.
    time: u64,
    /// Of many writers: where the head was when, and below which number all that is not written
    /// yet has had [its time](GRACE).
    marked: (Nanos, u64),
    settled: u64,
    /// The slots of records that were given up, with the number and the kind that stand there.
    dead: HashMap<u64, (u32, u8)>,
}

impl Follow {
    /// From the oldest record that there is; or, if `from_now`, from the next one.
    ///
    /// # Errors
    /// It is no trace.
    pub fn new(file: File, from_now: bool) -> Result<Follow, Unreadable> {
        let header = read_header(&file)?;
        let next = if from_now { header.head } else { header.oldest(header.head) };
        let decoder = Decoder::new(next);
        let (held, time) = (Vec::new(), header.pairs[0].0);
        let marked = (os::now(), header.head);
        let (number, lost, settled) = (next, 0, 0);
        let dead = HashMap::new();
        Ok(Follow { file, header, next, held, number, decoder, lost, time, marked, settled, dead })
    }

    /// The header, as it was last read.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Records that were overwritten before they were read, or of many writers not written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What has happened since this was last called: whole turns only, while the recorder writes.
    ///
    /// # Errors
    /// The file cannot be read, is a trace no more, or is another one.
    pub fn poll(&mut self) -> Result<Vec<Event>, Unreadable> {
        // Asked before the head is: what is over has no more to come than that.
        let over = self.is_over();
        self.look()?;
        while self.next < self.header.head && self.held.len() < CHUNK as usize {
            if !self.read_some(over)? {
                break;
            }
        }
        let whole = if self.header.writers == Writers::One {
            self.whole_turns(over)
        } else {
            // As they come: what is out of order between two calls is by microseconds.
            self.held.sort_by_key(|record| record.time);
            self.held.len()
        };
        let mut events = Vec::with_capacity(whole);
        for at in 0..whole {
            let raw = self.held[at];
            let number = event::number(&self.header, self.number, &raw);
            events.push(self.decoder.decode(&self.header, number, &self.held[..whole], at));
            self.number = event::after(number, &raw);
        }
        self.held.drain(..whole);
        Ok(events)
    }

    /// How many of those that are held are of turns that are over.
    fn whole_turns(&self, over: bool) -> usize {
        let rests = (over || self.header.frozen.is_some()) && self.next >= self.header.head;
        let begins = [What::EnterBegin as u8, What::WaitBegin as u8];
        match self.held.iter().rposition(|record| begins.contains(&record.what)) {
            _ if rests => self.held.len(),
            Some(at) => at + 1,
            None if self.held.len() >= CHUNK as usize => self.held.len(),
            None => 0,
        }
    }

    /// Whether nothing will come any more: the recorder was closed, or its process is no more.
    /// What is there may not have been read yet.
    pub fn is_over(&self) -> bool {
        // Who records has the file locked. Where there are no locks there is a process.
        let lives = || {
            let process = || fs::exists(format!("/proc/{}", self.header.pid)).unwrap_or(true);
            os::is_locked(self.file.as_fd()).unwrap_or_else(|_| process())
        };
        self.header.ended || !lives()
    }

    /// Whether all that there is has been told.
    pub fn is_read(&self) -> bool {
        self.next >= self.header.head && self.held.is_empty()
    }

    /// Reads on, to the head, to the end of the ring, a chunk, or one that is not written yet.
    /// Answers whether it came any further.
    fn read_some(&mut self, over: bool) -> Result<bool, Unreadable> {
        self.skip_to(self.header.oldest(self.header.head));
        let slot = self.next & (self.header.capacity - 1);
        let count =
            (self.header.head - self.next).min(self.header.capacity - slot).min(CHUNK) as usize;
        let mut bytes = vec![0; count * RECORD];
        let at = HEADER as u64 + slot * RECORD as u64;
        self.file.read_exact_at(&mut bytes, at)?;
        if self.header.writers != Writers::One {
            settle(&self.file, &mut bytes, at)?;
        }
        // What was overwritten while it was read is not to be believed.
        self.look()?;
        let first = self.next;
        self.skip_to(self.header.oldest(self.header.head));
        let stale = ((self.next - first) as usize).min(count);
        let (records, _) = bytes.as_chunks::<RECORD>();
        for (at, slot) in records.iter().enumerate().skip(stale) {
            let (number, record) = (first + at as u64, Record::from_bytes(slot));
            if self.header.is_whole(number, &record) {
                self.time = record.time;
                self.held.push(record);
            } else if over {
                self.lose(number, 1);
            } else if number < self.settled || self.is_dead(number, &record) {
                self.dead.insert(number & (self.header.capacity - 1), (record.turn, record.what));
                self.lose(number, 1);
            } else {
                break;
            }
            self.next = number + 1;
        }
        Ok(self.next > first)
    }

    /// Whether this has been waited for already, a lap ago or more: nothing has come to its slot
    /// since then, and so nobody writes there any more.
    fn is_dead(&self, number: u64, record: &Record) -> bool {
        let last = self.dead.get(&(number & (self.header.capacity - 1)));
        last == Some(&(record.turn, record.what))
    }

    /// Reads the header again.
    fn look(&mut self) -> Result<(), Unreadable> {
        let header = read_header(&self.file).map_err(|error| match error {
            // Emptied, to be begun anew.
            Unreadable::Foreign | Unreadable::Short(_) => Unreadable::Replaced,
            error => error,
        })?;
        let who = |header: &Header| (header.wall_nanos, header.pid, header.capacity);
        if who(&header) != who(&self.header) || header.head < self.next {
            return Err(Unreadable::Replaced);
        }
        self.header = header;
        let now = os::now();
        if now.since(self.marked.0) >= GRACE {
            self.settled = self.marked.1;
            self.marked = (now, self.header.head);
        }
        Ok(())
    }

    /// Gives up what is older, and says how much that is.
    fn skip_to(&mut self, oldest: u64) {
        if self.next < oldest {
            self.lose(self.next, oldest - self.next);
            self.next = oldest;
        }
    }

    /// Counts so many from `number` on as lost, and says so in a record of its own.
    fn lose(&mut self, number: u64, many: u64) {
        self.lost += many;
        match self.held.last_mut() {
            Some(last) if last.what == What::Lost as u8 && last.aux == ABSENT => {
                // It may be the file's own, which says what it likes.
                last.id = last.id.saturating_add(many);
            }
            _ => self.held.extend(absence(&mut { many }, number + many, self.time)),
        }
    }
}

fn read_header(file: &File) -> Result<Header, Unreadable> {
    let mut bytes = [0; HEADER];
    let mut len = 0;
    while len < HEADER {
        match file.read_at(&mut bytes[len..], len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    Header::parse(&bytes[..len])
}

/// The trace that a process is writing: found among its open files, whatever its name, and also if
/// it has none any more.
///
/// # Errors
/// There is no such process, its files are not ours to see, or none of them is a trace.
pub fn open_process(pid: u32) -> io::Result<File> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let explain = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no process {pid}"),
            _ => format!("the files of process {pid} are not to be seen: {error}"),
        };
        io::Error::new(error.kind(), why)
    };
    for entry in fs::read_dir(&folder).map_err(explain)? {
        let path = entry?.path();
        // A pipe or a socket is not opened: only files are, and those without waiting.
        if !fs::metadata(&path).is_ok_and(|file| file.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        // What the kernel told, beside the recording, is not for who follows that.
        if read_header(&file).is_ok_and(|header| header.model() != kernel::MODEL) {
            return Ok(file);
        }
    }
    let why = format!("process {pid} records no trace: start it with `serve --trace`");
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}
