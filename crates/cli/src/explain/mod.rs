//! The system calls of a message in every model, recorded on real servers: which calls, what waits,
//! and what copies.
//!
//! A server runs in its own process. A client sends messages to it: one message on one connection,
//! and then one on each of several connections at once. The server's calls are recorded where they
//! are made ([`Probe`](proactor::os::probe::Probe)), in the same way for every model; the client
//! records when it sent the message and when the reply arrived. Both read the same clock. This is
//! repeated, and the run with the median time is shown, not an average: everything shown has
//! happened.
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
pub use timeline::{Actor, CallPhase, CallTimeline, PhaseKind, RingOps, ServerCall};
pub use view::{html, svg, text};

use proactor::Model;
use proactor::os::{self, process::Alone};
use record::RecordedServer;

/// The recorded models. The output of `--json`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "schema", rename = "proactor.explain/2")]
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
}

/// Records these models, one after the other. `progress` is called before each.
///
/// # Errors
/// This process has other threads, so that it cannot fork. A model that cannot be recorded has the
/// reason in its report.
pub fn run(
    models: &[Model],
    options: ExplainOptions,
    mut progress: impl FnMut(Model),
) -> io::Result<ExplainReport> {
    let alone = Alone::check()?;
    // Asked now: this process pins itself to the second one.
    let cpus = os::usable_cpus().first_chunk().copied();
    let models = models.iter().map(|&model| {
        progress(model);
        let server = RecordedServer { model, options, cpus, recorder: None };
        let recorded = proactor_models::refusal(model)
            .map_or_else(|| server.record(&alone).map_err(|error| error.to_string()), Err);
        let refusal = recorded.as_ref().err().cloned();
        let mut timelines = recorded.into_iter().flatten();
        let (single, several) = (timelines.next(), timelines.next());
        let (name, summary) = (model.name(), proactor_models::facts(model).summary);
        ModelReport { model: name, summary, refusal, several, single }
    });
    Ok(ExplainReport {
        models: models.collect(),
        kernel: proactor_record::sys::uname().split(' ').take(2).collect::<Vec<_>>().join(" "),
        options,
    })
}
