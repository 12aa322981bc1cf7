//! The I/O models as values: what is known of each, and how its engine is built.
//!
//! That the kernel *has* a feature does not mean that this process may use it: locked memory may be
//! limited, descriptors may run out, a sandbox may refuse one call and not the next. So an engine
//! is built in two steps. [`set_up`] creates and tries what could be refused, before the server
//! says that it serves. [`PreparedModel`] makes the engine of it, once it is known what is
//! recorded.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use proactor_record::{About, Recording, Writers};

use crate::buffer::{BufferClass, Pool};
use crate::engine::Engine;
use crate::limits::Limits;
use crate::memory_plan::{MemoryPlan, default_buffers};
use crate::os::ShutdownSignal;
use crate::polling::Polling;
use crate::proactor::Proactor;
use crate::reactor::Reactor;
use crate::refusal::Evidence;
use crate::ring::kernel::{Capability, Kernel, Version};
use crate::ring::{Config, Uring};
use crate::selector::{Epoll, Poll, Select, Selector, Trigger};
use crate::traced::Traced;

/// What an engine is built for.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The bounds of the server.
    pub limits: Limits,
    /// The buffer sizes, smallest first.
    pub buffers: Vec<BufferClass>,
    /// A ring uses no feature newer than this kernel.
    pub kernel: Option<Version>,
    /// A ring does not use these features, nor those that need them.
    pub without: Vec<Capability>,
    /// If true, a ring permits only the operations of a server, where the kernel can restrict it.
    pub restrict: bool,
    /// How long a busy-polling model sleeps after a pass that did nothing; without it, never.
    pub idle_sleep: Option<Duration>,
    /// Whether a loop polls before it sleeps: the models by io_uring and by epoll.
    pub polling: Polling,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        let limits = Limits::default();
        EngineOptions {
            buffers: default_buffers(&limits),
            limits,
            kernel: None,
            without: Vec::new(),
            restrict: true,
            idle_sleep: Some(Duration::from_millis(1)),
            polling: Polling::default(),
        }
    }
}

impl EngineOptions {
    /// Returns how the memory of a server by this model is divided.
    pub fn memory_plan(&self, model: Model) -> MemoryPlan {
        MemoryPlan::new(&self.limits, &self.buffers, model.0.memory)
    }
}

/// An ability that not every model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// The facts about a model, and how it is set up.
#[derive(Debug)]
pub struct ModelInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// How the model waits, in a few words.
    pub mechanism: &'static str,
    /// Bytes of user memory for each connection, apart from what is queued.
    pub memory: usize,
    /// The abilities that the model lacks, each with the reason.
    pub missing: &'static [(Ability, &'static str)],
    /// What makes its calls, and writes its recording: one loop, or several threads or processes.
    pub writers: Writers,
    /// Sets the model up, in the thread that will serve.
    pub set_up: fn(Model, &EngineOptions) -> io::Result<PreparedModel>,
}

impl ModelInfo {
    /// Returns the facts about a model with one loop, which serves all connections and lacks
    /// nothing.
    pub const fn of_loop(
        name: &'static str,
        mechanism: &'static str,
        set_up: fn(Model, &EngineOptions) -> io::Result<PreparedModel>,
    ) -> ModelInfo {
        let (memory, writers) = (4 << 10, Writers::One);
        ModelInfo { name, mechanism, memory, missing: &[], writers, set_up }
    }

    /// Returns the reason if the model lacks an ability. The conformance tests and `proactor
    /// models` read this table.
    pub fn missing(&self, ability: Ability) -> Option<&'static str> {
        self.missing.iter().find(|(lacked, _)| *lacked == ability).map(|&(_, why)| why)
    }

    /// Returns true if its records share iterations, and with them the clock, which is then not
    /// read for each.
    pub fn has_iterations(&self) -> bool {
        self.writers == Writers::One
    }

    /// Returns true if it forks: it needs a process with one thread.
    pub fn forks(&self) -> bool {
        self.writers == Writers::Processes
    }
}

/// A way to wait for many sockets at once. The models of this crate are constants of this type; the
/// crate `proactor-models` has further ones.
#[derive(Clone, Copy)]
pub struct Model(&'static ModelInfo);

impl Model {
    /// Completions of io_uring (Linux 5.6).
    pub const URING: Model = Model(&ModelInfo::of_loop(
        "uring",
        "completion: the kernel does the I/O and reports the result",
        ring,
    ));
    /// Readiness by epoll(7), level-triggered: the kernel reports what *is possible*.
    pub const EPOLL: Model =
        Model(&ModelInfo::of_loop("epoll", "readiness, level-triggered", |model, options| {
            readiness(model, options, epoll(options, Trigger::Level)?)
        }));
    /// Readiness by epoll(7), edge-triggered: the kernel reports what *has become possible*.
    pub const EPOLL_ET: Model =
        Model(&ModelInfo::of_loop("epoll-et", "readiness, edge-triggered", |model, options| {
            readiness(model, options, epoll(options, Trigger::Edge)?)
        }));
    /// Readiness by poll(2), level-triggered.
    pub const POLL: Model = Model(&ModelInfo::of_loop(
        "poll",
        "readiness, level-triggered (a list of all sockets)",
        |model, options| readiness(model, options, Poll::new()),
    ));
    /// Readiness by select(2), for descriptors below 1024.
    pub const SELECT: Model = Model(&ModelInfo::of_loop(
        "select",
        "readiness, level-triggered (three bit sets)",
        |model, options| readiness(model, options, Select::new()),
    ));

    /// The models of which a builder takes the first that works, unless it is given one.
    pub const AUTO: [Model; 4] = [Model::URING, Model::EPOLL, Model::POLL, Model::SELECT];

    /// A model of another crate.
    #[doc(hidden)]
    pub const fn new(info: &'static ModelInfo) -> Model {
        Model(info)
    }

    /// Returns the name, as on a command line.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns what is known of the model.
    #[doc(hidden)]
    pub fn info(self) -> &'static ModelInfo {
        self.0
    }

    /// Returns what a recording says about the model.
    #[doc(hidden)]
    pub fn about(self) -> About {
        let (model, detail) = (self.0.name.to_owned(), self.0.mechanism.to_owned());
        About { model, detail, one_thread: self.info().has_iterations(), ..About::default() }
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
    /// Formats the name of the mechanism.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Model::URING { "io_uring" } else { self.0.name })
    }
}

/// Builds the engine of a model, in the thread that set the model up: a server that the signal
/// stops, and that is recorded, if it is. It is generic inside, so that it calls its ring, its
/// selector or its calls directly, and dynamic outside, where there is one call for a run.
type Build = dyn FnOnce(ShutdownSignal, Option<Recording>) -> io::Result<Box<dyn Engine>>;

/// A model that is set up: what could be refused was granted.
pub struct PreparedModel {
    /// The model that was set up.
    pub model: Model,
    /// What it uses of the kernel, in a few words.
    pub detail: String,
    /// Why no better model was set up, in one line; empty if this is the best.
    pub reason: String,
    /// The features of io_uring that it uses, by their names.
    pub features: Vec<&'static str>,
    /// The number of operations that its ring permits; `None` if it permits all, or there is none.
    pub restricted: Option<usize>,
    /// Builds the engine, unless no descriptor or memory is left, or the recording cannot start.
    pub build: Box<Build>,
}

impl PreparedModel {
    /// A model whose engine `build` makes.
    pub fn new<B>(model: Model, build: B) -> PreparedModel
    where
        B: FnOnce(ShutdownSignal, Option<Recording>) -> io::Result<Box<dyn Engine>> + 'static,
    {
        let detail = model.0.mechanism.to_owned();
        let build = Box::new(build);
        PreparedModel {
            model,
            detail,
            reason: String::new(),
            features: Vec::new(),
            restricted: None,
            build,
        }
    }
}

impl fmt::Debug for PreparedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedModel").field("model", &self.model).finish_non_exhaustive()
    }
}

/// Sets up the model, or the first of [`Model::AUTO`] that is granted, in the thread that will
/// serve.
///
/// # Errors
/// The model is refused; without a name, all of them are.
pub fn set_up(model: Option<Model>, options: &EngineOptions) -> io::Result<PreparedModel> {
    let set_up_one = |model: Model| {
        let mut options = options.clone();
        options.limits.queues = options.memory_plan(model).queues;
        (model.0.set_up)(model, &options).map_err(|error| refused(model, error))
    };
    let Some(model) = model else {
        let (prepared, reason) = first(&Model::AUTO, set_up_one)?;
        return Ok(PreparedModel { reason, ..prepared });
    };
    set_up_one(model)
}

/// Returns the first model that can be made, and why each before it cannot.
fn first<T>(models: &[Model], make: impl Fn(Model) -> io::Result<T>) -> io::Result<(T, String)> {
    let mut passed_over = Vec::new();
    for &model in models {
        match make(model) {
            Ok(made) => return Ok((made, passed_over.join("; "))),
            Err(error) => passed_over.push(error.to_string()),
        }
    }
    Err(io::Error::other(format!("there is no way to wait here: {}", passed_over.join("; "))))
}

/// Names the model that is refused, and the way out where one is known; a ring's refusal, which is
/// no error of a call, does so itself.
fn refused(model: Model, error: io::Error) -> io::Error {
    let way_out = match error.raw_os_error() {
        None if model == Model::URING => return error,
        Some(libc::EMFILE) => " (raise `ulimit -n`)",
        Some(libc::ENOMEM) => " (raise `ulimit -v` or the memory limit of the cgroup)",
        Some(libc::ENOSYS | libc::EPERM) if Evidence::read().has_filter() => {
            " (most likely by a seccomp filter)"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("{model} is refused: {error}{way_out}"))
}

/// Sets up the loop of completions.
fn ring(model: Model, options: &EngineOptions) -> io::Result<PreparedModel> {
    let EngineOptions { limits, buffers, kernel: ceiling, without, restrict, polling, .. } =
        options.clone();
    let mut kernel = Kernel::detect()?;
    polling.check()?;
    if !restrict {
        kernel = kernel.without(Capability::Restrictions);
    }
    if let Some(ceiling) = ceiling {
        kernel = kernel.lowered_to(ceiling)?;
    }
    kernel = without.into_iter().fold(kernel, Kernel::without);
    if polling.sqpoll.is_some() {
        kernel = kernel.with_sqpoll()?;
    }
    let connections = limits.connections;
    let ring = Uring::new(Config { kernel, connections, buffers, addresses: true, polling })?;
    let (detail, restricted) = (kernel.describe() + &polling.describe(), ring.restricted());
    let about = About {
        detail: detail.clone(),
        ring_fd: Some(ring.as_raw_fd()),
        setup_flags: ring.setup_flags(),
        more: vec![("completions".to_owned(), ring.completions().to_string())],
        ..model.about()
    };
    let prepared = PreparedModel::new(model, move |shutdown, recording| {
        let Some(recording) = recording else {
            return Ok(Box::new(Proactor::new(ring, limits, shutdown)?));
        };
        let ring = Traced::new(ring, recording.start(&about)?);
        Ok(Box::new(Proactor::new(ring, limits, shutdown)?))
    });
    let features = kernel.in_use().map(Capability::name).collect();
    Ok(PreparedModel { detail, features, restricted, ..prepared })
}

/// Creates the selector of a loop by epoll(7).
///
/// # Errors
/// No descriptor is left.
pub fn epoll(options: &EngineOptions, trigger: Trigger) -> io::Result<Epoll> {
    Ok(Epoll::new(trigger)?.spinning(options.polling.spin))
}

/// Sets up the loop of readiness on `selector`, which is used once: a sandbox may permit to create
/// a selector and refuse to use it.
///
/// # Errors
/// The selector does not wait.
pub fn readiness<S: Selector + 'static>(
    model: Model,
    options: &EngineOptions,
    mut selector: S,
) -> io::Result<PreparedModel> {
    selector.wait(&mut Vec::new(), Some(Duration::ZERO))?;
    let (limits, pool) = (options.limits.clone(), Pool::new(&options.buffers)?);
    Ok(PreparedModel::new(model, move |shutdown, recording| {
        let Some(recording) = recording else {
            return Ok(Box::new(Reactor::new(selector, pool, limits, shutdown)?));
        };
        let selector = Traced::new(selector, recording.start(&model.about())?);
        Ok(Box::new(Reactor::new(selector, pool, limits, shutdown)?))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which model `auto` takes if these are refused with these errors, and its message.
    fn taken_without(refusals: &[(Model, i32)]) -> (Option<Model>, String) {
        let made = first(&Model::AUTO, |model| {
            let found = refusals.iter().find(|(refuser, _)| *refuser == model);
            found.map_or(Ok(model), |&(_, errno)| {
                Err(refused(model, io::Error::from_raw_os_error(errno)))
            })
        });
        match made {
            Ok((model, reason)) => (Some(model), reason),
            Err(error) => (None, error.to_string()),
        }
    }

    #[test]
    fn auto_takes_the_best_that_can_be_set_up_and_states_why_no_better() {
        assert_eq!(taken_without(&[]), (Some(Model::URING), String::new()));
        let mut refusals = vec![(Model::URING, libc::ENOMEM)];
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::EPOLL));
        assert!(reason.starts_with("io_uring is refused: ") && !reason.contains(';'), "{reason}");
        assert!(reason.contains("ulimit -v"), "{reason}");
        refusals.push((Model::EPOLL, libc::EMFILE));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::POLL));
        assert!(
            reason.contains("; epoll is refused: ") && reason.contains("ulimit -n"),
            "{reason}"
        );
        refusals.push((Model::POLL, libc::ENOSYS));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::SELECT));
        let denied = io::Error::from_raw_os_error(libc::ENOSYS);
        let filter = match Evidence::read().has_filter() {
            true => " (most likely by a seccomp filter)",
            false => "",
        };
        let text = format!("; poll is refused: {denied}{filter}");
        assert!(reason.ends_with(&text), "{reason}");
        refusals.push((Model::SELECT, libc::ENOSYS));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, None);
        assert!(reason.contains("io_uring") && reason.contains("select is refused"), "{reason}");
        assert!(!reason.contains('\n'));
    }

    #[test]
    fn auto_falls_back_from_a_ring_and_the_ring_by_name_does_not() {
        let kernel = Some(Version { major: 5, minor: 5 });
        let options = EngineOptions { kernel, ..EngineOptions::default() };
        let prepared = set_up(None, &options).expect("epoll is everywhere");
        assert_eq!(prepared.model, Model::EPOLL);
        assert!(prepared.reason.contains("io_uring"), "{}", prepared.reason);
        set_up(Some(Model::URING), &options).expect_err("no ring of that age");
        let prepared = set_up(Some(Model::SELECT), &options).expect("select is everywhere");
        assert_eq!((prepared.model, prepared.reason), (Model::SELECT, String::new()));
    }
}
