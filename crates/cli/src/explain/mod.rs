//! The system calls of a message in every model, recorded on real servers: which calls, what waits,
//! and what copies.
//!
//! A server runs in its own process. A client sends messages to it: a small one on one connection,
//! a large one, and then a small one on each of several connections at once. The server's calls are
//! recorded where they are made ([`Probe`](proactor::os::probe::Probe)), in the same way for every
//! model; the client records when it sent the message and when the reply arrived. Both read the
//! same clock. The run with the median time is shown, not an average: everything shown has
//! happened.
//!
//! All servers run at the same time and sleep, one that never sleeps is stopped, and the models are
//! interleaved, in an order drawn anew each time: what disturbs the machine meets all of them.
//!
//! The recorder takes time between the calls. The same messages are therefore sent to a server
//! without it, and the difference of the median replies is taken out between the calls
//! (`timeline`): a reply takes as long as it does without the recorder, if only its share of each
//! gap is right, which cannot be known.

mod record;
#[cfg(test)]
mod tests;
mod timeline;
mod view;

use std::io;

use serde::Serialize;

pub use crate::commands::explain_options::ExplainOptions;
pub use timeline::{CallPhase, CallTimeline, PhaseKind, RingOps, ServerCall};
pub use view::{html, svg, text};

use proactor::Model;
use proactor::model::Ability;
use proactor::os::{self, process::Alone};
use record::{MessageSet, RecordedModel};

/// The recorded models. The output of `--json`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "schema", rename = "proactor.explain/3")]
pub struct ExplainReport {
    /// The name and the release of the kernel.
    pub kernel: String,
    /// The options of the recording.
    #[serde(flatten)]
    pub options: ExplainOptions,
    /// The models, in the requested order.
    pub models: Vec<ModelReport>,
}

/// The timelines of one model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The name on the command line.
    pub model: &'static str,
    /// One sentence about the timeline.
    pub summary: &'static str,
    /// The reason why nothing could be recorded.
    pub refusal: Option<String>,
    /// A message on each of several connections, sent at once; `None` also if the model serves one
    /// connection at a time.
    pub several: Option<CallTimeline>,
    /// One message on one connection.
    pub single: Option<CallTimeline>,
    /// One large message on one connection; `None` also if it is not wanted.
    pub large: Option<CallTimeline>,
}

/// Messages that are not recorded, in which the server does what it does only once.
const WARM_UP: usize = 5;

/// Records these models. `progress` is called before each run with the part that is done.
///
/// # Errors
/// This process has other threads, so that it cannot fork. A model that cannot be recorded has the
/// reason in its report.
pub fn run(
    models: &[Model],
    options: ExplainOptions,
    mut progress: impl FnMut(f64),
) -> io::Result<ExplainReport> {
    let alone = Alone::check()?;
    // Asked now: this process pins itself to the second one.
    let cpus = os::usable_cpus().first_chunk().copied();
    let start = |&model: &Model| match proactor_models::refusal(model) {
        Some(reason) => Err(reason),
        None => RecordedModel::start(model, &alone, cpus).map_err(|error| error.to_string()),
    };
    let mut recorded: Vec<_> = models.iter().map(start).collect();
    cpus.map_or(Ok(()), |[_, client]| os::pin_to_cpu(client))?;
    let pictures = pictures(&options);
    let runs = WARM_UP + options.runs;
    let mut order: Vec<usize> = (0..models.len()).collect();
    let mut random = fastrand::Rng::with_seed(0);
    for (picture, messages) in pictures.iter().enumerate() {
        for run in 0..runs {
            progress((picture * runs + run) as f64 / (pictures.len() * runs) as f64);
            random.shuffle(&mut order);
            for &at in order.iter().filter(|&&at| serves(models[at], messages)) {
                let Ok(model) = &mut recorded[at] else { continue };
                match model.run(*messages) {
                    Ok(()) if run + 1 == WARM_UP => model.warmed_up(),
                    Ok(()) if run + 1 == runs => model.end_picture(*messages),
                    Ok(()) => {}
                    Err(error) => recorded[at] = Err(error.to_string()),
                }
            }
        }
    }
    let reports =
        models.iter().zip(recorded).map(|(&model, recorded)| report(model, recorded, &options));
    Ok(ExplainReport {
        models: reports.collect(),
        kernel: proactor_record::sys::uname().split(' ').take(2).collect::<Vec<_>>().join(" "),
        options,
    })
}

/// Returns what is recorded, in this order: each server gets its further connections at the end.
fn pictures(options: &ExplainOptions) -> Vec<MessageSet> {
    let ExplainOptions { size, large, connections, .. } = *options;
    let single = MessageSet { connections: 1, size };
    let large = (large > 0).then_some(MessageSet { connections: 1, size: large });
    let several = (connections > 1).then_some(MessageSet { connections, size });
    [Some(single), large, several].into_iter().flatten().collect()
}

/// Returns true if a model serves so many connections at a time.
fn serves(model: Model, messages: &MessageSet) -> bool {
    messages.connections == 1 || model.info().missing(Ability::Crowd).is_none()
}

/// Returns the report of a model that was recorded, or was not for a reason.
fn report(
    model: Model,
    recorded: Result<RecordedModel, String>,
    options: &ExplainOptions,
) -> ModelReport {
    let timelines = recorded.and_then(|it| it.timelines().map_err(|error| error.to_string()));
    let refusal = timelines.as_ref().err().cloned();
    let mut timelines = timelines.into_iter().flatten();
    let single = timelines.next();
    let large = if options.large > 0 { timelines.next() } else { None };
    let (name, summary) = (model.name(), proactor_models::facts(model).summary);
    ModelReport { model: name, summary, refusal, several: timelines.next(), single, large }
}
