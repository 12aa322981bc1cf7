//! Two trace instances that are read as one: rare events of all threads, such as the creation of
//! rings and of threads, and frequent ones, from which busy strangers can be excluded.

use std::io;

use super::{Instance, KernelEvent, Missing, Tracepoint};
use proactor_record::Clock;

/// The rare events: whose a ring and a thread are. They are read of all threads, always, because a
/// ring may get the address of one that was closed, and a thread the number of one that ended.
const RARE: [Tracepoint; 3] = [Tracepoint::Create, Tracepoint::NewTask, Tracepoint::Rename];
/// The size of their buffers in bytes, of all CPUs together.
const RARE_BYTES: usize = 4 << 20;
/// With more rings than this, a filter has none of them.
const MAX_RINGS: usize = 64;

/// The events of a machine's rings, of all or of some threads.
#[derive(Debug)]
pub struct RingWatch {
    rare: Instance,
    frequent: Instance,
    /// The rings whose arrivals are recorded, once strangers are excluded; all, if there are none.
    arrivals: Option<Vec<u64>>,
}

impl RingWatch {
    /// Starts to record these tracepoints, into buffers of `bytes` in total.
    ///
    /// # Errors
    /// See [`Instance::new`].
    pub fn new(tracepoints: &[Tracepoint], bytes: usize) -> io::Result<RingWatch> {
        let frequent = tracepoints.iter().filter(|point| !RARE.contains(point));
        let frequent: Vec<_> = frequent.copied().collect();
        let rare = Instance::new(&RARE, Clock::Nanos, RARE_BYTES)?;
        let frequent = Instance::new(&frequent, Clock::Nanos, bytes)?;
        Ok(RingWatch { rare, frequent, arrivals: None })
    }

    /// Requested tracepoints and fields that this kernel does not have.
    pub fn missing(&self) -> Vec<Missing> {
        [self.rare.missing(), self.frequent.missing()].concat()
    }

    /// Returns the events since the last call, in the order of time: see [`Instance::poll`].
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn poll(&mut self) -> io::Result<Vec<KernelEvent>> {
        let now = self.rare.now();
        Ok(merge(self.rare.poll_at(now)?, self.frequent.poll_at(now)?))
    }

    /// Stops recording and returns all remaining events.
    ///
    /// # Errors
    /// A buffer cannot be read.
    pub fn finish(&mut self) -> io::Result<Vec<KernelEvent>> {
        let frequent = self.frequent.finish()?;
        Ok(merge(self.rare.finish()?, frequent))
    }

    /// Returns how many events were dropped because a buffer was full.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn lost(&self) -> io::Result<u64> {
        Ok(self.rare.lost()? + self.frequent.lost()?)
    }

    /// From now on records no frequent events in the time of these threads, which belong to other
    /// processes; and once there are some, the arrivals of these rings only. An event of a watched
    /// ring in the time of an excluded thread, as an arrival, is not recorded either.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn exclude(&mut self, threads: &[i32], mut rings: Vec<u64>) -> io::Result<()> {
        if !threads.is_empty() {
            self.frequent.exclude(threads)?;
            self.arrivals.get_or_insert_default();
        }
        rings.sort_unstable();
        rings.truncate(if rings.len() > MAX_RINGS { 0 } else { MAX_RINGS });
        if let Some(arrivals) = self.arrivals.as_mut().filter(|arrivals| **arrivals != rings) {
            self.frequent.limit_arrivals(&rings)?;
            *arrivals = rings;
        }
        Ok(())
    }
}

/// Merges two lists in the order of time.
fn merge(rare: Vec<KernelEvent>, mut events: Vec<KernelEvent>) -> Vec<KernelEvent> {
    if !rare.is_empty() {
        events.splice(0..0, rare);
        events.sort_by_key(|event| event.time);
    }
    events
}
