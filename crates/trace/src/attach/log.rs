//! Recordings of the rings of other programs: a file for each, for the views of a recording.
//!
//! A submission and a completion of the kernel's events become records as a loop would write them,
//! but the time of a completion is that of its posting, and a connection is a descriptor and how
//! often it was opened before. There are no enters.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::rings::{MatchedCompletion, SeenCompletion};
use crate::kernel::KernelEvent;
use crate::show::ATTACHED;
use proactor_record::format::{MESSAGE, NO_FILE, UNSEEN, WATCHED};
use proactor_record::{About, Clock, OpKind, Record, Recorder, Settings};

/// The bytes of a recording of one ring. Later records overwrite the first.
const BYTES: u64 = 64 << 20;
/// With more rings than this, the rings that come later are not recorded.
const MAX_RINGS: usize = 64;

/// The recordings of the rings of a process.
#[derive(Debug)]
pub(super) struct RingLogs {
    path: PathBuf,
    logs: Vec<RingLog>,
    /// Why a ring is not recorded.
    failure: Option<io::Error>,
    lost: u64,
}

/// The recording of one ring.
#[derive(Debug)]
struct RingLog {
    recorder: Recorder,
    /// It has the file locked while it is written.
    _file: File,
    /// The submission whose descriptor the next event may say.
    held: Option<Submission>,
    /// How often each descriptor was opened before, as far as the ring's operations say.
    openings: HashMap<u32, u32>,
}

/// A submission: when, of which operation, and the number of its request.
#[derive(Debug, Clone, Copy)]
struct Submission {
    at: u64,
    opcode: u8,
    number: u16,
}

impl RingLogs {
    /// Opens the file of the first ring, so that a failure is known at once. It is not changed
    /// before that ring is seen.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub(super) fn new(path: &Path) -> io::Result<RingLogs> {
        create(path)?;
        Ok(RingLogs { path: path.to_owned(), logs: Vec::new(), failure: None, lost: 0 })
    }

    /// Begins the recording of the next ring. The files after the first have a number at the end.
    fn add(&mut self, pid: Option<u32>, name: &str) -> io::Result<()> {
        let ring = self.logs.len();
        let mut path = OsString::from(&self.path);
        if ring > 0 {
            path.push(format!(".{ring}"));
        }
        let file = create(path.as_ref())?;
        let settings = Settings { bytes: BYTES, clock: Some(Clock::Nanos), ..Settings::default() };
        let (model, detail) = (ATTACHED.to_owned(), name.to_owned());
        let about = About { model, detail, lane: ring as u32, pid, ..About::default() };
        let recorder = Recorder::new(Some(&file), &settings, &about)?;
        self.logs.push(RingLog { recorder, _file: file, held: None, openings: HashMap::new() });
        Ok(())
    }

    /// The recording of a ring; `None` if it has none.
    fn log(&mut self, ring: usize, pid: Option<u32>, name: &str) -> Option<&mut RingLog> {
        while self.logs.len() <= ring && self.failure.is_none() {
            let added = match self.logs.len() < MAX_RINGS {
                true => self.add(pid, name),
                false => Err(io::Error::other(format!("only {MAX_RINGS} rings are recorded"))),
            };
            self.failure = added.err();
        }
        self.logs.get_mut(ring)
    }

    /// Records the submission of a request, with this number. Its descriptor may follow.
    pub(super) fn submitted(&mut self, ring: &LoggedRing, opcode: Option<u8>, number: u16) {
        let Some(log) = self.log(ring.at, ring.pid, ring.name) else { return };
        log.flush(NO_FILE);
        log.held = Some(Submission { at: ring.time, opcode: opcode.unwrap_or(UNSEEN), number });
    }

    /// The descriptor of the request with this number.
    pub(super) fn file(&mut self, ring: usize, number: u16, fd: i32) {
        let Some(log) = self.logs.get_mut(ring) else { return };
        if log.held.is_some_and(|held| held.number == number) {
            log.flush(fd as u32);
        }
    }

    /// Records a completion, with its descriptor if it is known.
    pub(super) fn completed(
        &mut self,
        ring: &LoggedRing,
        event: &KernelEvent,
        seen: SeenCompletion,
        fd: Option<i32>,
    ) {
        let Some((res, flags)) = event.completion() else { return };
        let Some(log) = self.log(ring.at, ring.pid, ring.name) else { return };
        log.flush(NO_FILE);
        let (opcode, number) = match seen {
            SeenCompletion::Matched(MatchedCompletion { number, .. }) => (event.opcode, number),
            SeenCompletion::Message => (Some(MESSAGE), 0),
            SeenCompletion::Unseen => (event.opcode, 0),
        };
        let opcode = opcode.unwrap_or(UNSEEN);
        let fd = fd.map_or(NO_FILE, |fd| fd as u32);
        let record = Record::watched_completion(log.token(fd), opcode, number, res, flags);
        log.recorder.write_at(ring.time, record);
        let op = OpKind::Opcode(opcode);
        match u32::try_from(res) {
            Ok(fd) if op.accepts() => *log.openings.entry(fd).or_default() += 1,
            _ => {}
        }
    }

    /// Records that the kernel has lost events.
    pub(super) fn lost(&mut self, lost: u64) {
        let more = lost.saturating_sub(std::mem::replace(&mut self.lost, lost));
        for log in self.logs.iter_mut().filter(|_| more > 0) {
            log.flush(NO_FILE);
            log.recorder.write_at(log.recorder.last_time(), Record::lost(more));
        }
    }

    /// Ends the recordings. Returns how many there are, and why there are not more.
    pub(super) fn finish(mut self) -> (usize, Option<io::Error>) {
        self.logs.iter_mut().for_each(|log| log.flush(NO_FILE));
        // Nothing was recorded, and nothing was there before.
        if self.logs.is_empty() && fs::metadata(&self.path).is_ok_and(|file| file.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
        (self.logs.len(), self.failure)
    }
}

/// The ring of an event that is recorded, and the time in nanoseconds since the first event.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedRing<'a> {
    pub(super) at: usize,
    pub(super) pid: Option<u32>,
    pub(super) name: &'a str,
    pub(super) time: u64,
}

impl RingLog {
    /// Writes the submission that was held, with this descriptor.
    fn flush(&mut self, fd: u32) {
        let Some(Submission { at, opcode, number }) = self.held.take() else { return };
        let record = Record::watched_submission(self.token(fd), opcode, number);
        self.recorder.write_at(at, record);
    }

    fn token(&self, fd: u32) -> u64 {
        let openings = self.openings.get(&fd).copied().unwrap_or(0) & 0xff_ffff;
        u64::from(WATCHED) << 56 | u64::from(openings) << 32 | u64::from(fd)
    }
}

/// Opens a file that only its owner may read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = file.open(path)?;
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    Ok(file)
}
