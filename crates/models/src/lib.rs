//! The I/O models by name, and the servers that do not wait in a loop of the core: threads,
//! processes and coroutines.
#![deny(unsafe_code)]

pub mod blocking;
pub mod coroutine;
pub mod model;
pub mod processes;
pub mod registry;

use std::io;

use proactor::Model;
use proactor::buffer::Pool;
use proactor::calls::{PlainCalls, SocketCalls};
use proactor::engine::Engine;
use proactor::model::{Info, Plan};
use proactor::reactor::Reactor;
use proactor::selector::{Epoll, Selector, Sigio, Spin, Trigger};

/// One connection at a time, by calls that sleep.
pub const BLOCKING: Model = Model::new(&Info {
    name: "blocking",
    build: |plan| blocking(blocking::Style::OneByOne, plan),
    forks: false,
});
/// A process for each connection. It supports only [`run`](proactor::Server::run), in a process with
/// one thread, and no protocol that needs shared memory.
pub const PROCESS: Model = Model::new(&Info { name: "process", build: process, forks: true });
/// A thread for each connection.
pub const THREAD: Model = Model::new(&Info {
    name: "thread",
    build: |plan| blocking(blocking::Style::Threads, plan),
    forks: false,
});
/// Every socket tried in turn, with a sleep of a millisecond after a pass that did nothing.
pub const NONBLOCKING: Model = Model::new(&Info {
    name: "nonblocking",
    build: |plan| reactor(Spin::new(Some(std::time::Duration::from_millis(1))), plan),
    forks: false,
});
/// Readiness by real-time signals.
pub const SIGIO: Model =
    Model::new(&Info { name: "sigio", build: |plan| reactor(Sigio::new()?, plan), forks: false });
/// Readiness by epoll(7), one-shot.
pub const EPOLL_ONESHOT: Model = Model::new(&Info {
    name: "epoll-oneshot",
    build: |plan| reactor(Epoll::new(Trigger::Oneshot)?, plan),
    forks: false,
});
/// A task for each connection, on tokio.
pub const COROUTINE: Model =
    Model::new(&Info { name: "coroutine", build: coroutine, forks: false });

/// The models of the core and of this crate, in historical order.
pub const ALL: [Model; 12] = [
    BLOCKING,
    PROCESS,
    THREAD,
    NONBLOCKING,
    Model::SELECT,
    Model::POLL,
    SIGIO,
    Model::EPOLL,
    Model::EPOLL_ET,
    EPOLL_ONESHOT,
    COROUTINE,
    Model::URING,
];

fn blocking(style: blocking::Style, plan: Plan) -> io::Result<Box<dyn Engine>> {
    let Plan { limits, buffers, shutdown } = plan;
    Ok(Box::new(blocking::Blocking::new(PlainCalls, style, buffers, limits, shutdown)?))
}

fn process(plan: Plan) -> io::Result<Box<dyn Engine>> {
    let Plan { limits, buffers, shutdown } = plan;
    Ok(Box::new(processes::Processes::new(PlainCalls, &buffers, limits, shutdown)?))
}

fn coroutine(plan: Plan) -> io::Result<Box<dyn Engine>> {
    let Plan { limits, buffers, shutdown } = plan;
    let pool = Pool::new(&buffers)?;
    Ok(Box::new(coroutine::Coroutines::new(PlainCalls, pool, limits, shutdown)?))
}

fn reactor<S: Selector + SocketCalls + 'static>(
    selector: S,
    plan: Plan,
) -> io::Result<Box<dyn Engine>> {
    let pool = Pool::new(&plan.buffers)?;
    Ok(Box::new(Reactor::new(selector, pool, plan.limits, plan.shutdown)?))
}
