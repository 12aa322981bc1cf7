//! Setting a model up, before the server promises anything.
//!
//! That the kernel *has* a feature does not mean that this process may use it: locked memory may be
//! limited, descriptors may run out, a sandbox may refuse one call and not the next. So
//! [`Choice::Auto`] takes the first of ring, epoll, poll and select that was really set up, and
//! reports why each earlier one was not.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use super::{Choice, Chosen, Model};
use proactor::buffer::BufferClass;
use proactor::limits::Limits;
use proactor::os::{self, FdSet};
use proactor::ring::kernel::{Capability, Kernel, Refusal, Version};
use proactor::ring::{Config, Uring};
use proactor::selector::{Epoll, Selector, Trigger};

/// The models that `auto` tries, the best first.
const AUTO: [Model; 4] = [Model::Uring, Model::Epoll, Model::Poll, Model::Select];

/// What a ring may use.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingOptions {
    /// Nothing newer than this kernel.
    pub ceiling: Option<Version>,
    /// Plain descriptors as sockets, which have addresses: a slot of the ring's own table has none.
    pub addressable: bool,
}

/// A model that is set up: everything that could be refused was granted.
#[derive(Debug)]
pub struct PreparedModel {
    chosen: Chosen,
    waiting: Waiting,
    /// Why each better model was refused.
    passed_over: Vec<String>,
}

/// The mechanism that it waits with.
#[derive(Debug)]
pub(super) enum Waiting {
    Ring(Box<Uring>),
    Epoll(Epoll),
    /// Created by the engine: it cannot be refused, or only then.
    Later,
}

impl PreparedModel {
    /// Sets the chosen model up, for a server with these bounds and buffers, on the thread that
    /// will serve. With [`Choice::Auto`] it is the first of ring, epoll, poll and select that is
    /// granted.
    ///
    /// # Errors
    /// The named model is refused; or, with `Auto`, all of them are.
    pub fn set_up(
        choice: Choice,
        terms: RingOptions,
        limits: &Limits,
        buffers: &[BufferClass],
    ) -> io::Result<PreparedModel> {
        let make = |model| make(model, terms, limits, buffers);
        match choice {
            Choice::Model(model) => {
                let (chosen, waiting) = make(model)?;
                Ok(PreparedModel { chosen, waiting, passed_over: Vec::new() })
            }
            Choice::Auto => {
                let ((chosen, waiting), passed_over) = first(&AUTO, make)?;
                Ok(PreparedModel { chosen, waiting, passed_over })
            }
        }
    }

    /// Returns the model that was set up.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }

    /// Returns why no better model was set up, in one line; empty if this is the best.
    pub fn reason(&self) -> String {
        self.passed_over.join("; ")
    }

    pub(super) fn into_waiting(self) -> Waiting {
        self.waiting
    }
}

/// Returns the first model that can be made, and why each before it cannot.
fn first<T>(
    models: &[Model],
    mut make: impl FnMut(Model) -> io::Result<T>,
) -> io::Result<(T, Vec<String>)> {
    let mut passed_over = Vec::new();
    for &model in models {
        match make(model) {
            Ok(made) => return Ok((made, passed_over)),
            Err(error) => passed_over.push(error.to_string()),
        }
    }
    Err(io::Error::other(format!("there is no way to wait here: {}", passed_over.join("; "))))
}

fn make(
    model: Model,
    terms: RingOptions,
    limits: &Limits,
    buffers: &[BufferClass],
) -> io::Result<(Chosen, Waiting)> {
    let refused = |error: io::Error| refused(model, &error);
    let (kernel, waiting) = match model {
        Model::Uring => {
            let kernel = kernel(terms).map_err(io::Error::other)?;
            let (connections, buffers) = (limits.connections, buffers.to_vec());
            let ring = Uring::new(Config { kernel, connections, buffers, addresses: true });
            (kernel, Waiting::Ring(Box::new(ring.map_err(refused)?)))
        }
        Model::Epoll => (Kernel::OLDEST, Waiting::Epoll(epoll().map_err(refused)?)),
        Model::Poll => {
            os::poll(&mut [], Some(Duration::ZERO)).map_err(refused)?;
            (Kernel::OLDEST, Waiting::Later)
        }
        Model::Select => {
            let (mut read, mut write) = (FdSet::default(), FdSet::default());
            os::select(0, &mut read, &mut write, Some(Duration::ZERO)).map_err(refused)?;
            (Kernel::OLDEST, Waiting::Later)
        }
        _ => (Kernel::OLDEST, Waiting::Later),
    };
    Ok((Chosen { model, kernel }, waiting))
}

fn kernel(terms: RingOptions) -> Result<Kernel, Refusal> {
    let kernel = Kernel::detect()?;
    let kernel = terms.ceiling.map_or(Ok(kernel), |ceiling| kernel.lowered_to(ceiling))?;
    Ok(if terms.addressable { kernel.without(Capability::Direct) } else { kernel })
}

/// Creates an epoll and uses it once: a sandbox may permit the one and not the other.
fn epoll() -> io::Result<Epoll> {
    let mut epoll = Epoll::new(Trigger::Level)?;
    epoll.wait(&mut Vec::new(), Some(Duration::ZERO))?;
    Ok(epoll)
}

/// Names the model that is refused, and the way out where one is known; a ring's refusal does so
/// itself.
fn refused(model: Model, error: &io::Error) -> io::Error {
    let text = match (error.get_ref(), error.raw_os_error()) {
        (Some(inner), _) if inner.is::<Refusal>() => inner.to_string(),
        (_, Some(libc::EMFILE)) => line(model, error, " (raise `ulimit -n`)"),
        (_, Some(libc::ENOSYS | libc::EPERM)) => line(model, error, " (most likely a sandbox)"),
        _ => line(model, error, ""),
    };
    io::Error::new(error.kind(), text)
}

fn line(model: Model, error: &dyn Display, way_out: &str) -> String {
    format!("{model} is refused: {error}{way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which model `auto` takes if these are refused with these errors, and its message.
    fn taken_without(refusals: &[(Model, i32)]) -> (Option<Model>, String) {
        let made = first(&AUTO, |model| {
            let found = refusals.iter().find(|(refuser, _)| *refuser == model);
            found.map_or(Ok(model), |&(_, errno)| {
                Err(refused(model, &io::Error::from_raw_os_error(errno)))
            })
        });
        match made {
            Ok((model, passed_over)) => (Some(model), passed_over.join("; ")),
            Err(error) => (None, error.to_string()),
        }
    }

    #[test]
    fn auto_takes_the_best_that_can_be_set_up_and_says_why_no_better() {
        assert_eq!(taken_without(&[]), (Some(Model::Uring), String::new()));
        let mut refusals = vec![(Model::Uring, libc::ENOMEM)];
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::Epoll));
        assert!(reason.starts_with("io_uring is refused: ") && !reason.contains(';'), "{reason}");
        refusals.push((Model::Epoll, libc::EMFILE));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::Poll));
        assert!(
            reason.contains("; epoll is refused: ") && reason.contains("ulimit -n"),
            "{reason}"
        );
        refusals.push((Model::Poll, libc::ENOSYS));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, Some(Model::Select));
        assert!(reason.contains("; poll is refused: ") && reason.contains("sandbox"), "{reason}");
        refusals.push((Model::Select, libc::ENOSYS));
        let (model, reason) = taken_without(&refusals);
        assert_eq!(model, None);
        assert!(reason.contains("io_uring") && reason.contains("select is refused"), "{reason}");
        assert!(!reason.contains('\n'));
    }

    #[test]
    fn auto_falls_back_from_a_ring_and_the_ring_by_name_does_not() {
        let terms =
            RingOptions { ceiling: Some(Version { major: 5, minor: 5 }), ..RingOptions::default() };
        let set_up = |choice| {
            let buffers = [BufferClass { bytes: 64, count: 2 }];
            PreparedModel::set_up(choice, terms, &Limits::default(), &buffers)
        };
        let engine = set_up(Choice::Auto).expect("epoll is everywhere");
        assert_eq!(engine.chosen().model, Model::Epoll);
        assert!(engine.reason().contains("io_uring"), "{}", engine.reason());
        assert!(set_up(Choice::Model(Model::Uring)).is_err());
        let engine = set_up(Choice::Model(Model::Select)).expect("select is everywhere");
        assert_eq!((engine.chosen().model, engine.reason()), (Model::Select, String::new()));
    }
}
