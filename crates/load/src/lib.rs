//! The client: many connections that each send messages, await their replies, and verify every
//! byte of them.
//!
//! It is a *closed loop*: a connection sends its next message when a reply has come back, so a slow
//! server is asked less. What is measured is then the server's ceiling; the latencies are *service
//! times* and hide how long a message would have queued at a fixed rate.
//!
//! ```text
//!   Load::connect ── run_for ── run_for ── … ── part
//!                    │      └ at its end nothing is begun any more, and all that is owed is awaited:
//!                    │        between two slices the server has nothing to do
//!                    └ a slice: the wire moves bytes, the crowd says which and verifies them
//! ```
//!
//! The client shares no hot code with the servers: neither their connections nor their buffers nor
//! their ring. It never sleeps while a slice runs, since a client that must be woken is one that a
//! fast server waits for; so its CPU share says nothing, and what it tells instead is how much of
//! its time it found nothing to do.
#![deny(unsafe_code)]

mod crowd;
mod failure;
mod pattern;
mod slice;
mod socket;
pub mod summary;
mod wire_epoll;
mod wire_uring;

pub use crowd::Shape;
pub use failure::Failure;
pub use pattern::Mismatch;
pub use slice::Slice;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crowd::Crowd;
use proactor::address::Address;
use proactor::os::{self, CpuClock};
use proactor_report::Latencies;
use slice::Watched;
use socket::Socket;

/// The most connections, bytes per message and messages outstanding that a run may be asked for:
/// what fits two bytes of ports, and a buffer that is not absurd.
pub const CONNECTIONS_MAX: usize = 65_535;
/// See [`CONNECTIONS_MAX`].
pub const SIZE_MAX: usize = 16 << 20;
/// See [`CONNECTIONS_MAX`].
pub const DEPTH_MAX: usize = 4096;

/// What moves the bytes, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WireChoice {
    /// io_uring where it works, else epoll.
    #[default]
    Auto,
    /// epoll, edge-triggered, asked without waiting.
    Epoll,
    /// io_uring: multishot receives, sends in batches.
    Uring,
}

impl FromStr for WireChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<WireChoice, String> {
        match text {
            "auto" => Ok(WireChoice::Auto),
            "epoll" => Ok(WireChoice::Epoll),
            "uring" => Ok(WireChoice::Uring),
            _ => Err(format!("`{text}` is no wire: write auto, epoll or uring")),
        }
    }
}

impl fmt::Display for WireChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireChoice::Auto => "auto",
            WireChoice::Epoll => "epoll",
            WireChoice::Uring => "uring",
        })
    }
}

/// What moves the bytes of a crowd. It must not sleep, and must not allocate per message.
trait Wire: fmt::Debug {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Takes a connected socket; connections are numbered in the order of these calls.
    fn adopt(&mut self, socket: Socket) -> io::Result<()>;

    /// Sends what `conn` may send by now, unless it is being sent.
    fn send(&mut self, conn: usize, crowd: &mut Crowd) -> Result<(), Failure>;

    /// Sends and receives what can be without waiting; answers what there was.
    fn turn(&mut self, crowd: &mut Crowd) -> Result<Found, Failure>;

    /// Ends our direction of every connection.
    fn finish(&mut self) -> io::Result<()>;
}

/// What a wire found in a turn.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// Something was reported: the turn was not in vain.
    anything: bool,
    /// So many receives brought bytes.
    receives: usize,
}

/// How a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What every connection does.
    pub shape: Shape,
    /// From which the bytes are made.
    pub seed: u64,
    /// What moves them.
    pub wire: WireChoice,
    /// How long a connection may be owed bytes without one coming, and how long connecting may
    /// take.
    pub patience: Duration,
}

/// A client with its connections.
#[derive(Debug)]
pub struct Load {
    wire: Box<dyn Wire>,
    /// Why it is not the wire that [`WireChoice::Auto`] prefers.
    fallback: Option<io::Error>,
    crowd: Crowd,
    patience: Duration,
}

impl Load {
    /// Connects. Every connection stands when this returns.
    ///
    /// # Errors
    /// A connection is refused, the wire that was asked for does not work here, or a number is
    /// beyond what [`CONNECTIONS_MAX`] and its like allow.
    pub fn connect(address: &Address, options: &Options) -> Result<Load, Failure> {
        let shape = options.shape;
        let client = Failure::client;
        check(shape).map_err(client("take these numbers"))?;
        os::raise_descriptor_limit().map_err(client("raise the limit of open files"))?;
        let epoll = || wire_epoll::open(shape).map_err(client("open an epoll"));
        let mut fallback = None;
        let mut wire: Box<dyn Wire> = match options.wire {
            WireChoice::Epoll => Box::new(epoll()?),
            WireChoice::Uring => {
                Box::new(wire_uring::open(shape).map_err(client("open an io_uring"))?)
            }
            WireChoice::Auto => match wire_uring::open(shape) {
                Ok(wire) => Box::new(wire),
                Err(error) => {
                    fallback = Some(error);
                    Box::new(epoll()?)
                }
            },
        };
        for connection in 0..shape.connections {
            Socket::connect(address, options.patience)
                .and_then(|socket| wire.adopt(socket))
                .map_err(|error| Failure::Connect {
                    address: address.clone(),
                    connection,
                    error,
                })?;
        }
        let crowd = Crowd::new(shape, options.seed);
        Ok(Load { wire, fallback, crowd, patience: options.patience })
    }

    /// What moves the bytes: `epoll` or `uring`.
    pub fn wire(&self) -> &'static str {
        self.wire.name()
    }

    /// Why it is not io_uring, where that was preferred.
    pub fn fallback(&self) -> Option<&io::Error> {
        self.fallback.as_ref()
    }

    /// Service times of the messages so far, or since they were last cleared.
    pub fn latencies(&self) -> &Latencies {
        self.crowd.latencies()
    }

    /// Forgets the service times so far: they were a warm-up.
    pub fn clear_latencies(&mut self) {
        self.crowd.clear_latencies();
    }

    /// Messages replied to, of all slices.
    pub fn messages(&self) -> u64 {
        self.crowd.messages()
    }

    /// The least and the most messages that a connection has had replied to.
    pub fn fairness(&self) -> (u64, u64) {
        self.crowd.fairness()
    }

    /// Sends for so long, then awaits what is owed.
    ///
    /// # Errors
    /// The first reply that is wrong, missing or late; the client is of no use after that.
    pub fn run_for(&mut self, span: Duration) -> Result<Slice, Failure> {
        self.run(span, &mut |_| true)
    }

    /// As [`Load::run_for`]; ten times a second `watch` is shown what was done so far, but for the
    /// CPU time, and says whether to go on.
    ///
    /// # Errors
    /// As [`Load::run_for`].
    pub fn run(
        &mut self,
        span: Duration,
        watch: &mut dyn FnMut(&Slice) -> bool,
    ) -> Result<Slice, Failure> {
        let cpu = || CpuClock::THIS_THREAD.read().map_err(Failure::client("read its CPU clock"));
        let Load { wire, crowd, patience, .. } = self;
        let cpu_before = cpu()?;
        let mut watched = Watched::begin(crowd, span);
        crowd.set_open(true);
        for conn in 0..crowd.shape().connections {
            wire.send(conn, crowd)?;
        }
        loop {
            watched.saw(wire.turn(crowd)?);
            if watched.is_over() {
                crowd.set_open(false);
            }
            if crowd.is_idle() {
                break;
            }
            if watched.ticks() {
                crowd.check_progress(watched.now, *patience)?;
                if !watch(&watched.slice(crowd)) {
                    watched.end = watched.now;
                }
            }
        }
        crowd.set_open(false);
        Ok(Slice { cpu: cpu()?.saturating_sub(cpu_before), ..watched.slice(crowd) })
    }

    /// Ends our direction of every connection and awaits that the server ends the other without
    /// another byte.
    ///
    /// # Errors
    /// It says something more, or does not end within the patience.
    pub fn part(mut self) -> Result<(), Failure> {
        self.crowd.part();
        self.wire.finish().map_err(Failure::client("end its connections"))?;
        let start = os::now();
        while !self.crowd.is_parted() {
            if !self.wire.turn(&mut self.crowd)?.anything {
                std::thread::yield_now();
            }
            if os::now().since(start) > self.patience {
                let error = io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the server did not end them in its turn",
                );
                return Err(Failure::client("end its connections")(error));
            }
        }
        Ok(())
    }
}

/// Refuses shapes that nothing here is made for.
fn check(shape: Shape) -> io::Result<()> {
    let limits = [
        ("connections", shape.connections, CONNECTIONS_MAX),
        ("bytes per message", shape.size, SIZE_MAX),
        ("messages outstanding", shape.depth, DEPTH_MAX),
    ];
    for (what, asked, max) in limits {
        if asked == 0 || asked > max {
            let text = format!("{asked} {what}: between 1 and {max} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
