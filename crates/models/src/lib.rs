//! The I/O models by name, and the servers that do not wait in a loop of the core: threads,
//! processes and coroutines.
#![deny(unsafe_code)]

mod blocking;
mod coroutine;
mod driver;
mod hooks;
mod processes;
pub mod registry;

use std::io;

use proactor::Model;
use proactor::address::BoundSocket;
use proactor::buffer::Pool;
use proactor::calls::PlainCalls;
use proactor::console::Console;
use proactor::counters::Counters;
use proactor::engine::{self, Engine};
use proactor::limits::Ended;
use proactor::model::{self, Ability, EngineOptions, ModelInfo, PreparedModel};
use proactor::os::ShutdownSignal;
use proactor::os::process::{self, Alone};
use proactor::peer::Factory;
use proactor::selector::{Sigio, Spin, Trigger};
use proactor::status::ServerMonitor;
use proactor::traced::TracedCalls;
use proactor_record::{About, Recording, Writers};

use blocking::{Blocking, Style};
use coroutine::Coroutines;
use hooks::CallHooks;
use processes::Processes;

/// One connection at a time, and then the next.
pub const BLOCKING: Model = Model::new(&ModelInfo {
    name: "blocking",
    mechanism: "blocked in recv, for one connection",
    memory: 64 << 10,
    missing: &[
        (Ability::Crowd, "the next is accepted when the current one is closed"),
        (Ability::Duplex, "a thread blocked in send cannot receive"),
    ],
    writers: Writers::Threads,
    set_up: by_calls,
});
/// A process for each connection, forked for it. It supports only
/// [`run`](proactor::Server::run), in a process with one thread, and no protocol that needs shared
/// memory.
pub const PROCESS: Model = Model::new(&ModelInfo {
    name: "process",
    mechanism: "a forked process per connection, blocked in recv",
    memory: 1 << 20,
    missing: &[
        (Ability::Frugality, "each connection has a process"),
        (Ability::Console, "each connection belongs to another process"),
    ],
    writers: Writers::Processes,
    set_up: by_calls,
});
/// Busy polling: recv on every socket.
pub const NONBLOCKING: Model = Model::new(&ModelInfo::of_loop(
    "nonblocking",
    "busy polling: recv on every socket",
    |model, options| model::readiness(model, options, Spin::new(options.idle_sleep)),
));
/// A thread for each connection, which sleeps in its calls.
pub const THREAD: Model = Model::new(&ModelInfo {
    name: "thread",
    mechanism: "a thread per connection, blocked in recv",
    memory: 64 << 10,
    missing: &[
        (Ability::Duplex, "a thread blocked in send cannot receive"),
        (Ability::Frugality, "each connection has a thread"),
    ],
    writers: Writers::Threads,
    set_up: by_calls,
});
/// Real-time signals: one for every change of a socket.
pub const SIGIO: Model = Model::new(&ModelInfo::of_loop(
    "sigio",
    "a real-time signal for each change (O_ASYNC)",
    |model, options| model::readiness(model, options, Sigio::new()?),
));
/// Readiness by epoll(7), reported once until it is armed again.
pub const EPOLL_ONESHOT: Model =
    Model::new(&ModelInfo::of_loop("epoll-oneshot", "readiness, one-shot", |model, options| {
        model::readiness(model, options, model::epoll(options, Trigger::Oneshot)?)
    }));
/// A task for each connection, on the executor of tokio.
pub const COROUTINE: Model = Model::new(&ModelInfo {
    name: "coroutine",
    mechanism: "a task per connection, on an executor (tokio, on epoll)",
    memory: 6 << 10,
    missing: &[],
    writers: Writers::Threads,
    set_up: by_calls,
});

/// The models of the core and of this crate, in historical order. All lists of models have this
/// order.
pub const ALL: [Model; 12] = [
    BLOCKING,
    PROCESS,
    NONBLOCKING,
    Model::SELECT,
    Model::POLL,
    THREAD,
    SIGIO,
    Model::EPOLL,
    Model::EPOLL_ET,
    EPOLL_ONESHOT,
    COROUTINE,
    Model::URING,
];

/// Returns the model of this name.
pub fn find(name: &str) -> Option<Model> {
    ALL.into_iter().find(|model| model.name() == name)
}

/// What the commands say about a model: a row of `facts.txt`, behind its name.
#[derive(Debug, Clone, Copy)]
pub struct ModelFacts {
    /// The system calls per message, with one message at a time.
    pub calls: &'static str,
    /// The limits and the costs apart from the calls.
    pub limits: &'static str,
    /// The first version of Linux that has it.
    pub since: &'static str,
    /// What `proactor explain` says about its calls, in one sentence.
    pub summary: &'static str,
}

/// Returns what the commands say about a model.
pub fn facts(model: Model) -> ModelFacts {
    let rows = include_str!("facts.txt").lines();
    let mut rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let row = rows.find(|row| row[0] == model.name()).expect("a row for each model");
    let [_, calls, limits, since, summary] = row[..] else { panic!("not a row: {row:?}") };
    ModelFacts { calls, limits, since, summary }
}

/// Returns the reason if the model cannot be set up on this machine.
pub fn refusal(model: Model) -> Option<String> {
    model::set_up(Some(model), &EngineOptions::default()).err().map(|error| error.to_string())
}

/// The argument of `--model`: a model, or none for `auto`, the best that this machine permits.
/// Another name, because `Option` has a meaning of its own to clap.
pub type Choice = Option<Model>;

/// Parses the argument of `--model`.
///
/// # Errors
/// A sentence that names the models.
pub fn choose(name: &str) -> Result<Choice, String> {
    match find(name) {
        None if name != "auto" => {
            let names = ALL.map(Model::name).join(", ");
            Err(format!("unknown model {name:?}: use one of {names}, auto"))
        }
        found => Ok(found),
    }
}

/// A socket to listen on, and what makes the protocols of its connections.
pub type Listening = (BoundSocket, Factory);

/// What a server serves, beside the limits and buffers that its model was set up for.
#[derive(Debug)]
pub struct Service {
    /// The listeners, in the order of their numbers.
    pub listeners: Vec<Listening>,
    /// The signal that stops the server.
    pub stop: ShutdownSignal,
    /// The operator console, if there is one and the model [supports](Ability::Console) it.
    pub console: Option<Console>,
    /// What watches the server, if anything does.
    pub monitor: Option<Box<dyn ServerMonitor>>,
    /// What to record, if anything.
    pub trace: Option<Recording>,
}

/// Serves until stopped. `ready` is called once everything is set up and connections are accepted.
///
/// # Errors
/// The engine cannot be built after all, `ready` fails, or the kernel fails it as a whole.
pub fn serve(
    prepared: PreparedModel,
    service: Service,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<(Ended, Counters)> {
    let Service { listeners, stop, console, monitor, trace } = service;
    let mut engine = (prepared.build)(stop, trace)?;
    // The files of Unix sockets are removed when the server has ended.
    let _files = engine::listen_all(&mut *engine, listeners)?;
    console.map_or(Ok(()), |console| engine.set_console(console))?;
    monitor.map_or(Ok(()), |monitor| engine.set_monitor(monitor))?;
    ready()?;
    Ok((engine.run(None)?, engine.counters()))
}

/// Sets up a model that makes its calls through [`Calls`](proactor::calls::Calls).
///
/// # Errors
/// It cannot make what serves a connection.
fn by_calls(model: Model, options: &EngineOptions) -> io::Result<PreparedModel> {
    match try_server_of_connection(model) {
        // Short for now; a connection that finds it short waits.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        tried => tried?,
    }
    let options = options.clone();
    Ok(PreparedModel::new(model, move |stop, recording| {
        let Some(recording) = recording else { return build(model, PlainCalls, options, stop) };
        let about = About { one_thread: model == COROUTINE, ..model.about() };
        let log = recording.start_for(&about, model.info().writers)?;
        build(model, TracedCalls::new(log, model != COROUTINE), options, stop)
    }))
}

/// Makes a thread or a process as each connection will need one, and waits for its end: a sandbox
/// may permit to listen, and refuse this.
fn try_server_of_connection(model: Model) -> io::Result<()> {
    if model == THREAD || model == BLOCKING {
        let _ = std::thread::Builder::new().spawn(|| ())?.join();
    }
    // In a process with several threads, the engine will say that it cannot fork.
    if model == PROCESS
        && let Ok(alone) = Alone::check()
    {
        let child = process::fork(&alone, &[], |_| 0)?;
        // Without a status, SIGCHLD was ignored when this process began, and the child is gone.
        if process::wait(child).is_ok_and(|status| !status.success()) {
            return Err(io::Error::other("a child process cannot be set up"));
        }
        process::ended()?;
    }
    Ok(())
}

fn build<C: CallHooks>(
    model: Model,
    calls: C,
    options: EngineOptions,
    stop: ShutdownSignal,
) -> io::Result<Box<dyn Engine>> {
    let EngineOptions { limits, buffers, .. } = options;
    if model == COROUTINE {
        return Ok(Box::new(Coroutines::new(calls, Pool::new(&buffers)?, limits, stop)?));
    }
    if model == PROCESS {
        return Ok(Box::new(Processes::new(calls, buffers, limits, stop)?));
    }
    let style = if model == BLOCKING { Style::OneByOne } else { Style::Threads };
    Ok(Box::new(Blocking::new(calls, style, buffers, limits, stop)?))
}

#[cfg(test)]
mod tests {
    use proactor_record::{Settings, Trace};

    use super::*;

    #[test]
    fn every_model_is_chosen_by_its_name() {
        for model in ALL {
            assert_eq!(choose(model.name()), Ok(Some(model)));
        }
        assert_eq!(choose("auto"), Ok(None));
        let error = choose("kqueue").unwrap_err();
        assert!(error.contains(r#""kqueue""#) && error.contains("epoll-et"), "{error}");
    }

    /// A model that is paired with the facts of another one would say so in its recordings.
    #[test]
    fn the_recording_of_every_model_has_its_own_name_and_mechanism() {
        for model in ALL.into_iter().filter(|&model| model != PROCESS) {
            let Ok(prepared) = model::set_up(Some(model), &EngineOptions::default()) else {
                assert_eq!(model, Model::URING, "only a ring may be refused");
                continue;
            };
            let (detail, file) = (prepared.detail.clone(), tempfile::tempfile().unwrap());
            let mut recording = Recording { file, settings: Settings::default() };
            recording.settings.bytes = 1 << 20;
            let file = recording.file.try_clone().unwrap();
            let engine = (prepared.build)(ShutdownSignal::new().unwrap(), Some(recording)).unwrap();
            let header = Trace::from_file(&file).unwrap().header;
            assert_eq!(header.model(), model.name());
            assert!(header.text.contains(&("detail".to_owned(), detail)), "{:?}", header.text);
            assert_eq!(header.writers, model.info().writers);
            drop(engine);
        }
    }
}
