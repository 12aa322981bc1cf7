//! The I/O models as values: how a server waits.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::buffer::{BufferClass, Pool};
use crate::calls::SocketCalls;
use crate::engine::Engine;
use crate::limits::Limits;
use crate::os::ShutdownSignal;
use crate::proactor::Proactor;
use crate::reactor::Reactor;
use crate::ring::kernel::Kernel;
use crate::ring::{Config, Uring};
use crate::selector::{Epoll, Poll, Select, Selector, Trigger};

/// What an engine is built from.
#[derive(Debug)]
pub struct Plan {
    /// The bounds of the server.
    pub limits: Limits,
    /// The buffer sizes, smallest first.
    pub buffers: Vec<BufferClass>,
    /// The signal that stops the server.
    pub shutdown: ShutdownSignal,
}

/// An I/O model that [`Builder::model`](crate::Builder::model) can be given.
#[derive(Debug)]
pub struct Info {
    /// The name, as on a command line.
    pub name: &'static str,
    /// Builds an engine in the thread that will run it.
    pub build: fn(Plan) -> io::Result<Box<dyn Engine>>,
    /// True for a model that forks: it needs a process with one thread.
    pub forks: bool,
}

/// A way to wait for many sockets at once. The models of this crate are constants of this type; the
/// crate `proactor-models` has further ones.
#[derive(Clone, Copy)]
pub struct Model(&'static Info);

impl Model {
    /// Completions of io_uring (Linux 5.6).
    pub const URING: Model = Model(&Info { name: "uring", build: uring, forks: false });
    /// Readiness by epoll(7), level-triggered.
    pub const EPOLL: Model = Model(&Info {
        name: "epoll",
        build: |plan| reactor(probed(Epoll::new(Trigger::Level)?)?, plan),
        forks: false,
    });
    /// Readiness by epoll(7), edge-triggered.
    pub const EPOLL_ET: Model = Model(&Info {
        name: "epoll-et",
        build: |plan| reactor(probed(Epoll::new(Trigger::Edge)?)?, plan),
        forks: false,
    });
    /// Readiness by poll(2), level-triggered.
    pub const POLL: Model = Model(&Info {
        name: "poll",
        build: |plan| reactor(probed(Poll::new())?, plan),
        forks: false,
    });
    /// Readiness by select(2), for descriptors below 1024.
    pub const SELECT: Model = Model(&Info {
        name: "select",
        build: |plan| reactor(probed(Select::new())?, plan),
        forks: false,
    });

    /// The models of which a builder takes the first that works, unless it is given one.
    pub const AUTO: [Model; 4] = [Model::URING, Model::EPOLL, Model::POLL, Model::SELECT];

    /// A model of another crate.
    pub const fn new(info: &'static Info) -> Model {
        Model(info)
    }

    /// Returns the name, as on a command line.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns how the model is built.
    pub(crate) fn info(self) -> &'static Info {
        self.0
    }
}

impl PartialEq for Model {
    fn eq(&self, other: &Model) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Model {}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({})", self.0.name)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

fn uring(plan: Plan) -> io::Result<Box<dyn Engine>> {
    let kernel = Kernel::detect().map_err(io::Error::other)?;
    let (connections, buffers) = (plan.limits.connections, plan.buffers);
    let ring = Uring::new(Config { kernel, connections, buffers, addresses: true })?;
    Ok(Box::new(Proactor::new(ring, plan.limits, plan.shutdown)?))
}

fn reactor<S: Selector + SocketCalls + 'static>(
    selector: S,
    plan: Plan,
) -> io::Result<Box<dyn Engine>> {
    let pool = Pool::new(&plan.buffers)?;
    Ok(Box::new(Reactor::new(selector, pool, plan.limits, plan.shutdown)?))
}

/// Waits once: a sandbox may permit to create a selector and refuse to use it.
fn probed<S: Selector>(mut selector: S) -> io::Result<S> {
    selector.wait(&mut Vec::new(), Some(Duration::ZERO))?;
    Ok(selector)
}
