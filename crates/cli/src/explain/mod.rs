//! One message through every model, run for real and recorded: which calls, in which of the two
//! phases, who waited and who copied.
//!
//! A server runs in a process of its own and is left in peace until it waits. Then a client sends
//! one message and waits for its echo. The server's calls are noted where they are made
//! ([`Probe`](proactor::os::probe::Probe)), alike for every model; the client notes when it began to
//! send and when it had the reply. Both read the same clock. That is done many times, and the run
//! with the median time to the reply is shown, not an average: everything shown has happened.
//!
//! What it costs to look falls between the calls, where the server's own code is: so of the time
//! between two calls most is the probe's. The calls themselves take what they take.

mod axis;
mod page;
mod picture;
mod record;
mod scene;
#[cfg(test)]
mod tests;
mod text;

use std::io;

use serde::Serialize;

pub use page::html;
pub use picture::svg;
pub use record::Terrain;
pub use scene::{Kind, Phase, Scene, Step, Who};
pub use text::text;

use proactor::os;
use proactor::os::process::Alone;
use proactor_models::model::Model;

/// What was seen. The shape of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this shape.
    pub schema: &'static str,
    /// What kernel it was.
    pub kernel: String,
    /// Bytes of the message.
    pub size: usize,
    /// Messages recorded of each model.
    pub runs: usize,
    /// One for each model, in the order that was asked for.
    pub models: Vec<Row>,
}

/// One model.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name on the command line.
    pub model: &'static str,
    /// What is to be seen, in one sentence.
    pub lesson: &'static str,
    /// Why nothing is to be seen.
    pub refusal: Option<String>,
    /// What was seen.
    pub scene: Option<Scene>,
}

/// Records these models, one after the other. `progress` hears of each before it begins.
///
/// # Errors
/// This process has other threads, so that it cannot fork. What a model is refused is in its row.
pub fn run(
    models: &[Model],
    terrain: Terrain,
    mut progress: impl FnMut(Model),
) -> io::Result<Report> {
    let alone = Alone::check()?;
    let rows = models.iter().map(|&model| {
        progress(model);
        let recorded = match model.refusal() {
            Some(refusal) => Err(refusal),
            None => record::record(&alone, model, terrain).map_err(|error| error.to_string()),
        };
        let (scene, refusal) = match recorded {
            Ok(scene) => (Some(scene), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Row { model: model.name(), lesson: lesson(model), refusal, scene }
    });
    Ok(Report {
        schema: "proactor.explain/1",
        models: rows.collect(),
        kernel: os::uname().split(' ').take(2).collect::<Vec<_>>().join(" "),
        size: terrain.size,
        runs: terrain.runs,
    })
}

/// What a model's picture shows.
fn lesson(model: Model) -> &'static str {
    match model {
        Model::Uring => "Only submits and reaps: the kernel receives and sends, inside the wait.",
        Model::Epoll => "Waits for all sockets in one call; told who is ready, it copies itself.",
        Model::EpollEt => "As epoll, told only of what is new.",
        Model::Poll => "As epoll, but the whole list goes in at every wait.",
        Model::Select => "As poll, with three sets of bits.",
        Model::EpollOneshot => "As epoll, told once; so it asks again after each message.",
        Model::Sigio => "Waits for a signal, takes it, looks which socket, then copies.",
        Model::Nonblocking => "Never sleeps: tries every socket until one has something.",
        Model::Coroutine => "The task seems to wait; in truth its executor does, in epoll.",
        Model::Thread => "The thread sleeps in recv itself; the call that waits also copies.",
        Model::Process => "As thread, with a process for each connection.",
        Model::Blocking => "Sleeps in recv for one connection; everybody else waits outside.",
    }
}
