//! The load generator: connections that send messages, wait for the replies, and verify every byte.
//!
//! A *closed loop* sends the next message of a connection when a reply has arrived, so a slow
//! server receives fewer messages. The result is the highest rate of the server. The latencies are
//! *service times*; they do not show how long a message would have queued at a fixed rate.
//!
//! An *open loop* sends each message at its planned time, or as soon as possible after it, whatever
//! the server does. The latencies begin at the planned time.
//!
//! ```text
//!   Load::connect ── run_for ── run_for ── … ── close
//!                    └ a slice: an engine moves bytes; the streams say which, and verify them.
//!                      A slice ends when all replies have arrived, so that the server has
//!                      nothing to do between two slices.
//! ```
//!
//! The client shares no hot code with the servers: it has its own connections, buffers and ring. It
//! does not sleep during a slice, because a fast server would wait for a client that must first be
//! woken. Its CPU time therefore says nothing about its load; it reports the share of the time in
//! which it found work.
#![deny(unsafe_code)]

mod byte_stream;
mod client_time;
mod engine_epoll;
mod engine_uring;
mod error;
mod opening;
mod protocol;
pub mod ramp;
mod send_times;
mod slice;
mod slow_readers;
mod socket;
mod stream;
mod streams;
pub mod summary;
mod workload;

pub use byte_stream::Mismatch;
pub use error::LoadError;
pub use protocol::{Example, LoadProtocol};
pub use send_times::{Arrivals, Offer};
pub use slice::{GAP_MIN, LoadSlice};
pub use socket::connect;
pub use workload::{CONNECTIONS_MAX, DEPTH_MAX, RATE_MAX, SIZE_MAX};
pub use workload::{LoadShape, Pattern, Workload};

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use socket2::SockRef;

use client_time::ClientTime;
use engine_epoll::EpollEngine;
use engine_uring::UringEngine;
use error::Result;
use opening::IdleConnections;
use proactor::address::Address;
use proactor::os::{self, CpuClock};
use proactor_report::Latencies;
use slow_readers::SlowReaders;
use streams::{Action, ReplyStreams};

/// The interval at which a run looks for stalled connections and reports its progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The requested I/O engine of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Uses io_uring if it works here, else epoll.
    #[default]
    Auto,
    /// Uses edge-triggered epoll, polled without waiting.
    Epoll,
    /// Uses io_uring with multishot receives, and sends in batches.
    Uring,
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<EngineChoice, String> {
        match text {
            "auto" => Ok(EngineChoice::Auto),
            "epoll" => Ok(EngineChoice::Epoll),
            "uring" => Ok(EngineChoice::Uring),
            _ => Err(format!("unknown engine `{text}`: use auto, epoll or uring")),
        }
    }
}

/// Moves the bytes of the streams. An engine neither sleeps nor allocates per message.
trait ClientEngine {
    /// Takes the connected socket of `conn`: the next number, or one whose socket has ended and is
    /// closed now.
    fn open(&mut self, conn: usize, socket: TcpStream) -> io::Result<()>;

    /// Sends what `conn` may send now, unless a send of it is in progress.
    fn send(&mut self, conn: usize, streams: &mut ReplyStreams) -> Result;

    /// Sends and receives what is possible without waiting.
    fn poll(&mut self, streams: &mut ReplyStreams) -> Result<Polled>;

    /// Returns whether a send of `conn` is in progress, so that its socket must be left alone.
    fn is_sending(&self, conn: usize) -> bool;

    /// Returns the socket of a connection.
    fn socket(&self, conn: usize) -> &TcpStream;
}

/// The result of one poll of an engine.
#[derive(Debug, Clone, Copy, Default)]
struct Polled {
    any_event: bool,
    /// How many receives returned bytes.
    receives: usize,
}

/// The options of a run.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// What the client does.
    pub workload: Workload,
    /// The protocol of the server.
    pub protocol: LoadProtocol,
    /// The seed of the message bytes, of those that are echoed.
    pub seed: u64,
    /// The I/O engine of the client.
    pub engine: EngineChoice,
    /// How long a connection may wait for the next byte of a reply, and how long connecting may
    /// take.
    pub timeout: Duration,
}

/// What receives the result of a slice so far; it returns false to end the slice.
pub type SliceWatcher<'a> = &'a mut dyn FnMut(&LoadSlice) -> bool;

/// A client with its connections.
pub struct Load {
    engine: Box<dyn ClientEngine>,
    /// The name of the engine in use: `epoll` or `uring`.
    pub engine_name: &'static str,
    /// Why [`EngineChoice::Auto`] did not use io_uring, if it did not.
    pub fallback: Option<io::Error>,
    streams: ReplyStreams,
    /// The actions in progress: empty, to keep its memory.
    acting: Vec<Action>,
    idle: IdleConnections,
    slow: SlowReaders,
    address: Address,
    timeout: Duration,
}

impl Load {
    /// Opens all connections of a load.
    ///
    /// # Errors
    /// A connection is refused, the requested engine does not work here, or a number of the shape
    /// is zero or above its maximum.
    pub fn connect(address: &Address, options: &LoadOptions) -> Result<Load> {
        let workload = options.workload;
        let (connections, buffer) = (workload.shape.connections, workload.buffer_len());
        let client = LoadError::client;
        workload.check().map_err(client("use these options"))?;
        os::raise_descriptor_limit();
        let epoll =
            || EpollEngine::open(connections, buffer).map_err(client("open an epoll instance"));
        let uring =
            (options.engine != EngineChoice::Epoll).then(|| UringEngine::open(connections, buffer));
        let mut fallback = None;
        let (mut engine, engine_name): (Box<dyn ClientEngine>, _) = match uring {
            Some(Ok(engine)) => (Box::new(engine), "uring"),
            Some(Err(error)) if options.engine == EngineChoice::Uring => {
                return Err(client("set up io_uring")(error));
            }
            without => {
                fallback = without.and_then(Result::err);
                (Box::new(epoll()?), "epoll")
            }
        };
        let (sockets, label) = opening::open_all(address, options)?;
        for (conn, socket) in sockets.into_iter().enumerate() {
            engine.open(conn, socket).map_err(client("use its sockets"))?;
        }
        Ok(Load {
            engine,
            engine_name,
            fallback,
            streams: ReplyStreams::new(workload, options.protocol.clone(), options.seed, &label),
            acting: Vec::with_capacity(2 * connections),
            idle: IdleConnections::open(address, options)?,
            slow: SlowReaders::open(address, options)?,
            address: address.clone(),
            timeout: options.timeout,
        })
    }

    /// Returns the latencies since they were last cleared: in a closed loop the service times, in
    /// an open loop the times from plan to reply.
    pub fn latencies(&self) -> &Latencies {
        &self.streams.latencies
    }

    /// Returns the times from send to reply of an open loop.
    pub fn service_times(&self) -> &Latencies {
        &self.streams.open.service_times
    }

    /// Returns how long after its planned time each message of an open loop was sent.
    pub fn offer_lags(&self) -> &Latencies {
        &self.streams.open.offer_lags
    }

    /// Returns the latencies of a run that began at `start` as an interval log of HdrHistogram, its
    /// tags being their names.
    pub fn interval_log(&self, start: SystemTime, span: Duration) -> String {
        let open = [
            ("latency", self.latencies()),
            ("offer_lag", self.offer_lags()),
            ("service_time", self.service_times()),
        ];
        let named = if self.is_open() { &open[..] } else { &[("service_time", self.latencies())] };
        proactor_report::interval_log(start, span, named)
    }

    /// Returns whether the load is an open loop.
    pub fn is_open(&self) -> bool {
        self.streams.workload.offer.is_some()
    }

    /// Makes the following slices an open loop of this offer.
    pub fn set_offer(&mut self, offer: Offer) {
        self.streams.workload.offer = Some(offer);
    }

    /// Removes the latencies of a warm-up.
    pub fn clear_latencies(&mut self) {
        self.streams.clear_times();
    }

    /// Returns the smallest and the largest number of replies of a connection, of those that
    /// receive any.
    pub fn connection_messages(&self) -> (u64, u64) {
        // The first connection of a chat receives nothing of itself.
        let first = usize::from(self.streams.workload.pattern == Pattern::Fanout);
        let replies = || self.streams.streams[first..].iter().map(|stream| stream.replies);
        (replies().min().unwrap_or(0), replies().max().unwrap_or(0))
    }

    /// Returns the number of verified replies of all slices; of bytes in one direction, how many
    /// messages of the workload's size they are.
    pub fn messages(&self) -> u64 {
        self.streams.messages_since(0, 0)
    }

    /// Sends for `span`, then waits for the outstanding replies. In an open loop, offers that
    /// cannot be sent by then count as unsent.
    ///
    /// # Errors
    /// The first reply that is wrong, missing or late. The client is unusable after that.
    pub fn run_for(&mut self, span: Duration) -> Result<LoadSlice> {
        self.run(span, &mut |_| true)
    }

    /// As [`Load::run_for`]. Ten times a second, `watch` receives the result so far, without the
    /// CPU time; the run ends early if it returns false.
    ///
    /// # Errors
    /// As [`Load::run_for`].
    pub fn run(&mut self, span: Duration, watch: SliceWatcher<'_>) -> Result<LoadSlice> {
        let cpu = || CpuClock::THIS_THREAD.read().map_err(LoadError::client("read its CPU clock"));
        let LoadShape { connections, .. } = self.streams.workload.shape;
        let (cpu_before, bytes_before) = (cpu()?, self.streams.bytes);
        let messages_before = self.streams.messages;
        let (mut slice, mut time) = (LoadSlice::default(), ClientTime::default());
        // The clock is read once per poll.
        let start = os::now();
        let (mut now, mut end, mut next_check) = (start, start + span, start + CHECK_INTERVAL);
        self.streams.begin(start);
        loop {
            let acted = self.act()? | self.slow.look(now)?;
            let Load { engine, streams, timeout, .. } = self;
            if streams.sending && now >= end {
                streams.stop_sending(now);
            }
            let mut polled = engine.poll(streams)?;
            polled.any_event |= acted;
            let before = std::mem::replace(&mut now, os::now());
            // What a server reads, it does not answer.
            let is_owed = !streams.is_settled() && streams.workload.pattern != Pattern::Upload;
            time.add(polled, now.since(before), is_owed);
            if streams.sending {
                streams.plan_until(now.min(end));
            }
            let ended = !streams.sending && streams.is_settled();
            if !ended && now < next_check {
                continue;
            }
            slice.bytes = streams.bytes - bytes_before;
            slice.messages = streams.messages_since(messages_before, bytes_before);
            slice.wall = now.since(start);
            slice.set_offers(&streams.offers);
            time.write(&mut slice, connections);
            if ended {
                return Ok(LoadSlice { cpu: cpu()?.saturating_sub(cpu_before), ..slice });
            }
            // The poll began at `before`: what arrived while the client itself paused, it has not
            // looked for yet.
            streams.check_progress(before, *timeout)?;
            next_check = now + CHECK_INTERVAL;
            if !watch(&slice) {
                end = now;
            }
        }
    }

    /// Does what is due with connections, and returns whether anything was. What a send in progress
    /// prevents stays due.
    fn act(&mut self) -> Result<bool> {
        let Load { engine, streams, acting, address, timeout, .. } = self;
        let mut acted = false;
        std::mem::swap(&mut streams.actions, acting);
        for action in acting.drain(..) {
            match action {
                Action::Open(conn) | Action::End(conn) if engine.is_sending(conn) => {
                    streams.actions.push(action);
                    continue;
                }
                Action::Send(conn) => engine.send(conn, streams)?,
                Action::End(conn) => match engine.socket(conn).shutdown(Shutdown::Write) {
                    // The server has closed it already.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                    ended => ended.map_err(|error| streams.broken(conn, error))?,
                },
                Action::Open(conn) if streams.begin_open(conn, os::now()) => {
                    let socket = opening::open(address, conn, *timeout)?;
                    let opened = engine.open(conn, socket);
                    opened.map_err(LoadError::client("use its sockets"))?;
                    engine.send(conn, streams)?;
                }
                Action::Open(_) => continue,
            }
            acted = true;
        }
        Ok(acted)
    }

    /// Ends every connection by a reset: at once, and without a port that stays in use for a
    /// minute (`TIME_WAIT`), as it must be with thousands of connections again and again.
    pub fn reset(mut self) {
        let measured = self.streams.close().map(|conn| self.engine.socket(conn));
        for socket in measured.chain(self.idle.sockets()).chain(self.slow.sockets()) {
            // One that is closed in order instead is no harm.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Shuts down the client's direction of every connection, and waits until the server closes
    /// them without sending another byte.
    ///
    /// # Errors
    /// The server sends a byte, or does not close within the timeout.
    pub fn close(mut self) -> Result {
        let client = LoadError::client("close its connections");
        for conn in self.streams.close() {
            self.engine.socket(conn).shutdown(Shutdown::Write).map_err(&client)?;
        }
        let start = os::now();
        while self.streams.closed < Some(self.streams.streams.len()) {
            if !self.engine.poll(&mut self.streams)?.any_event {
                std::thread::yield_now();
            }
            if os::now().since(start) > self.timeout {
                let what = "the server did not close its side";
                return Err(client(io::Error::new(io::ErrorKind::TimedOut, what)));
            }
        }
        self.slow.close(self.timeout)?;
        self.idle.close(self.timeout).map_err(client)
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("engine", &self.engine_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
