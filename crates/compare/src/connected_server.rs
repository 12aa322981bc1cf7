//! A server with its connections and its CPU clocks, which is driven for slices.
//!
//! A server that never sleeps is stopped (SIGSTOP) during the slices of the others, because it
//! would use their CPU.

use std::io;
use std::thread;
use std::time::Duration;

use crate::block::{Sample, ServerUse};
use crate::machine_cpu;
use crate::plan::LEAD_IN;
use crate::process_stat::CpuTicks;
use crate::process_tree::{CpuClocks, ProcessTree};
use crate::server_process::ServerProcess;
use proactor::clock::Nanos;
use proactor::os::{self, Order};
use proactor_load::{Load, LoadError, LoadOptions};

/// A server is idle when its CPU clock has not changed for this time.
const AT_REST: Duration = Duration::from_micros(200);
/// The longest wait for that: longer than a tick of the kernel's clock.
const AT_REST_LIMIT: Duration = Duration::from_millis(20);
/// A server that uses more of a CPU than this while it is idle is spinning.
pub(crate) const SPINNING: f64 = 0.05;

/// A server process with its connections.
pub(crate) struct ConnectedServer {
    /// Declared before the process, so that the connections are closed first.
    pub(crate) load: Load,
    pub(crate) meter: CpuMeter,
    pub(crate) process: ServerProcess,
}

impl ConnectedServer {
    /// Connects to a server, and drives it for the lead-in. `spins` is what is known of it from its
    /// trial.
    pub(crate) fn connect(
        process: &ServerProcess,
        options: &LoadOptions,
        spins: Option<Spins>,
    ) -> anyhow::Result<(Load, CpuMeter)> {
        let mut load = Load::connect(&process.address, options)?;
        load.run_for(LEAD_IN)?;
        load.clear_latencies();
        let meter = CpuMeter::start(process, spins).map_err(unread)?;
        Ok((load, meter))
    }

    /// Pauses or resumes a server that spins; no other server is ever paused.
    pub(crate) fn order(&mut self, order: Order) -> Result<(), LoadError> {
        let what = if order == Order::Pause { "pause the server" } else { "resume the server" };
        match self.meter.spins {
            Spins(Some(_)) => self.process.order(order).map_err(LoadError::client(what)),
            Spins(None) => Ok(()),
        }
    }

    /// Returns what the server has used since its lead-in.
    pub(crate) fn used(&self, participant: usize) -> ServerUse {
        let ((ticks, switches), tree) = (self.meter.start, &self.meter.tree);
        let since = tree.ticks().zip(ticks).map(|(now, then)| now.since(then));
        let switches = tree.switches().zip(switches);
        let load = &self.load;
        let [service_times, latencies, offer_lags] = match load.is_open() {
            true => {
                [load.service_times(), load.latencies(), load.offer_lags()].map(|it| it.counts())
            }
            false => [load.latencies().counts(), Vec::new(), Vec::new()],
        };
        ServerUse {
            participant,
            ticks: since.unwrap_or_default(),
            switches: switches.map(|(now, then)| now.saturating_sub(then)),
            connection_messages: load.connection_messages(),
            service_times,
            latencies,
            offer_lags,
        }
    }

    /// Drives the server for the length of a slice. The comparison began at `origin`.
    ///
    /// # Errors
    /// As [`Load::run_for`].
    pub(crate) fn sample(
        &mut self,
        participant: usize,
        span: Duration,
        origin: Nanos,
    ) -> Result<Sample, LoadError> {
        let waited = |tree: &ProcessTree| tree.waited().unwrap_or_default();
        let before = self.meter.at_rest().map_err(unread)?;
        let idle = before.share_since(self.meter.last);
        let server_idle_cpu_share = self.meter.spins.0.unwrap_or(idle);
        let waited_before = waited(&self.meter.tree);
        self.order(Order::Resume)?;
        let began_ns = os::now().since(origin).as_nanos() as u64;
        let machine_before = machine_cpu::busy_ticks();
        let slice = self.load.run_for(span)?;
        let machine = machine_cpu::busy_ticks().zip(machine_before);
        self.order(Order::Pause)?;
        self.meter.last = self.meter.at_rest().map_err(unread)?;
        Ok(Sample {
            participant,
            began_ns,
            slice,
            server_cpu: self.meter.last.cpu.saturating_sub(before.cpu),
            server_waited: waited(&self.meter.tree).saturating_sub(waited_before),
            machine_ticks: machine.map(|(now, then)| now.saturating_sub(then)),
            server_idle_cpu_share,
        })
    }
}

fn unread(error: io::Error) -> LoadError {
    LoadError::Client { what: "read the server's clock", error }
}

/// The share of a CPU that an idle server uses, if it spins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spins(pub(crate) Option<f64>);

/// The CPU time of a server.
pub(crate) struct CpuMeter {
    pub(crate) tree: ProcessTree,
    clocks: CpuClocks,
    /// The ticks and the context switches when the measurement started.
    start: (Option<CpuTicks>, Option<u64>),
    /// The reading at the end of the last slice.
    last: CpuReading,
    /// Whether it spins. Such a server is paused except in its slices.
    pub(crate) spins: Spins,
}

/// The CPU time that a server had used at a moment.
#[derive(Clone, Copy)]
struct CpuReading {
    cpu: Duration,
    at: Nanos,
}

impl CpuReading {
    fn of(clocks: &CpuClocks) -> io::Result<CpuReading> {
        Ok(CpuReading { cpu: clocks.read()?, at: os::now() })
    }

    /// Returns the share of a CPU that was used since an earlier reading.
    fn share_since(self, earlier: CpuReading) -> f64 {
        let time = self.at.since(earlier.at).as_secs_f64().max(1e-9);
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64() / time
    }
}

impl CpuMeter {
    /// Starts to measure a server that has all its connections, and therefore all its children.
    fn start(process: &ServerProcess, spins: Option<Spins>) -> io::Result<CpuMeter> {
        let tree = process.process_tree()?;
        let clocks = tree.clocks()?;
        let last = CpuReading::of(&clocks)?;
        let start = (tree.ticks(), tree.switches());
        let mut meter = CpuMeter { tree, clocks, start, last, spins: Spins(None) };
        meter.spins = match spins {
            Some(spins) => spins,
            None => meter.look_whether_it_spins()?,
        };
        Ok(meter)
    }

    /// Looks at the clocks while the server has nothing to do.
    fn look_whether_it_spins(&mut self) -> io::Result<Spins> {
        // A server that sleeps in poll has looked at all its descriptors before, which takes longer
        // than AT_REST with thousands of them, and its clock may lag: that is not idle CPU time.
        thread::sleep(AT_REST_LIMIT);
        let before = self.at_rest()?;
        thread::sleep(AT_REST_LIMIT);
        self.last = CpuReading::of(&self.clocks)?;
        let share = self.last.share_since(before);
        Ok(Spins((share > SPINNING).then_some(share)))
    }

    /// Reads the clocks once they stand still: the server has sent all replies and sleeps, and the
    /// clock of its thread, which may lag by up to a tick on another CPU, is exact. A server that
    /// does not become idle is read after [`AT_REST_LIMIT`].
    fn at_rest(&self) -> io::Result<CpuReading> {
        let start = os::now();
        let mut since = CpuReading { cpu: self.clocks.read()?, at: start };
        loop {
            thread::yield_now();
            let now = CpuReading { at: os::now(), cpu: self.clocks.read()? };
            if now.cpu != since.cpu {
                since = now;
            }
            if now.at.since(since.at) >= AT_REST || now.at.since(start) >= AT_REST_LIMIT {
                return Ok(now);
            }
        }
    }
}
