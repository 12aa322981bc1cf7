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
//! The recorder takes time between the calls. Its cost is measured on the same server, and taken
//! out of the timeline (`timeline`); what remains between two calls is the code of the server.

mod axis;
mod page;
mod picture;
mod record;
#[cfg(test)]
mod tests;
mod text;
mod timeline;

use std::io;

use serde::Serialize;

pub use page::html;
pub use picture::svg;
pub use record::ExplainOptions;
pub(crate) use text::fold;
pub use text::text;
pub use timeline::{Actor, CallPhase, CallTimeline, PhaseKind, ServerCall};

use axis::Axis;
use proactor::Model;
use proactor::model::Ability;
use proactor::os::process::Alone;

/// The recorded models. The output of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainReport {
    /// The version of this format.
    pub schema: &'static str,
    /// The name and the release of the kernel.
    pub kernel: String,
    /// The size of a message in bytes.
    pub size: usize,
    /// Connections of the first timeline, each with one message.
    pub connections: usize,
    /// Recorded runs per timeline.
    pub runs: usize,
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
    let models = models.iter().map(|&model| {
        progress(model);
        let recorded = match proactor_models::refusal(model) {
            Some(refusal) => Err(refusal),
            None => record::record(&alone, model, options).map_err(|error| error.to_string()),
        };
        let (several, single, refusal) = match recorded {
            Ok((several, single)) => (several, Some(single), None),
            Err(refusal) => (None, None, Some(refusal)),
        };
        let (name, summary) = (model.name(), model.info().summary);
        ModelReport { model: name, summary, refusal, several, single }
    });
    Ok(ExplainReport {
        schema: "proactor.explain/2",
        models: models.collect(),
        kernel: proactor_record::sys::uname().split(' ').take(2).collect::<Vec<_>>().join(" "),
        size: options.size,
        connections: options.connections,
        runs: options.runs,
    })
}

/// One picture: the timelines of all models on one axis.
struct Section<'a> {
    title: String,
    rows: Vec<PictureRow<'a>>,
    axis: Axis,
}

/// A model in a picture: its timeline, or the reason why it has none.
struct PictureRow<'a> {
    model: &'static str,
    summary: &'static str,
    timeline: Result<&'a CallTimeline, &'a str>,
}

/// Returns the pictures of a report, in their order.
fn sections(report: &ExplainReport) -> Vec<Section<'_>> {
    let section = |title, timeline: fn(&ModelReport) -> Option<&CallTimeline>| {
        let rows = report.models.iter().map(|it| {
            let reason = it.refusal.as_deref().unwrap_or("one connection at a time");
            PictureRow {
                model: it.model,
                summary: it.summary,
                timeline: timeline(it).ok_or(reason),
            }
        });
        let rows: Vec<PictureRow<'_>> = rows.collect();
        let axis = Axis::of(rows.iter().filter_map(|row| row.timeline.ok()));
        Section { title, rows, axis }
    };
    let several = format!("{} connections, one message on each, sent at once", report.connections);
    let mut sections =
        vec![section("One connection, one message".to_owned(), |it| it.single.as_ref())];
    if report.connections > 1 {
        sections.insert(0, section(several, |it| it.several.as_ref()));
    }
    sections
}

/// Returns true if the model serves several connections at once.
fn serves_several(model: Model) -> bool {
    model.info().missing(Ability::Crowd).is_none()
}
