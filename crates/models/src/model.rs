//! The I/O models by name, and how to serve with each.

mod prepare;

pub use prepare::{PreparedModel, RingOptions};

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::time::Duration;

use crate::blocking::{Blocking, Style};
use crate::coroutine::{Coroutines, RuntimeHooks};
use crate::processes::{ForkHooks, Processes};
use crate::registry::NamedProtocol;
use prepare::Waiting;
use proactor::address::BoundSocket;
use proactor::buffer::{BufferClass, Pool};
use proactor::calls::{PlainCalls, SocketCalls};
use proactor::console::{Console, ListenerInfo};
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::keys::ListenerId;
use proactor::limits::{Ended, Limits};
use proactor::os::ShutdownSignal;
use proactor::proactor::Proactor;
use proactor::reactor::Reactor;
use proactor::ring::Uring;
use proactor::ring::kernel::Kernel;
use proactor::selector::{Epoll, Poll, Select, Selector, Sigio, Spin, Trigger};
use proactor::traced::{Traced, TracedCalls};
use proactor_record::{About as Recorded, Recording, Writers};

/// A way to wait for many sockets at once. The variants are in historical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// One connection at a time, and then the next.
    Blocking,
    /// A process for each connection, forked for it.
    Process,
    /// Busy polling: recv on every socket.
    Nonblocking,
    /// Readiness, polled by select(2).
    Select,
    /// Readiness, polled by poll(2).
    Poll,
    /// A thread for each connection, which sleeps in its calls.
    Thread,
    /// Signals: one for every change of a socket.
    Sigio,
    /// Readiness by epoll, level-triggered: the kernel reports what *is possible*.
    Epoll,
    /// Readiness by epoll, edge-triggered: the kernel reports what *has become possible*.
    EpollEt,
    /// Readiness by epoll, reported once until it is armed again.
    EpollOneshot,
    /// A task for each connection, on an executor.
    Coroutine,
    /// Asynchronous I/O: the kernel reports what *is done*.
    Uring,
}

/// An ability that not every model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ability {
    /// Serving several connections at a time, which can broadcast to one another.
    Crowd,
    /// Receiving from a peer that is owed more than its socket takes.
    Duplex,
    /// Serving many idle connections without a thread or a process for each.
    Frugality,
    /// Serving an operator console.
    Console,
}

impl Ability {
    /// Every ability, in the order of declaration.
    pub const ALL: [Ability; 4] =
        [Ability::Crowd, Ability::Duplex, Ability::Frugality, Ability::Console];

    /// Returns what a model without the ability does not do.
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
#[derive(Debug)]
pub struct Facts {
    /// The name on the command line.
    pub name: &'static str,
    /// How the model waits, in a few words.
    pub mechanism: &'static str,
    /// The system calls per message, with one message at a time.
    pub calls: &'static str,
    /// The limits and the costs apart from the calls.
    pub limits: &'static str,
    /// The first version of Linux that has it.
    pub since: &'static str,
    /// The abilities that the model lacks, each with the reason.
    missing: &'static [(Ability, &'static str)],
}

/// What is known of every model, in the order of [`Model`].
const FACTS: [Facts; 12] = [
    Facts {
        name: "blocking",
        mechanism: "blocked in recv, for one connection",
        calls: "2: recv, send",
        limits: "one connection at a time; further ones wait",
        since: "1.0",
        missing: &[
            (Ability::Crowd, "the next is accepted when the current one is closed"),
            (Ability::Duplex, "a thread blocked in send cannot receive"),
        ],
    },
    Facts {
        name: "process",
        mechanism: "a forked process per connection, blocked in recv",
        calls: "2: recv, send",
        limits: "a process per connection; a fork per accept",
        since: "2.6.22",
        missing: &[
            (Ability::Frugality, "each connection has a process"),
            (Ability::Console, "each connection belongs to another process"),
        ],
    },
    Facts {
        name: "nonblocking",
        mechanism: "busy polling: recv on every socket",
        calls: "a recv for each connection and pass",
        limits: "uses a whole CPU, or adds the delay of --idle-sleep",
        since: "1.0",
        missing: &[],
    },
    Facts {
        name: "select",
        mechanism: "readiness, level-triggered (three bit sets)",
        calls: "3: select, recv, send",
        limits: "descriptors below 1024 (FD_SETSIZE); a wait takes time for each",
        since: "1.0",
        missing: &[],
    },
    Facts {
        name: "poll",
        mechanism: "readiness, level-triggered (a list of all sockets)",
        calls: "3: poll, recv, send",
        limits: "each wait takes time for every connection",
        since: "2.2",
        missing: &[],
    },
    Facts {
        name: "thread",
        mechanism: "a thread per connection, blocked in recv",
        calls: "2: recv, send",
        limits: "a stack per connection; a context switch per message",
        since: "2.6",
        missing: &[
            (Ability::Duplex, "a thread blocked in send cannot receive"),
            (Ability::Frugality, "each connection has a thread"),
        ],
    },
    Facts {
        name: "sigio",
        mechanism: "a real-time signal for each change (O_ASYNC)",
        calls: "5: poll, read (the signal), poll, recv, send",
        limits: "`ulimit -i` queued signals; after an overflow all sockets are polled",
        since: "2.6.32",
        missing: &[],
    },
    Facts {
        name: "epoll",
        mechanism: "readiness, level-triggered",
        calls: "3: epoll_wait, recv, send",
        limits: "an epoll_ctl for each change of interest",
        since: "2.6",
        missing: &[],
    },
    Facts {
        name: "epoll-et",
        mechanism: "readiness, edge-triggered",
        calls: "3: epoll_wait, recv, send",
        limits: "the server must remember which sockets are still ready",
        since: "2.6",
        missing: &[],
    },
    Facts {
        name: "epoll-oneshot",
        mechanism: "readiness, one-shot",
        calls: "4: epoll_wait, recv, send, epoll_ctl",
        limits: "useful only if several threads share an epoll",
        since: "2.6.2",
        missing: &[],
    },
    Facts {
        name: "coroutine",
        mechanism: "a task per connection, on an executor (tokio, on epoll)",
        calls: "3: epoll_wait, recv, send",
        limits: "the memory of a task per connection",
        since: "2.6",
        missing: &[],
    },
    Facts {
        name: "uring",
        mechanism: "completion: the kernel does the I/O and reports the result",
        calls: "1: io_uring_enter",
        limits: "locked memory (`ulimit -l`) on old kernels; forbidden in many containers",
        since: "5.6",
        missing: &[],
    },
];

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

    /// Returns the facts about the model.
    pub fn about(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// Returns the reason if the model lacks an ability. The conformance tests and `proactor
    /// models` read this table.
    pub fn missing(self, ability: Ability) -> Option<&'static str> {
        let mut missing = self.about().missing.iter();
        missing.find(|(lacked, _)| *lacked == ability).map(|&(_, why)| why)
    }

    /// Returns true if its records share iterations, and with them the clock, which is then not
    /// read for each.
    pub fn has_iterations(self) -> bool {
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
    /// Formats the name of the mechanism.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Model::Uring { "io_uring" } else { self.name() })
    }
}

/// The argument of `--model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This model or none.
    Model(Model),
    /// The best model that this machine permits.
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

/// A model that can serve on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// The model that was chosen.
    pub model: Model,
    /// The features of the kernel's io_uring that it uses, if it is that.
    pub kernel: Kernel,
}

impl Chosen {
    /// Describes what it uses of the kernel, in a few words.
    pub fn describe(&self) -> String {
        match self.model {
            Model::Uring => self.kernel.describe(),
            model => model.about().mechanism.to_owned(),
        }
    }
}

/// A socket to serve at, and its protocol.
#[derive(Debug)]
pub struct Listening {
    /// The socket and its address.
    pub socket: BoundSocket,
    /// What each of its connections starts with.
    pub protocol: NamedProtocol,
}

impl Listening {
    /// Returns its address and protocol as text, for an operator.
    pub fn info(&self) -> ListenerInfo {
        ListenerInfo {
            address: self.socket.address.to_string(),
            protocol: self.protocol.to_string(),
        }
    }
}

/// What to serve, and within what bounds.
#[derive(Debug)]
pub struct Service {
    /// Where to serve what, in the order of the listeners' numbers.
    pub listeners: Vec<Listening>,
    /// The buffer sizes, smallest first.
    pub buffers: Vec<BufferClass>,
    /// What bounds the server.
    pub limits: Limits,
    /// The signal that stops the server.
    pub stop: ShutdownSignal,
    /// How long [`Nonblocking`](Model::Nonblocking) sleeps after an idle pass.
    pub idle_sleep: Option<Duration>,
    /// The operator console, if there is one and the model [supports](Ability::Console) it.
    pub console: Option<Console>,
    /// What to record, if anything.
    pub trace: Option<Recording>,
}

/// Serves until stopped. `ready` is called once everything is set up and connections are accepted.
/// The bounds and buffers of the service are those that the model was prepared for.
///
/// # Errors
/// The model cannot be set up after all, or the kernel fails it as a whole.
pub fn serve(
    prepared: PreparedModel,
    mut service: Service,
    ready: impl FnOnce(),
) -> io::Result<(Ended, Counters)> {
    let (listeners, console) = (std::mem::take(&mut service.listeners), service.console.take());
    let mut engine = build(prepared, service)?;
    let mut files = Vec::new();
    for (id, Listening { socket, protocol }) in (0..).map(ListenerId).zip(listeners) {
        engine.listen(id, socket.fd, protocol.factory().clone())?;
        files.push(socket.file); // Removed when the server has ended.
    }
    console.map_or(Ok(()), |console| engine.set_console(console))?;
    ready();
    Ok((engine.run()?, engine.counters()))
}

/// Builds the engine of a model: generic inside, so that it calls its ring, its selector or its
/// calls directly, and dynamic outside, where there is one call for a run.
fn build(prepared: PreparedModel, service: Service) -> io::Result<Box<dyn Engine>> {
    let (chosen, idle_sleep) = (prepared.chosen(), service.idle_sleep);
    let model = chosen.model;
    match (model, prepared.into_waiting()) {
        (_, Waiting::Ring(ring)) => build_proactor(chosen, *ring, service),
        (_, Waiting::Epoll(epoll)) => build_reactor(chosen, epoll, service),
        (Model::Uring | Model::Epoll, Waiting::Later) => unreachable!("they are prepared"),
        (Model::EpollEt, _) => build_reactor(chosen, Epoll::new(Trigger::Edge)?, service),
        (Model::Poll, _) => build_reactor(chosen, Poll::new(), service),
        (Model::Select, _) => build_reactor(chosen, Select::new(), service),
        (Model::EpollOneshot, _) => build_reactor(chosen, Epoll::new(Trigger::Oneshot)?, service),
        (Model::Sigio, _) => build_reactor(chosen, Sigio::new()?, service),
        (Model::Nonblocking, _) => build_reactor(chosen, Spin::new(idle_sleep), service),
        (Model::Coroutine | Model::Thread | Model::Process | Model::Blocking, _) => {
            build_by_calls(chosen, service)
        }
    }
}

fn build_proactor(chosen: Chosen, ring: Uring, service: Service) -> io::Result<Box<dyn Engine>> {
    let Service { limits, stop, trace, .. } = service;
    let Some(recording) = trace else { return Ok(Box::new(Proactor::new(ring, limits, stop)?)) };
    let about = Recorded {
        ring_fd: Some(ring.as_raw_fd()),
        setup_flags: ring.setup_flags(),
        more: vec![("completions".to_owned(), ring.completions().to_string())],
        ..recorded(chosen)
    };
    let ring = Traced::new(ring, recording.start(&about)?);
    Ok(Box::new(Proactor::new(ring, limits, stop)?))
}

fn build_reactor<S: Selector + SocketCalls + 'static>(
    chosen: Chosen,
    selector: S,
    service: Service,
) -> io::Result<Box<dyn Engine>> {
    let Service { buffers, limits, stop, trace, .. } = service;
    let pool = Pool::new(&buffers)?;
    let Some(recording) = trace else {
        return Ok(Box::new(Reactor::new(selector, pool, limits, stop)?));
    };
    let selector = Traced::new(selector, recording.start(&recorded(chosen))?);
    Ok(Box::new(Reactor::new(selector, pool, limits, stop)?))
}

/// Builds a model that makes its calls through [`Calls`](proactor::calls::Calls).
fn build_by_calls(chosen: Chosen, mut service: Service) -> io::Result<Box<dyn Engine>> {
    let Some(recording) = service.trace.take() else {
        return build_with(chosen.model, PlainCalls, service);
    };
    let (about, model) = (recorded(chosen), chosen.model);
    let writers = match model {
        Model::Process => Writers::Processes,
        _ => Writers::Threads,
    };
    let log = recording.start_for(&about, writers)?;
    let calls = match model {
        Model::Coroutine => TracedCalls::on_nonblocking(log),
        _ => TracedCalls::new(log),
    };
    build_with(model, calls, service)
}

fn build_with<C: RuntimeHooks + ForkHooks>(
    model: Model,
    calls: C,
    service: Service,
) -> io::Result<Box<dyn Engine>> {
    let Service { buffers, limits, stop, .. } = service;
    Ok(match model {
        Model::Coroutine => Box::new(Coroutines::new(calls, Pool::new(&buffers)?, limits, stop)?),
        Model::Process => Box::new(Processes::new(calls, &buffers, limits, stop)?),
        Model::Blocking => Box::new(Blocking::new(calls, Style::OneByOne, buffers, limits, stop)?),
        _ => Box::new(Blocking::new(calls, Style::Threads, buffers, limits, stop)?),
    })
}

/// Returns what a trace records about a model.
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
