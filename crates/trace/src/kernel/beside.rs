//! What the kernel told of a recorded ring, in a file beside the recording: `FILE.kernel`.
//!
//! It is a trace like any (`docs/trace-format.md`), with records of its own kinds: 128 and up, one
//! for each [`Point`]; a record's `id` is the user data, `op` the opcode, `turn` the thread. Its
//! ticks are those of the recording, so that the two can be read as one. A thread writes it that
//! the loop knows nothing of.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Instance, Lack, Point, Tale, Told, Unavailable};
use crate::format::{Clock, Record, What};
use crate::preface::{About, Settings};
use crate::reader::{Header, Trace, Unreadable};
use crate::recorder::Recorder;

/// What stands in its header for a model.
pub(crate) const MODEL: &str = "kernel";
/// Records of the kernel's are of kinds from here on.
const BASE: u8 = 128;
/// What is asked of the kernel: what the loop cannot know, and which rings are ours.
const POINTS: [Point; 6] =
    [Point::Create, Point::Complete, Point::Overflow, Point::Arrive, Point::Punt, Point::Wait];
/// The line of the header's text that names what the kernel does not tell, with commas between.
const LACKS: &str = "not_told";
/// How long between two looks at what was told.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bytes for what is told meanwhile, of all CPUs together.
const BUFFER: usize = 64 << 20;

/// Where what the kernel told of the recording in `file` stands.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".kernel");
    name.into()
}

/// What the kernel tells from here on, before anybody writes it down.
#[derive(Debug)]
pub struct Listening {
    instance: Instance,
    clock: Clock,
}

impl Listening {
    /// Has the kernel tell, by this clock or the best there is. No file is needed for it, so that
    /// none is made where the kernel does not tell.
    ///
    /// # Errors
    /// The kernel does not tell us.
    pub fn begin(clock: Option<Clock>) -> Result<Listening, Unavailable> {
        let clock = clock.unwrap_or_else(Clock::best);
        Ok(Listening { instance: Instance::new(&POINTS, clock, BUFFER)?, clock })
    }
}

/// A thread that writes down what the kernel tells of the rings of this process.
#[derive(Debug)]
pub struct Scribe {
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Scribe {
    /// Begins, before anything is submitted to the ring, into this file.
    ///
    /// # Errors
    /// There is no room for the file, or no thread.
    pub fn start(
        listening: Listening,
        file: File,
        settings: &Settings,
    ) -> Result<Scribe, Unavailable> {
        let failed = |error| Unavailable::Failed("record what the kernel tells".to_owned(), error);
        let Listening { mut instance, clock } = listening;
        let settings = Settings { clock: Some(clock), triggers: Vec::new(), ..settings.clone() };
        let lacks: Vec<_> = instance.lacks().iter().map(|lack| lack.name()).collect();
        let more = vec![(LACKS.to_owned(), lacks.join(","))];
        let about = About { model: MODEL.to_owned(), more, ..About::default() };
        let mut log = Recorder::create(&file, &settings, &about).map_err(failed)?;
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let write = move || {
            let mut rings = Rings::default();
            loop {
                let over = asked.load(Ordering::Acquire);
                let told = if over { instance.finish()? } else { instance.poll()? };
                told.iter().for_each(|told| note(&mut log, &mut rings, told));
                log.publish();
                if over {
                    break;
                }
                std::thread::park_timeout(INTERVAL);
            }
            let (id, time) = (instance.lost()?, log.last_time());
            if id > 0 {
                log.write_at(time, Record { what: What::Lost as u8, id, ..Record::default() });
            }
            // Only now: while it is open it is locked.
            drop(log);
            drop(file);
            Ok(())
        };
        let thread = std::thread::Builder::new().name("kernel-events".to_owned());
        Ok(Scribe { over, thread: thread.spawn(write).map_err(failed)? })
    }

    /// Writes down the rest, and ends.
    ///
    /// # Errors
    /// What the kernel tells could not be read.
    ///
    /// # Panics
    /// If its thread has.
    pub fn finish(self) -> io::Result<()> {
        self.over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().expect("the scribe does not panic")
    }
}

/// Whose rings those are that were told of.
#[derive(Debug, Default)]
struct Rings(HashMap<u64, bool>);

impl Rings {
    /// Whether it is about a ring of this process. Who makes a ring, posts to it or sleeps on it
    /// tells; data arrive in anybody's time.
    fn are_ours(&mut self, told: &Told) -> bool {
        let ours = || fs::exists(format!("/proc/self/task/{}", told.thread)).unwrap_or(false);
        match told.what {
            // An address that was another's, perhaps.
            Tale::Created { .. } => {
                let ours = ours();
                self.0.insert(told.ring, ours);
                ours
            }
            Tale::Arrived => self.0.get(&told.ring).is_some_and(|&ours| ours),
            _ => *self.0.entry(told.ring).or_insert_with(ours),
        }
    }
}

/// Writes it down, if it is about a ring of this process.
fn note(log: &mut Recorder, rings: &mut Rings, told: &Told) {
    if !rings.are_ours(told) {
        return;
    }
    let (point, res, flags) = match told.what {
        Tale::Created { fd, flags, .. } => (Point::Create, fd, flags),
        Tale::Completed { res, flags } => (Point::Complete, res, flags),
        Tale::Overflowed { res, flags } => (Point::Overflow, res, flags),
        Tale::Arrived => (Point::Arrive, 0, 0),
        Tale::Punted => (Point::Punt, 0, 0),
        _ => return,
    };
    let record = Record {
        time: 0,
        id: told.user_data,
        res,
        flags,
        turn: told.thread as u32,
        what: BASE + point as u8,
        op: told.opcode.unwrap_or(0),
        aux: u16::from(told.opcode.is_some()),
    };
    log.write_at(told.time, record);
}

/// What the kernel told of a recording, as it was written down beside it.
#[derive(Debug, Clone)]
pub struct Beside {
    /// In the order of time.
    pub told: Vec<Told>,
    /// How much is not there: overwritten, or not told for want of room.
    pub lost: u64,
    /// What that kernel does not tell.
    pub lacks: Vec<Lack>,
}

impl Beside {
    /// Reads what stands beside a recording; `None` if nothing does, or if it is another process's,
    /// of an older recording under the same name.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(file: &Path, header: &Header) -> Result<Option<Beside>, Unreadable> {
        let trace = match Trace::open(&beside(file)) {
            Err(Unreadable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let same = trace.header.pid == header.pid && trace.header.clock == header.clock;
        Ok(same.then(|| Beside::of(&trace)))
    }

    fn of(trace: &Trace) -> Beside {
        let lost = trace.records.iter().filter(|record| record.what == What::Lost as u8);
        let lost = lost.fold(trace.lost(), |all, record| all.saturating_add(record.id));
        let lacks = trace.header.get(LACKS).unwrap_or_default().split(',');
        let lacks = lacks.filter_map(Lack::from_name).collect();
        Beside { told: trace.records.iter().filter_map(told).collect(), lost, lacks }
    }
}

fn told(record: &Record) -> Option<Told> {
    let Record { res, flags, .. } = *record;
    let point = record.what.checked_sub(BASE)?;
    let what = match *Point::ALL.get(usize::from(point))? {
        Point::Create => Tale::Created { fd: res, submissions: 0, completions: 0, flags },
        Point::Complete => Tale::Completed { res, flags },
        Point::Overflow => Tale::Overflowed { res, flags },
        Point::Arrive => Tale::Arrived,
        Point::Punt => Tale::Punted,
        _ => return None,
    };
    Some(Told {
        time: record.time,
        thread: record.turn as i32,
        ring: 0,
        request: 0,
        user_data: record.id,
        opcode: (record.aux != 0).then_some(record.op),
        what,
    })
}
