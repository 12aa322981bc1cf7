//! The kernel's events of a recorded ring, in a file beside the recording: `FILE.kernel`.
//!
//! The file is a trace (`docs/trace-format.md`) with its own record kinds, 128 and up, one for each
//! [`Tracepoint`]. In a record `id` is the user data, `op` the opcode, and `iteration` the thread.
//! Its ticks are those of the recording, so the two files can be merged. A thread of its own writes
//! it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::instance::cannot;
use super::{Instance, KernelEvent, Missing, Tasks, Tracepoint};
use proactor_record::{
    About, Clock, Header, Record, RecordKind, Recorder, Settings, Trace, Unreadable,
};

/// The model in the header of a sidecar file.
pub(crate) const MODEL: &str = "kernel";
/// The first record kind of kernel events.
const BASE: u8 = 128;
/// The tracepoints that are recorded: what the loop cannot know, and which rings are ours.
const RECORDED: [Tracepoint; 7] = [
    Tracepoint::NewTask,
    Tracepoint::Create,
    Tracepoint::Complete,
    Tracepoint::CqeOverflow,
    Tracepoint::TaskAdd,
    Tracepoint::QueueAsyncWork,
    Tracepoint::CqringWait,
];
/// The entry of the header's text that says that sleeps are written, which older files do not have.
const SLEEPS: &str = "sleeps";
/// The entry that lists what the kernel does not trace, separated by commas.
const MISSING: &str = "missing";
/// The same entry in older files.
const MISSING_BEFORE: &str = "not_told";
/// The time between two reads of the kernel's buffers.
const INTERVAL: Duration = Duration::from_millis(20);
/// The size of the kernel's buffers in bytes, of all CPUs together.
const BUFFER: usize = 64 << 20;

/// Returns the path of the sidecar file of a recording.
pub fn sidecar_path(recording: &Path) -> PathBuf {
    let mut name = OsString::from(recording);
    name.push(".kernel");
    name.into()
}

/// A thread that records the kernel's events of this process's rings.
#[derive(Debug)]
pub struct KernelRecorder {
    /// Dropped to stop the thread.
    stop: Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl KernelRecorder {
    /// Enables the tracepoints, with this clock or the best available. It creates no file, so that
    /// a failure leaves none behind.
    ///
    /// # Errors
    /// See [`Instance::new`].
    pub fn prepare(clock: Option<Clock>) -> io::Result<Instance> {
        Instance::new(&RECORDED, clock.unwrap_or_else(Clock::best), BUFFER)
    }

    /// Starts to record into `file`. Call it before anything is submitted to the ring.
    ///
    /// # Errors
    /// The file or the thread cannot be created.
    pub fn start(
        instance: Instance,
        file: File,
        settings: &Settings,
    ) -> io::Result<KernelRecorder> {
        let failed = |error| cannot("record the kernel's events", error);
        let clock = Some(instance.clock);
        let settings = Settings { clock, triggers: Vec::new(), ..settings.clone() };
        let missing: Vec<_> = instance.missing().iter().map(|missing| missing.name()).collect();
        let more = [(MISSING, missing.join(",")), (SLEEPS, "1".to_owned())];
        let more = more.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let about = About { model: MODEL.to_owned(), more, ..About::default() };
        let log = Recorder::new(Some(&file), &settings, &about).map_err(failed)?;
        let names_requests = !instance.missing().contains(&Missing::Request);
        let mut rings = OwnRings { names_requests, ..OwnRings::default() };
        rings.tasks.with_threads = true;
        rings.tasks.add_process(std::process::id(), None).map_err(failed)?;
        let (stop, stopped) = channel();
        let write = move || {
            record(instance, log, rings, &stopped)?;
            // Closing the file releases its lock, which must outlast the recorder.
            drop(file);
            Ok(())
        };
        let thread = std::thread::Builder::new().name("kernel-events".to_owned());
        Ok(KernelRecorder { stop, thread: thread.spawn(write).map_err(failed)? })
    }

    /// Records the remaining events and stops.
    ///
    /// # Errors
    /// The kernel's buffers could not be read.
    ///
    /// # Panics
    /// Panics if the recording thread did.
    pub fn finish(self) -> io::Result<()> {
        drop(self.stop);
        self.thread.join().expect("the recording thread does not panic")
    }
}

/// Records events until the other end of `stopped` is dropped, and then the number of lost ones.
fn record(
    mut instance: Instance,
    mut log: Recorder,
    mut rings: OwnRings,
    stopped: &Receiver<()>,
) -> io::Result<()> {
    let mut stop = false;
    while !stop {
        stop = stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected);
        let events = if stop { instance.finish()? } else { instance.poll()? };
        for event in events.iter().filter(|event| rings.contain(event)) {
            if let Some(record) = to_record(event) {
                log.write_at(event.time, record);
            }
        }
        log.publish();
    }
    let (id, time) = (instance.lost()?, log.last_time());
    if id > 0 {
        log.write_at(time, Record::lost(id));
    }
    Ok(())
}

/// The rings of this process, and its threads.
#[derive(Debug, Default)]
struct OwnRings {
    tasks: Tasks,
    /// Whether completions name their requests.
    names_requests: bool,
    /// The rings, by address.
    rings: HashSet<u64>,
}

impl OwnRings {
    /// Whether the event is about a ring of this process. The thread that creates a ring, sleeps on
    /// it or completes a request decides; data may arrive in the time of any thread, and any ring
    /// may post a message to another.
    fn contain(&mut self, event: &KernelEvent) -> bool {
        self.tasks.observe(event);
        let is_ours = self.tasks.watched(event.thread).is_some();
        match event.tracepoint {
            // A new ring may have the address of a former one.
            Tracepoint::Create if !is_ours => _ = self.rings.remove(&event.ring),
            Tracepoint::Create | Tracepoint::CqringWait if is_ours => {
                self.rings.insert(event.ring);
            }
            Tracepoint::Complete if is_ours && !(self.names_requests && event.is_message()) => {
                self.rings.insert(event.ring);
            }
            _ => {}
        }
        self.rings.contains(&event.ring)
    }
}

/// The tracepoint that only identifies threads.
const NOT_WRITTEN: Tracepoint = Tracepoint::NewTask;

/// Encodes an event of a [recorded](RECORDED) tracepoint, if it is written.
fn to_record(event: &KernelEvent) -> Option<Record> {
    let KernelEvent { user_data, opcode, tracepoint, own, .. } = *event;
    (tracepoint != NOT_WRITTEN).then(|| Record {
        time: 0,
        id: user_data,
        res: own[0] as i32,
        flags: own[1] as u32,
        iteration: event.thread as u32,
        kind: BASE + tracepoint as u8,
        op: opcode.unwrap_or(0),
        aux: u16::from(opcode.is_some()),
    })
}

/// Decodes what [`to_record`] encodes; `None` for any other record.
fn from_record(header: &Header, record: &Record) -> Option<KernelEvent> {
    let tracepoint = Tracepoint::from_number(record.kind.checked_sub(BASE)?)?;
    let is_recorded = RECORDED.contains(&tracepoint) && tracepoint != NOT_WRITTEN;
    is_recorded.then(|| KernelEvent {
        time: header.nanos(record.time),
        thread: record.iteration as i32,
        ring: 0,
        request: 0,
        user_data: record.id,
        opcode: (record.aux != 0).then_some(record.op),
        tracepoint,
        own: [record.res as u64, record.flags.into(), 0, 0],
    })
}

/// The kernel's events of a recording, read from its sidecar file.
#[derive(Debug, Clone, Default)]
pub struct Sidecar {
    /// The events in the order of time.
    pub events: Vec<KernelEvent>,
    /// Events that are not in the file: overwritten, or dropped by the kernel.
    pub lost: u64,
    /// Tracepoints and fields that the kernel does not have.
    pub missing: Vec<Missing>,
    /// Whether the events say when a thread began to sleep.
    pub has_sleeps: bool,
}

impl Sidecar {
    /// How many events of a tracepoint a test holds for; `None` if the kernel does not trace it.
    pub fn count(
        &self,
        tracepoint: Tracepoint,
        is_wanted: impl Fn(&KernelEvent) -> bool,
    ) -> Option<u64> {
        let is_one = |event: &&KernelEvent| event.tracepoint == tracepoint && is_wanted(event);
        let is_traced = !self.missing.contains(&Missing::Tracepoint(tracepoint));
        is_traced.then(|| self.events.iter().filter(is_one).count() as u64)
    }

    /// Reads the sidecar file of a recording; `None` if there is none, or if it belongs to another
    /// process that recorded under the same name.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn open(recording: &Path, header: &Header) -> Result<Option<Sidecar>, Unreadable> {
        let path = sidecar_path(recording);
        if !path.exists() {
            return Ok(None);
        }
        let trace = Trace::open(&path)?;
        Ok(Sidecar::belongs(header, &trace.header).then(|| Sidecar::of(header, &trace)))
    }

    /// Whether a sidecar file with this header belongs to the recording with `header`.
    pub(crate) fn belongs(header: &Header, its: &Header) -> bool {
        its.pid == header.pid && its.clock == header.clock
    }

    /// The events of these records of a sidecar file; `header` is that of the recording.
    pub(crate) fn decode<'a>(
        header: &'a Header,
        records: &'a [Record],
    ) -> impl Iterator<Item = KernelEvent> + 'a {
        records.iter().filter_map(|record| from_record(header, record))
    }

    /// The events of a sidecar file; `header` is that of the recording.
    fn of(header: &Header, trace: &Trace) -> Sidecar {
        let lost = trace.records.iter().filter(|record| record.is(RecordKind::Lost));
        let lost = lost.fold(trace.lost(), |all, record| all.saturating_add(record.id));
        let missing = trace.header.get(MISSING).or_else(|| trace.header.get(MISSING_BEFORE));
        let missing = missing.unwrap_or_default().split(',').filter_map(Missing::from_name);
        let events = Sidecar::decode(header, &trace.records);
        let missing: Vec<_> = missing.collect();
        let is_traced = !missing.contains(&Missing::Tracepoint(Tracepoint::CqringWait));
        let has_sleeps = is_traced && trace.header.get(SLEEPS).is_some();
        Sidecar { events: events.collect(), lost, missing, has_sleeps }
    }
}
