//! The I/O models by name, and how to serve by each.

mod prepare;

pub use prepare::{PreparedModel, RingOptions};

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use crate::blocking::{Blocking, Style};
use crate::coroutine::{Coroutines, RuntimeHooks};
use crate::processes::{ForkHooks, Processes};
use prepare::Waiting;
use proactor::buffer::{BufferClass, Pool};
use proactor::calls::{Calls, PlainCalls, SocketCalls};
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::limits::{Ended, Limits};
use proactor::os::ShutdownSignal;
use proactor::proactor::Proactor;
use proactor::protocol::Any;
use proactor::reactor::Reactor;
use proactor::ring::kernel::Kernel;
use proactor::ring::{Ring, Uring};
use proactor::selector::{Epoll, Poll, Select, Selector, Sigio, Spin, Trigger};
use proactor_trace::{About as Recorded, Recording, Traced, TracedCalls, Writers};

/// A way to wait for many sockets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// Asynchronous I/O: told when it *is done*.
    Uring,
    /// Readiness by epoll, level-triggered: told what *may be done*.
    Epoll,
    /// Readiness by epoll, edge-triggered: told what *has become possible*.
    EpollEt,
    /// Readiness by poll(2).
    Poll,
    /// Readiness by select(2).
    Select,
    /// Readiness by epoll, reported once until it is asked again.
    EpollOneshot,
    /// Signals: told by a signal that *something is new*.
    Sigio,
    /// Not asking: trying every socket, again and again.
    Nonblocking,
    /// A task for each connection, on an executor.
    Coroutine,
    /// A thread for each connection, which sleeps in its calls.
    Thread,
    /// A process for each connection, forked for it.
    Process,
    /// One connection, and when it is over the next.
    Blocking,
}

/// What a server may be asked for and not every model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ability {
    /// Serving several connections at a time, and letting them hear one another.
    Crowd,
    /// Receiving from a peer that is owed more than its socket takes.
    Duplex,
    /// Serving an idle crowd without a thread or a process for each.
    Frugality,
    /// Letting an operator see and do, at a console.
    Console,
}

impl Ability {
    /// All of them.
    pub const ALL: [Ability; 4] =
        [Ability::Crowd, Ability::Duplex, Ability::Frugality, Ability::Console];

    /// What a model does not do that lacks it.
    pub fn denied(self) -> &'static str {
        match self {
            Ability::Crowd => "does not serve several connections at once",
            Ability::Duplex => "does not receive while a send blocks",
            Ability::Frugality => "does not keep idle connections cheaply",
            Ability::Console => "has no console",
        }
    }
}

/// Facts about a model.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// How the model waits, in a few words.
    pub mechanism: &'static str,
    /// The system calls per message, with one message at a time.
    pub calls: &'static str,
    /// The limits and the costs apart from the calls.
    pub limits: &'static str,
    /// The first version of Linux that has it.
    pub since: &'static str,
}

impl Model {
    /// Every model, in historical order. All lists of models have this order.
    pub const ALL: [Model; 12] = [
        Model::Blocking,
        Model::Process,
        Model::Nonblocking,
        Model::Select,
        Model::Poll,
        Model::Thread,
        Model::Sigio,
        Model::Epoll,
        Model::EpollEt,
        Model::EpollOneshot,
        Model::Coroutine,
        Model::Uring,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Model::Uring => "uring",
            Model::Epoll => "epoll",
            Model::EpollEt => "epoll-et",
            Model::Poll => "poll",
            Model::Select => "select",
            Model::EpollOneshot => "epoll-oneshot",
            Model::Sigio => "sigio",
            Model::Nonblocking => "nonblocking",
            Model::Coroutine => "coroutine",
            Model::Thread => "thread",
            Model::Process => "process",
            Model::Blocking => "blocking",
        }
    }

    /// Returns the facts about the model.
    pub fn about(self) -> About {
        let about = |mechanism, calls, limits, since| About { mechanism, calls, limits, since };
        match self {
            Model::Uring => about(
                "completion: the kernel does the I/O and reports the result",
                "1: io_uring_enter",
                "locked memory (`ulimit -l`) on old kernels; forbidden in many containers",
                "5.6",
            ),
            Model::Epoll => about(
                "readiness, level-triggered",
                "3: epoll_wait, recv, send",
                "an epoll_ctl for each change of interest",
                "2.6",
            ),
            Model::EpollEt => about(
                "readiness, edge-triggered",
                "3: epoll_wait, recv, send",
                "the server must remember which sockets are still ready",
                "2.6",
            ),
            Model::Poll => about(
                "readiness, level-triggered (a list of all sockets)",
                "3: poll, recv, send",
                "each wait takes time for every connection",
                "2.2",
            ),
            Model::Select => about(
                "readiness, level-triggered (three bit sets)",
                "3: select, recv, send",
                "descriptors below 1024 (FD_SETSIZE); a wait takes time for each",
                "1.0",
            ),
            Model::EpollOneshot => about(
                "readiness, one-shot",
                "4: epoll_wait, recv, send, epoll_ctl",
                "useful only if several threads share an epoll",
                "2.6.2",
            ),
            Model::Sigio => about(
                "a real-time signal for each change (O_ASYNC)",
                "5: poll, read (the signal), poll, recv, send",
                "`ulimit -i` queued signals; after an overflow all sockets are polled",
                "2.6.32",
            ),
            Model::Nonblocking => about(
                "busy polling: recv on every socket",
                "a recv for each connection and pass",
                "uses a whole CPU, or adds the delay of --idle-sleep",
                "1.0",
            ),
            Model::Coroutine => about(
                "a task per connection, on an executor (tokio, on epoll)",
                "3: epoll_wait, recv, send",
                "the memory of a task per connection",
                "2.6",
            ),
            Model::Thread => about(
                "a thread per connection, blocked in recv",
                "2: recv, send",
                "a stack per connection; a context switch per message",
                "2.6",
            ),
            Model::Process => about(
                "a forked process per connection, blocked in recv",
                "2: recv, send",
                "a process per connection; a fork per accept",
                "2.6.22",
            ),
            Model::Blocking => about(
                "blocked in recv, for one connection",
                "2: recv, send",
                "one connection at a time; further ones wait",
                "1.0",
            ),
        }
    }

    /// Returns the reason if the model lacks an ability. The conformance tests and `proactor
    /// models` read this table.
    pub fn lacks(self, ability: Ability) -> Option<&'static str> {
        match (self, ability) {
            (Model::Blocking, Ability::Crowd) => {
                Some("the next is accepted when the current one is closed")
            }
            (Model::Blocking | Model::Thread, Ability::Duplex) => {
                Some("a thread blocked in send cannot receive")
            }
            (Model::Thread, Ability::Frugality) => Some("each connection has a thread"),
            (Model::Process, Ability::Frugality) => Some("each connection has a process"),
            (Model::Process, Ability::Console) => {
                Some("each connection belongs to another process")
            }
            _ => None,
        }
    }

    /// Whether its records share turns, and with them the clock, that need not be read for each.
    pub fn has_turns(self) -> bool {
        !matches!(self, Model::Coroutine | Model::Thread | Model::Process | Model::Blocking)
    }

    /// Returns the reason if the model does not work on this machine.
    pub fn refusal(self) -> Option<String> {
        match self {
            Model::Uring => Kernel::detect().err().map(|refusal| refusal.to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Model {
    /// The mechanism's own name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Model::Uring { "io_uring" } else { self.name() })
    }
}

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This model or none.
    Model(Model),
    /// The best that this machine permits.
    Auto,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Choice, String> {
        if name == "auto" {
            return Ok(Choice::Auto);
        }
        let found = Model::ALL.into_iter().find(|model| model.name() == name);
        found.map(Choice::Model).ok_or_else(|| {
            let names = Model::ALL.map(Model::name).join(", ");
            format!("unknown model {name:?}: use one of {names}, auto")
        })
    }
}

/// A model that can serve here, and why it is this one.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// Which.
    pub model: Model,
    /// What of the kernel's ring is to be used, if it is the ring.
    pub kernel: Kernel,
}

impl Chosen {
    /// What it uses of the kernel, in a few words.
    pub fn describe(&self) -> String {
        match self.model {
            Model::Uring => self.kernel.describe(),
            Model::Epoll => "readiness, level-triggered".to_owned(),
            Model::EpollEt => "readiness, edge-triggered".to_owned(),
            Model::EpollOneshot => "readiness, one-shot".to_owned(),
            Model::Sigio => "readiness, by real-time signals".to_owned(),
            Model::Nonblocking => "busy polling".to_owned(),
            Model::Poll | Model::Select => "readiness, level-triggered".to_owned(),
            Model::Coroutine => "a task per connection, on tokio".to_owned(),
            Model::Thread => "a thread per connection".to_owned(),
            Model::Process => "a process per connection".to_owned(),
            Model::Blocking => "one connection at a time".to_owned(),
        }
    }
}

/// What to serve, and within what bounds.
#[derive(Debug)]
pub struct Service {
    /// Listening sockets, and what each says.
    pub listeners: Vec<(OwnedFd, Any)>,
    /// Its buffers, smallest first.
    pub buffers: Vec<BufferClass>,
    /// Its bounds.
    pub limits: Limits,
    /// What stops it.
    pub stop: ShutdownSignal,
    /// How long [`Nonblocking`](Model::Nonblocking) sleeps after a round in which nothing moved.
    pub idle_sleep: Option<Duration>,
    /// Where its operator sits, if it has one and the model [can](Ability::Console) have one.
    pub console: Option<Console>,
    /// What is to be recorded of it, if anything.
    pub trace: Option<Recording>,
}

/// Serves until stopped. `ready` is called once everything is set up and connections are accepted.
/// The service's bounds and buffers are those that the engine was set up for.
///
/// # Errors
/// The model cannot be set up after all, or the kernel fails it as a whole.
pub fn serve(
    engine: PreparedModel,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let chosen = engine.chosen();
    let idle_sleep = service.idle_sleep;
    match (chosen.model, engine.into_waiting()) {
        (_, Waiting::Ring(ring)) => serve_uring(chosen, *ring, service, ready),
        (_, Waiting::Epoll(epoll)) => serve_ready(chosen, epoll, service, ready),
        (Model::Uring | Model::Epoll, Waiting::Later) => unreachable!("they are set up first"),
        (Model::EpollEt, _) => serve_ready(chosen, Epoll::new(Trigger::Edge)?, service, ready),
        (Model::Poll, _) => serve_ready(chosen, Poll::new(), service, ready),
        (Model::Select, _) => serve_ready(chosen, Select::new(), service, ready),
        (Model::EpollOneshot, _) => {
            serve_ready(chosen, Epoll::new(Trigger::Oneshot)?, service, ready)
        }
        (Model::Sigio, _) => serve_ready(chosen, Sigio::new()?, service, ready),
        (Model::Nonblocking, _) => serve_ready(chosen, Spin::new(idle_sleep), service, ready),
        (Model::Coroutine, _) => serve_tasks(chosen, service, ready),
        (Model::Thread, _) => serve_blocking(chosen, Style::Threads, service, ready),
        (Model::Process, _) => serve_forked(chosen, service, ready),
        (Model::Blocking, _) => serve_blocking(chosen, Style::OneByOne, service, ready),
    }
}

fn serve_uring(
    chosen: Chosen,
    uring: Uring,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Some(recording) = service.trace.take() else { return serve_ring(uring, service, ready) };
    let about = Recorded {
        ring_fd: Some(uring.as_raw_fd()),
        more: vec![("completions".to_owned(), uring.completions().to_string())],
        ..recorded(chosen)
    };
    serve_ring(Traced::new(uring, recording.start(&about)?), service, ready)
}

fn serve_ring<R: Ring>(
    ring: R,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, limits, stop, console, .. } = service;
    let mut proactor = Proactor::new(ring, limits, stop)?;
    listeners.into_iter().for_each(|(fd, protocol)| proactor.listen(fd, protocol));
    console.map_or(Ok(()), |console| proactor.attend_to(console))?;
    ready();
    Ok((proactor.run()?, proactor.counters()))
}

fn serve_forked(
    chosen: Chosen,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Some(recording) = service.trace.take() else {
        return serve_by_children(PlainCalls, service, ready);
    };
    let log = recording.start_for(&recorded(chosen), Writers::Processes)?;
    serve_by_children(TracedCalls::new(log), service, ready)
}

fn serve_by_children<C: ForkHooks>(
    calls: C,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, buffers, limits, stop, .. } = service;
    let mut server = Processes::with_calls(calls, &buffers, limits, stop)?;
    for (fd, protocol) in listeners {
        server.listen(fd, protocol)?;
    }
    ready();
    Ok((server.run()?, server.counters()))
}

fn serve_ready<S: Selector + SocketCalls>(
    chosen: Chosen,
    selector: S,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Some(recording) = service.trace.take() else { return serve_on(selector, service, ready) };
    let log = recording.start(&recorded(chosen))?;
    serve_on(Traced::new(selector, log), service, ready)
}

fn serve_on<S: Selector + SocketCalls>(
    selector: S,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, buffers, limits, stop, console, .. } = service;
    let mut reactor = Reactor::new(selector, Pool::new(&buffers)?, limits, stop)?;
    for (fd, protocol) in listeners {
        reactor.listen(fd, protocol)?;
    }
    console.map_or(Ok(()), |console| reactor.attend_to(console))?;
    ready();
    Ok((reactor.run()?, reactor.counters()))
}

fn serve_tasks(
    chosen: Chosen,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Some(recording) = service.trace.take() else {
        return serve_by_tasks(PlainCalls, service, ready);
    };
    let log = recording.start_for(&recorded(chosen), Writers::Threads)?;
    serve_by_tasks(TracedCalls::on_nonblocking(log), service, ready)
}

fn serve_by_tasks<C: RuntimeHooks>(
    calls: C,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, buffers, limits, stop, console, .. } = service;
    let mut coroutines = Coroutines::with_calls(calls, Pool::new(&buffers)?, limits, stop)?;
    for (fd, protocol) in listeners {
        coroutines.listen(fd, protocol)?;
    }
    console.into_iter().for_each(|console| coroutines.attend_to(console));
    ready();
    Ok((coroutines.run()?, coroutines.counters()))
}

fn serve_blocking(
    chosen: Chosen,
    style: Style,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Some(recording) = service.trace.take() else {
        return serve_by_calls(PlainCalls, style, service, ready);
    };
    let log = recording.start_for(&recorded(chosen), Writers::Threads)?;
    serve_by_calls(TracedCalls::new(log), style, service, ready)
}

fn serve_by_calls<C: Calls>(
    calls: C,
    style: Style,
    service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, buffers, limits, stop, console, .. } = service;
    let mut server = Blocking::with_calls(calls, style, buffers, limits, stop)?;
    for (fd, protocol) in listeners {
        server.listen(fd, protocol)?;
    }
    console.into_iter().for_each(|console| server.attend_to(console));
    ready();
    Ok((server.run()?, server.counters()))
}

/// What a trace says of a model.
fn recorded(chosen: Chosen) -> Recorded {
    let (model, detail) = (chosen.model.name().to_owned(), chosen.describe());
    Recorded { model, detail, ..Recorded::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_is_chosen_by_its_name() {
        for model in Model::ALL {
            assert_eq!(model.name().parse(), Ok(Choice::Model(model)));
        }
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        let error = "kqueue".parse::<Choice>().unwrap_err();
        assert!(error.contains(r#""kqueue""#) && error.contains("epoll-et"), "{error}");
    }
}
